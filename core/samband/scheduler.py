"""Does what schedules say: turns planned times that have come into runs, and tells of those that led nowhere.

The timer is the database: every schedule's next time is a column, so a restart forgets nothing, and any number of
processes may do the same rounds at once. What a round decides is pure (`samband.rules.schedule`); what it changes is one
transaction (`samband.store.firings`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from samband.acting import act_for
from samband.adapters.adapter import Connection
from samband.adapters.registry import Registry
from samband.errors import InvalidError, NotFoundError, NotReadyError, SambandError
from samband.rules.schedule import CatchUp, jitter, overdue, reckon, timing_of
from samband.store import Store
from samband.store.firings import Plan
from samband.store.lookout import Candidate, Outlook, Watched
from samband.store.models import Schedule

__all__ = ["SCHEDULER", "OverdueSchedule", "Scheduler"]

log = structlog.stdlib.get_logger("samband.scheduler")

SCHEDULER: Final = "scheduler"
"""The name of its sign of life."""

_AT_ONCE: Final = 250
"""Schedules of one transaction: enough to share its cost, few enough to keep other writers waiting for milliseconds."""
_MAX_PAUSE_S: Final = 1.0
_BEAT_EVERY_S: Final = 5.0
_WATCH_EVERY_S: Final = 60.0
_WATCHED_AT_ONCE: Final = 2000
_RINGS_AT_ONCE: Final = 16
_TROUBLED_FOR: Final = dt.timedelta(minutes=15)
_REMEMBERED: Final = 20_000
_OUR_FAULT: Final = "It could not be fired because of a fault in samband; the log names it."


class Ringer(Protocol):
    """The doorbell as the scheduler sees it."""

    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool: ...


class Clock(Protocol):
    """Gives the present time, aware UTC."""

    def __call__(self) -> dt.datetime: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OverdueSchedule:
    """A schedule whose planned time has led to no success within its period and grace.

    Attributes:
        planned_at: The planned time that should have led to one.
        expected_by: When it should have, at the latest.
    """

    organization_id: str
    integration_id: str
    plugin: str
    schedule_id: str
    name: str
    planned_at: dt.datetime
    expected_by: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What an integration's plugin and settings say about a run of it."""

    version: str
    streams: Sequence[str]
    account: str


