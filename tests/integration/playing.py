"""A plugin whose source is a list in memory, and a host's inner parts around it: store, registry, service, flow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr

from samband import CredentialsModel, Manifest, Page, Record, SettingsModel, Stream, Token, hookimpl
from samband.adapters.registry import Registry
from samband.flow import Flow, FlowSettings
from samband.service import Service
from samband.store import Store
from samband.store.models import Run
from samband.views import RunView


class Settings(SettingsModel):
    account: str = "default"
    with_memberships: bool = True


class Credentials(CredentialsModel):
    pass


class Source:
    """A plugin that yields what stands in ``pages``, stream by stream, from the page its cursor names.

    Attributes:
        pages: Stream → its pages; a page's cursor is its number.
        trouble: Raised instead of giving the next page.
        held_back_from: Pages from this number on do not come until it is None again.
        reached: Whether one of those has been asked for.
        closed: How many reads have ended, one way or the other.
    """

    def __init__(self, name: str, streams: Sequence[Stream]) -> None:
        self.name = name
        self.manifest = Manifest(
            name=name, title=name, version="1.0", settings=Settings, credentials=Credentials, streams=tuple(streams),
            capabilities=frozenset({"sync"}), field_classes=frozenset({"plain", "personal", "special"}),
            account=lambda settings: settings.account,
        )  # fmt: skip
        self.pages: dict[str, list[Page]] = {}
        self.trouble: Exception | None = None
        self.held_back_from: int | None = None
        self.reached = False
        self.closed = 0

    @hookimpl
    async def authenticate(self, ctx: Any) -> Token:
        return Token(value=SecretStr("a-token"))

    @hookimpl
    async def sync(self, ctx: Any, stream: str, cursor: str | None) -> AsyncIterator[Page]:
        pages = self.pages.get(stream, [Page(complete=True, cursor="0")])
        try:
            for number in range(int(cursor or 0), len(pages)):
                if self.trouble is not None:
                    raise self.trouble
                while self.held_back_from is not None and number >= self.held_back_from:
                    self.reached = True
                    await asyncio.sleep(0.01)
                yield pages[number]
        finally:
            self.closed += 1

    def deliver(self, stream: str, *pages: Page) -> None:
        """Sets what the stream has; each page leads behind itself, and the last one ends the read."""
        last = len(pages) - 1
        self.pages[stream] = [
            Page(records=page.records, deleted=page.deleted, cursor=str(number + 1), complete=number == last)
            for number, page in enumerate(pages)
        ]


PEOPLE = Stream(name="people", kind="member", title="People", incremental=False)
CHANGES = Stream(name="people", kind="member", title="People")
MEMBERSHIPS = Stream(
    name="memberships", kind="membership", title="Memberships", references={"member": "people"},
    enabled=lambda settings: settings.with_memberships,
)  # fmt: skip


def people(keys: range, status: str = "active", **values: Any) -> Page:
    """Gives a page with a person for each number."""
    return Page(records=[Record(key=f"p{n}", values={"status": status, "first_name": f"P{n}", **values}) for n in keys])


def gone(keys: range) -> Page:
    """Gives a page that says of each number that it is deleted."""
    return Page(deleted=[f"p{n}" for n in keys])


@dataclass
class SilentBell:
    """Remembers whom it rang for."""

    rung: list[str] = field(default_factory=list)

    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool:
        self.rung.append(run_id)
        return True

    async def ping(self) -> float | None:
        return 1.0

    async def depth(self) -> int | None:
        return len(self.rung)


class Bench:
    """One store with everything around it that a run needs; executes runs when it is told to."""

    def __init__(self, store: Store, *sources: Source) -> None:
        self.store = store
        self.registry = Registry()
        for source in sources:
            self.registry.add(source, name=source.name, distribution=f"samband-{source.name}", version="1.0")
        self.bell = SilentBell()
        self.service = Service(store=store, registry=self.registry, bell=self.bell)
        self.flow = self.worker("one")

    def worker(self, owner: str, **settings: Any) -> Flow:
        given = FlowSettings(owner=owner, **{"lease_s": 30.0, "heartbeat_s": 0.05, **settings})
        return Flow(store=self.store, registry=self.registry, settings=given)

    async def connect(self, org: str, *plugins: str, **settings: Any) -> None:
        """Adds an organisation whose integrations are tested and enabled."""
        if org not in [o.id for o in await self.store.catalog.organizations()]:
            await self.service.organizations.create(org, org.upper())
        for plugin in plugins:
            await self.service.integrations.create(org, plugin, settings=settings, credentials={})
            assert (await self.service.integrations.test(org, plugin)).ok
            await self.service.integrations.enable(org, plugin)

    async def run(self, org: str = "hlf", plugin: str = "crm", **order: Any) -> RunView:
        """Orders a sync and carries it out as far as it goes."""
        ordered = await self.service.trigger_sync(org, plugin, **order)
        return await self.go_on(ordered)

    async def go_on(self, run: RunView) -> RunView:
        await self.flow.execute(run.id)
        return await self.service.runs.get(run.organization, run.id)

    async def held_records(self, org: str = "hlf", kind: str = "member") -> int:
        return len(await self.store.feeds.records(org, kind, after=0, limit=100_000, include_deleted=False))

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        async with self.store.database.read() as conn:
            return [tuple(r) for r in await conn.execute(sa.text(query))]

    async def set_run(self, run_id: str, **values: Any) -> None:
        """Brings a run's row into a state that a crash could have left."""
        table: sa.Table = Run.__table__
        async with self.store.database.write() as conn:
            await conn.execute(sa.update(table).where(table.c.id == run_id).values(**values))

    async def close(self) -> None:
        await self.registry.close()
