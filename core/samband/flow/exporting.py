"""One export: settle what is uncertain, then send what is reserved, batch by batch.

Nothing is sent that might have arrived already. An item whose fate is not known is looked up at the other side by its
key; what is found is settled, and what is not there, once enough time has gone by for it to have arrived, is sent
again under the same key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import structlog

from samband.adapters.adapter import Adapter, Connection
from samband.contract import Batch, Item, Receipt
from samband.errors import OutcomeUnknownError, RetryableError, SambandError
from samband.store import Lease, Store
from samband.store.ledger import UNCERTAIN
from samband.store.models import ExportItem

log = structlog.stdlib.get_logger("samband.flow.exporting")

BATCH: Final = 100
_LOOKED_UP_AT_ONCE: Final = 100
_AMOUNTS: Final = ("amount", "rate", "quantity")


class Exporting:
    """Carries one export run out.

    Args:
        settle_after_s: How long an item must have been out before its not being found means that it never arrived.
    """

    def __init__(
        self, store: Store, lease: Lease, adapter: Adapter, connection: Connection, *, settle_after_s: float
    ) -> None:
        self._store = store
        self._lease = lease
        self._adapter = adapter
        self._connection = connection
        self._settle_after_s = settle_after_s

    async def run(self) -> None:
        """Settles and sends everything.

        Raises:
            RetryableError: Something is uncertain and too young to be judged, or the other side is away; the run waits.
        """
        await self._look_up()
        while taken := await self._store.ledger.take(self._lease, BATCH):
            await self._send(taken)
        if await self._uncertain(1):
            await self._look_up()
            if await self._uncertain(1):
                raise RetryableError(
                    "Some items were sent and it is not known yet whether they arrived.",
                    code="outcome_unsettled",
                    hint="They are looked up again; nothing is sent twice meanwhile.",
                    retry_after_s=self._settle_after_s,
                )

    async def _send(self, taken: Sequence[tuple[ExportItem, Mapping[str, Any]]]) -> None:
        items = [Item(key=item.key, stream=item.stream, values=exact(body)) for item, body in taken]
        open_keys = {item.key for item in items}
        batch = Batch(id=f"{self._lease.run_id}-{self._lease.fence}", items=items)
        try:
            async for receipt in self._adapter.export(self._connection, batch, run_id=self._lease.run_id):
                await self._store.ledger.settle(self._lease, [receipt], from_states=("sent",))
                open_keys.discard(receipt.key)
        except RetryableError:
            # The one error that says that nothing more was sent.
            await self._store.ledger.give_back(self._lease, sorted(open_keys), from_states=("sent",))
            raise
        except OutcomeUnknownError as err:
            # Not the end of the run: what is uncertain is looked up before it ends.
            log.warning("export_outcome_unknown", run=self._lease.run_id, code=err.code, uncertain=len(open_keys))
            await self._note_unknown(open_keys, err.code)
            return
        except SambandError as err:
            log.warning("export_interrupted", run=self._lease.run_id, code=err.code, uncertain=len(open_keys))
            await self._note_unknown(open_keys, err.code)
            raise
        await self._note_unknown(open_keys, "no_receipt")

    async def _note_unknown(self, keys: set[str], code: str) -> None:
        receipts = [Receipt(key=key, state="unknown", code=code[:64]) for key in sorted(keys)]
        if receipts:
            await self._store.ledger.settle(self._lease, receipts, from_states=("sent",))

    async def _look_up(self) -> None:
        after = ""
        while found := await self._uncertain(_LOOKED_UP_AT_ONCE, after):
            after = found[-1][0].key
            await self._look_up_some(found)

    async def _uncertain(self, limit: int, after: str = "") -> list[tuple[ExportItem, bool]]:
        return await self._store.ledger.uncertain(
            self._lease.integration_id, limit, after=after, settle_after_s=self._settle_after_s
        )

    async def _look_up_some(self, found: Sequence[tuple[ExportItem, bool]]) -> None:
        """Settles what is there; what is not, and has been out for long enough, goes back to be sent again."""
        missing = {item.key: is_judged for item, is_judged in found}
        async for receipt in self._adapter.find_exported(self._connection, list(missing), run_id=self._lease.run_id):
            await self._store.ledger.settle(self._lease, [receipt], from_states=UNCERTAIN)
            missing.pop(receipt.key, None)
        gone = [key for key, is_judged in missing.items() if is_judged]
        if gone:
            log.info("export_not_found", run=self._lease.run_id, items=len(gone))
            await self._store.ledger.give_back(self._lease, gone, from_states=UNCERTAIN)
        left_behind = [Receipt(key=key, state="unknown", code="worker_died") for key in missing if key not in gone]
        if left_behind:
            await self._store.ledger.settle(self._lease, left_behind, from_states=("sent",))


def exact(body: Mapping[str, Any]) -> dict[str, Any]:
    """Gives a claim's values with its amounts as `decimal.Decimal`; they are kept as text."""
    lines = [
        {name: Decimal(value) if name in _AMOUNTS and value is not None else value for name, value in line.items()}
        for line in body["lines"]
    ]
    return {**body, "lines": lines}
