"""What the other side may do to a sync, from garbage rows to expired cursors, and what samband says and stores then."""

from __future__ import annotations

from typing import Any

import pytest

from samband.flow import Flow, FlowSettings
from samband.views import RunView

from .conftest import Hosts, Simulator


async def sync(hosts: Hosts, *, full: bool = False) -> RunView:
    """Carries one sync out in this process."""
    run = await hosts.service.trigger_sync("hlf", "dynamics365", full=full)
    return await execute(hosts, run)


async def execute(hosts: Hosts, run: RunView, *, max_attempts: int = 5) -> RunView:
    settings = FlowSettings(owner="test", max_attempts=max_attempts)
    flow = Flow(store=hosts.store, registry=hosts.registry, settings=settings)
    await flow.execute(run.id)
    return await hosts.service.runs.get(run.organization, run.id)


def strike(simulator: Simulator, fault: str, **how: Any) -> None:
    simulator.control("faults", {"fault": fault, "path": "^/api/data/.*contacts", **how})


async def failures(hosts: Hosts, run: RunView) -> dict[str, str | None]:
    page = await hosts.service.runs.outcomes("hlf", run.id, outcome="failed", limit=500)
    return {o.code or "": o.field for o in page.items if o.stream == "contacts"}


async def test_garbage_rows_are_outcomes_with_their_fields_and_the_rest_arrives(
    hosts: Hosts, simulator: Simulator
) -> None:
    await hosts.connect(simulator, page_size=100)
    names = ["duplicate_id", "null_id", "huge_string", "lone_surrogate", "year_one", "date_year_one",
             "beyond_64_bit", "unknown_choice", "wrong_type"]  # fmt: skip
    strike(simulator, "bad_rows", rows=names, times=1)
    run = await sync(hosts)
    assert "partial" == run.state, run
    found = await failures(hosts, run)
    assert "missing_key" in found
    assert "birth_date" in found.values()
    assert "status" in found.values()
    text = str(await hosts.service.runs.outcomes("hlf", run.id, outcome="failed", limit=500))
    assert len(text) < 20_000, "a value of two mebibytes was quoted"
    # What failed is read again, and whole, when everything is.
    healed = await sync(hosts, full=True)
    assert {} == await failures(hosts, healed)
    members = await hosts.service.records.page("hlf", "member", limit=500)
    assert 300 <= len(members.items)


async def test_delta_carries_exactly_what_changed(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    first = await sync(hosts)
    touched = simulator.control("touch", {"table": "contacts", "create": 4, "update": 7, "create_and_delete": 1})
    second = await sync(hosts)
    assert (4, 7) == (second.counts.created, second.counts.updated), (first, second, touched)
    assert "succeeded" == second.state
    third = await sync(hosts)
    assert 0 == third.counts.created + third.counts.updated + third.counts.deleted


async def test_expired_cursor_is_healed_by_a_full_read_that_finds_deletions(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    await sync(hosts)
    touched = simulator.control("touch", {"table": "contacts", "delete": 3})
    assert 3 == len(touched["changes"]["contacts"]["deleted"])
    simulator.control("config", {"delta_expiry": "now"})
    run = await sync(hosts)
    assert any("contacts" in note for note in run.notes), run
    assert 3 == run.counts.deleted
    assert 0 == run.counts.created
    changes = await hosts.service.records.changes("hlf", limit=10_000)
    assert 3 == sum(c.op == "deleted" for c in changes.items)


@pytest.mark.parametrize("fault", ["foreign_next_link", "loop_next_link", "repeat_next_link"])
async def test_next_link_that_leads_astray_ends_the_run_and_deletes_nothing(
    hosts: Hosts, simulator: Simulator, fault: str
) -> None:
    await hosts.connect(simulator, page_size=50)
    await sync(hosts)
    how = {"host": "127.0.0.1:9"} if fault == "foreign_next_link" else {}
    strike(simulator, fault, times=None, **how)
    run = await sync(hosts, full=True)
    assert "failed" == run.state
    assert run.error is not None
    assert run.error.code
    assert 0 == run.counts.deleted
    simulator.control("faults", {"clear": True})
    assert "failed" != (await sync(hosts, full=True)).state


async def test_long_throttle_gives_the_worker_back_and_the_run_resumes_at_its_cursor(
    hosts: Hosts, simulator: Simulator
) -> None:
    await hosts.connect(simulator, page_size=50)
    strike(simulator, "throttle", limit="requests", retry_after="120", times=1, skip=3)
    run = await sync(hosts)
    assert "waiting" == run.state
    assert run.error is not None
    assert "rate_limited" == run.error.code
    assert 3 == run.pages
    assert (run.available_at - run.created_at).total_seconds() > 100


async def test_outage_after_progress_is_waited_for_even_on_the_last_attempt(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=50)
    strike(simulator, "status", status=503, times=None, skip=3)
    run = await execute(hosts, await hosts.service.trigger_sync("hlf", "dynamics365"), max_attempts=1)
    assert ("waiting", 3, 0) == (run.state, run.pages, run.attempt), run
    assert run.error is not None
    assert "unavailable" == run.error.code


async def test_refused_secret_names_itself_and_asks_for_a_person(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator)
    integration = await hosts.store.catalog.integration("hlf", "dynamics365")
    wrong = {**simulator.line["credentials"], "client_secret": "canary-wrong-secret"}
    # As if it had been right when it was tested.
    await hosts.store.catalog.set_credentials(
        integration, hosts.store.catalog.pending(wrong, {}), check=integration.last_check
    )
    run = await sync(hosts)
    assert run.error is not None
    assert ("failed", "auth_secret_wrong") == (run.state, run.error.code)
    assert run.error.hint
    status = await hosts.service.get_integration_status("hlf", "dynamics365")
    assert "misconfigured" == status.connection
    assert "canary-wrong-secret" not in run.model_dump_json() + status.model_dump_json()
