"""A host's inner parts around schedules: a plugin, a doorbell that remembers, and a clock that moves when it is told to.

Run as a program it is a scheduler that is killed in the middle of a round.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import sys
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel

from samband import Manifest, Stream, hookimpl
from samband.adapters.registry import Registry
from samband.scheduler import Scheduler
from samband.service import Service
from samband.store import Store, Vault
from samband.store.models import Integration
from samband.views.schedules import ScheduleView

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


class Settings(BaseModel):
    reads: bool = True
    account: str = "default"


class Credentials(BaseModel):
    pass


class Crm:
    """A system with a stream that knows changes and one that does not."""

    manifest = Manifest(
        name="crm", title="CRM", version="1", settings=Settings, credentials=Credentials,
        capabilities=frozenset({"sync"}), account=lambda settings: settings.account,
        streams=(
            Stream(name="people", kind="member", title="People", enabled=lambda settings: settings.reads),
            Stream(
                name="lists", kind="member", title="Lists", incremental=False, enabled=lambda settings: settings.reads
            ),
        ),
    )  # fmt: skip

    @hookimpl
    async def authenticate(self, ctx: Any) -> Any:
        raise NotImplementedError

    @hookimpl
    async def sync(self, ctx: Any, stream: str, cursor: str | None) -> Any:
        raise NotImplementedError
        yield


class Bell:
    """A doorbell that remembers who was rung for."""

    def __init__(self) -> None:
        self.rung: list[str] = []

    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool:
        self.rung.append(run_id)
        return True

    async def ping(self) -> float | None:
        return 0.0

    async def depth(self) -> int | None:
        return 0


class World:
    """A host's store, service and scheduler, with a clock that only moves when it is told to."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.registry = Registry()
        self.registry.add(Crm(), version="1")
        self.bell = Bell()
        self.service = Service(store=store, registry=self.registry, bell=self.bell)
        self.now = dt.datetime.now(dt.UTC)

    def scheduler(self, **options: Any) -> Scheduler:
        given = {"store": self.store, "registry": self.registry, "bell": self.bell, "clock": lambda: self.now}
        return Scheduler(**{**given, **options})

    async def connect(self, org: str = "hlf", *, state: str = "enabled", **settings: Any) -> Integration:
        await self.store.catalog.add_organization(org, org.upper())
        pending = self.store.catalog.pending({}, {})
        added = await self.store.catalog.add_integration(org, "crm", "CRM", settings, pending)
        return await self.store.catalog.change_integration(added, state=state)

    async def schedule(self, org: str = "hlf", **values: Any) -> ScheduleView:
        timing = {} if "interval_s" in values else {"cron": "0 2 * * *"}
        return await self.service.schedule_sync(org, "crm", **{**timing, **values})

    async def until(self, view: ScheduleView, planned: int = 0, late: dt.timedelta = dt.timedelta(0)) -> dt.datetime:
        """Moves the clock to a schedule's planned time and gives that time."""
        self.now = view.next[planned].starts_at + late
        return view.next[planned].at

    async def told(self, org: str = "hlf", name: str = "default") -> list[tuple[str, str]]:
        """Gives what became of each planned time, oldest first."""
        page = await self.service.schedules.occurrences(org, "crm", name, limit=500)
        return [(o.state, o.reason) for o in reversed(page.items)]

    async def runs(self, org: str = "hlf") -> list[tuple[str, str, bool]]:
        rows = await self.store.feeds.runs(org, plugin=None, state=None, before=None, limit=500)
        return [(run.state, run.requested_by, run.full) for run in reversed(rows)]

    async def work(self, *, ends: bool = True) -> str:
        """Plays a worker that takes the due run, and ends it well."""
        (run_id,) = await self.store.runs.due(10)
        lease = await self.store.runs.claim(run_id, "worker", 30)
        assert lease is not None
        if ends:
            await self.store.runs.succeed(lease)
        return run_id


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def _scheduler_that_dies(url: str, now: str, moment: str) -> None:
    world = World(Store.open(url, vault=Vault.from_secret(KEY)))
    world.now = dt.datetime.fromisoformat(now)
    if moment == "before_commit":
        sa.event.listen(world.store.database.engine.sync_engine, "commit", _die)

    class DeadlyBell(Bell):
        async def ring(self, run_id: str, *, delay_s: float = 0) -> bool:
            _die()
            return True

    await world.scheduler(bell=DeadlyBell()).round()


if __name__ == "__main__":
    asyncio.run(_scheduler_that_dies(*sys.argv[1:]))
