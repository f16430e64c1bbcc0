"""Runs: starting one, following it, and what became of each record."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from samband.api.answers import Answer, Listing, run_location
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import After, Cursor, IdempotencyKey, Input, Limit, OrgId, PluginName, RunId
from samband.views import OutcomeView, RunState, RunView
from samband.views.runs import StartedView

endpoints = Endpoints("Runs")

_OF_INTEGRATION = "/v1/organizations/{org}/integrations/{type}/runs"
_OF_ORGANIZATION = "/v1/organizations/{org}/runs"

Reason = Annotated[
    str,
    Field(
        max_length=500,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="Why, for the audit trail. It is kept for ever: name no person in it.",
    ),
]
StreamName = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_]{0,62}$")]
Outcome = Literal["created", "updated", "deleted", "skipped", "failed"]


class TriggerIn(Input):
    """What to read. Without a body every stream is read from where its cursor stands."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"streams": ["contacts"], "full": False}]})

    streams: Annotated[
        list[StreamName] | None, Field(min_length=1, max_length=100, description="Only these; null for all.")
    ] = None
    full: Annotated[bool, Field(description="Read from the beginning and reconcile deletions at the end.")] = False


@endpoints.add(
    "POST",
    _OF_INTEGRATION,
    verb="operate",
    status=202,
    problems=(
        "integration_not_found",
        "already_running",
        "not_enabled",
        "credentials_missing",
        "unknown_plugin",
        "idempotency_key_reused",
    ),
    headers={"Location": "The run.", "Idempotency-Replayed": "true when the key had started this run before."},
)
async def trigger_run(
    call: Call,
    org: OrgId,
    type: PluginName,
    body: TriggerIn | None = None,
    idempotency_key: IdempotencyKey | None = None,
) -> Answer[RunView]:
    """Orders a sync and answers at once; follow the run at its Location.

    While a run of the integration is alive another trigger is refused with already_running, which names that run.
    With an Idempotency-Key the call is safe to repeat: the same key gives the same run, alive or ended.
    """
    order = body or TriggerIn()
    run = await call.service.trigger_sync(
        org,
        type,
        streams=order.streams,
        full=order.full,
        reason="api",
        requested_by=call.caller.name,
        idempotency_key=idempotency_key,
    )
    headers = {"Location": run_location(org, run.id)}
    if getattr(run, "replayed", False):
        headers["Idempotency-Replayed"] = "true"
    return Answer(value=run, headers=headers)


class ApprovalIn(Input):
    """Consent to what a run was stopped for."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"reason": "The association in Bergen has been closed.", "up_to": 140}]}
    )

    reason: Annotated[Reason, Field(min_length=1)]
    up_to: Annotated[
        int | None,
        Field(ge=1, le=100_000_000, description="The most that may go in this run; null for what it was stopped with."),
    ] = None


class RejectionIn(Input):
    """Why what a run was stopped for must not happen."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "Their export was half empty."}]})

    reason: Reason = ""


class SyncIn(Input):
    """How to read. Without a body every stream is read from where its cursor stands."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"full": False}]})

    full: Annotated[bool, Field(description="Read from the beginning and reconcile deletions at the end.")] = False


@endpoints.add(
    "POST", "/v1/organizations/{org}/memberships/sync", verb="operate", status=202, problems=("nothing_connected",)
)
async def sync_membership_data(call: Call, org: OrgId, body: SyncIn | None = None) -> StartedView:
    """Orders a sync of every enabled integration that brings members or memberships, one run each."""
    full = (body or SyncIn()).full
    return await call.service.sync_membership_data(org, full=full, requested_by=call.caller.name)


@endpoints.add(
    "POST",
    "/v1/organizations/{org}/course-enrollments/sync",
    verb="operate",
    status=202,
    problems=("nothing_connected",),
)
async def sync_course_enrollments(call: Call, org: OrgId, body: SyncIn | None = None) -> StartedView:
    """Orders a sync of every enabled integration that brings course enrolments, one run each.

    The courses and members that they refer to are read along with them.
    """
    full = (body or SyncIn()).full
    return await call.service.sync_course_enrollments(org, full=full, requested_by=call.caller.name)


@endpoints.add("GET", _OF_INTEGRATION + "/latest", verb="read", problems=("integration_not_found", "never_ran"))
async def get_last_sync_result(call: Call, org: OrgId, type: PluginName) -> RunView:
    """Gives the newest run of an integration."""
    return await call.service.get_last_sync_result(org, type)


@endpoints.add("GET", _OF_ORGANIZATION, verb="read")
async def list_runs(
    call: Call,
    org: OrgId,
    type: PluginName | None = None,
    state: RunState | None = None,
    after: Cursor | None = None,
    limit: Limit = 50,
) -> Listing[RunView]:
    """Lists the organisation's runs, newest first."""
    page = await call.service.runs.page(org, type=type, state=state, after=after, limit=limit)
    return Listing[RunView].of(page)


