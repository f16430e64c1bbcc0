"""Files that carried items out, where they go, and what the other side says of them."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from pydantic import Field

from samband.views.shapes import View

__all__ = ["AcknowledgedView", "AcknowledgementView", "DropTestView", "DropView", "ExportFileView", "FileState"]

FileState = Literal["made", "releasing", "ready", "delivered", "acknowledged", "void"]


class ExportFileView(View):
    """A file that carried items out, without what is in it."""

    id: str
    organization: str
    integration: str
    run: str | None = Field(default=None, description="The run that made it.")
    name: str
    media_type: str
    size: int = Field(description="In bytes.")
    sha256: str
    rows: int = Field(description="Lines that carry data.")
    items: int = Field(description="How many claims it carries.")
    keys: list[str] = Field(description="Keys of the export items that it carries.")
    state: FileState = Field(
        description="made: being written · releasing: about to be put in place · ready: waits to be fetched · delivered: "
        "in the drop point · acknowledged: the other side has told of it · void: certainly not delivered."
    )
    created_at: dt.datetime
    delivered_at: dt.datetime | None = None
    acknowledged_at: dt.datetime | None = None


class AcknowledgedView(View):
    """One item that a report tells of."""

    key: str
    reimbursement: str
    state: str = Field(description="Its state now.")
    changed: bool = Field(
        description="Whether the report has settled it; false when it was in that state or stays in its own."
    )


class AcknowledgementView(View):
    """What a report came to."""

    name: str
    settled: int
    unchanged: int
    items: list[AcknowledgedView]
    unknown: list[str] = Field(
        description="Keys in the report that no export of this integration has; and voucher numbers, of rows without a key, "
        "that no export has which went out in the file that the report is about."
    )


class DropView(View):
    """Where an integration's files go. What signs in there is never shown."""

    organization: str
    type: str
    settings: dict[str, Any]
    has_secret: bool
    secret_hint: str = Field(default="", description="Last four characters of what signs in; empty for a short one.")
    revision: int
    updated_at: dt.datetime


class DropTestView(View):
    """What a look at a drop point found. Nothing is written there."""

    ok: bool
    checked_at: dt.datetime
    message: str
    hint: str = ""
    code: str | None = Field(default=None, description="What is wrong, as a stable code; null when nothing is.")
    files: int | None = Field(default=None, description="How many files lie there.")
    reports: int | None = Field(default=None, description="How many reports of the other side lie there.")
