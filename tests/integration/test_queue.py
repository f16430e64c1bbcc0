"""Doorbell and worker on the bundled server, with the faults that a Redis can have."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import structlog
from arq.connections import ArqRedis
from structlog.testing import LogCapture

from samband.hosting.embedded import EmbeddedServer
from samband.queue import QUEUE_NAME, Doorbell, open_redis, wake_key
from samband.worker import RunWorker


class Runs:
    """The database's part, in memory: which runs are due, and who has one now.

    Args:
        takes_s: How long one run takes.
    """

    def __init__(self, *run_ids: str, takes_s: float = 0.0) -> None:
        self.takes_s = takes_s
        self.waiting: dict[str, float] = dict.fromkeys(run_ids, 0.0)
        self.live: set[str] = set()
        self.starts: list[str] = []
        self.ended: list[str] = []
        self.interrupted: list[str] = []
        self.overlaps: list[str] = []
        self.most_at_once = 0
        self.answers: dict[str, list[float | None]] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def due(self, limit: int) -> Sequence[str]:
        now = time.monotonic()
        return [run for run, when in self.waiting.items() if when <= now and run not in self.live][:limit]

    async def execute(self, run_id: str) -> float | None:
        if run_id in self.live:
            self.overlaps.append(run_id)
            return None
        self.live.add(run_id)
        self.most_at_once = max(self.most_at_once, len(self.live))
        self.starts.append(run_id)
        try:
            await asyncio.sleep(self.takes_s)
            await self.gate.wait()
        except asyncio.CancelledError:
            self.interrupted.append(run_id)
            raise
        finally:
            self.live.discard(run_id)
        self.ended.append(run_id)
        answer = self.answers[run_id].pop(0) if self.answers.get(run_id) else None
        if answer is None:
            self.waiting.pop(run_id, None)
        else:
            self.waiting[run_id] = time.monotonic() + answer
        return answer


async def nothing_due(limit: int) -> Sequence[str]:
    return []


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):  # for hangs only: a server that is started anew on a busy disk takes its time
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def captured() -> LogCapture:
    return LogCapture()


@pytest.fixture
def log(captured: LogCapture) -> Any:
    return structlog.wrap_logger(structlog.PrintLogger(), processors=[captured])


@pytest.fixture
async def server(tmp_path: Path, log: Any) -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "redis", log=log)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def bell(server: EmbeddedServer, log: Any) -> AsyncIterator[Doorbell]:
    bell = Doorbell(server.url, log=log)
    yield bell
    await bell.close()


@pytest.fixture
async def redis(server: EmbeddedServer) -> AsyncIterator[ArqRedis]:
    client = open_redis(server.url, answer_within_s=5, connections=4)
    yield client
    await client.aclose(close_connection_pool=True)


Working = Callable[..., Any]


@pytest.fixture
def working(server: EmbeddedServer, log: Any) -> Working:
    """Runs a worker for the length of a block."""

    @asynccontextmanager
    async def working(runs: Runs, **options: Any) -> AsyncIterator[RunWorker]:
        given: dict[str, Any] = {
            "redis_url": server.url,
            "execute": runs.execute,
            "due": nothing_due,
            "concurrency": 4,
            "sweep_s": 0.1,
            "drain_s": 5.0,
            "log": log,
        }
        worker = RunWorker(**(given | options))
        task = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            await worker.stop(drain=False)
            with suppress(asyncio.CancelledError):
                await task

    return working


# ── ringing ──────────────────────────────────────────────────────────────────


async def test_a_ring_executes_its_run(bell: Doorbell, working: Working) -> None:
    runs = Runs()
    async with working(runs) as worker:
        await until(lambda: worker.redis_ok)
        started = time.monotonic()
        assert await bell.ring("run-1") is True
        await until(lambda: runs.ended == ["run-1"])
        assert time.monotonic() - started < 2  # a hang, not a benchmark
    assert (worker.running, worker.redis_ok) == (frozenset(), True)


async def test_a_worker_started_after_the_ring_executes_it(bell: Doorbell, working: Working) -> None:
    runs = Runs()
    await bell.ring("run-1")
    async with working(runs):
        await until(lambda: runs.ended == ["run-1"])


async def test_ringing_twice_before_the_start_executes_once(bell: Doorbell, working: Working) -> None:
    runs = Runs()
    for run_id in ("run-1", "run-1", "run-2", "run-1"):
        await bell.ring(run_id)
    assert await bell.depth() == 2
    async with working(runs):
        await until(lambda: len(runs.ended) >= 2)
        await bell.ring("run-3")
        await until(lambda: "run-3" in runs.ended)
    assert sorted(runs.starts) == ["run-1", "run-2", "run-3"]


async def test_a_delayed_ring_waits(bell: Doorbell, working: Working) -> None:
    runs = Runs()
    async with working(runs):
        await bell.ring("later", delay_s=0.4)
        await bell.ring("now")
        await until(lambda: len(runs.ended) == 2)
    assert runs.ended == ["now", "later"]


async def test_the_sooner_of_two_rings_wins(bell: Doorbell, working: Working) -> None:
    runs = Runs()
    await bell.ring("run-1", delay_s=3600)
    await bell.ring("run-1")
    await bell.ring("run-1", delay_s=3600)
    async with working(runs):
        await until(lambda: runs.ended == ["run-1"])


async def test_a_run_that_asks_to_go_on_later_is_rung_again(bell: Doorbell, working: Working) -> None:
    runs = Runs("run-1")
    runs.answers["run-1"] = [0.05, 0.0, None]
    await bell.ring("run-1")
    async with working(runs):
        await until(lambda: len(runs.ended) == 3)
    assert runs.waiting == {}


async def test_a_ring_while_its_run_is_executed_executes_it_once_more_afterwards(
    bell: Doorbell, working: Working
) -> None:
    runs = Runs()
    runs.gate.clear()
    async with working(runs):
        await bell.ring("run-1")
        await until(lambda: runs.live == {"run-1"})
        for _ in range(3):
            assert await bell.ring("run-1") is True
        runs.gate.set()
        await until(lambda: len(runs.ended) == 2)
        await asyncio.sleep(0.05)
    assert (runs.starts, runs.overlaps) == (["run-1", "run-1"], [])


async def test_a_ring_for_a_run_that_another_worker_executes_waits_for_it(bell: Doorbell, working: Working) -> None:
    first, second = Runs(), Runs()
    first.gate.clear()
    async with working(first, lease_s=0.3):
        await bell.ring("run-1")
        await until(lambda: first.live == {"run-1"})
        async with working(second, lease_s=0.3):
            await bell.ring("run-1")
            await asyncio.sleep(1)
            assert second.starts == []
            first.gate.set()
            await until(lambda: len(first.ended + second.ended) == 2)


async def test_two_workers_share_a_queue_and_each_run_is_executed_once(bell: Doorbell, working: Working) -> None:
    first, second = Runs(takes_s=0.002), Runs(takes_s=0.002)
    run_ids = [f"run-{n}" for n in range(120)]
    async with working(first), working(second):
        for run_id in run_ids:
            await bell.ring(run_id)
        await until(lambda: len(first.ended + second.ended) >= len(run_ids))
        await asyncio.sleep(0.1)
    assert sorted(first.starts + second.starts) == sorted(run_ids)
    assert first.starts
    assert second.starts


async def test_never_more_runs_at_once_than_allowed(bell: Doorbell, working: Working) -> None:
    runs = Runs(takes_s=0.005)
    async with working(runs, concurrency=3):
        await bell.ring_all([f"run-{n}" for n in range(30)])
        await until(lambda: len(runs.ended) == 30)
    assert runs.most_at_once == 3


async def test_a_finished_run_leaves_nothing_in_redis(bell: Doorbell, redis: ArqRedis, working: Working) -> None:
    runs = Runs()
    async with working(runs):
        await bell.ring_all([f"run-{n}" for n in range(20)])
        await until(lambda: len(runs.ended) == 20)
    short_lived = {wake_key(QUEUE_NAME).encode(), f"{QUEUE_NAME}:probe".encode()}
    assert set(await redis.keys("*")) - short_lived == set()


async def test_ping_and_depth_describe_the_queue(bell: Doorbell) -> None:
    await bell.ring("run-1")
    await bell.ring("run-2", delay_s=60)
    latency_ms = await bell.ping()
    assert latency_ms is not None
    assert latency_ms > 0
    assert await bell.depth() == 2


# ── what runs do wrong ───────────────────────────────────────────────────────


async def test_a_run_that_breaks_is_logged_without_its_words_and_harms_no_other(
    bell: Doorbell, working: Working, captured: LogCapture
) -> None:
    runs = Runs()

    async def execute(run_id: str) -> float | None:
        if run_id == "bad":
            raise RuntimeError("Kari Nordmann, 0101")
        return await runs.execute(run_id)

    async with working(runs, execute=execute, concurrency=1):
        await bell.ring("bad")
        await bell.ring("good")
        await until(lambda: runs.ended == ["good"])
    (entry,) = [entry for entry in captured.entries if entry["event"] == "run_broke"]
    # The log writes an exception without its words.
    assert (entry["run_id"], type(entry.pop("exc_info"))) == ("bad", RuntimeError)
    assert "Nordmann" not in repr(captured.entries)


async def test_a_run_that_broke_is_left_to_the_sweeper(bell: Doorbell, working: Working) -> None:
    runs = Runs("run-1")
    tries: list[str] = []

    async def execute(run_id: str) -> float | None:
        tries.append(run_id)
        if len(tries) < 3:
            raise OSError("disk")
        return await runs.execute(run_id)

    async with working(runs, execute=execute, due=runs.due):
        await until(lambda: runs.ended == ["run-1"])
    assert len(tries) == 3


async def test_a_database_that_is_away_is_waited_for(working: Working, captured: LogCapture) -> None:
    runs = Runs("run-1")
    asked: list[int] = []

    async def due(limit: int) -> Sequence[str]:
        asked.append(limit)
        if len(asked) < 4:
            raise ConnectionError("database")
        return await runs.due(limit)

    async with working(runs, due=due) as worker:
        await until(lambda: len(asked) == 3)
        assert worker.last_sweep_at is None
        await until(lambda: runs.ended == ["run-1"])
        assert worker.last_sweep_at is not None
    assert [e["event"] for e in captured.entries if e["log_level"] == "error"] == ["sweep_failed"]


# ── what others put into the queue ───────────────────────────────────────────


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


async def test_a_pickle_in_the_queue_is_refused_and_dropped(
    server: EmbeddedServer, bell: Doorbell, working: Working, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = Runs()
    attacker = open_redis(server.url, answer_within_s=5, connections=2)
    attacker.job_serializer = pickle.dumps
    await attacker.enqueue_job("run", Bomb(str(tmp_path / "went-off")), _job_id="run-1", _queue_name=QUEUE_NAME)
    await attacker.aclose(close_connection_pool=True)
    async with working(runs):
        await until(lambda: "deserializing job run-1 failed" in caplog.text)
        await bell.ring("run-2")
        await until(lambda: runs.ended == ["run-2"])
        assert await bell.depth() == 0
    assert runs.starts == ["run-2"]
    assert not (tmp_path / "went-off").exists()


async def test_entries_nobody_can_read_are_dropped_and_the_others_go_on(
    bell: Doorbell, redis: ArqRedis, working: Working
) -> None:
    runs = Runs()
    job: dict[str, Any] = {"t": None, "f": "run", "a": ["run-1"], "k": {}, "et": 0}
    await redis.set("arq:job:other-name", orjson.dumps(job))
    await redis.set("arq:job:function", orjson.dumps(job | {"f": "shell"}))
    await redis.set("arq:job:huge-time", orjson.dumps(job | {"et": 10**18}))
    scores: dict[Any, float] = {"other-name": 1, "function": 2, "huge-time": 3, "no-payload": 4, b"\xff\xfe": 5}
    await redis.zadd(QUEUE_NAME, cast("Any", scores | {"minus-infinity": float("-inf")}))
    async with working(runs, concurrency=1):
        await bell.ring("run-2")
        await until(lambda: runs.ended == ["run-2"])
        assert await bell.depth() == 0
    assert runs.starts == ["run-2"]


async def test_an_entry_claimed_by_a_killed_worker_is_executed_when_its_lease_ends(
    bell: Doorbell, redis: ArqRedis, working: Working
) -> None:
    runs = Runs()
    await redis.set("arq:in-progress:run-1", b"1", px=600)
    await bell.ring("run-1")
    async with working(runs):
        await asyncio.sleep(0.2)
        assert runs.starts == []
        await until(lambda: runs.ended == ["run-1"])


# ── what Redis does wrong ────────────────────────────────────────────────────


async def test_emptying_redis_with_queued_work_loses_no_run(bell: Doorbell, redis: ArqRedis, working: Working) -> None:
    run_ids = [f"run-{n}" for n in range(40)]
    runs = Runs(*run_ids, takes_s=0.02)
    await bell.ring_all(run_ids)
    async with working(runs, due=runs.due, concurrency=2):
        await until(lambda: len(runs.ended) >= 5)
        await redis.flushall()
        await until(lambda: len(runs.ended) >= 15)
        await redis.flushall()
        await until(lambda: not runs.waiting)
    assert sorted(set(runs.ended)) == sorted(run_ids)
    assert runs.overlaps == []


@pytest.mark.parametrize("lost", ["arq:job:*", QUEUE_NAME, wake_key(QUEUE_NAME), "arq:in-progress:*"])
async def test_losing_any_kind_of_key_loses_no_run(
    bell: Doorbell, redis: ArqRedis, working: Working, lost: str
) -> None:
    run_ids = [f"run-{n}" for n in range(20)]
    runs = Runs(*run_ids, takes_s=0.01)
    await bell.ring_all(run_ids)
    async with working(runs, due=runs.due, concurrency=2):
        await until(lambda: len(runs.ended) >= 3)
        if keys := await redis.keys(lost):
            await redis.delete(*keys)
        await until(lambda: not runs.waiting)
    assert sorted(set(runs.ended)) == sorted(run_ids)


async def test_the_queue_s_key_having_another_type_is_an_outage_and_work_goes_on(
    redis: ArqRedis, working: Working
) -> None:
    runs = Runs("run-1")
    await redis.set(QUEUE_NAME, b"not a sorted set")
    async with working(runs, due=runs.due) as worker:
        await until(lambda: runs.ended == ["run-1"])
        await redis.delete(QUEUE_NAME)
        await until(lambda: worker.redis_ok)


async def test_a_redis_that_is_full_answers_but_takes_no_ring_and_work_goes_on(
    bell: Doorbell, redis: ArqRedis, working: Working, captured: LogCapture
) -> None:
    runs = Runs("run-1", "run-2")
    async with working(runs, due=runs.due) as worker:
        await until(lambda: not runs.waiting)
        await redis.config_set("maxmemory", 1)
        assert [await bell.ring("run-3"), await bell.ping()] == [False, None]
        runs.waiting.update({"run-3": 0.0, "run-4": 0.0})
        await until(lambda: not runs.waiting)
        assert worker.redis_ok is False
        await redis.config_set("maxmemory", 0)
        await until(lambda: worker.redis_ok)
        assert await bell.ring("run-5") is True
        await until(lambda: "run-5" in runs.ended)
    # Two objects, one outage: each of them says once that it came and once that it went.
    assert sorted(entry["event"] for entry in captured.entries) == ["redis_is_away"] * 2 + ["redis_is_back"] * 2


@pytest.mark.crash
async def test_a_server_killed_again_and_again_while_runs_go_on_loses_none(
    server: EmbeddedServer, bell: Doorbell, working: Working
) -> None:
    run_ids = [f"run-{n}" for n in range(60)]
    runs = Runs(*run_ids, takes_s=0.03)
    watching = asyncio.create_task(server.supervise())
    await bell.ring_all(run_ids)
    async with working(runs, due=runs.due, concurrency=3, lease_s=0.5) as worker:
        for kills in range(1, 4):
            await until(lambda kills=kills: len(runs.ended) >= 8 * kills)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await until(lambda kills=kills: server.restarts == kills)
        await until(lambda: not runs.waiting)
        # All places are still there: none was lost in a connection that broke.
        late = [f"late-{n}" for n in range(3)]
        runs.gate.clear()
        runs.waiting.update(dict.fromkeys(late, 0.0))
        await until(lambda: runs.live == set(late))
        runs.gate.set()
        await until(lambda: not runs.waiting and worker.redis_ok)
    assert sorted(set(runs.ended)) == sorted(run_ids + late)
    assert runs.overlaps == []
    await server.stop()
    await watching


async def test_a_worker_started_before_its_server_takes_part_once_it_is_there(
    server: EmbeddedServer, bell: Doorbell, working: Working
) -> None:
    runs = Runs()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: server.pid is None)
    async with working(runs, sweep_s=60) as worker:
        await asyncio.sleep(0.2)
        assert worker.redis_ok is False
        watching = asyncio.create_task(server.supervise())
        await until(lambda: worker.redis_ok)
        await bell.ring("run-1")
        await until(lambda: runs.ended == ["run-1"])
    await server.stop()
    await watching


async def test_without_any_redis_the_database_alone_keeps_work_going(
    working: Working, tmp_path: Path, captured: LogCapture
) -> None:
    run_ids = [f"run-{n}" for n in range(12)]
    runs = Runs(*run_ids, takes_s=0.02)
    runs.answers["run-3"] = [0.05, None]
    async with working(runs, due=runs.due, concurrency=3, redis_url=f"unix://{tmp_path}/nobody.sock") as worker:
        await until(lambda: not runs.waiting)
        assert worker.redis_ok is False
    assert sorted(runs.ended) == sorted([*run_ids, "run-3"])
    assert (runs.most_at_once, runs.overlaps) == (3, [])
    assert [entry["event"] for entry in captured.entries] == ["redis_is_away"]


async def test_a_frozen_redis_delays_nobody_for_long_and_its_runs_go_on(
    server: EmbeddedServer, bell: Doorbell, working: Working
) -> None:
    runs = Runs("run-1")
    assert server.pid is not None
    async with working(runs, due=nothing_due):
        os.kill(server.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            assert await bell.ring("run-1") is False
            assert time.monotonic() - started < 10
            async with working(runs, due=runs.due):
                await until(lambda: runs.ended == ["run-1"])
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert await bell.ring("run-2") is True
        await until(lambda: "run-2" in runs.ended)


# ── stopping ─────────────────────────────────────────────────────────────────


async def test_stop_lets_runs_finish_and_takes_no_new_one(bell: Doorbell, working: Working) -> None:
    runs = Runs()
    runs.gate.clear()
    async with working(runs) as worker:
        await bell.ring("run-1")
        await until(lambda: runs.live == {"run-1"})
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0.05)
        await bell.ring("run-2")
        await asyncio.sleep(0.2)
        assert (runs.starts, stopping.done()) == (["run-1"], False)
        runs.gate.set()
        await asyncio.wait_for(stopping, 10)
    assert (runs.ended, runs.interrupted) == (["run-1"], [])
    assert await bell.depth() == 1


@pytest.mark.parametrize("options", [{"drain_s": 0.1}, {"drain_s": 60}], ids=["after the time limit", "in a hurry"])
async def test_an_interrupted_run_is_given_back_and_another_worker_goes_on(
    bell: Doorbell, working: Working, options: dict[str, float]
) -> None:
    first, second = Runs(), Runs()
    first.gate.clear()
    async with working(first, **options) as worker:
        await bell.ring("run-1")
        await until(lambda: first.live == {"run-1"})
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0.01)
        if options["drain_s"] > 1:
            await worker.stop(drain=False)
        await asyncio.wait_for(stopping, 20)
    assert (first.interrupted, first.ended) == (["run-1"], [])
    async with working(second):
        await until(lambda: second.ended == ["run-1"])


async def test_a_run_interrupted_time_and_again_is_still_executed(bell: Doorbell, working: Working) -> None:
    await bell.ring("run-1")
    for _ in range(8):
        runs = Runs()
        runs.gate.clear()
        async with working(runs):
            await until(lambda runs=runs: runs.live == {"run-1"})
    runs = Runs()
    async with working(runs):
        await until(lambda: runs.ended == ["run-1"])


async def test_stop_without_redis_still_drains(working: Working, tmp_path: Path) -> None:
    runs = Runs("run-1", takes_s=0.3)
    async with working(runs, due=runs.due, redis_url=f"unix://{tmp_path}/nobody.sock") as worker:
        await until(lambda: runs.live == {"run-1"})
        await asyncio.wait_for(worker.stop(), 10)
    assert runs.ended == ["run-1"]


async def test_stop_before_the_start_lets_run_return_at_once(server: EmbeddedServer) -> None:
    runs = Runs("run-1")
    worker = RunWorker(redis_url=server.url, execute=runs.execute, due=runs.due, concurrency=1)
    await worker.stop()
    await asyncio.wait_for(worker.run(), 10)
    assert runs.starts == []
    with pytest.raises(RuntimeError, match="runs once"):
        await worker.run()


async def test_cancelling_the_worker_interrupts_its_runs(bell: Doorbell, server: EmbeddedServer) -> None:
    runs = Runs()
    runs.gate.clear()
    worker = RunWorker(redis_url=server.url, execute=runs.execute, due=nothing_due, concurrency=1)
    task = asyncio.create_task(worker.run())
    await bell.ring("run-1")
    await until(lambda: runs.live == {"run-1"})
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cast("Awaitable[None]", task)
    assert (runs.interrupted, await bell.depth()) == (["run-1"], 1)


async def test_a_ring_whose_run_another_worker_holds_keeps_nobody_busy(
    bell: Doorbell, redis: ArqRedis, working: Working
) -> None:
    await redis.set("arq:in-progress:r1", b"1", px=60_000)
    async with working(Runs()) as worker:
        assert await bell.ring("r1")
        await asyncio.sleep(0.5)
        before = (await redis.info("stats"))["total_commands_processed"]
        await asyncio.sleep(1.0)
        spent = (await redis.info("stats"))["total_commands_processed"] - before
        assert worker.running == frozenset()
    # A look each second is the net; a worker that spins asks thousands of times.
    assert spent < 200


async def test_runs_of_a_dead_host_are_claimed_again_at_once(bell: Doorbell, redis: ArqRedis, working: Working) -> None:
    await redis.set("arq:in-progress:r1", b"1", px=600_000)
    runs = Runs()
    async with working(runs):
        assert await bell.reclaim(["r1"])
        await until(lambda: runs.ended == ["r1"])
