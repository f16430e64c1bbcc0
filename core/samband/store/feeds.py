"""Everything that is read page by page: runs, outcomes, records, changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from samband.errors import NotFoundError
from samband.store.database import Database
from samband.store.models import Binding, Change, Integration, Outcome, Page, Record, Run, Stream

_run: sa.Table = Run.__table__
_page: sa.Table = Page.__table__
_change: sa.Table = Change.__table__
_outcome: sa.Table = Outcome.__table__
_record: sa.Table = Record.__table__
_binding: sa.Table = Binding.__table__
_stream: sa.Table = Stream.__table__
_integration: sa.Table = Integration.__table__

# An outcome's position is its page's number times this, plus its place in the page: changes first, then the others.
PAGE_STRIDE = 100_000_000
OTHERS_OFFSET = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    position: int
    stream: str
    key: str
    outcome: str
    record_id: int | None = None
    version: int | None = None
    code: str | None = None
    field: str | None = None
    message: str | None = None


class Feeds:
    """Every listing; each takes the organisation first and never leaves it."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # ── runs ─────────────────────────────────────────────────────────────────

    async def run(self, organization_id: str, run_id: str) -> Run:
        """Gives one run, or raises `NotFoundError`."""
        where = sa.and_(_run.c.id == run_id, _run.c.organization_id == organization_id)
        async with self._db.read() as conn:
            row = (await conn.execute(sa.select(_run).where(where))).one_or_none()
        if row is None:
            raise NotFoundError("There is no such run.", code="run_not_found")
        return Run(**row._mapping)

    async def runs(
        self, organization_id: str, *, plugin: str | None, state: str | None, before: str | None, limit: int
    ) -> list[Run]:
        """Gives runs, newest first, those after ``before`` in that order."""
        query = sa.select(_run).where(_run.c.organization_id == organization_id)
        if plugin is not None:
            query = query.where(_run.c.plugin == plugin)
        if state is not None:
            query = query.where(_run.c.state == state)
        if before is not None:
            query = query.where(_run.c.id < before)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_run.c.id.desc()).limit(limit))
            return [Run(**row._mapping) for row in rows]

    async def last_runs(self, integration_id: str) -> tuple[Run | None, Run | None]:
        """Gives the newest run and the newest one that went well; of syncs, and a backfill is not the latter."""
        mine = sa.select(_run).where(_run.c.integration_id == integration_id, _run.c.operation == "sync")
        mine = mine.order_by(_run.c.id.desc()).limit(1)
        async with self._db.read() as conn:
            last = (await conn.execute(mine)).one_or_none()
            good = (
                await conn.execute(mine.where(_run.c.state.in_(("succeeded", "partial")), _run.c.selection.is_(None)))
            ).one_or_none()
        return (None if last is None else Run(**last._mapping)), (None if good is None else Run(**good._mapping))

    async def cursors_present(self, integration_id: str) -> dict[str, bool]:
        async with self._db.read() as conn:
            rows = await conn.execute(
                sa.select(_stream.c.name, _stream.c.cursor.is_not(None).label("has")).where(
                    _stream.c.integration_id == integration_id
                )
            )
            return {row.name: bool(row.has) for row in rows}

    async def streams(self, integration_id: str) -> list[Stream]:
        """Gives every stream that was begun, in that order."""
        query = sa.select(_stream).where(_stream.c.integration_id == integration_id).order_by(_stream.c.id)
        async with self._db.read() as conn:
            return [Stream(**row._mapping) for row in await conn.execute(query)]

    async def outcomes(self, run: Run, *, outcome: str | None, after: int, limit: int) -> tuple[list[OutcomeRow], bool]:
        """Gives the records of a run that changed, were skipped or failed, and whether there are more."""
        found: list[OutcomeRow] = []
        readers = {
            None: (self._changed, self._others),
            "skipped": (self._others,),
            "failed": (self._others,),
        }.get(outcome, (self._changed,))
        async with self._db.read() as conn:
            pages = await conn.execute(
                sa.select(_page, _stream.c.name.label("stream"))
                .join(_stream, _stream.c.id == _page.c.stream_id)
                .where(_page.c.run_id == run.id, _page.c.number >= after // PAGE_STRIDE)
                .order_by(_page.c.number)
            )
            for page in pages.all():
                base = page.number * PAGE_STRIDE
                for reader in readers:
                    if len(found) <= limit:
                        found += await reader(conn, page, base, outcome, after, limit + 1 - len(found))
                if len(found) > limit:
                    break
        return found[:limit], len(found) > limit

    async def _changed(
        self, conn: Any, page: Any, base: int, outcome: str | None, after: int, limit: int
    ) -> list[OutcomeRow]:
        position = base + (_change.c.seq - page.first_seq + 1)
        query = (
            sa.select(position.label("position"), _change, _binding.c.key)
            .outerjoin(
                _binding,
                sa.and_(
                    _binding.c.organization_id == _change.c.organization_id,
                    _binding.c.record_id == _change.c.record_id,
                    _binding.c.stream_id == page.stream_id,
                ),
            )
            .where(
                _change.c.organization_id == page.organization_id,
                _change.c.seq >= max(page.first_seq, page.first_seq + after - base),
                _change.c.seq < page.first_seq + page.change_count,
            )
        )
        if outcome is not None:
            query = query.where(_change.c.op == outcome)
        rows = await conn.execute(query.order_by(_change.c.seq).limit(limit))
        return [
            OutcomeRow(
                position=r.position, stream=page.stream, key=r.key or "", outcome=r.op, record_id=r.record_id,
                version=r.version,
            )
            for r in rows
        ]  # fmt: skip

    async def _others(
        self, conn: Any, page: Any, base: int, outcome: str | None, after: int, limit: int
    ) -> list[OutcomeRow]:
        start = base + OTHERS_OFFSET
        query = sa.select(_outcome).where(_outcome.c.page_id == page.id, _outcome.c.position > after - start)
        if outcome is not None:
            query = query.where(_outcome.c.outcome == outcome)
        rows = await conn.execute(query.order_by(_outcome.c.position).limit(limit))
        return [
            OutcomeRow(
                position=start + r.position, stream=page.stream, key=r.key, outcome=r.outcome, code=r.code,
                field=r.field, message=r.message,
            )
            for r in rows
        ]  # fmt: skip

    # ── records and changes ──────────────────────────────────────────────────

    async def records(
        self, organization_id: str, kind: str, *, after: int, limit: int, include_deleted: bool
    ) -> list[Record]:
        query = sa.select(_record).where(
            _record.c.organization_id == organization_id, _record.c.kind == kind, _record.c.id > after
        )
        if not include_deleted:
            query = query.where(_record.c.deleted.is_(False))
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_record.c.id).limit(limit))
            return [Record(**row._mapping) for row in rows]

    async def record(self, organization_id: str, kind: str, record_id: int) -> Record:
        """Gives one record, or raises `NotFoundError`."""
        where = sa.and_(_record.c.organization_id == organization_id, _record.c.kind == kind, _record.c.id == record_id)
        async with self._db.read() as conn:
            row = (await conn.execute(sa.select(_record).where(where))).one_or_none()
        if row is None:
            raise NotFoundError("There is no such record.", code="record_not_found")
        return Record(**row._mapping)

    async def bindings(self, organization_id: str, record_ids: Sequence[int]) -> dict[int, list[dict[str, str]]]:
        """Gives where records come from: record id → integration type, stream and their key."""
        query = (
            sa.select(_binding.c.record_id, _binding.c.key, _stream.c.name, _integration.c.plugin)
            .join(_stream, _stream.c.id == _binding.c.stream_id)
            .join(_integration, _integration.c.id == _stream.c.integration_id)
            .where(_binding.c.organization_id == organization_id, _binding.c.record_id.in_(record_ids))
        )
        found: dict[int, list[dict[str, str]]] = {}
        async with self._db.read() as conn:
            for row in await conn.execute(query):
                entry = {"integration": row.plugin, "stream": row.name, "key": row.key}
                found.setdefault(row.record_id, []).append(entry)
        return found

    async def changes(self, organization_id: str, *, after: int, limit: int, kind: str | None) -> list[Any]:
        """Gives changes in order, with their time and run."""
        query = (
            sa.select(_change, _page.c.committed_at, _page.c.run_id)
            .join(_page, _page.c.id == _change.c.page_id)
            .where(_change.c.organization_id == organization_id, _change.c.seq > after)
        )
        if kind is not None:
            query = query.where(_change.c.kind == kind)
        async with self._db.read() as conn:
            return list((await conn.execute(query.order_by(_change.c.seq).limit(limit))).all())

    # ── counts ───────────────────────────────────────────────────────────────

    async def run_states(self) -> dict[str, int]:
        """Counts the live runs by state, for the metrics."""
        live = ("queued", "running", "waiting", "held")
        query = sa.select(_run.c.state, sa.func.count()).where(_run.c.state.in_(live)).group_by(_run.c.state)
        async with self._db.read() as conn:
            found: dict[str, int] = dict((await conn.execute(query)).tuples().all())
        return {state: found.get(state, 0) for state in live}
