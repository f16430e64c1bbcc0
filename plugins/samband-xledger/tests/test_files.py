"""The file way: what Xledger's import reads, what people read, and the report that comes back."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from samband import Batch, Item, Receipt, RejectedError, RemoteError, Voucher, VoucherLine, VoucherPayee
from samband_xledger.files import REPORT_COLUMNS, acknowledge, render
from samband_xledger.layouts import CsvLayout, line_key_in
from samband_xledger.settings import XledgerSettings

LAYOUT = (
    "Voucher Type;Voucher No;Voucher Date;Account;Posting 1;Posting 2;Posting 3;Posting 4;Posting 5;Period Start;"
    "No of Periods;Subledger No;Invoice Date;Invoice No;OCR;Due Date;Text;TaxRule;Amount"
)


def settings(**changes: Any) -> XledgerSettings:
    given = {"entity_code": "23601", "dimension_fields": {"avdeling": "glObject1", "prosjekt": "project"}, **changes}
    return XledgerSettings.model_validate(given)


def voucher(number: int = 4711, *, text: str = "Reise, tog", **changes: Any) -> Voucher:
    key = f"{number:032x}"
    owed = VoucherPayee(strategy="supplier", code="20001", name="Åse Øye", bank_account="01234567892")
    lines = [
        VoucherLine(n=1, key=f"{key}-1", account="0714", amount=Decimal("1265.50"), text=text, tax_rule="1",
                    dimensions={"avdeling": "101"}, quantity=Decimal("12.5")),
        VoucherLine(n=2, key=f"{key}-2", account="2400", amount=Decimal("-1265.50"), text=text, payee=owed),
    ]  # fmt: skip
    made = Voucher(key=key, number=number, type="GL", date=date(2026, 3, 1), currency="NOK", text="Reise", lines=lines,
                   claim=f"krav-{number}", mapping_version=1)  # fmt: skip
    return replace(made, **changes)


def batch(*vouchers: Voucher, id: str = "run-1") -> Batch:
    items = [Item(key=made.key, stream="vouchers", values={}, voucher=made) for made in vouchers or (voucher(),)]
    return Batch(id=id, items=items, route="file")


def machine(made: Voucher, **changes: Any) -> list[dict[str, str]]:
    content = render(batch(made), "machine", settings(**changes)).content.decode()
    return list(csv.DictReader(io.StringIO(content), delimiter=";", quoting=csv.QUOTE_NONE))


# ── for Xledger ──────────────────────────────────────────────────────────────


def test_the_machine_file_is_the_layout_in_use_to_the_byte() -> None:
    made = voucher()
    file = render(batch(made), "machine", settings())
    assert (
        f"{LAYOUT}\r\n"
        f"GL;4711;20260301;0714;101;;;;;;;;;4711;;;Reise, tog, bilag 4711 {made.key}-1;1;1265.50\r\n"
        f"GL;4711;20260301;2400;;;;;;;;20001;;4711;;;Reise, tog, bilag 4711 {made.key}-2;;-1265.50\r\n"
    ).encode() == file.content
    assert (2, True) == (file.rows, file.name.endswith(".gl.csv"))


@pytest.mark.parametrize("profile", ["machine", "human"])
def test_the_same_vouchers_make_the_same_file_whatever_the_batch_is_called(profile: str) -> None:
    first = render(batch(voucher(1), voucher(2), id="a"), profile, settings())
    again = render(batch(voucher(1), voucher(2), id="b"), profile, settings())
    other = render(batch(voucher(2), voucher(3)), profile, settings())
    assert first == again
    assert first.name != other.name


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("=HYPERLINK(1)", "HYPERLINK(1)"),
        ("@SUM(A1)", "SUM(A1)"),
        ("-5 +cmd", "5 +cmd"),
        ("\t =1+1", "1+1"),
        ("a;b;c", "a,b,c"),
        ('say "hi"', "say 'hi'"),
        ("line\r\nbreak\x00", "line break "),
        ("æøå 🎉", "æøå 🎉"),
        ("", ""),
    ],
)
def test_a_text_cannot_leave_its_cell_and_is_no_formula(written: str, shown: str) -> None:
    made = voucher()
    lines = [replace(line, text=written) for line in made.lines]
    if any(ord(c) < 32 for c in written):
        with pytest.raises(RejectedError):  # such a text is refused before it comes that far
            machine(replace(made, lines=lines))
        return
    row = machine(replace(made, lines=lines))[0]
    mark = f"bilag 4711 {made.key}-1"
    assert (f"{shown}, {mark}" if shown else mark) == row["Text"]
    assert "1265.50" == row["Amount"]


def test_a_long_text_makes_room_for_the_key_at_its_end() -> None:
    made = voucher(99_999_999)
    text = machine(replace(made, lines=[replace(line, text="x" * 200) for line in made.lines]))[1]["Text"]
    assert (200, f"{made.key}-2") == (len(text), line_key_in(text))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"account": "71;40"}, "bad_code"),
        ({"account": '71"40'}, "bad_code"),
        ({"tax_rule": "=1"}, "bad_code"),
        ({"dimensions": {"avdeling": "1\n2"}}, "bad_code"),
        ({"dimensions": {"avdeling": ""}}, "bad_code"),
        ({"dimensions": {"unheard": "1"}}, "dimension_unmapped"),
        ({"dimensions": {"prosjekt": "1000"}}, "layout_lacks"),
        ({"payee": VoucherPayee(strategy="employee")}, "missing"),
        ({"amount": Decimal("1265.51")}, "unbalanced"),
    ],
)
def test_what_cannot_be_said_is_refused_and_never_left_out(changes: dict[str, Any], code: str) -> None:
    made = voucher()
    spoilt = replace(made, lines=[replace(made.lines[0], **changes), made.lines[1]])
    with pytest.raises(RejectedError) as caught:
        machine(spoilt)
    assert code == caught.value.code


def test_a_file_never_has_two_vouchers_of_one_number() -> None:
    first, second = voucher(1), voucher(2)
    for profile in ("machine", "human"):
        with pytest.raises(RejectedError) as caught:
            render(batch(first, replace(second, number=1)), profile, settings())
        assert "number" == caught.value.field


def test_the_columns_are_a_matter_of_settings() -> None:
    columns = {"Bilag": "voucher_no", "Dato": "voucher_date", "Konto": "account", "Avd": "posting_1", "Prosj": "project",
               "Leverandør": "subledger_no", "Mva": "tax_rule", "Tekst": "text", "Fri": None, "Sum": "amount",
               "Nøkkel": "ext_identifier"}  # fmt: skip
    made = voucher()
    lines = [replace(made.lines[0], dimensions={"prosjekt": "1000"}), made.lines[1]]
    row = machine(replace(made, lines=lines), csv_layout={"columns": columns})[0]
    assert (list(columns), "1000", "", f"{made.key}-1") == (list(row), row["Prosj"], row["Fri"], row["Nøkkel"])


@pytest.mark.parametrize("columns", [{"Account": "account"}, {**CsvLayout().columns, "=cmd": None}])
def test_a_layout_that_lacks_what_a_voucher_needs_or_begins_with_a_sign_is_refused(columns: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"lacks|pattern"):
        CsvLayout.model_validate({"columns": columns})


def test_an_unheard_of_profile_is_refused() -> None:
    with pytest.raises(RejectedError) as caught:
        render(batch(), "alien", settings())
    assert "profile" == caught.value.field


# ── for people ───────────────────────────────────────────────────────────────


def test_the_human_file_opens_in_a_norwegian_spreadsheet() -> None:
    made = voucher(text="=1+1")
    content = render(batch(made), "human", settings()).content
    assert content.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=";"))
    first, second = rows
    assert ("4711", "01.03.2026", "0714", "101", "'=1+1", "1265,50", "12,5") == (
        first["Bilagsnr"], first["Bilagsdato"], first["Konto"], first["Dimensjon avdeling"], first["Tekst"],
        first["Beløp"], first["Kilometer"],
    )  # fmt: skip
    assert ("-1265,50", "20001", "Åse Øye", "01234567892") == (
        second["Beløp"], second["Reskontronr"], second["Mottaker"], second["Kontonr mottaker"],
    )  # fmt: skip
    assert content.count(b"\r\n") == content.count(b"\n") == 3


def test_each_line_names_the_version_of_the_mapping_it_was_made_with() -> None:
    content = render(batch(voucher(1), voucher(2, mapping_version=7)), "human", settings()).content
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=";")
    assert ["1", "1", "7", "7"] == [row["Konteringsversjon"] for row in rows]
    columns = {**CsvLayout().columns, "Kontering": "mapping_version"}
    assert "7" == machine(voucher(2, mapping_version=7), csv_layout={"columns": columns})[0]["Kontering"]


# ── what comes back ──────────────────────────────────────────────────────────


def report(*rows: tuple[Any, ...], columns: tuple[str, ...] = (*REPORT_COLUMNS, "text")) -> bytes:
    target = io.StringIO(newline="")
    writer = csv.writer(target, delimiter=";", lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return target.getvalue().encode()


def line(state: str, n: int = 1, *, number: int = 4711, transaction: str = "", message: str = "") -> tuple[Any, ...]:
    text = f"Reise, bilag {number} {number:032x}-{n}"
    return ("samband-1.gl.csv", number, n, state, transaction, message, text)


def states(receipts: list[Receipt]) -> list[tuple[str, str | None]]:
    return [(receipt.state, receipt.reference) for receipt in receipts]


def test_a_report_settles_each_voucher_by_its_lines() -> None:
    receipts = acknowledge(
        report(
            line("posted", 1, transaction="2026-17"), line("posted", 2, transaction="2026-17"),
            line("rejected", 1, number=8, message="Period is closed."), line("Rejected", 2, number=8),
            line("accepted", 1, number=9), line("accepted", 2, number=9),
            ("other.csv", 5, 1, "posted", "9", "", "somebody else's"),
        )
    )  # fmt: skip
    assert [("posted", "2026-17"), ("rejected", None), ("accepted", None)] == states(receipts)
    assert [f"{number:032x}" for number in (4711, 8, 9)] == [receipt.key for receipt in receipts]
    assert ("Period is closed.", "2") == (receipts[1].message, receipts[1].evidence["lines told of"])


@pytest.mark.parametrize(
    "rows",
    [
        (line("posted", 1, transaction="17"), line("rejected", 2, message="No such account.")),
        (line("posted", 1, transaction="17"), line("posted", 2, transaction="18")),
        (line("posted", 1), line("posted", 2)),
        (line("posted", 1, transaction="17"), line("accepted", 2)),
    ],
)
def test_half_of_a_voucher_is_no_voucher_and_leaves_it_unknown(rows: tuple[tuple[Any, ...], ...]) -> None:
    (receipt,) = acknowledge(report(*rows))
    assert ("unknown", "file_contradiction") == (receipt.state, receipt.code)


def bare(state: str, n: int = 1, *, file: str = "samband-1.gl.csv", number: Any = 4711, **more: str) -> tuple[Any, ...]:
    """A row that has lost our text, and the key with it."""
    return (file, number, n, state, more.get("transaction", ""), more.get("message", ""), "Reise, tog")


def test_a_voucher_whose_text_is_lost_is_known_by_its_number_and_the_file_that_we_named() -> None:
    receipts = acknowledge(
        report(
            bare("posted", 1, transaction="17"), bare("posted", 2, transaction="17"),
            bare("rejected", number="00000008", file="/inn/samband-1.gl.csv", message="Period is closed."),
            bare("posted", file="others.csv", transaction="9"), bare("posted", file="", transaction="9"),
        )
    )  # fmt: skip
    assert [("4711", "posted", "17"), ("8", "rejected", None)] == [(r.key, r.state, r.reference) for r in receipts]
    assert ["samband-1.gl.csv", "/inn/samband-1.gl.csv"] == [receipt.evidence["file"] for receipt in receipts]


def test_a_report_in_just_the_columns_we_ask_for_settles_without_a_key() -> None:
    row = ("samband-1.gl.csv", 4711, 1, "posted", "17", "")
    assert [("4711", "posted")] == [(r.key, r.state) for r in acknowledge(report(row, columns=REPORT_COLUMNS))]


def test_one_number_in_two_files_is_two_vouchers() -> None:
    receipts = acknowledge(report(bare("posted", transaction="17"), bare("rejected", file="samband-2.gl.csv")))
    assert [("4711", "samband-1.gl.csv"), ("4711", "samband-2.gl.csv")] == [
        (r.key, r.evidence["file"]) for r in receipts
    ]


def test_half_of_a_voucher_that_lost_its_text_is_no_voucher() -> None:
    (receipt,) = acknowledge(report(bare("posted", 1, transaction="17"), bare("rejected", 2)))
    assert ("4711", "unknown") == (receipt.key, receipt.state)


def test_a_line_that_lost_its_text_belongs_to_the_voucher_of_the_others() -> None:
    (receipt,) = acknowledge(report(line("posted", 1, transaction="17"), bare("rejected", 2)))
    assert (f"{4711:032x}", "unknown", "2") == (receipt.key, receipt.state, receipt.evidence["lines told of"])


def test_a_report_without_rows_tells_of_nothing() -> None:
    assert [] == acknowledge(report())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"a;b\r\n1;2\r\n",
        report(line("posted"))[:-60],  # cut off
        report(("samband-1.gl.csv", 4711, 1, "gone", "", "", "x")),
        report(("somebody-1.csv", 4711, 1, "posted", "17", "", "no key of ours")),
        report(("samband-1.gl.csv", "", "", "rejected", "", "The file cannot be read.", "")),
        report(
            ("samband-1.gl.csv", "0", 1, "posted", "17", "", ""), ("samband-1.gl.csv", "x1", 1, "posted", "17", "", "")
        ),
        report(columns=(*REPORT_COLUMNS, "state")),
        b'file;voucher no;"line',
        b"x" * (17 * 1024 * 1024),
    ],
)
def test_what_is_no_report_changes_nothing_and_says_why(content: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        acknowledge(content)
    assert "no_report" == caught.value.code


@pytest.mark.parametrize("profile", ["machine", "human"])
def test_a_voucher_whose_mapping_names_no_type_has_the_type_of_the_settings(profile: str) -> None:
    file = render(batch(voucher(type="")), profile, settings(voucher_type="REISE"))
    assert 2 == file.content.decode().replace('"', "").count("REISE;")
