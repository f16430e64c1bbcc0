"""A run that brings its worker down every time is given up after its attempts, and never becomes a loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Hosts, install_plugin, until

POISON = """
@hookimpl
async def sync(ctx, stream, cursor):
    os.kill(os.getpid(), signal.SIGKILL)
    yield Page(complete=True)
"""


@pytest.mark.crash
async def test_poison_run_ends_as_a_dead_letter(hosts: Hosts, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    install_plugin(plugins, "poison", POISON)
    run = await hosts.order("hlf", "poison")
    deaths = 0
    worker = hosts.start_worker(PYTHONPATH=str(plugins), SAMBAND_MAX_ATTEMPTS="3", SAMBAND_LEASE_S="1")

    async def is_over() -> bool:
        nonlocal worker, deaths
        if worker.poll() is not None:
            deaths += 1
            worker = hosts.start_worker(PYTHONPATH=str(plugins), SAMBAND_MAX_ATTEMPTS="3", SAMBAND_LEASE_S="1")
        return not (await hosts.service.runs.get("hlf", run.id)).is_live

    await until(is_over)
    ended = await hosts.service.runs.get("hlf", run.id)
    assert ended.error is not None
    assert ("failed", "worker_died") == (ended.state, ended.error.code)
    assert 3 == deaths
    assert worker.poll() is None
    (letter,) = (await hosts.service.runs.dead_letters("hlf")).items
    assert (run.id, 1, "worker_died") == (letter.run, letter.occurrences, letter.reason)
