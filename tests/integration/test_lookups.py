"""Dimensions of claims and tables of a mapping, through a real store and over HTTP: told, ordered, corrected, checked."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from samband import Chart, ChartEntry, hookimpl
from samband.access import ALL_VERBS
from samband.api import create_app
from samband.api.openapi import openapi_document
from samband.api.routes import ENDPOINTS
from samband.cli.mapping import _mapping_lines
from samband.errors import ConflictError, InvalidError
from samband.store import Store

from .booking import ORG, PLUGIN, Books, Desk, claim

MAPPING: dict[str, Any] = {
    "payee": {"strategy": "employee", "account": "2910", "code": "{payee.id:employees}"},
    "expense_types": {"toll": {"account": "7140"}},
    "dimensions": {"cost_centre": "{dimension.activity:cost_centres}"},
    "lookups": {
        "employees": {"entries": {"p-17": "10023"}},
        "cost_centres": {"entries": {"likeperson-oslo": "410", "likeperson-bergen": "420"}},
    },
}
OSLO: dict[str, Any] = {"dimensions": {"activity": "likeperson-oslo"}}


class ListingBooks(Books):
    """Books that list their cost centres."""

    def __init__(self) -> None:
        super().__init__(further=frozenset({"chart"}))
        self.centres = [ChartEntry(code="410"), ChartEntry(code="420")]

    @hookimpl
    async def chart(self, ctx: Any) -> Chart:
        accounts = [ChartEntry(code=code) for code in ("2910", "7140")]
        return Chart(accounts=accounts, dimensions={"cost_centre": self.centres})


@pytest.fixture
def books() -> ListingBooks:
    return ListingBooks()


@pytest.fixture
def desk(store: Store, books: ListingBooks) -> Desk:
    return Desk.around(store, books)


def with_entries(table: str, entries: dict[str, str]) -> dict[str, Any]:
    lookups = {**MAPPING["lookups"], table: {"entries": entries}}
    return {**MAPPING, "lookups": lookups}


async def test_a_claim_goes_out_under_the_cost_centre_of_its_activity_and_the_persons_number(desk: Desk) -> None:
    carried: list[Any] = []
    desk.books.deed = lambda item: carried.append(item.voucher)
    await desk.connect(mapping=MAPPING)
    await desk.put("c-1", **OSLO)
    ordered = await desk.service.exports.order(ORG)
    assert "succeeded" == await desk.work(ordered.run)
    ((expense, owed),) = (voucher.lines for voucher in carried)
    assert ({"cost_centre": "410"}, "10023") == (expense.dimensions, owed.payee.code)


async def test_a_missing_entry_refuses_the_order_with_the_list_and_a_preview_tells_it(desk: Desk) -> None:
    await desk.connect(mapping=MAPPING)
    await desk.put("c-1", **OSLO)
    await desk.put("c-2", payee={"id": "p-99"}, **OSLO)
    await desk.put("c-3", dimensions={"activity": "likeperson-hamar"})
    for asked in (desk.service.exports.order(ORG), desk.service.exports.preview(ORG)):
        with pytest.raises(ConflictError) as refused:
            await asked
        assert ("mapping_gap", [
            "mapping.lookups.cost_centres.entries.likeperson-hamar", "mapping.lookups.employees.entries.p-99",
        ]) == (refused.value.code, [problem.field for problem in refused.value.problems])  # fmt: skip
    assert {} == await desk.items()
    shown = await desk.service.mappings.preview(ORG, PLUGIN, ids=["c-1", "c-2"])
    assert [None, "mapping_gap"] == [item.problem and item.problem.code for item in shown.items]
    assert [("lookup", "employees/p-99", ["c-2"])] == [(gap.kind, gap.name, gap.claims) for gap in shown.gaps]
    added = {"p-17": "10023", "p-99": "10099"}
    await desk.service.mappings.put(ORG, PLUGIN, mapping=with_entries("employees", added))
    ordered = await desk.service.exports.order(ORG, exclude={"c-3": "Is looked into."})
    assert (["c-1", "c-2"], 2) == (ordered.reserved, ordered.mapping_version)


async def test_a_claim_that_says_no_activity_stays_behind_alone(desk: Desk) -> None:
    await desk.connect("c-1", mapping=MAPPING)
    await desk.put("c-2", **OSLO)
    ordered = await desk.service.exports.order(ORG)
    assert (["c-2"], [("c-1", "dimension_empty")]) == (ordered.reserved, [(s.id, s.code) for s in ordered.skipped])


async def test_a_dimension_that_changes_after_the_booking_is_a_correction(desk: Desk) -> None:
    await desk.connect(mapping=MAPPING)
    await desk.put("c-1", **OSLO)
    ordered = await desk.service.exports.order(ORG)
    await desk.work(ordered.run)
    again, outcome = await desk.service.reimbursements.put(ORG, "c-1", claim(**OSLO))
    assert ("unchanged", 1) == (outcome, again.version)
    moved, outcome = await desk.service.reimbursements.put(
        ORG, "c-1", claim(dimensions={"activity": "likeperson-bergen"})
    )
    assert ("proposed", OSLO["dimensions"]) == (outcome, moved.values["dimensions"])
    (correction,) = (await desk.service.reimbursements.corrections(ORG)).items
    assert ["dimensions.activity"] == correction.changed
    assert {"activity": "likeperson-bergen"} == correction.values["dimensions"]


async def test_codes_of_tables_are_held_against_the_other_sides_lists(desk: Desk, books: ListingBooks) -> None:
    await desk.connect(mapping=MAPPING)
    assert (await desk.service.mappings.check(ORG, PLUGIN, refresh=True)).ok
    books.centres = [ChartEntry(code="410", is_open=False), ChartEntry(code="420")]
    checked = await desk.service.mappings.check(ORG, PLUGIN, refresh=True)
    assert [("dimension_closed", "lookups.cost_centres.entries.likeperson-oslo", "420")] == [
        (found.code, found.field, found.suggestion) for found in checked.findings
    ]
    assert "lookups.employees" in checked.unchecked
    with pytest.raises(InvalidError) as refused:
        await desk.service.mappings.put(
            ORG, PLUGIN, mapping=with_entries("cost_centres", {"likeperson-oslo": "411"}), strict=True
        )
    assert ["mapping.lookups.cost_centres.entries.likeperson-oslo"] == [p.field for p in refused.value.problems]


async def test_tables_are_compared_and_restored_with_their_version(desk: Desk) -> None:
    await desk.connect(mapping=MAPPING)
    await desk.service.mappings.put(ORG, PLUGIN, mapping=with_entries("employees", {"p-17": "10024"}))
    told = await desk.service.mappings.diff(ORG, PLUGIN)
    assert ['lookups.employees.entries.p-17 is now "10024"; before it was "10023".'] == [
        d.words for d in told.differences
    ]
    restored = await desk.service.mappings.restore(ORG, PLUGIN, 1)
    assert {"entries": {"p-17": "10023"}, "default": None} == restored.mapping["lookups"]["employees"]
    lines = list(_mapping_lines(restored.mapping))
    assert "Lookup table employees: entries 1, anything else is a gap" in lines


async def test_tables_of_ten_thousand_people_and_claims_with_dimensions_are_told_over_http(desk: Desk) -> None:
    await desk.connect(mapping=None)
    key = await desk.service.create_key("all", verbs=ALL_VERBS, organizations=[ORG])
    people = {f"person-{n:05d}": f"{10_000 + n}" for n in range(10_000)}
    base = f"/v1/organizations/{ORG}"
    async with TestClient(TestServer(create_app(desk.service)), headers={"Authorization": f"Bearer {key}"}) as client:

        async def put(path: str, body: Any) -> tuple[int, Any]:
            answer = await client.put(base + path, json=body)
            return answer.status, await answer.json()

        status, saved = await put(f"/integrations/{PLUGIN}/mapping", {"mapping": with_entries("employees", people)})
        assert (200, people) == (status, saved["mapping"]["lookups"]["employees"]["entries"])
        status, told = await put("/reimbursements/c-1", claim(payee={"id": "person-09999"}, **OSLO))
        assert (200, OSLO["dimensions"]) == (status, told["values"]["dimensions"])
        status, refused = await put("/reimbursements/c-2", claim(dimensions={"activity": "a\u202eb"}))
        assert (422, ["dimensions.activity"]) == (status, [error["field"] for error in refused["errors"]])
        status, many = await put("/reimbursements", {"items": [{"id": "c-3", **claim(dimensions={"A": "b"})}]})
        assert (200, "items.0.dimensions.A.[key]") == (status, many["items"][0]["problems"][0]["field"])
        unknown = {**MAPPING, "text": "{payee.id:people}"}
        status, refused = await put(f"/integrations/{PLUGIN}/mapping", {"mapping": unknown})
        assert (422, [("mapping.text", "unknown_table")]) == (
            status, [(error["field"], error["code"]) for error in refused["errors"]],
        )  # fmt: skip
    assert ["c-1"] == (await desk.service.exports.preview(ORG)).claims


def test_the_document_of_the_api_tells_of_dimensions_and_tables() -> None:
    schemas = openapi_document(ENDPOINTS, "0")["components"]["schemas"]
    assert "dimensions" in schemas["ReimbursementIn"]["properties"]
    assert "dimensions" in schemas["ReimbursementLine"]["properties"]
    assert {"entries", "default"} == schemas["Lookup"]["properties"].keys()
