"""Reading a request body: its type, its size, its pace, and only then its JSON."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from samband.errors import ServiceError

__all__ = ["BodyLimits", "read_bytes", "read_json", "read_raw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """How much of a body is read, and for how long.

    Attributes:
        max_bytes: A longer body is refused, before it is read where its length is announced.
        timeout_s: From the first wait to the last byte.
    """

    max_bytes: int
    timeout_s: float


async def read_json(request: web.Request, limits: BodyLimits) -> Any:
    """Gives the decoded body, or None when there is none. Raises `ServiceError` with the code of what is wrong."""
    if not request.body_exists:
        return None
    _check_encoding(request)
    raw = await _read_bytes(request, limits)
    if not raw:
        return None
    _check_type(request)
    try:
        # orjson refuses NaN, infinities, lone surrogates and nesting deeper than 1024.
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ServiceError(
            f"The body is not JSON: the reading stopped at line {error.lineno}, column {error.colno}.",
            code="not_json",
            hint="Send one JSON object in UTF-8.",
        ) from None  # the cause holds the whole body


async def read_raw(request: web.Request, limits: BodyLimits) -> bytes:
    """Gives the body byte for byte, empty when there is none. Raises `ServiceError` with the code of what is wrong."""
    if not request.body_exists:
        return b""
    _check_encoding(request)
    if (request.content_length or 0) > limits.max_bytes:
        raise _too_large(limits)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(limits.timeout_s):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > limits.max_bytes:
                    raise _too_large(limits)
                chunks.append(chunk)
    except TimeoutError:
        raise _too_slow(limits) from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise _broken() from None
    return b"".join(chunks)


def _too_large(limits: BodyLimits) -> ServiceError:
    return ServiceError(
        f"The body is larger than {limits.max_bytes} bytes.", code="body_too_large", hint="Send less at a time."
    )


def _too_slow(limits: BodyLimits) -> ServiceError:
    return ServiceError(
        f"The body did not arrive within {limits.timeout_s:g} seconds.", code="body_too_slow", hint="Send it again."
    )


def _broken() -> ServiceError:
    return ServiceError("The body did not arrive whole.", code="body_broken", hint="Send it again.")


async def read_bytes(request: web.Request, limits: BodyLimits) -> bytes:
    """Gives the body byte for byte, empty when there is none, for an endpoint that also answers repeats.

    Raises:
        ServiceError: With the code of what is wrong.
    """
    if not request.body_exists:
        return b""
    _check_encoding(request)
    return await _read_bytes(request, limits)


async def _read_bytes(request: web.Request, limits: BodyLimits) -> bytes:
    too_large = _too_large(limits)
    if (request.content_length or 0) > limits.max_bytes:
        raise too_large
    try:
        async with asyncio.timeout(limits.timeout_s):
            return await request.read()
    except TimeoutError:
        raise _too_slow(limits) from None
    except web.HTTPRequestEntityTooLarge:
        raise too_large from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise _broken() from None


def _check_encoding(request: web.Request) -> None:
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ServiceError(
            "The body is compressed.", code="content_encoding_unsupported", hint="Send it without Content-Encoding."
        )


def _check_type(request: web.Request) -> None:
    charset = (request.charset or "utf-8").lower()
    if request.content_type != "application/json" or charset not in ("utf-8", "utf8", "us-ascii"):
        raise ServiceError(
            "The body is not declared as JSON in UTF-8.",
            code="content_type_unsupported",
            hint="Send 'Content-Type: application/json'.",
        )
