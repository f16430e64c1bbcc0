"""What comes in, what becomes of it, and how much may come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from samband.contract import WebhookAnswer
from samband.errors import SambandError

__all__ = ["Parcel", "ReceiptOutcome", "Received", "ReceivingLimits", "Rehearsal"]

ReceiptOutcome = Literal["accepted", "repeated", "ignored", "handshake"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivingLimits:
    """How much may come in.

    Attributes:
        max_bytes: Largest body of one delivery.
        max_waiting: Deliveries on their way at once; one address may have half of them.
        max_waiting_bytes: What they may hold together; one address may have half of that.
    """

    max_bytes: int = 1024 * 1024
    max_waiting: int = 2_000
    max_waiting_bytes: int = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A delivery, byte for byte, before anything is known about it.

    Attributes:
        headers: Lower-case names.
    """

    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What became of a delivery whose proof held.

    Attributes:
        outcome: ``accepted`` and stored · ``repeated``: it came before · ``ignored``: the integration is not enabled ·
            ``handshake``: answered, with nothing to fetch.
        answer: For the sender, instead of the plain one.
    """

    outcome: ReceiptOutcome
    answer: WebhookAnswer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """How a signed sample fared.

    Attributes:
        is_signed: Whether the plugin's proof could be signed by us at all.
        refusal: Why the sample was refused; None when its proof held.
    """

    is_signed: bool
    refusal: SambandError | None = None
