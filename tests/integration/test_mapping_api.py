"""Mappings over HTTP and on the command line: what is answered, what is refused, and what other organisations get to see."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from samband.access import ALL_VERBS
from samband.api import create_app
from samband.api.openapi import openapi_document
from samband.api.routes import ENDPOINTS
from samband.cli.mapping import (
    _chart_lines,
    _check_lines,
    _diff_lines,
    _head_lines,
    _mapping_lines,
    _preview_lines,
    _warning_lines,
)
from samband.client import Client
from samband.errors import UnavailableError
from samband.store import Store

from .test_mappings import MAPPING, Desk, chart, with_toll

BASE = "/v1/organizations/hlf/integrations/books/mapping"
CHART = "/v1/organizations/hlf/integrations/books/chart"
THEIRS = "/v1/organizations/nbf/integrations/books/mapping"
DOCUMENT = openapi_document(ENDPOINTS, "0")
Ask = Callable[..., Awaitable[tuple[int, Any, Any]]]


@pytest.fixture
async def desk(store: Store) -> AsyncIterator[Desk]:
    desk = Desk(store)
    await desk.connect()
    await desk.connect("nbf")
    yield desk
    await desk.registry.close()


@pytest.fixture
async def ask(desk: Desk) -> AsyncIterator[Ask]:
    """Sends a request; gives the status, the body and the ETag."""
    keys = {
        "admin": await desk.service.create_key("admin", verbs=ALL_VERBS, organizations=None),
        "reader": await desk.service.create_key("reader", verbs=["read"], organizations=["hlf"]),
        "stranger": await desk.service.create_key("stranger", verbs=ALL_VERBS, organizations=["nbf"]),
    }
    async with TestClient(TestServer(create_app(desk.service, max_body_bytes=200_000))) as client:

        async def send(
            method: str, path: str, body: Any = None, *, key: str = "admin", **headers: str
        ) -> tuple[int, Any, Any]:
            headers = {"Authorization": f"Bearer {keys[key]}", **headers}
            answer = await client.request(method, path, json=body, headers=headers)
            said = await answer.json()
            assert _is_promised(method, str(answer.url.path), answer.status, said), (method, path, said)
            return answer.status, said, answer.headers.get("ETag")

        yield send


def _is_promised(method: str, path: str, status: int, body: Any) -> bool:
    """Tells whether the document of the endpoint names the answer's status and, of a refusal, its code."""
    pattern = next(e.path for e in ENDPOINTS if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", e.path), path))
    promised = DOCUMENT["paths"][pattern][method.lower()]["responses"].get(str(status), {}).get("content", {})
    return body.get("code") in next(iter(promised.values()))["examples"] if status >= 400 else bool(promised)


def _code(answer: tuple[int, Any, Any]) -> tuple[int, str]:
    return answer[0], answer[1].get("code", "")


async def test_a_mapping_is_put_read_changed_compared_and_restored(ask: Ask) -> None:
    assert (404, "mapping_not_found") == _code(await ask("GET", BASE))
    status, first, tag = await ask("PUT", BASE, {"mapping": MAPPING, "note": "2026"})
    assert (200, '"1"', "key:") == (status, tag, first["author"][:4])
    assert (200, first, '"1"') == await ask("GET", BASE)
    changed = {"mapping": with_toll("7141")}
    assert (412, "revision_mismatch") == _code(await ask("PUT", BASE, changed, **{"If-Match": '"7"'}))
    status, second, tag = await ask("PUT", BASE, changed, **{"If-Match": '"1"'})
    assert (200, '"2"', 2) == (status, tag, second["active_version"])
    _, compared, _ = await ask("GET", f"{BASE}/diff?from=1&to=2")
    assert [("expense_types.toll.account", "7140", "7141")] == [
        (d["field"], d["before"], d["after"]) for d in compared["differences"] if d["field"].endswith("account")
    ]
    status, restored, tag = await ask("POST", f"{BASE}/restore", {"version": 1})
    assert (200, '"3"', 1) == (status, tag, restored["restored_from"])
    _, listed, _ = await ask("GET", f"{BASE}/versions?limit=2")
    assert ([3, 2], "2") == ([row["version"] for row in listed["items"]], listed["next"])
    _, one, _ = await ask("GET", f"{BASE}/versions/2")
    assert second["mapping"] == one["mapping"]


async def test_what_is_read_can_be_put_as_it_is_and_changes_nothing(ask: Ask) -> None:
    _, first, _ = await ask("PUT", BASE, {"mapping": MAPPING})
    status, again, tag = await ask("PUT", BASE, {"mapping": first["mapping"]})
    assert (200, '"1"', first["digest"]) == (status, tag, again["digest"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ("mapping", "missing")),
        ({"mapping": {**MAPPING, "expense_types": {"toll": {}}}}, ("mapping.expense_types.toll.account", "missing")),
        ({"mapping": {**MAPPING, "text": "{secret}"}}, ("mapping.text", "value_error")),
        ({"mapping": {**MAPPING, "text": "{date:dd/mm}"}}, ("mapping.text", "value_error")),
        (
            {"mapping": {**MAPPING, "dimensions": {"month": "{date:mm-yy}"}}},
            ("mapping.dimensions.month", "value_error"),
        ),
        ({"mapping": MAPPING, "effective_from": 3}, ("effective_from", "value_error")),
        ({"mapping": MAPPING, "effective_from": "2026-02-30"}, ("effective_from", "date_from_datetime_parsing")),
        ({"mapping": MAPPING, "note": "x" * 401}, ("note", "too_long")),
        ({"mapping": MAPPING, "strict": "yes"}, ("strict", "bool_type")),
    ],
)
async def test_what_is_wrong_with_a_mapping_is_named_by_its_field(
    ask: Ask, body: dict[str, Any], expected: tuple[str, str]
) -> None:
    status, said, _ = await ask("PUT", BASE, body)
    assert (422, [expected]) == (status, [(error["field"], error["code"]) for error in said["errors"]])


