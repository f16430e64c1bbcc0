"""What happens in a run, in order. No rule is decided here and no SQL is written here.

A run is claimed under a lease, reads its streams page by page through exactly one adapter, and ends in one of the states
the store knows. While one page is being committed the next one is being fetched and converted; the commit of a page is
awaited before the next one begins, so pages are stored in the order they came and each with the cursor behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import structlog

from samband.acting import act_for
from samband.adapters.adapter import Adapter, Connection
from samband.adapters.registry import Registry
from samband.contract import Stream
from samband.errors import (
    AuthError,
    ConflictError,
    CursorExpiredError,
    NotFoundError,
    NotReadyError,
    RateLimitedError,
    RemoteError,
    RetryableError,
    RunCancelledError,
    RunHeldError,
    SambandError,
    StaleLeaseError,
)
from samband.flow.exporting import Exporting, Patience
from samband.flow.keeping import Keeping
from samband.flow.reading import Observer, Source, StreamReading
from samband.flow.rehearsing import Rehearsal
from samband.flow.selecting import choices_of, chosen_pages
from samband.rules.digest import intake_digest
from samband.rules.intake import StreamPlan
from samband.rules.refusals import judge_refusal
from samband.rules.retry import run_delay_s
from samband.store import Lease, Store, StreamPosition
from samband.store.ledger import STEPS_S
from samband.twin import Doors, Twin
from samband.views import ErrorView

log = structlog.stdlib.get_logger("samband.flow")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSettings:
    """How patient a worker is.

    Attributes:
        owner: Names this worker on the runs it holds.
        lease_s: How long a silent worker keeps its run.
        heartbeat_s: How often the lease is extended.
        max_attempts: Starts in a row without a committed page after which a run is given up.
        settle_after_s: How long an exported item must have been out before its not being found at the other side means
            that it never arrived. Longer than the slowest answer they may still be working on.
        follow_up_steps_s: Ages at which it is asked whether an accepted item has been booked.
        follow_up_days: Beyond this age it is not asked any more.
    """

    owner: str
    lease_s: float = 30.0
    heartbeat_s: float = 10.0
    max_attempts: int = 5
    settle_after_s: float = 60.0
    follow_up_steps_s: Sequence[float] = STEPS_S
    follow_up_days: float = 90.0


class Flow:
    """Executes runs."""

    def __init__(
        self, *, store: Store, registry: Registry, settings: FlowSettings, observer: Observer | None = None,
        rng: random.Random | None = None, doors: Doors | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._registry = registry
        self._settings = settings
        self._observer = observer
        self._doors = doors
        self._revisions: dict[str, int] = {}
        self._uncertain: dict[str, int] = {}
        self._held_until: dict[str, float] = {}
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret

    async def execute(self, run_id: str) -> float | None:
        """Works on a run if it is due; gives the seconds after which to look at it again, or None.

        Safe to call at any time and from any number of workers: only the one that gets the lease does anything.
        """
        asked_at = _elapsed_s()
        lease = await self._store.runs.claim(run_id, self._settings.owner, self._settings.lease_s)
        if lease is None:
            return None
        self._held_until[lease.run_id] = asked_at + self._settings.lease_s
        bound = log.bind(run=lease.run_id, organization=lease.organization_id, plugin=lease.plugin)
        started = asyncio.get_running_loop().time()
        bound.info("run_started", attempt=lease.attempt)
        try:
            with act_for(organization=lease.organization_id, actor=f"run:{lease.run_id}"):
                state, again_s = await self._settle(lease)
        except StaleLeaseError:
            bound.warning("run_lease_lost")
            return None
        finally:
            for kept in (self._revisions, self._uncertain, self._held_until):
                kept.pop(lease.run_id, None)
        duration_s = asyncio.get_running_loop().time() - started
        bound.info("run_" + state, duration_s=round(duration_s, 3))
        if self._observer is not None:
            self._observer.run_ended(plugin=lease.plugin, state=state, duration_s=duration_s)
        return again_s

    async def _settle(self, lease: Lease) -> tuple[str, float | None]:
        """Runs the order and brings the run into the state its outcome calls for."""
        runs = self._store.runs
        if lease.attempt > self._settings.max_attempts:
            return await runs.give_up(lease, _worker_died(self._settings.max_attempts)), None
        try:
            async with self._heartbeat(lease):
                await self._carry_out(lease)
            is_open = bool(self._uncertain.get(lease.run_id))
            return await runs.succeed(lease, revision=self._revisions.get(lease.run_id), is_partial=is_open), None
        except asyncio.CancelledError:
            # The worker is stopping: give the run back at once instead of letting its lease run out.
            with contextlib.suppress(StaleLeaseError, NotReadyError):
                await asyncio.shield(runs.release(lease))
            raise
        except StaleLeaseError:
            raise
        except RunCancelledError:
            await runs.end_cancelled(lease)
            return "cancelled", None
        except RunHeldError:
            return "held", None  # by the store, in the transaction that refused the page
        except NotReadyError as err:
            log.warning("run_interrupted", run=lease.run_id, code=err.code)
            return "interrupted", None  # the database is away: the lease runs out and a sweep finds the run again
        except RetryableError as err:
            return await self._wait_or_give_up(lease, err)
        except AuthError as err:
            return await runs.fail(lease, ErrorView.of(err), connection=judge_refusal(err).connection), None
        except SambandError as err:
            return await runs.fail(lease, ErrorView.of(err)), None
        except Exception as err:
            # A fault of samband itself: tried again like an outage, and given up like one.
            log.exception("run_crashed", run=lease.run_id)
            return await self._wait_or_give_up(lease, _own_fault(err))

    async def _wait_or_give_up(self, lease: Lease, err: RetryableError) -> tuple[str, float | None]:
        is_throttled = isinstance(err, RateLimitedError)
        attempt = await self._store.runs.attempts(lease)
        if attempt >= self._settings.max_attempts and not is_throttled:
            return await self._store.runs.give_up(lease, ErrorView.of(err)), None
        delay_s = run_delay_s(attempt, err.retry_after_s, self._rng)
        state = await self._store.runs.defer(lease, seconds=delay_s, error=ErrorView.of(err), counts=not is_throttled)
        return state, delay_s if state == "waiting" else None

    # ── what is ordered ──────────────────────────────────────────────────────

    async def _carry_out(self, lease: Lease) -> None:
        """Reads the run's streams in their order, in the way that the run asks for."""
        adapter, connection = await self._connect(lease)
        work = _Work(lease, adapter, connection, intake_digest(connection.settings, adapter.version))
        if lease.operation == "export":
            self._uncertain[lease.run_id] = await self._exporting(work).run()
            return
        streams = [stream for stream in adapter.streams(connection) if stream.name in lease.streams]
        if lease.operation == "dry_run":
            await self._rehearse(work, streams)
            return
        for stream in streams:
            if lease.selection is None:
                await self._sync_stream(work, stream)
            else:
                await self._read_choice(work, stream)

    async def _connect(self, lease: Lease) -> tuple[Adapter, Connection]:
        integration = await self._store.catalog.integration_by_id(lease.integration_id)
        self._revisions[lease.run_id] = integration.revision
        _demand_on(integration.state, lease.operation)
        adapter = self._registry.adapter(lease.plugin)
        credentials = await self._store.catalog.credentials(integration)
        if credentials is None:
            raise NotFoundError("The integration has no credentials.", code="credentials_missing")
        return adapter, Connection(
            organization_id=lease.organization_id, integration_id=integration.id, revision=integration.revision,
            settings=integration.settings, credentials=credentials,
        )  # fmt: skip

    def _exporting(self, work: _Work) -> Exporting:
        settings, lease = self._settings, work.lease
        can_write = self._doors is not None and "render" in work.adapter.manifest.capabilities
        return Exporting(
            self._store, lease, work.adapter, work.connection,
            patience=Patience(
                settle_after_s=settings.settle_after_s, steps_s=settings.follow_up_steps_s,
                up_to_days=settings.follow_up_days,
            ),
            twin=Twin(self._store, work.adapter, self._doors) if can_write and self._doors else None,
            # By this machine's clock, which a pause does not stop: the database's may not be asked in time.
            is_held=lambda: _elapsed_s() < self._held_until.get(lease.run_id, 0.0),
        )  # fmt: skip

    def _plan(self, work: _Work, stream: Stream) -> StreamPlan:
        return StreamPlan.build(
            stream=stream, kind=self._registry.kinds[stream.kind],
            settings=work.adapter.parse_settings(work.connection.settings), digest=work.digest,
            declared=work.adapter.manifest.field_classes,
        )  # fmt: skip

    def _keeping(self, work: _Work, position: StreamPosition) -> Keeping:
        return Keeping(self._store, work.lease, position, self._observer)

    async def _sync_stream(self, work: _Work, stream: Stream) -> None:
        """Goes on where the stream's cursor stands, or reads it whole."""
        lease = work.lease
        position = await self._store.streams.begin(
            lease, name=stream.name, kind=stream.kind, digest=work.digest, incremental=stream.incremental,
            reference_kinds=work.reference_kinds(stream),
        )  # fmt: skip
        if position.is_done:
            return
        if position.note:
            await self._store.runs.note(lease, position.note)
        reading = StreamReading(work.adapter, self._plan(work, stream), work.changes(stream))
        try:
            await reading.read(position.cursor, self._keeping(work, position))
        except CursorExpiredError as err:
            await self._store.runs.note(lease, f"{stream.name}: {err.message} Everything is read again.")
            position = await self._store.streams.restart(lease, position, work.digest)
            try:
                await reading.read(position.cursor, self._keeping(work, position))
            except CursorExpiredError as again:
                raise RemoteError("They refuse even a read from the beginning.", code="cursor_refused") from again

    async def _read_choice(self, work: _Work, stream: Stream) -> None:
        """Reads the records that the run was ordered for, and leaves the stream's cursor where it is."""
        position = await self._store.streams.aside(work.lease, name=stream.name, kind=stream.kind)
        if not position.is_done:
            reading = StreamReading(work.adapter, self._plan(work, stream), work.chosen(stream))
            await reading.read(position.cursor, self._keeping(work, position))

    async def _rehearse(self, work: _Work, streams: list[Stream]) -> None:
        """Finds out what a sync would do, and keeps that instead of doing it."""
        rehearsal = Rehearsal(self._store, work.lease)
        await rehearsal.begin()
        for stream in streams:
            chosen = stream.name in choices_of(work.lease.selection)
            source = work.chosen(stream) if chosen else work.changes(stream)
            reading = StreamReading(work.adapter, self._plan(work, stream), rehearsal.bounded(source))
            await rehearsal.read(
                reading, stream, is_apart=chosen, digest=work.digest, reference_kinds=work.reference_kinds(stream)
            )
            if rehearsal.is_over:
                break

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
            asked_at = _elapsed_s()
            try:
                await self._store.runs.renew(lease, self._settings.lease_s)
                self._held_until[lease.run_id] = asked_at + self._settings.lease_s
            except NotReadyError as err:
                # Not a reason to stop: the next commit decides, and it is fenced.
                log.warning("heartbeat_missed", run=lease.run_id, code=err.code)


