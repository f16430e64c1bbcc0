"""Which claims of an order can go out, and why the others cannot."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal

from samband.errors import FieldProblem, InvalidError

SkipReason = Literal[
    "not_found", "not_approved", "on_its_way", "already_exported", "outcome_unknown", "excluded", "unpostable"
]

LIVE_STATES = ("reserved", "sent", "accepted", "posted", "unknown")
CORE_ROUTES: Final = ("file", "download")
"""Ways that the core goes by itself, with what a plugin's ``render`` gives."""
HIGHEST_NUMBER: Final = 99_999_999
"""Of a voucher: eight digits is what every route can carry."""

_BECAUSE: Mapping[str, SkipReason] = {
    "reserved": "on_its_way",
    "sent": "on_its_way",
    "accepted": "already_exported",
    "posted": "already_exported",
    "unknown": "outcome_unknown",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What an order is about.

    Attributes:
        ids: Claims that were named; None for every approved one that has not gone out.
        first: The first day of approval, or None; only without ids.
        last: The last one, included, or None; only without ids.
        exclude: Claim → why it is left out, in the words of whoever ordered.
    """

    ids: Sequence[str] | None = None
    first: dt.date | None = None
    last: dt.date | None = None
    exclude: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim as the store holds it.

    Attributes:
        item_state: Of its export that is not over, or None.
        exports: How often it has been taken for this system before.
        day: Of its approval.
        body: Its values, amounts as text.
    """

    id: str
    version: int
    status: str
    item_state: str | None
    exports: int
    day: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A claim that does not go out, and why.

    Attributes:
        code: For one that cannot be booked: what is wrong with it.
        field: For one that cannot be booked: of the claim, dotted.
        message: One sentence; for an excluded one the reason that was given.
    """

    id: str
    reason: SkipReason
    code: str | None = None
    field: str | None = None
    message: str = ""


@dataclass(slots=True, kw_only=True)
class Choice:
    """What goes out, in the order of the claims' ids or of their naming, and what does not."""

    taken: list[Claim] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def choose(scope: Scope, claims: Iterable[Claim]) -> Choice:
    """Gives what can go out.

    Args:
        scope: When no ids are named, claims that cannot go out are not in it and no reason is given for them.
        claims: Those of the named ids, or of the organisation, that exist.
    """
    known = {claim.id: claim for claim in claims}
    choice = Choice()
    for claim_id in sorted(known) if scope.ids is None else dict.fromkeys(scope.ids):
        reason = _reason(known.get(claim_id))
        if claim_id in scope.exclude:
            choice.skipped.append(Skipped(id=claim_id, reason="excluded", message=scope.exclude[claim_id]))
        elif reason is None:
            choice.taken.append(known[claim_id])
        elif scope.ids is not None:
            choice.skipped.append(Skipped(id=claim_id, reason=reason))
    return choice


def check_scope(scope: Scope) -> None:
    """Refuses a scope that contradicts itself.

    Raises:
        InvalidError: Names the fields.
    """
    problems = []
    if scope.ids is not None and (scope.first is not None or scope.last is not None):
        text = "Name claims, or the days of their approval, but not both."
        problems.append(FieldProblem(field="ids", code="ids_and_days", message=text))
    if scope.first is not None and scope.last is not None and scope.first > scope.last:
        problems.append(FieldProblem(field="until", code="before_from", message="The last day is before the first."))
    if problems:
        raise InvalidError("The export cannot be ordered.", problems=problems)


def total_of(body: Mapping[str, Any]) -> Decimal:
    """Gives what a claim comes to, in its own currency."""
    return sum((Decimal(line["amount"]) for line in body["lines"]), Decimal(0))


def totals(amounts: Iterable[tuple[str, Decimal]]) -> dict[str, str]:
    """Gives the sum per currency as text with two decimals, from currency and amount."""
    sums: dict[str, Decimal] = {}
    for currency, amount in amounts:
        sums[currency] = sums.get(currency, Decimal(0)) + amount
    return {currency: f"{amount:.2f}" for currency, amount in sorted(sums.items())}


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


def number_of(key: str) -> int:
    """Gives the voucher number that a key asks for; the next free one is taken when another voucher has it."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, person=b"samband-voucher").digest()
    return 1 + int.from_bytes(digest) % HIGHEST_NUMBER


def next_number(number: int) -> int:
    """Gives the number after this one; after the highest comes the first."""
    return number % HIGHEST_NUMBER + 1
