"""A running simulator and a plain HTTP client for it; neither knows the adapter."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from samband_dynamics365.simulator import SeedPlan, Simulator, SimulatorAddress

DATA = Path(__file__).parent / "data"


@dataclass
class Reply:
    """An answer with its body read."""

    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The platform code of an error answer."""
        return str(self.json()["error"]["code"])


@dataclass
class Client:
    """Sends requests with a token; URLs go out exactly as written."""

    http: aiohttp.ClientSession
    address: SimulatorAddress
    simulator: Simulator
    token: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    async def send(self, method: str, url: str, *, prefer: str | None = None, **options: Any) -> Reply:
        """Sends one request; a URL without a scheme lies below the service root."""
        if not url.startswith("http"):
            url = f"{self.address.base_url}/api/data/v9.2/{url}"
        headers = {"Authorization": f"Bearer {self.token}", "If-None-Match": "null", **self.headers}
        if prefer is not None:
            headers["Prefer"] = prefer
        headers.update(options.pop("headers", {}))
        async with self.http.request(method, URL(url, encoded=True), headers=headers, **options) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def get(self, url: str, **options: Any) -> Reply:
        return await self.send("GET", url, **options)

    async def read(self, url: str, **options: Any) -> Any:
        """Returns the JSON of a successful GET."""
        reply = await self.get(url, **options)
        assert reply.status == 200, reply.body
        return reply.json()

    async def pages(self, url: str, **options: Any) -> list[dict[str, Any]]:
        """Follows next links and returns every page."""
        found = []
        following: str | None = url
        while following:
            found.append(await self.read(following, **options))
            following = found[-1].get("@odata.nextLink")
        return found

    async def control(self, name: str, order: dict[str, Any] | None = None) -> Any:
        """Uses the control door."""
        url = f"{self.address.control_url}/{name}"
        async with self.http.post(url, json=order or {}) as answer:
            found = await answer.json()
            assert answer.status == 200, found
            return found

    async def log_in(self, **form: str) -> str:
        """Fetches a token by secret and keeps it."""
        data = {
            "grant_type": "client_credentials",
            "scope": f"{self.address.base_url}/.default",
            **self.address.credentials,
            **form,
        }
        async with self.http.post(self.address.token_url, data=data) as answer:
            found = await answer.json()
            assert answer.status == 200, found
            self.token = found["access_token"]
            return self.token

    @property
    def state(self) -> Any:
        return self.simulator.state


@pytest.fixture
async def api() -> AsyncIterator[Client]:
    """A client logged in to a small environment that never failed in a way it did not foresee."""
    simulator = Simulator(SeedPlan(members=60, memberships=80, staff=5, seed=7))
    address = await simulator.start()
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as http:
        client = Client(http, address, simulator)
        await client.log_in()
        yield client
    await simulator.stop()
    assert simulator.state.internal_errors == []


@pytest.fixture
def captured() -> Callable[[str], Any]:
    """Reads one captured answer."""
    return lambda name: json.loads((DATA / f"{name}.json").read_bytes())
