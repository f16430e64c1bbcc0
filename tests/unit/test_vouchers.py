"""A claim as the voucher it comes to: to the øre, the same every time, or not at all and with a reason."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samband.outgoing import ChartPeriod, Voucher
from samband.rules.claims import read_claim
from samband.rules.mapping import MappingBody, gaps, parse_mapping
from samband.rules.posting import Unpostable, from_row, parts_of, reversal_of, to_row, voucher_of

KEY = "0123456789abcdef0123456789abcdef"
TODAY = dt.date(2026, 11, 23)
MAPPING: dict[str, Any] = {
    "voucher_type": "GL",
    "payee": {"strategy": "employee", "account": "2910", "code": "{payee.id}"},
    "expense_types": {
        "mileage": {
            "account": "7100", "tax_rule": "0", "allowance": {"rates": "car", "taxable_account": "5330"},
        },
        "toll": {"account": "7140"},
        "parking": {"account": "7141"},
        "transport": {"account": "7142"},
        "other": {"account": "7149"},
        "fee": {"account": "7150", "dimensions": {"department": None, "project": "{claim}"}, "tax_rule": "1"},
        "hotel": {"excluded": True},
    },
    "rates": {
        "car": [
            {"valid_from": "2025-01-01", "rate": "4.90", "tax_free": "3.40"},
            {"valid_from": "2026-01-01", "rate": "5.30", "tax_free": "3.50"},
        ]
    },
    "dimensions": {"department": "10"},
}  # fmt: skip


def mapping(**changes: Any) -> MappingBody:
    return parse_mapping({**MAPPING, **changes})


def claim(*lines: dict[str, Any], **values: Any) -> dict[str, Any]:
    told = [{"expense_type": "toll", "amount": "10.00", "date": "2026-03-01", **line} for line in lines]
    return {
        "payee": {"id": "p-17", "name": "Kari Nordmann", "bank_account": "86011117947"}, "currency": "NOK",
        "status": "approved", "lines": told, "approved_on": "2026-03-05", **values,
    }  # fmt: skip


def booked(body: dict[str, Any], rules: MappingBody | None = None, **given: Any) -> Voucher:
    given = {"today": TODAY, "periods": None, **given}
    return voucher_of(
        body, claim_id="c-1", key=KEY, number=4711, mapping=rules or mapping(), mapping_version=3, **given
    )


def postings(voucher: Voucher) -> list[tuple[str, str]]:
    return [(line.account, f"{line.amount:.2f}") for line in voucher.lines]


def refusal(body: dict[str, Any], rules: MappingBody | None = None, **given: Any) -> tuple[str, str]:
    with pytest.raises(Unpostable) as refused:
        booked(body, rules, **given)
    assert "Kari" not in refused.value.message
    assert "86011117947" not in refused.value.message
    return refused.value.code, refused.value.field


# ── lines ────────────────────────────────────────────────────────────────────


def test_a_claim_becomes_its_expenses_and_what_is_owed_for_them() -> None:
    voucher = booked(claim({"amount": "32.00"}, {"expense_type": "fee", "amount": "500.00"}))
    assert [("7140", "32.00"), ("7150", "500.00"), ("2910", "-532.00")] == postings(voucher)
    assert [f"{KEY}-1", f"{KEY}-2", f"{KEY}-3"] == [line.key for line in voucher.lines]
    assert (KEY, 4711, "GL", dt.date(2026, 3, 5), "NOK", "c-1", 3) == (
        voucher.key, voucher.number, voucher.type, voucher.date, voucher.currency, voucher.claim,
        voucher.mapping_version,
    )  # fmt: skip


def test_each_part_of_a_line_is_booked_under_its_own_expense_type() -> None:
    line = {"expense_type": "mileage", "amount": "209.00", "kilometres": "20", "rate": "5.30", "toll": "32.00",
            "parking": "41.00", "transport": "20.00", "other": "10.00"}  # fmt: skip
    expected = [
        ("7100", "70.00"), ("5330", "36.00"), ("7140", "32.00"), ("7141", "41.00"), ("7142", "20.00"),
        ("7149", "10.00"), ("2910", "-209.00"),
    ]  # fmt: skip
    assert expected == postings(booked(claim(line)))


def test_the_line_carries_text_tax_rule_dimensions_and_kilometres() -> None:
    line = {"expense_type": "mileage", "amount": "106.00", "kilometres": "20", "rate": "5.30"}
    free, beyond, _ = booked(claim(line)).lines
    assert ("mileage 2026-03-01 c-1", "0", {"department": "10"}, Decimal(20)) == (
        free.text, free.tax_rule, free.dimensions, free.quantity,
    )  # fmt: skip
    assert (None, None) == (beyond.tax_rule, beyond.quantity)  # counted once


def test_a_type_may_add_a_dimension_and_take_a_default_one_away() -> None:
    fee, owed = booked(claim({"expense_type": "fee"})).lines
    assert {"project": "c-1"} == fee.dimensions
    assert {} == owed.dimensions


@pytest.mark.parametrize(
    ("strategy", "code", "expected"),
    [("employee", "{payee.id}", "p-17"), ("supplier", "9{payee.id}", "9p-17"), ("liability", None, None)],
)
def test_the_debt_goes_where_the_payee_strategy_says(strategy: str, code: str | None, expected: str | None) -> None:
    rules = mapping(payee={"strategy": strategy, "account": "2990", "code": code})
    owed = booked(claim({}), rules).lines[-1]
    assert owed.payee is not None
    assert ("2990", strategy, expected) == (owed.account, owed.payee.strategy, owed.payee.code)


def test_name_and_bank_account_only_go_along_when_the_mapping_says_so() -> None:
    rule = {"strategy": "supplier", "account": "2400", "code": "1"}
    without = booked(claim({}), mapping(payee=rule)).lines[-1].payee
    with_both = booked(claim({}), mapping(payee={**rule, "with_name": True, "with_bank_account": True})).lines[-1].payee
    assert without is not None
    assert with_both is not None
    assert (None, None) == (without.name, without.bank_account)
    assert ("Kari Nordmann", "86011117947") == (with_both.name, with_both.bank_account)


def test_texts_are_one_line_of_at_most_200_characters() -> None:
    rules = mapping(expense_types={"toll": {"account": "1", "text": "{text}"}})
    voucher = booked(claim({"text": "å\n" * 300}), rules)
    assert "å " * 99 + "å" == voucher.lines[0].text


def test_lines_are_only_put_together_when_the_mapping_says_so_and_nothing_is_lost() -> None:
    types = {**MAPPING["expense_types"], "toll": {"account": "7140", "text": "Toll"}}
    body = claim({}, {"amount": "5.00"}, {"expense_type": "fee"})
    apart, together = mapping(expense_types=types), mapping(expense_types=types, grouping="same")
    assert 4 == len(booked(body, apart).lines)
    assert [("7140", "15.00"), ("7150", "10.00"), ("2910", "-25.00")] == postings(booked(body, together))


# ── the allowance ────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("date", "kilometres", "rate", "amount", "expected"),
    [
        ("2026-03-01", "20", "5.30", "106.00", [("7100", "70.00"), ("5330", "36.00")]),
        ("2025-12-31", "20", "4.90", "98.00", [("7100", "68.00"), ("5330", "30.00")]),  # the rates of that day
        ("2026-03-01", "20", "3.50", "70.00", [("7100", "70.00")]),
        ("2026-03-01", "20", "3.00", "60.00", [("7100", "60.00")]),
        ("2026-03-01", "0.005", "5.30", "0.03", [("7100", "0.02"), ("5330", "0.01")]),  # 0.0175 is rounded up
        ("2026-03-01", "35.7", "3.50", "124.95", [("7100", "124.95")]),
        ("2026-03-01", "35.71", "3.50", "124.99", [("7100", "124.99")]),  # they round 124.985 as we do
        ("2026-03-01", "35.711", "3.50", "125.00", [("7100", "125.00")]),  # they round up, we would not
        ("2026-03-01", "0.001", "5.30", "0.01", [("5330", "0.01")]),
    ],
)
def test_an_allowance_is_split_by_the_rate_of_its_own_day(
    date: str, kilometres: str, rate: str, amount: str, expected: list[tuple[str, str]]
) -> None:
    line = {"expense_type": "mileage", "date": date, "kilometres": kilometres, "rate": rate, "amount": amount}
    assert [*expected, ("2910", f"-{amount}")] == postings(booked(claim(line)))


def test_what_day_it_is_today_changes_no_rate() -> None:
    line = {"expense_type": "mileage", "date": "2025-12-31", "kilometres": "20", "rate": "4.90", "amount": "98.00"}
    assert booked(claim(line), today=dt.date(2026, 3, 1)) == booked(claim(line), today=dt.date(2031, 3, 1))


def test_kilometres_may_be_told_as_a_quantity() -> None:
    line = {"expense_type": "mileage", "amount": "106.00", "quantity": "20", "unit": "km"}
    assert [("7100", "70.00"), ("5330", "36.00"), ("2910", "-106.00")] == postings(booked(claim(line)))


# ── claims that cannot be booked ─────────────────────────────────────────────


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([{}, {"expense_type": "hotel"}], ("expense_type_excluded", "lines.1.expense_type")),
        ([{"expense_type": "ferry"}], ("expense_type_unmapped", "lines.0.expense_type")),
        ([{"expense_type": "mileage"}], ("kilometres_missing", "lines.0.kilometres")),
        ([{"expense_type": "mileage", "kilometres": "2", "date": "2024-01-01"}], ("rate_missing", "lines.0.date")),
        ([{"toll": "10.01"}], ("parts_exceed_amount", "lines.0.amount")),
        ([{"currency": "SEK"}], ("currency_mixed", "lines.0.currency")),
        ([{"amount": "0.00"}], ("nothing_to_book", "lines")),
        (
            [{"expense_type": "mileage", "kilometres": "2", "rate": "3.50", "amount": "10.00"}],
            ("rate_contradicts_amount", "lines.0.amount"),
        ),
    ],
)
def test_a_claim_that_cannot_be_booked_says_why_and_where(
    lines: list[dict[str, Any]], expected: tuple[str, str]
) -> None:
    assert expected == refusal(claim(*lines))


def test_an_empty_code_is_never_sent() -> None:
    nobody = mapping(payee={"strategy": "employee", "account": "2910", "code": "{payee.name}"})
    assert ("payee_code_missing", "payee") == refusal(claim({}, payee={"id": "p-1"}), nobody)
    assert ("dimension_empty", "lines.0.dimensions") == refusal(claim({}), mapping(dimensions={"project": "{receipt}"}))


# ── the day ──────────────────────────────────────────────────────────────────


MARCH = ChartPeriod(first=dt.date(2026, 3, 1), last=dt.date(2026, 3, 31), is_open=False)
APRIL = ChartPeriod(first=dt.date(2026, 4, 1), last=dt.date(2026, 4, 30), is_open=True)
MAY = ChartPeriod(first=dt.date(2026, 5, 1), last=dt.date(2026, 5, 31), is_open=True)


def test_the_voucher_bears_the_day_of_the_approval_or_of_the_latest_expense() -> None:
    body = claim({"date": "2026-02-03"}, {"date": "2026-02-20"}, {"date": "2026-01-01"})
    latest = dt.date(2026, 2, 20)
    assert dt.date(2026, 3, 5) == booked(body).date
    assert latest == booked(body, mapping(date="expense")).date
    assert latest == booked({name: value for name, value in body.items() if name != "approved_on"}).date


def test_a_closed_period_holds_the_claim() -> None:
    assert ("period_closed", "date") == refusal(claim({}), periods=[MARCH, APRIL])


def test_a_closed_period_may_be_passed_over_to_the_next_open_one() -> None:
    voucher = booked(claim({}), mapping(closed_period="next_open"), periods=[MARCH, MAY, APRIL])
    assert dt.date(2026, 4, 1) == voucher.date


def test_the_expense_keeps_its_own_day_in_the_text_when_the_voucher_is_moved() -> None:
    rules = mapping(closed_period="next_open", text="{claim} {date}")
    voucher = booked(claim({}), rules, periods=[MARCH, APRIL])
    assert ("toll 2026-03-01 c-1", "c-1 2026-04-01") == (voucher.lines[0].text, voucher.text)


def test_days_in_texts_are_written_as_the_mapping_says_each_its_own() -> None:
    toll = {"account": "7140", "text": "Bom {date:dd.mm.yyyy}"}
    rules = mapping(closed_period="next_open", text="{claim} {date:mmmm yyyy}", expense_types={"toll": toll})
    voucher = booked(claim({}), rules, periods=[MARCH, APRIL])
    assert ("Bom 01.03.2026", "c-1 april 2026") == (voucher.lines[0].text, voucher.text)


def test_without_any_later_open_period_the_claim_waits() -> None:
    assert ("period_closed", "date") == refusal(claim({}), mapping(closed_period="next_open"), periods=[MARCH])


def test_a_day_that_no_period_has_is_not_booked() -> None:
    assert ("period_unknown", "date") == refusal(claim({}), periods=[APRIL])


def test_a_period_that_is_open_beside_a_closed_one_of_the_same_days_is_enough() -> None:
    again = ChartPeriod(first=MARCH.first, last=MARCH.last, is_open=True)
    assert dt.date(2026, 3, 5) == booked(claim({}), periods=[MARCH, again]).date


def test_a_slip_of_the_pen_in_the_year_is_not_booked() -> None:
    assert ("date_in_future", "approved_on") == refusal(claim({}, approved_on="2062-03-05"))


def test_a_voucher_is_not_put_off_to_a_period_that_lies_far_ahead() -> None:
    autumn = ChartPeriod(first=dt.date(2027, 9, 1), last=dt.date(2027, 9, 30), is_open=True)
    with pytest.raises(Unpostable, match="2027-09-01, far ahead") as caught:
        booked(claim({}), mapping(closed_period="next_open"), periods=[MARCH, autumn])
    assert ("period_closed", "date") == (caught.value.code, caught.value.field)


# ── kept and taken back ──────────────────────────────────────────────────────


def test_a_voucher_comes_back_from_json_as_it_was() -> None:
    line = {"expense_type": "mileage", "amount": "138.00", "kilometres": "20.5", "rate": "5.30", "toll": "29.35"}
    voucher = booked(claim(line))
    kept = orjson.loads(orjson.dumps(to_row(voucher)))
    assert "-138.00" == kept["lines"][-1]["amount"]
    assert to_row(voucher) == to_row(from_row(KEY, kept))
    assert voucher == from_row(KEY, kept)


def test_a_reversal_takes_every_line_back_under_a_number_of_its_own() -> None:
    voucher = booked(claim({"amount": "32.00"}))
    back = reversal_of(voucher, key="f" * 32, number=99, date=dt.date(2026, 4, 1))
    assert [("7140", "-32.00"), ("2910", "32.00")] == postings(back)
    assert ("f" * 32, 99, 4711, dt.date(2026, 4, 1)) == (back.key, back.number, back.reverses, back.date)
    assert ["f" * 32 + "-1", "f" * 32 + "-2"] == [line.key for line in back.lines]
    assert back == from_row("f" * 32, to_row(back))


# ── whatever the claim ───────────────────────────────────────────────────────

_oere = st.integers(1, 5_000_000).map(lambda oere: f"{oere // 100}.{oere % 100:02}")
_days = st.dates(dt.date(2025, 1, 1), dt.date(2026, 11, 1)).map(str)
_thousandths = st.integers(1, 2_000_000)


@st.composite
def _line(draw: st.DrawFn) -> dict[str, Any]:
    on_top = draw(st.dictionaries(st.sampled_from(["toll", "parking", "transport", "other"]), _oere, max_size=4))
    line: dict[str, Any] = {"date": draw(_days), **on_top}
    amount = sum(map(Decimal, on_top.values()), Decimal(0))
    if draw(st.booleans()):
        kilometres = Decimal(draw(_thousandths)) / 1000
        rate = Decimal(draw(st.integers(0, 900))) / 100
        line |= {"expense_type": "mileage", "kilometres": str(kilometres), "rate": f"{rate:.2f}"}
        amount += (kilometres * rate).quantize(Decimal("0.01"), "ROUND_HALF_UP")
    elif on_top:
        line["expense_type"] = "toll"
    else:
        line["expense_type"] = draw(st.sampled_from(["fee", "toll"]))
        amount = Decimal(draw(_oere))
    return {**line, "amount": f"{max(amount, Decimal('0.01')):.2f}"} if amount else {
        "expense_type": "fee", "amount": "0.01", "date": line["date"],
    }  # fmt: skip


_claims = st.lists(_line(), min_size=1, max_size=12).map(lambda lines: claim(*lines))
_rules = st.builds(
    lambda grouping, date: mapping(grouping=grouping, date=date),
    st.sampled_from(["none", "same"]),
    st.sampled_from(["approved", "expense"]),
)


@settings(deadline=None)
@given(told=_claims, rules=_rules)
def test_every_claim_that_is_taken_in_balances_to_the_oere(told: dict[str, Any], rules: MappingBody) -> None:
    body, problems = read_claim(told)
    assert [] == problems
    assert [] == gaps(rules, {"c-1": body})
    voucher = booked(body, rules)
    claimed = sum(Decimal(line["amount"]) for line in body["lines"])
    assert Decimal(0) == sum(line.amount for line in voucher.lines)
    assert claimed == sum(line.amount for line in voucher.lines if line.amount > 0)
    assert -claimed == voucher.lines[-1].amount
    assert all(line.amount for line in voucher.lines)
    assert all(-2 <= int(line.amount.as_tuple().exponent) for line in voucher.lines)


@settings(deadline=None)
@given(told=_claims)
def test_the_parts_of_a_line_come_to_its_amount(told: dict[str, Any]) -> None:
    body, _ = read_claim(told)
    for line in body["lines"]:
        assert Decimal(line["amount"]) == sum(part.amount for part in parts_of(line))


@settings(deadline=None)
@given(told=_claims)
def test_the_tax_free_part_is_never_more_than_the_rate_of_that_day_allows(told: dict[str, Any]) -> None:
    body, _ = read_claim(told)
    for line in body["lines"]:
        free = [p for p in booked({**body, "lines": [line]}).lines if p.account == "7100"]
        for posting in free:
            rate = Decimal("3.50") if line["date"] >= "2026-01-01" else Decimal("3.40")
            allowed = Decimal(line["kilometres"]) * rate
            assert posting.amount <= allowed + Decimal("0.005")


@settings(deadline=None)
@given(told=_claims, rules=_rules)
def test_the_same_claim_gives_the_same_voucher(told: dict[str, Any], rules: MappingBody) -> None:
    body, _ = read_claim(told)
    exact = {
        **body,
        "lines": [
            {n: Decimal(v) if n in ("amount", "toll", "parking", "transport", "other", "kilometres", "rate") else v
             for n, v in line.items()}
            for line in body["lines"]
        ],
    }  # fmt: skip
    assert to_row(booked(body, rules)) == to_row(booked(orjson.loads(orjson.dumps(body)), rules))
    assert to_row(booked(body, rules)) == to_row(booked(exact, rules))


@settings(deadline=None)
@given(told=_claims)
def test_a_voucher_and_its_reversal_come_to_nothing_on_every_account(told: dict[str, Any]) -> None:
    body, _ = read_claim(told)
    voucher = booked(body)
    back = reversal_of(voucher, key="f" * 32, number=1, date=TODAY)
    accounts: dict[str, Decimal] = {}
    for line in (*voucher.lines, *back.lines):
        accounts[line.account] = accounts.get(line.account, Decimal(0)) + line.amount
    assert {Decimal(0)} == set(accounts.values())
