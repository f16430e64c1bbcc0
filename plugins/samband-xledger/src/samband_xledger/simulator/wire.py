"""Answers on the wire, as they are and as faults spoil them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

from aiohttp import web

from .faults import FaultRule

WELL_FORMED = (
    b'<?xml version="1.0" encoding="utf-8"?><html><head><title>Service Unavailable</title></head>'
    b"<body><h2>Service Unavailable</h2><hr/><p>HTTP Error 503. The service is unavailable.</p></body></html>"
)
BROKEN = b"<!DOCTYPE html><html><head><title>Server Error<body><h1>Service Unavailable<br><p>Try again"
LOGIN = b"<!DOCTYPE html><html><head><title>Log in<body><form><input name=user><input name=password type=password>"
_PAGES = {
    "html_503": (503, WELL_FORMED),
    "html_503_broken": (503, BROKEN),
    "html_401_broken": (401, BROKEN),
    "html_200": (200, WELL_FORMED),
    "empty_200": (200, b""),
    "empty_503": (503, b""),
}


@dataclass(slots=True, kw_only=True)
class Reply:
    """An answer before it is sent."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def instead(rule: FaultRule) -> Reply | None:
    """Returns the page a fault puts in an answer's place; nothing for faults that need more than a page."""
    if rule.kind in _PAGES:
        status, body = _PAGES[rule.kind]
        return Reply(status=status, body=body, content_type="text/html")
    if rule.kind == "redirect_login":
        return Reply(status=302, body=b"", content_type="text/html", headers={"Location": "/login"})
    if rule.kind == "status":
        body = str(rule.parameters.get("body", "")).encode()
        headers = {}
        if "retry_after" in rule.parameters:
            headers["Retry-After"] = str(rule.parameters["retry_after"])
        status = int(rule.parameters.get("status", 503))
        kind = str(rule.parameters.get("content_type", "text/plain"))
        return Reply(status=status, body=body, content_type=kind, headers=headers)
    return None


async def send(request: web.Request, rule: FaultRule | None, reply: Reply) -> web.StreamResponse:
    """Sends an answer, the way a fault wants it when there is one."""
    if rule is not None and rule.kind == "drop":
        return _reset(request)
    if rule is not None and rule.kind == "slow":
        await asyncio.sleep(float(rule.parameters.get("seconds", 1.0)))
    headers = {"Content-Type": f"{reply.content_type}; charset=utf-8", **reply.headers}
    if rule is not None and rule.kind == "truncate":
        return await _half(request, reply, headers)
    return web.Response(status=reply.status, headers=headers, body=reply.body)


def _reset(request: web.Request) -> web.StreamResponse:
    transport = request.transport
    if transport is not None:
        raw = transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    # Never written: the connection is gone.
    return web.Response(status=500)


async def _half(request: web.Request, reply: Reply, headers: dict[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=headers)
    response.content_length = max(len(reply.body), 2)
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        await response.write(reply.body[: len(reply.body) // 2] or b"{")
    # The half must be on its way before the reset throws away what is still in the buffer.
    await asyncio.sleep(0.05)
    return _reset(request)
