"""Reimbursements, and what became of each one that was sent away."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from pydantic import Field

from samband.views.shapes import RunView, View

__all__ = ["ExportItemView", "ExportView", "ReimbursementView", "SkippedView"]

ItemState = Literal["reserved", "sent", "accepted", "posted", "rejected", "unknown", "released"]


class ReimbursementView(View):
    """A claim as the platform last told it."""

    id: str
    organization: str
    version: int = Field(description="Raised by every change; the ETag of the resource.")
    status: Literal["draft", "submitted", "approved", "rejected", "withdrawn"]
    total: str = Field(description="Sum of the lines' amounts, as text with two decimals.")
    currency: str
    values: dict[str, Any]
    created_at: dt.datetime
    updated_at: dt.datetime


class ExportItemView(View):
    """One claim on its way to one system."""

    key: str = Field(description="Our idempotency key: fixed before the first attempt, and known to the other system.")
    organization: str
    integration: str
    reimbursement: str
    version: int
    number: int = Field(description="Which export of the claim this is, counted from 1.")
    state: ItemState
    run: str | None = None
    attempts: int
    reference: str | None = Field(default=None, description="The other system's id for what was booked.")
    code: str | None = None
    field: str | None = None
    message: str = Field(default="", description="The other system's own words.")
    created_at: dt.datetime
    sent_at: dt.datetime | None = None
    settled_at: dt.datetime | None = None


class SkippedView(View):
    """A claim that was asked for and did not go out."""

    id: str
    reason: Literal["not_found", "not_approved", "on_its_way", "already_exported", "outcome_unknown"]


class ExportView(View):
    """What an order to export comes to. Without anything to send there is no run, and that is no error."""

    type: str = Field(description="The integration that it goes to.")
    run: RunView | None = Field(default=None, description="The run that sends; null when there was nothing to send.")
    reserved: list[str] = Field(default_factory=list, description="Ids of the claims that go out.")
    skipped: list[SkippedView] = Field(default_factory=list)
