"""One environment, demo or live: its entities, chart, staging table, books, tokens and users."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .access import ApiToken, LogonKey, WebServiceUser
from .clock import Clock
from .tables import Row, Table

TABLES: dict[str, tuple[str, ...]] = {
    "entities": ("code",),
    "accounts": ("code",),
    "currencies": ("code",),
    "objectKinds": (),
    "objectValues": ("code", "objectKindDbId"),
    "projects": ("code",),
    "subledgers": ("code",),
    "suppliers": ("code",),
    "employees": ("code",),
    "taxRules": ("code",),
    "transactionSources": ("code",),
    "jobLevels": ("dbSubId",),
    "companies": ("code",),
    "periods": ("code",),
    "periodStatusItems": (),
    "taxTableSetups": (),
    "glImportItems": ("extIdentifier", "trRegNumber", "invoiceNumber"),
    "glImportItemErrors": ("transactionDbId",),
    "journalHeaders": ("transactionNumber", "postedDate"),
    "journalEntries": ("extIdentifier", "transactionNumber", "invoiceNumber", "transactonHeaderDbId", "postedDate"),
    "transactions": ("_header",),
    "webhooks": (),
}
GroupKey = tuple[int, str, int | str]


@dataclass(slots=True, kw_only=True)
class Change:
    """One line of a delta log."""

    seq: int
    at: float
    key: int
    kind: str


@dataclass(slots=True, kw_only=True)
class Upload:
    """A file that came in over SOAP or through the drop folder, and what became of it."""

    number: int
    door: str
    name: str
    content: bytes
    entity: str
    import_code: str
    user: str
    received: str
    state: str = "waiting"
    message: str = ""
    is_silent: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)


class World:
    """Everything one environment holds; nothing in it knows how it is reached."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.tables = {table: Table(*indexed) for table, indexed in TABLES.items()}
        self.tokens: dict[str, ApiToken] = {}
        self.users: dict[str, WebServiceUser] = {}
        self.keys: dict[str, LogonKey] = {}
        self.import_codes: dict[str, str] = {}
        # What a dimension field means is the tenant's choice: field -> object kind; others take any value.
        self.object_fields: dict[str, int] = {}
        self.uploads: list[Upload] = []
        self.changes: dict[str, list[Change]] = defaultdict(list)
        # Vouchers that wait for the job: (owner, source, number) -> keys of their staged lines.
        self.waiting: dict[GroupKey, dict[int, None]] = {}
        self.numbers_posted: dict[GroupKey, int] = {}
        self.received: dict[str, int] = defaultdict(int)
        self.job_runs = 0
        self._last_id = 42_365_000
        self._last_number = 2_026_000_000
        self._last_seq = 0

    def new_id(self) -> int:
        """Returns the next free id."""
        self._last_id += 1
        return self._last_id

    def new_number(self) -> int:
        """Returns the next transaction number of the series; above every number a voucher may bring along."""
        self._last_number += 1
        return self._last_number

    def __getitem__(self, table: str) -> Table:
        return self.tables[table]

    def put(self, table: str, **values: Any) -> Row:
        """Makes a row with an id, an owner and its times."""
        now = self.clock.local()
        return self.tables[table].add({"dbId": self.new_id(), "createdAt": now, "modifiedAt": now, **values})

    def log(self, table: str, key: int, kind: str) -> None:
        """Writes a line into a delta log."""
        self._last_seq += 1
        self.changes[table].append(Change(seq=self._last_seq, at=self.clock.now().timestamp(), key=key, kind=kind))

    def entity(self, code: str) -> Row | None:
        """Returns an entity by its number."""
        found = self.tables["entities"].having("code", [code])
        return found[0] if found else None

    def owners(self, entity: int) -> list[int]:
        """Returns an entity and those above it, nearest first: what they own is seen from here."""
        found: list[int] = []
        current: int | None = entity
        while current is not None and current not in found:
            found.append(current)
            row = self.tables["entities"].rows.get(current)
            current = None if row is None else row.get("ownerDbId")
        return found

    def reach(self, entity: int) -> set[int]:
        """Returns an entity and everything below it: what a token of this entity may touch."""
        found = {entity}
        grown = True
        while grown:
            below = {row["dbId"] for row in self.tables["entities"] if row.get("ownerDbId") in found}
            grown = not below <= found
            found |= below
        return found

    def visible(self, entity: int) -> set[int]:
        """Returns the owners whose rows a token of this entity reads."""
        return self.reach(entity) | set(self.owners(entity))

    def period_of(self, day: str) -> Row | None:
        """Returns the accounting period of a day written YYYY-MM-DD."""
        found = self.tables["periods"].having("code", [f"{day[:4]}-{day[5:7]}"])
        return found[0] if found else None

    def period_status(self, owner: int, period: Row) -> Row | None:
        """Returns the status row of a period, of the entity itself or of the nearest one above."""
        by_owner = {row["ownerDbId"]: row for row in self.tables["periodStatusItems"] if row["period"] is period}
        return next((by_owner[each] for each in self.owners(owner) if each in by_owner), None)

    def groups(self) -> Iterator[tuple[GroupKey, list[Row]]]:
        """Yields the vouchers that wait, each with its lines; safe while they are taken out."""
        items = self.tables["glImportItems"].rows
        for key in list(self.waiting):
            yield key, [items[line] for line in self.waiting.get(key, ()) if line in items]
