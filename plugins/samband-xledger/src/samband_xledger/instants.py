"""Xledger's times and ours.

Xledger writes date-times without an offset, in Central European time; dates are plain days. Source: Xledger's help centre,
article on economical use of the API, and the comments in its own GraphQL samples.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

OSLO = ZoneInfo("Europe/Oslo")
_HOUR = timedelta(hours=1)


def to_utc(text: str) -> datetime:
    """Gives the instant that their text stands for; `ValueError` when it is none.

    Within the hour that comes twice in autumn the earlier one is taken.
    """
    instant = datetime.fromisoformat(text)
    return (instant if instant.tzinfo else instant.replace(tzinfo=OSLO)).astimezone(UTC)


def to_lower_bound(instant: datetime) -> str:
    """Gives the text that everything from this instant on is not less than, as their clocks write it.

    An hour is taken off where the clocks go back within the next hour: what happens after that carries an earlier time
    than what happened before.
    """
    local = instant.astimezone(OSLO)
    later = (instant.astimezone(UTC) + _HOUR).astimezone(OSLO)
    goes_back = (later.utcoffset() or timedelta()) < (local.utcoffset() or timedelta())
    return (local.replace(tzinfo=None) - (_HOUR if goes_back else timedelta())).isoformat(timespec="seconds")
