"""Firing schedules: what is due, and the one transaction in which a planned time becomes an occurrence and a run.

The row of an occurrence is the firing. Whoever inserts it orders the run in the same transaction; whoever comes second
inserts nothing and orders nothing. On PostgreSQL several hosts share what is due by locking what they take.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.store import audit
from samband.store.database import Database
from samband.store.ids import new_id
from samband.store.lookout import Key, Watched
from samband.store.models import LIVE, Credential, Integration, Occurrence, Run, Schedule, UtcInstant, iso_ms
from samband.store.outbox import emit
from samband.store.runs import Runs, tell
from samband.store.schedules import IS_WAITING

_schedule: sa.Table = Schedule.__table__
_occurrence: sa.Table = Occurrence.__table__
_integration: sa.Table = Integration.__table__
_credential: sa.Table = Credential.__table__
_run: sa.Table = Run.__table__

CATCH_UP = "catch_up"
"""The reason of a waiting occurrence that a newer one does not supersede."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to become of a schedule's planned times.

    Attributes:
        schedule: As it was read; nothing happens when it has changed since.
        fire: Planned times that are to become runs, in order.
        missed: Planned times that are not.
        has_unlisted: More were missed than are listed.
        refusal: Why no run can be ordered, as a code; empty when one can.
        trouble: The same for people.
        next_planned_at: And ``next_at``, with the jitter.
    """

    schedule: Schedule
    plugin: str
    plugin_version: str
    streams: Sequence[str]
    account: str
    fire: Sequence[dt.datetime]
    missed: Sequence[dt.datetime] = ()
    has_unlisted: bool = False
    refusal: str = ""
    trouble: str = ""
    next_planned_at: dt.datetime | None = None
    next_at: dt.datetime | None = None


@dataclass(slots=True)
class _Work:
    """One transaction's firing as it comes about."""

    live: dict[str, str]
    held: Mapping[str, sa.Row[Any]]
    settled: list[dict[str, Any]] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)


