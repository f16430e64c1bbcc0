"""How fresh what we hold is, measured against when it should have been read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from samband.errors import InvalidError
from samband.rules.schedule import Kept, timing_of

Freshness = Literal["fresh", "overdue", "stale", "unknown"]

STALE_AFTER: Final = dt.timedelta(hours=48)
_LEAST_GRACE: Final = dt.timedelta(minutes=15)
_MOST_GRACE: Final = dt.timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Until when a read is awaited.

    Attributes:
        by: After this the next success is overdue.
        stale_after: After this what we hold is stale.
    """

    by: dt.datetime
    stale_after: dt.datetime

    def judge(self, now: dt.datetime) -> Freshness:
        """Tells how fresh an integration's data is now."""
        if now > self.stale_after:
            return "stale"
        return "overdue" if now > self.by else "fresh"


def expectation(schedules: Iterable[Kept], since: dt.datetime) -> Expectation | None:
    """Gives what is expected after a success, by the schedule that reads soonest; None when nothing is planned.

    A read is overdue when the first one planned after ``since`` has not succeeded within a quarter of the time to the
    one after it (at least 15 minutes, at most 6 hours). So a schedule that rests at night or at the weekend is not
    overdue then. It is stale when the second one has not succeeded either, and never before 48 hours.

    Args:
        since: The last success, or when the integration was switched on if there was none.
    """
    found = [expected for schedule in schedules if (expected := _of(schedule, since)) is not None]
    return min(found, key=lambda expected: expected.by, default=None)


def judge(expected: Expectation | None, now: dt.datetime) -> Freshness:
    """Tells how fresh an integration's data is; ``unknown`` when nothing is expected of it."""
    return "unknown" if expected is None else expected.judge(now)


def _of(schedule: Kept, since: dt.datetime) -> Expectation | None:
    try:
        planned = timing_of(schedule).upcoming(since, 2)
    except InvalidError:
        return None  # the schedule itself says what is wrong with it
    if not planned:
        return None
    first, second = planned[0], planned[-1]
    grace = min(max(_LEAST_GRACE, (second - first) / 4), _MOST_GRACE)
    return Expectation(by=first + grace, stale_after=max(second + grace, since + STALE_AFTER))
