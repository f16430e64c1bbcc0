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

from samband.errors import AlreadyRunningError, ConflictError, StaleLeaseError
from samband.store.database import Database
from samband.store.ids import new_id
from samband.store.models import LIVE, DeadLetter, Idempotency, Integration, Run
from samband.store.outbox import emit
from samband.views import ErrorView

_run: sa.Table = Run.__table__  # type: ignore[attr-defined]
_integration: sa.Table = Integration.__table__  # type: ignore[attr-defined]
_dead: sa.Table = DeadLetter.__table__  # type: ignore[attr-defined]
_idempotency: sa.Table = Idempotency.__table__  # type: ignore[attr-defined]

MAX_NOTES = 20

# One start taken back; a page that was committed since has set the count to zero already.
_uncounted = sa.case((_run.c.attempt > 0, _run.c.attempt - 1), else_=0)

_Dml = TypeVar("_Dml", bound=sa.Update)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to work on a run. Every write carries ``fence``; the database refuses an older one."""

    run_id: str
    fence: int
    organization_id: str
    integration_id: str
    plugin: str
    operation: str
    attempt: int
    streams: tuple[str, ...]
    full: bool


def fenced(statement: _Dml, lease: Lease) -> _Dml:
    """Limits an update of the run to the worker that owns it now."""
    return statement.where(_run.c.id == lease.run_id, _run.c.fence == lease.fence, _run.c.state == "running")


class Runs:
    """Every statement about runs."""

    def __init__(self, database: Database) -> None:
        self._db = database

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

        Ring for the run once the transaction is committed.
        """
        now = dt.datetime.now(dt.UTC)
        run = Run(
            id=new_id(), organization_id=organization_id, integration_id=integration_id, plugin=plugin,
            plugin_version=plugin_version, operation=operation, streams=list(streams), reason=reason,
            requested_by=requested_by, full=full, state="queued", created_at=now, available_at=now, **values,
        )  # fmt: skip
        insert = sqlite.insert(_run) if self._db.is_sqlite else postgresql.insert(_run)
        statement = insert.values(**run.model_dump()).on_conflict_do_nothing(
            index_elements=[_run.c.integration_id, _run.c.operation], index_where=sa.text(LIVE)
        )
        answer = await conn.execute(statement)
        return run if answer.rowcount == 1 else None

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

    async def live(self, integration_id: str, operation: str) -> Run | None:
        """Gives the one run of the integration and operation that is not over."""
        where = sa.and_(_run.c.integration_id == integration_id, _run.c.operation == operation, sa.text(LIVE))
        async with self._db.read() as conn:
            row = (await conn.execute(sa.select(_run).where(where))).one_or_none()
        return None if row is None else Run(**row._mapping)

    # ── the worker's side ────────────────────────────────────────────────────

    async def due(self, limit: int) -> list[str]:
        """Gives runs that somebody should be working on: due ones, and those whose worker has gone silent."""
        now = self._db.now()
        where = sa.or_(
            sa.and_(_run.c.state.in_(("queued", "waiting")), _run.c.available_at <= now),
            sa.and_(_run.c.state == "running", _run.c.lease_until < now),
        )
        async with self._db.read() as conn:
            return list(
                (await conn.scalars(sa.select(_run.c.id).where(where).order_by(_run.c.available_at).limit(limit))).all()
            )

    async def claim(self, run_id: str, owner: str, lease_s: float) -> Lease | None:
        """Takes a due run; None when it is not due, over, or somebody else's."""
        now = self._db.now()
        is_due = sa.or_(
            sa.and_(_run.c.state.in_(("queued", "waiting")), _run.c.available_at <= now),
            sa.and_(_run.c.state == "running", _run.c.lease_until < now),
        )
        statement = (
            sa.update(_run)
            .where(_run.c.id == run_id, is_due)
            .values(
                state="running", fence=_run.c.fence + 1, lease_owner=owner, lease_until=self._db.after(lease_s),
                attempt=_run.c.attempt + 1, starts=_run.c.starts + 1, started_at=sa.func.coalesce(_run.c.started_at, now),
            )
            .returning(_run)
        )  # fmt: skip
        async with self._db.write() as conn:
            row = (await conn.execute(statement)).one_or_none()
        if row is None:
            return None
        return Lease(
            run_id=row.id, fence=row.fence, organization_id=row.organization_id, integration_id=row.integration_id,
            plugin=row.plugin, operation=row.operation, attempt=row.attempt, streams=tuple(row.streams), full=row.full,
        )  # fmt: skip

    async def renew(self, lease: Lease, lease_s: float) -> None:
        """Extends the lease from now.

        Raises:
            StaleLeaseError: The run belongs to another worker, or is over.
        """
        async with self._db.write() as conn:
            answer = await conn.execute(fenced(sa.update(_run), lease).values(lease_until=self._db.after(lease_s)))
        if answer.rowcount != 1:
            raise StaleLeaseError("Another worker owns this run now.")

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
        now = self._db.now()
        await self._move(
            lease, state="queued", available_at=now, lease_owner=None, lease_until=None, attempt=_uncounted
        )

    async def defer(self, lease: Lease, *, seconds: float, error: ErrorView, counts: bool) -> None:
        """Gives the worker back and lets the run wait; it resumes at its last cursor.

        Args:
            counts: Whether the start counts as a failed attempt (being asked to slow down does not).
        """
        attempt = _run.c.attempt if counts else _uncounted
        await self._move(
            lease, state="waiting", available_at=self._db.after(seconds), lease_owner=None, lease_until=None,
            error=error.model_dump(), attempt=attempt,
        )  # fmt: skip

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

    async def succeed(self, lease: Lease) -> str:
        """Ends a run that read everything: ``succeeded``, or ``partial`` when records failed. Gives the state."""
        async with self._db.write() as conn:
            failed = await conn.scalar(sa.select(_run.c.failed).where(_run.c.id == lease.run_id))
            state = "partial" if failed else "succeeded"
            await self._finish(conn, lease, state, None)
            await self._set_connection(conn, lease, "connected")
        return state

    async def fail(self, lease: Lease, error: ErrorView, *, connection: str | None = None) -> None:
        """Ends a run that cannot go on. What it committed stays.

        Args:
            connection: What the failure says about the integration's connection, if anything.
        """
        async with self._db.write() as conn:
            await self._finish(conn, lease, "failed", error)
            if connection is not None:
                await self._set_connection(conn, lease, connection)

    async def give_up(self, lease: Lease, error: ErrorView) -> None:
        """Ends a run after its attempts and leaves a dead letter, in one transaction."""
        async with self._db.write() as conn:
            await self._finish(conn, lease, "failed", error)
            await self._bury(conn, lease, error)

    async def _bury(self, conn: AsyncConnection, lease: Lease, error: ErrorView) -> None:
        now = dt.datetime.now(dt.UTC)
        open_entry = sa.and_(
            _dead.c.integration_id == lease.integration_id, _dead.c.operation == lease.operation,
            _dead.c.acknowledged_at.is_(None),
        )  # fmt: skip
        told = {"run_id": lease.run_id, "reason": error.code, "message": error.message, "updated_at": now}
        repeated = await conn.execute(
            sa.update(_dead).where(open_entry).values(occurrences=_dead.c.occurrences + 1, **told)
        )
        if repeated.rowcount == 0:
            await conn.execute(
                sa.insert(_dead).values(
                    organization_id=lease.organization_id, integration_id=lease.integration_id,
                    operation=lease.operation, occurrences=1, created_at=now, **told,
                )
            )  # fmt: skip

    async def _finish(self, conn: AsyncConnection, lease: Lease, state: str, error: ErrorView | None) -> None:
        now = dt.datetime.now(dt.UTC)
        answer = await conn.execute(
            fenced(sa.update(_run), lease).values(
                state=state, finished_at=now, lease_owner=None, lease_until=None,
                error=None if error is None else error.model_dump(),
            )
        )  # fmt: skip
        if answer.rowcount != 1:
            raise StaleLeaseError("Another worker owns this run now.")
        word = "failed" if state == "failed" else "succeeded"
        data: dict[str, Any] = {"run": lease.run_id, "state": state, "operation": lease.operation}
        if error is not None:
            data["code"] = error.code
        await emit(conn, lease.organization_id, f"no.samband.run.{word}.v1", f"run/{lease.run_id}", data)

    async def _set_connection(self, conn: AsyncConnection, lease: Lease, connection: str) -> None:
        await conn.execute(
            sa.update(_integration).where(_integration.c.id == lease.integration_id).values(connection=connection)
        )

    async def _move(self, lease: Lease, **values: Any) -> None:
        async with self._db.write() as conn:
            answer = await conn.execute(fenced(sa.update(_run), lease).values(**values))
        if answer.rowcount != 1:
            raise StaleLeaseError("Another worker owns this run now.")
