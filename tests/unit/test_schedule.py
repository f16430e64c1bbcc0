"""When schedules are due: across clock changes, after down time, with jitter, and in words."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from samband.errors import InvalidError
from samband.rules.schedule import (
    MAX_CAUGHT_UP,
    Overdue,
    Timing,
    jitter,
    known_zones,
    overdue,
    read_timing,
    reckon,
    to_local,
)

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ONE_S, DAY, HOUR, MINUTE = dt.timedelta(seconds=1), dt.timedelta(days=1), dt.timedelta(hours=1), dt.timedelta(minutes=1)
# The local Sundays of both changes: an hour in Oslo and New York, half an hour on Lord Howe Island.
CHANGES = [
    ("Europe/Oslo", dt.date(2026, 3, 29)),
    ("Europe/Oslo", dt.date(2026, 10, 25)),
    ("America/New_York", dt.date(2026, 3, 8)),
    ("America/New_York", dt.date(2026, 11, 1)),
    ("Australia/Lord_Howe", dt.date(2026, 4, 5)),
    ("Australia/Lord_Howe", dt.date(2026, 10, 4)),
]
changes = st.sampled_from(CHANGES)
unhurried = settings(deadline=None)  # how long an example takes is no property


def timing(cron: str | None = None, zone: str = "Europe/Oslo", *, interval_s: int | None = None) -> Timing:
    return read_timing(cron=cron, interval_s=interval_s, zone=zone, anchor_at=START)


def midnight(zone: str, day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), ZoneInfo(zone)).astimezone(dt.UTC)


def fired_between(plan: Timing, since: dt.datetime, until: dt.datetime) -> list[dt.datetime]:
    found, planned = [], plan.after(since - ONE_S)
    while planned is not None and planned < until:
        found.append(planned)
        planned = plan.after(planned)
    return found


# ── the two Sundays ──────────────────────────────────────────────────────────


@unhurried
@given(change=changes, minute=st.integers(0, 59), hour=st.integers(0, 23))
@example(change=CHANGES[0], minute=30, hour=2)
@example(change=CHANGES[0], minute=17, hour=2)
@example(change=CHANGES[1], minute=30, hour=2)
@example(change=CHANGES[4], minute=45, hour=1)
@example(change=CHANGES[5], minute=15, hour=2)
def test_daily_schedule_fires_exactly_once_on_every_local_day(
    change: tuple[str, dt.date], minute: int, hour: int
) -> None:
    zone, sunday = change
    first, last = sunday - 3 * DAY, sunday + 4 * DAY
    fired = fired_between(timing(f"{minute} {hour} * * *", zone), midnight(zone, first), midnight(zone, last))
    assert [first + n * DAY for n in range(7)] == [p.astimezone(ZoneInfo(zone)).date() for p in fired]
    assert all(a < b for a, b in pairwise(fired))
    assert {0} == {planned.second for planned in fired}


@pytest.mark.parametrize(
    ("zone", "day", "cron", "local"),
    [
        ("Europe/Oslo", dt.date(2026, 3, 29), "30 2 * * *", "2026-03-29T03:00:00+02:00"),
        ("Europe/Oslo", dt.date(2026, 3, 29), "17 2 * * *", "2026-03-29T03:00:00+02:00"),
        ("Europe/Oslo", dt.date(2026, 3, 29), "59 2 * * *", "2026-03-29T03:00:00+02:00"),
        ("Europe/Oslo", dt.date(2026, 3, 29), "0 3 * * *", "2026-03-29T03:00:00+02:00"),
        ("Europe/Oslo", dt.date(2026, 10, 25), "30 2 * * *", "2026-10-25T02:30:00+02:00"),
        ("America/New_York", dt.date(2026, 3, 8), "30 2 * * *", "2026-03-08T03:00:00-04:00"),
        ("America/New_York", dt.date(2026, 11, 1), "30 1 * * *", "2026-11-01T01:30:00-04:00"),
        ("Australia/Lord_Howe", dt.date(2026, 10, 4), "15 2 * * *", "2026-10-04T02:30:00+11:00"),
        ("Australia/Lord_Howe", dt.date(2026, 4, 5), "45 1 * * *", "2026-04-05T01:45:00+11:00"),
    ],
)
def test_skipped_time_comes_right_after_the_change_and_repeated_one_the_first_time(
    zone: str, day: dt.date, cron: str, local: str
) -> None:
    (fired,) = fired_between(timing(cron, zone), midnight(zone, day), midnight(zone, day + DAY))
    assert local == to_local(fired, zone)


@unhurried
@given(change=changes, minute=st.integers(0, 59), hours=st.sampled_from(["*", "*/2", "*/3", "*/12"]))
def test_starred_hours_fire_at_every_real_instant_whose_local_time_fits(
    change: tuple[str, dt.date], minute: int, hours: str
) -> None:
    zone, sunday = change
    since, until = midnight(zone, sunday - DAY), midnight(zone, sunday + 2 * DAY)
    step = int(hours.partition("/")[2] or 1)
    expected = [at for at in _minutes(since, until) if _fits(at.astimezone(ZoneInfo(zone)), minute, step)]
    assert expected == fired_between(timing(f"{minute} {hours} * * *", zone), since, until)


def _minutes(since: dt.datetime, until: dt.datetime) -> list[dt.datetime]:
    return [since + n * MINUTE for n in range((until - since) // MINUTE)]


def _fits(local: dt.datetime, minute: int, step: int) -> bool:
    return local.minute == minute and local.hour % step == 0


@unhurried
@given(change=changes, minute=st.integers(0, 59), hours=st.sets(st.integers(0, 3), min_size=1))
def test_named_times_come_when_the_clock_first_reaches_or_passes_them(
    change: tuple[str, dt.date], minute: int, hours: set[int]
) -> None:
    zone, sunday = change
    since, until = midnight(zone, sunday - DAY), midnight(zone, sunday + 2 * DAY)
    expected, furthest = [], dt.datetime.combine(sunday - DAY, dt.time()) - MINUTE
    for at in _minutes(since, until):
        shown = at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        reached = [furthest + n * MINUTE for n in range(1, (shown - furthest) // MINUTE + 1)]
        if any(wall.minute == minute and wall.hour in hours for wall in reached):
            expected.append(at)
        furthest = max(furthest, shown)
    cron = f"{minute} {','.join(str(hour) for hour in sorted(hours))} * * *"
    assert expected == fired_between(timing(cron, zone), since, until)


@unhurried
@given(change=st.sampled_from(CHANGES[:4]), minute=st.integers(0, 59))
def test_hourly_schedule_fires_in_every_real_hour(change: tuple[str, dt.date], minute: int) -> None:
    zone, sunday = change
    fired = fired_between(
        timing(f"{minute} * * * *", zone), midnight(zone, sunday - DAY), midnight(zone, sunday + 2 * DAY)
    )
    assert {HOUR} == {b - a for a, b in pairwise(fired)}


@pytest.mark.parametrize(
    ("zone", "cron"),
    [("Europe/Oslo", "50 */5 * * *"), ("Antarctica/Troll", "* 2 * * SUN"), ("Africa/Casablanca", "*/20 * * * *")],
)
def test_starred_schedule_misses_nothing_in_a_year(zone: str, cron: str) -> None:
    until = START + 366 * DAY
    minutes = {"*/20": range(0, 60, 20), "50": [50], "*": range(60)}[cron.split()[0]]
    hours = {"*": range(24), "*/5": range(0, 24, 5), "2": [2]}[cron.split()[1]]
    expected = []
    for at in _minutes(START, until):
        local = at.astimezone(ZoneInfo(zone))
        if local.minute in minutes and local.hour in hours and (not cron.endswith("SUN") or local.weekday() == 6):
            expected.append(at)
    assert expected == fired_between(timing(cron, zone), START, until)


crons = st.builds(
    lambda m, h, d: f"{m} {h} {d}",
    st.sampled_from(["0", "30", "59", "0,30", "*/15", "*", "10-20/5"]),
    st.sampled_from(["*", "2", "1-3", "*/4", "0,2,3", "23"]),
    st.sampled_from(["* * *", "1 * *", "* * SUN", "L * *", "*/2 * MON"]),
)
instants = st.builds(
    lambda change, s: midnight(change[0], change[1]) + s * ONE_S, changes, st.integers(-2 * 86_400, 3 * 86_400)
)


@unhurried
@given(cron=crons, zone=st.sampled_from([c[0] for c in CHANGES]), since=instants, later=st.integers(0, 12))
def test_planned_times_are_the_same_whenever_one_asks(cron: str, zone: str, since: dt.datetime, later: int) -> None:
    plan = timing(cron, zone)
    shown = plan.upcoming(since, 14)
    assert all(a < b for a, b in pairwise([since, *shown]))
    # Asked again later, also in the middle between two planned times, the rest is what was shown.
    between = shown[later] + (shown[later + 1] - shown[later]) / 2
    for asked in (shown[later], between, shown[later + 1] - dt.timedelta(milliseconds=1)):
        assert shown[later + 1] == plan.after(asked)


@unhurried
@given(cron=crons, zone=st.sampled_from([c[0] for c in CHANGES]), since=instants, hours=st.integers(0, 60))
def test_newest_planned_times_are_the_end_of_all_of_them(cron: str, zone: str, since: dt.datetime, hours: int) -> None:
    plan, until = timing(cron, zone), since + hours * HOUR
    every = fired_between(plan, since + ONE_S, until + ONE_S)
    assert (every[-7:], len(every) > 7) == plan.newest(since, until, 7)
    assert min(len(every), 20) == plan.count(since, until, 20)


# ── intervals ────────────────────────────────────────────────────────────────


@unhurried
@given(interval_s=st.integers(60, 100_000), asked=st.lists(st.integers(0, 10_000_000), min_size=1, max_size=20))
def test_interval_keeps_its_phase_whenever_one_asks(interval_s: int, asked: list[int]) -> None:
    plan = timing(interval_s=interval_s)
    for seconds in asked:
        planned = plan.after(START + seconds * ONE_S)
        assert planned is not None
        assert dt.timedelta(0) == (planned - START) % dt.timedelta(seconds=interval_s)
        assert 0 < (planned - START - seconds * ONE_S).total_seconds() <= interval_s
    since, until = START + asked[0] * ONE_S, START + 10_000_000 * ONE_S
    every = len(range(10_000_000 // interval_s + 1)) - 1 - asked[0] // interval_s
    newest, has_more = plan.newest(since, until, 5)
    assert (min(every, 5), every > 5, every) == (len(newest), has_more, plan.count(since, until, 10**9))


def test_interval_is_not_touched_by_a_clock_change() -> None:
    fired = timing(interval_s=1800).upcoming(dt.datetime(2026, 3, 29, tzinfo=dt.UTC), 10)
    assert {30 * MINUTE} == {b - a for a, b in pairwise(fired)}


# ── jitter ───────────────────────────────────────────────────────────────────

names = st.text(st.characters(codec="utf-8"), max_size=20)


@unhurried
@given(organization=names, name=names, window_s=st.integers(0, 21_600))
def test_jitter_is_always_the_same_and_stays_inside_its_window(organization: str, name: str, window_s: int) -> None:
    offset = jitter(organization, name, window_s)
    assert offset == jitter(organization, name, window_s)
    assert dt.timedelta(0) <= offset < max(window_s * ONE_S, dt.timedelta(microseconds=1))


def test_jitter_spreads_organisations_over_the_window() -> None:
    tenths = [int(jitter(f"org-{n}", "nightly", 1000).total_seconds() // 100) for n in range(1000)]
    assert all(50 < tenths.count(tenth) < 150 for tenth in range(10))


# ── what is to be done ───────────────────────────────────────────────────────


def reckoned(plan: Timing, hours_late: float, **values: object) -> tuple[int, int, bool]:
    """Tells how many of a schedule's times fire and are missed, ``hours_late`` after the first one."""
    first = plan.after(START)
    assert first is not None
    told = reckon(
        plan, next_planned_at=first, now=first + hours_late * HOUR,
        **{"offset": dt.timedelta(0), "grace_s": 3600, "catch_up": "latest"} | values,  # type: ignore[arg-type]
    )  # fmt: skip
    assert told.next_planned_at == plan.after([*told.missed, *told.fire][-1])
    return len(told.fire), len(told.missed), told.has_unlisted


