"""What an environment holds when it starts: entities, a small chart of accounts, dimensions, people, periods."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from .access import ApiToken, WebServiceUser
from .books import by_hand
from .clock import Clock
from .world import World

ENTITY_CODE = "23601"
GROUP_CODE = "23600"
TOKENS = {"demo": "ZGVtby1zYW1iYW5kLXhsZWRnZXItdG9rZW4tMDE", "live": "bGl2ZS1zYW1iYW5kLXhsZWRnZXItdG9rZW4tMDE"}
USER = "ws.samband"
PASSWORDS = {"demo": "Hemmelig-demo-23601", "live": "Hemmelig-live-23601"}
IMPORT_CODES = {"GL02XML": "journal", "LG11": "orders"}

ACCOUNTS = {
    "1500": "Kundefordringer",
    "1570": "Andre kortsiktige fordringer",
    "1920": "Bankinnskudd",
    "2400": "Leverandørgjeld",
    "2780": "Påløpt arbeidsgiveravgift",
    "2910": "Gjeld til ansatte",
    "2930": "Skyldig reiseutlegg",
    "2990": "Annen kortsiktig gjeld",
    "5000": "Lønn til ansatte",
    "5330": "Godtgjørelse til styre og utvalg",
    "6800": "Kontorrekvisita",
    "6860": "Møter, kurs og oppdatering",
    "7100": "Bilgodtgjørelse, oppgavepliktig",
    "7130": "Reisekostnad, oppgavepliktig",
    "7140": "Reisekostnad, ikke oppgavepliktig",
    "7150": "Diettkostnad",
    "7160": "Diettkostnad, ikke oppgavepliktig",
    "7320": "Reklamekostnad",
    "7790": "Annen kostnad",
}
TAX_RULES = {
    "0": ("Ingen avgift", "0"),
    "1": ("Inngående avgift, 25 %", "25"),
    "11": ("Inngående avgift, 15 %", "15"),
    "13": ("Inngående avgift, 12 %", "12"),
}
DIMENSIONS = {
    "Kostnadssted": {"101": "Sekretariatet", "102": "Likepersonsarbeid", "103": "Ungdom", "199": "Nedlagt avdeling"},
    "Kostnadsbærer": {"10": "Drift", "20": "Tilskudd"},
}
PROJECTS = {"1000": "Drift", "1001": "Sommerleir", "1002": "Likepersonskurs", "1999": "Avsluttet prosjekt"}
SOURCES = {"GL": "Hovedbok", "AP": "Leverandør", "AR": "Kunde"}
EMPLOYEES = {"1001": "Kari Nordmann", "1002": "Ola Hansen", "1003": "Anne Berg"}
SUPPLIERS = {"20001": "Taxi Øst AS", "20002": "Hotell Fjord AS"}
OPEN = {"dbId": 1, "code": "OPEN", "name": "Open"}
CLOSED = {"dbId": 2, "code": "CLOSED", "name": "Closed"}
JOB_LEVELS = ((0, 14501, "Hold"), (1, 14502, "Post"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPlan:
    """How much an environment starts with.

    Attributes:
        vouchers: Vouchers that somebody else has posted already, two lines each.
        first_year, last_year: Years that have accounting periods; all are open.
    """

    vouchers: int = 0
    first_year: int = 2023
    last_year: int = 2028


def seeded(name: str, clock: Clock, plan: SeedPlan) -> World:
    """Returns a new environment."""
    world = World(name, clock)
    group, entity = _entities(world)
    _chart(world, group)
    _people(world, entity)
    _periods(world, group, plan)
    world.import_codes = dict(IMPORT_CODES)
    token = ApiToken(text=TOKENS[name], entity=entity)
    world.tokens[token.text] = token
    world.users[USER] = WebServiceUser(name=USER, password=PASSWORDS[name], entities={ENTITY_CODE, "23602"})
    for number in range(plan.vouchers):
        day = f"{plan.first_year}-{number % 12 + 1:02d}-15"
        by_hand(world, entity, world.new_number(), day, Decimal(100 + number), f"Bilag {number + 1}")
    return world


def _entities(world: World) -> tuple[int, int]:
    group = world.put("entities", code=GROUP_CODE, description="Forbundet, konsern", ownerDbId=None, ownerCode=None)
    rows = [
        world.put("entities", code=code, description=text, ownerDbId=owner, ownerCode=owner_code)
        for code, text, owner, owner_code in (
            (ENTITY_CODE, "Forbundet", group["dbId"], GROUP_CODE),
            ("23700", "Stiftelsen ved siden av", group["dbId"], GROUP_CODE),
        )
    ]
    entity = rows[0]["dbId"]
    world.put("entities", code="23602", description="Ungdomsforbundet", ownerDbId=entity, ownerCode=ENTITY_CODE)
    return group["dbId"], entity


def _chart(world: World, owner: int) -> None:
    chart = {"dbId": 3, "name": "Norsk standard", "code": "NS4102", "dbSubId": 3}
    for code, text in ACCOUNTS.items():
        cost = code[0] in "567"
        world.put(
            "accounts", code=code, description=text, ownerDbId=owner, owner=world["entities"].rows[owner], posting=True,
            credit=False, cost=cost, balanceSheet=not cost, chartOfAccount=chart, chartOfAccountDbId=3,
        )  # fmt: skip
    for code, text in {"NOK": "Norske kroner", "SEK": "Svenske kroner", "EUR": "Euro"}.items():
        world.put("currencies", code=code, description=text, ownerDbId=None)
    for code, text in SOURCES.items():
        world.put("transactionSources", code=code, description=text, ownerDbId=None)
    for number, key, text in JOB_LEVELS:
        world["jobLevels"].add({"dbId": key, "dbSubId": number, "name": text, "code": str(number), "ownerDbId": None})
    _dimensions(world, owner)
    for code, (text, percent) in TAX_RULES.items():
        rule = world.put("taxRules", code=code, description=text, ownerDbId=owner)
        world.put(
            "taxTableSetups", ownerDbId=owner, dateFrom="2020-01-01", dateTo=None, taxPercent=int(percent),
            taxTableDbId=rule["dbId"], object=rule,
        )  # fmt: skip


def _dimensions(world: World, owner: int) -> None:
    for number, (name, values) in enumerate(DIMENSIONS.items(), start=1):
        kind = world.put("objectKinds", name=name, ownerDbId=owner)
        world.object_fields[f"glObject{number}"] = kind["dbId"]
        for code, text in values.items():
            world.put(
                "objectValues", code=code, description=text, ownerDbId=owner, objectKind=kind,
                objectKindDbId=kind["dbId"], dateFrom="2020-01-01", dateTo="2024-12-31" if code == "199" else None,
                posting=code != "199",
            )  # fmt: skip
    for code, text in PROJECTS.items():
        ended = "2024-12-31" if code == "1999" else None
        world.put("projects", code=code, description=text, ownerDbId=owner, fromDate="2020-01-01", toDate=ended)


def _people(world: World, owner: int) -> None:
    for table, people in (("employees", EMPLOYEES), ("suppliers", SUPPLIERS)):
        for code, text in people.items():
            subledger = world.put("subledgers", code=code, description=text, ownerDbId=owner)
            world.put(table, code=code, description=text, ownerDbId=owner, subledger=subledger)


def _periods(world: World, owner: int, plan: SeedPlan) -> None:
    for year in range(plan.first_year, plan.last_year + 1):
        for month in range(1, 13):
            add_period(world, owner, year, month)


def add_period(world: World, owner: int, year: int, month: int) -> None:
    """Makes an accounting period of one month, open."""
    after = (year + 1, 1) if month == 12 else (year, month + 1)
    last = date(*after, 1) - timedelta(days=1)
    period = world.put(
        "periods", code=f"{year}-{month:02d}", description=f"{year}-{month:02d}", fiscalYear=year, year=year,
        fromDate=f"{year}-{month:02d}-01", toDate=last.isoformat(), fiscalPeriod=month, monthNumber=month,
        fiscalYearStartMonth="1", ownerDbId=owner,
    )  # fmt: skip
    world.put(
        "periodStatusItems", ownerDbId=owner, owner=world["entities"].rows[owner], period=period,
        periodDbId=period["dbId"], status=dict(OPEN),
    )  # fmt: skip
