"""Reading chosen records again, retrying only what failed, and dry runs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from samband.adapters.adapter import Adapter
from samband.errors import ConflictError, FieldProblem, InvalidError
from samband.rules.difference import DRY_RUN_RECORDS
from samband.service.parts import Parts
from samband.store.models import Integration
from samband.store.runs import DRY_RUN
from samband.views import FeedPage, RunView
from samband.views.backfills import DifferenceView, FailureView, RetryView

__all__ = ["MAX_KEYS", "MAX_LIMIT", "Backfills", "Chosen"]

MAX_KEYS = 10_000
"""Keys of one order. Whoever needs more is better off with a full run."""
MAX_LIMIT = 200_000
"""Records of one dry run: it has to remember the keys it saw."""
_MAX_KEY_LENGTH = 400
_MAX_CAUSES = 200
# Nobody's clock is exactly ours.
_CLOCK_LENIENCE = dt.timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Some records of one stream: by their keys, or by when they changed.

    Attributes:
        stream: Of the integration's streams.
        keys: The other system's ids; None when a window is meant.
        since: Changed at or after this instant, aware; None when keys are meant.
        until: Changed before this instant, aware; None for now.
    """

    stream: str
    keys: Sequence[str] | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None


class Backfills:
    """Orders that read what they name and leave the streams' cursors where they stand."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def order(self, org: str, type: str, chosen: Chosen, *, requested_by: str = "") -> RunView:
        """Orders a run that reads chosen records again, apart from the stream's cursor.

        Raises:
            InvalidError: The stream is unknown or switched off, or keys and window are not what they must be.
            ConflictError: The integration is not enabled or has no credentials, or its plugin cannot read chosen records.
            AlreadyRunningError: A sync of this integration is still alive; it names the run.
        """
        integration, adapter, enabled = await self._open(org, type)
        _demand_enabled(integration)
        _demand_fetch(adapter)
        choice = _checked(chosen, enabled)
        run = await self._parts.store.backfills.order(
            integration, deed="backfill.ordered", detail=_told(choice), operation="sync",
            plugin_version=adapter.version, streams=[chosen.stream], selection={"streams": {chosen.stream: choice}},
            full=False, reason="backfill", requested_by=requested_by,
        )  # fmt: skip
        await self._parts.bell.ring(run.id)
        return await self._parts.run_view(run)

    async def retry_failed(self, org: str, run_id: str, *, requested_by: str = "") -> RetryView:
        """Orders a run that reads only those records again that failed in an earlier one.

        Raises:
            ConflictError: Nothing failed that can be asked for, or so much that a full run is the way.
            AlreadyRunningError: A sync of this integration is still alive; it names the run.
        """
        earlier = await self._parts.run(org, run_id)
        integration, adapter, enabled = await self._open(org, earlier.plugin)
        _demand_enabled(integration)
        _demand_fetch(adapter)
        failed = await self._parts.store.backfills.failed(earlier, MAX_KEYS)
        if failed.count > MAX_KEYS:
            raise ConflictError(
                f"More than {MAX_KEYS} records failed.", code="too_many_failed",
                hint="See the run's failures for their cause, then order a full run.",
            )  # fmt: skip
        keys = {name: failed.keys[name] for name in enabled if name in failed.keys}
        asked = sum(map(len, keys.values()))
        if not asked:
            raise ConflictError(
                _nothing(failed.count, failed.without_key), code="nothing_failed",
                hint="A full run reads every record again.",
            )  # fmt: skip
        run = await self._parts.store.backfills.order(
            integration, deed="run.failed_retried", detail={"retry_of": earlier.id, "keys": asked}, operation="sync",
            plugin_version=adapter.version, streams=list(keys),
            selection={"streams": {name: {"keys": some} for name, some in keys.items()}}, full=False,
            reason="retry_failed", requested_by=requested_by, retry_of=earlier.id,
        )  # fmt: skip
        await self._parts.bell.ring(run.id)
        return RetryView(
            run=await self._parts.run_view(run), records=asked, without_key=failed.without_key,
            not_enabled=failed.count - asked,
        )  # fmt: skip

    async def failures(self, org: str, run_id: str) -> list[FailureView]:
        """Gives a run's failed records by cause, the most frequent cause first."""
        run = await self._parts.run(org, run_id)
        causes = await self._parts.store.backfills.causes(run, _MAX_CAUSES)
        return [FailureView(**asdict(cause)) for cause in causes]

    # ── dry runs ─────────────────────────────────────────────────────────────

    async def order_dry_run(
        self, org: str, type: str, *, streams: Sequence[str] | None = None, full: bool = False,
        chosen: Chosen | None = None, limit: int = DRY_RUN_RECORDS, requested_by: str = "",
    ) -> RunView:  # fmt: skip
        """Orders a run that finds out what a sync would do, and does not do it.

        It may go on beside a sync, and needs no enabled integration: it is meant for the time before.

        Args:
            streams: Only these, in the plugin's order; None for all that the settings switch on.
            full: As if everything were read again, with what would be deleted at the end.
            chosen: As if these records were read again; then without ``streams`` and ``full``.
            limit: Records read at most; what comes after them is not told.

        Raises:
            AlreadyRunningError: A dry run of this integration is still alive; it names the run.
        """
        integration, adapter, enabled = await self._open(org, type)
        selection: dict[str, Any] = {"limit": _checked_limit(limit)}
        if chosen is not None:
            if streams is not None or full:
                raise _invalid("chosen", "contradiction", "Chosen records go without streams and without full.")
            _demand_fetch(adapter)
            selection["streams"] = {chosen.stream: _checked(chosen, enabled, at="chosen.")}
            streams = [chosen.stream]
        wanted = enabled if streams is None else _known_streams(streams, enabled)
        run = await self._parts.store.backfills.order(
            integration, deed="dry_run.ordered", detail={"full": full, "limit": limit}, operation=DRY_RUN,
            plugin_version=adapter.version, streams=wanted, selection=selection, full=full, reason="dry_run",
            requested_by=requested_by,
        )  # fmt: skip
        await self._parts.bell.ring(run.id)
        return await self._parts.run_view(run)

    async def differences(
        self, org: str, run_id: str, *, op: str | None = None, after: int = 0, limit: int = 100
    ) -> FeedPage:
        """Gives what a dry run found that a sync would do, record by record.

        Raises:
            ConflictError: The run is no dry run.
            NotFoundError: It was thrown away, after 24 hours or for a newer one.
        """
        run = await self._parts.run(org, run_id)
        if run.operation != DRY_RUN:
            raise ConflictError(
                "Only dry runs have differences.", code="not_a_dry_run",
                hint="See the run's outcomes for what it did.",
            )  # fmt: skip
        rows = await self._parts.store.differences.page(run, op=op, after=after, limit=limit + 1)
        items = [
            DifferenceView(
                position=r.position, stream=r.stream, key=r.key, op=r.op, record_id=r.record_id, before=r.before,
                after=r.after, code=r.code, field=r.field, message=r.message,
            )
            for r in rows[:limit]
        ]  # fmt: skip
        return FeedPage(items=items, next=str(items[-1].position) if len(rows) > limit else None)

    async def _open(self, org: str, type: str) -> tuple[Integration, Adapter, list[str]]:
        """Gives an integration with its adapter and the streams that its settings switch on, in reading order."""
        integration = await self._parts.integration(org, type)
        adapter = self._parts.registry.adapter(type)
        connection = await self._parts.connection(integration)
        return integration, adapter, [stream.name for stream in adapter.streams(connection)]


