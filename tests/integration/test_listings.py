"""Listings across organisations: part by part, within the key's reach, and at a price that does not grow with them.

And what every answer has in common with what is read afterwards: its instants, and the revision an edit is based on.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp.test_utils import TestClient, TestServer

from samband.access import ALL_VERBS
from samband.api import create_app
from samband.api.openapi import openapi_document
from samband.api.routes import ENDPOINTS
from samband.rules.findings import Finding
from samband.store import Store

from .scheduling import Crm, World

DOCUMENT = openapi_document(ENDPOINTS, "0")
ORGANIZATIONS = [f"org-{n}" for n in range(1, 6)]
Ask = Callable[..., Awaitable[tuple[int, Any, Any]]]


class Books(Crm):
    """A second type, for integrations beside the first."""

    manifest = dataclasses.replace(Crm.manifest, name="books", title="Books")


@pytest.fixture
async def world(store: Store) -> World:
    world = World(store)
    world.registry.add(Books(), version="1")
    for organization in reversed(ORGANIZATIONS):
        await world.connect(organization)
        await store.catalog.add_integration(organization, "books", "Books", {})
    return world


@pytest.fixture
async def ask(world: World) -> AsyncIterator[Ask]:
    """Sends a request; gives the status, the body and the ETag."""
    create = world.service.create_key
    keys = {
        "all": await create("all", verbs=ALL_VERBS, organizations=None),
        "two": await create("two", verbs=["read"], organizations=["org-4", "org-2"]),
    }
    async with TestClient(TestServer(create_app(world.service))) as client:

        async def send(method: str, path: str, body: Any = None, *, key: str = "all", **headers: str) -> Any:
            headers = {"Authorization": f"Bearer {keys[key]}", **headers}
            answer = await client.request(method, path, json=body, headers=headers)
            told = await answer.json()
            if answer.status >= 400:
                assert told["code"] in _promised(method, answer.url.path, answer.status), (path, told)
            return answer.status, told, answer.headers.get("ETag")

        yield send


def _promised(method: str, path: str, status: int) -> set[str]:
    pattern = next(e.path for e in ENDPOINTS if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", e.path), path))
    drawn = DOCUMENT["paths"][pattern][method.lower()]["responses"][str(status)]
    return set(drawn["content"]["application/problem+json"]["examples"])


async def parts(ask: Ask, path: str, limit: int, **options: Any) -> list[list[Any]]:
    """Gives the items of every part of a listing."""
    found, after = [], ""
    while True:
        status, page, _ = await ask("GET", f"{path}?limit={limit}{after}", **options)
        assert 200 == status, page
        found.append(page["items"])
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


@pytest.mark.parametrize(("key", "reached"), [("all", ORGANIZATIONS), ("two", ["org-2", "org-4"])])
async def test_organisations_come_part_by_part_within_the_keys_reach(ask: Ask, key: str, reached: list[str]) -> None:
    found = await parts(ask, "/v1/organizations", 2, key=key)
    assert [reached[n : n + 2] for n in range(0, len(reached), 2)] == [[o["id"] for o in part] for part in found]


@pytest.mark.parametrize(("key", "reached"), [("all", ORGANIZATIONS), ("two", ["org-2", "org-4"])])
async def test_overview_comes_part_by_part_within_the_keys_reach(ask: Ask, key: str, reached: list[str]) -> None:
    lines = [(organization, type) for organization in reached for type in ("books", "crm")]
    found = await parts(ask, "/v1/overview", 3, key=key)
    assert [lines[n : n + 3] for n in range(0, len(lines), 3)] == [
        [(line["organization"], line["type"]) for line in part] for part in found
    ]


async def test_integrations_come_part_by_part(ask: Ask) -> None:
    found = await parts(ask, "/v1/organizations/org-3/integrations", 1)
    assert [["books"], ["crm"]] == [[one["type"] for one in part] for part in found]


async def test_position_of_the_overview_that_is_none_is_refused(ask: Ask) -> None:
    status, problem, _ = await ask("GET", "/v1/overview?after=org-3")
    assert (422, ["after"]) == (status, [e["field"] for e in problem["errors"]])


async def test_overview_shows_each_integration_its_own_alerts_and_schedules(ask: Ask, world: World) -> None:
    await world.schedule("org-2")
    about = await world.store.catalog.integration("org-4", "crm")
    trouble = Finding(
        organization_id="org-4", integration_id=about.id, subject=f"integration/{about.id}", kind="overdue",
        severity="warning", message="Late.", data={},
    )  # fmt: skip
    await world.store.alerts.settle("org-4", [trouble])
    _, page, _ = await ask("GET", "/v1/overview")
    lines = {(line["organization"], line["type"]): line for line in page["items"]}
    assert [("org-4", "crm")] == [place for place, line in lines.items() if line["alerts"]]
    assert ["overdue"] == lines["org-4", "crm"]["alerts"]
    assert [("org-2", "crm")] == [place for place, line in lines.items() if line["freshness"] != "unknown"]


async def test_overview_of_many_organisations_takes_no_more_statements_than_of_one(world: World) -> None:
    counted: list[str] = []
    engine = world.store.database.engine.sync_engine

    def count(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        counted.append(statement)

    taken = []
    for reached in (["org-1"], ORGANIZATIONS, None):
        sa.event.listen(engine, "before_cursor_execute", count)
        await world.service.health.overview(reached)
        sa.event.remove(engine, "before_cursor_execute", count)
        taken.append(len(counted))
        counted.clear()
    assert [taken[0]] * 3 == taken


# ── instants ─────────────────────────────────────────────────────────────────

EDGES = ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
AUDITS = ["/v1/audit", "/v1/audit.csv", "/v1/organizations/org-1/audit", "/v1/organizations/org-1/audit.csv"]


async def test_instant_of_no_year_is_refused_in_a_query(ask: Ask) -> None:
    for path, name, edge in itertools.product(AUDITS, ("since", "until"), EDGES):
        status, problem, _ = await ask("GET", f"{path}?{name}={edge.replace('+', '%2B')}")
        assert (422, [name]) == (status, [e["field"] for e in problem["errors"]]), path


async def test_instant_of_no_year_is_refused_in_a_body(ask: Ask) -> None:
    crm = "/v1/organizations/org-1/integrations/crm"
    places: list[tuple[str, str, dict[str, Any], str]] = [
        ("POST", f"{crm}/webhook/deliveries/replay", {}, "since"),
        ("POST", f"{crm}/webhook/deliveries/replay", {}, "until"),
        ("POST", f"{crm}/backfills", {"stream": "people"}, "since"),
        ("POST", f"{crm}/backfills", {"stream": "people"}, "until"),
        ("PUT", f"{crm}/credentials", {"credentials": {}}, "expires_at"),
        ("POST", "/v1/organizations/org-1/integrations", {"type": "crm", "settings": {}}, "credentials_expire_at"),
        ("POST", "/v1/keys", {"name": "more", "verbs": ["read"]}, "expires_at"),
    ]
    for (method, path, body, field), edge in itertools.product(places, EDGES):
        status, problem, _ = await ask(method, path, body | {field: edge})
        told = (status, problem["detail"], [e["field"] for e in problem["errors"]])
        assert (422, "The body is not valid.", [field]) == told, path


async def test_instant_of_any_year_separates_before_from_after(ask: Ask) -> None:
    for year, is_past in (("0001", True), ("0999", True), ("2020", True), ("9999", False)):
        status, page, _ = await ask("GET", f"/v1/organizations/org-1/audit?since={year}-06-01T00:00:00Z")
        assert (year, 200, is_past) == (year, status, bool(page["items"]))


async def test_number_is_no_instant(ask: Ask) -> None:
    status, problem, _ = await ask("GET", "/v1/audit?since=1577836800")
    assert (422, ["since"]) == (status, [e["field"] for e in problem["errors"]])


async def test_what_is_created_is_answered_as_it_is_read_afterwards(ask: Ask) -> None:
    organization = (await ask("POST", "/v1/organizations", {"id": "fresh", "name": "Fresh"}))[1]
    assert organization == (await ask("GET", "/v1/organizations/fresh"))[1]
    base = "/v1/organizations/fresh"
    for path, body in (
        ("/integrations", {"type": "crm", "settings": {}, "credentials": {}}),
        ("/subscriptions", {"url": "https://platform.example/hook"}),
    ):
        made = (await ask("POST", f"{base}{path}", body))[1]
        read = (await ask("GET", f"{base}{path}/{made['type' if path == '/integrations' else 'id']}"))[1]
        assert read == {name: value for name, value in made.items() if name != "secret"}
    claim = {
        "payee": {"id": "p-17", "name": "Kari", "bank_account": "12345678903"}, "currency": "NOK", "status": "draft",
        "lines": [{"expense_type": "mileage", "date": "2026-03-01", "amount": "100.00"}],
    }  # fmt: skip
    told = (await ask("PUT", f"{base}/reimbursements/c-1", claim))[1]
    assert told == (await ask("GET", f"{base}/reimbursements/c-1"))[1]
    for organization_id in ("org-1", "org-2"):
        ordered = (await ask("POST", f"/v1/organizations/{organization_id}/integrations/crm/runs", {}))[1]
        assert ordered == (await ask("GET", f"/v1/organizations/{organization_id}/runs/{ordered['id']}"))[1]


# ── edits that are based on a revision ───────────────────────────────────────


async def test_schedule_that_somebody_has_changed_is_not_deleted_unseen(ask: Ask) -> None:
    base = "/v1/organizations/org-1/integrations/crm"
    for one in (f"{base}/schedule", f"{base}/schedules/nightly"):
        _, _, seen = await ask("PUT", one, {"cron": "30 2 * * *"})
        _, _, newest = await ask("PUT", one, {"cron": "30 3 * * *"})
        assert (412, "revision_mismatch") == _code(await ask("DELETE", one, **{"If-Match": seen}))
        assert 200 == (await ask("GET", one))[0]
        assert 200 == (await ask("DELETE", one, **{"If-Match": newest}))[0]
        assert (404, "schedule_not_found") == _code(await ask("GET", one))


async def test_subscription_that_somebody_has_changed_keeps_its_secret_and_stays(ask: Ask) -> None:
    base = "/v1/organizations/org-1/subscriptions"
    _, made, seen = await ask("POST", base, {"url": "https://platform.example/hook"})
    one = f"{base}/{made['id']}"
    _, _, newest = await ask("PATCH", one, {"description": "ours"})
    assert (412, "revision_mismatch") == _code(await ask("POST", f"{one}/secret", {}, **{"If-Match": seen}))
    assert made["secret_hint"] == (await ask("GET", one))[1]["secret_hint"]
    status, _, replaced = await ask("POST", f"{one}/secret", {}, **{"If-Match": newest})
    assert 200 == status
    assert (412, "revision_mismatch") == _code(await ask("DELETE", one, **{"If-Match": newest}))
    assert 200 == (await ask("DELETE", one, **{"If-Match": replaced}))[0]


def _code(answer: tuple[int, Any, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["code"]
