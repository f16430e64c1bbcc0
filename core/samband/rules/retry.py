"""When to try again: pure arithmetic over attempts."""

from __future__ import annotations

import random

MAX_WAIT_S = 3600.0
"""The longest wait that is obeyed; a remote system that asks for more is asked again after an hour."""

_WAITS_S = (15.0, 60.0, 300.0, 900.0)


def run_delay_s(attempt: int, retry_after_s: float | None, rng: random.Random) -> float:
    """Gives the seconds a run waits after its ``attempt``-th start in a row without progress.

    What the other side asked for is obeyed up to `MAX_WAIT_S`, never shortened below our own waits' jitter; without it the
    waits grow from 15 seconds to 15 minutes, each ± 20 % so that organisations do not come back all at once.
    """
    if retry_after_s is not None:
        return min(max(retry_after_s, 0.0), MAX_WAIT_S) + rng.uniform(0.0, 1.0)
    wait = _WAITS_S[min(max(attempt, 1), len(_WAITS_S)) - 1]
    return wait * rng.uniform(0.8, 1.2)
