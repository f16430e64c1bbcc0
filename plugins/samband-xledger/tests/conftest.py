"""What the tests are given: the host's own session on loopback, and the simulator as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from samband import Context, Limits, Token
from samband.http import Outbound
from samband.http.egress import EgressPolicy
from samband.oauth import TokenSource
from samband.redaction import Redactor
from samband.testing import FakeClock, FakeLog, fake_context
from samband_xledger import plugin
from samband_xledger.settings import XledgerCredentials, XledgerSettings

SETTINGS: Mapping[str, Any] = {"bookings": True, "dimension_fields": {"department": "glObject1", "project": "project"}}


@dataclass(frozen=True)
class Simulator:
    """A running simulator: what an integration is set up with, and its control door."""

    settings: Mapping[str, Any]
    credentials: Mapping[str, Any]
    control_url: str

    def control(self, path: str, body: Mapping[str, Any] | None = None, method: str | None = None) -> Any:
        """Asks the control door; a body makes it a POST."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.control_url}/{path}", data, {"Content-Type": "application/json"}, method=method)
        with build_opener(ProxyHandler({})).open(request, timeout=20) as response:
            return json.load(response)


@pytest.fixture(scope="session")
def _running() -> Iterator[Simulator]:
    process = subprocess.Popen([sys.executable, "-m", "samband_xledger.simulator"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield Simulator(told["settings"], told["credentials"], told["control_url"])
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def simulator(_running: Simulator) -> Simulator:
    """Gives the simulator as it is at its start."""
    _running.control("reset", {})
    return _running


class Link:
    """One integration: contexts over the host's own session, as hooks are given them."""

    def __init__(self, settings: Mapping[str, Any], credentials: Mapping[str, Any], clock: FakeClock | None) -> None:
        self.settings = XledgerSettings.model_validate(dict(settings))
        self.credentials = XledgerCredentials.model_validate(dict(credentials))
        self.clock = clock or FakeClock(datetime.now(UTC))
        self.log = FakeLog()
        self._outbound = Outbound(
            policy=EgressPolicy(plugin.manifest.egress_hosts(self.settings)),
            redactor=Redactor(),
            now=self.clock.now,
            clock=self.clock.monotonic,
            sleep=self.clock.sleep,
            rng=lambda: 0.5,
        )
        self._tokens = TokenSource(self._authenticate, now=self.clock.now, log=self.log)
        self.ctx = self._context(self._tokens)

    async def _authenticate(self) -> Token:
        return await plugin.authenticate(replace(self._context(None), credentials=self.credentials))

    def _context(self, tokens: TokenSource | None) -> Context:
        http = self._outbound.session(
            integration_id="test",
            account=self.settings.account,
            hosts=plugin.manifest.egress_hosts(self.settings),
            limits=Limits(requests_per_s=10_000.0, concurrency=8, timeout_s=20.0),
            tokens=tokens,
            log=self.log,
        )
        return fake_context(settings=self.settings, http=http, now=self.clock.now, log=self.log)

    async def close(self) -> None:
        await self._outbound.close()


@pytest.fixture
async def make_link() -> AsyncIterator[Callable[..., Link]]:
    """Gives a function that makes links; they are closed afterwards."""
    made: list[Link] = []

    def make(
        settings: Mapping[str, Any], credentials: Mapping[str, Any] | None = None, clock: FakeClock | None = None
    ) -> Link:
        made.append(Link(settings, credentials or {"api_token": "c2FtYmFuZC10ZXN0LXRva2VuLTAwMDE"}, clock))
        return made[-1]

    yield make
    for link in made:
        await link.close()


@pytest.fixture
def link(make_link: Callable[..., Link], simulator: Simulator) -> Link:
    """Gives an integration with the simulator."""
    return make_link({**simulator.settings, **SETTINGS}, simulator.credentials)
