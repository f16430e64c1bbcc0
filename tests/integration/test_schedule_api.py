"""Schedules over HTTP: what is answered, what is refused, and what other organisations get to see."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from samband.access import ALL_VERBS
from samband.api import create_app
from samband.api.openapi import openapi_document
from samband.api.routes import ENDPOINTS
from samband.errors import InvalidError
from samband.store import Store

from .scheduling import World

BASE = "/v1/organizations/hlf/integrations/crm"
DOCUMENT = openapi_document(ENDPOINTS, "0")
Ask = Callable[..., Awaitable[tuple[int, Any, Any]]]


@pytest.fixture
async def world(store: Store) -> World:
    world = World(store)
    await world.connect()
    await store.catalog.add_organization("nbf", "NBF")
    return world


@pytest.fixture
async def ask(world: World) -> AsyncIterator[Ask]:
    """Sends a request; gives the status, the body and the ETag."""
    keys = {
        "admin": await world.service.create_key("admin", verbs=ALL_VERBS, organizations=None),
        "reader": await world.service.create_key("reader", verbs=["read"], organizations=["hlf"]),
        "stranger": await world.service.create_key("stranger", verbs=ALL_VERBS, organizations=["nbf"]),
    }
    app: web.Application = create_app(world.service, max_body_bytes=100_000)
    async with TestClient(TestServer(app)) as client:

        async def send(
            method: str, path: str, body: Any = None, *, key: str = "admin", **headers: str
        ) -> tuple[int, Any, Any]:
            headers = {"Authorization": f"Bearer {keys[key]}", **headers}
            answer = await client.request(method, path, json=body, headers=headers)
            body = await answer.json()
            assert _is_promised(method, str(answer.url.path), answer.status, body), (method, path, answer.status, body)
            return answer.status, body, answer.headers.get("ETag")

        yield send


def _is_promised(method: str, path: str, status: int, body: Any) -> bool:
    """Tells whether the OpenAPI document of the endpoint names the answer's status and, of a refusal, its code."""
    pattern = next(e.path for e in ENDPOINTS if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", e.path), path))
    promised = DOCUMENT["paths"][pattern][method.lower()]["responses"].get(str(status), {}).get("content", {})
    return body.get("code") in next(iter(promised.values()))["examples"] if status >= 400 else bool(promised)


async def test_schedule_is_put_read_paused_resumed_and_deleted(ask: Ask) -> None:
    assert (404, "schedule_not_found") == _code(await ask("GET", f"{BASE}/schedule"))
    status, made, tag = await ask("PUT", f"{BASE}/schedule", {"cron": "30 2 * * *"})
    assert (200, '"1"', "default", "At 02:30 every day") == (status, tag, made["name"], made["words"])
    assert ("Europe/Oslo", "skip", "latest", 10) == (
        made["zone"], made["overlap"], made["catch_up"], len(made["next"])
    )  # fmt: skip
    assert made["next"][0]["local"][11:16] == "02:30"
    assert (200, made, '"1"') == await ask("PUT", f"{BASE}/schedule", {"cron": " 30  2 * * * "})
    assert (200, made, '"1"') == await ask("GET", f"{BASE}/schedules/default")
    assert [made] == (await ask("GET", f"{BASE}/schedules"))[1]["items"]
    status, paused, tag = await ask("POST", f"{BASE}/schedules/default/pause")
    assert (200, '"2"', []) == (status, tag, paused["next"])
    status, changed, tag = await ask("PUT", f"{BASE}/schedule", {"cron": "30 3 * * *"})
    assert (paused["paused_at"], []) == (changed["paused_at"], changed["next"])
    status, resumed, tag = await ask("POST", f"{BASE}/schedules/default/resume")
    assert (200, '"4"', 0) == (status, tag, resumed["gap"]["planned"])
    assert (resumed["schedule"]["paused_at"], 10) == (None, len(resumed["schedule"]["next"]))
    status, gone, _ = await ask("DELETE", f"{BASE}/schedule")
    assert (200, 0, None) == (status, gone["dropped_occurrences"], gone["cancelled_run"])
    assert (404, "schedule_not_found") == _code(await ask("DELETE", f"{BASE}/schedule"))


def _code(answer: tuple[int, Any, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["code"]


async def test_edit_is_based_on_what_was_read(ask: Ask) -> None:
    path = f"{BASE}/schedules/nightly"
    assert (412, "revision_mismatch") == _code(await ask("PUT", path, {"interval_s": 60}, **{"If-Match": '"1"'}))
    _, _, first = await ask("PUT", path, {"interval_s": 60})
    status, _, second = await ask("PUT", path, {"interval_s": 120}, **{"If-Match": first})
    assert (200, '"2"') == (status, second)
    for stale in (first, '"x"', 'W/"2"'):
        assert (412, "revision_mismatch") == _code(await ask("PUT", path, {"interval_s": 180}, **{"If-Match": stale}))
    assert 200 == (await ask("PUT", path, {"interval_s": 180}, **{"If-Match": "*"}))[0]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "cron"),
    ({"cron": "30 2 * * *", "interval_s": 60}, "cron"),
    ({"cron": "30 2 * *"}, "cron"),
    ({"cron": "30 2 31 2 *"}, "cron"),
    ({"interval_s": 59}, "interval_s"),
    ({"interval_s": 60, "zone": "Oslo"}, "zone"),
    ({"interval_s": 60, "streams": ["nobody"]}, "streams"),
    ({"interval_s": 60, "streams": []}, "streams"),
    ({"interval_s": 60, "streams": ["lists"]}, "full"),
    ({"interval_s": 60, "overlap": "allow"}, "overlap"),
    ({"interval_s": 60, "catch_up": "some"}, "catch_up"),
    ({"interval_s": 60, "jitter_s": 21_601}, "jitter_s"),
    ({"interval_s": 60, "misfire_grace_s": -1}, "misfire_grace_s"),
    ({"interval_s": 60, "timezone": "Europe/Oslo"}, "timezone"),
]


async def test_what_is_wrong_is_named_by_its_field(ask: Ask) -> None:
    for body, field in WRONG:
        status, problem, _ = await ask("PUT", f"{BASE}/schedule", body)
        assert (422, "invalid_request", [field]) == (status, problem["code"], [e["field"] for e in problem["errors"]])
    assert (404, "schedule_not_found") == _code(await ask("GET", f"{BASE}/schedule"))


async def test_full_read_and_delta_are_two_schedules(ask: Ask) -> None:
    await ask("PUT", f"{BASE}/schedules/delta", {"interval_s": 1800, "streams": ["people"]})
    await ask("PUT", f"{BASE}/schedules/full", {"cron": "0 3 * * SUN", "full": True, "streams": ["lists"]})
    items = (await ask("GET", f"{BASE}/schedules"))[1]["items"]
    assert [("delta", True, "skip"), ("full", False, "queue_one")] == [
        (s["name"], s["delta_available"], s["overlap"]) for s in items
    ]


async def test_occurrences_are_read_part_by_part(ask: Ask, world: World) -> None:
    view = await world.schedule(interval_s=600)
    for n in range(5):
        await world.until(view, n)
        await world.scheduler().round()
    found, after = [], ""
    while after is not None:
        status, part, _ = await ask("GET", f"{BASE}/schedules/default/occurrences?limit=2{after}")
        assert 200 == status
        found += part["items"]
        after = None if part["next"] is None else f"&after={part['next']}"
    assert [p.at.strftime("%Y-%m-%dT%H:%M:%SZ") for p in reversed(view.next[:5])] == [o["planned_at"] for o in found]
    assert ["skipped"] * 4 + ["ordered"] == [o["state"] for o in found]
    for wrong in ("x", "2026-01-01", "99999-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"):
        path = f"{BASE}/schedules/default/occurrences?after={wrong.replace('+', '%2B')}"
        assert (422, "invalid_request") == _code(await ask("GET", path))


async def test_timing_is_previewed_without_being_saved(ask: Ask) -> None:
    status, shown, _ = await ask("POST", "/v1/schedules/preview", {"cron": "0 0 21,22 * *"})
    assert (200, "At 00:00 on the 21st and the 22nd day of month", 10) == (status, shown["words"], len(shown["next"]))
    assert {"21", "22"} == {planned["local"][8:10] for planned in shown["next"]}
    status, problem, _ = await ask("POST", "/v1/schedules/preview", {"cron": "every night"})
    assert (422, "cron_fields") == (status, problem["errors"][0]["code"])
    assert [] == (await ask("GET", f"{BASE}/schedules"))[1]["items"]


async def test_schedule_is_nobody_elses(ask: Ask) -> None:
    await ask("PUT", f"{BASE}/schedule", {"interval_s": 60})
    for method, path in (
        ("GET", "/schedule"), ("PUT", "/schedule"), ("DELETE", "/schedule"), ("GET", "/schedules"),
        ("GET", "/schedules/default"), ("PUT", "/schedules/default"), ("DELETE", "/schedules/default"),
        ("POST", "/schedules/default/pause"), ("POST", "/schedules/default/resume"),
        ("GET", "/schedules/default/occurrences"),
    ):  # fmt: skip
        body = {"interval_s": 60} if method == "PUT" else None
        assert (404, "organization_not_found") == _code(await ask(method, BASE + path, body, key="stranger")), path
        if method != "GET":
            assert (403, "access_refused") == _code(await ask(method, BASE + path, body, key="reader")), path


async def test_name_is_one_that_an_address_can_hold(ask: Ask) -> None:
    for name in ("Nightly", "a b", "-a", "x" * 64, "natt%C3%B8"):
        assert (422, "invalid_request") == _code(await ask("PUT", f"{BASE}/schedules/{name}", {"interval_s": 60}))


async def test_python_callers_get_the_same(world: World) -> None:
    view = await world.service.schedule_sync("hlf", "crm", cron="30 2 * * *")
    assert view == await world.service.schedule_sync("hlf", "crm", cron="30 2 * * *")
    assert dt.UTC == view.next[0].at.tzinfo
    with pytest.raises(InvalidError) as caught:
        await world.service.schedule_sync("hlf", "crm", cron="30 2 * * *", zone="Nowhere", misfire_grace_s=-1)
    assert ["zone"] == [problem.field for problem in caught.value.problems]
    gone = await world.service.cancel_scheduled_sync("hlf", "crm")
    assert ("hlf", "crm", "default") == (gone.organization, gone.type, gone.name)
