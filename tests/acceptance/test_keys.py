"""Master keys as the operator meets them: added, rotated under a running host, killed half-way, and lost."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from samband.cli.client import HostClient
from samband.errors import ConfigurationError, NotReadyError
from samband.hosting.host import Host
from samband.settings import HostSettings
from samband.store import Store, Vault
from samband.store.keyring import KeyFile, id_of, new_key
from samband.store.models import Credential, Inbox

PATIENCE_S = 60.0
OLD, NEW = new_key(), new_key()


def name_of(key: str) -> str:
    return id_of(base64.b64decode(key)).hex()


def command(*words: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "samband", "keys", *words, "--json"],
        env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def answer(*words: str, code: int = 0, **environment: str) -> dict[str, Any]:
    """Runs a command to its end and gives its document."""
    process = command(*words, **environment)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert code == process.returncode, err.decode()
    return json.loads(out)  # type: ignore[no-any-return]


def settings(data_dir: Path, **values: Any) -> HostSettings:
    return HostSettings(
        data_dir=data_dir, port=0, sweep_s=0.2, allow_installed=True, allow_private_hosts=("127.0.0.1",), **values
    )


# ── killed half-way ──────────────────────────────────────────────────────────


async def seal_thousands(store: Store) -> dict[str, dict[str, str]]:
    """Stores credentials and deliveries, with bodies of up to a kilobyte; gives the credentials."""
    catalog, vault = store.catalog, Vault.from_secret(OLD)
    await catalog.add_organization("hlf", "HLF")
    given: dict[str, dict[str, str]] = {}
    for number in range(200):
        pending = catalog.pending(given.setdefault(f"crm{number}", {"secret": f"secret {number}"}), {})
        integration = await catalog.add_integration("hlf", f"crm{number}", "CRM", {}, pending)
    rows = [
        {
            "organization_id": "hlf", "integration_id": integration.id, "delivery_key": str(number), "state": "done",
            "received_at": dt.datetime.now(dt.UTC), "triggers": [],
            "content": vault.seal(b"%d" % number * (1 + number % 400), owner=f"hlf/{integration.id}/inbox"),
        }
        for number in range(3000)
    ]  # fmt: skip
    async with store.database.write() as conn:
        for start in range(0, len(rows), 500):
            await conn.execute(sa.insert(Inbox.__table__), rows[start : start + 500])
    return given


async def keys_in(store: Store) -> Counter[str]:
    counts: Counter[str] = Counter()
    async with store.database.read() as conn:
        for column in (Credential.__table__.c.sealed, Inbox.__table__.c.content):
            heads = sa.func.substr(column, 1, 9)
            for head, number in await conn.execute(sa.select(heads, sa.func.count()).group_by(heads)):
                counts[bytes(head)[1:].hex()] += number
    return counts


async def test_rotation_that_is_killed_again_and_again_loses_nothing(database_url: str) -> None:
    store = Store.open(database_url, vault=Vault.from_secret(OLD))
    await store.migrate()
    given = await seal_thousands(store)
    environment: dict[str, Any] = {"SAMBAND_DATABASE_URL": database_url, "SAMBAND_KEY": f"{OLD},{NEW}"}
    killed_at: list[int] = []
    for _ in range(4):
        before = (await keys_in(store))[name_of(NEW)]
        process = command("rotate", **environment)
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and (await keys_in(store))[name_of(NEW)] <= before + 100:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
        process.communicate()
        counts = await keys_in(store)
        assert 3200 == counts.total()
        killed_at.append(counts[name_of(NEW)])
    assert any(0 < at < 3200 for at in killed_at), "it was never killed in the middle"
    found = await asyncio.to_thread(answer, "verify", **environment)
    assert (True, 3200) == (found["ok"], found["values"])
    done = await asyncio.to_thread(answer, "rotate", **environment)
    assert 3200 - killed_at[-1] == done["sealed_again"]
    alone: dict[str, Any] = {"SAMBAND_DATABASE_URL": database_url, "SAMBAND_KEY": NEW}
    found = await asyncio.to_thread(answer, "verify", **alone)
    assert {"ok": True, "values": 3200, "keys": {name_of(NEW): 3200}, "missing": {}, "due": 0} == {
        name: found[name] for name in ("ok", "values", "keys", "missing", "due")
    }
    after = Store(store.database, Vault.from_secret(NEW))
    for integration in await after.catalog.integrations("hlf"):
        assert given[integration.plugin] == await after.catalog.credentials(integration)
    await store.close()


# ── under a running host ─────────────────────────────────────────────────────


async def test_key_is_added_and_rotated_under_a_host_that_goes_on_working(tmp_path: Path, simulator: Any) -> None:
    data = tmp_path / "data"
    host = Host(settings(data))
    await host.start()
    try:
        assert host.admin_key is not None
        async with HostClient(host.url, host.admin_key) as client:
            one = "/v1/organizations/hlf/integrations/dynamics365"
            await client.post("/v1/organizations", {"id": "hlf", "name": "HLF"})
            await client.post(
                "/v1/organizations/hlf/integrations",
                {"type": "dynamics365", "settings": simulator.line["settings"],
                 "credentials": simulator.line["credentials"]},
            )  # fmt: skip
            first = next(iter(KeyFile(data / "keys.json").keys())).hex()
            added = await asyncio.to_thread(answer, "generate", "--data-dir", str(data))
            assert added["id"] != first
            assert (await client.post(f"{one}/test"))["ok"]
            done = await asyncio.to_thread(answer, "rotate", "--data-dir", str(data))
            assert done["sealed_again"] >= 1
            assert (await client.post(f"{one}/test"))["ok"]
            assert "ok" == (await client.get("/readyz"))["parts"]["keys"]
            found = await asyncio.to_thread(answer, "verify", "--data-dir", str(data))
            assert (True, 0) == (found["ok"], found["keys"][first])
    finally:
        await host.stop(drain=False)


async def test_missing_key_names_itself_in_readiness(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await seal_one(data, OLD)
    host = Host(settings(data, key=NEW))
    await host.start()
    try:
        assert host.admin_key is not None
        async with HostClient(host.url, host.admin_key) as client:
            with pytest.raises(NotReadyError):
                await client.get("/readyz")
        missing = await host_parts(host)
        assert name_of(OLD) in missing["keys"]
    finally:
        await host.stop(drain=False)
    environment = {"SAMBAND_KEY": NEW}
    found = await asyncio.to_thread(answer, "verify", "--data-dir", str(data), code=1, **environment)
    assert (False, {name_of(OLD): 1}) == (found["ok"], found["missing"])
    done = await asyncio.to_thread(answer, "rotate", "--data-dir", str(data), code=1, **environment)
    assert (0, 1) == (done["sealed_again"], done["unopened"])


async def host_parts(host: Host) -> dict[str, str]:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(f"{host.url}/readyz") as response:
        return (await response.json())["parts"]  # type: ignore[no-any-return]


# ── lost ─────────────────────────────────────────────────────────────────────


async def seal_one(data: Path, key: str) -> None:
    await asyncio.to_thread(data.mkdir, mode=0o700)
    store = Store.open(f"sqlite:///{data}/samband.db", vault=Vault.from_secret(key))
    await store.migrate()
    await store.catalog.add_organization("hlf", "HLF")
    await store.catalog.add_integration("hlf", "crm", "CRM", {}, store.catalog.pending({"a": "b"}, {}))
    await store.close()


async def test_lost_key_file_is_never_replaced_silently(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await seal_one(data, OLD)
    with pytest.raises(ConfigurationError) as refused:
        await Host(settings(data)).start()
    assert "master_key_missing" == refused.value.code
    assert name_of(OLD) in refused.value.message
    told = await asyncio.to_thread(answer, "generate", "--data-dir", str(data), code=2)
    assert name_of(OLD) in told["error"]["message"]
    assert not (data / "keys.json").exists()
    await asyncio.to_thread(answer, "generate", "--data-dir", str(data), "--accept-loss")
    host = Host(settings(data))
    await host.start()
    try:
        assert name_of(OLD) in (await host_parts(host))["keys"]
    finally:
        await host.stop(drain=False)


def test_key_is_printed_and_not_written_where_samband_does_not_write(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    key = answer("generate", "--print", "--data-dir", data)["key"]
    assert 32 == len(base64.b64decode(key))
    refused = answer("generate", "--data-dir", data, code=2, SAMBAND_KEY=key)
    assert ("key_not_in_file", "SAMBAND_KEY") == (refused["error"]["code"], refused["error"]["field"])
    mounted = tmp_path / "mounted"
    mounted.write_text(key)
    refused = answer("generate", "--data-dir", data, code=2, SAMBAND_KEY_FILE=str(mounted))
    assert "SAMBAND_KEY_FILE" == refused["error"]["field"]
    twice = answer("verify", "--data-dir", data, code=5, SAMBAND_KEY_FILE=str(mounted), SAMBAND_KEY=key)
    assert "migration_needed" == twice["error"]["code"]
    assert not Path(data).exists()


async def test_host_takes_its_keys_from_a_mounted_file(tmp_path: Path) -> None:
    data, mounted = tmp_path / "data", tmp_path / "mounted"
    await seal_one(data, OLD)
    mounted.write_text(f"{OLD}\n{NEW}\n")
    done = await asyncio.to_thread(answer, "rotate", "--data-dir", str(data), SAMBAND_KEY_FILE=str(mounted))
    assert (name_of(NEW), 1) == (done["key"], done["sealed_again"])
    host = Host(settings(data, key_file=mounted))
    await host.start()
    try:
        assert "ok" == (await host_parts(host))["keys"]
    finally:
        await host.stop(drain=False)
    assert not (data / "keys.json").exists()
    with pytest.raises(ConfigurationError) as refused:
        await Host(settings(data, key_file=mounted, key=NEW)).start()
    assert "keys_twice" == refused.value.code
