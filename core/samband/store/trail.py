"""Reading the audit trail, and walking its chains to see whether anything was changed, removed or put in."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.store.audit import entry_hash
from samband.store.database import Database
from samband.store.models import AuditEntry, AuditHead

_entry: sa.Table = AuditEntry.__table__
_head: sa.Table = AuditHead.__table__

_AT_ONCE: Final = 500

Flaw = Literal["changed", "missing", "unlinked", "unreadable", "cut", "beyond_end", "end_changed", "expected_missing"]

_TOLD: Final[dict[Flaw, str]] = {
    "changed": "What the entry says is not what its hash was made from.",
    "missing": "There is no entry of this number, and there are later ones.",
    "unlinked": "The entry does not name the hash of the one before it.",
    "unreadable": "The entry does not have the form of an entry.",
    "cut": "Entries are missing at the end: the chain was longer.",
    "beyond_end": "There are entries behind the end of the chain.",
    "end_changed": "The last entry is not the one that the chain's end was noted with.",
    "expected_missing": "No entry has the hash that was expected: the chain was cut or written anew.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entries are asked for; what is None does not restrict.

    Attributes:
        action: One action, or the thing before its dot for all of its deeds.
        actor: One actor, or the part before its blank, such as ``key:3f9c``.
        subject: One subject, or the kind before its slash for all of it.
        since: Not earlier than this.
        until: Earlier than this.
    """

    action: str | None = None
    actor: str | None = None
    subject: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a walk along a chain found.

    Attributes:
        entries: How many were found in order, from the first one on.
        newest_seq: The number of the last of these; 0 when there is none.
        newest_hash: Its hash. Kept somewhere else, it later proves that nothing up to here was cut off or rewritten.
        flaw: What is wrong first; None when nothing is.
        flaw_seq: At which number.
        expected_seq: The number of the entry that has the expected hash, if it was met.
    """

    organization_id: str
    entries: int
    newest_seq: int
    newest_hash: str
    newest_at: dt.datetime | None
    flaw: Flaw | None = None
    flaw_seq: int | None = None
    expected_seq: int | None = None

    @property
    def message(self) -> str:
        return "" if self.flaw is None else _TOLD[self.flaw]


class Trail:
    """Every statement that reads the audit trail."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def chains(self) -> list[str]:
        """Gives every chain there is, the host's first."""
        both = sa.union(sa.select(_head.c.organization_id), sa.select(_entry.c.organization_id).distinct())
        async with self._db.read() as conn:
            return sorted(await conn.scalars(both))

    async def page(self, organization_id: str, wanted: Wanted, *, after: int, limit: int) -> list[AuditEntry]:
        """Gives entries of a chain in their order, from behind number ``after``."""
        statement = (
            sa.select(_entry)
            .where(_entry.c.organization_id == organization_id, _entry.c.seq > after, *_filters(wanted))
            .order_by(_entry.c.seq)
            .limit(limit)
        )
        async with self._db.read() as conn:
            return [AuditEntry(**row._mapping) for row in await conn.execute(statement)]

    async def each(self, organization_id: str, wanted: Wanted) -> AsyncIterator[list[AuditEntry]]:
        """Gives all entries, some hundreds at a time, each part in a transaction of its own."""
        after = 0
        while entries := await self.page(organization_id, wanted, after=after, limit=_AT_ONCE):
            after = entries[-1].seq
            yield entries

    async def verify(self, organization_id: str, *, expect: str | None = None) -> Verdict:
        """Walks a chain from its first entry to the end it has now, and tells what is wrong first.

        The hashes hold no key: whoever can write the whole database can write a whole chain anew. That is seen only by
        a hash that was kept elsewhere.

        Args:
            expect: A newest hash that an earlier walk gave; it must be met.
        """
        async with self._db.read() as conn:
            end_seq, end_hash, last_seq = await self._end(conn, organization_id)
        walk = _Walk(organization_id, expect)
        while walk.flaw is None:
            rows = await self._some(organization_id, walk.seq, end_seq)
            if not rows:
                break
            for row in rows:
                walk.take(row)
        if walk.flaw is None:
            walk.arrive(end_seq, end_hash, last_seq)
        return walk.verdict()

    async def _end(self, conn: AsyncConnection, organization_id: str) -> tuple[int, str, int]:
        """Gives where the chain is noted to end, and the number of its last entry, as of one moment."""
        last = sa.select(sa.func.max(_entry.c.seq)).where(_entry.c.organization_id == organization_id)
        noted = sa.select(_head.c.seq).where(_head.c.organization_id == organization_id)
        noted_hash = sa.select(_head.c.hash).where(_head.c.organization_id == organization_id)
        columns = (part.scalar_subquery() for part in (noted, noted_hash, last))
        seq, digest, last_seq = (await conn.execute(sa.select(*columns))).one()
        return int(seq or 0), digest or "", int(last_seq or 0)

    async def _some(self, organization_id: str, after: int, end_seq: int) -> list[sa.Row[Any] | None]:
        """Gives the entries that come next; None stands for one that cannot be read."""
        statement = (
            sa.select(_entry)
            .where(_entry.c.organization_id == organization_id, _entry.c.seq > after, _entry.c.seq <= end_seq)
            .order_by(_entry.c.seq)
        )
        async with self._db.read() as conn:
            try:
                return list(await conn.execute(statement.limit(_AT_ONCE)))
            except (TypeError, ValueError):
                # A value that is no instant or no JSON, which SQLite lets in: one by one, to come upon it.
                return await self._next_alone(conn, statement.limit(1))

    async def _next_alone(self, conn: AsyncConnection, statement: sa.Select[Any]) -> list[sa.Row[Any] | None]:
        try:
            return list(await conn.execute(statement))
        except (TypeError, ValueError):
            return [None]


