"""Takes one page in: records, bindings, changes, outcomes, cursor and event in a single transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import RunHeldError
from samband.rules.brake import Brake
from samband.rules.intake import UNKNOWN_REFERENCE, Intake, Known
from samband.store.database import Database
from samband.store.decisions import hold
from samband.store.models import Binding, Change, Organization, Page, Record, Run, Stream, iso_ms
from samband.store.outbox import insert_event
from samband.store.page_sql import POSTGRES, SQLITE, PageStatements, Statement
from samband.store.runs import Lease, fenced, owned
from samband.store.weighing import TooMuchError, weigh

COUNTS = ("created", "updated", "unchanged", "deleted", "skipped", "failed")

_organization: sa.Table = Organization.__table__
_stream: sa.Table = Stream.__table__
_run: sa.Table = Run.__table__
_page: sa.Table = Page.__table__
_binding: sa.Table = Binding.__table__
_record: sa.Table = Record.__table__
_change: sa.Table = Change.__table__


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPosition:
    """Where the reading of a stream stands at the start of a run.

    Attributes:
        stream_id: The stream's number.
        kind: Canonical kind of its records.
        cursor: Where to go on; None reads everything.
        generation: Number of the present full read.
        reading_full: Whether what is not seen until the end is gone at the other side.
        is_done: Whether this run has read the stream to its end already.
        note: Something worth telling, such as that changed settings made the cursor worthless.
        apart: Whether the read is apart from the stream's cursor: ``cursor`` then is the run's own mark, and the stream's
            stays where it is.
    """

    stream_id: int
    name: str
    kind: str
    cursor: str | None
    generation: int
    reading_full: bool
    is_done: bool = False
    note: str | None = None
    apart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCommit:
    """What is to be committed for one page.

    Attributes:
        intake: What changes.
        cursor: Where reading can go on afterwards, or None.
        complete: Whether it is the last page of the read.
        advances: Whether a later start would go on behind this page. Only then has the run made progress: a page that
            would be read again must not set the count of fruitless starts back, or a poison page would be a loop.
        total: Records the whole read is expected to have.
    """

    intake: Intake
    cursor: str | None
    complete: bool
    advances: bool = True
    total: int | None = None


class PageWriter:
    """Reads what is known about a page's keys, and commits pages."""

    def __init__(self, database: Database, brake: Brake | None = None) -> None:
        self._db = database
        self._brake = brake or Brake()
        self._sql: PageStatements = SQLITE if database.is_sqlite else POSTGRES

    async def known(self, organization_id: str, position: StreamPosition, keys: Iterable[str]) -> dict[str, Known]:
        """Gives what we hold for each of ``keys``; a key we never saw is missing from the answer."""
        listed = list(keys)
        if not listed:
            return {}
        scope = {"stream": position.stream_id, "org": organization_id, "kind": position.kind}
        async with self._db.read() as conn:
            ((answer,),) = await _execute(conn, self._sql.known, {**scope, "keys": _json(listed)})
        return {row[0]: Known(*row[1:]) for row in orjson.loads(answer)}

    async def resolve(self, stream_id: int, keys: Sequence[str]) -> dict[str, int]:
        """Gives our record id for each of their keys that is held and not deleted."""
        if not keys:
            return {}
        async with self._db.read() as conn:
            given = {"keys": _json(list(keys)), "stream": stream_id}
            ((answer,),) = await _execute(conn, self._sql.resolve, given)
        return dict(orjson.loads(answer))

    async def commit(self, lease: Lease, position: StreamPosition, commit: PageCommit) -> dict[str, int]:
        """Writes everything the page changes in one transaction.

        Returns the page's counts, deletions found at the end of a full read included.

        Raises:
            StaleLeaseError: Another worker owns the run now; nothing was written.
            RunCancelledError: Somebody cancelled the run; nothing was written.
            RunHeldError: The page would take away more than the brake lets pass. Nothing of it was written, and the run
                is held until a person has decided.
        """
        try:
            async with self._db.write() as conn:
                return await self._commit(conn, lease, position, commit)
        except TooMuchError as stop:
            async with self._db.write() as conn:
                await hold(conn, lease, position.name, self._brake, stop.removal)
        raise RunHeldError("The run would remove too much; a person has to decide.")

    async def _commit(
        self, conn: AsyncConnection, lease: Lease, position: StreamPosition, commit: PageCommit
    ) -> dict[str, int]:
        now, intake = dt.datetime.now(dt.UTC), commit.intake
        number, progress = await self._add_to_run(conn, lease, commit)
        deactivated = await self._count_live(conn, lease, position, intake.ending)
        removed = {"deleted": len(intake.deleted), "deactivated": deactivated}
        await weigh(conn, self._brake, lease, position, number, **removed)
        counts = await self._write_page(conn, lease, position, intake, number, deactivated, now)
        if commit.complete:
            if position.reading_full:
                counts["deleted"] += await self._reconcile(conn, lease, position, number, removed, now)
            done = {**progress, position.name: "done"}
            await conn.execute(sa.update(_run).where(_run.c.id == lease.run_id).values(progress=done))
        elif position.apart and commit.cursor is not None:
            mark = {**progress, position.name: commit.cursor}
            await conn.execute(sa.update(_run).where(_run.c.id == lease.run_id).values(progress=mark))
        await self._move_cursor(conn, position, commit, counts, now)
        return counts

    # ── the steps, in the order of the transaction ───────────────────────────

    async def _add_to_run(self, conn: AsyncConnection, lease: Lease, commit: PageCommit) -> tuple[int, dict[str, str]]:
        # First of all, because it locks the run's row: a worker whose lease has gone learns it before it writes.
        values: dict[str, Any] = {name: _run.c[name] + n for name, n in commit.intake.counts().items() if n}
        values |= {"pages": _run.c.pages + 1, "attempt": 0 if commit.advances else _run.c.attempt}
        if commit.advances:
            values["progress_at"] = dt.datetime.now(dt.UTC)
        if commit.total is not None:
            values["expected_total"] = commit.total
        statement = fenced(sa.update(_run), lease).values(**values)
        told = (_run.c.pages, _run.c.progress, _run.c.cancel_requested_at)
        row = owned((await conn.execute(statement.returning(*told))).one_or_none())
        return row.pages, dict(row.progress)

    async def _count_live(
        self, conn: AsyncConnection, lease: Lease, position: StreamPosition, record_ids: Sequence[int]
    ) -> int:
        """Counts those of the records that are not ended yet."""
        if not record_ids:
            return 0
        given = {"rows": _json(record_ids), "org": lease.organization_id, "kind": position.kind}
        ((count,),) = await _execute(conn, self._sql.live, given)
        return int(count)

    async def _write_page(
        self, conn: AsyncConnection, lease: Lease, position: StreamPosition, intake: Intake, number: int,
        deactivated: int, now: dt.datetime,
    ) -> dict[str, int]:  # fmt: skip
        counts, changes = intake.counts(), intake.change_count
        new, changed = len(intake.created), len(intake.updated)
        first_id, first_seq, event_seq = await self._take_numbers(conn, lease, new, changes)
        figures = {**counts, "deactivated": deactivated}
        page_id = await self._insert_page(conn, lease, position, number, figures, first_seq, changes, now)
        scope = {
            "org": lease.organization_id, "kind": position.kind, "stream": position.stream_id, "page": page_id,
            "generation": position.generation, "now": iso_ms(now) if self._db.is_sqlite else now,
        }  # fmt: skip
        await self._write_created(conn, intake, {**scope, "first_id": first_id, "first_seq": first_seq})
        await self._write_updated(conn, intake, {**scope, "first_seq": first_seq + new})
        await self._write_deleted(conn, intake, {**scope, "first_seq": first_seq + new + changed})
        await self._write_marks(conn, intake, scope, is_full=position.reading_full)
        if changes:
            await self._announce(conn, lease, position, page_id, first_seq, event_seq, counts, now)
        return counts

    async def _take_numbers(
        self, conn: AsyncConnection, lease: Lease, records: int, changes: int
    ) -> tuple[int, int, int]:
        """Gives the first record id, the first change number and the number of the event that tells of them."""
        if not records and not changes:
            return 0, 0, 0
        taken = {
            "record_seq": _organization.c.record_seq + records,
            "change_seq": _organization.c.change_seq + changes,
            "event_seq": _organization.c.event_seq + 1,
        }
        statement = sa.update(_organization).where(_organization.c.id == lease.organization_id).values(**taken)
        row = (await conn.execute(statement.returning(*(_organization.c[name] for name in taken)))).one()
        return row.record_seq - records + 1, row.change_seq - changes + 1, row.event_seq

    async def _insert_page(
        self, conn: AsyncConnection, lease: Lease, position: StreamPosition, number: int,
        counts: Mapping[str, int], first_seq: int, changes: int, now: dt.datetime,
    ) -> int:  # fmt: skip
        page_id = await conn.scalar(
            sa.insert(_page)
            .values(
                run_id=lease.run_id, organization_id=lease.organization_id, stream_id=position.stream_id, number=number,
                first_seq=first_seq, change_count=changes, committed_at=now, **counts,
            )
            .returning(_page.c.id)
        )  # fmt: skip
        return int(page_id)

    async def _write_created(self, conn: AsyncConnection, intake: Intake, scope: dict[str, Any]) -> None:
        if not intake.created:
            return
        given = {
            **scope,
            "rows": _json([c[:3] for c in intake.created]),
            "bodies": _json_of_bodies([c.body for c in intake.created]),
        }
        intake.created = []  # their texts are in the two above; a page's values are not kept twice
        for statement in (self._sql.created_records, self._sql.created_bindings, self._sql.created_changes):
            await _execute(conn, statement, given)

    async def _write_updated(self, conn: AsyncConnection, intake: Intake, scope: dict[str, Any]) -> None:
        if not intake.updated:
            return
        given = {
            **scope,
            "rows": _json([u[:6] for u in intake.updated]),
            "bodies": _json_of_bodies([f"[{u.record_id},{u.version},{u.body}]" for u in intake.updated]),
        }
        for statement in (self._sql.updated_records, self._sql.updated_bindings, self._sql.updated_changes):
            await _execute(conn, statement, given)

    async def _write_deleted(self, conn: AsyncConnection, intake: Intake, scope: dict[str, Any]) -> None:
        if not intake.deleted:
            return
        given = {**scope, "rows": _json([tuple(d) for d in intake.deleted])}
        for statement in (self._sql.deleted_records, self._sql.deleted_bindings, self._sql.deleted_changes):
            await _execute(conn, statement, given)

    async def _write_marks(
        self, conn: AsyncConnection, intake: Intake, scope: dict[str, Any], *, is_full: bool
    ) -> None:
        if intake.retagged:
            await _execute(conn, self._sql.retagged, {**scope, "rows": _json(intake.retagged)})
        # Only a full read asks at its end what was not seen, so only then is it worth marking what was.
        seen = [*intake.unchanged, *intake.held_failures] if is_full else []
        if seen:
            await _execute(conn, self._sql.seen, {**scope, "keys": _json(seen)})
        if intake.failures:
            await _execute(conn, self._sql.outcomes, {**scope, "rows": _json([tuple(f) for f in intake.failures])})

    async def _reconcile(
        self, conn: AsyncConnection, lease: Lease, position: StreamPosition, number: int, removed: Mapping[str, int],
        now: dt.datetime,
    ) -> int:  # fmt: skip
        """Deletes what a finished full read did not see, as a page of its own behind page ``number``; gives how many.

        Args:
            removed: What that page removes by itself.
        """
        gone = sa.and_(
            _binding.c.stream_id == position.stream_id,
            _binding.c.generation < position.generation,
            _binding.c.hash.is_not(None),
        )
        count = int(await conn.scalar(sa.select(sa.func.count()).select_from(_binding).where(gone)) or 0)
        if not count:
            return 0
        deleted, deactivated = removed["deleted"] + count, removed["deactivated"]
        await weigh(conn, self._brake, lease, position, number, deleted=deleted, deactivated=deactivated)
        number += 1
        totals = {"pages": number, "deleted": _run.c.deleted + count}
        await conn.execute(sa.update(_run).where(_run.c.id == lease.run_id).values(**totals))
        counts = {**dict.fromkeys(COUNTS, 0), "deleted": count}
        _, first_seq, event_seq = await self._take_numbers(conn, lease, 0, count)
        page_id = await self._insert_page(conn, lease, position, number, counts, first_seq, count, now)
        owned = sa.and_(
            _record.c.organization_id == lease.organization_id,
            _record.c.kind == position.kind,
            _record.c.id.in_(sa.select(_binding.c.record_id).where(gone)),
        )
        order = sa.func.row_number().over(order_by=_record.c.id)
        await conn.execute(
            sa.insert(_change).from_select(
                ["organization_id", "seq", "kind", "record_id", "op", "version", "page_id"],
                sa.select(
                    _record.c.organization_id, sa.literal(first_seq - 1, sa.BigInteger) + order, _record.c.kind,
                    _record.c.id, sa.literal("deleted", sa.Text), _record.c.version + 1,
                    sa.literal(page_id, sa.BigInteger),
                ).where(owned),
            )
        )  # fmt: skip
        await conn.execute(
            sa.update(_record).where(owned).values(
                version=_record.c.version + 1, deleted=True, body={}, updated_at=now
            )
        )  # fmt: skip
        await conn.execute(sa.update(_binding).where(gone).values(tag=None, hash=None, generation=position.generation))
        await self._announce(conn, lease, position, page_id, first_seq, event_seq, counts, now)
        return count

    async def _move_cursor(
        self, conn: AsyncConnection, position: StreamPosition, commit: PageCommit, counts: Mapping[str, int],
        now: dt.datetime,
    ) -> None:  # fmt: skip
        gained = counts["created"] - counts["deleted"]
        values: dict[str, Any] = {"held": _stream.c.held + gained} if gained else {}
        if any(f.code == UNKNOWN_REFERENCE for f in commit.intake.failures):
            now_at = (
                sa.select(_organization.c.change_seq)
                .where(_organization.c.id == _stream.c.organization_id)
                .scalar_subquery()
            )
            # A read apart has not looked whether what was missed earlier has come, so it must not make that forgotten.
            values["unresolved_since"] = (
                sa.func.coalesce(_stream.c.unresolved_since, now_at) if position.apart else now_at
            )
        # A page without a cursor is stored all the same; after a crash the read resumes at the last one that had it.
        if not position.apart and (commit.cursor is not None or commit.complete):
            values["cursor"] = commit.cursor
        if not position.apart and commit.complete:
            values |= {"reading_full": False, "last_read_at": now}
        if values:
            await conn.execute(sa.update(_stream).where(_stream.c.id == position.stream_id).values(**values))

    async def _announce(
        self, conn: AsyncConnection, lease: Lease, position: StreamPosition, page_id: int, first_seq: int,
        event_seq: int, counts: Mapping[str, int], now: dt.datetime,
    ) -> None:  # fmt: skip
        changed = counts["created"] + counts["updated"] + counts["deleted"]
        data = {
            "run": lease.run_id, "stream": position.name, "kind": position.kind, "page": page_id,
            "first_seq": first_seq, "last_seq": first_seq + changed - 1,
            "created": counts["created"], "updated": counts["updated"], "deleted": counts["deleted"],
        }  # fmt: skip
        subject = f"integration/{lease.integration_id}"
        await insert_event(conn, lease.organization_id, event_seq, "no.samband.records.changed.v1", subject, data, now)


async def _execute(conn: AsyncConnection, statement: Statement, given: Mapping[str, Any]) -> Sequence[Any]:
    """Runs one statement and gives its rows.

    On SQLite through the driver's own call, which crosses to the database's thread once; SQLAlchemy's way crosses three
    times, and beside a lane that converts a page each crossing waits for the interpreter lock.
    """
    parameters = {name: given[name] for name in statement.names}
    if conn.dialect.name != "sqlite":
        result = await conn.execute(statement.clause, parameters)
        return result.all() if result.returns_rows else ()
    driver = (await conn.get_raw_connection()).driver_connection
    assert driver is not None
    return list(await driver.execute_fetchall(statement.clause.text, parameters))


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _json_of_bodies(bodies: Sequence[str]) -> str:
    return f"[{','.join(bodies)}]"
