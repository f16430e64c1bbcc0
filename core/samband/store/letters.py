"""Dead letters: work that was given up, until a person has seen to it or a later run has done it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import NotFoundError
from samband.store import audit
from samband.store.database import Database
from samband.store.models import DeadLetter, Integration, Run
from samband.views import ErrorView

_dead: sa.Table = DeadLetter.__table__
_run: sa.Table = Run.__table__
_integration: sa.Table = Integration.__table__

_OPEN = _dead.c.acknowledged_at.is_(None)


class Letters:
    """Reading dead letters, and closing them by hand."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def page(
        self, organization_id: str, *, open_only: bool, plugin: str | None = None, before: int | None = None, limit: int
    ) -> list[tuple[DeadLetter, str]]:
        """Gives letters with their integration's type, newest first, those after ``before`` in that order."""
        query = _with_plugin().where(_dead.c.organization_id == organization_id)
        if open_only:
            query = query.where(_OPEN)
        if plugin is not None:
            query = query.where(_integration.c.plugin == plugin)
        if before is not None:
            query = query.where(_dead.c.id < before)
        async with self._db.read() as conn:
            rows = (await conn.execute(query.order_by(_dead.c.id.desc()).limit(limit))).all()
        return [_split(row) for row in rows]

    async def get(self, organization_id: str, letter_id: int) -> tuple[DeadLetter, str]:
        """Gives one letter with its integration's type, or raises `NotFoundError`."""
        async with self._db.read() as conn:
            return await self._get(conn, organization_id, letter_id)

    async def acknowledge(self, organization_id: str, letter_id: int, by: str) -> tuple[DeadLetter, str]:
        """Closes a letter under somebody's name; closing a closed one changes nothing."""
        mine = sa.and_(_dead.c.id == letter_id, _dead.c.organization_id == organization_id)
        closing = sa.update(_dead).where(mine, _OPEN).values(acknowledged_at=_now(), acknowledged_by=by)
        async with self._db.write() as conn:
            if (await conn.execute(closing)).rowcount:
                await audit.record(conn, organization_id, "dead_letter.acknowledged", f"dead_letter/{letter_id}")
            return await self._get(conn, organization_id, letter_id)

    async def _get(self, conn: AsyncConnection, organization_id: str, letter_id: int) -> tuple[DeadLetter, str]:
        mine = sa.and_(_dead.c.id == letter_id, _dead.c.organization_id == organization_id)
        row = (await conn.execute(_with_plugin().where(mine))).one_or_none()
        if row is None:
            raise NotFoundError("There is no such dead letter.", code="dead_letter_not_found")
        return _split(row)


# ── what happens to letters in the transaction of a run ──────────────────────


async def bury(conn: AsyncConnection, run: sa.Row[Any], error: ErrorView) -> None:
    """Leaves a letter for a run that was given up, or counts it on the one that is there already.

    A retry that is given up in its turn opens the letter again that it had closed: it is the same work.
    """
    told = {"run_id": run.id, "reason": error.code, "message": error.message, "updated_at": _now()}
    again = {"occurrences": _dead.c.occurrences + 1, "acknowledged_at": None, "acknowledged_by": None, **told}
    mine = sa.and_(_dead.c.integration_id == run.integration_id, _dead.c.operation == run.operation)
    repeated = await conn.execute(sa.update(_dead).where(mine, _OPEN).values(**again))
    if repeated.rowcount == 0 and run.retry_of is not None:
        repeated = await conn.execute(
            sa.update(_dead).where(mine, _dead.c.retry_run_id == run.id).values(retry_run_id=None, **again)
        )
    if repeated.rowcount == 0:
        await conn.execute(
            sa.insert(_dead).values(
                organization_id=run.organization_id, integration_id=run.integration_id, operation=run.operation,
                occurrences=1, created_at=told["updated_at"], **told,
            )
        )  # fmt: skip


async def take_up(conn: AsyncConnection, *, run_id: str, retry_run_id: str, by: str) -> None:
    """Closes the letter of a run that is being tried again, with a link to the retry."""
    await conn.execute(
        sa.update(_dead).where(_dead.c.run_id == run_id, _OPEN).values(
            acknowledged_at=_now(), acknowledged_by=by, retry_run_id=retry_run_id
        )
    )  # fmt: skip


async def close_by(conn: AsyncConnection, run: sa.Row[Any]) -> None:
    """Closes the open letter whose work a run that succeeded has done, with a link to that run.

    Work that reached further (more streams, or all records where the run read chosen ones) is not done by it.
    """
    mine = sa.and_(_dead.c.integration_id == run.integration_id, _dead.c.operation == run.operation, _OPEN)
    found = sa.select(_dead.c.id, _run.c.streams, _run.c.selection).join(_run, _run.c.id == _dead.c.run_id).where(mine)
    letter = (await conn.execute(found)).one_or_none()
    if letter is None or not set(letter.streams) <= set(run.streams):
        return
    if run.selection is not None and run.selection != letter.selection:
        return
    await conn.execute(
        sa.update(_dead).where(_dead.c.id == letter.id).values(
            acknowledged_at=_now(), acknowledged_by="samband", retry_run_id=run.id
        )
    )  # fmt: skip


def _with_plugin() -> sa.Select[Any]:
    return sa.select(_dead, _integration.c.plugin).join(_integration, _integration.c.id == _dead.c.integration_id)


def _split(row: sa.Row[Any]) -> tuple[DeadLetter, str]:
    values = dict(row._mapping)
    plugin = values.pop("plugin")
    return DeadLetter(**values), plugin


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