class _Walk:
    """Where a walk along a chain stands."""

    def __init__(self, organization_id: str, expect: str | None) -> None:
        self._organization_id = organization_id
        self._expect = expect
        self._expected_seq: int | None = None
        self._at: dt.datetime | None = None
        self._flaw_seq: int | None = None
        self.seq = 0
        self.hash = ""
        self.flaw: Flaw | None = None

    def take(self, row: sa.Row[Any] | None) -> None:
        """Goes on to the next entry, unless something has been found already."""
        if self.flaw is not None:
            return
        if row is None:
            self._stop("unreadable", self.seq + 1)
        elif row.seq != self.seq + 1:
            self._stop("missing", self.seq + 1)
        elif row.previous != self.hash:
            self._stop("unlinked", row.seq)
        elif row.hash != self._computed(row):
            self._stop("changed", row.seq)
        else:
            self.seq, self.hash, self._at = row.seq, row.hash, row.at
            if row.hash == self._expect:
                self._expected_seq = row.seq

    def arrive(self, end_seq: int, end_hash: str, last_seq: int) -> None:
        """Compares the end of the walk with the end that was noted."""
        if self.seq < end_seq:
            self._stop("cut", self.seq + 1)
        elif last_seq > end_seq:
            self._stop("beyond_end", end_seq + 1)
        elif self.hash != end_hash:
            self._stop("end_changed", self.seq)
        elif self._expect is not None and self._expected_seq is None:
            self._stop("expected_missing", self.seq)

    def verdict(self) -> Verdict:
        return Verdict(
            organization_id=self._organization_id, entries=self.seq, newest_seq=self.seq, newest_hash=self.hash,
            newest_at=self._at, flaw=self.flaw, flaw_seq=self._flaw_seq, expected_seq=self._expected_seq,
        )  # fmt: skip

    def _stop(self, flaw: Flaw, seq: int) -> None:
        self.flaw, self._flaw_seq = flaw, seq

    def _computed(self, row: sa.Row[Any]) -> str | None:
        try:
            return entry_hash(
                self._organization_id, row.seq, at=row.at, actor=row.actor, action=row.action, subject=row.subject,
                detail=row.detail, previous=row.previous,
            )  # fmt: skip
        except (TypeError, ValueError):
            return None  # a detail that is no object, say


def _filters(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    found = []
    for column, value, separator in (
        (_entry.c.action, wanted.action, "."),
        (_entry.c.actor, wanted.actor, " "),
        (_entry.c.subject, wanted.subject, "/"),
    ):
        if value is not None:
            found.append(sa.or_(column == value, column.startswith(value + separator, autoescape=True)))
    if wanted.since is not None:
        found.append(_entry.c.at >= wanted.since)
    if wanted.until is not None:
        found.append(_entry.c.at < wanted.until)
    return found
