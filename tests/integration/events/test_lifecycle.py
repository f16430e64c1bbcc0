"""Subscriptions are switched off when nobody is there, announced, switched on again, replayed and forgotten in time."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa

from samband.adapters.registry import Registry
from samband.contract import CredentialsModel, Event, Manifest, SettingsModel, Token
from samband.errors import ConflictError, InvalidError, NotFoundError, ServiceError
from samband.events import Dispatcher, Teller, sweep_events
from samband.eventtypes import SUBSCRIPTION_DISABLED
from samband.hookspecs import hookimpl
from samband.http import Outbound
from samband.service import Service
from samband.store import Store
from samband.store.subscriptions import MAX_SUBSCRIPTIONS

from .conftest import Clock, NewReceiver, Receiver, all_done, deliveries, failing, happen, new_dispatcher, subscribed


async def test_410_switches_the_subscription_off_and_keeps_what_was_pending(
    store: Store, service: Service, new_receiver: NewReceiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    receiver, watcher = await new_receiver(), await new_receiver()
    receiver.answer = failing(410)
    made = await subscribed(service, receiver)
    await subscribed(service, watcher, types=[SUBSCRIPTION_DISABLED])
    await happen(store, "run/1", "run/1")
    await all_done(dispatcher)
    view = await service.subscriptions.get("hlf", made.id)
    assert ("disabled", "gone", 2) == (view.state, view.reason, view.pending)
    (told,) = watcher.received
    assert {"subscription": made.id, "reason": "gone"} == told.event["data"]
    receiver.answer = lambda received: 200
    await happen(store, "run/1")
    await all_done(dispatcher)
    assert [1] == receiver.seqs
    await service.subscriptions.enable("hlf", made.id)
    clock.move(minutes=1)
    await all_done(dispatcher)
    assert [1, 1, 2, 3, 4] == sorted(receiver.seqs)


async def test_endpoint_that_fails_for_five_days_is_switched_off_and_announced(
    store: Store, service: Service, new_receiver: NewReceiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    receiver, watcher = await new_receiver(), await new_receiver()
    receiver.answer = failing(500)
    made = await subscribed(service, receiver)
    await subscribed(service, watcher, types=["no.samband.subscription.*"])
    for hour in range(0, 24 * 5, 20):
        await happen(store, f"run/{hour}")
        await all_done(dispatcher)
        assert "enabled" == (await service.subscriptions.get("hlf", made.id)).state
        clock.move(hours=20)
    await all_done(dispatcher)
    view = await service.subscriptions.get("hlf", made.id)
    assert ("disabled", "failing") == (view.state, view.reason)
    assert [{"subscription": made.id, "reason": "failing"}] == [r.event["data"] for r in watcher.received]
    entries = [e.action for e in (await service.audit.page("hlf", limit=50)).items]
    assert 1 == entries.count("subscription.disabled")


async def test_endpoint_that_fails_now_and_then_stays_on(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    made = await subscribed(service, receiver)
    for day in range(12):
        receiver.answer = failing(500 if day % 2 == 0 else 200)
        await happen(store, f"run/{day}")
        await all_done(dispatcher)
        clock.move(days=1)
    view = await service.subscriptions.get("hlf", made.id)
    assert ("enabled", None) == (view.state, view.failing_since)


async def test_endpoint_that_exhausts_several_in_a_row_is_switched_off(
    store: Store, service: Service, receiver: Receiver, outbound: Outbound, clock: Clock
) -> None:
    dispatcher = new_dispatcher(store, outbound, clock, exhausted_in_row=2)
    receiver.answer = failing(500)
    made = await subscribed(service, receiver)
    await happen(store, "run/1", "run/1")
    for _ in range(60):
        await all_done(dispatcher)
        clock.move(hours=1)
    assert "enabled" == (await service.subscriptions.get("hlf", made.id)).state
    for _ in range(40):
        await all_done(dispatcher)
        clock.move(hours=1)
    view = await service.subscriptions.get("hlf", made.id)
    assert ("disabled", "failing", 2) == (view.state, view.reason, view.exhausted)


async def test_enabled_again_it_catches_up_or_begins_anew(
    store: Store, service: Service, new_receiver: NewReceiver, dispatcher: Dispatcher
) -> None:
    patient, fresh = await new_receiver(), await new_receiver()
    ids = [(await subscribed(service, receiver, types=["no.samband.run.*"])).id for receiver in (patient, fresh)]
    for id in ids:
        await service.subscriptions.disable("hlf", id)
        assert ("disabled", "person") == (lambda view: (view.state, view.reason))(
            await service.subscriptions.disable("hlf", id)
        )
    missed = await happen(store, "run/1", "run/2")
    await all_done(dispatcher)
    assert [] == patient.received
    await service.subscriptions.enable("hlf", ids[0], catch_up=True)
    await service.subscriptions.enable("hlf", ids[1], catch_up=False)
    later = await happen(store, "run/1")
    await all_done(dispatcher)
    assert [[*missed, *later], later] == [sorted(receiver.seqs) for receiver in (patient, fresh)]


async def test_beginning_anew_skips_what_was_pending(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    receiver.answer = failing(500)
    made = await subscribed(service, receiver)
    await happen(store, "run/1")
    await all_done(dispatcher)
    await service.subscriptions.disable("hlf", made.id)
    await service.subscriptions.enable("hlf", made.id, catch_up=False)
    (delivery,) = await deliveries(service, made.id)
    assert "skipped" == delivery.state


# ── replay ───────────────────────────────────────────────────────────────────


async def test_replay_from_a_number_sends_again_what_the_filter_lets_through_and_marks_it(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    made = await subscribed(service, receiver, types=["no.samband.run.succeeded.v1"])
    await happen(store, "run/1", "run/1")
    await happen(store, "run/1", type="no.samband.run.failed.v1")
    await happen(store, "run/1")
    await all_done(dispatcher)
    first = list(receiver.received)
    assert 2 == (await service.subscriptions.replay("hlf", made.id, after=1)).replayed
    clock.move(minutes=1)
    await all_done(dispatcher)
    again = receiver.received[len(first) :]
    assert [2, 4] == [received.seq for received in again]
    assert [r.body for r in first[1:]] == [r.body for r in again]
    assert [None, "true"] == [r.headers.get("samband-replay") for r in (first[1], again[0])]
    assert [False, False, False, True, True] == [d.is_replay for d in await deliveries(service, made.id)]


async def test_replay_does_not_double_what_is_still_on_its_way(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    receiver.answer = failing(500)
    made = await subscribed(service, receiver)
    await happen(store, "run/1", "run/2")
    await all_done(dispatcher)
    assert 0 == (await service.subscriptions.replay("hlf", made.id, after=0)).replayed


async def test_replay_takes_so_many_and_says_where_to_go_on(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher
) -> None:
    made = await subscribed(service, receiver, types=["no.samband.run.succeeded.v1"])
    await happen(store, "run/1", type="no.samband.run.failed.v1")
    wanted = await happen(store, *(f"run/{n}" for n in range(5)))
    await all_done(dispatcher)
    receiver.received.clear()
    answers, after = [], 0
    while after is not None:
        number, after = await store.fan_out.replay(
            "hlf", made.id, after=after, event_ids=[], now=dispatcher.now(), limit=2
        )
        answers.append((number, after))
    assert [(2, 3), (2, 5), (1, None)] == answers
    await all_done(dispatcher)
    assert wanted == sorted(receiver.seqs)


async def test_one_call_has_no_more_than_ten_thousand_events_sent_again(
    store: Store, service: Service, receiver: Receiver, clock: Clock
) -> None:
    made = await subscribed(service, receiver)
    await kept(store, made.id, 10_001)
    first = await service.subscriptions.replay("hlf", made.id, after=0)
    assert (10_000, 10_000) == (first.replayed, first.next)
    last = await service.subscriptions.replay("hlf", made.id, after=first.next)
    assert (1, None) == (last.replayed, last.next)


async def kept(store: Store, subscription_id: str, number: int) -> None:
    """Puts events into the outbox that were delivered and forgotten as deliveries long ago."""
    rows = [{"n": n, "event": f"{n:032}", "subject": f"run/{n}"} for n in range(1, number + 1)]
    at = "'2026-01-01T00:00:00.000Z'" if store.database.is_sqlite else "now()"
    async with store.database.write() as conn:
        insert = "INSERT INTO outbox (organization_id, seq, event_id, type, subject, data, created_at)"
        values = f"VALUES ('hlf', :n, :event, 'no.samband.run.succeeded.v1', :subject, '{{}}', {at})"
        await conn.execute(sa.text(f"{insert} {values}"), rows)
        await conn.execute(sa.text("UPDATE organization SET event_seq = :n WHERE id = 'hlf'"), {"n": number})
        moved = "UPDATE subscription SET fanned_seq = :n WHERE id = :id"
        await conn.execute(sa.text(moved), {"n": number, "id": subscription_id})


async def test_replay_takes_only_events_of_the_organisation(store: Store, service: Service, receiver: Receiver) -> None:
    made = await subscribed(service, receiver)
    await happen(store, "run/1", org="nbf")
    foreign = (await service.events.after("nbf")).items[0].id
    with pytest.raises(InvalidError):
        await service.subscriptions.replay("hlf", made.id, ids=[foreign])


async def test_replay_needs_a_subscription_that_is_on(store: Store, service: Service, receiver: Receiver) -> None:
    made = await subscribed(service, receiver)
    await service.subscriptions.disable("hlf", made.id)
    with pytest.raises(ConflictError) as refusal:
        await service.subscriptions.replay("hlf", made.id, after=0)
    assert "subscription_disabled" == refusal.value.code


# ── the feed ─────────────────────────────────────────────────────────────────


async def test_feed_is_gapless_and_is_read_part_by_part(store: Store, service: Service) -> None:
    await happen(store, *(f"run/{n}" for n in range(7)))
    seen, after = [], 0
    while items := (page := await service.events.after("hlf", after=after, limit=3)).items:
        seen += [item.sequence for item in items]
        after = page.next
    assert (list(range(1, 8)), 7, False) == (seen, after, page.has_more)
    await happen(store, "run/8")
    assert [8] == [item.sequence for item in (await service.events.after("hlf", after=after)).items]


async def test_filtered_feed_moves_on_over_what_it_leaves_out(store: Store, service: Service) -> None:
    await happen(store, "run/1", type="no.samband.run.failed.v1")
    await happen(store, *["run/1"] * 4)
    page = await service.events.after("hlf", after=0, type="no.samband.run.failed.v1")
    assert ([1], 5, False) == ([item.sequence for item in page.items], page.next, page.has_more)
    part = await service.events.after("hlf", after=0, limit=2, type="no.samband.run.*")
    assert ([1, 2], 2, True) == ([item.sequence for item in part.items], part.next, part.has_more)
    with pytest.raises(InvalidError):
        await service.events.after("hlf", type="no.samband.nothing.*")


async def test_event_is_found_by_its_id_in_its_own_organisation_only(store: Store, service: Service) -> None:
    await happen(store, "run/1")
    event = (await service.events.after("hlf")).items[0]
    assert event == await service.events.get("hlf", event.id)
    with pytest.raises(NotFoundError):
        await service.events.get("nbf", event.id)


async def test_swept_events_are_said_to_be_gone_and_a_new_reader_begins_at_the_oldest(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    made = await subscribed(service, receiver)
    await happen(store, "run/1", "run/2", "run/3")
    await all_done(dispatcher)
    async with store.database.write() as conn:
        old = "2020-01-01T00:00:00.000Z" if store.database.is_sqlite else dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        await conn.execute(sa.text("UPDATE outbox SET created_at = :at WHERE seq <= 2"), {"at": old})
    await sweep(store, clock)
    assert 3 == len((await service.events.after("hlf", after=0)).items)  # the plugins have not heard of them yet
    await store.events.note_told("hlf", 0, 3)
    await sweep(store, clock)
    for ask in (service.events.after("hlf", after=0), service.subscriptions.replay("hlf", made.id, after=1)):
        with pytest.raises(ServiceError) as refusal:
            await ask
        assert ("events_expired", "after=2" in refusal.value.hint) == (refusal.value.code, True)
    for page in (await service.events.after("hlf", after=2), await service.events.after("hlf")):
        assert [3] == [item.sequence for item in page.items]


async def test_delivery_whose_event_was_swept_ends_as_exhausted(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    receiver.answer = failing(500)
    made = await subscribed(service, receiver)
    await happen(store, "run/1")
    await all_done(dispatcher)
    await store.events.note_told("hlf", 0, 1)
    clock.move(days=91)
    await sweep(store, clock)
    (delivery,) = await deliveries(service, made.id)
    assert ("exhausted", "event_expired") == (delivery.state, delivery.error)


async def test_old_deliveries_are_forgotten_with_their_attempts_and_pending_ones_are_not(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> None:
    receiver.answer = lambda received: 500 if received.event["subject"] == "run/bad" else 200
    made = await subscribed(service, receiver)
    await happen(store, "run/1", "run/bad")
    await all_done(dispatcher)
    clock.move(days=29)
    await sweep(store, clock)
    assert 2 == len(await deliveries(service, made.id))
    clock.move(days=2)
    await sweep(store, clock)
    assert ["pending"] == [delivery.state for delivery in await deliveries(service, made.id)]
    async with store.database.read() as conn:
        assert 1 == await conn.scalar(sa.text("SELECT count(*) FROM event_attempt"))


async def sweep(store: Store, clock: Clock) -> None:
    await sweep_events(store, keep_events=dt.timedelta(days=90), keep_deliveries=dt.timedelta(days=30), now=clock)


async def test_an_organisation_has_only_so_many_subscriptions(service: Service, receiver: Receiver) -> None:
    for _ in range(MAX_SUBSCRIPTIONS):
        await subscribed(service, receiver)
    with pytest.raises(ConflictError) as refusal:
        await subscribed(service, receiver)
    assert "subscription_limit" == refusal.value.code
    await subscribed(service, receiver, org="nbf")


# ── the plugins ──────────────────────────────────────────────────────────────


class Listener:
    """A plugin that hears of events."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.manifest = Manifest(
            name=name, title=name, version="1", settings=SettingsModel, credentials=CredentialsModel
        )
        self.heard: list[Event] = []
        self.fails = fails

    @hookimpl
    async def authenticate(self, ctx: object) -> Token:
        raise NotImplementedError

    @hookimpl
    async def on_event(self, event: Event) -> None:
        self.heard.append(event)
        if self.fails:
            raise RuntimeError("it cannot bear the news")


