"""How integrations are doing, and what somebody should know of."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from pydantic import Field

from samband.views.shapes import View

__all__ = ["AlertView", "OverviewView"]

ConnectionState = Literal["unknown", "connected", "degraded", "needs_reauthentication", "misconfigured"]
FreshnessState = Literal["fresh", "overdue", "stale", "unknown"]


class AlertView(View):
    """A trouble that was told once when it began and is told once more when it is over."""

    id: int
    organization: str
    integration: str | None = Field(description="The integration's id, when it is about one.")
    subject: str
    kind: str = Field(description="Stable, for instance needs_reauthentication, overdue or run_held.")
    severity: Literal["critical", "warning"]
    message: str
    data: dict[str, Any] = Field(default_factory=dict)
    opened_at: dt.datetime
    closed_at: dt.datetime | None = Field(default=None, description="When the trouble was over; null while it lasts.")
    acknowledged_at: dt.datetime | None = None
    acknowledged_by: str = ""


class OverviewView(View):
    """One integration in the table of all that the key reaches."""

    organization: str
    type: str
    integration: str
    display_name: str
    state: str
    connection: ConnectionState
    connection_since: dt.datetime | None = None
    freshness: FreshnessState
    last_success_at: dt.datetime | None = None
    expected_by: dt.datetime | None = Field(default=None, description="After this the next success is overdue.")
    latency_ms: int | None = None
    probed_at: dt.datetime | None = None
    alerts: list[str] = Field(default_factory=list, description="Kinds of the open alerts.")
