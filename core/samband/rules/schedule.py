"""When a schedule is due. The only place that knows local time; everything that goes in or comes out is aware UTC.

The planned times of a cron expression in a zone are a fixed set of instants, so what fires, what is shown and what was
missed are the same whenever one asks. At a clock change they follow Debian's cron:

* An expression whose minute and hour are both named (``30 2 * * *``) follows the clock on the wall: a time that the change
  skips comes at the first instant after it (02:30 at 03:00), a time that the change repeats comes the first time only.
* One whose minute or hour begins with a star (``0 * * * *``) follows the time that passes: every instant whose local time
  fits, so an hourly job runs in every real hour.

An interval counts from its anchor, in seconds that pass; no clock change touches it.
"""

from __future__ import annotations

import copy
import datetime as dt
import difflib
import functools
import hashlib
import re
import zoneinfo
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from cronsim import CronSim, CronSimError

from samband.errors import FieldProblem, InvalidError

CatchUp = Literal["none", "latest", "all"]

DEFAULT_ZONE: Final = "Europe/Oslo"
MIN_INTERVAL_S: Final = 60
MAX_INTERVAL_S: Final = 366 * 86_400
MAX_JITTER_S: Final = 6 * 3600
MAX_CAUGHT_UP: Final = 100
"""Planned times of one gap that are made up for, or shown as missed, at most; older ones are only counted."""

