"""The command line: one line of JSON, and a process that ends when it is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "samband_xledger.simulator", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_one_line_tells_how_to_connect_and_a_signal_stops_it(tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    process = start(
        "--vouchers", "12", "--drop-folder", str(folder), "--duplicate-numbers", "post", "--die-with-parent"
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert {"environment", "entity_code", "graphql_url", "soap_url"} == set(told["settings"])
        assert {"api_token", "soap_user", "soap_password"} == set(told["credentials"])
        assert {"acknowledged", "imported", "rejected"} == set(os.listdir(folder))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{told['control_url']}/state", timeout=20) as answer:
            state = json.load(answer)
        assert (12, "post") == (state["counts"]["journalHeaders"], state["switches"]["duplicate_numbers"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()
    assert 0 == process.returncode
