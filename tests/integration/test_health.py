"""Alerts are told once when a trouble begins and once when it is over; probes are shared between processes."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import sqlalchemy as sa

from samband.rules.findings import Condition, Finding, Unfinished, findings
from samband.rules.freshness import Expectation
from samband.store import Store, Vault
from samband.store.connections import move_connection
from samband.store.models import Integration

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def condition(**values: Any) -> Condition:
    told = {
        "organization_id": "hlf", "integration_id": "i1", "plugin": "crm", "connection": "connected",
        "connection_since": NOW, "expected": None,
    }  # fmt: skip
    return Condition(**told | values)


def kinds(**values: Any) -> list[str]:
    return [f.kind for f in findings(condition(**values), NOW)]


def test_each_trouble_has_its_kind() -> None:
    assert [] == kinds()
    assert ["needs_reauthentication"] == kinds(connection="needs_reauthentication")
    assert ["misconfigured"] == kinds(connection="misconfigured")
    assert [] == kinds(connection="degraded", connection_since=NOW - dt.timedelta(minutes=9))
    assert ["degraded"] == kinds(connection="degraded", connection_since=NOW - dt.timedelta(minutes=10))
    assert ["credentials_expiring"] == kinds(credentials_expire_at=NOW + 14 * DAY)
    assert [] == kinds(credentials_expire_at=NOW + 14 * DAY + dt.timedelta(seconds=1))
    assert ["credentials_expired"] == kinds(credentials_expire_at=NOW)
    assert ["runs_failing"] == kinds(failures_in_row=2)
    assert [] == kinds(failures_in_row=1)
    assert ["run_held", "dead_letter", "run_stalled"] == kinds(held_run="r", open_letters=1, stalled_run="r")
    assert ["export_uncertain"] == kinds(uncertain_items=1)
    assert ["export_refused", "export_stuck"] == kinds(exports=Unfinished(refused=1, stuck=1))
    assert ["export_unposted"] == kinds(exports=Unfinished(unposted_files=1))
    assert ["correction_stuck", "correction_waiting"] == kinds(
        exports=Unfinished(corrections_stuck=1, corrections_waiting=1)
    )
    late = Expectation(by=NOW - DAY, stale_after=NOW + DAY)
    assert ["overdue"] == kinds(expected=late)
    assert ["stale"] == kinds(expected=Expectation(by=NOW - DAY, stale_after=NOW - DAY / 2))
    assert ["webhook_rejections", "webhook_silence"] == kinds(webhook={"is_rejecting": True, "is_silent": True})


async def integration(store: Store, org: str = "hlf", state: str = "enabled") -> Integration:
    await store.catalog.add_organization(org, org)
    pending = store.catalog.pending({}, {})
    added = await store.catalog.add_integration(org, "crm", "CRM", {}, pending)
    return await store.catalog.change_integration(added, state=state)


async def events(store: Store) -> list[str]:
    async with store.database.read() as conn:
        rows = await conn.execute(sa.text("SELECT type FROM outbox ORDER BY seq"))
        return [row.type.removeprefix("no.samband.").removesuffix(".v1") for row in rows]


async def test_trouble_is_told_once_and_its_end_once(store: Store) -> None:
    mine = await integration(store)
    trouble = Finding(
        organization_id="hlf", integration_id=mine.id, subject=f"integration/{mine.id}", kind="overdue",
        severity="warning", message="Late.", data={"type": "crm", "expected_by": "x"},
    )  # fmt: skip
    assert [(1, 0), (0, 0), (0, 0)] == [await store.alerts.settle("hlf", [trouble]) for _ in range(3)]
    (opened,) = await store.alerts.page("hlf", open_only=True, integration_id=None, before=None, limit=10)
    await store.alerts.acknowledge("hlf", opened.id or 0, "kari")
    assert (0, 0) == await store.alerts.settle("hlf", [trouble])
    assert (0, 1) == await store.alerts.settle("hlf", [])
    assert (0, 0) == await store.alerts.settle("hlf", [])
    assert [] == await store.alerts.page("hlf", open_only=True, integration_id=None, before=None, limit=10)
    (closed,) = await store.alerts.page("hlf", open_only=False, integration_id=None, before=None, limit=10)
    assert ("kari", True) == (closed.acknowledged_by, closed.closed_at is not None)
    assert ["alert.opened", "alert.closed"] == await events(store)
    assert (1, 0) == await store.alerts.settle("hlf", [trouble])  # it came back: that is news


async def test_trouble_that_grows_is_brought_up_to_date_without_a_word(store: Store) -> None:
    mine = await integration(store)

    async def found(items: int) -> tuple[tuple[int, int], Any]:
        trouble = Finding(
            organization_id="hlf", integration_id=mine.id, subject=f"integration/{mine.id}", kind="export_refused",
            severity="critical", message="Refused.", data={"type": "crm", "items": items},
        )  # fmt: skip
        changed = await store.alerts.settle("hlf", [trouble])
        (alert,) = await store.alerts.page("hlf", open_only=True, integration_id=None, before=None, limit=10)
        return changed, alert.data["items"]

    assert [((1, 0), 1), ((0, 0), 5), ((0, 0), 5)] == [await found(items) for items in (1, 5, 5)]
    assert ["alert.opened"] == await events(store)


async def test_two_processes_that_find_the_same_tell_it_once(store: Store) -> None:
    mine = await integration(store)
    trouble = Finding(
        organization_id="hlf", integration_id=mine.id, subject="s", kind="overdue", severity="warning", message="Late."
    )
    answers = await asyncio.gather(*(store.alerts.settle("hlf", [trouble]) for _ in range(8)))
    assert 1 == sum(opened for opened, _ in answers)
    assert ["alert.opened"] == await events(store)


async def test_due_probe_is_taken_by_one_process_and_comes_again_after_its_interval(store: Store) -> None:
    for name in ("a", "b", "c"):
        await integration(store, name)
    await integration(store, "off", state="disabled")
    taken = await asyncio.gather(*(store.conditions.take_probes(interval_s=900, limit=2) for _ in range(4)))
    assert 3 == sum(len(part) for part in taken)
    assert 3 == len({i.id for part in taken for i in part})
    assert [] == await store.conditions.take_probes(interval_s=900, limit=10)


async def test_change_of_connection_is_told_and_sameness_is_not(store: Store) -> None:
    mine = await integration(store)

    async def move(connection: str) -> bool:
        async with store.database.write() as conn:
            return await move_connection(conn, mine.id, connection, code="x")

    steps = ["connected", "connected", "needs_reauthentication", "needs_reauthentication", "connected", "degraded"]
    assert [True, False, True, False, True, True] == [await move(step) for step in steps]
    assert ["integration.needs_reauthentication", "integration.recovered"] == await events(store)


async def test_probe_of_settings_that_were_changed_meanwhile_says_nothing(store: Store) -> None:
    mine = await integration(store)
    await store.catalog.change_integration(mine, display_name="Other")
    await store.conditions.note_probe(mine, "misconfigured", latency_ms=5, code="x")
    assert "unknown" == (await store.catalog.integration("hlf", "crm")).connection


async def test_observation_says_what_the_rows_say(store: Store) -> None:
    mine = await integration(store)
    order = {
        "integration": mine, "plugin_version": "1", "operation": "sync", "streams": ["s"], "full": False,
        "reason": "test", "requested_by": "t",
    }  # fmt: skip
    for state in ("succeeded", "failed", "failed", "held"):
        run = await store.runs.order(**order)
        async with store.database.write() as conn:
            at = NOW.strftime("%Y-%m-%dT%H:%M:%S.000Z") if store.database.is_sqlite else NOW
            await conn.execute(
                sa.text("UPDATE run SET state = :s, finished_at = :at WHERE id = :id"),
                {"s": state, "id": run.id, "at": at},
            )
    (seen,) = await store.conditions.of_organization("hlf", stalled_before=NOW)
    assert (NOW, 2, run.id, None) == (seen.last_success_at, seen.failures_in_row, seen.held_run, seen.stalled_run)
    assert ["hlf"] == await store.conditions.organizations()


async def test_changed_settings_make_a_waiting_run_due_at_once(store: Store) -> None:
    mine = await integration(store)
    run = await store.runs.order(
        integration=mine, plugin_version="1", operation="sync", streams=["s"], full=False, reason="t", requested_by="t"
    )
    later = dt.datetime.now(dt.UTC) + DAY
    async with store.database.write() as conn:
        at = later.strftime("%Y-%m-%dT%H:%M:%S.000Z") if store.database.is_sqlite else later
        await conn.execute(sa.text("UPDATE run SET state = 'waiting', available_at = :at"), {"at": at})
    assert [] == list(await store.runs.due(10))
    assert [run.id] == await store.runs.nudge(mine.id)
    assert [run.id] == list(await store.runs.due(10))


async def test_scheduler_that_does_not_tick_makes_the_host_unready(store: Store) -> None:
    from types import SimpleNamespace

    from samband.service import Service

    class StillBell:
        async def ping(self) -> float | None:
            return 0.0

    service = Service(store=store, registry=SimpleNamespace(), bell=StillBell())  # type: ignore[arg-type]
    assert "has not ticked yet" in (await service.health.readiness())["scheduler"]
    await store.signs.beat("scheduler", "host/1")
    assert "ok" == (await service.health.readiness())["scheduler"]
    past = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=2)
    async with store.database.write() as conn:
        at = past.strftime("%Y-%m-%dT%H:%M:%S.000Z") if store.database.is_sqlite else past
        await conn.execute(sa.text("UPDATE sign_of_life SET at = :at"), {"at": at})
    assert "has not ticked for 1" in (await service.health.readiness())["scheduler"]


async def test_database_without_the_schema_says_so_and_nothing_else_is_guessed(
    empty_database_url: str, vault: Vault
) -> None:
    from types import SimpleNamespace

    from samband.service import Service

    class NoBell:
        async def ping(self) -> float | None:
            return None

    empty = Store.open(empty_database_url, vault=vault)
    try:
        service = Service(store=empty, registry=SimpleNamespace(), bell=NoBell())  # type: ignore[arg-type]
        parts = await service.health.readiness()
    finally:
        await empty.close()
    assert "samband migrate" in parts["migrations"]
    assert parts["queue"].startswith("degraded")
