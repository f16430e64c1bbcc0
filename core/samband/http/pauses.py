"""How long to wait before asking again: what they said, or else our own back-off. Pure functions."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["BACK_OFF_S", "MAX_PAUSE_S", "asked_pause_s", "back_off_s"]

BACK_OFF_S: Final = (1.0, 2.0, 4.0)
"""Waits before the second, third and fourth try, each varied by a fifth either way."""

MAX_PAUSE_S: Final = 3_600.0
"""The longest pause anybody may ask of us; a longer one is taken for a mistake and cut."""


def asked_pause_s(retry_after: str | None, date: str | None, now: datetime) -> float | None:
    """Gives the seconds a ``Retry-After`` header asks for, uncut; None when there is none or it means nothing.

    Both forms of RFC 9110 section 10.2.3 are read. A point in time is taken relative to the answer's own ``Date``
    where it has one, so that two clocks that disagree do no harm. A point in the past is 0.

    Args:
        retry_after: The header's value.
        date: The same answer's ``Date`` header.
        now: Aware UTC, used when there is no ``Date``.
    """
    text = (retry_after or "").strip()
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text):  # fractions are not in the RFC and are sent all the same
        return float(text)
    until = _instant(text)
    if until is None:
        return None
    return max(0.0, (until - (_instant(date or "") or now)).total_seconds())


def back_off_s(attempt: int, chance: float) -> float:
    """Gives the wait after the ``attempt``-th try, counted from 1; ``chance`` in [0, 1) spreads it by ± 20 %."""
    return BACK_OFF_S[min(attempt, len(BACK_OFF_S)) - 1] * (0.8 + 0.4 * chance)


def _instant(text: str) -> datetime | None:
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
