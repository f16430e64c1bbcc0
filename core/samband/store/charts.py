"""The other side's accounts, dimensions, tax rules and periods as last read, and what was wrong with the mapping then."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.outgoing import ChartPeriod
from samband.rules.chartcheck import periods_of
from samband.store import columns
from samband.store.database import Database
from samband.store.models import ChartCopy, Integration
from samband.store.models import Mapping as MappingRow

_copy: sa.Table = ChartCopy.__table__
_integration: sa.Table = Integration.__table__
_mapping: sa.Table = MappingRow.__table__

READ_EVERY_S: Final = 86_400.0
"""How often a chart is read by itself."""
_LEASE_S: Final = 900.0
"""How long the process that took a reading has for it, before another one may take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartLists:
    """Some lists of a copy.

    Attributes:
        read_at: When the copy was made; None when the chart was asked for and never read.
        findings: As they are kept.
        lists: By name, as `samband.rules.chartcheck.chart_row` writes them; empty when it was never read.
    """

    read_at: dt.datetime | None
    findings: Mapping[str, Any]
    lists: Mapping[str, Any]


class Charts:
    """Every statement about copies of charts. A copy whose body is empty stands for one that was never read."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def get(self, integration_id: str) -> ChartCopy | None:
        """Gives the copy; None when the chart has never been asked for."""
        query = sa.select(_copy).where(_copy.c.integration_id == integration_id)
        async with self._db.read() as conn:
            row = (await conn.execute(query)).one_or_none()
        return None if row is None else ChartCopy(**row._mapping)

    async def lists(self, integration_id: str, names: Sequence[str]) -> ChartLists | None:
        """Gives these lists of the copy and no others; None when the chart has never been asked for."""
        # A part of the copy, because a whole one may have 200,000 entries.
        parts = [_copy.c.body[name].label(f"list_{n}") for n, name in enumerate(names)]
        is_read = (_copy.c.body != sa.literal({}, columns.Json)).label("is_read")
        query = sa.select(_copy.c.read_at, _copy.c.findings, is_read, *parts)
        async with self._db.read() as conn:
            row = (await conn.execute(query.where(_copy.c.integration_id == integration_id))).one_or_none()
        if row is None or not row.is_read:
            return None if row is None else ChartLists(read_at=None, findings=row.findings, lists={})
        lists = {name: row._mapping[f"list_{n}"] for n, name in enumerate(names)}
        return ChartLists(read_at=row.read_at, findings=row.findings, lists=lists)

    async def take_due(self, plugins: Collection[str], *, limit: int) -> list[Integration]:
        """Gives enabled integrations of these plugins that have a mapping and whose chart is to be read, and moves each
        one's next reading, so that no other process takes it too."""
        if not plugins:
            return []
        async with self._db.write() as conn:
            taken = await self._take_again(conn, plugins, limit)
            if len(taken) < limit:
                taken += await self._take_first(conn, plugins, limit - len(taken))
        return taken

    async def _take_again(self, conn: AsyncConnection, plugins: Collection[str], limit: int) -> list[Integration]:
        due = sa.and_(_copy.c.next_read_at <= self._db.now(), _copy.c.integration_id.in_(self._wanted(plugins)))
        chosen = sa.select(_copy.c.integration_id).where(due).order_by(_copy.c.next_read_at).limit(limit)
        if not self._db.is_sqlite:
            chosen = chosen.with_for_update(skip_locked=True)
        ids = list(await conn.scalars(chosen))
        if not ids:
            return []
        moved = sa.update(_copy).where(_copy.c.integration_id.in_(ids))
        await conn.execute(moved.values(next_read_at=self._db.after(_LEASE_S)))
        return await self._integrations(conn, ids)

    async def _take_first(self, conn: AsyncConnection, plugins: Collection[str], limit: int) -> list[Integration]:
        unread = sa.and_(
            _integration.c.id.in_(self._wanted(plugins)),
            ~sa.exists().where(_copy.c.integration_id == _integration.c.id),
        )  # fmt: skip
        query = sa.select(_integration.c.id, _integration.c.organization_id).where(unread)
        ids = []
        for row in (await conn.execute(query.order_by(_integration.c.id).limit(limit))).all():
            insert = sqlite.insert(_copy) if self._db.is_sqlite else postgresql.insert(_copy)
            fresh = insert.values(
                integration_id=row.id, organization_id=row.organization_id, body={}, findings={},
                read_at=columns.now(), next_read_at=self._db.after(_LEASE_S),
            )  # fmt: skip
            first = fresh.on_conflict_do_nothing().returning(_copy.c.integration_id)
            if await conn.scalar(first) is not None:  # otherwise another process was quicker
                ids.append(row.id)
        return await self._integrations(conn, ids)

    def _wanted(self, plugins: Collection[str]) -> sa.Select[tuple[str]]:
        return sa.select(_integration.c.id).where(
            _integration.c.state == "enabled",
            _integration.c.plugin.in_(list(plugins)),
            sa.exists().where(_mapping.c.integration_id == _integration.c.id),
        )

    async def _integrations(self, conn: AsyncConnection, ids: Sequence[str]) -> list[Integration]:
        rows = await conn.execute(sa.select(_integration).where(_integration.c.id.in_(ids)).order_by(_integration.c.id))
        return [Integration(**row._mapping) for row in rows]

    async def keep(
        self, integration: Integration, body: Mapping[str, Any], findings: Mapping[str, Any], *, next_in_s: float
    ) -> ChartCopy:
        """Keeps what was read just now and what follows from it."""
        values = {
            "integration_id": integration.id, "organization_id": integration.organization_id, "body": dict(body),
            "findings": dict(findings), "read_at": columns.now(), "next_read_at": self._db.after(next_in_s),
        }  # fmt: skip
        return await self._upsert(values, ("body", "findings", "read_at", "next_read_at"))

    async def note_trouble(
        self, integration: Integration, findings: Mapping[str, Any], *, next_in_s: float
    ) -> ChartCopy:
        """Notes that the chart could not be read; what was read before stays."""
        values = {
            "integration_id": integration.id, "organization_id": integration.organization_id, "body": {},
            "findings": dict(findings), "read_at": columns.now(), "next_read_at": self._db.after(next_in_s),
        }  # fmt: skip
        return await self._upsert(values, ("findings", "next_read_at"))

    async def judge(self, integration_id: str, findings: Mapping[str, Any]) -> None:
        """Keeps what a changed mapping comes to against the copy as it is; its next reading stays planned."""
        mine = sa.update(_copy).where(_copy.c.integration_id == integration_id)
        async with self._db.write() as conn:
            await conn.execute(mine.values(findings=dict(findings)))

    async def findings(self, organization_id: str) -> dict[str, Mapping[str, Any]]:
        """Gives, per integration of an organisation, what was found at the last look."""
        query = sa.select(_copy.c.integration_id, _copy.c.findings).where(_copy.c.organization_id == organization_id)
        async with self._db.read() as conn:
            return {row.integration_id: row.findings for row in await conn.execute(query)}

    async def _upsert(self, values: dict[str, Any], changed: Sequence[str]) -> ChartCopy:
        insert = sqlite.insert(_copy) if self._db.is_sqlite else postgresql.insert(_copy)
        statement = insert.values(**values)
        statement = statement.on_conflict_do_update(
            index_elements=[_copy.c.integration_id], set_={name: statement.excluded[name] for name in changed}
        )
        async with self._db.write() as conn:
            row = (await conn.execute(statement.returning(_copy))).one()
        return ChartCopy(**row._mapping)


async def periods_in(conn: AsyncConnection, integration_id: str) -> Sequence[ChartPeriod] | None:
    """Gives the other side's periods as last read, in the caller's transaction; None when they are not known."""
    # Not the whole copy: it has every account of the books.
    query = sa.select(_copy.c.body["periods"]).where(_copy.c.integration_id == integration_id)
    return periods_of({"periods": await conn.scalar(query)})


def next_trouble_s(failures: int) -> float:
    """Gives the wait after so many readings that failed one after the other: from 15 minutes up to 6 hours."""
    return float(min(21_600, 900 * 2 ** min(failures - 1, 5)))
