"""Schedules: reading an integration by itself, and what became of every planned time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from samband.adapters.adapter import Connection
from samband.contract import Stream
from samband.errors import FieldProblem, InvalidError, SambandError
from samband.rules.schedule import (
    DEFAULT_ZONE,
    MAX_CAUGHT_UP,
    MAX_JITTER_S,
    Timing,
    jitter,
    overdue,
    read_timing,
    timing_of,
    to_local,
)
from samband.service.parts import Parts
from samband.store.firings import CATCH_UP
from samband.store.models import Integration, Schedule
from samband.store.schedules import OccurrenceRow
from samband.views import FeedPage
from samband.views.schedules import (
    CancelledScheduleView,
    CatchUp,
    GapView,
    OccurrenceView,
    Overlap,
    PlannedView,
    ResumedScheduleView,
    SchedulePreviewView,
    ScheduleView,
)

__all__ = ["DEFAULT_NAME", "Schedules"]

DEFAULT_NAME: Final = "default"
"""The schedule of an integration that has one."""
DEFAULT_GRACE_S: Final = 3600
MAX_GRACE_S: Final = 7 * 86_400
_SHOWN: Final = 10
_COUNTED: Final = 10_000
_POSITION: Final = "%Y-%m-%dT%H:%M:%SZ"  # planned times are whole seconds


class Schedules:
    """When integrations are read by themselves."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def put(
        self, org: str, type: str, name: str = DEFAULT_NAME, *, cron: str | None = None, interval_s: int | None = None,
        zone: str = DEFAULT_ZONE, streams: Sequence[str] | None = None, full: bool = False,
        overlap: Overlap | None = None, catch_up: CatchUp = "latest", misfire_grace_s: int = DEFAULT_GRACE_S,
        jitter_s: int = 0, if_revision: int | None = None,
    ) -> ScheduleView:  # fmt: skip
        """Makes a schedule or changes it as a whole; the same again changes nothing. A paused one stays paused.

        Args:
            cron: Five fields: minute, hour, day of month, month, day of week. Either this or ``interval_s``.
            interval_s: From 60; counted from the moment it is set, whatever happens in between.
            zone: The IANA name of the zone that ``cron`` is meant in.
            streams: Only these; None reads all that the settings switch on then.
            full: Reads everything again instead of the changes.
            overlap: What happens when a run is still alive. None is ``skip`` for changes, and ``queue_one`` for a full
                read, which should not fall out because a short run happens to be alive.
            catch_up: What happens to planned times that were missed while nothing ran.
            misfire_grace_s: How late a planned time still counts as on time.
            jitter_s: Spreads organisations over so many seconds after the planned time.
            if_revision: Only if nobody changed it since this revision.

        Raises:
            InvalidError: Names every field at fault.
            ConflictError: Somebody changed it meanwhile, or there are too many.
        """
        integration = await self._parts.integration(org, type)
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        timing = read_timing(cron=cron, interval_s=interval_s, zone=zone, anchor_at=now, now=now)
        problems = _out_of_range(misfire_grace_s=(misfire_grace_s, MAX_GRACE_S), jitter_s=(jitter_s, MAX_JITTER_S))
        wanted = self._wanted(integration, streams, full, problems)
        if problems:
            raise InvalidError("The schedule cannot be saved.", problems=problems)
        values = {
            "cron": timing.cron, "interval_s": interval_s, "zone": zone, "streams": wanted, "full": full,
            "overlap": overlap or ("queue_one" if full else "skip"), "catch_up": catch_up,
            "misfire_grace_s": misfire_grace_s, "jitter_s": jitter_s,
        }  # fmt: skip
        saved = await self._parts.store.schedules.put(
            integration, name, lambda before: _changes(before, values, org, name, now), if_revision=if_revision
        )
        return await self._view(integration, saved)

    async def all(self, org: str, type: str) -> list[ScheduleView]:
        """Gives an integration's schedules by name."""
        integration = await self._parts.integration(org, type)
        return await self._views(integration, await self._parts.store.schedules.all(integration.id))

    async def get(self, org: str, type: str, name: str = DEFAULT_NAME) -> ScheduleView:
        """Gives a schedule; `NotFoundError` when there is none of that name."""
        integration = await self._parts.integration(org, type)
        return await self._view(integration, await self._parts.store.schedules.one(integration.id, name))

    async def cancel(
        self, org: str, type: str, name: str = DEFAULT_NAME, *, if_revision: int | None = None
    ) -> CancelledScheduleView:
        """Deletes a schedule: nothing of it starts any more. A run that has begun goes on."""
        integration = await self._parts.integration(org, type)
        removed = await self._parts.store.schedules.remove(integration, name, if_revision=if_revision)
        return CancelledScheduleView(
            organization=org, type=type, name=name, dropped_occurrences=removed.waiting,
            cancelled_run=removed.cancelled_run, live_run=removed.live_run,
        )  # fmt: skip

    async def pause(self, org: str, type: str, name: str = DEFAULT_NAME) -> ScheduleView:
        """Stops a schedule from firing until it is resumed. Safe to repeat; a run that is alive goes on."""
        integration = await self._parts.integration(org, type)
        schedule = await self._parts.store.schedules.one(integration.id, name)
        now = dt.datetime.now(dt.UTC)
        return await self._view(integration, await self._parts.store.schedules.pause(schedule, now))

    async def resume(
        self, org: str, type: str, name: str = DEFAULT_NAME, *, gap: CatchUp = "none"
    ) -> ResumedScheduleView:
        """Lets a paused schedule fire again from the next planned time, and states what the pause has left out.

        Args:
            gap: What is made up for: nothing, the newest planned time, or the newest hundred one after the other.
        """
        integration = await self._parts.integration(org, type)
        schedule = await self._parts.store.schedules.one(integration.id, name)
        if schedule.paused_at is None:
            return ResumedScheduleView(schedule=await self._view(integration, schedule), gap=None)
        now = dt.datetime.now(dt.UTC)
        timing, offset = timing_of(schedule), jitter(org, name, schedule.jitter_s)
        rows, told = _gap(timing, schedule.paused_at, now, gap)
        planned_at = timing.after(now)
        resumed = await self._parts.store.schedules.resume(
            schedule, rows, told.model_dump(mode="json"), next_planned_at=planned_at,
            next_at=None if planned_at is None else planned_at + offset,
        )  # fmt: skip
        return ResumedScheduleView(schedule=await self._view(integration, resumed), gap=told)

    async def occurrences(
        self, org: str, type: str, name: str = DEFAULT_NAME, *, after: str | None = None, limit: int = 50
    ) -> FeedPage:
        """Gives the planned times that have come, newest first, and what became of each.

        Args:
            after: The ``next`` of the part before.
        """
        integration = await self._parts.integration(org, type)
        schedule = await self._parts.store.schedules.one(integration.id, name)
        before = None if after is None else _position(after)
        rows = await self._parts.store.schedules.occurrences(schedule.id, before=before, limit=limit + 1)
        items = [_occurrence_view(row, schedule.zone) for row in rows[:limit]]
        position = rows[limit - 1].planned_at.strftime(_POSITION) if len(rows) > limit else None
        return FeedPage(items=items, next=position)

    def preview(
        self, *, cron: str | None = None, interval_s: int | None = None, zone: str = DEFAULT_ZONE
    ) -> SchedulePreviewView:
        """Says what a timing means: in words, and as the next ten planned times. Nothing is saved."""
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        timing = read_timing(cron=cron, interval_s=interval_s, zone=zone, anchor_at=now, now=now)
        return SchedulePreviewView(
            cron=timing.cron, interval_s=interval_s, zone=zone, words=timing.in_words(),
            next=[_planned_view(at, zone, dt.timedelta(0)) for at in timing.upcoming(now, _SHOWN)],
        )  # fmt: skip

    # ── what is asked for ────────────────────────────────────────────────────

    def _wanted(
        self, integration: Integration, streams: Sequence[str] | None, full: bool, problems: list[FieldProblem]
    ) -> list[str] | None:
        """Gives the streams to store; adds to ``problems`` what the plugin cannot do."""
        enabled = self._enabled(integration)
        names = [stream.name for stream in enabled]
        if streams is not None and (not streams or not set(streams) <= set(names)):
            text = f"This integration reads: {', '.join(names) or 'nothing'}."
            problems.append(FieldProblem(field="streams", code="unknown_stream", message=text))
            return None
        chosen = enabled if streams is None else [stream for stream in enabled if stream.name in streams]
        if not chosen:
            text = "Its settings switch no stream on, so there is nothing to read."
            problems.append(FieldProblem(field="streams", code="nothing_to_read", message=text))
        elif not full and not any(stream.incremental for stream in chosen):
            text = "This system cannot be asked for changes alone. Set full to true to read everything each time."
            problems.append(FieldProblem(field="full", code="delta_unavailable", message=text))
        return None if streams is None else [stream.name for stream in chosen]

    def _enabled(self, integration: Integration) -> list[Stream]:
        adapter = self._parts.registry.adapter(integration.plugin)
        return adapter.streams(
            Connection(
                organization_id=integration.organization_id, integration_id=integration.id,
                revision=integration.revision, settings=integration.settings, credentials={},
            )
        )  # fmt: skip

    def _can_delta(self, integration: Integration, streams: Sequence[str] | None) -> bool | None:
        try:
            enabled = self._enabled(integration)
        except SambandError:
            return None  # the plugin is not loaded, or its settings have to be entered again
        return any(stream.incremental for stream in enabled if streams is None or stream.name in streams)

    # ── what is shown ────────────────────────────────────────────────────────

    async def _view(self, integration: Integration, schedule: Schedule) -> ScheduleView:
        return (await self._views(integration, [schedule]))[0]

    async def _views(self, integration: Integration, schedules: Sequence[Schedule]) -> list[ScheduleView]:
        ids = [schedule.id for schedule in schedules]
        last = await self._parts.store.schedules.newest_occurrences(ids)
        successes = await self._parts.store.schedules.successes(ids)
        return [self._one_view(integration, s, last.get(s.id), successes.get(s.id)) for s in schedules]

    def _one_view(
        self, integration: Integration, row: Schedule, last: OccurrenceRow | None, success: dt.datetime | None
    ) -> ScheduleView:
        now = dt.datetime.now(dt.UTC)
        offset = jitter(row.organization_id, row.name, row.jitter_s)
        try:
            timing = timing_of(row)
        except InvalidError as error:
            trouble = row.trouble or error.problems[0].message
            words, planned, nowhere = row.cron or "", [], None
        else:
            trouble, words = row.trouble, timing.in_words()
            planned = [] if row.next_planned_at is None else _upcoming_views(timing, row.next_planned_at, offset)
            nowhere = _overdue(row, integration, timing, success, offset, now)
        return ScheduleView(
            organization=row.organization_id, type=integration.plugin, name=row.name, id=row.id, cron=row.cron,
            interval_s=row.interval_s, zone=row.zone, words=words, streams=row.streams, full=row.full,
            delta_available=self._can_delta(integration, row.streams), overlap=row.overlap, catch_up=row.catch_up,
            misfire_grace_s=row.misfire_grace_s, jitter_s=row.jitter_s, jitter_offset_s=offset.total_seconds(),
            anchor_at=row.anchor_at, next=planned,
            last_occurrence=None if last is None else _occurrence_view(last, row.zone),
            last_success_planned_at=success, paused_at=row.paused_at, is_overdue=nowhere is not None,
            overdue_planned_at=nowhere, trouble=trouble, created_at=row.created_at, updated_at=row.updated_at,
            revision=row.revision,
        )  # fmt: skip


