"""Alerts: troubles that are opened once, told once, and closed when they are over."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import NotFoundError
from samband.rules.findings import Finding
from samband.store import audit
from samband.store.database import Database
from samband.store.models import Alert
from samband.store.outbox import emit

_alert: sa.Table = Alert.__table__


class Alerts:
    """Every statement about alerts."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def settle(self, organization_id: str, found: Sequence[Finding]) -> tuple[int, int]:
        """Opens an alert for each finding that has none and closes those that are found no more; gives how many of each.

        Both are told as events in the same transaction, so a trouble is announced once however often it is found, and
        once more when it is over. One that has only grown or shrunk is brought up to date without a word.
        """
        current = await self._open(organization_id)
        fresh = [f for f in found if (f.subject, f.kind) not in current]
        gone = sorted(set(current) - {(f.subject, f.kind) for f in found})
        moved = [f for f in found if (f.subject, f.kind) in current and _is_other(current[f.subject, f.kind], f)]
        if not fresh and not gone and not moved:
            return 0, 0
        opened = closed = 0
        async with self._db.write() as conn:
            for finding in fresh:
                opened += await self._raise(conn, finding)
            for key in gone:
                closed += await self._close(conn, organization_id, current[key].id or 0)
            for finding in moved:
                mine = sa.and_(_alert.c.id == current[finding.subject, finding.kind].id, _alert.c.closed_at.is_(None))
                told = {"severity": finding.severity, "message": finding.message, "data": dict(finding.data)}
                await conn.execute(sa.update(_alert).where(mine).values(**told))
        return opened, closed

    async def page(
        self, organization_id: str, *, open_only: bool, integration_id: str | None, before: int | None, limit: int
    ) -> list[Alert]:
        """Gives alerts, newest first."""
        query = sa.select(_alert).where(_alert.c.organization_id == organization_id)
        if open_only:
            query = query.where(_alert.c.closed_at.is_(None))
        if integration_id is not None:
            query = query.where(_alert.c.integration_id == integration_id)
        if before is not None:
            query = query.where(_alert.c.id < before)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_alert.c.id.desc()).limit(limit))
            return [Alert(**row._mapping) for row in rows]

    async def acknowledge(self, organization_id: str, alert_id: int, by: str) -> Alert:
        """Notes that somebody has seen an alert; it stays open until the trouble is over."""
        mine = sa.and_(_alert.c.organization_id == organization_id, _alert.c.id == alert_id)
        now = dt.datetime.now(dt.UTC)
        async with self._db.write() as conn:
            seen = sa.update(_alert).where(mine, _alert.c.acknowledged_at.is_(None))
            answer = await conn.execute(seen.values(acknowledged_at=now, acknowledged_by=by))
            row = (await conn.execute(sa.select(_alert).where(mine))).one_or_none()
            if row is None:
                raise NotFoundError("There is no such alert.", code="alert_not_found")
            if answer.rowcount:
                await audit.record(conn, organization_id, "alert.acknowledged", f"alert/{alert_id}", {"kind": row.kind})
        return Alert(**row._mapping)

    async def open_kinds(self, organization_ids: Collection[str]) -> dict[str, list[str]]:
        """Gives, per integration of these organisations, the kinds of its open alerts, the newest first."""
        about = sa.and_(_alert.c.organization_id.in_(organization_ids), _alert.c.integration_id.is_not(None))
        query = sa.select(_alert.c.integration_id, _alert.c.kind).where(about, _alert.c.closed_at.is_(None))
        kinds: dict[str, list[str]] = {}
        async with self._db.read() as conn:
            for row in await conn.execute(query.order_by(_alert.c.id.desc())):
                kinds.setdefault(row.integration_id, []).append(row.kind)
        return kinds

    async def _open(self, organization_id: str) -> dict[tuple[str, str], Alert]:
        mine = sa.and_(_alert.c.organization_id == organization_id, _alert.c.closed_at.is_(None))
        async with self._db.read() as conn:
            rows = await conn.execute(sa.select(_alert).where(mine))
            return {(row.subject, row.kind): Alert(**row._mapping) for row in rows}

    async def _raise(self, conn: AsyncConnection, finding: Finding) -> int:
        insert = sqlite.insert(_alert) if self._db.is_sqlite else postgresql.insert(_alert)
        statement = insert.values(
            organization_id=finding.organization_id, integration_id=finding.integration_id, subject=finding.subject,
            kind=finding.kind, severity=finding.severity, message=finding.message, data=dict(finding.data),
            opened_at=dt.datetime.now(dt.UTC), acknowledged_by="",
        ).on_conflict_do_nothing()  # fmt: skip
        alert_id = await conn.scalar(statement.returning(_alert.c.id))
        if alert_id is None:  # another process found it at the same moment
            return 0
        told = {"alert": alert_id, "kind": finding.kind, "severity": finding.severity, **_references(finding.data)}
        if finding.integration_id is not None:
            told["integration"] = finding.integration_id
        await emit(conn, finding.organization_id, "no.samband.alert.opened.v1", finding.subject, told)
        return 1

    async def _close(self, conn: AsyncConnection, organization_id: str, alert_id: int) -> int:
        row = (
            await conn.execute(
                sa.update(_alert)
                .where(_alert.c.id == alert_id, _alert.c.closed_at.is_(None))
                .values(closed_at=dt.datetime.now(dt.UTC))
                .returning(_alert)
            )
        ).one_or_none()
        if row is None:
            return 0
        told: dict[str, Any] = {"alert": row.id, "kind": row.kind, "severity": row.severity, **_references(row.data)}
        if row.integration_id is not None:
            told["integration"] = row.integration_id
        await emit(conn, organization_id, "no.samband.alert.closed.v1", row.subject, told)
        return 1


def _is_other(alert: Alert, finding: Finding) -> bool:
    told = finding.severity, finding.message, orjson.dumps(dict(finding.data), option=orjson.OPT_SORT_KEYS)
    return told != (alert.severity, alert.message, orjson.dumps(alert.data, option=orjson.OPT_SORT_KEYS))


def _references(data: Any) -> dict[str, Any]:
    return {name: value for name, value in dict(data).items() if name in ("type", "run")}
