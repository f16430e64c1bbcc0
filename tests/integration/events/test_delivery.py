"""Events reach their subscribers at least once, in order per subject, signed, and nobody is slowed by another."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
import sqlalchemy as sa
from aiohttp import web
from standardwebhooks import Webhook

from samband.events import MAX_ATTEMPTS, Dispatcher
from samband.http import Outbound
from samband.http.egress import EgressPolicy
from samband.http.posting import Posted
from samband.redaction import Redactor
from samband.service import Service
from samband.store import Store, Vault

from .conftest import (
    Clock,
    NewReceiver,
    Received,
    Receiver,
    all_done,
    deliveries,
    failing,
    happen,
    new_dispatcher,
    subscribed,
    until,
)

HANG_S = 30.0


async def test_event_arrives_signed_in_a_cloudevents_envelope(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    made = await subscribed(service, receiver)
    await happen(store, "run/1", "run/2")
    await all_done(dispatcher)
    first, second = receiver.received
    for received in (first, second):
        assert received.event == Webhook(made.secret).verify(received.body, received.headers)
        assert received.headers["webhook-id"] == received.event["id"]
        assert "application/cloudevents+json" == received.headers["content-type"]
    event = first.event
    assert ("1.0", "/organizations/hlf", "hlf", "run/1", "no.samband.run.succeeded.v1") == (
        event["specversion"], event["source"], event["organization"], event["subject"], event["type"],
    )  # fmt: skip
    assert {"run": "run/1", "state": "succeeded", "operation": "sync"} == event["data"]
    assert [1, 2] == receiver.seqs
    assert event["time"].endswith("Z")
    assert "dataschema" not in event  # there is no absolute address without public_url


async def test_feed_holds_the_same_event_that_was_sent(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    await subscribed(service, receiver)
    await happen(store, "run/1")
    await all_done(dispatcher)
    (item,) = (await service.events.after("hlf")).items
    assert item.document() == receiver.received[0].body


async def test_repeat_has_the_same_id_and_bytes_and_a_new_time_and_signature(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    made = await subscribed(service, receiver)
    await happen(store, "run/1")
    receiver.answer = failing(500)
    await all_done(dispatcher)
    clock.move(seconds=5)
    receiver.answer = lambda received: 204
    await all_done(dispatcher)
    first, second = receiver.received
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    assert int(first.headers["webhook-timestamp"]) + 5 == int(second.headers["webhook-timestamp"])
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    assert ("1", "2") == (first.headers["samband-attempt"], second.headers["samband-attempt"])
    (delivery,) = await deliveries(service, made.id)
    assert ("delivered", [500, 204]) == (delivery.state, [attempt.status for attempt in delivery.attempts])


async def test_events_of_one_subject_keep_their_order_while_the_receiver_flaps(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    await subscribed(service, receiver)
    taken: list[int] = []

    def every_third(received: Received) -> int:
        if len(receiver.received) % 3:
            return 503
        taken.append(received.seq)
        return 200

    receiver.answer = every_third
    wanted = await happen(store, *["run/1"] * 10)
    for _ in range(60):
        await all_done(dispatcher)
        clock.move(hours=12)
    assert wanted == taken


async def test_other_subjects_go_on_while_one_is_refused(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    made = await subscribed(service, receiver)
    receiver.answer = lambda received: 500 if received.event["subject"] == "run/bad" else 200
    await happen(store, "run/bad", "run/good", "run/bad", "run/good")
    await all_done(dispatcher)
    assert [2, 4] == sorted(seq for seq in receiver.seqs if seq % 2 == 0)
    assert 3 not in receiver.seqs
    states = {delivery.sequence: delivery.state for delivery in await deliveries(service, made.id)}
    assert {1: "pending", 2: "delivered", 3: "pending", 4: "delivered"} == states


async def test_dead_receiver_does_not_slow_a_healthy_one(
    store: Store, service: Service, new_receiver: NewReceiver, outbound: Outbound, clock: Clock
) -> None:
    dead, healthy = await new_receiver(), await new_receiver()
    is_over = asyncio.Event()

    async def hang(received: Received) -> web.Response:
        await is_over.wait()
        return web.Response()

    dead.answer = hang
    await subscribed(service, dead)
    await subscribed(service, healthy)
    working = asyncio.create_task(new_dispatcher(store, outbound, clock, timeout_s=HANG_S * 10, at_once=8).run())
    try:
        for batch in range(5):
            await happen(store, *(f"run/{batch}-{n}" for n in range(10)))
            await until(lambda batch=batch: len(healthy.received) == 10 * (batch + 1))  # type: ignore[misc]
        assert 1 == len(dead.received)  # still without an answer
        assert list(range(1, 51)) == sorted(healthy.seqs)
    finally:
        is_over.set()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_event_comes_without_anybody_asking(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    dispatcher.now = lambda: dt.datetime.now(dt.UTC)
    await subscribed(service, receiver)
    working = asyncio.create_task(dispatcher.run())
    try:
        await happen(store, *["run/1"] * 5)
        await until(lambda: receiver.seqs == [1, 2, 3, 4, 5])
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_two_dispatchers_send_each_event_once(
    store: Store,
    service: Service,
    receiver: Receiver,
    database_url: str,
    vault: Vault,
    outbound: Outbound,
    clock: Clock,
) -> None:
    await subscribed(service, receiver)
    other = Store.open(database_url, vault=vault)
    try:
        both = [new_dispatcher(store, outbound, clock), new_dispatcher(other, outbound, clock)]
        await happen(store, *(f"run/{n % 7}" for n in range(70)))
        for _ in range(100):
            if not any(await asyncio.gather(*(dispatcher.deliver_due() for dispatcher in both))):
                break
    finally:
        await other.close()
    assert list(range(1, 71)) == sorted(receiver.seqs)
    for subject in range(7):
        of_subject = [seq for seq in receiver.seqs if (seq - 1) % 7 == subject]
        assert sorted(of_subject) == of_subject


async def test_delivery_of_a_process_that_was_cut_off_comes_again(
    store: Store, service: Service, receiver: Receiver, outbound: Outbound, clock: Clock
) -> None:
    made = await subscribed(service, receiver)
    arrived = asyncio.Event()

    async def hang(received: Received) -> web.Response:
        arrived.set()
        await asyncio.sleep(HANG_S)
        return web.Response()

    receiver.answer = hang
    await happen(store, "run/1", "run/1")
    cut_off = asyncio.create_task(new_dispatcher(store, outbound, clock, lease_s=0.0).deliver_due())
    await arrived.wait()
    cut_off.cancel()
    await asyncio.gather(cut_off, return_exceptions=True)
    receiver.answer = lambda received: 200
    await all_done(new_dispatcher(store, outbound, clock))
    assert [1, 1, 2] == receiver.seqs
    assert receiver.received[0].body == receiver.received[1].body
    first, _ = await deliveries(service, made.id)
    assert [(1, None, ""), (2, 200, "")] == [(a.number, a.status, a.error) for a in first.attempts]


async def test_delivery_under_another_lease_is_left_alone(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    made = await subscribed(service, receiver)
    await happen(store, "run/1", "run/1")
    await store.fan_out.advance(clock())
    taken = await store.deliveries.claim({made.id: 4}, clock(), lease_s=30)
    assert [1] == [delivery.event.seq for delivery in taken]
    await all_done(dispatcher)
    assert [] == receiver.received


async def test_latecomer_cannot_put_off_what_another_attempt_has_settled(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    made = await subscribed(service, receiver)
    await happen(store, "run/1")
    await store.fan_out.advance(clock())
    (stale,) = await store.deliveries.claim({made.id: 1}, clock(), lease_s=0)
    await asyncio.sleep(0.01)
    await all_done(dispatcher)
    failure = dispatcher._failure(stale, _refused(), clock())
    assert await store.deliveries.note_failure(stale, clock(), failure, status=500, duration_ms=1) is None
    (delivery,) = await deliveries(service, made.id)
    assert "delivered" == delivery.state


def _refused() -> Posted:
    return Posted(status=500, duration_ms=1, error="status_refused")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_is_a_failure_and_is_not_followed(
    store: Store, service: Service, new_receiver: NewReceiver, dispatcher: Dispatcher, status: int
) -> None:
    receiver, elsewhere = await new_receiver(), await new_receiver()
    receiver.answer = failing(status, Location=elsewhere.url)
    made = await subscribed(service, receiver)
    await happen(store, "run/1")
    await all_done(dispatcher)
    assert [] == elsewhere.received
    (delivery,) = await deliveries(service, made.id)
    assert ("pending", status, "redirect_refused") == (delivery.state, delivery.status, delivery.error)


async def test_slow_receiver_is_given_up_and_tried_again_later(
    store: Store, service: Service, receiver: Receiver, outbound: Outbound, clock: Clock
) -> None:
    async def hang(received: Received) -> web.Response:
        await asyncio.sleep(HANG_S)
        return web.Response()

    receiver.answer = hang
    made = await subscribed(service, receiver)
    await happen(store, "run/1")
    await all_done(new_dispatcher(store, outbound, clock, timeout_s=0.2))
    (delivery,) = await deliveries(service, made.id)
    assert ("pending", None, "timed_out") == (delivery.state, delivery.status, delivery.error)
    assert clock() + dt.timedelta(seconds=4) == delivery.next_attempt_at


async def test_endless_answer_is_hung_up_on_and_its_status_counts(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    hung_up = asyncio.Event()

    class Endless(web.StreamResponse):
        async def write_eof(self, data: bytes = b"") -> None:
            try:
                while True:
                    await self.write(b"x" * 65_536)
            except (ConnectionError, asyncio.CancelledError):
                hung_up.set()

    async def pour(received: Received) -> web.StreamResponse:
        return Endless()

    receiver.answer = pour
    made = await subscribed(service, receiver)
    await happen(store, "run/1")
    await all_done(dispatcher)
    async with asyncio.timeout(HANG_S):
        await hung_up.wait()
    (delivery,) = await deliveries(service, made.id)
    assert ("delivered", 200) == (delivery.state, delivery.status)


async def test_nobody_listens_there(store: Store, service: Service, dispatcher: Dispatcher) -> None:
    made = await service.subscriptions.create("hlf", url="http://127.0.0.1:9/hook")
    await happen(store, "run/1")
    await all_done(dispatcher)
    (delivery,) = await deliveries(service, made.id)
    assert ("pending", None, "unavailable") == (delivery.state, delivery.status, delivery.error)


async def test_address_that_is_no_longer_allowed_is_not_connected_to(
    store: Store, service: Service, receiver: Receiver, clock: Clock
) -> None:
    made = await subscribed(service, receiver)
    await happen(store, "run/1")
    strict = Outbound(policy=EgressPolicy(), redactor=Redactor())
    try:
        await all_done(new_dispatcher(store, strict, clock))
    finally:
        await strict.close()
    assert [] == receiver.received
    (delivery,) = await deliveries(service, made.id)
    assert ("pending", "egress_refused") == (delivery.state, delivery.error)


@pytest.mark.parametrize(("asked", "waited_s"), [("90", 90), ("1", 4), ("999999", 3600), ("soon", 4)])
async def test_retry_after_is_honoured_within_bounds(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock, asked: str, waited_s: int
) -> None:
    receiver.answer = failing(503, Retry_After=asked)
    made = await subscribed(service, receiver)
    await happen(store, "run/1")
    await all_done(dispatcher)
    (delivery,) = await deliveries(service, made.id)
    assert clock() + dt.timedelta(seconds=waited_s) == delivery.next_attempt_at


async def test_attempts_end_in_a_visible_state_and_later_events_of_the_subject_go_on(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    made = await subscribed(service, receiver)
    receiver.answer = lambda received: 500 if received.seq == 1 else 200
    await happen(store, "run/1", "run/1")
    started = clock()
    for _ in range(MAX_ATTEMPTS):
        await all_done(dispatcher)
        (first, _) = await deliveries(service, made.id)
        if first.next_attempt_at is not None:
            clock.at = first.next_attempt_at
    clock.move(minutes=1)  # the pause of a receiver that keeps failing
    await all_done(dispatcher)
    assert clock() - started >= dt.timedelta(hours=24)
    assert [1] * MAX_ATTEMPTS + [2] == receiver.seqs
    first, second = await deliveries(service, made.id)
    assert ("exhausted", MAX_ATTEMPTS, "delivered") == (first.state, len(first.attempts), second.state)
    assert 1 == (await service.subscriptions.get("hlf", made.id)).exhausted
    receiver.answer = lambda received: 200
    replayed = await service.subscriptions.replay("hlf", made.id, ids=[first.event])
    await all_done(dispatcher)
    assert (1, 1) == (replayed.replayed, receiver.seqs[-1])


async def test_attempt_is_counted_before_it_is_made(
    store: Store, service: Service, receiver: Receiver, clock: Clock
) -> None:
    made = await subscribed(service, receiver)
    await happen(store, "run/1")
    await store.fan_out.advance(clock())
    for number in (1, 2, 3):
        (delivery,) = await store.deliveries.claim({made.id: 1}, clock(), lease_s=0)
        assert number == delivery.number
        await asyncio.sleep(0.01)


async def test_subscription_whose_key_is_missing_spends_no_attempt(
    store: Store, service: Service, receiver: Receiver, database_url: str, outbound: Outbound, clock: Clock
) -> None:
    made = await subscribed(service, receiver)
    await happen(store, "run/1")
    keyless = Store.open(database_url, vault=Vault.from_secret("ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="))
    try:
        await all_done(new_dispatcher(keyless, outbound, clock))
        assert [] == (await deliveries(service, made.id))[0].attempts
    finally:
        await keyless.close()
    await all_done(new_dispatcher(store, outbound, clock))
    assert [1] == receiver.seqs


async def test_new_secret_signs_at_once_and_the_old_one_beside_it_until_its_time(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    old = await subscribed(service, receiver)
    new = await service.subscriptions.replace_secret("hlf", old.id, overlap_s=3600)
    assert (old.secret != new.secret, new.secret[-4:]) == (True, new.secret_hint)
    await happen(store, "run/1")
    await all_done(dispatcher)
    clock.move(hours=2)
    await happen(store, "run/1")
    await all_done(dispatcher)
    during, after = receiver.received
    for made in (old, new):
        Webhook(made.secret).verify(during.body, during.headers)
    assert (2, 1) == tuple(len(r.headers["webhook-signature"].split(" ")) for r in (during, after))
    signed = Webhook(new.secret).sign(after.event["id"], clock().replace(microsecond=0), after.body.decode())
    assert signed == after.headers["webhook-signature"]


async def test_secret_without_overlap_ends_the_old_one_at_once(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    old = await subscribed(service, receiver)
    new = await service.subscriptions.replace_secret("hlf", old.id, overlap_s=0)
    await happen(store, "run/1")
    await all_done(dispatcher)
    (received,) = receiver.received
    assert 1 == len(received.headers["webhook-signature"].split(" "))
    Webhook(new.secret).verify(received.body, received.headers)


async def test_types_decide_what_is_sent(
    store: Store, service: Service, new_receiver: NewReceiver, dispatcher: Dispatcher
) -> None:
    every, runs, failed, both = [await new_receiver() for _ in range(4)]
    await subscribed(service, every)
    await subscribed(service, runs, types=["no.samband.run.*"])
    await subscribed(service, failed, types=["no.samband.run.failed.v1"])
    await subscribed(service, both, types=["no.samband.run.failed.v1", "no.samband.subscription.*"])
    other = await service.subscriptions.create("hlf", url="http://127.0.0.1:9/")
    await happen(store, "run/1")
    await happen(store, "run/2", type="no.samband.run.failed.v1")
    await service.subscriptions.disable("hlf", other.id)
    await all_done(dispatcher)
    assert [[1, 2, 3], [1, 2], [2], [2, 3]] == [sorted(r.seqs) for r in (every, runs, failed, both)]


async def test_organisations_hear_of_their_own_events_only(
    store: Store, service: Service, new_receiver: NewReceiver, dispatcher: Dispatcher
) -> None:
    ours, theirs = await new_receiver(), await new_receiver()
    await subscribed(service, ours, "hlf")
    await subscribed(service, theirs, "nbf")
    await happen(store, "run/1", "run/2", org="hlf")
    await happen(store, "run/1", org="nbf")
    await all_done(dispatcher)
    assert ["hlf", "hlf"] == [r.event["organization"] for r in ours.received]
    assert ["nbf"] == [r.event["organization"] for r in theirs.received]


async def test_subscription_begins_with_the_next_event(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    await happen(store, "run/1", "run/1")
    made = await subscribed(service, receiver)
    await happen(store, "run/1")
    await all_done(dispatcher)
    assert ([3], 2) == (receiver.seqs, made.position)


async def test_more_events_than_one_round_takes_all_arrive(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    made = await subscribed(service, receiver)
    await happen(store, *(f"run/{n}" for n in range(25)))
    while await store.fan_out.advance(dispatcher.now(), events=10):
        pass
    assert 25 == len(await deliveries(service, made.id))
    await all_done(dispatcher)
    assert list(range(1, 26)) == sorted(receiver.seqs)


async def test_waiting_events_are_not_looked_at_while_the_one_before_them_rests(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    made = await subscribed(service, receiver)
    receiver.answer = failing(500)
    await happen(store, *["run/1"] * 5)
    await all_done(dispatcher)
    await happen(store, *["run/1"] * 5)
    await all_done(dispatcher)
    assert [] == await store.deliveries.receivers(clock())
    assert {clock() + dt.timedelta(seconds=4)} == {d.next_attempt_at for d in await deliveries(service, made.id)}
    receiver.answer = lambda received: 200
    clock.move(seconds=4)
    await all_done(dispatcher)
    assert [1, *range(1, 11)] == receiver.seqs


async def test_subscription_that_keeps_failing_is_sent_to_one_at_a_time_and_ever_more_rarely(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    await subscribed(service, receiver)
    receiver.answer = failing(500)
    await happen(store, *(f"run/{n}" for n in range(50)))
    await all_done(dispatcher)
    assert 3 == len(receiver.received)  # nothing has succeeded yet, so these were one at a time, too
    clock.move(seconds=3)
    await all_done(dispatcher)
    assert 4 == len(receiver.received)
    receiver.answer = lambda received: 200
    clock.move(seconds=61)
    await all_done(dispatcher)
    assert 50 == len({received.seq for received in receiver.received})


async def test_deleted_subscription_takes_its_deliveries_along(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    receiver.answer = failing(500)
    made = await subscribed(service, receiver)
    await happen(store, "run/1")
    await all_done(dispatcher)
    await service.subscriptions.delete("hlf", made.id)
    async with store.database.read() as conn:
        left = [await conn.scalar(sa.text(f"SELECT count(*) FROM {t}")) for t in ("event_delivery", "event_attempt")]
    assert [0, 0] == left
