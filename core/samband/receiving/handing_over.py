"""Turns deliveries that were taken in into runs: one run for everything that waits, as soon as none is going on.

So a thousand deliveries in a minute cost a few runs, and deliveries that come twice, or in the wrong order, change nothing:
what a run reads is how things stand when it reads.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from samband.acting import act_for
from samband.adapters.adapter import Adapter, Connection
from samband.adapters.registry import Registry
from samband.errors import InvalidError, NotFoundError, NotReadyError, PluginError
from samband.gathering import Gathering
from samband.rules.incoming import what_to_read
from samband.store import Store
from samband.store.models import Integration

__all__ = ["HandingOver"]

log = structlog.stdlib.get_logger("samband.receiving")

_LOOK_AGAIN_S: Final = 0.25
"""While a run is going on, deliveries do not ask more often than this whether it has ended."""

_PAUSE_S: Final = 1.0
_SWEEP_PAUSE_S: Final = 3600.0


class Bell(Protocol):
    """The doorbell, as far as it is needed here."""

    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool: ...


class HandingOver:
    """Orders runs for deliveries that wait.

    Args:
        store: Where they wait.
        registry: The plugins whose streams they name.
        bell: Rung for the runs.
        keep_days: How long what a delivery held is kept; its id is kept for ever.
        now: The clock, aware UTC.
    """

    def __init__(
        self, *, store: Store, registry: Registry, bell: Bell, keep_days: float = 30.0,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:  # fmt: skip
        self._store = store
        self._registry = registry
        self._bell = bell
        self._keep = dt.timedelta(days=keep_days)
        self._now = now
        self._asked: Gathering[str, None] = Gathering(self._order_each)
        self._quiet_until: dict[str, float] = {}
        self._loose: set[asyncio.Task[None]] = set()

    def hint(self, integration_id: str, *, is_urgent: bool = False) -> None:
        """Has a run ordered soon, without waiting for it. A hint may get lost: `round` finds what waits.

        Args:
            is_urgent: Looks even if somebody has looked a moment ago; for what people ask for, not for deliveries.
        """
        now = time.monotonic()
        if self._quiet_until.get(integration_id, 0.0) > now and not is_urgent:
            return
        self._quiet_until[integration_id] = now + _LOOK_AGAIN_S
        # An empty context: it is no part of the request whose delivery it was.
        task = asyncio.create_task(
            self._asked.ask(integration_id), name="samband-hand-over", context=contextvars.Context()
        )
        self._loose.add(task)
        task.add_done_callback(self._loose.discard)

    async def settle(self) -> None:
        """Waits for what hints have started. For the end of a host: what is left is found by the next one."""
        while self._loose:
            await asyncio.wait(self._loose)

    async def order(self, integration_id: str) -> str | None:
        """Orders one run for everything that waits at an integration, and rings for it; gives its id.

        None when nothing waits, when a run is going on, and when the integration or its plugin cannot run now: then the
        deliveries go on waiting.
        """
        if await self._store.inbox.has_live_run(integration_id):
            return None
        try:
            integration = await self._store.catalog.integration_by_id(integration_id)
            adapter = self._registry.adapter(integration.plugin)
            streams = _streams(adapter, integration)
        except (NotFoundError, PluginError, InvalidError) as error:
            log.warning("deliveries_wait", integration=integration_id, code=error.code)
            return None
        if integration.state != "enabled":
            return None
        can_fetch = "fetch" in adapter.manifest.capabilities
        with act_for(organization=integration.organization_id, actor="webhook"):
            run = await self._store.inbox.hand_over(
                integration, plugin_version=adapter.version,
                decide=lambda triggers: what_to_read(triggers, streams=streams, can_fetch=can_fetch),
            )  # fmt: skip
        if run is None:
            return None
        log.info("run_ordered", run=run.id, integration=integration_id, reason="webhook")
        await self._bell.ring(run.id)
        return run.id

    async def round(self) -> float:
        """Looks for deliveries that no run has taken up: those that came while one was going on, and those whose host
        died before it ordered one. Gives the seconds until the next look."""
        await self._order_each(await self._store.inbox.due())
        return _PAUSE_S

    async def sweep(self) -> float:
        """Empties what deliveries held that came long ago; their ids stay. Gives the seconds until the next time."""
        now = self._now()
        behind: int | None = 0
        while behind is not None:
            behind = await self._store.inbox.sweep(now - self._keep, behind=behind)
        await self._store.inbox.sweep_counts(now)
        return _SWEEP_PAUSE_S

    async def _order_each(self, integration_ids: Sequence[str]) -> list[Exception | None]:
        for integration_id in dict.fromkeys(integration_ids):
            try:
                await self.order(integration_id)
            except NotReadyError as error:
                log.warning("deliveries_wait", integration=integration_id, code=error.code)
            except Exception:
                # The next round comes back to it; meanwhile the other integrations' deliveries go on.
                log.exception("hand_over_failed", integration=integration_id)
        return [None] * len(integration_ids)


def _streams(adapter: Adapter, integration: Integration) -> list[str]:
    connection = Connection(
        organization_id=integration.organization_id, integration_id=integration.id, revision=integration.revision,
        settings=integration.settings, credentials={},
    )  # fmt: skip
    return [stream.name for stream in adapter.streams(connection)]
