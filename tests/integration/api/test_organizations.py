from __future__ import annotations

from typing import Any


async def test_an_organisation_is_added_and_found_at_its_location(ask: Any) -> None:
    added = await ask("POST", "/v1/organizations", json={"id": "blind-oslo", "name": "Blindeforbundet Ørland"})
    found = await ask("GET", added.headers["Location"])
    assert added.status == 201
    assert await found.json() == {
        "id": "blind-oslo",
        "name": "Blindeforbundet Ørland",
        "created_at": "2026-01-02T03:04:05Z",
    }


async def test_an_organisation_is_added_once(ask: Any) -> None:
    again = await ask("POST", "/v1/organizations", json={"id": "hlf", "name": "X"})
    assert (again.status, (await again.json())["code"]) == (409, "organization_exists")


async def test_organisations_are_listed_as_a_part_with_no_next(ask: Any) -> None:
    listed = await (await ask("GET", "/v1/organizations")).json()
    assert ([o["id"] for o in listed["items"]], listed["next"]) == (["hlf", "nbf"], None)


async def test_plugins_are_listed_with_those_that_did_not_load(ask: Any) -> None:
    listed = await (await ask("GET", "/v1/plugins")).json()
    assert [(p["name"], p["state"]) for p in listed["items"]] == [("dynamics365", "loaded"), ("broken", "failed")]


async def test_one_plugin_is_found_by_its_name(ask: Any) -> None:
    found = await ask("GET", "/v1/plugins/dynamics365")
    missing = await ask("GET", "/v1/plugins/xledger")
    assert (await found.json())["name"] == "dynamics365"
    assert (missing.status, (await missing.json())["code"]) == (404, "unknown_plugin")
