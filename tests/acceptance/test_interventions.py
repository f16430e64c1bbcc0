"""People step in while workers come and go: a held run is decided on, a run is cancelled, whoever has died meanwhile."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from samband.views import RunView

from .conftest import Hosts, Simulator, install_plugin, until
from .stalling import stop_between_transactions

READS_A_FILE = """
@hookimpl
async def sync(ctx, stream, cursor):
    with open(os.environ["PEOPLE_FILE"], encoding="utf-8") as file:
        keys = file.read().split()
    yield Page(records=[Record(key=key, values={"status": "active"}) for key in keys], cursor="1", complete=True)
"""
NEVER_ANSWERS = """
import asyncio

@hookimpl
async def sync(ctx, stream, cursor):
    yield Page(records=[Record(key="a", values={"status": "active"})], cursor="1")
    await asyncio.sleep(3600)
    yield Page(records=[Record(key="b", values={"status": "active"})], cursor="2", complete=True)
"""


@pytest.fixture
def folder(hosts: Hosts, tmp_path: Path) -> Path:
    path = tmp_path / "plugins"
    hosts.environment["PYTHONPATH"] = os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])
    return path


async def in_state(hosts: Hosts, run: RunView, state: str) -> RunView:
    async def is_there() -> bool:
        return (await hosts.service.runs.get(run.organization, run.id)).state == state

    await until(is_there)
    return await hosts.service.runs.get(run.organization, run.id)


async def again(hosts: Hosts, plugin: str) -> RunView:
    """Orders a full read with a plugin that only the workers have."""
    integration = await hosts.store.catalog.integration("hlf", plugin)
    run = await hosts.store.runs.order(
        integration=integration, plugin_version="1", operation="sync", streams=["things"], full=True, reason="test",
        requested_by="test",
    )  # fmt: skip
    return await hosts.service.runs.get("hlf", run.id)


@pytest.mark.crash
async def test_held_run_outlives_its_worker_and_another_one_carries_out_what_was_approved(
    hosts: Hosts, folder: Path, tmp_path: Path
) -> None:
    install_plugin(folder, "filed", READS_A_FILE)
    people = tmp_path / "people"
    people.write_text(" ".join(f"p{n}" for n in range(60)), "utf-8")
    hosts.environment["PEOPLE_FILE"] = str(people)
    worker = hosts.start_worker()
    first = await hosts.ended(await hosts.order("hlf", "filed"))
    assert ("succeeded", 60) == (first.state, first.counts.created)
    people.write_text("", "utf-8")
    held = await in_state(hosts, await again(hosts, "filed"), "held")
    assert held.brake is not None
    assert (60, 60) == (held.brake.would_delete, held.brake.held)
    hosts.kill(worker, signal.SIGKILL)
    await hosts.service.runs.approve("hlf", held.id, reason="The association has been closed.")
    hosts.start_worker()
    done = await hosts.ended(held)
    assert ("succeeded", 60) == (done.state, done.counts.deleted)


@pytest.mark.crash
async def test_run_that_waits_for_an_answer_is_cancelled_and_its_worker_is_free_again(
    hosts: Hosts, folder: Path, tmp_path: Path
) -> None:
    install_plugin(folder, "mute", NEVER_ANSWERS)
    install_plugin(folder, "filed", READS_A_FILE)
    (tmp_path / "people").write_text("p1 p2", "utf-8")
    hosts.environment["PEOPLE_FILE"] = str(tmp_path / "people")
    worker = hosts.start_worker(SAMBAND_WORKER_CONCURRENCY="1")
    stuck = await in_state(hosts, await hosts.order("hlf", "mute"), "running")

    async def has_a_page() -> bool:
        return (await hosts.store.feeds.run("hlf", stuck.id)).pages == 1

    await until(has_a_page)
    await hosts.service.runs.cancel("hlf", stuck.id)
    ended = await hosts.ended(stuck)
    assert ("cancelled", 1) == (ended.state, ended.counts.created)
    assert "succeeded" == (await hosts.ended(await hosts.order("hlf", "filed"))).state

    # And the same when the worker is killed before it has noticed.
    stuck = await in_state(hosts, await again(hosts, "mute"), "running")
    await stop_between_transactions(hosts, worker)
    asked = await hosts.service.runs.cancel("hlf", stuck.id)
    hosts.kill(worker)
    assert asked.cancel_requested_at is not None
    hosts.start_worker()
    assert "cancelled" == (await hosts.ended(stuck)).state


async def test_membership_data_of_dynamics_is_synced_with_the_people_it_refers_to(
    hosts: Hosts, simulator: Simulator
) -> None:
    await hosts.connect(simulator)
    hosts.start_worker()
    (ordered,) = (await hosts.service.sync_membership_data("hlf", requested_by="platform")).runs
    assert ["contacts", "staff", "memberships"] == ordered.streams
    run = await hosts.ended(ordered)
    assert "succeeded" == run.state
    for kind in ("member", "membership"):
        assert (await hosts.service.records.page("hlf", kind, limit=1)).items
    account = await hosts.store.feeds.run("hlf", run.id)
    assert account.account.startswith("dynamics365/")
