"""Requests that come with an Idempotency-Key: done once, and answered the same for 24 hours.

The key is reserved before the handler runs. A request that was refused changed nothing, so its key is free again. One
that ended in a way that does not tell whether it was done (its process died, the database went away) is not done a
second time: its repeat is told so, and a person or a program looks before it asks under a new key.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiohttp import web

from samband.errors import (
    AccessError,
    AdapterError,
    ConflictError,
    FieldProblem,
    InvalidError,
    NotFoundError,
    NotReadyError,
)

if TYPE_CHECKING:
    from samband.service.repeats import Repeats

__all__ = ["IDEMPOTENCY_KEY", "REPLAYED", "answer_once"]

REPLAYED: Final = "Idempotency-Replayed"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
_REFUSALS: Final = (InvalidError, AccessError, NotFoundError, ConflictError, AdapterError)
"""What is raised before anything is changed."""
_KEPT_HEADERS: Final = ("Content-Type", "ETag", "Location")


async def answer_once(
    request: web.Request, repeats: Repeats, *, caller: str, route: str, organization: str,
    handle: Callable[[], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:  # fmt: skip
    """Gives the handler's answer, or the one the same request got before. For a request that has the header.

    Raises:
        InvalidError: The key is malformed, or belongs to another request.
        ConflictError: The same request is being worked on at this moment.
    """
    keys = request.headers.getall(IDEMPOTENCY_KEY, [])
    order = repeats.order(
        caller=caller, route=route, key=_checked(keys), organization=organization, said=await _said(request)
    )
    kept = await repeats.begin(order)
    if kept is not None:
        return web.Response(status=kept.status, body=kept.body, headers={**kept.headers, REPLAYED: "true"})
    try:
        answer = await handle()
    except _REFUSALS:
        await repeats.forget(order)
        raise
    except BaseException:
        with suppress(NotReadyError):  # then the reservation runs out by itself, with the same effect
            await asyncio.shield(repeats.doubt(order))
        raise
    assert isinstance(answer, web.Response)
    body = answer.body if isinstance(answer.body, bytes) else b""
    headers = {name: answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
    await repeats.keep(order, status=answer.status, headers=headers, body=body)
    return answer


async def _said(request: web.Request) -> str:
    """Gives a fingerprint of the method, the address and the body; the body has been read by now."""
    told = f"{request.method} {request.raw_path}\n".encode() + await request.read()
    return hashlib.sha256(told).hexdigest()


def _checked(keys: list[str]) -> str:
    key = keys[0]
    if len(keys) == 1 and 1 <= len(key) <= 255 and key.isascii() and key.isprintable():
        return key
    problem = FieldProblem(
        field=IDEMPOTENCY_KEY, code="bad_key", message="Send one key of 1 to 255 printable ASCII characters."
    )
    raise InvalidError("The Idempotency-Key is malformed.", problems=[problem])
