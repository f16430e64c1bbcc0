"""Making the vouchers of an order: which claims of it can be booked, and why the others cannot."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from samband.errors import ConflictError, FieldProblem
from samband.outgoing import ChartPeriod, Voucher
from samband.rules.mapping import Gap, MappingBody
from samband.rules.posting import Unpostable, voucher_of
from samband.rules.selecting import Choice, Claim, Skipped

__all__ = ["Making", "demand_no_gap", "good", "without_unpostable"]

_NAMED: Final = 20
_GAPS_NAMED: Final = 1_000
"""A table that nobody has filled yet lacks an entry for every claim of an order."""


@dataclass(frozen=True, slots=True)
class Making:
    """Makes the vouchers of an order.

    Attributes:
        keys: Claim → its item's key.
        numbers: Key → the voucher's number.
        version: Of the mapping.
        today: By the calendar of the books.
        periods: The other side's, as last read; None when they are not known.
        ready: (Claim, its version) → a voucher that was made before, of the same mapping and periods.
    """

    keys: Mapping[str, str]
    numbers: Mapping[str, int]
    mapping: MappingBody
    version: int
    today: dt.date
    periods: Sequence[ChartPeriod] | None
    ready: Mapping[tuple[str, int], Voucher] = field(default_factory=dict)

    def all(self, claims: Iterable[Claim]) -> dict[str, Voucher | Unpostable]:
        """Gives each claim's voucher, or why it has none."""
        return {claim.id: self._one(claim) for claim in claims}

    def _one(self, claim: Claim) -> Voucher | Unpostable:
        key = self.keys[claim.id]
        done = self.ready.get((claim.id, claim.version))
        if done is not None and (done.key, done.number) == (key, self.numbers[key]):
            return done
        try:
            return voucher_of(
                claim.body, claim_id=claim.id, key=key, number=self.numbers[key], mapping=self.mapping,
                mapping_version=self.version, today=self.today, periods=self.periods,
            )  # fmt: skip
        except Unpostable as error:
            return error


def good(made: Mapping[str, Voucher | Unpostable]) -> dict[str, Voucher]:
    """Gives the vouchers alone."""
    return {claim_id: voucher for claim_id, voucher in made.items() if isinstance(voucher, Voucher)}


def without_unpostable(choice: Choice, made: Mapping[str, Voucher | Unpostable]) -> Choice:
    """Gives the choice without the claims that have no voucher, each with its reason.

    Raises:
        ConflictError: None has one (`nothing_postable`).
    """
    bad = {claim_id: error for claim_id, error in made.items() if isinstance(error, Unpostable)}
    if bad and len(bad) == len(choice.taken):
        problems = [
            FieldProblem(field=f"{claim_id}.{error.field}"[:300], code=error.code, message=error.message)
            for claim_id, error in list(bad.items())[:_NAMED]
        ]
        raise ConflictError(
            f"None of the {len(bad)} claims in scope can be booked; nothing was reserved.", code="nothing_postable",
            problems=problems, hint="Correct the claims that are named, then order again.",
        )  # fmt: skip
    skipped = [
        Skipped(id=claim_id, reason="unpostable", code=error.code, field=error.field, message=error.message)
        for claim_id, error in bad.items()
    ]
    taken = [claim for claim in choice.taken if claim.id not in bad]
    return Choice(taken=taken, skipped=[*choice.skipped, *skipped])


def demand_no_gap(lacking: Sequence[Gap]) -> None:
    """Refuses an order whose claims need what the mapping lacks, with all of it (`mapping_gap`)."""
    if not lacking:
        return
    problems = [
        FieldProblem(
            field=f"mapping.{gap.field}"[:300], code="gap", message=f"{gap.message} Needed by {_some(gap.claims)}.",
        )
        for gap in lacking[:_GAPS_NAMED]
    ]  # fmt: skip
    most = "" if len(lacking) <= _GAPS_NAMED else f"; the first {_GAPS_NAMED} are named"
    raise ConflictError(
        f"The mapping lacks {len(lacking)} of the things that these claims need{most}. Nothing was reserved.",
        code="mapping_gap", problems=problems, hint="Complete the mapping, or leave the claims out with a reason.",
    )  # fmt: skip


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:_NAMED])
    return shown if len(ids) <= _NAMED else f"{shown} and {len(ids) - _NAMED} more"
