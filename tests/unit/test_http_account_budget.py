from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from samband.contract import Limits
from samband.errors import RateLimitedError, UnavailableError
from samband.http.budget import AccountBudget, Patience

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        until = self.seconds + seconds
        await asyncio.sleep(0)
        self.seconds = max(self.seconds, until)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> AccountBudget:
    made = AccountBudget("crm", clock=clock, sleep=clock.sleep)
    made.configure("i", Limits(requests_per_s=10_000, concurrency=10))
    return made


async def use(budget: AccountBudget, outcome: Literal["answered", "failed", "abandoned"], times: int = 1) -> None:
    for _ in range(times):
        async with budget.turn(Patience(30)) as turn:
            turn.outcome = outcome


async def test_nine_failures_leave_the_breaker_closed_and_an_answer_starts_the_count_again(
    budget: AccountBudget,
) -> None:
    await use(budget, "failed", 9)
    await use(budget, "answered")
    await use(budget, "failed", 9)
    assert (budget.snapshot(NOW).breaker, budget.snapshot(NOW).failures) == ("closed", 9)


async def test_the_tenth_failure_in_a_row_opens_it_for_thirty_seconds(budget: AccountBudget, clock: Clock) -> None:
    await use(budget, "failed", 10)
    clock.seconds += 10
    with pytest.raises(UnavailableError) as caught:
        await use(budget, "answered")
    assert (caught.value.code, caught.value.retry_after_s) == ("breaker_open", 20.0)
    assert "crm" in str(caught.value)
    clock.seconds += 20
    assert budget.snapshot(NOW).breaker == "half_open"
    await use(budget, "answered")
    assert (budget.snapshot(NOW).breaker, budget.snapshot(NOW).failures) == ("closed", 0)


async def test_only_one_request_tries_while_it_is_half_open(budget: AccountBudget, clock: Clock) -> None:
    await use(budget, "failed", 10)
    clock.seconds += 30
    async with budget.turn(Patience(30)) as probe:
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await use(budget, "answered")
        probe.outcome = "failed"
    assert budget.snapshot(NOW).breaker == "open"
    clock.seconds += 29
    with pytest.raises(UnavailableError):
        await use(budget, "answered")


async def test_a_try_that_ends_without_a_verdict_gives_its_place_to_the_next(
    budget: AccountBudget, clock: Clock
) -> None:
    await use(budget, "failed", 10)
    clock.seconds += 30
    with pytest.raises(asyncio.CancelledError):
        async with budget.turn(Patience(30)):
            raise asyncio.CancelledError
    assert budget.snapshot(NOW).breaker == "half_open"
    await use(budget, "answered")
    assert budget.snapshot(NOW).breaker == "closed"


async def test_requests_that_were_under_way_do_not_keep_it_open_longer(budget: AccountBudget, clock: Clock) -> None:
    async with budget.turn(Patience(30)) as slow:
        await use(budget, "failed", 10)
        clock.seconds += 25
        slow.outcome = "failed"
    clock.seconds += 5
    await use(budget, "answered")


async def test_a_pause_is_sat_out_within_patience_and_refused_beyond_it(budget: AccountBudget, clock: Clock) -> None:
    patience = Patience(30)
    budget.pause(12, RateLimitedError)
    assert budget.snapshot(NOW).not_before == NOW + timedelta(seconds=12)
    async with budget.turn(patience):
        assert clock.seconds == 12
    assert patience.left_s == 18
    budget.pause(19, UnavailableError)
    with pytest.raises(UnavailableError) as caught:
        async with budget.turn(patience):
            pass
    assert (caught.value.retry_after_s, clock.seconds) == (19, 12)


async def test_a_shorter_pause_does_not_end_a_longer_one(budget: AccountBudget) -> None:
    budget.pause(100, RateLimitedError)
    budget.pause(1, UnavailableError)
    assert budget.snapshot(NOW).not_before == NOW + timedelta(seconds=100)


async def test_those_who_stand_in_line_when_a_pause_begins_wait_too(budget: AccountBudget, clock: Clock) -> None:
    budget.configure("i", Limits(requests_per_s=10_000, concurrency=1))
    started: list[float] = []

    async def next_in_line() -> None:
        async with budget.turn(Patience(30)):
            started.append(clock.seconds)

    async with budget.turn(Patience(30)):
        waiting = asyncio.create_task(next_in_line())
        await asyncio.sleep(0)
        assert budget.snapshot(NOW).waiting == 1
        budget.pause(5, RateLimitedError)
    await waiting
    assert started == [5]


async def test_the_strictest_of_all_that_use_the_account_counts(budget: AccountBudget) -> None:
    budget.configure("other", Limits(requests_per_s=10_000, concurrency=1))
    async with budget.turn(Patience(30)):
        second = asyncio.create_task(use(budget, "answered"))
        await asyncio.sleep(0)
        assert (budget.snapshot(NOW).in_flight, budget.snapshot(NOW).waiting) == (1, 1)
    await second
    budget.configure("other", Limits(requests_per_s=10_000, concurrency=2))
    async with budget.turn(Patience(30)), budget.turn(Patience(30)):
        assert budget.snapshot(NOW).in_flight == 2


async def test_a_cancelled_wait_leaves_no_trace(budget: AccountBudget) -> None:
    budget.configure("i", Limits(requests_per_s=10_000, concurrency=1))
    async with budget.turn(Patience(30)):
        waiting = asyncio.create_task(use(budget, "answered"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert budget.snapshot(NOW).waiting == 0
    await use(budget, "answered")
    assert budget.snapshot(NOW).in_flight == 0
