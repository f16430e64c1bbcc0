"""Measures the time from a ring to the start of its run on the bundled server, and prints one JSON object.

Run it with ``python tests/benchmarks/trigger_latency.py [rings]``.
"""

from __future__ import annotations

import asyncio
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from samband.hosting.embedded import EmbeddedServer
from samband.queue import Doorbell
from samband.worker import RunWorker

IDLE_S = 10.0
BURST = 2000


async def no_runs(limit: int) -> Sequence[str]:
    return []


def percentile(sorted_ms: list[float], share: float) -> float:
    return round(sorted_ms[min(len(sorted_ms) - 1, int(len(sorted_ms) * share))], 2)


async def measure(rings: int, data_dir: Path) -> dict[str, object]:
    server = EmbeddedServer(data_dir)
    begun = time.perf_counter()
    url = await server.start()
    server_start_ms = (time.perf_counter() - begun) * 1000
    started: dict[str, float] = {}

    all_started = asyncio.Event()

    async def execute(run_id: str) -> None:
        started[run_id] = time.perf_counter()
        if len(started) == rings + BURST:
            all_started.set()

    bell = Doorbell(url)
    worker = RunWorker(redis_url=url, execute=execute, due=no_runs, concurrency=8)
    working = asyncio.create_task(worker.run())
    await asyncio.sleep(0.5)
    rung: dict[str, float] = {}
    for number in range(rings):
        rung[f"run-{number}"] = time.perf_counter()
        await bell.ring(f"run-{number}")
        await asyncio.sleep(random.uniform(0.005, 0.025))
    await asyncio.sleep(0.5)
    latencies = sorted((started[run_id] - when) * 1000 for run_id, when in rung.items() if run_id in started)
    cpu, clock = time.process_time(), time.perf_counter()
    await asyncio.sleep(IDLE_S)
    idle_cpu_percent = (time.process_time() - cpu) / (time.perf_counter() - clock) * 100

    burst = [f"burst-{number}" for number in range(BURST)]
    clock = time.perf_counter()
    await bell.ring_all(burst)
    async with asyncio.timeout(60):
        await all_started.wait()
    burst_s = time.perf_counter() - clock
    await worker.stop()
    await working
    await bell.close()
    await server.stop()
    return {
        "python": platform.python_version(),
        "server_start_ms": round(server_start_ms, 1),
        "rings": rings,
        "executed": len(latencies),
        "p50_ms": percentile(latencies, 0.5),
        "p99_ms": percentile(latencies, 0.99),
        "max_ms": round(latencies[-1], 2),
        "idle_cpu_percent": round(idle_cpu_percent, 2),
        "burst_runs_per_s": round(BURST / burst_s),
    }


def main() -> None:
    rings = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory(prefix="samband-bench-") as folder:
        print(json.dumps(asyncio.run(measure(rings, Path(folder) / "queue")), indent=2))


if __name__ == "__main__":
    main()