@pytest.mark.parametrize(
    ("catch_up", "hours_late", "told"),
    [
        ("latest", 0, (1, 0, False)),
        ("none", 0.9, (1, 0, False)),
        ("none", 1.1, (0, 1, False)),
        ("latest", 1.1, (1, 0, False)),
        ("latest", 24 * 3 - 1, (1, 2, False)),
        ("none", 24 * 3 - 1, (0, 3, False)),
        ("none", 24 * 2 + 0.5, (1, 2, False)),
        ("all", 24 * 3 - 1, (3, 0, False)),
        ("all", 24 * 100 - 1, (100, 0, False)),
        ("all", 24 * 101 - 1, (99, 1, True)),
        ("latest", 24 * 400, (1, 99, True)),
    ],
)
def test_down_time_is_caught_up_with_as_the_policy_says(
    catch_up: str, hours_late: float, told: tuple[int, int, bool]
) -> None:
    assert told == reckoned(timing("30 2 * * *", "UTC"), hours_late, catch_up=catch_up)
    assert told == reckoned(timing(interval_s=86_400), hours_late, catch_up=catch_up)


@unhurried
@given(cron=crons, since=instants, late_s=st.integers(0, 400_000), catch_up=st.sampled_from(["none", "latest", "all"]))
def test_every_planned_time_is_decided_once(cron: str, since: dt.datetime, late_s: int, catch_up: str) -> None:
    plan = timing(cron)
    first = plan.after(since)
    assert first is not None
    now = first + late_s * ONE_S
    every = fired_between(plan, first, now + ONE_S)
    assume(len(every) <= MAX_CAUGHT_UP)
    told = reckon(
        plan, next_planned_at=first, offset=dt.timedelta(0), now=now, grace_s=60, catch_up=catch_up,  # type: ignore[arg-type]
    )  # fmt: skip
    assert ([*told.missed, *told.fire], plan.after(now)) == (every, told.next_planned_at)


