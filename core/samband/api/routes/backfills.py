"""Reading chosen records again, retrying only what failed, and dry runs that show what a sync would do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from samband.api.answers import Answer, Listing, run_location
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import After, Input, Instant, Limit, OrgId, PluginName, RunId
from samband.rules.difference import DRY_RUN_RECORDS
from samband.service.backfills import MAX_KEYS, MAX_LIMIT, Chosen
from samband.views import RunView
from samband.views.backfills import DifferenceView, FailureView, RetryView

endpoints = Endpoints("Backfills and dry runs")

_INTEGRATION = "/v1/organizations/{org}/integrations/{type}"
_RUN = "/v1/organizations/{org}/runs/{run}"
_LOCATION = {"Location": "Where the run is followed."}
_ORDER_PROBLEMS = (
    "integration_not_found", "plugin_failed", "credentials_missing", "backfill_unsupported", "already_running",
)  # fmt: skip

Op = Literal["created", "updated", "deleted", "skipped", "failed"]
StreamName = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_]{0,62}$")]
Key = Annotated[str, StringConstraints(min_length=1, max_length=400)]


class ChosenIn(Input):
    """Some records of one stream: by their keys, or by when they changed at the other side."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"stream": "contacts", "keys": ["0f8fad5b-d9cb-469f-a165-70867728950e"]},
                {"stream": "contacts", "since": "2026-03-01T00:00:00Z", "until": "2026-03-08T00:00:00Z"},
            ]
        }
    )

    stream: StreamName
    keys: Annotated[
        list[Key] | None, Field(min_length=1, max_length=MAX_KEYS, description="The other system's ids.")
    ] = None
    since: Annotated[Instant | None, Field(description="Changed at or after this.")] = None
    until: Annotated[Instant | None, Field(description="Changed before this; null for now.")] = None

    def chosen(self) -> Chosen:
        return Chosen(stream=self.stream, keys=self.keys, since=self.since, until=self.until)


class DryRunIn(Input):
    """What to find out. Without a body: what the next sync would do."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"streams": ["contacts"], "full": True, "limit": 5000}]})

    streams: Annotated[
        list[StreamName] | None, Field(min_length=1, max_length=100, description="Only these; null for all.")
    ] = None
    full: Annotated[bool, Field(description="As if everything were read again, deletions at the end included.")] = False
    chosen: Annotated[ChosenIn | None, Field(description="As if only these were read again.")] = None
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, description="How many records are read at most.")] = DRY_RUN_RECORDS


@endpoints.add(
    "POST", _INTEGRATION + "/backfills", verb="operate", status=202, headers=_LOCATION,
    problems=(*_ORDER_PROBLEMS, "not_enabled"),
)  # fmt: skip
async def order_backfill(call: Call, org: OrgId, type: PluginName, body: ChosenIn) -> Answer[RunView]:
    """Reads chosen records again, and leaves the stream's cursor where it stands.

    Keys that are gone at the other side are deleted here. A window shows what was changed in it and is still there: what
    was deleted at the other side is not seen by it.
    """
    run = await call.service.backfills.order(org, type, body.chosen(), requested_by=call.caller.name)
    return Answer(value=run, headers={"Location": run_location(org, run.id)})


@endpoints.add(
    "POST", _RUN + "/retry-failed", verb="operate", status=202, headers=_LOCATION,
    problems=(*_ORDER_PROBLEMS, "not_enabled", "run_not_found", "nothing_failed", "too_many_failed"),
)  # fmt: skip
async def retry_failed(call: Call, org: OrgId, run: RunId) -> Answer[RetryView]:
    """Reads only those records again that failed in a run."""
    retry = await call.service.backfills.retry_failed(org, run, requested_by=call.caller.name)
    return Answer(value=retry, headers={"Location": run_location(org, retry.run.id)})


@endpoints.add("GET", _RUN + "/failures", verb="read", problems=("run_not_found",))
async def list_failures(call: Call, org: OrgId, run: RunId) -> Listing[FailureView]:
    """Lists the failed records of a run by cause, the most frequent first, 200 causes at most."""
    return Listing[FailureView].of(await call.service.backfills.failures(org, run))


@endpoints.add(
    "POST", _INTEGRATION + "/dry-runs", verb="operate", status=202, headers=_LOCATION, problems=_ORDER_PROBLEMS
)
async def order_dry_run(call: Call, org: OrgId, type: PluginName, body: DryRunIn | None = None) -> Answer[RunView]:
    """Finds out what a sync would do, record by record, and writes nothing but that.

    It may go on beside a sync. What it found is kept for 24 hours, and until the integration's next dry run.
    """
    order = body or DryRunIn()
    run = await call.service.backfills.order_dry_run(
        org, type, streams=order.streams, full=order.full, limit=order.limit, requested_by=call.caller.name,
        chosen=None if order.chosen is None else order.chosen.chosen(),
    )  # fmt: skip
    return Answer(value=run, headers={"Location": run_location(org, run.id)})


@endpoints.add(
    "GET", _RUN + "/differences", verb="read", problems=("run_not_found", "not_a_dry_run", "differences_gone")
)
async def list_differences(
    call: Call, org: OrgId, run: RunId, op: Op | None = None, after: After = 0, limit: Limit = 100
) -> Listing[DifferenceView]:
    """Lists what a dry run found that a sync would do, with only the fields that would change."""
    page = await call.service.backfills.differences(org, run, op=op, after=after, limit=limit)
    return Listing[DifferenceView].of(page)
