"""Corrections: changes to claims that are in the books already, made only when a person agrees.

    proposed → approved → done          (the reversal of the booking was booked; by file, handed over)
                        ← done          (and refused after all, before the claim went out again)
             → done                     (nothing stood in the books any more when it was agreed to, or by then)
             → dismissed

A reversal that is refused, or was never sent, leaves its correction approved; agreeing again reserves another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.acting import acting
from samband.errors import ConflictError, NotFoundError
from samband.rules.selecting import LIVE_STATES
from samband.store import audit, columns
from samband.store.database import Database
from samband.store.ids import new_id
from samband.store.models import Correction, ExportItem, Reimbursement, ReimbursementVersion
from samband.store.outbox import emit, emit_all
from samband.store.turns import one_at_a_time

if TYPE_CHECKING:
    from samband.store.ledger import Ledger  # it tells of reversals that were accepted, and so imports this module

_correction: sa.Table = Correction.__table__
_claim: sa.Table = Reimbursement.__table__
_version: sa.Table = ReimbursementVersion.__table__
_item: sa.Table = ExportItem.__table__

IN_THE_BOOKS = ("accepted", "posted")
_IDS_PER_ENTRY = 100  # what one entry of the audit trail takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a claim would become."""

    organization_id: str
    reimbursement_id: str
    item_key: str
    body: Mapping[str, Any]
    digest: str


class Corrections:
    """Every statement about corrections."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._db = database
        self._ledger = ledger

    async def get(self, organization_id: str, correction_id: str) -> Correction:
        """Gives one correction, or raises `NotFoundError`."""
        async with self._db.read() as conn:
            return await _get(conn, organization_id, correction_id)

    async def page(
        self, organization_id: str, *, state: str | None = None, reimbursement_id: str | None = None,
        after: str | None = None, limit: int = 500,
    ) -> Sequence[Correction]:  # fmt: skip
        """Gives corrections, oldest first."""
        query = sa.select(_correction).where(_correction.c.organization_id == organization_id)
        wanted = ((_correction.c.state, state), (_correction.c.reimbursement_id, reimbursement_id))
        for column, value in wanted:
            if value is not None:
                query = query.where(column == value)
        if after is not None:
            query = query.where(_correction.c.id > after)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_correction.c.id).limit(limit))
            return [Correction(**row._mapping) for row in rows]

    async def bodies(self, organization_id: str, claim_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """Gives what the claims say that corrections are about, to compare with."""
        query = sa.select(_claim.c.id, _claim.c.body).where(
            _claim.c.organization_id == organization_id, _claim.c.id.in_(claim_ids)
        )
        async with self._db.read() as conn:
            return {row.id: row.body for row in await conn.execute(query)}

    # ── deciding ─────────────────────────────────────────────────────────────

    async def approve(self, organization_id: str, correction_id: str, *, reason: str) -> Correction:
        """Gives the claim its new version and reserves the reversal of its booking, in one transaction.

        Agreeing again to one whose reversal was refused or released reserves another reversal.

        Raises:
            ConflictError: It is over (`correction_over`), its reversal is on its way (`correction_under_way`), or the claim
                has been sent again and it is not known yet where that stands (`already_exported`).
        """
        async with self._db.write() as conn:
            await one_at_a_time(conn, organization_id)
            correction = await _get(conn, organization_id, correction_id)
            await self._demand_decidable(conn, correction)
            booking = await _booking(conn, correction)
            is_first = correction.state == "proposed"
            if is_first:
                await _take_over(conn, correction)
            changed = await self._reversed(conn, correction, booking, reason)
            decided = await _decide(conn, correction, reason, **changed)
            await _tell_decision(conn, decided, "correction.approved" if is_first else "correction.repeated")
            await _announce(conn, decided, "approved" if is_first and decided.state == "approved" else decided.state)
        return decided

    async def dismiss(self, organization_id: str, correction_id: str, *, reason: str) -> Correction:
        """Closes a proposal; the claim and its booking stay as they are.

        Raises:
            ConflictError: It is decided already.
        """
        async with self._db.write() as conn:
            await one_at_a_time(conn, organization_id)
            correction = await _get(conn, organization_id, correction_id)
            if correction.state == "approved":
                raise _under_way()
            _demand_open(correction)
            return await dismiss_in(conn, organization_id, correction_id, reason)

    async def _demand_decidable(self, conn: AsyncConnection, correction: Correction) -> None:
        _demand_open(correction)
        if correction.state == "approved":
            state = await conn.scalar(sa.select(_item.c.state).where(_item.c.key == correction.reversal_key))
            if state in LIVE_STATES:
                raise _under_way()

    async def _reversed(
        self, conn: AsyncConnection, correction: Correction, booking: ExportItem | None, reason: str
    ) -> dict[str, Any]:
        if booking is None:  # it was taken back some other way meanwhile
            return {"state": "done"}
        if booking.state not in IN_THE_BOOKS:
            raise ConflictError(
                f"The reimbursement has been sent again meanwhile (its item is {booking.state}).",
                code="already_exported",
                hint="Decide again when that item is settled; see the claim's timeline.",
            )
        reversal = await self._ledger.reverse_in(conn, booking, reason=reason or f"correction {correction.id}")
        return {"state": "approved", "item_key": booking.key, "reversal_key": reversal.key}


def proposed(proposal: Proposal) -> Correction:
    """Gives a proposal as a correction that is not written yet; see `propose_in`."""
    return Correction(
        id=new_id(), organization_id=proposal.organization_id, reimbursement_id=proposal.reimbursement_id,
        item_key=proposal.item_key, reversal_key=None, state="proposed", status=proposal.body["status"],
        body=dict(proposal.body), digest=proposal.digest, reason="", proposed_by=acting().actor[:200],
        decided_by=None, created_at=columns.now(), decided_at=None,
    )  # fmt: skip


async def propose_in(conn: AsyncConnection, organization_id: str, corrections: Sequence[Correction]) -> None:
    """Adds proposals, in the caller's transaction: they can come by the thousand."""
    if not corrections:
        return
    await conn.execute(sa.insert(_correction), [correction.model_dump() for correction in corrections])
    if len(corrections) == 1:
        await _tell_decision(conn, corrections[0], "correction.proposed")
    else:
        for start in range(0, len(corrections), _IDS_PER_ENTRY):
            ids = [correction.id for correction in corrections[start : start + _IDS_PER_ENTRY]]
            detail = {"count": len(ids), "ids": ids}
            await audit.record(conn, organization_id, "correction.proposed", "correction/*", detail)
    await emit_all(conn, organization_id, [_event(correction, "proposed") for correction in corrections])


