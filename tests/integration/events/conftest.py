"""Receivers on loopback that behave as they are told, and a dispatcher whose clock is moved by hand."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from samband.adapters.registry import Registry
from samband.events import Dispatcher, DispatchLimits
from samband.http import Outbound
from samband.http.egress import EgressPolicy
from samband.http.posting import Poster
from samband.redaction import Redactor
from samband.service import Service
from samband.store import Store
from samband.store.outbox import emit
from samband.views.events import NewSecretView

LOOPBACK = EgressPolicy(allow_private=("127.0.0.1",))
RUN = "no.samband.run.succeeded.v1"


class Clock:
    """The time, moved by hand."""

    def __init__(self) -> None:
        self.at = dt.datetime.now(dt.UTC).replace(microsecond=0)  # what either database keeps unchanged

    def __call__(self) -> dt.datetime:
        return self.at

    def move(self, **by: float) -> None:
        self.at += dt.timedelta(**by)


@dataclasses.dataclass(frozen=True)
class Received:
    """One delivery as it came in."""

    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        return orjson.loads(self.body)  # type: ignore[no-any-return]

    @property
    def seq(self) -> int:
        return int(self.event["sequence"])


Answer = Callable[[Received], Awaitable[web.StreamResponse] | int]


class Receiver:
    """Somebody's endpoint: keeps what comes in, answers as ``answer`` says, 204 unless told otherwise."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer: Answer = lambda received: 204
        self.url = ""

    @property
    def seqs(self) -> list[int]:
        return [received.seq for received in self.received]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(headers, await request.read())
        self.received.append(received)
        answered = self.answer(received)
        return web.Response(status=answered) if isinstance(answered, int) else await answered


def failing(status: int, **headers: str) -> Answer:
    """Answers every delivery alike."""

    async def answer(received: Received) -> web.StreamResponse:
        return web.Response(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


NewReceiver = Callable[[], Awaitable[Receiver]]


@pytest.fixture
async def new_receiver() -> AsyncIterator[NewReceiver]:
    """Starts receivers and ends them."""
    servers: list[TestServer] = []

    async def start() -> Receiver:
        receiver = Receiver()
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", receiver.handle)
        # Without this an answer that is held back by a test would be waited for at the end.
        server = TestServer(app, handler_cancellation=True)
        await server.start_server(shutdown_timeout=0.1)
        servers.append(server)
        receiver.url = f"http://127.0.0.1:{server.port}/hook"
        return receiver

    yield start
    for server in servers:
        await server.close()


@pytest.fixture
async def receiver(new_receiver: NewReceiver) -> Receiver:
    return await new_receiver()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    opened = Outbound(policy=LOOPBACK, redactor=Redactor())
    yield opened
    await opened.close()


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    opened = Registry()
    yield opened
    await opened.close()


class SilentBell:
    """A doorbell that nobody hears."""

    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool:
        return True

    async def ping(self) -> float | None:
        return 0.0

    async def depth(self) -> int | None:
        return 0


@pytest.fixture
async def service(store: Store, registry: Registry) -> Service:
    """The service, with two organisations."""
    for org in ("hlf", "nbf"):
        await store.catalog.add_organization(org, org.upper())
    return Service(store=store, registry=registry, bell=SilentBell(), egress=LOOPBACK)


@pytest.fixture
def dispatcher(store: Store, outbound: Outbound, clock: Clock) -> Dispatcher:
    return new_dispatcher(store, outbound, clock)


def new_dispatcher(store: Store, outbound: Outbound, clock: Callable[[], dt.datetime], **limits: Any) -> Dispatcher:
    timeout_s = limits.pop("timeout_s", 15.0)
    return Dispatcher(
        store=store, poster=Poster(outbound, timeout_s=timeout_s), now=clock, limits=DispatchLimits(**limits),
        rng=lambda: 0.5,
    )  # fmt: skip


async def happen(store: Store, *subjects: str, org: str = "hlf", type: str = RUN) -> list[int]:
    """Writes an event about each subject; gives their numbers."""
    seqs = []
    for subject in subjects:
        async with store.database.write() as conn:
            data = {"run": subject, "state": "succeeded", "operation": "sync"}
            seqs.append(await emit(conn, org, type, subject, data))
    return seqs


async def all_done(dispatcher: Dispatcher) -> None:
    """Does rounds until nothing is due."""
    for _ in range(200):
        if not await dispatcher.deliver_due():
            return
    raise AssertionError("it never came to rest")


async def subscribed(service: Service, receiver: Receiver, org: str = "hlf", **values: Any) -> NewSecretView:
    return await service.subscriptions.create(org, url=receiver.url, **values)


async def deliveries(service: Service, id: str, org: str = "hlf", **values: Any) -> list[Any]:
    """Gives a subscription's deliveries, oldest first."""
    return list(reversed((await service.subscriptions.deliveries(org, id, **values)).items))


async def until(condition: Callable[[], bool], patience_s: float = 30.0) -> None:
    """Waits until something has come true."""
    async with asyncio.timeout(patience_s):
        for _ in itertools.count():
            if condition():
                return
            await asyncio.sleep(0.01)
