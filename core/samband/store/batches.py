"""What went out together, newest first: a batch is what one run has sent, or is about to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import NotFoundError
from samband.rules.selecting import LIVE_STATES
from samband.store.database import Database
from samband.store.downloads import Download, downloads_in
from samband.store.models import ExportItem, KeptFile, Reimbursement, Run
from samband.store.reserving import approval_day

_item: sa.Table = ExportItem.__table__
_claim: sa.Table = Reimbursement.__table__
_run: sa.Table = Run.__table__
_file: sa.Table = KeptFile.__table__

_OVERLAPS: Final = 50

# Amounts are text with two decimals: without their dot they are whole øre, and the sum is exact on every database.
_SUMS = {
    "sqlite": """
SELECT i.run_id, json_extract(i.voucher, '$.currency') AS currency, i.purpose,
       sum(CAST(replace(json_extract(l.value, '$.amount'), '.', '') AS INTEGER)) AS cents
FROM export_item i, json_each(i.voucher, '$.lines') l
WHERE i.run_id IN (SELECT value FROM json_each(:runs)) AND i.voucher IS NOT NULL
  AND json_extract(l.value, '$.amount') NOT LIKE '-%'
GROUP BY 1, 2, 3
UNION ALL
SELECT i.run_id, json_extract(v.body, '$.currency'), i.purpose,
       sum(CAST(replace(json_extract(l.value, '$.amount'), '.', '') AS INTEGER))
FROM export_item i
JOIN reimbursement_version v ON v.organization_id = i.organization_id
  AND v.reimbursement_id = i.reimbursement_id AND v.version = i.version, json_each(v.body, '$.lines') l
WHERE i.run_id IN (SELECT value FROM json_each(:runs)) AND i.voucher IS NULL
GROUP BY 1, 2, 3
""",
    "postgresql": """
SELECT i.run_id, i.voucher ->> 'currency' AS currency, i.purpose,
       sum(replace(l.value ->> 'amount', '.', '')::bigint) AS cents
FROM export_item i, jsonb_array_elements(i.voucher -> 'lines') l
WHERE i.run_id IN (SELECT jsonb_array_elements_text(CAST(:runs AS jsonb))) AND i.voucher IS NOT NULL
  AND l.value ->> 'amount' NOT LIKE '-%'
GROUP BY 1, 2, 3
UNION ALL
SELECT i.run_id, v.body ->> 'currency', i.purpose, sum(replace(l.value ->> 'amount', '.', '')::bigint)
FROM export_item i
JOIN reimbursement_version v ON v.organization_id = i.organization_id
  AND v.reimbursement_id = i.reimbursement_id AND v.version = i.version, jsonb_array_elements(v.body -> 'lines') l
