"""A reverse proxy on 127.0.0.1 that lets a test break any HTTP conversation, without the other side's help.

Addresses in answers that point at the system are rewritten to the proxy, and the other way round in requests, so that
paging links keep leading through it.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from samband.testing.faults import Answer, Exchange, Fault
from samband.testing.loopback import HOST, ServerThread
from samband.testing.rewriting import Rewriter

__all__ = ["Call", "FaultProxy"]

_UPSTREAM_LIMIT = aiohttp.ClientTimeout(total=30)
# Connection-bound headers (RFC 9110, section 7.6.1), and those that no longer fit once the body was rewritten.
_NOT_PASSED_ON = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
     "content-length", "content-encoding", "host", "accept-encoding"}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that reached the proxy.

    Attributes:
        number: Counted from 1 over the proxy's life.
        method: In capitals.
        url: Where it was meant to go, without its query, which may hold personal data.
        at: The proxy's clock when it came in.
        fingerprint: The same for two requests that say the same to the same address.
    """

    number: int
    method: str
    url: str
    at: float
    fingerprint: str = ""


class _Plan:
    """Which of the following calls a fault is meant for."""

    def __init__(self, fault: Fault, at: int, times: int | None, where: Callable[[Call], bool]) -> None:
        self.fault, self._at, self._times, self._where = fault, at, times, where
        self.seen = 0

    def fault_for(self, call: Call) -> Fault | None:
        if not self._where(call):
            return None
        self.seen += 1
        last = self._at + self._times if self._times is not None else self.seen + 1
        return self.fault if self._at <= self.seen < last else None


