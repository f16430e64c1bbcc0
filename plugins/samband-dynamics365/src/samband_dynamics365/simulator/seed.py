"""Fictitious data for a whole environment, the same for the same seed.

The people do not exist; e-mail addresses end in example.org or example.com. Rough edges are on purpose: missing
e-mail, odd spacing, inactive rows, ended memberships.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import lru_cache
from typing import Protocol

from . import names
from .tables import Organization, Row
from .values import scaled

_EPOCH = date(2015, 1, 1)
_DAYS = 3_900
_ASCII = str.maketrans({"æ": "ae", "ø": "o", "å": "a", "á": "a", " ": ".", "-": "."})
TRACKABLE_MESSAGES = ("Create", "Update", "Delete", "CreateMultiple", "UpdateMultiple", "UpsertMultiple")
BULK_TABLES = ("account", "contact", "sb_membership", "sb_chapter")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPlan:
    """How much to make and from which random seed."""

    members: int = 5_000
    memberships: int = 6_000
    staff: int = 25
    seed: int = 365


@dataclass(slots=True, kw_only=True)
class Seeded:
    """The ids other parts of the simulator need."""

    organization_id: str
    business_unit_id: str
    application_user: str
    chapters: list[str] = field(default_factory=list)


@lru_cache(maxsize=1)
def days() -> tuple[str, ...]:
    """Returns the days on which things happened, in order."""
    return tuple((_EPOCH + timedelta(days=day)).isoformat() for day in range(_DAYS))


@lru_cache(maxsize=1)
def _clocks() -> tuple[str, ...]:
    return tuple(f"{n // 60:02d}:{n % 60:02d}:{n * 7 % 60:02d}" for n in range(24 * 60))


class _Maker:
    """Draws ids, dates and names from one random source."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311  reproducible data, no secrets
        self.days = days()
        self.clocks = _clocks()

    def id(self) -> str:
        """Returns the next id, shaped as a random (version 4) GUID."""
        digits = f"{self.random.getrandbits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"

    def chance(self, share: float) -> bool:
        """Returns true in about this share of calls."""
        return self.random.random() < share

    def times(self) -> tuple[str, str]:
        """Returns a created and a later modified moment."""
        pick = self.random.random
        created = int(pick() * (_DAYS - 1))
        later = created + 1 + int(pick() * (_DAYS - created - 1))
        return self.stamp(created, pick()), self.stamp(later, pick())

    def stamp(self, day: int, share: float) -> str:
        """Returns a moment on a day, the given share of the day in."""
        return f"{self.days[day]}T{self.clocks[int(share * len(self.clocks))]}Z"


def seed_organization(organization: Organization, plan: SeedPlan) -> Seeded:
    """Fills empty tables with the people, chapters and memberships of a plan."""
    make = _Maker(plan.seed)
    tables = organization.tables
    seeded = Seeded(organization_id=make.id(), business_unit_id=make.id(), application_user=make.id())
    created = make.stamp(0, 0.5)
    base: Row = {"createdon": created, "modifiedon": created}
    organization.load(
        tables["organization"],
        [
            (
                seeded.organization_id,
                {
                    "organizationid": seeded.organization_id,
                    "name": "samband-demo",
                    "languagecode": 1044,
                    "localeid": 1044,
                    "expirechangetrackingindays": 7,
                    **base,
                },
            )
        ],
    )
    organization.load(
        tables["businessunit"],
        [
            (
                seeded.business_unit_id,
                {"businessunitid": seeded.business_unit_id, "name": "samband-demo", **base},
            )
        ],
    )
    users = list(_users(make, plan, seeded))
    organization.load(tables["systemuser"], users)
    owners = [user_id for user_id, row in users[1:]] or [seeded.application_user]
    chapters = list(_chapters(make, seeded, owners))
    seeded.chapters = [row_id for row_id, _ in chapters]
    organization.load(tables["sb_chapter"], chapters)
    contacts = list(_contacts(make, plan, seeded, owners))
    organization.load(tables["contact"], contacts)
    memberships = _memberships(make, plan, seeded, [row_id for row_id, _ in contacts], owners)
    organization.load(tables["sb_membership"], memberships)
    _seed_messages(organization, seeded)
    return seeded


