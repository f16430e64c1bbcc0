"""Claims in: one, many, their versions, where the money is, and corrections of what is in the books."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from samband.api.answers import Answer, Listing
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import ClaimId, Cursor, IfMatch, Input, Limit, OrgId, RunId
from samband.kinds import Currency, Dimensions, Payee, ReimbursementLine
from samband.rules.claims import MAX_AT_ONCE
from samband.views.reimbursements import (
    CorrectionState,
    CorrectionView,
    ReimbursementView,
    TellingView,
    TimelineView,
    VersionView,
)

endpoints = Endpoints("Reimbursements")

_CLAIMS = "/v1/organizations/{org}/reimbursements"
_CORRECTIONS = "/v1/organizations/{org}/corrections"
_VERSION = re.compile(r'"([0-9]{1,9})"')
_NO_VERSION = -1

Status = Literal["draft", "submitted", "approved", "rejected", "withdrawn"]
VersionNumber = Annotated[int, Field(ge=1, le=2**31 - 1, description="Goes on with those before this version.")]
Reason = Annotated[str, Field(max_length=1_000, pattern=r"^[^\x00]*$")]
CorrectionId = RunId
_EXAMPLE: dict[str, Any] = {
    "payee": {"id": "p-17", "name": "Kari Nordmann", "bank_account": "12345678903"},
    "currency": "NOK",
    "status": "approved",
    "approved_by": "Ola Nordmann",
    "approved_on": "2026-03-02",
    "dimensions": {"activity": "likeperson-oslo"},
    "lines": [
        {
            "expense_type": "mileage", "date": "2026-03-01", "kilometres": "35.2", "rate": "5.30", "toll": "42.00",
            "amount": "228.56", "text": "Home visit", "receipt": "r-3301",
        }
    ],
}  # fmt: skip


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
    dimensions: Annotated[
        Dimensions | None,
        Field(description="What it belongs to: a name of your own → your code. A line's own stand before these."),
    ] = None


class ReimbursementsIn(Input):
    """Many claims. Each is judged by itself, so that one that is not well does not keep the others out."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [{"id": "c-1001", **_EXAMPLE}]}]})

    items: Annotated[
        list[Any],
        Field(
            min_length=1,
            max_length=MAX_AT_ONCE,
            description="Each an object like the body of the single PUT, and with the claim's id.",
        ),
    ]


class ApproveIn(Input):
    """Agreeing to a correction."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "The receipt was misread."}]})

    reason: Reason = ""


class DismissIn(Input):
    """Closing a correction."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "The claim was right."}]})

    reason: Annotated[str, Field(min_length=1, max_length=1_000, pattern=r"^[^\x00]*$")]


@endpoints.add("GET", _CLAIMS, verb="read")
async def list_reimbursements(
    call: Call, org: OrgId, status: Status | None = None, after: Cursor | None = None, limit: Limit = 100
) -> Listing[ReimbursementView]:
    """Lists claims in the order of their ids."""
    page = await call.service.reimbursements.page(org, status=status, after=after, limit=limit)
    return Listing[ReimbursementView].of(page)


@endpoints.add("PUT", _CLAIMS, verb="operate")
async def put_reimbursements(call: Call, org: OrgId, body: ReimbursementsIn) -> TellingView:
    """Tells up to 1,000 claims at once. Each gets its own outcome; those that are well are stored whatever the others are.

    Telling the same again changes nothing. One that is in the books already becomes a proposed correction. The same id twice
    is refused for that id. The fields at fault are named like items.17.lines.0.amount.
    """
    return await call.service.reimbursements.put_many(org, body.items)


@endpoints.add(
    "PUT",
    _CLAIMS + "/{id}",
    verb="operate",
    problems=("already_exported", "correction_under_way", "revision_mismatch"),
    headers={"ETag": "The version; send it as If-Match with the next change."},
    also={202: "Proposed: the claim is in the books and unchanged, its correction waits for a person."},
)
async def put_reimbursement(
    call: Call, org: OrgId, id: ClaimId, body: ReimbursementIn, if_match: IfMatch | None = None
) -> Answer[ReimbursementView]:
    """Adds a claim or replaces it by its next version. Telling the same again changes nothing.

    A claim that is in the books is not changed silently: the change becomes a proposed correction, the answer is 202 with the
    claim as it is and the correction's id. While its export is on its way, a change is refused with already_exported.
    """
    values = body.model_dump(mode="json", exclude_unset=True)
    view, outcome = await call.service.reimbursements.put(org, id, values, if_version=_version(if_match))
    status = 202 if outcome == "proposed" else None
    return Answer(value=view, headers={"ETag": f'"{view.version}"'}, status=status)


