"""The shapes of API keys."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field

from samband.views.shapes import View

__all__ = ["ApiKeyView", "NewApiKeyView"]


class ApiKeyView(View):
    """An API key without its secret."""

    id: str = Field(
        description="The part of the key between the two underscores; it is in logs and in the audit trail."
    )
    name: str
    verbs: list[str] = Field(description="What it allows; none of them implies another.")
    organizations: list[str] | None = Field(description="The organisations it reaches; null for all.")
    state: Literal["active", "expired", "revoked"]
    last_four: str = Field(description="The last four characters of the key.")
    created_at: dt.datetime
    created_by: str = Field(description="The id of the key that made it; empty for one made on the host itself.")
    expires_at: dt.datetime | None = None
    last_used_at: dt.datetime | None = Field(default=None, description="To the hour.")
    revoked_at: dt.datetime | None = None


class NewApiKeyView(ApiKeyView):
    """An API key with its secret, as it is shown once and never again."""

    key: str = Field(description="The key itself. It is kept nowhere; put it away safely.")