def _demand_enabled(integration: Integration) -> None:
    if integration.state != "enabled":
        raise ConflictError(
            f"The integration is {integration.state}, not enabled.", code="not_enabled",
            hint="Test the connection, then enable the integration.",
        )  # fmt: skip


def _demand_fetch(adapter: Adapter) -> None:
    if "fetch" not in adapter.manifest.capabilities:
        raise ConflictError(
            f"{adapter.manifest.title} cannot be asked for chosen records.", code="backfill_unsupported",
            hint="Order a full run instead: it reads every record again.",
        )  # fmt: skip


def _checked(chosen: Chosen, enabled: Sequence[str], at: str = "") -> dict[str, Any]:
    """Gives the choice as it is stored, or names every field that is not what it must be."""
    problems = [] if chosen.stream in enabled else [_unknown_stream(f"{at}stream", enabled)]
    if (chosen.keys is None) == (chosen.since is None):
        text = "Name either keys, or a window that begins with since."
        problems.append(FieldProblem(field=f"{at}keys", code="keys_or_window", message=text))
    elif chosen.keys is not None:
        problems += _key_problems(chosen, at)
    now = dt.datetime.now(dt.UTC)
    problems += _window_problems(chosen, at, now)
    if problems:
        raise InvalidError("The records cannot be chosen like this.", problems=problems)
    if chosen.keys is not None:
        return {"keys": list(dict.fromkeys(chosen.keys))}
    assert chosen.since is not None
    return {"since": _iso(chosen.since), "until": _iso(min(chosen.until or now, now))}


