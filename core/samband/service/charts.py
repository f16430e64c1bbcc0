"""Charts: what a mapping may refer to at the other side, as it was last read."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import orjson

from samband.charts import ChartReader
from samband.errors import ConflictError, FieldProblem, InvalidError, NotFoundError, SambandError
from samband.rules.chartlisting import ChartKind, ChartPlace, ChartRow, list_chart, lists_of, unlisted_of
from samband.service.parts import Parts
from samband.store.charts import ChartLists
from samband.store.models import ChartCopy, Integration
from samband.views.mappings import ChartEntryView, ChartPartView, ChartReadingView, ChartTroubleView

__all__ = ["Charts", "read_now", "trouble_view"]

_WAY_OUT: Final = (
    "Read them now: 'samband mapping chart … --refresh', or POST to …/chart/refresh. Once there is a mapping, that is done"
    " every day."
)


class Charts:
    """What there is to be named in a mapping."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store.charts
        self._reader = ChartReader(store=parts.store, registry=parts.registry)

    async def part(
        self, org: str, type: str, *, kind: ChartKind | None = None, search: str = "", after: str | None = None,
        limit: int = 100,
    ) -> ChartPartView:  # fmt: skip
        """Gives a part of the copy there is, by kind, dimension and code. Nothing is read at the other side.

        Args:
            kind: Only these; None for all.
            search: Only what has this in its code, name or days.
            after: The ``next`` of the part before.

        Raises:
            NotFoundError: Nothing was read yet.
            ConflictError: Nor can it be: the plugin cannot, or is not loaded.
        """
        integration = await self._parts.integration(org, type)
        place = None if after is None else _place(after)
        kept = await self._store.lists(integration.id, lists_of(kind))
        if kept is None or kept.read_at is None:
            raise self._unread(integration, kept)
        # In a thread: a chart may have 200,000 entries, and others have work on this loop too.
        rows = await asyncio.to_thread(list_chart, kept.lists, search=search, after=place, limit=limit + 1)
        return ChartPartView(
            organization=org, type=type, read_at=kept.read_at, trouble=trouble_view(kept.findings, None),
            unlisted=unlisted_of(kept.lists), items=[_entry_view(row) for row in rows[:limit]],
            next=_position(rows[limit - 1].place) if len(rows) > limit else None,
        )  # fmt: skip

    async def refresh(self, org: str, type: str) -> ChartReadingView:
        """Reads the chart now. Trouble at the other side is an answer, and the copy there was stays.

        Raises:
            ConflictError: The plugin cannot read it, or there are no credentials.
        """
        integration = await self._parts.integration(org, type)
        error = await read_now(self._parts, self._reader, integration)
        return _reading_view(integration, await self._store.get(integration.id), error)

    def _unread(self, integration: Integration, kept: ChartLists | None) -> SambandError:
        if not self._reader.can_read(integration.plugin):
            return ConflictError(
                f"The plugin {integration.plugin!r} cannot read the other system's accounts, or is not loaded.",
                code="chart_unsupported", hint="Take the codes for the mapping from the other system itself.",
            )  # fmt: skip
        trouble = trouble_view({} if kept is None else kept.findings, None)
        failed = "" if trouble is None else f" The last reading failed: {trouble.message}"
        return NotFoundError(
            f"The other system's accounts have not been read yet.{failed}", code="chart_not_read", hint=_WAY_OUT
        )


async def read_now(parts: Parts, reader: ChartReader, integration: Integration) -> SambandError | None:
    """Reads an integration's chart and keeps it; gives the trouble there was.

    Raises:
        ConflictError: The plugin cannot read it, or there are no credentials; nothing failed then.
    """
    adapter = parts.registry.adapter(integration.plugin)
    await parts.connection(integration)  # without credentials nothing is read, and nothing fails
    try:
        await reader.read(integration)
    except SambandError as error:
        if "chart" not in adapter.manifest.capabilities:
            raise
        return error
    return None


def trouble_view(findings: Mapping[str, Any], error: SambandError | None) -> ChartTroubleView | None:
    """Gives why the last reading failed: as it was noted, or else the error itself, which then was our own trouble."""
    noted = findings.get("trouble")
    if noted is None and error is not None:
        noted = {"code": error.code, "message": error.message, "failures": 1, "since": dt.datetime.now(dt.UTC)}
    return None if noted is None else ChartTroubleView(**noted)


def _entry_view(row: ChartRow) -> ChartEntryView:
    return ChartEntryView(
        kind=row.kind, dimension=row.place.dimension or None, code=row.code, name=row.name, is_open=row.is_open,
        first=None if row.first is None else dt.date.fromisoformat(row.first),
        last=None if row.last is None else dt.date.fromisoformat(row.last),
    )  # fmt: skip


def _reading_view(integration: Integration, copy: ChartCopy | None, error: SambandError | None) -> ChartReadingView:
    body, findings = ({}, {}) if copy is None else (copy.body, copy.findings)
    lists = {name: body.get(name) for name in ("accounts", "tax_rules", "periods")}
    return ChartReadingView(
        organization=integration.organization_id, type=integration.plugin,
        read_at=copy.read_at if copy is not None and body else None, trouble=trouble_view(findings, error),
        dimensions={name: len(entries) for name, entries in body.get("dimensions", {}).items()},
        **{name: None if entries is None else len(entries) for name, entries in lists.items()},
    )  # fmt: skip


# ── positions ────────────────────────────────────────────────────────────────


def _position(place: ChartPlace) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(list(place))).decode().rstrip("=")


def _place(after: str) -> ChartPlace:
    try:
        kind, dimension, code = orjson.loads(base64.b64decode(after + "=" * (-len(after) % 4), b"-_", validate=True))
    except (ValueError, TypeError):
        raise _bad_position() from None
    if type(kind) is not int or not isinstance(dimension, str) or not isinstance(code, str):
        raise _bad_position()
    return ChartPlace(kind, dimension, code)


def _bad_position() -> InvalidError:
    problem = FieldProblem(field="after", code="bad_position", message="Use the next of the part before.")
    return InvalidError("The position is not one of this listing.", problems=[problem])
