"""Requests to a host: encoded, repeated where that is safe, and refusals turned back into the errors they were."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import orjson

from samband.errors import (
    AccessError,
    AlreadyRunningError,
    ConfigurationError,
    ConflictError,
    FieldProblem,
    InvalidError,
    NotFoundError,
    NotReadyError,
    SambandError,
)

__all__ = ["Reply", "Wire"]

_MAX_WAIT_S: Final = 30.0
_FIRST_WAIT_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the host answered: the decoded document and the headers."""

    document: Any
    headers: Mapping[str, str]

    @property
    def etag(self) -> str | None:
        return self.headers.get("ETag")

    @property
    def is_replay(self) -> bool:
        """Says whether this is the answer that the same order got before."""
        return self.headers.get("Idempotency-Replayed") == "true"


class Wire:
    """One host's HTTP API.

    Every POST carries an Idempotency-Key, so a request whose answer was lost is sent again without being done twice.

    Args:
        url: The host's address, without a path unless it is behind one.
        key: An API key, ``smb_…``.
        timeout_s: Time limit of one request.
        patience_s: How long a host that is away, or asks to wait, is asked again. 0 gives up at once.
    """

    def __init__(self, url: str, key: str, *, timeout_s: float = 60.0, patience_s: float = 0.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError("The host's address must begin with http:// or https://.", field="url")
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigurationError("The API key is not one of samband's.", field="key")
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(10.0, timeout_s))
        self._patience_s = patience_s
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    # ── verbs ────────────────────────────────────────────────────────────────

    async def get(self, path: str, **query: object) -> Any:
        """Gives what is at an address below the host's; query values that are None are left out."""
        return (await self.request("GET", path, query=query)).document

    async def fetch(self, path: str, **query: object) -> tuple[bytes, Mapping[str, str]]:
        """Gives the bytes that are at an address, and the headers that tell of them."""
        reply = await self.request("GET", path, query=query, is_plain=True)
        return reply.document, reply.headers

    async def post(self, path: str, body: Mapping[str, Any] | None = None, *, key: str | None = None) -> Any:
        """Orders something; ``key`` is the Idempotency-Key, a fresh one when None."""
        return (await self.request("POST", path, body=body, key=key)).document

    async def put(self, path: str, body: Mapping[str, Any], *, if_match: str | None = None) -> Any:
        """Replaces something, only if it is still the revision ``if_match`` names."""
        return (await self.request("PUT", path, body=body, if_match=if_match)).document

    async def patch(self, path: str, body: Mapping[str, Any], *, if_match: str | None = None) -> Any:
        """Changes something, only if it is still the revision ``if_match`` names."""
        return (await self.request("PATCH", path, body=body, if_match=if_match)).document

    async def delete(self, path: str, *, if_match: str | None = None) -> Any:
        """Takes something away."""
        return (await self.request("DELETE", path, if_match=if_match)).document

    async def items(self, path: str, *, limit: int, **query: object) -> list[Any]:
        """Gives up to ``limit`` items of a listing, over as many parts as that takes."""
        found: list[Any] = []
        async for item in self.each(path, part=min(500, limit), **query):
            found.append(item)
            if len(found) == limit:
                break
        return found

    async def each(self, path: str, *, part: int | None = 500, **query: object) -> AsyncIterator[Any]:
        """Yields a listing's items to its end, part by part.

        Args:
            part: How many to ask for at a time. None leaves that to the host, and is how a listing is read that always
                comes whole and knows no limit.
        """
        after = query.pop("after", None)
        while True:
            page = await self.get(path, after=after, limit=part, **query)
            for item in page["items"]:
                yield item
            # A feed's next is a number that stays the same at its end; a listing's is null there.
            if page.get("next") is None or not page["items"] or page.get("has_more") is False:
                return
            after = page["next"]

    # ── one request ──────────────────────────────────────────────────────────

    async def request(
        self, method: str, path: str, *, query: Mapping[str, object] | None = None, body: Any = None,
        key: str | None = None, if_match: str | None = None, raw: bytes | None = None,
        headers: Mapping[str, str] | None = None, with_key: bool = True, is_plain: bool = False,
    ) -> Reply:  # fmt: skip
        """Sends one request, again while ``patience_s`` lasts and the host is away or asks to wait.

        Args:
            raw: A body that is not JSON of ours, sent byte for byte.
            is_plain: The answer is a file: its document is the bytes as they came.
            with_key: Whether the API key goes along; it has no business in what is kept and handed on.

        Raises:
            ServiceError: What the host refused it with.
            NotReadyError: Nothing answers there, or what does is not a samband host.
        """
        headers = {**(self._headers if with_key else {}), **(headers or {})}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if method == "POST" and raw is None:
            headers["Idempotency-Key"] = key or secrets.token_urlsafe(18)
        if if_match is not None:
            headers["If-Match"] = if_match
        deadline = asyncio.get_running_loop().time() + self._patience_s
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                data = raw if body is None else orjson.dumps(body)
                return await self._once(method, path, query or {}, data, headers, is_plain)
            except (NotReadyError, ConflictError) as error:
                if not _passes(error) or asyncio.get_running_loop().time() + wait_s > deadline:
                    raise
                asked_s = float(getattr(error, "retry_after_s", 0.0))
            await asyncio.sleep(max(wait_s * random.uniform(0.8, 1.2), min(asked_s, _MAX_WAIT_S)))  # noqa: S311 -- no secret
            wait_s = min(wait_s * 2, _MAX_WAIT_S)

    async def _once(
        self, method: str, path: str, query: Mapping[str, object], data: bytes | None, headers: Mapping[str, str],
        is_plain: bool = False,
    ) -> Reply:  # fmt: skip
        if self._session is None:
            raise RuntimeError("Use the client as an async context manager.")
        params = {name: _query_text(value) for name, value in query.items() if value is not None}
        try:
            async with self._session.request(
                method, self.url + path, params=params, data=data, headers=headers, allow_redirects=False
            ) as response:
                raw = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NotReadyError(
                f"The host at {self.url} does not answer ({type(error).__name__}).",
                code="host_unreachable",
                hint="See whether it runs ('samband up') and whether the address is right (--url or SAMBAND_URL).",
            ) from error
        if is_plain and response.status == 200:
            return Reply(document=raw, headers=response.headers)
        return Reply(document=_answer(response.status, response.headers, raw, self.url), headers=response.headers)


