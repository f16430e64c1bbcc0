"""Reimbursements in, exports out, and what became of each item."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from samband.api.answers import Answer, Listing, run_location
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import Cursor, IfMatch, Input, Limit, OrgId, PluginName, RunId
from samband.kinds import Currency, Payee, ReimbursementLine
from samband.views.exports import ExportItemView, ExportView, ItemState, ReimbursementView

endpoints = Endpoints("Reimbursements")

_CLAIMS = "/v1/organizations/{org}/reimbursements"
_VERSION = re.compile(r'"([0-9]{1,9})"')
_NO_VERSION = -1

ClaimId = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$", description="The platform's own id of the claim.")
]
Status = Literal["draft", "submitted", "approved", "rejected", "withdrawn"]
_EXAMPLE: dict[str, Any] = {
    "payee": {"id": "p-17", "name": "Kari Nordmann", "bank_account": "12345678903"},
    "currency": "NOK",
    "status": "approved",
    "lines": [{"expense_type": "mileage", "amount": "123.50", "date": "2026-03-01", "quantity": "35.2", "unit": "km"}],
}


class ReimbursementIn(Input):
    """A claim. Amounts are text with at most two decimals, in the claim's currency."""

    # Not strict: dates and amounts are text in JSON.
    model_config = ConfigDict(strict=False, json_schema_extra={"examples": [_EXAMPLE]})

    payee: Payee
    currency: Currency
    status: Status
    lines: Annotated[list[ReimbursementLine], Field(min_length=1, max_length=200)]
    text: Annotated[str, Field(max_length=400)] | None = None
    approved_by: Annotated[str, Field(max_length=400)] | None = None
    approved_on: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")] | None = None


class ExportIn(Input):
    """Which claims are to go out, and where."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": ["c-1001", "c-1002"]}]})

    ids: Annotated[
        list[ClaimId] | None,
        Field(max_length=10_000, description="Null for every approved claim that has not gone out."),
    ] = None
    type: Annotated[PluginName | None, Field(description="The integration; null when one takes reimbursements.")] = None


@endpoints.add("GET", _CLAIMS, verb="read")
async def list_reimbursements(
    call: Call, org: OrgId, status: Status | None = None, after: Cursor | None = None, limit: Limit = 100
) -> Listing[ReimbursementView]:
    """Lists claims in the order of their ids."""
    page = await call.service.exports.reimbursements(org, status=status, after=after, limit=limit)
    return Listing[ReimbursementView].of(page)


@endpoints.add(
    "PUT",
    _CLAIMS + "/{id}",
    verb="operate",
    problems=("already_exported", "revision_mismatch"),
    headers={"ETag": "The version; send it as If-Match with the next change."},
)
async def put_reimbursement(
    call: Call, org: OrgId, id: ClaimId, body: ReimbursementIn, if_match: IfMatch | None = None
) -> Answer[ReimbursementView]:
    """Adds a claim or replaces it by its next version. Telling the same again changes nothing.

    A claim that has been exported is not changed silently: that is refused with already_exported.
    """
    values = body.model_dump(mode="json", exclude_unset=True)
    view, _ = await call.service.exports.put_reimbursement(org, id, values, if_version=_version(if_match))
    return Answer(value=view, headers={"ETag": f'"{view.version}"'})


@endpoints.add(
    "GET", _CLAIMS + "/{id}", verb="read", problems=("reimbursement_not_found",), headers={"ETag": "The version."}
)
async def get_reimbursement(call: Call, org: OrgId, id: ClaimId) -> Answer[ReimbursementView]:
    """Gives one claim."""
    view = await call.service.exports.reimbursement(org, id)
    return Answer(value=view, headers={"ETag": f'"{view.version}"'})


@endpoints.add(
    "POST",
    _CLAIMS + "/export",
    verb="operate",
    status=202,
    problems=("nothing_connected", "exporter_ambiguous", "already_running", "credentials_missing"),
    headers={"Location": "The run, when there is something to send."},
)
async def export_reimbursements(call: Call, org: OrgId, body: ExportIn | None = None) -> Answer[ExportView]:
    """Reserves approved claims and orders the run that sends them; each goes out once, or is known to be uncertain.

    With nothing to send the answer has no run, and that is no error.
    """
    order = body or ExportIn()
    view = await call.service.export_reimbursements(org, order.ids, type=order.type, requested_by=call.caller.name)
    headers = {} if view.run is None else {"Location": run_location(org, view.run.id)}
    return Answer(value=view, headers=headers)


@endpoints.add("GET", "/v1/organizations/{org}/exports", verb="read")
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


def _version(if_match: str | None) -> int | None:
    if if_match is None or if_match == "*":
        return None
    match = _VERSION.fullmatch(if_match)
    return int(match[1]) if match else _NO_VERSION
