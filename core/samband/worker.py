"""The worker: it executes runs when the doorbell rings, and looks into the database in case the bell did not.

Two parts work side by side. `WakeWorker` is arq's worker, woken instead of polling. The sweeper asks the database every
few seconds which runs are due and rings for them; when Redis stays away it has them executed directly. What they share
is the slots: no run twice at once in this process, never more runs than there are places.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, cast

import structlog
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix
from arq.utils import timestamp_ms
from arq.worker import Worker, func
from structlog.typing import FilteringBoundLogger

from samband.errors import SambandError
from samband.queue import (
    JOB_NAME,
    LOST,
    QUEUE_NAME,
    Doorbell,
    Line,
    Slots,
    Sweeper,
    decode_job,
    encode_job,
    open_redis,
    probe,
    wake_key,
)

__all__ = ["RunWorker", "WakeWorker"]

_POLL_S: Final = 1.0
"""How often an idle worker looks without being woken: the net under a lost wake token."""
_TOKEN_WAIT_S: Final = 3
_ANSWER_WITHIN_S: Final = 5.0
_BACKOFF_FIRST_S: Final = 0.05
_READ_LIMIT_MIN: Final = 500
_LAST_LOOK_S: Final = 1.0
_RELEASE_WITHIN_S: Final = 5.0
_NO_LIMIT: Final = timedelta(days=365)
_TRIES_WITHOUT_END: Final = 1_000_000_000


class WakeWorker(Worker):
    """arq's worker with four differences.

    - It is woken by a token, a freed slot or the next delayed ring, instead of polling (`main`, `listen`).
    - A ring leaves the queue when its run *starts* (`_answer`), so a ring that comes meanwhile is a new one and is
      not swallowed, and runs in progress do not stand in the way at the head of the queue. What arq keeps a job in
      the queue for, a second start after a crash, is the database's part here.
    - The lease on a run in progress is short and renewed (`renew_leases`). It only spares other workers a wasted
      start; who may write is decided by the lease in the database.
    - A lost connection is waited for (`main`), and no single job can end the worker (`run_job`).

    Args:
        perform: Executes one run; must not raise.
        wake: Set by whoever wants the worker to look at the queue now.
    """

    def __init__(
        self,
        perform: Callable[[str], Awaitable[None]],
        *,
        redis: ArqRedis,
        queue_name: str,
        slots: Slots,
        concurrency: int,
        lease_s: float,
        wake: asyncio.Event,
        line: Line,
        log: FilteringBoundLogger,
    ) -> None:
        super().__init__(
            functions=[func(self._answer, name=JOB_NAME)],
            queue_name=queue_name,
            redis_pool=redis,
            handle_signals=False,
            max_jobs=concurrency,
            job_timeout=_NO_LIMIT,
            keep_result=0,
            poll_delay=_POLL_S,
            queue_read_limit=max(_READ_LIMIT_MIN, 20 * concurrency),
            max_tries=_TRIES_WITHOUT_END,
            job_serializer=encode_job,
            job_deserializer=decode_job,
            log_results=False,
        )
        self.in_progress_timeout_s = lease_s
        self._perform = perform
        self._slots = slots
        self._wake = wake
        self._line = line
        self._log = log

    async def main(self) -> None:
        """Starts runs until `allow_pick_jobs` is False."""
        backoff_s = _BACKOFF_FIRST_S
        while self.allow_pick_jobs:
            self._wake.clear()
            try:
                idle_s = await self._look()
            except LOST as error:
                self._line.failed(error)
                idle_s, backoff_s = backoff_s, min(backoff_s * 2, _POLL_S)
            else:
                backoff_s = _BACKOFF_FIRST_S
            with suppress(TimeoutError):
                async with asyncio.timeout(idle_s):
                    await self._wake.wait()

    async def listen(self) -> None:
        """Turns wake tokens into a look at the queue, for ever."""
        tokens = wake_key(self.queue_name)
        while True:
            await self._slots.room()
            try:
                if not await cast("Awaitable[list[bytes] | None]", self.pool.blpop([tokens], timeout=_TOKEN_WAIT_S)):
                    continue
                self._wake.set()
                if self._slots.is_full:
                    # It became full while it waited: the token is meant for a worker that has room.
                    await cast("Awaitable[int]", self.pool.lpush(tokens, b"1"))
            except LOST as error:
                self._line.failed(error)
                await asyncio.sleep(_BACKOFF_FIRST_S * 4)

    async def renew_leases(self) -> None:
        """Keeps other workers away from the runs in progress here, for ever."""
        lease_ms = int(self.in_progress_timeout_s * 1000)
        while True:
            await asyncio.sleep(self.in_progress_timeout_s / 3)
            held = [job_id for job_id, task in self.tasks.items() if not task.done()]
            if not held:
                continue
            try:
                async with self.pool.pipeline(transaction=False) as pipe:
                    for job_id in held:
                        pipe.pexpire(in_progress_key_prefix + job_id, lease_ms)
                    await pipe.execute()
            except LOST as error:
                self._line.failed(error)

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Starts as many of the jobs as there are slots (arq's own loses a slot when Redis goes away in between)."""
        for raw in job_ids:
            if self._slots.is_full or not self.allow_pick_jobs:
                return
            try:
                job_id = raw.decode()
            except UnicodeDecodeError:
                self._log.warning("queue_entry_refused", reason="its id is not text")
                await self.pool.zrem(self.queue_name, raw)
                continue
            if self._slots.take(job_id):
                await self._start(job_id)

    async def run_job(self, job_id: str, score: int) -> None:
        """Runs one job as arq does; what goes wrong around the run itself ends here."""
        try:
            await super().run_job(job_id, score)
        except LOST as error:
            self._line.failed(error)
        except Exception as error:  # noqa: BLE001 - a job nobody can read must not stop all the others
            self._log.error("queue_entry_dropped", run_id=job_id, exc_info=error)
            with suppress(*LOST):
                await self.finish_failed_job(job_id, None)

    async def finish_job(
        self,
        job_id: str,
        finish: bool,
        result_data: bytes | None,
        result_timeout_s: float | None,
        keep_result_forever: bool,
        incr_score: int | None,
        keep_in_progress: float | None,
    ) -> None:
        """Gives the lease back. The ring left the queue at the start; one that is there now is a newer one."""
        try:
            await self.pool.delete(in_progress_key_prefix + job_id, retry_key_prefix + job_id)
        except LOST as error:
            self._line.failed(error)

    def interrupt(self) -> None:
        """Cancels the runs, and not arq's work around them, which tidies up after each."""
        for run in list(self.job_tasks.values()):
            run.cancel()

    async def heart_beat(self) -> None:
        """Does nothing: there are no cron jobs here, and health is the database's and `RunWorker`'s."""

    async def _look(self) -> float:
        """Starts what is due; the seconds until something else may be."""
        if self._slots.is_full:
            return _POLL_S
        await self._poll_iteration()
        upcoming = await self.pool.zrangebyscore(
            self.queue_name, min=timestamp_ms() + 1, max="+inf", start=0, num=1, withscores=True
        )
        if not self._line.is_up:
            # That it can be read is not enough: a full Redis, or a replica, takes no ring.
            await probe(self.pool, self.queue_name)
        self._line.worked()
        return min(_POLL_S, max(0.0, (upcoming[0][1] - timestamp_ms()) / 1000)) if upcoming else _POLL_S

    async def _start(self, job_id: str) -> None:
        score: float | None = None
        try:
            score = await self._claim(job_id)
        finally:
            if score is None:
                # Without a wake-up: the ring of a run that is another's would be looked at again at once, for ever.
                self._slots.give_up(job_id)
        if score is not None:
            task = self.loop.create_task(self.run_job(job_id, int(max(score, 0.0))))
            self.tasks[job_id] = task
            task.add_done_callback(lambda _: self._slots.release(job_id))

    async def _claim(self, job_id: str) -> float | None:
        """The ring's score, or None when another worker has the run or the ring is gone or not due."""
        key = in_progress_key_prefix + job_id
        async with self.pool.pipeline(transaction=True) as pipe:
            pipe.set(key, b"1", px=int(self.in_progress_timeout_s * 1000), nx=True)
            pipe.zscore(self.queue_name, job_id)
            is_ours, score = await pipe.execute()
        if not is_ours:
            return None
        if score is None or score > timestamp_ms():
            await self.pool.delete(key)
            return None
        return float(score)

    async def _answer(self, ctx: dict[Any, Any], run_id: str) -> None:
        job_id = ctx["job_id"]
        try:
            async with self.pool.pipeline(transaction=True) as pipe:
                pipe.zrem(self.queue_name, job_id)
                pipe.delete(job_key_prefix + job_id, retry_key_prefix + job_id)
                await pipe.execute()
        except LOST as error:
            # The ring stays and the run is looked at once more than needed.
            self._line.failed(error)
        if job_id == run_id:
            await self._perform(run_id)
        else:
            self._log.warning("queue_entry_refused", reason="its id and its payload name different runs")


