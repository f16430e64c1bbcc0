"""Claims over HTTP: what is answered to what is well, to what is not, and to what is hostile."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from samband.access import ALL_VERBS
from samband.api import create_app
from samband.api.openapi import openapi_document
from samband.api.routes import ENDPOINTS
from samband.client import Client
from samband.store import Store

from .test_reimbursements import ORG, Desk, claim

BASE = f"/v1/organizations/{ORG}"
DOCUMENT = openapi_document(ENDPOINTS, "0")
Ask = Callable[..., Awaitable[tuple[int, Any, Any]]]


@pytest.fixture
async def desk(store: Store) -> Desk:
    desk = Desk(store)
    await desk.open()
    return desk


@pytest.fixture
async def ask(desk: Desk) -> AsyncIterator[Ask]:
    """Sends a request; gives the status, the body and the ETag."""
    create = desk.service.create_key
    keys = {
        "all": await create("all", verbs=ALL_VERBS, organizations=[ORG]),
        "operator": await create("operator", verbs=["read", "operate"], organizations=[ORG]),
    }
    async with TestClient(TestServer(create_app(desk.service))) as client:

        async def send(method: str, path: str, body: Any = None, *, key: str = "all", **headers: str) -> Any:
            headers = {"Authorization": f"Bearer {keys[key]}", "Content-Type": "application/json", **headers}
            data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            answer = await client.request(method, BASE + path, data=data, headers=headers)
            return answer.status, await answer.json(), answer.headers.get("ETag")

        yield send


def fields(answer: tuple[int, Any, Any]) -> tuple[int, list[str]]:
    return answer[0], [problem["field"] for problem in answer[1].get("errors", ())]


async def test_claim_is_told_read_changed_and_told_again(ask: Ask) -> None:
    status, made, tag = await ask("PUT", "/reimbursements/c-1", claim())
    assert (200, 1, '"1"') == (status, made["version"], tag)
    assert (200, made, '"1"') == await ask("GET", "/reimbursements/c-1")
    assert (200, made, '"1"') == await ask("PUT", "/reimbursements/c-1", claim())
    status, changed, tag = await ask("PUT", "/reimbursements/c-1", claim("2.00"), **{"If-Match": '"1"'})
    assert (200, 2, '"2"') == (status, changed["version"], tag)
    status, refused, _ = await ask("PUT", "/reimbursements/c-1", claim("3.00"), **{"If-Match": '"1"'})
    assert (412, "revision_mismatch") == (status, refused["code"])
    status, listed, _ = await ask("GET", "/reimbursements/c-1/versions")
    assert (200, [2, 1]) == (status, [one["version"] for one in listed["items"]])
    assert all(one["actor"].startswith("key:") for one in listed["items"])


async def test_change_to_what_is_booked_is_answered_with_202_and_the_claim_as_it_is(ask: Ask, desk: Desk) -> None:
    await ask("PUT", "/reimbursements/c-1", claim("100.00"))
    await desk.book("c-1", "posted")
    status, told, tag = await ask("PUT", "/reimbursements/c-1", claim("90.00"))
    assert (202, "100.00", '"1"') == (status, told["total"], tag)
    status, correction, _ = await ask("GET", f"/corrections/{told['correction']}")
    assert (200, "proposed", "90.00") == (status, correction["state"], correction["total"])
    assert [correction] == (await ask("GET", "/corrections?state=proposed&reimbursement=c-1"))[1]["items"]
    assert "202" in DOCUMENT["paths"]["/v1/organizations/{org}/reimbursements/{id}"]["put"]["responses"]


async def test_only_a_key_that_may_configure_decides_about_a_correction(ask: Ask, desk: Desk) -> None:
    await ask("PUT", "/reimbursements/c-1", claim("100.00"), key="operator")
    await desk.book("c-1", "posted")
    _, told, _ = await ask("PUT", "/reimbursements/c-1", claim("90.00"), key="operator")
    one = f"/corrections/{told['correction']}"
    for deed, body in (("approve", None), ("dismiss", {"reason": "No."})):
        status, refused, _ = await ask("POST", f"{one}/{deed}", body, key="operator")
        assert (403, "access_refused") == (status, refused["code"])
    assert (422, ["reason"]) == fields(await ask("POST", f"{one}/dismiss", {}))
    assert (422, ["reason"]) == fields(await ask("POST", f"{one}/dismiss", {"reason": "  "}))
    status, decided, _ = await ask("POST", f"{one}/dismiss", {"reason": "It was right."})
    assert (200, "dismissed") == (status, decided["state"])
    status, refused, _ = await ask("POST", f"{one}/approve")
    assert (409, "correction_over") == (status, refused["code"])
    assert (404, "correction_not_found") == (lambda a: (a[0], a[1]["code"]))(
        await ask("POST", f"/corrections/{'0' * 32}/approve")
    )


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ({"amount": 1e5}, "amount"), ({"amount": "1e5"}, "amount"), ({"amount": 10**13}, "amount"),
        ({"amount": "10000000000000"}, "amount"), ({"amount": "-1.00"}, "amount"), ({"amount": "1.234"}, "amount"),
        ({"amount": "0.00"}, "amount"), ({"toll": "-1"}, "toll"), ({"parking": "1.234"}, "parking"),
        ({"kilometres": "1.2345", "rate": "1"}, "kilometres"), ({"kilometres": "1"}, "rate"),
        ({"toll": "1.00"}, "amount"), ({"currency": "SEK"}, "currency"), ({"currency": "nok"}, "currency"),
        ({"text": "a\x00b"}, "text"), ({"receipt": "x" * 401}, "receipt"), ({"date": "01.03.2026"}, "date"),
        ({"date": "2026-02-30"}, "date"), ({"expense_type": ""}, "expense_type"),
    ],
)  # fmt: skip
async def test_line_that_is_not_well_is_refused_by_name_alone_and_among_many(
    ask: Ask, line: dict[str, Any], field: str
) -> None:
    bad = claim()
    bad["lines"][0] |= line
    status, named = fields(await ask("PUT", "/reimbursements/c-1", bad))
    assert (422, f"lines.0.{field}") == (status, named[0])
    status, told, _ = await ask("PUT", "/reimbursements", {"items": [{"id": "c-1", **bad}, {"id": "c-2", **claim()}]})
    assert (200, ["refused", "created"]) == (status, [item["outcome"] for item in told["items"]])
    assert f"items.0.lines.0.{field}" == told["items"][0]["problems"][0]["field"]


async def test_expected_sum_is_said_where_an_amount_does_not_hold(ask: Ask) -> None:
    bad = claim("200.00")
    bad["lines"][0] |= {"kilometres": "35.2", "rate": "5.30", "toll": "42.00"}
    _, refused, _ = await ask("PUT", "/reimbursements/c-1", bad)
    wanted = "The amount must be what its parts come to: kilometres × rate + toll = 228.56."
    assert [wanted] == [problem["message"] for problem in refused["errors"]]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"items": [{"id": "c-1", "text": "\\ud800"}]}', b'{"items": [{"id": "c\\u0000"}]}', b'{"items": [[[[]]]]}',
        b'{"items": [null, 1, "a", true, {}]}', b'{"items": [{"id": {"id": 1}}]}', b'{"items": [{"id": "c-1", "lines": {}}]}',
        b'{"items": [{"id": "c-1", "payee": [], "lines": [null], "currency": 1, "status": []}]}',
        b'{"items": [{"id": "c-1", "amount": 1e400}]}', b'{"items": {}}', b'{"items": []}', b"[]", b"{}", b"{", b"\xff",
        b'{"items": [{"id": "c-1"}], "more": 1}', b'{"items": [{"id": "c-1", "\\u0000": 1}]}',
    ],
)  # fmt: skip
async def test_hostile_body_is_answered_and_stores_nothing(ask: Ask, raw: bytes) -> None:
    status, told, _ = await ask("PUT", "/reimbursements", raw)
    assert status in (200, 400, 422), told
    if status == 200:
        assert {"refused"} == {item["outcome"] for item in told["items"]}
        assert all(problem["field"] for item in told["items"] for problem in item["problems"])
    assert [] == (await ask("GET", "/reimbursements"))[1]["items"]


async def test_same_id_twice_is_refused_for_that_id_alone(ask: Ask) -> None:
    many = [{"id": "c-1", **claim()}, {"id": "c-2", **claim()}, {"id": "c-1", **claim("2.00")}]
    status, told, _ = await ask("PUT", "/reimbursements", {"items": many})
    assert (200, 1, 2) == (status, told["created"], told["refused"])
    assert ["twice", None, "twice"] == [item["code"] for item in told["items"]]
    assert (404, "reimbursement_not_found") == (lambda a: (a[0], a[1]["code"]))(await ask("GET", "/reimbursements/c-1"))


async def test_too_many_claims_at_once_are_refused_as_a_whole(ask: Ask) -> None:
    many = [{"id": f"c-{n}"} for n in range(1_001)]
    assert (422, ["items"]) == fields(await ask("PUT", "/reimbursements", {"items": many}))


async def test_value_that_was_sent_is_never_repeated(ask: Ask) -> None:
    bad = claim() | {"payee": {"id": "p", "name": "Canary\x00", "bank_account": "canary-12345"}, "canary": "canary-9"}
    for path, body in (("/reimbursements/c-1", bad), ("/reimbursements", {"items": [{"id": "c-1", **bad}]})):
        _, told, _ = await ask("PUT", path, body)
        text = json.dumps(told)
        assert "canary-12345" not in text
        assert "canary-9" not in text
        assert "Canary" not in text


async def test_timeline_answers_over_http_and_to_the_typed_client(ask: Ask, desk: Desk) -> None:
    await ask("PUT", "/reimbursements/c-1", claim())
    status, told, _ = await ask("GET", "/reimbursements/c-1/timeline")
    assert (200, "approved", ["told", "approved"]) == (status, told["state"], [one["what"] for one in told["items"]])
    status, refused, _ = await ask("GET", "/reimbursements/c-none/timeline")
    assert (404, "reimbursement_not_found") == (status, refused["code"])


async def test_typed_client_has_a_method_for_each(desk: Desk) -> None:
    key = await desk.service.create_key("all", verbs=ALL_VERBS, organizations=[ORG])
    async with (
        TestServer(create_app(desk.service)) as server,
        Client(str(server.make_url("")).rstrip("/"), key) as client,
    ):
        told = await client.put_reimbursements(ORG, [{"id": "c-1", **claim("100.00")}])
        assert 1 == told.created
        await desk.book("c-1", "posted")
        view = await client.put_reimbursement(ORG, "c-1", claim("90.00"))
        (found,) = [one async for one in client.corrections(ORG, state="proposed")]
        assert view.correction == found.id == (await client.correction(ORG, found.id)).id
        assert "dismissed" == (await client.dismiss_correction(ORG, found.id, reason="Right.")).state
        assert [1] == [one.version async for one in client.reimbursement_versions(ORG, "c-1")]
        assert "booked" == (await client.reimbursement_timeline(ORG, "c-1")).state
