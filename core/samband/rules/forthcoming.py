"""What approved claims that nobody has taken yet would come to in the books."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from samband.outgoing import ChartPeriod
from samband.rules.discrepancies import OurLine, period_of
from samband.rules.mapping import MappingBody, gaps
from samband.rules.posting import Unpostable, voucher_of
from samband.rules.reconciling import Waiting

_NO_KEY = "0" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Practice:
    """How an integration's claims are booked at present.

    Attributes:
        version: Of the mapping; 0 without one.
        periods: The other side's, as last read; None when they are not known.
    """

    mapping: MappingBody | None
    version: int
    periods: Sequence[ChartPeriod] | None
    today: dt.date


def forthcoming(
    period: str, claims: Mapping[str, Mapping[str, Any]], practice: Practice
) -> Iterator[Waiting]:  # fmt: skip
    """Yields those of the claims (id → values as kept) that would be booked in a month.

    One that cannot be turned into a voucher belongs to the month of its last line, with the reason why it cannot.
    """
    lacking = {} if practice.mapping is None else _lacking(practice.mapping, claims)
    for claim_id, body in claims.items():
        when, waiting = _waiting(claim_id, body, practice, lacking.get(claim_id))
        if when == period:
            yield waiting


def _lacking(mapping: MappingBody, claims: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Gives the first thing that the mapping lacks for each claim."""
    return {claim: f"{gap.kind}.{gap.name}" for gap in reversed(gaps(mapping, claims)) for claim in gap.claims}


def _waiting(claim_id: str, body: Mapping[str, Any], practice: Practice, lacking: str | None) -> tuple[str, Waiting]:
    currency = str(body["currency"])
    total = sum((Decimal(str(line["amount"])) for line in body["lines"]), Decimal("0.00"))

    def unmapped(reason: str, field: str | None) -> tuple[str, Waiting]:
        last = max(dt.date.fromisoformat(str(line["date"])[:10]) for line in body["lines"])
        return period_of(last), Waiting(claim=claim_id, currency=currency, total=total, reason=reason, field=field)

    if practice.mapping is None:
        return unmapped("mapping_missing", None)
    if lacking is not None:
        return unmapped("mapping_gap", lacking)
    try:
        voucher = voucher_of(
            body, claim_id=claim_id, key=_NO_KEY, number=1, mapping=practice.mapping,
            mapping_version=practice.version, today=practice.today, periods=practice.periods,
        )  # fmt: skip
    except Unpostable as error:
        return unmapped(error.code, error.field)
    lines = tuple(OurLine(line.n, line.account, line.amount) for line in voucher.lines)
    return period_of(voucher.date), Waiting(claim=claim_id, currency=voucher.currency, total=total, lines=lines)
