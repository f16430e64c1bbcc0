"""The brake stops what is more than a share of what is held, and never for a handful."""

from __future__ import annotations

import pytest

from samband.rules.brake import Brake, Removal, ends

DEFAULT = Brake()


@pytest.mark.parametrize(
    ("held", "removed", "stops"),
    [
        (200, 20, False),  # exactly the share passes
        (200, 21, True),
        (1000, 100, False),
        (1000, 101, True),
        (100, 19, False),  # more than the share, and fewer than the floor
        (100, 20, True),
        (20, 19, False),
        (20, 20, True),
        (0, 19, False),
        (0, 20, True),
    ],
)
def test_more_than_the_share_and_at_least_the_floor_is_stopped(held: int, removed: int, stops: bool) -> None:
    assert stops == DEFAULT.stops(Removal(held=held, deleted=removed))


def test_deleted_and_deactivated_ones_count_together() -> None:
    assert not DEFAULT.stops(Removal(held=200, deleted=10, deactivated=10))
    assert DEFAULT.stops(Removal(held=200, deleted=10, deactivated=11))


def test_share_that_floats_cannot_say_is_exact_all_the_same() -> None:
    assert 0.29 * 100 < 29
    assert 29 == Brake(share=0.29, floor=1).limit(100)


def test_what_was_agreed_to_passes_and_one_more_does_not() -> None:
    assert not DEFAULT.stops(Removal(held=200, deleted=150), released=150)
    assert DEFAULT.stops(Removal(held=200, deleted=151), released=150)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"status": "ended"}, True), ({"status": "inactive"}, True), ({"status": "paused"}, False),
        ({"status": "active"}, False), ({}, False), ("ended", False),
    ],
)  # fmt: skip
def test_only_ended_statuses_count_as_no_more(values: object, expected: bool) -> None:
    assert expected == ends(values)
