"""What the store knows about how integrations are doing: read for alerts, for status, and for the probe's round."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from samband.rules.findings import Unfinished
from samband.store.connections import move_connection
from samband.store.database import Database
from samband.store.models import LIVE, Alert, Credential, DeadLetter, ExportItem, Integration, Run, Schedule
from samband.store.unfinished import unfinished_in

_alert: sa.Table = Alert.__table__
_integration: sa.Table = Integration.__table__
_credential: sa.Table = Credential.__table__
_schedule: sa.Table = Schedule.__table__
_dead: sa.Table = DeadLetter.__table__
_run: sa.Table = Run.__table__
_item: sa.Table = ExportItem.__table__

UNPOSTED_FOR = dt.timedelta(days=7)
"""How long an exported item may be with the other side without being booked before somebody is told."""
UNCERTAIN_FOR = dt.timedelta(hours=1)
"""How long nobody may know of an exported item whether it arrived before somebody is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One enabled integration as its rows say; ``schedules`` are those that are not paused."""

    integration: Integration
    last_success_at: dt.datetime | None
    failures_in_row: int
    open_letters: int
    held_run: str | None
    stalled_run: str | None
    uncertain_items: int
    credentials_expire_at: dt.datetime | None
    schedules: Sequence[Schedule]
    exports: Unfinished


class Conditions:
    """Every statement about how integrations are doing."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def of_organization(
        self, organization_id: str, *, stalled_before: dt.datetime, unposted_before: dt.datetime | None = None
    ) -> list[Observed]:
        """Gives every enabled integration of an organisation, with what its rows say; a handful of statements.

        Args:
            unposted_before: Exported items that were accepted before and are not booked are counted; None counts those
                of a week ago.
        """
        before = unposted_before or dt.datetime.now(dt.UTC) - UNPOSTED_FOR
        mine = sa.and_(_integration.c.organization_id == organization_id, _integration.c.state == "enabled")
        async with self._db.read() as conn:
            rows = (await conn.execute(_observation(stalled_before).where(mine).order_by(_integration.c.id))).all()
            active = sa.and_(_schedule.c.organization_id == organization_id, _schedule.c.paused_at.is_(None))
            planned: dict[str, list[Schedule]] = {}
            for row in await conn.execute(sa.select(_schedule).where(active)):
                planned.setdefault(row.integration_id, []).append(Schedule(**row._mapping))
            open = await unfinished_in(conn, organization_id, unposted_before=before)
        return [_observed(row, planned.get(row.id, []), open.get(row.id, Unfinished())) for row in rows]

    async def organizations(self) -> list[str]:
        """Gives the organisations that have an enabled integration or an open alert."""
        enabled = sa.select(_integration.c.organization_id).where(_integration.c.state == "enabled")
        troubled = sa.select(_alert.c.organization_id).where(_alert.c.closed_at.is_(None))
        async with self._db.read() as conn:
            return sorted((await conn.scalars(sa.union(enabled, troubled))).all())

    async def schedules(self, integration_id: str) -> list[Schedule]:
        """Gives the schedules of an integration that are not paused."""
        active = sa.and_(_schedule.c.integration_id == integration_id, _schedule.c.paused_at.is_(None))
        async with self._db.read() as conn:
            return [Schedule(**row._mapping) for row in await conn.execute(sa.select(_schedule).where(active))]

    async def open_letters(self, integration_id: str) -> int:
        """Counts an integration's dead letters that nobody has seen to."""
        mine = sa.and_(_dead.c.integration_id == integration_id, _dead.c.acknowledged_at.is_(None))
        async with self._db.read() as conn:
            return int(await conn.scalar(sa.select(sa.func.count()).select_from(_dead).where(mine)) or 0)

    async def lines(
        self, organization_ids: Collection[str] | None = None, *, after: tuple[str, str] | None = None, limit: int
    ) -> list[tuple[Integration, dt.datetime | None, list[Schedule]]]:
        """Gives integrations with their last success and their active schedules, by organisation and type.

        Two statements, however many organisations there are.

        Args:
            organization_ids: Only of these; None for all.
            after: Goes on after this organisation and type.
        """
        good = sa.and_(
            _run.c.integration_id == _integration.c.id, _run.c.operation == "sync",
            _run.c.state.in_(("succeeded", "partial")), _run.c.selection.is_(None),
        )  # fmt: skip
        last = sa.select(_run.c.finished_at).where(good).order_by(_run.c.id.desc()).limit(1)
        query = sa.select(_integration, last.correlate(_integration).scalar_subquery().label("last_success_at"))
        place = _integration.c.organization_id, _integration.c.plugin
        query = query.order_by(*place).limit(limit)
        if organization_ids is not None:
            query = query.where(_integration.c.organization_id.in_(organization_ids))
        if after is not None:
            query = query.where(sa.tuple_(*place) > sa.tuple_(*map(sa.literal, after)))
        planned: dict[str, list[Schedule]] = {}
        async with self._db.read() as conn:
            rows = (await conn.execute(query)).all()
            active = sa.and_(_schedule.c.integration_id.in_([r.id for r in rows]), _schedule.c.paused_at.is_(None))
            for found in await conn.execute(sa.select(_schedule).where(active)):
                planned.setdefault(found.integration_id, []).append(Schedule(**found._mapping))
        return [(_integration_of(r), r.last_success_at, planned.get(r.id, [])) for r in rows]

    # ── the probe ────────────────────────────────────────────────────────────

    async def take_probes(self, *, interval_s: float, limit: int) -> list[Integration]:
        """Gives integrations whose probe is due and moves each one's next, so that no other process takes them too."""
        now = self._db.now()
        due = sa.and_(
            _integration.c.state == "enabled",
            sa.or_(_integration.c.next_probe_at.is_(None), _integration.c.next_probe_at <= now),
        )
        chosen = sa.select(_integration.c.id).where(due).order_by(_integration.c.next_probe_at).limit(limit)
        if not self._db.is_sqlite:
            chosen = chosen.with_for_update(skip_locked=True)
        statement = (
            sa.update(_integration)
            .where(_integration.c.id.in_(chosen), due)
            .values(next_probe_at=self._db.after(interval_s))
            .returning(_integration)
        )
        async with self._db.write() as conn:
            return [Integration(**row._mapping) for row in await conn.execute(statement)]

    async def note_probe(self, integration: Integration, connection: str, *, latency_ms: int, code: str) -> None:
        """Keeps what a probe found; a probe of settings that have been changed meanwhile says nothing."""
        async with self._db.write() as conn:
            revision = await conn.scalar(sa.select(_integration.c.revision).where(_integration.c.id == integration.id))
            if revision == integration.revision:
                await move_connection(
                    conn, integration.id, connection, code=code, latency_ms=latency_ms,
                    probed_at=dt.datetime.now(dt.UTC),
                )  # fmt: skip


