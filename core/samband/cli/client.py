"""Talks to a running host over its public HTTP API, as any other program would."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from samband.cli.options import data_dir_or_default
from samband.client import Client, Wire
from samband.errors import AccessError, ConfigurationError, NotReadyError
from samband.hosting.addressfile import read_address
from samband.views import LIVE_STATES

__all__ = ["At", "HostClient", "ask_host", "find_host", "find_key", "take_environment"]

T = TypeVar("T")

_URL: Final = "SAMBAND_URL"
_KEY: Final = "SAMBAND_API_KEY"
_PART: Final = 500
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


class HostClient(Wire):
    """One host's API as the commands use it: decoded documents, which they show."""

    async def follow(self, run: Mapping[str, Any], told: Callable[[Mapping[str, Any]], None]) -> Any:
        """Asks for a run until it has ended or waits for a person, and tells every answer; gives the last one."""
        pause_s = 0.05
        while run["state"] in LIVE_STATES and run["state"] != "held":
            await asyncio.sleep(pause_s)
            pause_s = min(1.0, pause_s * 1.3)
            run = await self.get(f"/v1/organizations/{run['organization']}/runs/{run['id']}")
            told(run)
        return run

    async def part(self, path: str, *, limit: int | None, after: str | None = None, **query: object) -> dict[str, Any]:
        """Gives up to ``limit`` items of a listing, all when None, with the ``next`` from which it goes on."""
        found: list[Any] = []
        while True:
            size = _PART if limit is None else min(_PART, limit - len(found))
            page = await self.get(path, after=after, limit=size, **query)
            found += page["items"]
            # A listing's next is null at its end; a feed's is a number to come back with, and has_more tells.
            is_end = page.get("next") is None or page.get("has_more") is False or not page["items"]
            if is_end or (limit is not None and len(found) >= limit):
                return {**page, "items": found}
            after = page["next"]


@dataclass(frozen=True, slots=True)
class At:
    """The host that a command's options name, to be asked one question.

    Attributes:
        url: From ``--url``.
        data_dir: From ``--data-dir``.
    """

    url: str | None
    data_dir: Path | None

    def ask(self, question: Callable[[HostClient], Awaitable[T]]) -> T:
        """Gives what the question found."""
        return ask_host(self.url, data_dir_or_default(self.data_dir), question)

    def order(self, operation: Callable[[Client], Awaitable[BaseModel]]) -> dict[str, Any]:
        """Gives the document of what a method of the typed client answers."""

        async def question(host: HostClient) -> dict[str, Any]:
            return (await operation(Client.over(host))).model_dump(mode="json")

        return self.ask(question)

    def get(self, path: str, **query: object) -> Any:
        return self.ask(lambda host: host.get(path, **query))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self.ask(lambda host: host.post(path, body))

    def put(self, path: str, body: Mapping[str, Any], *, revision: int | None = None) -> Any:
        return self.ask(lambda host: host.put(path, body, if_match=_etag(revision)))

    def patch(self, path: str, body: Mapping[str, Any], *, revision: int | None = None) -> Any:
        return self.ask(lambda host: host.patch(path, body, if_match=_etag(revision)))

    def delete(self, path: str, *, revision: int | None = None) -> Any:
        return self.ask(lambda host: host.delete(path, if_match=_etag(revision)))


def _etag(revision: int | None) -> str | None:
    return None if revision is None else f'"{revision}"'
