"""Our half of a comparison with the other side's books: items with their vouchers, and claims that nobody has taken."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from samband.rules.discrepancies import ZERO, OurLine, OurVoucher, Stuck
from samband.rules.forthcoming import Practice
from samband.rules.posting import from_row
from samband.rules.selecting import LIVE_STATES, item_key, total_of
from samband.store.charts import periods_in
from samband.store.database import Database
from samband.store.mappings import active_in
from samband.store.models import Correction, ExportItem, Integration, Reimbursement
from samband.store.reversals import is_stuck

_item: sa.Table = ExportItem.__table__
_claim: sa.Table = Reimbursement.__table__
_correction: sa.Table = Correction.__table__
_booking = _item.alias("booking")

_AT_ONCE: Final = 500
_COLUMNS: Final = (
    _item.c.key, _item.c.reimbursement_id, _item.c.state, _item.c.purpose, _item.c.posted_at, _item.c.voucher_number,
    _item.c.period, _item.c.voucher, _item.c.code,
)  # fmt: skip


class Untaken(NamedTuple):
    """An approved claim that nobody has taken; ``key`` is the one it would go out under."""

    id: str
    body: Mapping[str, Any]
    key: str


class Reconciling:
    """Reads part by part, and keeps of each voucher only what is compared: no texts, no names, no bank accounts."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def of_period(self, organization_id: str, integration_id: str, period: str) -> list[OurVoucher]:
        """Gives every item whose voucher belongs to a month, whatever its state."""
        found: list[OurVoucher] = []
        while True:
            where = [_item.c.period == period] if not found else [_item.c.period == period, _item.c.key > found[-1].key]
            part = await self._read(organization_id, integration_id, *where)
            found += part
            if len(part) < _AT_ONCE:
                return found

    async def by_keys(self, organization_id: str, integration_id: str, keys: Sequence[str]) -> list[OurVoucher]:
        """Gives those of the items that we have."""
        found: list[OurVoucher] = []
        for start in range(0, len(keys), _AT_ONCE):
            found += await self._read(organization_id, integration_id, _item.c.key.in_(keys[start : start + _AT_ONCE]))
        return found

    async def stuck(self, organization_id: str, integration_id: str, period: str) -> list[Stuck]:
        """Gives the bookings that were to be taken back and are not, where either voucher belongs to a month."""
        found: list[Stuck] = []
        async with self._db.read() as conn:
            for query in (_of_corrections(organization_id), _of_reversed()):
                about = sa.or_(_item.c.period == period, _booking.c.period == period)
                mine = query.where(*_of(organization_id, integration_id), about).order_by(_item.c.key)
                found += [_stuck(row) for row in await conn.execute(mine)]
        return found

    async def practice(self, integration_id: str, today: dt.date) -> Practice:
        """Gives how claims are booked at present: the mapping in force, and the periods as last read."""
        async with self._db.read() as conn:
            active = await active_in(conn, integration_id, today)
            periods = await periods_in(conn, integration_id)
        version, mapping = active or (0, None)
        return Practice(mapping=mapping, version=version, periods=periods, today=today)

    async def without_voucher(self, organization_id: str, integration_id: str) -> int:
        """Counts items that went out as claims: there are no lines of ours to compare."""
        query = sa.select(sa.func.count()).select_from(_item)
        query = query.where(*_of(organization_id, integration_id), _item.c.voucher.is_(None))
        async with self._db.read() as conn:
            return int(await conn.scalar(query) or 0)

    async def waiting(self, integration: Integration) -> AsyncGenerator[list[Untaken], None]:
        """Yields the approved claims that nobody has taken, in the order of their ids, part by part."""
        org, last = integration.organization_id, ""
        while True:
            async with self._db.read() as conn:
                rows = await conn.execute(_untaken(org).where(_claim.c.id > last).order_by(_claim.c.id).limit(_AT_ONCE))
                part = [
                    Untaken(row.id, row.body, item_key(org, integration.id, row.id, row.exports + 1)) for row in rows
                ]
            if part:
                yield part
            if len(part) < _AT_ONCE:
                return
            last = part[-1].id

    async def _read(
        self, organization_id: str, integration_id: str, *where: sa.ColumnElement[bool]
    ) -> list[OurVoucher]:
        query = sa.select(*_COLUMNS).where(*_of(organization_id, integration_id), *where)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_item.c.key).limit(_AT_ONCE))
            return [_voucher(row) for row in rows]


