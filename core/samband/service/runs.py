"""Runs: ordering them, following them, and what was given up."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import orjson

from samband.adapters.adapter import Adapter, Connection
from samband.errors import ConflictError, FieldProblem, InvalidError, NotFoundError
from samband.presenting import dead_letter_view, run_view
from samband.service.parts import Parts, has_cursors
from samband.store.models import Integration
from samband.views import (
    DeadLetterView,
    FeedPage,
    OutcomeView,
    RunView,
)


class Runs:
    """Orders, and what became of them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def order_sync(
        self, org: str, type: str, *, streams: Sequence[str] | None = None, full: bool = False, reason: str = "api",
        requested_by: str = "", idempotency_key: str | None = None,
    ) -> RunView:  # fmt: skip
        """Orders a sync and rings for a worker.

        Args:
            streams: Only these, in the plugin's order; None reads all that the settings switch on.
            full: Reads everything again instead of the changes.
            idempotency_key: With the same key the same order is granted once and its run given again, for 24 hours.

        Raises:
            AlreadyRunningError: A sync of this integration is still alive; it names the run.
            ConflictError: The integration is not enabled, or has no credentials.
        """
        integration = await self._parts.integration(org, type)
        adapter = self._parts.registry.adapter(type)
        idempotency = None
        if idempotency_key is not None:
            _check_idempotency_key(idempotency_key)
            fingerprint = _fingerprint(streams, full)
            idempotency = (f"sync/{type}", idempotency_key, fingerprint)
            granted = await self._granted(org, *idempotency)
            if granted is not None:
                return granted.model_copy(update={"replayed": True})
        _demand_enabled(integration)
        wanted = self._wanted_streams(adapter, await self._parts.connection(integration), streams)
        try:
            run = await self._parts.store.runs.order(
                integration=integration, plugin_version=adapter.version, operation="sync", streams=wanted, full=full,
                reason=reason, requested_by=requested_by, idempotency=idempotency,
            )  # fmt: skip
        except ConflictError:
            # Two requests with one key at once: the later one gets the earlier one's run.
            granted = None if idempotency is None else await self._granted(org, *idempotency)
            if granted is None:
                raise
            return granted.model_copy(update={"replayed": True})
        await self._parts.bell.ring(run.id)
        return await self._parts.run_view(run)

    async def page(
        self, org: str, *, type: str | None = None, state: str | None = None, after: str | None = None, limit: int = 50
    ) -> FeedPage:
        """Gives runs, newest first."""
        await self._parts.store.catalog.organization(org)
        rows = await self._parts.store.feeds.runs(org, plugin=type, state=state, before=after, limit=limit + 1)
        cursors = {i: await self._parts.store.feeds.cursors_present(i) for i in {r.integration_id for r in rows}}
        items = [run_view(row, cursor_present=has_cursors(row, cursors[row.integration_id])) for row in rows[:limit]]
        return FeedPage(items=items, next=items[-1].id if len(rows) > limit else None)

    async def get(self, org: str, run_id: str) -> RunView:
        return await self._parts.run_view(await self._parts.run(org, run_id))

    async def latest(self, org: str, type: str) -> RunView:
        """Gives the newest run; `NotFoundError` when there was none."""
        integration = await self._parts.integration(org, type)
        last, _ = await self._parts.store.feeds.last_runs(integration.id)
        if last is None:
            raise NotFoundError("The integration has never run.", code="never_ran", hint="Start a sync.")
        return await self._parts.run_view(last)

    async def outcomes(
        self, org: str, run_id: str, *, outcome: str | None = None, after: int = 0, limit: int = 100
    ) -> FeedPage:
        """Gives the records of a run that changed, were skipped or failed, in order."""
        run = await self._parts.run(org, run_id)
        rows, has_more = await self._parts.store.feeds.outcomes(run, outcome=outcome, after=after, limit=limit)
        items = [
            OutcomeView(
                position=r.position, stream=r.stream, key=r.key, outcome=r.outcome, record_id=r.record_id,
                version=r.version, code=r.code, field=r.field, message=r.message,
            )
            for r in rows
        ]  # fmt: skip
        return FeedPage(items=items, next=str(items[-1].position) if has_more else None)

    async def dead_letters(self, org: str, *, open_only: bool = True) -> list[DeadLetterView]:
        await self._parts.store.catalog.organization(org)
        return [dead_letter_view(d, p) for d, p in await self._parts.store.feeds.dead_letters(org, open_only=open_only)]

    async def acknowledge_dead_letter(self, org: str, id: int, by: str) -> DeadLetterView:
        """Closes a dead letter: somebody has seen to it."""
        await self._parts.store.feeds.acknowledge(org, id, by)
        letters = await self._parts.store.feeds.dead_letters(org, open_only=False)
        return next(dead_letter_view(d, p) for d, p in letters if d.id == id)

    def _wanted_streams(self, adapter: Adapter, connection: Connection, streams: Sequence[str] | None) -> list[str]:
        enabled = [s.name for s in adapter.streams(connection)]
        if streams is None:
            return enabled
        unknown = [name for name in streams if name not in enabled]
        if unknown or not streams:
            raise InvalidError(
                "The sync cannot be started.",
                problems=[
                    FieldProblem(
                        field="streams", code="unknown_stream",
                        message=f"This integration reads: {', '.join(enabled) or 'nothing'}.",
                    )
                ],
            )  # fmt: skip
        return [name for name in enabled if name in streams]

    async def _granted(self, org: str, route: str, key: str, fingerprint: str) -> RunView | None:
        found = await self._parts.store.runs.granted(org, route, key)
        if found is None:
            return None
        if found[0] != fingerprint:
            raise InvalidError(
                "This Idempotency-Key was used for another request.",
                code="idempotency_key_reused",
                hint="Use a new key for a new request.",
            )
        return await self.get(org, found[1])


def _demand_enabled(integration: Integration) -> None:
    if integration.state != "enabled":
        raise ConflictError(
            f"The integration is {integration.state}, not enabled.",
            code="not_enabled",
            hint="Test the connection, then enable the integration.",
        )


def _check_idempotency_key(key: str) -> None:
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise InvalidError(
            "The Idempotency-Key is malformed.",
            problems=[
                FieldProblem(
                    field="Idempotency-Key", code="bad_key", message="Use 1 to 255 printable ASCII characters."
                )
            ],
        )


def _fingerprint(streams: Sequence[str] | None, full: bool) -> str:
    told = orjson.dumps([None if streams is None else sorted(streams), full])
    return hashlib.sha256(told).hexdigest()
