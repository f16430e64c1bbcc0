"""What there is to be named in a mapping is listed in one order, part by part, and found by what people type."""

from __future__ import annotations

import datetime as dt
import random
import unicodedata
from typing import Any

import pytest

from samband.outgoing import Chart, ChartEntry, ChartPeriod
from samband.rules.chartcheck import chart_row
from samband.rules.chartlisting import CHART_KINDS, ChartRow, list_chart, lists_of, unlisted_of


def entries(*names: str, **closed: str) -> list[ChartEntry]:
    """Gives entries of ``code name``."""
    told = [name.partition(" ") for name in names]
    return [ChartEntry(code=code, text=text, is_open=code not in closed.values()) for code, _, text in told]


def period(year: int, month: int, *, is_open: bool = True) -> ChartPeriod:
    return ChartPeriod(first=dt.date(year, month, 1), last=dt.date(year, month, 28), is_open=is_open)


KEPT = chart_row(
    Chart(
        accounts=entries(
            "7140 Reise, ikke oppgavepliktig", "2910 Gjeld til ansatte", "7100 Bilgodtgjørelse", off="7100"
        ),
        dimensions={"project": entries("P2 Sommerleir", "P1 Ærlighet"), "department": entries("10 Oslo")},
        tax_rules=entries("1 Fradrag 25 %", "0"),
        periods=[period(2026, 2, is_open=False), period(2026, 1, is_open=False), period(2026, 3)],
    )
)


def told(rows: list[ChartRow]) -> list[str]:
    return [f"{row.place.dimension or row.kind} {row.code or row.first}" for row in rows]


def found(search: str, lists: Any = KEPT) -> list[str]:
    return told(list_chart(lists, search=search, limit=99))


def test_rows_come_by_kind_dimension_and_code_whatever_order_they_were_read_in() -> None:
    assert [
        "account 2910", "account 7100", "account 7140", "tax_rule 0", "tax_rule 1", "department 10", "project P1",
        "project P2", "period 2026-01-01", "period 2026-02-01", "period 2026-03-01",
    ] == found("")  # fmt: skip


def test_row_says_what_it_is_called_and_whether_it_is_open() -> None:
    rows = {row.code or row.first: row for row in list_chart(KEPT, limit=99)}
    assert ("Bilgodtgjørelse", False) == (rows["7100"].name, rows["7100"].is_open)
    march = rows["2026-03-01"]
    assert (None, "2026-03-01", "2026-03-28", True) == (march.code, march.first, march.last, march.is_open)


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("71", ["account 7100", "account 7140"]),
        ("GJELD", ["account 2910"]),
        ("GJØR", ["account 7100"]),
        ("ærlig", ["project P1"]),
        ("  p1 ", ["project P1"]),
        ("2026-02", ["period 2026-02-01"]),
        ("%", ["tax_rule 1"]),
        ("no such thing", []),
    ],
)
def test_row_is_found_by_its_code_name_or_days_in_capitals_or_not(search: str, expected: list[str]) -> None:
    assert expected == found(search)


def test_letter_is_found_however_the_other_system_writes_it() -> None:
    apart = chart_row(Chart(accounts=entries(unicodedata.normalize("NFD", "1 Årsmøte"))))
    assert ["account 1"] == found("årsm", apart) == found(unicodedata.normalize("NFD", "ÅRSM"), apart)


def test_only_the_lists_of_a_kind_are_looked_at() -> None:
    kinds = {kind: lists_of(kind) for kind in (*CHART_KINDS, None)}
    assert {
        "account": ("accounts",), "tax_rule": ("tax_rules",), "dimension": ("dimensions",), "period": ("periods",),
        None: ("accounts", "tax_rules", "dimensions", "periods"),
    } == kinds  # fmt: skip
    assert ["tax_rule 0", "tax_rule 1"] == found("", {"tax_rules": KEPT["tax_rules"]})


def test_what_the_other_side_does_not_list_is_no_empty_list() -> None:
    kept = chart_row(Chart(accounts=[], tax_rules=[], periods=None))
    assert (["periods"], []) == (unlisted_of(kept), found("", kept))


def test_parts_put_together_are_the_whole_even_when_the_chart_is_read_anew_in_between() -> None:
    made = random.Random(11)
    codes = [f"{made.randrange(10_000):04}" for _ in range(300)]
    accounts = entries(*dict.fromkeys(codes))
    seen: list[str] = []
    after = None
    while True:
        made.shuffle(accounts)
        part = list_chart(chart_row(Chart(accounts=accounts)), after=after, limit=7)
        if not part:
            break
        seen += [row.code or "" for row in part]
        after = part[-1].place
    assert sorted(set(codes)) == seen


def test_two_periods_of_the_same_days_are_two_rows_and_the_same_one_twice_is_one() -> None:
    both = [period(2026, 1), period(2026, 1, is_open=False), period(2026, 1)]
    rows = list_chart(chart_row(Chart(accounts=[], periods=both)), limit=9)
    assert [False, True] == [row.is_open for row in rows]
    assert [rows[1]] == list_chart(chart_row(Chart(accounts=[], periods=both)), after=rows[0].place, limit=9)