def _changes(
    before: Schedule | None, values: Mapping[str, Any], org: str, name: str, now: dt.datetime
) -> dict[str, Any] | None:
    """Gives the columns of the schedule after an edit, or None when it asks for what is there."""
    if before is not None and all(getattr(before, column) == value for column, value in values.items()):
        return None
    keeps_phase = before is not None and before.interval_s == values["interval_s"]
    anchor = before.anchor_at if before is not None and keeps_phase else now
    timing = Timing(cron=values["cron"], interval_s=values["interval_s"], zone=values["zone"], anchor_at=anchor)
    is_paused = before is not None and before.paused_at is not None
    planned_at = None if is_paused else timing.after(_reached(before, timing, now))
    offset = jitter(org, name, values["jitter_s"])
    return {
        **values, "anchor_at": anchor, "next_planned_at": planned_at,
        "next_at": None if planned_at is None else planned_at + offset,
    }  # fmt: skip


def _reached(before: Schedule | None, timing: Timing, now: dt.datetime) -> dt.datetime:
    """Gives the instant that an edited schedule goes on from.

    A planned time that has come and was not fired yet, for its jitter or because nothing ran, is not lost by an edit that
    plans it too.
    """
    pending = None if before is None else before.next_planned_at
    if pending is None or pending > now:
        return now
    just_before = pending - dt.timedelta(seconds=1)
    return just_before if timing.after(just_before) == pending else now


