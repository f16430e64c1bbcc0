"""A report that has lost our key settles by voucher number what it certainly is about, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from samband import Receipt
from samband.adapters.filing import checked_report
from samband.rules.reporting import Carried, number_of, understood

KEY, OTHER = f"{7:032x}", f"{8:032x}"
CARRIED = {
    7: Carried(key=KEY, files={"samband-a.csv", "samband-b.csv"}, is_out=True),
    8: Carried(key=OTHER, files={"samband-b.csv"}, is_out=False),
}


def told(key: str, file: str | None = "samband-a.csv", state: Any = "posted", reference: str = "1041") -> Receipt:
    evidence = {} if file is None else {"file": file}
    code = "refused" if state == "rejected" else None
    return Receipt(key=key, state=state, reference=reference, evidence=evidence, code=code)


def outcome(*receipts: Receipt, report_file: str | None = None) -> tuple[list[str], list[str]]:
    found = understood(receipts, CARRIED, report_file=report_file)
    return [receipt.key for receipt in found.receipts], list(found.unknown)


def test_number_in_a_file_that_carried_the_voucher_is_the_items_and_says_how_it_was_matched() -> None:
    found = understood([told("7", "/inn/samband-a.csv")], CARRIED)
    (receipt,) = found.receipts
    assert (KEY, "posted", "1041", 1) == (receipt.key, receipt.state, receipt.reference, found.by_number)
    assert {"file": "/inn/samband-a.csv", "matched by": "voucher number 7"} == receipt.evidence


@pytest.mark.parametrize(
    ("receipt", "report_file", "is_settled"),
    [
        (told("7", "somebody-elses.csv"), None, False),
        (told("7", "somebody-elses.csv"), "samband-a.csv", False),
        (told("8", "samband-a.csv"), None, False),
        (told("8", "samband-b.csv"), None, True),
        (told("9"), None, False),
        (told("7", None), None, True),
        (told("7", ""), "samband-b.csv", True),
        (told("8", None), "samband-a.csv", False),
        (told("8", None), None, False),
        (told("7", None, "rejected"), None, False),
        (told("7", "samband-a.csv", "rejected"), None, True),
        (told("7", None, "rejected"), "samband-a.csv", True),
    ],
    ids=[
        "file-of-others", "file-of-others-in-a-report-of-ours", "file-that-did-not-carry-it", "file-that-did",
        "number-of-nobody", "no-file-named", "named-by-the-report", "report-of-another-file", "never-out",
        "refused-without-a-file", "refused-in-a-file", "refused-in-the-reports-file",
    ],
)  # fmt: skip
def test_number_of_somebody_elses_voucher_settles_nothing(
    receipt: Receipt, report_file: str | None, is_settled: bool
) -> None:
    keys, unknown = outcome(receipt, report_file=report_file)
    item = CARRIED[number] if (number := number_of(receipt)) in CARRIED else None
    assert (([item.key], []) if is_settled and item else ([], [receipt.key])) == (keys, unknown)


@pytest.mark.parametrize("key", [KEY, "0" * 32, "1" * 32, "07", "0", "100000000", "-7", "7a", "٧"])
def test_what_is_no_number_of_ours_is_never_taken_for_one(key: str) -> None:
    assert number_of(told(key)) is None
    assert ([key], []) == outcome(told(key))


def test_report_that_says_two_things_of_one_voucher_is_believed_in_neither() -> None:
    found = understood([told(KEY), told("7", state="rejected"), told("8", "samband-b.csv")], CARRIED)
    assert ([OTHER], [KEY], []) == ([r.key for r in found.receipts], found.contradicted, found.unknown)
    agreed = understood([told(KEY), told("7")], CARRIED)
    assert ([KEY], []) == ([r.key for r in agreed.receipts], agreed.contradicted)


def test_one_number_in_two_files_is_kept_twice_until_it_is_known_whose_it_is() -> None:
    receipts = checked_report("books", [told("7"), told("7", "theirs.csv"), told("7", reference="1042")], str)
    assert [("1042", "samband-a.csv"), ("1041", "theirs.csv")] == [(r.reference, r.evidence["file"]) for r in receipts]
    assert ([KEY], ["7"]) == outcome(*receipts)
    assert 1 == len(checked_report("books", [told(KEY), told(KEY, "theirs.csv")], str))
