"""The frozen types of what goes out: items, vouchers, receipts, and the other side's books they are compared with.

A part of the boundary between the core and a plugin; `samband.contract` has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

__all__ = [
    "Batch",
    "Booked",
    "Chart",
    "ChartEntry",
    "ChartPeriod",
    "ExportFile",
    "Item",
    "Receipt",
    "Route",
    "Sought",
    "Voucher",
    "VoucherLine",
    "VoucherPayee",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherPayee:
    """Who a line is owed to.

    Attributes:
        strategy: ``employee`` or ``supplier`` for a line in that subledger, ``liability`` for a plain account.
        code: Their number in the subledger; None for a plain account.
        name: For people; None where it is not to be sent.
        bank_account: Where to pay, 11 digits; None when the books know it.
    """

    strategy: Literal["employee", "supplier", "liability"]
    code: str | None = None
    name: str | None = None
    bank_account: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherLine:
    """One posting. Debit is above zero, credit below.

    Attributes:
        n: From 1, in order.
        key: Our key of the line, ``{item key}-{n}``; travels in a field that can be searched.
        account: Ledger account, as text: leading zeros count.
        amount: Signed, two decimals, in the voucher's currency.
        text: At most 200 characters, without control characters.
        dimensions: The adapter's name of a dimension → code.
        tax_rule: The other system's code; None for its own default.
        payee: On the lines that owe somebody something.
        quantity: Kilometres of an allowance, for information; None otherwise.
    """

    n: int
    key: str
    account: str
    amount: Decimal
    text: str
    dimensions: Mapping[str, str] = field(default_factory=dict)
    tax_rule: str | None = None
    payee: VoucherPayee | None = None
    quantity: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Voucher:
    """What one claim comes to in the books: made once, when it is reserved, and the same on every route.

    Attributes:
        key: The item's key.
        number: 1 to 99,999,999; the same on every route, and no other voucher of the integration has it.
        type: The other system's voucher type.
        date: The day it is booked on.
        currency: ISO 4217.
        text: Of the voucher as a whole.
        lines: At least two; their amounts sum to zero.
        claim: The platform's id of the claim.
        mapping_version: The version of the mapping it was made with.
        reverses: Number of the voucher that this one takes back; None for a booking.
    """

    key: str
    number: int
    type: str
    date: date
    currency: str
    text: str
    lines: Sequence[VoucherLine]
    claim: str
    mapping_version: int
    reverses: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to export.

    Attributes:
        key: Our idempotency key, fixed before the first attempt; it must travel in a field they can search.
        stream: Where it goes.
        values: Canonical values. Money is `decimal.Decimal` with its currency beside it. Empty for a voucher.
        reference: Their id when they know it already.
        voucher: For streams of kind ``voucher``: what is to be booked. The claim itself stays with the core.
    """

    key: str
    stream: str
    values: Mapping[str, Any]
    reference: str | None = None
    voucher: Voucher | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Items reserved together, in a fixed order.

    Attributes:
        id: Unique; the same batch is never given twice.
        items: In the order of their reservation.
        route: The way that was chosen for them with ``choose_route``; None for plugins that have but one.
    """

    id: str
    items: Sequence[Item]
    route: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way that a plugin chose for what goes out next.

    Attributes:
        name: One of the plugin's own names, or ``file``: then the core writes what ``render`` gives to the drop folder.
        reasons: Way that was passed over → why, in one sentence for people. Logged, and kept with each item.
    """

    name: str
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """An item whose fate is asked for.

    Attributes:
        key: Our idempotency key.
        state: ``sent`` or ``unknown`` when nobody knows whether it arrived; ``accepted`` when it did, and the question is
            whether it has been booked.
        route: The way it went; None when it never left, or the plugin has but one.
        sent_at: When it was last sent, aware UTC; None when nobody knows.
        number: The voucher's number; None for items that are no vouchers.
        date: The voucher's date; None for items that are no vouchers.
        reference: Theirs, as the last receipt told it.
        lines: How many lines the voucher has; None for items that are no vouchers.
        code: Of the last receipt; an accepted item has one when it is refused there and lies there still.
    """

    key: str
    state: Literal["sent", "unknown", "accepted"]
    route: str | None = None
    sent_at: datetime | None = None
    number: int | None = None
    date: date | None = None
    reference: str | None = None
    lines: int | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of one item.

    Attributes:
        key: The item's key. From ``acknowledge``, where a report names none, the voucher's number in digits.
        state: ``accepted`` with their reference, when they have it; with a code and a message as well, when it cannot be
            booked as it is and lies there still, where somebody may mend it: its claim is not free then · ``posted`` with
            their number, when it is booked · ``rejected`` with a message and, where they name it, the field, when it is
            refused and they have nothing of it · ``unknown`` when it was sent and no answer came; from ``find_exported``:
            when it cannot be told yet, so that it must not be sent again.
        reference: Their id for what they took; for ``posted``, the number it is booked under.
        code: Their error code.
        field: The field they refused.
        message: Their words, as they came.
        evidence: Kept as proof, label → value; no secrets, no member data. At most 20 of at most 400 characters.
    """

    key: str
    state: Literal["accepted", "posted", "rejected", "unknown"]
    reference: str | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)  # before `field`, which hides the function
    code: str | None = None
    field: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartEntry:
    """An account, a dimension's value or a tax rule of the other system."""

    code: str
    text: str = ""
    is_open: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartPeriod:
    """A period of the books, both days included, and whether anything may still be booked in it."""

    first: date
    last: date
    is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What a mapping may refer to, as the other system has it now.

    Attributes:
        accounts: Ledger accounts.
        dimensions: The adapter's name of a dimension → its values. A dimension that is not there cannot be checked.
        tax_rules: None when they cannot be read.
        periods: None when they cannot be read.
    """

    accounts: Sequence[ChartEntry]
    dimensions: Mapping[str, Sequence[ChartEntry]] = field(default_factory=dict)
    tax_rules: Sequence[ChartEntry] | None = None
    periods: Sequence[ChartPeriod] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """One line that the other side has, whether we know of it or not.

    Attributes:
        line_key: What stands in the field that carries our line keys; None when it is empty.
        state: ``staged`` when it waits to be booked, ``posted`` when it is, ``failed`` when it cannot be.
        number: The voucher's number that we gave; None when they do not tell it.
        reference: Their own number of what is booked; None while it is staged.
        date: The day it is booked on.
        account: Ledger account.
        amount: Signed, as they have it.
        currency: ISO 4217; None when they do not tell it.
    """

    line_key: str | None
    state: Literal["staged", "posted", "failed"]
    date: date
    account: str
    amount: Decimal
    number: int | None = None
    reference: str | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFile:
    """A file that carries a batch, made by ``render``. The same batch makes the same bytes.

    Attributes:
        name: As the other system wants it, without a folder; made of what the batch holds, so that it is the same again.
        media_type: For the download.
        content: The bytes.
        rows: Lines that carry data, without the heading.
    """

    name: str
    media_type: str
    content: bytes
    rows: int