async def dismiss_in(conn: AsyncConnection, organization_id: str, correction_id: str, reason: str) -> Correction:
    """Closes a proposal, in the caller's transaction."""
    correction = await _get(conn, organization_id, correction_id)
    decided = await _decide(conn, correction, reason, state="dismissed")
    await _tell_decision(conn, decided, "correction.dismissed")
    await _announce(conn, decided, "dismissed")
    return decided


async def finish_in(conn: AsyncConnection, reversal_key: str) -> bool:
    """Closes what a reversal was for, when it has taken its booking back: that is ``reversed``, and the correction done.

    In the caller's transaction; again does nothing. Gives whether there was a correction to close.
    """
    taken_back = sa.select(_item.c.reverses).where(_item.c.key == reversal_key).scalar_subquery()
    await conn.execute(
        sa.update(_item).where(_item.c.key == taken_back, _item.c.state.in_(IN_THE_BOOKS)).values(state="reversed")
    )
    return await _close(conn, reversal_key)


async def _close(conn: AsyncConnection, reversal_key: str) -> bool:
    done = (
        sa.update(_correction)
        .where(_correction.c.reversal_key == reversal_key, _correction.c.state == "approved")
        .values(state="done")
        .returning(_correction)
    )
    row = (await conn.execute(done)).one_or_none()
    if row is None:
        return False
    correction = Correction(**row._mapping)
    await _tell_decision(conn, correction, "correction.done")
    await _announce(conn, correction, "done")
    return True


async def reopen_in(conn: AsyncConnection, reversal_key: str) -> bool:
    """Takes back what `finish_in` did, when a reversal that went by file is refused after all; gives whether it could.

    The booking stands again as it did, and the correction waits for a person to agree once more. That cannot be when the
    claim's new version has been reserved meanwhile: then both are left, and the reconciliation shows the difference.
    """
    reversal = (await conn.execute(sa.select(_item).where(_item.c.key == reversal_key))).one_or_none()
    if reversal is None or reversal.reverses is None:
        return False
    live = sa.select(_item.c.key).where(
        _item.c.organization_id == reversal.organization_id, _item.c.reimbursement_id == reversal.reimbursement_id,
        _item.c.purpose == "booking", _item.c.state.in_(LIVE_STATES),
    )  # fmt: skip
    if await conn.scalar(live.limit(1)) is not None:
        return False
    stands = sa.case((_item.c.posted_at.is_not(None), "posted"), else_="accepted")
    await conn.execute(
        sa.update(_item).where(_item.c.key == reversal.reverses, _item.c.state == "reversed").values(state=stands)
    )
    again = (
        sa.update(_correction)
        .where(_correction.c.reversal_key == reversal_key, _correction.c.state == "done")
        .values(state="approved")
        .returning(_correction)
    )
    row = (await conn.execute(again)).one_or_none()
    if row is not None:
        await _tell_decision(conn, Correction(**row._mapping), "correction.reopened")
    return row is not None