async def test_reading_is_not_writing(ask: Ask) -> None:
    await ask("PUT", BASE, {"mapping": MAPPING})
    assert 200 == (await ask("GET", BASE, key="reader"))[0]
    assert 200 == (await ask("POST", f"{BASE}/preview", {}, key="reader"))[0]
    assert (403, "access_refused") == _code(await ask("PUT", BASE, {"mapping": MAPPING}, key="reader"))
    assert (403, "access_refused") == _code(await ask("POST", f"{BASE}/restore", {"version": 1}, key="reader"))
    assert (403, "access_refused") == _code(await ask("POST", f"{CHART}/refresh", key="reader"))


async def test_a_stranger_sees_neither_mapping_nor_claims(desk: Desk, ask: Ask) -> None:
    await ask("PUT", BASE, {"mapping": MAPPING})
    await desk.claim("c-1")
    for method, path, body in (
        ("GET", BASE, None),
        ("PUT", BASE, {"mapping": MAPPING}),
        ("GET", f"{BASE}/versions", None),
        ("GET", f"{BASE}/versions/1", None),
        ("GET", f"{BASE}/diff", None),
        ("POST", f"{BASE}/restore", {"version": 1}),
        ("POST", f"{BASE}/preview", {"ids": ["c-1"]}),
        ("GET", f"{BASE}/check?refresh=true", None),
        ("GET", CHART, None),
        ("POST", f"{CHART}/refresh", None),
    ):
        assert (path, 404, "organization_not_found") == (path, *_code(await ask(method, path, body, key="stranger")))
    _, shown, _ = await ask("POST", f"{THEIRS}/preview", {"ids": ["c-1"], "mapping": MAPPING}, key="stranger")
    _, none, _ = await ask("POST", f"{THEIRS}/preview", {"ids": ["c-2"], "mapping": MAPPING}, key="stranger")
    assert shown["items"][0]["problem"] == none["items"][0]["problem"]
    assert 0 == desk.books.asked


async def test_the_check_over_http_reads_now_and_answers_trouble(desk: Desk, ask: Ask) -> None:
    await ask("PUT", BASE, {"mapping": MAPPING})
    status, found, _ = await ask("GET", f"{BASE}/check?refresh=true")
    assert (200, True) == (status, found["ok"])
    desk.books.trouble = UnavailableError("They are away.")
    status, found, _ = await ask("GET", f"{BASE}/check?refresh=true")
    assert (200, False, "unavailable") == (status, found["ok"], found["trouble"]["code"])
    silent = BASE.replace("books", "silent")
    await ask("PUT", silent, {"mapping": MAPPING})
    assert (409, "chart_unsupported") == _code(await ask("GET", f"{silent}/check?refresh=true"))


