"""Deliveries while processes are killed, and the whole way from a change at the other side to a changed record."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa
from standardwebhooks import Webhook

from .conftest import PATIENCE_S, Hosts, Simulator, install_plugin, until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DELIVERIES = 400
SENDERS = 16
API_KILLS = 6
WORKER_KILLS = 3

TOLD_HEAD = """
from pydantic import SecretStr
from samband import (
    CredentialsModel, Manifest, Page, SettingsModel, Stream, Token, Trigger, hookimpl, webhooks
)

class Settings(SettingsModel): pass
class Credentials(CredentialsModel): pass

manifest = Manifest(
    name=__name__, title=__name__, version="1.0", settings=Settings, credentials=Credentials,
    streams=(Stream(name="things", kind="member", title="Things"),),
    capabilities=frozenset({"sync", "webhook"}), webhook="standard-webhooks",
)

@hookimpl
async def authenticate(ctx):
    return Token(value=SecretStr("a-token"))

@hookimpl
async def sync(ctx, stream, cursor):
    yield Page(complete=True)

@hookimpl
async def handle_webhook(ctx, request):
    webhooks.verify_standard_webhooks(request)
    return [Trigger(stream="things", keys=[webhooks.json_object(request)["thing"]])]
"""


@dataclass
class Api:
    """An API process that can be killed and started again at the same address."""

    hosts: Hosts
    environment: dict[str, str]
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def spawn(self) -> subprocess.Popen[bytes]:
        with self.hosts.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "samband", "serve"],
                env={**self.hosts.environment, "SAMBAND_PORT": str(self.port), **self.environment},
                stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip

    async def start(self) -> None:
        self.process = self.spawn()
        self.hosts.processes.append(self.process)
        async with aiohttp.ClientSession() as http:

            async def answers() -> bool:
                assert self.process is not None
                assert self.process.poll() is None, self.hosts.log.read_text("utf-8")[-2000:]
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"{self.url}/livez") as answer:
                        return answer.status == 200
                return False

            await until(answers)

    def kill(self, with_signal: signal.Signals = signal.SIGKILL) -> None:
        assert self.process is not None
        self.hosts.kill(self.process, with_signal)


@dataclass
class History:
    """What the senders saw: which ids were acknowledged, and how often anything else came back."""

    acknowledged: dict[str, list[int]] = field(default_factory=dict)
    lost_answers: int = 0
    refused: list[int] = field(default_factory=list)


async def send_until_acknowledged(http: aiohttp.ClientSession, url: str, id: str, history: History) -> None:
    """Does what a sender does: signs anew for each try, and tries until it gets a 2xx."""
    body = f'{{"thing": "{id}"}}'
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        now = dt.datetime.now(dt.UTC)
        headers = {
            "webhook-id": id, "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(SECRET).sign(id, now, body),
        }  # fmt: skip
        try:
            async with http.post(url, data=body, headers=headers) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            history.lost_answers += 1
            await asyncio.sleep(0.05)
            continue
        if 200 <= status < 300:
            history.acknowledged.setdefault(id, []).append(status)
            return
        history.refused.append(status)
        await asyncio.sleep(0.05)
    raise AssertionError(f"{id} was never acknowledged")


async def connect(hosts: Hosts, api: Api, type: str) -> tuple[str, str]:
    """Adds an enabled integration with an address; gives the address and its id."""
    await hosts.service.organizations.create("hlf", "HLF")
    pending = hosts.store.catalog.pending({}, {})
    integration = await hosts.store.catalog.add_integration("hlf", type, type, {}, pending)
    await hosts.store.catalog.change_integration(integration, state="enabled")
    key = await hosts.service.create_key("test", verbs=["configure"], organizations=None)
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http,
        http.put(f"{api.url}/v1/organizations/hlf/integrations/{type}/webhook", json={"secret": SECRET}) as answer,
    ):
        told = await answer.json()
        assert 200 == answer.status, told
    return f"{api.url}{told['address']}", integration.id


@pytest.mark.crash
async def test_every_acknowledged_delivery_is_there_once_and_processed_once(hosts: Hosts, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    plugins = tmp_path / "plugins"
    install_plugin(plugins, "told", "", head=TOLD_HEAD)
    environment = {"PYTHONPATH": str(plugins)}
    api = Api(hosts, environment)
    await api.start()
    worker = hosts.start_worker(**environment)
    url, integration_id = await connect(hosts, api, "told")
    ids = [f"msg_{n}" for n in range(DELIVERIES)]
    # Some are sent twice, by senders that do not know of each other.
    work: asyncio.Queue[str] = asyncio.Queue()
    for id in rng.sample(ids + ids[::10], len(ids) + len(ids[::10])):
        work.put_nowait(id)
    history = History()

    async def sender(http: aiohttp.ClientSession) -> None:
        while not work.empty():
            await send_until_acknowledged(http, url, work.get_nowait(), history)
            await asyncio.sleep(rng.uniform(0, 0.2))

    async def nemesis() -> None:
        nonlocal worker
        blows = ["api"] * API_KILLS + ["worker"] * WORKER_KILLS
        rng.shuffle(blows)
        for blow in blows:
            await asyncio.sleep(rng.uniform(0.1, 0.6))
            if blow == "api":
                api.kill()
                await api.start()
            else:
                hosts.kill(worker)
                worker = hosts.start_worker(**environment)

    timeout = aiohttp.ClientTimeout(total=15)
    async with aiohttp.ClientSession(timeout=timeout) as http, asyncio.TaskGroup() as group:
        for _ in range(SENDERS):
            group.create_task(sender(http))
        group.create_task(nemesis())

    async def is_quiet() -> bool:
        async with hosts.store.database.read() as conn:
            waiting = await conn.scalar(sa.text("SELECT count(*) FROM inbox WHERE state <> 'processed'"))
            alive = await conn.scalar(sa.text("SELECT count(*) FROM run WHERE finished_at IS NULL"))
        return not waiting and not alive

    await until(is_quiet, 120)
    async with hosts.store.database.read() as conn:
        rows = list(await conn.execute(sa.text("SELECT * FROM inbox")))
        runs = {row.id: row for row in await conn.execute(sa.text("SELECT * FROM run"))}
    assert set(ids) == set(history.acknowledged), seed
    # Once each: as many rows as ids, no two of one name, each taken up by one run that succeeded.
    assert (len(ids), len(ids)) == (len(rows), len({row.delivery_key for row in rows})), seed
    assert {integration_id} == {row.integration_id for row in rows}
    assert {"succeeded"} == {runs[row.run_id].state for row in rows}, seed
    # 202 is said once for each id at most: the answer to the first may have been lost with its process.
    assert max(statuses.count(202) for statuses in history.acknowledged.values()) == 1, seed
    assert {503} >= set(history.refused), (seed, history.refused)
    assert history.lost_answers > 0, "nothing was killed in the middle of anything"


@pytest.mark.crash
async def test_stop_in_good_order_loses_no_answer_that_was_due(hosts: Hosts, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    install_plugin(plugins, "told", "", head=TOLD_HEAD)
    api = Api(hosts, {"PYTHONPATH": str(plugins)})
    await api.start()
    url, _ = await connect(hosts, api, "told")
    history = History()

    async def sender(http: aiohttp.ClientSession, mark: int) -> None:
        for n in range(100):
            await send_until_acknowledged(http, url, f"msg_{mark}_{n}", history)

    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        for mark in range(8):
            group.create_task(sender(http, mark))
        await asyncio.sleep(0.5)
        api.kill(signal.SIGTERM)
        assert api.process is not None
        assert 0 == api.process.returncode
        await api.start()
    assert [] == history.refused
    async with hosts.store.database.read() as conn:
        assert 800 == await conn.scalar(sa.text("SELECT count(*) FROM inbox"))


async def test_change_at_the_other_side_reaches_the_record(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator)
    hosts.start_worker()
    await hosts.ended(await hosts.service.trigger_sync("hlf", "dynamics365"))
    api = Api(hosts, {})
    await api.start()
    view = await hosts.service.webhooks.put("hlf", "dynamics365")
    assert view.secret is not None
    order = {"url": f"{api.url}{view.address}", "value": view.secret, "tables": ["contacts"]}
    await asyncio.to_thread(simulator.control, "webhooks", order)
    before = await hosts.service.records.changes("hlf", after=0, limit=10_000)
    touched = await asyncio.to_thread(
        simulator.control, "touch", {"table": "contacts", "create": 2, "update": 3, "delete": 1}
    )
    expected = touched["expected"]["contacts"]

    async def arrived() -> Any:
        feed = await hosts.service.records.changes("hlf", after=before.next, limit=10_000)
        ops = [change.op for change in feed.items if change.kind == "member"]
        return len(ops) >= expected["upserts"] + expected["deletions"] and ops

    await until(arrived)
    ops = await arrived()
    assert (2, 3, 1) == tuple(ops.count(op) for op in ("created", "updated", "deleted"))
    runs = await hosts.service.runs.page("hlf", type="dynamics365")
    assert {"webhook"} == {run.reason for run in runs.items[:-1]}

    # Everything once more, in another order and twice: nothing changes.
    shown = await hosts.service.webhooks.deliveries("hlf", "dynamics365", limit=100)
    ids = [item.id for item in shown.items]
    random.Random(1).shuffle(ids)
    for _ in range(2):
        await hosts.service.webhooks.replay("hlf", "dynamics365", ids=ids)

    async def settled() -> bool:
        figures = await hosts.service.webhooks.get("hlf", "dynamics365")
        alive = [r for r in (await hosts.service.runs.page("hlf")).items if r.is_live]
        return not figures.waiting and not alive

    await until(settled)
    assert ops == await arrived()
