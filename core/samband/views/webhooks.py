"""Webhooks in: an integration's address, what came to it, and replays."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from samband.contract import WebhookProof
from samband.views.shapes import RunState, View

__all__ = [
    "DeliveryReplayView",
    "ReceiptView",
    "ReceivedDeliveryView",
    "ReceivedState",
    "TriggerView",
    "WebhookTestView",
    "WebhookView",
]

ReceivedState = Literal["received", "processed"]


class WebhookView(View):
    """The address an integration is told at, and what came to it."""

    type: str = Field(description="The integration's type.")
    address: str | None = Field(
        description="What to enter at the other side. Treat it as a secret; null for keys that may not configure."
    )
    hint: str = Field(default="", description="What to do before the address can be used, if anything.")
    proof: WebhookProof = Field(
        description="How deliveries prove themselves. With none, whoever knows the address can trigger a sync."
    )
    secret: str | None = Field(
        default=None, description="Only in the answer that made it: a secret that samband chose. Not shown again."
    )
    secret_hint: str = Field(description="The last four characters of the newest secret; empty without one.")
    older_secret_until: dt.datetime | None = Field(
        default=None, description="Until when the secret before the newest one still counts."
    )
    revision: int
    created_at: dt.datetime
    updated_at: dt.datetime
    last_received_at: dt.datetime | None = Field(description="When a new delivery was last taken in.")
    last_healthy_at: dt.datetime | None = Field(
        description="When a delivery's proof last held, repeats and handshakes included."
    )
    waiting: int = Field(description="Deliveries that no run has taken up yet.")
    counts: Mapping[str, int] = Field(
        description="Deliveries of the last 24 hours by outcome: accepted, repeated, ignored (the integration was not "
        "enabled), handshake."
    )
    refused: Mapping[str, int] = Field(description="Refused deliveries of the last 24 hours by reason.")
    old_secret_used: int = Field(description="Accepted deliveries of the last 24 hours that used the older secret.")


class WebhookTestView(View):
    """How a signed sample fared in the verification that deliveries go through. Nothing is stored for it."""

    ok: bool
    proof: WebhookProof
    reason: str | None = Field(default=None, description="Why the sample was refused.")
    message: str


class ReceiptView(View):
    """What became of a delivery. It is sent only after the delivery was stored."""

    outcome: Literal["accepted", "repeated", "ignored", "handshake"]


class TriggerView(View):
    """What a delivery says should be read. No keys means what has changed."""

    stream: str
    keys: list[str]


class ReceivedDeliveryView(View):
    """A delivery that was taken in. What it held is never shown, only its size and digest."""

    id: int
    state: ReceivedState = Field(description="processed as soon as a run was ordered for it, or none was needed.")
    note: str = Field(
        description="unnumbered: the sender gave no id · old_secret: proved with the older secret · replayed · or empty."
    )
    triggers: list[TriggerView]
    run: str | None = Field(description="The run that was ordered for it, with everything else that waited then.")
    run_state: RunState | None
    size: int = Field(description="Of the body, in bytes.")
    digest: str = Field(description="SHA-256 of the body, in hexadecimal.")
    has_content: bool = Field(description="Whether the delivery itself is still kept, encrypted.")
    replay_of: int | None
    replayed_by: str
    received_at: dt.datetime
    processed_at: dt.datetime | None


class DeliveryReplayView(View):
    """Deliveries that count once more."""

    count: int
    first: int | None = Field(description="Id of the first new delivery; the others follow it.")
    last: int | None
