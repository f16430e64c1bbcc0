"""The scheduler: every planned time becomes one occurrence, whoever fires it and whatever happens in between."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from samband.adapters.registry import Registry
from samband.errors import ConflictError
from samband.scheduler import Scheduler
from samband.store import Store, Vault
from samband.store.models import Integration, Schedule
from samband.views.schedules import ScheduleView

from . import scheduling
from .scheduling import KEY, World

MINUTE, HOUR, DAY = dt.timedelta(minutes=1), dt.timedelta(hours=1), dt.timedelta(days=1)


@pytest.fixture
async def world(store: Store) -> World:
    return World(store)


# ── one firing ───────────────────────────────────────────────────────────────


async def test_planned_time_becomes_one_occurrence_and_one_run(world: World) -> None:
    await world.connect()
    view = await world.schedule(cron="30 2 * * *")
    scheduler = world.scheduler()
    assert 1.0 == await scheduler.round()
    assert [] == await world.told()
    planned = await world.until(view)
    for _ in range(3):
        await scheduler.round()
    assert [("queued", "schedule:default", False)] == await world.runs()
    (run,) = await world.store.feeds.runs("hlf", plugin=None, state=None, before=None, limit=5)
    assert ("schedule", ["people", "lists"], "1", [run.id]) == (
        run.reason, run.streams, run.plugin_version, world.bell.rung
    )  # fmt: skip
    shown = await world.service.schedules.get("hlf", "crm")
    assert shown.last_occurrence is not None
    assert (planned, "ordered", run.id, "queued") == (
        shown.last_occurrence.planned_at, shown.last_occurrence.state, shown.last_occurrence.run,
        shown.last_occurrence.run_state,
    )  # fmt: skip
    assert view.next[1:] == shown.next[:9]


async def test_round_ends_when_the_next_schedule_is_due(world: World) -> None:
    await world.connect()
    view = await world.schedule(cron="30 2 * * *")
    world.now = view.next[0].starts_at - dt.timedelta(milliseconds=250)
    assert 0.25 == await world.scheduler().round()


async def test_chosen_streams_are_read_and_the_account_is_named(world: World) -> None:
    await world.connect(account="books")
    view = await world.schedule(streams=["lists"], full=True)
    await world.until(view)
    await world.scheduler().round()
    (run,) = await world.store.feeds.runs("hlf", plugin=None, state=None, before=None, limit=5)
    assert (["lists"], True, "crm/books") == (run.streams, run.full, run.account)


async def test_interval_keeps_its_phase_through_restarts(world: World) -> None:
    await world.connect()
    view = await world.schedule(interval_s=600)
    fired = []
    for n in range(5):
        fired.append(await world.until(view, n, late=n * 7 * dt.timedelta(seconds=1)))
        await world.scheduler().round()  # a new one each time, as after a restart
        await world.work()
    assert [view.anchor_at + (n + 1) * 10 * MINUTE for n in range(5)] == fired
    assert [("ordered", "")] * 5 == await world.told()


async def test_jitter_moves_the_run_and_not_the_identity_of_its_occurrence(world: World) -> None:
    await world.connect()
    view = await world.schedule(jitter_s=3600)
    assert 0 < view.jitter_offset_s < 3600
    world.now = view.next[0].at
    await world.scheduler().round()
    assert [] == await world.told()
    planned = await world.until(view)
    await world.scheduler().round()
    page = await world.service.schedules.occurrences("hlf", "crm")
    assert [planned] == [o.planned_at for o in page.items]


async def test_what_is_shown_is_what_fires(world: World) -> None:
    await world.connect()
    view = await world.schedule(cron="*/20 * * * *")
    for n in range(10):
        await world.until(view, n)
        await world.scheduler().round()
        await world.work()
    page = await world.service.schedules.occurrences("hlf", "crm")
    assert [p.at for p in view.next] == [o.planned_at for o in reversed(page.items)]
    assert [p.local for p in view.next] == [o.local for o in reversed(page.items)]


# ── overlap ──────────────────────────────────────────────────────────────────


async def test_overlapping_time_is_skipped(world: World) -> None:
    await world.connect()
    view = await world.schedule(overlap="skip")
    for n in range(2):
        await world.until(view, n)
        await world.scheduler().round()
    assert [("ordered", ""), ("skipped", "overlap")] == await world.told()


async def test_run_that_somebody_ordered_is_in_the_way_as_well(world: World) -> None:
    await world.connect()
    view = await world.schedule(overlap="skip")
    await world.service.trigger_sync("hlf", "crm")
    await world.until(view)
    await world.scheduler().round()
    assert [("skipped", "overlap")] == await world.told()


async def test_one_overlapping_time_waits_and_a_newer_one_takes_its_place(world: World) -> None:
    await world.connect()
    view = await world.schedule(overlap="queue_one")
    for n in range(3):
        await world.until(view, n)
        await world.scheduler().round()
    assert [("ordered", ""), ("skipped", "superseded"), ("waiting", "")] == await world.told()
    await world.scheduler().round()
    assert 1 == len(await world.runs())
    await world.work()
    await world.scheduler().round()
    assert ("ordered", "") == (await world.told())[-1]
    assert ["succeeded", "queued"] == [state for state, _, _ in await world.runs()]
    assert 2 == len(world.bell.rung)


async def test_running_run_is_asked_to_end_and_the_next_one_follows(world: World) -> None:
    await world.connect()
    view = await world.schedule(overlap="cancel_running")
    await world.until(view)
    await world.scheduler().round()
    run_id = await world.work(ends=False)
    await world.until(view, 1)
    await world.scheduler().round()
    run = await world.store.feeds.run("hlf", run_id)
    assert ("running", True) == (run.state, run.cancel_requested_at is not None)
    assert ("waiting", "") == (await world.told())[-1]
    async with world.store.database.write() as conn:
        await conn.execute(sa.text("UPDATE run SET state = 'cancelled', lease_owner = NULL, lease_until = NULL"))
    await world.scheduler().round()
    assert ["cancelled", "queued"] == [state for state, _, _ in await world.runs()]
    assert "run.cancelled" in await audited(world.store)


async def test_run_that_nobody_works_on_is_cancelled_at_once(world: World) -> None:
    await world.connect()
    view = await world.schedule(overlap="cancel_running")
    for n in range(2):
        await world.until(view, n)
        await world.scheduler().round()
    assert ["cancelled", "queued"] == [state for state, _, _ in await world.runs()]
    assert [("ordered", ""), ("ordered", "")] == await world.told()
    assert ["no.samband.run.cancelled.v1"] == await events(world.store)


async def test_run_that_waits_for_a_person_is_left_to_that_person(world: World) -> None:
    await world.connect()
    view = await world.schedule(overlap="cancel_running")
    await world.until(view)
    await world.scheduler().round()
    async with world.store.database.write() as conn:
        await conn.execute(sa.text("UPDATE run SET state = 'held'"))
    await world.until(view, 1)
    await world.scheduler().round()
    assert ["held"] == [state for state, _, _ in await world.runs()]
    assert ("waiting", "") == (await world.told())[-1]


async def test_full_read_comes_before_a_delta_of_the_same_minute(world: World) -> None:
    await world.connect()
    await world.schedule(name="delta")
    view = await world.schedule(name="a-full-one", full=True)
    await world.until(view)
    await world.scheduler(at_once=1).round()
    assert [("queued", "schedule:a-full-one", True)] == await world.runs()
    assert [("skipped", "overlap")] == await world.told(name="delta")


# ── down time ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("catch_up", "told"),
    [
        ("latest", [("skipped", "missed"), ("skipped", "missed"), ("ordered", "")]),
        ("none", [("skipped", "missed")] * 3),
        ("all", [("ordered", ""), ("waiting", "catch_up"), ("waiting", "catch_up")]),
    ],
)
async def test_three_nights_of_down_time_are_caught_up_with_as_asked(
    world: World, catch_up: Any, told: list[tuple[str, str]]
) -> None:
    await world.connect()
    view = await world.schedule(catch_up=catch_up)
    await world.until(view, 2, late=2 * HOUR)
    await world.scheduler().round()
    await world.scheduler().round()
    assert told == await world.told()


async def test_all_missed_times_come_one_after_the_other(world: World) -> None:
    await world.connect()
    view = await world.schedule(catch_up="all", overlap="queue_one")
    await world.until(view, 2, late=2 * HOUR)
    await world.scheduler().round()
    await world.until(view, 3)  # on time, and no reason to forget the others
    await world.scheduler().round()
    for _ in range(3):
        await world.work()
        await world.scheduler().round()
    assert [("ordered", "")] * 4 == await world.told()


async def test_long_gap_leaves_a_bounded_number_of_rows_that_says_so(world: World) -> None:
    await world.connect()
    view = await world.schedule(interval_s=60)
    world.now = view.next[0].at + 30 * DAY
    await world.scheduler().round()
    told = await world.told()
    assert (100, ("skipped", "missed_and_more"), ("ordered", "")) == (len(told), told[0], told[-1])


# ── what cannot be ordered ───────────────────────────────────────────────────


async def test_disabled_integration_is_skipped_and_told(world: World) -> None:
    integration = await world.connect()
    view = await world.schedule()
    await world.store.catalog.change_integration(integration, state="disabled")
    await world.until(view)
    await world.scheduler().round()
    assert ([("skipped", "not_enabled")], []) == (await world.told(), await world.runs())


async def test_integration_without_credentials_is_skipped_and_told(world: World) -> None:
    integration = await world.connect()
    view = await world.schedule()
    await world.store.catalog.change_integration(integration, state="saved", forget_credentials=True)
    await world.until(view)
    await world.scheduler().round()
    assert [("skipped", "no_credentials")] == await world.told()


async def test_waiting_time_of_an_integration_that_was_switched_off_is_skipped(world: World) -> None:
    integration = await world.connect()
    view = await world.schedule(overlap="queue_one")
    for n in range(2):
        await world.until(view, n)
        await world.scheduler().round()
    await world.store.catalog.change_integration(integration, state="disabled")
    await world.work()
    await world.scheduler().round()
    assert [("ordered", ""), ("skipped", "not_enabled")] == await world.told()


async def test_missing_plugin_is_told_and_forgotten_when_it_is_back(world: World) -> None:
    await world.connect()
    view = await world.schedule()
    await world.until(view)
    await world.scheduler(registry=Registry()).round()
    assert [("skipped", "plugin_not_loaded")] == await world.told()
    shown = await world.service.schedules.get("hlf", "crm")
    assert "crm" in shown.trouble
    await world.until(view, 1)
    await world.scheduler().round()
    assert ("ordered", "") == (await world.told())[-1]
    assert "" == (await world.service.schedules.get("hlf", "crm")).trouble


async def test_settings_that_switch_everything_off_are_told(world: World) -> None:
    integration = await world.connect()
    view = await world.schedule()
    await world.store.catalog.change_integration(integration, settings={"reads": False})
    await world.until(view)
    await world.scheduler().round()
    assert [("skipped", "no_streams")] == await world.told()


@pytest.mark.parametrize("broken", ["cron = 'every night'", "zone = 'Europe/Atlantis'", "cron = NULL"])
async def test_broken_row_is_shown_and_stops_nobody_else(world: World, broken: str) -> None:
    for org in ("hlf", "nbf"):
        await world.connect(org)
        view = await world.schedule(org)
    async with world.store.database.write() as conn:
        await conn.execute(sa.text(f"UPDATE schedule SET {broken} WHERE organization_id = 'hlf'"))
    await world.until(view)
    scheduler = world.scheduler()
    await scheduler.round()
    assert ([], [("ordered", "")]) == (await world.told("hlf"), await world.told("nbf"))
    assert 1.0 == await scheduler.round()  # it is put off, not tried again and again
    shown = await world.service.schedules.get("hlf", "crm")
    assert shown.trouble
    mended = await world.schedule("hlf")
    assert "" == mended.trouble
    await world.until(mended)
    await world.scheduler().round()
    assert [("ordered", "")] == await world.told("hlf")


async def test_row_that_the_database_refuses_stops_nobody_else(world: World) -> None:
    for org in ("hlf", "nbf"):
        await world.connect(org)
        view = await world.schedule(org)
    trigger = {
        "sqlite": "CREATE TRIGGER poison BEFORE INSERT ON occurrence WHEN NEW.organization_id = 'hlf' "
        "BEGIN SELECT RAISE(ABORT, 'poison'); END",
        "postgresql": "ALTER TABLE occurrence ADD CONSTRAINT poison CHECK (organization_id <> 'hlf')",
    }
    async with world.store.database.write() as conn:
        await conn.execute(sa.text(trigger[world.store.database.dialect]))
    await world.until(view)
    await world.scheduler().round()
    assert ([], [("ordered", "")]) == (await world.told("hlf"), await world.told("nbf"))
    assert "fault in samband" in (await world.service.schedules.get("hlf", "crm")).trouble


# ── people's changes ─────────────────────────────────────────────────────────


async def test_same_schedule_again_changes_nothing(world: World) -> None:
    await world.connect()
    first = await world.schedule(interval_s=3600, jitter_s=60)
    assert first == await world.schedule(interval_s=3600, jitter_s=60)
    changed = await world.schedule(interval_s=3600, jitter_s=0)
    assert (2, first.anchor_at) == (changed.revision, changed.anchor_at)
    assert ["schedule.created", "schedule.changed"] == await audited(world.store)


async def test_two_who_make_a_schedule_at_once_make_one(world: World) -> None:
    await world.connect()
    made = await asyncio.gather(*(world.schedule(cron=f"{n} 2 * * *") for n in range(4)))
    assert {1, 2, 3, 4} == {view.revision for view in made}
    assert 1 == len(await world.service.schedules.all("hlf", "crm"))


async def test_edit_that_is_based_on_an_older_one_is_refused(world: World) -> None:
    await world.connect()
    await world.schedule()
    await world.schedule(cron="0 3 * * *", if_revision=1)
    with pytest.raises(ConflictError) as caught:
        await world.schedule(cron="0 4 * * *", if_revision=1)
    assert "revision_mismatch" == caught.value.code


async def test_schedules_of_an_integration_are_bounded(world: World) -> None:
    await world.connect()
    for n in range(50):
        await world.schedule(name=f"s{n}")
    with pytest.raises(ConflictError) as caught:
        await world.schedule(name="one-too-many")
    assert "too_many_schedules" == caught.value.code
    await world.schedule(name="s7", cron="0 3 * * *")


async def test_edit_between_reading_and_firing_wins(world: World) -> None:
    """A plan that was made from an older row is not carried out."""
    await world.connect()
    view = await world.schedule()
    await world.until(view)
    firings, lookout, scheduler = world.store.firings, world.store.lookout, world.scheduler()
    outlook = await lookout.look(10, world.now)
    plans = [await scheduler._plan(c, world.now) for c in await lookout.due(outlook.due, world.now)]
    await world.schedule(cron="0 5 * * *")
    assert [] == await firings.fire([p for p in plans if p is not None], world.now)
    assert ([], []) == (await world.told(), await world.runs())


async def test_edit_does_not_lose_a_time_that_waits_for_its_jitter(world: World) -> None:
    await world.connect()
    view = await world.schedule(cron="* * * * *", jitter_s=21_600)
    pending = await come(world, view)
    edited = await world.schedule(cron="* * * * *", overlap="queue_one", jitter_s=0)
    assert pending == edited.next[0].at
    other = await world.schedule(cron="0 4 31 12 *")
    assert pending < other.next[0].at


async def test_pause_shows_a_time_that_waited_for_its_jitter_as_skipped(world: World) -> None:
    await world.connect()
    view = await world.schedule(cron="* * * * *", jitter_s=21_600)
    pending = await come(world, view)
    await world.service.schedules.pause("hlf", "crm")
    page = await world.service.schedules.occurrences("hlf", "crm")
    assert [(pending, "skipped", "paused")] == [(o.planned_at, o.state, o.reason) for o in page.items]


async def come(world: World, view: ScheduleView) -> dt.datetime:
    """Lets the next planned time have come a while ago, and gives it."""
    table: Any = Schedule.__table__
    at = view.next[0].at - HOUR
    async with world.store.database.write() as conn:
        await conn.execute(sa.update(table).values(next_planned_at=at, next_at=at + 9 * HOUR))
    return at


async def test_deleted_schedule_never_fires_again(world: World) -> None:
    await world.connect()
    view = await world.schedule(overlap="queue_one")
    for n in range(2):
        await world.until(view, n)
        await world.scheduler().round()
    gone = await world.service.cancel_scheduled_sync("hlf", "crm")
    (run,) = await world.store.feeds.runs("hlf", plugin=None, state=None, before=None, limit=5)
    assert (1, run.id, None, "cancelled") == (
        gone.dropped_occurrences, gone.cancelled_run, gone.live_run, run.state
    )  # fmt: skip
    await world.until(view, 5)
    await world.scheduler().round()
    assert [] == await world.store.runs.due(10)
    async with world.store.database.read() as conn:
        assert 0 == await conn.scalar(sa.text("SELECT count(*) FROM occurrence"))


async def test_deleting_a_schedule_leaves_a_run_alone_that_has_begun(world: World) -> None:
    await world.connect()
    view = await world.schedule()
    await world.until(view)
    await world.scheduler().round()
    run_id = await world.work(ends=False)
    gone = await world.service.cancel_scheduled_sync("hlf", "crm")
    run = await world.store.feeds.run("hlf", run_id)
    assert (None, run_id, "running", None) == (gone.cancelled_run, gone.live_run, run.state, run.cancel_requested_at)


async def test_paused_schedule_does_not_fire_and_drops_what_waits(world: World) -> None:
    await world.connect()
    view = await world.schedule(overlap="queue_one")
    for n in range(2):
        await world.until(view, n)
        await world.scheduler().round()
    paused = await world.service.schedules.pause("hlf", "crm")
    assert ([], True) == (paused.next, paused.paused_at is not None)
    assert paused == await world.service.schedules.pause("hlf", "crm")
    await world.work()
    await world.until(view, 5)
    await world.scheduler().round()
    assert [("ordered", ""), ("skipped", "paused")] == await world.told()


@pytest.mark.parametrize(
    ("gap", "caught_up", "first", "last"),
    [
        ("none", 0, ("skipped", "paused"), ("skipped", "paused")),
        ("latest", 1, ("skipped", "paused"), ("waiting", "catch_up")),
        ("all", 24, ("waiting", "catch_up"), ("waiting", "catch_up")),
    ],
)
async def test_resuming_states_the_gap_and_does_with_it_what_was_asked(
    world: World, gap: Any, caught_up: int, first: tuple[str, str], last: tuple[str, str]
) -> None:
    await world.connect()
    view = await world.schedule(cron="0 0,1,2,3,4,5 * * *", zone="UTC")
    await world.service.schedules.pause("hlf", "crm")
    await begin_pause(world, view.created_at - 4 * DAY)
    resumed = await world.service.schedules.resume("hlf", "crm", gap=gap)
    assert resumed.gap is not None
    told = await world.told()
    assert (resumed.gap.listed, first, last) == (len(told), told[0], told[-1])
    assert (True, caught_up) == (resumed.gap.is_exact, resumed.gap.caught_up)
    assert resumed.gap.planned == resumed.gap.caught_up + resumed.gap.skipped
    assert (None, 10) == (resumed.schedule.paused_at, len(resumed.schedule.next))
    await world.scheduler().round()
    assert min(caught_up, 1) == len(await world.runs())
    again = await world.service.schedules.resume("hlf", "crm", gap="all")
    assert (None, resumed.schedule.revision) == (again.gap, again.schedule.revision)


async def test_long_gap_is_counted_and_its_newest_times_are_listed(world: World) -> None:
    await world.connect()
    view = await world.schedule(cron="*/5 * * * *", zone="UTC")
    await world.service.schedules.pause("hlf", "crm")
    await begin_pause(world, view.created_at - 10 * DAY)
    gap = (await world.service.schedules.resume("hlf", "crm", gap="all")).gap
    assert gap is not None
    assert (100, 100, True) == (gap.listed, gap.caught_up, gap.is_exact)
    assert 2879 <= gap.planned <= 2881
    await world.service.schedules.pause("hlf", "crm")
    await begin_pause(world, view.created_at - 60 * DAY)
    async with world.store.database.write() as conn:
        await conn.execute(sa.text("DELETE FROM occurrence"))
    gap = (await world.service.schedules.resume("hlf", "crm")).gap
    assert gap is not None
    assert (10_000, False) == (gap.planned, gap.is_exact)
    assert ("skipped", "paused_and_more") == (await world.told())[0]


async def begin_pause(world: World, at: dt.datetime) -> None:
    """Lets a pause have begun earlier."""
    table: Any = Schedule.__table__
    async with world.store.database.write() as conn:
        await conn.execute(sa.update(table).values(paused_at=at))


# ── overdue ──────────────────────────────────────────────────────────────────


async def test_schedule_whose_time_led_nowhere_is_told_once_an_episode(world: World) -> None:
    await world.connect()
    view = await world.schedule(cron="0 * * * *")
    scheduler = world.scheduler()
    world.now = view.next[1].at + HOUR
    await scheduler.watch()
    assert ([], []) == (await events(world.store), await scheduler.overdue(world.now))
    world.now += dt.timedelta(seconds=1)
    (overdue,) = await scheduler.overdue(world.now)
    assert ("default", view.next[0].at) == (overdue.name, overdue.planned_at)
    for _ in range(3):
        await scheduler.watch()
    assert ["no.samband.schedule.overdue.v1"] == await events(world.store)
    await scheduler.round()
    await world.work()
    await scheduler.watch()
    assert [] == await scheduler.overdue(world.now)
    world.now += 3 * HOUR
    await scheduler.watch()
    assert 2 == (await events(world.store)).count("no.samband.schedule.overdue.v1")


async def test_failed_runs_do_not_keep_a_schedule_from_being_overdue(world: World) -> None:
    await world.connect()
    view = await world.schedule(cron="0 * * * *")
    scheduler = world.scheduler()
    for n in range(3):
        await world.until(view, n)
        await scheduler.round()
        async with world.store.database.write() as conn:
            await conn.execute(sa.text("UPDATE run SET state = 'failed' WHERE state = 'queued'"))
    world.now += MINUTE
    assert [view.next[0].at] == [o.planned_at for o in await scheduler.overdue(world.now)]


async def test_paused_and_disabled_schedules_are_never_overdue(world: World) -> None:
    integration = await world.connect("hlf")
    await world.connect("nbf")
    for org in ("hlf", "nbf"):
        await world.schedule(org)
    world.now += 9 * DAY
    scheduler = world.scheduler()
    assert 2 == len(await scheduler.overdue(world.now))
    await world.store.catalog.change_integration(integration, state="disabled")
    await world.service.schedules.pause("nbf", "crm")
    assert [] == await scheduler.overdue(world.now)


async def test_scheduler_goes_by_the_databases_clock(world: World) -> None:
    await world.connect()
    view = await world.schedule(cron="0 2 * * *")
    scheduler = world.scheduler(clock=None)
    await scheduler.round()
    assert [] == await world.told()
    table: Any = Schedule.__table__
    async with world.store.database.write() as conn:
        at = dt.datetime.now(dt.UTC).replace(microsecond=0)
        await conn.execute(sa.update(table).values(next_planned_at=at, next_at=at))
    await scheduler.round()
    assert [("ordered", "")] == await world.told()
    shown = await world.service.schedules.get("hlf", "crm")
    assert view.next[0].at == shown.next[0].at


# ── several at once, and in pieces ───────────────────────────────────────────


async def test_several_schedulers_at_once_fire_each_time_exactly_once(world: World, database_url: str) -> None:
    for n in range(30):
        await world.connect(f"org{n}")
        view = await world.schedule(f"org{n}")
    world.now = view.next[0].starts_at
    stores = [Store.open(database_url, vault=Vault.from_secret(KEY)) for _ in range(3)]
    schedulers = [world.scheduler(store=store, at_once=7) for store in stores]

    async def rounds(scheduler: Scheduler) -> None:
        for _ in range(10):
            await scheduler.round()

    await asyncio.gather(*(rounds(scheduler) for scheduler in schedulers))
    for store in stores:
        await store.close()
    async with world.store.database.read() as conn:
        fired = (await conn.execute(sa.text("SELECT state, count(*) FROM occurrence GROUP BY state"))).all()
        runs = await conn.scalar(sa.text("SELECT count(*) FROM run"))
    assert ([("ordered", 30)], 30, 30) == ([tuple(row) for row in fired], runs, len(set(world.bell.rung)))


async def test_second_insert_of_a_planned_time_does_nothing(world: World) -> None:
    await world.connect()
    view = await world.schedule()
    await world.until(view)
    await world.scheduler().round()
    await world.work()
    async with world.store.database.write() as conn:  # as if the timer had been put back
        await conn.execute(
            sa.text(
                "UPDATE schedule SET next_at = last_planned_at, next_planned_at = last_planned_at, last_planned_at = NULL"
            )
        )
    await world.scheduler().round()
    assert ([("ordered", "")], 1) == (await world.told(), len(await world.runs()))


async def test_quiet_round_is_one_statement_that_an_index_serves(world: World) -> None:
    integration = await world.connect()
    await fill(world, integration, 10_000)
    scheduler = world.scheduler(clock=None)
    await scheduler.round()  # with its sign of life
    with counted(world.store) as statements:
        for _ in range(5):
            await scheduler.round()
    assert ["SELECT"] * 5 == [s.split()[0] for s in statements if "set_config" not in s and s != "BEGIN"]
    statement = world.store.lookout.look_statement(250, world.now)
    async with world.store.database.read() as conn:
        written = statement.compile(conn.sync_connection, compile_kwargs={"literal_binds": True})
        explain = "EXPLAIN QUERY PLAN" if world.store.database.is_sqlite else "EXPLAIN"
        plan = "\n".join(str(row) for row in await conn.execute(sa.text(f"{explain} {written}".replace(":", r"\:"))))
    assert 2 <= plan.count("ix_schedule_next")
    assert "ix_occurrence_waiting" in plan
    assert "SCAN schedule" not in plan
    assert "Seq Scan on schedule" not in plan


async def fill(world: World, integration: Integration, count: int) -> None:
    """Adds schedules that are not due yet, each with a planned time that has come before."""
    await world.schedule()
    table: Any = Schedule.__table__
    listed = ", ".join(f'"{c.name}"' for c in table.c if c.name not in ("id", "name"))
    numbers = {
        "sqlite": "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :count)",
        "postgresql": "WITH number AS (SELECT generate_series(1, :count) AS n)",
    }[world.store.database.dialect]
    name = "'x' || CAST(n AS text)"
    async with world.store.database.write() as conn:
        await conn.execute(
            sa.text(
                f"INSERT INTO schedule (id, name, {listed}) {numbers} SELECT {name}, {name}, {listed} FROM schedule, number"
            ),
            {"count": count},
        )
        await conn.execute(
            sa.text(
                "INSERT INTO occurrence (schedule_id, planned_at, organization_id, fired_at, state, reason) "
                "SELECT id, created_at, organization_id, created_at, 'skipped', 'missed' FROM schedule"
            )
        )
    async with world.store.database.write() as conn:
        await conn.execute(sa.text("ANALYZE"))


@contextmanager
def counted(store: Store) -> Iterator[list[str]]:
    """Collects the statements that reach the database."""
    statements: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    engine = store.database.engine.sync_engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


async def test_hundreds_due_at_once_are_fired_in_few_transactions(world: World) -> None:
    for n in range(120):
        await world.connect(f"org{n}")
        view = await world.schedule(f"org{n}")
    world.now = view.next[0].starts_at
    with counted(world.store) as statements:
        await world.scheduler().round()
    beginnings = [s for s in statements if "INSERT INTO occurrence" in s]
    assert 120 == len(world.bell.rung)
    assert len(beginnings) <= 2


async def test_scheduler_gives_a_sign_of_life(world: World) -> None:
    assert await world.store.signs.age("scheduler") is None
    await world.scheduler(owner="host-a/1").round()
    age = await world.store.signs.age("scheduler")
    assert age is not None
    assert 0 <= age < 60


@pytest.mark.crash
@pytest.mark.parametrize("moment", ["before_commit", "before_ring"])
async def test_killed_scheduler_loses_nothing_and_doubles_nothing(world: World, database_url: str, moment: str) -> None:
    for n in range(3):
        await world.connect(f"org{n}")
        view = await world.schedule(f"org{n}")
    world.now = view.next[0].starts_at
    process = await asyncio.create_subprocess_exec(
        sys.executable, scheduling.__file__, database_url, world.now.isoformat(), moment, cwd=Path(__file__).parents[2],
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert -signal.SIGKILL == process.returncode, errors.decode()
    ordered = {"before_commit": 0, "before_ring": 3}[moment]
    assert ordered == len(await world.store.runs.due(10))
    for _ in range(2):
        await world.scheduler().round()
    assert 3 == len(await world.store.runs.due(10))
    assert [[("ordered", "")]] * 3 == [await world.told(f"org{n}") for n in range(3)]


async def audited(store: Store) -> list[str]:
    async with store.database.read() as conn:
        rows = await conn.execute(sa.text("SELECT action FROM audit_entry ORDER BY seq"))
        return [row.action for row in rows if row.action.split(".")[0] in ("schedule", "run")]


async def events(store: Store) -> list[str]:
    async with store.database.read() as conn:
        rows = await conn.execute(sa.text("SELECT type FROM outbox ORDER BY seq"))
        return [row.type for row in rows if "succeeded" not in row.type]
