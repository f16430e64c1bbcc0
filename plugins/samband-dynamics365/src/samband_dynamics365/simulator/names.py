"""Words from which fictitious Norwegian people, chapters and addresses are put together."""

from __future__ import annotations

FIRST_NAMES = (
    "Åse", "Ørjan", "Ærlend", "Ingrid", "Bjørn", "Sølvi", "Håkon", "Ragnhild", "Torbjørn", "Kjersti", "Pål", "Gro",
    "Sindre", "Maren", "Øystein", "Turid", "Einar", "Solveig", "Jørgen", "Synnøve", "Vidar", "Gunvor", "Magnus", "Liv",
    "Trygve", "Astrid", "Kåre", "Unni", "Eirik", "Hilde", "Steinar", "Marte", "Odd", "Berit", "Frode", "Silje",
    "Anne-Grethe", "Jan Åge", "Máret", "Niillas", "Zahra", "Yusuf", "Nguyet", "Kaja", "Sverre", "Wenche",
)  # fmt: skip
LAST_NAMES = (
    "Fjellbø", "Sandvåg", "Ødegårdslien", "Myrvangen", "Strømsnesvik", "Bakkeåsen", "Løkkevold", "Nesheimsåsen",
    "Grønnmyr", "Tverrådal", "Hølandsbekk", "Skogrønning", "Elvestrandås", "Kvitskjærvik", "Rødlihaug", "Furulundsæter",
    "Bjørkåsvoll", "Havnøyland", "Solbergtun", "Vesterlibakk", "Ærfuglvik", "Storholmnes", "Granittåsen", "Ulvesundmo",
    "Fagerlisæter", "Lyngbråten-Moe", "von der Lippeås", "Øvrevollen", "Dalsåsmark", "Tårnfjellvik",
)  # fmt: skip
PLACES = (
    ("0150", "Oslo"), ("5003", "Bergen"), ("7011", "Trondheim"), ("4006", "Stavanger"), ("9008", "Tromsø"),
    ("8006", "Bodø"), ("3015", "Drammen"), ("6003", "Ålesund"), ("2317", "Hamar"), ("1606", "Fredrikstad"),
    ("9730", "Kárášjohka"), ("4612", "Kristiansand"), ("3714", "Skien"), ("7800", "Namsos"), ("9900", "Kirkenes"),
)  # fmt: skip
STREETS = ("Storgata", "Kirkeveien", "Åsgårdsveien", "Øvre Bakkegate", "Skolelia", "Brygga", "Myrstien", "Fjordgløtt")
CHAPTER_WORDS = ("Østlandet", "Vestlandet", "Trøndelag", "Nord-Norge", "Sørlandet", "Innlandet", "Møre", "Finnmárku")
CHAPTER_KINDS = ("fylkeslag", "lokallag", "ungdomslag")
JOB_TITLES = ("Rådgiver", "Sekretær", "Organisasjonssjef", "Kursansvarlig", "Økonomiansvarlig", "Fylkessekretær")
