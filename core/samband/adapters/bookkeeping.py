"""What an adapter does for the books: sending, finding out, files, and reading what the other side has."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import date
from typing import Any, TypeVar

from samband.adapters.answers import checked_route
from samband.adapters.booking import BookedLines
from samband.adapters.charting import checked_chart
from samband.adapters.containment import Containment
from samband.adapters.filing import FILE_TIMEOUT_S, NoWayOut, checked_file, checked_report
from samband.adapters.guarding import GuardedSession
from samband.adapters.receipts import Receipts
from samband.adapters.wire import Connection, Link, Wire
from samband.contract import Batch, Booked, Chart, ExportFile, Manifest, Receipt, Route, Sought
from samband.errors import NotFoundError, OutcomeUnknownError, RetryableError
from samband.redaction import Redactor

__all__ = ["Bookkeeping"]

T = TypeVar("T")

_ROUTE_TIMEOUT_S = 120.0
_CHART_TIMEOUT_S = 300.0
_OWN_TROUBLE = ("hook_timeout", "plugin_stuck", "host_stopping")
"""What the host says of a hook that did not come to its end: nobody knows what it has sent by then."""


class Bookkeeping:
    """The hooks around money, of one plugin; `samband.adapters.adapter.Adapter` is this and the rest."""

    manifest: Manifest
    _contained: Containment
    _redactor: Redactor

    async def export(
        self, connection: Connection, batch: Batch, *, run_id: str, is_held: Callable[[], bool] = lambda: True
    ) -> AsyncGenerator[Receipt, None]:
        """Yields receipts for the items of a batch as they come, each checked; an item without one is uncertain.

        Args:
            connection: Which integration.
            batch: At least one item.
            run_id: On whose behalf.
            is_held: Asked before every request, from the plugin's thread: without a lease nothing goes out.

        Raises:
            RetryableError: Nothing of what has no receipt was sent.
            AdapterError: Anything else: what has no receipt is uncertain.
        """
        keys = [item.key for item in batch.items]
        try:
            given = {"batch": batch}
            async for receipt in self._receipts(connection, "export", keys, run_id, given, is_held):
                yield receipt
        except RetryableError as error:
            if error.code not in _OWN_TROUBLE:
                raise  # the plugin's own word that nothing more was sent
            raise OutcomeUnknownError(error.message, code=error.code, hint=error.hint) from error

    async def find_exported(
        self, connection: Connection, sought: Sequence[Sought], *, run_id: str
    ) -> AsyncGenerator[Receipt, None]:
        """Yields a receipt for each item that is found at the other side; none for one that is certainly not there."""
        keys = [each.key for each in sought]
        given = {"keys": keys, "sought": list(sought)}
        async for receipt in self._receipts(connection, "find_exported", keys, run_id, given):
            yield receipt

    async def choose_route(self, connection: Connection, *, avoided: Mapping[str, str], run_id: str) -> Route | None:
        """Gives the way that the next items go; None for a plugin that has but one.

        Args:
            connection: Which integration.
            avoided: Ways that refused in this run before anything was sent, and why.
            run_id: On whose behalf.

        Raises:
            RetryableError: No way is open now.
            AdapterError: The plugin's own, translated.
        """
        if "choose_route" not in self.manifest.capabilities:
            return None
        link = self._link(connection)

        async def work() -> Route:
            wire = self._wire()
            with self._contained.around("choose_route"):
                context = wire.context(link, run_id=run_id)
                route = await wire.awaited("choose_route", ctx=context, avoided=dict(avoided))
                return checked_route(
                    self.manifest.name, route, self._redactor.scrub, can_render="render" in self.manifest.capabilities
                )

        return await self._call("choose_route", work, min(self._hook_timeout_s, _ROUTE_TIMEOUT_S))

    async def chart(self, connection: Connection) -> Chart:
        """Gives what a mapping may refer to, as the other side has it now.

        Raises:
            AdapterError: The plugin's own, translated; see `samband.hookspecs.Hooks.chart`.
            NotFoundError: The plugin cannot read it.
        """
        if "chart" not in self.manifest.capabilities:
            raise NotFoundError(
                f"{self.manifest.title}'s accounts cannot be read.", code="chart_unsupported",
                hint="Compare the mapping with its chart of accounts by hand.",
            )  # fmt: skip
        link = self._link(connection)

        async def work() -> Chart:
            wire = self._wire()
            with self._contained.around("chart"):
                chart = await wire.awaited("chart", ctx=wire.context(link))
                return checked_chart(self.manifest.name, chart, self._redactor.scrub)

        return await self._call("chart", work, min(self._hook_timeout_s, _CHART_TIMEOUT_S))

    async def booked(self, connection: Connection, first: date, last: date) -> AsyncGenerator[list[Booked], None]:
        """Yields what the other side's books have between two days, both included. Close it when you stop early.

        Raises:
            AdapterError: The plugin's own, translated; see `samband.hookspecs.Hooks.booked`.
            NotFoundError: The plugin cannot read the books.
        """
        if "booked" not in self.manifest.capabilities:
            raise NotFoundError(f"{self.manifest.title}'s books cannot be read.", code="reconciliation_unsupported")
        link = self._link(connection)

        def read() -> BookedLines:
            with self._contained.around("booked"):
                lists = self._iterator("booked", ctx=self._wire().context(link), first=first, last=last)
            return BookedLines(self.manifest.name, lists, first=first, last=last, contained=self._contained)

        async with aclosing(self._pages("booked", read, _itself, 1)) as lists:
            async for lines in lists:
                yield lines

    async def render(self, connection: Connection, batch: Batch, profile: str) -> ExportFile:
        """Gives a batch as a file; nobody is called.

        Args:
            connection: Which integration.
            batch: At least one item.
            profile: ``machine`` for the other system, ``human`` for a person's spreadsheet.

        Raises:
            RejectedError: The batch cannot be written.
            NotFoundError: The plugin writes no files.
        """
        self._demand_capability("render", "writes no files")

        def check(file: object) -> ExportFile:
            return checked_file(self.manifest.name, file)

        return await self._in_pure_hook(connection, "render", check, batch=batch, profile=profile)

    async def acknowledge(self, connection: Connection, name: str, content: bytes) -> list[Receipt]:
        """Gives what the other side's report says of items; nobody is called.

        Raises:
            RemoteError: It is no such report.
            NotFoundError: The plugin reads no reports.
        """
        self._demand_capability("acknowledge", "makes no reports that are read here")

        def check(told: object) -> list[Receipt]:
            return checked_report(self.manifest.name, told, self._redactor.scrub)

        return await self._in_pure_hook(connection, "acknowledge", check, name=name, content=content)

    async def _in_pure_hook(
        self, connection: Connection, hook: str, check: Callable[[object], T], **arguments: object
    ) -> T:
        link = self._link(connection)

        async def work() -> T:
            wire = self._wire()
            with self._contained.around(hook):
                context = replace(wire.context(link), http=NoWayOut(hook))
                return check(await wire.awaited(hook, ctx=context, **arguments))

        return await self._call(hook, work, min(self._hook_timeout_s, FILE_TIMEOUT_S))

    def _demand_capability(self, capability: str, without: str) -> None:
        if capability not in self.manifest.capabilities:
            raise NotFoundError(f"{self.manifest.title} {without}.", code=f"{capability}_unsupported")

    async def _receipts(
        self, connection: Connection, hook: str, keys: Sequence[str], run_id: str, given: Mapping[str, object],
        is_held: Callable[[], bool] | None = None,
    ) -> AsyncGenerator[Receipt, None]:  # fmt: skip
        link = self._link(connection)

        def read() -> _Contained:
            with self._contained.around(hook):
                context = self._wire().context(link, run_id=run_id)
                if is_held is not None:
                    context = replace(context, http=GuardedSession(context.http, is_held))
                found = self._iterator(hook, ctx=context, **given)
            receipts = Receipts(self.manifest.name, hook, found, keys, self._redactor.scrub)
            return _Contained(hook, receipts, self._contained)

        async with aclosing(self._pages(hook, read, _itself, 0)) as receipts:
            async for receipt in receipts:
                yield receipt

    # ── what the adapter gives ───────────────────────────────────────────────

    @property
    def _hook_timeout_s(self) -> float:
        raise NotImplementedError

    def _link(self, connection: Connection) -> Link:
        raise NotImplementedError

    def _wire(self) -> Wire:
        raise NotImplementedError

    def _iterator(self, hook: str, **arguments: object) -> Any:
        raise NotImplementedError

    async def _call(self, hook: str, work: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        raise NotImplementedError

    def _pages(
        self, hook: str, read: Callable[[], AsyncIterator[Any]], prepare: Callable[[Any], Any], ahead: int
    ) -> AsyncGenerator[Any, None]:
        raise NotImplementedError


def _itself(part: Any) -> Any:
    return part


class _Contained:
    """Receipts as an async iterator whose errors belong to the tree."""

    def __init__(self, hook: str, receipts: Receipts, contained: Containment) -> None:
        self._hook = hook
        self._receipts = receipts
        self._contained = contained

    def __aiter__(self) -> _Contained:
        return self

    async def __anext__(self) -> Receipt:
        with self._contained.around(self._hook):
            try:
                return await anext(self._receipts)
            except StopAsyncIteration:
                ended = True
        assert ended
        raise StopAsyncIteration

    async def aclose(self) -> None:
        with self._contained.around(self._hook):
            await self._receipts.aclose()