def _out_of_range(**given: tuple[int, int]) -> list[FieldProblem]:
    return [
        FieldProblem(field=field, code="out_of_range", message=f"Use 0 to {most} seconds.")
        for field, (value, most) in given.items()
        if not 0 <= value <= most
    ]


def _gap(
    timing: Timing, since: dt.datetime, until: dt.datetime, policy: CatchUp
) -> tuple[list[dict[str, Any]], GapView]:
    """Gives what becomes of the planned times of a pause: rows for the newest, and the account of all of them."""
    listed, has_more = timing.newest(since, until, MAX_CAUGHT_UP)
    planned = timing.count(since, until, _COUNTED) if has_more else len(listed)
    caught_up = {"none": 0, "latest": min(1, len(listed)), "all": len(listed)}[policy]
    rows = [
        {"planned_at": at, "fired_at": until, "state": "skipped", "reason": "paused"}
        if n < len(listed) - caught_up
        else {"planned_at": at, "fired_at": until, "state": "waiting", "reason": CATCH_UP}
        for n, at in enumerate(listed)
    ]
    if has_more and rows[0]["state"] == "skipped":
        rows[0]["reason"] = "paused_and_more"
    return rows, GapView(
        since=since, until=until, planned=planned, is_exact=planned < _COUNTED, caught_up=caught_up,
        skipped=planned - caught_up, listed=len(listed),
    )  # fmt: skip