async def test_the_typed_client_has_every_operation(desk: Desk) -> None:
    key = await desk.service.create_key("admin", verbs=ALL_VERBS, organizations=None)
    await desk.claim("c-1")
    async with TestServer(create_app(desk.service)) as server, Client(str(server.make_url("")), key) as client:
        saved = await client.put_mapping("hlf", "books", MAPPING, note="2026")
        assert saved.version == (await client.put_mapping("hlf", "books", saved.mapping, if_match='"1"')).version
        await client.put_mapping("hlf", "books", with_toll("7141"))
        assert [2, 1] == [row.version async for row in client.mapping_versions("hlf", "books")]
        assert 2 == (await client.mapping("hlf", "books")).version
        assert saved.mapping == (await client.mapping("hlf", "books", version=1)).mapping
        assert (1, 2) == ((found := await client.mapping_diff("hlf", "books")).before, found.after)
        assert 3 == (await client.restore_mapping("hlf", "books", 1, note="back")).version
        assert (await client.check_mapping("hlf", "books", refresh=True)).ok
        (item,) = (await client.preview_mapping("hlf", "books", ids=["c-1"], mapping=MAPPING)).items
        assert item.voucher is not None
        assert 5 == (read := await client.refresh_chart("hlf", "books")).accounts
        part = await client.chart_part("hlf", "books", kind="account", limit=2)
        assert (read.read_at, ["2910", "5330"]) == (part.read_at, [entry.code for entry in part.items])
        rest = await client.chart_part("hlf", "books", kind="account", after=part.next)
        assert ["7100", "7140", "7141"] == [entry.code for entry in rest.items]
        assert ["7140", "7141"] == [entry.code async for entry in client.chart("hlf", "books", search="714")]


# ── what it may refer to ─────────────────────────────────────────────────────


async def test_the_chart_is_listed_from_the_copy_part_by_part_with_its_moment(desk: Desk, ask: Ask) -> None:
    status, read, _ = await ask("POST", f"{CHART}/refresh")
    assert (200, 5, 1, {"department": 1}, 1, None) == (
        status, read["accounts"], read["tax_rules"], read["dimensions"], read["periods"], read["trouble"],
    )  # fmt: skip
    _, first, _ = await ask("GET", f"{CHART}?limit=4")
    _, rest, _ = await ask("GET", f"{CHART}?limit=4&after={first['next']}", key="reader")
    assert ([4, 4], None, read["read_at"]) == ([len(p["items"]) for p in (first, rest)], rest["next"], first["read_at"])
    assert [
        ("account", None, "2910", "Account 2910", None), ("account", None, "5330", "Account 5330", None),
        ("account", None, "7100", "Account 7100", None), ("account", None, "7140", "Account 7140", None),
        ("account", None, "7141", "Account 7141", None), ("tax_rule", None, "1", "", None),
        ("dimension", "department", "10", "", None), ("period", None, None, "", "2026-01-01"),
    ] == [
        (e["kind"], e["dimension"], e["code"], e["name"], e["first"]) for p in (first, rest) for e in p["items"]
    ]  # fmt: skip
    assert 1 == desk.books.asked


async def test_the_chart_is_searched_by_kind_and_by_what_is_written(desk: Desk, ask: Ask) -> None:
    desk.books.given = chart("7141")
    await ask("POST", f"{CHART}/refresh")
    _, found, _ = await ask("GET", f"{CHART}?kind=account&q=ACCOUNT+714")
    assert [("7140", True), ("7141", False)] == [(entry["code"], entry["is_open"]) for entry in found["items"]]
    _, found, _ = await ask("GET", f"{CHART}?kind=dimension&q=714")
    assert ([], None) == (found["items"], found["next"])


@pytest.mark.parametrize(
    ("query", "field"),
    [("kind=customer", "kind"), ("q=a%00b", "q"), ("q=" + "x" * 101, "q"), ("limit=0", "limit"), ("name=x", "name")],
)
async def test_what_cannot_be_asked_of_a_chart_is_named(ask: Ask, query: str, field: str) -> None:
    status, said, _ = await ask("GET", f"{CHART}?{query}")
    assert (422, [field]) == (status, [error["field"] for error in said["errors"]])


@pytest.mark.parametrize("after", ["x", "W10", "WzEsMl0", "WyJhIiwiIiwiIl0", "W3RydWUsIiIsIiJd", "bnVsbA", "gICA", "!"])
async def test_a_position_that_is_none_is_refused(ask: Ask, after: str) -> None:
    await ask("POST", f"{CHART}/refresh")
    status, said, _ = await ask("GET", f"{CHART}?after={after}")
    assert (422, ["after"]) == (status, [error["field"] for error in said["errors"]])


async def test_before_the_first_reading_the_way_to_one_is_told(desk: Desk, ask: Ask) -> None:
    status, said, _ = await ask("GET", CHART)
    assert (404, "chart_not_read", True) == (status, said["code"], "chart/refresh" in said["hint"])
    desk.books.trouble = UnavailableError("They are away.")
    status, read, _ = await ask("POST", f"{CHART}/refresh")
    assert (200, None, None, "unavailable") == (status, read["read_at"], read["accounts"], read["trouble"]["code"])
    status, said, _ = await ask("GET", CHART)
    assert (404, "chart_not_read", True) == (status, said["code"], "They are away." in said["detail"])
    silent = CHART.replace("books", "silent")
    assert (409, "chart_unsupported") == _code(await ask("GET", silent))
    assert (409, "chart_unsupported") == _code(await ask("POST", f"{silent}/refresh"))