def test_planned_time_is_not_late_because_of_its_jitter() -> None:
    plan, offset = timing("0 2 * * *", "UTC"), 2 * HOUR
    first = START + 2 * HOUR
    told = reckon(plan, next_planned_at=first, offset=offset, now=first + offset, grace_s=60, catch_up="none")
    assert ((first,), ()) == (told.fire, told.missed)


def test_stored_time_fires_even_when_the_zones_rules_have_changed_since() -> None:
    stored = START + 90 * MINUTE
    told = reckon(
        timing("0 2 * * *", "UTC"), next_planned_at=stored, offset=dt.timedelta(0), now=stored + ONE_S, grace_s=60,
        catch_up="latest",
    )  # fmt: skip
    assert ((stored,), START + 2 * HOUR) == (told.fire, told.next_planned_at)


def test_schedule_is_overdue_a_period_and_the_grace_after_a_time_that_led_nowhere() -> None:
    plan, friday = timing("0 2 * * 1-5", "UTC"), dt.datetime(2026, 1, 2, 2, tzinfo=dt.UTC)
    expected_by = friday + 4 * DAY + HOUR + MINUTE  # Monday's time led nowhere, and Tuesday's has come

    def at(now: dt.datetime) -> Overdue | None:
        return overdue(plan, since=friday, offset=MINUTE, grace_s=3600, now=now)

    assert at(expected_by) is None
    assert Overdue(planned_at=friday + 3 * DAY, expected_by=expected_by) == at(expected_by + ONE_S)


