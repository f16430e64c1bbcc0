"""The doorbell's parts that need no server, and the doorbell when there is none."""

from __future__ import annotations

import asyncio
import pickle
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import LogCapture

from samband.errors import ConfigurationError
from samband.queue import Doorbell, Line, Slots, decode_job, encode_job

OURS: dict[str, Any] = {"t": None, "f": "run", "a": ["run-1"], "k": {}, "et": 1_790_000_000_000}


def capturing_log() -> tuple[LogCapture, Any]:
    capture = LogCapture()
    return capture, structlog.wrap_logger(structlog.PrintLogger(), processors=[capture])


def test_a_job_survives_the_way_there_and_back() -> None:
    assert decode_job(encode_job({**OURS, "a": ("run-1",)})) == OURS


def test_a_result_is_never_written_in_full() -> None:
    assert encode_job({**OURS, "r": ValueError("of a member")}) == b"{}"


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param({**OURS, "f": "os.system"}, id="another function"),
        pytest.param({**OURS, "a": ["run-1", "run-2"]}, id="two arguments"),
        pytest.param({**OURS, "a": [7]}, id="an id that is a number"),
        pytest.param({**OURS, "a": [""]}, id="an empty id"),
        pytest.param({**OURS, "a": ["x" * 129]}, id="an id without end"),
        pytest.param({**OURS, "k": {"shell": "yes"}}, id="named arguments"),
        pytest.param({**OURS, "et": 10**18}, id="a time past the calendar"),
        pytest.param({**OURS, "et": -1}, id="a time before the calendar"),
        pytest.param({"f": "run"}, id="half a job"),
        pytest.param(["run-1"], id="a list"),
        pytest.param(None, id="null"),
    ],
)
def test_json_of_another_shape_is_refused(foreign: object) -> None:
    with pytest.raises(ValueError, match="not a run's id"):
        decode_job(orjson.dumps(foreign))


def test_a_pickle_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON"):
        decode_job(pickle.dumps(OURS))


def test_a_number_of_tries_in_the_payload_is_ignored() -> None:
    assert decode_job(orjson.dumps({**OURS, "t": 10**12}))["t"] is None


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_be_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"^The job is"):
        decode_job(raw)


def test_an_outage_is_logged_once_and_its_end_once() -> None:
    capture, log = capturing_log()
    line = Line(log)
    seen = [line.is_up]
    for _ in range(3):
        line.failed(ConnectionError("refused"))
    seen.append(line.is_up)
    for _ in range(3):
        line.worked()
    seen.append(line.is_up)
    assert seen == [False, False, True]
    assert [entry["event"] for entry in capture.entries] == ["redis_is_away", "redis_is_back"]
    assert line.down_for_s == 0.0


def test_a_slot_is_never_given_twice_for_one_run_nor_beyond_the_size() -> None:
    slots = Slots(2, freed=asyncio.Event())
    assert [slots.take(run) for run in ("a", "a", "b", "c")] == [True, False, True, False]
    slots.release("a")
    slots.release("a")
    assert [slots.take(run) for run in ("c", "d")] == [True, False]
    assert slots.held == {"b", "c"}


async def test_waiting_for_room_ends_when_a_slot_is_released() -> None:
    freed = asyncio.Event()
    slots = Slots(1, freed=freed)
    slots.take("a")
    waiting = asyncio.create_task(slots.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    slots.release("a")
    await asyncio.wait_for(waiting, 5)
    assert freed.is_set()


@pytest.mark.parametrize("url", ["http://redis", "redis://secret-word@host/x?socket_timeout=soon", "nonsense"])
def test_an_unreadable_address_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Doorbell(url)
    assert caught.value.code == "redis_url_invalid"
    assert caught.value.field == "SAMBAND_REDIS_URL"
    assert "secret-word" not in str(caught.value)


async def test_a_ring_without_redis_is_false_and_said_once(tmp_path: Path) -> None:
    capture, log = capturing_log()
    bell = Doorbell(f"unix://{tmp_path}/nobody.sock", log=log)
    assert [await bell.ring("run-1") for _ in range(3)] == [False, False, False]
    assert await bell.ping() is None
    assert await bell.depth() is None
    await bell.close()
    assert [entry["event"] for entry in capture.entries] == ["redis_is_away"]


async def test_a_redis_that_accepts_and_never_answers_holds_nobody_up() -> None:
    async def listen_and_say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    _, log = capturing_log()
    async with await asyncio.start_server(listen_and_say_nothing, "127.0.0.1", 0) as silent:
        bell = Doorbell(f"redis://127.0.0.1:{silent.sockets[0].getsockname()[1]}/0", log=log)
        started = time.monotonic()
        assert await bell.ring("run-1") is False
        assert time.monotonic() - started < 10
        await bell.close()


async def test_ringing_for_no_run_at_all_asks_nobody(tmp_path: Path) -> None:
    capture, log = capturing_log()
    bell = Doorbell(f"unix://{tmp_path}/nobody.sock", log=log)
    assert await bell.ring_all([]) is True
    await bell.close()
    assert capture.entries == []
