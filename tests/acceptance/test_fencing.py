"""A worker that was away longer than its lease finds that the run is somebody else's, and writes nothing more."""

from __future__ import annotations

import signal

import pytest

from .conftest import Hosts, simulator_process, until
from .stalling import stop_between_transactions


@pytest.mark.crash
async def test_stalled_worker_that_wakes_up_writes_nothing(hosts: Hosts) -> None:
    with simulator_process("--members", "3000", "--memberships", "0") as simulator:
        await hosts.connect(simulator, page_size=50)
        stalled = hosts.start_worker()
        run = await hosts.service.trigger_sync("hlf", "dynamics365")

        async def has_pages() -> bool:
            return (await hosts.store.feeds.run("hlf", run.id)).pages >= 2

        await until(has_pages)
        await stop_between_transactions(hosts, stalled)
        before = await hosts.store.feeds.run("hlf", run.id)
        assert ("running", 1) == (before.state, before.fence)
        other = hosts.start_worker()
        done = await hosts.ended(run)
        stalled.send_signal(signal.SIGCONT)
        after = await hosts.store.feeds.run("hlf", run.id)
        assert ("succeeded", 2) == (after.state, after.fence)
        changes = await hosts.service.records.changes("hlf", after=0, limit=100_000)
        assert done.counts.created == len(changes.items)
        assert len({c.record_id for c in changes.items}) == len(changes.items)

        # The one that was stalled has let go of that run and is of use again.
        hosts.kill(other)
        again = await hosts.ended(await hosts.service.trigger_sync("hlf", "dynamics365", full=True))
        assert ("succeeded", done.counts.created) == (again.state, again.counts.unchanged)
        assert stalled.poll() is None