@endpoints.add(
    "GET", _CLAIMS + "/{id}", verb="read", problems=("reimbursement_not_found",), headers={"ETag": "The version."}
)
async def get_reimbursement(call: Call, org: OrgId, id: ClaimId) -> Answer[ReimbursementView]:
    """Gives one claim."""
    view = await call.service.reimbursements.get(org, id)
    return Answer(value=view, headers={"ETag": f'"{view.version}"'})


@endpoints.add("GET", _CLAIMS + "/{id}/versions", verb="read", problems=("reimbursement_not_found",))
async def list_reimbursement_versions(
    call: Call, org: OrgId, id: ClaimId, after: VersionNumber | None = None, limit: Limit = 100
) -> Listing[VersionView]:
    """Lists a claim as it was told each time, newest first."""
    page = await call.service.reimbursements.versions(org, id, after=after, limit=limit)
    return Listing[VersionView].of(page)


@endpoints.add("GET", _CLAIMS + "/{id}/timeline", verb="read", problems=("reimbursement_not_found",))
async def get_reimbursement_timeline(call: Call, org: OrgId, id: ClaimId) -> TimelineView:
    """Tells where the money of a claim is, in one sentence, and everything that led there."""
    return await call.service.reimbursements.timeline(org, id)


@endpoints.add("GET", _CORRECTIONS, verb="read")
async def list_corrections(
    call: Call,
    org: OrgId,
    state: CorrectionState | None = None,
    reimbursement: ClaimId | None = None,
    after: Cursor | None = None,
    limit: Limit = 100,
) -> Listing[CorrectionView]:
    """Lists changes to claims that are in the books, oldest first."""
    page = await call.service.reimbursements.corrections(
        org, state=state, reimbursement=reimbursement, after=after, limit=limit
    )
    return Listing[CorrectionView].of(page)


@endpoints.add("GET", _CORRECTIONS + "/{id}", verb="read", problems=("correction_not_found",))
async def get_correction(call: Call, org: OrgId, id: CorrectionId) -> CorrectionView:
    """Gives one correction."""
    return await call.service.reimbursements.correction(org, id)


@endpoints.add(
    "POST",
    _CORRECTIONS + "/{id}/approve",
    verb="configure",
    problems=(
        "correction_not_found",
        "correction_over",
        "correction_under_way",
        "already_exported",
        "reversal_unsupported",
        "period_closed",
    ),
)
async def approve_correction(call: Call, org: OrgId, id: CorrectionId, body: ApproveIn | None = None) -> CorrectionView:
    """Agrees to a correction: the claim takes the change, and the reversal of its booking goes out once that is booked.

    Agreeing again to one whose reversal was refused, or never sent, reserves another reversal. The reversal bears the day
    it is agreed on; when that day's period is closed in the books, the mapping says whether it bears the first day of the
    next open one, or whether agreeing is refused with period_closed.
    """
    reason = "" if body is None else body.reason
    return await call.service.reimbursements.approve_correction(org, id, reason=reason)


@endpoints.add(
    "POST",
    _CORRECTIONS + "/{id}/dismiss",
    verb="configure",
    problems=("correction_not_found", "correction_over", "correction_under_way"),
)
async def dismiss_correction(call: Call, org: OrgId, id: CorrectionId, body: DismissIn) -> CorrectionView:
    """Closes a proposed correction; the claim and its booking stay as they are."""
    return await call.service.reimbursements.dismiss_correction(org, id, reason=body.reason)


def _version(if_match: str | None) -> int | None:
    if if_match is None or if_match == "*":
        return None
    match = _VERSION.fullmatch(if_match)
    return int(match[1]) if match else _NO_VERSION
