"""Posted lines as records of samband: pure functions, no network."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Required

from pydantic import ConfigDict, StringConstraints, with_config
from typing_extensions import TypedDict

from samband import Kind, Record, RejectedError
from samband_xledger.postings import read_line, to_amount, to_text
from samband_xledger.refusals import Row

_Code = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
_Money = Annotated[str, StringConstraints(pattern=r"^-?[0-9]{1,14}\.[0-9]{2}$")]


@with_config(ConfigDict(extra="forbid", hide_input_in_errors=True))
class LedgerEntry(TypedDict, total=False):
    """One line that is posted in a general ledger. Amounts are text with two decimals; credit is below zero."""

    transaction_number: Required[_Code]
    date: Required[dt.date]
    account: Required[_Code]
    amount: Required[_Money]
    currency: _Code | None
    ext_identifier: _Code | None
    voucher_number: _Code | None


LEDGER_ENTRY = Kind("ledger_entry", "Ledger entry", LedgerEntry, dict.fromkeys(LedgerEntry.__annotations__, "plain"))


class Joined:
    """What only ``journalEntries`` know of transactions (our key, the voucher's number), ready to be put beside them.

    The two lists have no key in common but the header; within one, account, amount and text tell the lines apart. Lines that
    these do not tell apart are the same to the books, and are given in their order.
    """

    def __init__(self, entries: Iterable[Row] = ()) -> None:
        self._left: dict[tuple[str | None, ...], list[tuple[str | None, str | None]]] = {}
        for entry in entries:
            line = read_line(entry)
            place = _place(entry.get("transactonHeaderDbId"), _inner(entry, "account", "dbId"), entry)
            number = to_text(entry.get("invoiceNumber")) if line.place else None
            self._left.setdefault(place, []).append((line.key, number))

    def take(self, row: Row) -> tuple[str | None, str | None]:
        """Gives key and voucher number of a transaction; each is given once."""
        left = self._left.get(_place(_inner(row, "header", "dbId"), row.get("accountDbId"), row))
        return left.pop(0) if left else (None, None)


def records_of(rows: Sequence[Row], joined: Joined) -> list[Record]:
    """Gives rows of ``transactions`` as records; what they hold is converted later."""
    found = []
    for row in rows:
        key, number = joined.take(row)
        found.append(Record(key=to_text(row.get("dbId")), values={**row, "_key": key, "_number": number}))
    return found


def to_ledger_entry(row: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    """Gives the ledger entry that a row stands for; `RejectedError` names the field that does not fit."""
    amount = to_amount(row.get("amount"))
    if amount is None or amount != round(amount, 2):
        raise RejectedError("The amount is no number of two decimals.", field="amount", code="wrong_type")
    return {
        "transaction_number": _needed(_inner(row, "header", "transactionNumber"), "transaction_number"),
        "date": _needed(_inner(row, "header", "postedDate"), "date")[:10],
        "account": _needed(to_text(row.get("_account")), "account"),
        "amount": f"{amount:.2f}",
        "currency": _inner(row, "currency", "code"),
        "ext_identifier": to_text(row.get("_key")),
        "voucher_number": to_text(row.get("_number")),
    }


def _place(header: Any, account: Any, row: Row) -> tuple[str | None, ...]:
    amount = to_amount(row.get("amount"))
    shown = None if amount is None else f"{amount:.2f}"
    return to_text(header), to_text(account), shown, to_text(row.get("text"))


def _inner(row: Row, name: str, field: str) -> str | None:
    inner = row.get(name)
    return to_text(inner.get(field)) if isinstance(inner, Mapping) else None


def _needed(value: str | None, field: str) -> str:
    if value is None:
        raise RejectedError("Xledger left it empty.", field=field, code="missing")
    return value
