"""Runs: starting one, following it, and what became of each record."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from samband.api.answers import Answer, Listing, run_location
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import After, Cursor, IdempotencyKey, Input, Limit, OrgId, PluginName, RunId
from samband.views import OutcomeView, RunState, RunView

endpoints = Endpoints("Runs")

_OF_INTEGRATION = "/v1/organizations/{org}/integrations/{type}/runs"
_OF_ORGANIZATION = "/v1/organizations/{org}/runs"

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
