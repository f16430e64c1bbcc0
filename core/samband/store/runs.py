"""Runs: ordering, claiming under a lease with a fencing number, and every legal way a run can end."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import AlreadyRunningError, ConflictError, RunCancelledError, StaleLeaseError
from samband.store import audit, letters
from samband.store.columns import UtcInstant, now
from samband.store.connections import move_connection
from samband.store.database import Database
from samband.store.fairness import Bounds, has_room, is_due, startable, take_turns
from samband.store.ids import new_id
from samband.store.models import LIVE, ExportItem, Idempotency, Integration, Run
from samband.store.outbox import emit
from samband.views import ErrorView

_run: sa.Table = Run.__table__
_item: sa.Table = ExportItem.__table__
_idempotency: sa.Table = Idempotency.__table__

MAX_NOTES = 20
DRY_RUN = "dry_run"
"""The operation that writes nothing but its own result."""

# One start taken back; a page that was committed since has set the count to zero already.
_uncounted = sa.case((_run.c.attempt > 0, _run.c.attempt - 1), else_=0)

_Dml = TypeVar("_Dml", bound=sa.Update)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to work on a run. Every write carries ``fence``; the database refuses an older one.

    ``selection`` is what the run is limited to, as it was ordered; None reads what has changed.
    """

    run_id: str
    fence: int
    organization_id: str
    integration_id: str
    plugin: str
    operation: str
    attempt: int
    streams: tuple[str, ...]
    full: bool
    selection: dict[str, Any] | None = None


def fenced(statement: _Dml, lease: Lease) -> _Dml:
    """Limits an update of the run to the worker that owns it now."""
    return statement.where(_run.c.id == lease.run_id, _run.c.fence == lease.fence, _run.c.state == "running")


def owned(row: sa.Row[Any] | None) -> sa.Row[Any]:
    """Gives what a fenced update returned, or stops a worker that may not write any more.

    Args:
        row: With the column ``cancel_requested_at``; None when nothing was updated.

    Raises:
        StaleLeaseError: The run belongs to another worker, or is over.
        RunCancelledError: Somebody cancelled it.
    """
    if row is None:
        raise StaleLeaseError("Another worker owns this run now.")
    if row.cancel_requested_at is not None:
        raise RunCancelledError("The run was cancelled.")
    return row


def unless_cancelled(state: str) -> dict[str, sa.ColumnElement[Any]]:
    """Gives the columns that bring a run into ``state``, or end it when it was cancelled meanwhile."""
    is_cancelled, now = _run.c.cancel_requested_at.is_not(None), sa.literal(dt.datetime.now(dt.UTC), UtcInstant)
    return {
        "state": sa.case((is_cancelled, "cancelled"), else_=state),
        "finished_at": sa.case((is_cancelled, now), else_=_run.c.finished_at),
    }


async def tell(conn: AsyncConnection, run: sa.Row[Any], **data: Any) -> None:
    """Tells that a run has come into the state it is in."""
    if run.operation == DRY_RUN:
        return  # it changes nothing, so there is nothing that others should hear of
    word = "succeeded" if run.state == "partial" else run.state
    told = {"run": run.id, "state": run.state, "operation": run.operation, **data}
    if run.operation == "export" and run.state in ("failed", "cancelled"):
        await _release_items(conn, run.id)
    await emit(conn, run.organization_id, f"no.samband.run.{word}.v1", f"run/{run.id}", told)


async def _release_items(conn: AsyncConnection, run_id: str) -> None:
    """Lets go of what an export run had reserved and never sent: the claims may be changed, and exported again."""
    # A reversal was agreed to by a person: it stays reserved, and goes out with the next run.
    mine = sa.and_(_item.c.run_id == run_id, _item.c.state == "reserved", _item.c.purpose == "booking")
    await conn.execute(sa.update(_item).where(mine).values(state="released", settled_at=dt.datetime.now(dt.UTC)))


