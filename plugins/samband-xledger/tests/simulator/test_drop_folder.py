"""The drop folder: complete files are taken, moved aside and answered with a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

HEADER = (
    "Voucher Type;Voucher No;Voucher Date;Account;Posting 1;Posting 2;Posting 3;Posting 4;Posting 5;Period Start;"
    "No of Periods;Subledger No;Invoice Date;Invoice No;OCR;Due Date;Text;TaxRule;Amount"
)


def row(number: int | str, account: str, amount: str, *, text: str = "Reise", day: str = "20260301") -> str:
    return f"GL;{number};{day};{account};101;;;;;;;;;{number};;;{text};;{amount}"


def content(*rows: str, header: str = HEADER) -> bytes:
    return ("\r\n".join((header, *rows)) + "\r\n").encode()


GOOD = (row(4711, "7140", "265.00"), row(4711, "2910", "-265.00"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def report(folder: Path, name: str) -> list[str]:
    return (folder / "acknowledged" / name).read_text(encoding="utf-8").split("\n")[:-1]


async def test_a_file_is_imported_posted_and_acknowledged(api: Any, drop_folder: Path) -> None:
    (drop_folder / "a.gl.csv").write_bytes(content(*GOOD))
    assert {"posted": 1, "failed": 0, "numbers": [4711]} == await api.run_job()
    assert ([], ["a.gl.csv"]) == (names(drop_folder), names(drop_folder / "imported"))
    assert [
        "file;voucher no;line;state;transaction number;message;text",
        "a.gl.csv;4711;1;posted;4711;;Reise",
        "a.gl.csv;4711;2;posted;4711;;Reise",
    ] == [line.rstrip("\r") for line in report(drop_folder, "a.gl.csv")]
    entry = (await api.look("books"))["entries"][0]
    assert (None, "4711", "drop", "2026-03-01") == (
        entry["extIdentifier"],
        entry["invoiceNumber"],
        entry["door"],
        entry["date"],
    )


async def test_unfinished_files_are_left_alone(api: Any, drop_folder: Path) -> None:
    for name in ("a.csv.part", ".b.csv", "c.txt"):
        (drop_folder / name).write_bytes(content(*GOOD))
    await api.run_job()
    assert [".b.csv", "a.csv.part", "c.txt"] == names(drop_folder)
    (drop_folder / "a.csv.part").rename(drop_folder / "a.csv")
    assert {"files": ["a.csv"]} == await api.control("drop/scan")
    assert ["a.csv"] == names(drop_folder / "imported")
    assert [] == names(drop_folder / "acknowledged")
    await api.run_job()
    assert ["a.csv"] == names(drop_folder / "acknowledged")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The first row must name the columns"),
        (content(*GOOD, header="Voucher;Amount"), "The first row must name the columns"),
        (content(), "The file holds no rows"),
        (content("GL;1;20260301"), "Line 2 has 3 columns"),
        (content(row(1, "7140", "1.00", text="Stor æ").replace("æ", "X")).replace(b"X", b"\xe6"), "not UTF-8"),
    ],
)
async def test_a_file_that_cannot_be_read_is_rejected_with_a_report(
    api: Any, drop_folder: Path, body: bytes, message: str
) -> None:
    (drop_folder / "a.csv").write_bytes(body)
    await api.run_job()
    assert ["a.csv"] == names(drop_folder / "rejected")
    line = report(drop_folder, "a.csv")[1]
    assert line.startswith("a.csv;;;rejected;;")
    assert message in line
    assert 0 == (await api.look("books"))["lines"]


async def test_a_refused_voucher_is_reported_and_may_be_sent_again(api: Any, drop_folder: Path) -> None:
    wrong = (row(1, "7140", "10.00"), row(1, "2910", "-9.00"), row(2, "9999", "5.00"), row(2, "2910", "-5.00"))
    (drop_folder / "a.csv").write_bytes(content(*wrong, *GOOD, row("x", "7140", "1.000,00", day="2026-03-01")))
    outcome = await api.run_job()
    assert (1, 3) == (outcome["posted"], outcome["failed"])
    fates = [line.split(";")[1:4] for line in report(drop_folder, "a.csv")[1:]]
    assert [["1", "1", "rejected"], ["1", "2", "rejected"], ["2", "3", "rejected"], ["2", "4", "rejected"]] == fates[:4]
    assert [["4711", "5", "posted"], ["4711", "6", "posted"], ["", "7", "rejected"]] == fates[4:]
    assert "does not balance" in report(drop_folder, "a.csv")[1]
    assert [] == (await api.look("staging"))["items"]
    (drop_folder / "b.csv").write_bytes(content(row(1, "7140", "10.00"), row(1, "2910", "-10.00")))
    assert 1 == (await api.run_job())["posted"]


async def test_a_file_that_is_dropped_twice_is_imported_twice(api: Any, drop_folder: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (drop_folder / name).write_bytes(content(*GOOD))
        await api.run_job()
    assert "The voucher number 4711 is used already." in report(drop_folder, "b.csv")[1]
    await api.control("config", {"switches": {"duplicate_numbers": "post"}})
    (drop_folder / "c.csv").write_bytes(content(*GOOD))
    await api.run_job()
    assert [4711] == (await api.look("books?summary=1"))["vouchers_posted_twice"]


@pytest.mark.parametrize(("commit", "lines"), [(False, 0), (True, 2)])
async def test_a_file_may_be_lost_or_only_its_report(api: Any, drop_folder: Path, commit: bool, lines: int) -> None:
    await api.control("faults", {"fault": "drop", "operation": "drop", "commit": commit})
    (drop_folder / "a.csv").write_bytes(content(*GOOD))
    await api.run_job()
    assert (["a.csv"], []) == (names(drop_folder / "imported"), names(drop_folder / "acknowledged"))
    assert lines == (await api.look("books"))["lines"]
    (drop_folder / "b.csv").write_bytes(content(row(2, "7140", "1.00"), row(2, "2910", "-1.00")))
    await api.run_job()
    assert ["b.csv"] == names(drop_folder / "acknowledged")
