"""How integrations are doing, across organisations, and the alerts somebody should know of."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from samband.api.answers import Listing
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import After, Cursor, Limit, OrgId, PluginName, RowId
from samband.views.health import AlertView, OverviewView

endpoints = Endpoints("Health")

_ALERTS = "/v1/organizations/{org}/alerts"
OpenOnly = Annotated[bool, Field(description="Leave out those that are over.")]


@endpoints.add("GET", "/v1/overview", verb="read")
async def list_overview(call: Call, after: Cursor | None = None, limit: Limit = 100) -> Listing[OverviewView]:
    """Lists every integration that the key reaches, with its connection, its freshness and its open alerts.

    By organisation, and within one by type.
    """
    page = await call.service.health.overview(call.caller.organizations, after=after, limit=limit)
    return Listing[OverviewView].of(page)


@endpoints.add("GET", _ALERTS, verb="read", problems=("integration_not_found",))
async def list_alerts(
    call: Call,
    org: OrgId,
    open_only: OpenOnly = True,
    type: PluginName | None = None,
    after: After | None = None,
    limit: Limit = 50,
) -> Listing[AlertView]:
    """Lists alerts, newest first. Each was told once as an event when it began, and once more when it was over."""
    page = await call.service.health.alerts(
        org, open_only=open_only, type=type, after=None if after is None else str(after), limit=limit
    )
    return Listing[AlertView].of(page)


@endpoints.add("POST", _ALERTS + "/{id}/acknowledge", verb="operate", problems=("alert_not_found",))
async def acknowledge_alert(call: Call, org: OrgId, id: RowId) -> AlertView:
    """Notes that somebody has seen the alert; it stays open until the trouble is over."""
    return await call.service.health.acknowledge_alert(org, id, call.caller.name)
