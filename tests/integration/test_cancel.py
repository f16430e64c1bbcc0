"""A run can be cancelled whatever it is doing, also when its worker is dead, and writes nothing more."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest

from samband.acting import act_for
from samband.errors import ConflictError, NotFoundError, RunCancelledError, UnavailableError
from samband.store import Lease, Store
from samband.views import ErrorView, RunView

from .playing import CHANGES, Bench, Source, people

TROUBLE = ErrorView(code="unavailable", message="They are away.")
PATIENCE_S = 20.0


@pytest.fixture
def source() -> Source:
    return Source("crm", [CHANGES])


@pytest.fixture
async def bench(store: Store, source: Source) -> AsyncIterator[Bench]:
    running = Bench(store, source)
    await running.connect("hlf", "crm")
    yield running
    await running.close()


async def claim(bench: Bench, run: RunView, lease_s: float = 30) -> Lease:
    lease = await bench.store.runs.claim(run.id, "w", lease_s)
    assert lease is not None
    return lease


async def events(bench: Bench) -> list[str]:
    told = await bench.rows("SELECT type FROM outbox WHERE type LIKE '%.run.%' ORDER BY seq")
    return [type.removeprefix("no.samband.run.").removesuffix(".v1") for (type,) in told]


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("state", ["queued", "waiting", "held"])
async def test_run_that_nobody_works_on_ends_at_once(bench: Bench, state: str) -> None:
    run = await bench.service.trigger_sync("hlf", "crm")
    await bench.set_run(run.id, state=state)
    with act_for(actor="key:1 kari"):
        cancelled = await bench.service.runs.cancel("hlf", run.id)
    assert ("cancelled", False) == (cancelled.state, cancelled.is_live)
    assert cancelled.finished_at is not None
    assert ["cancelled"] == await events(bench)
    assert [("samband", "run.ordered"), ("key:1 kari", "run.cancelled")] == await bench.rows(
        "SELECT actor, action FROM audit_entry WHERE action LIKE 'run.%' ORDER BY seq"
    )
    assert [] == await bench.store.runs.due(10)
    assert (await bench.service.trigger_sync("hlf", "crm")).is_live


async def test_repeating_is_harmless_and_is_told_once(bench: Bench) -> None:
    run = await bench.service.trigger_sync("hlf", "crm")
    answers = await asyncio.gather(*(bench.service.runs.cancel("hlf", run.id) for _ in range(5)))
    assert {"cancelled"} == {answer.state for answer in answers}
    assert ["cancelled"] == await events(bench)
    assert 1 == len(await bench.rows("SELECT seq FROM audit_entry WHERE action = 'run.cancelled'"))


async def test_run_that_ended_otherwise_says_how(bench: Bench, source: Source) -> None:
    source.deliver("people", people(range(3)))
    run = await bench.run()
    with pytest.raises(ConflictError) as refused:
        await bench.service.runs.cancel("hlf", run.id)
    assert ("run_ended", "The run has ended already: it succeeded.") == (refused.value.code, refused.value.message)


async def test_anothers_run_is_not_there(bench: Bench) -> None:
    run = await bench.service.trigger_sync("hlf", "crm")
    await bench.connect("nbf")
    with pytest.raises(NotFoundError):
        await bench.service.runs.cancel("nbf", run.id)
    assert "queued" == (await bench.service.runs.get("hlf", run.id)).state


async def test_page_that_comes_after_the_cancellation_is_not_written(bench: Bench, source: Source) -> None:
    source.deliver("people", people(range(5)), people(range(5, 10)), people(range(10, 15)))
    source.held_back_from = 2
    # A heartbeat that is far away, so that it is the write that notices.
    flow = bench.worker("slow", heartbeat_s=3600)
    run = await bench.service.trigger_sync("hlf", "crm")
    working = asyncio.create_task(flow.execute(run.id))
    await until(lambda: source.reached)
    while await bench.held_records() < 10:
        await asyncio.sleep(0.01)
    asked = await bench.service.runs.cancel("hlf", run.id)
    assert ("running", True) == (asked.state, asked.cancel_requested_at is not None)
    source.held_back_from = None
    async with asyncio.timeout(PATIENCE_S):
        await working
    ended = await bench.service.runs.get("hlf", run.id)
    assert ("cancelled", 2, 10) == (ended.state, ended.pages, await bench.held_records())
    assert ["cancelled"] == await events(bench)


async def test_run_that_waits_for_a_page_ends_with_a_heartbeat_and_its_read_is_closed(
    bench: Bench, source: Source
) -> None:
    source.deliver("people", people(range(5)), people(range(5, 10)))
    source.held_back_from = 1
    run = await bench.service.trigger_sync("hlf", "crm")
    working = asyncio.create_task(bench.flow.execute(run.id))
    await until(lambda: source.reached)
    await bench.service.runs.cancel("hlf", run.id)
    async with asyncio.timeout(PATIENCE_S):
        await working
    assert 1 == source.closed
    assert "cancelled" == (await bench.service.runs.get("hlf", run.id)).state
    source.held_back_from = None
    after = await bench.run()
    assert ("succeeded", 10) == (after.state, await bench.held_records())


async def test_every_way_of_letting_go_ends_a_run_that_was_cancelled(bench: Bench) -> None:
    runs = bench.store.runs
    for let_go in (
        lambda lease: runs.release(lease),
        lambda lease: runs.defer(lease, seconds=60, error=TROUBLE, counts=True),
        lambda lease: runs.fail(lease, TROUBLE),
        lambda lease: runs.give_up(lease, TROUBLE),
        lambda lease: runs.end_cancelled(lease),
    ):
        run = await bench.service.trigger_sync("hlf", "crm")
        lease = await claim(bench, run)
        await bench.service.runs.cancel("hlf", run.id)
        with pytest.raises(RunCancelledError):
            await runs.renew(lease, 30)
        await let_go(lease)
        assert "cancelled" == (await bench.service.runs.get("hlf", run.id)).state
    assert ["cancelled"] * 5 == await events(bench)
    assert [] == (await bench.service.runs.dead_letters("hlf")).items


async def test_run_that_had_read_everything_succeeds_though_it_was_cancelled(bench: Bench) -> None:
    run = await bench.service.trigger_sync("hlf", "crm")
    lease = await claim(bench, run)
    await bench.service.runs.cancel("hlf", run.id)
    assert "succeeded" == await bench.store.runs.succeed(lease)


async def test_run_of_a_dead_worker_can_be_cancelled(bench: Bench) -> None:
    run = await bench.service.trigger_sync("hlf", "crm")
    await claim(bench, run, lease_s=-1)
    assert "cancelled" == (await bench.service.runs.cancel("hlf", run.id)).state


# ── the neighbours of each limit, as a crash could have left them ─────────────

BEFORE, AFTER = dt.timedelta(seconds=-1), dt.timedelta(seconds=30)


@pytest.mark.parametrize(
    ("lease", "attempt", "cancelled", "expected"),
    [
        (BEFORE, 0, False, ("succeeded", 0)),  # its worker is dead: again
        (BEFORE, 4, False, ("succeeded", 0)),  # for the last time
        (BEFORE, 5, False, ("failed", 1)),  # the attempts are spent: dead letter
        (BEFORE, 1, True, ("cancelled", 0)),  # cancelled before the crash
        (BEFORE, 5, True, ("cancelled", 0)),
        (AFTER, 1, False, ("running", 0)),  # just inside: left alone
        (AFTER, 5, False, ("running", 0)),
        (AFTER, 1, True, ("running", 0)),  # its worker will notice
    ],
)
async def test_running_row_is_judged_by_its_lease_its_attempts_and_whether_it_was_cancelled(
    bench: Bench, lease: dt.timedelta, attempt: int, cancelled: bool, expected: tuple[str, int]
) -> None:
    run = await bench.service.trigger_sync("hlf", "crm")
    now = dt.datetime.now(dt.UTC)
    await bench.set_run(
        run.id, state="running", fence=1, lease_owner="dead", lease_until=now + lease, attempt=attempt,
        cancel_requested_at=now if cancelled else None,
    )  # fmt: skip
    due = await bench.store.runs.due(10)
    assert ([run.id] if lease == BEFORE else []) == due
    after = await bench.go_on(run)
    assert expected == (after.state, len((await bench.service.runs.dead_letters("hlf")).items))


@pytest.mark.parametrize("state", ["queued", "waiting"])
@pytest.mark.parametrize(("due_in", "expected"), [(BEFORE, "succeeded"), (AFTER, "same")])
async def test_row_that_waits_starts_when_its_time_has_come(
    bench: Bench, state: str, due_in: dt.timedelta, expected: str
) -> None:
    run = await bench.service.trigger_sync("hlf", "crm")
    await bench.set_run(run.id, state=state, available_at=dt.datetime.now(dt.UTC) + due_in)
    after = await bench.go_on(run)
    assert (state if expected == "same" else expected) == after.state


@pytest.mark.parametrize("state", ["held", "succeeded", "partial", "failed", "cancelled"])
async def test_row_that_is_over_or_held_is_left_alone(bench: Bench, state: str) -> None:
    run = await bench.service.trigger_sync("hlf", "crm")
    past = dt.datetime.now(dt.UTC) + BEFORE
    await bench.set_run(run.id, state=state, available_at=past, lease_until=past)
    assert [] == await bench.store.runs.due(10)
    assert state == (await bench.go_on(run)).state


async def test_cancelled_row_that_came_back_to_the_queue_ends_instead_of_starting(bench: Bench, source: Source) -> None:
    run = await bench.service.trigger_sync("hlf", "crm")
    await bench.set_run(run.id, cancel_requested_at=dt.datetime.now(dt.UTC))
    assert [run.id] == await bench.store.runs.due(10)
    assert "cancelled" == (await bench.go_on(run)).state
    assert 0 == source.closed


# ── moving on ────────────────────────────────────────────────────────────────


async def test_waiting_run_is_nudged_and_nothing_else_is(bench: Bench, source: Source) -> None:
    source.trouble = UnavailableError("They are away.", retry_after_s=3600)
    run = await bench.run()
    assert ("waiting", []) == (run.state, await bench.store.runs.due(10))
    other = await bench.store.catalog.integration("hlf", "crm")
    assert [run.id] == await bench.store.runs.nudge(other.id)
    assert [run.id] == await bench.store.runs.due(10)
    source.trouble = None
    assert "succeeded" == (await bench.go_on(run)).state
    assert [] == await bench.store.runs.nudge(other.id)


@pytest.mark.parametrize(
    ("state", "minutes", "stalled"),
    [
        ("queued", 31, True), ("running", 31, True), ("waiting", 31, True), ("waiting", 29, False),
        ("held", 31, False), ("failed", 31, False),
    ],
)  # fmt: skip
async def test_run_without_progress_is_shown_as_stalled(bench: Bench, state: str, minutes: int, stalled: bool) -> None:
    run = await bench.service.trigger_sync("hlf", "crm")
    then = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=minutes)
    await bench.set_run(run.id, state=state, progress_at=then, started_at=then - dt.timedelta(hours=1))
    (listed,) = (await bench.service.runs.page("hlf")).items
    shown = await bench.service.runs.get("hlf", run.id)
    assert (stalled, stalled) == (listed.stalled, shown.stalled)
    status = await bench.service.get_integration_status("hlf", "crm")
    assert stalled == (status.live_run is not None and status.live_run.stalled)
