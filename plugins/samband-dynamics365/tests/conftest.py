"""A session for the tests: the contract of `samband.HttpSession` over plain aiohttp, without any of the host's care."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from yarl import URL

from samband import RemoteError


@dataclass(frozen=True)
class PlainResponse:
    status: int
    headers: Mapping[str, str]
    url: str
    body: bytes

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError as err:
            raise RemoteError("The answer is not JSON.") from err

    def text(self) -> str:
        return self.body.decode()


class PlainSession:
    def __init__(self, client: aiohttp.ClientSession) -> None:
        self._client = client

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: bytes | Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
    ) -> PlainResponse:
        target = URL(url, encoded=params is None)
        async with self._client.request(
            method, target, params=params, headers=headers, json=json, data=data, allow_redirects=False
        ) as answer:
            return PlainResponse(answer.status, answer.headers, str(answer.url), await answer.read())


@pytest.fixture
async def plain_session() -> AsyncIterator[PlainSession]:
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as client:
        yield PlainSession(client)
