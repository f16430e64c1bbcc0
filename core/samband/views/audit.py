"""The shapes of the audit trail."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pydantic import Field

from samband.views.shapes import View

__all__ = ["AuditEntryView", "AuditVerificationView", "FlawView"]


class AuditEntryView(View):
    """Who did what, and when."""

    seq: int = Field(description="Its number in the chain, from 1 and without gaps.")
    at: dt.datetime
    actor: str = Field(description="For instance 'key:' with the key's id and name, 'run:' with its id, or 'samband'.")
    action: str = Field(description="thing.deed, for instance credentials.replaced.")
    subject: str = Field(description="thing/id, for instance integration/0198….")
    detail: dict[str, Any] = Field(description="Names, states, counts and digests; no secrets and no personal data.")
    previous: str = Field(description="The hash of the entry before it; empty in the first one.")
    hash: str = Field(description="SHA-256 over all of the above and the chain's organisation.")


class FlawView(View):
    """What is wrong with a chain first."""

    code: str
    seq: int = Field(description="The entry it is found at.")
    message: str


class AuditVerificationView(View):
    """What a walk along one chain found."""

    organization: str = Field(description="Whose chain; * for the host's own.")
    ok: bool
    entries: int = Field(description="How many entries are in order, from the first one on.")
    newest_seq: int
    newest_hash: str = Field(description="Keep it somewhere else: given as expect= later, it proves nothing was cut.")
    newest_at: dt.datetime | None = None
    expected_seq: int | None = Field(default=None, description="The entry that has the expected hash.")
    flaw: FlawView | None = None
