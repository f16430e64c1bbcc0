"""Talks to a running host over its public HTTP API, as any other program would."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

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
from samband.hosting.addressfile import read_address

__all__ = ["HostClient", "ask_host", "find_host", "find_key", "take_environment"]

T = TypeVar("T")

_TIMEOUT_S: Final = 60.0
_LIVE_STATES: Final = ("queued", "running", "waiting", "held")


_URL: Final = "SAMBAND_URL"
_KEY: Final = "SAMBAND_API_KEY"
_taken: dict[str, str] = {}


def take_environment() -> None:
    """Takes the address and the key of a host out of the environment and keeps them for the commands that ask one.

    They are no settings of a host, and no plugin or simulator that this process starts has any use for the key.
    """
    for name in (_URL, _KEY):
        _taken[name] = os.environ.pop(name, "").strip()


def find_host(url: str | None, data_dir: Path) -> str:
    """Gives the host's address: the one that was named, else the one that runs on the data directory.

    Raises:
        NotReadyError: None was named and none runs there.
    """
    named = url or _taken.get(_URL)
    if named:
        if not named.startswith(("http://", "https://")):
            raise ConfigurationError("The host's address must begin with http:// or https://.", field=_URL)
        return named.rstrip("/")
    found = read_address(data_dir)
    if found is None:
        raise NotReadyError(
            f"No host is running on {data_dir}.",
            code="host_not_found",
            hint="Start one with 'samband up', or name one with --url or SAMBAND_URL.",
        )
    return found


def find_key() -> str:
    """Gives the API key from the environment; it is never an argument, because everybody can read those.

    Raises:
        AccessError: There is none.
    """
    key = _taken.get(_KEY)
    if not key:
        raise AccessError(
            "No API key was given.",
            code="key_missing",
            hint="Set SAMBAND_API_KEY to the key that the host printed at its first start.",
        )
    return key


def ask_host(url: str | None, data_dir: Path, question: Callable[[HostClient], Awaitable[T]]) -> T:
    """Opens a client to the host that is meant, and gives what the question found."""

    async def ask() -> T:
        async with HostClient(find_host(url, data_dir), find_key()) as client:
            return await question(client)

    return asyncio.run(ask())


class HostClient:
    """One host's API. Answers are the decoded views; refusals are raised as the errors they were on the host."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S, sock_connect=10)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, **query: object) -> Any:
        """Gives what is at an address below the host's; query values that are None are left out."""
        return await self._request("GET", path, query=query)

    async def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Orders something."""
        return await self._request("POST", path, body=body)

    async def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """Replaces something."""
        return await self._request("PUT", path, body=body)

    async def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Changes something."""
        return await self._request("PATCH", path, body=body)

    async def items(self, path: str, *, limit: int, **query: object) -> list[Any]:
        """Gives up to ``limit`` items of a listing, over as many parts as that takes."""
        found: list[Any] = []
        after: object = None
        while len(found) < limit:
            page = await self.get(path, after=after, limit=min(500, limit - len(found)), **query)
            found += page["items"]
            after = page.get("next")
            if after is None:
                break
        return found

    async def follow(self, run: Mapping[str, Any], told: Callable[[Mapping[str, Any]], None]) -> Any:
        """Asks for a run until it has ended, and tells every answer; gives the last one."""
        pause_s = 0.05
        while run["state"] in _LIVE_STATES:
            await asyncio.sleep(pause_s)
            pause_s = min(1.0, pause_s * 1.3)
            run = await self.get(f"/v1/organizations/{run['organization']}/runs/{run['id']}")
            told(run)
        return run

    async def _request(
        self, method: str, path: str, *, query: Mapping[str, object] | None = None, body: Any = None
    ) -> Any:
        if self._session is None:
            raise RuntimeError("Use the client as an async context manager.")
        params = {name: _query_text(value) for name, value in (query or {}).items() if value is not None}
        headers = {} if body is None else {"Content-Type": "application/json"}
        data = None if body is None else orjson.dumps(body)
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
        return _answer(response.status, raw, self.url)


def _query_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _answer(status: int, raw: bytes, url: str) -> Any:
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
    raise _refusal(status, document)


def _refusal(status: int, problem: Mapping[str, Any]) -> SambandError:
    code, message, hint = str(problem["code"]), str(problem.get("detail", "")), str(problem.get("hint") or "")
    if code == "already_running" and problem.get("run"):
        return AlreadyRunningError(message, run_id=str(problem["run"]))
    if status in (401, 403):
        return AccessError(message, code=code, hint=hint)
    if status == 404:
        return NotFoundError(message, code=code, hint=hint)
    if status in (409, 412):
        return ConflictError(message, code=code, hint=hint)
    if status in (429, 503):
        return NotReadyError(message, code=code, hint=hint)
    if status < 500:
        problems = [FieldProblem(**fields) for fields in problem.get("errors") or ()]
        return InvalidError(message, problems=problems, code=code, hint=hint)
    return SambandError(message, code=code, hint=hint or f"The host's log says more under {problem.get('instance')}.")
