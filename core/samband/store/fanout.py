"""From events to deliveries: new events for every subscription that wants them, and old ones once more."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import ConflictError, FieldProblem, InvalidError, NotFoundError
from samband.store.audit import record
from samband.store.columns import UtcInstant
from samband.store.database import Database
from samband.store.deliveries import plan_by_order
from samband.store.models import EventDelivery, Organization, Outbox, Subscription
from samband.store.outbox import of_types

__all__ = ["MAX_REPLAYED", "FanOut"]

MAX_REPLAYED = 10_000
"""Events that one call has sent again: what is made in one transaction, and what a receiver is to bear, has a bound."""

_organization: sa.Table = Organization.__table__
_outbox: sa.Table = Outbox.__table__
_subscription: sa.Table = Subscription.__table__
_delivery: sa.Table = EventDelivery.__table__

_PENDING_WORD: sa.ColumnElement[str] = sa.literal_column(
    "'pending'"
)  # written out, so that the partial indexes are used


class FanOut:
    """Making deliveries, set-based."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def advance(self, now: dt.datetime, *, subscriptions: int = 100, events: int = 1_000) -> bool:
        """Makes deliveries of new events; True when there is more to do.

        A delivery and the mark that it was made are one transaction, so none is missing and none is there twice.
        """
        lagging = (
            sa.select(
                _subscription.c.id, _subscription.c.organization_id, _subscription.c.types, _subscription.c.fanned_seq,
                _organization.c.event_seq,
            )
            .join(_organization, _organization.c.id == _subscription.c.organization_id)
            .where(_subscription.c.state == "enabled", _subscription.c.fanned_seq < _organization.c.event_seq)
            .order_by(_subscription.c.id)
            .limit(subscriptions)
        )  # fmt: skip
        async with self._db.read() as conn:
            rows = (await conn.execute(lagging)).all()
        if not rows:
            return False
        is_more = len(rows) == subscriptions
        async with self._db.write() as conn:
            for row in rows:
                upto = min(row.event_seq, row.fanned_seq + events)
                is_more = is_more or upto < row.event_seq
                moved = await conn.execute(
                    sa.update(_subscription)
                    .where(
                        _subscription.c.id == row.id, _subscription.c.fanned_seq == row.fanned_seq,
                        _subscription.c.state == "enabled",
                    )
                    .values(fanned_seq=upto)
                )  # fmt: skip
                if moved.rowcount == 1:
                    chosen = sa.and_(
                        _outbox.c.seq > row.fanned_seq, _outbox.c.seq <= upto, of_types(_outbox.c.type, row.types)
                    )
                    await self._insert(conn, row.organization_id, row.id, chosen, now, is_replay=False)
        return is_more

    async def replay(
        self, organization_id: str, subscription_id: str, *, after: int | None, event_ids: Sequence[str],
        now: dt.datetime, limit: int = MAX_REPLAYED,
    ) -> tuple[int, int | None]:  # fmt: skip
        """Has events sent again: those after a number that the filter lets through, or chosen ones.

        Args:
            limit: Of those after a number, the oldest so many.

        Returns:
            How many, and the number to go on after when there are more.

        Raises:
            ConflictError: The subscription is switched off.
            InvalidError: A chosen event is not one of the organisation's, or no longer kept.
        """
        mine = _outbox.c.organization_id == organization_id
        chosen: sa.ColumnElement[bool] = _outbox.c.event_id.in_(event_ids)
        on_its_way = sa.select(_delivery.c.seq).where(
            _delivery.c.subscription_id == subscription_id, _delivery.c.state == _PENDING_WORD
        )
        is_free = _outbox.c.seq.not_in(on_its_way)
        upto: int | None = None
        async with self._db.write() as conn:
            query = sa.select(_subscription).where(
                _subscription.c.id == subscription_id, _subscription.c.organization_id == organization_id
            )
            # Nothing that becomes of other deliveries meanwhile waits for this, only who changes the subscription.
            row = (await conn.execute(query.with_for_update(key_share=True))).one_or_none()
            if row is None:
                raise NotFoundError("There is no such subscription.", code="subscription_not_found")
            if row.state != "enabled":
                raise ConflictError(
                    "The subscription is disabled.", code="subscription_disabled", hint="Enable it, then replay."
                )
            if after is not None:
                chosen = sa.and_(
                    _outbox.c.seq > after, _outbox.c.seq <= row.fanned_seq, of_types(_outbox.c.type, row.types)
                )
                upto = await self._end_of_part(conn, sa.and_(mine, chosen, is_free), limit)
                chosen = chosen if upto is None else sa.and_(chosen, _outbox.c.seq <= upto)
            elif await conn.scalar(sa.select(sa.func.count()).where(mine, chosen)) != len(set(event_ids)):
                problem = FieldProblem(field="ids", code="unknown_event", message="One of them is not kept here.")
                raise InvalidError("These events cannot be replayed.", problems=[problem])
            free = sa.and_(chosen, is_free)
            made = await self._insert(conn, organization_id, subscription_id, free, now, is_replay=True)
            # A number beyond the newest event means the newest; the trail takes no number that JSON could not hold.
            since = None if after is None else min(after, row.fanned_seq)
            detail = {"after": since, "chosen": len(event_ids), "events": made}
            await record(conn, organization_id, "subscription.replayed", f"subscription/{subscription_id}", detail)
        return made, upto

    async def _end_of_part(self, conn: AsyncConnection, chosen: sa.ColumnElement[bool], limit: int) -> int | None:
        """Gives the number of the last of so many events, or None when there are no more than that."""
        seqs = sa.select(_outbox.c.seq).where(chosen).order_by(_outbox.c.seq).offset(limit - 1).limit(2)
        found = list((await conn.scalars(seqs)).all())
        return found[0] if len(found) == 2 else None

    async def _insert(
        self, conn: AsyncConnection, organization_id: str, subscription_id: str, chosen: sa.ColumnElement[bool],
        now: dt.datetime, *, is_replay: bool,
    ) -> int:  # fmt: skip
        await plan_by_order(conn)
        ahead = _delivery.alias("ahead")
        # What waits behind a delivery that is to be tried later is due with it, or it would be looked at in vain.
        due_at = (
            sa.select(ahead.c.next_at)
            .where(
                ahead.c.subscription_id == subscription_id, ahead.c.subject == _outbox.c.subject,
                ahead.c.seq < _outbox.c.seq, ahead.c.state == _PENDING_WORD,
            )
            .order_by(ahead.c.seq)
            .limit(1)
            .scalar_subquery()
        )  # fmt: skip
        at = sa.literal(now, UtcInstant)
        columns: dict[str, Any] = {
            "organization_id": _outbox.c.organization_id, "subscription_id": sa.literal(subscription_id, sa.String),
            "seq": _outbox.c.seq, "event_id": _outbox.c.event_id, "type": _outbox.c.type,
            "subject": _outbox.c.subject, "state": _PENDING_WORD, "attempts": sa.literal(0, sa.Integer),
            "next_at": sa.func.coalesce(due_at, at), "error": sa.literal("", sa.Text),
            "is_replay": sa.literal(is_replay, sa.Boolean), "created_at": at,
        }  # fmt: skip
        source = (
            sa.select(*(value.label(name) for name, value in columns.items()))
            .where(_outbox.c.organization_id == organization_id, chosen)
            .order_by(_outbox.c.seq)
        )
        made = await conn.execute(sa.insert(_delivery).from_select(list(columns), source))
        return int(made.rowcount)
