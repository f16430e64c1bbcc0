"""A run is worked on by one worker at a time, is given up after its attempts, and is never lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from samband.errors import StaleLeaseError
from samband.store import Lease, Store
from samband.store.models import Run
from samband.views import ErrorView

TROUBLE = ErrorView(code="unavailable", message="They are away.")


async def order(store: Store, org: str = "hlf") -> Run:
    if not await store.catalog.integrations(org):
        await store.catalog.add_organization(org, org.upper())
        await store.catalog.add_integration(org, "crm", "CRM", {})
    (integration,) = await store.catalog.integrations(org)
    return await store.runs.order(
        integration=integration, plugin_version="1", operation="sync", streams=["contacts"], full=False, reason="test",
        requested_by="test",
    )  # fmt: skip


async def claim(store: Store, run: Run, owner: str = "one", lease_s: float = 30) -> Lease:
    lease = await store.runs.claim(run.id, owner, lease_s)
    assert lease is not None
    return lease


async def reload(store: Store, run: Run) -> Run:
    return await store.feeds.run(run.organization_id, run.id)


async def test_only_one_of_many_workers_gets_a_run(store: Store) -> None:
    run = await order(store)
    leases = await asyncio.gather(*(store.runs.claim(run.id, f"w{n}", 30) for n in range(8)))
    assert 1 == sum(lease is not None for lease in leases)


async def test_silent_worker_loses_its_run_and_its_writes_are_refused(store: Store) -> None:
    run = await order(store)
    first = await claim(store, run, lease_s=0)
    await asyncio.sleep(0.01)
    assert [run.id] == await store.runs.due(10)
    second = await claim(store, run, "two")
    assert second.fence == first.fence + 1
    for write in (
        store.runs.renew(first, 30),
        store.runs.release(first),
        store.runs.succeed(first),
        store.runs.fail(first, TROUBLE),
        store.runs.give_up(first, TROUBLE),
        store.runs.defer(first, seconds=1, error=TROUBLE, counts=True),
    ):
        with pytest.raises(StaleLeaseError):
            await write
    assert ("running", "two") == ((await reload(store, run)).state, (await reload(store, run)).lease_owner)


async def test_renewed_lease_is_not_due(store: Store) -> None:
    run = await order(store)
    lease = await claim(store, run, lease_s=0)
    await store.runs.renew(lease, 30)
    assert [] == await store.runs.due(10)


async def test_released_run_is_due_at_once_and_its_start_is_not_counted(store: Store) -> None:
    run = await order(store)
    await store.runs.release(await claim(store, run))
    assert [run.id] == await store.runs.due(10)
    assert ("queued", 0, 1) == _told(await reload(store, run))


def _told(run: Run) -> tuple[Any, ...]:
    return run.state, run.attempt, run.starts


@pytest.mark.parametrize(("counts", "attempt"), [(True, 1), (False, 0)])
async def test_waiting_run_is_due_when_its_time_has_come(store: Store, counts: bool, attempt: int) -> None:
    run = await order(store)
    await store.runs.defer(await claim(store, run), seconds=3600, error=TROUBLE, counts=counts)
    assert ("waiting", attempt, 1) == _told(await reload(store, run))
    assert [] == await store.runs.due(10)
    assert await store.runs.claim(run.id, "two", 30) is None


async def test_given_up_run_leaves_one_dead_letter_that_counts_repeats(store: Store) -> None:
    for _ in range(2):
        run = await order(store)
        await store.runs.give_up(await claim(store, run), TROUBLE)
    ((letter, plugin),) = await store.letters.page("hlf", open_only=True, limit=10)
    assert (2, run.id, "crm", "unavailable") == (letter.occurrences, letter.run_id, plugin, letter.reason)
    await store.letters.acknowledge("hlf", letter.id or 0, "kari")
    assert [] == await store.letters.page("hlf", open_only=True, limit=10)
    run = await order(store)
    await store.runs.give_up(await claim(store, run), TROUBLE)
    assert 2 == len(await store.letters.page("hlf", open_only=False, limit=10))


async def test_runs_of_a_dead_host_are_due_at_once(store: Store) -> None:
    run = await order(store)
    await claim(store, run, "host-a/1")
    assert [run.id] == await store.runs.free_leases_of("host-a/")
    assert [run.id] == await store.runs.due(10)


async def test_one_organisation_never_sees_anothers_run(store: Store) -> None:
    run = await order(store, "hlf")
    await order(store, "nbf")
    from samband.errors import NotFoundError

    with pytest.raises(NotFoundError):
        await store.feeds.run("nbf", run.id)
    assert [run.id] == [r.id for r in await store.feeds.runs("hlf", plugin=None, state=None, before=None, limit=10)]
