"""How integrations and the host are doing."""

from __future__ import annotations

from typing import Any

from samband.errors import SambandError
from samband.service.parts import Parts
from samband.views import (
    StatusView,
    StreamStatus,
)


class Health:
    """Status, readiness, figures."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def status(self, org: str, type: str) -> StatusView:
        """Tells how an integration is doing."""
        integration = await self._parts.integration(org, type)
        live = await self._parts.store.runs.live(integration.id, "sync")
        last, last_good = await self._parts.store.feeds.last_runs(integration.id)
        streams = await self._parts.store.feeds.streams(integration.id)
        letters = await self._parts.store.feeds.dead_letters(org, open_only=True)
        return StatusView(
            organization=org, type=type, integration=integration.id, state=integration.state,
            connection=integration.connection,
            live_run=None if live is None else await self._parts.run_view(live),
            last_run=None if last is None else await self._parts.run_view(last),
            last_attempt_at=None if last is None else last.started_at or last.created_at,
            last_success_at=None if last_good is None else last_good.finished_at,
            streams=[
                StreamStatus(
                    name=s.name, kind=s.kind, has_cursor=s.cursor is not None, is_full_read=s.reading_full,
                    records=s.held, last_read_at=s.last_read_at,
                )
                for s in streams
            ],
            open_dead_letters=sum(d.integration_id == integration.id for d, _ in letters),
        )  # fmt: skip

    async def readiness(self) -> dict[str, str]:
        """Gives, per part, ``ok`` or a sentence that says what is wrong."""
        parts = {"database": "ok", "migrations": "ok", "keys": "ok", "queue": "ok"}
        try:
            if not await self._parts.store.is_migrated():
                parts["migrations"] = "The database schema is not up to date; run: samband migrate"
            elif missing := await self._parts.store.catalog.missing_keys():
                parts["keys"] = f"Credentials are sealed with keys that are not here: {', '.join(missing)}"
        except SambandError as err:
            parts["database"] = parts["migrations"] = parts["keys"] = err.message
        if await self._parts.bell.ping() is None:
            # Work goes on without it, only later: so it is told, and does not make the host unready.
            parts["queue"] = "degraded: the queue does not answer; due runs are found by sweeping"
        return parts

    async def metrics_snapshot(self) -> dict[str, Any]:
        """Gives the figures behind the gauges."""
        return {"runs": await self._parts.store.feeds.run_states(), "queue_depth": await self._parts.bell.depth()}
