"""Deliveries that were taken in: the runs they lead to, listing and replaying them, and how many came.

Ids of deliveries are kept for ever; what the deliveries held is emptied after a while.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.acting import acting
from samband.errors import FieldProblem, InvalidError
from samband.rules.incoming import DeliveryFigures, HourCount, judgement
from samband.store import audit
from samband.store.database import Database
from samband.store.models import LIVE, Inbox, Integration, Run, Webhook, WebhookCount
from samband.store.runs import Runs

_inbox: sa.Table = Inbox.__table__
_count: sa.Table = WebhookCount.__table__
_webhook: sa.Table = Webhook.__table__
_integration: sa.Table = Integration.__table__
_run: sa.Table = Run.__table__

TAKEN_AT_ONCE = 20_000
"""Deliveries that one run takes up; those beyond wait for the next one."""

REPLAYED_AT_ONCE = 10_000
_IDS_AT_ONCE = 5_000
_COUNTS_KEPT_DAYS = 35


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """A delivery as it is listed: never with what it held."""

    id: int
    state: str
    reason: str
    run_id: str | None
    run_state: str | None
    triggers: list[dict[str, Any]]
    size: int
    digest: str
    has_content: bool
    replay_of: int | None
    replayed_by: str
    received_at: dt.datetime
    processed_at: dt.datetime | None


class Inboxes:
    """Every statement about deliveries and their counts."""

    def __init__(self, database: Database, runs: Runs) -> None:
        self._db = database
        self._runs = runs

    # ── from deliveries to runs ──────────────────────────────────────────────

    async def due(self, limit: int = 200) -> list[str]:
        """Gives enabled integrations that deliveries wait for and that no run is going on for."""
        waits = sa.exists().where(_inbox.c.integration_id == _integration.c.id, sa.text("inbox.state = 'received'"))
        statement = (
            sa.select(_integration.c.id)
            .join(_webhook, _webhook.c.integration_id == _integration.c.id)
            .where(_integration.c.state == "enabled", waits, ~_is_live(_integration.c.id))
            .limit(limit)
        )
        async with self._db.read() as conn:
            return list((await conn.scalars(statement)).all())

    async def has_live_run(self, integration_id: str) -> bool:
        """Tells whether a run is going on, so that what waits has to wait for the next one."""
        async with self._db.read() as conn:
            return bool(await conn.scalar(sa.select(_is_live(integration_id))))

    async def hand_over(
        self, integration: Integration, *, plugin_version: str,
        decide: Callable[[Sequence[Mapping[str, Any]]], tuple[list[str], dict[str, Any] | None]],
    ) -> Run | None:  # fmt: skip
        """Turns everything that waits into one run, in one transaction; None when there was nothing, or no need, or a
        run is going on that what waits has to wait for.

        Args:
            decide: All triggers → the streams to read, and the selection. No streams: there is nothing to fetch.
        """
        async with self._db.write() as conn:
            if await conn.scalar(sa.select(_is_live(integration.id))):
                return None
            rows = await self._waiting(conn, integration.id)
            if not rows:
                return None
            streams, selection = decide([trigger for row in rows for trigger in row.triggers])
            run = None
            if streams:
                run = await self._runs.order_in(
                    conn, organization_id=integration.organization_id, integration_id=integration.id,
                    plugin=integration.plugin, plugin_version=plugin_version, operation="sync", streams=streams,
                    full=False, reason="webhook", requested_by="webhook", selection=selection,
                )  # fmt: skip
                if run is None:
                    return None
            await self._close(conn, [row.id for row in rows], None if run is None else run.id)
        return run

    async def _waiting(self, conn: AsyncConnection, integration_id: str) -> Sequence[sa.Row[Any, Any]]:
        statement = (
            sa.select(_inbox.c.id, _inbox.c.triggers)
            # The literal lets both databases use the index of what waits.
            .where(_inbox.c.integration_id == integration_id, sa.text("inbox.state = 'received'"))
            .order_by(_inbox.c.id)
            .limit(TAKEN_AT_ONCE)
        )
        if not self._db.is_sqlite:
            statement = statement.with_for_update(skip_locked=True)
        return (await conn.execute(statement)).all()

    async def _close(self, conn: AsyncConnection, ids: Sequence[int], run_id: str | None) -> None:
        values = {"state": "processed", "run_id": run_id, "processed_at": dt.datetime.now(dt.UTC)}
        for start in range(0, len(ids), _IDS_AT_ONCE):
            part = ids[start : start + _IDS_AT_ONCE]
            await conn.execute(sa.update(_inbox).where(_inbox.c.id.in_(part)).values(**values))

    # ── looking and replaying ────────────────────────────────────────────────

    async def page(
        self, integration_id: str, *, state: str | None, before: int | None, limit: int
    ) -> list[DeliveryRow]:
        """Gives deliveries, newest first."""
        columns = [
            c for c in _inbox.c if c.name not in ("content", "delivery_key", "organization_id", "integration_id")
        ]
        statement = (
            sa.select(*columns, _inbox.c.content.is_not(None).label("has_content"), _run.c.state.label("run_state"))
            .outerjoin(_run, _run.c.id == _inbox.c.run_id)
            .where(_inbox.c.integration_id == integration_id, *_in_state(state))
            .order_by(_inbox.c.id.desc())
            .limit(limit)
        )
        if before is not None:
            statement = statement.where(_inbox.c.id < before)
        async with self._db.read() as conn:
            return [DeliveryRow(**row._mapping) for row in await conn.execute(statement)]

    async def replay(
        self, integration: Integration, *, ids: Sequence[int] = (), since: dt.datetime | None = None,
        until: dt.datetime | None = None, state: str | None = None, make_key: Callable[[], str],
    ) -> list[int]:  # fmt: skip
        """Lets chosen deliveries count once more: each becomes a new one that says whose replay it is and by whom.

        Raises:
            InvalidError: One of ``ids`` is not there, or there are more than can be replayed at once.
        """
        where = [_inbox.c.integration_id == integration.id, *_in_state(state)]
        if ids:
            where.append(_inbox.c.id.in_(ids))
        if since is not None:
            where.append(_inbox.c.received_at >= since)
        if until is not None:
            where.append(_inbox.c.received_at < until)
        chosen = (
            sa.select(_inbox.c.id, _inbox.c.size, _inbox.c.digest, _inbox.c.triggers)
            .select_from(_inbox.outerjoin(_run, _run.c.id == _inbox.c.run_id))
            .where(*where)
            .order_by(_inbox.c.id)
            .limit(REPLAYED_AT_ONCE + 1)
        )
        now, by = dt.datetime.now(dt.UTC), acting().actor
        async with self._db.write() as conn:
            rows = (await conn.execute(chosen)).all()
            _demand_all_there(ids, [row.id for row in rows])
            made = [
                {
                    "organization_id": integration.organization_id, "integration_id": integration.id,
                    "delivery_key": make_key(), "content": None, "size": row.size, "digest": row.digest,
                    "triggers": row.triggers, "state": "received", "reason": "replayed", "replay_of": row.id,
                    "replayed_by": by, "received_at": now,
                }
                for row in rows
            ]  # fmt: skip
            if not made:
                return []
            new_ids = sorted((await conn.scalars(sa.insert(_inbox).returning(_inbox.c.id), made)).all())
            await audit.record(
                conn, integration.organization_id, "deliveries.replayed", f"integration/{integration.id}",
                {"deliveries": len(made), "first": rows[0].id, "last": rows[-1].id},
            )  # fmt: skip
        return new_ids

    # ── figures ──────────────────────────────────────────────────────────────

    async def figures(
        self, now: dt.datetime, *, integration_id: str | None = None, organization_id: str | None = None
    ) -> list[DeliveryFigures]:
        """Gives what came during the last day and what waits: of one integration, of an organisation's, or of all."""
        mine: list[sa.ColumnElement[bool]] = [_webhook.c.is_enabled]
        counted_there: list[sa.ColumnElement[bool]] = [_count.c.hour > now - dt.timedelta(hours=25)]
        if integration_id is not None:
            mine.append(_webhook.c.integration_id == integration_id)
            counted_there.append(_count.c.integration_id == integration_id)
        if organization_id is not None:
            mine.append(_webhook.c.organization_id == organization_id)
            counted_there.append(_count.c.organization_id == organization_id)
        webhooks = (
            sa.select(
                _webhook.c.organization_id, _webhook.c.integration_id, _webhook.c.plugin, _webhook.c.received_at,
                _webhook.c.created_at, _integration.c.state,
                sa.select(sa.func.count()).where(
                    _inbox.c.integration_id == _webhook.c.integration_id, sa.text("inbox.state = 'received'")
                ).scalar_subquery().label("waiting"),
            )
            .join(_integration, _integration.c.id == _webhook.c.integration_id)
            .where(*mine)
        )  # fmt: skip
        counts = sa.select(_count).where(*counted_there)
        async with self._db.read() as conn:
            rows = (await conn.execute(webhooks)).all()
            by_integration: dict[str, list[HourCount]] = {row.integration_id: [] for row in rows}
            for row in await conn.execute(counts):
                if row.integration_id in by_integration:
                    counted = HourCount(hour=row.hour, outcome=row.outcome, deliveries=row.deliveries)
                    by_integration[row.integration_id].append(counted)
        return [
            DeliveryFigures(
                organization_id=row.organization_id, integration_id=row.integration_id, plugin=row.plugin,
                is_enabled=row.state == "enabled", healthy_at=row.received_at, waiting=row.waiting,
                since=row.created_at, counts=tuple(by_integration[row.integration_id]),
            )
            for row in rows
        ]  # fmt: skip

    async def judged(self, organization_id: str, now: dt.datetime) -> dict[str, dict[str, bool]]:
        """Gives integration → whether too many of its deliveries are refused, and whether none come any more."""
        return {f.integration_id: judgement(f, now) for f in await self.figures(now, organization_id=organization_id)}

    async def newest_at(self, integration_id: str) -> dt.datetime | None:
        """Gives when the last delivery was taken in."""
        where = sa.and_(_inbox.c.integration_id == integration_id, _inbox.c.replay_of.is_(None))
        async with self._db.read() as conn:
            newest: dt.datetime | None = await conn.scalar(
                sa.select(_inbox.c.received_at).where(where).order_by(_inbox.c.id.desc()).limit(1)
            )
        return newest

    # ── clearing up ──────────────────────────────────────────────────────────

    async def sweep(self, before: dt.datetime, *, behind: int = 0, limit: int = 2_000) -> int | None:
        """Empties what some deliveries held that came before an instant; their ids stay.

        Args:
            behind: Looks at the deliveries after this one.

        Returns:
            The delivery to go on behind; None when nothing more is old.
        """
        listed = (
            sa.select(_inbox.c.id, _inbox.c.received_at)
            .where(_inbox.c.id > behind, _inbox.c.content.is_not(None))
            .order_by(_inbox.c.id)
            .limit(limit)
        )
        async with self._db.read() as conn:
            rows = (await conn.execute(listed)).all()
        old = [row.id for row in rows if row.received_at < before]
        if not old:
            return None
        span = sa.and_(_inbox.c.id > behind, _inbox.c.id <= old[-1], _inbox.c.received_at < before)
        async with self._db.write() as conn:
            await conn.execute(sa.update(_inbox).where(span, _inbox.c.content.is_not(None)).values(content=None))
        return int(rows[-1].id) if len(rows) == limit else None

    async def sweep_counts(self, now: dt.datetime) -> None:
        """Deletes counts that nobody looks at any more."""
        async with self._db.write() as conn:
            await conn.execute(sa.delete(_count).where(_count.c.hour < now - dt.timedelta(days=_COUNTS_KEPT_DAYS)))


def _is_live(integration_id: Any) -> sa.ColumnElement[bool]:
    return sa.exists().where(_run.c.integration_id == integration_id, _run.c.operation == "sync", sa.text(LIVE))


def _in_state(state: str | None) -> list[sa.ColumnElement[bool]]:
    """``failed`` is what went to a run that did not succeed; the rest are states of deliveries."""
    if state is None:
        return []
    if state == "failed":
        return [_run.c.state.in_(("failed", "cancelled"))]
    return [_inbox.c.state == state]


def _demand_all_there(ids: Sequence[int], found: Sequence[int]) -> None:
    problems = []
    if missing := sorted(set(ids) - set(found)):
        named = ", ".join(str(id) for id in missing[:10])
        message = f"There are no such deliveries of this integration: {named}."
        problems.append(FieldProblem(field="ids", code="unknown_delivery", message=message))
    if len(found) > REPLAYED_AT_ONCE:
        message = f"More than {REPLAYED_AT_ONCE} deliveries are meant; choose a shorter window."
        problems.append(FieldProblem(field="since", code="too_many", message=message))
    if problems:
        raise InvalidError("These deliveries cannot be replayed.", problems=problems)
