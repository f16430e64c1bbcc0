"""Workers are killed again and again in the middle of a sync; what is stored in the end is what one quiet run stores."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import sqlalchemy as sa

from samband.store import Store

from .conftest import Hosts, simulator_process, until

KILLS = 30
MEMBERS = 20_000


@pytest.mark.crash
async def test_thirty_killed_workers_leave_what_one_quiet_run_leaves(hosts: Hosts) -> None:
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    with simulator_process("--members", str(MEMBERS), "--memberships", "2000") as simulator:
        await hosts.connect(simulator, page_size=100)
        # Slow enough that thirty kills come before the end, whatever the machine.
        simulator.control("config", {"switches": {"latency_s": 0.03}})
        run = await hosts.service.trigger_sync("hlf", "dynamics365")
        patient = {"SAMBAND_MAX_ATTEMPTS": "100", "SAMBAND_LEASE_S": "1", "SAMBAND_HEARTBEAT_S": "0.3"}
        killed, standby = 0, hosts.start_worker(**patient)
        while killed < KILLS:
            worker, standby = standby, hosts.start_worker(**patient)
            starts = killed + 1

            async def is_claimed(starts: int = starts) -> bool:
                return (await hosts.store.feeds.run("hlf", run.id)).starts >= starts

            await until(is_claimed)
            await asyncio.sleep(rng.uniform(0.0, 0.25))
            # Either of the two may have it: the one that holds the run is the one to kill.
            holder = (await hosts.store.feeds.run("hlf", run.id)).lease_owner or ""
            if f"/{standby.pid}-" in holder:
                worker, standby = standby, worker
            hosts.kill(worker)
            killed += 1
            assert (await hosts.store.feeds.run("hlf", run.id)).state == "running", (seed, killed)
        simulator.control("config", {"switches": {"latency_s": 0}})
        done = await hosts.ended(run, 120)
        assert ("succeeded", seed) == (done.state, seed), done

        # The same again, undisturbed: a second organisation in the same database, so its numbers start at one too.
        await hosts.connect(simulator, org="quiet", page_size=100)
        assert "succeeded" == (await hosts.ended(await hosts.service.trigger_sync("quiet", "dynamics365"), 120)).state
    quiet, disturbed = await contents(hosts.store, "quiet"), await contents(hosts.store, "hlf")
    announced = [(record, version) for _, _, record, _, version in disturbed["changes"]]
    assert (done.counts.created, len(set(announced))) == (len(announced), len(announced))
    for part in quiet:
        assert quiet[part] == disturbed[part], (part, seed)


async def contents(store: Store, org: str) -> dict[str, list[tuple[Any, ...]]]:
    """Gives everything a sync left that anyone can see, without the numbers and times of pages."""
    queries = {
        "records": "SELECT kind, id, version, deleted, CAST(body AS text) FROM record WHERE organization_id = :o "
        "ORDER BY kind, id",
        "bindings": "SELECT s.name, b.key, b.record_id, b.hash FROM binding b JOIN stream s ON s.id = b.stream_id "
        "WHERE b.organization_id = :o ORDER BY s.name, b.key",
        "changes": "SELECT seq, kind, record_id, op, version FROM change WHERE organization_id = :o ORDER BY seq",
    }
    async with store.database.read() as conn:
        return {
            name: [tuple(r) for r in await conn.execute(sa.text(query), {"o": org})] for name, query in queries.items()
        }
