"""What the other side reports of items, told by a person or a program instead of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.contract import Receipt
from samband.store import audit
from samband.store.database import Database
from samband.store.models import ExportItem, Integration
from samband.store.settling import BOOKED, move
from samband.store.turns import one_at_a_time

_item: sa.Table = ExportItem.__table__


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a report came to.

    Attributes:
        settled: Items that moved, each as it was before, and the state it is in now.
        unchanged: Items that it tells of and that stay in their state.
        unknown: Keys that no item of the integration has.
    """

    settled: Sequence[tuple[ExportItem, str]]
    unchanged: Sequence[ExportItem]
    unknown: Sequence[str]


class Reports:
    """Every statement about reports."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def settle_by_report(
        self, integration: Integration, receipts: Sequence[Receipt], told: Mapping[str, Any]
    ) -> Settled:
        """Settles items by what a report says of them, without a run; the same report again changes nothing.

        An item that was refused, taken back or given up is never moved back, and one that a worker is sending is not
        refused by what is told of an earlier attempt: its claim would be free while it arrives. One that waits to be sent
        again because it was not found, and of which the report says that it is there, is not sent again.

        Args:
            told: For the audit trail: which report it was.
        """
        org, keys = integration.organization_id, [receipt.key for receipt in receipts]
        async with self._db.write() as conn:
            await one_at_a_time(conn, org)
            await self._call_back(conn, integration, [r.key for r in receipts if r.state in BOOKED])
            mine = sa.and_(_item.c.integration_id == integration.id, _item.c.key.in_(keys))
            # In the order in which a worker locks them.
            rows = await conn.execute(sa.select(_item).where(mine).order_by(_item.c.key).with_for_update())
            before = {row.key: ExportItem(**row._mapping) for row in rows}
            moved = await move(conn, org, integration.id, None, [r for r in receipts if _is_told(r, before)])
            done = {item.key for item, _ in moved}
            unchanged = [before[key] for key in keys if key in before and key not in done]
            unknown = [key for key in keys if key not in before]
            counts = {"settled": len(moved), "unchanged": len(unchanged), "unknown": len(unknown)}
            subject = f"integration/{integration.id}"
            await audit.record(conn, org, "export.acknowledged", subject, {**told, **counts})
        return Settled(settled=moved, unchanged=unchanged, unknown=unknown)

    async def _call_back(self, conn: AsyncConnection, integration: Integration, keys: Sequence[str]) -> None:
        """Makes uncertain what was looked for in vain and is about to go out again: it is there after all."""
        mine = sa.and_(
            _item.c.integration_id == integration.id, _item.c.key.in_(list(keys)), _item.c.state == "reserved",
            _item.c.attempts > 0,
        )  # fmt: skip
        await conn.execute(sa.update(_item).where(mine).values(state="unknown"))


def _is_told(receipt: Receipt, before: Mapping[str, ExportItem]) -> bool:
    item = before.get(receipt.key)
    return item is not None and not (item.state == "sent" and receipt.state not in BOOKED)
