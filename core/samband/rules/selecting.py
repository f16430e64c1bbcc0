"""Which claims of an order can go out, and why the others cannot."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

SkipReason = Literal["not_found", "not_approved", "on_its_way", "already_exported", "outcome_unknown"]

LIVE_STATES = ("reserved", "sent", "accepted", "posted", "unknown")
_BECAUSE: Mapping[str, SkipReason] = {
    "reserved": "on_its_way",
    "sent": "on_its_way",
    "accepted": "already_exported",
    "posted": "already_exported",
    "unknown": "outcome_unknown",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim as the store holds it.

    Attributes:
        item_state: Of its export that is not over, or None.
        exports: How often it has been taken for this system before.
    """

    id: str
    version: int
    status: str
    item_state: str | None
    exports: int


@dataclass(slots=True, kw_only=True)
class Choice:
    """What goes out, in the order of the claims' ids, and what does not."""

    taken: list[Claim] = field(default_factory=list)
    skipped: list[tuple[str, SkipReason]] = field(default_factory=list)


def choose(asked: Iterable[str] | None, claims: Iterable[Claim]) -> Choice:
    """Gives what can go out.

    Args:
        asked: Ids that were named, or None for every approved claim that has not gone out yet: then the others are not
            in scope and no reason is given for them.
        claims: Those of the named ids, or of the organisation, that exist.
    """
    known = {claim.id: claim for claim in claims}
    choice = Choice()
    for claim_id in sorted(known) if asked is None else dict.fromkeys(asked):
        reason = _reason(known.get(claim_id))
        if reason is None:
            choice.taken.append(known[claim_id])
        elif asked is not None:
            choice.skipped.append((claim_id, reason))
    return choice


def _reason(claim: Claim | None) -> SkipReason | None:
    if claim is None:
        return "not_found"
    if claim.item_state is not None:
        return _BECAUSE[claim.item_state]
    return None if claim.status == "approved" else "not_approved"


def item_key(organization_id: str, integration_id: str, claim_id: str, export: int) -> str:
    """Gives the idempotency key of a claim's n-th export: 32 hex digits, fixed before the first attempt.

    Made of what it names rather than of chance, so that the same export has the same key by whatever route it goes.
    """
    told = "\n".join((organization_id, integration_id, claim_id, str(export)))
    return hashlib.blake2b(told.encode(), digest_size=16, person=b"samband-export").hexdigest()
