"""What deliveries ask to be read, and when their numbers are worth an alert."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from samband.rules.incoming import DeliveryFigures, HourCount, judgement, rolling_hour, what_to_read

NOW = dt.datetime(2026, 6, 1, 12, 15, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def counts(**by_outcome: tuple[int, int]) -> tuple[HourCount, ...]:
    """Gives, per outcome, the deliveries of this clock hour and of the one before."""
    this = NOW.replace(minute=0)
    return tuple(
        HourCount(hour=this - ago * HOUR, outcome=outcome, deliveries=numbers[ago])
        for outcome, numbers in by_outcome.items()
        for ago in (0, 1)
    )


def judged(*, healthy_at: dt.datetime | None = NOW, is_enabled: bool = True, **by_outcome: tuple[int, int]) -> Any:
    figures = DeliveryFigures(
        organization_id="hlf", integration_id="i1", plugin="crm", is_enabled=is_enabled, healthy_at=healthy_at,
        waiting=0, counts=counts(**by_outcome),
    )  # fmt: skip
    told = judgement(figures, NOW)
    return told["is_rejecting"], told["is_silent"]


def test_rolling_hour_counts_the_hour_before_by_what_is_left_of_it() -> None:
    told = rolling_hour((*counts(accepted=(10, 100)), *counts(wrong=(1, 4))), NOW)
    assert {"accepted": 85.0, "wrong": 4.0} == told
    old = HourCount(hour=NOW.replace(minute=0) - 2 * HOUR, outcome="accepted", deliveries=1000)
    assert {"accepted": 0.0} == rolling_hour([old], NOW)


@pytest.mark.parametrize(
    ("by_outcome", "is_rejecting"),
    [
        ({"accepted": (9, 0), "wrong": (1, 0)}, False),  # exactly a tenth
        ({"accepted": (8, 0), "wrong": (2, 0)}, True),
        ({"accepted": (0, 0), "wrong": (9, 0)}, False),  # nine say nothing about a share
        ({"accepted": (0, 0), "wrong": (10, 0)}, True),
        ({"accepted": (80, 0), "wrong": (4, 0), "too_old": (4, 0), "unavailable": (2, 0)}, True),
        ({"accepted": (0, 0), "repeated": (40, 0), "ignored": (40, 0), "handshake": (10, 0), "wrong": (10, 0)}, False),
        ({"accepted": (90, 0), "old_secret": (90, 0)}, False),  # a note, not a refusal
        ({"accepted": (100, 0), "wrong": (0, 16)}, True),  # 12 of 112: most of the hour before still counts
        ({"accepted": (0, 1000), "wrong": (20, 0)}, False),
    ],
)
def test_more_than_a_tenth_of_at_least_ten_is_worth_an_alert(by_outcome: Any, is_rejecting: bool) -> None:
    assert (is_rejecting, False) == judged(**by_outcome)
    assert (False, False) == judged(is_enabled=False, **by_outcome)


def test_silence_counts_from_the_last_delivery_that_was_believed() -> None:
    day = dt.timedelta(hours=24)
    assert (False, False) == judged(healthy_at=NOW - day)
    assert (False, True) == judged(healthy_at=NOW - day - dt.timedelta(seconds=1))
    assert (False, False) == judged(healthy_at=None)
    assert (False, False) == judged(healthy_at=NOW - 9 * day, is_enabled=False)
    # Refused deliveries break no silence.
    assert (True, True) == judged(healthy_at=NOW - 2 * day, wrong=(50, 0))


def trigger(stream: str, *keys: str) -> dict[str, Any]:
    return {"stream": stream, "keys": list(keys)}


def test_streams_come_in_reading_order_and_only_those_that_are_read() -> None:
    asked = [trigger("b"), trigger("gone"), trigger("a"), trigger("b")]
    assert (["a", "b"], None) == what_to_read(asked, streams=["a", "b", "c"], can_fetch=False)
    assert ([], None) == what_to_read([trigger("gone")], streams=["a"], can_fetch=True)


def test_keys_are_chosen_when_every_trigger_names_some_and_the_plugin_can_fetch() -> None:
    asked = [trigger("b", "2", "1"), trigger("a", "9"), trigger("b", "1", "3"), trigger("gone")]
    expected = {"streams": {"a": {"keys": ["9"]}, "b": {"keys": ["2", "1", "3"]}}}
    assert (["a", "b"], expected) == what_to_read(asked, streams=["a", "b"], can_fetch=True)
    assert (["a", "b"], None) == what_to_read(asked, streams=["a", "b"], can_fetch=False)
    assert (["a", "b"], None) == what_to_read([*asked, trigger("a")], streams=["a", "b"], can_fetch=True)


def test_too_many_keys_are_read_as_changes() -> None:
    some, many = [trigger("a", *(str(n) for n in range(2_000)))], [trigger("a", *(str(n) for n in range(2_001)))]
    assert what_to_read(some, streams=["a"], can_fetch=True)[1] is not None
    assert (["a"], None) == what_to_read(many, streams=["a"], can_fetch=True)


def test_address_that_nobody_has_ever_called_is_silent_after_a_day() -> None:
    def is_silent(age: dt.timedelta) -> bool:
        figures = DeliveryFigures(
            organization_id="hlf", integration_id="i", plugin="crm", is_enabled=True, healthy_at=None, waiting=0,
            since=NOW - age,
        )  # fmt: skip
        return judgement(figures, NOW)["is_silent"]

    assert (False, True) == (is_silent(dt.timedelta(hours=23)), is_silent(dt.timedelta(hours=25)))
