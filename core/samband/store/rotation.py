"""Every sealed column of the database: which keys it is sealed with, sealing it again with the newest, proving it opens.

A new sealed column is added to `SEALED`, and to nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import StoreError
from samband.store import audit
from samband.store.database import Database
from samband.store.models import (
    Consent,
    Credential,
    DropPoint,
    Inbox,
    KeptAnswer,
    KeptFile,
    KeptToken,
    Subscription,
    Webhook,
)
from samband.store.vault import HEAD_BYTES, Vault

__all__ = ["SEALED", "Rotated", "Rotation", "SealedColumn", "Verified", "keys_in_use"]

_SAMPLE = 100
_SMALL = 10_000
_BROKEN_NAMED = 20

Sample = tuple[sa.ColumnElement[bool], tuple[sa.ColumnElement[Any], ...]]
"""Which rows, and in which order the first of them are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedColumn:
    """One column whose values the vault has sealed.

    Attributes:
        name: ``table.column``, for people.
        table: Where it stands.
        column: Which one.
        row_id: Columns that together say which row it is to whoever sealed it.
        field: The last part of the owner.
        samples: For a table that grows with traffic: the orders in which its rows are looked at by `missing_keys`,
            each with a condition; empty for one that has a row for each integration or so, which is looked at whole.
    """

    name: str
    table: sa.Table
    column: sa.Column[Any]
    row_id: tuple[sa.Column[Any], ...]
    field: str
    samples: tuple[Sample, ...] = ()

    @property
    def batch(self) -> int:
        """How many rows are held in memory at once; a delivery in the inbox can be large."""
        return 20 if self.samples else 100

    @property
    def key(self) -> tuple[sa.Column[Any], ...]:
        return tuple(self.table.primary_key.columns)

    @property
    def head(self) -> sa.ColumnElement[bytes]:
        return sa.func.substr(self.column, 1, HEAD_BYTES)

    def owner(self, row: sa.Row[Any]) -> str:
        """Gives the owner that the value was sealed for."""
        parts = ":".join(str(row._mapping[column.name]) for column in self.row_id)
        return f"{row.organization_id}/{parts}/{self.field}"


def _sealed(
    model: Any, column: str, row_id: str, field: str, *,
    samples: Callable[[sa.Table], Iterable[Sample]] = lambda table: (),
) -> SealedColumn:  # fmt: skip
    table: sa.Table = model.__table__
    return SealedColumn(
        name=f"{table.name}.{column}", table=table, column=table.c[column],
        row_id=tuple(table.c[name] for name in row_id.split()), field=field, samples=tuple(samples(table)),
    )  # fmt: skip


SEALED: tuple[SealedColumn, ...] = (
    _sealed(Credential, "sealed", "integration_id", "credentials"),
    _sealed(KeptToken, "sealed", "integration_id", "token"),
    _sealed(Consent, "sealed", "id", "consent"),
    _sealed(Webhook, "sealed", "integration_id", "webhook"),
    _sealed(Subscription, "secrets", "id", "subscription"),
    _sealed(
        Inbox, "content", "integration_id", "inbox",
        # The newest say what is sealed with now; the waiting ones still have to be opened.
        samples=lambda t: (
            (sa.true(), (t.c.id.desc(),)),
            # Written as the partial index has them, or it is not used.
            (t.c.state == sa.literal_column("'received'"), (t.c.integration_id, t.c.id)),
        ),
    ),
    _sealed(DropPoint, "secret", "integration_id", "drop"),
    _sealed(KeptFile, "content", "id", "file", samples=lambda t: ((sa.true(), (t.c.id.desc(),)),)),
    _sealed(KeptAnswer, "answer", "caller route key", "answer", samples=lambda t: ((sa.true(), (t.c.created_at.desc(),)),)),
)  # fmt: skip
"""All of them. The owner of a value is ``organisation/row/field``."""


@dataclass(slots=True, kw_only=True)
class Rotated:
    """What a rotation did.

    Attributes:
        key: The id of the key that everything is sealed with now.
        sealed_again: Column → values that were sealed again.
        unopened: Values that stay as they are because they cannot be opened; `Rotation.verify` says why.
    """

    key: str
    sealed_again: Counter[str] = field(default_factory=Counter)
    unopened: int = 0


@dataclass(slots=True, kw_only=True)
class Verified:
    """What was found when every sealed value was opened.

    Attributes:
        keys: Key id → values sealed with it; a key of the ring that seals nothing is there with 0.
        columns: Column → values.
        due: Values that a rotation would seal again.
        missing: Key id → values sealed with it, for keys that are not in the ring.
        broken: How many values cannot be opened although their key is here.
        examples: Where the first of those stand.
    """

    keys: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)
    due: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        return not self.missing and not self.broken


