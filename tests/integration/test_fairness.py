"""One organisation's backlog takes its share of the workers and no more, however long it is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from samband.hosting.embedded import EmbeddedServer
from samband.store import Bounds, Lease, Store, Vault
from samband.store.models import Run
from samband.views import ErrorView
from samband.worker import RunWorker

PATIENCE_S = 60.0


@pytest.fixture
async def store(database_url: str, vault: Vault) -> AsyncIterator[Store]:
    opened = Store.open(database_url, vault=vault, bounds=Bounds(per_organization=4, per_account=2))
    await opened.migrate()
    try:
        yield opened
    finally:
        await opened.close()


async def order(store: Store, org: str, plugin: str, account: str = "") -> Run:
    if org not in [o.id for o in await store.catalog.organizations()]:
        await store.catalog.add_organization(org, org.upper())
    integrations = {i.plugin: i for i in await store.catalog.integrations(org)}
    integration = integrations.get(plugin) or await store.catalog.add_integration(org, plugin, plugin, {})
    return await store.runs.order(
        integration=integration, plugin_version="1", operation="sync", streams=["people"], full=False, reason="test",
        requested_by="test", account=account,
    )  # fmt: skip


async def backlog(store: Store, org: str, count: int, account: str = "") -> list[Run]:
    return [await order(store, org, f"p{n}", account) for n in range(count)]


async def claims(store: Store, runs: Sequence[Run]) -> list[Lease]:
    found = [await store.runs.claim(run.id, "w", 30) for run in runs]
    return [lease for lease in found if lease is not None]


async def test_organisation_has_no_more_runs_at_once_than_its_bound(store: Store) -> None:
    runs = await backlog(store, "a", 10)
    leases = await claims(store, runs)
    assert [run.id for run in runs[:4]] == [lease.run_id for lease in leases]
    assert 1 == len(await claims(store, [await order(store, "b", "p0")]))
    await store.runs.succeed(leases[0])
    assert [runs[4].id] == [lease.run_id for lease in await claims(store, runs)]


async def test_bound_holds_when_many_workers_claim_at_the_same_moment(store: Store) -> None:
    runs = await backlog(store, "a", 12)
    leases = await asyncio.gather(*(store.runs.claim(run.id, f"w{n}", 30) for n, run in enumerate(runs)))
    assert 4 == sum(lease is not None for lease in leases)


async def test_account_is_shared_by_organisations_and_bounded_over_all_of_them(store: Store) -> None:
    runs = [await order(store, org, "crm", "crm/tenant-1") for org in ("a", "b", "c")]
    other = await order(store, "d", "crm", "crm/tenant-2")
    leases = await asyncio.gather(*(store.runs.claim(run.id, "w", 30) for run in (*runs, other)))
    assert 2 == sum(lease is not None for lease in leases[:3])
    assert leases[3] is not None
    done = next(lease for lease in leases if lease is not None)
    left = next(run for run, lease in zip(runs, leases, strict=False) if lease is None)
    await store.runs.succeed(done)
    assert [left.id] == await store.runs.next_after(done.run_id)
    assert await store.runs.claim(left.id, "w", 30) is not None


async def test_runs_without_an_account_of_their_own_do_not_share_one(store: Store) -> None:
    assert 4 == len(await claims(store, await backlog(store, "a", 4)))


async def test_run_of_a_dead_worker_gives_its_place_back(store: Store) -> None:
    runs = await backlog(store, "a", 6)
    for run in runs[:4]:
        assert await store.runs.claim(run.id, "dead", -1) is not None
    assert 4 == len(await claims(store, runs[2:]))


async def test_backlog_does_not_fill_the_list_of_what_is_due(store: Store) -> None:
    runs = await backlog(store, "a", 40)
    late = await order(store, "b", "p0")
    assert [runs[0].id, late.id, runs[1].id] == await store.runs.due(3)
    assert [runs[0].id, late.id, *(run.id for run in runs[1:4])] == await store.runs.due(500)
    await claims(store, runs[:3])
    assert [runs[3].id, late.id] == await store.runs.due(500)
    await claims(store, runs[3:4])
    assert [late.id] == await store.runs.due(500)


async def test_full_account_hides_its_runs_and_not_those_behind_them(store: Store) -> None:
    busy = [await order(store, "a", f"x{n}", "crm/one") for n in range(6)]
    free = await order(store, "a", "free", "crm/two")
    await claims(store, busy[:2])
    assert [free.id] == await store.runs.due(500)


async def test_next_one_is_told_only_when_there_is_room(store: Store) -> None:
    runs = await backlog(store, "a", 6)
    leases = await claims(store, runs)
    assert [] == await store.runs.next_after(runs[5].id)  # it was refused: nothing has been given back
    assert [] == await store.runs.next_after(runs[0].id)  # it is still going on
    trouble = ErrorView(code="rate_limited", message="Slower.")
    await store.runs.defer(leases[0], seconds=60, error=trouble, counts=False)
    assert [runs[4].id] == await store.runs.next_after(runs[0].id)


async def test_order_without_an_account_uses_the_one_of_the_run_before(store: Store) -> None:
    first = await order(store, "a", "crm", "crm/tenant-1")
    (lease,) = await claims(store, [first])
    await store.runs.succeed(lease)
    (integration,) = await store.catalog.integrations("a")
    async with store.database.write() as conn:
        second = await store.runs.order_in(
            conn, organization_id="a", integration_id=integration.id, plugin="crm", plugin_version="1",
            operation="sync", streams=["people"], full=False, reason="schedule", requested_by="nightly",
        )  # fmt: skip
    assert second is not None
    assert "crm/tenant-1" == (await store.feeds.run("a", second.id)).account


class Crew:
    """A worker whose runs last until they are let go."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.started: list[str] = []
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.ended: Counter[str] = Counter()
        self.free = asyncio.Event()

    async def execute(self, run_id: str) -> float | None:
        lease = await self._store.runs.claim(run_id, "crew", 60)
        if lease is None:
            return None
        org = lease.organization_id
        self.started.append(org)
        self.now[org] = self.now.get(org, 0) + 1
        self.most[org] = max(self.most.get(org, 0), self.now[org])
        await self.free.wait()
        await self._store.runs.succeed(lease)
        self.now[org] -= 1
        self.ended[org] += 1
        return None


