"""Plugins that fail at import, misspell a hook, block their loop or give garbage harm nothing but themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Simulator, install_plugin

RAISES = "raise RuntimeError('cannot find the moon')\n"
MISSPELT = "@hookimpl\nasync def synk(ctx, stream, cursor):\n    yield Page(complete=True)\n"
BLOCKS = "@hookimpl\nasync def sync(ctx, stream, cursor):\n    time.sleep(3600)\n    yield Page(complete=True)\n"
SPINS = "@hookimpl\nasync def sync(ctx, stream, cursor):\n    while True: pass\n    yield Page(complete=True)\n"
GARBAGE = "@hookimpl\nasync def sync(ctx, stream, cursor):\n    yield 'three members'\n"
ENDS_EARLY = "@hookimpl\nasync def sync(ctx, stream, cursor):\n    yield Page(records=[], cursor='1')\n"


class Api:
    """Speaks to a running host the way any program would."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self.slowest_s = 0.0

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        request = urllib.request.Request(
            self.url + path, method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )  # fmt: skip
        started = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as err:
            return err.code, json.load(err)
        finally:
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)

    def metrics(self) -> str:
        request = urllib.request.Request(self.url + "/metrics", headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    def connect(self, org: str, plugin: str, settings: Any, credentials: Any) -> dict[str, Any]:
        """Adds, tests and enables an integration, and starts a sync."""
        assert 201 == self("POST", "/v1/organizations", {"id": org, "name": org})[0]
        body = {"type": plugin, "settings": settings, "credentials": credentials}
        status, answer = self("POST", f"/v1/organizations/{org}/integrations", body)
        assert 201 == status, answer
        status, check = self("POST", f"/v1/organizations/{org}/integrations/{plugin}/test", {})
        assert (200, True) == (status, check["ok"]), check
        assert 200 == self("POST", f"/v1/organizations/{org}/integrations/{plugin}/enable", {})[0]
        status, run = self("POST", f"/v1/organizations/{org}/integrations/{plugin}/runs", {})
        assert 202 == status, run
        return run  # type: ignore[no-any-return]

    def ended(self, run: dict[str, Any], patience_s: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            _, now = self("GET", f"/v1/organizations/{run['organization']}/runs/{run['id']}")
            if now["state"] not in ("queued", "running", "waiting", "held"):
                return now  # type: ignore[no-any-return]
            time.sleep(0.1)
        raise AssertionError(f"run {run['id']} never ended")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """A host started with one command, with good and bad plugins installed."""
    plugins = tmp_path / "plugins"
    install_plugin(plugins, "raises", RAISES, head="")
    install_plugin(plugins, "misspelt", MISSPELT)
    install_plugin(plugins, "blocks", BLOCKS)
    install_plugin(plugins, "spins", SPINS)
    install_plugin(plugins, "garbage", GARBAGE)
    install_plugin(plugins, "ends_early", ENDS_EARLY)
    environment = {
        **os.environ, "PYTHONPATH": str(plugins), "SAMBAND_ALLOW_INSTALLED": "true", "SAMBAND_HOOK_TIMEOUT_S": "3",
        "SAMBAND_ALLOW_PRIVATE_HOSTS": "127.0.0.1", "SAMBAND_MAX_ATTEMPTS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "samband", "up", "--data-dir", str(tmp_path / "data"), "--port", "0", "--json"]
    with (tmp_path / "host.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        yield Api(ready["url"], ready["admin_key"])
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(40)
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def test_host_lists_bad_plugins_with_their_reasons_and_serves_the_good_one(api: Api, simulator: Simulator) -> None:
    _, listing = api("GET", "/v1/plugins")
    plugins = {p["name"]: p for p in listing["items"]}
    assert ("failed", "loaded") == (plugins["raises"]["state"], plugins["dynamics365"]["state"])
    assert "RuntimeError" in plugins["raises"]["detail"]
    assert "failed" == plugins["misspelt"]["state"]
    assert "synk" in plugins["misspelt"]["reason"] + plugins["misspelt"]["detail"]

    bad = {
        name: api.connect(f"org-{name.replace('_', '-')}", name, {}, {})
        for name in ("blocks", "spins", "garbage", "ends_early")
    }
    good = api.connect("hlf", "dynamics365", simulator.line["settings"], simulator.line["credentials"])
    done = api.ended(good)
    assert "succeeded" == done["state"], done
    # While one plugin blocks and another spins, the API answers; how fast is for the benchmarks to say.
    assert api.slowest_s < 15
    ends = {name: api.ended(run) for name, run in bad.items()}
    assert {"failed"} == {run["state"] for run in ends.values()}
    assert {"contract_broken"} == {ends[name]["error"]["code"] for name in ("garbage", "ends_early")}
    assert 0 == ends["ends_early"]["counts"]["deleted"]
    _, listing = api("GET", "/v1/plugins")
    reasons = {p["name"]: p["reason"] for p in listing["items"]}
    assert reasons["blocks"]
    assert reasons["garbage"]
    status, refusal = api("POST", "/v1/organizations/hlf/integrations", {"type": "raises", "settings": {}})
    assert (404, "unknown_plugin") == (status, refusal["code"])
    figures = api.metrics()
    created = f'samband_records_total{{outcome="created",plugin="dynamics365",stream="contacts"}} {300.0}'
    assert created in figures
    assert 'samband_run_duration_seconds_count{plugin="garbage",state="failed"} 1.0' in figures
    assert 'samband_plugin_troubles_total{plugin="blocks"}' in figures
