"""Deliveries over HTTP: proved, taken in once, answered after they are stored, and turned into runs."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from samband.errors import NotReadyError
from samband.receiving import HandingOver, ReceivingLimits
from samband.service import Service
from samband.store import Vault

from .hooked import BODY, PLAIN_SECRET, SECRET, Client, Door, deliver, equal, sign, truth, until


async def test_delivery_that_proves_itself_is_stored_and_orders_a_run(client: Client, door: Door) -> None:
    integration = await door.connect("standard", secret=SECRET)
    status, said = await deliver(client, door.paths["standard"], **sign(BODY))
    assert (202, {"outcome": "accepted"}) == (status, said)
    (row,) = await door.rows()
    assert (integration.id, len(BODY), hashlib.sha256(BODY).hexdigest()) == (row.integration_id, row.size, row.digest)
    await until(lambda: truth(door.bell.rung))
    (run,) = await door.runs()
    assert (["things"], "webhook", "queued") == (run.streams, run.reason, run.state)
    (row,) = await door.rows()
    assert ("processed", run.id) == (row.state, row.run_id)
    assert [run.id] == door.bell.rung


async def run_of(door: Door) -> Any:
    """Waits until exactly one run was ordered and gives it."""
    await until(lambda: truth(door.bell.rung))
    (run,) = await door.runs()
    return run


# ── once, and only once ──────────────────────────────────────────────────────


async def test_repeat_is_answered_at_once_and_changes_nothing(client: Client, door: Door) -> None:
    await door.connect("standard", secret=SECRET)
    first = await deliver(client, door.paths["standard"], **sign(BODY))
    await run_of(door)
    await door.end_runs()
    # Their retry is signed anew, under the same id.
    again = [await deliver(client, door.paths["standard"], **sign(BODY)) for _ in range(3)]
    assert [(202, "accepted"), *[(200, "repeated")] * 3] == [(s, said["outcome"]) for s, said in (first, *again)]
    assert 1 == len(await door.rows())
    assert 1 == len(await door.runs())
    assert {"accepted": 1, "repeated": 3} == await door.counts()


async def test_many_of_one_id_at_once_are_one(client: Client, door: Door) -> None:
    await door.connect("standard", secret=SECRET)
    answers = await asyncio.gather(
        *(deliver(client, door.paths["standard"], **sign(BODY)) for _ in range(40)),
        *(deliver(client, door.paths["standard"], **sign(BODY, id=f"msg_{n % 5}x")) for n in range(40)),
    )
    assert 6 == sum(status == 202 for status, _ in answers)
    assert 74 == sum(status == 200 for status, _ in answers)
    assert 6 == len(await door.rows())
    assert {"accepted": 6, "repeated": 74} == await door.counts()


async def test_same_id_of_another_organisation_is_another_delivery(client: Client, door: Door) -> None:
    for org in ("hlf", "nbf"):
        await door.connect("standard", org=org, secret=SECRET)
    for path in door.paths.values():
        assert 202 == (await deliver(client, path, **sign(BODY)))[0]
    first, second = await door.rows()
    assert first.delivery_key != second.delivery_key


async def test_id_that_the_plugin_gives_decides_where_there_is_no_header_for_it(client: Client, door: Door) -> None:
    await door.connect("keyed", secret=PLAIN_SECRET)
    one, other = b'{"id": "d1", "changed": {"things": ["t1"]}}', b'{"id": "d1", "changed": {"things": ["t2"]}}'
    assert 202 == (await deliver(client, door.paths["keyed"], one, **{"x-api-key": PLAIN_SECRET}))[0]
    assert 200 == (await deliver(client, door.paths["keyed"], other, **{"x-api-key": PLAIN_SECRET}))[0]


async def test_delivery_without_an_id_is_a_repeat_only_while_the_same_still_waits(client: Client, door: Door) -> None:
    integration = await door.connect("keyed", secret=PLAIN_SECRET)
    key = {"x-api-key": PLAIN_SECRET}
    async with door.store.database.write() as conn:  # so that deliveries wait
        await door.store.runs.order_in(
            conn, organization_id="hlf", integration_id=integration.id, plugin="keyed", plugin_version="1",
            operation="sync", streams=["things"], full=False, reason="test", requested_by="test",
        )  # fmt: skip
    assert [202, 200, 202] == [
        (await deliver(client, door.paths["keyed"], body, **key))[0]
        for body in (BODY, BODY, b'{"changed": {"people": []}}')
    ]
    await door.end_runs()
    handing_over = HandingOver(store=door.store, registry=door.registry, bell=door.bell)
    await handing_over.round()
    assert ["processed"] * 2 == [row.state for row in await door.rows()]
    # Nobody can tell whether this is the same news again or new news of the same kind: it is read once more.
    assert 202 == (await deliver(client, door.paths["keyed"], BODY, **key))[0]
    assert 2 == len(await door.rows())
    await door.end_runs()
    await handing_over.round()
    assert [["things"], ["people", "things"], ["things"]] == [run.streams for run in await door.runs()]


# ── only theirs ──────────────────────────────────────────────────────────────


async def test_unknown_addresses_all_look_the_same(client: Client, door: Door) -> None:
    await door.connect("standard", secret=SECRET)
    key = door.paths["standard"].rpartition("/")[2]
    told = set()
    for path in (f"/webhooks/keyed/{key}", f"/webhooks/nothing/{key}", "/webhooks/standard/x", f"/webhooks/standard/{key}x",
                 "/webhooks/standard/%ff", "/webhooks/%00/" + "y" * 3000):  # fmt: skip
        status, said = await deliver(client, path, **sign(BODY))
        assert 404 == status
        told.add(tuple(sorted((k, v) for k, v in said.items() if k != "instance")))
    assert 1 == len(told)
    assert [] == await door.rows()


async def test_what_does_not_prove_itself_leaves_a_count_and_a_line_and_nothing_else(
    client: Client, door: Door
) -> None:
    integration = await door.connect("standard", secret=SECRET)
    now = dt.datetime.now(dt.UTC)
    marked = b'{"changed": {"things": ["canary-body"]}}'
    right = sign(marked)
    forged = {
        "missing": {},
        "malformed": {**right, "webhook-timestamp": "canary-time"},
        "wrong": {**right, "webhook-signature": "v1,canary-signature"},
        "too_old": sign(marked, at=now - dt.timedelta(minutes=6)),
        "too_new": sign(marked, at=now + dt.timedelta(minutes=6)),
    }
    with capture_logs() as lines:
        answers = {reason: await deliver(client, door.paths["standard"], marked, **h) for reason, h in forged.items()}
    assert {401} == {status for status, _ in answers.values()}
    # To whoever sends it, one refusal looks like another.
    assert 1 == len({(said["code"], said["detail"], said["title"]) for _, said in answers.values()})
    expected = {f"refused:{reason}": 1 for reason in forged}
    await until(lambda: equal(door.counts(), expected))
    assert [] == await door.rows()
    refused = [line for line in lines if line["event"] == "webhook_refused"]
    assert list(forged) == [line["reason"] for line in refused]
    assert {integration.id} == {line["integration"] for line in refused}
    assert "canary" not in repr(lines)


async def test_body_is_not_looked_at_before_the_proof_holds(client: Client, door: Door) -> None:
    await door.connect("standard", secret=SECRET)
    not_json = b"\xff\x00{{{"
    text = '{"a": NaN}'
    assert 401 == (await deliver(client, door.paths["standard"], not_json))[0]
    status, said = await deliver(client, door.paths["standard"], text.encode(), **sign(text.encode()))
    assert (422, "delivery_refused") == (status, said["code"])
    await until(lambda: equal(door.counts(), {"refused:missing": 1, "refused:malformed_content": 1}))
    assert [] == await door.rows()


async def test_altered_and_replayed_deliveries_are_refused_or_repeats(client: Client, door: Door) -> None:
    await door.connect("signed", secret=PLAIN_SECRET)
    path = door.paths["signed"]
    right = "sha256=" + hmac.new(PLAIN_SECRET.encode(), BODY, hashlib.sha256).hexdigest()
    assert 202 == (await deliver(client, path, BODY, **{"X-Signature": right}))[0]
    for body in (BODY + b" ", BODY[:-1], BODY.replace(b"t1", b"t2"), b""):
        assert 401 == (await deliver(client, path, body, **{"X-Signature": right}))[0]
    for value in (right[:-1], right + "0", right.removeprefix("sha256="), right.upper(), "", f"{right}, {right}"):
        assert 401 == (await deliver(client, path, BODY, **{"X-Signature": value}))[0]
    assert 1 == len(await door.rows())


async def test_secret_in_header_or_query_is_checked_and_not_kept(client: Client, door: Door, vault: Vault) -> None:
    await door.connect("keyed", secret=PLAIN_SECRET)
    await door.connect("queried", secret=PLAIN_SECRET)
    await door.connect("unproved")
    assert 401 == (await deliver(client, door.paths["keyed"], **{"x-api-key": "a-wrong-secret-of-this-length"}))[0]
    assert 202 == (await deliver(client, door.paths["keyed"], **{"x-api-key": PLAIN_SECRET}))[0]
    assert 401 == (await deliver(client, door.paths["queried"] + "?code=no"))[0]
    assert 202 == (await deliver(client, door.paths["queried"] + f"?code={PLAIN_SECRET}&other=1"))[0]
    assert 202 == (await deliver(client, door.paths["unproved"]))[0]
    opened = [vault.open(bytes(r.content), owner=f"hlf/{r.integration_id}/inbox") for r in await door.rows()]
    assert 3 == len(opened)
    for content in opened:
        told, _, body = content.partition(b"\n")
        assert BODY == body
        assert PLAIN_SECRET not in told.decode()
        assert "content-type" in json.loads(told)["headers"]


async def test_what_is_stored_is_sealed(client: Client, door: Door) -> None:
    await door.connect("standard", secret=SECRET)
    key = door.paths["standard"].rpartition("/")[2]
    body = b'{"changed": {"things": []}, "note": "canary-in-the-body"}'
    assert (
        202 == (await deliver(client, door.paths["standard"], body, **sign(body, id="canary-id", x="canary-header")))[0]
    )
    async with door.store.database.read() as conn:
        for table in ("inbox", "webhook", "webhook_count", "audit_entry", "outbox", "run"):
            for row in await conn.execute(sa.text(f"SELECT * FROM {table}")):
                told = repr([bytes(v) if isinstance(v, memoryview | bytearray) else v for v in row])
                assert "canary" not in told
                assert SECRET.removeprefix("whsec_") not in told
                assert key not in told


# ── the manner of sending ────────────────────────────────────────────────────


async def test_body_that_is_too_large_compressed_or_slow_is_refused(client: Client, door: Door) -> None:
    await door.connect("unproved")
    path = door.paths["unproved"]
    assert (413, "body_too_large") == code_of(await deliver(client, path, b"x" * 2_001))

    async def chunks(size: int) -> AsyncIterator[bytes]:
        for _ in range(size):
            yield b"x" * 500

    assert 413 == (await client.post(path, data=chunks(5))).status
    for encoding in ("gzip", "deflate", "br", "gzip, identity"):
        assert (415, "content_encoding_unsupported") == code_of(
            await deliver(client, path, BODY, **{"Content-Encoding": encoding})
        )

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    assert 408 == (await client.post(path, data=slow())).status
    assert [] == await door.rows()
    # Exactly the limit passes the door, and a chunked body is as good as another.
    assert 422 == (await deliver(client, path, b"x" * 2_000))[0]

    async def whole() -> AsyncIterator[bytes]:
        yield BODY[:5]
        yield BODY[5:]

    assert 202 == (await client.post(path, data=whole())).status


def code_of(answer: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    return answer[0], answer[1]["code"]


async def test_headers_and_query_reach_the_plugin_as_they_came(client: Client, door: Door) -> None:
    await door.connect("unproved")
    path = door.paths["unproved"] + "?a=1&a=2&b=%C3%A5&%20=x"
    answer = await client.post(path, data=BODY, headers=[("X-Twice", "one"), ("X-Twice", "two"), ("X-Plain", "Æ")])  # type: ignore[arg-type]
    assert 202 == answer.status
    (heard,) = door.plugins["unproved"].heard
    assert ("one, two", "Æ") == (heard.headers["x-twice"], heard.headers["x-plain"])
    assert {"a": "1", "b": "å", " ": "x"} == heard.query
    assert BODY == heard.body


async def test_challenge_is_answered_as_the_plugin_says(client: Client, door: Door) -> None:
    await door.connect("standard", secret=SECRET)
    answer = await client.get(door.paths["standard"] + "?challenge=abc-123")
    assert (200, "abc-123", "text/plain") == (answer.status, await answer.text(), answer.content_type)
    assert 404 == (await client.get("/webhooks/standard/unknown?challenge=abc")).status
    await until(lambda: equal(door.counts(), {"handshake": 1}))
    assert [] == await door.rows()


async def test_deliveries_of_an_integration_that_is_not_enabled_are_ignored_and_counted(
    client: Client, door: Door
) -> None:
    await door.connect("standard", secret=SECRET)
    await door.service.integrations.disable("hlf", "standard")
    assert (202, {"outcome": "ignored"}) == await deliver(client, door.paths["standard"], **sign(BODY))
    assert 401 == (await deliver(client, door.paths["standard"]))[0]
    await until(lambda: equal(door.counts(), {"ignored": 1, "refused:missing": 1}))
    assert [] == await door.rows()


# ── plugins that misbehave ───────────────────────────────────────────────────


@pytest.mark.parametrize("deed", ["break", "raise", "call"])
async def test_what_the_plugin_breaks_is_to_be_sent_again(client: Client, door: Door, deed: str) -> None:
    await door.connect("unproved")
    with capture_logs() as lines:
        answer = await client.post(door.paths["unproved"], data=json.dumps({"do": deed}))
    assert (503, "not_ready") == (answer.status, (await answer.json())["code"])
    assert int(answer.headers["Retry-After"]) > 0
    assert "a member's name" not in repr(lines)
    await until(lambda: equal(door.counts("unproved"), {"refused:unavailable": 1}))
    assert [] == await door.rows()


async def test_secret_that_a_plugin_writes_down_is_masked(client: Client, door: Door) -> None:
    await door.connect("keyed", secret=PLAIN_SECRET)
    with capture_logs() as lines:
        assert 202 == (await deliver(client, door.paths["keyed"], b'{"do": "log"}', **{"x-api-key": PLAIN_SECRET}))[0]
    assert ["signed with ***"] == [line["note"] for line in lines if line["event"] == "told"]


async def test_delivery_that_a_plugin_hangs_on_holds_nobody_else_up(client: Client, door: Door) -> None:
    await door.connect("unproved")
    await door.connect("keyed", secret=PLAIN_SECRET)
    hanging = asyncio.create_task(deliver(client, door.paths["unproved"], b'{"do": "hang"}'))
    await asyncio.sleep(0.2)
    assert 202 == (await deliver(client, door.paths["unproved"]))[0]
    assert 202 == (await deliver(client, door.paths["keyed"], **{"x-api-key": PLAIN_SECRET}))[0]
    assert not hanging.done()
    assert 503 == (await hanging)[0]


async def test_delivery_that_cannot_be_stored_takes_no_other_down(client: Client, door: Door) -> None:
    await door.connect("unproved")
    poison = b'{"changed": {"things": ["poison"]}}'
    async with door.store.database.write() as conn:
        if door.store.database.is_sqlite:
            refuse = "BEGIN SELECT RAISE(ABORT, 'poison'); END"
            await conn.execute(
                sa.text(f"CREATE TRIGGER poison BEFORE INSERT ON inbox WHEN NEW.size = {len(poison)} {refuse}")
            )
        else:
            await conn.execute(sa.text(f"ALTER TABLE inbox ADD CONSTRAINT poison CHECK (size <> {len(poison)})"))
    answers = await asyncio.gather(
        deliver(client, door.paths["unproved"], poison),
        *(deliver(client, door.paths["unproved"], b'{"changed": {"things": ["%d"]}}' % n) for n in range(5)),
        deliver(client, door.paths["unproved"], poison),
    )
    assert [503, *[202] * 5, 503] == [status for status, _ in answers]
    assert 5 == len(await door.rows())
    assert {"accepted": 5} == await door.counts("unproved")


async def test_integration_that_is_removed_meanwhile_is_no_longer_there(client: Client, door: Door) -> None:
    doomed = await door.connect("unproved", org="nbf")
    await door.connect("unproved")
    loop = asyncio.get_running_loop()

    async def remove() -> None:
        async with door.store.database.write() as conn:
            await conn.execute(sa.text("DELETE FROM integration WHERE id = :i"), {"i": doomed.id})

    door.plugins["unproved"].meanwhile = lambda: asyncio.run_coroutine_threadsafe(remove(), loop).result(20)
    answers = await asyncio.gather(
        deliver(client, door.paths["nbf/unproved"], b'{"do": "meanwhile", "changed": {"things": []}}'),
        *(deliver(client, door.paths["unproved"], b'{"changed": {"things": ["%d"]}}' % n) for n in range(5)),
    )
    assert [404, *[202] * 5] == [status for status, _ in answers]
    assert 5 == len(await door.rows())


# ── from deliveries to runs ──────────────────────────────────────────────────


async def test_deliveries_wait_for_a_run_that_goes_on_and_the_next_one_takes_them_all(
    client: Client, door: Door
) -> None:
    await door.connect("standard", secret=SECRET)
    path = door.paths["standard"]
    await deliver(client, path, **sign(BODY, id="first"))
    await until(lambda: truth(door.bell.rung))
    for n in range(20):
        body = json.dumps({"changed": {"people" if n % 2 else "things": [f"k{n}"]}}).encode()
        assert 202 == (await deliver(client, path, body, **sign(body, id=f"m{n}")))[0]
    handing_over = HandingOver(store=door.store, registry=door.registry, bell=door.bell)
    await handing_over.round()
    assert ["processed"] + ["received"] * 20 == [row.state for row in await door.rows()]
    assert 20 == (await door.service.webhooks.get("hlf", "standard")).waiting
    await door.end_runs()
    await handing_over.round()
    first, second = await door.runs()
    assert (["things"], ["people", "things"]) == (first.streams, second.streams)
    assert [first.id, *[second.id] * 20] == [row.run_id for row in await door.rows()]
    assert [first.id, second.id] == door.bell.rung


async def test_several_processes_order_one_run_between_them(client: Client, door: Door) -> None:
    integration = await door.connect("standard", secret=SECRET)
    async with door.store.database.write() as conn:  # so that deliveries wait
        await door.store.runs.order_in(
            conn, organization_id="hlf", integration_id=integration.id, plugin="standard", plugin_version="1",
            operation="sync", streams=["things"], full=False, reason="test", requested_by="test",
        )  # fmt: skip
    for n in range(10):
        await deliver(client, door.paths["standard"], **sign(BODY, id=f"m{n}"))
    await door.end_runs()
    others = [HandingOver(store=door.store, registry=door.registry, bell=door.bell) for _ in range(6)]
    ordered = await asyncio.gather(*(other.order(integration.id) for other in others))
    (run,) = [id for id in ordered if id is not None]
    assert 2 == len(await door.runs())
    assert {("processed", run)} == {(row.state, row.run_id) for row in await door.rows()}


async def test_delivery_that_names_nothing_to_read_is_done_with_at_once(client: Client, door: Door) -> None:
    await door.connect("standard", secret=SECRET)
    assert 202 == (await deliver(client, door.paths["standard"], b"{}", **sign(b"{}")))[0]
    (row,) = await door.rows()
    assert ("processed", None) == (row.state, row.run_id)
    await HandingOver(store=door.store, registry=door.registry, bell=door.bell).round()
    assert [] == await door.runs()


async def test_what_waits_when_an_integration_is_switched_off_is_read_when_it_is_on_again(
    client: Client, door: Door
) -> None:
    integration = await door.connect("standard", secret=SECRET)
    async with door.store.database.write() as conn:
        await door.store.runs.order_in(
            conn, organization_id="hlf", integration_id=integration.id, plugin="standard", plugin_version="1",
            operation="sync", streams=["things"], full=False, reason="test", requested_by="test",
        )  # fmt: skip
    await deliver(client, door.paths["standard"], **sign(BODY))
    await door.service.integrations.disable("hlf", "standard")
    await door.end_runs()
    handing_over = HandingOver(store=door.store, registry=door.registry, bell=door.bell)
    await handing_over.round()
    assert 1 == len(await door.runs())
    await door.store.catalog.change_integration(integration, state="enabled")
    await handing_over.round()
    assert 2 == len(await door.runs())


# ── how much may come in ─────────────────────────────────────────────────────


async def test_room_is_bounded_for_one_address_and_for_all(door: Door) -> None:
    service = Service(
        store=door.store, registry=door.registry, bell=door.bell,
        receiving=ReceivingLimits(max_waiting=4, max_waiting_bytes=100),
    )  # fmt: skip
    room = service.webhooks.room_for

    def refusal(key: str, size: int) -> tuple[str, int]:
        with pytest.raises(NotReadyError) as caught, room(key, size):
            pass
        return caught.value.code, caught.value.retry_after_s

    with room("a", 10), room("a", 10):
        assert "too_many_deliveries" == refusal("a", 10)[0]
        with room("b", 70):
            assert "deliveries_waiting" == refusal("c", 11)[0]
            with room("c", 10):
                assert "deliveries_waiting" == refusal("d", 0)[0]
    with room("a", 100):
        pass


async def test_python_callers_use_the_same_door(door: Door) -> None:
    await door.connect("standard", secret=SECRET)
    source = door.paths["standard"].removeprefix("/webhooks/")
    headers = {name.title(): value for name, value in sign(BODY).items()}
    outcomes = [(await door.service.process_webhook_event(source, BODY, headers=headers)).outcome for _ in range(2)]
    assert ["accepted", "repeated"] == outcomes


async def test_stranger_gets_no_room_and_is_answered_before_anything_is_read(client: Client) -> None:
    server = client.server
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        head = f"POST /webhooks/x/nobody HTTP/1.1\r\nHost: {server.host}\r\nContent-Length: 1000\r\n\r\n"
        writer.write(head.encode())
        async with asyncio.timeout(10):
            assert b"404" in await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()
