"""Replacing credentials while everything goes on: tested first, swapped at once, and never a moment without."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from samband.acting import act_for
from samband.errors import ConflictError, InvalidError, NotReadyError
from samband.flow import Flow, FlowSettings
from samband.views import IntegrationView, RunView

from .conftest import Hosts, Simulator

SECOND = "second-secret-of-the-registration-4711"
TOKENS = "/oauth2/"


@pytest.fixture
async def enabled(hosts: Hosts, simulator: Simulator) -> Hosts:
    """An enabled integration of an application that has two secrets: one is in use."""
    await hosts.connect(simulator)
    first = simulator.line["credentials"]["client_secret"]
    client = simulator.line["credentials"]["client_id"]
    simulator.control("config", {"applications": [{"client_id": client, "secrets": {first: None, SECOND: None}}]})
    return hosts


def credentials(simulator: Simulator, secret: str) -> dict[str, Any]:
    return {**simulator.line["credentials"], "client_secret": secret}


async def replace(hosts: Hosts, simulator: Simulator, secret: str = SECOND, **how: Any) -> IntegrationView:
    return await hosts.service.integrations.set_credentials("hlf", "dynamics365", credentials(simulator, secret), **how)


async def sync(hosts: Hosts) -> RunView:
    run = await hosts.service.trigger_sync("hlf", "dynamics365")
    flow = Flow(store=hosts.store, registry=hosts.registry, settings=FlowSettings(owner="test"))
    await flow.execute(run.id)
    return await hosts.service.runs.get("hlf", run.id)


async def get(hosts: Hosts) -> IntegrationView:
    return await hosts.service.integrations.get("hlf", "dynamics365")


async def deeds(hosts: Hosts) -> list[tuple[str, str, dict[str, Any]]]:
    async with hosts.store.database.read() as conn:
        rows = await conn.execute(
            sa.text("SELECT action, actor, detail FROM audit_entry WHERE action LIKE 'credentials.%' ORDER BY seq")
            .columns(detail=sa.JSON)
        )  # fmt: skip
        return [(row.action, row.actor, row.detail) for row in rows]


async def test_new_credentials_that_work_replace_the_old_ones_and_nothing_else_changes(
    enabled: Hosts, simulator: Simulator
) -> None:
    assert "succeeded" == (await sync(enabled)).state
    before = await get(enabled)
    with act_for(actor="key:k1 kari"):
        after = await replace(enabled, simulator)
    assert ("enabled", "4711") == (after.state, after.credentials["client_secret"])
    assert after.credentials_updated_at is not None
    assert before.credentials_updated_at is not None
    assert after.credentials_updated_at > before.credentials_updated_at
    assert after.revision > before.revision
    assert after.last_check is not None
    assert after.last_check.ok
    simulator.control("config", {"secret": {"rotate": SECOND}})
    simulator.control("config", {"revoke_tokens": True})
    run = await sync(enabled)
    assert ("succeeded", False) == (run.state, run.full)
    facts = await enabled.store.catalog.credential_facts([after.id])
    assert after.revision == facts[after.id].revision
    told = await deeds(enabled)
    assert [("credentials.set", "samband"), ("credentials.replaced", "key:k1 kari")] == [t[:2] for t in told]
    assert ["client_id", "client_secret"] == told[-1][2]["fields"]
    assert told[-1][2]["tested"] is True


async def test_credentials_that_are_refused_leave_the_old_ones_in_force(enabled: Hosts, simulator: Simulator) -> None:
    assert "succeeded" == (await sync(enabled)).state
    before = await get(enabled)
    with pytest.raises(ConflictError) as refused:
        await replace(enabled, simulator, "canary-wrong-secret-0815")
    assert "credentials_refused" == refused.value.code
    assert "AADSTS7000215" in refused.value.remote_message
    assert refused.value.hint
    assert "canary-wrong-secret" not in f"{refused.value}{refused.value.remote_message}"
    assert before == await get(enabled)
    assert "succeeded" == (await sync(enabled)).state
    status = await enabled.service.get_integration_status("hlf", "dynamics365")
    assert "connected" == status.connection
    assert ["credentials.set", "credentials.refused"] == [t[0] for t in await deeds(enabled)]


async def test_trial_neither_uses_nor_keeps_a_token(enabled: Hosts, simulator: Simulator) -> None:
    assert "succeeded" == (await sync(enabled)).state
    # The present token would still be good: a wrong secret must be noticed all the same, and the token stay.
    with pytest.raises(ConflictError):
        await replace(enabled, simulator, "wrong-secret-entirely")
    simulator.control("faults", {"fault": "status", "status": 503, "path": TOKENS, "times": None})
    assert "succeeded" == (await sync(enabled)).state


async def test_trouble_at_the_other_side_leaves_the_old_ones_and_names_the_way_out(
    enabled: Hosts, simulator: Simulator
) -> None:
    before = await get(enabled)
    simulator.control("faults", {"fault": "status", "status": 503, "path": TOKENS, "times": None})
    with pytest.raises(NotReadyError) as untested:
        await replace(enabled, simulator)
    assert "credentials_untested" == untested.value.code
    assert "test: false" in untested.value.hint
    assert before == await get(enabled)
    after = await replace(enabled, simulator, test=False)
    assert ("saved", None, "4711") == (after.state, after.last_check, after.credentials["client_secret"])
    with pytest.raises(ConflictError) as refused:
        await enabled.service.integrations.enable("hlf", "dynamics365")
    assert "not_tested" == refused.value.code


async def test_edit_during_the_test_is_not_overwritten(enabled: Hosts, simulator: Simulator) -> None:
    before = await get(enabled)
    simulator.control("faults", {"fault": "slow_first_byte", "seconds": 1, "path": "WhoAmI", "times": 1})

    async def rename() -> None:
        await asyncio.sleep(0.4)
        await enabled.service.integrations.update("hlf", "dynamics365", display_name="Renamed")

    after, _ = await asyncio.gather(replace(enabled, simulator), rename())
    assert ("enabled", "Renamed", "4711") == (after.state, after.display_name, after.credentials["client_secret"])
    assert after.revision == before.revision + 2


async def test_integration_that_is_switched_off_during_the_test_stays_off_and_untested(
    enabled: Hosts, simulator: Simulator
) -> None:
    simulator.control("faults", {"fault": "slow_first_byte", "seconds": 1, "path": "WhoAmI", "times": 1})

    async def switch_off() -> None:
        await asyncio.sleep(0.4)
        await enabled.service.integrations.disable("hlf", "dynamics365")

    after, _ = await asyncio.gather(replace(enabled, simulator), switch_off())
    assert ("disabled", None) == (after.state, after.last_check)


async def test_stale_revision_is_refused_before_anything_is_tried(enabled: Hosts, simulator: Simulator) -> None:
    before = await get(enabled)
    with pytest.raises(ConflictError) as refused:
        await replace(enabled, simulator, if_revision=before.revision - 1)
    assert "revision_mismatch" == refused.value.code
    assert "4711" == (await replace(enabled, simulator, if_revision=before.revision)).credentials["client_secret"]


async def test_end_of_credentials_is_kept_shown_and_found(enabled: Hosts, simulator: Simulator) -> None:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    for wrong in (now - dt.timedelta(days=1), now + dt.timedelta(days=40_000)):
        with pytest.raises(InvalidError) as refused:
            await replace(enabled, simulator, expires_at=wrong)
        assert ["expires_at"] == [p.field for p in refused.value.problems]
    after = await replace(enabled, simulator, expires_at=now + dt.timedelta(days=10))
    assert now + dt.timedelta(days=10) == after.credentials_expire_at
    found = await enabled.store.catalog.expiring_credentials(now + dt.timedelta(days=14))
    assert [("hlf", after.id, "dynamics365", "enabled", now + dt.timedelta(days=10))] == [
        (e.organization_id, e.integration_id, e.plugin, e.state, e.expires_at) for e in found
    ]
    assert [] == await enabled.store.catalog.expiring_credentials(now + dt.timedelta(days=9))
    assert (await replace(enabled, simulator)).credentials_expire_at is None


# ── never enabled without credentials ────────────────────────────────────────


async def test_integration_without_credentials_is_not_enabled(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.service.organizations.create("hlf", "HLF")
    await hosts.service.integrations.create("hlf", "dynamics365", settings=simulator.line["settings"])
    integration = await hosts.store.catalog.integration("hlf", "dynamics365")
    with pytest.raises(ConflictError) as refused:
        await hosts.store.catalog.change_integration(integration, state="enabled")
    assert "credentials_missing" == refused.value.code


@pytest.mark.parametrize("statement", ["DELETE FROM credential", "INSERT INTO x"], ids=["taken away", "switched on"])
async def test_database_itself_refuses_an_enabled_integration_without_credentials(
    enabled: Hosts, statement: str
) -> None:
    if statement == "INSERT INTO x":
        await enabled.service.integrations.disable("hlf", "dynamics365")
        async with enabled.store.database.write() as conn:
            await conn.execute(sa.text("DELETE FROM credential"))
        statement = "UPDATE integration SET state = 'enabled'"
    with pytest.raises(sa.exc.IntegrityError):
        async with enabled.store.database.write() as conn:
            await conn.execute(sa.text(statement))


async def test_switching_on_and_forgetting_credentials_at_once_never_end_without_any(
    enabled: Hosts, simulator: Simulator
) -> None:
    catalog = enabled.store.catalog
    for _ in range(10):
        await replace(enabled, simulator, test=False)
        integration = await catalog.integration("hlf", "dynamics365")
        await asyncio.gather(
            catalog.change_integration(integration, state="enabled"),
            catalog.change_integration(integration, forget_credentials=True),
            return_exceptions=True,
        )
        now = await catalog.integration("hlf", "dynamics365")
        assert now.state != "enabled" or await catalog.credentials(now) is not None


async def test_revision_of_credentials_grows_over_a_time_without_any(enabled: Hosts, simulator: Simulator) -> None:
    seen = []
    for _ in range(3):
        view = await replace(enabled, simulator, test=False)
        seen.append((await enabled.store.catalog.credential_facts([view.id]))[view.id].revision)
        integration = await enabled.store.catalog.integration("hlf", "dynamics365")
        await enabled.store.catalog.change_integration(integration, forget_credentials=True)
        assert {} == await enabled.store.catalog.credential_facts([view.id])
    assert seen == sorted(set(seen))
