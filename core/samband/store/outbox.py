"""Events: written in the transaction of what they tell, and read back in their order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import NotFoundError
from samband.eventtypes import WILDCARD, check_data
from samband.store.database import Database
from samband.store.ids import new_id
from samband.store.models import EventDelivery, Organization, Outbox

_organization: sa.Table = Organization.__table__
_outbox: sa.Table = Outbox.__table__
_delivery: sa.Table = EventDelivery.__table__

_SWEPT_AT_ONCE = 2_000


async def emit(conn: AsyncConnection, organization_id: str, type: str, subject: str, data: Mapping[str, Any]) -> int:
    """Adds an event to the outbox and gives its number, gapless within the organisation.

    Args:
        type: For instance ``no.samband.run.succeeded.v1``; its data has a schema in `samband.eventtypes`.
        subject: What it is about, for instance ``run/0198…``; events of one subject are delivered in order.
        data: Ids, states and counts. Never member data.
    """
    seq = await conn.scalar(
        sa.update(_organization)
        .where(_organization.c.id == organization_id)
        .values(event_seq=_organization.c.event_seq + 1)
        .returning(_organization.c.event_seq)
    )
    await insert_event(conn, organization_id, int(seq or 0), type, subject, data, dt.datetime.now(dt.UTC))
    return int(seq or 0)


async def emit_all(
    conn: AsyncConnection, organization_id: str, events: Sequence[tuple[str, str, Mapping[str, Any]]]
) -> None:
    """Adds events (type, subject, data) in their order, in as few statements as one would take."""
    if not events:
        return
    for type, _, data in events:
        check_data(type, data)
    last = await conn.scalar(
        sa.update(_organization)
        .where(_organization.c.id == organization_id)
        .values(event_seq=_organization.c.event_seq + len(events))
        .returning(_organization.c.event_seq)
    )
    first, now = int(last or 0) - len(events) + 1, dt.datetime.now(dt.UTC)
    rows = [
        {
            "organization_id": organization_id, "seq": first + offset, "event_id": new_id(), "type": type,
            "subject": subject, "data": dict(data), "created_at": now,
        }
        for offset, (type, subject, data) in enumerate(events)
    ]  # fmt: skip
    await conn.execute(sa.insert(_outbox), rows)


async def insert_event(
    conn: AsyncConnection, organization_id: str, seq: int, type: str, subject: str, data: Mapping[str, Any],
    at: dt.datetime,
) -> None:  # fmt: skip
    """Adds an event under a number that the transaction has taken already.

    Raises:
        ValueError: The type or its data is not what `samband.eventtypes` says, which is a defect of the caller. What
            others are told is decided there alone, so that no member's data can slip in here.
    """
    check_data(type, data)
    await conn.execute(
        sa.insert(_outbox).values(
            organization_id=organization_id, seq=seq, event_id=new_id(), type=type, subject=subject, data=dict(data),
            created_at=at,
        )
    )  # fmt: skip


def of_types(column: sa.ColumnElement[str], patterns: Sequence[str]) -> sa.ColumnElement[bool]:
    """Gives the condition that a type passes a filter: whole names, and beginnings with ``.*``; an empty one is all."""
    if not patterns:
        return sa.true()
    names = [pattern for pattern in patterns if not pattern.endswith(WILDCARD)]
    beginnings = [pattern[: -len(WILDCARD)] + "." for pattern in patterns if pattern.endswith(WILDCARD)]
    return sa.or_(column.in_(names), *(column.startswith(beginning, autoescape=True) for beginning in beginnings))


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsRead:
    """A part of an organisation's feed.

    Attributes:
        rows: In order.
        newest: Number of the newest event there is, whatever its type; 0 before the first.
        oldest: Number of the oldest one that is still kept; one more than ``newest`` when none is.
    """

    rows: list[Outbox]
    newest: int
    oldest: int


class Events:
    """Reading the outbox, noting what the plugins have heard, and forgetting what is old."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def after(self, organization_id: str, seq: int, *, limit: int, types: Sequence[str] = ()) -> EventsRead:
        """Gives events that come after a number, on one snapshot with the feed's both ends."""
        mine = _outbox.c.organization_id == organization_id
        query = sa.select(_outbox).where(mine, _outbox.c.seq > seq, of_types(_outbox.c.type, types))
        async with self._db.read() as conn:
            newest = await conn.scalar(
                sa.select(_organization.c.event_seq).where(_organization.c.id == organization_id)
            )
            oldest = await conn.scalar(sa.select(sa.func.min(_outbox.c.seq)).where(mine))
            # On PostgreSQL each statement sees what was committed before it: nothing newer than ``newest`` counts.
            rows = await conn.execute(query.where(_outbox.c.seq <= newest).order_by(_outbox.c.seq).limit(limit))
            found = [Outbox(**row._mapping) for row in rows]
        return EventsRead(rows=found, newest=newest or 0, oldest=oldest or (newest or 0) + 1)

    async def get(self, organization_id: str, event_id: str) -> Outbox:
        """Gives one event, or raises `NotFoundError`."""
        where = sa.and_(_outbox.c.event_id == event_id, _outbox.c.organization_id == organization_id)
        async with self._db.read() as conn:
            row = (await conn.execute(sa.select(_outbox).where(where))).one_or_none()
        if row is None:
            raise NotFoundError(
                "There is no such event, or it is no longer kept.", code="event_not_found", hint="Read the feed."
            )
        return Outbox(**row._mapping)

    # ── telling the plugins ──────────────────────────────────────────────────

    async def untold(self, limit: int) -> list[tuple[str, int]]:
        """Gives organisations with events that the plugins have not heard of, and the last number they have."""
        query = sa.select(_organization.c.id, _organization.c.told_seq).where(
            _organization.c.told_seq < _organization.c.event_seq
        )
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_organization.c.id).limit(limit))
            return [(row.id, row.told_seq) for row in rows]

    async def note_told(self, organization_id: str, before: int, after: int) -> bool:
        """Moves an organisation's mark forward; False when another process has moved it meanwhile."""
        async with self._db.write() as conn:
            moved = await conn.execute(
                sa.update(_organization)
                .where(_organization.c.id == organization_id, _organization.c.told_seq == before)
                .values(told_seq=after)
            )
        return bool(moved.rowcount == 1)

    # ── forgetting ───────────────────────────────────────────────────────────

    async def sweep(self, before: dt.datetime, now: dt.datetime) -> int:
        """Removes events that were committed before an instant and that every plugin has heard; gives how many.

        Numbers only go from the beginning of a feed, so what is left has no gaps. A delivery that still waited for
        one of them, at a subscription that is switched off, ends as exhausted.
        """
        oldest = (
            sa.select(_outbox.c.created_at)
            .where(_outbox.c.organization_id == _organization.c.id)
            .order_by(_outbox.c.seq)
            .limit(1)
            .scalar_subquery()
        )
        async with self._db.read() as conn:
            rows = await conn.execute(sa.select(_organization.c.id).where(oldest < before).order_by(_organization.c.id))
            organizations = [row.id for row in rows]
        swept = 0
        for organization_id in organizations:
            while removed := await self._swept(organization_id, before, now):
                swept += removed
        return swept

    async def _swept(self, organization_id: str, before: dt.datetime, now: dt.datetime) -> int:
        mine = _outbox.c.organization_id == organization_id
        told = sa.select(_organization.c.told_seq).where(_organization.c.id == organization_id).scalar_subquery()
        async with self._db.write() as conn:
            first = await conn.scalar(sa.select(sa.func.min(_outbox.c.seq)).where(mine))
            old = sa.and_(
                mine,
                _outbox.c.created_at < before,
                _outbox.c.seq < (first or 0) + _SWEPT_AT_ONCE,
                _outbox.c.seq <= told,
            )
            last = await conn.scalar(sa.select(sa.func.max(_outbox.c.seq)).where(old))
            if last is None:
                return 0
            removed = await conn.execute(sa.delete(_outbox).where(mine, _outbox.c.seq <= last))
            await conn.execute(
                sa.update(_delivery)
                .where(
                    _delivery.c.organization_id == organization_id, _delivery.c.seq <= last,
                    _delivery.c.state == sa.literal_column("'pending'"),
                )
                .values(state="exhausted", error="event_expired", finished_at=now, lease_until=None)
            )  # fmt: skip
        return int(removed.rowcount)
