"""What crosses to a plugin of an item: made of what the ledger keeps, the same for every attempt and route."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Literal, cast

from samband.contract import Item, Sought
from samband.rules.posting import from_row
from samband.store.ledger import Taken
from samband.store.models import ExportItem

__all__ = ["exact", "item_of", "sought_of"]

_EXACT: Final = ("amount", "rate", "quantity", "kilometres", "toll", "parking", "transport", "other")


def item_of(taken: Taken) -> Item:
    """Gives what is to be sent: the voucher as it was reserved, or the claim itself."""
    item = taken.item
    if item.voucher is None:
        return Item(key=item.key, stream=item.stream, values=exact(taken.body))
    return Item(key=item.key, stream=item.stream, values={}, voucher=from_row(item.key, item.voucher))


def sought_of(item: ExportItem) -> Sought:
    """Gives what the other side is asked about."""
    return Sought(
        key=item.key, state=cast(Literal["sent", "unknown", "accepted"], item.state), route=item.route,
        sent_at=item.sent_at, number=item.voucher_number,
        date=None if item.voucher is None else dt.date.fromisoformat(item.voucher["date"]), reference=item.reference,
        lines=None if item.voucher is None else len(item.voucher["lines"]), code=item.code,
    )  # fmt: skip


def exact(body: Mapping[str, Any]) -> dict[str, Any]:
    """Gives a claim's values with its amounts as `decimal.Decimal`; they are kept as text."""
    lines = [
        {name: Decimal(value) if name in _EXACT and value is not None else value for name, value in line.items()}
        for line in body["lines"]
    ]
    return {**body, "lines": lines}
