"""Burst, concurrency and credits: off until they are switched on, answered with HTTP 200 when they are reached."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .clock import OSLO
from .errors import BURST, CONCURRENCY, CREDITS

# 20 requests in 5 seconds: a comment in one client, not the vendor's word.
VENDOR_BURST, VENDOR_WINDOW_S = 20, 5.0


@dataclass(slots=True, kw_only=True)
class LimitRules:
    """The numbers in force; 0 switches a limit off. Concurrency and credits are not public: any number is a guess.

    Attributes:
        status: HTTP status of the answer; 200 in every client seen, 429 for what a gateway might do.
        node_credits: What a node costs, beside the one credit of the request.
    """

    burst: int = 0
    window_s: float = VENDOR_WINDOW_S
    concurrency: int = 0
    credits: int = 0
    refill_s: float = 1_200.0
    node_credits: float = 0.0
    status: int = 200


class Meter:
    """What one token has used; limits run on real time, because clients really wait."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque()
        self.running = 0
        self.spent = 0.0
        self.refill_at = 0.0
        self.refused: dict[str, int] = {}

    def enter(self, rules: LimitRules) -> tuple[str, float] | None:
        """Lets a request in, or returns the code of the limit in its way and the seconds until it is worth trying."""
        now = time.monotonic()
        found = self._in_the_way(rules, now)
        if found is not None:
            self.refused[found[0]] = self.refused.get(found[0], 0) + 1
            return found
        self.recent.append(now)
        self.running += 1
        self.spent += 1
        return None

    def leave(self, rules: LimitRules, nodes: int) -> None:
        """Notes that a request is done, and what it cost."""
        self.running -= 1
        self.spent += nodes * rules.node_credits

    def _in_the_way(self, rules: LimitRules, now: float) -> tuple[str, float] | None:
        if now >= self.refill_at:
            self.spent, self.refill_at = 0.0, now + rules.refill_s
        if rules.credits and self.spent >= rules.credits:
            return CREDITS, self.refill_at - now
        while self.recent and self.recent[0] <= now - rules.window_s:
            self.recent.popleft()
        if rules.burst and len(self.recent) >= rules.burst:
            return BURST, self.recent[0] + rules.window_s - now
        if rules.concurrency and self.running >= rules.concurrency:
            return CONCURRENCY, 1.0
        return None


def written_reset(seconds: float, how: str) -> str:
    """Returns ``resetAt``, so many seconds from now; its format is not public."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    if how == "unix":
        return str(int(moment.timestamp()) + 1)
    if how == "oslo":
        return (moment + timedelta(seconds=1)).astimezone(OSLO).strftime("%Y-%m-%dT%H:%M:%S")
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
