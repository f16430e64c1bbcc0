"""Claims as the platform last told them, and every version there was."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.acting import acting
from samband.errors import ConflictError, NotFoundError
from samband.rules.claims import Outcome, Present, digest_of, judge, with_approval_day
from samband.rules.selecting import LIVE_STATES
from samband.store import audit, columns
from samband.store.corrections import Proposal, dismiss_in, propose_in, proposed
from samband.store.database import Database
from samband.store.models import Correction, ExportItem, Reimbursement, ReimbursementVersion
from samband.store.turns import one_at_a_time

_claim: sa.Table = Reimbursement.__table__
_version: sa.Table = ReimbursementVersion.__table__
_item: sa.Table = ExportItem.__table__
_correction: sa.Table = Correction.__table__

_IDS_PER_ENTRY = 100  # what one entry of the audit trail takes

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A claim that was told: as it is now, and what became of the telling.

    Attributes:
        correction: Id of the correction that is open.
    """

    row: Reimbursement
    outcome: Outcome
    correction: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A claim that is held, with what stands in the way of changing it."""

    row: Reimbursement
    present: Present
    item_key: str | None
    correction_id: str | None


@dataclass(slots=True, kw_only=True)
class _Writes:
    """What a telling comes to, written together at its end."""

    organization_id: str
    today: str
    if_version: int | None
    new: list[Reimbursement] = field(default_factory=list)
    changed: list[Reimbursement] = field(default_factory=list)
    proposals: list[Correction] = field(default_factory=list)


class Reimbursements:
    """Every statement about claims."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # ── telling ──────────────────────────────────────────────────────────────

    async def put(
        self, organization_id: str, claim_id: str, body: Body, *, today: str, if_version: int | None = None
    ) -> Told:
        """Adds a claim or replaces it by its next version; telling the same again changes nothing.

        Raises:
            ConflictError: It is on its way (`already_exported`), a correction of it is being carried out
                (`correction_under_way`), or it is not the version that the caller saw (`revision_mismatch`).
        """
        async with self._db.write() as conn:
            told = await self._tell(conn, organization_id, {claim_id: body}, today, if_version)
            outcome = told[claim_id]
            if isinstance(outcome, ConflictError):
                raise outcome
            if outcome.outcome == "updated":
                detail = {
                    "version": outcome.row.version, "status": outcome.row.status, "digest": outcome.row.digest,
                }  # fmt: skip
                await audit.record(conn, organization_id, "reimbursement.changed", f"reimbursement/{claim_id}", detail)
        return outcome

    async def put_many(
        self, organization_id: str, bodies: Mapping[str, Body], *, today: str
    ) -> dict[str, Told | ConflictError]:
        """Does the same with many claims in one transaction; gives what became of each, refusals included."""
        async with self._db.write() as conn:
            told = await self._tell(conn, organization_id, bodies, today)
            changed = [id for id, one in told.items() if isinstance(one, Told) and one.outcome == "updated"]
            for start in range(0, len(changed), _IDS_PER_ENTRY):
                ids = changed[start : start + _IDS_PER_ENTRY]
                detail = {"count": len(ids), "ids": ids}
                await audit.record(conn, organization_id, "reimbursement.changed", "reimbursement/*", detail)
        return told

    async def _tell(
        self, conn: AsyncConnection, organization_id: str, bodies: Mapping[str, Body], today: str,
        if_version: int | None = None,
    ) -> dict[str, Told | ConflictError]:  # fmt: skip
        # Waits for a reservation that is being made of the same claims, and makes it wait.
        await one_at_a_time(conn, organization_id)
        held = await self._held(conn, organization_id, list(bodies))
        writes = _Writes(organization_id=organization_id, today=today, if_version=if_version)
        told = {id: await self._tell_one(conn, writes, id, body, held.get(id)) for id, body in bodies.items()}
        await self._write(conn, writes)
        return told

    async def _tell_one(
        self, conn: AsyncConnection, writes: _Writes, claim_id: str, given: Body, before: Held | None
    ) -> Told | ConflictError:
        body = with_approval_day(given, None if before is None else before.row.body, writes.today)
        verdict = judge(None if before is None else before.present, digest_of(body), writes.if_version)
        if verdict == "created":
            writes.new.append(_row(writes.organization_id, claim_id, body, version=1))
            return Told(row=writes.new[-1], outcome="created")
        if before is None:  # a version of it was asked for, and nothing is there
            return _refusal(verdict, None)
        if verdict == "unchanged":
            return await self._unchanged(conn, before)
        if verdict == "proposed":
            return await self._proposed(conn, writes, before, body)
        if verdict == "updated":
            await self._drop_proposal(conn, before)
            since, version = before.row.created_at, before.row.version + 1
            writes.changed.append(_row(writes.organization_id, claim_id, body, version=version, since=since))
            return Told(row=writes.changed[-1], outcome="updated")
        return _refusal(verdict, before)

    async def _held(self, conn: AsyncConnection, organization_id: str, ids: Sequence[str]) -> dict[str, Held]:
        # In one statement, and so on one snapshot: what a run settles meanwhile is seen whole or not at all.
        mine = sa.and_(_item.c.organization_id == _claim.c.organization_id, _item.c.reimbursement_id == _claim.c.id)
        booking = sa.and_(mine, _item.c.purpose == "booking", _item.c.state.in_(LIVE_STATES))
        own = sa.and_(
            _correction.c.organization_id == _claim.c.organization_id, _correction.c.reimbursement_id == _claim.c.id,
            _correction.c.state.in_(("proposed", "approved")),
        )  # fmt: skip
        query = (
            sa.select(
                _claim, _item.c.key.label("item_key"), _item.c.state.label("item_state"),
                _correction.c.id.label("correction_id"), _correction.c.state.label("correction_state"),
                _correction.c.digest.label("correction_digest"),
            )
            .select_from(_claim.outerjoin(_item, booking).outerjoin(_correction, own))
            .where(_claim.c.organization_id == organization_id, _claim.c.id.in_(ids))
        )  # fmt: skip
        return {row.id: _held_of(row) for row in await conn.execute(query)}

    async def _unchanged(self, conn: AsyncConnection, before: Held) -> Told:
        """What is told is what is held: a proposal to change it is taken back by that."""
        await self._drop_proposal(conn, before)
        open_still = before.correction_id if before.present.correction_state == "approved" else None
        return Told(row=before.row, outcome="unchanged", correction=open_still)

    async def _drop_proposal(self, conn: AsyncConnection, before: Held) -> None:
        if before.correction_id is not None and before.present.correction_state == "proposed":
            await dismiss_in(
                conn, before.row.organization_id, before.correction_id, "The claim was told again as it is."
            )

    async def _proposed(self, conn: AsyncConnection, writes: _Writes, before: Held, body: Body) -> Told:
        digest = digest_of(body)
        if before.correction_id is not None and before.present.correction_digest == digest:
            return Told(row=before.row, outcome="proposed", correction=before.correction_id)
        if before.correction_id is not None:
            # A correction of its own and not another content of this one: whoever agrees to one agrees to what they saw.
            reason = "Replaced by what was told later."
            await dismiss_in(conn, before.row.organization_id, before.correction_id, reason)
        proposal = Proposal(
            organization_id=before.row.organization_id, reimbursement_id=before.row.id, item_key=before.item_key or "",
            body=body, digest=digest,
        )  # fmt: skip
        writes.proposals.append(proposed(proposal))
        return Told(row=before.row, outcome="proposed", correction=writes.proposals[-1].id)

    async def _write(self, conn: AsyncConnection, writes: _Writes) -> None:
        if writes.new:
            await conn.execute(sa.insert(_claim), [row.model_dump() for row in writes.new])
        if writes.changed:
            own = sa.and_(_claim.c.organization_id == sa.bindparam("of"), _claim.c.id == sa.bindparam("which"))
            values = ("version", "status", "body", "digest", "updated_at")
            statement = sa.update(_claim).where(own).values({name: sa.bindparam(f"new_{name}") for name in values})
            rows = [
                {"of": row.organization_id, "which": row.id, **{f"new_{name}": getattr(row, name) for name in values}}
                for row in writes.changed
            ]
            await conn.execute(statement, rows)
        await _add_versions(conn, [*writes.new, *writes.changed])
        await propose_in(conn, writes.organization_id, writes.proposals)

    # ── listings ─────────────────────────────────────────────────────────────

    async def get(self, organization_id: str, claim_id: str) -> tuple[Reimbursement, str | None]:
        """Gives one claim and the id of its open correction, or raises `NotFoundError`."""
        async with self._db.read() as conn:
            held = await self._held(conn, organization_id, [claim_id])
        if claim_id not in held:
            raise NotFoundError("There is no such reimbursement.", code="reimbursement_not_found")
        return held[claim_id].row, held[claim_id].correction_id

    async def page(
        self, organization_id: str, *, status: str | None, after: str | None, limit: int
    ) -> Sequence[tuple[Reimbursement, str | None]]:
        """Gives claims in the order of their ids, each with the id of its open correction."""
        query = sa.select(_claim.c.id).where(_claim.c.organization_id == organization_id)
        if status is not None:
            query = query.where(_claim.c.status == status)
        if after is not None:
            query = query.where(_claim.c.id > after)
        async with self._db.read() as conn:
            ids = list((await conn.execute(query.order_by(_claim.c.id).limit(limit))).scalars())
            held = await self._held(conn, organization_id, ids)
        return [(held[id].row, held[id].correction_id) for id in ids]

    async def versions(
        self, organization_id: str, claim_id: str, *, after: int | None, limit: int
    ) -> list[ReimbursementVersion]:
        """Gives a claim's versions, newest first, from before the one numbered ``after``."""
        query = sa.select(_version).where(
            _version.c.organization_id == organization_id, _version.c.reimbursement_id == claim_id
        )
        if after is not None:
            query = query.where(_version.c.version < after)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_version.c.version.desc()).limit(limit))
            return [ReimbursementVersion(**row._mapping) for row in rows]


