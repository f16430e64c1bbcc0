"""How many requests this process has made for an account this month.

The licence covers a number of requests a month and every further one costs money (Xledger's price list). Xledger tells the
number nowhere that we know of, and a plugin keeps nothing: what is counted here is what this process has sent since it
started, so a warning comes late rather than early when there are several processes or when one was started anew.
"""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Final

from samband import Context

WARN_AT: Final = 0.8
"""The share of the month's requests at which a warning is logged, once."""


class Tally:
    """Requests by account and month. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._month: dict[str, str] = {}
        self._count: dict[str, int] = {}
        self._warned: set[tuple[str, str]] = set()

    def add(self, ctx: Context, account: str, *, allowance: int | None) -> int:
        """Counts one request and gives how many there were this month; warns once at 80 % of the allowance."""
        month = f"{ctx.now():%Y-%m}"
        with self._lock:
            if self._month.get(account) != month:
                self._month[account], self._count[account] = month, 0
            self._count[account] += 1
            count = self._count[account]
            is_due = allowance is not None and count >= allowance * WARN_AT and (account, month) not in self._warned
            if is_due:
                self._warned.add((account, month))
        if is_due:
            ctx.log.warning(
                "monthly_requests_nearly_used",
                account=account,
                month=month,
                requests=count,
                allowance=allowance,
                counted="by this process since it started",
            )
        return count

    def count(self, account: str, now: datetime) -> int:
        """Gives how many requests were counted this month."""
        with self._lock:
            return self._count.get(account, 0) if self._month.get(account) == f"{now:%Y-%m}" else 0


TALLY: Final = Tally()
"""The process's own."""