def _owned(make: _Maker, seeded: Seeded, owners: list[str]) -> Row:
    created, modified = make.times()
    owner = owners[int(make.random.random() * len(owners))]
    return {
        "createdon": created,
        "modifiedon": modified,
        "_createdby_value": owner,
        "_modifiedby_value": owner,
        "_ownerid_value": owner,
        "_owninguser_value": owner,
        "_owningbusinessunit_value": seeded.business_unit_id,
    }


def _users(make: _Maker, plan: SeedPlan, seeded: Seeded) -> Iterator[tuple[str, Row]]:
    yield seeded.application_user, _application_user(seeded, make.stamp(0, 0.5))
    for number in range(1, plan.staff + 1):
        user_id = make.id()
        created, modified = make.times()
        first, last = make.random.choice(names.FIRST_NAMES), make.random.choice(names.LAST_NAMES)
        email = f"{mail_name(first)}.{mail_name(last)}.{number}@example.org"
        row: Row = {
            "systemuserid": user_id,
            "ownerid": user_id,
            "firstname": first,
            "lastname": last,
            "fullname": f"{first} {last}",
            "yomifullname": f"{first} {last}",
            "internalemailaddress": email,
            "domainname": email,
            "azureactivedirectoryobjectid": make.id(),
            "employeeid": f"A{number:04d}" if not make.chance(0.1) else None,
            "jobtitle": make.random.choice(names.JOB_TITLES),
            "title": make.random.choice(names.JOB_TITLES),
            "mobilephone": phone(make) if make.chance(0.8) else None,
            "address1_telephone1": phone(make) if make.chance(0.5) else None,
            "organizationid": seeded.organization_id,
            "_businessunitid_value": seeded.business_unit_id,
            "createdon": created,
            "modifiedon": modified,
        }
        if make.chance(0.08):
            row["isdisabled"] = True
        yield user_id, row


def _application_user(seeded: Seeded, created: str) -> Row:
    user_id = seeded.application_user
    return {
        "systemuserid": user_id,
        "ownerid": user_id,
        "firstname": "samband",
        "lastname": "integration",
        "fullname": "# samband integration",
        "yomifullname": "# samband integration",
        "domainname": "samband-integration@example.org",
        "accessmode": 4,
        "islicensed": False,
        "organizationid": seeded.organization_id,
        "_businessunitid_value": seeded.business_unit_id,
        "createdon": created,
        "modifiedon": created,
    }


def _chapters(make: _Maker, seeded: Seeded, owners: list[str]) -> Iterator[tuple[str, Row]]:
    number = 0
    for kind in names.CHAPTER_KINDS:
        for word in names.CHAPTER_WORDS:
            number += 1
            row_id = make.id()
            row = _owned(make, seeded, owners)
            row.update(sb_chapterid=row_id, sb_name=f"{word} {kind}", sb_code=f"L{number:03d}")
            yield row_id, row


class Dice(Protocol):
    """The random source that makes personal data."""

    random: random.Random
    days: tuple[str, ...]


def phone(make: Dice) -> str:
    """Returns a number nobody can have (no Norwegian number starts with 00), written in one of several ways."""
    digits = f"00{make.random.randrange(1_000_000):06d}"
    style = make.random.random()
    if style < 0.6:
        return f"+47{digits}"
    return digits if style < 0.8 else f"{digits[:3]} {digits[3:5]} {digits[5:]}"


def mail_name(name: str) -> str:
    """Returns a name as it may stand in an e-mail address."""
    return name.lower().translate(_ASCII)


