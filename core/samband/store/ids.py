"""Ids that sort by time."""

from __future__ import annotations

import datetime as dt
import uuid


def new_id() -> str:
    """Gives an id that sorts by time: 48 bits of milliseconds, then 80 random bits, in hex."""
    ms = int(dt.datetime.now(dt.UTC).timestamp() * 1000)
    return f"{ms:012x}{uuid.uuid4().hex[12:]}"
