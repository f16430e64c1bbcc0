"""The doorbell: it tells a worker that a run is waiting, and holds nothing else.

The database is the truth. A ring that is lost (Redis away, restarted, emptied) delays a run until the next look into
the database (`Sweeper`) and loses nothing, so a ring never raises and never blocks its caller for long.

A job in the queue is the run's id as JSON, in arq's own layout. It is written here in one transaction instead of by
``enqueue_job``, because ringing twice is the same as ringing once: there is nothing to watch for, a sooner ring moves
a later one forward, and half a job (an id without its payload, or the other way round) mends itself. ``ZADD … LT``
needs Redis 6.2 or any Valkey.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

import orjson
import structlog
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix
from arq.jobs import serialize_job
from arq.utils import timestamp_ms
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError
from structlog.typing import FilteringBoundLogger

from samband.errors import ConfigurationError

__all__ = [
    "JOB_NAME",
    "LOST",
    "QUEUE_NAME",
    "Doorbell",
    "Line",
    "Slots",
    "Sweeper",
    "decode_job",
    "encode_job",
    "open_redis",
    "probe",
    "wake_key",
]

T = TypeVar("T")

QUEUE_NAME: Final = "samband:runs"
JOB_NAME: Final = "run"
LOST: Final = (RedisError, OSError)
"""What Redis being away looks like. A refusal (full, read-only, wrong password) is treated the same: no doorbell."""

_ANSWER_WITHIN_S: Final = 1.0
_CONNECTIONS: Final = 16
_WAKE_TOKENS_MAX: Final = 64
_MAX_DELAY_S: Final = 30 * 86_400.0
_JOB_LIVES_S: Final = 7 * 86_400.0
_RUN_ID_MAX_CHARS: Final = 128
_CLOCK_LIMIT_MS: Final = 1 << 43
_DUE_WITHIN_S: Final = 30.0
_SWEEP_LIMIT: Final = 500
_SWEEPS_BEFORE_DIRECT: Final = 2.5


def wake_key(queue_name: str) -> str:
    """The name of the short list whose tokens wake idle workers."""
    return f"{queue_name}:wake"


def encode_job(job: dict[str, Any]) -> bytes:
    """The bytes of a job for arq; a result (which is never kept) becomes an empty object."""
    return b"{}" if "r" in job else orjson.dumps(job)


def decode_job(raw: bytes) -> dict[str, Any]:
    """The job in arq's own layout, rebuilt from the one shape that `encode_job` writes.

    Raises:
        ValueError: The bytes are anything else, for instance a pickle. arq logs it and drops the job; the run, if
            there is one, is rung again by the sweeper.
    """
    try:
        job = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise ValueError("The job is not JSON.") from None
    match job:
        case {"f": str(name), "a": [str(run_id)], "k": dict(extra), "et": int(rung_at_ms)} if (
            name == JOB_NAME
            and not extra
            and 0 < len(run_id) <= _RUN_ID_MAX_CHARS
            and 0 <= rung_at_ms < _CLOCK_LIMIT_MS
        ):
            return {"t": None, "f": JOB_NAME, "a": [run_id], "k": {}, "et": rung_at_ms}
    raise ValueError("The job is JSON, but not a run's id.")


def open_redis(url: str, *, answer_within_s: float, connections: int) -> ArqRedis:
    """A client that speaks only JSON jobs; it connects when it is first used, so Redis may be away now.

    Raises:
        ConfigurationError: The address cannot be read. It is not repeated, as it may hold a password.
    """
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=answer_within_s,
            socket_timeout=answer_within_s,
            socket_connect_timeout=answer_within_s,
        )
    except ValueError as error:
        raise ConfigurationError(
            "The address of Redis cannot be read.",
            code="redis_url_invalid",
            field="SAMBAND_REDIS_URL",
            hint="Write redis://host:6379/0, rediss://… for TLS, or unix:///path/to/socket?db=0.",
        ) from error
    return ArqRedis(pool, job_serializer=encode_job, job_deserializer=decode_job)


async def probe(redis: ArqRedis, queue_name: str) -> bool:
    """True when Redis takes what a ring needs it to take: a full one answers questions and refuses rings."""
    return bool(await redis.set(f"{queue_name}:probe", b"1", px=1000))


class Line:
    """Whether Redis takes rings. It logs only when that changes: once when it goes, once when it is back."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._down_since: float | None = None
        self._has_worked = False

    @property
    def is_up(self) -> bool:
        """True when the last call did not fail; False before the first one."""
        return self._has_worked and self._down_since is None

    @property
    def down_for_s(self) -> float:
        """Seconds since the first call of this outage failed; 0 when there is none."""
        return 0.0 if self._down_since is None else time.monotonic() - self._down_since

    def worked(self) -> None:
        """Notes that something was written."""
        self._has_worked = True
        if self._down_since is not None:
            self._log.info("redis_is_back", away_s=round(self.down_for_s, 1))
            self._down_since = None

    def failed(self, error: BaseException) -> None:
        """Notes a call that was not answered, or was refused."""
        if self._down_since is None:
            self._down_since = time.monotonic()
            self._log.warning(
                "redis_is_away",
                error=type(error).__name__,
                detail=str(error)[:200],
                consequence="runs start from the database, a few seconds later than usual; nothing is lost",
            )


