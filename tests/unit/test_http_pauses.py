from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from samband.http.pauses import asked_pause_s, back_off_s

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("7.5", 7.5),
        ("0", 0.0),
        ("86400", 86400.0),
        ("Sun, 01 Mar 2026 12:00:07 GMT", 7.0),
        ("Sunday, 01-Mar-26 12:00:07 GMT", 7.0),
        ("Sun Mar  1 12:00:07 2026", 7.0),
        ("Sun, 01 Mar 2026 13:00:07 +0100", 7.0),
        ("Sun, 01 Mar 2020 00:00:00 GMT", 0.0),
        ("", None),
        (None, None),
        ("soon", None),
        ("-5", None),
        ("+5", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("٣", None),
        ("5, 10", None),
        ("99999999999999999999", None),
        ("Sun, 99 Mar 2026 12:00:07 GMT", None),
        ("Sun, 01 Mar 99999 12:00:07 GMT", None),
        ("\r\n", None),
    ],
)
def test_a_pause_is_read_in_both_forms_and_nonsense_is_none(value: str | None, seconds: float | None) -> None:
    assert asked_pause_s(value, None, NOW) == seconds


def test_a_point_in_time_is_relative_to_the_answers_own_date() -> None:
    their_now, later = "Sun, 01 Mar 2026 15:00:00 GMT", "Sun, 01 Mar 2026 15:00:30 GMT"
    assert asked_pause_s(later, their_now, NOW) == 30.0
    assert asked_pause_s(later, "not a date", NOW) == timedelta(hours=3, seconds=30).total_seconds()


@pytest.mark.parametrize(
    ("attempt", "chance", "seconds"),
    [(1, 0.0, 0.8), (1, 0.5, 1.0), (1, 1.0, 1.2), (2, 0.5, 2.0), (3, 0.5, 4.0), (9, 0.5, 4.0)],
)
def test_the_back_off_doubles_and_varies_by_a_fifth(attempt: int, chance: float, seconds: float) -> None:
    assert back_off_s(attempt, chance) == pytest.approx(seconds)
