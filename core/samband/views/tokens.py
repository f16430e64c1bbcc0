"""Access tokens and consents, as callers see them: never the token."""

from __future__ import annotations

import datetime as dt

from pydantic import Field

from samband.views.shapes import View

__all__ = ["ConsentView", "TokenView"]


class TokenView(View):
    """What is known of an integration's access token, which itself is never shown."""

    integration: str = Field(description="The integration's id.")
    expires_at: dt.datetime | None = Field(description="When it ends; null for one that does not.")
    generation: int = Field(description="Grows with every token that is obtained for the integration.")
    renewed_at: dt.datetime


class ConsentView(View):
    """Where a person agrees to the connection at the other side. The link holds for one sign-in."""

    url: str = Field(description="To be opened in the browser of somebody who may agree at the other side.")
    expires_at: dt.datetime = Field(description="Until then they must have come back.")
