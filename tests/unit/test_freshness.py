"""Freshness is measured against the schedule, and nothing is expected where nothing is planned."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import pytest

from samband.rules.freshness import expectation, judge

# A Friday; Oslo is two hours ahead of UTC.
FRIDAY = dt.datetime(2026, 6, 5, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)


def plan(cron: str | None = None, interval_s: int | None = None, zone: str = "Europe/Oslo") -> SimpleNamespace:
    return SimpleNamespace(cron=cron, interval_s=interval_s, zone=zone, anchor_at=FRIDAY)


def state(schedules: list[SimpleNamespace], success: dt.datetime, now: dt.datetime) -> str:
    return judge(expectation(schedules, success), now)


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (HOUR / 2, "fresh"),
        (HOUR * 0.75, "fresh"),
        (HOUR * 0.76, "overdue"),
        (47 * HOUR, "overdue"),
        (48 * HOUR, "overdue"),
        (48 * HOUR + HOUR / 60, "stale"),
    ],
)
def test_half_hourly_read_is_overdue_after_a_quarter_of_an_hour_and_stale_after_two_days(
    age: dt.timedelta, expected: str
) -> None:
    assert expected == state([plan(interval_s=1800)], FRIDAY, FRIDAY + age)


@pytest.mark.parametrize(
    ("hours", "expected"), [(24, "fresh"), (29, "fresh"), (31, "overdue"), (54, "overdue"), (55, "stale")]
)
def test_nightly_read_has_six_hours_of_grace(hours: float, expected: str) -> None:
    assert expected == state([plan(interval_s=86_400)], FRIDAY, FRIDAY + hours * HOUR)


def test_schedule_that_rests_at_the_weekend_is_not_late_then() -> None:
    office_hours = [plan("*/15 7-16 * * 1-5")]
    last = FRIDAY + 14.75 * HOUR  # 16:45 in Oslo, the last one of the week
    for later in (1 * HOUR, 20 * HOUR, 2 * DAY):
        assert "fresh" == state(office_hours, last, last + later)
    monday = FRIDAY + 3 * DAY + 5 * HOUR  # 07:00 in Oslo
    assert ("fresh", "stale") == (
        state(office_hours, last, monday + HOUR / 4),
        state(office_hours, last, monday + 2 * HOUR),
    )


def test_soonest_of_several_schedules_counts() -> None:
    both = [plan("0 2 * * *"), plan(interval_s=1800)]
    assert "overdue" == state(both, FRIDAY, FRIDAY + HOUR)


def test_nothing_is_expected_of_what_is_read_by_hand_or_cannot_be_understood() -> None:
    for schedules in ([], [plan("not cron")], [plan("0 2 * * *", zone="Mars/Olympus")]):
        assert "unknown" == state(schedules, FRIDAY, FRIDAY + 100 * DAY)
