"""One stream, read to its end: fetch → look up what is held → convert → give away, the last overlapping the next fetch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from samband.adapters.adapter import Adapter
from samband.contract import Page
from samband.rules.intake import Converted, Intake, Known, StreamPlan, convert_page, page_keys, take_in

__all__ = ["Arrival", "Observer", "Source", "StreamReading", "Taker"]

Source = Callable[[str | None], AsyncGenerator[Page, None]]
"""Where to go on → the pages from there."""


class Observer(Protocol):
    """Told what happened, for metrics."""

    def run_ended(self, *, plugin: str, state: str, duration_s: float) -> None: ...
    def page_committed(self, *, plugin: str, stream: str, counts: Mapping[str, int]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A page that has been converted and compared with what is held.

    Attributes:
        intake: What it changes.
        cursor: Where reading can go on behind it, or None.
        complete: Whether it is the last page of the read.
        advances: Whether a later start would go on behind this page.
        total: Records the whole read is expected to have.
        keys: The usable keys of the page, deletions included.
    """

    intake: Intake
    cursor: str | None
    complete: bool
    advances: bool
    total: int | None
    keys: frozenset[str]


class Taker(Protocol):
    """What is held, and what becomes of a page: `samband.flow.keeping` stores it, `samband.flow.rehearsing` does not."""

    async def known(self, keys: list[str]) -> Mapping[str, Known]: ...
    async def resolve(self, stream: str, keys: list[str]) -> Mapping[str, int]: ...
    async def take(self, arrival: Arrival) -> None: ...


class StreamReading:
    """Reads one stream to its end, page by page, and gives every page to a `Taker` in the order they came."""

    def __init__(self, adapter: Adapter, plan: StreamPlan, source: Source) -> None:
        self._adapter = adapter
        self._plan = plan
        self._source = source

    async def read(self, cursor: str | None, taker: Taker) -> None:
        """Takes every page, from ``cursor`` to the one that says the read is complete."""
        pages = self._source(cursor)
        pending: asyncio.Task[None] | None = None
        reached = cursor
        pending_keys: frozenset[str] = frozenset()
        try:
            async with contextlib.aclosing(pages):
                async for page in pages:
                    keys = page_keys(page)
                    if pending is not None and not pending_keys.isdisjoint(keys):
                        # The page repeats a key of the one being stored: what we hold is known only after that commit.
                        await pending
                    intake = await self._prepare(page, keys, taker)
                    if pending is not None:
                        await pending
                    pending_keys = frozenset(keys)
                    arrival = Arrival(
                        intake=intake, cursor=page.cursor, complete=page.complete, total=page.total, keys=pending_keys,
                        advances=page.complete or page.cursor not in (None, reached),
                    )  # fmt: skip
                    reached = page.cursor or reached
                    del page, intake
                    pending = asyncio.create_task(taker.take(arrival), name="samband-commit")
                    del arrival  # or two pages would be in memory while the next one is read
                if pending is not None:
                    await pending
        finally:
            if pending is not None and not pending.done():
                # Cut off half way it is rolled back and done again later, so it is given a moment.
                await asyncio.wait([pending], timeout=30)
            if pending is not None and pending.done() and not pending.cancelled():
                pending.exception()  # when the read failed first, that error is the one that is told

    async def _prepare(self, page: Page, keys: list[str], taker: Taker) -> Intake:
        known = await taker.known(keys)
        if not self._plan.stream.references:
            return await self._adapter.compute(lambda: take_in(convert_page(page, known, self._plan), page, known, {}))
        converted = await self._adapter.compute(lambda: convert_page(page, known, self._plan))
        references = await self._resolve(converted, taker)
        return await self._adapter.compute(lambda: take_in(converted, page, known, references))

    async def _resolve(self, converted: Converted, taker: Taker) -> dict[str, Mapping[str, int]]:
        return {
            name: await taker.resolve(stream, converted.reference_keys(name))
            for name, stream in self._plan.stream.references.items()
        }
