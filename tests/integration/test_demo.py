"""The demonstration, and every command that talks to a running host, as a person would use them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

PATIENCE_S = 120.0
SAMBAND = [sys.executable, "-m", "samband"]


@dataclass
class Demonstration:
    """A demonstration that has been played through and stays up."""

    process: subprocess.Popen[bytes]
    document: dict[str, Any]
    temporary: Path

    def samband(self, *arguments: str, stdin: bytes = b"") -> tuple[int, Any]:
        """Runs a command against its host and gives the exit code and the JSON document."""
        environment = os.environ | {"SAMBAND_URL": self.document["url"], "SAMBAND_API_KEY": self.document["api_key"]}
        done = subprocess.run(
            [*SAMBAND, *arguments, "--json"], input=stdin, capture_output=True, env=environment, timeout=PATIENCE_S,
            check=False,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demonstration]:
    temporary = tmp_path_factory.mktemp("demo")
    environment = os.environ | {"TMPDIR": str(temporary)}
    command = [*SAMBAND, "demo", "--members", "60", "--json"]
    with (temporary / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
    assert process.stdout is not None
    try:
        yield Demonstration(process, json.loads(process.stdout.readline()), temporary)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
        process.stdout.close()


def test_everything_comes_out_right(demonstration: Demonstration) -> None:
    document = demonstration.document
    assert [check for check in document["checks"] if not check["ok"]] == []
    assert document["ok"]
    assert len(document["checks"]) > 20
    first, changes, nothing, export = document["runs"]
    assert [run["state"] for run in document["runs"]] == ["succeeded"] * 4
    assert ("export", 25) == (export["operation"], export["counts"]["created"])
    assert first["counts"]["created"] > 60
    assert (changes["counts"]["created"], changes["counts"]["deleted"]) == (12, 5)
    assert nothing["counts"] == dict.fromkeys(nothing["counts"], 0)


def test_check_tries_one_integration_or_all(demonstration: Demonstration) -> None:
    code, document = demonstration.samband("check", "demo/dynamics365")
    assert (code, document["ok"]) == (0, True)
    _, document = demonstration.samband("check")  # another test's integration may be among them, and not work
    assert {check["integration"]: check["ok"] for check in document["checks"]}["demo/dynamics365"]


def test_sync_waits_for_its_run_and_the_run_can_be_shown(demonstration: Demonstration) -> None:
    code, run = demonstration.samband("sync", "demo", "dynamics365", "--wait")
    assert (code, run["state"]) == (0, "succeeded")
    code, listed = demonstration.samband("runs", "list", "demo", "--limit", "1")
    assert (code, [found["id"] for found in listed["runs"]]) == (0, [run["id"]])
    code, shown = demonstration.samband("runs", "show", f"demo/{run['id']}")
    assert (code, shown["id"], shown["outcomes"]) == (0, run["id"], [])


def test_sync_of_one_stream_reads_that_one(demonstration: Demonstration) -> None:
    code, run = demonstration.samband("sync", "demo", "dynamics365", "--stream", "staff", "--full", "--wait")
    assert (code, run["streams"], run["full"]) == (0, ["staff"], True)


def test_wrong_credentials_fail_the_check_and_are_never_shown(demonstration: Demonstration) -> None:
    demonstration.samband("org", "create", "other")
    _, shown = demonstration.samband("integration", "show", "demo", "dynamics365")
    settings = demonstration.temporary / "settings.json"
    settings.write_text(json.dumps(shown["settings"]))
    code, created = demonstration.samband(
        "integration", "create", "other", "dynamics365", "--settings", str(settings), "--credentials", "-",
        stdin=b'{"client_id": "11111111-2222-3333-4444-555555555555", "client_secret": "a-wrong-secret"}',
    )  # fmt: skip
    assert (code, created["state"]) == (0, "saved")
    code, checked = demonstration.samband("check", "other/dynamics365")
    assert (code, checked["ok"]) == (1, False)
    code, refused = demonstration.samband("integration", "enable", "other", "dynamics365")
    assert (code, refused["error"]["code"]) == (4, "not_tested")
    assert "a-wrong-secret" not in json.dumps([created, checked, refused])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["runs", "show", "demo/nosuch"], 3),
        (["integration", "show", "nosuch", "dynamics365"], 3),
        (["sync", "demo", "nosuch"], 3),
        (["org", "create", "demo"], 4),
        (["org", "create", "Not An Id"], 2),
        (["runs", "list", "demo", "--state", "nosuch"], 2),
    ],
)
def test_refusal_of_the_host_decides_the_exit_code(
    demonstration: Demonstration, arguments: list[str], code: int
) -> None:
    found, document = demonstration.samband(*arguments)
    assert (found, document["exit_code"]) == (code, code)


def test_stopped_demonstration_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [*SAMBAND, "demo", "--members", "60", "--json"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    assert process.stdout is not None
    document = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []
    for address in (document["url"], *document["simulators"].values()):
        assert not _answers(address)


def test_simulator_says_where_it_answers_and_dies_with_its_parent() -> None:
    command = [*SAMBAND, "simulate", "dynamics365", "--members", "20"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    line = json.loads(process.stdout.readline())
    assert {"settings", "credentials", "control_url"} <= line.keys()
    assert _answers(line["base_url"])
    process.kill()
    process.wait(PATIENCE_S)
    process.stdout.close()
    deadline = time.monotonic() + PATIENCE_S
    while _answers(line["base_url"]):
        assert time.monotonic() < deadline, "the simulator outlived its parent"
        time.sleep(0.05)


def _answers(address: str) -> bool:
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5).close()
    except OSError:
        return False
    return True