def contact_row(make: Dice, number: int) -> Row:
    """Returns the personal columns of one fictitious contact, rough edges included."""
    pick = make.random.random
    first = names.FIRST_NAMES[int(pick() * len(names.FIRST_NAMES))]
    last = names.LAST_NAMES[int(pick() * len(names.LAST_NAMES))]
    host = "example.org" if pick() < 0.7 else "example.com"
    email: str | None = f"{mail_name(first)}.{mail_name(last)}.{number}@{host}"
    oddity = pick()
    if oddity < 0.06:
        email = None
    elif oddity < 0.08:
        email = f" {email} "
    elif oddity < 0.10 and email:
        email = email.upper()
    if pick() < 0.03:
        first, last = f"{first} ", f"  {last}"
    postal, city = names.PLACES[int(pick() * len(names.PLACES))]
    year, month, day = 1935 + int(pick() * 75), 1 + int(pick() * 12), 1 + int(pick() * 28)
    row: Row = {
        "firstname": first,
        "lastname": last,
        "fullname": f"{first} {last}",
        "yomifullname": f"{first} {last}",
        "emailaddress1": email,
        "mobilephone": phone(make) if pick() < 0.85 else None,
        "birthdate": f"{year}-{month:02d}-{day:02d}" if pick() < 0.9 else None,
        "address1_line1": f"{names.STREETS[int(pick() * len(names.STREETS))]} {1 + int(pick() * 120)}",
        "address1_postalcode": postal,
        "address1_city": city,
        "address1_country": "Norge" if pick() < 0.7 else None,
        "sb_externalid": f"M{number:06d}" if pick() < 0.95 else None,
    }
    if pick() < 0.3:
        row["gendercode"] = 1 if pick() < 0.5 else 2
    if pick() < 0.05:
        row["donotemail"] = True
    if pick() < 0.04:
        row["statecode"], row["statuscode"] = 1, 2
    return row


def _contacts(make: _Maker, plan: SeedPlan, seeded: Seeded, owners: list[str]) -> Iterator[tuple[str, Row]]:
    for number in range(1, plan.members + 1):
        row_id = make.id()
        row = contact_row(make, number)
        row["contactid"] = row_id
        row.update(_owned(make, seeded, owners))
        yield row_id, row


def _memberships(
    make: _Maker, plan: SeedPlan, seeded: Seeded, contacts: list[str], owners: list[str]
) -> Iterator[tuple[str, Row]]:
    room = len(contacts) * len(seeded.chapters)
    for number in range(1, min(plan.memberships, room) + 1):
        # First everyone has one membership, then some have another in a further chapter.
        turn, place = divmod(number - 1, len(contacts))
        contact = contacts[place]
        home = int(contact[:8], 16)
        chapter = seeded.chapters[(home + turn) % len(seeded.chapters)]
        row_id = make.id()
        row = membership_row(make, number, primary=turn == 0)
        row.update(sb_membershipid=row_id, _sb_contactid_value=contact, _sb_chapterid_value=chapter)
        row.update(_owned(make, seeded, owners))
        yield row_id, row


def membership_row(make: Dice, number: int, *, primary: bool) -> Row:
    """Returns the columns of one fictitious membership, lookups aside."""
    start = int(make.random.random() * (_DAYS - 400))
    status = make.random.random()
    row: Row = {
        "sb_membernumber": f"{100_000 + number}",
        "sb_startdate": make.days[start],
        "sb_enddate": None,
        "sb_status": 1,
        "sb_isprimary": primary,
        "sb_fee": scaled(("100", "250", "375.5")[int(make.random.random() * 3)], 10),
    }
    if status > 0.93:
        row.update(sb_status=3, sb_enddate=make.days[start + 365], statecode=1, statuscode=2)
    elif status > 0.9:
        row["sb_status"] = 2
    return row


def _seed_messages(organization: Organization, seeded: Seeded) -> None:
    messages: list[tuple[str, Row]] = []
    filters: list[tuple[str, Row]] = []
    for message in TRACKABLE_MESSAGES:
        message_id = str(uuid.uuid5(uuid.UUID(seeded.organization_id), message))
        messages.append((message_id, {"sdkmessageid": message_id, "name": message}))
        for name in (*BULK_TABLES, "systemuser") if not message.endswith("Multiple") else BULK_TABLES:
            row_id = str(uuid.uuid5(uuid.UUID(seeded.organization_id), f"{message}/{name}"))
            row = {"sdkmessagefilterid": row_id, "primaryobjecttypecode": name, "_sdkmessageid_value": message_id}
            filters.append((row_id, row))
    organization.load(organization.tables["sdkmessage"], messages)
    organization.load(organization.tables["sdkmessagefilter"], filters)
