"""Filters, pages, cursors, look-ups and the errors of GraphQL itself."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

CODES = "{ accounts(%s) { edges { cursor node { dbId code } } pageInfo { hasNextPage hasPreviousPage } } }"


async def codes(api: Any, arguments: str) -> list[str]:
    return [row["code"] for row in await api.nodes(CODES % arguments, "accounts")]


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ('code: "7140"', ["7140"]),
        ('code_in: ["7140", "2910", "9"]', ["2910", "7140"]),
        ('code_gte: "7160", code_lt: "7790"', ["7160", "7320"]),
        ('AND: [{code_gt: "1500"}, {code_lte: "1920"}]', ["1570", "1920"]),
        ('OR: [{code: "1500"}, {description: "Bankinnskudd"}]', ["1500", "1920"]),
        ('code: "7140", OR: [{code: "1500"}]', []),
        ('chartOfAccountDbId: 3, code: "5000"', ["5000"]),
    ],
)
async def test_filters_compare_list_and_join(api: Any, filter_: str, expected: list[str]) -> None:
    assert expected == await codes(api, f"filter: {{{filter_}}}")


async def test_a_filter_on_ids_takes_text_and_numbers(api: Any) -> None:
    row = (await api.nodes(CODES % 'filter: {code: "7140"}', "accounts"))[0]
    assert isinstance(row["dbId"], str)
    assert ["7140"] == await codes(api, f'filter: {{dbId_in: ["{row["dbId"]}"]}}')
    assert ["7140"] == await codes(api, f"filter: {{dbId: {row['dbId']}}}")


async def test_closed_things_are_left_out_on_request(api: Any) -> None:
    await api.control("config", {"accounts": {"7140": "closed"}})
    assert ["7140"] == await codes(api, "objectStatus: CLOSED")
    assert "7140" not in await codes(api, "objectStatus: OPEN")
    assert "7140" in await codes(api, "first: 100")


@pytest.mark.parametrize("composite", [False, True])
async def test_pages_go_forward_and_back_over_every_row_once(api: Any, composite: bool) -> None:
    await api.control("config", {"switches": {"composite_cursors": composite}})
    everything = await codes(api, "first: 100")
    forward: list[str] = []
    arguments = "first: 7"
    while True:
        page = (await api.ask(CODES % arguments))["accounts"]
        forward += [edge["node"]["code"] for edge in page["edges"]]
        if not page["pageInfo"]["hasNextPage"]:
            break
        arguments = f'first: 7, after: "{page["edges"][-1]["cursor"]}"'
        assert composite is ("." in page["edges"][-1]["cursor"])
    assert everything == forward
    newest = (await api.ask(CODES % "last: 5"))["accounts"]
    assert everything[:-6:-1] == [edge["node"]["code"] for edge in newest["edges"]]
    before = f'last: 5, before: "{newest["edges"][-1]["cursor"]}"'
    assert everything[-6:-11:-1] == await codes(api, before)


async def test_entries_have_cursors_that_are_no_ids(api: Any) -> None:
    await api.add(api.voucher(1))
    await api.run_job()
    edges = (await api.ask(api.posted_query, keys=["1-1"]))["journalEntries"]["edges"]
    assert edges[0]["cursor"] != edges[0]["node"]["dbId"]
    assert "." in edges[0]["cursor"]


async def test_a_page_has_at_most_ten_thousand_rows(api: Any) -> None:
    from samband_xledger.simulator.books import by_hand

    world = api.simulator.state.world
    owner = world.entity("23601")["dbId"]
    for number in range(5_001):
        by_hand(world, owner, world.new_number(), "2026-01-02", Decimal(number + 1), "x")
    query = "{ journalEntries(first: 20000) { edges { cursor } pageInfo { hasNextPage } } }"
    found = (await api.ask(query))["journalEntries"]
    assert (10_000, True) == (len(found["edges"]), found["pageInfo"]["hasNextPage"])


async def test_an_empty_list_may_be_null(api: Any) -> None:
    query = "{ journalEntries { edges { cursor } pageInfo { hasNextPage } } }"
    assert [] == (await api.ask(query))["journalEntries"]["edges"]
    await api.control("config", {"switches": {"null_edges": True}})
    assert {"edges": None, "pageInfo": {"hasNextPage": False}} == (await api.ask(query))["journalEntries"]


@pytest.mark.parametrize(
    ("query", "message", "code"),
    [
        ("{ accounts { edges { node { nope } } } }", "Cannot query field 'nope'", "FIELDS_ON_CORRECT_TYPE"),
        ("{ nothing }", "Cannot query field 'nothing'", "FIELDS_ON_CORRECT_TYPE"),
        ('{ accounts(first: "x") { edges { cursor } } }', "Int cannot represent", "ARGUMENTS_OF_CORRECT_TYPE"),
        ("{ accounts(filter: {nope: 1}) { edges { cursor } } }", "unknown field 'nope'", "ARGUMENTS_OF"),
        ('{ accounts(filter: {dbId: "x"}) { edges { cursor } } }', "Int64String cannot represent", "ARGUMENTS_OF"),
        ('{ glImportItems(filter: {amount: "1e99"}) { edges { cursor } } }', "at most 18 digits", "ARGUMENTS_OF"),
        ('{ glImportItems(filter: {postedDate: "1.3.2026"}) { edges { cursor } } }', "YYYY-MM-DD", "ARGUMENTS_OF"),
        ("{ accounts(", "Syntax Error", "ARGUMENTS_OF_CORRECT_TYPE"),
        ('{ accounts(after: "x") { edges { cursor } } }', "Invalid cursor 'x'", "INVALID_VALUE"),
        ("{ accounts(first: 1, last: 1) { edges { cursor } } }", "first and last", "INVALID_VALUE"),
    ],
)
@pytest.mark.parametrize("wanted", [200, 400])
async def test_what_does_not_fit_the_schema_is_an_error_with_either_status(
    api: Any, query: str, message: str, code: str, wanted: int
) -> None:
    await api.control("config", {"switches": {"validation_status": wanted}})
    status, body = await api.send(query)
    error = body["errors"][0]
    assert wanted == status
    assert message in error["message"]
    assert error["extensions"]["code"].startswith(code)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"subledger": {"code": "P123456"}}, "subledger.code: No value matching owner {owner}, code 'P123456'."),
        ({"account": {"dbId": "1"}}, "account.dbId: No value matching owner {owner}, dbId '1'."),
        ({"taxRule": {"description": "x"}}, "taxRule.description: No value matching owner {owner}, description 'x'."),
        ({"account": {}}, "account: One of dbId, code or description must be given."),
        ({"glObject1": {"code": "10"}}, "glObject1.code: No value matching owner {owner}, code '10'."),
    ],
)
async def test_a_reference_to_nothing_refuses_the_whole_mutation(api: Any, more: dict[str, Any], message: str) -> None:
    owner = api.simulator.state.world.entity("23601")["dbId"]
    _, body = await api.send(api.add_query, inputs=[*api.voucher(1), *api.voucher(2, **more)])
    error = body["errors"][0]
    assert (message.format(owner=owner), "INVALID_VALUE") == (error["message"], error["extensions"]["code"])
    assert [] == (await api.look("staging"))["items"]


async def test_a_reference_may_be_an_id_a_code_or_a_description(api: Any) -> None:
    row = (await api.nodes(CODES % 'filter: {code: "7140"}', "accounts"))[0]
    for reference in ({"dbId": row["dbId"]}, {"dbId": int(row["dbId"])}, {"description": "Bankinnskudd"}):
        _, body = await api.send(api.add_query, inputs=api.voucher(1, account=reference))
        assert "errors" not in body


async def test_alternatives_are_shown_as_an_error(api: Any) -> None:
    query = (
        "mutation { addGLImportItems(inputs: {node: {taxRule: {showAlternatives: YES}}}) { edges { node { dbId } } } }"
    )
    _, body = await api.send(query)
    shown = body["errors"][0]["extensions"]["exampleValidInputs"]
    assert ["0", "1", "11", "13"] == [item["code"] for item in shown]
    assert {"code", "dbId", "ownerDbId", "text"} == set(shown[0])
    assert isinstance(shown[0]["dbId"], int)
    assert [] == (await api.look("staging"))["items"]


async def test_times_are_those_of_oslo_across_the_end_of_summer_time(api: Any) -> None:
    year = datetime.fromisoformat((await api.look("state"))["now"]).year + 1
    last_sunday = max(day for day in range(25, 32) if datetime(year, 10, day).weekday() == 6)
    query = "{ journalHeaders(last: 1) { edges { node { dbId modifiedAt } } } }"
    written = []
    # Half past midnight and half past one in Greenwich are the same half past two in Oslo.
    for number, hour in enumerate(("00", "01"), start=1):
        await api.control("clock/advance", {"to": f"{year}-10-{last_sunday}T{hour}:30:00+00:00"})
        await api.add(api.voucher(number))
        await api.run_job()
        written.append((await api.nodes(query, "journalHeaders"))[0]["modifiedAt"])
    assert [f"{year}-10-{last_sunday}T02:30"] * 2 == [text[:16] for text in written]
    since = f'{{ journalHeaders(filter: {{modifiedAt_gte: "{written[0]}"}}) {{ edges {{ node {{ dbId }} }} }} }}'
    assert 2 == len(await api.nodes(since, "journalHeaders"))
    _, body = await api.send(since.replace(written[0], f"{written[0]}Z"))
    assert "takes no offset" in body["errors"][0]["message"]


async def test_introspection_works_with_a_normal_token(api: Any) -> None:
    found = await api.ask('{ __type(name: "AddGLImportItemsInputNode") { inputFields { name } } }')
    names = {item["name"] for item in found["__type"]["inputFields"]}
    assert {"trRegNumber", "extIdentifier", "jobLevel", "glObject5", "importDefinition"} <= names


async def test_a_query_may_come_with_files_beside_it(api: Any) -> None:
    import aiohttp

    form = aiohttp.FormData()
    form.add_field("content", '{"query": "{ currencies { edges { node { code } } } }"}')
    form.add_field("receipt.pdf", b"%PDF", filename="receipt.pdf")
    async with api.http.post(api.address.settings["graphql_url"], data=form, headers=api.headers) as answer:
        assert 3 == len((await answer.json())["data"]["currencies"]["edges"])


async def test_what_is_no_request_at_all_is_refused_in_the_same_envelope(api: Any) -> None:
    for body in (b"", b"[]", b'{"query": 1}', b"\xff"):
        async with api.http.post(api.address.settings["graphql_url"], data=body, headers=api.headers) as answer:
            assert "query" in (await answer.json())["errors"][0]["message"]
