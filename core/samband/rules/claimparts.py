"""What a line of a claim is made of: the thing itself, and toll, parking, transport and other on top of it; its dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

__all__ = ["ON_TOP", "Part", "Unpostable", "dimensions_of", "parts_of"]

ON_TOP: Final = ("toll", "parking", "transport", "other")
"""Amounts that a line may have beside its own; each is mapped as an expense type of that name."""
_KILOMETRES: Final = ("km", "kilometre", "kilometres", "kilometer")


class Unpostable(Exception):
    """A claim that cannot become a voucher, and why; the others of an order go out without it.

    Attributes:
        code: Stable.
        field: Of the claim, dotted, for instance ``lines.2.kilometres``.
        message: One sentence with the way out. Holds no member data.
    """

    def __init__(self, code: str, field: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.message = message


class Part(NamedTuple):
    """A part of a claim's line, which is booked under an expense type."""

    expense_type: str
    amount: Decimal
    kilometres: Decimal | None = None
    rate: Decimal | None = None


def parts_of(line: Mapping[str, Any]) -> list[Part]:
    """Gives the parts of a claim's line that are worth something; together they come to exactly its amount.

    The line's amount is the whole of it. What toll, parking, transport and other do not take is booked under the line's
    own expense type, with its kilometres and the rate that the claim applied.

    Raises:
        Unpostable: The amounts on top come to more than the line.
    """
    on_top = [Part(name, amount) for name in ON_TOP if (amount := decimal_of(line.get(name)))]
    rest = (decimal_of(line["amount"]) or Decimal(0)) - sum((part.amount for part in on_top), Decimal(0))
    if rest < 0:
        raise Unpostable(
            "parts_exceed_amount", "amount",
            f"The line's {', '.join(part.expense_type for part in on_top)} come to more than the line itself; "
            "correct the claim.",
        )  # fmt: skip
    kilometres = decimal_of(line.get("kilometres"))
    if kilometres is None and line.get("unit") in _KILOMETRES:
        kilometres = decimal_of(line.get("quantity"))
    main = [Part(str(line["expense_type"]), rest, kilometres, decimal_of(line.get("rate")))] if rest else []
    return [*main, *on_top]


def dimensions_of(body: Mapping[str, Any], line: Mapping[str, Any] | None = None) -> Mapping[str, str]:
    """Gives a claim's dimensions, or those of one of its lines: its own, and the claim's where it has none of that name."""
    of_claim: Mapping[str, str] = body.get("dimensions") or {}
    own: Mapping[str, str] = (line or {}).get("dimensions") or {}
    return {**of_claim, **own} if own else of_claim


def decimal_of(value: Any) -> Decimal | None:
    """Gives an amount as kept (text, or already exact); None for none. Never made of a float."""
    if value is None or isinstance(value, Decimal):
        return value
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise TypeError("an amount is text or a Decimal")
    return Decimal(value)
