"""A whole host: started, asked, stopped and killed, in this process and as the command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from samband.cli.client import HostClient
from samband.errors import AccessError, ConfigurationError, NotReadyError
from samband.hosting.addressfile import read_address
from samband.hosting.embedded import EmbeddedServer
from samband.hosting.host import Host, create_admin_key, migrate
from samband.settings import HostSettings

PATIENCE_S = 60.0


def settings(data_dir: Path, **values: Any) -> HostSettings:
    return HostSettings(data_dir=data_dir, port=0, plugins_file=None, sweep_s=0.2, **values)


@contextlib.asynccontextmanager
async def running(host: Host) -> AsyncIterator[Host]:
    await host.start()
    try:
        yield host
    finally:
        await host.stop(drain=False)


async def test_started_host_is_ready_and_answers_with_its_first_key(tmp_path: Path) -> None:
    async with running(Host(settings(tmp_path / "data"))) as host:
        assert host.admin_key is not None
        async with HostClient(host.url, host.admin_key) as client:
            parts = (await client.get("/readyz"))["parts"]
            await client.post("/v1/organizations", {"id": "hlf", "name": "HLF"})
            organizations = (await client.get("/v1/organizations"))["items"]
    assert {name: parts[name] for name in ("database", "migrations", "queue")} == {
        "database": "ok", "migrations": "ok", "queue": "ok",
    }  # fmt: skip
    assert [organization["id"] for organization in organizations] == ["hlf"]


async def test_key_is_shown_at_the_first_start_only(tmp_path: Path) -> None:
    async with running(Host(settings(tmp_path))) as first:
        key = first.admin_key
    assert key is not None
    async with running(Host(settings(tmp_path))) as second:
        assert second.admin_key is None
        async with HostClient(second.url, key) as client:
            assert (await client.get("/v1/organizations"))["items"] == []
        with pytest.raises(AccessError):
            async with HostClient(second.url, key + "x") as client:
                await client.get("/v1/organizations")


async def test_address_stands_in_the_data_directory_while_the_host_runs(tmp_path: Path) -> None:
    async with running(Host(settings(tmp_path))) as host:
        assert read_address(tmp_path) == host.url
        assert stat.S_IMODE((tmp_path / "host.json").stat().st_mode) == 0o600
    assert read_address(tmp_path) is None


async def test_two_hosts_never_share_a_data_directory(tmp_path: Path) -> None:
    async with running(Host(settings(tmp_path))):
        with pytest.raises(ConfigurationError) as refused:
            await Host(settings(tmp_path)).start()
    assert refused.value.code == "data_dir_in_use"


async def test_port_in_use_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as refused:
            await Host(HostSettings(data_dir=tmp_path / "data", port=port)).start()
    assert (refused.value.code, refused.value.field) == ("port_in_use", "SAMBAND_PORT")
    assert not (tmp_path / "data").exists()


async def test_failed_start_leaves_nothing_running(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("damaged")
    with pytest.raises(ConfigurationError):
        await Host(settings(tmp_path)).start()
    (tmp_path / "keys.json").unlink()
    async with running(Host(settings(tmp_path))) as host:
        assert host.url


async def test_host_that_was_stopped_can_be_stopped_again(tmp_path: Path) -> None:
    host = Host(settings(tmp_path))
    await host.start()
    await host.stop()
    await host.stop()


async def test_single_role_refuses_a_database_that_was_not_migrated(tmp_path: Path) -> None:
    given = settings(
        tmp_path, database_url=f"sqlite:///{tmp_path}/shared.db", redis_url="redis://127.0.0.1:9/0", key="A" * 43 + "="
    )
    with pytest.raises(NotReadyError) as refused:
        await Host(given, roles=frozenset({"worker"})).start()
    assert refused.value.code == "migration_needed"


async def test_single_role_does_not_make_a_key_that_the_others_would_not_have(tmp_path: Path) -> None:
    given = settings(tmp_path, database_url=f"sqlite:///{tmp_path}/shared.db", redis_url="redis://127.0.0.1:9/0")
    with pytest.raises(ConfigurationError) as refused:
        await Host(given, roles=frozenset({"api"})).start()
    assert refused.value.field == "SAMBAND_KEY"
    assert not (tmp_path / "keys.json").exists()


async def test_api_and_worker_in_their_own_processes_share_database_and_queue(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "queue")
    given = settings(
        tmp_path, database_url=f"sqlite:///{tmp_path}/shared.db", redis_url=await server.start(), key="A" * 43 + "="
    )
    try:
        assert await migrate(given) == (None, (await migrate(given))[1])
        async with (
            running(Host(given, roles=frozenset({"api"}))) as api,
            running(Host(given, roles=frozenset({"worker"}))) as worker,
        ):
            assert api.url
            assert not worker.url
            assert api.admin_key is not None
            async with HostClient(api.url, api.admin_key) as client:
                assert (await client.get("/livez"))["status"] == "alive"
    finally:
        await server.stop()


# ── as the command ───────────────────────────────────────────────────────────


@pytest.fixture
def up(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "samband", "up", "--data-dir", str(tmp_path / "data"), "--port", "0", "--json"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=tmp_path)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)
        assert process.stdout is not None
        process.stdout.close()


def first_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_says_when_it_is_ready_and_ends_well_on_a_signal(
    up: subprocess.Popen[bytes], number: signal.Signals, tmp_path: Path
) -> None:
    ready = first_line(up)
    assert ready["event"] == "ready"
    assert ready["admin_key"].startswith("smb_")
    with urllib.request.urlopen(ready["url"] + "/readyz", timeout=PATIENCE_S) as answer:
        assert answer.status == 200
    up.send_signal(number)
    assert up.wait(PATIENCE_S) == 0
    assert up.stdout is not None
    assert up.stdout.read() == b""
    assert ready["admin_key"] not in (tmp_path / "log").read_text()


def test_up_keeps_what_it_writes_from_other_users(up: subprocess.Popen[bytes], tmp_path: Path) -> None:
    first_line(up)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").rglob("*")}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


def test_second_signal_ends_at_once(up: subprocess.Popen[bytes]) -> None:
    first_line(up)
    # A request that never ends keeps the orderly stop waiting.
    up.send_signal(signal.SIGSTOP)
    up.send_signal(signal.SIGTERM)
    up.send_signal(signal.SIGINT)
    up.send_signal(signal.SIGCONT)
    assert up.wait(PATIENCE_S) in (128 + signal.SIGTERM, 128 + signal.SIGINT)


def test_killed_host_leaves_no_server_behind_and_starts_again(up: subprocess.Popen[bytes], tmp_path: Path) -> None:
    ready = first_line(up)
    server = json.loads((tmp_path / "data" / "queue" / "server.json").read_text())
    up.kill()
    up.wait(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while _lives(server["pid"]):
        assert time.monotonic() < deadline, "the queue server outlived its host"
        time.sleep(0.05)
    command = [sys.executable, "-m", "samband", "org", "list", "--data-dir", str(tmp_path / "data"), "--json"]
    environment = os.environ | {"SAMBAND_API_KEY": ready["admin_key"]}
    done = subprocess.run(command, capture_output=True, env=environment, check=False, timeout=PATIENCE_S)
    assert done.returncode == 5
    asyncio.run(_starts(tmp_path / "data"))


async def _starts(data_dir: Path) -> None:
    async with running(Host(settings(data_dir))) as host:
        assert host.url


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_lost_first_key_is_replaced_by_whoever_has_the_data_directory(tmp_path: Path) -> None:
    given = settings(tmp_path / "data")
    with pytest.raises(NotReadyError):
        await create_admin_key(given, "kari")
    async with running(Host(given)) as host:
        key = await create_admin_key(given, "kari")
        async with HostClient(host.url, key) as client:
            assert [] == (await client.get("/v1/organizations"))["items"]
        async with HostClient(host.url, key[:-1] + ("a" if key[-1] != "a" else "b")) as client:
            with pytest.raises(AccessError):
                await client.get("/v1/organizations")