class Rotation:
    """Every statement about sealed values whatever table they stand in. For the host itself, not for one organisation."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._db = database
        self._vault = vault

    async def missing_keys(self) -> list[str]:
        """Gives the ids of keys that sealed values need and that are not here; cheap enough to be asked every second.

        Looks at every row of the tables that have one for each integration, and of those that grow with traffic at the
        newest and the waiting ones. `verify` looks at every row there is.
        """
        found = {self._vault.missing_key(head) for head in await keys_in_use(self._db)}
        return sorted(key for key in found if key is not None)

    async def rotate(self) -> Rotated:
        """Seals everything again that is not sealed with the newest key, while the host goes on working.

        Batch by batch, each a short transaction of its own, and each value only if it is still the one that was read:
        credentials that are replaced meanwhile stay replaced. May be killed anywhere and run again, and several may run
        at once.
        """
        done = Rotated(key=self._vault.key_ids[-1])
        for column in SEALED:
            due = column.head != self._vault.head
            async for rows in self._batches(column, due):
                await self._seal_again(column, rows, done)
        if done.sealed_again:
            columns = [f"{name}: {number}" for name, number in sorted(done.sealed_again.items())]
            detail = {"values": done.sealed_again.total(), "columns": columns, "unopened": done.unopened}
            async with self._db.write() as conn:
                await audit.record(conn, audit.HOST, "keys.rotated", f"key/{done.key}", detail)
        return done

    async def verify(self) -> Verified:
        """Opens every sealed value there is."""
        found = Verified(keys=Counter(dict.fromkeys(self._vault.key_ids, 0)))
        for column in SEALED:
            async for rows in self._batches(column, sa.true()):
                for row in rows:
                    self._examine(column, row, found)
        return found

    async def _batches(
        self, column: SealedColumn, where: sa.ColumnElement[bool]
    ) -> AsyncIterator[Sequence[sa.Row[Any]]]:
        """Yields the rows in the order of their key. Nothing is held between two batches: no snapshot, no lock."""
        wanted = dict.fromkeys((*column.key, column.table.c.organization_id, *column.row_id))
        query: sa.Select[Any] = sa.select(*wanted, column.column.label("sealed_value"))
        query = query.where(column.column.is_not(None), where).order_by(*column.key).limit(column.batch)
        after: sa.Row[Any] | None = None
        while True:
            async with self._db.read() as conn:
                page = query if after is None else query.where(_is_after(column, after))
                rows = (await conn.execute(page)).all()
            if rows:
                yield rows
                after = rows[-1]
            if len(rows) < column.batch:
                return

    async def _seal_again(self, column: SealedColumn, rows: Sequence[sa.Row[Any]], done: Rotated) -> None:
        fresh: list[tuple[sa.Row[Any], bytes]] = []
        for row in rows:
            owner = column.owner(row)
            try:
                fresh.append(
                    (row, self._vault.seal(self._vault.open(bytes(row.sealed_value), owner=owner), owner=owner))
                )
            except StoreError:
                done.unopened += 1
        if not fresh:
            return
        swapped = 0
        async with self._db.write() as conn:
            for row, value in fresh:
                swapped += await _swap(conn, column, row, value)
        if swapped:
            done.sealed_again[column.name] += swapped

    def _examine(self, column: SealedColumn, row: sa.Row[Any], found: Verified) -> None:
        sealed = bytes(row.sealed_value)
        found.columns[column.name] += 1
        missing = self._vault.missing_key(sealed)
        if missing is not None:
            found.missing[missing] += 1
            return
        found.keys[sealed[1:HEAD_BYTES].hex()] += 1
        found.due += sealed[:HEAD_BYTES] != self._vault.head
        try:
            self._vault.open(sealed, owner=column.owner(row))
        except StoreError as err:
            found.broken += 1
            if found.broken <= _BROKEN_NAMED:
                where = ":".join(str(row._mapping[key.name]) for key in column.key)
                found.examples.append(f"{column.name} of {row.organization_id}, row {where}: {err.code}")


async def keys_in_use(database: Database) -> set[bytes]:
    """Gives the heads of sealed values, as far as `Rotation.missing_keys` looks; none for a table that is not there yet."""
    heads: set[bytes] = set()
    async with database.read() as conn:
        there = set(await conn.run_sync(lambda c: sa.inspect(c).get_table_names()))
        for column in SEALED:
            if column.table.name in there:
                for query in _looks(column):
                    heads |= {bytes(head) for head in await conn.scalars(query) if head is not None}
    return heads


def _looks(column: SealedColumn) -> Iterable[sa.Select[Any]]:
    rows = sa.select(column.head.label("head"))
    if not column.samples:
        looked_at = rows.where(column.column.is_not(None)).limit(_SMALL).subquery()
        yield sa.select(looked_at.c.head).distinct()
    for where, order in column.samples:
        # Rows without a value count too: looking for one that has it could lead through the whole table.
        looked_at = rows.where(where).order_by(*order).limit(_SAMPLE).subquery()
        yield sa.select(looked_at.c.head).distinct()


async def _swap(conn: AsyncConnection, column: SealedColumn, row: sa.Row[Any], value: bytes) -> int:
    is_same = [key == row._mapping[key.name] for key in column.key] + [column.column == row.sealed_value]
    statement = sa.update(column.table).where(*is_same).values({column.column.name: value})
    return int((await conn.execute(statement)).rowcount)


def _is_after(column: SealedColumn, row: sa.Row[Any]) -> sa.ColumnElement[bool]:
    values = [sa.literal(row._mapping[key.name], key.type) for key in column.key]
    return sa.tuple_(*column.key) > sa.tuple_(*values)
