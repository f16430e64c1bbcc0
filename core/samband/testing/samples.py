"""Things to export that a counterpart takes, made up: nobody's claim and nobody's name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final

from samband.contract import Item, Stream, Voucher, VoucherLine
from samband.rules.selecting import number_of

__all__ = ["OUTGOING_KINDS", "sample_item", "spoilt_item"]

OUTGOING_KINDS: Final = ("voucher", "reimbursement")
"""Kinds of streams that carry claims to the books."""

_CENT: Final = Decimal("0.01")


def sample_item(
    stream: Stream,
    key: str,
    *,
    accounts: Collection[str] = ("7140", "2910"),
    type: str = "GL",
    currency: str = "NOK",
    day: date | None = None,
) -> Item:
    """Gives an item for a stream: a voucher of two lines that balance, or an approved claim of one line.

    Args:
        stream: Of kind ``voucher`` or ``reimbursement``.
        key: The item's.
        accounts: The voucher's debit and credit account; a third and further ones share the credit.
        type: The voucher's type in the other system.
        currency: ISO 4217.
        day: When it is booked, or was spent; today when it is None.
    """
    day = day or datetime.now(UTC).date()
    claim = f"contract-suite-{key[:12]}"
    if stream.kind != "voucher":
        line = {"expense_type": "travel", "amount": Decimal("265.00"), "date": day.isoformat()}
        payee = {"id": "contract-suite"}
        return Item(
            key=key,
            stream=stream.name,
            values={"payee": payee, "currency": currency, "status": "approved", "lines": [line]},
        )
    amounts = [Decimal("-265.00")] * (len(accounts) - 1)
    lines = [
        VoucherLine(n=n, key=f"{key}-{n}", account=account, amount=amount, text=f"Contract suite {key[:6]}")
        for n, (account, amount) in enumerate(zip(accounts, [-sum(amounts, Decimal()), *amounts], strict=True), 1)
    ]
    voucher = Voucher(
        key=key, number=number_of(key), type=type, date=day, currency=currency, text="Contract suite", lines=lines,
        claim=claim, mapping_version=1,
    )  # fmt: skip
    return Item(key=key, stream=stream.name, values={}, voucher=voucher)


def spoilt_item(item: Item) -> Item | None:
    """Gives the item with a voucher that is one hundredth out of balance; None for an item that is no voucher."""
    if item.voucher is None:
        return None
    first, *rest = item.voucher.lines
    lines = [replace(first, amount=first.amount + _CENT), *rest]
    return replace(item, voucher=replace(item.voucher, lines=lines))