# ── words ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("30 2 * * *", "At 02:30 every day"),
        ("0 2 * * 1-5", "At 02:00 on Monday through Friday"),
        ("*/15 * * * *", "Every 15th minute of every hour"),
        ("*/45 * * * *", "At minutes 0 and 45 of every hour"),
        ("0 0 21,22,31 * *", "At 00:00 on the 21st, the 22nd, and the 31st day of month"),
        ("0 0 11,12,13 * *", "At 00:00 on the 11th, the 12th, and the 13th day of month"),
        ("0 0 L * *", "At 00:00 on the last day of every month"),
        ("0 6,18 * * *", "At 06:00 and 18:00 every day"),
        ("0 3 * * SUN#1", "At 03:00 on the first Sunday of the month"),
    ],
)
def test_cron_is_put_into_words(cron: str, words: str) -> None:
    assert words == timing(cron).in_words()


@pytest.mark.parametrize(
    ("interval_s", "words"),
    [(60, "Every minute"), (90, "Every 90 seconds"), (1800, "Every 30 minutes"), (3600, "Every hour"),
     (86_400, "Every day"), (172_800, "Every 2 days")],
)  # fmt: skip
def test_interval_is_put_into_words(interval_s: int, words: str) -> None:
    assert words == timing(interval_s=interval_s).in_words()


