"""The same pull through samband's own line: adapter, intake, page commits. One process, one database.

``python tests/benchmarks/host_pull.py URL DATABASE_URL MODE`` with MODE ``first``, ``again`` (a full read of unchanged
data) or ``delta`` prints one JSON line. Everything a run does is done: token, lease, heartbeat, validation, outcomes,
changes, outbox.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time

import structlog

from samband.flow import Flow, FlowSettings
from samband.hosting.installed import discover
from samband.hosting.interpreter import tune_interpreter
from samband.redaction import Redactor
from samband.service import Service
from samband.settings import load_settings
from samband.store import Store, Vault

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


class NoBell:
    """There is no queue here: the run is executed by hand."""

    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool:
        return False

    async def ping(self) -> float | None:
        return None

    async def depth(self) -> int | None:
        return None


async def pull(url: str, database_url: str, mode: str) -> dict[str, object]:
    """Runs one sync and gives what it cost."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    settings = load_settings(allow_installed=True, allow_private_hosts=("127.0.0.1",))
    registry = discover(settings, Redactor())
    store = Store.open(database_url, vault=Vault.from_secret(KEY))
    await store.migrate()
    service = Service(store=store, registry=registry, bell=NoBell())
    if mode == "first":
        await service.organizations.create("bench", "Benchmark")
        await service.integrations.create(
            "bench", "dynamics365",
            settings={"environment_url": url, "tenant_id": "11111111-1111-4111-8111-111111111111", "authority_url": url},
            credentials={"client_id": "22222222-2222-4222-8222-222222222222", "client_secret": "benchmark-secret-value"},
        )  # fmt: skip
        integration = await store.catalog.integration("bench", "dynamics365")
        await store.catalog.change_integration(integration, state="enabled")
    run = await service.trigger_sync("bench", "dynamics365", streams=["contacts"], full=mode == "again")
    tune_interpreter()
    flow = Flow(store=store, registry=registry, settings=FlowSettings(owner="benchmark"))
    cpu, start = time.process_time(), time.perf_counter()
    await flow.execute(run.id)
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    done = await service.runs.get("bench", run.id)
    await registry.close()
    await store.close()
    total = max(done.counts.total, 1)
    return {
        "mode": mode,
        "state": done.state,
        "error": None if done.error is None else done.error.message,
        "counts": {k: v for k, v in done.counts.model_dump().items() if v},
        "seconds": round(seconds, 3),
        "records_per_s": round(done.counts.total / seconds),
        "cpu_s_per_1000": round(cpu_s / total * 1000, 5),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(pull(*sys.argv[1:4]))))
