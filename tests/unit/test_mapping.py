"""A mapping as data: what it must say, what lacks in it, what differs, and what no longer holds at the other side."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from samband.errors import InvalidError
from samband.outgoing import Chart, ChartEntry, ChartPeriod
from samband.rules.chartcheck import chart_of, chart_row, check_mapping, unchecked
from samband.rules.mapping import MappingBody, closest, digest_of, gaps, parse_mapping, rate_on
from samband.rules.mappingdiff import differences
from samband.rules.templates import DATE_FORMS, IN_CLAIM, IN_LINE, read_template

TODAY = dt.date(2026, 11, 23)
WHOLE: dict[str, Any] = {
    "voucher_type": "GL",
    "payee": {"strategy": "employee", "account": "2910", "code": "{payee.id}"},
    "expense_types": {
        "mileage": {
            "account": "7100", "tax_rule": "0", "text": "Mileage {date}", "dimensions": {"project": "P{claim}"},
            "allowance": {"rates": "car", "taxable_account": "5330"},
        },
        "toll": {"account": "7140"},
        "hotel": {"excluded": True},
    },
    "rates": {
        "car": [
            {"valid_from": "2025-01-01", "rate": "5.00", "tax_free": "3.50"},
            {"valid_from": "2026-01-01", "rate": "5.30", "tax_free": "3.50"},
        ]
    },
    "dimensions": {"department": "10"},
}  # fmt: skip


def changed(**changes: Any) -> dict[str, Any]:
    return {**WHOLE, **changes}


def problems_of(raw: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(InvalidError) as refused:
        parse_mapping(raw)
    return [(problem.field, problem.code) for problem in refused.value.problems]


def claim(*lines: dict[str, Any], **values: Any) -> dict[str, Any]:
    given = [{"expense_type": "toll", "amount": "10.00", "date": "2026-03-01", **line} for line in lines]
    return {"payee": {"id": "p-1"}, "currency": "NOK", "status": "approved", "lines": given, **values}


# ── what it must say ─────────────────────────────────────────────────────────


def test_a_whole_mapping_is_taken_as_it_is() -> None:
    body = parse_mapping(WHOLE)
    assert "7100" == body.expense_types["mileage"].account
    assert body == MappingBody.model_validate(body.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (changed(expense_types={"toll": {}}), [("mapping.expense_types.toll.account", "missing")]),
        (changed(payee={"strategy": "supplier", "account": "2400"}), [("mapping.payee.code", "missing")]),
        (changed(payee={"strategy": "liability"}), [("mapping.payee.account", "missing")]),
        (
            changed(expense_types={"car": {"account": "1", "allowance": {"rates": "boat", "taxable_account": "2"}}}),
            [("mapping.expense_types.car.allowance.rates", "unknown_rates")],
        ),
        (
            changed(expense_types={"car": {"account": "1", "allowance": {"rates": "car"}}}),
            [("mapping.expense_types.car.allowance.taxable_account", "missing")],
        ),
    ],
)
def test_what_a_voucher_needs_and_is_not_mapped_cannot_be_saved(
    raw: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert expected == problems_of(raw)


def test_everything_that_lacks_is_named_at_once() -> None:
    raw = changed(payee={"strategy": "employee"}, expense_types={"toll": {}, "ferry": {}})
    assert 4 == len(problems_of(raw))


def test_an_excluded_expense_type_needs_no_account() -> None:
    assert parse_mapping(changed(expense_types={"toll": {"account": "1"}, "hotel": {"excluded": True}}))


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (changed(text="{payee.bank_account}"), "mapping.text"),
        (changed(text="{payee.__class__}"), "mapping.text"),
        (changed(text="{expense_type}"), "mapping.text"),  # a claim has many
        (changed(expense_types={"toll": {"account": "1", "text": "{0}"}}), "mapping.expense_types.toll.text"),
        (changed(expense_types={"toll": {"account": "1", "text": "a } b"}}), "mapping.expense_types.toll.text"),
        (changed(dimensions={"project": "{claim!r}"}), "mapping.dimensions.project"),
        (changed(expense_types={"toll": {"account": "71 \x00"}}), "mapping.expense_types.toll.account"),
        (changed(expense_types={"toll": {"account": 7140}}), "mapping.expense_types.toll.account"),
        (changed(expense_types={"toll": {"account": "1", "excluded": "yes"}}), "mapping.expense_types.toll.excluded"),
        (changed(rates={"car": [{"valid_from": 20000, "rate": "1", "tax_free": "1"}]}), "mapping.rates.car.0.valid_from"),
        (changed(rates={"car": [{"valid_from": "2026-1-1", "rate": "1", "tax_free": "1"}]}), "mapping.rates.car.0.valid_from"),
        (changed(rates={"car": [{"valid_from": "2026-01-01", "rate": 5.3, "tax_free": "1"}]}), "mapping.rates.car.0.rate"),
        (changed(surprise=1), "mapping.surprise"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_named_by_its_field(raw: dict[str, Any], field: str) -> None:
    assert [field] == [named for named, _ in problems_of(raw)]


@pytest.mark.parametrize("days", [("2026-01-01", "2025-01-01"), ("2026-01-01", "2026-01-01")])
def test_rate_rows_are_in_order_and_no_day_comes_twice(days: tuple[str, str]) -> None:
    rows = [{"valid_from": day, "rate": "5.30", "tax_free": "3.50"} for day in days]
    assert ["mapping.rates.car"] == [field for field, _ in problems_of(changed(rates={"car": rows}))]


def test_two_spellings_of_one_rate_are_the_same_mapping() -> None:
    def with_rate(rate: str) -> MappingBody:
        return parse_mapping(changed(rates={"car": [{"valid_from": "2026-01-01", "rate": rate, "tax_free": "3.5"}]}))

    assert digest_of(with_rate("5.3")) == digest_of(with_rate("5.30"))
    assert digest_of(with_rate("5.3")) != digest_of(with_rate("5.31"))


def test_the_rate_of_a_day_is_the_last_row_that_had_begun() -> None:
    rows = parse_mapping(WHOLE).rates["car"]
    days = [dt.date(2024, 12, 31), dt.date(2025, 1, 1), dt.date(2025, 12, 31), dt.date(2026, 1, 1), dt.date(2030, 1, 1)]
    found = [rate_on(rows, day) for day in days]
    assert [None, "5.00", "5.00", "5.30", "5.30"] == [row and str(row.rate) for row in found]


# ── templates ────────────────────────────────────────────────────────────────


def test_a_template_fills_in_values_and_defaults() -> None:
    template = read_template("{{{claim}}} {text|no text} {receipt}", IN_LINE)
    assert "{c-1} no text r-2" == template.render({"claim": "c-1", "receipt": "r-2"})


def test_what_a_claim_says_is_never_read_as_a_template() -> None:
    assert "{payee.name} 100% %s" == read_template("{text}", IN_CLAIM).render({"text": "{payee.name} 100% %s"})


def test_control_characters_and_direction_marks_do_not_get_into_texts() -> None:
    rendered = read_template("{text}", IN_CLAIM).render({"text": "a\r\n\tb\x00c\u202ed\u2028e\u200b\ud83df"})
    assert "a b cd ef" == rendered


def test_only_a_template_without_placeholders_is_known_beforehand() -> None:
    assert ["10", None] == [read_template(source, IN_LINE).literal for source in ("10", "1{claim}")]


def test_a_day_is_written_in_the_form_that_the_template_asks_for() -> None:
    written = {form: read_template(f"{{date:{form}}}").render({"date": "2026-03-01"}) for form in DATE_FORMS}
    assert {
        "yyyy-mm-dd": "2026-03-01", "dd.mm.yyyy": "01.03.2026", "dd.mm.yy": "01.03.26", "mm.yyyy": "03.2026",
        "mmmm yyyy": "mars 2026", "d. mmmm yyyy": "1. mars 2026",
    } == written  # fmt: skip


def test_months_are_written_in_bokmal() -> None:
    template = read_template("{date:mmmm yyyy}")
    written = [template.render({"date": f"2026-{month:02}-28"}).removesuffix(" 2026") for month in range(1, 13)]
    assert "januar februar mars april mai juni juli august september oktober november desember" == " ".join(written)


@pytest.mark.parametrize("source", ["{date}", "{date|unknown}", "{date:yyyy-mm-dd}", "{date:yyyy-mm-dd|unknown}"])
def test_a_day_without_a_form_stays_as_it_was(source: str) -> None:
    assert "2026-03-01" == read_template(source).render({"date": "2026-03-01"})


def test_a_default_is_written_as_it_stands_with_a_form_or_a_colon_in_it() -> None:
    written = [read_template(source).render({}) for source in ("{date:dd.mm.yyyy|no: day}", "{text|kl: 12}")]
    assert ["no: day", "kl: 12"] == written


@pytest.mark.parametrize("form", ["", "DD.MM.YYYY", "dd/mm/yyyy", "%d.%m.%Y", "dd.mm.yyyy ", " dd.mm.yyyy", "d:m"])
def test_a_form_that_there_is_not_is_refused_by_the_field_and_with_those_there_are(form: str) -> None:
    toll = {"account": "7140", "text": f"Bom {{date:{form}}}"}
    with pytest.raises(InvalidError) as refused:
        parse_mapping(changed(expense_types={**WHOLE["expense_types"], "toll": toll}))
    (problem,) = refused.value.problems
    assert ("mapping.expense_types.toll.text", "value_error") == (problem.field, problem.code)
    assert [] == [form for form in DATE_FORMS if f"{{date:{form}}}" not in problem.message]


def test_only_a_day_takes_a_form() -> None:
    with pytest.raises(InvalidError) as refused:
        parse_mapping(changed(text="{claim:dd.mm.yyyy}"))
    (problem,) = refused.value.problems
    assert "mapping.text" == problem.field
    assert "write {claim}" in problem.message


# ── gaps ─────────────────────────────────────────────────────────────────────


def test_gaps_name_what_is_unmapped_and_which_claims_need_it() -> None:
    claims = {
        "c-1": claim({}, {"expense_type": "Mileag"}),
        "c-2": claim({"expense_type": "ferry"}, {"parking": "4.00"}),
        "c-3": claim({"expense_type": "ferry"}),
        "c-4": claim({"expense_type": "hotel"}),  # excluded is a decision, not a gap
    }
    found = [(gap.kind, gap.name, gap.claims) for gap in gaps(parse_mapping(WHOLE), claims)]
    expected = [
        ("expense_type", "Mileag", ("c-1",)), ("expense_type", "ferry", ("c-2", "c-3")),
        ("expense_type", "parking", ("c-2",)),
    ]  # fmt: skip
    assert expected == found


def test_a_gap_says_which_mapped_type_was_perhaps_meant() -> None:
    (gap,) = gaps(parse_mapping(WHOLE), {"c-1": claim({"expense_type": "Mileag"})})
    assert "'mileage' is mapped" in gap.message


def test_a_rate_table_that_begins_too_late_is_a_gap() -> None:
    old = claim({"expense_type": "mileage", "date": "2024-06-01", "kilometres": "2", "rate": "5.00"})
    (gap,) = gaps(parse_mapping(WHOLE), {"c-1": old})
    assert ("rate", "car", ("c-1",)) == (gap.kind, gap.name, gap.claims)
    assert "2024-06-01" in gap.message


def test_a_claim_that_is_wrong_in_itself_is_no_gap() -> None:
    assert [] == gaps(parse_mapping(WHOLE), {"c-1": claim({"expense_type": "ferry", "toll": "11.00"})})


def test_the_closest_name_is_found_whatever_its_case() -> None:
    assert ["Parkering", None] == [closest(name, ["Parkering", "Bom"]) for name in ("parkring", "hotell")]


# ── what differs ─────────────────────────────────────────────────────────────


def test_versions_differ_field_by_field_and_in_words() -> None:
    after = changed(
        expense_types={**WHOLE["expense_types"], "toll": {"account": "7150", "dimensions": {"department": None}}},
        rates={"car": [*WHOLE["rates"]["car"], {"valid_from": "2027-01-01", "rate": "5.50", "tax_free": "3.60"}]},
        voucher_type=None,
    )  # fmt: skip
    found = {d.field: (d.before, d.after) for d in differences(parse_mapping(WHOLE), parse_mapping(after))}
    expected = {
        "expense_types.toll.account": ("7140", "7150"),
        "expense_types.toll.dimensions.department": (None, "(taken away)"),
        "rates.car.2027-01-01.rate": (None, "5.50"),
        "rates.car.2027-01-01.tax_free": (None, "3.60"),
        "voucher_type": ("GL", None),
    }
    assert expected == found


def test_a_difference_reads_as_a_sentence() -> None:
    (found,) = differences(parse_mapping(WHOLE), parse_mapping(changed(voucher_type="AP")))
    assert 'voucher_type is now "AP"; before it was "GL".' == found.words


def test_a_mapping_does_not_differ_from_itself() -> None:
    assert [] == differences(parse_mapping(WHOLE), parse_mapping(WHOLE))


# ── against the other side's chart ───────────────────────────────────────────


def entries(*codes: str, closed: tuple[str, ...] = (), **texts: str) -> list[ChartEntry]:
    return [ChartEntry(code=code, text=texts.get(f"t{code}", ""), is_open=code not in closed) for code in codes]


def month(number: int, *, is_open: bool) -> ChartPeriod:
    first = dt.date(2026, number, 1)
    last = dt.date(2026 + number // 12, number % 12 + 1, 1) - dt.timedelta(days=1)
    return ChartPeriod(first=first, last=last, is_open=is_open)


GOOD = Chart(
    accounts=entries("2910", "7100", "7140", "5330"),
    dimensions={"department": entries("10", "20")},
    tax_rules=entries("0", "1"),
    periods=[month(11, is_open=True), month(12, is_open=True)],
)


def found_with(**changes: Any) -> list[tuple[str, str, str | None]]:
    chart = Chart(**{name: changes.get(name, getattr(GOOD, name)) for name in GOOD.__dataclass_fields__})
    assert chart == chart_of(chart_row(chart)) or isinstance(chart.accounts, list)
    return [(f.code, f.field, f.suggestion) for f in check_mapping(parse_mapping(WHOLE), chart, TODAY)]


def test_nothing_is_found_when_all_of_it_is_there() -> None:
    assert [] == found_with()


def test_an_unknown_account_is_found_with_the_one_that_was_perhaps_meant() -> None:
    found = found_with(accounts=entries("2910", "7104", "7140", "5330"))
    assert [("account_unknown", "expense_types.mileage.account", "7104")] == found


def test_for_a_closed_account_an_open_one_of_a_similar_name_is_named() -> None:
    accounts = entries("2910", "7100", "7109", "6000", "7140", "5330", closed=("7100",),
                       t7100="Bilgodtgjørelse", t6000="Bilgodtgjørelse, ny", t7109="Hotell")  # fmt: skip
    assert [("account_closed", "expense_types.mileage.account", "6000")] == found_with(accounts=accounts)


def test_the_sentence_says_what_is_closed_and_what_was_perhaps_meant() -> None:
    chart = Chart(accounts=entries("2910", "7100", "7101", "7140", "5330", closed=("7100",), t7100="Car"))
    (finding,) = check_mapping(parse_mapping(WHOLE), chart, TODAY)
    assert "The account 7100 Car is closed. Did you mean 7101?" == finding.message


def test_dimensions_and_tax_rules_are_checked_too() -> None:
    found = found_with(dimensions={"department": entries("20")}, tax_rules=entries("1", "0", closed=("0",)))
    expected = [
        ("tax_rule_closed", "expense_types.mileage.tax_rule", None),
        ("dimension_unknown", "dimensions.department", None),
    ]
    assert expected == [(code, field, None) for code, field, _ in found]


def test_what_the_other_side_does_not_list_is_said_to_be_unchecked() -> None:
    chart = Chart(accounts=GOOD.accounts, dimensions={}, tax_rules=None, periods=None)
    assert ["dimensions.department", "dimensions.project", "tax_rules", "periods"] == unchecked(
        parse_mapping(WHOLE), chart
    )
    assert [] == check_mapping(parse_mapping(WHOLE), chart, TODAY)


def test_a_code_with_a_placeholder_is_only_known_with_a_claim() -> None:
    assert [] == found_with(dimensions={"department": entries("10"), "project": entries("P-other")})


@pytest.mark.parametrize(
    ("periods", "expected"),
    [
        ([month(11, is_open=False), month(12, is_open=True)], ["period_closed"]),
        ([month(11, is_open=True)], ["period_ending"]),
        ([month(10, is_open=True)], ["period_closed"]),
        ([month(11, is_open=True), month(12, is_open=True)], []),
    ],
)
def test_periods_that_are_closed_or_end_soon_are_told(periods: list[ChartPeriod], expected: list[str]) -> None:
    assert expected == [code for code, _, _ in found_with(periods=periods)]


def test_a_closed_period_is_no_trouble_for_who_books_on_the_next_open_one() -> None:
    chart = Chart(accounts=GOOD.accounts, periods=[month(11, is_open=False), month(12, is_open=True)])
    assert [] == check_mapping(parse_mapping(changed(closed_period="next_open")), chart, TODAY)
