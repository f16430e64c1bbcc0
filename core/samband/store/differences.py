"""What dry runs found out. The only thing a dry run writes, and thrown away after a day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import NotFoundError
from samband.rules.brake import Brake
from samband.rules.difference import put_together
from samband.store.database import Database
from samband.store.models import Binding, Difference, Record, Run
from samband.store.page_writer import COUNTS, StreamPosition
from samband.store.runs import DRY_RUN, Lease, fenced, owned

__all__ = ["KEPT_FOR", "Differences", "Found"]

KEPT_FOR = dt.timedelta(hours=24)
_DISCARDED = {"*": "discarded"}
_AT_ONCE = 2_000
_SWEPT_AT_ONCE = 100

_difference: sa.Table = Difference.__table__
_run: sa.Table = Run.__table__
_record: sa.Table = Record.__table__
_binding: sa.Table = Binding.__table__


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What would become of one record.

    Attributes:
        op: ``created``, ``updated``, ``deleted``, ``skipped`` or ``failed``.
        record_id: Ours; None for a record that is not held yet.
        before: The fields that differ, as they are held.
        after: The same, as they would become.
        code: Why it would be skipped or would fail, with the field and the sentence.
    """

    stream: str
    key: str
    op: str
    record_id: int | None = None
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    code: str | None = None
    field: str | None = None
    message: str | None = None


class Differences:
    """Every statement about what dry runs found out.

    Attributes:
        brake: What would hold a sync.
    """

    def __init__(self, database: Database, brake: Brake | None = None) -> None:
        self._db = database
        self.brake = brake or Brake()

    # ── the worker's side ────────────────────────────────────────────────────

    async def begin(self, lease: Lease) -> None:
        """Clears what an earlier start of the run left, and what the integration's earlier dry runs found."""
        zero = dict.fromkeys(COUNTS, 0)
        earlier = sa.select(_run.c.id).where(
            _run.c.integration_id == lease.integration_id, _run.c.operation == DRY_RUN, _run.c.id != lease.run_id,
            _run.c.finished_at.is_not(None),
        )  # fmt: skip
        async with self._db.write() as conn:
            await self._hold(conn, lease, pages=0, **zero)
            await conn.execute(sa.delete(_difference).where(_difference.c.run_id == lease.run_id))
            await self._discard(conn, list((await conn.scalars(earlier)).all()))

    async def add(self, lease: Lease, first: int, found: Sequence[Found], counts: Mapping[str, int]) -> None:
        """Adds what one page would change, from position ``first`` on, and counts it on the run.

        Raises:
            StaleLeaseError: Another worker owns the run now; nothing was written.
            RunCancelledError: Somebody cancelled it; nothing was written.
        """
        more = {name: _run.c[name] + count for name, count in counts.items() if count}
        rows = [
            {"run_id": lease.run_id, "organization_id": lease.organization_id, "position": position, **asdict(one)}
            for position, one in enumerate(found, first)
        ]
        async with self._db.write() as conn:
            await self._hold(conn, lease, pages=_run.c.pages + 1, progress_at=dt.datetime.now(dt.UTC), **more)
            for start in range(0, len(rows), _AT_ONCE):
                await conn.execute(sa.insert(_difference), rows[start : start + _AT_ONCE])

    async def _hold(self, conn: AsyncConnection, lease: Lease, **values: Any) -> None:
        statement = fenced(sa.update(_run), lease).values(**values).returning(_run.c.cancel_requested_at)
        owned((await conn.execute(statement)).one_or_none())

    async def bodies(self, organization_id: str, kind: str, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Gives records as they are held, by id."""
        found: dict[int, dict[str, Any]] = {}
        async with self._db.read() as conn:
            for start in range(0, len(ids), _AT_ONCE):
                query = sa.select(_record.c.id, _record.c.body).where(
                    _record.c.organization_id == organization_id, _record.c.kind == kind,
                    _record.c.id.in_(ids[start : start + _AT_ONCE]),
                )  # fmt: skip
                found |= {row.id: row.body for row in await conn.execute(query)}
        return found

    async def after(self, lease: Lease, stream: str, bodies: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Gives records as this dry run would have left them by now.

        Args:
            bodies: Their keys, with what is held now.
        """
        query = sa.select(_difference).where(
            _difference.c.run_id == lease.run_id, _difference.c.stream == stream,
            _difference.c.op.in_(("created", "updated", "deleted")),
        ).order_by(_difference.c.position)  # fmt: skip
        become, keys = dict(bodies), list(bodies)
        async with self._db.read() as conn:
            for start in range(0, len(keys), _AT_ONCE):
                part = query.where(_difference.c.key.in_(keys[start : start + _AT_ONCE]))
                for row in await conn.execute(part):
                    become[row.key] = put_together(become[row.key], row.before, row.after)
        return become

    async def gone(self, position: StreamPosition, seen: Collection[str]) -> list[tuple[str, int]]:
        """Gives key and record id of what is held and was not among ``seen``: what the end of a full read would delete."""
        found: list[tuple[str, int]] = []
        last = ""
        async with self._db.read() as conn:
            while True:
                query = sa.select(_binding.c.key, _binding.c.record_id).where(
                    _binding.c.stream_id == position.stream_id, _binding.c.key > last,
                    _binding.c.generation < position.generation, _binding.c.hash.is_not(None),
                )  # fmt: skip
                rows = (await conn.execute(query.order_by(_binding.c.key).limit(_AT_ONCE))).all()
                found += [(row.key, row.record_id) for row in rows if row.key not in seen]
                if len(rows) < _AT_ONCE:
                    return found
                last = rows[-1].key

    # ── the reader's side ────────────────────────────────────────────────────

    async def page(self, run: Run, *, op: str | None, after: int, limit: int) -> list[Any]:
        """Gives what a dry run found, in the order it was found.

        Raises:
            NotFoundError: It was thrown away.
        """
        if run.progress == _DISCARDED:
            raise NotFoundError(
                "What this dry run found was thrown away.", code="differences_gone",
                hint="It is kept for 24 hours, and until the integration's next dry run. Order a new one.",
            )  # fmt: skip
        query = sa.select(_difference).where(_difference.c.run_id == run.id, _difference.c.position > after)
        if op is not None:
            query = query.where(_difference.c.op == op)
        async with self._db.read() as conn:
            return list((await conn.execute(query.order_by(_difference.c.position).limit(limit))).all())

    async def sweep(self, kept_for: dt.timedelta = KEPT_FOR) -> int:
        """Throws away what is older than that; gives of how many runs."""
        old = sa.select(_run.c.id).where(
            _run.c.operation == DRY_RUN,
            _run.c.finished_at < dt.datetime.now(dt.UTC) - kept_for,
            sa.exists().where(_difference.c.run_id == _run.c.id),
        )
        async with self._db.write() as conn:
            runs = list((await conn.scalars(old.limit(_SWEPT_AT_ONCE))).all())
            await self._discard(conn, runs)
        return len(runs)

    async def _discard(self, conn: AsyncConnection, runs: Sequence[str]) -> None:
        if runs:
            await conn.execute(sa.delete(_difference).where(_difference.c.run_id.in_(runs)))
            await conn.execute(sa.update(_run).where(_run.c.id.in_(runs)).values(progress=_DISCARDED))
