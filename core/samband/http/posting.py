"""Sending one signed document to somebody's address, and saying what came back.

The signature is that of Standard Webhooks: HMAC-SHA256 over ``id.timestamp.body`` with each secret that is valid, so
that a receiver can change over from one to the next without a gap (https://www.standardwebhooks.com, read 2026-11).
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from samband.errors import RemoteError
from samband.http.egress import EgressPolicy
from samband.http.failures import setback_of_exception
from samband.http.pauses import MAX_PAUSE_S, asked_pause_s

if TYPE_CHECKING:
    from samband.http.session import Outbound

__all__ = ["POST_TIMEOUT_S", "Posted", "Poster", "checked_address", "new_secret", "signed_headers"]

POST_TIMEOUT_S: Final = 15.0
"""The longest wait for an answer; what it takes longer to do with an event, a receiver does after its answer."""

_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32
_READ_AT_MOST: Final = 4 * 1024
_READ_WITHIN_S: Final = 1.0


def new_secret() -> str:
    """Makes a signing secret: ``whsec_`` and 32 random bytes in base64."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signed_headers(*, id: str, at: dt.datetime, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """Gives the headers of one attempt. The id is the document's and stays; time and signatures are the attempt's."""
    timestamp = str(int(at.timestamp()))
    content = b".".join((id.encode(), timestamp.encode(), body))
    signatures = (f"v1,{_signature(secret, content)}" for secret in secrets)
    return {"webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": " ".join(signatures)}


def _signature(secret: str, content: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    return base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


def checked_address(policy: EgressPolicy, url: str) -> URL:
    """Gives a receiver's address when events may be sent to it.

    Raises:
        RemoteError: Code ``egress_refused``: not https, another port than 443, a private address, or unreadable.
    """
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""
    return policy.check_url(url, [host])


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """What came back.

    Attributes:
        status: None when no answer came.
        error: Empty after a 2xx; otherwise a code.
        message: The same in a sentence. Nothing of what they wrote is in it.
        pause_s: Seconds they asked us to wait, cut to an hour.
    """

    status: int | None
    duration_ms: int
    error: str = ""
    message: str = ""
    pause_s: float | None = None

    @property
    def is_success(self) -> bool:
        return not self.error


class Poster:
    """Posts documents. An address is resolved once, every address it has is checked, and one of those is connected to.

    Args:
        outbound: Whose connections are used.
        timeout_s: From connecting to the answer's status.
    """

    def __init__(self, outbound: Outbound, *, timeout_s: float = POST_TIMEOUT_S) -> None:
        self._outbound = outbound
        self._timeout_s = timeout_s

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Posted:
        """Sends once and never raises: whatever goes wrong on the way is the answer. Redirects are not followed."""
        started = time.perf_counter()
        try:
            status, pause_s = await self._exchanged(checked_address(self._outbound.policy, url), body, headers)
        except RemoteError as error:
            return Posted(status=None, duration_ms=_ms(started), error=error.code, message=str(error))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return self._unanswered(url, error, _ms(started))
        problem, message = _judged(status)
        return Posted(status=status, duration_ms=_ms(started), error=problem, message=message, pause_s=pause_s)

    async def _exchanged(self, url: URL, body: bytes, headers: Mapping[str, str]) -> tuple[int, float | None]:
        async with asyncio.timeout(self._timeout_s):
            response = await self._outbound.client(idempotent=False).post(
                url,
                data=body,
                # Nothing of an answer is used, so none needs to be unpacked.
                headers={**headers, "Accept-Encoding": "identity"},
                allow_redirects=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s),
                trace_request_ctx=SimpleNamespace(connected=False, reused=False),
            )
        async with response:
            asked = asked_pause_s(
                response.headers.get("Retry-After"), response.headers.get("Date"), self._outbound.now()
            )
            await _drain(response)
            return response.status, None if asked is None else min(asked, MAX_PAUSE_S)

    def _unanswered(self, url: str, error: Exception, duration_ms: int) -> Posted:
        setback = setback_of_exception(
            error, host=urlsplit(url).hostname or "", method="POST", idempotent=True, was_sent=False, was_reused=False,
            timeout_s=self._timeout_s,
        )  # fmt: skip
        code = "timed_out" if isinstance(error, TimeoutError) else setback.error.code
        return Posted(status=None, duration_ms=duration_ms, error=code, message=setback.error.message)


def _judged(status: int) -> tuple[str, str]:
    if 200 <= status < 300:
        return "", ""
    if 300 <= status < 400:
        return "redirect_refused", f"It answered {status}, a redirect, which is not followed."
    if status == 410:
        return "gone", "It answered 410: it wants no more events."
    return "status_refused", f"It answered {status}; only 2xx is success."


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Reads a short answer to its end, so that the connection can be used again; of a long or slow one it hangs up."""
    size = 0
    try:
        async with asyncio.timeout(_READ_WITHIN_S):
            while size <= _READ_AT_MOST:
                chunk = await response.content.readany()
                if not chunk:
                    return
                size += len(chunk)
    except (aiohttp.ClientError, TimeoutError, OSError):
        pass  # what they have to say beyond the status changes nothing
    response.close()


def _ms(started: float) -> int:
    return int((time.perf_counter() - started) * 1000)
