"""Deliveries: one row for each event and subscriber, taken under a lease, tried until it succeeds or is given up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.store.columns import UtcInstant
from samband.store.database import Database
from samband.store.models import EventAttempt, EventDelivery, Outbox, Subscription
from samband.store.subscriptions import hold, switch_off

__all__ = ["Deliveries", "Delivery", "Failure", "plan_by_order"]

_outbox: sa.Table = Outbox.__table__
_subscription: sa.Table = Subscription.__table__
_delivery: sa.Table = EventDelivery.__table__
_attempt: sa.Table = EventAttempt.__table__

_PENDING_WORD: sa.ColumnElement[str] = sa.literal_column(
    "'pending'"
)  # written out, so that the partial indexes are used
_PENDING = _delivery.c.state == _PENDING_WORD
_SWEPT_AT_ONCE = 2_000

EXPIRED = "event_expired"
"""The error of a delivery whose event was swept before it could be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The right to make one attempt at one delivery; ``number`` is the attempt's, counted before it is made."""

    id: int
    organization_id: str
    subscription_id: str
    number: int
    is_replay: bool
    event: Outbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt failed, and what follows.

    Attributes:
        error: A code.
        retry_at: When the next attempt is due; None gives the delivery up.
        switch_off: The reason to switch the subscription off at once. The delivery then stays pending, for the day
            somebody switches it on again.
        failing_limit: A subscription without a success for so long is switched off.
        exhausted_limit: So is one that so many deliveries in a row were given up for.
    """

    error: str
    retry_at: dt.datetime | None
    switch_off: Literal["gone"] | None = None
    failing_limit: dt.timedelta
    exhausted_limit: int


async def plan_by_order(conn: AsyncConnection) -> None:
    """Has PostgreSQL find the first delivery of a subject by the index that is in that order, in this transaction.

    As long as it has no figures of a table that has just grown it believes that there is one row, and looks through all
    that is pending for each (measured: 7 s for 1,000 events against 0.05 s).
    """
    if conn.dialect.name == "postgresql":
        await conn.execute(sa.text("SET LOCAL enable_sort = off"))


class Deliveries:
    """Every statement about them. Times in leases are the database's; when something is due, the caller's clock says."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # ── attempts ─────────────────────────────────────────────────────────────

    async def receivers(self, now: dt.datetime) -> list[Subscription]:
        """Gives the subscriptions that something may be due for."""
        due = sa.exists().where(_delivery.c.subscription_id == _subscription.c.id, self._is_due(now))
        async with self._db.read() as conn:
            rows = await conn.execute(sa.select(_subscription).where(_subscription.c.state == "enabled", due))
            return [Subscription(**row._mapping) for row in rows]

    async def claim(self, wanted: Mapping[str, int], now: dt.datetime, *, lease_s: float) -> list[Delivery]:
        """Takes due deliveries, at most so many per subscription, and counts the attempt at each.

        Taken is only what no earlier delivery of the same subscription and subject stands in the way of. An attempt is
        counted before it is made: one that kills the process is bounded like any other.
        """
        claimed: list[Delivery] = []
        async with self._db.write() as conn:
            await plan_by_order(conn)
            for subscription_id, limit in sorted(wanted.items()):
                claimed += await self._claim(conn, subscription_id, limit, now, lease_s)
        return claimed

    async def _claim(
        self, conn: AsyncConnection, subscription_id: str, limit: int, now: dt.datetime, lease_s: float
    ) -> list[Delivery]:
        first = _delivery.alias("first")
        # A subquery with a limit and not NOT EXISTS: PostgreSQL makes that a join that compares every row with every
        # other as long as it has no figures of a table that has just grown (measured: 13 s for 8,000 rows).
        first_seq = (
            sa.select(first.c.seq)
            .where(
                first.c.subscription_id == _delivery.c.subscription_id, first.c.subject == _delivery.c.subject,
                first.c.state == _PENDING_WORD,
            )
            .order_by(first.c.seq)
            .limit(1)
            .scalar_subquery()
        )  # fmt: skip
        is_enabled = sa.exists().where(_subscription.c.id == subscription_id, _subscription.c.state == "enabled")
        due = (
            sa.select(_delivery.c.id)
            .where(
                _delivery.c.subscription_id == subscription_id,
                self._is_due(now),
                _delivery.c.seq == first_seq,
                is_enabled,
            )
            .order_by(_delivery.c.next_at)  # the index's own order, so that the limit ends the search
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        ids = list((await conn.scalars(due)).all())
        if not ids:
            return []
        taken = await conn.execute(
            sa.update(_delivery)
            .where(_delivery.c.id.in_(ids))
            .values(attempts=_delivery.c.attempts + 1, lease_until=self._db.after(lease_s))
            .returning(_delivery)
        )
        rows = taken.all()
        noted = [
            {"delivery_id": row.id, "number": row.attempts, "organization_id": row.organization_id, "at": now,
             "duration_ms": 0, "error": ""}
            for row in rows
        ]  # fmt: skip
        await conn.execute(sa.insert(_attempt), noted)
        events = await conn.execute(
            sa.select(_outbox).where(
                _outbox.c.organization_id == rows[0].organization_id, _outbox.c.seq.in_([row.seq for row in rows])
            )
        )
        by_seq = {event.seq: Outbox(**event._mapping) for event in events}
        await self._give_up_expired(conn, [row.id for row in rows if row.seq not in by_seq], now)
        return [
            Delivery(
                id=row.id, organization_id=row.organization_id, subscription_id=row.subscription_id,
                number=row.attempts, is_replay=row.is_replay, event=by_seq[row.seq],
            )
            for row in sorted(rows, key=lambda row: row.seq)
            if row.seq in by_seq
        ]  # fmt: skip

    async def _give_up_expired(self, conn: AsyncConnection, ids: Sequence[int], now: dt.datetime) -> None:
        if ids:
            given_up = {"state": "exhausted", "error": EXPIRED, "finished_at": now, "lease_until": None}
            await conn.execute(sa.update(_delivery).where(_delivery.c.id.in_(ids)).values(**given_up))

    def _is_due(self, now: dt.datetime) -> sa.ColumnElement[bool]:
        is_free = sa.or_(_delivery.c.lease_until.is_(None), _delivery.c.lease_until < self._db.now())
        return sa.and_(_PENDING, _delivery.c.next_at <= now, is_free)

    async def note_success(self, delivery: Delivery, now: dt.datetime, *, status: int, duration_ms: int) -> None:
        """Ends a delivery that was received, also when its lease has run out meanwhile: received is received."""
        async with self._db.write() as conn:
            # The subscription's row before those of its deliveries, as everywhere; see `hold`.
            cleared = await conn.execute(
                sa.update(_subscription)
                .where(_subscription.c.id == delivery.subscription_id, _subscription.c.failing_since.is_not(None))
                .values(failing_since=None)
            )
            if cleared.rowcount != 1:
                await hold(conn, delivery.subscription_id, shared=True)
            await self._note_attempt(conn, delivery, status, duration_ms, "")
            await conn.execute(
                sa.update(_delivery)
                .where(_delivery.c.id == delivery.id, _PENDING)
                .values(state="delivered", status=status, error="", lease_until=None, finished_at=now)
            )

    async def note_failure(
        self, delivery: Delivery, now: dt.datetime, failure: Failure, *, status: int | None, duration_ms: int
    ) -> str | None:
        """Puts a delivery off or gives it up; gives the reason when the subscription was switched off because of it."""
        async with self._db.write() as conn:
            await hold(conn, delivery.subscription_id)
            await self._note_attempt(conn, delivery, status, duration_ms, failure.error)
            values: dict[str, Any] = {"status": status, "error": failure.error, "lease_until": None}
            if failure.switch_off is not None:
                values["next_at"] = now
            elif failure.retry_at is not None:
                values["next_at"] = failure.retry_at
            else:
                values |= {"state": "exhausted", "finished_at": now}
            settled = await conn.execute(
                sa.update(_delivery)
                .where(_delivery.c.id == delivery.id, _delivery.c.attempts == delivery.number, _PENDING)
                .values(**values)
            )
            if settled.rowcount != 1:  # its lease ran out, and another attempt is going on or has ended it
                return None
            if failure.retry_at is not None and failure.switch_off is None:
                await self._put_off(conn, delivery, failure.retry_at)
            return await self._judge(conn, delivery, now, failure)

    async def _put_off(self, conn: AsyncConnection, delivery: Delivery, until: dt.datetime) -> None:
        """Lets what waits behind a delivery sleep as long as it does."""
        await conn.execute(
            sa.update(_delivery)
            .where(
                _delivery.c.subscription_id == delivery.subscription_id, _delivery.c.subject == delivery.event.subject,
                _delivery.c.seq > delivery.event.seq, _delivery.c.next_at < until, _PENDING,
            )
            .values(next_at=until)
        )  # fmt: skip

    async def _judge(self, conn: AsyncConnection, delivery: Delivery, now: dt.datetime, failure: Failure) -> str | None:
        since = await conn.scalar(
            sa.update(_subscription)
            .where(_subscription.c.id == delivery.subscription_id)
            .values(failing_since=sa.func.coalesce(_subscription.c.failing_since, sa.literal(now, UtcInstant)))
            .returning(_subscription.c.failing_since)
        )
        reason: str | None = failure.switch_off
        if reason is None and since is not None:
            # A success clears failing_since, so all that was given up after it was given up in a row.
            given_up = sa.select(sa.func.count()).where(
                _delivery.c.subscription_id == delivery.subscription_id, _delivery.c.state == "exhausted",
                _delivery.c.finished_at >= since, _delivery.c.error != EXPIRED,
            )  # fmt: skip
            is_over = now - since >= failure.failing_limit
            if is_over or (failure.retry_at is None and (await conn.scalar(given_up) or 0) >= failure.exhausted_limit):
                reason = "failing"
        if reason is None:
            return None
        was_on = await switch_off(conn, delivery.organization_id, delivery.subscription_id, reason)
        return reason if was_on else None

    async def _note_attempt(
        self, conn: AsyncConnection, delivery: Delivery, status: int | None, duration_ms: int, error: str
    ) -> None:
        await conn.execute(
            sa.update(_attempt)
            .where(_attempt.c.delivery_id == delivery.id, _attempt.c.number == delivery.number)
            .values(status=status, duration_ms=duration_ms, error=error)
        )

    # ── reading and forgetting ───────────────────────────────────────────────

    async def page(
        self, organization_id: str, subscription_id: str, *, state: str | None, before: int | None, limit: int
    ) -> list[tuple[EventDelivery, list[EventAttempt]]]:
        """Gives deliveries, newest first, each with its attempts in order."""
        query = sa.select(_delivery).where(
            _delivery.c.organization_id == organization_id, _delivery.c.subscription_id == subscription_id
        )
        if state is not None:
            query = query.where(_delivery.c.state == state)
        if before is not None:
            query = query.where(_delivery.c.id < before)
        async with self._db.read() as conn:
            rows = (await conn.execute(query.order_by(_delivery.c.id.desc()).limit(limit))).all()
            tried = await conn.execute(
                sa.select(_attempt)
                .where(_attempt.c.delivery_id.in_([row.id for row in rows]))
                .order_by(_attempt.c.delivery_id, _attempt.c.number)
            )
            attempts: dict[int, list[EventAttempt]] = {}
            for attempt in tried:
                attempts.setdefault(attempt.delivery_id, []).append(EventAttempt(**attempt._mapping))
        return [(EventDelivery(**row._mapping), attempts.get(row.id, [])) for row in rows]

    async def sweep(self, before: dt.datetime) -> int:
        """Removes deliveries that ended before an instant, with their attempts; gives how many."""
        async with self._db.read() as conn:
            ids = list((await conn.scalars(sa.select(_subscription.c.id).order_by(_subscription.c.id))).all())
        swept = 0
        for subscription_id in ids:
            for state in ("delivered", "exhausted", "skipped"):
                while removed := await self._swept(subscription_id, state, before):
                    swept += removed
        return swept

    async def _swept(self, subscription_id: str, state: str, before: dt.datetime) -> int:
        old = (
            sa.select(_delivery.c.id)
            .where(
                _delivery.c.subscription_id == subscription_id, _delivery.c.state == state,
                _delivery.c.finished_at < before,
            )
            .order_by(_delivery.c.id)
            .limit(_SWEPT_AT_ONCE)
        )  # fmt: skip
        async with self._db.read() as conn:
            ids = list((await conn.scalars(old)).all())
        if not ids:
            return 0
        async with self._db.write() as conn:
            await hold(conn, subscription_id)
            return int((await conn.execute(sa.delete(_delivery).where(_delivery.c.id.in_(ids)))).rowcount)
