"""Schedules as people see and change them. What the scheduler does with them is in `samband.store.firings`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import ConflictError, NotFoundError
from samband.store import audit
from samband.store.database import Database
from samband.store.ids import new_id
from samband.store.models import LIVE, Integration, Occurrence, Run, Schedule
from samband.store.runs import tell

_schedule: sa.Table = Schedule.__table__
_occurrence: sa.Table = Occurrence.__table__
_run: sa.Table = Run.__table__

MAX_SCHEDULES = 50
"""Of one integration, so that they can be listed whole."""

IS_WAITING = sa.text("occurrence.state = 'waiting'")
"""Written out, because an index of waiting occurrences alone serves no parameter."""

Build = Callable[[Schedule | None], Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class OccurrenceRow:
    """One planned time that has come, and the state of its run, if it has one."""

    planned_at: dt.datetime
    fired_at: dt.datetime
    state: str
    reason: str
    run_id: str | None
    run_state: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What went with a schedule: planned times that had not started, and what goes on without it."""

    waiting: int
    cancelled_run: str | None
    live_run: str | None


class Schedules:
    """Every statement about schedules that serves a person."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def all(self, integration_id: str) -> list[Schedule]:
        """Gives an integration's schedules by name."""
        query = sa.select(_schedule).where(_schedule.c.integration_id == integration_id).order_by(_schedule.c.name)
        async with self._db.read() as conn:
            return [Schedule(**row._mapping) for row in await conn.execute(query)]

    async def one(self, integration_id: str, name: str) -> Schedule:
        """Gives a schedule, or raises `NotFoundError`."""
        async with self._db.read() as conn:
            found = await self._find(conn, integration_id, name)
        if found is None:
            raise NotFoundError("There is no such schedule.", code="schedule_not_found")
        return found

    async def put(
        self, integration: Integration, name: str, build: Build, *, if_revision: int | None = None
    ) -> Schedule:
        """Makes or changes a schedule and raises its revision; one that stays as it is keeps it.

        Args:
            build: Gives the columns, from the schedule there is; None to leave it as it is.
            if_revision: Only if there is one, and nobody changed it since this revision.

        Raises:
            ConflictError: Somebody changed it meanwhile, or the integration has too many.
        """
        try:
            return await self._put(integration, name, build, if_revision)
        except IntegrityError:  # two made it at once; the second one changes what the first has made
            return await self._put(integration, name, build, if_revision)

    async def _put(self, integration: Integration, name: str, build: Build, if_revision: int | None) -> Schedule:
        async with self._db.write() as conn:
            before = await self._find(conn, integration.id, name, lock=True)
            if if_revision is not None and (before is None or before.revision != if_revision):
                raise _changed_meanwhile()
            values = build(before)
            if values is None and before is not None:
                return before
            if before is None:
                await self._demand_room(conn, integration.id)
                after = await self._insert(conn, integration, name, dict(values or {}))
            else:
                after = await self._update(conn, before, **dict(values or {}), trouble="", overdue_since=None)
            deed = "schedule.created" if before is None else "schedule.changed"
            await audit.record(conn, integration.organization_id, deed, _subject(after), _told(after))
        return after

    async def pause(self, schedule: Schedule, now: dt.datetime) -> Schedule:
        """Stops a schedule from firing; what waited to start is skipped. Safe to repeat."""
        async with self._db.write() as conn:
            before = await self._find(conn, schedule.integration_id, schedule.name, lock=True)
            if before is None:
                raise NotFoundError("There is no such schedule.", code="schedule_not_found")
            if before.paused_at is not None:
                return before
            after = await self._update(
                conn, before, paused_at=now, next_planned_at=None, next_at=None, overdue_since=None
            )
            skipped = sa.update(_occurrence).where(_occurrence.c.schedule_id == before.id, IS_WAITING)
            await conn.execute(skipped.values(state="skipped", reason="paused"))
            if before.next_planned_at is not None and before.next_planned_at <= now:
                # It has come, and only its jitter or a busy scheduler has kept it from being fired.
                row = {"schedule_id": before.id, "planned_at": before.next_planned_at, "fired_at": now}
                row |= {"organization_id": before.organization_id, "state": "skipped", "reason": "paused"}
                await conn.execute(sa.insert(_occurrence).values(**row))
            await audit.record(conn, before.organization_id, "schedule.paused", _subject(before), {"name": before.name})
        return after

    async def resume(
        self, schedule: Schedule, occurrences: Sequence[Mapping[str, Any]], detail: Mapping[str, Any], **values: Any
    ) -> Schedule:
        """Lets a paused schedule fire again.

        Args:
            occurrences: What becomes of the planned times of the gap.
            detail: About the gap, for the audit trail.
            values: The next planned time.

        Raises:
            ConflictError: Somebody changed it meanwhile.
        """
        async with self._db.write() as conn:
            before = await self._find(conn, schedule.integration_id, schedule.name, lock=True)
            if before is None or before.revision != schedule.revision:
                raise _changed_meanwhile()
            after = await self._update(conn, before, paused_at=None, **values)
            if occurrences:
                known = {"schedule_id": before.id, "organization_id": before.organization_id, "run_id": None}
                await conn.execute(sa.insert(_occurrence), [{**known, **o} for o in occurrences])
            told = {"name": before.name, **detail}
            await audit.record(conn, before.organization_id, "schedule.resumed", _subject(before), told)
        return after

    async def remove(self, integration: Integration, name: str, *, if_revision: int | None = None) -> Removed:
        """Deletes a schedule with its occurrences, and cancels the run it ordered if nobody has begun with it.

        A run that has begun goes on.
        """
        async with self._db.write() as conn:
            schedule = await self._find(conn, integration.id, name, lock=True)
            if schedule is None:
                raise NotFoundError("There is no such schedule.", code="schedule_not_found")
            if if_revision is not None and schedule.revision != if_revision:
                raise _changed_meanwhile()
            mine = _occurrence.c.schedule_id == schedule.id
            count = sa.select(sa.func.count()).select_from(_occurrence).where(mine, IS_WAITING)
            waiting = int(await conn.scalar(count) or 0)
            cancelled = await self._cancel_unstarted(conn, mine)
            ordered = sa.select(_run.c.id).join(_occurrence, _occurrence.c.run_id == _run.c.id)
            live_run = await conn.scalar(ordered.where(mine, _qualified_live()))
            await conn.execute(sa.delete(_schedule).where(_schedule.c.id == schedule.id))
            told = {"name": name, "waiting": waiting, "cancelled_run": cancelled}
            await audit.record(conn, schedule.organization_id, "schedule.deleted", _subject(schedule), told)
        return Removed(waiting=waiting, cancelled_run=cancelled, live_run=live_run)

    async def _cancel_unstarted(self, conn: AsyncConnection, mine: sa.ColumnElement[bool]) -> str | None:
        now = dt.datetime.now(dt.UTC)
        ordered = sa.select(_occurrence.c.run_id).where(mine, _occurrence.c.run_id.is_not(None))
        unstarted = sa.and_(_run.c.id.in_(ordered), _run.c.state == "queued", _run.c.starts == 0)
        ended = sa.update(_run).where(unstarted).values(state="cancelled", finished_at=now, cancel_requested_at=now)
        row = (await conn.execute(ended.returning(_run))).one_or_none()
        if row is None:
            return None
        await tell(conn, row)
        told = {"because": "schedule.deleted"}
        await audit.record(conn, row.organization_id, "run.cancelled", f"run/{row.id}", told)
        return str(row.id)

    # ── occurrences ──────────────────────────────────────────────────────────

    async def occurrences(self, schedule_id: str, *, before: dt.datetime | None, limit: int) -> list[OccurrenceRow]:
        """Gives the planned times that have come, newest first, those before ``before`` in that order."""
        query = _occurrence_rows().where(_occurrence.c.schedule_id == schedule_id)
        if before is not None:
            query = query.where(_occurrence.c.planned_at < before)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_occurrence.c.planned_at.desc()).limit(limit))
            return [_occurrence_row(row) for row in rows]

    async def newest_occurrences(self, schedule_ids: Sequence[str]) -> dict[str, OccurrenceRow]:
        """Gives, per schedule, the newest planned time that has come."""
        other = _occurrence.alias("other")
        newest = sa.select(sa.func.max(other.c.planned_at)).where(other.c.schedule_id == _occurrence.c.schedule_id)
        query = _occurrence_rows().where(
            _occurrence.c.schedule_id.in_(schedule_ids), _occurrence.c.planned_at == newest.scalar_subquery()
        )
        async with self._db.read() as conn:
            return {row.schedule_id: _occurrence_row(row) for row in await conn.execute(query)}

    async def successes(self, schedule_ids: Sequence[str]) -> dict[str, dt.datetime]:
        """Gives, per schedule, the newest planned time whose run ended well."""
        query = sa.select(_schedule.c.id, newest_success()).where(_schedule.c.id.in_(schedule_ids))
        async with self._db.read() as conn:
            return {row.id: row.success_at for row in await conn.execute(query) if row.success_at is not None}

    # ── the parts of a transaction ───────────────────────────────────────────

    async def _find(
        self, conn: AsyncConnection, integration_id: str, name: str, *, lock: bool = False
    ) -> Schedule | None:
        query = sa.select(_schedule).where(_schedule.c.integration_id == integration_id, _schedule.c.name == name)
        row = (await conn.execute(query.with_for_update() if lock else query)).one_or_none()
        return None if row is None else Schedule(**row._mapping)

    async def _demand_room(self, conn: AsyncConnection, integration_id: str) -> None:
        count = sa.select(sa.func.count()).where(_schedule.c.integration_id == integration_id)
        if int(await conn.scalar(count) or 0) >= MAX_SCHEDULES:
            raise ConflictError(
                f"The integration has {MAX_SCHEDULES} schedules already.",
                code="too_many_schedules",
                hint="Change or delete one of them.",
            )

    async def _insert(
        self, conn: AsyncConnection, integration: Integration, name: str, values: dict[str, Any]
    ) -> Schedule:
        now = dt.datetime.now(dt.UTC)
        row = Schedule(
            id=new_id(), organization_id=integration.organization_id, integration_id=integration.id, name=name,
            created_at=now, updated_at=now, **values,
        )  # fmt: skip
        written = await conn.execute(sa.insert(_schedule).values(**row.model_dump()).returning(_schedule))
        return Schedule(**written.one()._mapping)

    async def _update(self, conn: AsyncConnection, before: Schedule, **values: Any) -> Schedule:
        edited = {"revision": before.revision + 1, "updated_at": dt.datetime.now(dt.UTC)}
        statement = sa.update(_schedule).where(_schedule.c.id == before.id).values(**edited, **values)
        return Schedule(**(await conn.execute(statement.returning(_schedule))).one()._mapping)


