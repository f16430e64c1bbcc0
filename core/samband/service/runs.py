"""Runs: ordering them, following them, and what was given up."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from samband.adapters.adapter import Adapter, Connection
from samband.contract import Stream
from samband.errors import (
    AlreadyRunningError,
    ConflictError,
    FieldProblem,
    InvalidError,
    NotFoundError,
    SambandError,
    ServiceError,
)
from samband.presenting import dead_letter_view, run_view
from samband.service.parts import Parts, has_cursors
from samband.store.models import Integration, Run
from samband.views import (
    LIVE_STATES,
    DeadLetterView,
    FeedPage,
    OutcomeView,
    RunView,
)
from samband.views.runs import NotStartedView, StartedView


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Something an organisation wants brought up to date, wherever it comes from.

    Attributes:
        title: For people, in a sentence.
        kinds: The record kinds it consists of; streams that those refer to are read along with them.
    """

    title: str
    kinds: frozenset[str]


MEMBERSHIP_DATA: Final = Wanted(title="membership data", kinds=frozenset({"member", "membership"}))
"""People as well as their memberships: some systems keep the membership on the person and have no list of its own."""
COURSE_ENROLLMENTS: Final = Wanted(title="course enrolments", kinds=frozenset({"course_enrollment"}))


class Runs:
    """Orders, what became of them, and what people decide about them."""

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
            run = await self._order(
                integration, adapter, streams=wanted, full=full, reason=reason, requested_by=requested_by,
                idempotency=idempotency,
            )  # fmt: skip
        except ConflictError:
            # Two requests with one key at once: the later one gets the earlier one's run.
            granted = None if idempotency is None else await self._granted(org, *idempotency)
            if granted is None:
                raise
            return granted.model_copy(update={"replayed": True})
        return await self._parts.run_view(run)

    async def order_kind(
        self, org: str, wanted: Wanted, *, full: bool = False, reason: str = "api", requested_by: str = ""
    ) -> StartedView:
        """Orders one sync of each enabled integration that brings something wanted.

        Raises:
            ConflictError: ``nothing_connected``: no run was started and none is alive; says what to connect.
        """
        await self._parts.store.catalog.organization(org)
        integrations = await self._parts.store.catalog.integrations(org)
        runs: list[RunView] = []
        alive: list[RunView] = []
        others: list[NotStartedView] = []
        for integration in integrations:
            try:
                adapter, streams = await self._offer(integration, wanted)
                if adapter is None or not streams:
                    continue
                run = await self._order(
                    integration, adapter, streams=streams, full=full, reason=reason, requested_by=requested_by
                )
                runs.append(await self._parts.run_view(run))
            except AlreadyRunningError as err:
                alive.append(await self.get(org, err.run_id))
            except ServiceError as err:
                told = NotStartedView(type=integration.plugin, code=err.code, message=err.message, hint=err.hint)
                others.append(told)
        if not runs and not alive:
            raise self._nothing_connected(wanted, integrations, others)
        return StartedView(runs=runs, already_running=alive, not_started=others)

    async def retry(self, org: str, run_id: str, *, requested_by: str = "") -> RunView:
        """Orders the same again: the streams that are still read, from where their cursors stand.

        Raises:
            AlreadyRunningError: The run itself, or another one of the integration, is still alive.
            ConflictError: ``nothing_to_retry``: it succeeded, what it read is not read any more, or it is an export.
        """
        run = await self._parts.run(org, run_id)
        if run.state in LIVE_STATES:
            raise AlreadyRunningError(run_id=run.id)
        if run.operation == "export":
            raise ConflictError(
                "An export is not repeated as a whole: what was not booked is still there to be sent.",
                code="nothing_to_retry",
                hint="Export the reimbursements again; what is uncertain is looked up first.",
            )
        if run.state == "succeeded":
            raise ConflictError(
                "The run succeeded: there is nothing to try again.", code="nothing_to_retry", hint="Start a new sync."
            )
        integration = await self._parts.store.catalog.integration_by_id(run.integration_id)
        _demand_enabled(integration)
        adapter = self._parts.registry.adapter(run.plugin)
        enabled = [s.name for s in adapter.streams(await self._parts.connection(integration))]
        streams = [name for name in enabled if name in run.streams]
        if run.streams and not streams:
            raise ConflictError(
                f"What the run read ({', '.join(run.streams)}) is not read any more.", code="nothing_to_retry"
            )
        again = await self._order(
            integration, adapter, operation=run.operation, streams=streams, full=run.full, reason="retry",
            requested_by=requested_by, selection=run.selection, retry_of=run.id,
        )  # fmt: skip
        return await self._parts.run_view(again)

    # ── what people decide ───────────────────────────────────────────────────

    async def cancel(self, org: str, run_id: str) -> RunView:
        """Ends a run; one that is being worked on ends before its next write. What it committed stays.

        Raises:
            ConflictError: ``run_ended``, when it has ended in another way.
        """
        await self._parts.run(org, run_id)
        return await self._parts.run_view(await self._parts.store.decisions.cancel(org, run_id))

    async def approve(self, org: str, run_id: str, *, reason: str, up_to: int | None = None) -> RunView:
        """Lets a held run go on; see `samband.store.decisions.Decisions.approve`."""
        await self._parts.run(org, run_id)
        run = await self._parts.store.decisions.approve(org, run_id, reason=reason, up_to=up_to)
        await self._parts.bell.ring(run.id)
        return await self._parts.run_view(run)

    async def reject(self, org: str, run_id: str, *, reason: str = "") -> RunView:
        """Ends a held run without applying what it was stopped for."""
        await self._parts.run(org, run_id)
        return await self._parts.run_view(await self._parts.store.decisions.reject(org, run_id, reason=reason))

    # ── looking at them ──────────────────────────────────────────────────────

    async def page(
        self, org: str, *, type: str | None = None, state: str | None = None, after: str | None = None, limit: int = 50
    ) -> FeedPage:
        """Gives runs, newest first."""
        await self._parts.store.catalog.organization(org)
        rows = await self._parts.store.feeds.runs(org, plugin=type, state=state, before=after, limit=limit + 1)
        cursors = {i: await self._parts.store.feeds.cursors_present(i) for i in {r.integration_id for r in rows}}
        stall_after_s = self._parts.stall_after_s
        items = [
            run_view(row, cursor_present=has_cursors(row, cursors[row.integration_id]), stall_after_s=stall_after_s)
            for row in rows[:limit]
        ]
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

    # ── dead letters ─────────────────────────────────────────────────────────

    async def dead_letters(
        self, org: str, *, open_only: bool = True, type: str | None = None, after: int | None = None, limit: int = 50
    ) -> FeedPage:
        """Gives the work that was given up, newest first."""
        await self._parts.store.catalog.organization(org)
        found = await self._parts.store.letters.page(
            org, open_only=open_only, plugin=type, before=after, limit=limit + 1
        )
        items = [dead_letter_view(letter, plugin) for letter, plugin in found[:limit]]
        return FeedPage(items=items, next=str(items[-1].id) if len(found) > limit else None)

    async def dead_letter(self, org: str, id: int) -> DeadLetterView:
        await self._parts.store.catalog.organization(org)
        return dead_letter_view(*await self._parts.store.letters.get(org, id))

    async def acknowledge_dead_letter(self, org: str, id: int, by: str) -> DeadLetterView:
        """Closes a dead letter: somebody has seen to it."""
        await self._parts.store.catalog.organization(org)
        return dead_letter_view(*await self._parts.store.letters.acknowledge(org, id, by))

    # ── the steps ────────────────────────────────────────────────────────────

    async def _order(
        self, integration: Integration, adapter: Adapter, *, operation: str = "sync", streams: Sequence[str],
        full: bool, reason: str, requested_by: str, **values: Any,
    ) -> Run:  # fmt: skip
        """Writes a run and rings for it."""
        run = await self._parts.store.runs.order(
            integration=integration, plugin_version=adapter.version, operation=operation, streams=streams, full=full,
            reason=reason, requested_by=requested_by, account=adapter.account(integration.settings), **values,
        )  # fmt: skip
        await self._parts.bell.ring(run.id)
        return run

    async def _offer(self, integration: Integration, wanted: Wanted) -> tuple[Adapter | None, list[str]]:
        """Gives the streams that bring what is wanted, with those that they refer to, in reading order."""
        if integration.state != "enabled":
            return None, []
        try:
            adapter = self._parts.registry.adapter(integration.plugin)
        except NotFoundError:
            brought = {stream.kind for stream in await self._parts.store.feeds.streams(integration.id)}
            if brought.isdisjoint(wanted.kinds):
                return None, []
            raise
        if not any(s.kind in wanted.kinds for s in adapter.manifest.streams):
            return None, []
        enabled = adapter.streams(await self._parts.connection(integration))
        return adapter, _with_references(enabled, wanted.kinds)

    def _nothing_connected(
        self, wanted: Wanted, integrations: Sequence[Integration], others: Sequence[NotStartedView]
    ) -> SambandError:
        if others:
            told = " ".join(f"{other.type}: {other.message}" for other in others)
            return ConflictError(f"No sync could be started. {told}", code="nothing_connected", hint=others[0].hint)
        offering = {
            view.name
            for view in self._parts.registry.views()
            if view.state == "loaded" and any(s.kind in wanted.kinds and s.direction != "push" for s in view.streams)
        }
        idle = [i.plugin for i in integrations if i.plugin in offering and i.state != "enabled"]
        if idle:
            hint = f"Test and enable {' or '.join(idle)}, which is connected already."
        elif offering:
            hint = f"Connect and enable one of these, and switch the stream on in its settings: {_list(offering)}."
        else:
            hint = f"None of the installed plugins offers {wanted.title}; install one that does."
        return ConflictError(
            f"None of the organisation's enabled integrations offers {wanted.title}.",
            code="nothing_connected", hint=hint,
        )  # fmt: skip

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


def _with_references(streams: Sequence[Stream], kinds: Collection[str]) -> list[str]:
    by_name = {stream.name: stream for stream in streams}
    found = {stream.name for stream in streams if stream.kind in kinds}
    new = set(found)
    while new:
        new = {name for found_now in new for name in by_name[found_now].references.values()} & by_name.keys() - found
        found |= new
    return [stream.name for stream in streams if stream.name in found]


def _list(names: Collection[str]) -> str:
    return ", ".join(sorted(names))


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