pieces = st.sampled_from(["*", "0", "5", "1-5", "*/2", "*/7", "L", "LW", "2,4", "1-5/2", "3/4", "SUN", "JAN", "MON#2"])
messy = st.lists(pieces, min_size=5, max_size=5).map(" ".join) | st.text("0123456789*/,-#LWSUN ", max_size=30)


@unhurried
@given(cron=messy)
def test_whatever_is_accepted_has_words_and_a_next_time_and_all_else_is_explained(cron: str) -> None:
    plan, fields = None, set[str]()
    try:
        plan = read_timing(cron=cron, interval_s=None, zone="Europe/Oslo", anchor_at=START, now=START)
    except InvalidError as error:
        fields = {problem.field for problem in error.problems}
    if plan is None:
        assert {"cron"} == fields
    else:
        assert plan.in_words()
        assert all(a < b for a, b in pairwise([START, *plan.upcoming(START, 3)]))


# ── what people write ────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "field", "code", "words"),
    [
        ({"cron": "@daily"}, "cron", "cron_fields", "five fields"),
        ({"cron": "0 30 2 * * *"}, "cron", "cron_fields", "five fields"),
        ({"cron": "0 25 * * *"}, "cron", "cron_malformed", "Its hour"),
        ({"cron": "0 0 31 2 *"}, "cron", "cron_malformed", "Its day-of-month"),
        ({"cron": "0 0 30 2 *"}, "cron", "cron_malformed", "Its day-of-month"),
        ({"cron": "٣ 2 * * *"}, "cron", "cron_fields", "five fields"),
        ({}, "cron", "one_of_two", "either"),
        ({"cron": "* * * * *", "interval_s": 60}, "cron", "one_of_two", "not both"),
        ({"interval_s": 59}, "interval_s", "out_of_range", "60"),
        ({"cron": "0 2 * * *", "zone": "europe/oslo"}, "zone", "unknown_zone", "Did you mean Europe/Oslo?"),
        ({"cron": "0 2 * * *", "zone": "Oslo"}, "zone", "unknown_zone", "IANA name"),
        ({"cron": "0 2 * * *", "zone": "../../etc/passwd"}, "zone", "unknown_zone", "IANA name"),
        ({"cron": "0 2 * * *", "zone": "+01:00"}, "zone", "unknown_zone", "IANA name"),
    ],
)
def test_what_cannot_be_understood_is_named_with_the_way_out(
    values: dict[str, object], field: str, code: str, words: str
) -> None:
    with pytest.raises(InvalidError) as caught:
        read_timing(**{"cron": None, "interval_s": None, "zone": "Europe/Oslo", "anchor_at": START} | values)  # type: ignore[arg-type]
    ((problem,),) = [caught.value.problems]
    assert (field, code) == (problem.field, problem.code)
    assert words in problem.message


def test_date_that_some_months_lack_simply_does_not_come_there() -> None:
    fired = timing("0 0 31 * *", "UTC").upcoming(START + 31 * DAY, 3)
    assert [(3, 31), (5, 31), (7, 31)] == [(p.month, p.day) for p in fired]


def test_leap_day_is_found_years_ahead() -> None:
    assert [2028, 2032] == [p.year for p in timing("0 0 29 2 *", "UTC").upcoming(START, 2)]


def test_default_zone_is_known_here() -> None:
    assert {"Europe/Oslo", "UTC", "America/New_York"} <= known_zones()
