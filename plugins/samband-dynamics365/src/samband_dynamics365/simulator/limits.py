"""Service protection limits: requests, execution time and concurrency per user.

Source: "Service protection API limits": 6,000 requests and 1,200 seconds of execution within a sliding window of 300
seconds, 52 requests at once. ``Retry-After`` grows while a client keeps pushing. Each limit can be set low for tests.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import ApiError

REQUESTS = "0x80072322"
EXECUTION = "0x80072321"
CONCURRENCY = "0x80072326"


@dataclass(slots=True, kw_only=True)
class LimitRules:
    """The numbers of the three limits.

    ``growth_s`` is added to ``Retry-After`` for every request sent while blocked (the size of the step is assumed);
    ``cost_s`` is charged as execution time on top of what a request really took.
    """

    requests: int = 6_000
    execution_s: float = 1_200.0
    concurrency: int = 52
    window_s: float = 300.0
    growth_s: float = 2.0
    cost_s: float = 0.0


@dataclass(slots=True)
class _Usage:
    starts: deque[float] = field(default_factory=deque)
    spent: deque[tuple[float, float]] = field(default_factory=deque)
    spent_s: float = 0.0
    running: int = 0
    blocked_until: float = 0.0
    reason: str = ""


class ServiceLimits:
    """Counts what each user does and refuses what goes beyond."""

    def __init__(self, rules: LimitRules, clock: Callable[[], float]) -> None:
        self.rules = rules
        self.clock = clock
        self.usage: dict[str, _Usage] = {}
        self.refusals = 0

    def enter(self, user_id: str, weight: int = 1) -> None:
        """Admits one request of a user, or raises the refusal with its ``Retry-After``."""
        now = self.clock()
        usage = self.usage.setdefault(user_id, _Usage())
        self._slide(usage, now)
        if usage.running >= self.rules.concurrency:
            raise self._refuse(CONCURRENCY, 1.0 * self.rules.growth_s)
        if now < usage.blocked_until:
            usage.blocked_until += self.rules.growth_s
            raise self._refuse(usage.reason, usage.blocked_until - now)
        reason = self._exceeded(usage)
        if reason is not None:
            usage.blocked_until, usage.reason = self._room_at(usage, reason, now), reason
            raise self._refuse(reason, usage.blocked_until - now)
        usage.starts.extend([now] * weight)
        usage.running += 1

    def leave(self, user_id: str, seconds: float) -> None:
        """Books the end of an admitted request and the time it took."""
        usage = self.usage.get(user_id)
        if usage is None:
            return
        usage.running = max(usage.running - 1, 0)
        cost = seconds + self.rules.cost_s
        usage.spent.append((self.clock(), cost))
        usage.spent_s += cost

    def remaining(self, user_id: str) -> tuple[int, float]:
        """Returns the requests and the seconds of execution a user has left in this window."""
        usage = self.usage.get(user_id, _Usage())
        return max(self.rules.requests - len(usage.starts), 0), max(self.rules.execution_s - usage.spent_s, 0.0)

    def _slide(self, usage: _Usage, now: float) -> None:
        edge = now - self.rules.window_s
        while usage.starts and usage.starts[0] <= edge:
            usage.starts.popleft()
        while usage.spent and usage.spent[0][0] <= edge:
            usage.spent_s -= usage.spent.popleft()[1]

    def _exceeded(self, usage: _Usage) -> str | None:
        if len(usage.starts) >= self.rules.requests:
            return REQUESTS
        return EXECUTION if usage.spent_s >= self.rules.execution_s else None

    def _room_at(self, usage: _Usage, reason: str, now: float) -> float:
        oldest = now
        if reason == REQUESTS and usage.starts:
            oldest = usage.starts[0]
        elif usage.spent:
            oldest = usage.spent[0][0]
        return max(oldest + self.rules.window_s, now)

    def _refuse(self, code: str, wait_s: float) -> ApiError:
        self.refusals += 1
        return limit_error(code, str(max(math.ceil(wait_s), 1)), self.rules)


def limit_error(code: str, retry_after: str | None, rules: LimitRules) -> ApiError:
    """Returns the documented refusal of one of the three limits."""
    window = f"{rules.window_s:g}"
    texts = {
        REQUESTS: f"Number of requests exceeded the limit of {rules.requests} over time window of {window} seconds.",
        EXECUTION: (
            f"Combined execution time of incoming requests exceeded limit of {rules.execution_s * 1000:,.0f} "
            f"milliseconds over time window of {window} seconds. Decrease number of concurrent requests or reduce the "
            "duration of requests and try again later."
        ),
        CONCURRENCY: f"Number of concurrent requests exceeded the limit of {rules.concurrency}.",
    }
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return ApiError(429, code, texts.get(code, "Too many requests."), headers)
