"""Claims as they come in: as last told, their versions, corrections to what is in the books, and what became of each."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from pydantic import Field

from samband.views.shapes import View

__all__ = [
    "ClaimProblemView",
    "CorrectionState",
    "CorrectionView",
    "FieldChangeView",
    "ReimbursementView",
    "TellingView",
    "TimelineEntryView",
    "TimelineView",
    "ToldView",
    "VersionView",
]

ClaimStatus = Literal["draft", "submitted", "approved", "rejected", "withdrawn"]
CorrectionState = Literal["proposed", "approved", "done", "dismissed"]


class FieldChangeView(View):
    """One field of a claim, as it is and as it would be; null stands for what is not there."""

    field: str = Field(description="Dotted path, for instance lines.0.amount.")
    before: Any = None
    after: Any = None


class CorrectionView(View):
    """A change to a claim that is in the books: it happens when a person agrees to it."""

    id: str
    organization: str
    reimbursement: str
    state: CorrectionState = Field(
        description="proposed waits for a person · approved: the reversal is on its way · done · dismissed."
    )
    item: str = Field(description="Key of the export item that the change is about.")
    reversal: str | None = Field(default=None, description="Key of the item that takes the booking back.")
    total: str = Field(description="Sum of the lines' amounts as they would be, as text with two decimals.")
    currency: str
    total_before: str | None = Field(default=None, description="The sum as it is now; null once it is over.")
    currency_before: str | None = Field(default=None, description="The currency as it is now; null once it is over.")
    values: dict[str, Any] = Field(description="The claim as it would be.")
    changed: list[str] = Field(description="Fields that differ from the claim as it is; empty once it is over.")
    changes: list[FieldChangeView] = Field(
        default_factory=list, description="The same in full: each single value that differs. Empty once it is over."
    )
    reason: str = Field(default="", description="Given with the decision.")
    proposed_by: str
    decided_by: str | None = None
    created_at: dt.datetime
    decided_at: dt.datetime | None = None


class ReimbursementView(View):
    """A claim as the platform last told it."""

    id: str
    organization: str
    version: int = Field(description="Raised by every change; the ETag of the resource.")
    status: ClaimStatus
    total: str = Field(description="Sum of the lines' amounts, as text with two decimals.")
    currency: str
    values: dict[str, Any]
    correction: str | None = Field(
        default=None, description="Id of the correction that is open: a change that has not been made, or not yet all."
    )
    created_at: dt.datetime
    updated_at: dt.datetime


class VersionView(View):
    """A claim as it was told once."""

    version: int
    status: ClaimStatus
    total: str = Field(description="Sum of the lines' amounts, as text with two decimals.")
    currency: str
    values: dict[str, Any]
    actor: str = Field(description="Who told it; empty for what was told before this was kept.")
    created_at: dt.datetime


class ClaimProblemView(View):
    """One thing that is wrong with one of many claims. The value that was sent is never part of it."""

    field: str = Field(description="Dotted path in the body, for instance items.17.lines.0.amount.")
    code: str
    message: str


class ToldView(View):
    """What became of one of many claims that were told at once."""

    n: int = Field(description="Its place among the items, from 0.")
    id: str | None = Field(default=None, description="The claim's id; null when what was sent for one is none.")
    outcome: Literal["created", "updated", "unchanged", "proposed", "refused"]
    version: int | None = Field(default=None, description="The version it has now; null when it was refused.")
    correction: str | None = Field(default=None, description="Id of the correction that is open.")
    code: str | None = Field(default=None, description="Why it was refused, as a stable code.")
    problems: list[ClaimProblemView] = Field(default_factory=list)


class TellingView(View):
    """What became of many claims that were told at once: those that are well are stored, whatever the others are."""

    created: int
    updated: int
    unchanged: int
    proposed: int
    refused: int
    items: list[ToldView] = Field(description="In the order they were sent.")


class TimelineEntryView(View):
    """One thing that happened to a claim."""

    at: dt.datetime
    what: Literal[
        "told", "approved", "reserved", "sent", "accepted", "booked", "rejected", "uncertain", "looked_up", "released",
        "reversed", "superseded", "correction_proposed", "correction_approved", "correction_dismissed",
        "correction_done",
    ]  # fmt: skip
    text: str = Field(description="The same in a sentence.")
    actor: str | None = Field(default=None, description="Who did it, where a person or a program did.")
    version: int | None = Field(default=None, description="The claim's version it is about.")
    export: int | None = Field(default=None, description="Which export of the claim, counted from 1.")
    key: str | None = Field(default=None, description="The export item's key.")
    run: str | None = None
    route: str | None = Field(default=None, description="The way it went.")
    number: int | None = Field(default=None, description="The voucher's number that we gave.")
    reference: str | None = Field(default=None, description="The other system's number.")
    code: str | None = None
    correction: str | None = Field(default=None, description="The correction's id.")


class TimelineView(View):
    """Where the money of a claim is."""

    reimbursement: str
    organization: str
    state: Literal[
        "not_approved", "approved", "reserved", "sent", "accepted", "stuck", "booked", "rejected", "uncertain", "reversing",
        "correction_proposed",
    ]  # fmt: skip
    summary: str = Field(description="Where the money is, in one sentence that stands alone.")
    total: str
    currency: str
    items: list[TimelineEntryView] = Field(description="Oldest first.")
    left_out: int = Field(default=0, description="How many of its oldest versions are not among the items.")
