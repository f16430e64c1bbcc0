"""One stream of a plugin under test that carries claims to the books: sent and asked for as the host does."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final, Literal

import pytest

from samband.contract import Batch, Item, Receipt, Sought, Stream
from samband.errors import RetryableError
from samband.rules.selecting import CORE_ROUTES
from samband.testing.counterpart import Counterpart
from samband.testing.driver import PluginDriver
from samband.testing.promises.wording import broken

__all__ = ["LONG_AGO", "Outlet", "Told"]

LONG_AGO: Final = timedelta(days=60)
"""Since when something must have been out, so that not finding it is certain with every system."""

_TAKEN: Final = ("accepted", "posted")


@dataclass
class Told:
    """What ``export`` or ``find_exported`` said: the receipts as they came, and the error it ended with."""

    receipts: list[Receipt] = field(default_factory=list)
    error: Exception | None = None

    @property
    def by_key(self) -> Mapping[str, Receipt]:
        return {receipt.key: receipt for receipt in self.receipts}

    def fate(self, key: str) -> str:
        """Gives what the host takes an item for: a receipt's state, ``not sent``, or else ``unknown``."""
        if key in self.by_key:
            return self.by_key[key].state
        return "not sent" if isinstance(self.error, RetryableError) else "unknown"

    @property
    def ending(self) -> str:
        """How it ended, in a few words."""
        states = Counter(receipt.state for receipt in self.receipts)
        said = ", ".join(f"{n} {state}" for state, n in states.items()) or "no receipt"
        return said if self.error is None else f"{said}; {type(self.error).__name__}: {self.error}"


class Outlet:
    """Sends items of one stream, looks them up, and knows what has arrived.

    Args:
        driver: Calls the hooks.
        stream: Of kind ``voucher`` or ``reimbursement``, with direction ``push`` or ``both``.
        counterpart: The other side, and what it shows of itself.
        make: Gives an item that the other side takes, for a key.
    """

    def __init__(
        self, driver: PluginDriver, stream: Stream, counterpart: Counterpart, make: Callable[[Stream, str], Item]
    ) -> None:
        self.driver = driver
        self.stream = stream
        self.counterpart = counterpart
        self._make = make
        self._batches = count(1)
        self._chosen: list[str | None] = []

    # ── what is sent ─────────────────────────────────────────────────────────

    def items(self, number: int) -> list[Item]:
        """Gives items that nobody has seen before."""
        return [self.item(uuid.uuid4().hex) for _ in range(number)]

    def item(self, key: str) -> Item:
        """Gives an item with this key."""
        return self._make(self.stream, key)

    def batch(self, items: Sequence[Item], route: str | None = None) -> Batch:
        """Gives a batch that was never given before."""
        return Batch(id=f"contract-suite-{next(self._batches)}", items=items, route=route)

    async def send(self, items: Sequence[Item], *, route: str | None = None) -> Told:
        """Gives what ``export`` says of a batch, by the way that the plugin chooses unless one is named."""
        await self.driver.warm_up()
        batch = self.batch(items, route if route is not None else await self.route())
        return await self._told("export", batch=batch)

    async def sent_well(self, number: int) -> list[Item]:
        """Gives items that were sent and accepted; skips the test when that fails, for another one tells of it."""
        items = self.items(number)
        sent = await self.send(items)
        if any(sent.fate(item.key) not in _TAKEN for item in items):
            pytest.skip("items are not accepted even when all is well; see the test about one receipt for every item")
        return items

    # ── what became of it ────────────────────────────────────────────────────

    async def find(
        self,
        items: Sequence[Item],
        *,
        state: Literal["sent", "unknown", "accepted"] = "unknown",
        sent_at: datetime | None = None,
        receipts: Mapping[str, Receipt] | None = None,
    ) -> Told:
        """Gives what ``find_exported`` says of items that went by the way of `send`."""
        await self.driver.warm_up()
        route, known = await self.route(), receipts or {}
        sought = [
            Sought(
                key=item.key, state=state, route=route, sent_at=sent_at or self.driver.clock.now(),
                number=item.voucher.number if item.voucher else None, date=item.voucher.date if item.voucher else None,
                lines=len(item.voucher.lines) if item.voucher else None,
                reference=known[item.key].reference if item.key in known else None,
            )
            for item in items
        ]  # fmt: skip
        return await self._told("find_exported", keys=[item.key for item in items], sought=sought)

    async def there(self, items: Sequence[Item]) -> Mapping[str, int]:
        """Gives how often each item is at the other side: as that shows it, or else as ``find_exported`` says."""
        await self.settle()
        if self.counterpart.entries is not None:
            entries = await asyncio.to_thread(self.counterpart.entries)
            return {item.key: entries.get(item.key, 0) for item in items}
        found = await self.find(items)
        assert found.error is None, broken(
            "find_exported answers when the other side does.",
            f"{self.stream.name}: {found.ending}",
            see="samband.hookspecs.Hooks.find_exported",
        )
        return {item.key: int(found.fate(item.key) in (*_TAKEN, "rejected")) for item in items}

    async def settle(self) -> None:
        """Lets the other side take in what waits there."""
        if self.counterpart.settle is not None:
            await asyncio.to_thread(self.counterpart.settle)

    async def count_calls(self, number: int) -> int:
        """Gives how many calls for data one good export of so many items takes."""
        await self.driver.warm_up()
        await self.route()
        before = self.driver.data_calls
        items = await self.sent_well(number)
        calls = self.driver.data_calls - before
        if not all((await self.there(items)).values()):
            pytest.skip("what was accepted is not there under its key; see the test that sends each item once")
        return calls

    # ── which way ────────────────────────────────────────────────────────────

    async def route(self) -> str | None:
        """Gives the way that the plugin chooses at first; skips the test when it sends nothing itself."""
        self.needs("export", "find_exported")
        if not self._chosen:
            self._chosen.append(await self._choose() if self.can("choose_route") else None)
        route = self._chosen[0]
        if route in CORE_ROUTES:
            pytest.skip(f"with these settings it chooses the way {route!r}, which the host goes by itself")
        return route

    async def _choose(self) -> str:
        await self.driver.warm_up()
        name: str = (await self.driver.ask("choose_route", avoided={})).name
        return name

    def can(self, *capabilities: str) -> bool:
        return set(capabilities) <= self.driver.manifest.capabilities

    def needs(self, *capabilities: str) -> None:
        """Skips the test for a plugin that lacks one of the hooks."""
        for name in capabilities:
            if not self.can(name):
                pytest.skip(f"the plugin has no {name} hook")

    # ── inside ───────────────────────────────────────────────────────────────

    async def _told(self, hook: str, **given: Any) -> Told:
        told = Told()
        try:
            receipts: AsyncIterator[Receipt] = self.driver.ask(hook, **given)
            if not hasattr(receipts, "__anext__"):
                return Told(error=TypeError(f"{hook} gave a {type(receipts).__name__} and no async generator"))
            async with aclosing(receipts) as open_:  # type: ignore[type-var]
                async for receipt in open_:
                    told.receipts.append(receipt)
        except Exception as err:  # noqa: BLE001 - whatever a plugin raises is what the test is about
            told.error = err
        return told