WHERE i.run_id IN (SELECT jsonb_array_elements_text(CAST(:runs AS jsonb))) AND i.voucher IS NULL
GROUP BY 1, 2, 3
""",
}


@dataclass(slots=True, kw_only=True)
class Batch:
    """One run's items.

    Attributes:
        states: State → how many items.
        cents: Currency → sum in hundredths; what was taken back counts below zero.
        routes: By which they went.
        first: The earliest month they are booked in, as ``2026-03``; None for items that are no vouchers.
        last: The latest one.
        files: The files that carried them, oldest first.
        claims: Ids of the claims, in their order; only for a batch that is shown alone, or the first ones.
    """

    run: Run
    states: dict[str, int]
    cents: dict[str, int]
    routes: list[str]
    first: str | None
    last: str | None
    files: list[BatchFile]
    claims: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFile:
    """A file that carried items of a batch, and who has fetched it: the newest of them, newest first."""

    id: str
    name: str
    media_type: str
    state: str
    downloads: Sequence[Download]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """An earlier batch with claims that were approved on the same days."""

    run_id: str
    days: Sequence[str]
    claims: int


class Batches:
    """Reading what went out together."""

    _db: Database

    async def batches(
        self, organization_id: str, *, integration_id: str | None, before: str | None, limit: int, claims: int
    ) -> list[Batch]:
        """Gives batches, newest first.

        Args:
            before: Only those older than this run.
            claims: How many claims of each are named.
        """
        has_items = sa.exists().where(_item.c.run_id == _run.c.id)
        query = sa.select(_run).where(
            _run.c.organization_id == organization_id, _run.c.operation == "export", has_items
        )
        if integration_id is not None:
            query = query.where(_run.c.integration_id == integration_id)
        if before is not None:
            query = query.where(_run.c.id < before)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_run.c.id.desc()).limit(limit))
            return await self._with_items(conn, [Run(**row._mapping) for row in rows], claims)

    async def batch(self, organization_id: str, run_id: str) -> Batch:
        """Gives one batch with all its claims, or raises `NotFoundError`."""
        mine = sa.and_(_run.c.organization_id == organization_id, _run.c.id == run_id, _run.c.operation == "export")
        async with self._db.read() as conn:
            row = (await conn.execute(sa.select(_run).where(mine))).one_or_none()
            found = [] if row is None else await self._with_items(conn, [Run(**row._mapping)], 10_000)
        if not found:
            raise NotFoundError("There is no such batch.", code="batch_not_found")
        return found[0]

    async def overlaps(self, integration_id: str, first: str, last: str, *, not_run: str | None) -> list[Overlap]:
        """Gives earlier batches with claims that were approved on days of a period, newest first."""
        day = approval_day()
        joined = sa.and_(_claim.c.organization_id == _item.c.organization_id, _claim.c.id == _item.c.reimbursement_id)
        mine = sa.and_(
            _item.c.integration_id == integration_id, _item.c.purpose == "booking", _item.c.state.in_(LIVE_STATES),
            _item.c.run_id.is_not(None), _item.c.run_id != (not_run or ""), day >= first, day <= last,
        )  # fmt: skip
        count = sa.func.count().label("claims")
        query = sa.select(_item.c.run_id, day.label("day"), count).select_from(_item.join(_claim, joined)).where(mine)
        async with self._db.read() as conn:
            rows = (await conn.execute(query.group_by(_item.c.run_id, sa.text("day")))).all()
        by_run: dict[str, dict[str, int]] = {}
        for row in rows:
            by_run.setdefault(row.run_id, {})[row.day] = row.claims
        newest = sorted(by_run, reverse=True)[:_OVERLAPS]
        return [Overlap(run_id=run, days=sorted(by_run[run]), claims=sum(by_run[run].values())) for run in newest]

    async def _with_items(self, conn: AsyncConnection, runs: Sequence[Run], claims: int) -> list[Batch]:
        found = {
            run.id: Batch(run=run, states={}, cents={}, routes=[], first=None, last=None, files=[], claims=[])
            for run in runs
        }
        if not found:
            return []
        await self._count(conn, found)
        await self._sum(conn, found)
        await self._name(conn, found, claims)
        return list(found.values())

    async def _count(self, conn: AsyncConnection, found: dict[str, Batch]) -> None:
        query = sa.select(
            _item.c.run_id, _item.c.state, _item.c.route, sa.func.count().label("items"),
            sa.func.min(_item.c.period).label("first"), sa.func.max(_item.c.period).label("last"),
        ).where(_item.c.run_id.in_(found)).group_by(_item.c.run_id, _item.c.state, _item.c.route)  # fmt: skip
        for row in await conn.execute(query):
            batch = found[row.run_id]
            batch.states[row.state] = batch.states.get(row.state, 0) + row.items
            if row.route is not None and row.route not in batch.routes:
                batch.routes.append(row.route)
            batch.first = min(filter(None, (batch.first, row.first)), default=None)
            batch.last = max(filter(None, (batch.last, row.last)), default=None)

    async def _sum(self, conn: AsyncConnection, found: dict[str, Batch]) -> None:
        asked = {"runs": orjson.dumps(list(found)).decode()}
        for row in await conn.execute(sa.text(_SUMS[self._db.dialect]), asked):
            cents = found[row.run_id].cents
            sign = -1 if row.purpose == "reversal" else 1
            cents[row.currency] = cents.get(row.currency, 0) + sign * int(row.cents)

    async def _file(self, conn: AsyncConnection, found: dict[str, Batch]) -> None:
        about = (_file.c.organization_id, _file.c.run_id, _file.c.id, _file.c.name, _file.c.media_type, _file.c.state)
        files = (await conn.execute(sa.select(*about).where(_file.c.run_id.in_(found)).order_by(_file.c.id))).all()
        # Batches are one organisation's, and so are their files.
        fetched = await downloads_in(conn, files[0].organization_id, [row.id for row in files]) if files else {}
        for row in files:
            kept = BatchFile(
                id=row.id, name=row.name, media_type=row.media_type, state=row.state, downloads=fetched.get(row.id, [])
            )  # fmt: skip
            found[row.run_id].files.append(kept)

    async def _name(self, conn: AsyncConnection, found: dict[str, Batch], claims: int) -> None:
        await self._file(conn, found)
        place: Any = sa.func.row_number().over(partition_by=_item.c.run_id, order_by=_item.c.reimbursement_id)
        numbered = sa.select(_item.c.run_id, _item.c.reimbursement_id, place.label("place")).where(
            _item.c.run_id.in_(found)
        )
        part = numbered.subquery()
        query = sa.select(part).where(part.c.place <= claims).order_by(part.c.run_id, part.c.place)
        for row in await conn.execute(query):
            found[row.run_id].claims.append(row.reimbursement_id)
