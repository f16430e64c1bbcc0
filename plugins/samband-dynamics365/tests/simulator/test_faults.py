"""Faults: each one does what its name says, to the requests it is meant for."""

from __future__ import annotations

import asyncio
import json
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest

URL = "contacts?$select=fullname,lastname,firstname,birthdate,modifiedon,gendercode,statuscode,versionnumber"


async def fault(api: Any, name: str, **parameters: Any) -> None:
    await api.control("faults", {"fault": name, **parameters})


@pytest.mark.parametrize(
    ("limit", "code"),
    [("requests", "0x80072322"), ("execution", "0x80072321"), ("concurrency", "0x80072326")],
)
@pytest.mark.parametrize("wait", ["7", "99999999", "soon", "-1", None])
async def test_throttling_has_any_code_and_any_retry_after(api: Any, limit: str, code: str, wait: str | None) -> None:
    await fault(api, "throttle", limit=limit, retry_after=wait, times=2)
    for _ in range(2):
        reply = await api.get(URL)
        assert (reply.status, reply.code, reply.headers.get("Retry-After")) == (429, code, wait)
    assert (await api.get(URL)).status == 200


async def test_retry_after_may_be_a_date(api: Any) -> None:
    await fault(api, "throttle", retry_at_s=120)
    moment = parsedate_to_datetime((await api.get(URL)).headers["Retry-After"])
    assert 110 <= (moment - api.state.clock.now()).total_seconds() <= 121


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
async def test_statuses_come_with_an_envelope(api: Any, status: int) -> None:
    await fault(api, "status", status=status, retry_after=3)
    reply = await api.get(URL)
    assert reply.status == status
    assert reply.headers["Retry-After"] == "3"
    assert reply.code.startswith("0x8")


async def test_rules_match_method_path_order_and_chance(api: Any) -> None:
    rules = [
        {"fault": "status", "status": 500, "method": "POST"},
        {"fault": "status", "status": 502, "path": "sb_memberships", "skip": 1},
        {"fault": "status", "status": 503, "path": "sb_chapters", "probability": 0.5, "times": None},
        {"fault": "status", "status": 504, "path": "oauth2"},
    ]
    await api.control("faults", {"rules": rules})
    assert (await api.get("contacts?$top=1")).status == 200
    assert (await api.send("POST", "contacts", json={"lastname": "A"})).status == 500
    assert [(await api.get("sb_memberships?$top=1")).status for _ in range(3)] == [200, 502, 200]
    found = {(await api.get("sb_chapters?$top=1")).status for _ in range(40)}
    assert found == {200, 503}
    async with api.http.post(api.address.token_url, data={}) as answer:
        assert answer.status == 504
    await api.control("faults", {"clear": True})
    assert {(await api.get("sb_chapters?$top=1")).status for _ in range(10)} == {200}


async def test_reset_drops_the_connection_without_an_answer(api: Any) -> None:
    await fault(api, "reset", method="POST")
    before = len(api.state.organization.tables["contact"].rows)
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.send("POST", "contacts", json={"lastname": "A"})
    assert len(api.state.organization.tables["contact"].rows) == before


async def test_commit_reset_does_the_work_and_loses_the_answer(api: Any) -> None:
    await fault(api, "commit_reset", method="POST")
    before = len(api.state.organization.tables["contact"].rows)
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.send("POST", "contacts", json={"lastname": "A"})
    assert len(api.state.organization.tables["contact"].rows) == before + 1


async def test_reset_mid_body_ends_an_answer_that_had_begun(api: Any) -> None:
    await fault(api, "reset_mid_body")
    with pytest.raises(aiohttp.ClientError):
        await api.get(URL)
    assert (await api.get(URL)).status == 200


async def test_truncated_json_is_a_complete_answer_of_half_a_document(api: Any) -> None:
    await fault(api, "truncate")
    reply = await api.get(URL)
    assert reply.status == 200
    with pytest.raises(json.JSONDecodeError):
        reply.json()


@pytest.mark.parametrize("status", [200, 502])
async def test_html_pages_come_with_any_status(api: Any, status: int) -> None:
    await fault(api, "html", status=status)
    reply = await api.get(URL)
    assert (reply.status, reply.body[:15]) == (status, b"<!DOCTYPE html>")
    assert reply.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("name", ["empty", "empty_after"])
async def test_empty_bodies_are_empty(api: Any, name: str) -> None:
    await fault(api, name)
    reply = await api.get(URL)
    assert (reply.status, reply.body) == (200, b"")


