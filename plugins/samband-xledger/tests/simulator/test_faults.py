"""Limits and faults: each does what its name says, to the requests it is meant for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

ONE = "{ accounts(first: 1) { edges { node { code } } pageInfo { hasNextPage } } }"
CODES = {
    "burst": "BAD_REQUEST.BURST_RATE_LIMIT_REACHED",
    "credits": "BAD_REQUEST.INSUFFICIENT_CREDITS",
    "concurrency": "BAD_REQUEST.CONCURRENCY_LIMIT_REACHED",
}


@pytest.mark.parametrize("limit", ["burst", "credits"])
async def test_a_limit_is_an_error_on_http_200_with_its_code_beside_the_message(api: Any, limit: str) -> None:
    await api.control("config", {"limits": {limit: 3, "window_s": 60.0}})
    for _ in range(3):
        await api.ask(ONE)
    status, body = await api.send(ONE)
    error = body["errors"][0]
    assert (200, None, CODES[limit]) == (status, body["data"], error["code"])
    assert datetime.fromisoformat(error["extensions"]["resetAt"]) > datetime.now(UTC)
    assert {CODES[limit]: 1} == (await api.look("counters"))["refused"]


async def test_nodes_cost_credits(api: Any) -> None:
    await api.control("config", {"limits": {"credits": 4, "node_credits": 1.0}})
    await api.add(api.voucher(1, amounts=("1.00", "1.00", "-2.00")))
    _, body = await api.send(ONE)
    assert CODES["credits"] == body["errors"][0]["code"]


async def test_requests_at_the_same_time_are_counted(api: Any) -> None:
    await api.control("config", {"limits": {"concurrency": 1}, "switches": {"latency_s": 0.3}})
    answers = await asyncio.gather(*(api.send(ONE) for _ in range(3)))
    refused = [body["errors"][0]["code"] for _, body in answers if "errors" in body]
    assert [CODES["concurrency"]] * 2 == refused
    await api.ask(ONE)


async def test_limits_may_be_answered_with_429(api: Any) -> None:
    await api.control("config", {"limits": {"burst": 1, "window_s": 60.0, "status": 429}})
    await api.ask(ONE)
    status, body = await api.send(ONE)
    assert (429, CODES["burst"]) == (status, body["errors"][0]["code"])


async def test_a_limit_may_strike_one_operation_and_nothing_is_done(api: Any) -> None:
    await api.control("faults", {"fault": "limit", "limit": "credits", "operation": "addGLImportItems"})
    await api.ask(ONE)
    _, body = await api.send(api.add_query, inputs=api.voucher(1))
    assert CODES["credits"] == body["errors"][0]["code"]
    assert [] == (await api.look("staging"))["items"]
    await api.add(api.voucher(1))


@pytest.mark.parametrize("commit", [False, True])
async def test_a_connection_may_be_dropped_before_and_after_the_work(api: Any, commit: bool) -> None:
    order = {"fault": "drop", "operation": "addGLImportItems", "commit": commit, "skip": 1}
    await api.control("faults", order)
    await api.add(api.voucher(1))
    with pytest.raises(aiohttp.ClientError):
        await api.send(api.add_query, inputs=api.voucher(2))
    staged = {item["voucher"] for item in (await api.look("staging"))["items"]}
    assert ({1, 2} if commit else {1}) == staged
    await api.add(api.voucher(3))


async def test_commit_drop_is_short_for_both(api: Any) -> None:
    await api.control("faults", {"fault": "commit_drop", "operation": "removeGLImportItems"})
    ids = await api.add(api.voucher(1))
    with pytest.raises(aiohttp.ClientError):
        await api.send("mutation ($i: [Int64String!]!) { removeGLImportItems(dbIds: $i) { numAffected } }", i=ids)
    assert [] == (await api.look("staging"))["items"]


@pytest.mark.parametrize(
    ("fault", "status", "begins"),
    [
        ("html_503", 503, b"<?xml"),
        ("html_503_broken", 503, b"<!DOCTYPE"),
        ("html_401_broken", 401, b"<!DOCTYPE"),
        ("html_200", 200, b"<?xml"),
        ("empty_200", 200, b""),
        ("empty_503", 503, b""),
        ("redirect_login", 302, b""),
    ],
)
@pytest.mark.parametrize("commit", [False, True])
async def test_pages_stand_in_front_of_the_service(
    api: Any, fault: str, status: int, begins: bytes, commit: bool
) -> None:
    await api.control("faults", {"fault": fault, "commit": commit})
    body = {"query": api.add_query, "variables": {"inputs": api.voucher(1)}}
    url = api.address.settings["graphql_url"]
    async with api.http.post(url, json=body, headers=api.headers, allow_redirects=False) as answer:
        text = await answer.read()
    assert status == answer.status
    assert text.startswith(begins)
    assert bool(text) is bool(begins)
    assert (2 if commit else 0) == len((await api.look("staging"))["items"])


async def test_any_status_may_be_answered_with_a_wait(api: Any) -> None:
    await api.control("faults", {"fault": "status", "status": 429, "retry_after": 7, "body": "Slow down"})
    async with api.http.post(api.address.settings["graphql_url"], json={"query": ONE}, headers=api.headers) as answer:
        assert (429, "7", "Slow down") == (answer.status, answer.headers["Retry-After"], await answer.text())


@pytest.mark.parametrize("commit", [False, True])
async def test_a_query_may_time_out_before_or_after_the_work(api: Any, commit: bool) -> None:
    await api.control("faults", {"fault": "timeout", "commit": commit})
    status, body = await api.send(api.add_query, inputs=api.voucher(1))
    assert (200, "Your query timed out.", False) == (
        status,
        body["errors"][0]["message"],
        "code" in body["errors"][0],
    )
    assert (2 if commit else 0) == len((await api.look("staging"))["items"])


async def test_data_and_edges_may_be_null(api: Any) -> None:
    await api.control("faults", {"rules": [{"fault": "data_null"}, {"fault": "edges_null"}]})
    assert (200, {"data": None}) == await api.send(ONE)
    found = (await api.ask(ONE))["accounts"]
    assert {"edges": None, "pageInfo": {"hasNextPage": True}} == found
    assert found != (await api.ask(ONE))["accounts"]


async def test_an_answer_may_break_off_after_the_work(api: Any) -> None:
    await api.control("faults", {"fault": "truncate"})
    with pytest.raises(aiohttp.ClientError):
        await api.send(api.add_query, inputs=api.voucher(1))
    assert 2 == len((await api.look("staging"))["items"])


async def test_an_answer_may_come_too_late_though_the_work_is_done(api: Any) -> None:
    await api.control("faults", {"fault": "slow", "seconds": 5})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await api.send(api.add_query, inputs=api.voucher(1))
    assert 2 == len((await api.look("staging"))["items"])


async def test_chance_can_be_repeated(api: Any) -> None:
    async def hits() -> list[bool]:
        await api.control("faults", {"clear": True, "seed": 7})
        await api.control("faults", {"fault": "data_null", "probability": 0.5, "times": None})
        return [(await api.send(ONE))[1]["data"] is None for _ in range(20)]

    first = await hits()
    assert {True, False} == set(first)
    assert first == await hits()


@pytest.mark.parametrize(
    "order", [{"fault": "nope"}, {"fault": "drop", "times": -1}, {"fault": "drop", "probability": 2}, {"rules": [1]}]
)
async def test_a_fault_that_makes_no_sense_is_refused(api: Any, order: dict[str, Any]) -> None:
    async with api.http.post(f"{api.address.control_url}/faults", json=order) as answer:
        assert 400 == answer.status
        assert (await answer.json())["error"]


async def test_requests_are_counted_and_logged_without_what_they_carry(api: Any) -> None:
    await api.add(api.voucher(1))
    await api.control("faults", {"fault": "html_503", "operation": "accounts"})
    with pytest.raises(aiohttp.ContentTypeError):
        await api.send(ONE)
    counters = await api.look("counters")
    assert {"addGLImportItems": 1, "accounts": 1} == counters["requests"]
    assert 2 == counters["nodes"]["addGLImportItems"]
    log = await api.look("log")
    assert [(200, None), (503, "html_503")] == [(seen["status"], seen["fault"]) for seen in log["requests"]]
    assert api.address.credentials["api_token"] not in str(log)


async def test_reset_forgets_everything(api: Any) -> None:
    await api.add(api.voucher(1))
    await api.control("config", {"switches": {"null_edges": True}, "periods": {"2026-03": "closed"}})
    await api.control("reset")
    state = await api.look("state")
    assert (0, False) == (state["counts"]["glImportItems"], state["switches"]["null_edges"])
    await api.add(api.voucher(1))
    assert 1 == (await api.run_job())["posted"]
