"""Keeps a copy of what mappings refer to at the other side, and says what of a mapping no longer holds there."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import structlog

from samband.acting import act_for
from samband.adapters.adapter import Connection
from samband.adapters.registry import Registry
from samband.errors import ConflictError, NotFoundError, NotReadyError, PluginError, SambandError, StoreError
from samband.outgoing import Chart
from samband.rules.chartcheck import chart_of, chart_row, check_mapping, finding_row, unchecked
from samband.rules.mapping import MappingBody
from samband.rules.schedule import DEFAULT_ZONE, to_local
from samband.store import Store
from samband.store.charts import READ_EVERY_S, next_trouble_s
from samband.store.models import ChartCopy, Integration

__all__ = ["ChartReader", "today"]

log = structlog.stdlib.get_logger("samband.charts")

_AT_ONCE: Final = 4
_LOOK_AGAIN_S: Final = 60.0


def today() -> dt.date:
    """Gives the day that decides which version of a mapping is in force, and which period is the present one.

    As people have it on their calendar, since it is they who wrote the dates.
    """
    return dt.date.fromisoformat(to_local(dt.datetime.now(dt.UTC), DEFAULT_ZONE)[:10])


class ChartReader:
    """Reads charts: when a person asks, and once a day by itself; see `samband.hosting.duties`."""

    def __init__(self, *, store: Store, registry: Registry, rng: random.Random | None = None) -> None:
        self._store = store
        self._registry = registry
        self._rng = rng or random.Random()  # noqa: S311 - spread, not a secret

    def can_read(self, plugin: str) -> bool:
        """Tells whether a plugin is loaded and can say what its mapping may refer to."""
        with suppress(PluginError, NotFoundError):
            return "chart" in self._registry.adapter(plugin).manifest.capabilities
        return False

    async def round(self) -> float:
        """Reads the charts that are due, some at once; gives the seconds until the next look."""
        plugins = [name for name in self._registry.names if self.can_read(name)]
        due = await self._store.charts.take_due(plugins, limit=_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for integration in due:
                group.create_task(self._read_by_itself(integration))
        return 0.0 if len(due) == _AT_ONCE else _LOOK_AGAIN_S

    async def _read_by_itself(self, integration: Integration) -> None:
        with act_for(organization=integration.organization_id, actor="scheduler"):
            try:
                await self.read(integration)
            except SambandError as err:
                log.warning("chart_not_read", integration=integration.id, code=err.code)

    async def read(self, integration: Integration) -> ChartCopy:
        """Reads an integration's chart now and keeps it, with what it means for the mapping.

        Raises:
            AdapterError: It could not be read, which is noted; the copy there was stays.
            ConflictError: The integration has no credentials.
            NotFoundError: The plugin cannot read it.
        """
        try:
            chart = await self._chart(integration)
        except (NotReadyError, StoreError, PluginError, NotFoundError):
            raise  # our own trouble: nothing was learnt about them
        except SambandError as err:
            await self._note_trouble(integration, err)
            raise
        findings = await self._findings(integration, chart)
        spread = self._rng.uniform(0.95, 1.0)
        kept = await self._store.charts.keep(
            integration, chart_row(chart), findings, next_in_s=READ_EVERY_S * spread
        )  # fmt: skip
        log.info(
            "chart_read", integration=integration.id, accounts=len(chart.accounts), findings=len(findings["items"])
        )
        return kept

    async def judge(self, integration: Integration) -> None:
        """Says anew what the copy there is means for the mapping, after the mapping has changed."""
        copy = await self._store.charts.get(integration.id)
        chart = None if copy is None else chart_of(copy.body)
        if copy is not None and chart is not None:
            findings = await self._findings(integration, chart)
            trouble = {"trouble": copy.findings["trouble"]} if "trouble" in copy.findings else {}
            await self._store.charts.judge(integration.id, findings | trouble)

    async def _chart(self, integration: Integration) -> Chart:
        adapter = self._registry.adapter(integration.plugin)
        credentials = await self._store.catalog.credentials(integration)
        if credentials is None:
            raise ConflictError(
                "The integration has no credentials.", code="credentials_missing", hint="Set its credentials first."
            )
        return await adapter.chart(
            Connection(
                organization_id=integration.organization_id, integration_id=integration.id,
                revision=integration.revision, settings=integration.settings, credentials=credentials,
            )
        )  # fmt: skip

    async def _note_trouble(self, integration: Integration, err: SambandError) -> None:
        copy = await self._store.charts.get(integration.id)
        before: Mapping[str, Any] = {} if copy is None else copy.findings
        trouble = before.get("trouble") or {"failures": 0, "since": dt.datetime.now(dt.UTC).isoformat()}
        failures = int(trouble["failures"]) + 1
        told = {**before, "trouble": {**trouble, "failures": failures, "code": err.code, "message": err.message}}
        await self._store.charts.note_trouble(integration, told, next_in_s=next_trouble_s(failures))

    async def _findings(self, integration: Integration, chart: Chart) -> dict[str, Any]:
        day = today()
        judged = await self._store.mappings.active(integration.id, day)
        if judged is None:
            newest = await self._store.mappings.newest(integration.id)
            judged = None if newest is None else (newest.version, MappingBody.model_validate(newest.body))
        if judged is None:
            return {"version": None, "items": [], "unchecked": []}
        version, mapping = judged
        items = [finding_row(finding) for finding in check_mapping(mapping, chart, day)]
        return {"version": version, "items": items, "unchecked": unchecked(mapping, chart)}
