"""A worker that was away longer than its lease finds that the run is somebody else's, and writes nothing more."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess

import asyncpg
import pytest

from .conftest import Hosts, simulator_process, until


async def is_locked(hosts: Hosts, run_id: str) -> bool:
    """Tells whether a stopped process keeps others from writing the run."""
    if hosts.database_url.startswith("sqlite"):
        connection = sqlite3.connect(hosts.database_url.removeprefix("sqlite:///"), timeout=0.2, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
        finally:
            connection.close()
        return False
    connection = await asyncpg.connect(hosts.database_url)
    try:
        await connection.fetch("SELECT 1 FROM run WHERE id = $1 FOR UPDATE NOWAIT", run_id)
    except asyncpg.LockNotAvailableError:
        return True
    finally:
        await connection.close()
    return False


async def stop_between_transactions(hosts: Hosts, process: subprocess.Popen[bytes], run_id: str) -> None:
    """Stalls a worker while it holds no lock.

    One that is stopped inside a transaction keeps its lock as long as it is stopped: on SQLite for ever, on PostgreSQL
    until the server ends the idle transaction. That delays the others, which is another matter than fencing.
    """
    for _ in range(200):
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.02)
        if not await is_locked(hosts, run_id):
            return
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.005)
    raise AssertionError("the worker was always inside a transaction")


@pytest.mark.crash
async def test_stalled_worker_that_wakes_up_writes_nothing(hosts: Hosts) -> None:
    with simulator_process("--members", "3000", "--memberships", "0") as simulator:
        await hosts.connect(simulator, page_size=50)
        stalled = hosts.start_worker()
        run = await hosts.service.trigger_sync("hlf", "dynamics365")

        async def has_pages() -> bool:
            return (await hosts.store.feeds.run("hlf", run.id)).pages >= 2

        await until(has_pages)
        await stop_between_transactions(hosts, stalled, run.id)
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
