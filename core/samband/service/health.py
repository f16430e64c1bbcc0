"""How integrations and the host are doing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any, Final

from samband.errors import FieldProblem, InvalidError, SambandError
from samband.presenting import alert_view
from samband.rules.freshness import expectation, judge
from samband.service.parts import Parts
from samband.store.models import Integration, Schedule
from samband.views import FeedPage, StatusView, StreamStatus
from samband.views.health import AlertView, OverviewView

_SCHEDULER_SILENT_S: Final = 60.0


class Health:
    """Status, alerts, readiness, figures."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def status(self, org: str, type: str) -> StatusView:
        """Tells how an integration is doing, on two axes: its connection, and how fresh its data is."""
        integration = await self._parts.integration(org, type)
        store = self._parts.store
        live = await store.runs.live(integration.id, "sync")
        last, last_good = await store.feeds.last_runs(integration.id)
        streams = await store.feeds.streams(integration.id)
        schedules = await store.conditions.schedules(integration.id)
        last_success_at = None if last_good is None else last_good.finished_at
        return StatusView(
            organization=org, type=type, integration=integration.id, state=integration.state,
            connection=integration.connection,
            live_run=None if live is None else await self._parts.run_view(live),
            last_run=None if last is None else await self._parts.run_view(last),
            last_attempt_at=None if last is None else last.started_at or last.created_at,
            last_success_at=last_success_at, connection_since=integration.connection_since,
            last_contact_at=integration.contact_at, probed_at=integration.probed_at, latency_ms=integration.latency_ms,
            **_freshness(integration, last_success_at, schedules),
            next_run_at=min((s.next_at for s in schedules if s.next_at is not None), default=None),
            alerts=(await store.alerts.open_kinds([org])).get(integration.id, []),
            streams=[
                StreamStatus(
                    name=s.name, kind=s.kind, has_cursor=s.cursor is not None, is_full_read=s.reading_full,
                    records=s.held, last_read_at=s.last_read_at,
                )
                for s in streams
            ],
            open_dead_letters=await store.conditions.open_letters(integration.id),
        )  # fmt: skip

    async def overview(
        self, organizations: Collection[str] | None = None, *, after: str | None = None, limit: int = 100
    ) -> FeedPage:
        """Gives one line for each integration of these organisations, of all when None: by organisation, then by type.

        Args:
            after: The ``next`` of the part before.
        """
        store = self._parts.store
        position = None if after is None else _position(after)
        found = await store.conditions.lines(organizations, after=position, limit=limit + 1)
        kinds = await store.alerts.open_kinds({line[0].organization_id for line in found})
        items = [
            OverviewView(
                organization=integration.organization_id, type=integration.plugin, integration=integration.id,
                display_name=integration.display_name, state=integration.state,
                connection=integration.connection, connection_since=integration.connection_since,
                last_success_at=last_success_at, latency_ms=integration.latency_ms,
                probed_at=integration.probed_at, alerts=kinds.get(integration.id, []),
                **_freshness(integration, last_success_at, schedules),
            )
            for integration, last_success_at, schedules in found[:limit]
        ]  # fmt: skip
        last = items[-1] if len(found) > limit else None
        return FeedPage(items=items, next=None if last is None else f"{last.organization}:{last.type}")

    async def alerts(
        self, org: str, *, open_only: bool = True, type: str | None = None, after: str | None = None, limit: int = 50
    ) -> FeedPage:
        """Gives alerts, newest first."""
        await self._parts.store.catalog.organization(org)
        about = None if type is None else (await self._parts.store.catalog.integration(org, type)).id
        before = None if after is None else int(after)
        rows = await self._parts.store.alerts.page(
            org, open_only=open_only, integration_id=about, before=before, limit=limit + 1
        )
        items = [alert_view(row) for row in rows[:limit]]
        return FeedPage(items=items, next=str(items[-1].id) if len(rows) > limit else None)

    async def acknowledge_alert(self, org: str, id: int, by: str) -> AlertView:
        """Notes that somebody has seen an alert. It stays open until the trouble is over."""
        await self._parts.store.catalog.organization(org)
        return alert_view(await self._parts.store.alerts.acknowledge(org, id, by))

    async def readiness(self) -> dict[str, str]:
        """Gives, per part, ``ok`` or a sentence that says what is wrong."""
        parts = {"database": "ok", "migrations": "ok", "keys": "ok", "scheduler": "ok", "queue": "ok"}
        try:
            if await self._parts.store.is_migrated():
                parts |= await self._stored_parts()
            else:
                parts["migrations"] = "The database schema is not up to date; run: samband migrate"
        except SambandError as err:
            parts["database"] = parts["migrations"] = parts["keys"] = parts["scheduler"] = err.message
        if await self._parts.bell.ping() is None:
            # Work goes on without it, only later: so it is told, and does not make the host unready.
            parts["queue"] = "degraded: the queue does not answer; due runs are found by sweeping"
        return parts

    async def _stored_parts(self) -> dict[str, str]:
        """Gives what only a database with the present schema can tell."""
        store = self._parts.store
        parts = {"scheduler": _scheduler_part(await store.signs.age("scheduler"))}
        if missing := await store.rotation.missing_keys():
            parts["keys"] = f"Secrets are sealed with keys that are not here: {', '.join(missing)}"
        if not await store.database.is_behind_walls():
            # The service keeps organisations apart by itself; what is missing is the second wall.
            parts["isolation"] = (
                "degraded: the database user is a superuser or has BYPASSRLS, so that the database itself does not"
                " keep organisations apart; use a plain user that owns its database"
            )
        return parts

    async def metrics_snapshot(self) -> dict[str, Any]:
        """Gives the figures behind the gauges."""
        return {"runs": await self._parts.store.feeds.run_states(), "queue_depth": await self._parts.bell.depth()}


def _scheduler_part(silent_s: float | None) -> str:
    """Says how the scheduler is: no run fails when it is dead, they just never start."""
    if silent_s is None:
        return "The scheduler has not ticked yet; start a worker: samband worker"
    if silent_s > _SCHEDULER_SILENT_S:
        return f"The scheduler has not ticked for {silent_s:.0f} seconds; see whether a worker is running."
    return "ok"


def _position(after: str) -> tuple[str, str]:
    """Reads an organisation's id and a type, neither of which has a colon in it."""
    organization, colon, type = after.partition(":")
    if not colon:
        text = "Pass the next of the part before, unchanged."
        problem = FieldProblem(field="after", code="bad_position", message=text)
        raise InvalidError("The position cannot be read.", problems=[problem])
    return organization, type


def _freshness(
    integration: Integration, last_success_at: dt.datetime | None, schedules: Sequence[Schedule]
) -> dict[str, Any]:
    if integration.state != "enabled":
        return {"freshness": "unknown"}
    expected = expectation(schedules, last_success_at or integration.updated_at)
    return {
        "freshness": judge(expected, dt.datetime.now(dt.UTC)),
        "expected_by": None if expected is None else expected.by,
    }
