"""What the scheduler looks at: what is due, what waits no longer, and what is expected to have worked.

One look is one statement, however many schedules there are: three indexes answer it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from samband.store.database import Database
from samband.store.models import LIVE, Integration, Occurrence, Run, Schedule, UtcInstant
from samband.store.schedules import IS_WAITING, newest_success

_schedule: sa.Table = Schedule.__table__
_occurrence: sa.Table = Occurrence.__table__
_integration: sa.Table = Integration.__table__
_run: sa.Table = Run.__table__

Key = tuple[str, dt.datetime]
"""A schedule's id and a planned time of it: an occurrence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What one look into the database found.

    Attributes:
        now: The clock it was measured by.
        due: Schedules whose time has come, the longest due first.
        waiting: Occurrences that waited for a run to end which is over now.
        next_at: When the next schedule is due, if none is.
    """

    now: dt.datetime
    due: list[str]
    waiting: list[Key]
    next_at: dt.datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A schedule that may have something to do, with what is known of its integration."""

    schedule: Schedule
    plugin: str
    settings: Mapping[str, Any] = field(repr=False)
    integration_revision: int
    planned_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A schedule that may be overdue: what it was last seen to do, and since when it has been expected to."""

    schedule: Schedule
    plugin: str
    since: dt.datetime


class Lookout:
    """Every statement by which the scheduler learns something."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def look(self, limit: int, now: dt.datetime | None = None) -> Outlook:
        """Gives what is to be done now, at most ``limit`` of each; one statement, however many schedules there are.

        Args:
            now: Another clock than the database's.
        """
        async with self._db.read() as conn:
            rows = (await conn.execute(self.look_statement(limit, now))).all()
        found: dict[str, list[sa.Row[Any]]] = {"due": [], "waiting": [], "next": [], "now": []}
        for row in rows:
            found[row.what].append(row)
        return Outlook(
            now=found["now"][0].at, due=[row.id for row in found["due"]],
            waiting=[(row.id, row.at) for row in found["waiting"]], next_at=found["next"][0].at,
        )  # fmt: skip

    def look_statement(self, limit: int, now: dt.datetime | None = None) -> sa.CompoundSelect[Any]:
        """Gives the statement of `look`, for whoever wants to see how the database goes about it."""
        clock = self._db.now() if now is None else sa.literal(now, UtcInstant)
        if not self._db.is_sqlite and now is None:
            clock = sa.func.now(type_=UtcInstant)  # stable within the statement, so that an index serves it
        due = sa.select(sa.literal_column("'due'").label("what"), _schedule.c.id, _schedule.c.next_at.label("at"))
        due = due.where(_schedule.c.next_at <= clock).order_by(_schedule.c.next_at).limit(limit)
        busy = sa.select(_run.c.id).where(
            _run.c.integration_id == _schedule.c.integration_id, _run.c.operation == "sync", sa.text(f"run.{LIVE}")
        )
        waiting = sa.select(
            sa.literal_column("'waiting'").label("what"), _occurrence.c.schedule_id, _occurrence.c.planned_at
        )
        waiting = waiting.join(_schedule, _schedule.c.id == _occurrence.c.schedule_id)
        waiting = waiting.where(IS_WAITING, ~busy.exists()).order_by(_occurrence.c.planned_at).limit(limit)
        nobody = sa.cast(sa.null(), sa.String())
        first = sa.func.min(_schedule.c.next_at, type_=UtcInstant)
        upcoming: sa.Select[*tuple[Any, ...]] = sa.select(sa.literal_column("'next'"), nobody, first)
        upcoming = upcoming.where(_schedule.c.next_at > clock)
        present: sa.Select[*tuple[Any, ...]] = sa.select(sa.literal_column("'now'"), nobody, sa.cast(clock, UtcInstant))
        return sa.union_all(
            sa.select(due.subquery("due")), sa.select(waiting.subquery("waiting")), upcoming, present
        )  # fmt: skip

    async def due(self, schedule_ids: Sequence[str], now: dt.datetime) -> list[Candidate]:
        """Gives due schedules, together with those of the same integrations that are due as well.

        Siblings come together so that of a full read and a delta at the same minute the full one is ordered.
        """
        integrations = sa.select(_schedule.c.integration_id).where(_schedule.c.id.in_(schedule_ids))
        query = _candidates().where(_schedule.c.integration_id.in_(integrations), _schedule.c.next_at <= now)
        async with self._db.read() as conn:
            return [_candidate(row) for row in await conn.execute(query)]

    async def waiting(self, keys: Sequence[Key]) -> list[Candidate]:
        """Gives the schedules of waiting occurrences, one candidate each: of several, the one that has waited longest."""
        oldest: dict[str, dt.datetime] = {}
        for schedule_id, planned_at in keys:
            oldest[schedule_id] = min(planned_at, oldest.get(schedule_id, planned_at))
        query = _candidates().where(_schedule.c.id.in_(list(oldest)))
        async with self._db.read() as conn:
            return [_candidate(row, oldest[row.id]) for row in await conn.execute(query)]

    async def watch(self, now: dt.datetime, *, after: str, limit: int) -> list[Watched]:
        """Gives the schedules that may be overdue, by id, each with what it last succeeded for.

        Those are the ones that are not paused, of integrations that are enabled, whose last planned time has led to no
        success or whose next one has come and was not fired; and those that were found overdue before.
        """
        success = newest_success()
        may_be = sa.or_(
            _schedule.c.overdue_since.is_not(None), _schedule.c.next_planned_at.is_(None),
            _schedule.c.next_planned_at <= now,
            sa.and_(_schedule.c.last_planned_at.is_not(None), success.element.is_(None)),
            _schedule.c.last_planned_at > success.element,
        )  # fmt: skip
        query = (
            sa.select(_schedule, _integration.c.plugin, _integration.c.updated_at.label("edited_at"), success)
            .join(_integration, _integration.c.id == _schedule.c.integration_id)
            .where(_schedule.c.paused_at.is_(None), _integration.c.state == "enabled", _schedule.c.id > after)
            .where(may_be)
            .order_by(_schedule.c.id)
            .limit(limit)
        )
        async with self._db.read() as conn:
            return [_watched(row) for row in await conn.execute(query)]


def _candidates() -> sa.Select[Any]:
    columns = (_integration.c.plugin, _integration.c.settings, _integration.c.revision.label("integration_revision"))
    return sa.select(_schedule, *columns).join(_integration, _integration.c.id == _schedule.c.integration_id)


def _candidate(row: sa.Row[Any], planned_at: dt.datetime | None = None) -> Candidate:
    return Candidate(
        schedule=_schedule_of(row), plugin=row.plugin, settings=row.settings,
        integration_revision=row.integration_revision, planned_at=planned_at,
    )  # fmt: skip


def _schedule_of(row: sa.Row[Any]) -> Schedule:
    return Schedule(**{column.name: row._mapping[column] for column in _schedule.c})


def _watched(row: sa.Row[Any]) -> Watched:
    schedule = _schedule_of(row)
    # An edit begins anew what is expected: of the schedule, or of an integration that was switched on again.
    begun = max(schedule.updated_at, row.edited_at)
    since = begun if row.success_at is None else max(begun, row.success_at)
    return Watched(schedule=schedule, plugin=row.plugin, since=since)
