"""A simulator is started, spoken to and stopped again, and a broken one is told apart from a slow one."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from samband.testing import Touched, start_simulator

SIMULATOR = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Door(BaseHTTPRequestHandler):
    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"expected": {
            "people": {"upserted_ids": ["a", "b"], "deleted_ids": ["c"]},
            order["stream"]: {"upserted_ids": ["m1"] * order["update"], "deleted_ids": []},
        }}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Door)
url = f"http://127.0.0.1:{server.server_port}"
settings = {"api_url": url, "size": int(sys.argv[1])}
print(json.dumps({"settings": settings, "credentials": {"api_key": "k"}, "control_url": url}), flush=True)
server.serve_forever()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gives the file of a module that ``python -m small_simulator`` runs."""
    path = tmp_path / "small_simulator.py"
    path.write_text(SIMULATOR, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return path


def test_a_simulator_gives_settings_credentials_and_a_touch(module: Path) -> None:
    with start_simulator(
        "small_simulator",
        arguments=["7"],
        settings={"page_size": 2},
        touch_order=lambda stream: {"stream": stream, "update": 1} if stream == "members" else None,
    ) as counterpart:
        url = counterpart.settings["api_url"]
        assert counterpart.settings == {"api_url": url, "size": 7, "page_size": 2}
        assert counterpart.credentials == {"api_key": "k"}
        assert counterpart.touch is not None
        assert counterpart.touch("members") == Touched(changed=["m1"], deleted=[])
        assert counterpart.touch("something else") is None


def test_a_simulator_stops_with_its_block(module: Path) -> None:
    with start_simulator("small_simulator", arguments=["1"]) as counterpart:
        parts = urlsplit(counterpart.settings["api_url"])
    with socket.socket() as probe:
        assert probe.connect_ex((parts.hostname, parts.port)) != 0


@pytest.mark.parametrize("says", ["print('hello')", "print('{}')", "pass"], ids=["words", "wrong-json", "nothing"])
def test_a_simulator_that_does_not_say_where_it_is_is_named(module: Path, says: str) -> None:
    module.write_text(says, encoding="utf-8")
    with (
        pytest.raises(RuntimeError, match="python -m small_simulator must print one line of JSON"),
        start_simulator("small_simulator"),
    ):
        pytest.fail("it never started")


def test_python_itself_runs_the_simulator(module: Path) -> None:
    module.write_text("import json, sys; print(json.dumps({'settings': {'exe': sys.executable}, 'credentials': {}}))")
    with start_simulator("small_simulator") as counterpart:
        assert counterpart.settings == {"exe": sys.executable}
        assert counterpart.touch is None
