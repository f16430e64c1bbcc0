"""Streams: where each one's reading stands, and when it has to begin again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.store.database import Database
from samband.store.models import Change, Run, Stream
from samband.store.page_writer import StreamPosition
from samband.store.runs import Lease, fenced, owned

_stream: sa.Table = Stream.__table__
_change: sa.Table = Change.__table__
_run: sa.Table = Run.__table__


class Streams:
    """Every statement about where a stream's reading stands."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def begin(
        self, lease: Lease, *, name: str, kind: str, digest: str, incremental: bool,
        reference_kinds: Sequence[str] = (),
    ) -> StreamPosition:  # fmt: skip
        """Gives where to go on with a stream, and starts a new full read where one is due.

        A full read is due when there is no cursor, when the run orders one, and when settings or versions are no longer
        those the cursor was made with. So it is when records of the stream pointed to something unknown and things of
        ``reference_kinds`` have been created since: those records have not changed and would not come again by
        themselves. Called again by a run that resumes, it goes on where the run was.
        """
        async with self._db.write() as conn:
            progress = await self._progress(conn, lease)
            row = await self._row(conn, lease, name, kind)
            started = progress.get(name)
            note = None
            if started == "done":
                return _position(row, is_done=True)
            is_changed = row.digest not in ("", digest)
            if is_changed:
                note = f"{name}: settings or versions have changed, so everything is read again."
            anew = row.cursor is None and not (row.reading_full and started)
            is_resolvable = not started and await self._is_resolvable(conn, row, reference_kinds)
            if is_resolvable and not is_changed:
                note = f"{name}: what some records point to has arrived, so everything is read again."
            if is_changed or anew or is_resolvable or (not started and (lease.full or not incremental)):
                row = await self._restart(conn, row.id, digest)
            await conn.execute(fenced(sa.update(_run), lease).values(progress={**progress, name: "reading"}))
            return _position(row, note=note)

    async def restart(self, lease: Lease, position: StreamPosition, digest: str) -> StreamPosition:
        """Throws the cursor away and begins a full read: the other side no longer accepts it."""
        async with self._db.write() as conn:
            await self._progress(conn, lease)
            return _position(await self._restart(conn, position.stream_id, digest))

    async def aside(self, lease: Lease, *, name: str, kind: str) -> StreamPosition:
        """Gives where a read of chosen records stands: apart from the stream's cursor, generation and full read.

        Its cursor is the mark that the run itself keeps; a run that resumes goes on behind it.
        """
        async with self._db.write() as conn:
            progress = await self._progress(conn, lease)
            row = await self._row(conn, lease, name, kind)
        mark = progress.get(name)
        return StreamPosition(
            stream_id=row.id, name=row.name, kind=row.kind, cursor=mark, generation=row.generation, reading_full=False,
            is_done=mark == "done", apart=True,
        )  # fmt: skip

    async def peek(
        self, lease: Lease, *, name: str, kind: str, digest: str, incremental: bool, reference_kinds: Sequence[str] = (),
        has_arrived: bool = False, apart: bool = False,
    ) -> StreamPosition:  # fmt: skip
        """Gives where `begin` would start, or `aside`, without writing anything: for a dry run.

        Args:
            has_arrived: Whether something of ``reference_kinds`` would be there by then that is not there yet.
            apart: As `aside`.
        """
        where = sa.and_(_stream.c.integration_id == lease.integration_id, _stream.c.name == name)
        async with self._db.read() as conn:
            row = (await conn.execute(sa.select(_stream).where(where))).one_or_none()
            if row is None:
                return StreamPosition(
                    stream_id=0, name=name, kind=kind, cursor=None, generation=1, reading_full=not apart, apart=apart
                )
            if apart:
                return replace(_position(row), cursor=None, reading_full=False, apart=True)
            waited = row.unresolved_since is not None and has_arrived
            is_due = waited or await self._is_resolvable(conn, row, reference_kinds)
        is_changed = row.digest not in ("", digest)
        if is_due or is_changed or row.cursor is None or lease.full or not incremental:
            return replace(_position(row), cursor=None, reading_full=True, generation=row.generation + 1)
        return _position(row)

    async def ids(self, integration_id: str) -> dict[str, int]:
        """Gives the number of every stream that was ever begun, by name."""
        async with self._db.read() as conn:
            rows = await conn.execute(
                sa.select(_stream.c.name, _stream.c.id).where(_stream.c.integration_id == integration_id)
            )
            return {row.name: row.id for row in rows}

    async def _progress(self, conn: AsyncConnection, lease: Lease) -> dict[str, str]:
        told = fenced(sa.update(_run), lease).values(fence=_run.c.fence)
        answer = await conn.execute(told.returning(_run.c.progress, _run.c.cancel_requested_at))
        return dict(owned(answer.one_or_none()).progress)

    async def _row(self, conn: AsyncConnection, lease: Lease, name: str, kind: str) -> sa.Row[Any]:
        where = sa.and_(_stream.c.integration_id == lease.integration_id, _stream.c.name == name)
        row = (await conn.execute(sa.select(_stream).where(where))).one_or_none()
        if row is not None:
            return row
        await conn.execute(
            sa.insert(_stream).values(
                integration_id=lease.integration_id, organization_id=lease.organization_id, name=name, kind=kind,
                cursor=None, generation=0, reading_full=False, digest="", held=0,
            )
        )  # fmt: skip
        return (await conn.execute(sa.select(_stream).where(where))).one()

    async def _is_resolvable(self, conn: AsyncConnection, row: sa.Row[Any], reference_kinds: Sequence[str]) -> bool:
        if row.unresolved_since is None or not reference_kinds:
            return False
        created_since = sa.select(_change.c.seq).where(
            _change.c.organization_id == row.organization_id,
            _change.c.seq > row.unresolved_since,
            _change.c.op == "created",
            _change.c.kind.in_(reference_kinds),
        )
        return await conn.scalar(created_since.limit(1)) is not None

    async def _restart(self, conn: AsyncConnection, stream_id: int, digest: str) -> sa.Row[Any]:
        statement = (
            sa.update(_stream)
            .where(_stream.c.id == stream_id)
            .values(
                cursor=None,
                generation=_stream.c.generation + 1,
                reading_full=True,
                digest=digest,
                unresolved_since=None,
            )
            .returning(_stream)
        )
        row: sa.Row[Any] = (await conn.execute(statement)).one()
        return row


def _position(row: sa.Row[Any], *, is_done: bool = False, note: str | None = None) -> StreamPosition:
    return StreamPosition(
        stream_id=row.id, name=row.name, kind=row.kind, cursor=row.cursor, generation=row.generation,
        reading_full=row.reading_full, is_done=is_done, note=note,
    )  # fmt: skip