class Firings:
    """Every statement by which the scheduler changes something."""

    def __init__(self, database: Database, runs: Runs) -> None:
        self._db = database
        self._runs = runs

    # ── firing ───────────────────────────────────────────────────────────────

    async def fire(self, plans: Sequence[Plan], now: dt.datetime) -> list[str]:
        """Carries plans out, all in one transaction, and gives the runs that were ordered; ring for them."""
        async with self._db.write() as conn:
            held = await self._hold(conn, [p.schedule.id for p in plans])
            mine = [p for p in _in_order(plans) if _is_as_read(held.get(p.schedule.id), p.schedule)]
            if not mine:
                return []
            work = _Work(held=held, live=await self._live(conn, mine))
            new = await self._insert(conn, mine, held, now)
            able = [(p, at) for p in mine for at in p.fire if (p.schedule.id, at) in new and not _refusal(p, held)]
            for plan, planned_at in await self._order_free(conn, able, work):
                await self._order(conn, plan, planned_at, work)
            await self._settle(conn, work.settled)
            await self._move_on(conn, mine, new)
        return work.runs

    async def release(self, plans: Sequence[Plan], now: dt.datetime) -> list[str]:
        """Orders runs for occurrences that have waited, where no run is in the way; gives those that were ordered."""
        async with self._db.write() as conn:
            held = await self._hold(conn, [p.schedule.id for p in plans])
            mine = [p for p in _in_order(plans) if p.schedule.id in held]
            still = await self._still_waiting(conn, [p.schedule.id for p in mine])
            work = _Work(live={}, held=held)
            for plan in mine:
                for planned_at in plan.fire:
                    if (plan.schedule.id, planned_at) not in still:
                        continue
                    refusal = _refusal(plan, held)
                    if refusal:
                        work.settled.append(_settled(plan, planned_at, "skipped", refusal))
                    elif (run := await self._order_run(conn, plan)) is not None:
                        work.runs.append(run.id)
                        work.settled.append(_settled(plan, planned_at, "ordered", "", run.id))
            await self._settle(conn, work.settled, fired_at=now)
        return work.runs

    async def mark(self, schedule: Schedule, trouble: str, retry_at: dt.datetime) -> None:
        """Notes why a schedule cannot be worked on, and puts it off; nothing happens when it has changed since."""
        same = sa.and_(_schedule.c.id == schedule.id, _schedule.c.revision == schedule.revision)
        put_off = sa.update(_schedule).where(same, _schedule.c.next_at.is_not(None))
        async with self._db.write() as conn:
            await conn.execute(put_off.values(trouble=trouble, next_at=retry_at))

    async def _hold(self, conn: AsyncConnection, schedule_ids: Sequence[str]) -> dict[str, sa.Row[Any]]:
        """Locks schedules until the end of the transaction; those that another host holds are left to it."""
        has_credentials = sa.select(_credential.c.integration_id).where(
            _credential.c.integration_id == _integration.c.id
        )
        query = (
            sa.select(
                _schedule.c.id, _schedule.c.revision, _schedule.c.next_planned_at, _integration.c.state,
                has_credentials.exists().label("has_credentials"),
            )
            .join(_integration, _integration.c.id == _schedule.c.integration_id)
            .where(_schedule.c.id.in_(schedule_ids))
            .order_by(_schedule.c.id)
            .with_for_update(skip_locked=True, of=_schedule)
        )  # fmt: skip
        return {row.id: row for row in await conn.execute(query)}

    async def _live(self, conn: AsyncConnection, plans: Sequence[Plan]) -> dict[str, str]:
        integrations = sorted({p.schedule.integration_id for p in plans})
        query = sa.select(_run.c.integration_id, _run.c.id).where(
            _run.c.integration_id.in_(integrations), _run.c.operation == "sync", sa.text(LIVE)
        )
        return {row.integration_id: row.id for row in await conn.execute(query)}

    async def _insert(
        self, conn: AsyncConnection, plans: Sequence[Plan], held: Mapping[str, sa.Row[Any]], now: dt.datetime
    ) -> set[Key]:
        rows = [row for plan in plans for row in _occurrences(plan, _refusal(plan, held), now)]
        if not rows:
            return set()
        insert = sqlite.insert(_occurrence) if self._db.is_sqlite else postgresql.insert(_occurrence)
        statement = insert.on_conflict_do_nothing().returning(_occurrence.c.schedule_id, _occurrence.c.planned_at)
        return {(row.schedule_id, row.planned_at) for row in await conn.execute(statement, rows)}

    async def _order_free(
        self, conn: AsyncConnection, able: Sequence[tuple[Plan, dt.datetime]], work: _Work
    ) -> list[tuple[Plan, dt.datetime]]:
        """Orders a run for each integration that has none, all in one statement; gives the planned times that are left.

        The set-based twin of `Runs.order_in`: thousands of schedules mean 02:00.
        """
        chosen: dict[str, tuple[Plan, dt.datetime]] = {}
        for plan, planned_at in able:
            if plan.schedule.integration_id not in work.live:
                chosen.setdefault(plan.schedule.integration_id, (plan, planned_at))
        if not chosen:
            return list(able)
        rows = _run_rows([plan for plan, _ in chosen.values()])
        insert = sqlite.insert(_run) if self._db.is_sqlite else postgresql.insert(_run)
        statement = insert.on_conflict_do_nothing(
            index_elements=[_run.c.integration_id, _run.c.operation], index_where=sa.text(LIVE)
        ).returning(_run.c.id)
        written = set((await conn.scalars(statement, rows)).all())
        left = dict.fromkeys((plan.schedule.id, planned_at) for plan, planned_at in able)
        for (plan, planned_at), row in zip(chosen.values(), rows, strict=True):
            is_ordered = row["id"] in written
            work.live[plan.schedule.integration_id] = row["id"] if is_ordered else ""
            if is_ordered:
                work.runs.append(row["id"])
                work.settled.append(_settled(plan, planned_at, "ordered", "", row["id"]))
                del left[plan.schedule.id, planned_at]
        return [(plan, planned_at) for plan, planned_at in able if (plan.schedule.id, planned_at) in left]

    async def _order(self, conn: AsyncConnection, plan: Plan, planned_at: dt.datetime, work: _Work) -> None:
        """Orders the run of one planned time, or does what the overlap policy says."""
        schedule = plan.schedule
        if schedule.integration_id in work.live and await self._makes_way(conn, plan, work):
            del work.live[schedule.integration_id]
        if schedule.integration_id not in work.live:
            run = await self._order_run(conn, plan)
            work.live[schedule.integration_id] = "" if run is None else run.id
            if run is not None:
                work.runs.append(run.id)
                work.settled.append(_settled(plan, planned_at, "ordered", "", run.id))
                return
        if len(plan.fire) > 1:
            return  # it is inserted as waiting: what is caught up with comes one after the other
        if schedule.overlap == "skip":
            work.settled.append(_settled(plan, planned_at, "skipped", "overlap"))
            return
        older = sa.and_(
            _occurrence.c.schedule_id == schedule.id, _occurrence.c.planned_at < planned_at,
            _occurrence.c.reason != CATCH_UP, IS_WAITING,
        )  # fmt: skip
        await conn.execute(sa.update(_occurrence).where(older).values(state="skipped", reason="superseded"))

    async def _makes_way(self, conn: AsyncConnection, plan: Plan, work: _Work) -> bool:
        """Tells whether the run that is in the way is over now, because the policy cancels it.

        One that somebody works on is asked to end and is gone a little later; one that waits for a person's decision
        is left to that person.
        """
        run_id = work.live[plan.schedule.integration_id]
        if plan.schedule.overlap != "cancel_running" or len(plan.fire) > 1 or run_id in (*work.runs, ""):
            return False
        now = dt.datetime.now(dt.UTC)
        this = sa.update(_run).where(_run.c.id == run_id)
        idle = this.where(_run.c.state.in_(("queued", "waiting")))
        ended = idle.values(state="cancelled", finished_at=now, cancel_requested_at=now)
        row = (await conn.execute(ended.returning(_run))).one_or_none()
        if row is not None:
            await tell(conn, row)
        else:
            running = this.where(_run.c.state == "running", _run.c.cancel_requested_at.is_(None))
            asked = await conn.execute(running.values(cancel_requested_at=now))
            if asked.rowcount == 0:
                return False
        told = {"because": "overlap", "schedule": plan.schedule.id}
        await audit.record(conn, plan.schedule.organization_id, "run.cancelled", f"run/{run_id}", told)
        return row is not None

    async def _order_run(self, conn: AsyncConnection, plan: Plan) -> Run | None:
        schedule = plan.schedule
        return await self._runs.order_in(
            conn, organization_id=schedule.organization_id, integration_id=schedule.integration_id, plugin=plan.plugin,
            plugin_version=plan.plugin_version, operation="sync", streams=plan.streams, full=schedule.full,
            reason="schedule", requested_by=_ordered_by(plan), account=plan.account,
        )  # fmt: skip

    async def _still_waiting(self, conn: AsyncConnection, schedule_ids: Sequence[str]) -> set[Key]:
        query = sa.select(_occurrence.c.schedule_id, _occurrence.c.planned_at).where(
            _occurrence.c.schedule_id.in_(schedule_ids), IS_WAITING
        )
        return {(row.schedule_id, row.planned_at) for row in await conn.execute(query)}

    async def _settle(
        self, conn: AsyncConnection, settled: Sequence[Mapping[str, Any]], fired_at: dt.datetime | None = None
    ) -> None:
        if not settled:
            return
        this = sa.and_(
            _occurrence.c.schedule_id == sa.bindparam("its_schedule"),
            _occurrence.c.planned_at == sa.bindparam("its_time", type_=UtcInstant),
        )
        values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in ("state", "reason", "run_id")}
        if fired_at is not None:
            values["fired_at"] = sa.literal(fired_at, UtcInstant)
        await conn.execute(sa.update(_occurrence).where(this).values(**values), [dict(row) for row in settled])

    async def _move_on(self, conn: AsyncConnection, plans: Sequence[Plan], new: set[Key]) -> None:
        moved = sa.update(_schedule).where(_schedule.c.id == sa.bindparam("its_id"))
        instants = ("next_planned_at", "next_at", "last_planned_at")
        moved = moved.values(
            trouble=sa.bindparam("new_trouble"),
            **{name: sa.bindparam(f"new_{name}", type_=UtcInstant) for name in instants},
        )
        rows = [
            {
                "its_id": plan.schedule.id, "new_trouble": plan.trouble, "new_next_planned_at": plan.next_planned_at,
                "new_next_at": plan.next_at, "new_last_planned_at": max([*plan.fire, *plan.missed]),
            }
            for plan in plans
        ]  # fmt: skip
        await conn.execute(moved, rows)

    # ── what led nowhere ─────────────────────────────────────────────────────────────

    async def tell_overdue(self, watched: Watched, planned_at: dt.datetime) -> bool:
        """Notes that a planned time has led nowhere and tells it as an event, once; False when that was done before."""
        schedule = watched.schedule
        this = sa.and_(
            _schedule.c.id == schedule.id, _schedule.c.overdue_since.is_(None), _schedule.c.paused_at.is_(None),
            _schedule.c.revision == schedule.revision,
        )  # fmt: skip
        async with self._db.write() as conn:
            answer = await conn.execute(sa.update(_schedule).where(this).values(overdue_since=planned_at))
            if answer.rowcount != 1:
                return False
            data = {
                "schedule": schedule.id, "integration": schedule.integration_id, "type": watched.plugin,
                "expected_by": iso_ms(planned_at),
            }  # fmt: skip
            await emit(
                conn, schedule.organization_id, "no.samband.schedule.overdue.v1", f"schedule/{schedule.id}", data
            )
        return True

    async def end_overdue(self, schedule_ids: Sequence[str]) -> None:
        """Notes that schedules are not overdue any more."""
        ended = sa.update(_schedule).where(_schedule.c.id.in_(schedule_ids)).values(overdue_since=None)
        async with self._db.write() as conn:
            await conn.execute(ended)


