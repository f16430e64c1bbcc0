"""What the command line answers before it reaches any host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from samband.cli import app, run

GROUPS = {
    "org": "create list show",
    "integration": "create list show update set-credentials enable disable",
    "integration drop": "show set remove test",
    "schedule": "set show list delete pause resume preview occurrences",
    "webhook": "set show secret test deliver deliveries replay delete",
    "token": "refresh",
    "memberships": "sync",
    "courses": "sync",
    "runs": "list show latest outcomes failures differences cancel retry retry-failed approve reject",
    "dead-letters": "list show acknowledge",
    "alerts": "list acknowledge",
    "records": "list show changes",
    "claims": "put list show versions timeline corrections correction approve dismiss",
    "mapping": "show put history diff restore preview check chart",
    "export": "preview order items again resolve batches batch files download acknowledge reconcile",
    "events": "list show types schema",
    "subscription": "create list show update secret test enable disable replay deliveries delete",
    "key": "create list revoke",
    "keys": "generate rotate verify",
    "audit": "list verify",
}
EVERY_COMMAND = [
    ["up"], ["serve"], ["worker"], ["migrate"], ["demo"], ["plugins"], ["check"], ["overview"], ["status"], ["sync"],
    ["dry-run"], ["backfill"], ["consent"],
    *([*group.split(), name] for group, names in GROUPS.items() for name in names.split()),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SAMBAND_URL", raising=False)
    monkeypatch.delenv("SAMBAND_API_KEY", raising=False)
    monkeypatch.setenv("SAMBAND_DATA_DIR", str(tmp_path))


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=" ".join)
def test_every_command_offers_json_and_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert len(text.splitlines()) > 4


def test_help_holds_no_boxes_and_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    text = capsys.readouterr().out
    assert not [sign for sign in text if "\u2500" <= sign <= "\u259f" or sign == "\x1b"]


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path)
    for name, below in (inner or {}).items():
        yield from _commands(below, (*path, name))


def test_list_of_commands_is_the_one_that_is_tested() -> None:
    found = set(_commands(typer.main.get_command(app)))
    assert found == {" ".join(command) for command in EVERY_COMMAND} | {"simulate"}


def test_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["nosuch"]) == 2
    assert "No such command 'nosuch'" in capsys.readouterr().err


def test_usage_error_with_json_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sync", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["code"] == "usage"
    assert document["error"]["hint"] == "See: samband sync --help"


def test_no_host_on_the_data_directory_is_not_reachable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["runs", "list", "hlf", "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "host_not_found"


def test_address_file_of_a_dead_host_is_not_believed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "host.json").write_text(json.dumps({"url": "http://127.0.0.1:9", "pid": ended.pid}))
    assert run(["org", "list", "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "host_not_found"


def test_missing_key_is_refused_before_anything_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["org", "list", "--url", "http://127.0.0.1:9", "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "key_missing"


def test_host_that_does_not_answer_is_not_reachable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMBAND_API_KEY", "smb_x_y")
    assert run(["org", "list", "--url", "http://127.0.0.1:9", "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "host_unreachable"


@pytest.mark.parametrize("name", ["hlf", "hlf/", "/dynamics365", "a/b/c"])
def test_integration_that_is_not_two_names_is_a_usage_error(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", name, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "bad_name"


def test_credentials_that_are_not_json_are_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "credentials.json"
    path.write_text('{"client_secret": hunter2}')
    assert run(["integration", "set-credentials", "hlf", "dynamics365", "--file", str(path), "--json"]) == 2
    written = capsys.readouterr()
    assert json.loads(written.out)["error"]["code"] == "not_json"
    assert "hunter2" not in written.out + written.err


def test_settings_and_credentials_cannot_both_come_from_standard_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["integration", "create", "hlf", "dynamics365", "--settings", "-", "--credentials", "-"]) == 2


def test_unknown_variable_of_the_host_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMBAND_PROT", "8000")
    assert run(["up", "--json"]) == 2
    assert "SAMBAND_PROT" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_worker_without_shared_database_says_which_variables_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["worker", "--json"]) == 2
    message = json.loads(capsys.readouterr().out)["error"]["message"]
    assert "SAMBAND_DATABASE_URL and SAMBAND_REDIS_URL" in message


def test_simulator_of_an_unknown_plugin_is_not_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "nosuch"]) == 3


def test_module_is_the_same_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "samband", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "samband")


def test_plugins_are_listed_as_one_document_with_the_log_elsewhere() -> None:
    command = [sys.executable, "-m", "samband", "plugins", "--installed", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert [plugin["name"] for plugin in json.loads(done.stdout)["plugins"] if plugin["state"] == "loaded"]


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    import logging

    import structlog

    handlers, level, settings = logging.root.handlers[:], logging.root.level, structlog.get_config()
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.configure(**settings)
