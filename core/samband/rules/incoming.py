"""What deliveries ask to be read, and what their numbers say. Pure functions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "NOTES",
    "REJECTED_LEAST",
    "REJECTED_SHARE",
    "SILENCE",
    "VERIFIED",
    "DeliveryFigures",
    "HourCount",
    "judgement",
    "rolling_hour",
    "what_to_read",
]

VERIFIED: Final = ("accepted", "repeated", "ignored", "handshake")
"""Outcomes of deliveries whose proof held and that were dealt with."""

NOTES: Final = ("old_secret",)
"""Counted besides an outcome: the delivery is among the accepted or repeated ones as well."""

REJECTED_SHARE: Final = 0.10
REJECTED_LEAST: Final = 10
"""Fewer deliveries than this in an hour say nothing about a share."""

SILENCE: Final = dt.timedelta(hours=24)
_MAX_KEYS: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HourCount:
    """How many deliveries of one clock hour (UTC) ended in one way."""

    hour: dt.datetime
    outcome: str
    deliveries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFigures:
    """What came to one integration's address during the last day.

    Attributes:
        is_enabled: Whether the integration is.
        healthy_at: When a delivery's proof last held; None when it never has.
        since: When the address was made; silence is counted from there where nothing has come yet.
        waiting: Deliveries that no run has taken up yet.
    """

    organization_id: str
    integration_id: str
    plugin: str
    is_enabled: bool
    healthy_at: dt.datetime | None
    waiting: int
    since: dt.datetime | None = None
    counts: tuple[HourCount, ...] = ()


def judgement(figures: DeliveryFigures, now: dt.datetime) -> dict[str, bool]:
    """Tells whether a person should hear of an integration's deliveries.

    ``is_rejecting``: more than a tenth of the last hour's were refused. ``is_silent``: none has been believed for more than
    a day, also where none has come since the address was made: it may have been entered wrongly over there. Both are
    false where nobody expects any: the integration is not enabled.
    """
    verified, rejected = _sums(rolling_hour(figures.counts, now))
    total = verified + rejected
    # Estimates carry a rounding error of a millionth of a delivery.
    is_rejecting = round(total, 6) >= REJECTED_LEAST and rejected / total > REJECTED_SHARE
    heard_at = figures.healthy_at or figures.since
    is_silent = heard_at is not None and now - heard_at > SILENCE
    return {
        "is_rejecting": figures.is_enabled and is_rejecting,
        "is_silent": figures.is_enabled and is_silent,
    }


def rolling_hour(counts: Sequence[HourCount], now: dt.datetime) -> dict[str, float]:
    """Gives outcome → deliveries of the last sixty minutes.

    Counted are clock hours, so the hour before this one counts by the share of it that is not yet an hour ago.
    """
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    share = 1 - (now - this_hour) / dt.timedelta(hours=1)
    found: dict[str, float] = {}
    for count in counts:
        weight = {this_hour: 1.0, this_hour - dt.timedelta(hours=1): share}.get(count.hour, 0.0)
        found[count.outcome] = found.get(count.outcome, 0.0) + weight * count.deliveries
    return found


def _sums(counts: Mapping[str, float]) -> tuple[float, float]:
    verified = sum(n for outcome, n in counts.items() if outcome in VERIFIED)
    rejected = sum(n for outcome, n in counts.items() if outcome not in (*VERIFIED, *NOTES))
    return verified, rejected


def what_to_read(
    triggers: Sequence[Mapping[str, Any]], *, streams: Sequence[str], can_fetch: bool
) -> tuple[list[str], dict[str, Any] | None]:
    """Gives the streams that triggers ask for, in reading order, and the selection when single records are enough.

    Args:
        triggers: As stored: ``stream`` and ``keys``.
        streams: Those that the settings switch on, in reading order.
        can_fetch: Whether the plugin reads chosen records.
    """
    keys: dict[str, dict[str, None]] = {}
    reads_changes = not can_fetch
    for trigger in triggers:
        if trigger["stream"] in streams:
            keys.setdefault(trigger["stream"], {}).update(dict.fromkeys(trigger["keys"]))
            reads_changes |= not trigger["keys"]
    wanted = [name for name in streams if name in keys]
    # Beyond some number of records it is less work for everybody to read what has changed.
    if reads_changes or not wanted or sum(len(named) for named in keys.values()) > _MAX_KEYS:
        return wanted, None
    return wanted, {"streams": {name: {"keys": list(keys[name])} for name in wanted}}