class RunWorker:
    """Executes runs until it is stopped, with or without Redis. An instance runs once.

    Args:
        redis_url: Where the doorbell is.
        execute: Does everything about one run, its lease in the database included. Returns None when it is done
            with it, or the seconds after which to ring again. When cancelled it gives the run back in the database
            and lets the cancellation through. What it raises is logged, and the run is left to the sweeper.
        due: The ids, at most as many as asked for, of the runs that should be executed now according to the
            database: waiting past their time, or with a lease that has run out.
        next_after: Gives, once `execute` is done with a run, others that may start because of that: they were more than
            may go on at once. Without it they start a sweep later.
        concurrency: How many runs at once.
        lease_s: How long another worker leaves a run alone after this process was killed, as far as the queue goes.
        sweep_s: Seconds between two looks into the database.
        drain_s: How long `stop` lets runs finish.
    """

    def __init__(
        self,
        *,
        redis_url: str,
        execute: Callable[[str], Awaitable[float | None]],
        due: Callable[[int], Awaitable[Sequence[str]]],
        concurrency: int,
        next_after: Callable[[str], Awaitable[Sequence[str]]] | None = None,
        lease_s: float = 10.0,
        sweep_s: float = 2.0,
        drain_s: float = 20.0,
        queue_name: str = QUEUE_NAME,
        log: FilteringBoundLogger | None = None,
    ) -> None:
        self._log: FilteringBoundLogger = log or structlog.get_logger("samband.worker")
        self._redis = open_redis(redis_url, answer_within_s=_ANSWER_WITHIN_S, connections=concurrency + 8)
        self._line = Line(self._log)
        self._bell = Doorbell(redis_url, queue_name=queue_name, line=self._line)
        self._execute = execute
        self._next_after = next_after
        self._concurrency = concurrency
        self._lease_s = lease_s
        self._drain_s = drain_s
        self._queue_name = queue_name
        self._wake = asyncio.Event()
        self._slots = Slots(concurrency, freed=self._wake)
        self._direct: set[asyncio.Task[None]] = set()
        self._sweeper = Sweeper(
            self._bell,
            due=due,
            every_s=sweep_s,
            held=lambda: self._slots.held,
            start_directly=self._start_directly,
            log=self._log,
        )
        self._has_started = False
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def running(self) -> frozenset[str]:
        """The ids of the runs this worker executes now."""
        return self._slots.held

    @property
    def last_sweep_at(self) -> datetime | None:
        """When the database last answered which runs are due (UTC), or None before the first time."""
        return self._sweeper.last_at

    @property
    def redis_ok(self) -> bool:
        """True when Redis answered the last time it was asked."""
        return self._line.is_up

    async def run(self) -> None:
        """Works until `stop` is called or the task is cancelled; a cancelled worker does not drain.

        Raises:
            RuntimeError: It was run before.
        """
        if self._has_started:
            raise RuntimeError("A RunWorker runs once: create another one.")
        self._has_started = True
        worker = WakeWorker(
            self._perform,
            redis=self._redis,
            queue_name=self._queue_name,
            slots=self._slots,
            concurrency=self._concurrency,
            lease_s=self._lease_s,
            wake=self._wake,
            line=self._line,
            log=self._log,
        )
        try:
            await self._work(worker)
        finally:
            try:
                await self._bell.close()
                await self._redis.aclose(close_connection_pool=True)
            finally:
                self._ended.set()

    async def stop(self, *, drain: bool = True) -> None:
        """Takes no new work from now on, and returns when the last run has ended or been given back.

        Runs in progress get ``drain_s`` seconds, then they are cancelled; with ``drain=False``, which may also be
        asked for while an earlier call still waits, they are cancelled now.
        """
        self._stop_asked.set()
        if not drain:
            self._hurry.set()
        if self._has_started:
            await self._ended.wait()

    async def _work(self, worker: WakeWorker) -> None:
        async with asyncio.TaskGroup() as group:
            renewal = group.create_task(worker.renew_leases())
            picking = group.create_task(worker.main())
            sweeping = group.create_task(self._sweeper.run())
            listening = group.create_task(worker.listen())
            try:
                await self._stop_asked.wait()
            except asyncio.CancelledError:
                self._stop_asked.set()
                self._hurry.set()
                raise
            finally:
                worker.allow_pick_jobs = False
                self._wake.set()
                self._sweeper.stop()
                # These two end by themselves, so that no run stays claimed and unstarted and no query half-read.
                await asyncio.wait({picking, sweeping}, timeout=_LAST_LOOK_S)
                await _end(picking, sweeping, listening)
                await self._drain(worker)
                await _end(renewal)

    async def _drain(self, worker: WakeWorker) -> None:
        runs = {task for task in (*worker.tasks.values(), *self._direct) if not task.done()}
        if not runs:
            return
        hurry = asyncio.create_task(self._hurry.wait())
        finish: asyncio.Task[Any] = asyncio.create_task(asyncio.wait(runs))
        await asyncio.wait({hurry, finish}, timeout=self._drain_s, return_when=asyncio.FIRST_COMPLETED)
        await _end(hurry, finish)
        self._hurry.set()
        left = {task for task in runs if not task.done()}
        if left:
            worker.interrupt()
            for task in self._direct:
                task.cancel()
            _, stuck = await asyncio.wait(left, timeout=_RELEASE_WITHIN_S)
            self._log.info("runs_interrupted", count=len(left), not_given_back=len(stuck))

    async def _perform(self, run_id: str) -> None:
        if self._hurry.is_set():
            await self._bell.ring(run_id)
            return
        try:
            again_in_s = await self._execute(run_id)
        except asyncio.CancelledError:
            # It was given back in the database: another worker may go on at once.
            await self._bell.ring(run_id)
            raise
        except Exception as error:  # noqa: BLE001 - one bad run harms nothing but itself
            self._log.error("run_broke", run_id=run_id, exc_info=error)
        else:
            if again_in_s is not None:
                await self._bell.ring(run_id, delay_s=again_in_s)
            await self._ring_for_next(run_id)

    async def _ring_for_next(self, run_id: str) -> None:
        if self._next_after is None or not self._line.is_up:
            return  # a sweep finds it
        try:
            await self._bell.ring_all(await self._next_after(run_id))
        except SambandError as error:
            self._log.warning("next_run_not_rung", after=run_id, code=error.code)  # a sweep finds it

    def _start_directly(self, run_id: str) -> None:
        if self._slots.take(run_id):
            task = asyncio.create_task(self._perform(run_id))
            self._direct.add(task)
            task.add_done_callback(partial(self._direct_ended, run_id))

    def _direct_ended(self, run_id: str, task: asyncio.Task[None]) -> None:
        self._direct.discard(task)
        self._slots.release(run_id)
        self._sweeper.hurry()


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks until they have ended.

    Once is not enough: a time limit inside redis-py that expires at the same moment swallows a cancellation
    (``asyncio.timeout(0)`` around its look for unread bytes; redis-py 5.3.1).
    """
    while left := {task for task in tasks if not task.done()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.5)
