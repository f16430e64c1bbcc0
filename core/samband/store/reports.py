"""What the other side reports of items, told by a person or a program instead of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.contract import Receipt
from samband.rules.reporting import Carried, number_of, understood
from samband.store import audit
from samband.store.database import Database
from samband.store.models import ExportItem, Integration, KeptFile, KeptFileItem
from samband.store.settling import BOOKED, move
from samband.store.turns import one_at_a_time

_item: sa.Table = ExportItem.__table__
_file: sa.Table = KeptFile.__table__
_carried: sa.Table = KeptFileItem.__table__

_NEVER_OUT = ("made", "void")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a report came to.

    Attributes:
        settled: Items that moved, each as it was before, and the state it is in now.
        unchanged: Items that it tells of and that stay in their state, also because it says two things of them.
        unknown: Keys that no item of the integration has, and numbers that no item has which the report can mean.
    """

    settled: Sequence[tuple[ExportItem, str]]
    unchanged: Sequence[ExportItem]
    unknown: Sequence[str]


class Reports:
    """Every statement about reports."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def settle_by_report(
        self, integration: Integration, receipts: Sequence[Receipt], told: Mapping[str, Any], *, name: str = ""
    ) -> Settled:
        """Settles items by what a report says of them, without a run; the same report again changes nothing.

        An item that was refused, taken back or given up is never moved back, and one that a worker is sending is not
        refused by what is told of an earlier attempt: its claim would be free while it arrives. One that waits to be sent
        again because it was not found, and of which the report says that it is there, is not sent again.

        Args:
            receipts: Under the keys of items, or under their vouchers' numbers.
            told: For the audit trail: which report it was.
            name: The report's; one that has the name of a file of ours tells of that file.
        """
        org = integration.organization_id
        async with self._db.write() as conn:
            await one_at_a_time(conn, org)
            numbers = [number for receipt in receipts if (number := number_of(receipt)) is not None]
            carried = await _carried_in(conn, integration.id, numbers)
            own = await _own_names_in(conn, integration.id, [name] if numbers and name else [])
            found = understood(receipts, carried, report_file=name if name in own else None)
            receipts = found.receipts
            keys = [*(receipt.key for receipt in receipts), *found.contradicted]
            await self._call_back(conn, integration, [r.key for r in receipts if r.state in BOOKED])
            mine = sa.and_(_item.c.integration_id == integration.id, _item.c.key.in_(keys))
            # In the order in which a worker locks them.
            rows = await conn.execute(sa.select(_item).where(mine).order_by(_item.c.key).with_for_update())
            before = {row.key: ExportItem(**row._mapping) for row in rows}
            moved = await move(conn, org, integration.id, None, [r for r in receipts if _is_told(r, before)])
            done = {item.key for item, _ in moved}
            unchanged = [before[key] for key in keys if key in before and key not in done]
            unknown = [*(key for key in keys if key not in before), *found.unknown]
            counts = {"settled": len(moved), "unchanged": len(unchanged), "unknown": len(unknown)}
            counts["by_number"] = found.by_number
            subject = f"integration/{integration.id}"
            await audit.record(conn, org, "export.acknowledged", subject, {**told, **counts})
        return Settled(settled=moved, unchanged=unchanged, unknown=unknown)

    async def carried(self, integration_id: str, numbers: Collection[int]) -> dict[int, Carried]:
        """Gives voucher number → the integration's item of that number that a file has carried."""
        async with self._db.read() as conn:
            return await _carried_in(conn, integration_id, numbers)

    async def own_names(self, integration_id: str, names: Collection[str]) -> set[str]:
        """Gives those of some names that files of the integration have."""
        async with self._db.read() as conn:
            return await _own_names_in(conn, integration_id, names)

    async def _call_back(self, conn: AsyncConnection, integration: Integration, keys: Sequence[str]) -> None:
        """Makes uncertain what was looked for in vain and is about to go out again: it is there after all."""
        mine = sa.and_(
            _item.c.integration_id == integration.id, _item.c.key.in_(list(keys)), _item.c.state == "reserved",
            _item.c.attempts > 0,
        )  # fmt: skip
        await conn.execute(sa.update(_item).where(mine).values(state="unknown"))


async def _carried_in(conn: AsyncConnection, integration_id: str, numbers: Collection[int]) -> dict[int, Carried]:
    if not numbers:
        return {}
    query = (
        sa.select(_item.c.voucher_number, _item.c.key, _file.c.name, _file.c.state)
        .join(_carried, _carried.c.key == _item.c.key)
        .join(_file, _file.c.id == _carried.c.file_id)
        .where(
            _item.c.integration_id == integration_id, _file.c.integration_id == integration_id,
            _item.c.voucher_number.in_(set(numbers)),
        )
    )  # fmt: skip
    found: dict[int, Carried] = {}
    for row in await conn.execute(query):
        before = found.get(row.voucher_number)
        found[row.voucher_number] = Carried(
            key=row.key, files={row.name, *(before.files if before else ())},
            is_out=row.state not in _NEVER_OUT or (before is not None and before.is_out),
        )  # fmt: skip
    return found


async def _own_names_in(conn: AsyncConnection, integration_id: str, names: Collection[str]) -> set[str]:
    if not names:
        return set()
    mine = sa.and_(_file.c.integration_id == integration_id, _file.c.name.in_(list(names)))
    return set(await conn.scalars(sa.select(_file.c.name).where(mine)))


def _is_told(receipt: Receipt, before: Mapping[str, ExportItem]) -> bool:
    item = before.get(receipt.key)
    return item is not None and not (item.state == "sent" and receipt.state not in BOOKED)
