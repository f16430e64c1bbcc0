"""Claims as the platform last told them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from samband.errors import ConflictError, NotFoundError
from samband.rules.selecting import LIVE_STATES
from samband.store import audit, columns
from samband.store.database import Database
from samband.store.ledger import one_at_a_time
from samband.store.models import ExportItem, Reimbursement

_claim: sa.Table = Reimbursement.__table__  # type: ignore[attr-defined]
_item: sa.Table = ExportItem.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A claim that was put: as it is now, and whether that is new."""

    row: Reimbursement
    is_new: bool
    is_changed: bool


class Reimbursements:
    """Every statement about claims."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def put(
        self, organization_id: str, claim_id: str, *, status: str, body: Mapping[str, Any], digest: str,
        if_version: int | None,
    ) -> Told:  # fmt: skip
        """Adds a claim or replaces it by its next version; telling the same again changes nothing.

        Raises:
            ConflictError: It has gone out in its present version (`already_exported`), or is not the version that the
                caller saw (`revision_mismatch`).
        """
        now = columns.now()
        mine = self._is(organization_id, claim_id)
        async with self._db.write() as conn:
            # Locks against a reservation that is being made of the same claim.
            await one_at_a_time(conn, organization_id)
            row = (await conn.execute(sa.select(_claim).where(mine))).one_or_none()
            if if_version is not None and (row is None or row.version != if_version):
                raise _mismatch()
            if row is None:
                fresh = Reimbursement(
                    organization_id=organization_id, id=claim_id, version=1, status=status, body=dict(body),
                    digest=digest, created_at=now, updated_at=now,
                )  # fmt: skip
                await conn.execute(sa.insert(_claim).values(**fresh.model_dump()))
                return Told(row=fresh, is_new=True, is_changed=True)
            if row.digest == digest:
                return Told(row=Reimbursement(**row._mapping), is_new=False, is_changed=False)
            await self._demand_at_home(conn, organization_id, claim_id)
            changed = sa.update(_claim).where(mine).values(
                version=row.version + 1, status=status, body=dict(body), digest=digest, updated_at=now
            )  # fmt: skip
            row = (await conn.execute(changed.returning(_claim))).one()
            detail = {"version": row.version, "status": status, "digest": digest}
            await audit.record(conn, organization_id, "reimbursement.changed", f"reimbursement/{claim_id}", detail)
        return Told(row=Reimbursement(**row._mapping), is_new=False, is_changed=True)

    async def get(self, organization_id: str, claim_id: str) -> Reimbursement:
        """Gives one claim, or raises `NotFoundError`."""
        async with self._db.read() as conn:
            row = (await conn.execute(sa.select(_claim).where(self._is(organization_id, claim_id)))).one_or_none()
        if row is None:
            raise NotFoundError("There is no such reimbursement.", code="reimbursement_not_found")
        return Reimbursement(**row._mapping)

    async def page(
        self, organization_id: str, *, status: str | None, after: str | None, limit: int
    ) -> Sequence[Reimbursement]:
        """Gives claims in the order of their ids."""
        query = sa.select(_claim).where(_claim.c.organization_id == organization_id)
        if status is not None:
            query = query.where(_claim.c.status == status)
        if after is not None:
            query = query.where(_claim.c.id > after)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_claim.c.id).limit(limit))
            return [Reimbursement(**row._mapping) for row in rows]

    async def _demand_at_home(self, conn: Any, organization_id: str, claim_id: str) -> None:
        away = sa.select(_item.c.state).where(
            _item.c.organization_id == organization_id,
            _item.c.reimbursement_id == claim_id,
            _item.c.state.in_(LIVE_STATES),
        )
        state = await conn.scalar(away.limit(1))
        if state is not None:
            raise ConflictError(
                f"The reimbursement has been exported (its item is {state}) and is no longer changed silently.",
                code="already_exported",
                hint="Reverse the booking first, or correct it with a claim of its own.",
            )

    def _is(self, organization_id: str, claim_id: str) -> sa.ColumnElement[bool]:
        return sa.and_(_claim.c.organization_id == organization_id, _claim.c.id == claim_id)


def _mismatch() -> ConflictError:
    return ConflictError(
        "The reimbursement was changed by somebody else meanwhile.",
        code="revision_mismatch",
        hint="Fetch it again, and repeat your change on what you find.",
    )
