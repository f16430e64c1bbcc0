"""Whose item a report tells of, when it gives back the voucher's number and has lost the key.

A number is ours in one integration only: the other side's books have vouchers of others, under numbers of theirs. So a number
is believed of an item that went out as a file, and, where the report says of which file it tells, of an item that this file
carried.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from samband.outgoing import Receipt

__all__ = ["FILE", "Carried", "Understood", "number_of", "understood"]

FILE: Final = "file"
"""Label in a receipt's evidence: the file that it tells of."""

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,7}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """An item that has a number, and the files that carried it.

    Attributes:
        key: The item's.
        files: Their names, as they were made.
        is_out: At least one of them was delivered, is being so, or was kept to be fetched.
    """

    key: str
    files: Collection[str]
    is_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """What a report says, by keys.

    Attributes:
        receipts: One for each item, under its key.
        contradicted: Keys of items of which it says two things; neither is believed.
        unknown: Numbers that belong to no item it can be telling of.
        by_number: How many receipts were matched by the voucher's number.
    """

    receipts: Sequence[Receipt]
    contradicted: Sequence[str] = ()
    unknown: Sequence[str] = ()
    by_number: int = 0


def number_of(receipt: Receipt) -> int | None:
    """Gives the voucher's number that stands in place of a key; None for a key, which has 32 digits."""
    return int(receipt.key) if _NUMBER.fullmatch(receipt.key) else None


def understood(
    receipts: Sequence[Receipt], carried: Mapping[int, Carried], *, report_file: str | None = None
) -> Understood:
    """Gives the receipts under the keys of their items.

    Args:
        receipts: As the plugin gives them; of a receipt with a number, ``evidence`` may name the file.
        carried: Number → the integration's item of that number. Others are nobody's.
        report_file: The file that the whole report is about, where its own name says so.
    """
    found: dict[str, Receipt] = {}
    contradicted: dict[str, None] = {}
    unknown: dict[str, None] = {}
    by_number = 0
    for receipt in receipts:
        number = number_of(receipt)
        if number is not None:
            item = carried.get(number)
            if item is None or not _is_about(receipt, item, report_file):
                unknown[receipt.key] = None
                continue
            by_number += 1
            proof = {**receipt.evidence, "matched by": f"voucher number {number}"}
            receipt = replace(receipt, key=item.key, evidence=proof)
        other = found.setdefault(receipt.key, receipt)
        if (other.state, other.reference) != (receipt.state, receipt.reference):
            contradicted[receipt.key] = None
    return Understood(
        receipts=[receipt for key, receipt in found.items() if key not in contradicted],
        contradicted=list(contradicted), unknown=list(unknown), by_number=by_number,
    )  # fmt: skip


def _is_about(receipt: Receipt, item: Carried, report_file: str | None) -> bool:
    named = re.split(r"[\\/]", receipt.evidence.get(FILE, "").strip())[-1] or report_file
    if named:
        return named in item.files
    # A refusal frees the claim to be paid again, so it is not believed of what may be somebody else's voucher.
    return item.is_out and receipt.state != "rejected"
