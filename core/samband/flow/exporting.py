"""One export: settle what is uncertain, send what is reserved, batch by batch, and ask what became of what was accepted.

Nothing is sent that might have arrived already. An item whose fate is not known is looked up at the other side by its
key; what is found is settled, and what is not there, once enough time has gone by for it to have arrived, is sent
again under the same key and by the same route.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from samband.adapters.adapter import Adapter, Connection
from samband.contract import Batch, Item, Receipt, Sought
from samband.errors import AdapterError, OutcomeUnknownError, RateLimitedError, RetryableError, SambandError
from samband.flow.outgoing import item_of, sought_of
from samband.rules.selecting import CORE_ROUTES
from samband.store import Lease, Store
from samband.store.ledger import STEPS_S, UNSETTLED, Taken, Way
from samband.store.models import ExportItem
from samband.store.settling import UNCERTAIN

__all__ = ["Exporting", "FileWay", "Patience"]

log = structlog.stdlib.get_logger("samband.flow.exporting")

BATCH: Final = 100
"""Items that are out at once, and so in doubt at once when a worker dies."""
VOUCHER_BATCH: Final = 250
FILE_BATCH: Final = 2_000
_LOOKED_UP_AT_ONCE: Final = 200
_KEPT_BACK_S: Final = 0.25
"""How long receipts may wait to be written together. What dies with a worker meanwhile is looked up."""
_KEPT_BACK: Final = 200


class FileWay(Protocol):
    """What carries items out as files; `samband.twin.Twin` is one."""

    def send(self, connection: Connection, batch: Batch, *, lease: Lease, route: str) -> AsyncIterator[Receipt]: ...
    def find(self, connection: Connection, sought: Sequence[Sought]) -> AsyncIterator[Receipt]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long things take.

    Attributes:
        settle_after_s: How long an item must have been out before its not being found means that it never arrived.
        steps_s: Ages at which it is asked what became of an item; see `samband.store.ledger.Ledger.accepted_due`.
        up_to_days: Beyond this age nobody asks by himself.
    """

    settle_after_s: float
    steps_s: Sequence[float] = STEPS_S
    up_to_days: float = 90.0