class Slots:
    """The runs this process holds: never the same one twice, never more than ``size``.

    Args:
        freed: Set whenever a slot is given back.
    """

    def __init__(self, size: int, *, freed: asyncio.Event) -> None:
        self._size = size
        self._held: set[str] = set()
        self._freed = freed
        self._room = asyncio.Event()
        self._room.set()

    @property
    def held(self) -> frozenset[str]:
        """The ids of the runs that hold a slot."""
        return frozenset(self._held)

    @property
    def is_full(self) -> bool:
        """True when no further run may start."""
        return len(self._held) >= self._size

    def take(self, run_id: str) -> bool:
        """Takes a slot; False when there is none or the run holds one already."""
        if self.is_full or run_id in self._held:
            return False
        self._held.add(run_id)
        if self.is_full:
            self._room.clear()
        return True

    def release(self, run_id: str) -> None:
        """Gives the slot of a run that has ended back; safe to call again."""
        self.give_up(run_id)
        self._freed.set()

    def give_up(self, run_id: str) -> None:
        """Gives a slot back that came to nothing: there is no more to do now than there was before."""
        self._held.discard(run_id)
        self._room.set()

    async def room(self) -> None:
        """Returns when a slot is free."""
        await self._room.wait()


class Doorbell:
    """Rings for runs. Create one per process and close it at the end.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        queue_name: The queue that workers listen to.
        line: Shared with a worker, so that one outage is logged once.
    """

    def __init__(
        self,
        url: str,
        *,
        queue_name: str = QUEUE_NAME,
        line: Line | None = None,
        log: FilteringBoundLogger | None = None,
    ) -> None:
        self._redis = open_redis(url, answer_within_s=_ANSWER_WITHIN_S, connections=_CONNECTIONS)
        self._queue_name = queue_name
        self.line = line or Line(log or structlog.get_logger("samband.queue"))

    async def ring(self, run_id: str, *, delay_s: float = 0.0) -> bool:
        """True when a worker will be told; False, within about a second, when Redis does not answer.

        Safe to call again: the sooner of two rings for a run that waits wins, and a ring for a run that is being
        executed makes it be executed once more, after that.
        """
        return await self.ring_all((run_id,), delay_s=delay_s)

    async def ring_all(self, run_ids: Sequence[str], *, delay_s: float = 0.0) -> bool:
        """Like `ring` for many runs, all or none of them, in one exchange."""
        if not run_ids:
            return True
        if not await self._ask(self._announce(run_ids, delay_s)):
            return False
        self.line.worked()
        return True

    async def reclaim(self, run_ids: Sequence[str]) -> bool:
        """Rings for runs whose worker is known to be dead, and takes its claims on them away."""
        if not run_ids:
            return True
        claims = [in_progress_key_prefix + run_id for run_id in run_ids]
        if await self._ask(cast("Awaitable[int]", self._redis.delete(*claims))) is None:
            return False
        return await self.ring_all(run_ids)

    async def ping(self) -> float | None:
        """The time in milliseconds in which a ring would be taken, or None when it would not be."""
        started = time.perf_counter()
        if not await self._ask(probe(self._redis, self._queue_name)):
            return None
        self.line.worked()
        return (time.perf_counter() - started) * 1000

    async def depth(self) -> int | None:
        """How many rings wait for a worker, delayed ones included, or None when Redis does not answer."""
        return await self._ask(cast("Awaitable[int]", self._redis.zcard(self._queue_name)))

    async def close(self) -> None:
        """Closes the connections; safe to call again."""
        await self._redis.aclose(close_connection_pool=True)

    async def _announce(self, run_ids: Sequence[str], delay_s: float) -> bool:
        delay_ms = int(min(max(delay_s, 0.0), _MAX_DELAY_S) * 1000)
        now_ms = timestamp_ms()
        lifetime_ms = delay_ms + int(_JOB_LIVES_S * 1000)
        async with self._redis.pipeline(transaction=True) as pipe:
            for run_id in run_ids:
                job = serialize_job(JOB_NAME, (run_id,), {}, None, now_ms, serializer=encode_job)
                pipe.set(job_key_prefix + run_id, job, px=lifetime_ms)
                pipe.zadd(self._queue_name, {run_id: now_ms + delay_ms}, lt=True)
            # Tokens come last: whoever is woken by one finds the job already there.
            pipe.lpush(wake_key(self._queue_name), *[b"1"] * min(len(run_ids), _WAKE_TOKENS_MAX))
            pipe.ltrim(wake_key(self._queue_name), 0, _WAKE_TOKENS_MAX - 1)
            await pipe.execute()
        return True

    async def _ask(self, question: Awaitable[T]) -> T | None:
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                return await question
        except LOST as error:
            self.line.failed(error)
            return None


