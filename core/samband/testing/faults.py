"""Everything that can go wrong with an HTTP conversation, for a proxy that makes it happen.

Put `samband.testing.FaultProxy` in front of a system, give the plugin the proxy's address, and choose what goes wrong:

    with proxy.fault(status(503), at=2):      # the second call and all after it
        ...
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from aiohttp import web

from samband.testing.rewriting import Rewriter

__all__ = [
    "Answer",
    "Exchange",
    "Fault",
    "carried_out",
    "cut_off",
    "echo_request",
    "elsewhere",
    "empty_body",
    "endless_body",
    "html_page",
    "redirect",
    "reset",
    "silence",
    "slow_body",
    "status",
    "stuck",
    "truncated",
]

_ENDLESS_BYTES = 256 * 1024 * 1024  # a host that never stops reading must fail the test, not eat the machine
_CHUNK = b'{"more": "' + b"x" * 65536 + b'"},'
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close() sends RST instead of FIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the system behind the proxy answered, decompressed, with addresses already rewritten."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def as_response(self) -> web.Response:
        return web.Response(status=self.status, headers=self.headers, body=self.body)


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One call on its way through the proxy.

    Attributes:
        request: As the plugin sent it; its body is already read.
        forward: Sends it on and gives the `Answer`.
    """

    request: web.BaseRequest
    forward: Callable[[], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that can go wrong: a name for messages, and what is done instead of a plain answer."""

    name: str
    answer: Callable[[Exchange], Awaitable[web.StreamResponse]] = field(repr=False)

    def __str__(self) -> str:
        return self.name


def status(code: int, *, retry_after: str | None = None, body: bytes = b'{"error": "fault injected"}') -> Fault:
    """Answers with this status. ``retry_after`` is sent as it is: seconds, a date, or nonsense."""
    headers = {"Content-Type": "application/json"} | ({} if retry_after is None else {"Retry-After": retry_after})

    async def answer(exchange: Exchange) -> web.StreamResponse:
        return web.Response(status=code, headers=headers, body=body)

    return Fault(f"status {code}" + (f", Retry-After: {retry_after}" if retry_after is not None else ""), answer)


def reset() -> Fault:
    """Takes the request and resets the connection before a byte of the answer."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        _reset_connection(exchange.request)
        return web.Response()

    return Fault("connection reset before the answer", answer)


def carried_out(fault: Fault) -> Fault:
    """Lets the other side do what it is asked, and then answers with the fault in place of its own words."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        await exchange.forward()
        return await fault.answer(exchange)

    return Fault(f"{fault.name}, after it was carried out", answer)


def cut_off() -> Fault:
    """Promises the whole body, sends half of it and resets the connection."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        found = await exchange.forward()
        response = web.StreamResponse(status=found.status, headers=found.headers)
        response.content_length = len(found.body) + 1
        await response.prepare(exchange.request)
        await response.write(found.body[: len(found.body) // 2])
        _reset_connection(exchange.request)
        return response

    return Fault("connection reset in mid-body", answer)


def truncated() -> Fault:
    """Sends half of the document as if it were the whole: correct HTTP, broken content."""
    return _with_body("truncated document", lambda body: body[: len(body) // 2])


def empty_body() -> Fault:
    """Sends the right status and headers with nothing in them."""
    return _with_body("empty body", lambda body: b"")


def html_page(code: int = 200) -> Fault:
    """Answers with a web page, as a proxy, a login wall or a maintenance sign does."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        page = "<!DOCTYPE html><html><head><title>Service</title></head><body><h1>We are back soon</h1></body></html>"
        return web.Response(status=code, text=page, content_type="text/html")

    return Fault(f"web page with status {code}", answer)


def slow_body(pause_s: float = 0.05) -> Fault:
    """Starts the body at once and then drips single bytes for as long as somebody listens."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        response = await _open_json(exchange)
        while True:
            await response.write(b" ")
            await asyncio.sleep(pause_s)

    return Fault("body slower than the time limit", answer)


def silence() -> Fault:
    """Takes the request and never answers."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    return Fault("no answer at all", answer)


def endless_body() -> Fault:
    """Sends as fast as it can and does not stop by itself."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        response = await _open_json(exchange)
        await response.write(b'{"items": [')
        for _ in range(_ENDLESS_BYTES // len(_CHUNK)):
            await response.write(_CHUNK)
        return response

    return Fault("body without end", answer)


def redirect(location: str, code: int = 302) -> Fault:
    """Sends the caller to another address."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        return web.Response(status=code, headers={"Location": location})

    return Fault(f"redirect {code}", answer)


def echo_request(code: int = 400) -> Fault:
    """Refuses the request and quotes all of it in the answer, headers included, as some debug pages do."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        request = exchange.request
        told = {
            "error": "request refused",
            "url": str(request.url),
            "headers": dict(request.headers),
            "body": (await request.read()).decode("utf-8", "replace"),
        }
        return web.json_response(told, status=code)

    return Fault(f"status {code} that quotes the request", answer)


def stuck() -> Fault:
    """Passes the first call on and gives its answer to every later one: whoever follows its link never arrives."""
    first: list[Answer] = []

    async def answer(exchange: Exchange) -> web.StreamResponse:
        if not first:
            first.append(await exchange.forward())
        return first[0].as_response()

    return Fault("the same answer again and again", answer)


def elsewhere(own: Collection[str], other: str, on_rewrite: Callable[[], None] = lambda: None) -> Fault:
    """Rewrites every absolute link in the answer from the ``own`` addresses to the ``other`` one.

    ``on_rewrite`` is called for each answer that had such a link.
    """
    swap = Rewriter(dict.fromkeys(own, other))

    async def answer(exchange: Exchange) -> web.StreamResponse:
        found = await exchange.forward()
        body, count = swap.body_and_count(found.body)
        if count:
            on_rewrite()
        return replace(found, body=body).as_response()

    return Fault("links that lead to another host", answer)


def _with_body(name: str, change: Callable[[bytes], bytes]) -> Fault:
    async def answer(exchange: Exchange) -> web.StreamResponse:
        found = await exchange.forward()
        return replace(found, body=change(found.body)).as_response()

    return Fault(name, answer)


async def _open_json(exchange: Exchange) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(exchange.request)
    return response


def _reset_connection(request: web.BaseRequest) -> None:
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
