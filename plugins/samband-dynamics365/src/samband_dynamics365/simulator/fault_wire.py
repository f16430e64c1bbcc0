"""Faults that misuse the connection: resets, cut bodies, slow bytes and bodies without an end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from aiohttp import web

from .faults import FaultRule

_FILLER = b" " * 65_536


async def send(
    request: web.Request, rule: FaultRule, status: int, headers: dict[str, str], body: bytes
) -> web.StreamResponse | None:
    """Sends an answer the way a fault wants it, or returns nothing when it may be sent as usual."""
    kind = rule.kind
    if kind in {"reset", "commit_reset"}:
        return reset(request)
    if kind == "truncate":
        return web.Response(status=status, headers=headers, body=body[: max(len(body) // 2, 1)])
    if kind == "slow_first_byte":
        await asyncio.sleep(float(rule.parameters.get("seconds", 1.0)))
        return None
    if kind == "reset_mid_body":
        return await _half_then_reset(request, status, headers, body)
    if kind == "slow_body":
        return await _slowly(request, rule, status, headers, body)
    if kind == "endless_body":
        return await _endless(request, rule, headers)
    return None


def reset(request: web.Request) -> web.StreamResponse:
    """Drops the connection with a TCP reset; the returned response is never written."""
    transport = request.transport
    if transport is not None:
        raw = transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=500)


async def _half_then_reset(
    request: web.Request, status: int, headers: dict[str, str], body: bytes
) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = max(len(body), 2)
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        await response.write(body[: len(body) // 2] or b"{")
    # The half must be on its way before the reset throws away what is still in the buffer.
    await asyncio.sleep(0.05)
    reset(request)
    return response


async def _slowly(
    request: web.Request, rule: FaultRule, status: int, headers: dict[str, str], body: bytes
) -> web.StreamResponse:
    seconds = float(rule.parameters.get("seconds", 1.0))
    pieces = max(int(rule.parameters.get("pieces", 10)), 1)
    size = max(len(body) // pieces, 1)
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = len(body)
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(body), size):
            await response.write(body[start : start + size])
            await asyncio.sleep(seconds / pieces)
        await response.write_eof()
    return response


async def _endless(request: web.Request, rule: FaultRule, headers: dict[str, str]) -> web.StreamResponse:
    limit = int(rule.parameters.get("bytes", 1024 * 1024 * 1024))
    response = web.StreamResponse(status=200, headers={**headers, "Content-Type": "application/json"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        await response.write(b'{"value":[')
        for _ in range(limit // len(_FILLER)):
            await response.write(_FILLER)
        await response.write(b"]}")
        await response.write_eof()
    return response
