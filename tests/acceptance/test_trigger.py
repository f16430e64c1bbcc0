"""Ordering a sync: one live run for each integration, and one run for each Idempotency-Key."""

from __future__ import annotations

import asyncio

import pytest

from samband.errors import AlreadyRunningError, ConflictError, InvalidError, NotFoundError
from samband.views import RunView

from .conftest import Hosts, Simulator


async def test_twenty_orders_at_once_start_one_run_and_all_learn_its_id(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator)
    orders = (hosts.service.trigger_sync("hlf", "dynamics365") for _ in range(20))
    answers = await asyncio.gather(*orders, return_exceptions=True)
    started = [a for a in answers if isinstance(a, RunView)]
    refused = [a for a in answers if isinstance(a, AlreadyRunningError)]
    assert (1, 19) == (len(started), len(refused)), answers
    assert {started[0].id} == {r.run_id for r in refused}


async def test_twenty_orders_with_one_key_are_one_order(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator)
    orders = (hosts.service.trigger_sync("hlf", "dynamics365", idempotency_key="order-1") for _ in range(20))
    answers = await asyncio.gather(*orders)
    assert 1 == len({a.id for a in answers})
    assert 19 == sum(a.replayed for a in answers)
    with pytest.raises(InvalidError) as caught:
        await hosts.service.trigger_sync("hlf", "dynamics365", full=True, idempotency_key="order-1")
    assert "idempotency_key_reused" == caught.value.code


async def test_key_of_one_organisation_means_nothing_to_another(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator)
    await hosts.connect(simulator, org="nbf")
    first = await hosts.service.trigger_sync("hlf", "dynamics365", idempotency_key="k")
    second = await hosts.service.trigger_sync("nbf", "dynamics365", idempotency_key="k")
    assert first.id != second.id
    with pytest.raises(NotFoundError):
        await hosts.service.runs.get("nbf", first.id)


async def test_untested_or_disabled_integration_does_not_run_and_says_what_is_needed(
    hosts: Hosts, simulator: Simulator
) -> None:
    await hosts.service.organizations.create("hlf", "HLF")
    await hosts.service.integrations.create("hlf", "dynamics365", settings=simulator.line["settings"])
    attempts = {
        "not_tested": hosts.service.integrations.enable,
        "not_enabled": hosts.service.trigger_sync,
    }
    for expected, attempt in attempts.items():
        with pytest.raises(ConflictError) as caught:
            await attempt("hlf", "dynamics365")
        assert expected == caught.value.code
        assert caught.value.hint
    with pytest.raises(ConflictError) as caught:
        await hosts.service.integrations.test("hlf", "dynamics365")
    assert "credentials_missing" == caught.value.code


async def test_unknown_stream_is_named_with_those_there_are(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator)
    with pytest.raises(InvalidError) as caught:
        await hosts.service.trigger_sync("hlf", "dynamics365", streams=["contact"])
    assert "contacts, staff, memberships" in caught.value.problems[0].message


async def test_settings_that_lead_elsewhere_forget_the_secret_and_ask_for_a_new_test(
    hosts: Hosts, simulator: Simulator
) -> None:
    await hosts.connect(simulator)
    settings = {**simulator.line["settings"], "page_size": 50}
    changed = await hosts.service.integrations.update("hlf", "dynamics365", settings=settings)
    assert ("saved", True) == (changed.state, bool(changed.credentials))
    elsewhere = {**settings, "authority_url": "https://login.example.org"}
    changed = await hosts.service.integrations.update("hlf", "dynamics365", settings=elsewhere)
    assert ("saved", {}) == (changed.state, changed.credentials)
    with pytest.raises(ConflictError) as caught:
        await hosts.service.integrations.test("hlf", "dynamics365")
    assert "credentials_missing" == caught.value.code


async def test_switching_off_is_not_undone_by_new_credentials(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator)
    seen_before = await hosts.store.catalog.integration("hlf", "dynamics365")
    await hosts.service.integrations.disable("hlf", "dynamics365")
    pending = hosts.store.catalog.pending(simulator.line["credentials"], {})
    assert "disabled" == (await hosts.store.catalog.set_credentials(seen_before, pending)).state