async def test_plugins_hear_of_everything_in_order_and_one_that_fails_stops_nobody(
    store: Store, service: Service, registry: Registry
) -> None:
    good, bad = Listener("good"), Listener("bad", fails=True)
    for listener in (bad, good):
        registry.add(listener, name=listener.manifest.name)
    await happen(store, *(f"run/{n}" for n in range(60)))
    await happen(store, "run/1", org="nbf")
    teller = Teller(store=store, registry=registry)
    while await teller.round() == 0:
        pass
    for listener in (good, bad):
        ours = [event for event in listener.heard if event.organization_id == "hlf"]
        assert [f"run/{n}" for n in range(60)] == [event.subject for event in ours]
        assert ["nbf"] == [event.organization_id for event in listener.heard if event not in ours]
    feed = await service.events.after("hlf", limit=100)
    heard = [event.id for event in good.heard if event.organization_id == "hlf"]
    assert [item.id for item in feed.items] == heard
    await teller.round()
    assert 61 == len(good.heard)


async def test_two_tellers_move_the_mark_forward_only(store: Store, service: Service, registry: Registry) -> None:
    await happen(store, "run/1", "run/2")
    assert [("hlf", 0)] == await store.events.untold(10)
    assert await store.events.note_told("hlf", 0, 2)
    assert not await store.events.note_told("hlf", 0, 1)
    assert [] == await store.events.untold(10)


async def test_replay_after_a_number_far_beyond_the_newest_event_sends_nothing(store: Store) -> None:
    await store.catalog.add_organization("hlf", "HLF")
    async with store.database.write() as conn:
        now = "'2026-01-01T00:00:00.000Z'" if store.database.is_sqlite else "now()"
        empty = "x'00'" if store.database.is_sqlite else "'\\x00'"
        await conn.execute(
            sa.text(
                "INSERT INTO subscription (id, organization_id, url, description, types, secrets, hint, state, reason,"
                f" fanned_seq, revision, created_at, updated_at) VALUES ('s', 'hlf', 'https://a.example', '', '[]', {empty},"
                f" '', 'enabled', '', 0, 1, {now}, {now})"
            )
        )
    told = await store.fan_out.replay("hlf", "s", after=2**63 - 1, event_ids=(), now=dt.datetime.now(dt.UTC))
    assert (0, None) == told