class _Front:
    """One listening port that stands for one origin of the other side."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.port = 0
        self.runner: web.ServerRunner | None = None

    @property
    def origin(self) -> str:
        return f"http://{HOST}:{self.port}"


class FaultProxy:
    """Stands in front of a system and breaks the calls it is told to break.

    One proxy can front several origins (an API and its login server); each gets a port of its own. It runs in a thread,
    so one proxy serves a whole test class. Close it, or use it as a context manager.

    Args:
        now: The clock that `Call.at` is read from; a test with a fake clock passes that one.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.calls: list[Call] = []
        self._arrived = threading.Condition()
        self._fronts: dict[str, _Front] = {}
        self._to_us = self._to_them = Rewriter({})
        self._plan: _Plan | None = None
        self._thread = ServerThread("samband-fault-proxy")
        self._client = self._thread.run(_open_client())

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── standing in front ────────────────────────────────────────────────────

    def front(self, origin: str) -> str:
        """Gives the address under which ``origin`` (``http://host:port``) is reached through the proxy."""
        parts = urlsplit(origin)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin in (front.origin for front in self._fronts.values()):
            return origin
        if origin not in self._fronts:
            front = _Front(origin)
            self._thread.run(self._listen(front))
            self._fronts[origin] = front
            ours = {front.upstream: front.origin for front in self._fronts.values()}
            self._to_us, self._to_them = Rewriter(ours), Rewriter({new: old for old, new in ours.items()})
        return self._fronts[origin].origin

    def front_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Gives the same settings with every field whose name ends in ``url`` leading through the proxy."""
        for url in _addresses(settings):
            self.front(url)
        rewritten: dict[str, Any] = self._to_us.values(settings)
        return rewritten

    @property
    def origins(self) -> tuple[str, ...]:
        """The proxy's own addresses."""
        return tuple(front.origin for front in self._fronts.values())

    # ── breaking things ──────────────────────────────────────────────────────

    @contextmanager
    def fault(
        self, fault: Fault, *, at: int = 1, times: int | None = None, where: Callable[[Call], bool] = lambda call: True
    ) -> Iterator[None]:
        """Injects a fault into the calls that follow.

        Args:
            fault: What goes wrong.
            at: The first call it is meant for, counted from 1 among those that ``where`` lets through.
            times: How many calls; None for all that follow.
            where: Which calls count at all.
        """
        self._plan = _Plan(fault, at, times, where)
        try:
            yield
        finally:
            self._plan = None

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuses connections, and drops those that are open, until the block ends."""
        fronts = list(self._fronts.values())
        for front in fronts:
            self._thread.run(self._stop(front))
        held = [_hold_port(front.port) for front in fronts]
        try:
            yield
        finally:
            for front, port in zip(fronts, held, strict=True):
                port.close()
                self._thread.run(self._listen(front))

    # ── watching ─────────────────────────────────────────────────────────────

    @property
    def open_connections(self) -> int:
        """How many connections plugins hold open to the proxy now."""
        runners = [front.runner for front in self._fronts.values() if front.runner is not None]
        return sum(len(runner.server.connections) for runner in runners if runner.server is not None)

    def wait_for_calls(self, count: int, timeout_s: float = 10.0) -> bool:
        """Blocks until ``count`` calls have come in since the proxy was made; False when they did not in time."""
        with self._arrived:
            return self._arrived.wait_for(lambda: len(self.calls) >= count, timeout_s)

    def close(self) -> None:
        """Closes every connection and the ports."""
        for front in self._fronts.values():
            self._thread.run(self._stop(front))
        self._thread.run(self._client.close())
        self._thread.close()

    # ── in the proxy's own thread ────────────────────────────────────────────

    async def _listen(self, front: _Front) -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._handle(front, request)

        front.runner = web.ServerRunner(
            web.Server(handle, access_log=None, handler_cancellation=True), shutdown_timeout=0.1
        )
        await front.runner.setup()
        site = web.TCPSite(front.runner, HOST, front.port, reuse_address=True)
        await site.start()
        front.port = front.runner.addresses[0][1]

    async def _stop(self, front: _Front) -> None:
        if front.runner is not None:
            await front.runner.cleanup()
            front.runner = None

    async def _handle(self, front: _Front, request: web.BaseRequest) -> web.StreamResponse:
        call = self._note(front, request, await request.read())
        plan = self._plan
        fault = plan.fault_for(call) if plan is not None else None
        exchange = Exchange(request=request, forward=lambda: self._forward(front, request))
        if fault is not None:
            return await fault.answer(exchange)
        try:
            answer = await exchange.forward()
        except aiohttp.ClientError as err:
            return web.Response(status=502, text=f"The system behind the proxy does not answer: {type(err).__name__}")
        return answer.as_response()

    def _note(self, front: _Front, request: web.BaseRequest, body: bytes) -> Call:
        said = f"{request.method} {front.upstream}{request.raw_path}\n".encode() + body
        with self._arrived:
            call = Call(
                number=len(self.calls) + 1,
                method=request.method,
                url=front.upstream + request.rel_url.raw_path,
                at=self.now(),
                fingerprint=hashlib.sha256(said).hexdigest(),
            )
            self.calls.append(call)
            self._arrived.notify_all()
            return call

    async def _forward(self, front: _Front, request: web.BaseRequest) -> Answer:
        async with self._client.request(
            request.method,
            URL(front.upstream + self._to_them.text(request.raw_path), encoded=True),
            headers=CIMultiDict((name, self._to_them.text(value)) for name, value in _passed_on(request.headers)),
            data=self._to_them.body(await request.read()) or None,
            allow_redirects=False,
        ) as response:
            return Answer(
                status=response.status,
                headers=CIMultiDict((name, self._to_us.text(value)) for name, value in _passed_on(response.headers)),
                body=self._to_us.body(await response.read()),
            )


def _hold_port(port: int) -> socket.socket:
    # Bound but not listening: connections are refused, and nobody else is given the port meanwhile.
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((HOST, port))
    return held


async def _open_client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=_UPSTREAM_LIMIT, cookie_jar=aiohttp.DummyCookieJar(), skip_auto_headers=("User-Agent", "Content-Type")
    )


def _passed_on(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in headers.items():
        if name.lower() not in _NOT_PASSED_ON:
            yield name, value


def _addresses(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _addresses(value)
        elif isinstance(value, str) and name.lower().endswith("url") and "://" in value:
            yield value
