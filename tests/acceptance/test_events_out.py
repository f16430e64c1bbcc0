"""A process that sends events is killed between the sending and the noting: the event comes again, the same."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestServer

from samband.adapters.registry import Registry
from samband.events import Dispatcher
from samband.http import Outbound
from samband.http.egress import EgressPolicy
from samband.http.posting import Poster
from samband.redaction import Redactor
from samband.service import Service
from samband.store import Store, Vault
from samband.store.outbox import emit

from .conftest import KEY

SENDER = """
import asyncio, sys
from samband.events import Dispatcher
from samband.http import Outbound
from samband.http.egress import EgressPolicy
from samband.http.posting import Poster
from samband.redaction import Redactor
from samband.store import Store, Vault

async def main():
    store = Store.open(sys.argv[1], vault=Vault.from_secret(sys.argv[2]))
    outbound = Outbound(policy=EgressPolicy(allow_private=("127.0.0.1",)), redactor=Redactor())
    await Dispatcher(store=store, poster=Poster(outbound)).run()

asyncio.run(main())
"""


class SilentBell:
    """A doorbell that nobody hears."""

    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool:
        return True

    async def ping(self) -> float | None:
        return 0.0

    async def depth(self) -> int | None:
        return 0


def start_sender(database_url: str, log: Path) -> subprocess.Popen[bytes]:
    """Starts a process that does nothing but send events."""
    with log.open("wb") as file:
        return subprocess.Popen([sys.executable, "-c", SENDER, database_url, KEY], env=os.environ, stderr=file)


@pytest.mark.crash
async def test_event_of_a_killed_sender_comes_again_with_the_same_id_and_bytes(
    store: Store, vault: Vault, database_url: str, tmp_path: Path
) -> None:
    received: list[tuple[str, str, bytes]] = []
    arrived = asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        received.append((request.headers["webhook-id"], request.headers["samband-attempt"], await request.read()))
        if len(received) == 1:
            arrived.set()
            await asyncio.sleep(60)  # the sender is killed while it waits
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/hook", take)
    server = TestServer(app, handler_cancellation=True)
    await server.start_server()
    outbound = Outbound(policy=EgressPolicy(allow_private=("127.0.0.1",)), redactor=Redactor())
    registry = Registry()
    sender: subprocess.Popen[bytes] | None = None
    try:
        await store.catalog.add_organization("hlf", "HLF")
        service = Service(store=store, registry=registry, bell=SilentBell(), egress=outbound.policy)
        await service.subscriptions.create("hlf", url=f"http://127.0.0.1:{server.port}/hook")
        async with store.database.write() as conn:
            for _ in range(2):
                data = {"run": "r1", "state": "succeeded", "operation": "sync"}
                await emit(conn, "hlf", "no.samband.run.succeeded.v1", "run/r1", data)
        sender = start_sender(database_url, tmp_path / "sender.log")
        async with asyncio.timeout(60):
            await arrived.wait()
        sender.send_signal(signal.SIGKILL)
        await asyncio.to_thread(sender.wait, 30)
        # Its lease would run out by itself; the test does not wait for that.
        async with store.database.write() as conn:
            await conn.execute(sa.text("UPDATE event_delivery SET lease_until = created_at"))
        dispatcher = Dispatcher(store=store, poster=Poster(outbound))
        while await dispatcher.deliver_due():
            pass
        first, again, second = received
        assert (first[0], first[2]) == (again[0], again[2])
        assert ["1", "2", "1"] == [attempt for _, attempt, _ in (first, again, second)]
        assert first[0] != second[0]
    finally:
        if sender is not None and sender.poll() is None:
            sender.kill()
            sender.wait(30)
        await outbound.close()
        await registry.close()
        await server.close()
