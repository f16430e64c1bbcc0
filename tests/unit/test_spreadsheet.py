"""A sheet for people comes back as it went out, and nothing in it runs."""

from __future__ import annotations

import csv
import datetime as dt
import io
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samband import RejectedError
from samband.spreadsheet import Column, file_name, guarded, read_human, unguarded, write_human

TEXT = Column(name="text", heading="Tekst")
CODE = Column(name="code", heading="Konto", kind="code", width=4)
AMOUNT = Column(name="amount", heading="Beløp", kind="amount")
RATE = Column(name="rate", heading="Sats", kind="decimal")
WHOLE = Column(name="whole", heading="Antall", kind="whole")
DAY = Column(name="day", heading="Dato", kind="date")
ALL = (TEXT, CODE, AMOUNT, RATE, WHOLE, DAY)

SIGNS = "=+-@\t\r\n\x00\uff1d\uff0b\uff0d\uff20"
hostile = st.text(st.sampled_from("=+-@\t\r\n\x00\uff1d\uff20'\";,| ab\u00a0\u200b1"), max_size=12)
texts = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), hostile)
codes = st.from_regex(r"[0-9]{4,12}|[A-Z]{1,3}-?[0-9]{0,4}", fullmatch=True)
rows = st.fixed_dictionaries(
    {
        "text": texts,
        "code": codes,
        "amount": st.decimals(min_value=-(10**9), max_value=10**9, places=2),
        "rate": st.decimals(min_value=-1000, max_value=1000, places=4),
        "whole": st.integers(-(10**12), 10**12),
        "day": st.dates(),
    }
)


def human(*cells: tuple[Column, Any]) -> str:
    return write_human([c for c, _ in cells], [{c.name: v for c, v in cells}]).decode("utf-8-sig").splitlines()[1]


@given(st.lists(rows, max_size=8))
def test_every_row_comes_back_as_it_went_out(given_rows: list[dict[str, Any]]) -> None:
    expected = [{name: None if value == "" else value for name, value in row.items()} for row in given_rows]
    assert expected == read_human(write_human(ALL, given_rows), ALL)


@given(texts)
def test_guard_is_taken_away_exactly(text: str) -> None:
    assert text == unguarded(guarded(text))


@given(texts, st.sampled_from(",;\t|"))
def test_no_cell_begins_with_a_sign_whatever_the_separator(text: str, separator: str) -> None:
    for line in guarded(text).replace("\r", "\n").split("\n"):
        for cell in line.split(separator):
            assert not cell.lstrip(" \u00a0\u200b\u200c\u200d\u2060\ufeff").startswith(
                tuple("=+-@\x00\uff1d\uff0b\uff0d\uff20")
            )


@pytest.mark.parametrize("sign", SIGNS)
def test_text_that_begins_with_a_sign_gets_an_apostrophe(sign: str) -> None:
    assert f"'{sign}cmd|' /C calc'!A0" == guarded(f"{sign}cmd|' /C calc'!A0")


def test_heading_is_guarded_like_a_text_and_found_again() -> None:
    column = Column(name="x", heading="=HYPERLINK(1)")
    content = write_human([column], [{"x": "a"}])
    assert b'"\'=HYPERLINK(1)"' in content
    assert [{"x": "a"}] == read_human(content, [column])


def test_numbers_stay_numbers_and_texts_are_quoted() -> None:
    row = human(
        (AMOUNT, Decimal("-1234.5")), (TEXT, '-5 "kr"'), (CODE, "0154"), (WHOLE, -3), (DAY, dt.date(2026, 3, 2))
    )
    assert """-1234,50;"'-5 ""kr""\";"0154";-3;"02.03.2026\"""" == row


def test_sheet_is_what_a_norwegian_excel_opens() -> None:
    content = write_human((TEXT, AMOUNT), [{"text": "Blåbærtur", "amount": Decimal("10")}])
    assert content == '\ufeff"Tekst";"Beløp"\r\n"Blåbærtur";10,00\r\n'.encode()


def test_phone_number_with_a_plus_comes_back() -> None:
    content = write_human([TEXT], [{"text": "+47 22 33 44 55"}])
    assert b"'+47" in content
    assert [{"text": "+47 22 33 44 55"}] == read_human(content, [TEXT])