class Exporting:
    """Carries one export run out.

    Args:
        twin: The way out by file; None where the plugin writes none.
        is_held: Tells whether the run's lease is certainly still this worker's, by this machine's own clock.
    """

    def __init__(
        self, store: Store, lease: Lease, adapter: Adapter, connection: Connection, *, patience: Patience,
        twin: FileWay | None = None, is_held: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        self._store = store
        self._lease = lease
        self._adapter = adapter
        self._connection = connection
        self._patience = patience
        self._twin = twin
        self._is_held = is_held
        self._log = log.bind(run=lease.run_id, plugin=lease.plugin)

    async def run(self) -> int:
        """Settles and sends everything; gives how many items are uncertain still, to be looked up later.

        Raises:
            RetryableError: Something is uncertain and too young to be judged, or the other side is away; the run waits.
        """
        ledger, integration_id = self._store.ledger, self._lease.integration_id
        await ledger.note_orphans(self._lease)
        await self._look_up()
        await self._ask_before_reversing()
        await self._send_bound()
        await self._send_free()
        if await ledger.count_uncertain(integration_id):
            await self._look_up()
            if await ledger.is_young(integration_id, settle_after_s=self._patience.settle_after_s):
                raise RetryableError(
                    "Some items were sent and it is not known yet whether they arrived.",
                    code=UNSETTLED,
                    hint="They are looked up again; nothing is sent twice meanwhile.",
                    retry_after_s=self._patience.settle_after_s,
                )
        await self._ask_for_postings()
        left = await ledger.count_uncertain(integration_id)
        if left:
            await self._store.runs.note(
                self._lease, f"{left} items are uncertain; they are looked up again by themselves."
            )
        return left

    # ── sending ──────────────────────────────────────────────────────────────

    async def _send_bound(self) -> None:
        """Sends what may go one way only: the way it went before, or the one that was ordered."""
        for route in await self._store.ledger.bound_routes(self._lease.integration_id):
            while taken := await self._take(Way(name=route), is_bound=True):
                await self._send(taken, route)

    async def _send_free(self) -> None:
        """Sends the rest by the way that the plugin chooses, and by another one when that refuses before anything is sent."""
        avoided: dict[str, str] = {}
        way: Way | None = None
        while await self._store.ledger.has_free(self._lease.integration_id):
            if way is None:
                way = await self._choose(avoided)
            taken = await self._take(way)
            try:
                if taken:
                    await self._send(taken, way.name)
            except RateLimitedError:
                raise  # they asked for time, which is no reason to knock at another door
            except RetryableError as error:
                if way.name is None or not self._can_choose:
                    raise
                avoided[way.name] = error.message or error.code
                way = await self._other(avoided, error)

    @property
    def _can_choose(self) -> bool:
        return "choose_route" in self._adapter.manifest.capabilities

    async def _choose(self, avoided: Mapping[str, str]) -> Way:
        route = await self._adapter.choose_route(self._connection, avoided=avoided, run_id=self._lease.run_id)
        if route is None:
            # Without a way to find out what was sent, a file is the only way out.
            return Way() if {"export", "find_exported"} <= self._adapter.manifest.capabilities else Way(name="file")
        self._log.info("route_chosen", route=route.name, reasons=dict(route.reasons), avoided=dict(avoided))
        passed = "".join(f" Not {name}: {why}" for name, why in route.reasons.items())
        await self._store.runs.note(self._lease, f"Goes by {route.name}.{passed}"[:1000])
        return Way(name=route.name, reasons={**avoided, **route.reasons})

    async def _other(self, avoided: Mapping[str, str], error: RetryableError) -> Way:
        """Gives another way than those that refused, or lets the refusal go on."""
        try:
            way = await self._choose(avoided)
        except RetryableError:
            raise error from None
        if way.name in avoided:
            raise error
        return way

    async def _take(self, way: Way, *, is_bound: bool = False) -> list[Taken]:
        limit = FILE_BATCH if way.name in CORE_ROUTES else self._batch
        return await self._store.ledger.take(self._lease, limit, way=way, is_bound=is_bound)

    @property
    def _batch(self) -> int:
        kinds = {stream.name: stream.kind for stream in self._adapter.manifest.streams}
        return VOUCHER_BATCH if any(kinds.get(name) == "voucher" for name in self._lease.streams) else BATCH

    async def _send(self, taken: Sequence[Taken], route: str | None) -> None:
        is_bound = taken[0].is_bound
        items = [item_of(each) for each in taken]
        if off := [item for item in items if not _is_balanced(item)]:
            await self._store.ledger.settle(self._lease, [_unbalanced(item) for item in off])
            items = [item for item in items if item not in off]
        if not items:
            return
        writing = _Writing(self._store, self._lease, {item.key for item in items})
        try:
            await writing.read(self._receipts(items, route))
        except RetryableError:
            # The one error that says that nothing more was sent.
            keys = sorted(writing.open)
            await self._store.ledger.give_back(self._lease, keys, from_states=("sent",), is_free=not is_bound)
            raise
        except OutcomeUnknownError as err:
            # Not the end of the run: what is uncertain is looked up before it ends.
            self._log.warning("export_outcome_unknown", code=err.code, uncertain=len(writing.open))
            await self._store.ledger.doubt(self._lease, sorted(writing.open), err.code)
            return
        except SambandError as err:
            self._log.warning("export_interrupted", code=err.code, uncertain=len(writing.open))
            await self._store.ledger.doubt(self._lease, sorted(writing.open), err.code)
            raise
        await self._store.ledger.doubt(self._lease, sorted(writing.open), "no_receipt")

    def _receipts(self, items: Sequence[Item], route: str | None) -> AsyncIterator[Receipt]:
        batch = Batch(id=f"{self._lease.run_id}-{self._lease.fence}-{items[0].key[:12]}", items=items, route=route)
        if route in CORE_ROUTES:
            return self._files().send(self._connection, batch, lease=self._lease, route=route or "")
        return self._adapter.export(self._connection, batch, run_id=self._lease.run_id, is_held=self._is_held)

    def _files(self) -> FileWay:
        if self._twin is None:
            raise RetryableError("This worker has no way out by file.", code="route_unsupported")
        return self._twin

    # ── finding out ──────────────────────────────────────────────────────────

    async def _look_up(self) -> None:
        ledger, after = self._store.ledger, ""
        settle_after_s = self._patience.settle_after_s
        while found := await ledger.uncertain(
            self._lease.integration_id, _LOOKED_UP_AT_ONCE, after=after, settle_after_s=settle_after_s
        ):
            after = found[-1][0].key
            await self._look_up_some(found)

    async def _look_up_some(self, found: Sequence[tuple[ExportItem, bool]]) -> None:
        """Settles what is there; what is not, and has been out for long enough, goes back to be sent again."""
        writing = await self._asked([item for item, _ in found])
        gone = [item.key for item, is_judged in found if is_judged and item.key in writing.open]
        if gone:
            self._log.info("export_not_found", items=len(gone))
            await self._store.ledger.give_back(self._lease, gone, from_states=UNCERTAIN)

    async def _ask_for_postings(self) -> None:
        """Asks what became of items that were accepted; one that is not there any more stays accepted, and is told of."""
        ledger, after = self._store.ledger, ""
        while found := await ledger.accepted_due(
            self._lease.integration_id, _LOOKED_UP_AT_ONCE, after=after, steps_s=self._patience.steps_s,
            up_to_days=self._patience.up_to_days,
        ):  # fmt: skip
            after = found[-1].key
            writing = await self._asked(found)
            if writing.open:
                self._log.warning("accepted_not_found", items=len(writing.open))

    async def _ask_before_reversing(self) -> None:
        """Asks what became of bookings that are about to be taken back: one that was refused must not be."""
        ledger, after = self._store.ledger, ""
        while found := await ledger.about_to_be_reversed(self._lease.integration_id, _LOOKED_UP_AT_ONCE, after=after):
            after = found[-1].key
            await self._asked(found)

    async def _asked(self, items: Sequence[ExportItem]) -> _Writing:
        """Asks about items, each where it went, and gives what was written; open are those that are not there."""
        writing = _Writing(self._store, self._lease, {item.key for item in items})
        by_file = [sought_of(item) for item in items if item.route in CORE_ROUTES]
        others = [sought_of(item) for item in items if item.route not in CORE_ROUTES]
        if by_file:
            await writing.read(self._files().find(self._connection, by_file))
            await self._look_into_the_books(writing, by_file)
        if others and "find_exported" in self._adapter.manifest.capabilities:
            await writing.read(self._adapter.find_exported(self._connection, others, run_id=self._lease.run_id))
        elif others:  # nobody was asked, and so nothing is known to be missing
            writing.open.difference_update(each.key for each in others)
        await self._store.ledger.note_looked_up(self._lease, [item.key for item in items])
        return writing

    async def _look_into_the_books(self, writing: _Writing, by_file: Sequence[Sought]) -> None:
        """Asks the books about what went as a file, and takes their word only for what is there.

        That it is not there says nothing of a file, which somebody may take in any day; and files are for the times when
        the books cannot be asked.
        """
        if "find_exported" not in self._adapter.manifest.capabilities:
            return
        found = self._adapter.find_exported(self._connection, by_file, run_id=self._lease.run_id)
        try:
            await writing.read(_present(found))
        except AdapterError as err:
            self._log.info("books_not_asked", code=err.code, items=len(by_file))


async def _present(receipts: AsyncIterator[Receipt]) -> AsyncIterator[Receipt]:
    async for receipt in receipts:
        if receipt.state in ("accepted", "posted"):
            yield receipt


def _is_balanced(item: Item) -> bool:
    """Looks once more, right before it is sent: what was kept may have been meddled with."""
    return item.voucher is None or (len(item.voucher.lines) > 1 and not sum(line.amount for line in item.voucher.lines))


def _unbalanced(item: Item) -> Receipt:
    text = "The voucher's lines do not sum to 0.00; it was not sent."
    return Receipt(key=item.key, state="rejected", code="voucher_unbalanced", field="lines", message=text)


class _Writing:
    """Writes receipts as they come, some at once; what has none yet is in ``open``."""

    def __init__(self, store: Store, lease: Lease, keys: set[str]) -> None:
        self._store = store
        self._lease = lease
        self.open = keys

    async def read(self, receipts: AsyncIterator[Receipt]) -> None:
        """Writes all, also those that came before an error."""
        kept: list[Receipt] = []
        since = time.monotonic()
        try:
            async for receipt in receipts:
                kept.append(receipt)
                if len(kept) >= _KEPT_BACK or time.monotonic() - since > _KEPT_BACK_S:
                    await self._write(kept)
                    kept, since = [], time.monotonic()
        except SambandError:
            await self._write(kept)
            raise
        await self._write(kept)

    async def _write(self, receipts: Sequence[Receipt]) -> None:
        await self._store.ledger.settle(self._lease, receipts)
        self.open.difference_update(receipt.key for receipt in receipts)
