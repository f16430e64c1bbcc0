"""Whole hosts with a simulator behind HTTP: processes that are started, talked to and killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from samband.adapters.registry import Registry
from samband.errors import ConflictError
from samband.hosting.embedded import EmbeddedServer
from samband.hosting.installed import discover
from samband.queue import Doorbell
from samband.redaction import Redactor
from samband.service import Service
from samband.settings import load_settings
from samband.store import Store, Vault
from samband.views import RunView

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
PATIENCE_S = 60.0


@dataclass
class Simulator:
    """A running simulator process."""

    process: subprocess.Popen[str]
    line: dict[str, Any]
    was_set_otherwise: bool = False

    def control(self, door: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Speaks to the control door; without a body it asks."""
        self.was_set_otherwise |= body is not None and door not in ("touch", "reset")
        request = urllib.request.Request(
            f"{self.line['control_url']}/{door}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)  # type: ignore[no-any-return]
        except urllib.error.HTTPError as refusal:
            raise AssertionError(f"{door}: {refusal.status} {refusal.read().decode()}") from None

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def started_simulator(*arguments: str) -> Simulator:
    """Starts the Dynamics simulator."""
    process = subprocess.Popen(
        [sys.executable, "-m", "samband_dynamics365.simulator", "--die-with-parent", *arguments],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    simulator = Simulator(process, {})
    try:
        simulator.line = json.loads(process.stdout.readline())
    except ValueError:
        simulator.end()
        raise
    return simulator


@contextlib.contextmanager
def simulator_process(*arguments: str) -> Iterator[Simulator]:
    """Starts the Dynamics simulator and ends it."""
    simulator = started_simulator(*arguments)
    try:
        yield simulator
    finally:
        simulator.end()


@dataclass
class Hosts:
    """One database and queue, shared by the worker processes that are started here and by the test itself."""

    database_url: str
    redis_url: str
    store: Store
    service: Service
    registry: Registry
    environment: dict[str, str]
    log: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "samband", "worker"],
                env={**self.environment, **environment}, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes], with_signal: signal.Signals = signal.SIGKILL) -> None:
        if process.poll() is None:
            process.send_signal(with_signal)
        if with_signal is not signal.SIGSTOP:
            process.wait(30)

    async def connect(self, simulator: Simulator, org: str = "hlf", **settings: Any) -> None:
        """Adds an organisation with an integration that is tested and enabled."""
        await self.service.organizations.create(org, org.upper())
        await self.service.integrations.create(
            org, "dynamics365", settings={**simulator.line["settings"], **settings},
            credentials=simulator.line["credentials"],
        )  # fmt: skip
        check = await self.service.integrations.test(org, "dynamics365")
        assert check.ok, check
        await self.service.integrations.enable(org, "dynamics365")

    async def ended(self, run: RunView, patience_s: float = PATIENCE_S) -> RunView:
        """Waits until a run is over."""
        async with asyncio.timeout(patience_s):
            while (run := await self.service.runs.get(run.organization, run.id)).is_live:
                await asyncio.sleep(0.05)
        return run

    async def order(self, org: str, plugin: str) -> RunView:
        """Orders a sync with a plugin that only the workers have."""
        with contextlib.suppress(ConflictError):
            await self.service.organizations.create(org, org.upper())
        pending = self.store.catalog.pending({}, {})
        integration = await self.store.catalog.add_integration(org, plugin, plugin, {}, pending)
        run = await self.store.runs.order(
            integration=integration, plugin_version="1", operation="sync", streams=["things"], full=False,
            reason="test", requested_by="test",
        )  # fmt: skip
        return await self.service.runs.get(org, run.id)

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(30)


@pytest.fixture
async def queue_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A Redis-compatible server of this test's own."""
    server = EmbeddedServer(tmp_path / "queue")
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture(scope="session")
def idle_simulators() -> Iterator[list[Simulator]]:
    """Simulators that a test is done with: to start one takes as long as many a test."""
    idle: list[Simulator] = []
    yield idle
    for simulator in idle:
        simulator.end()


@pytest.fixture
def simulator(idle_simulators: list[Simulator]) -> Iterator[Simulator]:
    """A simulator with a small membership, as it is at its start."""
    size = {"members": 300, "memberships": 300}
    words = (f"--{name}={number}" for name, number in size.items())
    running = idle_simulators.pop() if idle_simulators else started_simulator(*words)
    try:
        yield running
    finally:
        # What was told of changes, or has an answer held back, would reach into the next test.
        if running.was_set_otherwise or running.process.poll() is not None:
            running.end()
        else:
            running.control("reset", size)
            idle_simulators.append(running)


@pytest.fixture
async def hosts(database_url: str, queue_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Hosts]:
    """A migrated database, a queue and a service; start workers on it."""
    environment = {
        **os.environ,
        "SAMBAND_DATABASE_URL": database_url,
        "SAMBAND_REDIS_URL": queue_server.url,
        "SAMBAND_KEY": KEY,
        "SAMBAND_ALLOW_INSTALLED": "true",
        "SAMBAND_ALLOW_PRIVATE_HOSTS": "127.0.0.1",
        "SAMBAND_LEASE_S": "1.5",
        "SAMBAND_HEARTBEAT_S": "0.4",
        "SAMBAND_SWEEP_S": "0.3",
        "SAMBAND_LOG_LEVEL": "warning",
    }
    settings = load_settings(allow_installed=True, allow_private_hosts=("127.0.0.1",))
    registry = discover(settings, Redactor())
    store = Store.open(database_url, vault=Vault.from_secret(KEY))
    await store.migrate()
    bell = Doorbell(queue_server.url)
    running = Hosts(
        database_url,
        queue_server.url,
        store,
        Service(store=store, registry=registry, bell=bell),
        registry,
        environment,
        tmp_path / "workers.log",
    )
    try:
        yield running
    finally:
        running.stop()
        await bell.close()
        await registry.close()
        await store.close()


async def until(condition: Callable[[], Awaitable[bool]], patience_s: float = PATIENCE_S) -> None:
    """Waits until something has come true."""
    deadline = time.monotonic() + patience_s
    while not await condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)


PLUGIN_HEAD = """
import os, signal, time
from samband import (
    Check, CredentialsModel, Manifest, Page, Record, SettingsModel, Stream, Token, hookimpl
)
from pydantic import SecretStr

class Settings(SettingsModel): pass
class Credentials(CredentialsModel): pass

manifest = Manifest(
    name=__name__, title=__name__, version="1.0", settings=Settings, credentials=Credentials,
    streams=(Stream(name="things", kind="member", title="Things"),), capabilities=frozenset({"sync"}),
    field_classes=frozenset({"plain", "personal", "special"}),
)

@hookimpl
async def authenticate(ctx):
    return Token(value=SecretStr("a-token"))
"""


def install_plugin(folder: Path, name: str, body: str, *, head: str = PLUGIN_HEAD) -> None:
    """Puts a distribution with one plugin module where ``PYTHONPATH`` can point."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(head + body, "utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[samband.plugins]\n{name} = {name}\n", "utf-8")
    (info / "RECORD").write_text("", "utf-8")