@pytest.fixture
async def working(store: Store, tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[tuple[Crew, RunWorker]]]]:
    server = EmbeddedServer(tmp_path / "queue")
    await server.start()
    tasks: list[tuple[RunWorker, asyncio.Task[None]]] = []

    async def start() -> tuple[Crew, RunWorker]:
        crew = Crew(store)
        worker = RunWorker(
            redis_url=server.url, execute=crew.execute, due=store.due_runs, next_after=store.runs.next_after,
            concurrency=8, sweep_s=0.2,
        )  # fmt: skip
        tasks.append((worker, asyncio.create_task(worker.run())))
        return crew, worker

    yield start
    for worker, task in tasks:
        await worker.stop(drain=False)
        await task
    await server.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_slow_organisations_backlog_of_two_hundred_runs_leaves_places_for_another(
    store: Store, working: Callable[[], Awaitable[tuple[Crew, RunWorker]]]
) -> None:
    """Two hundred slow runs over forty integrations; each integration has one alive, and its next one when that ends."""
    await backlog(store, "a", 40)
    crew, worker = await working()
    await until(lambda: len(crew.started) == 4)
    late = await order(store, "b", "p0")
    await until(lambda: len(crew.started) > 4)
    # All four of a's places are taken for good, thirty-six of its runs wait, and b's is the next that starts.
    assert ["a", "a", "a", "a", "b"] == crew.started
    assert late.id in worker.running
    crew.free.set()
    for ended in (40, 80, 120, 160):
        await until(lambda: crew.ended["a"] == ended)  # noqa: B023 - waited for before the next round
        await backlog(store, "a", 40)
    await until(lambda: crew.ended == {"a": 200, "b": 1})
    assert {"a": 4, "b": 1} == crew.most
