"""A lane carries a plugin's code on a loop of its own and outlives whatever that code does."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from samband.adapters.lane import Lane
from samband.errors import ContractError, PluginError, RejectedError, UnavailableError

HANG = 30  # no test waits this long; it bounds a test that would hang


@pytest.fixture
async def troubles() -> list[str]:
    return []


@pytest.fixture
async def lane(troubles: list[str]) -> AsyncIterator[Lane]:
    lane = Lane("demo", grace_s=0.3, stall_limit_s=HANG, on_trouble=troubles.append)
    yield lane
    await asyncio.wait_for(lane.close(), HANG)


async def thread_name() -> str:
    return threading.current_thread().name


def count_to(last: int, seen: list[int] | None = None) -> Callable[[], AsyncIterator[int]]:
    async def numbers() -> AsyncIterator[int]:
        for number in range(1, last + 1):
            if seen is not None:
                seen.append(number)
            yield number

    return numbers


def same(item: int) -> int:
    return item


async def collect(items: AsyncIterator[int], into: list[int]) -> None:
    async for item in items:
        into.append(item)  # noqa: PERF401 -- what came before an error is kept


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG):
        while not is_so():
            await asyncio.sleep(0.001)


async def test_work_runs_on_the_lanes_own_thread(lane: Lane) -> None:
    assert await lane.run(thread_name, timeout_s=HANG) == "samband-demo"


async def test_an_error_crosses_with_its_type_and_traceback(lane: Lane) -> None:
    async def refuse() -> None:
        raise RejectedError("Not this one.", field="email")

    with pytest.raises(RejectedError, match="Not this one") as caught:
        await lane.run(refuse, timeout_s=HANG)
    assert [entry.name for entry in caught.traceback][-1] == "refuse"
    assert caught.value.field == "email"


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopAsyncIteration(), asyncio.CancelledError()]
)
async def test_what_belongs_to_the_interpreter_becomes_a_broken_promise(lane: Lane, error: BaseException) -> None:
    async def misbehave() -> None:
        raise error

    with pytest.raises(ContractError, match=type(error).__name__):
        await lane.run(misbehave, timeout_s=HANG)
    assert await lane.run(thread_name, timeout_s=HANG) == "samband-demo"


async def test_exiting_in_a_task_of_its_own_does_not_end_the_lane(lane: Lane, troubles: list[str]) -> None:
    async def exit_soon() -> None:
        raise SystemExit(1)

    async def start_and_forget() -> None:
        task = asyncio.get_running_loop().create_task(exit_soon())
        await asyncio.wait([task])
        task.exception()

    await lane.run(start_and_forget, timeout_s=HANG)
    assert await lane.run(thread_name, timeout_s=HANG) == "samband-demo"
    assert troubles == ["raised SystemExit into its event loop"]


async def test_context_variables_are_carried_into_the_lane(lane: Lane) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    tenant.set("dnf")

    async def read() -> str:
        return tenant.get()

    assert await lane.run(read, timeout_s=HANG) == "dnf"


async def test_slow_work_is_cancelled_at_its_time_limit(lane: Lane) -> None:
    cancelled = threading.Event()

    async def wait_for_ever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
        await lane.run(wait_for_ever, timeout_s=0.1)
    assert cancelled.is_set()
    assert lane.abandoned == 0


async def test_cancelling_the_caller_cancels_the_work(lane: Lane) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def wait_for_ever() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    task = asyncio.create_task(lane.run(wait_for_ever, timeout_s=HANG))
    await asyncio.to_thread(started.wait, HANG)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


def block(seconds: float) -> Callable[[], object]:
    async def sleep_wrongly() -> None:
        time.sleep(seconds)  # noqa: ASYNC251 -- this is what a poor plugin does

    return sleep_wrongly


async def test_a_blocked_lane_is_given_up_and_a_fresh_one_takes_over(lane: Lane, troubles: list[str]) -> None:
    with pytest.raises(UnavailableError, match=r"blocked its event loop in integration/test_lane\.py:\d+") as caught:
        await lane.run(block(2), timeout_s=0.1)
    assert caught.value.code == "plugin_stuck"
    assert "sleep_wrongly" in lane.last_stack
    assert lane.abandoned == 1
    assert await lane.run(thread_name, timeout_s=HANG) == "samband-demo"
    assert [reason.partition(" in ")[0] for reason in troubles] == ["blocked its event loop"]


async def test_a_spinning_thread_is_interrupted_so_that_it_stops_burning_the_processor(lane: Lane) -> None:
    threads: list[threading.Thread] = []

    async def spin() -> None:
        threads.append(threading.current_thread())
        while True:
            pass

    with pytest.raises(UnavailableError, match="blocked its event loop"):
        await lane.run(spin, timeout_s=0.2)
    await asyncio.to_thread(threads[0].join, HANG)
    assert not threads[0].is_alive()


async def test_the_core_loop_turns_while_a_plugin_spins_and_another_plugin_works(lane: Lane) -> None:
    async def spin() -> None:
        while True:
            pass

    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = Lane("other", grace_s=0.3)
    counting = asyncio.create_task(count_turns())
    spinning = asyncio.create_task(lane.run(spin, timeout_s=0.5))
    answers = [await other.run(thread_name, timeout_s=HANG) for _ in range(5)]
    with pytest.raises(UnavailableError):
        await spinning
    counting.cancel()
    await other.close()
    assert answers == ["samband-other"] * 5
    assert turns > 5


async def test_everyone_who_waits_for_a_blocked_lane_is_told(lane: Lane) -> None:
    async def never() -> None:
        await asyncio.sleep(3600)

    waiting = asyncio.create_task(lane.run(never, timeout_s=HANG))
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError):
        await lane.run(block(1), timeout_s=0.1)
    with pytest.raises(UnavailableError, match="blocked its event loop"):
        await asyncio.wait_for(waiting, HANG)


async def test_a_lane_that_does_not_turn_is_given_up_before_the_time_limit(troubles: list[str]) -> None:
    lane = Lane("demo", grace_s=0.2, stall_limit_s=0.1, on_trouble=troubles.append)
    with pytest.raises(UnavailableError, match="blocked its event loop"):
        await lane.run(block(3), timeout_s=3600)
    await lane.close()


async def test_stalled_for_s_shows_a_block_while_nobody_waits(lane: Lane) -> None:
    async def block_later() -> None:
        asyncio.get_running_loop().call_soon(time.sleep, 2)

    await lane.run(block_later, timeout_s=HANG)
    assert lane.abandoned == 0
    await until(lambda: lane.stalled_for_s > 0.0)
    await until(lambda: lane.stalled_for_s == 0.0)
    assert await lane.run(thread_name, timeout_s=HANG) == "samband-demo"


async def test_work_that_goes_on_after_its_cancellation_costs_the_plugin_its_lane(
    lane: Lane, troubles: list[str]
) -> None:
    over = threading.Event()

    async def resist() -> None:
        while not over.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    with pytest.raises(UnavailableError, match="went on after it was cancelled"):
        await lane.run(resist, timeout_s=0.1)
    over.set()
    assert troubles == ["went on after it was cancelled"]
    assert await lane.run(thread_name, timeout_s=HANG) == "samband-demo"


async def test_after_three_abandoned_lanes_the_plugin_is_refused(lane: Lane) -> None:
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await lane.run(block(1), timeout_s=0.05)
    with pytest.raises(PluginError, match="did not give its event loop back 3 times") as caught:
        await lane.run(thread_name, timeout_s=HANG)
    assert caught.value.code == "plugin_refused"


async def test_a_closed_lane_refuses_work(lane: Lane) -> None:
    await lane.run(thread_name, timeout_s=HANG)
    await lane.close()
    with pytest.raises(PluginError, match="stopped"):
        await lane.run(thread_name, timeout_s=HANG)


async def test_closing_a_lane_tells_who_waits_and_closes_what_was_registered(lane: Lane) -> None:
    closed: list[str] = []
    started = threading.Event()

    async def close_session() -> None:
        closed.append(threading.current_thread().name)

    async def open_session_and_wait() -> None:
        lane.at_end(close_session)
        started.set()
        await asyncio.sleep(3600)

    waiting = asyncio.create_task(lane.run(open_session_and_wait, timeout_s=HANG))
    await asyncio.to_thread(started.wait, HANG)
    await lane.close()
    with pytest.raises(UnavailableError, match="host stops"):
        await waiting
    assert closed == ["samband-demo"]


# ── iterating ────────────────────────────────────────────────────────────────


async def test_items_come_in_order_and_prepared_inside_the_lane(lane: Lane) -> None:
    def prepare(number: int) -> tuple[int, str]:
        return number, threading.current_thread().name

    items = [item async for item in lane.iterate(count_to(4), timeout_s=HANG, prepare=prepare)]
    assert items == [(number, "samband-demo") for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("ahead", [0, 1, 3])
async def test_no_more_than_ahead_items_are_fetched_while_one_is_stored(lane: Lane, ahead: int) -> None:
    fetched: list[int] = []
    most = 0
    async with aclosing(lane.iterate(count_to(20, fetched), timeout_s=HANG, prepare=same, ahead=ahead)) as items:
        async for item in items:
            await asyncio.sleep(0.005)  # storing it
            most = max(most, len(fetched) - item)
    assert fetched == list(range(1, 21))
    assert most <= ahead


async def test_the_next_item_is_fetched_while_one_is_stored(lane: Lane) -> None:
    fetched: list[int] = []
    async with aclosing(lane.iterate(count_to(5, fetched), timeout_s=HANG, prepare=same)) as items:
        async for item in items:
            wanted = min(5, item + 1)
            await until(lambda: len(fetched) >= wanted)  # noqa: B023 -- awaited before the next turn
    assert fetched == [1, 2, 3, 4, 5]


async def test_never_more_than_two_items_are_alive(lane: Lane) -> None:
    class Item:
        pass

    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    most = 0

    class Reader:
        left = 20

        def __aiter__(self) -> Reader:
            return self

        async def __anext__(self) -> Item:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            item = Item()
            alive.add(item)
            return item

    def keep(item: Item) -> Item:
        return item

    gc.collect()
    gc.freeze()  # whatever the tests before have left would be looked through twenty times
    async with aclosing(lane.iterate(Reader, timeout_s=HANG, prepare=keep)) as items:
        async for item in items:
            del item  # stored; a flow that keeps it would hold one more
            await asyncio.sleep(0.002)
            gc.collect()
            most = max(most, len(alive))
    assert most <= 2


async def test_closing_the_consumer_closes_the_iterator_inside_the_lane(lane: Lane) -> None:
    closed: list[str] = []

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(threading.current_thread().name)

    async with aclosing(lane.iterate(endless, timeout_s=HANG, prepare=same)) as items:
        async for _ in items:
            break
    assert closed == ["samband-demo"]


async def test_cancelling_the_consumer_closes_the_iterator_inside_the_lane(lane: Lane) -> None:
    waiting, closed = threading.Event(), threading.Event()

    async def stuck_after_one() -> AsyncIterator[int]:
        try:
            yield 1
            waiting.set()
            await asyncio.sleep(3600)
        finally:
            closed.set()

    async def consume() -> None:
        async with aclosing(lane.iterate(stuck_after_one, timeout_s=HANG, prepare=same)) as items:
            async for _ in items:
                pass

    task = asyncio.create_task(consume())
    await asyncio.to_thread(waiting.wait, HANG)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()


async def test_an_error_comes_after_the_items_that_preceded_it(lane: Lane) -> None:
    async def two_then_fail() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise RejectedError("No third.")

    got: list[int] = []
    with pytest.raises(RejectedError, match="No third"):
        await collect(lane.iterate(two_then_fail, timeout_s=HANG, prepare=same), got)
    assert got == [1, 2]


async def test_an_end_raised_while_preparing_is_not_taken_for_the_end_of_the_read(lane: Lane) -> None:
    def prepare(item: int) -> int:
        raise StopAsyncIteration

    with pytest.raises(ContractError, match="StopAsyncIteration"):
        await collect(lane.iterate(count_to(3), timeout_s=HANG, prepare=prepare), [])


async def test_the_time_limit_counts_per_item(lane: Lane) -> None:
    async def slow_third() -> AsyncIterator[int]:
        yield 1
        yield 2
        await asyncio.sleep(3600)
        yield 3

    got: list[int] = []
    with pytest.raises(TimeoutError):
        await collect(lane.iterate(slow_third, timeout_s=0.2, prepare=same), got)
    assert got == [1, 2]


async def test_a_generator_that_hangs_while_it_is_closed_costs_no_more_than_the_grace(lane: Lane) -> None:
    async def hang_at_end() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(3600)

    async with asyncio.timeout(HANG):
        async with aclosing(lane.iterate(hang_at_end, timeout_s=HANG, prepare=same)) as items:
            async for _ in items:
                break
    assert await lane.run(thread_name, timeout_s=HANG) == "samband-demo"
