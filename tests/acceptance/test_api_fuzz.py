"""A whole host is asked everything its OpenAPI document allows, and much that it does not: never a 5xx of its own
making, never an answer that the document does not promise."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from samband.client import Client

from .conftest import install_plugin

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method,ignored_auth"
)
SEED = os.environ.get("FUZZ_SEED", "20260301")
SECONDS = os.environ.get("FUZZ_SECONDS", "150")
EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "12")

PLUGIN = """
@hookimpl
async def sync(ctx, stream, cursor):
    bad = Record(key="2", values={"status": "no such status"})
    yield Page(records=[Record(key="1", values={"status": "active"}), bad], complete=True, cursor="c")

@hookimpl
async def fetch(ctx, stream, selection):
    yield Page(records=[Record(key=key, values={"status": "active"}) for key in selection.keys], complete=True)

@hookimpl
async def handle_webhook(ctx, request):
    return []
"""


@dataclass
class Running:
    url: str
    key: str


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Running]:
    """A host of its own with a plugin that needs nothing from outside."""
    from .conftest import PLUGIN_HEAD

    head = PLUGIN_HEAD.replace('frozenset({"sync"})', 'frozenset({"sync", "fetch", "webhook"}), webhook="none"')
    install_plugin(tmp_path / "plugins", "things", PLUGIN, head=head)
    environment = {
        **os.environ, "PYTHONPATH": str(tmp_path / "plugins"), "SAMBAND_ALLOW_INSTALLED": "true",
        "SAMBAND_ALLOW_PRIVATE_HOSTS": "127.0.0.1", "SAMBAND_LOG_LEVEL": "error",
        "SAMBAND_PUBLIC_URL": "https://samband.example.org",
    }  # fmt: skip
    with (tmp_path / "host.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "samband", "up", "--data-dir", str(tmp_path / "data"), "--port", "0", "--json"],
            stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            ready = json.loads(process.stdout.readline())
            yield Running(ready["url"], ready["admin_key"])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            process.stdout.close()


async def furnish(running: Running) -> dict[str, str]:
    """Gives the host something to be asked about, and the ids of it."""
    async with Client(running.url, running.key) as client:
        await client.create_organization("hlf", "HLF")
        await client.create_integration("hlf", "things", settings={}, credentials={})
        await client.test_integration("hlf", "things")
        await client.enable_integration("hlf", "things")
        run = await client.wait(await client.trigger_sync("hlf", "things"))
        assert "partial" == run.state
        return {"org": "hlf", "type": "things", "run": run.id, "kind": "member"}


async def test_host_answers_as_its_document_says_whatever_it_is_asked(host: Running, tmp_path: Path) -> None:
    known = await furnish(host)
    config = "[parameters]\n" + "".join(f'"path.{name}" = "{value}"\n' for name, value in known.items())
    await asyncio.to_thread((tmp_path / "schemathesis.toml").write_text, config)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path / "schemathesis.toml"), "run",
        f"{host.url}/openapi.json", "-H", f"Authorization: Bearer {host.key}", "--checks", CHECKS, "--phases",
        "examples,coverage,fuzzing", "-n", EXAMPLES, "--max-time", SECONDS, "--seed", SEED, "--no-color",
        "--request-timeout", "20", "--warnings", "off",
    ]  # fmt: skip
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert 0 == done.returncode, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Tested:" in done.stdout