class Runs:
    """Every statement about runs that a worker makes, and ordering one. What people decide is in `Decisions`."""

    def __init__(self, database: Database, bounds: Bounds | None = None) -> None:
        self._db = database
        self._bounds = bounds or Bounds()

    async def order(
        self, *, integration: Integration, plugin_version: str, operation: str, streams: Sequence[str], full: bool,
        reason: str, requested_by: str, idempotency: tuple[str, str, str] | None = None, **values: Any,
    ) -> Run:  # fmt: skip
        """Writes a new run, due at once.

        Args:
            idempotency: ``(route, key, fingerprint)`` kept with the run, so that a repeat finds it.
            values: Further columns of the run, such as ``account``, ``selection`` or ``retry_of``.

        Raises:
            AlreadyRunningError: The integration has a live run of this operation; it names that run.
        """
        try:
            async with self._db.write() as conn:
                run = await self.order_in(
                    conn, organization_id=integration.organization_id, integration_id=integration.id,
                    plugin=integration.plugin, plugin_version=plugin_version, operation=operation, streams=streams,
                    full=full, reason=reason, requested_by=requested_by, **values,
                )  # fmt: skip
                if run is not None and run.retry_of is None:
                    told = {"type": run.plugin, "operation": operation, "reason": reason, "full": full}
                    await audit.record(conn, run.organization_id, "run.ordered", f"run/{run.id}", told)
                if run is not None and idempotency is not None:
                    await self._keep_key(conn, run, idempotency)
        except IntegrityError as err:
            # The run that the same key ordered a moment ago; the caller looks it up.
            raise ConflictError("This request has just been granted.", code="idempotency_in_progress") from err
        if run is None:
            live = await self.live(integration.id, operation)
            if live is None:  # it ended between the two looks
                raise ConflictError(
                    "Another run has just ended.", code="already_running", hint="Send the request again."
                )
            raise AlreadyRunningError(run_id=live.id)
        return run

    async def order_in(
        self, conn: AsyncConnection, *, organization_id: str, integration_id: str, plugin: str, plugin_version: str,
        operation: str, streams: Sequence[str], full: bool, reason: str, requested_by: str, **values: Any,
    ) -> Run | None:  # fmt: skip
        """Writes a new run in the caller's transaction; None, and nothing written, when a live one is in the way.

        Ring for the run once the transaction is committed. Without ``account`` it is taken to use the one that the
        integration's last run used; with ``retry_of`` the dead letter of that run is closed.
        """
        at = now()
        run = Run(
            id=new_id(), organization_id=organization_id, integration_id=integration_id, plugin=plugin,
            plugin_version=plugin_version, operation=operation, streams=list(streams), reason=reason,
            requested_by=requested_by, full=full, state="queued", created_at=at, available_at=at, **values,
        )  # fmt: skip
        given = run.model_dump()
        if "account" not in values:
            given["account"] = _last_account(integration_id)
        insert = sqlite.insert(_run) if self._db.is_sqlite else postgresql.insert(_run)
        statement = insert.values(**given).on_conflict_do_nothing(
            index_elements=[_run.c.integration_id, _run.c.operation], index_where=sa.text(LIVE)
        )
        if (await conn.execute(statement)).rowcount != 1:
            return None
        if run.retry_of is not None:
            await letters.take_up(conn, run_id=run.retry_of, retry_run_id=run.id, by=requested_by)
            await audit.record(conn, organization_id, "run.retried", f"run/{run.retry_of}", {"retry": run.id})
        return run

    async def _keep_key(self, conn: AsyncConnection, run: Run, idempotency: tuple[str, str, str]) -> None:
        route, key, fingerprint = idempotency
        await conn.execute(
            sa.insert(_idempotency).values(
                organization_id=run.organization_id, route=route, key=key, fingerprint=fingerprint, run_id=run.id,
                created_at=run.created_at,
            )
        )  # fmt: skip

    async def granted(self, organization_id: str, route: str, key: str, *, hours: int = 24) -> tuple[str, str] | None:
        """Gives ``(fingerprint, run id)`` of the request that came with this key during the last ``hours``."""
        since = dt.datetime.now(dt.UTC) - dt.timedelta(hours=hours)
        mine = sa.and_(
            _idempotency.c.organization_id == organization_id, _idempotency.c.route == route, _idempotency.c.key == key
        )
        async with self._db.read() as conn:
            row = (await conn.execute(sa.select(_idempotency).where(mine))).one_or_none()
        if row is None:
            return None
        if row.created_at < since:
            async with self._db.write() as conn:
                await conn.execute(sa.delete(_idempotency).where(mine, _idempotency.c.created_at < since))
            return None
        return row.fingerprint, row.run_id

    async def sweep_keys(self, *, hours: int = 24) -> int:
        """Throws away the keys of orders that were granted longer ago than that; gives how many."""
        since = dt.datetime.now(dt.UTC) - dt.timedelta(hours=hours)
        async with self._db.write() as conn:
            answer = await conn.execute(sa.delete(_idempotency).where(_idempotency.c.created_at < since))
        return int(answer.rowcount)

    async def live(self, integration_id: str, operation: str) -> Run | None:
        """Gives the one run of the integration and operation that is not over."""
        where = sa.and_(_run.c.integration_id == integration_id, _run.c.operation == operation, sa.text(LIVE))
        async with self._db.read() as conn:
            row = (await conn.execute(sa.select(_run).where(where))).one_or_none()
        return None if row is None else Run(**row._mapping)

    # ── the worker's side ────────────────────────────────────────────────────

    async def due(self, limit: int) -> list[str]:
        """Gives runs that somebody should be working on and that may start now, fairly across organisations."""
        async with self._db.read() as conn:
            found = await conn.scalars(startable(self._bounds, self._db.now()).limit(limit))
            return list(found.all())

    async def next_after(self, run_id: str, limit: int = 4) -> list[str]:
        """Gives runs that may start now because this one has ended or waits: of its organisation or its account."""
        async with self._db.read() as conn:
            row = (await conn.execute(sa.select(_run).where(_run.c.id == run_id))).one_or_none()
            if row is None or row.state in ("queued", "running"):
                return []  # it has given no room back
            neighbours = _run.c.organization_id == row.organization_id
            if row.account:
                neighbours = sa.or_(neighbours, _run.c.account == row.account)
            among = sa.and_(neighbours, _run.c.id != run_id)
            found = await conn.scalars(startable(self._bounds, self._db.now(), among=among).limit(limit))
            return list(found.all())

    async def claim(self, run_id: str, owner: str, lease_s: float) -> Lease | None:
        """Takes a due run; None when it is not due, over, somebody else's, or one too many.

        How many go on at once is decided here, in the transaction that takes the run (see `Bounds`). A run that was
        cancelled while nobody worked on it ends here.
        """
        async with self._db.write() as conn:
            await take_turns(conn, run_id)
            now = self._db.now()
            statement = (
                sa.update(_run)
                .where(
                    _run.c.id == run_id, is_due(now), _run.c.cancel_requested_at.is_(None), has_room(self._bounds, now)
                )
                .values(
                    state="running", fence=_run.c.fence + 1, lease_owner=owner, lease_until=self._db.after(lease_s),
                    attempt=_run.c.attempt + 1, starts=_run.c.starts + 1,
                    started_at=sa.func.coalesce(_run.c.started_at, now),
                )
                .returning(_run)
            )  # fmt: skip
            row = (await conn.execute(statement)).one_or_none()
            if row is None:
                await self._end_if_cancelled(conn, run_id)
                return None
        return Lease(
            run_id=row.id, fence=row.fence, organization_id=row.organization_id, integration_id=row.integration_id,
            plugin=row.plugin, operation=row.operation, attempt=row.attempt, streams=tuple(row.streams), full=row.full,
            selection=row.selection,
        )  # fmt: skip

    async def renew(self, lease: Lease, lease_s: float) -> None:
        """Extends the lease from now.

        Raises:
            StaleLeaseError: The run belongs to another worker, or is over.
            RunCancelledError: Somebody cancelled it.
        """
        extended = fenced(sa.update(_run), lease).values(lease_until=self._db.after(lease_s))
        async with self._db.write() as conn:
            answer = await conn.execute(extended.returning(_run.c.cancel_requested_at))
            row = answer.one_or_none()
        owned(row)

    async def nudge(self, integration_id: str) -> list[str]:
        """Makes the waiting runs of an integration due now, because what they waited for may have changed.

        Ring for those it gives.
        """
        async with self._db.write() as conn:
            return await self.nudge_in(conn, integration_id)

    async def nudge_in(self, conn: AsyncConnection, integration_id: str) -> list[str]:
        """Does what `nudge` does in the caller's transaction; ring once it is committed."""
        where = sa.and_(_run.c.integration_id == integration_id, _run.c.state == "waiting")
        statement = sa.update(_run).where(where).values(available_at=self._db.now()).returning(_run.c.id)
        return list((await conn.scalars(statement)).all())

    async def free_leases_of(self, owner_prefix: str) -> list[str]:
        """Gives back the runs of workers that are known to be dead: those of this data directory's former host."""
        where = sa.and_(_run.c.state == "running", _run.c.lease_owner.startswith(owner_prefix, autoescape=True))
        async with self._db.write() as conn:
            return list(
                (await conn.scalars(
                    sa.update(_run).where(where).values(lease_until=self._db.after(-1)).returning(_run.c.id)
                )).all()
            )  # fmt: skip

    async def release(self, lease: Lease) -> None:
        """Puts a run back in the queue, uncounted: its worker is stopping in good order."""
        await self._move(lease, "queued", available_at=self._db.now(), attempt=_uncounted)

    async def defer(self, lease: Lease, *, seconds: float, error: ErrorView, counts: bool) -> str:
        """Gives the worker back and lets the run wait; it resumes at its last cursor. Gives the state.

        Args:
            counts: Whether the start counts as a failed attempt (being asked to slow down does not).
        """
        attempt = _run.c.attempt if counts else _uncounted
        available_at = self._db.after(seconds)
        return await self._move(lease, "waiting", available_at=available_at, error=error.model_dump(), attempt=attempt)

    async def attempts(self, lease: Lease) -> int:
        """Gives the starts since the last progress, this one included; the lease knows only how many there were at its
        beginning."""
        async with self._db.read() as conn:
            attempt = await conn.scalar(sa.select(_run.c.attempt).where(_run.c.id == lease.run_id))
        return int(attempt or 0)

    async def note(self, lease: Lease, text: str) -> None:
        """Adds a remark to the run; the newest are kept."""
        async with self._db.write() as conn:
            notes = await conn.scalar(sa.select(_run.c.notes).where(_run.c.id == lease.run_id)) or []
            await conn.execute(fenced(sa.update(_run), lease).values(notes=[*notes, text][-MAX_NOTES:]))

    async def succeed(self, lease: Lease, *, revision: int | None = None, is_partial: bool = False) -> str:
        """Ends a run that did everything: ``succeeded``, or ``partial`` when records failed. Gives the state.

        A dead letter about the same work is closed by it.

        Args:
            revision: Of the integration that the run went by.
            is_partial: Something is left open all the same.
        """
        async with self._db.write() as conn:
            failed = await conn.scalar(sa.select(_run.c.failed).where(_run.c.id == lease.run_id))
            await self._set_connection(conn, lease, "connected", revision)
            row = await self._finish(conn, lease, "partial" if failed or is_partial else "succeeded", None)
            await letters.close_by(conn, row)
        return str(row.state)

    async def fail(
        self, lease: Lease, error: ErrorView, *, connection: str | None = None, revision: int | None = None
    ) -> str:
        """Ends a run that cannot go on, and gives the state. What it committed stays.

        Args:
            connection: What the failure says about the integration's connection, if anything.
            revision: Of the integration that the run went by.
        """
        async with self._db.write() as conn:
            if connection is not None:
                await self._set_connection(conn, lease, connection, revision, error.code)
            row = await self._finish(conn, lease, "failed", error)
        return str(row.state)

    async def give_up(self, lease: Lease, error: ErrorView) -> str:
        """Ends a run after its attempts and leaves a dead letter, in one transaction. Gives the state."""
        async with self._db.write() as conn:
            row = await self._finish(conn, lease, "failed", error)
            # Nobody is left waiting for the result of a dry run, nor for a run that they cancelled.
            if row.state == "failed" and row.operation != DRY_RUN:
                await letters.bury(conn, row, error)
        return str(row.state)

    async def end_cancelled(self, lease: Lease) -> None:
        """Ends a run that somebody cancelled. What it committed stays."""
        async with self._db.write() as conn:
            await self._finish(conn, lease, "cancelled", None)

    async def _finish(self, conn: AsyncConnection, lease: Lease, state: str, error: ErrorView | None) -> sa.Row[Any]:
        values: dict[str, Any] = {"finished_at": dt.datetime.now(dt.UTC), "lease_owner": None, "lease_until": None}
        # What fails after somebody has cancelled it is no failure that anybody has to look after.
        values["state"] = unless_cancelled(state)["state"] if state == "failed" else state
        values["error"] = None if error is None else error.model_dump()
        statement = fenced(sa.update(_run), lease).values(**values).returning(_run)
        row: sa.Row[Any] | None = (await conn.execute(statement)).one_or_none()
        if row is None:
            raise StaleLeaseError("Another worker owns this run now.")
        await tell(conn, row, **({} if error is None else {"code": error.code}))
        return row

    async def _end_if_cancelled(self, conn: AsyncConnection, run_id: str) -> None:
        where = sa.and_(_run.c.id == run_id, is_due(self._db.now()), _run.c.cancel_requested_at.is_not(None))
        ended = {"state": "cancelled", "finished_at": dt.datetime.now(dt.UTC), "lease_owner": None, "lease_until": None}
        row = (await conn.execute(sa.update(_run).where(where).values(**ended).returning(_run))).one_or_none()
        if row is not None:
            await tell(conn, row)

    async def _set_connection(
        self, conn: AsyncConnection, lease: Lease, connection: str, revision: int | None, code: str = ""
    ) -> None:
        # Before anything is told: whoever edits an integration locks its row first and the organisation's after it, and
        # two transactions that did it in two orders would wait for each other.
        if lease.operation == DRY_RUN:
            return
        present = sa.select(Integration.__table__.c.revision).where(Integration.__table__.c.id == lease.integration_id)
        if revision is not None and await conn.scalar(present) != revision:
            return  # what was used has been changed since, and the run says nothing about what is there now
        await move_connection(conn, lease.integration_id, connection, code=code)

    async def _move(self, lease: Lease, state: str, **values: Any) -> str:
        """Gives the worker back; a run that was cancelled meanwhile ends. Gives the state."""
        given = {"lease_owner": None, "lease_until": None, **unless_cancelled(state), **values}
        async with self._db.write() as conn:
            row = (await conn.execute(fenced(sa.update(_run), lease).values(**given).returning(_run))).one_or_none()
            if row is None:
                raise StaleLeaseError("Another worker owns this run now.")
            if row.state == "cancelled":
                await tell(conn, row)
        return str(row.state)


def _last_account(integration_id: str) -> sa.ColumnElement[str]:
    last = _run.alias("last")
    newest = sa.select(last.c.account).where(last.c.integration_id == integration_id).order_by(last.c.id.desc())
    return sa.func.coalesce(newest.limit(1).scalar_subquery(), "")
