"""What happens in a run, in order. No rule is decided here and no SQL is written here.

A run is claimed under a lease, reads its streams page by page through exactly one adapter, and ends in one of the states
the store knows. While one page is being committed the next one is being fetched and converted; the commit of a page is
awaited before the next one begins, so pages are stored in the order they came and each with the cursor behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from samband.adapters.adapter import Adapter, Connection
from samband.adapters.registry import Registry
from samband.contract import Page, Stream
from samband.errors import (
    AuthError,
    CursorExpiredError,
    NotFoundError,
    NotReadyError,
    RateLimitedError,
    RemoteError,
    RetryableError,
    SambandError,
    StaleLeaseError,
)
from samband.rules.digest import intake_digest
from samband.rules.intake import Converted, Intake, StreamPlan, convert_page, page_keys, take_in
from samband.rules.retry import run_delay_s
from samband.store import Lease, PageCommit, Store, StreamPosition
from samband.views import ErrorView

log = structlog.stdlib.get_logger("samband.flow")

CONNECTION_AFTER = {"misconfigured": ("client_unknown", "tenant_unknown", "scope_refused")}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSettings:
    """How patient a worker is.

    Attributes:
        owner: Names this worker on the runs it holds.
        lease_s: How long a silent worker keeps its run.
        heartbeat_s: How often the lease is extended.
        max_attempts: Starts in a row without a committed page after which a run is given up.
    """

    owner: str
    lease_s: float = 30.0
    heartbeat_s: float = 10.0
    max_attempts: int = 5


class Observer(Protocol):
    """Told what happened, for metrics."""

    def run_ended(self, *, plugin: str, state: str, duration_s: float) -> None: ...
    def page_committed(self, *, plugin: str, stream: str, counts: Mapping[str, int]) -> None: ...


class Flow:
    """Executes runs."""

    def __init__(
        self, *, store: Store, registry: Registry, settings: FlowSettings, observer: Observer | None = None,
        rng: random.Random | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._registry = registry
        self._settings = settings
        self._observer = observer
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret

    async def execute(self, run_id: str) -> float | None:
        """Works on a run if it is due; gives the seconds after which to look at it again, or None.

        Safe to call at any time and from any number of workers: only the one that gets the lease does anything.
        """
        lease = await self._store.runs.claim(run_id, self._settings.owner, self._settings.lease_s)
        if lease is None:
            return None
        bound = log.bind(run=lease.run_id, organization=lease.organization_id, plugin=lease.plugin)
        started = asyncio.get_running_loop().time()
        bound.info("run_started", attempt=lease.attempt)
        try:
            state, again_s = await self._settle(lease)
        except StaleLeaseError:
            bound.warning("run_lease_lost")
            return None
        duration_s = asyncio.get_running_loop().time() - started
        bound.info("run_" + state, duration_s=round(duration_s, 3))
        if self._observer is not None:
            self._observer.run_ended(plugin=lease.plugin, state=state, duration_s=duration_s)
        return again_s

    async def _settle(self, lease: Lease) -> tuple[str, float | None]:
        """Runs the order and brings the run into the state its outcome calls for."""
        runs = self._store.runs
        if lease.attempt > self._settings.max_attempts:
            await runs.give_up(lease, _worker_died(self._settings.max_attempts))
            return "failed", None
        try:
            async with self._heartbeat(lease):
                await self._run_sync(lease)
            return await runs.succeed(lease), None
        except asyncio.CancelledError:
            # The worker is stopping: give the run back at once instead of letting its lease run out.
            with contextlib.suppress(StaleLeaseError, NotReadyError):
                await asyncio.shield(runs.release(lease))
            raise
        except StaleLeaseError:
            raise
        except NotReadyError as err:
            log.warning("run_interrupted", run=lease.run_id, code=err.code)
            return "interrupted", None  # the database is away: the lease runs out and a sweep finds the run again
        except RetryableError as err:
            return await self._wait_or_give_up(lease, err)
        except AuthError as err:
            await runs.fail(lease, ErrorView.of(err), connection=_connection_after(err))
        except SambandError as err:
            await runs.fail(lease, ErrorView.of(err))
        except Exception as err:
            # A fault of samband itself: tried again like an outage, and given up like one.
            log.exception("run_crashed", run=lease.run_id)
            return await self._wait_or_give_up(lease, _own_fault(err))
        return "failed", None

    async def _wait_or_give_up(self, lease: Lease, err: RetryableError) -> tuple[str, float | None]:
        is_throttled = isinstance(err, RateLimitedError)
        attempt = await self._store.runs.attempts(lease)
        if attempt >= self._settings.max_attempts and not is_throttled:
            await self._store.runs.give_up(lease, ErrorView.of(err))
            return "failed", None
        delay_s = run_delay_s(attempt, err.retry_after_s, self._rng)
        await self._store.runs.defer(lease, seconds=delay_s, error=ErrorView.of(err), counts=not is_throttled)
        return "waiting", delay_s

    # ── one sync ─────────────────────────────────────────────────────────────

    async def _run_sync(self, lease: Lease) -> None:
        adapter, connection = await self._connect(lease)
        digest = intake_digest(connection.settings, adapter.version)
        for stream in adapter.streams(connection):
            if stream.name in lease.streams:
                await self._sync_stream(lease, adapter, connection, stream, digest)

    async def _connect(self, lease: Lease) -> tuple[Adapter, Connection]:
        integration = await self._store.catalog.integration_by_id(lease.integration_id)
        adapter = self._registry.adapter(lease.plugin)
        credentials = await self._store.catalog.credentials(integration)
        if credentials is None:
            raise NotFoundError("The integration has no credentials.", code="credentials_missing")
        return adapter, Connection(
            organization_id=lease.organization_id, integration_id=integration.id, revision=integration.revision,
            settings=integration.settings, credentials=credentials,
        )  # fmt: skip

    async def _sync_stream(
        self, lease: Lease, adapter: Adapter, connection: Connection, stream: Stream, digest: str
    ) -> None:
        position = await self._store.streams.begin(
            lease, name=stream.name, kind=stream.kind, digest=digest, incremental=stream.incremental,
            reference_kinds=[adapter.manifest.stream(name).kind for name in stream.references.values()],
        )  # fmt: skip
        if position.is_done:
            return
        if position.note:
            await self._store.runs.note(lease, position.note)
        plan = StreamPlan.build(
            stream=stream, kind=self._registry.kinds[stream.kind], settings=adapter.parse_settings(connection.settings),
            digest=digest, declared=adapter.manifest.field_classes,
        )  # fmt: skip
        reading = StreamReading(self._store, lease, adapter, connection, plan, self._observer)
        try:
            await reading.read(position)
        except CursorExpiredError as err:
            await self._store.runs.note(lease, f"{stream.name}: {err.message} Everything is read again.")
            position = await self._store.streams.restart(lease, position, digest)
            try:
                await reading.read(position)
            except CursorExpiredError as again:
                raise RemoteError("They refuse even a read from the beginning.", code="cursor_refused") from again

    @contextlib.asynccontextmanager
    async def _heartbeat(self, lease: Lease) -> AsyncIterator[None]:
        """Extends the lease while the block runs, and ends the block when the lease is lost."""
        try:
            async with asyncio.TaskGroup() as group:
                beat = group.create_task(self._beat(lease))
                yield
                beat.cancel()
        except BaseExceptionGroup as errors:
            error = _first(errors)
            raise error from error.__cause__

    async def _beat(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat_s)
            try:
                await self._store.runs.renew(lease, self._settings.lease_s)
            except NotReadyError as err:
                # Not a reason to stop: the next commit decides, and it is fenced.
                log.warning("heartbeat_missed", run=lease.run_id, code=err.code)


class StreamReading:
    """Reads one stream to its end: fetch → look up what we hold → convert → commit, the commit overlapping the next fetch."""

    def __init__(
        self, store: Store, lease: Lease, adapter: Adapter, connection: Connection, plan: StreamPlan,
        observer: Observer | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._lease = lease
        self._adapter = adapter
        self._connection = connection
        self._plan = plan
        self._observer = observer
        self._references: dict[str, int] = {}

    async def read(self, position: StreamPosition) -> None:
        """Takes every page in, from ``position`` to the one that says the read is complete."""
        await self._find_reference_streams()
        pages = self._adapter.sync(
            self._connection,
            self._plan.stream.name,
            position.cursor,
            run_id=self._lease.run_id,
            prepare=lambda page: page,
        )
        pending: asyncio.Task[None] | None = None
        reached = position.cursor
        pending_keys: frozenset[str] = frozenset()
        try:
            async with contextlib.aclosing(pages):
                async for page in pages:
                    keys = page_keys(page)
                    if pending is not None and not pending_keys.isdisjoint(keys):
                        # The page repeats a key of the one being stored: what we hold is known only after that commit.
                        await pending
                    intake = await self._prepare(page, keys, position)
                    if pending is not None:
                        await pending
                    commit = PageCommit(
                        intake=intake,
                        cursor=page.cursor,
                        complete=page.complete,
                        advances=page.complete or page.cursor not in (None, reached),
                        total=page.total,
                    )
                    reached = page.cursor or reached
                    pending_keys = frozenset(keys)
                    del page, intake
                    pending = asyncio.create_task(self._commit(position, commit), name="samband-commit")
                if pending is not None:
                    await pending
        finally:
            if pending is not None and not pending.done():
                # Cut off half way it is rolled back and done again later, so it is given a moment.
                await asyncio.wait([pending], timeout=30)
            if pending is not None and pending.done() and not pending.cancelled():
                pending.exception()  # when the read failed first, that error is the one that is told

    async def _prepare(self, page: Page, keys: list[str], position: StreamPosition) -> Intake:
        known = await self._store.pages.known(self._lease.organization_id, position, keys)
        if not self._plan.stream.references:
            return await self._adapter.compute(lambda: take_in(convert_page(page, known, self._plan), page, known, {}))
        converted = await self._adapter.compute(lambda: convert_page(page, known, self._plan))
        references = await self._resolve(converted)
        return await self._adapter.compute(lambda: take_in(converted, page, known, references))

    async def _find_reference_streams(self) -> None:
        if self._plan.stream.references:
            self._references = await self._store.streams.ids(self._lease.integration_id)

    async def _resolve(self, converted: Converted) -> dict[str, Mapping[str, int]]:
        found: dict[str, Mapping[str, int]] = {}
        for name, stream_name in self._plan.stream.references.items():
            stream_id = self._references.get(stream_name)
            keys = converted.reference_keys(name)
            found[name] = await self._store.pages.resolve(stream_id, keys) if stream_id is not None else {}
        return found

    async def _commit(self, position: StreamPosition, commit: PageCommit) -> None:
        counts = await self._store.pages.commit(self._lease, position, commit)
        if self._observer is not None:
            self._observer.page_committed(plugin=self._lease.plugin, stream=self._plan.stream.name, counts=counts)


def _connection_after(err: AuthError) -> str:
    for state, reasons in CONNECTION_AFTER.items():
        if err.reason in reasons:
            return state
    return "needs_reauthentication"


def _own_fault(err: Exception) -> RetryableError:
    return RetryableError(
        f"samband itself failed ({type(err).__name__}).",
        code="internal_error",
        hint="The worker's log says where; please report it.",
    )


def _worker_died(attempts: int) -> ErrorView:
    return ErrorView(
        code="worker_died",
        message=f"The worker died {attempts} times in a row on this run without storing a page.",
        hint="Look at the worker's log for the plugin or the record that brings it down, then start a new run.",
    )


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Gives the error that ended a task group: a lost lease before anything else."""
    leaves: list[BaseException] = []
    stack: list[BaseException] = [errors]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((e for e in leaves if isinstance(e, StaleLeaseError)), leaves[-1])
