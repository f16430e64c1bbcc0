"""Exports out, and what became of each item."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from samband.api.answers import Answer, Listing, run_location
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import ClaimId, Cursor, Input, Limit, OrgId, PluginName, RunId
from samband.errors import FieldProblem, InvalidError
from samband.views.exports import (
    BatchView,
    ExportItemView,
    ExportPreviewView,
    ExportView,
    ItemState,
    RepeatView,
)

endpoints = Endpoints("Reimbursements")

_CLAIMS = "/v1/organizations/{org}/reimbursements"
_EXPORTS = "/v1/organizations/{org}/exports"
_REFUSALS = (
    "nothing_connected",
    "exporter_ambiguous",
    "credentials_missing",
    "mapping_missing",
    "mapping_gap",
    "nothing_postable",
    "route_unsupported",
    "voucher_numbers_used_up",
)

Reason = Annotated[
    str,
    StringConstraints(min_length=5, max_length=400),
    Field(description="Why; kept for ever in the audit trail, so name no person in it."),
]
ItemKey = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,40}$", description="The item's key.")]
Day = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]


class ExcludedIn(Input):
    """A claim that is left out, and why."""

    id: ClaimId
    reason: Reason


class ExportIn(Input):
    """Which claims are to go out, and where."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"ids": ["c-1001", "c-1002"]}, {"from": "2026-03-01", "until": "2026-03-31"}]},
    )

    ids: Annotated[
        list[ClaimId] | None,
        Field(max_length=10_000, description="Null for every approved claim that has not gone out."),
    ] = None
    since: Annotated[
        Day | None, Field(alias="from", description="Without ids: approved on this day or later; 2026-03-01.")
    ] = None
    until: Annotated[Day | None, Field(description="Without ids: approved on this day or earlier.")] = None
    exclude: list[ExcludedIn] = Field(default_factory=list, max_length=100, description="Claims that are left out.")
    route: Annotated[
        Literal["file", "download"] | None,
        Field(description="file for the drop point, download for a file to fetch; null leaves it to the plugin."),
    ] = None
    type: Annotated[PluginName | None, Field(description="The integration; null when one takes reimbursements.")] = None

    def arguments(self) -> dict[str, Any]:
        """Gives the order as the service takes it."""
        return {
            "type": self.type, "first": _day("from", self.since), "last": _day("until", self.until),
            "exclude": {each.id: each.reason for each in self.exclude}, "route": self.route,
        }  # fmt: skip


class AgainIn(Input):
    """Why a claim is exported once more."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "The voucher was deleted in the books."}]})

    reason: Reason
    type: Annotated[PluginName | None, Field(description="The integration; null when one takes reimbursements.")] = None


class ResolveIn(Input):
    """What a person has found out about an uncertain item."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"outcome": "booked", "reference": "70012", "reason": "Seen in the voucher list."}]
        }
    )

    outcome: Annotated[
        Literal["booked", "not_booked"], Field(description="With not_booked the claim is free to be exported again.")
    ]
    reference: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")] | None,
        Field(description="The number it is booked under, when that is known."),
    ] = None
    reason: Reason


@endpoints.add(
    "POST",
    _CLAIMS + "/export",
    verb="operate",
    status=202,
    problems=(*_REFUSALS, "already_running"),
    headers={"Location": "The run, when there is something to send."},
)
async def export_reimbursements(call: Call, org: OrgId, body: ExportIn | None = None) -> Answer[ExportView]:
    """Reserves approved claims and orders the run that sends them; each goes out once, or is known to be uncertain.

    With nothing to send the answer has no run, and that is no error.
    """
    order = body or ExportIn()
    view = await call.service.export_reimbursements(org, order.ids, requested_by=call.caller.name, **order.arguments())
    headers = {} if view.run is None else {"Location": run_location(org, view.run.id)}
    return Answer(value=view, headers=headers)


@endpoints.add("POST", _CLAIMS + "/export/preview", verb="operate", problems=_REFUSALS)
async def preview_export(call: Call, org: OrgId, body: ExportIn | None = None) -> ExportPreviewView:
    """Tells what an order would come to now: how many claims, their sums, what is skipped and why. Writes nothing."""
    order = body or ExportIn()
    return await call.service.exports.preview(org, order.ids, **order.arguments())


@endpoints.add(
    "POST",
    _CLAIMS + "/{id}/export-again",
    verb="configure",
    status=202,
    problems=(
        *_REFUSALS,
        "already_running",
        "reimbursement_not_found",
        "not_exported",
        "still_sending",
        "lies_there_still",
        "not_approved",
        "correction_under_way",
    ),
    headers={"Location": "The run that sends it."},
)
async def export_again(call: Call, org: OrgId, id: ClaimId, body: AgainIn) -> Answer[RepeatView]:
    """Exports a claim once more under a new key and voucher number, whatever became of its former item.

    If that one is in the books after all, the claim is in them twice: that is the word of whoever orders this.
    """
    view = await call.service.exports.again(org, id, reason=body.reason, type=body.type, requested_by=call.caller.name)
    return Answer(value=view, headers={"Location": run_location(org, view.run.id)})


@endpoints.add("GET", _EXPORTS, verb="read")
async def list_export_items(
    call: Call,
    org: OrgId,
    state: ItemState | None = None,
    reimbursement: ClaimId | None = None,
    run: RunId | None = None,
    after: Cursor | None = None,
    limit: Limit = 100,
) -> Listing[ExportItemView]:
    """Lists the items of the export ledger, in the order of their keys."""
    page = await call.service.exports.items(
        org, state=state, reimbursement=reimbursement, run=run, after=after, limit=limit
    )
    return Listing[ExportItemView].of(page)


@endpoints.add(
    "POST",
    _EXPORTS + "/{key}/resolve",
    verb="configure",
    problems=("export_not_found", "not_uncertain", "still_sending", "already_exported"),
)
async def resolve_export(call: Call, org: OrgId, key: ItemKey, body: ResolveIn) -> ExportItemView:
    """Settles an item whose fate nobody knows by a person's word. Look into the other system's books first.

    One that was accepted, or rejected, can be settled as booked, with the number it is booked under.
    """
    return await call.service.exports.resolve(
        org, key, outcome=body.outcome, reference=body.reference, reason=body.reason
    )


@endpoints.add("GET", _EXPORTS + "/batches", verb="read", problems=("integration_not_found",))
async def list_batches(
    call: Call, org: OrgId, type: PluginName | None = None, after: Cursor | None = None, limit: Limit = 20
) -> Listing[BatchView]:
    """Lists what went out together, newest first."""
    return Listing[BatchView].of(await call.service.exports.batches(org, type=type, after=after, limit=limit))


@endpoints.add("GET", _EXPORTS + "/batches/{run}", verb="read", problems=("batch_not_found",))
async def get_batch(call: Call, org: OrgId, run: RunId) -> BatchView:
    """Gives one batch with all its claims."""
    return await call.service.exports.batch(org, run)


def _day(field: str, value: str | None) -> dt.date | None:
    try:
        return None if value is None else dt.date.fromisoformat(value)
    except ValueError:
        problem = FieldProblem(field=field, code="no_day", message="There is no such day; write one as 2026-03-31.")
        raise InvalidError("The export cannot be ordered.", problems=[problem]) from None
