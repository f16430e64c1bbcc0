"""Secrets that are easy to recognise go through a whole host, and are then looked for wherever anything is written."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from samband.store import Store, Vault
from samband.store.keyring import new_key

from .conftest import Simulator

PATIENCE_S = 90.0
MASTER = new_key()
GOOD = "canary-Good~secret-8f1b77c2d0e4a3"
WRONG = "canary-Wrong~secret-55aa19c7731fe0"
STRAY = "canary-Stray~value-0d94be6612f7c8"
ONE = "/v1/organizations/hlf/integrations/dynamics365"
EXTENSION = "/v1/organizations/nbf/integrations/dynamics365"


class SignIn:
    """Stands before the simulator's sign-in: passes requests on, or answers with everything it was sent."""

    def __init__(self, target: str) -> None:
        self.is_echoing = False
        self.tokens: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                status, content = outer.echo(sent) if outer.is_echoing else outer.passed(target + self.path, sent)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def passed(self, url: str, sent: bytes) -> tuple[int, bytes]:
        request = urllib.request.Request(url, sent, {"Content-Type": "application/x-www-form-urlencoded"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        self.tokens.append(json.loads(content)["access_token"])
        return 200, content

    def echo(self, sent: bytes) -> tuple[int, bytes]:
        form = urllib.parse.parse_qs(sent.decode())
        secret = (form.get("client_secret") or form["client_assertion"])[0]
        words = f"AADSTS7000215: you sent {secret} ({base64.b64encode(secret.encode()).decode()}) in {sent.decode()}"
        return 401, json.dumps({"error": "invalid_client", "error_description": words, secret: secret}).encode()


@pytest.fixture
def sign_in(simulator: Simulator) -> Iterator[SignIn]:
    standing = SignIn(simulator.line["settings"]["authority_url"])
    thread = threading.Thread(target=standing.server.serve_forever)
    thread.start()
    try:
        yield standing
    finally:
        standing.server.shutdown()
        thread.join()
        standing.server.server_close()


class Running:
    """A host as a process, and everything it ever answered."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        self.answers: list[bytes] = []

    def ask(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None) -> tuple[int, Any]:
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, content, told = answer.status, answer.read(), str(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                status, content, told = error.code, error.read(), str(error.headers)
        self.answers += [content, told.encode()]
        with contextlib.suppress(json.JSONDecodeError):
            return status, json.loads(content)
        return status, content

    def sync(self) -> dict[str, Any]:
        status, run = self.ask("POST", f"{ONE}/runs", {})
        assert status == 202, run
        deadline = time.monotonic() + PATIENCE_S
        while run["state"] in ("queued", "running", "waiting"):
            assert time.monotonic() < deadline, run
            time.sleep(0.1)
            _, run = self.ask("GET", f"/v1/organizations/hlf/runs/{run['id']}")
        return run  # type: ignore[no-any-return]


@pytest.fixture
def host(tmp_path: Path, database_url: str) -> Iterator[Running]:
    environment = os.environ | {
        "SAMBAND_DATABASE_URL": database_url, "SAMBAND_KEY": MASTER, "SAMBAND_ALLOW_INSTALLED": "true",
        "SAMBAND_ALLOW_PRIVATE_HOSTS": "127.0.0.1", "SAMBAND_LOG_LEVEL": "debug", "SAMBAND_LOG_FORMAT": "json",
        "SAMBAND_SWEEP_S": "0.3",
    }  # fmt: skip
    command = [sys.executable, "-m", "samband", "up", "--data-dir", str(tmp_path / "data"), "--port", "0", "--json"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=tmp_path, env=environment)
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        yield Running(ready["url"], ready["admin_key"])
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        process.stdout.close()


def certificate() -> dict[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "samband")])
    today = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, today, today + dt.timedelta(days=10))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "certificate_pem": made.public_bytes(serialization.Encoding.PEM).decode(), "private_key_pem": private.decode()
    }  # fmt: skip


def forms(secret: str) -> set[bytes]:
    """Every form a secret could lie about in: clear, for addresses, for JSON, hexadecimal, and base64 at any offset."""
    raw = secret.encode()
    found = {raw, urllib.parse.quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode(), raw.hex().encode()}
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw)
        core = encoded[(0, 2, 3)[offset] :].rstrip(b"=")[:-1]
        found |= {core, core.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def found_in(content: bytes, secrets: dict[str, str]) -> set[str]:
    return {name for name, secret in secrets.items() if any(form in content for form in forms(secret))}


async def everything_in(database_url: str) -> bytes:
    """Gives every value of every row of every table, as it is and as the database writes it."""
    store = Store.open(database_url, vault=Vault.from_secret(new_key()))
    content: list[bytes] = []
    try:
        async with store.database.read() as conn:
            names = await conn.run_sync(lambda c: sa.inspect(c).get_table_names())
            for name in names:
                for row in await conn.execute(sa.text(f'SELECT * FROM "{name}"')):
                    content += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    finally:
        await store.close()
    assert len(content) > 1000
    return b"\n".join(content)


def walk(host: Running) -> None:
    """Reads every address there is that needs nothing but an organisation and a type."""
    _, document = host.ask("GET", "/openapi.json")
    for path, methods in document["paths"].items():
        if "get" in methods:
            for org in ("hlf", "nbf"):
                known = path.replace("{org}", org).replace("{type}", "dynamics365").replace("{kind}", "member")
                if "{" not in known:
                    assert host.ask("GET", known)[0] < 500, known


def test_no_secret_is_ever_written_or_told_in_clear(
    host: Running, simulator: Simulator, sign_in: SignIn, database_url: str, tmp_path: Path
) -> None:
    simulator.control("config", {"secret": {"rotate": GOOD}})
    client_id = simulator.line["credentials"]["client_id"]
    settings = {**simulator.line["settings"], "authority_url": sign_in.url}
    own = certificate()
    for org in ("hlf", "nbf"):
        assert host.ask("POST", "/v1/organizations", {"id": org, "name": org.upper()})[0] == 201
    good = {"client_id": client_id, "client_secret": GOOD}
    body = {"type": "dynamics365", "settings": settings, "credentials": good}
    status, made = host.ask("POST", "/v1/organizations/hlf/integrations", body)
    assert (201, GOOD[-4:]) == (status, made["credentials"]["client_secret"])

    # all is well: a test, a run, and a token that is kept
    _, check = host.ask("POST", f"{ONE}/test")
    assert check["ok"], check
    assert host.ask("POST", f"{ONE}/enable")[0] == 200
    assert host.sync()["state"] in ("succeeded", "partial")
    assert sign_in.tokens

    # a sign-in that repeats what it was sent, in a run, a test, and a replacement
    sign_in.is_echoing = True
    simulator.control("config", {"revoke_tokens": True})
    run = host.sync()
    assert ("failed", "auth_secret_wrong") == (run["state"], run["error"]["code"])
    assert "you sent ***" in run["error"]["remote_message"]
    wrong = {"credentials": {**good, "client_secret": WRONG}}
    status, problem = host.ask("PUT", f"{ONE}/credentials", wrong)
    assert (409, "credentials_refused") == (status, problem["code"])
    assert "you sent ***" in problem["remote_message"]
    status, changed = host.ask("PUT", f"{ONE}/credentials", {**wrong, "test": False})
    assert (200, "saved") == (status, changed["state"])
    assert not host.ask("POST", f"{ONE}/test")[1]["ok"]

    # a certificate's key, and values that are typed where they do not belong
    cert = {"type": "dynamics365", "settings": settings, "credentials": {"client_id": client_id, **own}}
    status, made = host.ask("POST", "/v1/organizations/nbf/integrations", cert)
    assert 201 == status, made
    assert made["credentials_expire_at"] is not None
    assert not host.ask("POST", f"{EXTENSION}/test")[1]["ok"]
    for stray in (
        {"credentials": {"client_id": STRAY, "client_secret": GOOD}},
        {"credentials": {**good, "client_secrett": STRAY}},
        {"credentials": {"client_id": client_id, "client_secret": [STRAY]}},
        {"credentials": STRAY},
        {"credentials": good, "expires_at": STRAY},
    ):
        assert 422 == host.ask("PUT", f"{ONE}/credentials", stray)[0]
    assert 400 == host.ask("PUT", f"{ONE}/credentials", raw=b'{"credentials": {"client_secret": "' + STRAY.encode())[0]
    walk(host)

    key_lines = re.findall(r"[\w+/=]{60,}", own["private_key_pem"])
    secrets = {
        "good": GOOD, "wrong": WRONG, "stray": STRAY, "master key": MASTER, "api key": host.key.rpartition("_")[2],
        "private key": key_lines[5], "end of the private key": key_lines[-2],
        **{f"token {number}": token for number, token in enumerate(sign_in.tokens)},
    }  # fmt: skip
    assert set(secrets) == found_in(b" ".join(v.encode() for v in secrets.values()), secrets)
    log = (tmp_path / "log").read_bytes()
    assert b'"level": "debug"' in log
    assert b"hook_finished" in log
    places = {
        "answers": b"\n".join(host.answers), "log": log, "database": asyncio.run(everything_in(database_url)),
        **{str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()},
    }  # fmt: skip
    assert any(name.endswith("samband.db") for name in places) == database_url.startswith("sqlite")
    leaks = {name: found for name, content in places.items() if (found := found_in(content, secrets))}
    assert leaks == {}
