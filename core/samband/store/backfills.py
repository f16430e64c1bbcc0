"""Orders to read chosen records again, and which records of a run failed and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from samband.errors import AlreadyRunningError, ConflictError
from samband.store import audit
from samband.store.database import Database
from samband.store.models import Difference, Integration, Outcome, Page, Run, Stream
from samband.store.runs import DRY_RUN, Runs

__all__ = ["SAMPLE", "Backfills", "Cause", "Failed"]

SAMPLE = 5
"""Keys shown with each cause."""

_run: sa.Table = Run.__table__
_outcome: sa.Table = Outcome.__table__
_page: sa.Table = Page.__table__
_stream: sa.Table = Stream.__table__
_difference: sa.Table = Difference.__table__


@dataclass(frozen=True, slots=True)
class Failed:
    """Which records of a run failed: by stream their keys, each once, and how many came without a usable one."""

    keys: dict[str, list[str]]
    without_key: int

    @property
    def count(self) -> int:
        return sum(map(len, self.keys.values()))


@dataclass(frozen=True, slots=True)
class Cause:
    """Failed records of one run that have one cause: how many, and some of their keys."""

    stream: str
    code: str
    field: str | None
    message: str
    count: int
    keys: list[str]


class Backfills:
    """Every statement about chosen records."""

    def __init__(self, database: Database, runs: Runs) -> None:
        self._db = database
        self._runs = runs

    async def order(
        self, integration: Integration, *, deed: str, detail: Mapping[str, Any], operation: str, plugin_version: str,
        streams: Sequence[str], selection: Mapping[str, Any], full: bool, reason: str, requested_by: str,
        retry_of: str | None = None,
    ) -> Run:  # fmt: skip
        """Writes a new run and who ordered it, in one transaction.

        Args:
            deed: What the audit trail calls it, for instance ``backfill.ordered``; ``detail`` goes with it.

        Raises:
            AlreadyRunningError: The integration has a live run of this operation; it names that run.
        """
        async with self._db.write() as conn:
            run = await self._runs.order_in(
                conn, organization_id=integration.organization_id, integration_id=integration.id,
                plugin=integration.plugin, plugin_version=plugin_version, operation=operation, streams=streams,
                full=full, reason=reason, requested_by=requested_by, selection=dict(selection),
            )  # fmt: skip
            if run is not None:
                if retry_of is not None:
                    # Not with the order: that would close the dead letter of a run of which this does only a part.
                    await conn.execute(sa.update(_run).where(_run.c.id == run.id).values(retry_of=retry_of))
                    run.retry_of = retry_of
                told = {"run": run.id, "streams": list(streams), **detail}
                await audit.record(conn, run.organization_id, deed, f"integration/{integration.id}", told)
                return run
        live = await self._runs.live(integration.id, operation)
        if live is None:  # it ended between the two looks
            raise ConflictError("Another run has just ended.", code="already_running", hint="Send the request again.")
        raise AlreadyRunningError(run_id=live.id)

    async def failed(self, run: Run, limit: int) -> Failed:
        """Gives the keys of a run's failed records, and how many have none; at most ``limit`` and one keys."""
        # What came without a usable id stands under its place in the page (see `samband.rules.intake`).
        is_keyless = sa.and_(
            _outcome.c.code.in_(("missing_key", "bad_key")), _outcome.c.key.startswith("#", autoescape=True)
        )
        mine = sa.and_(_page.c.run_id == run.id, _outcome.c.outcome == "failed")
        joined = _outcome.join(_page, _page.c.id == _outcome.c.page_id).join(_stream, _stream.c.id == _page.c.stream_id)
        keyed = (
            sa.select(_stream.c.name, _outcome.c.key).select_from(joined).where(mine, sa.not_(is_keyless))
            .group_by(_stream.c.name, _outcome.c.key)
            .order_by(sa.func.min(_page.c.number), sa.func.min(_outcome.c.position))
        )  # fmt: skip
        found: dict[str, list[str]] = {}
        async with self._db.read() as conn:
            for row in await conn.execute(keyed.limit(limit + 1)):
                found.setdefault(row.name, []).append(row.key)
            without = await conn.scalar(sa.select(sa.func.count()).select_from(joined).where(mine, is_keyless))
        return Failed(found, int(without or 0))

    async def causes(self, run: Run, limit: int) -> list[Cause]:
        """Gives a run's failures by cause, the most frequent first."""
        failures = self._of_dry_run(run) if run.operation == DRY_RUN else self._of_sync(run)
        cause = (failures.c.stream, failures.c.code, failures.c.field)
        numbered = sa.select(
            failures,
            sa.func.row_number().over(partition_by=cause, order_by=(failures.c.page, failures.c.position)).label("number"),
            sa.func.count().over(partition_by=cause).label("total"),
        ).subquery()  # fmt: skip
        first = sa.select(numbered).where(numbered.c.number <= SAMPLE)
        order = (numbered.c.total.desc(), numbered.c.stream, numbered.c.code, numbered.c.field, numbered.c.number)
        causes: dict[tuple[str, str, str | None], Cause] = {}
        async with self._db.read() as conn:
            for row in await conn.execute(first.order_by(*order).limit(limit * SAMPLE)):
                told = causes.setdefault(
                    (row.stream, row.code, row.field),
                    Cause(row.stream, row.code, row.field, row.message, row.total, []),
                )
                told.keys.append(row.key)
        return list(causes.values())[:limit]

    def _of_sync(self, run: Run) -> sa.Subquery:
        joined = _outcome.join(_page, _page.c.id == _outcome.c.page_id).join(_stream, _stream.c.id == _page.c.stream_id)
        return (
            sa.select(
                _stream.c.name.label("stream"), _outcome.c.code, _outcome.c.field, _outcome.c.message, _outcome.c.key,
                _page.c.number.label("page"), _outcome.c.position,
            )
            .select_from(joined).where(_page.c.run_id == run.id, _outcome.c.outcome == "failed")
            .subquery()
        )  # fmt: skip

    def _of_dry_run(self, run: Run) -> sa.Subquery:
        return (
            sa.select(
                _difference.c.stream, _difference.c.code, _difference.c.field, _difference.c.message,
                _difference.c.key, sa.literal(0).label("page"), _difference.c.position,
            )
            .where(_difference.c.run_id == run.id, _difference.c.op == "failed")
            .subquery()
        )  # fmt: skip
