"""The export ledger: every claim that is on its way, booked, refused or uncertain, and every legal step between.

    reserved → sent → accepted → posted
                    → rejected               (over: the claim may be mended and taken again)
                    → unknown → accepted      (looked up and found)
                              → reserved      (looked up and not there)
    reserved → released                       (never sent; the order was cancelled or failed)

``sent`` is written before the adapter is called. What a worker leaves in that state when it dies is as uncertain as an
answer that never came: it leaves by being looked up, and no other way.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.contract import Receipt
from samband.errors import AlreadyRunningError, StaleLeaseError
from samband.rules.selecting import LIVE_STATES, Choice, Claim, choose, item_key
from samband.store import audit
from samband.store.database import Database
from samband.store.models import ExportItem, Integration, Reimbursement, Run
from samband.store.outbox import emit
from samband.store.runs import Lease, Runs, fenced, owned

_item: sa.Table = ExportItem.__table__  # type: ignore[attr-defined]
_claim: sa.Table = Reimbursement.__table__  # type: ignore[attr-defined]
_run: sa.Table = Run.__table__  # type: ignore[attr-defined]

MAX_CLAIMS = 10_000
"""Claims that one order takes at most; the rest stays approved for the next one."""

UNCERTAIN = ("sent", "unknown")


class Ledger:
    """Every statement about exports."""

    def __init__(self, database: Database, runs: Runs) -> None:
        self._db = database
        self._runs = runs

    # ── reserving ────────────────────────────────────────────────────────────

    async def reserve(
        self, integration: Integration, *, claim_ids: Sequence[str] | None, stream: str, plugin_version: str,
        account: str, reason: str, requested_by: str,
    ) -> tuple[Run | None, Choice]:  # fmt: skip
        """Reserves what can go out and orders the run that sends it, in one transaction.

        Gives no run when there is nothing to send. Two orders that overlap never take the same claim: they are served one
        after the other, and the partial unique index stands behind that.

        Raises:
            AlreadyRunningError: An export of the integration is still alive; nothing was reserved.
        """
        org = integration.organization_id
        async with self._db.write() as conn:
            await one_at_a_time(conn, org)
            choice = choose(claim_ids, await self._claims(conn, org, claim_ids))
            run: Run | None = None
            if choice.taken or await self._has_uncertain(conn, integration.id):
                run = await self._runs.order_in(
                    conn, organization_id=org, integration_id=integration.id, plugin=integration.plugin,
                    plugin_version=plugin_version, operation="export", streams=[stream], full=False, reason=reason,
                    requested_by=requested_by, account=account, expected_total=len(choice.taken),
                )  # fmt: skip
                if run is None:
                    raise AlreadyRunningError(run_id=await self._live(conn, integration.id))
                await self._add_items(conn, integration, choice.taken, run.id, stream)
                detail = {"run": run.id, "claims": len(choice.taken), "skipped": len(choice.skipped)}
                await audit.record(conn, org, "export.ordered", f"integration/{integration.id}", detail)
        return run, choice

    async def _claims(
        self, conn: AsyncConnection, organization_id: str, claim_ids: Sequence[str] | None
    ) -> list[Claim]:
        # Wherever it went: a claim that is in one set of books must not be put into another by itself.
        mine = sa.and_(_item.c.organization_id == _claim.c.organization_id, _item.c.reimbursement_id == _claim.c.id)
        live = sa.select(_item.c.state).where(mine, _item.c.state.in_(LIVE_STATES)).limit(1)
        query = sa.select(
            _claim.c.id, _claim.c.version, _claim.c.status,
            live.correlate(_claim).scalar_subquery().label("item_state"),
            sa.select(sa.func.count()).select_from(_item).where(mine).correlate(_claim).scalar_subquery().label("exports"),
        ).where(_claim.c.organization_id == organization_id)  # fmt: skip
        if claim_ids is None:
            query = query.where(_claim.c.status == "approved", ~sa.exists(live.correlate(_claim)))
        else:
            query = query.where(_claim.c.id.in_(claim_ids))
        rows = await conn.execute(query.order_by(_claim.c.id).limit(MAX_CLAIMS))
        return [Claim(**row._mapping) for row in rows]

    async def _add_items(
        self, conn: AsyncConnection, integration: Integration, claims: Sequence[Claim], run_id: str, stream: str
    ) -> None:
        now, org = dt.datetime.now(dt.UTC), integration.organization_id
        rows = [
            {
                "key": item_key(org, integration.id, claim.id, claim.exports + 1), "organization_id": org,
                "integration_id": integration.id, "reimbursement_id": claim.id, "version": claim.version,
                "number": claim.exports + 1, "run_id": run_id, "stream": stream, "state": "reserved", "fence": 0,
                "attempts": 0, "message": "", "reason": "", "created_at": now,
            }
            for claim in claims
        ]  # fmt: skip
        if rows:
            await conn.execute(sa.insert(_item), rows)

    async def _has_uncertain(self, conn: AsyncConnection, integration_id: str) -> bool:
        doubtful = sa.and_(_item.c.integration_id == integration_id, _item.c.state.in_((*UNCERTAIN, "reserved")))
        return await conn.scalar(sa.select(_item.c.key).where(doubtful).limit(1)) is not None

    async def _live(self, conn: AsyncConnection, integration_id: str) -> str:
        live = sa.and_(
            _run.c.integration_id == integration_id, _run.c.operation == "export",
            _run.c.state.in_(("queued", "running", "waiting", "held")),
        )  # fmt: skip
        return str(await conn.scalar(sa.select(_run.c.id).where(live)))

    # ── sending ──────────────────────────────────────────────────────────────

    async def take(self, lease: Lease, limit: int) -> list[tuple[ExportItem, Mapping[str, Any]]]:
        """Marks the next reserved items as sent, before they are, and gives each with its claim's values.

        Raises:
            StaleLeaseError: Another worker owns the run now; nothing was marked.
            RunCancelledError: Somebody cancelled the run; nothing was marked. What was sent before is settled all the same.
        """
        now = dt.datetime.now(dt.UTC)
        async with self._db.write() as conn:
            asked = fenced(sa.update(_run), lease).values(fence=_run.c.fence).returning(_run.c.cancel_requested_at)
            owned((await conn.execute(asked)).one_or_none())
            mine = sa.and_(_item.c.integration_id == lease.integration_id, _item.c.state == "reserved")
            chosen = sa.select(_item.c.key).where(mine).order_by(_item.c.created_at, _item.c.key).limit(limit)
            marked = sa.update(_item).where(_item.c.key.in_(chosen)).values(
                state="sent", sent_at=now, attempts=_item.c.attempts + 1, fence=lease.fence, run_id=lease.run_id
            )  # fmt: skip
            items = [ExportItem(**row._mapping) for row in await conn.execute(marked.returning(_item))]
            ids = [item.reimbursement_id for item in items]
            told = sa.select(_claim.c.id, _claim.c.body).where(
                _claim.c.organization_id == lease.organization_id, _claim.c.id.in_(ids)
            )
            bodies = {row.id: row.body for row in await conn.execute(told)}
        items.sort(key=lambda item: (item.created_at, item.key))
        return [(item, bodies[item.reimbursement_id]) for item in items]

    async def settle(self, lease: Lease, receipts: Sequence[Receipt], *, from_states: Sequence[str]) -> dict[str, int]:
        """Writes what became of items, each with an event; gives how many ended how.

        Raises:
            StaleLeaseError: Another worker owns the run now; nothing was written, and it will look the items up.
        """
        counts = {"accepted": 0, "rejected": 0, "unknown": 0}
        async with self._db.write() as conn:
            await self._demand_lease(conn, lease)
            for receipt in receipts:
                if await self._settle_one(conn, lease, receipt, from_states):
                    counts[receipt.state] += 1
            done = {"created": counts["accepted"], "failed": counts["rejected"]}
            changed: dict[str, Any] = {name: _run.c[name] + n for name, n in done.items() if n}
            if done["created"] or done["failed"]:
                changed |= {"attempt": 0, "progress_at": dt.datetime.now(dt.UTC)}
            if changed:
                await conn.execute(sa.update(_run).where(_run.c.id == lease.run_id).values(**changed))
        return counts

    async def _settle_one(
        self, conn: AsyncConnection, lease: Lease, receipt: Receipt, from_states: Sequence[str]
    ) -> bool:
        is_known = receipt.state != "unknown"
        values = {
            "state": receipt.state, "reference": receipt.reference, "code": receipt.code, "field": receipt.field,
            "message": receipt.message, "evidence": _evidence(receipt),
            "settled_at": dt.datetime.now(dt.UTC) if is_known else None,
        }  # fmt: skip
        mine = sa.and_(
            _item.c.key == receipt.key, _item.c.integration_id == lease.integration_id,
            _item.c.state.in_(from_states),
        )  # fmt: skip
        settled = sa.update(_item).where(mine).values(**values)
        row = (await conn.execute(settled.returning(_item.c.reimbursement_id, _item.c.version))).one_or_none()
        if row is None:
            return False
        told = {
            "key": receipt.key, "reimbursement": row.reimbursement_id, "version": row.version, "state": receipt.state,
            "integration": lease.integration_id, "run": lease.run_id, "reference": receipt.reference,
            "code": receipt.code, "field": receipt.field,
        }  # fmt: skip
        data = {name: value for name, value in told.items() if value is not None}
        subject = f"reimbursement/{row.reimbursement_id}"
        await emit(conn, lease.organization_id, f"no.samband.export.{receipt.state}.v1", subject, data)
        return True

    async def give_back(self, lease: Lease, keys: Sequence[str], *, from_states: Sequence[str]) -> int:
        """Makes items reserved again that are certain not to have arrived; gives how many."""
        async with self._db.write() as conn:
            await self._demand_lease(conn, lease)
            mine = sa.and_(
                _item.c.key.in_(list(keys)), _item.c.integration_id == lease.integration_id,
                _item.c.state.in_(from_states),
            )  # fmt: skip
            answer = await conn.execute(
                sa.update(_item).where(mine).values(state="reserved", sent_at=None, run_id=lease.run_id)
            )
        return int(answer.rowcount)

    async def uncertain(
        self, integration_id: str, limit: int, *, settle_after_s: float, after: str = ""
    ) -> list[tuple[ExportItem, bool]]:
        """Gives items whose fate nobody knows, in the order of their keys, and whether each has been out long enough.

        Args:
            settle_after_s: How long, by the database's clock, before not being found means that it never arrived.
        """
        mine = sa.and_(_item.c.integration_id == integration_id, _item.c.state.in_(UNCERTAIN), _item.c.key > after)
        is_judged = sa.func.coalesce(_item.c.sent_at <= self._db.after(-settle_after_s), sa.true()).label("is_judged")
        async with self._db.read() as conn:
            rows = (
                await conn.execute(sa.select(_item, is_judged).where(mine).order_by(_item.c.key).limit(limit))
            ).all()
        return [
            (ExportItem(**{c.name: row._mapping[c.name] for c in _item.columns}), bool(row.is_judged)) for row in rows
        ]

    # ── listings ─────────────────────────────────────────────────────────────

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

    async def _demand_lease(self, conn: AsyncConnection, lease: Lease) -> None:
        answer = await conn.execute(fenced(sa.update(_run), lease).values(fence=_run.c.fence))
        if answer.rowcount != 1:
            raise StaleLeaseError("Another worker owns this run now.")


async def one_at_a_time(conn: AsyncConnection, organization_id: str) -> None:
    """Has everything that reserves or changes an organisation's claims wait for what does so already.

    By an advisory lock, which no run's own transactions take; on SQLite the transaction itself has that effect.
    """
    if conn.dialect.name == "postgresql":
        lock = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:whose, 7226224))")
        await conn.execute(lock, {"whose": organization_id})


def _evidence(receipt: Receipt) -> dict[str, Any]:
    """Gives what is kept as proof: their reference and a digest of all they said."""
    told = [receipt.key, receipt.state, receipt.reference, receipt.code, receipt.field, receipt.message]
    return {"reference": receipt.reference, "digest": hashlib.sha256(orjson.dumps(told)).hexdigest()}
