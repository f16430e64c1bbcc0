"""The export ledger: every claim that is on its way, booked, refused or uncertain, and every legal step between.

    reserved → sent → accepted → posted
                    → rejected               (over: the claim may be mended and taken again)
                    → unknown → accepted      (looked up and found)
                              → reserved      (looked up and not there)
                              → released      (a person says that it is not there)
    accepted → rejected                      (they took it and could not book it)
    reserved → released                       (never sent; the order was cancelled or failed, or what it takes back was refused)
    accepted, posted → reversed               (what takes it back was booked; by file, handed over)
    accepted, posted, unknown → superseded    (a person has the claim exported once more)

``sent`` is written before the adapter is called. What a worker leaves in that state when it dies is as uncertain as an
answer that never came: it leaves by being looked up, or by a person's word, and no other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from samband.store.batches import Batches
from samband.store.database import Database
from samband.store.models import ExportItem, Integration, Run
from samband.store.reserving import FOLLOW_UP, MAX_CLAIMS, UNSETTLED, Order, Plan, Reserving
from samband.store.reversals import may_go
from samband.store.runs import Runs
from samband.store.settling import UNCERTAIN, Settling, Taken, Way

__all__ = [
    "FOLLOW_UP",
    "MAX_CLAIMS",
    "UNCERTAIN",
    "UNSETTLED",
    "Ledger",
    "Order",
    "Plan",
    "Taken",
    "Way",
]

_item: sa.Table = ExportItem.__table__
_run: sa.Table = Run.__table__
_integration: sa.Table = Integration.__table__

STEPS_S: Final = (15.0, 60.0, 300.0, 3600.0, 21_600.0)
"""Ages at which the other side is asked about an item; beyond the last one it is asked again after as long as that."""

_NOT_OVER: Final = ("queued", "running", "waiting", "held")
_AFTER_FAILURE_S: Final = 900.0
"""How long after an export that failed, or was cancelled, the next one is not ordered without a person."""
_NEEDS_A_PERSON: Final = ("needs_reauthentication", "misconfigured")


class Ledger(Reserving, Settling, Batches):
    """Every statement about exports."""

    def __init__(self, database: Database, runs: Runs) -> None:
        Reserving.__init__(self, database, runs)

    # ── following up ─────────────────────────────────────────────────────────

    async def to_follow_up(
        self, limit: int, *, steps_s: Sequence[float] = STEPS_S, up_to_days: float = 90.0, after: str = ""
    ) -> list[Integration]:
        """Gives enabled integrations with items that somebody should ask about, or send, and no export under way.

        In the order of their ids, from the one behind ``after`` on.
        """
        due = sa.or_(sa.and_(_item.c.state == "reserved", may_go()), self._is_due(steps_s, up_to_days))
        mine = _run.c.integration_id == _integration.c.id
        exports = sa.and_(mine, _run.c.operation == "export")
        under_way = sa.exists().where(exports, _run.c.state.in_(_NOT_OVER))
        # A person sees a failed run; a failing one every few seconds would help nobody. One that did better since lifts it.
        other = _run.alias("other")
        newest = sa.select(sa.func.max(other.c.id)).where(
            other.c.integration_id == _integration.c.id, other.c.operation == "export"
        )
        failed = sa.exists().where(
            exports,
            _run.c.id == newest.correlate(_integration).scalar_subquery(),
            _run.c.state.in_(("failed", "cancelled")),
            _run.c.finished_at > self._db.after(-_AFTER_FAILURE_S),
        )
        query = (
            sa.select(_integration)
            .where(
                _integration.c.id > after,
                _integration.c.state == "enabled",
                _integration.c.connection.not_in(_NEEDS_A_PERSON),
                sa.exists().where(_item.c.integration_id == _integration.c.id, due),
                ~under_way,
                ~failed,
            )
            .order_by(_integration.c.id)
            .limit(limit)
        )
        async with self._db.read() as conn:
            return [Integration(**row._mapping) for row in await conn.execute(query)]

    async def follow_up(
        self, integration: Integration, *, streams: Sequence[str], plugin_version: str, account: str
    ) -> str | None:
        """Orders a run that finds out what became of items, and sends what waits; None when an export is under way."""
        async with self._db.write() as conn:
            run = await self._runs.order_in(
                conn, organization_id=integration.organization_id, integration_id=integration.id,
                plugin=integration.plugin, plugin_version=plugin_version, operation="export", streams=list(streams),
                full=False, reason=FOLLOW_UP, requested_by="", account=account,
            )  # fmt: skip
        return None if run is None else run.id

    async def accepted_due(
        self, integration_id: str, limit: int, *, steps_s: Sequence[float] = STEPS_S, up_to_days: float = 90.0,
        after: str = "",
    ) -> list[ExportItem]:  # fmt: skip
        """Gives accepted items whose booking should be asked about now, in the order of their keys."""
        mine = sa.and_(_item.c.integration_id == integration_id, _item.c.state == "accepted", _item.c.key > after)
        query = sa.select(_item).where(mine, self._is_due(steps_s, up_to_days)).order_by(_item.c.key).limit(limit)
        async with self._db.read() as conn:
            return [ExportItem(**row._mapping) for row in await conn.execute(query)]

    async def about_to_be_reversed(self, integration_id: str, limit: int, *, after: str = "") -> list[ExportItem]:
        """Gives accepted bookings whose reversal waits to be sent, in the order of their keys."""
        back = _item.alias("back")
        waits = sa.exists().where(
            back.c.organization_id == _item.c.organization_id, back.c.reverses == _item.c.key,
            back.c.purpose == "reversal", back.c.state == "reserved",
        )  # fmt: skip
        mine = sa.and_(_item.c.integration_id == integration_id, _item.c.state == "accepted", _item.c.key > after)
        some = sa.exists().where(
            back.c.integration_id == integration_id, back.c.state == "reserved", back.c.purpose == "reversal"
        )
        async with self._db.read() as conn:
            if not await conn.scalar(sa.select(some)):
                return []
            rows = await conn.execute(sa.select(_item).where(mine, waits).order_by(_item.c.key).limit(limit))
            return [ExportItem(**row._mapping) for row in rows]

    async def ask_again(self, organization_id: str, keys: Sequence[str]) -> None:
        """Has the other side asked about items as soon as possible: something has been heard of them."""
        mine = sa.and_(_item.c.organization_id == organization_id, _item.c.key.in_(list(keys)))
        async with self._db.write() as conn:
            await conn.execute(sa.update(_item).where(mine).values(looked_up_at=None))

    async def ask_about_claim(self, organization_id: str, claim_id: str) -> None:
        """Has the other side asked about what is open of a claim as soon as possible."""
        mine = sa.and_(_item.c.organization_id == organization_id, _item.c.reimbursement_id == claim_id)
        async with self._db.write() as conn:
            await conn.execute(sa.update(_item).where(mine, _item.c.state == "accepted").values(looked_up_at=None))

    def _is_due(self, steps_s: Sequence[float], up_to_days: float) -> sa.ColumnElement[bool]:
        """Says of an open item that it has come to an age at which it has not been asked about yet."""
        since = sa.func.coalesce(_item.c.accepted_at, _item.c.sent_at, _item.c.created_at)
        age, asked_at = self._seconds(self._db.now(), since), self._seconds(_item.c.looked_up_at, since)
        passed = [sa.and_(age >= step, sa.func.coalesce(asked_at, -1.0) < step) for step in steps_s]
        again = self._seconds(self._db.now(), _item.c.looked_up_at) >= steps_s[-1]
        is_open = sa.and_(_item.c.state.in_(("accepted", *UNCERTAIN)), age < up_to_days * 86_400.0)
        return sa.and_(is_open, sa.or_(*passed, again))

    def _seconds(self, later: sa.ColumnElement[Any], earlier: sa.ColumnElement[Any]) -> sa.ColumnElement[float]:
        if self._db.is_sqlite:
            return (sa.func.julianday(later) - sa.func.julianday(earlier)) * 86_400.0
        return sa.cast(sa.extract("epoch", later - earlier), sa.Float)

    # ── listings ─────────────────────────────────────────────────────────────

    async def refusals(self, organization_id: str, claim_ids: Sequence[str]) -> list[ExportItem]:
        """Gives of each claim the booking that was refused, if nothing but unsent ones came after it."""
        later = _item.alias("later")
        answered = sa.exists().where(
            later.c.organization_id == _item.c.organization_id, later.c.number > _item.c.number,
            later.c.reimbursement_id == _item.c.reimbursement_id, later.c.state != "released",
        )  # fmt: skip
        mine = sa.and_(_item.c.organization_id == organization_id, _item.c.reimbursement_id.in_(claim_ids))
        refused = sa.and_(_item.c.purpose == "booking", _item.c.state == "rejected", ~answered)
        if not claim_ids:
            return []
        async with self._db.read() as conn:
            rows = await conn.execute(sa.select(_item).where(mine, refused).order_by(_item.c.reimbursement_id))
            return [ExportItem(**row._mapping) for row in rows]

    async def items(
        self, organization_id: str, *, state: str | None, reimbursement_id: str | None, run_id: str | None,
        after: str | None, limit: int,
    ) -> list[ExportItem]:  # fmt: skip
        """Gives items in the order of their keys."""
        query = sa.select(_item).where(_item.c.organization_id == organization_id)
        for column, value in (
            (_item.c.state, state),
            (_item.c.reimbursement_id, reimbursement_id),
            (_item.c.run_id, run_id),
        ):
            if value is not None:
                query = query.where(column == value)
        if after is not None:
            query = query.where(_item.c.key > after)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_item.c.key).limit(limit))
            return [ExportItem(**row._mapping) for row in rows]