def _untaken(organization_id: str) -> sa.Select[Any]:
    mine = sa.and_(_item.c.organization_id == _claim.c.organization_id, _item.c.reimbursement_id == _claim.c.id)
    live = sa.select(_item.c.key).where(mine, _item.c.purpose == "booking", _item.c.state.in_(LIVE_STATES))
    exports = sa.select(sa.func.count()).select_from(_item).where(mine).correlate(_claim).scalar_subquery()
    return sa.select(_claim.c.id, _claim.c.body, exports.label("exports")).where(
        _claim.c.organization_id == organization_id, _claim.c.status == "approved", ~sa.exists(live.correlate(_claim))
    )


def _of(organization_id: str, integration_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return _item.c.organization_id == organization_id, _item.c.integration_id == integration_id


def _taken_back() -> sa.Select[Any]:
    """Gives reversals that do not take back what they should, each with its booking and its claim as that is now."""
    mine = sa.and_(_claim.c.organization_id == _item.c.organization_id, _claim.c.id == _item.c.reimbursement_id)
    columns = (
        _item.c.key, _item.c.state, _item.c.voucher_number, _item.c.reimbursement_id,
        _booking.c.key.label("booking_key"), _booking.c.voucher, _claim.c.body,
    )  # fmt: skip
    query = sa.select(*columns).join(_booking, _booking.c.key == _item.c.reverses).join(_claim, mine)
    return query.where(_item.c.purpose == "reversal", is_stuck())


def _of_corrections(organization_id: str) -> sa.Select[Any]:
    """Gives those whose correction waits for a person to agree once more."""
    agreed = sa.and_(_correction.c.organization_id == organization_id, _correction.c.state == "approved")
    query = _taken_back().add_columns(_correction.c.id.label("correction"))
    return query.join(_correction, sa.and_(_correction.c.reversal_key == _item.c.key, agreed))


def _of_reversed() -> sa.Select[Any]:
    """Gives those that were refused after all, when their claim had gone out again: the booking counts as taken back."""
    another = _item.alias("another")
    taken_back = sa.exists().where(
        another.c.organization_id == _item.c.organization_id, another.c.reverses == _item.c.reverses,
        another.c.purpose == "reversal", another.c.state.in_(LIVE_STATES),
    )  # fmt: skip
    query = _taken_back().add_columns(sa.null().label("correction"))
    return query.where(_booking.c.state == "reversed", ~taken_back.correlate(_item))


def _stuck(row: Any) -> Stuck:
    booking = from_row(row.booking_key, row.voucher)
    return Stuck(
        key=row.key, state=row.state, number=row.voucher_number, claim=row.reimbursement_id, correction=row.correction,
        currency=booking.currency, booked=sum((line.amount for line in booking.lines if line.amount > 0), ZERO),
        approved=total_of(row.body),
    )  # fmt: skip


def _voucher(row: Any) -> OurVoucher:
    voucher = None if row.voucher is None else from_row(row.key, row.voucher)
    return OurVoucher(
        key=row.key, claim=row.reimbursement_id, state=row.state, purpose=row.purpose,
        was_posted=row.posted_at is not None, refusal=row.code if row.state == "accepted" else None,
        number=row.voucher_number, period=row.period,
        currency="" if voucher is None else voucher.currency,
        lines=() if voucher is None else tuple(OurLine(line.n, line.account, line.amount) for line in voucher.lines),
    )  # fmt: skip