def _observation(stalled_before: dt.datetime) -> sa.Select[Any]:
    long_ago = dt.datetime.now(dt.UTC) - UNCERTAIN_FOR
    ended = sa.and_(
        _run.c.integration_id == _integration.c.id, _run.c.operation == "sync",
        _run.c.state.in_(("succeeded", "partial", "failed")),
    )  # fmt: skip
    live = sa.and_(_run.c.integration_id == _integration.c.id, sa.text(LIVE))
    # A backfill reads what it was asked for; only a sync says that the stream itself is read.
    good = sa.and_(ended, _run.c.state != "failed", _run.c.selection.is_(None))
    last_two = (
        sa.select(_run.c.state).where(ended).order_by(_run.c.id.desc()).limit(2).correlate(_integration).subquery()
    )
    moved = sa.func.coalesce(_run.c.progress_at, _run.c.started_at, _run.c.created_at)
    stalled = sa.and_(live, _run.c.state.in_(("running", "waiting")), moved < stalled_before)
    uncertain = sa.and_(
        _item.c.integration_id == _integration.c.id, _item.c.state.in_(("sent", "unknown")), _item.c.sent_at < long_ago
    )
    letters = sa.and_(_dead.c.integration_id == _integration.c.id, _dead.c.acknowledged_at.is_(None))

    def one(column: Any, where: Any) -> Any:
        chosen = sa.select(column).where(where).order_by(_run.c.id.desc()).limit(1)
        return chosen.correlate(_integration).scalar_subquery()

    return sa.select(
        _integration,
        one(_run.c.finished_at, good).label("last_success_at"),
        sa.select(sa.func.count()).select_from(last_two).where(last_two.c.state == "failed")
        .scalar_subquery().label("failures_in_row"),
        sa.select(sa.func.count()).where(letters).correlate(_integration).scalar_subquery().label("open_letters"),
        one(_run.c.id, sa.and_(live, _run.c.state == "held")).label("held_run"),
        one(_run.c.id, stalled).label("stalled_run"),
        sa.select(sa.func.count()).where(uncertain).correlate(_integration).scalar_subquery().label("uncertain_items"),
        sa.select(_credential.c.expires_at).where(_credential.c.integration_id == _integration.c.id)
        .correlate(_integration).scalar_subquery().label("credentials_expire_at"),
    )  # fmt: skip


def _observed(row: sa.Row[Any], schedules: Sequence[Schedule], exports: Unfinished) -> Observed:
    return Observed(
        integration=_integration_of(row), last_success_at=row.last_success_at, failures_in_row=row.failures_in_row,
        open_letters=row.open_letters, held_run=row.held_run, stalled_run=row.stalled_run, uncertain_items=row.uncertain_items,
        credentials_expire_at=row.credentials_expire_at, schedules=schedules, exports=exports,
    )  # fmt: skip


def _integration_of(row: sa.Row[Any]) -> Integration:
    return Integration(**{column.name: row._mapping[column.name] for column in _integration.columns})
