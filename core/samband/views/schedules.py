"""Schedules: when an integration is read by itself, and what became of each planned time."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field

from samband.views.shapes import RunState, View

__all__ = [
    "CancelledScheduleView",
    "GapView",
    "OccurrenceView",
    "PlannedView",
    "ResumedScheduleView",
    "SchedulePreviewView",
    "ScheduleView",
]

Overlap = Literal["skip", "queue_one", "cancel_running"]
CatchUp = Literal["none", "latest", "all"]


class PlannedView(View):
    """A planned time, as the world's clock and as the clock on the wall show it."""

    at: dt.datetime = Field(description="In UTC, without the jitter.")
    local: str = Field(description="In the schedule's zone with its distance from UTC: 2026-03-29T03:00:00+02:00.")
    starts_at: dt.datetime = Field(description="In UTC, with the jitter: when a run is ordered.")


class OccurrenceView(View):
    """A planned time that has come, and what became of it."""

    planned_at: dt.datetime
    local: str
    fired_at: dt.datetime = Field(description="When it was decided, and a run ordered if one was.")
    state: Literal["ordered", "waiting", "skipped"]
    reason: str = Field(
        description="Why it was skipped or waits: overlap, superseded, missed, missed_and_more (later ones are not "
        "listed), catch_up, paused, paused_and_more, not_enabled, no_credentials, plugin_not_loaded, "
        "settings_unusable, no_streams."
    )
    run: str | None = None
    run_state: RunState | None = None


class ScheduleView(View):
    """When an integration is read by itself."""

    organization: str
    type: str
    name: str
    id: str
    cron: str | None = None
    interval_s: int | None = None
    zone: str
    words: str = Field(description="The timing in English.")
    streams: list[str] | None = Field(description="Null reads all that the settings switch on.")
    full: bool = Field(description="Reads everything again instead of the changes.")
    delta_available: bool | None = Field(
        description="Whether the system can be asked for changes alone; null while the plugin is not loaded."
    )
    overlap: Overlap
    catch_up: CatchUp
    misfire_grace_s: int
    jitter_s: int
    jitter_offset_s: float = Field(description="How much later than planned its runs are ordered, always the same.")
    anchor_at: dt.datetime = Field(description="What an interval is counted from.")
    next: list[PlannedView] = Field(description="The next ten planned times; empty while paused.")
    last_occurrence: OccurrenceView | None = None
    last_success_planned_at: dt.datetime | None = Field(
        default=None, description="The newest planned time whose run ended well."
    )
    paused_at: dt.datetime | None = None
    is_overdue: bool = Field(description="A planned time has led to no success within its period and grace.")
    overdue_planned_at: dt.datetime | None = Field(default=None, description="The planned time that led to none.")
    trouble: str = Field(description="Why it cannot work, for whoever mends it; empty when it can.")
    created_at: dt.datetime
    updated_at: dt.datetime
    revision: int = Field(description="Raised by every edit; the ETag of the resource.")


class SchedulePreviewView(View):
    """What a timing means, without anything being saved."""

    cron: str | None = None
    interval_s: int | None = None
    zone: str
    words: str
    next: list[PlannedView]


class GapView(View):
    """The time a schedule was paused, and the planned times that fell into it."""

    since: dt.datetime
    until: dt.datetime
    planned: int = Field(description="How many planned times fell into it.")
    is_exact: bool = Field(description="False when there were even more than this.")
    caught_up: int = Field(description="How many of them will be made up for.")
    skipped: int = Field(description="How many will not.")
    listed: int = Field(description="How many have a row among the occurrences; the newest do.")


class ResumedScheduleView(View):
    """A schedule that fires again, and what was missed meanwhile."""

    schedule: ScheduleView
    gap: GapView | None = Field(description="Null when it was not paused.")


class CancelledScheduleView(View):
    """A schedule that is gone."""

    organization: str
    type: str
    name: str
    dropped_occurrences: int = Field(description="Planned times that waited to start, and will not.")
    cancelled_run: str | None = Field(default=None, description="The run it had ordered and nobody had begun with.")
    live_run: str | None = Field(default=None, description="The run it had ordered that has begun; it goes on.")