def newest_success() -> sa.Label[dt.datetime]:
    """Gives the newest planned time of a schedule whose run ended well, as a column ``success_at``."""
    good = sa.select(_occurrence.c.planned_at).join(_run, _run.c.id == _occurrence.c.run_id)
    good = good.where(_occurrence.c.schedule_id == _schedule.c.id, _run.c.state.in_(("succeeded", "partial")))
    return good.order_by(_occurrence.c.planned_at.desc()).limit(1).correlate(_schedule).label("success_at")


def _occurrence_rows() -> sa.Select[Any]:
    joined = _occurrence.outerjoin(_run, _run.c.id == _occurrence.c.run_id)
    return sa.select(_occurrence, _run.c.state.label("run_state")).select_from(joined)


def _occurrence_row(row: sa.Row[Any]) -> OccurrenceRow:
    return OccurrenceRow(
        planned_at=row.planned_at, fired_at=row.fired_at, state=row.state, reason=row.reason, run_id=row.run_id,
        run_state=row.run_state,
    )  # fmt: skip


def _qualified_live() -> sa.TextClause:
    return sa.text(f"run.{LIVE}")


def _changed_meanwhile() -> ConflictError:
    return ConflictError(
        "The schedule was changed by somebody else meanwhile.",
        code="revision_mismatch",
        hint="Fetch it again, and repeat your change on what you find.",
    )


def _subject(schedule: Schedule) -> str:
    return f"schedule/{schedule.id}"


def _told(schedule: Schedule) -> dict[str, Any]:
    names = ("name", "cron", "interval_s", "zone", "streams", "full", "overlap", "catch_up")
    return {name: getattr(schedule, name) for name in names} | {"integration": schedule.integration_id}