def _in_order(plans: Iterable[Plan]) -> list[Plan]:
    """Orders plans so that two hosts never wait for each other, and a full read comes before a delta."""
    return sorted(plans, key=lambda p: (p.schedule.organization_id, p.schedule.integration_id, not p.schedule.full))


def _is_as_read(held: sa.Row[Any] | None, schedule: Schedule) -> bool:
    if held is None:
        return False
    return bool(held.revision == schedule.revision and held.next_planned_at == schedule.next_planned_at)


def _refusal(plan: Plan, held: Mapping[str, sa.Row[Any]]) -> str:
    row = held[plan.schedule.id]
    if not row.has_credentials:
        return "no_credentials"
    return plan.refusal if row.state == "enabled" else "not_enabled"


def _occurrences(plan: Plan, refusal: str, now: dt.datetime) -> list[dict[str, Any]]:
    known = {
        "schedule_id": plan.schedule.id, "organization_id": plan.schedule.organization_id, "fired_at": now,
        "run_id": None,
    }  # fmt: skip
    waits = ("skipped", refusal) if refusal else ("waiting", CATCH_UP if len(plan.fire) > 1 else "")
    states = [(planned_at, "skipped", "missed") for planned_at in plan.missed]
    states += [(planned_at, *waits) for planned_at in plan.fire]
    if plan.has_unlisted:
        # The table keeps a bounded number of rows for one gap, and its first one says so.
        states[0] = (states[0][0], "skipped", "missed_and_more")
    return [{**known, "planned_at": at, "state": state, "reason": reason} for at, state, reason in states]


def _run_rows(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    now = dt.datetime.now(dt.UTC)
    same = Run(
        id="", organization_id="", integration_id="", plugin="", plugin_version="", operation="sync",
        reason="schedule", requested_by="", state="queued", created_at=now, available_at=now,
    ).model_dump()  # fmt: skip
    return [
        {
            **same, "id": new_id(), "organization_id": plan.schedule.organization_id,
            "integration_id": plan.schedule.integration_id, "plugin": plan.plugin,
            "plugin_version": plan.plugin_version, "streams": list(plan.streams), "full": plan.schedule.full,
            "requested_by": _ordered_by(plan), "account": plan.account,
        }
        for plan in plans
    ]  # fmt: skip


def _ordered_by(plan: Plan) -> str:
    return f"schedule:{plan.schedule.name}"


def _settled(plan: Plan, planned_at: dt.datetime, state: str, reason: str, run_id: str | None = None) -> dict[str, Any]:
    return {
        "its_schedule": plan.schedule.id, "its_time": planned_at, "new_state": state, "new_reason": reason,
        "new_run_id": run_id,
    }  # fmt: skip
