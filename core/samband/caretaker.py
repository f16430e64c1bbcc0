"""Looks after integrations by itself: probes each one's connection, and raises and closes alerts."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Collection, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, Protocol

import structlog

from samband.acting import act_for
from samband.adapters.adapter import Connection
from samband.adapters.registry import Registry
from samband.errors import (
    AuthError,
    NotFoundError,
    NotReadyError,
    PluginError,
    RateLimitedError,
    SambandError,
    StoreError,
)
from samband.rules.findings import Condition, findings
from samband.rules.freshness import expectation
from samband.rules.refusals import judge_refusal
from samband.store import Store
from samband.store.conditions import Observed
from samband.store.models import Integration

__all__ = ["Caretaker", "condition_of"]

log = structlog.stdlib.get_logger("samband.caretaker")

_PROBES_AT_ONCE: Final = 8
_PROBE_TIMEOUT_S: Final = 10.0
_LOOK_AGAIN_S: Final = 15.0
_ALERTS_EVERY_S: Final = 30.0


class WebhookFigures(Protocol):
    """Where the figures of webhooks come from: integration id → figures."""

    async def __call__(self, organization_id: str, now: dt.datetime) -> Mapping[str, Mapping[str, Any]]: ...


class Caretaker:
    """The rounds of looking after; see `samband.hosting.duties`.

    Args:
        probe_every_s: How often each enabled integration is probed, with a spread of 5 %.
        stall_after_s: A run that has not moved for this long is told of.
        unposted_after_days: An exported item that was taken this long ago and is not booked is told of.
        webhooks: Gives webhooks' figures; None without webhooks.
    """

    def __init__(
        self, *, store: Store, registry: Registry, probe_every_s: float = 900.0, stall_after_s: float = 1800.0,
        unposted_after_days: float = 7.0, webhooks: WebhookFigures | None = None, rng: random.Random | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._registry = registry
        self._probe_every_s = probe_every_s
        self._stall_after_s = stall_after_s
        self._unposted_after = dt.timedelta(days=unposted_after_days)
        self._webhooks = webhooks
        self._rng = rng or random.Random()  # noqa: S311 - spread, not a secret

    # ── probes ───────────────────────────────────────────────────────────────

    async def probe_round(self) -> float:
        """Probes what is due, some at once; gives the seconds until the next look."""
        spread = self._rng.uniform(0.95, 1.05)
        due = await self._store.conditions.take_probes(interval_s=self._probe_every_s * spread, limit=_PROBES_AT_ONCE)
        if not due:
            return _LOOK_AGAIN_S
        async with asyncio.TaskGroup() as group:
            for integration in due:
                group.create_task(self._probe(integration))
        return 0.0 if len(due) == _PROBES_AT_ONCE else _LOOK_AGAIN_S

    async def _probe(self, integration: Integration) -> None:
        with act_for(organization=integration.organization_id, actor="probe"):
            loop = asyncio.get_running_loop()
            started, code = loop.time(), ""
            try:
                connection = await self._check(integration)
            except RateLimitedError:
                return  # they are there and busy; asking again would make it worse
            except (NotReadyError, StoreError, PluginError, NotFoundError) as err:
                # Our own trouble (the database is away, a key is missing, the plugin is not loaded): nothing was learnt
                # about them.
                log.warning("probe_not_possible", integration=integration.id, code=err.code)
                return
            except SambandError as err:
                connection, code = _connection_after(err), err.code
            latency_ms = round((loop.time() - started) * 1000)
            log.debug("probed", integration=integration.id, connection=connection, latency_ms=latency_ms, code=code)
            with suppress(NotReadyError):  # the next probe says it again
                await self._store.conditions.note_probe(integration, connection, latency_ms=latency_ms, code=code)

    async def _check(self, integration: Integration) -> str:
        adapter = self._registry.adapter(integration.plugin)
        credentials = await self._store.catalog.credentials(integration)
        if credentials is None:
            return "misconfigured"
        check = await adapter.check(
            Connection(
                organization_id=integration.organization_id, integration_id=integration.id,
                revision=integration.revision, settings=integration.settings, credentials=credentials,
            ),
            timeout_s=_PROBE_TIMEOUT_S,
        )  # fmt: skip
        return "misconfigured" if check.missing else "connected"

    # ── alerts ───────────────────────────────────────────────────────────────

    async def alert_round(self) -> float:
        """Compares what is wrong with what has been told; gives the seconds until the next look."""
        for organization_id in await self._store.conditions.organizations():
            with act_for(organization=organization_id, actor="caretaker"):
                try:
                    await self.look_after(organization_id)
                except NotReadyError:
                    raise
                except Exception:
                    # One organisation's row that cannot be judged must not leave the others unwatched.
                    log.exception("alerts_not_judged", organization=organization_id)
        return _ALERTS_EVERY_S

    async def look_after(self, organization_id: str) -> tuple[int, int]:
        """Opens and closes one organisation's alerts; gives how many of each."""
        now = dt.datetime.now(dt.UTC)
        stalled_before = now - dt.timedelta(seconds=self._stall_after_s)
        observed = await self._store.conditions.of_organization(
            organization_id, stalled_before=stalled_before, unposted_before=now - self._unposted_after
        )
        figures = {} if self._webhooks is None else await self._webhooks(organization_id, now)
        charts = await self._store.charts.findings(organization_id)
        found = [f for o in observed for f in findings(self._condition(o, figures, charts), now)]
        opened, closed = await self._store.alerts.settle(organization_id, found)
        if opened or closed:
            log.info("alerts_changed", organization=organization_id, opened=opened, closed=closed)
        return opened, closed

    def _condition(
        self, observed: Observed, figures: Mapping[str, Mapping[str, Any]], charts: Mapping[str, Mapping[str, Any]]
    ) -> Condition:
        id, plugin = observed.integration.id, observed.integration.plugin
        webhook, mapping = figures.get(id, {}), charts.get(id, {})
        try:
            capabilities = self._registry.adapter(plugin).manifest.capabilities
        except SambandError:  # not loaded: what was told of its exports is not over because of that
            return condition_of(observed, webhook, mapping)
        return condition_of(observed, webhook, mapping, capabilities)


def condition_of(
    observed: Observed, webhook: Mapping[str, Any], mapping: Mapping[str, Any] = MappingProxyType({}),
    capabilities: Collection[str] = ("find_exported",),
) -> Condition:  # fmt: skip
    """Gives what the rules judge, from what the store observed and what the plugin can tell."""
    integration = observed.integration
    return Condition(
        organization_id=integration.organization_id, integration_id=integration.id, plugin=integration.plugin,
        connection=integration.connection, connection_since=integration.connection_since,
        expected=expectation(observed.schedules, observed.last_success_at or integration.updated_at),
        failures_in_row=observed.failures_in_row, open_letters=observed.open_letters, held_run=observed.held_run,
        stalled_run=observed.stalled_run, uncertain_items=observed.uncertain_items,
        credentials_expire_at=observed.credentials_expire_at, webhook=webhook, mapping=mapping,
        exports=observed.exports.told_by(capabilities),
    )  # fmt: skip


def _connection_after(err: SambandError) -> str:
    if isinstance(err, AuthError):
        return judge_refusal(err).connection
    return "degraded"
