from __future__ import annotations

import random

import pytest

from samband.rules.retry import MAX_WAIT_S, run_delay_s


@pytest.mark.parametrize(("attempt", "wait_s"), [(0, 15), (1, 15), (2, 60), (3, 300), (4, 900), (99, 900)])
def test_wait_grows_with_attempts_and_is_spread(attempt: int, wait_s: float) -> None:
    delays = [run_delay_s(attempt, None, random.Random(n)) for n in range(200)]
    assert 0.8 * wait_s <= min(delays) < 0.85 * wait_s
    assert 1.15 * wait_s < max(delays) <= 1.2 * wait_s


def test_what_they_ask_for_is_obeyed_but_not_beyond_an_hour() -> None:
    rng = random.Random(1)
    assert 30 <= run_delay_s(1, 30, rng) <= 31
    assert MAX_WAIT_S <= run_delay_s(1, 10**9, rng) <= MAX_WAIT_S + 1
    assert 0 <= run_delay_s(1, -5, rng) <= 1
