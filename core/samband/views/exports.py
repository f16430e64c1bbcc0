"""What became of each reimbursement that was sent away."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field

from samband.views.shapes import RunView, View

__all__ = [
    "BatchFileView",
    "BatchView",
    "DownloadView",
    "ExportItemView",
    "ExportPreviewView",
    "ExportView",
    "OverlapView",
    "RefusalView",
    "RepeatView",
    "SkippedView",
    "VoucherSumView",
]

ItemState = Literal[
    "reserved", "sent", "accepted", "posted", "rejected", "unknown", "released", "reversed", "superseded"
]


class FormerAnswerView(View):
    """What the other system said of an item before its last word."""

    state: ItemState = Field(description="The state that the item was in by it.")
    reference: str | None = None
    at: dt.datetime
    digest: str = Field(description="SHA-256 over all that was said.")


class ExportItemView(View):
    """One claim on its way to one system."""

    key: str = Field(description="Our idempotency key: fixed before the first attempt, and known to the other system.")
    organization: str
    integration: str
    type: str = Field(description="The integration's type: the plugin's name.")
    reimbursement: str
    version: int
    number: int = Field(description="Which export of the claim this is, counted from 1.")
    state: ItemState
    run: str | None = None
    attempts: int
    purpose: Literal["booking", "reversal"] = "booking"
    reverses: str | None = Field(default=None, description="Of a reversal: key of the item that it takes back.")
    voucher_number: int | None = Field(default=None, description="The same on every route; null for a claim as such.")
    mapping_version: int | None = Field(default=None, description="Of the mapping that the voucher was made with.")
    period: str | None = Field(default=None, description="The month it is booked in, for instance 2026-03.")
    route: str | None = Field(default=None, description="The way it went; null for a plugin that has but one.")
    reference: str | None = Field(default=None, description="The other system's id for what was booked.")
    code: str | None = Field(
        default=None, description="Why it was rejected; of an accepted item: why it cannot be booked as it lies there."
    )
    field: str | None = None
    message: str = Field(default="", description="The other system's own words.")
    reason: str = Field(default="", description="Why a person, or a correction, brought it into its state.")
    digest: str | None = Field(default=None, description="SHA-256 over all that the other system said of it last.")
    told: dict[str, str] = Field(default_factory=dict, description="What the other system said of it, kept as proof.")
    former: list[FormerAnswerView] = Field(default_factory=list, description="Its earlier words, oldest first.")
    passed_over: dict[str, str] = Field(default_factory=dict, description="Ways it did not go, and why.")
    created_at: dt.datetime
    sent_at: dt.datetime | None = None
    settled_at: dt.datetime | None = None
    accepted_at: dt.datetime | None = None
    posted_at: dt.datetime | None = None
    looked_up_at: dt.datetime | None = Field(default=None, description="When the other system was last asked about it.")


class SkippedView(View):
    """A claim that was asked for and did not go out."""

    id: str
    reason: Literal[
        "not_found", "not_approved", "on_its_way", "already_exported", "outcome_unknown", "excluded", "unpostable"
    ]
    code: str | None = Field(default=None, description="With unpostable: what is wrong with the claim.")
    field: str | None = Field(default=None, description="With unpostable: which of its fields.")
    message: str = Field(default="", description="With unpostable the way out, with excluded the reason given.")


class OverlapView(View):
    """An earlier batch with claims that were approved on the same days. A warning: no claim goes out twice for it."""

    run: str
    days: list[str]
    claims: int


class ExportView(View):
    """What an order to export comes to. Without anything to send there is no run, and that is no error."""

    type: str = Field(description="The integration that it goes to.")
    run: RunView | None = Field(default=None, description="The run that sends; null when there was nothing to send.")
    reserved: list[str] = Field(default_factory=list, description="Ids of the claims that go out.")
    skipped: list[SkippedView] = Field(default_factory=list)
    totals: dict[str, str] = Field(default_factory=dict, description="Currency → what the claims that go out come to.")
    mapping_version: int | None = None
    overlaps: list[OverlapView] = Field(default_factory=list, description="Warnings.")


class RefusalView(View):
    """What the other system said when it refused an earlier export of a claim."""

    claim: str
    key: str = Field(description="Of the item that was refused.")
    number: int = Field(description="Which export of the claim it was, counted from 1.")
    version: int = Field(description="The claim's version that was refused.")
    is_changed: bool = Field(description="Whether the claim has been told differently since.")
    code: str | None = None
    field: str | None = None
    message: str = Field(default="", description="The other system's own words.")


class VoucherSumView(View):
    """What one claim would come to in the books."""

    claim: str
    number: int
    date: str
    period: str
    currency: str
    amount: str = Field(description="Sum of its debit lines.")
    lines: int


class ExportPreviewView(View):
    """What an order to export would come to now; nothing is written."""

    type: str
    count: int = Field(description="How many claims would go out.")
    claims: list[str] = Field(default_factory=list, description="Their ids.")
    skipped: list[SkippedView] = Field(default_factory=list)
    totals: dict[str, str] = Field(default_factory=dict, description="Currency → what the claims come to.")
    mapping_version: int | None = None
    vouchers: list[VoucherSumView] = Field(default_factory=list, description="The first 500; empty for plain claims.")
    refused_before: list[RefusalView] = Field(
        default_factory=list, description="Of the claims: those whose last export was refused, and with what words."
    )
    overlaps: list[OverlapView] = Field(default_factory=list, description="Warnings.")


class RepeatView(View):
    """A claim that is exported once more."""

    reimbursement: str
    item: str = Field(description="Key of the new item.")
    run: RunView


class DownloadView(View):
    """One time that a file was fetched."""

    at: dt.datetime
    by: str = Field(description="Who, as the audit trail names them.")
    profile: str = Field(description="What was fetched: machine, human or json.")


class BatchFileView(View):
    """A file that carried a batch, and who has fetched it."""

    id: str
    name: str
    media_type: str
    state: str = Field(description="See the list of files.")
    downloads: int = Field(description="How often it was fetched.")
    fetched: list[DownloadView] = Field(
        default_factory=list, description="The last 20 times, newest first. The audit trail has them all."
    )


class BatchView(View):
    """What one run has sent, or is about to."""

    run: str
    type: str
    state: Literal["queued", "running", "waiting", "held", "succeeded", "partial", "failed", "cancelled"]
    outcome: Literal["open", "booked", "accepted", "uncertain", "refused", "partly", "released"] = Field(
        description="What its items come to; partly when they differ."
    )
    reason: str = Field(description="Why the run was ordered, for instance api or follow_up.")
    requested_by: str
    items: int
    states: dict[str, int] = Field(description="State of an item → how many are in it.")
    totals: dict[str, str] = Field(description="Currency → sum; what was taken back counts below zero.")
    routes: list[str]
    period_first: str | None = Field(default=None, description="The earliest month that they are booked in.")
    period_last: str | None = Field(default=None, description="The latest one.")
    acknowledgements: list[str] = Field(default_factory=list, description="Ids of the files that carried them.")
    files: list[BatchFileView] = Field(default_factory=list, description="These files, and who has fetched which when.")
    claims: list[str] = Field(description="Ids of the claims: all of one batch, in a listing the first 20.")
    error: str | None = Field(default=None, description="Code of what the run failed with.")
    created_at: dt.datetime
    finished_at: dt.datetime | None = None
