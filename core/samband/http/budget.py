"""What one external account may be asked for now: rate, requests in flight, pauses they asked for, and the breaker.

Rate limits of the other side count per account, not per integration, so everything that uses the same account in
this process shares one `AccountBudget`. Several worker processes do not share it: give each its part in `Limits`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from aiolimiter import AsyncLimiter

from samband.contract import Limits
from samband.errors import RateLimitedError, RetryableError, UnavailableError

__all__ = ["AccountBudget", "BreakerState", "BudgetSnapshot", "Patience", "Turn"]

BreakerState = Literal["closed", "open", "half_open"]

FAILURES_TO_OPEN: Final = 10
OPEN_S: Final = 30.0
_ASK_AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSnapshot:
    """How one external account is doing, for status pages and metrics.

    Attributes:
        waiting: Requests that wait for the rate, for a place or for a pause to end.
        in_flight: Requests that are being made.
        not_before: The end of the pause the other side asked for, aware UTC; None when there is none.
        breaker: ``open`` while nothing is sent after ten failures in a row, ``half_open`` while one request tries.
        failures: Failures in a row up to now.
    """

    waiting: int = 0
    in_flight: int = 0
    not_before: datetime | None = None
    breaker: BreakerState = "closed"
    failures: int = 0


@dataclass(slots=True)
class Patience:
    """The seconds of asked-for pauses that one call may still sit out inside a worker."""

    left_s: float


@dataclass(slots=True)
class Turn:
    """One admitted request; whoever makes it says how it went. Unsaid means that nothing was learned."""

    outcome: Literal["answered", "failed", "abandoned"] = "abandoned"


class _Breaker:
    """Stops asking an account that has failed ten times in a row, and lets one request try after 30 seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open_until: float | None = None
        self._probing = False
        self.failures = 0

    @property
    def state(self) -> BreakerState:
        if self._open_until is None:
            return "closed"
        return "half_open" if self._probing or self._clock() >= self._open_until else "open"

    @property
    def refuses_for_s(self) -> float:
        """Seconds until it is worth asking again; 0 when a request may go now."""
        if self._open_until is None:
            return 0.0
        if self._probing:
            return _ASK_AGAIN_S
        return max(0.0, self._open_until - self._clock())

    def enter(self) -> None:
        self._probing = self._open_until is not None

    def leave(self, turn: Turn, *, was_probe: bool) -> None:
        if was_probe:
            self._probing = False
        if turn.outcome == "answered":
            self.failures, self._open_until = 0, None
        elif turn.outcome == "failed":
            self.failures += 1
            if was_probe or (self.failures >= FAILURES_TO_OPEN and self._open_until is None):
                self._open_until = self._clock() + OPEN_S


class AccountBudget:
    """The shared allowance of one external account on one event loop.

    Args:
        account: Its name, for messages.
        clock: Monotonic seconds.
        sleep: Waits for seconds; tests put a clock of their own here.
    """

    def __init__(
        self, account: str, *, clock: Callable[[], float], sleep: Callable[[float], Awaitable[object]]
    ) -> None:
        self._account = account
        self._clock = clock
        self._sleep = sleep
        self._breaker = _Breaker(clock)
        self._limits: dict[str, Limits] = {}
        self._allowance: tuple[float, int] | None = None
        self._not_before = float("-inf")
        self._pause_kind: type[RetryableError] = RateLimitedError
        self._waiting = 0
        self._in_flight = 0

    def configure(self, integration_id: str, limits: Limits) -> None:
        """Sets what one integration allows; the strictest of all that use the account counts.

        A changed allowance starts with fresh counters, so for a moment the old and the new one add up.
        """
        self._limits[integration_id] = limits
        rate = min(each.requests_per_s for each in self._limits.values())
        places = min(each.concurrency for each in self._limits.values())
        if (rate, places) == self._allowance:
            return
        self._allowance = (rate, places)
        # AsyncLimiter hands out whole requests, so a rate below one is one request in a longer period.
        burst = max(1.0, rate)
        self._rate = AsyncLimiter(burst, burst / rate)
        self._places = asyncio.Semaphore(max(1, places))

    def pause(self, seconds: float, kind: type[RetryableError]) -> None:
        """Lets nobody send before that many seconds are over; ``kind`` is what those hear who cannot wait so long."""
        until = self._clock() + seconds
        if until > self._not_before:
            self._not_before, self._pause_kind = until, kind

    @property
    def refuses_for_s(self) -> float:
        """Seconds for which the breaker lets nothing through; 0 when it does."""
        return self._breaker.refuses_for_s

    def snapshot(self, now: datetime) -> BudgetSnapshot:
        """Gives the present state; ``now`` turns the internal clock into a point in time."""
        left = self._not_before - self._clock()
        return BudgetSnapshot(
            waiting=self._waiting,
            in_flight=self._in_flight,
            not_before=now + timedelta(seconds=left) if left > 0 else None,
            breaker=self._breaker.state,
            failures=self._breaker.failures,
        )

    @asynccontextmanager
    async def turn(self, patience: Patience) -> AsyncIterator[Turn]:
        """Waits for a place and yields it for one request.

        Raises:
            RateLimitedError: They asked for a pause that is longer than ``patience`` allows to sit out here.
            UnavailableError: The same after a 503, or the breaker is open. Nothing was sent in either case.
        """
        places = await self._admitted(patience)
        try:
            self._refuse_if_open()
            was_probe = self._breaker.state != "closed"
            self._breaker.enter()
            turn = Turn()
            self._in_flight += 1
            try:
                yield turn
            finally:
                self._in_flight -= 1
                self._breaker.leave(turn, was_probe=was_probe)
        finally:
            places.release()

    async def _admitted(self, patience: Patience) -> asyncio.Semaphore:
        self._waiting += 1
        try:
            while True:
                self._refuse_if_open()
                await self._sit_out_pause(patience)
                await self._rate.acquire()
                places = self._places
                await places.acquire()
                if self._not_before <= self._clock():
                    return places
                places.release()  # a pause began while we stood in line
        finally:
            self._waiting -= 1

    async def _sit_out_pause(self, patience: Patience) -> None:
        while (left := self._not_before - self._clock()) > 0:
            if left > patience.left_s:
                raise self._pause_kind(
                    f"The account {self._account} is in a pause of {left:.0f} more seconds that they asked for.",
                    retry_after_s=left,
                )
            patience.left_s -= left
            await self._sleep(left)

    def _refuse_if_open(self) -> None:
        left = self._breaker.refuses_for_s
        if left > 0:
            raise UnavailableError(
                f"The account {self._account} failed {self._breaker.failures} times in a row; "
                f"the next try is in {left:.0f} seconds.",
                code="breaker_open",
                retry_after_s=left,
            )
