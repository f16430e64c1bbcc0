"""How fresh what we hold is, measured against when it should have been read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, Literal

from samband.errors import InvalidError
from samband.rules.schedule import Kept, timing_of

Freshness = Literal["fresh", "overdue", "stale", "unknown"]

WARN_AFTER: Final = dt.timedelta(hours=24)
STALE_AFTER: Final = dt.timedelta(hours=48)
_LEAST_GRACE: Final = dt.timedelta(minutes=15)
# A week of a daily schedule, so that its weekend is seen.
_TIMES_LOOKED_AT: Final = 8


def freshness(now: dt.datetime, since: dt.datetime | None, period: dt.timedelta | None) -> Freshness:
    """Tells how fresh an integration's data is.

    Args:
        since: The last success, or when it was switched on if there was none; None when it is not switched on.
        period: See `expected_period`; None when it is read by hand only, and nothing is expected.

    A read is overdue once its period and a quarter of it (at least 15 minutes) have gone by without a success. It is
    stale after two periods and that grace, and never before 48 hours.
    """
    if since is None or period is None:
        return "unknown"
    grace, age = max(_LEAST_GRACE, period / 4), now - since
    if age > max(2 * period + grace, STALE_AFTER):
        return "stale"
    return "overdue" if age > period + grace else "fresh"


def expected_by(since: dt.datetime | None, period: dt.timedelta | None) -> dt.datetime | None:
    """Gives the instant after which the next success is overdue."""
    if since is None or period is None:
        return None
    return since + period + max(_LEAST_GRACE, period / 4)


def expected_period(schedules: Iterable[Kept], now: dt.datetime) -> dt.timedelta | None:
    """Gives the longest time that may lie between two planned reads, by the schedule that reads most often.

    "Every weekday at 02:00" has three days in it, so of one schedule the longest gap counts; of several schedules the
    most frequent one does. None when nothing is planned.
    """
    periods = [period for schedule in schedules if (period := _longest_gap(schedule, now)) is not None]
    return min(periods, default=None)


def _longest_gap(schedule: Kept, now: dt.datetime) -> dt.timedelta | None:
    try:
        times = timing_of(schedule).upcoming(now, _TIMES_LOOKED_AT)
    except InvalidError:
        return None  # the schedule itself says what is wrong with it
    return max((later - earlier for earlier, later in pairwise(times)), default=None)