class Sweeper:
    """Asks the database which runs are due and rings for them, in case the bell that announced them was not heard.

    Args:
        bell: Rung for what is due.
        due: Gives the ids, at most as many as asked for, of the runs that should be executed now.
        every_s: Seconds between two looks, give or take a fifth, so that several workers do not look in step.
        held: Gives the runs that this process executes already.
        start_directly: Told of each due run, time and again, while no ring has been taken for some sweeps.
    """

    def __init__(
        self,
        bell: Doorbell,
        *,
        due: Callable[[int], Awaitable[Sequence[str]]],
        every_s: float,
        held: Callable[[], frozenset[str]],
        start_directly: Callable[[str], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._bell = bell
        self._due = due
        self._every_s = every_s
        self._held = held
        self._start_directly = start_directly
        self._log = log
        self._now = asyncio.Event()
        self._is_stopped = False
        self._fails = False
        self.last_at: datetime | None = None

    async def run(self) -> None:
        """Sweeps now and then for ever, until `stop`."""
        while not self._is_stopped:
            await self._sweep()
            pause_s = self._every_s * random.uniform(0.8, 1.2)  # noqa: S311 - not a secret
            # Never without any pause, even when it is hurried by runs that end at once.
            await asyncio.sleep(pause_s / 10)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s * 0.9):
                    await self._now.wait()
            if not self._is_stopped:
                self._now.clear()

    def hurry(self) -> None:
        """Makes the next sweep come soon."""
        self._now.set()

    def stop(self) -> None:
        """Makes `run` return after the sweep that is going on."""
        self._is_stopped = True
        self._now.set()

    async def _sweep(self) -> None:
        run_ids = await self._ask_database()
        held = self._held()
        waiting = [run_id for run_id in run_ids if run_id not in held]
        if await self._bell.ring_all(waiting) or self._is_stopped:
            return
        if self._bell.line.down_for_s > _SWEEPS_BEFORE_DIRECT * self._every_s:
            for run_id in waiting:
                self._start_directly(run_id)

    async def _ask_database(self) -> Sequence[str]:
        try:
            async with asyncio.timeout(_DUE_WITHIN_S):
                run_ids = await self._due(_SWEEP_LIMIT)
        except Exception as error:  # noqa: BLE001 - the database being away is waited for, like Redis
            if not self._fails:
                self._log.error("sweep_failed", exc_info=error)
            self._fails = True
            return ()
        self._fails = False
        self.last_at = datetime.now(UTC)
        return run_ids
