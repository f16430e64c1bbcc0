"""Delta logs and webhooks."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from aiohttp import web

DELTAS = """
query ($after: String, $first: Int) {
  transactions_deltas(after: $after, first: $first) {
    edges { cursor node { dbId mutationType } } pageInfo { hasNextPage }
  }
}"""
SUBSCRIPTION = (
    "subscription { found: transactionsMutated { edges { syncVersion node { dbId header { transactionNumber } } } } }"
)
ADD_HOOK = "mutation ($i: [AddWebhooksInput!]!) { addWebhooks(inputs: $i) { edges { clientId node { dbId state { code } } } } }"


async def deltas(api: Any, after: str | None = None, first: int | None = None) -> Any:
    return (await api.ask(DELTAS, after=after, first=first))["transactions_deltas"]


async def test_the_log_tells_what_was_added_changed_and_deleted_since_a_cursor(api: Any) -> None:
    await api.add(api.voucher(1), api.voucher(2))
    await api.run_job()
    first = await deltas(api, first=3)
    assert (["ADDED"] * 3, True) == (
        [edge["node"]["mutationType"] for edge in first["edges"]],
        first["pageInfo"]["hasNextPage"],
    )
    rest = await deltas(api, after=first["edges"][-1]["cursor"])
    cursor = rest["edges"][-1]["cursor"]
    assert (1, False) == (len(rest["edges"]), rest["pageInfo"]["hasNextPage"])
    order = {"table": "transactions", "create": 1, "update": 1, "delete": 1}
    expected = (await api.control("touch", order))["expected"]["transactions"]
    found = (await deltas(api, after=cursor))["edges"]
    kinds = {edge["node"]["dbId"]: edge["node"]["mutationType"] for edge in found}
    assert {"UPDATED": 1, "DELETED": 1, "ADDED": 2} == {
        kind: list(kinds.values()).count(kind) for kind in ("UPDATED", "DELETED", "ADDED")
    }
    assert set(expected["deleted_ids"]) == {key for key, kind in kinds.items() if kind == "DELETED"}
    assert set(expected["upserted_ids"]) == {key for key, kind in kinds.items() if kind != "DELETED"}
    query = "query ($ids: [Int64String!]) { transactions(filter: {dbId_in: $ids}) { edges { node { dbId } } } }"
    rows = await api.nodes(query, "transactions", ids=list(kinds))
    assert set(expected["upserted_ids"]) == {row["dbId"] for row in rows}


async def test_the_log_forgets_after_three_days_without_saying_so(api: Any) -> None:
    await api.add(api.voucher(1))
    await api.run_job()
    cursor = (await deltas(api, first=1))["edges"][0]["cursor"]
    await api.control("clock/advance", {"hours": 71})
    await api.add(api.voucher(2))
    await api.run_job()
    assert 3 == len((await deltas(api, after=cursor))["edges"])
    await api.control("clock/advance", {"hours": 2})
    assert 2 == len((await deltas(api, after=cursor))["edges"])
    await api.control("config", {"switches": {"expired_cursor": "error"}})
    _, body = await api.send(DELTAS, after=cursor)
    assert "The cursor has expired." == body["errors"][0]["message"]


async def test_headers_have_a_log_of_their_own(api: Any) -> None:
    await api.add(api.voucher(1))
    await api.run_job()
    query = "{ journalHeaders_deltas { edges { node { dbId mutationType } } } }"
    assert ["ADDED"] == [row["mutationType"] for row in await api.nodes(query, "journalHeaders_deltas")]


@dataclass
class Receiver:
    """A place that webhooks are sent to."""

    url: str = ""
    status: int = 200
    got: asyncio.Queue[tuple[dict[str, str], bytes]] = field(default_factory=asyncio.Queue)

    async def next(self) -> tuple[dict[str, str], bytes]:
        return await asyncio.wait_for(self.got.get(), 10)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    place = Receiver()

    async def take(request: web.Request) -> web.Response:
        place.got.put_nowait((dict(request.headers), await request.read()))
        return web.Response(status=place.status)

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    place.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield place
    await runner.cleanup()


async def hook(api: Any, url: str, subscription: str = SUBSCRIPTION) -> Any:
    payload = json.dumps({"query": subscription})
    node = {"description": "samband", "url": url, "serializedPayload": payload}
    return (await api.ask(ADD_HOOK, i=[{"clientId": "h", "node": node}]))["addWebhooks"]["edges"][0]


def is_signed(api: Any, headers: dict[str, str], body: bytes) -> bool:
    token = api.address.credentials["api_token"]
    key = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    seconds = int(parsedate_to_datetime(headers["Date"]).timestamp())
    expected = base64.urlsafe_b64encode(hmac.new(key, f"{seconds}.".encode() + body, hashlib.sha256).digest())
    return expected.decode() == headers["X-XL-Webhook-Signature"]


async def state_of(api: Any, wanted: str) -> None:
    async with asyncio.timeout(10):
        while True:
            told = await api.look("webhooks")
            if told["idle"] and [wanted] == [item["state"] for item in told["webhooks"]]:
                return
            await asyncio.sleep(0.02)


async def test_a_posting_is_told_in_the_words_of_the_subscription_and_signed(api: Any, receiver: Receiver) -> None:
    edge = await hook(api, receiver.url)
    assert ("h", "RUNNING") == (edge["clientId"], edge["node"]["state"]["code"])
    await api.add(api.voucher(1))
    number = (await api.run_job())["numbers"][0]
    headers, body = await receiver.next()
    edges = json.loads(body)["data"]["found"]["edges"]
    assert [str(number)] * 2 == [item["node"]["header"]["transactionNumber"] for item in edges]
    assert 2 == len({item["syncVersion"] for item in edges})
    assert is_signed(api, headers, body)
    await state_of(api, "RUNNING")


@pytest.mark.parametrize(
    ("how", "signed", "old"), [("replay", True, False), ("stale", True, True), ("bad_signature", False, False)]
)
async def test_a_delivery_may_come_again_stale_or_wrongly_signed(
    api: Any, receiver: Receiver, how: str, signed: bool, old: bool
) -> None:
    await hook(api, receiver.url)
    await api.add(api.voucher(1))
    await api.run_job()
    first, body = await receiver.next()
    await state_of(api, "RUNNING")
    assert {"queued": True} == await api.control("webhooks/deliver", {"how": how})
    again, same = await receiver.next()
    assert body == same
    assert signed is is_signed(api, again, same)
    seconds = [parsedate_to_datetime(headers["Date"]).timestamp() for headers in (first, again)]
    assert old is (seconds[1] < seconds[0] - 900)


async def test_a_hook_that_fails_too_often_is_faulted_and_told_nothing_more(api: Any, receiver: Receiver) -> None:
    await api.control("config", {"switches": {"webhook_wait_s": 0.01, "webhook_attempts": 3}})
    await hook(api, receiver.url)
    receiver.status = 500
    await api.add(api.voucher(1))
    await api.run_job()
    await state_of(api, "FAULTED")
    assert 3 == receiver.got.qsize()
    await api.add(api.voucher(2))
    await api.run_job()
    await state_of(api, "FAULTED")
    assert 3 == receiver.got.qsize()
    query = "{ webhooks { edges { node { state { code } lastSuccessfulPost lastFailedPost } } } }"
    row = (await api.nodes(query, "webhooks"))[0]
    assert ("FAULTED", None, True) == (row["state"]["code"], row["lastSuccessfulPost"], bool(row["lastFailedPost"]))


async def test_a_hook_recovers_when_it_is_answered_again(api: Any, receiver: Receiver) -> None:
    await api.control("config", {"switches": {"webhook_wait_s": 0.2}})
    await hook(api, receiver.url)
    receiver.status = 503
    await api.add(api.voucher(1))
    await api.run_job()
    await receiver.next()
    receiver.status = 200
    await state_of(api, "RUNNING")
    assert (await api.look("webhooks"))["attempts"] > 1


async def test_a_removed_hook_is_told_nothing(api: Any, receiver: Receiver) -> None:
    edge = await hook(api, receiver.url)
    query = "mutation ($ids: [Int64String!]!) { removeWebhooks(dbIds: $ids) { numAffected skippedDbIds } }"
    removed = await api.ask(query, ids=[edge["node"]["dbId"], "9"])
    assert {"numAffected": 1, "skippedDbIds": ["9"]} == removed["removeWebhooks"]
    await api.add(api.voucher(1))
    await api.run_job()
    assert (0, 0) == ((await api.look("webhooks"))["attempts"], receiver.got.qsize())


@pytest.mark.parametrize(
    "subscription", ["{ accounts { edges { cursor } } }", "subscription { nope }", "subscription {", "mutation { x }"]
)
async def test_a_payload_that_is_no_subscription_is_refused(api: Any, subscription: str) -> None:
    node = {"url": "http://127.0.0.1:9/", "serializedPayload": json.dumps({"query": subscription})}
    _, body = await api.send(ADD_HOOK, i=[{"node": node}])
    assert body["errors"][0]["message"].startswith("serializedPayload: ")