def test_leading_zeros_that_a_spreadsheet_has_taken_are_filled_up() -> None:
    saved_again = "\ufeffKonto\r\n154\r\n7140\r\nK-1\r\n".encode()
    assert ["0154", "7140", "K-1"] == [row["code"] for row in read_human(saved_again, [CODE])]


@pytest.mark.parametrize("column", [CODE, AMOUNT, RATE, WHOLE])
@pytest.mark.parametrize("cell", ["1,23457E+10", "1E+05", "1.2e+10"])
def test_scientific_notation_is_refused_with_its_row_and_column(column: Column, cell: str) -> None:
    content = f"{column.heading};Tekst\r\n1234;a\r\n\r\n{cell};b\r\n".encode()
    with pytest.raises(RejectedError, match=f"Row 4, {column.heading}") as refused:
        read_human(content, [column, TEXT])
    assert (column.name, "sheet_value") == (refused.value.field, refused.value.code)
    assert cell not in str(refused.value)


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        (AMOUNT, "12.50"), (AMOUNT, "12,505"), (AMOUNT, "kr 5"), (AMOUNT, "1 2345,00"), (AMOUNT, "--1"),
        (WHOLE, "1,5"), (DAY, "2026-03-02"), (DAY, "31.02.2026"), (DAY, "2.3.26"),
    ],
)  # fmt: skip
def test_cell_of_another_kind_is_refused(column: Column, cell: str) -> None:
    with pytest.raises(RejectedError, match=f"Row 2, {column.heading}"):
        read_human(f"{column.heading}\r\n{cell}\r\n".encode(), [column])


@pytest.mark.parametrize("cell", ["1 234,5", "1\u00a0234,50", "1234,5", "1234,50"])
def test_amount_that_a_person_has_written_otherwise_is_the_same(cell: str) -> None:
    assert [{"amount": Decimal("1234.50")}] == read_human(f"Beløp\r\n{cell}\r\n".encode(), [AMOUNT])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (AMOUNT, 1.5), (AMOUNT, Decimal("1.005")), (AMOUNT, Decimal("NaN")), (AMOUNT, Decimal("1E+40")), (AMOUNT, "1"),
        (CODE, 154), (CODE, "154"), (CODE, "1E+05"), (TEXT, 5), (DAY, "2026"), (WHOLE, True),
        (DAY, dt.datetime(2026, 3, 2, tzinfo=dt.UTC)), (TEXT, "\ud800"),
    ],
)  # fmt: skip
def test_value_that_would_not_come_back_is_not_written(column: Column, value: Any) -> None:
    with pytest.raises(RejectedError):
        write_human([column], [{column.name: value}])


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "sheet_empty"), (b"Tekst\r\n\xe6\xf8\xe5\r\n", "sheet_encoding"), (b'Tekst\r\n"abc', "sheet_syntax"),
        (b"Navn\r\na\r\n", "sheet_headings"), (b"Tekst;Tekst\r\na;b\r\n", "sheet_headings"),
        (b"Tekst\r\na;b\r\n", "sheet_row"), (b"Tekst\r\n" + b"a" * 200_000, "sheet_syntax"),
    ],
)  # fmt: skip
def test_what_is_no_such_sheet_is_refused(content: bytes, code: str) -> None:
    with pytest.raises(RejectedError) as refused:
        read_human(content, [TEXT])
    assert code == refused.value.code


def test_columns_are_found_in_any_order_and_others_are_left_out() -> None:
    content = "sep=;\r\nAnnet;Beløp;Tekst\r\nx;5,00;a\r\n;;\r\n".encode()
    assert [{"text": "a", "amount": Decimal("5.00")}] == read_human(content, [TEXT, AMOUNT])


def test_same_rows_make_the_same_bytes() -> None:
    given_rows = [{"text": "a", "amount": Decimal(n)} for n in range(5)]
    assert write_human(ALL, given_rows) == write_human(ALL, given_rows)


@given(st.text(max_size=200))
def test_file_name_is_safe_everywhere(text: str) -> None:
    name = file_name(text)
    assert 0 < len(name) <= 120
    assert name == guarded(name) == csv.reader(io.StringIO(name)).__next__()[0]
    assert not set(name) & set('/\\:;"\r\n\x00 ')
    assert name[0] not in ".-"
