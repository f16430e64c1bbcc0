from __future__ import annotations

from typing import Any

import pytest

ORG = "/v1/organizations/hlf"


async def test_records_are_listed_from_a_position_on(ask: Any, service: Any) -> None:
    part = await (await ask("GET", f"{ORG}/records/member?after=1&limit=10&include_deleted=true")).json()
    assert ([r["id"] for r in part["items"]], part["next"]) == ([2], None)
    assert ("list_records", {"after": 1, "limit": 10, "include_deleted": True}) in service.calls


async def test_a_record_is_found_with_its_norwegian_letters(ask: Any) -> None:
    record = await (await ask("GET", f"{ORG}/records/member/3")).json()
    assert record["values"] == {"first_name": "Kåre", "status": "active"}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("records/member/4", "record_not_found"),
        ("records/invoice", "kind_not_found"),
        ("records/invoice/1", "kind_not_found"),
    ],
)
async def test_a_missing_record_is_told_apart_from_a_missing_kind(ask: Any, path: str, code: str) -> None:
    answer = await ask("GET", f"{ORG}/{path}")
    assert (answer.status, (await answer.json())["code"]) == (404, code)


async def test_the_change_feed_goes_on_from_where_it_stopped(ask: Any, service: Any) -> None:
    first = await (await ask("GET", f"{ORG}/changes?kind=member")).json()
    second = await (await ask("GET", f"{ORG}/changes?after={first['next']}&limit=500")).json()
    assert [c["seq"] for part in (first, second) for c in part["items"]] == [1, 2]
    assert ("list_changes", {"after": 0, "limit": 500, "kind": "member"}) in service.calls


async def test_a_dead_letter_is_acknowledged_under_the_name_of_the_key(ask: Any, keys: dict[str, str]) -> None:
    letters = await (await ask("GET", f"{ORG}/dead-letters")).json()
    letter = letters["items"][0]
    closed = await ask("POST", f"{ORG}/dead-letters/{letter['id']}/acknowledge", key=keys["operator"])
    left = await (await ask("GET", f"{ORG}/dead-letters")).json()
    every = await (await ask("GET", f"{ORG}/dead-letters?open_only=false")).json()
    assert (await closed.json())["acknowledged_by"] == "operator"
    assert (len(left["items"]), len(every["items"])) == (0, 1)


async def test_a_dead_letter_of_another_organisation_is_not_there(ask: Any) -> None:
    answer = await ask("POST", "/v1/organizations/nbf/dead-letters/7/acknowledge")
    assert (answer.status, (await answer.json())["code"]) == (404, "dead_letter_not_found")