def _key_problems(chosen: Chosen, at: str) -> list[FieldProblem]:
    keys = chosen.keys or ()
    problems = []
    if not 1 <= len(keys) <= MAX_KEYS:
        text = f"Name 1 to {MAX_KEYS} keys. For more, order a full run."
        problems.append(FieldProblem(field=f"{at}keys", code="bad_count", message=text))
    bad = next((n for n, key in enumerate(keys) if not 1 <= len(key) <= _MAX_KEY_LENGTH or not key.isprintable()), None)
    if bad is not None:
        text = f"A key is 1 to {_MAX_KEY_LENGTH} characters without control characters."
        problems.append(FieldProblem(field=f"{at}keys.{bad}", code="bad_key", message=text))
    return problems


def _window_problems(chosen: Chosen, at: str, now: dt.datetime) -> list[FieldProblem]:
    since, until = chosen.since, chosen.until
    said = {"since": since, "until": until}
    naive = [name for name, instant in said.items() if instant is not None and instant.utcoffset() is None]
    if naive:
        text = "Say in which zone, for instance with Z at the end."
        return [FieldProblem(field=f"{at}{name}", code="no_zone", message=text) for name in naive]
    if until is not None and since is None:
        text = "A window begins with since. For everything, order a full run."
        return [FieldProblem(field=f"{at}since", code="missing", message=text)] if chosen.keys is None else [
            FieldProblem(field=f"{at}until", code="keys_or_window", message="Keys go without a window.")
        ]  # fmt: skip
    if since is None:
        return []
    if since >= now:
        return [FieldProblem(field=f"{at}since", code="in_future", message="The window begins in the future.")]
    if until is not None and until > now + _CLOCK_LENIENCE:
        text = "The window ends in the future; leave until out to read up to now."
        return [FieldProblem(field=f"{at}until", code="in_future", message=text)]
    if until is not None and since >= until:
        return [FieldProblem(field=f"{at}until", code="before_since", message="The window must end after it begins.")]
    return []


def _known_streams(streams: Sequence[str], enabled: Sequence[str]) -> list[str]:
    if not streams or any(name not in enabled for name in streams):
        raise InvalidError("The dry run cannot be started.", problems=[_unknown_stream("streams", enabled)])
    return [name for name in enabled if name in streams]


def _unknown_stream(field: str, enabled: Sequence[str]) -> FieldProblem:
    text = f"This integration reads: {', '.join(enabled) or 'nothing'}."
    return FieldProblem(field=field, code="unknown_stream", message=text)


def _checked_limit(limit: int) -> int:
    if not 1 <= limit <= MAX_LIMIT:
        raise _invalid("limit", "out_of_range", f"A dry run reads 1 to {MAX_LIMIT} records.")
    return limit


def _invalid(field: str, code: str, message: str) -> InvalidError:
    return InvalidError(message, problems=[FieldProblem(field=field, code=code, message=message)])


def _nothing(failed: int, without_key: int) -> str:
    if without_key and not failed:
        return f"The {without_key} records that failed came without an id, so they cannot be asked for."
    if failed:
        return "What failed belongs to streams that the settings no longer switch on."
    return "No record failed in this run."


def _told(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Gives what the audit trail keeps of a choice: how many keys, never which."""
    return {"keys": len(choice["keys"])} if "keys" in choice else dict(choice)


def _iso(instant: dt.datetime) -> str:
    return instant.astimezone(dt.UTC).isoformat()
