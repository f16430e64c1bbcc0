"""What people decide about runs: cancelling one, and letting one go on, or not, that the brake has stopped."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.acting import acting
from samband.errors import ConflictError, NotFoundError
from samband.rules.brake import Brake, Removal
from samband.store import audit
from samband.store.columns import iso_ms
from samband.store.database import Database
from samband.store.models import Run, Stream
from samband.store.runs import MAX_NOTES, Lease, fenced, owned, tell

_run: sa.Table = Run.__table__
_stream: sa.Table = Stream.__table__

_OVER = {"lease_owner": None, "lease_until": None}


async def hold(conn: AsyncConnection, lease: Lease, stream: str, brake: Brake, removal: Removal) -> None:
    """Stops a run until a person has decided.

    Raises:
        StaleLeaseError: Another worker owns the run now.
        RunCancelledError: Somebody has decided already, by cancelling it.
    """
    earlier = await conn.scalar(sa.select(_run.c.brake).where(_run.c.id == lease.run_id)) or {}
    told = {
        "reason": "too_many_removals", "stream": stream, "would_delete": removal.deleted,
        "would_deactivate": removal.deactivated, "held": removal.held, "share": brake.share,
        "limit": brake.limit(removal.held), "held_at": _instant(), "released": earlier.get("released", {}),
    }  # fmt: skip
    statement = fenced(sa.update(_run), lease).values(state="held", brake=told, **_OVER)
    row = owned((await conn.execute(statement.returning(_run))).one_or_none())
    figures = {name: told[name] for name in ("stream", "would_delete", "would_deactivate", "held", "limit")}
    await tell(conn, row, code=told["reason"])
    await audit.record(conn, lease.organization_id, "run.held", f"run/{lease.run_id}", figures)


class Decisions:
    """Cancelling, approving and rejecting, each with its entry in the audit trail."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def cancel(self, organization_id: str, run_id: str) -> Run:
        """Ends a run that nobody works on at once, and asks the worker of another one to end it before its next write.

        Safe to repeat: a run that was cancelled is given again.

        Raises:
            ConflictError: ``run_ended``, when it ended in another way.
        """
        async with self._db.write() as conn:
            await self._demand(conn, organization_id, run_id)
            now = self._db.now()
            idle = sa.or_(
                _run.c.state.in_(("queued", "waiting", "held")),
                sa.and_(_run.c.state == "running", _run.c.lease_until < now),
            )
            at = dt.datetime.now(dt.UTC)
            asked = sa.func.coalesce(_run.c.cancel_requested_at, sa.literal(at, _run.c.cancel_requested_at.type))
            statement = sa.update(_run).where(_run.c.id == run_id, idle)
            ended = statement.values(state="cancelled", finished_at=at, cancel_requested_at=asked, **_OVER)
            row = (await conn.execute(ended.returning(_run))).one_or_none()
            if row is not None:
                await tell(conn, row)
                await self._audit(conn, row, "run.cancelled", {"pages": row.pages})
                return Run(**row._mapping)
            running = sa.update(_run).where(
                _run.c.id == run_id, _run.c.state == "running", _run.c.cancel_requested_at.is_(None)
            )
            row = (await conn.execute(running.values(cancel_requested_at=at).returning(_run))).one_or_none()
            if row is not None:
                await self._audit(conn, row, "run.cancelled", {"was": "running"})
                return Run(**row._mapping)
            row = await self._demand(conn, organization_id, run_id)
        if row.state not in ("running", "cancelled"):
            raise ConflictError(f"The run has ended already: it {_ENDINGS[row.state]}.", code="run_ended")
        return Run(**row._mapping)

    async def approve(self, organization_id: str, run_id: str, *, reason: str, up_to: int | None = None) -> Run:
        """Lets a held run go on at its last cursor; ring for it afterwards.

        The page it was stopped at is fetched again and weighed again: what they say then counts, up to ``up_to``
        removals from that stream over the whole run, by default as many as it was stopped with.
        """
        async with self._db.write() as conn:
            row = await self._demand_held(conn, organization_id, run_id)
            brake = dict(row.brake)
            up_to = up_to or brake["would_delete"] + brake["would_deactivate"]
            brake["released"] = {**brake["released"], brake["stream"]: up_to}
            brake |= {"decision": "approved", "decided_by": acting().actor, "decided_at": _instant(), "note": reason}
            now = self._db.now()
            # Its long rest counts neither as trouble nor as standing still.
            values = {"state": "queued", "available_at": now, "attempt": 0, "progress_at": dt.datetime.now(dt.UTC)}
            changed = await self._change(conn, row.id, brake=brake, **values)
            told = {"stream": brake["stream"], "up_to": up_to, "reason": audit.bounded(reason)}
            await self._audit(conn, changed, "run.approved", told)
        return Run(**changed._mapping)

    async def reject(self, organization_id: str, run_id: str, *, reason: str) -> Run:
        """Ends a held run; nothing of what it was stopped for is applied.

        The stream begins with a full read next time, because its cursor stands in the middle of what was rejected.
        """
        async with self._db.write() as conn:
            row = await self._demand_held(conn, organization_id, run_id)
            brake = dict(row.brake)
            brake |= {"decision": "rejected", "decided_by": acting().actor, "decided_at": _instant(), "note": reason}
            note = f"{brake['stream']}: the removals were rejected and not applied; it is read whole next time."
            changed = await self._change(
                conn, row.id, state="cancelled", finished_at=dt.datetime.now(dt.UTC), brake=brake,
                notes=[*row.notes, note][-MAX_NOTES:],
            )  # fmt: skip
            if row.selection is None:
                mine = (_stream.c.integration_id == row.integration_id, _stream.c.name == brake["stream"])
                await conn.execute(sa.update(_stream).where(*mine).values(cursor=None))
            await tell(conn, changed)
            told = {"stream": brake["stream"], "reason": audit.bounded(reason)}
            await self._audit(conn, changed, "run.rejected", told)
        return Run(**changed._mapping)

    async def _demand(self, conn: AsyncConnection, organization_id: str, run_id: str) -> sa.Row[Any]:
        where = sa.and_(_run.c.id == run_id, _run.c.organization_id == organization_id)
        row: sa.Row[Any] | None = (await conn.execute(sa.select(_run).where(where))).one_or_none()
        if row is None:
            raise NotFoundError("There is no such run.", code="run_not_found")
        return row

    async def _demand_held(self, conn: AsyncConnection, organization_id: str, run_id: str) -> sa.Row[Any]:
        await self._demand(conn, organization_id, run_id)
        # An update that changes nothing, because it locks the row: of two decisions at once the second finds none.
        held = sa.update(_run).where(_run.c.id == run_id, _run.c.state == "held").values(state="held")
        row: sa.Row[Any] | None = (await conn.execute(held.returning(_run))).one_or_none()
        if row is None:
            raise ConflictError(
                "The run is not held.", code="not_held", hint="Only a run that the brake has stopped waits for this."
            )
        return row

    async def _change(self, conn: AsyncConnection, run_id: str, **values: Any) -> sa.Row[Any]:
        statement = sa.update(_run).where(_run.c.id == run_id).values(**values).returning(_run)
        row: sa.Row[Any] = (await conn.execute(statement)).one()
        return row

    async def _audit(self, conn: AsyncConnection, run: sa.Row[Any], action: str, detail: dict[str, Any]) -> None:
        await audit.record(conn, run.organization_id, action, f"run/{run.id}", detail)


_ENDINGS = {"succeeded": "succeeded", "partial": "succeeded, with records that failed", "failed": "failed"}


def _instant() -> str:
    return iso_ms(dt.datetime.now(dt.UTC))