async def withdraw_in(conn: AsyncConnection, booking: ExportItem) -> None:
    """Lets go of the reversal of a booking that was refused after all: there is nothing to take back.

    In the caller's transaction. A reversal that has been sent already cannot be called back; that is written into the
    trail, because the books then lack what the claim comes to.
    """
    mine = sa.and_(
        _item.c.organization_id == booking.organization_id, _item.c.reverses == booking.key,
        _item.c.purpose == "reversal", _item.c.state.in_(LIVE_STATES),
    )  # fmt: skip
    row = (await conn.execute(sa.select(_item).where(mine).with_for_update())).one_or_none()
    if row is None:
        return
    org, subject = booking.organization_id, f"reimbursement/{booking.reimbursement_id}"
    if row.state != "reserved":
        detail = {"booking": booking.key, "reversal": row.key, "state": row.state}
        await audit.record(conn, org, "export.reversed_in_vain", subject, detail)
        return
    gone = sa.update(_item).where(_item.c.key == row.key)
    await conn.execute(gone.values(state="released", settled_at=columns.now()))
    data = {
        "key": row.key, "reimbursement": row.reimbursement_id, "version": row.version, "state": "released",
        "integration": row.integration_id,
    }  # fmt: skip
    await emit(conn, org, "no.samband.export.released.v1", subject, data)
    await _close(conn, row.key)


async def _get(conn: AsyncConnection, organization_id: str, correction_id: str) -> Correction:
    mine = sa.and_(_correction.c.organization_id == organization_id, _correction.c.id == correction_id)
    row = (await conn.execute(sa.select(_correction).where(mine))).one_or_none()
    if row is None:
        raise NotFoundError("There is no such correction.", code="correction_not_found")
    return Correction(**row._mapping)


async def _booking(conn: AsyncConnection, correction: Correction) -> ExportItem | None:
    """Gives the claim's booking that is not over; another one than was proposed about, when it was sent again since."""
    query = sa.select(_item).where(
        _item.c.organization_id == correction.organization_id,
        _item.c.reimbursement_id == correction.reimbursement_id,
        _item.c.purpose == "booking", _item.c.state.in_(LIVE_STATES),
    )  # fmt: skip
    # Locked: a worker that hears of its refusal waits, and finds the reversal that is made of it here.
    row = (await conn.execute(query.with_for_update())).one_or_none()
    return None if row is None else ExportItem(**row._mapping)


async def _take_over(conn: AsyncConnection, correction: Correction) -> None:
    """Makes what was proposed the claim's next version."""
    now = columns.now()
    mine = sa.and_(_claim.c.organization_id == correction.organization_id, _claim.c.id == correction.reimbursement_id)
    changed = sa.update(_claim).where(mine).values(
        version=_claim.c.version + 1, status=correction.status, body=correction.body, digest=correction.digest,
        updated_at=now,
    )  # fmt: skip
    version = (await conn.execute(changed.returning(_claim.c.version))).scalar_one()
    await conn.execute(
        sa.insert(_version).values(
            organization_id=correction.organization_id, reimbursement_id=correction.reimbursement_id, version=version,
            status=correction.status, body=correction.body, digest=correction.digest, actor=acting().actor[:200],
            created_at=now,
        )
    )  # fmt: skip


async def _decide(conn: AsyncConnection, correction: Correction, reason: str, **values: Any) -> Correction:
    changed = {"reason": reason, "decided_by": acting().actor[:200], "decided_at": columns.now(), **values}
    statement = sa.update(_correction).where(_correction.c.id == correction.id).values(**changed).returning(_correction)
    return Correction(**(await conn.execute(statement)).one()._mapping)


async def _tell_decision(conn: AsyncConnection, correction: Correction, action: str) -> None:
    detail = {
        "reimbursement": correction.reimbursement_id, "item": correction.item_key, "reversal": correction.reversal_key,
        "state": correction.state, "reason": audit.bounded(correction.reason),
    }  # fmt: skip
    await audit.record(conn, correction.organization_id, action, f"correction/{correction.id}", detail)


async def _announce(conn: AsyncConnection, correction: Correction, deed: str) -> None:
    await emit(conn, correction.organization_id, *_event(correction, deed))


def _event(correction: Correction, deed: str) -> tuple[str, str, dict[str, Any]]:
    data = {
        "reimbursement": correction.reimbursement_id, "correction": correction.id, "state": correction.state,
        "item": correction.item_key, "reversal": correction.reversal_key,
    }  # fmt: skip
    known = {name: value for name, value in data.items() if value is not None}
    subject = f"reimbursement/{correction.reimbursement_id}"
    return f"no.samband.reimbursement.correction_{deed}.v1", subject, known


def _demand_open(correction: Correction) -> None:
    if correction.state not in ("proposed", "approved"):
        raise ConflictError(
            f"The correction is {correction.state} already.",
            code="correction_over",
            hint="Another change to the claim makes another correction; see the claim's open one.",
        )


def _under_way() -> ConflictError:
    return ConflictError(
        "The correction was agreed to, and the reversal of the booking is on its way.",
        code="correction_under_way",
        hint="Follow it with the claim's timeline.",
    )