def _passes(error: SambandError) -> bool:
    """Tells whether the same request may be granted in a moment."""
    if isinstance(error, NotReadyError):
        return error.code != "not_a_host"
    return error.code == "idempotency_in_progress"


def _query_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _answer(status: int, headers: Mapping[str, str], raw: bytes, url: str) -> Any:
    try:
        document = orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError:
        document = None
    if status < 300 and document is not None:
        return document
    if not isinstance(document, dict) or "code" not in document:
        raise NotReadyError(
            f"What answers at {url} is not a samband host (HTTP {status}).",
            code="not_a_host",
            hint="See whether the address is right (--url or SAMBAND_URL).",
        )
    raise _refusal(status, headers, document)


def _refusal(status: int, headers: Mapping[str, str], problem: Mapping[str, Any]) -> SambandError:
    code, message, hint = str(problem["code"]), str(problem.get("detail", "")), str(problem.get("hint") or "")
    if code == "already_running" and problem.get("run"):
        return AlreadyRunningError(message, run_id=str(problem["run"]))
    if status in (401, 403):
        return AccessError(message, code=code, hint=hint)
    if status in (404, 410):
        return NotFoundError(message, code=code, hint=hint)
    problems = [FieldProblem(**fields) for fields in problem.get("errors") or ()]
    if status in (409, 412):
        return ConflictError(message, problems=problems, code=code, hint=hint)
    if status in (429, 503):
        wait = headers.get("Retry-After", "")
        return NotReadyError(message, code=code, hint=hint, retry_after_s=int(wait) if wait.isdigit() else 5)
    if status < 500:
        return InvalidError(message, problems=problems, code=code, hint=hint)
    return SambandError(message, code=code, hint=hint or f"The host's log says more under {problem.get('instance')}.")
