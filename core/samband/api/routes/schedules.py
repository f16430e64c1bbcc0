"""Schedules: reading an integration by itself. An integration that needs one has it at ``…/schedule``."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import ConfigDict, Field

from samband.api.answers import Answer, Listing
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import Cursor, IfMatch, Input, Limit, OrgId, PluginName
from samband.rules.schedule import DEFAULT_ZONE, MAX_INTERVAL_S, MAX_JITTER_S, MIN_INTERVAL_S
from samband.service.schedules import DEFAULT_GRACE_S, DEFAULT_NAME, MAX_GRACE_S
from samband.views.schedules import (
    CancelledScheduleView,
    CatchUp,
    OccurrenceView,
    Overlap,
    ResumedScheduleView,
    SchedulePreviewView,
    ScheduleView,
)

endpoints = Endpoints("Schedules")

_ETAG = {"ETag": "The revision; send it as If-Match with the next edit."}
_BASE = "/v1/organizations/{org}/integrations/{type}"
_DEFAULT = _BASE + "/schedule"
_ALL = _BASE + "/schedules"
_ONE = _ALL + "/{name}"
_NO_INTEGRATION = ("integration_not_found",)
_GONE = (*_NO_INTEGRATION, "schedule_not_found")
_UNSAVED = (*_NO_INTEGRATION, "unknown_plugin", "revision_mismatch", "too_many_schedules")
_REVISION = re.compile(r'"([0-9]{1,15})"')
# No schedule ever has it, so an ETag that is not one of ours ends as a mismatch.
_NO_REVISION = -1

Name = Annotated[
    str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,62}$", description="The schedule's name within the integration.")
]
Cron = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        description="Five fields: minute, hour, day of month, month, day of week. Either this or interval_s.",
    ),
]
Interval = Annotated[
    int,
    Field(
        ge=MIN_INTERVAL_S,
        le=MAX_INTERVAL_S,
        description="Seconds from one planned time to the next, whatever the clock on the wall does.",
    ),
]
Zone = Annotated[str, Field(min_length=1, max_length=64, description="IANA name of the zone that cron is meant in.")]
StreamName = Annotated[str, Field(min_length=1, max_length=100)]


class TimingIn(Input):
    """When: a cron expression in a zone, or an interval."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"cron": "30 2 * * *", "zone": "Europe/Oslo"}]})

    cron: Cron | None = None
    interval_s: Interval | None = None
    zone: Zone = DEFAULT_ZONE


class ScheduleIn(TimingIn):
    """A schedule, whole: what is left out is set to its default."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"cron": "30 2 * * *", "zone": "Europe/Oslo", "full": True}, {"interval_s": 1800}]
        }
    )

    streams: Annotated[list[StreamName], Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="Only these; null reads all that the settings switch on."
    )
    full: bool = Field(default=False, description="Read everything again instead of the changes.")
    overlap: Overlap | None = Field(
        default=None,
        description="When a run is still alive: skip the planned time, let it wait (at most one does), or cancel the run. "
        "Null: skip for changes, queue_one for a full read.",
    )
    catch_up: CatchUp = Field(
        default="latest", description="Which planned times are made up for that were missed while nothing ran."
    )
    misfire_grace_s: Annotated[int, Field(ge=0, le=MAX_GRACE_S)] = Field(
        default=DEFAULT_GRACE_S, description="How late a planned time still counts as on time."
    )
    jitter_s: Annotated[int, Field(ge=0, le=MAX_JITTER_S)] = Field(
        default=0, description="Spreads organisations over so many seconds; always the same for one."
    )


class ResumeIn(Input):
    """What to do about the planned times of the pause."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"gap": "latest"}]})

    gap: CatchUp = Field(default="none", description="Make up for none, the newest, or the newest hundred.")


@endpoints.add("GET", _DEFAULT, verb="read", problems=_GONE, headers=_ETAG)
async def get_schedule(call: Call, org: OrgId, type: PluginName) -> Answer[ScheduleView]:
    """Gives the schedule named default: in words, its next ten planned times, and what became of the last one."""
    return _tagged(await call.service.schedules.get(org, type, DEFAULT_NAME))


@endpoints.add("PUT", _DEFAULT, verb="configure", problems=_UNSAVED, headers=_ETAG)
async def schedule_sync(
    call: Call, org: OrgId, type: PluginName, body: ScheduleIn, if_match: IfMatch | None = None
) -> Answer[ScheduleView]:
    """Reads an integration by itself from now on: makes or changes its schedule named default.

    The same again changes nothing. A paused schedule stays paused.
    """
    return await _put(call, org, type, DEFAULT_NAME, body, if_match)


