"""How each integration's claims become vouchers, version by version. No version is ever changed or removed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.acting import acting
from samband.errors import ConflictError, NotFoundError
from samband.rules.mapping import MappingBody, digest_of
from samband.store import audit, columns
from samband.store.database import Database
from samband.store.models import Integration, Mapping, Reimbursement

_mapping: sa.Table = Mapping.__table__
_claim: sa.Table = Reimbursement.__table__
_HEAD = [column for column in _mapping.columns if column.name != "body"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A mapping that was put: the newest version now, and whether it is a new one."""

    row: Mapping
    is_new: bool


class Mappings:
    """Every statement about mappings."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def put(
        self, integration: Integration, body: MappingBody, *, effective_from: dt.date, today: dt.date, note: str = "",
        if_version: int | None = None, restored_from: int | None = None,
    ) -> Saved:  # fmt: skip
        """Adds the next version; the same mapping from the same day on is no new one.

        Args:
            integration: Whose.
            body: Already known to be whole.
            effective_from: The first day it is in force.
            today: A day up to this one is as good as today.
            note: Why, for people.
            if_version: Only if this is still the newest version; 0 only if there is none.
            restored_from: The version it repeats.

        Raises:
            ConflictError: Somebody has saved another one meanwhile.
        """
        given = body, effective_from, today, note, if_version, restored_from
        try:
            return await self._put(integration, *given)
        except IntegrityError:  # two saved at once; the second one now finds what the first has made
            return await self._put(integration, *given)

    async def _put(
        self, integration: Integration, body: MappingBody, effective_from: dt.date, today: dt.date, note: str,
        if_version: int | None, restored_from: int | None,
    ) -> Saved:  # fmt: skip
        digest = digest_of(body)
        async with self._db.write() as conn:
            newest = await self._newest(conn, integration.id)
            if if_version is not None and if_version != (0 if newest is None else newest.version):
                raise _changed_meanwhile()
            if newest is not None and newest.digest == digest:
                days = {max(newest.effective_from, today), max(effective_from, today)}
                if len(days) == 1:
                    return Saved(row=newest, is_new=False)
            row = Mapping(
                integration_id=integration.id, version=1 if newest is None else newest.version + 1,
                organization_id=integration.organization_id, body=body.model_dump(mode="json"), digest=digest,
                effective_from=effective_from, author=acting().actor[:200], note=note, restored_from=restored_from,
                created_at=columns.now(),
            )  # fmt: skip
            await conn.execute(sa.insert(_mapping).values(**row.model_dump()))
            detail = {"version": row.version, "digest": digest, "effective_from": effective_from.isoformat()}
            if restored_from is not None:
                detail["restored_from"] = restored_from
            await audit.record(
                conn, integration.organization_id, "mapping.saved", f"integration/{integration.id}", detail
            )
        return Saved(row=row, is_new=True)

    async def newest(self, integration_id: str) -> Mapping | None:
        """Gives the newest version, whether or not it is in force yet; None before the first."""
        async with self._db.read() as conn:
            return await self._newest(conn, integration_id)

    async def active(self, integration_id: str, on: dt.date) -> tuple[int, MappingBody] | None:
        """Gives the version in force on a day and the mapping; None when there is none."""
        async with self._db.read() as conn:
            return await active_in(conn, integration_id, on)

    async def one(self, integration_id: str, version: int) -> Mapping:
        """Gives a version, or raises `NotFoundError`."""
        mine = sa.and_(_mapping.c.integration_id == integration_id, _mapping.c.version == version)
        async with self._db.read() as conn:
            row = (await conn.execute(sa.select(_mapping).where(mine))).one_or_none()
        if row is None:
            raise NotFoundError("There is no such version of the mapping.", code="mapping_version_not_found")
        return Mapping(**row._mapping)

    async def versions(self, integration_id: str, *, before: int | None, limit: int) -> list[Mapping]:
        """Gives versions, newest first; each without what it says, since its tables may be long."""
        query = sa.select(*_HEAD).where(_mapping.c.integration_id == integration_id)
        if before is not None:
            query = query.where(_mapping.c.version < before)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_mapping.c.version.desc()).limit(limit))
            return [Mapping(**row._mapping, body={}) for row in rows]

    async def planned(self, integration_id: str, *, before: int, after: dt.date) -> list[tuple[int, dt.date]]:
        """Gives earlier versions that were meant to come into force after a day, and when."""
        mine = sa.and_(_mapping.c.integration_id == integration_id, _mapping.c.version < before)
        query = sa.select(_mapping.c.version, _mapping.c.effective_from).where(mine, _mapping.c.effective_from > after)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_mapping.c.version))
            return [(row.version, row.effective_from) for row in rows]

    async def samples(
        self, organization_id: str, *, ids: Sequence[str] | None, limit: int
    ) -> list[tuple[str, dict[str, Any]]]:
        """Gives claims to show a mapping on: the named ones that exist, or the approved ones that were told last."""
        mine = _claim.c.organization_id == organization_id
        query = sa.select(_claim.c.id, _claim.c.body)
        if ids is None:
            newest = _claim.c.updated_at.desc(), _claim.c.id
            query = query.where(mine, _claim.c.status == "approved").order_by(*newest).limit(limit)
        else:
            query = query.where(mine, _claim.c.id.in_(ids))
        async with self._db.read() as conn:
            found = {row.id: row.body for row in await conn.execute(query)}
        return [(claim_id, found[claim_id]) for claim_id in (ids or found) if claim_id in found]

    async def _newest(self, conn: AsyncConnection, integration_id: str) -> Mapping | None:
        mine = sa.select(_mapping).where(_mapping.c.integration_id == integration_id)
        row = (await conn.execute(mine.order_by(_mapping.c.version.desc()).limit(1))).one_or_none()
        return None if row is None else Mapping(**row._mapping)


async def active_in(conn: AsyncConnection, integration_id: str, on: dt.date) -> tuple[int, MappingBody] | None:
    """Gives the version in force on a day and the mapping, in the caller's transaction; None when there is none.

    In force is the newest version of those whose day has come.
    """
    mine = sa.and_(_mapping.c.integration_id == integration_id, _mapping.c.effective_from <= on)
    query = sa.select(_mapping.c.version, _mapping.c.body).where(mine).order_by(_mapping.c.version.desc()).limit(1)
    row = (await conn.execute(query)).one_or_none()
    return None if row is None else (row.version, MappingBody.model_validate(row.body))


def _changed_meanwhile() -> ConflictError:
    return ConflictError(
        "Somebody has saved another version of the mapping meanwhile.",
        code="revision_mismatch",
        hint="Fetch it again, and repeat your change on what you find.",
    )