async def test_wrong_content_type_changes_only_the_name(api: Any) -> None:
    await fault(api, "wrong_content_type", content_type="application/octet-stream")
    reply = await api.get(URL)
    assert reply.headers["Content-Type"] == "application/octet-stream"
    assert len(reply.json()["value"]) == 60


@pytest.mark.parametrize(("name", "seconds"), [("slow_body", 0.3), ("slow_first_byte", 0.3)])
async def test_slow_answers_arrive_whole_but_late(api: Any, name: str, seconds: float) -> None:
    await fault(api, name, seconds=seconds)
    started = asyncio.get_running_loop().time()
    assert len((await api.read(URL))["value"]) == 60
    assert asyncio.get_running_loop().time() - started >= seconds * 0.9


async def test_endless_body_goes_on_until_the_client_gives_up(api: Any) -> None:
    await fault(api, "endless_body")
    url = f"{api.address.base_url}/api/data/v9.2/contacts"
    size = 0
    async with api.http.get(url, headers={"Authorization": f"Bearer {api.token}"}) as answer:
        async for chunk in answer.content.iter_any():
            size += len(chunk)
            if size > 5_000_000:
                break
    assert size > 5_000_000
    assert (await api.get(URL)).status == 200


async def test_token_revoked_early_is_401_until_a_new_one_is_fetched(api: Any) -> None:
    await fault(api, "revoke_token")
    assert [(await api.get(URL)).status for _ in range(2)] == [401, 401]
    await api.log_in()
    assert (await api.get(URL)).status == 200
    await fault(api, "unauthorized")
    replies = [await api.get(URL) for _ in range(2)]
    assert [reply.status for reply in replies] == [401, 200]
    assert "authorization_uri=" in replies[0].headers["WWW-Authenticate"]


async def test_next_links_may_lead_abroad(api: Any) -> None:
    await fault(api, "foreign_next_link", host="https://evil.example.net")
    page = await api.read(URL, prefer="odata.maxpagesize=10")
    assert page["@odata.nextLink"].startswith("https://evil.example.net/api/data/v9.2/contacts?")


async def test_next_links_may_repeat(api: Any) -> None:
    await fault(api, "repeat_next_link", times=None)
    first = await api.read(URL, prefer="odata.maxpagesize=10")
    second = await api.read(first["@odata.nextLink"], prefer="odata.maxpagesize=10")
    assert first["@odata.nextLink"] == second["@odata.nextLink"]


async def test_next_links_may_loop(api: Any) -> None:
    await fault(api, "loop_next_link", times=None, path="contacts", skip=1)
    url, seen = URL, []
    for _ in range(4):
        page = await api.read(url, prefer="odata.track-changes,odata.maxpagesize=10")
        url = page["@odata.nextLink"]
        seen.append(page["value"][0]["contactid"])
    assert url == f"{api.address.base_url}/api/data/v9.2/{URL}"
    assert len(set(seen)) == 2
    assert "@odata.deltaLink" not in page


async def test_bad_rows_are_each_bad_in_their_own_way(api: Any) -> None:
    await fault(api, "bad_rows", rows=["null_id", "year_one", "date_year_one", "unknown_choice", "wrong_type"])
    rows = (await api.read(URL))["value"]
    assert rows[0]["contactid"] is None
    assert rows[1]["modifiedon"] == "0001-01-01T00:00:00Z"
    assert rows[2]["birthdate"] == "0001-01-01"
    assert rows[3]["statuscode"] == 987_654_321
    assert isinstance(rows[4]["firstname"], dict)


async def test_bad_rows_reach_beyond_what_json_libraries_expect(api: Any) -> None:
    await fault(api, "bad_rows", rows=["huge_string", "lone_surrogate", "beyond_64_bit", "duplicate_id"])
    reply = await api.get(URL)
    assert b"\\ud83d broken" in reply.body
    rows = reply.json()["value"]
    assert len(rows[0]["lastname"]) == 2 * 1024 * 1024
    assert rows[2]["versionnumber"] > 2**63
    assert rows[-1]["contactid"] == rows[3]["contactid"]
    await fault(api, "bad_rows", rows=["unknown_lookup"])
    row = (await api.read("sb_memberships?$select=_sb_contactid_value&$top=1"))["value"][0]
    assert row["_sb_contactid_value"].startswith("deadbeef")


async def test_wrong_orders_are_explained(api: Any) -> None:
    for order in (
        {"fault": "nothing"},
        {"fault": "reset", "times": "x"},
        {"fault": "reset", "path": "("},
        {"rules": 5},
    ):
        async with api.http.post(f"{api.address.control_url}/faults", json=order) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]