@endpoints.add("DELETE", _DEFAULT, verb="configure", problems=(*_GONE, "revision_mismatch"))
async def cancel_scheduled_sync(
    call: Call, org: OrgId, type: PluginName, if_match: IfMatch | None = None
) -> CancelledScheduleView:
    """Deletes the schedule named default: nothing of it starts any more. A run that has begun goes on."""
    return await call.service.cancel_scheduled_sync(org, type, if_revision=_revision(if_match))


@endpoints.add("GET", _ALL, verb="read", problems=_NO_INTEGRATION)
async def list_schedules(call: Call, org: OrgId, type: PluginName) -> Listing[ScheduleView]:
    """Lists an integration's schedules by name, always whole: there are 50 at most."""
    return Listing[ScheduleView].of(await call.service.schedules.all(org, type))


@endpoints.add("GET", _ONE, verb="read", problems=_GONE, headers=_ETAG)
async def get_named_schedule(call: Call, org: OrgId, type: PluginName, name: Name) -> Answer[ScheduleView]:
    """Gives a schedule: in words, its next ten planned times, and what became of the last one."""
    return _tagged(await call.service.schedules.get(org, type, name))


@endpoints.add("PUT", _ONE, verb="configure", problems=_UNSAVED, headers=_ETAG)
async def put_named_schedule(
    call: Call, org: OrgId, type: PluginName, name: Name, body: ScheduleIn, if_match: IfMatch | None = None
) -> Answer[ScheduleView]:
    """Makes or changes a schedule. The same again changes nothing; a paused one stays paused.

    A full read and the reading of changes are two schedules of one integration.
    """
    return await _put(call, org, type, name, body, if_match)


@endpoints.add("DELETE", _ONE, verb="configure", problems=(*_GONE, "revision_mismatch"))
async def delete_named_schedule(
    call: Call, org: OrgId, type: PluginName, name: Name, if_match: IfMatch | None = None
) -> CancelledScheduleView:
    """Deletes a schedule: nothing of it starts any more. A run that has begun goes on."""
    return await call.service.schedules.cancel(org, type, name, if_revision=_revision(if_match))


@endpoints.add("POST", _ONE + "/pause", verb="operate", problems=_GONE, headers=_ETAG)
async def pause_schedule(call: Call, org: OrgId, type: PluginName, name: Name) -> Answer[ScheduleView]:
    """Stops a schedule from firing until it is resumed. Safe to call again."""
    return _tagged(await call.service.schedules.pause(org, type, name))


@endpoints.add("POST", _ONE + "/resume", verb="operate", problems=(*_GONE, "revision_mismatch"), headers=_ETAG)
async def resume_schedule(
    call: Call, org: OrgId, type: PluginName, name: Name, body: ResumeIn | None = None
) -> Answer[ResumedScheduleView]:
    """Lets a paused schedule fire again, and states the gap: from when to when, and how many planned times fell into it."""
    resumed = await call.service.schedules.resume(org, type, name, gap=(body or ResumeIn()).gap)
    return Answer(value=resumed, headers={"ETag": f'"{resumed.schedule.revision}"'})


@endpoints.add("GET", _ONE + "/occurrences", verb="read", problems=_GONE)
async def list_occurrences(
    call: Call, org: OrgId, type: PluginName, name: Name, after: Cursor | None = None, limit: Limit = 50
) -> Listing[OccurrenceView]:
    """Lists the planned times that have come, newest first, and what became of each."""
    return Listing[OccurrenceView].of(
        await call.service.schedules.occurrences(org, type, name, after=after, limit=limit)
    )


@endpoints.add("POST", "/v1/schedules/preview", verb="configure")
async def preview_schedule(call: Call, body: TimingIn) -> SchedulePreviewView:
    """Says what a timing means: in words, and as the next ten planned times. Nothing is saved."""
    return call.service.schedules.preview(cron=body.cron, interval_s=body.interval_s, zone=body.zone)


async def _put(
    call: Call, org: str, type: str, name: str, body: ScheduleIn, if_match: str | None
) -> Answer[ScheduleView]:
    return _tagged(
        await call.service.schedule_sync(org, type, name=name, if_revision=_revision(if_match), **dict(body))
    )


def _tagged(schedule: ScheduleView) -> Answer[ScheduleView]:
    return Answer(value=schedule, headers={"ETag": f'"{schedule.revision}"'})


def _revision(if_match: str | None) -> int | None:
    if if_match is None or if_match == "*":
        return None
    match = _REVISION.fullmatch(if_match)
    return int(match[1]) if match else _NO_REVISION