_CRON_CHARACTERS: Final = re.compile(r"[0-9A-Za-z*/,#\- ]{1,200}")
_MINUTE: Final = dt.timedelta(minutes=1)
# Longer than any zone's clock change (two hours, Antarctica/Troll), so that what lies further away is not touched by it.
_CHANGE: Final = dt.timedelta(hours=3)
_WRONG_ORDINALS: Final = re.compile(r"\b(\d*[02-9])([123])th\b")  # cronsim 2.8 says 21th, 22th, 23th and 31th
_ENDINGS: Final = {"1": "st", "2": "nd", "3": "rd"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The planned times of one schedule: of a cron expression in a zone, or every so many seconds from an anchor.

    Made by `read_timing`, which says what is wrong with what people wrote.
    """

    cron: str | None
    interval_s: int | None
    zone: str
    anchor_at: dt.datetime

    def after(self, instant: dt.datetime) -> dt.datetime | None:
        """Gives the first planned time after an instant; None when there is none any more."""
        if self.cron is None:
            return self._interval_after(instant)
        try:
            return _cron_after(self.cron, zoneinfo.ZoneInfo(self.zone), instant.astimezone(dt.UTC))
        except OverflowError:  # beyond the year 9999
            return None

    def upcoming(self, instant: dt.datetime, count: int) -> list[dt.datetime]:
        """Gives the next planned times after an instant, in order."""
        found: list[dt.datetime] = []
        planned = self.after(instant)
        while planned is not None and len(found) < count:
            found.append(planned)
            planned = self.after(planned)
        return found

    def newest(self, since: dt.datetime, until: dt.datetime, limit: int) -> tuple[list[dt.datetime], bool]:
        """Gives the newest planned times after ``since`` and not after ``until``, in order, and whether there are more.

        Takes time for what it gives, not for how long the gap is.
        """
        first = self.after(since)
        if first is None or first > until:
            return [], False
        if self.interval_s is not None:
            total = (until - first) // dt.timedelta(seconds=self.interval_s) + 1
            step, shown = dt.timedelta(seconds=self.interval_s), min(total, limit)
            return [first + step * n for n in range(total - shown, total)], total > shown
        return self._newest_by_cron(since, until, limit)

    def count(self, since: dt.datetime, until: dt.datetime, at_most: int) -> int:
        """Counts the planned times after ``since`` and not after ``until``, up to ``at_most``."""
        first = self.after(since)
        if first is None or first > until:
            return 0
        if self.interval_s is not None:
            return min(at_most, (until - first) // dt.timedelta(seconds=self.interval_s) + 1)
        total, planned = 0, first
        while total < at_most and planned <= until:
            total += 1
            following = self.after(planned)
            if following is None:
                break
            planned = following
        return total

    def in_words(self) -> str:
        """Puts the timing into English words, without its zone."""
        return _interval_in_words(self.interval_s) if self.interval_s is not None else cron_in_words(self.cron or "")

    def _interval_after(self, instant: dt.datetime) -> dt.datetime:
        step = dt.timedelta(seconds=self.interval_s or MIN_INTERVAL_S)
        passed = max(0, (instant - self.anchor_at) // step)
        return self.anchor_at + step * (passed + 1)

    def _newest_by_cron(self, since: dt.datetime, until: dt.datetime, limit: int) -> tuple[list[dt.datetime], bool]:
        window = dt.timedelta(hours=1)
        while True:
            start = max(since, until - window)
            found: deque[dt.datetime] = deque(maxlen=limit + 1)
            planned = self.after(start)
            while planned is not None and planned <= until:
                found.append(planned)
                planned = self.after(planned)
            if len(found) > limit:
                found.popleft()
                return list(found), True
            if start == since:
                return list(found), False
            window *= 4


def read_timing(
    *, cron: str | None, interval_s: int | None, zone: str, anchor_at: dt.datetime, now: dt.datetime | None = None
) -> Timing:
    """Gives the timing that somebody asked for. The one place where expressions and zones are judged.

    Args:
        now: Also refuses an expression that no time after this fits.

    Raises:
        InvalidError: Names every field at fault, with the way out.
    """
    problems: list[FieldProblem] = []
    if (cron is None) == (interval_s is None):
        problems.append(_problem("cron", "one_of_two", "Give either cron or interval_s, and not both."))
    if interval_s is not None and not MIN_INTERVAL_S <= interval_s <= MAX_INTERVAL_S:
        text = f"Use {MIN_INTERVAL_S} to {MAX_INTERVAL_S} seconds."
        problems.append(_problem("interval_s", "out_of_range", text))
    problems += _zone_problems(zone)
    clean = None if cron is None else " ".join(cron.split())
    if clean is not None:
        problems += _cron_problems(clean)
    timing = Timing(cron=clean, interval_s=interval_s, zone=zone, anchor_at=anchor_at)
    if not problems and now is not None and timing.after(now) is None:
        text = "No date fits this expression. Check the day of month against the month."
        problems.append(_problem("cron", "cron_never", text))
    if problems:
        raise InvalidError("The schedule cannot be understood.", problems=problems)
    return timing


class Kept(Protocol):
    """A schedule as it is stored, as far as its planned times go."""

    @property
    def cron(self) -> str | None: ...
    @property
    def interval_s(self) -> int | None: ...
    @property
    def zone(self) -> str: ...
    @property
    def anchor_at(self) -> dt.datetime: ...


def timing_of(kept: Kept) -> Timing:
    """Gives the timing of a stored schedule; `InvalidError` when it can be understood no longer."""
    return read_timing(cron=kept.cron, interval_s=kept.interval_s, zone=kept.zone, anchor_at=kept.anchor_at)


def jitter(organization_id: str, name: str, jitter_s: int) -> dt.timedelta:
    """Gives how much later than planned a schedule fires: always the same for the same organisation and name.

    Spreads organisations that all plan 02:00; at least nothing and less than ``jitter_s``.
    """
    digest = hashlib.sha256(f"{organization_id}\0{name}".encode()).digest()
    return dt.timedelta(milliseconds=int.from_bytes(digest[:8], "big") * jitter_s * 1000 >> 64)


def to_local(instant: dt.datetime, zone: str) -> str:
    """Gives an instant as the clock on the wall shows it, with its distance from UTC: ``2026-03-29T03:00:00+02:00``."""
    return instant.astimezone(zoneinfo.ZoneInfo(zone)).isoformat(timespec="seconds")


# ── what is to be done ───────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Reckoning:
    """What is to become of the planned times that have come.

    Attributes:
        fire: In order; more than one only when all are caught up with.
        missed: In order; those that will not fire.
        has_unlisted: More were missed, after the first one that is listed; only `MAX_CAUGHT_UP` are.
        next_planned_at: The first one that has not come yet.
    """

    fire: tuple[dt.datetime, ...]
    missed: tuple[dt.datetime, ...]
    has_unlisted: bool
    next_planned_at: dt.datetime | None


def reckon(
    timing: Timing, *, next_planned_at: dt.datetime, offset: dt.timedelta, now: dt.datetime, grace_s: int,
    catch_up: CatchUp,
) -> Reckoning:  # fmt: skip
    """Decides about every planned time from the stored next one up to now.

    Only the newest can be on time; it is late once ``grace_s`` have gone by, and then it is made up for unless
    ``catch_up`` is ``none``. The older ones are missed unless ``catch_up`` is ``all``: after down time comes one run.
    """
    newer, has_unlisted = timing.newest(next_planned_at, now - offset, MAX_CAUGHT_UP - 1)
    # The stored time counts even when it is no planned time any more: a zone's rules may have changed since.
    due = [next_planned_at, *newer]
    is_late = now - (due[-1] + offset) > dt.timedelta(seconds=grace_s)
    wanted = {"all": len(newer) if has_unlisted else len(due), "latest": 1, "none": 0 if is_late else 1}[catch_up]
    first_fired = len(due) - wanted
    return Reckoning(
        fire=tuple(due[first_fired:]), missed=tuple(due[:first_fired]), has_unlisted=has_unlisted,
        next_planned_at=timing.after(due[-1]),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """A planned time that has led to no success, and when it should have at the latest."""

    planned_at: dt.datetime
    expected_by: dt.datetime


def overdue(
    timing: Timing, *, since: dt.datetime, offset: dt.timedelta, grace_s: int, now: dt.datetime
) -> Overdue | None:
    """Tells whether a schedule is overdue that has succeeded for nothing that was planned after ``since``.

    The next planned time is given its period (until the one after it) and the grace to lead to a success.
    """
    planned = timing.after(since)
    following = None if planned is None else timing.after(planned)
    if planned is None or following is None:
        return None
    expected_by = following + offset + dt.timedelta(seconds=grace_s)
    return Overdue(planned_at=planned, expected_by=expected_by) if now > expected_by else None


# ── words ────────────────────────────────────────────────────────────────────


def cron_in_words(cron: str) -> str:
    """Puts a cron expression into English words; the expression itself where there are none."""
    minute, hour, *dates = cron.upper().split()
    # "*/45" is minute 0 and 45 of every hour, which "every 45th minute" does not tell.
    spoken = " ".join([_listed(minute, 60), _listed(hour, 24), *dates])
    try:
        words = CronSim(spoken, dt.datetime(2000, 1, 1, tzinfo=dt.UTC)).explain()
    except (CronSimError, ValueError, IndexError, NotImplementedError):
        return cron
    return _WRONG_ORDINALS.sub(_ordinal, words)


def _listed(field: str, size: int) -> str:
    _, slash, step = field.partition("/")
    if not field.startswith("*/") or not slash or not step.isdigit() or size % int(step or 1) == 0:
        return field
    return ",".join(str(n) for n in range(0, size, int(step)))


def _ordinal(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{_ENDINGS[match[2]]}"


def _interval_in_words(seconds: int) -> str:
    for size, name in ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        count, rest = divmod(seconds, size)
        if rest == 0:
            return f"Every {name}" if count == 1 else f"Every {count} {name}s"
    raise AssertionError("a whole number of seconds")


# ── what people wrote ────────────────────────────────────────────────────────


def _problem(field: str, code: str, message: str) -> FieldProblem:
    return FieldProblem(field=field, code=code, message=message)


def _cron_problems(cron: str) -> list[FieldProblem]:
    if not _CRON_CHARACTERS.fullmatch(cron) or len(cron.split()) != 5:
        text = "Write five fields: minute hour day-of-month month day-of-week, for instance '30 2 * * *' for 02:30."
        return [_problem("cron", "cron_fields", text)]
    try:
        _clock(cron.upper())
    except CronSimError as error:
        wrong = str(error).removeprefix("Bad ")
        text = f"Its {wrong} cannot be understood, or no date has it. The order is: minute hour day month weekday."
        return [_problem("cron", "cron_malformed", text)]
    return []


def _zone_problems(zone: str) -> list[FieldProblem]:
    if zone in known_zones():
        return []
    near = difflib.get_close_matches(zone[:64], known_zones(), n=1)
    guess = f"Did you mean {near[0]}? " if near else ""
    return [_problem("zone", "unknown_zone", f"{guess}Use the IANA name of a time zone, for instance {DEFAULT_ZONE}.")]


@functools.lru_cache(maxsize=1)
def known_zones() -> frozenset[str]:
    """Gives the names of all time zones this machine knows."""
    return frozenset(zoneinfo.available_timezones())


# ── the planned times of a cron expression ───────────────────────────────────


@functools.lru_cache(maxsize=4096)
def _clock(cron: str) -> CronSim:
    return CronSim(cron, dt.datetime(2000, 1, 1))  # noqa: DTZ001 - a clock on the wall: the zone is applied here


def _walls(cron: str, wall: dt.datetime) -> Iterator[dt.datetime]:
    """Gives the readings of a clock without changes that fit, after ``wall``."""
    clock = copy.copy(_clock(cron.upper()))
    clock.dt = wall.replace(microsecond=0)
    return clock


def _cron_after(cron: str, zone: zoneinfo.ZoneInfo, instant: dt.datetime) -> dt.datetime | None:
    wall = instant.astimezone(zone).replace(tzinfo=None)
    minute, hour = cron.split()[:2]
    if not minute.startswith("*") and not hour.startswith("*"):
        return next((real for w in _walls(cron, wall) if (real := _first_showing(w, zone)) > instant), None)
    candidate = next(_walls(cron, wall), None)
    if candidate is None:
        return None
    real = _utc(candidate, zone)
    if _is_steady(zone, instant) and _is_steady(zone, real):
        return real
    return _around_change(cron, zone, instant)


def _first_showing(wall: dt.datetime, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    """Gives the first instant at which the clock shows ``wall``, or has just jumped over it."""
    real = _utc(wall, zone)
    if _shows(real, zone, wall):
        return real
    before, after = _utc(wall.replace(fold=1), zone), real
    shift = after.astimezone(zone).utcoffset()
    while after - before > dt.timedelta(seconds=1):
        middle = before + (after - before) // 2
        if middle.astimezone(zone).utcoffset() == shift:
            after = middle
        else:
            before = middle
    return after.replace(microsecond=0)  # changes come at whole seconds


def _around_change(cron: str, zone: zoneinfo.ZoneInfo, instant: dt.datetime) -> dt.datetime | None:
    """Gives the first instant whose local time fits, where clocks change between it and ``instant`` or nearby."""
    start, best = instant, None
    while best is None:
        least, most = sorted(_offset(zone, start + _CHANGE * n) for n in (-1, 1))
        for wall in _walls(cron, start.replace(tzinfo=None) + least):
            earliest = wall.replace(tzinfo=dt.UTC) - most
            if best is not None and earliest >= best:
                return best
            if best is None and earliest > start + _CHANGE:
                # Nothing near the change: go on from where the next one could be, by the offsets that hold there.
                start = earliest - _CHANGE + _MINUTE
                break
            for fold in (0, 1):
                real = _utc(wall.replace(fold=fold), zone)
                if real > instant and _shows(real, zone, wall) and (best is None or real < best):
                    best = real
        else:
            return best
    return best


def _utc(wall: dt.datetime, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    return wall.replace(tzinfo=zone).astimezone(dt.UTC)


def _shows(real: dt.datetime, zone: zoneinfo.ZoneInfo, wall: dt.datetime) -> bool:
    return real.astimezone(zone).replace(tzinfo=None) == wall


def _offset(zone: zoneinfo.ZoneInfo, instant: dt.datetime) -> dt.timedelta:
    return instant.astimezone(zone).utcoffset() or dt.timedelta(0)


def _is_steady(zone: zoneinfo.ZoneInfo, instant: dt.datetime) -> bool:
    return _offset(zone, instant - _CHANGE) == _offset(zone, instant + _CHANGE)
