"""Events and subscriptions over HTTP, on the real service: what the OpenAPI document promises, and nothing else."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from standardwebhooks import Webhook

from samband.access import ALL_VERBS
from samband.api import create_app
from samband.api.routes.operations import OPENAPI_DOCUMENT
from samband.eventtypes import EVENT_TYPES
from samband.service import Service
from samband.store import Store

from .conftest import Receiver, failing, happen

ORG = "/v1/organizations/hlf"
SUBSCRIPTIONS = f"{ORG}/subscriptions"

Ask = Callable[..., Awaitable[tuple[int, Any, Any]]]


@pytest.fixture
def database_url(tmp_path: Path, migrated_file: Path) -> str:
    """One database is enough here: what SQL does differently is tried elsewhere."""
    return f"sqlite:///{shutil.copyfile(migrated_file, tmp_path / 'samband.db')}"


@pytest.fixture
async def ask(service: Service) -> AsyncIterator[Ask]:
    """Sends a request with a key that may do everything; every answer has to be a documented one."""
    key = await service.create_key("test", verbs=sorted(ALL_VERBS), organizations=None)
    reader = await service.create_key("reader", verbs=["read"], organizations=["hlf"])
    app = create_app(service)
    promised = json.loads(app[OPENAPI_DOCUMENT])["paths"]
    async with TestClient(TestServer(app)) as client:

        async def send(method: str, path: str, *, as_reader: bool = False, **options: Any) -> tuple[int, Any, Any]:
            headers = {"Authorization": f"Bearer {reader if as_reader else key}", **options.pop("headers", {})}
            answer = await client.request(method, path, headers=headers, **options)
            body = await answer.json(content_type=None)
            template = _template(app, method, path)
            known = promised[template][method.lower()]["responses"][str(answer.status)]["content"][answer.content_type]
            if answer.content_type == "application/problem+json":
                assert body["code"] in known["examples"]
            return answer.status, body, answer.headers

        yield send


def _template(app: Any, method: str, path: str) -> str:
    bare = path.partition("?")[0].split("/")
    for resource in app.router.resources():
        drawn = resource.canonical.split("/")
        if len(drawn) == len(bare) and all(
            d in (b, *([d] if d[:1] == "{" else [])) for d, b in zip(drawn, bare, strict=True)
        ):
            return str(resource.canonical)
    raise AssertionError(path)


async def create(ask: Ask, receiver: Receiver, **values: Any) -> dict[str, Any]:
    status, body, _ = await ask("POST", SUBSCRIPTIONS, json={"url": receiver.url, **values})
    assert 201 == status, body
    return dict(body)


async def test_secret_is_shown_once_and_then_only_its_last_four(ask: Ask, receiver: Receiver) -> None:
    status, made, headers = await ask("POST", SUBSCRIPTIONS, json={"url": receiver.url, "description": "Platform"})
    assert (201, f"{SUBSCRIPTIONS}/{made['id']}", '"1"') == (status, headers["Location"], headers["ETag"])
    assert 32 == len(base64.b64decode(made["secret"].removeprefix("whsec_")))
    for path in (
        SUBSCRIPTIONS,
        f"{SUBSCRIPTIONS}/{made['id']}",
        f"{SUBSCRIPTIONS}/{made['id']}/deliveries",
        f"{ORG}/audit",
    ):
        _, body, _ = await ask("GET", path)
        assert made["secret"] not in str(body)
    _, seen, _ = await ask("GET", f"{SUBSCRIPTIONS}/{made['id']}")
    assert made["secret"][-4:] == seen["secret_hint"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"url": "http://platform.example/hook"}, "url"),
        ({"url": "https://10.0.0.1/hook"}, "url"),
        ({"url": "https://platform.example:444/hook"}, "url"),
        ({"url": "https://platform.example/h", "types": ["no.samband.run.*", "no.samband.oops.v1"]}, "types.1"),
        ({"url": "https://platform.example/h", "types": ["*"]}, "types.0"),
        ({"url": "https://platform.example/h", "secret": "whsec_mine"}, "secret"),
        ({"types": []}, "url"),
    ],
)
async def test_subscription_that_cannot_be_meant_is_refused_by_the_field(ask: Ask, body: Any, field: str) -> None:
    status, answer, _ = await ask("POST", SUBSCRIPTIONS, json=body)
    assert (422, [field]) == (status, [problem["field"] for problem in answer["errors"]])
    assert [] == (await ask("GET", SUBSCRIPTIONS))[1]["items"]


async def test_edit_is_refused_when_somebody_else_was_first(ask: Ask, receiver: Receiver) -> None:
    one = f"{SUBSCRIPTIONS}/{(await create(ask, receiver))['id']}"
    status, changed, headers = await ask(
        "PATCH", one, json={"types": ["no.samband.run.*"]}, headers={"If-Match": '"1"'}
    )
    assert (200, ["no.samband.run.*"], '"2"') == (status, changed["types"], headers["ETag"])
    status, problem, _ = await ask("PATCH", one, json={"description": "x"}, headers={"If-Match": '"1"'})
    assert (412, "revision_mismatch") == (status, problem["code"])
    status, problem, _ = await ask("PATCH", one, json={"url": "https://192.168.0.1/"})
    assert (422, "url") == (status, problem["errors"][0]["field"])


async def test_ping_says_what_came_back(ask: Ask, receiver: Receiver) -> None:
    made = await create(ask, receiver)
    status, told, _ = await ask("POST", f"{SUBSCRIPTIONS}/{made['id']}/test")
    assert (200, True, 204) == (status, told["ok"], told["status"])
    (received,) = receiver.received
    event = Webhook(made["secret"]).verify(received.body, received.headers)
    assert ("no.samband.ping.v1", {"subscription": made["id"]}) == (event["type"], event["data"])
    receiver.answer = failing(302, Location="https://elsewhere.example")
    _, told, _ = await ask("POST", f"{SUBSCRIPTIONS}/{made['id']}/test")
    assert (False, 302, "redirect_refused") == (told["ok"], told["status"], told["error"])
    assert [] == (await ask("GET", f"{ORG}/events"))[1]["items"]


async def test_every_deed_is_in_the_audit_trail(ask: Ask, receiver: Receiver, store: Store) -> None:
    one = f"{SUBSCRIPTIONS}/{(await create(ask, receiver))['id']}"
    await ask("PATCH", one, json={"description": "new"})
    await ask("POST", f"{one}/secret", json={"overlap_s": 0})
    await ask("POST", f"{one}/test")
    await ask("POST", f"{one}/replay", json={"after": 0})
    await ask("POST", f"{one}/disable")
    await ask("POST", f"{one}/enable", json={"catch_up": False})
    assert 200 == (await ask("DELETE", one))[0]
    assert 404 == (await ask("GET", one))[0]
    _, trail, _ = await ask("GET", f"{ORG}/audit?limit=100")
    deeds = [entry["action"] for entry in trail["items"] if entry["action"].startswith("subscription.")]
    assert [
        "subscription.created", "subscription.changed", "subscription.secret_replaced", "subscription.tested",
        "subscription.replayed", "subscription.disabled", "subscription.enabled", "subscription.deleted",
    ] == deeds  # fmt: skip


async def test_foreign_and_unknown_things_are_not_found(ask: Ask, receiver: Receiver, store: Store) -> None:
    made = await create(ask, receiver)
    await happen(store, "run/1")
    event = (await ask("GET", f"{ORG}/events"))[1]["items"][0]["id"]
    foreign = f"/v1/organizations/nbf/subscriptions/{made['id']}"
    for method, path, options in (
        ("GET", foreign, {}),
        ("PATCH", foreign, {"json": {"description": "x"}}),
        ("DELETE", foreign, {}),
        ("GET", f"{foreign}/deliveries", {}),
        ("POST", f"{foreign}/replay", {"json": {"after": 0}}),
        ("POST", f"{foreign}/secret", {}),
        ("POST", f"{foreign}/test", {}),
        ("POST", f"{foreign}/enable", {}),
        ("POST", f"{foreign}/disable", {}),
        ("GET", f"/v1/organizations/nbf/events/{event}", {}),
        ("GET", f"{SUBSCRIPTIONS}/unknown", {}),
    ):
        status, problem, _ = await ask(method, path, **options)
        assert (404, True) == (status, problem["code"].endswith("_not_found")), path
    assert [] == receiver.received


async def test_reader_reads_and_changes_nothing(ask: Ask, receiver: Receiver) -> None:
    made = await create(ask, receiver)
    assert 200 == (await ask("GET", f"{ORG}/events", as_reader=True))[0]
    assert 200 == (await ask("GET", SUBSCRIPTIONS, as_reader=True))[0]
    for method, path, body in (
        ("POST", SUBSCRIPTIONS, {"url": receiver.url}),
        ("POST", f"{SUBSCRIPTIONS}/{made['id']}/secret", None),
        ("POST", f"{SUBSCRIPTIONS}/{made['id']}/replay", {"after": 0}),
        ("DELETE", f"{SUBSCRIPTIONS}/{made['id']}", None),
    ):
        assert 403 == (await ask(method, path, as_reader=True, json=body))[0]


@pytest.mark.parametrize("body", [{}, {"after": 0, "ids": ["a"]}, {"ids": []}, {"after": -1}, {"ids": ["unknown"]}])
async def test_replay_has_to_say_which(ask: Ask, receiver: Receiver, body: Any) -> None:
    made = await create(ask, receiver)
    assert 422 == (await ask("POST", f"{SUBSCRIPTIONS}/{made['id']}/replay", json=body))[0]


async def test_subscriptions_are_listed_part_by_part(ask: Ask, receiver: Receiver) -> None:
    made = [(await create(ask, receiver))["id"] for _ in range(5)]
    seen: list[str] = []
    after = ""
    while True:
        _, part, _ = await ask("GET", f"{SUBSCRIPTIONS}?limit=2{after}")
        seen += [item["id"] for item in part["items"]]
        if part["next"] is None:
            break
        after = f"&after={part['next']}"
    assert sorted(made) == seen


async def test_feed_is_polled_with_its_next(ask: Ask, store: Store) -> None:
    await happen(store, "run/1", "run/2")
    _, first, _ = await ask("GET", f"{ORG}/events?limit=1")
    _, second, _ = await ask("GET", f"{ORG}/events?after={first['next']}")
    _, third, _ = await ask("GET", f"{ORG}/events?after={second['next']}&type=no.samband.run.*")
    assert ([1], [2], []) == tuple([item["sequence"] for item in part["items"]] for part in (first, second, third))
    assert (True, 2, 2) == (first["has_more"], second["next"], third["next"])
    assert 422 == (await ask("GET", f"{ORG}/events?type=no.samband.oops.v1"))[0]


async def test_schemas_are_public_and_fit_what_is_told(ask: Ask, store: Store) -> None:
    _, listed, _ = await ask("GET", "/schemas/events", headers={"Authorization": ""})
    assert list(EVENT_TYPES) == [item["type"] for item in listed["items"]]
    await happen(store, "run/1")
    _, page, _ = await ask("GET", f"{ORG}/events")
    _, schema, _ = await ask("GET", f"/schemas/events/{page['items'][0]['type']}", headers={"Authorization": ""})
    Draft202012Validator(schema).validate(page["items"][0]["data"])
    assert 404 == (await ask("GET", "/schemas/events/no.samband.oops.v1"))[0]


async def test_envelope_names_its_schema_when_the_host_knows_its_address(service: Service, store: Store) -> None:
    known = Service(
        store=store, registry=service._parts.registry, bell=service._parts.bell, public_url="https://samband.example"
    )
    await happen(store, "run/1")
    (event,) = (await known.events.after("hlf")).items
    assert "https://samband.example/schemas/events/no.samband.run.succeeded.v1" == event.dataschema
