"""``samband key`` and ``samband audit``: on the database itself, and over the API of a running host."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from samband.cli import run
from samband.hosting.host import Host, migrate
from samband.settings import HostSettings

Command = Callable[..., Any]


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SAMBAND_URL", "SAMBAND_API_KEY", "SAMBAND_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "data"
    monkeypatch.setenv("SAMBAND_DATA_DIR", str(path))
    return path


@pytest.fixture
def api_keys() -> list[str]:
    """The last of these is what the commands find in the environment."""
    return []


@pytest.fixture
def command(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, api_keys: list[str]
) -> Command:
    """Runs a command with ``--json`` and gives what it said; its exit code must be the expected one."""

    def say(*words: str, expect: int = 0) -> Any:
        if api_keys:
            monkeypatch.setenv("SAMBAND_API_KEY", api_keys[-1])  # every command takes it out again
        code = run([*words, "--json"])
        said = capsys.readouterr()
        assert expect == code, said
        # A host in this very process may have logged beside it.
        return json.loads([line for line in said.out.splitlines() if line.startswith("{")][-1])

    return say


@pytest.fixture
def migrated(data_dir: Path) -> Path:
    asyncio.run(migrate(HostSettings(data_dir=data_dir)))
    return data_dir / "samband.db"


@pytest.fixture
def host(data_dir: Path, api_keys: list[str]) -> Iterator[str]:
    """The address of a host that runs beside the commands, whose first key they find in the environment."""
    started, stop = threading.Event(), threading.Event()
    told: list[str] = []

    async def serve() -> None:
        running = Host(HostSettings(data_dir=data_dir, port=0))
        try:
            await running.start()
            told.extend([running.url, running.admin_key or ""])
            started.set()
            await asyncio.to_thread(stop.wait)
        finally:
            started.set()
            await running.stop(drain=False)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(60)
        api_keys.append(told[1])
        yield told[0]
    finally:
        stop.set()
        thread.join(60)


def test_keys_are_made_listed_and_ended_on_the_database_itself(command: Command, migrated: Path) -> None:
    made = command("key", "create", "platform", "--verb", "read", "--verb", "operate", "--days", "30")
    assert (["read", "operate"], None, "active") == (made["verbs"], made["organizations"], made["state"])
    assert made["key"].endswith(made["last_four"])
    assert made["key"].encode() not in migrated.read_bytes()
    everything = command("key", "create", "drift")
    assert (["read", "operate", "configure", "admin"], None) == (everything["verbs"], everything["expires_at"])
    command("key", "revoke", made["id"])
    assert "revoked" == command("key", "revoke", made["id"])["state"]
    listed = command("key", "list")["keys"]
    assert {made["id"]: "revoked", everything["id"]: "active"} == {key["id"]: key["state"] for key in listed}
    assert not any("key" in key or "secret_hash" in key for key in listed)
    assert [everything["id"]] == [key["id"] for key in command("key", "list", "--state", "active")["keys"]]


def test_what_is_wrong_with_an_order_for_a_key_is_told_by_field(command: Command, migrated: Path) -> None:
    for words, field in ((["--verb", "write"], "verbs"), (["--organization", "nowhere"], "organizations.0")):
        refused = command("key", "create", "x", *words, expect=2)
        assert [field] == [problem["field"] for problem in refused["error"]["problems"]]
    assert [] == command("key", "list")["keys"]
    command("key", "revoke", "000000000000", expect=3)
    command("key", "list", "--state", "gone", expect=2)


def test_trail_is_listed_and_verified_and_a_forgery_ends_with_1(command: Command, migrated: Path) -> None:
    made = [command("key", "create", f"key {n}") for n in range(3)]
    entries = command("audit", "list")["entries"]
    assert [("command", "key.created", f"key/{key['id']}") for key in made] == [
        (entry["actor"], entry["action"], entry["subject"]) for entry in entries
    ]
    assert [2, 3] == [entry["seq"] for entry in command("audit", "list", "--after", "1", "--limit", "2")["entries"]]
    whole = command("audit", "verify")
    newest = entries[-1]["hash"]
    assert (True, [("*", 3, newest)]) == (
        whole["ok"], [(c["organization"], c["entries"], c["newest_hash"]) for c in whole["chains"]],
    )  # fmt: skip
    assert command("audit", "verify", "--host", "--expect", entries[0]["hash"])["ok"]
    command("audit", "verify", "--expect", newest, expect=2)
    command("audit", "verify", "--organization", "nowhere", expect=3)
    with sqlite3.connect(migrated) as database:
        database.execute("DROP TRIGGER audit_entry_no_delete")
        database.execute("DELETE FROM audit_entry WHERE seq = 3")
        database.execute("UPDATE audit_head SET seq = 2, hash = ?", (entries[1]["hash"],))
    database.close()
    assert command("audit", "verify")["ok"], "a cut with its note is seen only from outside"
    cut = command("audit", "verify", "--host", "--expect", newest, expect=1)
    assert ("expected_missing", 2) == (cut["chains"][0]["flaw"]["code"], cut["chains"][0]["entries"])


def test_broken_chain_is_said_in_words_with_its_first_flaw(
    data_dir: Path, migrated: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(3):
        command("key", "create", f"key {n}")
    with sqlite3.connect(migrated) as database:
        database.execute("DROP TRIGGER audit_entry_no_update")
        database.execute("UPDATE audit_entry SET actor = 'nobody' WHERE seq = 2")
    database.close()
    assert 1 == run(["audit", "verify"])
    said = capsys.readouterr().out
    assert "the host: BROKEN at entry 2: What the entry says is not what its hash was made from." in said
    assert "In order before it: 1" in said


def test_same_commands_ask_a_running_host_over_its_api(command: Command, host: str) -> None:
    by_url = ("--url", host)
    command("org", "create", "hlf", "HLF")
    made = command("key", "create", "platform", "--verb", "read", "--organization", "hlf", *by_url)
    assert (["hlf"], True) == (made["organizations"], made["expires_at"] is not None)
    listed = command("key", "list", *by_url)["keys"]
    assert {"admin", "platform"} == {key["name"] for key in listed}
    assert listed == [
        key | {"last_used_at": shown["last_used_at"]}
        for key, shown in zip(command("key", "list")["keys"], listed, strict=True)
    ]
    assert "revoked" == command("key", "revoke", made["id"], *by_url)["state"]
    deeds = [entry["action"] for entry in command("audit", "list", "--organization", "hlf", *by_url)["entries"]]
    assert ["organization.created", "key.created", "key.revoked"] == deeds
    over_api, directly = command("audit", "verify", *by_url), command("audit", "verify")
    assert over_api == directly
    assert ["*", "hlf"] == [chain["organization"] for chain in over_api["chains"]]


def test_key_that_is_missing_or_wrong_ends_with_6(command: Command, host: str, api_keys: list[str]) -> None:
    api_keys.append("smb_000000000000_nothing")
    assert "key_refused" == command("key", "list", "--url", host, expect=6)["error"]["code"]
    api_keys.clear()
    assert "key_missing" == command("audit", "verify", "--url", host, expect=6)["error"]["code"]


def test_no_database_is_told_with_the_way_out(command: Command, data_dir: Path) -> None:
    for words in (["key", "list"], ["audit", "verify"]):
        assert "migration_needed" == command(*words, expect=5)["error"]["code"]
    assert not data_dir.exists()
