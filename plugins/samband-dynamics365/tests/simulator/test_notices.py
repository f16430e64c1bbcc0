"""Registered addresses are told of changed rows in the service's own format."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from .conftest import Client

DATA = Path(__file__).parents[1] / "data"


@dataclass
class Receiver:
    """An address that remembers what it was sent, and answers as it is told."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[tuple[dict[str, str], dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((headers, dict(request.query), await request.read()))
        self.news.set()
        return web.Response(status=self.statuses.pop(0) if self.statuses else 202)

    async def after(self, count: int) -> list[tuple[dict[str, str], dict[str, str], bytes]]:
        async with asyncio.timeout(20):
            while len(self.seen) < count:
                self.news.clear()
                await self.news.wait()
        return self.seen


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


async def register(api: Client, receiver: Receiver, **order: Any) -> Any:
    return await api.control("webhooks", {"url": receiver.url, "value": "the-key", **order})


async def test_each_change_is_told_once_with_the_registrations_key(api: Client, receiver: Receiver) -> None:
    await register(api, receiver)
    touched = await api.control("touch", {"table": "contacts", "create": 1, "update": 2, "delete": 1})
    expected = {
        (row_id, what)
        for what, name in (("Create", "created"), ("Update", "updated"), ("Delete", "deleted"))
        for row_id in touched["changes"]["contacts"][name]
    }
    await receiver.after(len(expected))
    contexts = [json.loads(body) for _, _, body in receiver.seen]
    assert expected == {(c["PrimaryEntityId"], c["MessageName"]) for c in contexts}
    assert len(expected) == len({c["OperationId"] for c in contexts})
    assert {"the-key"} == {query["code"] for _, query, _ in receiver.seen}
    for headers, _, body in receiver.seen:
        assert "contact" == headers["x-ms-dynamics-entity-name"]
        assert json.loads(body)["MessageName"] == headers["x-ms-dynamics-request-name"]


async def test_body_has_the_fields_and_the_writing_of_the_vendors_sample(api: Client, receiver: Receiver) -> None:
    await register(api, receiver, messages=["Update"])
    await api.control("touch", {"table": "contacts", "update": 1})
    ((_, _, body),) = await receiver.after(1)
    told = json.loads(body)
    sample = json.loads((DATA / "webhook-contact-update.json").read_bytes())
    assert set(sample) <= set(told)
    assert b"/" not in body.replace(b"\\/", b"")
    assert re.fullmatch(r"/Date\(\d{13}-0700\)/", told["OperationCreatedOn"])
    (target,) = (p["value"] for p in told["InputParameters"] if p["key"] == "Target")
    assert set(sample["InputParameters"][0]["value"]) == set(target)
    names = {attribute["key"] for attribute in target["Attributes"]}
    assert {"contactid", "modifiedon"} <= names
    assert len(names) < 20  # what was changed, and not the row


async def test_other_tables_messages_and_undone_changes_are_not_told(api: Client, receiver: Receiver) -> None:
    await register(api, receiver, tables=["accounts"], messages=["Delete"])
    await api.control("touch", {"table": "contacts", "update": 1})
    refused = await api.send("POST", "contacts", json={"firstname": 7})
    assert 400 == refused.status
    shown = await api.control("webhooks", {})
    assert ([], 0) == (shown["deliveries"], shown["under_way"])
    assert [] == receiver.seen


@pytest.mark.parametrize(
    ("statuses", "attempts"), [([200], 1), ([503], 2), ([502, 504], 2), ([500], 1), ([404], 1), ([401], 1)]
)
async def test_one_further_attempt_follows_only_502_503_and_504(
    api: Client, receiver: Receiver, statuses: list[int], attempts: int
) -> None:
    receiver.statuses = list(statuses)
    await register(api, receiver)
    await api.control("touch", {"table": "contacts", "update": 1})
    await receiver.after(attempts)
    deadline = time.monotonic() + 20
    while (shown := await api.control("webhooks", {}))["under_way"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert [*statuses, 202][:attempts] == [d["status"] for d in shown["deliveries"]]
    assert 1 == len({json.loads(body)["OperationId"] for _, _, body in receiver.seen})


async def test_key_can_travel_in_a_header_or_another_parameter(api: Client, receiver: Receiver) -> None:
    await register(api, receiver, authentication="header", name="x-key")
    await register(api, receiver, authentication="query", name="token")
    await api.control("touch", {"table": "contacts", "update": 1})
    seen = await receiver.after(2)
    assert {(None, "the-key"), ("the-key", None)} == {(h.get("x-key"), q.get("token")) for h, q, _ in seen}


async def test_large_delivery_leaves_the_row_out_and_says_so(api: Client, receiver: Receiver) -> None:
    await register(api, receiver)
    long = "x" * 300_000
    table = api.state.organization.tables["contact"]
    row_id = table.ids[0]
    api.state.organization.write(table, row_id, {**table.rows[row_id], "description": long})
    ((headers, _, body),) = await receiver.after(1)
    assert "true" == headers["x-ms-dynamics-msg-size-exceeded"]
    told = json.loads(body)
    assert row_id == told["PrimaryEntityId"]
    assert "InputParameters" not in told