async def _add_versions(conn: AsyncConnection, rows: Sequence[Reimbursement]) -> None:
    """Keeps claims as they are told now, with who told them."""
    told = [
        {
            "organization_id": row.organization_id, "reimbursement_id": row.id, "version": row.version,
            "status": row.status, "body": row.body, "digest": row.digest, "actor": acting().actor[:200],
            "created_at": row.updated_at,
        }
        for row in rows
    ]  # fmt: skip
    if told:
        await conn.execute(sa.insert(_version), told)


def _row(
    organization_id: str, claim_id: str, body: Body, *, version: int, since: dt.datetime | None = None
) -> Reimbursement:
    now = columns.now()
    return Reimbursement(
        organization_id=organization_id, id=claim_id, version=version, status=body["status"], body=dict(body),
        digest=digest_of(body), created_at=since or now, updated_at=now,
    )  # fmt: skip


def _held_of(row: sa.Row[Any]) -> Held:
    claim = Reimbursement(**{column.name: row._mapping[column.name] for column in _claim.columns})
    present = Present(
        version=claim.version, digest=claim.digest, body=claim.body, item_state=row.item_state,
        correction_state=row.correction_state, correction_digest=row.correction_digest,
    )  # fmt: skip
    return Held(row=claim, present=present, item_key=row.item_key, correction_id=row.correction_id)


def _refusal(verdict: str, held: Held | None) -> ConflictError:
    if verdict == "already_exported":
        state = "" if held is None else held.present.item_state
        return ConflictError(
            f"The reimbursement is being exported (its item is {state}) and is not changed meanwhile.",
            code="already_exported",
            hint="Tell it again when the item is accepted, posted, rejected or released; see its timeline.",
        )
    if verdict == "correction_under_way":
        return ConflictError(
            "The booking of the reimbursement is being reversed, and it is not changed meanwhile.",
            code="correction_under_way",
            hint="Tell it again when the correction is done; see its timeline.",
        )
    return ConflictError(
        "The reimbursement was changed by somebody else meanwhile.",
        code="revision_mismatch",
        hint="Fetch it again, and repeat your change on what you find.",
    )