@dataclass(frozen=True, slots=True)
class _Work:
    """One claimed run with all that is needed to read for it."""

    lease: Lease
    adapter: Adapter
    connection: Connection
    digest: str

    def reference_kinds(self, stream: Stream) -> list[str]:
        return [self.adapter.manifest.stream(name).kind for name in stream.references.values()]

    def changes(self, stream: Stream) -> Source:
        """Gives the pages behind a cursor."""
        return lambda cursor: self.adapter.sync(self.connection, stream.name, cursor, run_id=self.lease.run_id)

    def chosen(self, stream: Stream) -> Source:
        """Gives the pages with what the run was ordered for, apart from the stream's cursor."""
        choice = choices_of(self.lease.selection)[stream.name]
        return lambda mark: chosen_pages(self.adapter, self.connection, stream.name, choice, mark, self.lease.run_id)


def _demand_on(state: str, operation: str) -> None:
    """Refuses work for an integration that was switched off after it was ordered; money also for one not switched on.

    A dry run changes nothing, and somebody may want one before switching on.
    """
    if (state == "disabled" and operation != "dry_run") or (operation == "export" and state != "enabled"):
        raise ConflictError(
            f"The integration is {state}: what was ordered before is not carried out.",
            code="not_enabled",
            hint="Enable the integration, then order it again.",
        )


def _elapsed_s() -> float:
    """Gives a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


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
    """Gives the error that ended a task group: a lost lease, or that it was cancelled, before anything else."""
    leaves: list[BaseException] = []
    stack: list[BaseException] = [errors]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((e for e in leaves if isinstance(e, StaleLeaseError | RunCancelledError)), leaves[-1])