@endpoints.add("GET", _OF_ORGANIZATION + "/{run}", verb="read", problems=("run_not_found",))
async def get_run(call: Call, org: OrgId, run: RunId) -> RunView:
    """Gives one run."""
    return await call.service.runs.get(org, run)


@endpoints.add("GET", _OF_ORGANIZATION + "/{run}/outcomes", verb="read", problems=("run_not_found",))
async def list_outcomes(
    call: Call, org: OrgId, run: RunId, outcome: Outcome | None = None, after: After = 0, limit: Limit = 100
) -> Listing[OutcomeView]:
    """Lists what became of each record of a run. Unchanged records are counted on the run, not listed."""
    page = await call.service.runs.outcomes(org, run, outcome=outcome, after=after, limit=limit)
    return Listing[OutcomeView].of(page)


@endpoints.add(
    "POST", _OF_ORGANIZATION + "/{run}/cancel", verb="operate", status=202, problems=("run_not_found", "run_ended")
)
async def cancel_run(call: Call, org: OrgId, run: RunId) -> RunView:
    """Cancels a run. What it has stored stays; it writes nothing more.

    A run that waits ends at once. One that is being worked on ends before its next write, within a heartbeat: until
    then it is shown as running, with the time at which this was asked for. Safe to repeat.
    """
    return await call.service.runs.cancel(org, run)


@endpoints.add(
    "POST",
    _OF_ORGANIZATION + "/{run}/retry",
    verb="operate",
    status=202,
    problems=(
        "run_not_found", "already_running", "nothing_to_retry", "not_enabled", "credentials_missing", "unknown_plugin",
    ),
    headers={"Location": "The new run."},
)  # fmt: skip
async def retry_run(call: Call, org: OrgId, run: RunId) -> Answer[RunView]:
    """Orders the same run again, from where its streams stand now. An open dead letter of it is closed by that."""
    again = await call.service.runs.retry(org, run, requested_by=call.caller.name)
    return Answer(value=again, headers={"Location": run_location(org, again.id)})


@endpoints.add(
    "POST", _OF_ORGANIZATION + "/{run}/approve", verb="configure", status=202, problems=("run_not_found", "not_held")
)
async def approve_run(call: Call, org: OrgId, run: RunId, body: ApprovalIn) -> RunView:
    """Lets a held run go on.

    The page it was stopped at is fetched and weighed again, so what the other system says then is what is done. Should it
    by then want more removed than was agreed to, the run is held again.
    """
    return await call.service.runs.approve(org, run, reason=body.reason, up_to=body.up_to)


@endpoints.add("POST", _OF_ORGANIZATION + "/{run}/reject", verb="configure", problems=("run_not_found", "not_held"))
async def reject_run(call: Call, org: OrgId, run: RunId, body: RejectionIn | None = None) -> RunView:
    """Ends a held run without applying what it was stopped for. Its stream is read whole next time."""
    return await call.service.runs.reject(org, run, reason=(body or RejectionIn()).reason)
