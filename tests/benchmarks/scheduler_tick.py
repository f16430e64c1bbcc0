"""Measures one round of the scheduler, beside bare statements in the same run, and prints one JSON object.

Run it with ``python tests/benchmarks/scheduler_tick.py [--schedules 10000 100000] [--postgres URL]``; the PostgreSQL
database has to be empty.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel

from samband import Manifest, Stream, hookimpl
from samband.adapters.registry import Registry
from samband.scheduler import Scheduler
from samband.store import Store, Vault
from samband.store.models import Credential, Integration, Occurrence, Organization, Run, Schedule

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
SOON = dt.timedelta(days=1)
QUIET_ROUNDS = 50
CHUNK = 5000
BARE_AT_MOST = 10_000


class Nothing(BaseModel):
    pass


class Crm:
    manifest = Manifest(
        name="crm", title="CRM", version="1", settings=Nothing, credentials=Nothing, capabilities=frozenset({"sync"}),
        streams=(Stream(name="people", kind="member", title="People"),),
    )  # fmt: skip

    @hookimpl
    async def authenticate(self, ctx: Any) -> Any:
        raise NotImplementedError

    @hookimpl
    async def sync(self, ctx: Any, stream: str, cursor: str | None) -> Any:
        raise NotImplementedError
        yield


class SilentBell:
    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool:
        return True


def table(model: type) -> sa.Table:
    return model.__table__  # type: ignore[no-any-return]


async def fill(store: Store, count: int, now: dt.datetime) -> None:
    """Adds ``count`` organisations with one integration and one daily schedule each."""
    for start in range(0, count, CHUNK):
        numbers = range(start, min(start + CHUNK, count))
        rows: dict[type, list[dict[str, Any]]] = {
            Organization: [Organization(id=f"o{n}", name="O", created_at=now).model_dump() for n in numbers],
            Integration: [
                Integration(
                    id=f"i{n}", organization_id=f"o{n}", plugin="crm", display_name="CRM", state="saved", settings={},
                    created_at=now, updated_at=now,
                ).model_dump()
                for n in numbers
            ],
            Credential: [
                Credential(integration_id=f"i{n}", organization_id=f"o{n}", sealed=b"-", updated_at=now).model_dump()
                for n in numbers
            ],
            Schedule: [
                Schedule(
                    id=f"s{n}", organization_id=f"o{n}", integration_id=f"i{n}", name="default", cron="0 2 * * *",
                    overlap="skip", catch_up="latest", misfire_grace_s=3600, anchor_at=now, next_planned_at=now + SOON,
                    next_at=now + SOON, created_at=now, updated_at=now,
                ).model_dump()
                for n in numbers
            ],
        }  # fmt: skip
        async with store.database.write() as conn:
            for model, values in rows.items():
                await conn.execute(sa.insert(table(model)), values)
            await conn.execute(sa.update(table(Integration)).values(state="enabled"))
    async with store.database.write() as conn:
        await conn.execute(sa.text("ANALYZE"))


async def timed(work: Callable[[], Awaitable[Any]]) -> float:
    begun = time.perf_counter()
    await work()
    return (time.perf_counter() - begun) * 1000


async def median(work: Callable[[], Awaitable[Any]]) -> float:
    times = sorted([await timed(work) for _ in range(QUIET_ROUNDS)])
    return round(times[len(times) // 2], 3)


async def make_due(store: Store, count: int, now: dt.datetime) -> None:
    schedule = table(Schedule)
    chosen = sa.select(schedule.c.id).where(schedule.c.next_at > now).limit(count)
    values = {"next_at": now, "next_planned_at": now.replace(second=0, microsecond=0)}
    async with store.database.write() as conn:
        await conn.execute(sa.update(schedule).where(schedule.c.id.in_(chosen)).values(**values))


async def clear(store: Store, now: dt.datetime) -> None:
    async with store.database.write() as conn:
        for model in (Occurrence, Run):
            await conn.execute(sa.delete(table(model)))
        await conn.execute(sa.update(table(Schedule)).values(next_at=now + SOON, next_planned_at=now + SOON))


async def drain(scheduler: Scheduler) -> None:
    while await scheduler.round() == 0.0:
        pass


async def bare_select(store: Store, now: dt.datetime) -> None:
    schedule = table(Schedule)
    async with store.database.read() as conn:
        (await conn.execute(sa.select(schedule.c.id).where(schedule.c.next_at <= now).limit(250))).all()


async def bare_inserts(store: Store, count: int, now: dt.datetime) -> None:
    """Inserts an occurrence and a run for each schedule, row by row in transactions of 250: the work without the rules."""
    occurrence, run = table(Occurrence), table(Run)
    for start in range(0, count, 250):
        async with store.database.write() as conn:
            for n in range(start, min(start + 250, count)):
                planned = {"schedule_id": f"s{n}", "planned_at": now, "organization_id": f"o{n}", "fired_at": now}
                await conn.execute(sa.insert(occurrence).values(**planned, state="ordered", reason="", run_id=f"r{n}"))
                ordered = Run(
                    id=f"r{n}", organization_id=f"o{n}", integration_id=f"i{n}", plugin="crm", plugin_version="1",
                    operation="sync", streams=["people"], reason="schedule", requested_by="bare", state="queued",
                    created_at=now, available_at=now,
                )  # fmt: skip
                await conn.execute(sa.insert(run).values(**ordered.model_dump()))


async def measure(store: Store, count: int) -> dict[str, Any]:
    now = dt.datetime.now(dt.UTC)
    await fill(store, count, now)
    registry = Registry()
    registry.add(Crm(), version="1")
    scheduler = Scheduler(store=store, registry=registry, bell=SilentBell())
    await scheduler.round()
    told: dict[str, Any] = {
        "schedules": count,
        "none_due_ms": await median(scheduler.round),
        "bare_select_ms": await median(lambda: bare_select(store, now)),
        "watch_ms": round(await timed(scheduler.watch)),
    }
    for due in (100, count):
        await make_due(store, due, now)
        told[f"{due}_due"] = await cost(lambda: drain(scheduler))
        await clear(store, now)
        bare = min(due, BARE_AT_MOST)
        told[f"{bare}_bare_inserts"] = await cost(lambda bare=bare: bare_inserts(store, bare, now))  # type: ignore[misc]
        await clear(store, now)
    return told


async def cost(work: Callable[[], Awaitable[Any]]) -> dict[str, int]:
    """Gives how long it took, and how much of the processor: the more honest figure on a machine that does other things."""
    cpu = time.process_time()
    wall_ms = await timed(work)
    return {"ms": round(wall_ms), "cpu_ms": round((time.process_time() - cpu) * 1000)}


async def run(counts: list[int], postgres: str | None) -> None:
    results = []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="samband-tick-") as directory:
            url = f"sqlite:///{Path(directory) / 'samband.db'}"
            results.append(await on_database("sqlite", url, count))
    if postgres is not None:
        results.append(await on_database("postgresql", postgres, counts[0]))
    print(json.dumps({"python": platform.python_version(), "machine": platform.machine(), "rounds": results}, indent=2))


async def on_database(name: str, url: str, count: int) -> dict[str, Any]:
    store = Store.open(url, vault=Vault.from_secret(KEY))
    try:
        await store.migrate()
        return {"database": name, **await measure(store, count)}
    finally:
        await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument(
        "--postgres", help="Address of an empty PostgreSQL database; the first count is measured there."
    )
    given = parser.parse_args()
    asyncio.run(run(given.schedules, given.postgres))


if __name__ == "__main__":
    main()
