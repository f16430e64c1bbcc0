"""Reads what a run was ordered for instead of what has changed: some keys of a stream, or a window of time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from samband.adapters.adapter import Adapter, Connection
from samband.contract import Page, Selection

__all__ = ["KEYS_AT_ONCE", "Choice", "choices_of", "chosen_pages"]

KEYS_AT_ONCE = 1_000
"""What `samband.Selection` promises a plugin: never more keys than this in one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is to be read of one stream: keys, or else a window."""

    keys: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


def choices_of(selection: Mapping[str, Any] | None) -> dict[str, Choice]:
    """Gives a run's stored selection by stream; empty when nothing is chosen."""
    streams: Mapping[str, Mapping[str, Any]] = (selection or {}).get("streams") or {}
    return {
        name: Choice(
            keys=tuple(choice.get("keys", ())), since=_instant(choice.get("since")), until=_instant(choice.get("until"))
        )
        for name, choice in streams.items()
    }


async def chosen_pages(
    adapter: Adapter, connection: Connection, stream: str, choice: Choice, mark: str | None, run_id: str
) -> AsyncGenerator[Page, None]:
    """Yields what is chosen as one read, call after call.

    The cursor of the page that ends a call is the number of keys asked for so far: a run that was cut off goes on
    behind them. A window is one call, and begins again.

    Args:
        mark: Such a number; None for the beginning.
        run_id: On whose behalf.
    """
    done = int(mark or 0)
    while True:
        part = choice.keys[done : done + KEYS_AT_ONCE]
        selection = Selection(keys=part, since=choice.since, until=choice.until)
        done += len(part)
        is_last = done >= len(choice.keys)
        async with contextlib.aclosing(adapter.fetch(connection, stream, selection, run_id=run_id)) as pages:
            async for page in pages:
                ends_call = page.complete
                yield replace(
                    page, complete=ends_call and is_last, cursor=str(done) if ends_call and choice.keys else None
                )
                del page
        if is_last:
            return


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
