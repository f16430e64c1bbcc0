"""Addresses and secrets: made, shown to whom, replaced with and without a gap, tested, taken away; and replays."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from samband.receiving import HandingOver
from samband.service import Service

from .hooked import BODY, PLAIN_SECRET, SECRET, Client, Door, deliver, sign, until

BASE = "/v1/organizations/hlf/integrations"
OTHER = "whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXI="


async def ask(client: Client, method: str, path: str, expected: int = 200, **options: Any) -> Any:
    answer = await client.request(method, f"{BASE}/{path}", **options)
    told = await answer.json()
    assert expected == answer.status, told
    return told


async def add(door: Door, *types: str) -> None:
    await door.service.organizations.create("hlf", "hlf")
    for type in types:
        pending = door.store.catalog.pending({}, {})
        integration = await door.store.catalog.add_integration("hlf", type, type, {}, pending)
        await door.store.catalog.change_integration(integration, state="enabled")


async def deeds(door: Door) -> list[str]:
    async with door.store.database.read() as conn:
        rows = await conn.scalars(sa.text("SELECT action FROM audit_entry WHERE organization_id = 'hlf' ORDER BY seq"))
        return [deed for deed in rows if deed.startswith(("webhook", "deliveries"))]


async def test_address_is_made_with_a_secret_that_is_shown_once(client: Client, door: Door) -> None:
    await add(door, "standard")
    assert "webhook_not_found" == (await ask(client, "GET", "standard/webhook", 404))["code"]
    made = await ask(client, "PUT", "standard/webhook")
    assert made["secret"].startswith("whsec_")
    assert made["secret"][-4:] == made["secret_hint"]
    assert ("standard-webhooks", 1) == (made["proof"], made["revision"])
    shown = await ask(client, "GET", "standard/webhook")
    assert None is shown["secret"]
    assert made["address"] == shown["address"]
    assert made["secret"] not in repr(shown)
    key = shown["address"].removeprefix("/webhooks/standard/")
    assert 43 == len(key)  # 256 bits
    assert "SAMBAND_PUBLIC_URL" in shown["hint"]
    assert 202 == (await deliver(client, shown["address"], **sign(BODY, secret=made["secret"])))[0]
    # Asked for again nothing changes that was not asked for.
    again = await ask(client, "PUT", "standard/webhook", json={})
    assert (shown["address"], shown["secret_hint"], None) == (again["address"], again["secret_hint"], again["secret"])
    assert ["webhook.created", "webhook.changed"] == await deeds(door)


async def test_public_url_stands_in_front_and_readers_do_not_see_the_address(client: Client, door: Door) -> None:
    await add(door, "standard")
    await ask(client, "PUT", "standard/webhook")
    service = Service(
        store=door.store, registry=door.registry, bell=door.bell, public_url="https://samband.example.org/in"
    )
    view = await service.webhooks.get("hlf", "standard")
    assert view.address is not None
    assert view.address.startswith("https://samband.example.org/in/webhooks/standard/")
    assert "" == view.hint
    reader = await door.service.create_key("reader", verbs=["read"], organizations=None)
    answer = await client.get(f"{BASE}/standard/webhook", headers={"Authorization": f"Bearer {reader}"})
    assert (200, None) == (answer.status, (await answer.json())["address"])


async def test_plugin_without_webhooks_or_proof_says_so(client: Client, door: Door) -> None:
    await add(door, "unproved")
    made = await ask(client, "PUT", "unproved/webhook")
    assert ("none", None, "") == (made["proof"], made["secret"], made["secret_hint"])
    refused = await ask(client, "PUT", "unproved/webhook", 422, json={"secret": PLAIN_SECRET})
    assert ["secret"] == [e["field"] for e in refused["errors"]]
    await ask(client, "POST", "unproved/webhook/secret", 422)
    assert "webhook_untestable" == (await ask(client, "POST", "unproved/webhook/test", 409))["code"]
    assert "integration_not_found" == (await ask(client, "PUT", "keyed/webhook", 404))["code"]


@pytest.mark.parametrize("secret", ["short", "æøå-æøå-æøå-æøå-æøå", " " * 30, "whsec_AAAA", ""])
async def test_secret_that_cannot_be_one_is_refused_and_not_repeated(client: Client, door: Door, secret: str) -> None:
    await add(door, "standard", "keyed")
    for type in ("standard", "keyed") if not secret.startswith("whsec") else ("standard",):
        told = await ask(client, "PUT", f"{type}/webhook", 422, json={"secret": secret})
        assert ["secret"] == [e["field"] for e in told["errors"]]
        assert len(secret) < 5 or secret.strip() == "" or secret not in repr(told)
        await ask(client, "GET", f"{type}/webhook", 404)


async def test_new_secret_works_at_once_and_the_old_one_is_refused_and_recognised(client: Client, door: Door) -> None:
    await add(door, "standard")
    path = (await ask(client, "PUT", "standard/webhook", json={"secret": SECRET}))["address"]
    assert 202 == (await deliver(client, path, **sign(BODY, id="a")))[0]
    changed = await ask(client, "POST", "standard/webhook/secret", json={"secret": OTHER})
    assert (OTHER[-4:], None, None) == (changed["secret_hint"], changed["secret"], changed["older_secret_until"])
    assert 202 == (await deliver(client, path, **sign(BODY, id="b", secret=OTHER)))[0]
    with capture_logs() as lines:
        assert 401 == (await deliver(client, path, **sign(BODY, id="c")))[0]
    assert ["retired_secret"] == [line["reason"] for line in lines if line["event"] == "webhook_refused"]
    stranger = "whsec_c3RyYW5nZXItc3RyYW5nZXItc3RyYW5nZXI="
    assert 401 == (await deliver(client, path, **sign(BODY, id="d", secret=stranger)))[0]

    async def refused() -> bool:
        shown = await ask(client, "GET", "standard/webhook")
        return bool(shown["refused"] == {"retired_secret": 1, "wrong": 1})

    await until(refused)
    assert ["webhook.created", "webhook.secret_replaced"] == await deeds(door)


async def test_secret_changes_without_a_gap_when_an_overlap_is_asked_for(client: Client, door: Door) -> None:
    await add(door, "standard")
    path = (await ask(client, "PUT", "standard/webhook", json={"secret": SECRET}))["address"]
    changed = await ask(client, "POST", "standard/webhook/secret", json={"secret": OTHER, "overlap_s": 600})
    assert None is not changed["older_secret_until"]
    with capture_logs() as lines:
        for n, secret in enumerate((SECRET, OTHER) * 3):
            assert 202 == (await deliver(client, path, **sign(BODY, id=f"m{n}", secret=secret)))[0]
    assert 3 == sum(line["event"] == "webhook_old_secret_used" for line in lines)
    assert ["old_secret", ""] * 3 == [row.reason for row in await door.rows()]

    async def noted() -> bool:
        return bool((await ask(client, "GET", "standard/webhook"))["old_secret_used"] == 3)

    await until(noted)
    # A change without an overlap ends the one before it too.
    third = (await ask(client, "POST", "standard/webhook/secret"))["secret"]
    for secret, status in ((SECRET, 401), (OTHER, 401), (third, 202)):
        assert status == (await deliver(client, path, **sign(BODY, id=f"x{status}{secret}", secret=secret)))[0]


async def test_overlap_ends_when_it_was_said_to(client: Client, door: Door) -> None:
    await add(door, "standard")
    path = (await ask(client, "PUT", "standard/webhook", json={"secret": SECRET}))["address"]
    changed = await ask(client, "POST", "standard/webhook/secret", json={"secret": OTHER, "overlap_s": 1})
    ends = dt.datetime.fromisoformat(changed["older_secret_until"])
    while dt.datetime.now(dt.UTC) <= ends:
        await asyncio.sleep(0.05)
    assert 401 == (await deliver(client, path, **sign(BODY)))[0]
    for overlap in (-1, 604_801, 1.5):
        await ask(client, "POST", "standard/webhook/secret", 422, json={"overlap_s": overlap})


async def test_change_is_seen_at_once_by_a_process_that_remembers_the_old_state(client: Client, door: Door) -> None:
    await add(door, "standard")
    path = (await ask(client, "PUT", "standard/webhook", json={"secret": SECRET}))["address"]
    assert 202 == (await deliver(client, path, **sign(BODY, id="a")))[0]  # now it remembers
    other = Service(store=door.store, registry=door.registry, bell=door.bell)
    await other.webhooks.replace_secret("hlf", "standard", secret=OTHER)
    assert 401 == (await deliver(client, path, **sign(BODY, id="b")))[0]
    assert 202 == (await deliver(client, path, **sign(BODY, id="c", secret=OTHER)))[0]
    await other.integrations.disable("hlf", "standard")
    assert "ignored" == (await deliver(client, path, **sign(BODY, id="d", secret=OTHER)))[1]["outcome"]
    integration = await door.store.catalog.integration("hlf", "standard")
    await door.store.catalog.change_integration(integration, state="enabled")
    assert "accepted" == (await deliver(client, path, **sign(BODY, id="d", secret=OTHER)))[1]["outcome"]
    view = await other.webhooks.put("hlf", "standard", new_address=True)
    assert 404 == (await deliver(client, path, **sign(BODY, id="e", secret=OTHER)))[0]
    assert 202 == (await deliver(client, view.address or "", **sign(BODY, id="e", secret=OTHER)))[0]
    await other.webhooks.remove("hlf", "standard")
    assert 404 == (await deliver(client, view.address or "", **sign(BODY, id="f", secret=OTHER)))[0]


async def test_deliveries_in_flight_while_the_secret_changes_are_all_stored_or_refused(
    client: Client, door: Door
) -> None:
    await add(door, "standard")
    path = (await ask(client, "PUT", "standard/webhook", json={"secret": SECRET}))["address"]
    sent = [asyncio.create_task(deliver(client, path, **sign(BODY, id=f"m{n}"))) for n in range(60)]
    await door.service.webhooks.replace_secret("hlf", "standard", secret=OTHER)
    statuses = [status for status, _ in await asyncio.gather(*sent)]
    assert {202, 401} >= set(statuses)
    assert statuses.count(202) == len(await door.rows())


async def test_address_that_comes_back_knows_what_came_before(client: Client, door: Door) -> None:
    await add(door, "standard")
    first = await ask(client, "PUT", "standard/webhook", json={"secret": SECRET})
    await deliver(client, first["address"], **sign(BODY))
    gone = await ask(client, "DELETE", "standard/webhook")
    assert None is gone["address"]
    assert 404 == (await deliver(client, first["address"], **sign(BODY)))[0]
    await ask(client, "DELETE", "standard/webhook", 404)
    await ask(client, "POST", "standard/webhook/secret", 404)
    await ask(client, "POST", "standard/webhook/test", 404)
    second = await ask(client, "PUT", "standard/webhook", json={"secret": SECRET})
    assert first["address"] != second["address"]
    assert (200, {"outcome": "repeated"}) == await deliver(client, second["address"], **sign(BODY))
    assert ["webhook.created", "webhook.removed", "webhook.created"] == await deeds(door)


async def test_edits_can_be_bound_to_what_was_read(client: Client, door: Door) -> None:
    await add(door, "standard")
    answer = await client.put(f"{BASE}/standard/webhook")
    old = {"If-Match": answer.headers["ETag"]}
    await ask(client, "PUT", "standard/webhook", json={"new_address": True}, headers=old)
    for method in ("PUT", "DELETE"):
        assert "revision_mismatch" == (await ask(client, method, "standard/webhook", 412, headers=old))["code"]


async def test_two_who_make_the_address_at_once_make_one(client: Client, door: Door) -> None:
    await add(door, "standard")
    answers = await asyncio.gather(*(client.put(f"{BASE}/standard/webhook") for _ in range(8)))
    assert {200, 412} >= {answer.status for answer in answers}
    assert 1 <= sum(answer.status == 200 for answer in answers)
    made = [await answer.json() for answer in answers if answer.status == 200]
    assert 1 == len({told["address"] for told in made})


@pytest.mark.parametrize("type", ["standard", "signed", "keyed", "queried"])
async def test_sample_goes_through_the_verification_and_is_not_stored(client: Client, door: Door, type: str) -> None:
    await add(door, type)
    await ask(client, "PUT", f"{type}/webhook")
    tested = await ask(client, "POST", f"{type}/webhook/test")
    assert (True, None) == (tested["ok"], tested["reason"])
    assert [b'{"samband":"test"}'] == [heard.body for heard in door.plugins[type].heard]
    assert [] == await door.rows()


# ── what came, and replays ───────────────────────────────────────────────────


async def test_listing_shows_everything_but_what_was_sent(client: Client, door: Door) -> None:
    await add(door, "standard")
    path = (await ask(client, "PUT", "standard/webhook", json={"secret": SECRET}))["address"]
    for n in range(5):
        body = b'{"changed": {"things": ["t%d"]}, "note": "canary-in-the-body"}' % n
        await deliver(client, path, body, **sign(body, id=f"canary-id-{n}"))
    listed: list[Any] = []
    after = ""
    while after is not None:
        page = await ask(client, "GET", f"standard/webhook/deliveries?limit=2{after}")
        listed += page["items"]
        after = f"&after={page['next']}" if page["next"] else None
    assert [["t4"], ["t3"], ["t2"], ["t1"], ["t0"]] == [item["triggers"][0]["keys"] for item in listed]
    assert {True} == {item["has_content"] for item in listed}
    assert "canary" not in repr(listed)
    shown = await ask(client, "GET", "standard/webhook")
    assert 5 == shown["counts"]["accepted"]
    assert listed[0]["received_at"] == shown["last_received_at"]
    assert [] == (await ask(client, "GET", "standard/webhook/deliveries?state=failed"))["items"]


async def test_chosen_deliveries_are_replayed_and_marked(client: Client, door: Door) -> None:
    await add(door, "standard")
    path = (await ask(client, "PUT", "standard/webhook", json={"secret": SECRET}))["address"]
    bodies = [b'{"changed": {"things": ["t1"]}}', b'{"changed": {"people": ["p1"]}}']
    for n, body in enumerate(bodies):
        await deliver(client, path, body, **sign(body, id=f"m{n}"))
    handing_over = HandingOver(store=door.store, registry=door.registry, bell=door.bell)
    await until(lambda: _rung(door, 1))
    await door.end_runs()
    await handing_over.round()  # if the second was not in the first run
    await door.end_runs()
    second = (await door.rows())[-1]
    so_far = len(door.bell.rung)
    made = await ask(client, "POST", "standard/webhook/deliveries/replay", 202, json={"ids": [second.id]})
    assert (1, made["first"]) == (made["count"], made["last"])
    await until(lambda: _rung(door, so_far + 1))
    rows = await door.rows()
    assert ("processed", "replayed", second.id) == (rows[-1].state, rows[-1].reason, rows[-1].replay_of)
    assert rows[-1].replayed_by.startswith("key:")
    assert ["people"] == (await door.runs())[-1].streams
    # By what became of them: the runs of all three have failed now.
    async with door.store.database.write() as conn:
        await conn.execute(sa.text("UPDATE run SET state = 'failed'"))
    asked = {"state": "failed", "since": "2000-01-01T00:00:00+01:00"}
    made = await ask(client, "POST", "standard/webhook/deliveries/replay", 202, json=asked)
    assert 3 == made["count"]
    assert ["deliveries.replayed"] * 2 == (await deeds(door))[-2:]
    listed = await ask(client, "GET", "standard/webhook/deliveries?limit=1")
    assert ("replayed", False) == (listed["items"][0]["note"], listed["items"][0]["has_content"])


async def _rung(door: Door, times: int) -> bool:
    return len(door.bell.rung) >= times


async def test_replay_of_what_is_not_theirs_is_refused_whole(client: Client, door: Door) -> None:
    await door.connect("standard", org="nbf", secret=SECRET)
    await deliver(client, door.paths["nbf/standard"], **sign(BODY))
    (foreign,) = await door.rows()
    await add(door, "standard")
    path = (await ask(client, "PUT", "standard/webhook", json={"secret": SECRET}))["address"]
    await deliver(client, path, **sign(BODY))
    mine = (await door.rows())[-1]
    replay = "standard/webhook/deliveries/replay"
    told = await ask(client, "POST", replay, 422, json={"ids": [mine.id, foreign.id]})
    assert [("ids", "unknown_delivery")] == [(e["field"], e["code"]) for e in told["errors"]]
    for nothing in ({}, {"ids": []}, {"state": "lost"}, {"since": "2026-01-01T00:00:00"}, {"ids": [0]}):
        await ask(client, "POST", replay, 422, json=nothing)
    assert 2 == len(await door.rows())


async def test_what_deliveries_held_is_emptied_and_their_ids_stay(client: Client, door: Door) -> None:
    await add(door, "standard")
    path = (await ask(client, "PUT", "standard/webhook", json={"secret": SECRET}))["address"]
    for n in range(5):
        await deliver(client, path, **sign(BODY, id=f"m{n}"))
    now = dt.datetime.now(dt.UTC)
    for days, left in ((29, 5), (31, 0)):
        later = HandingOver(
            store=door.store, registry=door.registry, bell=door.bell, keep_days=30,
            now=lambda days=days: now + dt.timedelta(days=days),
        )  # fmt: skip
        await later.sweep()
        assert left == sum(row.content is not None for row in await door.rows())
    assert (200, {"outcome": "repeated"}) == await deliver(client, path, **sign(BODY, id="m0"))
    (item, *_) = (await ask(client, "GET", "standard/webhook/deliveries"))["items"]
    assert False is item["has_content"]
    assert 64 == len(item["digest"])


async def test_sweep_goes_through_more_than_one_part(client: Client, door: Door) -> None:
    await add(door, "standard")
    path = (await ask(client, "PUT", "standard/webhook", json={"secret": SECRET}))["address"]
    for n in range(7):
        await deliver(client, path, **sign(BODY, id=f"m{n}"))
    later, behind, rounds = dt.datetime.now(dt.UTC) + dt.timedelta(days=1), 0, 0
    while (following := await door.store.inbox.sweep(later, behind=behind, limit=3)) is not None:
        behind, rounds = following, rounds + 1
    assert 2 == rounds
    assert {None} == {row.content for row in await door.rows()}


async def test_figures_say_when_somebody_should_look(client: Client, door: Door) -> None:
    integration = await door.connect("keyed", secret=PLAIN_SECRET)
    now = dt.datetime.now(dt.UTC)
    for n in range(10):
        await deliver(client, door.paths["keyed"], b'{"id": "d%d", "changed": {}}' % n, **{"x-api-key": PLAIN_SECRET})

    async def judged(at: dt.datetime) -> dict[str, bool]:
        return (await door.store.inbox.judged("hlf", at))[integration.id]

    assert {"is_rejecting": False, "is_silent": False} == await judged(now)
    for _ in range(2):
        await deliver(client, door.paths["keyed"], **{"x-api-key": "wrong-wrong-wrong-wrong"})

    async def rejecting() -> bool:
        return (await judged(dt.datetime.now(dt.UTC)))["is_rejecting"]

    await until(rejecting)
    assert {"is_rejecting": False, "is_silent": True} == await judged(now + dt.timedelta(hours=25))
    assert {} == await door.store.inbox.judged("nbf", now)


async def test_secret_is_replaced_only_on_the_revision_that_was_seen(client: Client, door: Door) -> None:
    await add(door, "standard")
    seen = await ask(client, "PUT", "standard/webhook")
    assert seen["created_at"] == (await ask(client, "GET", "standard/webhook"))["created_at"]
    newest = await ask(client, "PUT", "standard/webhook", json={"new_address": True})
    stale = {"If-Match": f'"{seen["revision"]}"'}
    assert "revision_mismatch" == (await ask(client, "POST", "standard/webhook/secret", 412, headers=stale))["code"]
    assert newest["secret_hint"] == (await ask(client, "GET", "standard/webhook"))["secret_hint"]
    fresh = {"If-Match": f'"{newest["revision"]}"'}
    replaced = await ask(client, "POST", "standard/webhook/secret", headers=fresh)
    assert newest["secret_hint"] != replaced["secret_hint"]