async def test_a_reading_that_fails_leaves_the_copy_and_says_why_it_is_old(desk: Desk, ask: Ask) -> None:
    _, before, _ = await ask("POST", f"{CHART}/refresh")
    desk.books.trouble = UnavailableError("They are away.")
    _, read, _ = await ask("POST", f"{CHART}/refresh")
    _, found, _ = await ask("GET", f"{CHART}?kind=account")
    assert (before["read_at"], 5, "They are away.") == (read["read_at"], read["accounts"], read["trouble"]["message"])
    assert (before["read_at"], 5, "They are away.") == (
        found["read_at"], len(found["items"]), found["trouble"]["message"],
    )  # fmt: skip


async def test_what_the_other_side_does_not_list_is_told_where_it_was_asked_for(desk: Desk, ask: Ask) -> None:
    desk.books.given = chart(periods=None)
    await ask("POST", f"{CHART}/refresh")
    told = [(await ask("GET", CHART + query))[1]["unlisted"] for query in ("", "?kind=period", "?kind=account")]
    assert [["periods"], ["periods"], []] == told


async def test_the_chart_is_read_aloud_with_its_moment_and_its_trouble(desk: Desk, ask: Ask) -> None:
    desk.books.given = chart("7140", periods=None)
    await ask("POST", f"{CHART}/refresh")
    desk.books.trouble = UnavailableError("They are away.")
    await ask("POST", f"{CHART}/refresh")
    _, found, _ = await ask("GET", f"{CHART}?q=1")
    said = list(_chart_lines({**found, "entries": found["items"]}))
    assert [
        f"Read at: {found['read_at'][:19].replace('T', ' ')}",
        "The last reading failed: They are away.",
        "Not listed by the other system: periods",
        "Kind                  Code  Name          State",
        "account               2910  Account 2910  open",
    ] == said[:5]
    assert "account               7140  Account 7140  closed" in said
    assert "dimension department  10                  open" == said[-1]


# ── on the command line ──────────────────────────────────────────────────────


async def test_the_command_line_says_it_all_in_lines_that_can_be_read_aloud(desk: Desk, ask: Ask) -> None:
    await ask("PUT", BASE, {"mapping": MAPPING, "note": "2026"})
    desk.books.given = chart("7140")
    _, checked, _ = await ask("GET", f"{BASE}/check?refresh=true")
    _, saved, _ = await ask("PUT", BASE, {"mapping": with_toll("7149")})
    await desk.claim("c-1", approved_on="2026-03-05")
    _, shown, _ = await ask("POST", f"{BASE}/preview", {"mapping": MAPPING, "ids": ["c-1", "c-0"]})
    _, compared, _ = await ask("GET", f"{BASE}/diff")
    head = ["Mapping: hlf/books, version 2", f"In force from: {saved['effective_from']}", "In force today: yes"]
    assert head == list(_head_lines(saved))[:3]
    assert [
        "Warning: expense_types.toll.account: The other system has no account 7149. Did you mean 7141 Account 7141?"
    ] == list(_warning_lines(saved["warnings"]))
    assert [
        "Claim c-1: voucher of 2026-03-05, 4 lines",
        '  1. Account 7100 Account 7100, debit 70.00 NOK, text "mileage 2026-03-01 c-1", dimensions department 10, '
        "kilometres 20",
        '  2. Account 5330 Account 5330, debit 36.00 NOK, text "mileage 2026-03-01 c-1", dimensions department 10',
        '  3. Account 7140 Account 7140, debit 32.00 NOK, text "toll 2026-03-01 c-1", tax rule 1, dimensions '
        "department 10",
        '  4. Account 2910 Account 2910, credit 138.00 NOK, text "c-1 2026-03-05", owed to employee p-17',
        "  Sum: debit 138.00, credit 138.00 NOK",
        "Claim c-0: no voucher. There is no such reimbursement. (reimbursement_not_found, ids)",
    ] == list(_preview_lines(shown))[1:]
    assert [
        "Version 2 beside version 1: 2 fields differ.",
        'expense_types.toll.account is now "7149"; before it was "7140".',
        'expense_types.toll.tax_rule is no longer set; before it was "1".',
    ] == list(_diff_lines(compared))
    assert [
        "Found: 1", "expense_types.toll.account: The account 7140 Account 7140 is closed. Did you mean 7141 Account 7141?"
    ] == list(_check_lines(checked))[2:]  # fmt: skip
    assert "Expense type hotel: excluded, claims that have it are left out" in list(_mapping_lines(saved["mapping"]))
