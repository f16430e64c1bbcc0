"""Redis is a doorbell: empty it, kill it, leave it away, and the work is done all the same, without a human."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
import redis.asyncio as redis

from samband.hosting.embedded import EmbeddedServer

from .conftest import Hosts, Simulator, simulator_process, until


async def pages(hosts: Hosts, run_id: str) -> int:
    return (await hosts.store.feeds.run("hlf", run_id)).pages


async def test_emptied_redis_in_mid_run_changes_nothing(hosts: Hosts) -> None:
    with simulator_process("--members", "2000", "--memberships", "0") as simulator:
        await hosts.connect(simulator, page_size=50)
        await hosts.connect(simulator, org="nbf", page_size=50)
        client = redis.from_url(hosts.redis_url)
        # The second order is only a row and a key when the keys are gone: nobody has started on it.
        run = await hosts.service.trigger_sync("hlf", "dynamics365")
        hosts.start_worker(SAMBAND_WORKER_CONCURRENCY="1")

        async def is_under_way() -> bool:
            return await pages(hosts, run.id) >= 2

        await until(is_under_way)
        waiting = await hosts.service.trigger_sync("nbf", "dynamics365")
        await client.flushall()
        await client.aclose()
        assert "succeeded" == (await hosts.ended(run)).state
        assert "succeeded" == (await hosts.ended(waiting)).state
        assert 1 == (await hosts.store.feeds.run("hlf", run.id)).starts


@pytest.mark.crash
async def test_killed_redis_in_mid_run_is_restarted_and_work_goes_on(
    hosts: Hosts, queue_server: EmbeddedServer
) -> None:
    supervision = asyncio.create_task(queue_server.supervise())
    try:
        with simulator_process("--members", "2000", "--memberships", "0") as simulator:
            await hosts.connect(simulator, page_size=50)
            hosts.start_worker()
            run = await hosts.service.trigger_sync("hlf", "dynamics365")

            async def is_under_way() -> bool:
                return await pages(hosts, run.id) >= 2

            await until(is_under_way)
            assert queue_server.pid is not None
            first = queue_server.pid
            os.kill(first, signal.SIGKILL)
            assert "succeeded" == (await hosts.ended(run)).state

            async def is_back() -> bool:
                parts = await hosts.service.health.readiness()
                return queue_server.pid not in (None, first) and set(parts.values()) == {"ok"}

            await until(is_back)
            again = await hosts.ended(await hosts.service.trigger_sync("hlf", "dynamics365"))
            assert "succeeded" == again.state
    finally:
        supervision.cancel()
        await asyncio.gather(supervision, return_exceptions=True)


@pytest.mark.crash
async def test_order_is_taken_and_carried_out_while_redis_is_away(
    hosts: Hosts, queue_server: EmbeddedServer, simulator: Simulator
) -> None:
    await hosts.connect(simulator)
    hosts.start_worker()
    first = await hosts.ended(await hosts.service.trigger_sync("hlf", "dynamics365"))
    assert "succeeded" == first.state
    await queue_server.stop()
    run = await hosts.service.trigger_sync("hlf", "dynamics365")
    assert (await hosts.service.health.readiness())["queue"].startswith("degraded")
    assert "succeeded" == (await hosts.ended(run)).state
