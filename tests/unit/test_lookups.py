"""Dimensions of claims, and tables that say what the platform's codes are in the books."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from samband.errors import ConflictError, InvalidError
from samband.outgoing import Chart, ChartEntry, Voucher
from samband.rules.chartcheck import MappingFinding, check_mapping, unchecked
from samband.rules.claims import digest_of as claim_digest
from samband.rules.claims import read_claim
from samband.rules.making import demand_no_gap
from samband.rules.mapping import MappingBody, digest_of, gaps, parse_mapping
from samband.rules.mappingdiff import differences
from samband.rules.posting import Unpostable, voucher_of

TODAY = dt.date(2026, 11, 23)
MAPPING: dict[str, Any] = {
    "payee": {"strategy": "employee", "account": "2910", "code": "{payee.id:employees}"},
    "expense_types": {"toll": {"account": "7140"}, "fee": {"account": "7150"}, "hotel": {"excluded": True}},
    "dimensions": {"cost_centre": "{dimension.activity:cost_centres}"},
    "lookups": {
        "employees": {"entries": {"p-17": "10023"}},
        "cost_centres": {"entries": {"likeperson-oslo": "410", "likeperson-bergen": "420"}},
    },
}


def mapping(**changes: Any) -> MappingBody:
    return parse_mapping({**MAPPING, **changes})


def with_tables(**tables: dict[str, Any]) -> MappingBody:
    return mapping(lookups={**MAPPING["lookups"], **tables})


def claim(*lines: dict[str, Any], activity: str | None = "likeperson-oslo", **values: Any) -> dict[str, Any]:
    told = [{"expense_type": "toll", "amount": "10.00", "date": "2026-03-01", **line} for line in lines or ({},)]
    own = {} if activity is None else {"dimensions": {"activity": activity}}
    return {"payee": {"id": "p-17"}, "currency": "NOK", "status": "approved", "lines": told, **own, **values}


def booked(body: dict[str, Any], rules: MappingBody | None = None) -> Voucher:
    return voucher_of(
        body, claim_id="c-1", key="0" * 32, number=1, mapping=rules or mapping(), mapping_version=1, today=TODAY,
        periods=None,
    )  # fmt: skip


def refusal(body: dict[str, Any], rules: MappingBody | None = None) -> tuple[str, str]:
    with pytest.raises(Unpostable) as refused:
        booked(body, rules)
    return refused.value.code, refused.value.field


def lacking(body: dict[str, Any], rules: MappingBody | None = None) -> list[tuple[str, str]]:
    return [(gap.kind, gap.name) for gap in gaps(rules or mapping(), {"c-1": body})]


def problems_of(**changes: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidError) as refused:
        mapping(**changes)
    return [(problem.field, problem.code) for problem in refused.value.problems]


# ── dimensions of a claim ────────────────────────────────────────────────────


def test_a_claim_and_its_lines_keep_their_dimensions() -> None:
    body, problems = read_claim(claim({"dimensions": {"project": " P 7 "}}))
    assert [] == problems
    assert ({"activity": "likeperson-oslo"}, {"project": "P 7"}) == (body["dimensions"], body["lines"][0]["dimensions"])


@pytest.mark.parametrize("none", [None, {}])
def test_no_dimension_is_the_same_claim_however_it_is_written(none: Any) -> None:
    bare, _ = read_claim(claim(activity=None))
    written, problems = read_claim(claim({"dimensions": none}, activity=None, dimensions=none))
    assert (bare, []) == (written, problems)


def test_another_dimension_is_another_version_and_another_order_is_not() -> None:
    def digest(**dimensions: str) -> str:
        return claim_digest(read_claim(claim(activity=None, dimensions=dimensions))[0])

    assert digest(activity="a", project="b") == digest(project="b", activity="a")
    assert digest(activity="a") != digest(activity="b")


@pytest.mark.parametrize(
    ("dimensions", "field"),
    [
        ({"Activity": "a"}, "dimensions.Activity.[key]"), ({"1st": "a"}, "dimensions.1st.[key]"),
        ({"a" * 41: "a"}, f"dimensions.{'a' * 41}.[key]"), ({"activity\n": "a"}, "dimensions.activity\n.[key]"),
        ({"activity": ""}, "dimensions.activity"), ({"activity": "  "}, "dimensions.activity"),
        ({"activity": "x" * 101}, "dimensions.activity"), ({"activity": 7}, "dimensions.activity"),
        ({"activity": None}, "dimensions.activity"), ({"activity": "a\x00b"}, "dimensions.activity"),
        ({"activity": "a\u202eb"}, "dimensions.activity"), ({"activity": {"a": "b"}}, "dimensions.activity"),
        ({f"d{n}": "a" for n in range(11)}, "dimensions"), (["activity"], "dimensions"), ("activity", "dimensions"),
    ],
)  # fmt: skip
def test_dimensions_that_are_not_well_are_refused_by_name_on_the_claim_and_on_a_line(
    dimensions: Any, field: str
) -> None:
    for told, at in ((claim(dimensions=dimensions), ""), (claim({"dimensions": dimensions}), "lines.0.")):
        body, problems = read_claim(told)
        assert ({}, [f"{at}{field}"]) == (body, [problem.field for problem in problems])


def test_ten_dimensions_of_a_hundred_characters_are_taken() -> None:
    assert [] == read_claim(claim(dimensions={f"d{n}": "x" * 100 for n in range(10)}))[1]


# ── what a mapping makes of them ─────────────────────────────────────────────


def test_an_activity_becomes_its_cost_centre_and_a_peer_mentor_an_employee_number() -> None:
    expense, owed = booked(claim()).lines
    assert ({"cost_centre": "410"}, "10023") == (expense.dimensions, owed.payee and owed.payee.code)


def test_a_lines_own_dimension_stands_before_the_claims() -> None:
    lines = {"dimensions": {"activity": "likeperson-bergen"}}, {"expense_type": "fee", "dimensions": {"project": "x"}}
    first, second, _ = booked(claim(*lines)).lines
    assert ["420", "410"] == [first.dimensions["cost_centre"], second.dimensions["cost_centre"]]


def test_dimensions_stand_in_texts_and_a_suppliers_number_is_looked_up_too() -> None:
    rules = mapping(
        text="{dimension.activity} {dimension.none|without}",
        payee={
            "strategy": "supplier",
            "account": "2400",
            "code": "S{payee.id:employees}",
            "text": "{dimension.activity}",
        },
    )
    voucher = booked(claim({"dimensions": {"activity": "likeperson-bergen"}}), rules)
    owed = voucher.lines[-1]
    assert ("likeperson-oslo without", "likeperson-oslo", "S10023") == (
        voucher.text, owed.text, owed.payee and owed.payee.code,
    )  # fmt: skip


def test_an_expense_type_may_be_looked_up() -> None:
    rules = mapping(
        dimensions={"purpose": "{expense_type:purposes}"},
        lookups={**MAPPING["lookups"], "purposes": {"entries": {"toll": "8"}, "default": "9"}},
    )
    told = booked(claim({}, {"expense_type": "fee"}), rules)
    assert [{"purpose": "8"}, {"purpose": "9"}] == [line.dimensions for line in told.lines[:2]]


def test_what_a_claim_says_is_no_template_and_no_other_table() -> None:
    told = booked(
        claim(dimensions={"activity": "{payee.id:employees}"}), mapping(dimensions={}, text="{dimension.activity}")
    )
    assert "{payee.id:employees}" == told.text


def test_a_claim_that_says_nothing_looks_nothing_up() -> None:
    assert ("dimension_empty", "lines.0.dimensions") == refusal(claim(activity=None))
    with_default = with_tables(cost_centres={"entries": {"a": "1"}, "default": "499"})
    assert ("dimension_empty", "lines.0.dimensions") == refusal(claim(activity=None), with_default)
    own_default = mapping(dimensions={"cost_centre": "{dimension.activity:cost_centres|400}"})
    assert {"cost_centre": "400"} == booked(claim(activity=None), own_default).lines[0].dimensions
    assert [] == lacking(claim(activity=None))


# ── what lacks ───────────────────────────────────────────────────────────────


def test_a_missing_entry_is_a_gap_that_names_table_key_and_claims() -> None:
    claims = {
        "c-1": claim(activity="likeperson-olso"),
        "c-2": claim({}, {"dimensions": {"activity": "likeperson-bergen"}}, payee={"id": "p-99"}),
        "c-3": claim(activity="likeperson-olso"),
    }
    found = gaps(mapping(), claims)
    assert [
        ("lookup", "cost_centres/likeperson-olso", ("c-1", "c-3"), "lookups.cost_centres.entries.likeperson-olso"),
        ("lookup", "employees/p-99", ("c-2",), "lookups.employees.entries.p-99"),
    ] == [(gap.kind, gap.name, gap.claims, gap.field) for gap in found]
    assert "'likeperson-oslo' is in it" in found[0].message
    assert "p-17" not in found[1].message  # nobody else's number is a suggestion
    with pytest.raises(ConflictError) as refused:
        demand_no_gap(found)
    assert "mapping.lookups.employees.entries.p-99" == refused.value.problems[1].field


@pytest.mark.parametrize("key", ["P-17", "p-17 b", "p/17", "p.17"])
def test_keys_are_taken_letter_by_letter(key: str) -> None:
    assert [("lookup", f"employees/{key}")] == lacking(claim(payee={"id": key}))
    rules = with_tables(employees={"entries": {key: "7"}})
    assert [] == lacking(claim(payee={"id": key}), rules)
    owed = booked(claim(payee={"id": key}), rules).lines[-1]
    assert "7" == (owed.payee and owed.payee.code)


def test_a_table_with_a_default_lacks_nothing() -> None:
    rules = with_tables(employees={"entries": {"p-17": "1"}, "default": "99999"})
    assert [] == lacking(claim(payee={"id": "p-99"}), rules)
    owed = booked(claim(payee={"id": "p-99"}), rules).lines[-1]
    assert "99999" == (owed.payee and owed.payee.code)


def test_every_place_that_looks_something_up_is_a_place_that_may_lack_it() -> None:
    places: list[dict[str, Any]] = [
        {"text": "{dimension.x:cost_centres}"},
        {"payee": {**MAPPING["payee"], "text": "{dimension.x:cost_centres}"}},
        {"payee": {**MAPPING["payee"], "dimensions": {"d": "{dimension.x:cost_centres}"}}},
        {"payee": {**MAPPING["payee"], "code": "{dimension.x:cost_centres}"}},
        {"dimensions": {"d": "{dimension.x:cost_centres}"}},
        {"expense_types": {"toll": {"account": "7140", "text": "{dimension.x:cost_centres}"}}},
        {"expense_types": {"toll": {"account": "7140", "dimensions": {"d": "{dimension.x:cost_centres}"}}}},
    ]
    for place in places:
        rules, told = mapping(**place), claim(dimensions={"activity": "likeperson-oslo", "x": "?"})
        assert [("lookup", "cost_centres/?")] == lacking(told, rules), place
        assert "lookup_missing" == refusal(told, rules)[0], place


def test_what_a_type_takes_away_and_what_stays_behind_needs_no_entry() -> None:
    away = mapping(expense_types={"toll": {"account": "7140", "dimensions": {"cost_centre": None}}})
    assert [] == lacking(claim(activity="?"), away)
    assert [] == lacking(claim({}, {"expense_type": "hotel"}, activity="?", payee={"id": "?"}))
    assert [] == lacking(claim({"toll": "11.00"}, activity="?", payee={"id": "?"}))


def test_who_books_in_spite_of_a_gap_is_told_table_key_and_field() -> None:
    assert ("lookup_missing", "lines.0.dimensions.activity") == refusal(claim(activity="?"))
    assert ("lookup_missing", "payee.id") == refusal(claim(payee={"id": "p-99"}))
    on_a_line = mapping(dimensions={"person": "{payee.id:employees}"})
    assert ("lookup_missing", "payee.id") == refusal(claim(payee={"id": "p-99"}), on_a_line)
    with pytest.raises(Unpostable, match=r"'employees' has no entry for 'p-99'"):
        booked(claim(payee={"id": "p-99"}))


def test_of_thousands_of_gaps_the_first_are_named_and_all_are_counted() -> None:
    claims = {f"c-{n}": claim(payee={"id": f"q-{n}"}) for n in range(1_500)}
    with pytest.raises(ConflictError) as refused:
        demand_no_gap(gaps(mapping(), claims))
    assert 1_000 == len(refused.value.problems)
    assert "lacks 1500 of" in refused.value.message


# ── what a mapping must say ──────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"text": "{dimension.activity:none}"}, ("mapping.text", "unknown_table")),
        ({"dimensions": {"d": "{expense_type:none}"}}, ("mapping.dimensions.d", "unknown_table")),
        ({"payee": {**MAPPING["payee"], "code": "{payee.id:none}"}}, ("mapping.payee.code", "unknown_table")),
        (
            {"payee": {**MAPPING["payee"], "dimensions": {"d": "{payee.id:none}"}}},
            ("mapping.payee.dimensions.d", "unknown_table"),
        ),
        (
            {"expense_types": {"toll": {"account": "1", "text": "{payee.id:none}"}}},
            ("mapping.expense_types.toll.text", "unknown_table"),
        ),
        (
            {"expense_types": {"toll": {"excluded": True, "dimensions": {"d": "{payee.id:none}"}}}},
            ("mapping.expense_types.toll.dimensions.d", "unknown_table"),
        ),
        ({"text": "{dimension.}"}, ("mapping.text", "value_error")),
        ({"text": "{dimension.Activity}"}, ("mapping.text", "value_error")),
        ({"text": "{dimension.a.b}"}, ("mapping.text", "value_error")),
        ({"text": "{dimension.activity:}"}, ("mapping.text", "value_error")),
        ({"text": "{payee.id:Employees}"}, ("mapping.text", "value_error")),
        ({"text": "{payee.name:employees}"}, ("mapping.text", "value_error")),
        ({"text": "{text:employees}"}, ("mapping.text", "value_error")),
        ({"text": "{expense_type:employees}"}, ("mapping.text", "value_error")),  # a claim has many
    ],
)
def test_a_table_or_placeholder_that_there_is_not_is_refused_by_its_field(
    changes: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert [expected] == problems_of(**changes)


@pytest.mark.parametrize(
    ("tables", "field"),
    [
        ({"Employees": {"entries": {"a": "1"}}}, "mapping.lookups.Employees.[key]"),
        ({"t": {"entries": {}}}, "mapping.lookups.t.entries"),
        ({"t": {}}, "mapping.lookups.t.entries"),
        ({"t": {"a": "1", "entries": {"a": "1"}}}, "mapping.lookups.t.a"),
        ({"t": {"entries": {"a": 1}}}, "mapping.lookups.t.entries.a"),
        ({"t": {"entries": {"a": ""}}}, "mapping.lookups.t.entries.a"),
        ({"t": {"entries": {"a": "{payee.name} \x00"}}}, "mapping.lookups.t.entries.a"),
        ({"t": {"entries": {" a": "1"}}}, "mapping.lookups.t.entries. a.[key]"),
        ({"t": {"entries": {"x" * 101: "1"}}}, f"mapping.lookups.t.entries.{'x' * 101}.[key]"),
        ({"t": {"entries": {"a": "1"}, "default": ""}}, "mapping.lookups.t.default"),
        ({"t": {"entries": {str(n): "1" for n in range(20_001)}}}, "mapping.lookups.t.entries"),
    ],
)
def test_a_table_that_is_not_well_is_refused_by_its_field(tables: dict[str, Any], field: str) -> None:
    assert [field] == [named for named, _ in problems_of(lookups={**MAPPING["lookups"], **tables})]


def test_a_mapping_with_tables_comes_back_from_json_as_it_was() -> None:
    body = mapping()
    assert body == MappingBody.model_validate(body.model_dump(mode="json"))
    assert digest_of(body) != digest_of(with_tables(employees={"entries": {"p-17": "10024"}}))


def test_versions_differ_entry_by_entry() -> None:
    after = with_tables(employees={"entries": {"p-17": "10024", "p.18": "2"}, "default": "1"})
    assert {
        "lookups.employees.entries.p-17": ("10023", "10024"), "lookups.employees.entries.p.18": (None, "2"),
        "lookups.employees.default": (None, "1"),
    } == {d.field: (d.before, d.after) for d in differences(mapping(), after)}  # fmt: skip


# ── against the other side's chart ───────────────────────────────────────────


def check(rules: MappingBody, *entries: ChartEntry, name: str = "cost_centre") -> list[MappingFinding]:
    accounts = [ChartEntry(code=code) for code in ("2910", "7140", "7150")]
    return check_mapping(rules, Chart(accounts=accounts, dimensions={name: entries}), TODAY)


def test_codes_in_a_table_are_checked_like_fixed_ones() -> None:
    found = check(mapping(), ChartEntry(code="410", text="Oslo", is_open=False), ChartEntry(code="421"))
    assert [
        ("dimension_closed", "lookups.cost_centres.entries.likeperson-oslo"),
        ("dimension_unknown", "lookups.cost_centres.entries.likeperson-bergen"),
    ] == [(each.code, each.field) for each in found]
    assert "The value of the dimension cost_centre 410 Oslo is closed." in found[0].message
    assert "421" == found[1].suggestion
    assert [] == check(mapping(), ChartEntry(code="410"), ChartEntry(code="420"))


def test_what_stands_around_a_looked_up_code_and_both_defaults_are_checked_with_it() -> None:
    rules = mapping(
        dimensions={"cost_centre": "K{dimension.activity:cost_centres|000}"},
        lookups={**MAPPING["lookups"], "cost_centres": {"entries": {"a": "410"}, "default": "499"}},
    )
    assert ["lookups.cost_centres.entries.a", "lookups.cost_centres.default", "dimensions.cost_centre"] == [
        each.field for each in check(rules)
    ]
    assert [] == check(rules, *(ChartEntry(code=code) for code in ("K410", "K499", "K000")))


def test_an_entry_is_told_once_however_many_types_use_its_table() -> None:
    types = {
        f"t{n}": {"account": "7140", "dimensions": {"cost_centre": "{dimension.activity:cost_centres}"}}
        for n in range(9)
    }
    assert 2 == len(check(mapping(expense_types=types)))


def test_of_a_table_that_holds_nowhere_the_first_entries_are_told_and_the_rest_is_counted() -> None:
    rules = with_tables(cost_centres={"entries": {f"a{n}": f"{n}" for n in range(10_000)}})
    found = check(rules)
    assert (201, "lookups.cost_centres") == (len(found), found[-1].field)
    assert "9800 more codes" in found[-1].message


def test_tables_and_dimensions_that_nobody_can_check_are_named() -> None:
    chart = Chart(accounts=[], dimensions={"cost_centre": []}, tax_rules=[], periods=[])
    assert ["lookups.employees"] == unchecked(mapping(), chart)
    chart = Chart(accounts=[], dimensions={}, tax_rules=[], periods=[])
    assert ["dimensions.cost_centre", "lookups.cost_centres", "lookups.employees"] == unchecked(mapping(), chart)
