"""From a trigger over HTTP to the first line of the adapter's code, and the API's pace beside a plugin that spins.

Run it with ``python tests/benchmarks/trigger_http.py [triggers]``; it prints one JSON object. The bare loop in the same
run is an aiohttp handler that commits one row to SQLite (synchronous=FULL) and starts a coroutine.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from samband.client import Client

PLUGIN = """
import os, time
from samband import CredentialsModel, Manifest, Page, SettingsModel, Stream, Token, hookimpl
from pydantic import SecretStr

class Settings(SettingsModel): pass
class Credentials(CredentialsModel): pass

manifest = Manifest(
    name=__name__, title=__name__, version="1.0", settings=Settings, credentials=Credentials,
    streams=(Stream(name="things", kind="member", title="Things"),), capabilities=frozenset({"sync"}),
)

@hookimpl
async def authenticate(ctx):
    return Token(value=SecretStr("a-token"))

@hookimpl
async def sync(ctx, stream, cursor):
    with open(os.environ["BENCH_STARTS"], "a") as file:
        file.write(f"{ctx.run_id} {time.perf_counter()}\\n")
    until = time.perf_counter() + SPIN_S
    while time.perf_counter() < until:
        pass
    yield Page(complete=True, cursor="c")
"""


def install(folder: Path, name: str, spin_s: float) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(f"SPIN_S = {spin_s}\n{PLUGIN}", "utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[samband.plugins]\n{name} = {name}\n", "utf-8")
    (info / "RECORD").write_text("", "utf-8")


def percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    at = {"p50_ms": 0.5, "p99_ms": 0.99}
    told = {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 2) for name, share in at.items()
    }
    return told | {"max_ms": round(ordered[-1] * 1000, 2)}


async def connect(host: Client, plugin: str) -> None:
    await host.create_organization(plugin, plugin)
    await host.create_integration(plugin, plugin, settings={}, credentials={})
    assert (await host.test_integration(plugin, plugin)).ok
    await host.enable_integration(plugin, plugin)


def starts_in(file: Path) -> dict[str, float]:
    return {run_id: float(at) for run_id, at in (line.split() for line in file.read_text().splitlines())}


async def trigger_often(host: Client, triggers: int, starts: Path) -> list[float]:
    asked: dict[str, float] = {}
    for _ in range(triggers):
        before = time.perf_counter()
        run = await host.trigger_sync("quick", "quick")
        asked[run.id] = before
        await host.wait(run)
    began = starts_in(starts)
    return [began[run_id] - when for run_id, when in asked.items()]


async def ask_beside_spinning(host: Client, asks: int) -> list[float]:
    run = await host.trigger_sync("spinning", "spinning")
    await asyncio.sleep(0.5)
    took: list[float] = []
    for _ in range(asks):
        before = time.perf_counter()
        await host.get_integration_status("spinning", "spinning")
        took.append(time.perf_counter() - before)
    await host.wait(run)
    return took


async def bare(folder: Path, triggers: int) -> list[float]:
    """A handler that commits a row and starts a coroutine, and nothing else."""
    database = sqlite3.connect(folder / "bare.db", isolation_level=None, check_same_thread=False)
    database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE run (id INTEGER)")
    began: dict[int, float] = {}
    tasks: set[asyncio.Task[None]] = set()

    async def work(number: int) -> None:
        began[number] = time.perf_counter()

    async def handle(request: web.Request) -> web.Response:
        number = (await request.json())["number"]
        await asyncio.to_thread(database.execute, "INSERT INTO run VALUES (?)", (number,))
        tasks.add(asyncio.create_task(work(number)))
        return web.json_response({"number": number}, status=202)

    app = web.Application()
    app.router.add_post("/runs", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/runs"
    asked: dict[int, float] = {}
    async with aiohttp.ClientSession() as session:
        for number in range(triggers):
            asked[number] = time.perf_counter()
            async with session.post(url, json={"number": number}) as answer:
                await answer.read()
            await asyncio.gather(*tasks)
    await runner.cleanup()
    database.close()
    return [began[number] - when for number, when in asked.items()]


def start_host(folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "samband", "up", "--data-dir", str(folder / "data"), "--port", "0", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip


async def measure(folder: Path, triggers: int) -> dict[str, Any]:
    install(folder / "plugins", "quick", 0.0)
    install(folder / "plugins", "spinning", 5.0)
    starts = folder / "starts"
    starts.touch()
    environment = {
        **os.environ, "PYTHONPATH": str(folder / "plugins"), "BENCH_STARTS": str(starts), "SAMBAND_ALLOW_INSTALLED": "true",
        "SAMBAND_LOG_LEVEL": "warning",
    }  # fmt: skip
    process = start_host(folder, environment)
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        async with Client(ready["url"], ready["admin_key"]) as host:
            await connect(host, "quick")
            await connect(host, "spinning")
            await trigger_often(host, 10, starts)
            latencies = await trigger_often(host, triggers, starts)
            beside = await ask_beside_spinning(host, 100)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()
    return {
        "triggers": triggers,
        "request_to_adapter": percentiles(latencies),
        "bare_request_to_coroutine": percentiles(await bare(folder, triggers)),
        "status_beside_a_spinning_plugin": percentiles(beside),
    }


def main() -> None:
    triggers = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory(prefix="samband-bench-") as folder:
        print(json.dumps(asyncio.run(measure(Path(folder), triggers)), indent=2))


if __name__ == "__main__":
    main()