def _overdue(
    row: Schedule, integration: Integration, timing: Timing, success: dt.datetime | None, offset: dt.timedelta,
    now: dt.datetime,
) -> dt.datetime | None:  # fmt: skip
    if row.paused_at is not None or integration.state != "enabled":
        return None
    since = max(row.updated_at, integration.updated_at, *([] if success is None else [success]))
    found = overdue(timing, since=since, offset=offset, grace_s=row.misfire_grace_s, now=now)
    return None if found is None else found.planned_at


def _upcoming_views(timing: Timing, first: dt.datetime, offset: dt.timedelta) -> list[PlannedView]:
    """Gives the next planned times from the stored one on: it is what fires, whatever the rules of its zone say now."""
    rest = timing.upcoming(first, _SHOWN - 1)
    return [_planned_view(at, timing.zone, offset) for at in (first, *rest)]


def _planned_view(at: dt.datetime, zone: str, offset: dt.timedelta) -> PlannedView:
    return PlannedView(at=at, local=to_local(at, zone), starts_at=at + offset)


def _occurrence_view(row: OccurrenceRow, zone: str) -> OccurrenceView:
    try:
        local = to_local(row.planned_at, zone)
    except (KeyError, ValueError):  # the zone is gone
        local = to_local(row.planned_at, "UTC")
    return OccurrenceView(
        planned_at=row.planned_at, local=local, fired_at=row.fired_at, state=row.state, reason=row.reason,
        run=row.run_id, run_state=row.run_state,
    )  # fmt: skip


def _position(after: str) -> dt.datetime:
    try:
        return dt.datetime.strptime(after, _POSITION).replace(tzinfo=dt.UTC)
    except ValueError:
        text = "Pass the next of the part before, unchanged."
        problem = FieldProblem(field="after", code="bad_position", message=text)
        raise InvalidError("The position cannot be read.", problems=[problem]) from None
