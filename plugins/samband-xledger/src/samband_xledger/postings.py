"""A voucher as lines for Xledger's import, and back. Pure functions, no network.

One line is one node of ``addGLImportItems``; the lines of a voucher share ``trRegNumber``, which is the voucher's number, and
each carries its own key in ``extIdentifier``. Field names: the lists of Xledger's GraphQL schema.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from samband import Item, RejectedError, Voucher, VoucherLine, VoucherPayee
from samband_xledger.layouts import line_key_in
from samband_xledger.settings import XledgerSettings

MOST_LINES: Final = 500
"""Most nodes that one mutation may carry (Xledger's help centre, general tips)."""

HOME_CURRENCY: Final = "NOK"

Node = Mapping[str, Any]

_LINE_KEY: Final = re.compile(r"(.{1,200})-([1-9][0-9]{0,3})", re.DOTALL)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_LONE: Final = re.compile(r"[\ud800-\udfff]")  # half a character, which cannot be written as UTF-8
_MOST_TEXT: Final = 200
_HIGHEST_NUMBER: Final = 99_999_999


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """Vouchers that go in one mutation, each whole.

    Attributes:
        vouchers: In their order.
        nodes: Voucher's key → its nodes by line key.
    """

    vouchers: tuple[Voucher, ...]
    nodes: Mapping[str, Mapping[str, Node]]

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The mutation's variable: every node with our line key as ``clientId``, which comes back with its answer."""
        return [{"clientId": line, "node": node} for v in self.vouchers for line, node in self.nodes[v.key].items()]

    def only(self, vouchers: Iterable[Voucher]) -> Parcel:
        """Gives the same with some of its vouchers."""
        kept = tuple(vouchers)
        return Parcel(vouchers=kept, nodes={v.key: self.nodes[v.key] for v in kept})


def voucher_of(item: Item) -> Voucher:
    """Gives the item's voucher; `RejectedError` for an item that has none."""
    if item.voucher is None:
        raise RejectedError("Xledger takes vouchers only.", code="not_a_voucher")
    return item.voucher


def nodes_of(voucher: Voucher, settings: XledgerSettings) -> dict[str, Node]:
    """Gives the voucher's nodes by line key, in order.

    Raises:
        RejectedError: It does not balance, has too many lines, or something in it cannot be said to Xledger. Names the
            field. Nothing has been sent then.
    """
    check_voucher(voucher)
    if len(voucher.lines) > MOST_LINES:
        raise RejectedError(
            f"The voucher has {len(voucher.lines)} lines; Xledger takes {MOST_LINES} at once, and one voucher is never"
            " split.",
            code="too_many_lines",
            field="lines",
        )
    return {line.key: _node(voucher, line, settings) for line in voucher.lines}


def check_voucher(voucher: Voucher) -> None:
    """Refuses a voucher that must not leave the house, whichever way it goes.

    Raises:
        RejectedError: Names the field.
    """
    if len(voucher.lines) < 2:
        raise RejectedError("A voucher has two lines or more.", code="too_few_lines", field="lines")
    if not 1 <= voucher.number <= _HIGHEST_NUMBER:
        raise RejectedError("The voucher's number is not within 1 to 99,999,999.", code="bad_number", field="number")
    if [line.key for line in voucher.lines] != [f"{voucher.key}-{line.n}" for line in voucher.lines]:
        raise RejectedError("A line's key is not the voucher's and its place.", code="bad_line_key", field="lines")
    if len({line.n for line in voucher.lines}) != len(voucher.lines):
        raise RejectedError("Two lines have the same place.", code="bad_line_key", field="lines")
    for line in voucher.lines:
        _check_line(line)
    difference = sum((line.amount for line in voucher.lines), Decimal())
    if difference != 0:
        raise RejectedError(
            f"The voucher does not balance: its lines come to {difference} and not to 0.00.",
            code="unbalanced",
            field="lines",
        )


def _check_line(line: VoucherLine) -> None:
    at = f"lines.{line.n}"
    if not line.amount.is_finite() or line.amount != line.amount.quantize(Decimal("0.01")):
        raise RejectedError("An amount has more than two decimals.", code="bad_amount", field=f"{at}.amount")
    if not line.account.strip():
        raise RejectedError("A line has no account.", code="missing", field=f"{at}.account")
    if len(line.text) > _MOST_TEXT or _CONTROL.search(line.text) or _LONE.search(line.text):
        raise RejectedError(
            f"A text is longer than {_MOST_TEXT} characters or holds control characters.",
            code="bad_text",
            field=f"{at}.text",
        )


def _node(voucher: Voucher, line: VoucherLine, settings: XledgerSettings) -> Node:
    amount = f"{line.amount:.2f}"
    node: dict[str, Any] = {
        "owner": {"code": settings.entity_code},
        "transactionSource": {"code": voucher.type or settings.voucher_type},
        "trRegNumber": voucher.number,
        "trItemNumber": line.n,
        "positionNumber": line.n,
        "postedDate": voucher.date.isoformat(),
        "account": {"code": line.account},
        "invoiceAmount": amount,
        "currency": {"code": voucher.currency},
        "text": line.text,
        "extIdentifier": line.key,
        # Lines that are posted do not show trRegNumber: this is where people and look-ups find the voucher by its number.
        "invoiceNumber": str(voucher.number),
        # Both staged and posted lines show this one: a look before writing finds the claim by it (`samband_xledger.earlier`).
        "yourReference": claim_mark(voucher.claim),
    }
    if voucher.currency == HOME_CURRENCY:
        node["amount"] = amount  # in the books' currency; of a foreign one Xledger knows the rate, and we do not
    if settings.job_level is not None:
        node["jobLevel"] = {"dbSubId": settings.job_level}
    if line.tax_rule is not None:
        node["taxRule"] = {"code": line.tax_rule}
    if line.quantity is not None:
        node["quantity"] = f"{line.quantity:f}"
    return node | _dimensions(line, settings) | _payee(line.payee, settings)


def _dimensions(line: VoucherLine, settings: XledgerSettings) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, code in line.dimensions.items():
        field = settings.dimension_fields.get(name)
        if field is None:
            raise RejectedError(
                f"The dimension {name} has no field in this tenant.",
                code="dimension_unmapped",
                field=f"lines.{line.n}.dimensions.{name}",
                hint="Add it to 'dimension_fields' in the settings, or take it out of the mapping.",
            )
        if field in found and found[field] != {"code": code}:
            raise _field_taken(line, name, field)
        found[field] = {"code": code}
    return found


def _field_taken(line: VoucherLine, name: str, field: str) -> RejectedError:
    return RejectedError(
        f"The dimension {name} shares the field {field} with another one of the line, and their codes differ.",
        code="dimension_field_taken",
        field=f"lines.{line.n}.dimensions.{name}",
        hint="Give each dimension a field of its own in 'dimension_fields'.",
    )


def _payee(payee: VoucherPayee | None, settings: XledgerSettings) -> dict[str, Any]:
    if payee is None:
        return {}
    found: dict[str, Any] = {}
    if payee.strategy != "liability":
        if not payee.code:
            raise RejectedError(
                "The payee has no number in the subledger.",
                code="missing",
                field="payee.code",
                hint="Give the person's number in Xledger, or map the payee to a plain account.",
            )
        found["subledger"] = {"code": payee.code}
        kind = settings.subledger_types.get(payee.strategy)
        found |= {"slTransactionType": {"code": kind}} if kind else {}
    return found | ({"bankAccount": payee.bank_account} if payee.bank_account else {})


def packed(
    vouchers: Sequence[Voucher], nodes: Mapping[str, Mapping[str, Node]], *, most: int = MOST_LINES
) -> list[Parcel]:
    """Puts vouchers into as few parcels as their order allows; none is split, and none has more than ``most`` lines."""
    parcels: list[Parcel] = []
    open_: list[Voucher] = []
    size = 0
    for voucher in vouchers:
        count = len(nodes[voucher.key])
        if open_ and size + count > most:
            parcels.append(Parcel(vouchers=tuple(open_), nodes={v.key: nodes[v.key] for v in open_}))
            open_, size = [], 0
        open_.append(voucher)
        size += count
    if open_:
        parcels.append(Parcel(vouchers=tuple(open_), nodes={v.key: nodes[v.key] for v in open_}))
    return parcels


# ── back ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line as Xledger has it, staged or posted.

    Attributes:
        id: Their dbId.
        key: What stands in ``extIdentifier``, or else in the mark at the end of the text, which lines that came in with a
            file have; None when neither does.
        amount: In the voucher's currency; None when it cannot be read.
        number: The voucher's number that we gave, as far as they show it.
        transaction: Their own number of what is posted.
    """

    id: str
    key: str | None
    amount: Decimal | None
    number: int | None = None
    transaction: str | None = None

    @property
    def place(self) -> tuple[str, int] | None:
        """The item's key and the line's place in it; None when the key is none of ours."""
        return None if self.key is None else split_key(self.key)


def split_key(line_key: str) -> tuple[str, int] | None:
    """Gives the item's key and the line's place; None when the text is no line key."""
    found = _LINE_KEY.fullmatch(line_key)
    return (found[1], int(found[2])) if found else None


def read_line(node: Node) -> Line:
    """Gives a row of ``glImportItems`` or ``journalEntries`` as a line, and makes no fuss about what is not there."""
    header = node.get("transactionHeader")
    number = to_text(node.get("trRegNumber")) or to_text(node.get("invoiceNumber"))
    transaction = to_text(header.get("transactionNumber")) if isinstance(header, Mapping) else None
    text = to_text(node.get("text")) or ""
    return Line(
        id=to_text(node.get("dbId")) or "",
        key=to_text(node.get("extIdentifier")) or line_key_in(text),
        amount=_own_amount(node),
        number=int(number) if number and re.fullmatch(r"[0-9]{1,8}", number) else None,
        transaction=transaction or to_text(node.get("transactionNumber")),
    )


def _own_amount(node: Node) -> Decimal | None:
    own = to_amount(node.get("invoiceAmount"))
    return own if own is not None else to_amount(node.get("amount"))


def by_item(lines: Iterable[Line]) -> dict[str, dict[int, list[Line]]]:
    """Groups lines by the item's key and the line's place; lines without a key of ours are left out."""
    found: dict[str, dict[int, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if (place := line.place) is not None:
            found[place[0]][place[1]].append(line)
    return found


def to_text(value: Any) -> str | None:
    """Gives an id or a text: they send either as text or as a number. None for what is empty."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip() or None


def to_amount(value: Any) -> Decimal | None:
    """Gives money exactly: they send text, and take bare numbers as well. None for what is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    try:
        amount = Decimal(value.strip() if isinstance(value, str) else value)
    except InvalidOperation:
        return None
    return amount if amount.is_finite() else None


def claim_mark(claim: str) -> str:
    """Gives what stands for a claim in ``yourReference``: its id where that is short and plain, else a digest of it."""
    is_plain = re.fullmatch(r"[A-Za-z0-9._:/-]{1,40}", claim) is not None
    return claim if is_plain else hashlib.sha256(claim.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def line_keys(keys: Iterable[str], first: int, last: int) -> Iterator[str]:
    """Gives the keys of the lines ``first`` to ``last`` of each item."""
    for key in keys:
        for n in range(first, last + 1):
            yield f"{key}-{n}"
