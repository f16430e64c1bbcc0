"""Freshness is measured against the schedule, and nothing is expected where nothing is planned."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import pytest

from samband.rules.freshness import expected_by, expected_period, freshness

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)


def plan(cron: str | None = None, interval_s: int | None = None, zone: str = "Europe/Oslo") -> SimpleNamespace:
    return SimpleNamespace(cron=cron, interval_s=interval_s, zone=zone, anchor_at=NOW)


@pytest.mark.parametrize(
    ("age", "period", "expected"),
    [
        (HOUR / 2, HOUR / 2, "fresh"),
        (HOUR / 2 + dt.timedelta(minutes=15), HOUR / 2, "fresh"),
        (HOUR / 2 + dt.timedelta(minutes=16), HOUR / 2, "overdue"),
        (47 * HOUR, HOUR / 2, "overdue"),
        (49 * HOUR, HOUR / 2, "stale"),
        (30 * HOUR, DAY, "fresh"),
        (31 * HOUR, DAY, "overdue"),
        (54 * HOUR, DAY, "overdue"),
        (55 * HOUR, DAY, "stale"),
        (10 * DAY, 7 * DAY, "overdue"),
        (16 * DAY, 7 * DAY, "stale"),
    ],
)
def test_age_is_judged_by_the_period(age: dt.timedelta, period: dt.timedelta, expected: str) -> None:
    assert expected == freshness(NOW, NOW - age, period)


def test_nothing_is_expected_of_what_is_read_by_hand_or_is_off() -> None:
    assert "unknown" == freshness(NOW, NOW - 100 * DAY, None)
    assert "unknown" == freshness(NOW, None, DAY)
    assert expected_by(NOW, None) is None


def test_expected_by_is_the_moment_it_turns_overdue() -> None:
    by = expected_by(NOW, DAY)
    assert by is not None
    assert ("fresh", "overdue") == (freshness(by, NOW, DAY), freshness(by + HOUR / 60, NOW, DAY))


@pytest.mark.parametrize(
    ("schedules", "expected"),
    [
        ([plan("0 2 * * *")], DAY),
        ([plan("*/30 * * * *"), plan("0 2 * * *")], HOUR / 2),
        ([plan("0 2 * * 1-5")], 3 * DAY),
        ([plan(interval_s=600)], dt.timedelta(minutes=10)),
        ([], None),
        ([plan("not cron")], None),
        ([plan("0 2 * * *", zone="Mars/Olympus")], None),
    ],
)
def test_period_is_the_longest_gap_of_the_most_frequent_schedule(
    schedules: list[SimpleNamespace], expected: dt.timedelta | None
) -> None:
    assert expected == expected_period(schedules, NOW)
