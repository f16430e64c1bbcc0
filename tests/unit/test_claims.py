"""What a claim must be, in which one form it is kept, and what becomes of one that is told again."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum.no import kontonr

from samband.rules.claims import Present, digest_of, id_problems, judge, read_claim, with_approval_day


def claim(**line: Any) -> dict[str, Any]:
    given = {"expense_type": "mileage", "amount": "100.00", "date": "2026-03-01", **line}
    return {"payee": {"id": "p-1"}, "currency": "NOK", "status": "approved", "lines": [given]}


def problems(values: Any) -> list[tuple[str, str]]:
    return [(problem.field, problem.code) for problem in read_claim(values)[1]]


# ── sums ─────────────────────────────────────────────────────────────────────

money = st.decimals(min_value=0, max_value=99_999, places=2, allow_nan=False, allow_infinity=False)
distance = st.decimals(min_value=0, max_value=9_999, places=3, allow_nan=False, allow_infinity=False)
parts = st.dictionaries(st.sampled_from(["toll", "parking", "transport", "other"]), money)
drives = st.one_of(st.none(), st.tuples(distance, money))


def expected_sum(given: dict[str, Decimal], drive: tuple[Decimal, Decimal] | None) -> Decimal:
    driven = Decimal(0) if drive is None else (drive[0] * drive[1]).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return driven + sum(given.values(), Decimal(0))


def line_of(given: dict[str, Decimal], drive: tuple[Decimal, Decimal] | None, amount: Decimal) -> dict[str, str]:
    driven = {} if drive is None else {"kilometres": str(drive[0]), "rate": str(drive[1])}
    return {name: str(value) for name, value in given.items()} | driven | {"amount": f"{amount:.2f}"}


@settings(deadline=None)
@given(given=parts, drive=drives)
def test_amount_that_is_what_its_parts_come_to_is_taken(given: dict[str, Decimal], drive: Any) -> None:
    amount = expected_sum(given, drive)
    wanted = [("lines.0.amount", "zero")] if amount == 0 else []
    if not given and drive is None:
        amount, wanted = Decimal("7.00"), []  # a line without parts has any amount
    assert wanted == problems(claim(**line_of(given, drive, amount)))


@settings(deadline=None)
@given(given=parts, drive=drives, off=st.integers(min_value=1, max_value=10_000))
def test_amount_that_is_an_ore_or_more_off_is_refused_and_the_right_one_said(
    given: dict[str, Decimal], drive: Any, off: int
) -> None:
    if not given and drive is None:
        given = {"toll": Decimal("1.00")}
    right = expected_sum(given, drive)
    _, found = read_claim(claim(**line_of(given, drive, right + Decimal(off) / 100)))
    assert [("lines.0.amount", "sum_differs")] == [(p.field, p.code) for p in found]
    assert found[0].message.endswith(f"= {right:.2f}.")


@pytest.mark.parametrize(
    ("kilometres", "rate", "amount"),
    [("35.2", "5.30", "186.56"), ("0.5", "5.31", "2.66"), ("0.5", "5.29", "2.65"), ("1.5", "0.01", "0.02")],
)
def test_half_an_ore_is_rounded_up(kilometres: str, rate: str, amount: str) -> None:
    assert [] == problems(claim(kilometres=kilometres, rate=rate, amount=amount))


def test_kilometres_without_the_rate_that_was_applied_are_refused() -> None:
    assert [("lines.0.rate", "missing")] == problems(claim(kilometres="3"))


def test_line_in_another_currency_than_the_claim_is_refused() -> None:
    assert [("lines.0.currency", "currency_differs")] == problems(claim(currency="SEK"))
    assert [] == problems(claim(currency="NOK"))


# ── hostile numbers ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["amount", "toll", "parking", "transport", "other", "rate", "kilometres"])
@pytest.mark.parametrize(
    "value", ["1e5", "1E+2", "10000000000000", 10**13, -1, "-1", "1.2345", 1.5, True, "", " 1", "१", "Infinity", "1,50"]
)
def test_what_is_no_plain_amount_is_refused_by_name(name: str, value: Any) -> None:
    assert f"lines.0.{name}" in [field for field, _ in problems(claim(**{name: value}))]


@pytest.mark.parametrize("name", ["amount", "toll", "rate"])
def test_third_decimal_is_refused_in_money(name: str) -> None:
    assert f"lines.0.{name}" in [field for field, _ in problems(claim(**{name: "1.005"}))]


# ── bank accounts ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("written", ["86011117947", "8601 11 17947", "8601.11.17947", "8601\u00a011\u00a017947"])
def test_bank_account_is_kept_as_eleven_digits_however_it_is_written(written: str) -> None:
    body, _ = read_claim(claim() | {"payee": {"id": "p", "bank_account": written}})
    assert "86011117947" == body["payee"]["bank_account"]


@pytest.mark.parametrize(
    "wrong",
    [
        "4090403",
        "00004090403",
        "86011117949",
        "8601-11-17947",
        "NO9386011117947",
        "٨٦٠١١١١٧٩٤٧",
        "",
        "8" * 41,
        "0" * 11,
    ],
)
def test_bank_account_that_nobody_can_be_paid_at_is_refused_and_never_repeated(wrong: str) -> None:
    _, found = read_claim(claim() | {"payee": {"id": "p", "bank_account": wrong}})
    assert ["payee.bank_account"] == [p.field for p in found]
    assert not wrong or wrong not in str(found)


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=10**11 - 1))
def test_eleven_digits_are_taken_exactly_when_their_check_digit_holds(number: int) -> None:
    digits = f"{number:011d}"
    is_taken = [] == problems(claim() | {"payee": {"id": "p", "bank_account": digits}})
    assert (kontonr.is_valid(digits) and not digits.startswith("0000")) == is_taken


def test_national_id_is_neither_demanded_nor_taken() -> None:
    assert [] == problems(claim())
    assert [("payee.national_id", "unknown_key")] == problems(claim() | {"payee": {"id": "p", "national_id": "1"}})


# ── one form ─────────────────────────────────────────────────────────────────


def test_two_spellings_of_a_claim_are_the_same_claim() -> None:
    plain, _ = read_claim(claim(kilometres="10", rate="5.3", toll="47", quantity="2"))
    other, _ = read_claim(
        claim(kilometres="10.000", rate="5.30", toll="47.00", quantity="2.0", text=None) | {"text": None}
    )
    assert digest_of(plain) == digest_of(other)


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"])
def test_text_that_cannot_be_stored_is_refused_by_name(text: str) -> None:
    assert ["lines.0.text"] == [field for field, _ in problems(claim(text=text))]
    assert ["payee.id"] == [field for field, _ in problems(claim() | {"payee": {"id": f"p{text}"}})]


@pytest.mark.parametrize("id", ["", "a" * 101, "a b", "æ", "-a", "a/b", "a\x00", None, 7, ["a"]])
def test_id_that_no_address_can_carry_is_refused(id: Any) -> None:
    assert [("id", "bad_id")] == [(p.field, p.code) for p in id_problems(id)]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["payee", "id", "lines", "amount", "currency", "status", "x"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None)
@given(anything)
def test_whatever_is_told_is_either_taken_or_refused_by_field(values: Any) -> None:
    body, found = read_claim(values)
    assert bool(body) != bool(found)
    assert all(problem.field for problem in found)


# ── the day of approval ──────────────────────────────────────────────────────


def test_approved_claim_keeps_the_first_day_it_was_told_as_approved() -> None:
    told = claim()
    first = with_approval_day(told, None, "2026-03-02")
    assert "2026-03-02" == first["approved_on"]
    assert first == with_approval_day(told, first, "2026-03-09")
    assert "2026-03-09" == with_approval_day(told, told | {"status": "draft"}, "2026-03-09")["approved_on"]


def test_day_that_was_told_is_kept_and_one_that_is_not_approved_gets_none() -> None:
    told = claim() | {"approved_on": "2026-02-28"}
    assert told == with_approval_day(told, None, "2026-03-02")
    draft = claim() | {"status": "draft"}
    assert draft == with_approval_day(draft, None, "2026-03-02")


# ── told again ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("item", "correction", "verdict"),
    [
        (None, None, "updated"),
        ("reserved", None, "already_exported"),
        ("sent", None, "already_exported"),
        ("unknown", None, "already_exported"),
        ("accepted", None, "proposed"),
        ("posted", None, "proposed"),
        ("posted", "proposed", "proposed"),
        ("posted", "approved", "correction_under_way"),
        ("accepted", "approved", "correction_under_way"),
        (None, "proposed", "updated"),
    ],
)
def test_change_is_judged_by_where_the_claim_stands(item: str | None, correction: str | None, verdict: str) -> None:
    present = Present(version=3, digest="old", body={}, item_state=item, correction_state=correction)
    assert verdict == judge(present, "new")
    assert "unchanged" == judge(present, "old")
    assert "revision_mismatch" == judge(present, "new", if_version=2)
    assert verdict == judge(present, "new", if_version=3)


def test_new_claim_is_created_unless_a_version_of_it_was_asked_for() -> None:
    assert "created" == judge(None, "new")
    assert "revision_mismatch" == judge(None, "new", if_version=1)
