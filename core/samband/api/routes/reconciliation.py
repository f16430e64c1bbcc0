"""A month of the export ledger held against the other side's books."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import OrgId, PluginName
from samband.api.problems import REFUSED_THERE, SEALED
from samband.views.reconciliation import ReconciliationView

endpoints = Endpoints("Reimbursements")

Period = Annotated[str, Field(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$", description="The month, for instance 2026-03.")]
OursOnly = Annotated[bool, Field(description="Gives what samband itself knows, without asking the other side.")]
Type = Annotated[PluginName, Field(description="The integration; may be left out when one alone can be compared.")]
Listed = Annotated[int, Field(ge=0, le=10_000, description="How many differences are listed at most.")]


@endpoints.add(
    "GET",
    "/v1/organizations/{org}/exports/reconciliation",
    verb="read",
    problems=(
        "reconciliation_unsupported", "exporter_ambiguous", "integration_not_found", "unknown_plugin", "plugin_failed",
        "credentials_missing", "other_side_unreadable", "rate_limited", "remote_error", "unavailable",
        *REFUSED_THERE, *SEALED,
    ),
)  # fmt: skip
async def get_reconciliation(
    call: Call,
    org: OrgId,
    period: Period,
    type: Type | None = None,
    ours_only: OursOnly = False,
    limit: Listed = 1_000,
) -> ReconciliationView:
    """Compares a month of what was exported with the other side's books as they are now, account by account.

    Every difference is named line by line, worst first; what remains is unexplained, and must be 0.00. The months around
    are read as well, for what was booked in another month. Changes nothing, here or there.
    """
    return await call.service.reconciliation.month(org, period, type=type, ours_only=ours_only, limit=limit)