class Scheduler:
    """The rounds of the scheduler; see `samband.hosting.duties`.

    Args:
        bell: Told of every run that was ordered; whether it hears it matters to nothing but the delay.
        owner: Names this process in the sign of life.
        clock: Another clock than the database's, for tests.
    """

    def __init__(
        self, *, store: Store, registry: Registry, bell: Ringer, owner: str = "", clock: Clock | None = None,
        at_once: int = _AT_ONCE,
    ) -> None:  # fmt: skip
        self._store = store
        self._registry = registry
        self._bell = bell
        self._owner = owner
        self._clock = clock
        self._at_once = at_once
        self._beaten_at: float | None = None
        self._readings: dict[tuple[str, int], _Reading] = {}

    # ── firing ───────────────────────────────────────────────────────────────

    async def round(self) -> float:
        """Fires what is due; gives the seconds until the next round, at most one."""
        with act_for(actor=SCHEDULER):
            outlook = await self._store.lookout.look(self._at_once, None if self._clock is None else self._clock())
            runs = await self._fire(outlook) if outlook.due else []
            runs += await self._release(outlook) if outlook.waiting else []
            await self._ring(runs)
            await self._beat()
        if len(outlook.due) == self._at_once:
            return 0.0
        if outlook.next_at is None:
            return _MAX_PAUSE_S
        return min(_MAX_PAUSE_S, max(0.0, (outlook.next_at - outlook.now).total_seconds()))

    async def _fire(self, outlook: Outlook) -> list[str]:
        plans = []
        for candidate in await self._store.lookout.due(outlook.due, outlook.now):
            plan = await self._plan(candidate, outlook.now)
            if plan is not None:
                plans.append(plan)
        try:
            return await self._store.firings.fire(plans, outlook.now) if plans else []
        except NotReadyError:
            raise
        except Exception:
            log.exception("firing_failed", schedules=len(plans))
            return await self._fire_one_by_one(plans, outlook.now)

    async def _fire_one_by_one(self, plans: Sequence[Plan], now: dt.datetime) -> list[str]:
        """Fires what can be fired after a fault that came with one of them."""
        runs: list[str] = []
        for plan in plans:
            try:
                runs += await self._store.firings.fire([plan], now)
            except NotReadyError:
                raise
            except Exception:
                log.exception("schedule_not_fired", schedule=plan.schedule.id)
                await self._mark(plan.schedule, _OUR_FAULT, now)
        return runs

    async def _plan(self, candidate: Candidate, now: dt.datetime) -> Plan | None:
        """Decides about one schedule; what is wrong with it is noted there and stops nobody else's."""
        try:
            return self._planned(candidate, now)
        except InvalidError as error:
            problem = f"{error.problems[0].field}: {error.problems[0].message}" if error.problems else error.message
            await self._mark(candidate.schedule, problem, now)
        except Exception:
            log.exception("schedule_not_planned", schedule=candidate.schedule.id)
            await self._mark(candidate.schedule, _OUR_FAULT, now)
        return None

    def _planned(self, candidate: Candidate, now: dt.datetime) -> Plan:
        schedule = candidate.schedule
        timing, offset = timing_of(schedule), jitter(schedule.organization_id, schedule.name, schedule.jitter_s)
        catch_up: CatchUp = "all" if schedule.catch_up == "all" else "none" if schedule.catch_up == "none" else "latest"
        told = reckon(
            timing, next_planned_at=schedule.next_planned_at or now, offset=offset, now=now,
            grace_s=schedule.misfire_grace_s, catch_up=catch_up,
        )  # fmt: skip
        if told.missed:
            log.warning(
                "planned_times_missed", schedule=schedule.id, listed=len(told.missed), has_more=told.has_unlisted,
                caught_up=len(told.fire),
            )  # fmt: skip
        plan = replace(
            self._order_of(candidate), fire=told.fire, missed=told.missed, has_unlisted=told.has_unlisted,
            next_planned_at=told.next_planned_at,
            next_at=None if told.next_planned_at is None else told.next_planned_at + offset,
        )  # fmt: skip
        return plan if plan.next_at is not None else replace(plan, trouble="No later date fits this expression.")

    def _order_of(self, candidate: Candidate) -> Plan:
        """Gives what a schedule orders, or why it can order nothing now."""
        plan = Plan(
            schedule=candidate.schedule, plugin=candidate.plugin, plugin_version="", streams=(), account="",
            fire=() if candidate.planned_at is None else (candidate.planned_at,),
        )  # fmt: skip
        try:
            reading = self._reading(candidate)
        except NotFoundError as error:
            return replace(plan, refusal="plugin_not_loaded", trouble=error.message)
        except SambandError as error:
            return replace(plan, refusal="settings_unusable", trouble=f"The settings cannot be used: {error.message}")
        wanted = candidate.schedule.streams
        streams = [name for name in reading.streams if wanted is None or name in wanted]
        if not streams:
            return replace(plan, refusal="no_streams", trouble="The settings switch none of its streams on.")
        return replace(plan, plugin_version=reading.version, streams=streams, account=reading.account)

    def _reading(self, candidate: Candidate) -> _Reading:
        """Gives what an integration reads; remembered until somebody edits it."""
        key = (candidate.schedule.integration_id, candidate.integration_revision)
        if key not in self._readings:
            if len(self._readings) >= _REMEMBERED:
                self._readings.clear()
            adapter = self._registry.adapter(candidate.plugin)
            connection = Connection(
                organization_id=candidate.schedule.organization_id, integration_id=key[0], revision=key[1],
                settings=candidate.settings, credentials={},
            )  # fmt: skip
            self._readings[key] = _Reading(
                version=adapter.version, streams=[stream.name for stream in adapter.streams(connection)],
                account=adapter.account(candidate.settings),
            )  # fmt: skip
        return self._readings[key]

    async def _release(self, outlook: Outlook) -> list[str]:
        plans = [self._order_of(candidate) for candidate in await self._store.lookout.waiting(outlook.waiting)]
        return await self._store.firings.release(plans, outlook.now)

    async def _mark(self, schedule: Schedule, trouble: str, now: dt.datetime) -> None:
        log.warning("schedule_in_trouble", schedule=schedule.id, organization=schedule.organization_id, trouble=trouble)
        await self._store.firings.mark(schedule, trouble, now + _TROUBLED_FOR)

    async def _ring(self, runs: Sequence[str]) -> None:
        for start in range(0, len(runs), _RINGS_AT_ONCE):
            heard = await asyncio.gather(*(self._bell.ring(run) for run in runs[start : start + _RINGS_AT_ONCE]))
            if not all(heard):
                return  # the queue is away: a sweep finds the runs

    async def _beat(self) -> None:
        # A write a second would be the busiest thing an idle host does.
        elapsed = asyncio.get_running_loop().time()
        if self._beaten_at is None or elapsed - self._beaten_at >= _BEAT_EVERY_S:
            await self._store.signs.beat(SCHEDULER, self._owner)
            self._beaten_at = elapsed

    # ── watching ─────────────────────────────────────────────────────────────

    async def watch(self) -> float:
        """Tells of schedules that have become overdue; gives the seconds until the next round."""
        now = dt.datetime.now(dt.UTC) if self._clock is None else self._clock()
        with act_for(actor=SCHEDULER):
            over: list[str] = []
            async for watched, found in self._watched(now):
                if found is None:
                    over += [watched.schedule.id] if watched.schedule.overdue_since is not None else []
                elif watched.schedule.overdue_since is None:
                    log.warning("schedule_overdue", schedule=watched.schedule.id, planned_at=str(found.planned_at))
                    await self._store.firings.tell_overdue(watched, found.planned_at)
            if over:
                await self._store.firings.end_overdue(over)
        return _WATCH_EVERY_S

    async def overdue(self, now: dt.datetime) -> list[OverdueSchedule]:
        """Gives every schedule that is overdue, computed from the tables; paused ones and those switched off never are."""
        return [found async for _, found in self._watched(now) if found is not None]

    async def _watched(self, now: dt.datetime) -> AsyncIterator[tuple[Watched, OverdueSchedule | None]]:
        after = ""
        while rows := await self._store.lookout.watch(now, after=after, limit=_WATCHED_AT_ONCE):
            for watched in rows:
                yield watched, _overdue(watched, now)
            after = rows[-1].schedule.id
            await asyncio.sleep(0)  # the reckoning of many schedules must not hold up the loop


def _overdue(watched: Watched, now: dt.datetime) -> OverdueSchedule | None:
    schedule = watched.schedule
    try:
        timing = timing_of(schedule)
    except InvalidError:
        return None  # shown as trouble
    offset = jitter(schedule.organization_id, schedule.name, schedule.jitter_s)
    found = overdue(timing, since=watched.since, offset=offset, grace_s=schedule.misfire_grace_s, now=now)
    if found is None:
        return None
    return OverdueSchedule(
        organization_id=schedule.organization_id, integration_id=schedule.integration_id, plugin=watched.plugin,
        schedule_id=schedule.id, name=schedule.name, planned_at=found.planned_at, expected_by=found.expected_by,
    )  # fmt: skip
