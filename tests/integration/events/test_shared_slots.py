"""What hangs takes no slot from others: of another organisation, or of the same one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from samband.events import Dispatcher
from samband.http import Outbound
from samband.service import Service
from samband.store import Store

from .conftest import Clock, NewReceiver, Received, Receiver, all_done, happen, new_dispatcher, subscribed, until

LONG_S = 300.0
FEW = {"timeout_s": LONG_S, "at_once": 16, "per_organization": 8}


@contextlib.asynccontextmanager
async def working(dispatcher: Dispatcher) -> AsyncIterator[None]:
    task = asyncio.create_task(dispatcher.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def hang(received: Received) -> web.Response:
    await asyncio.sleep(LONG_S)
    return web.Response()


async def many(service: Service, new_receiver: NewReceiver, number: int, org: str = "hlf") -> list[Receiver]:
    made = [await new_receiver() for _ in range(number)]
    for receiver in made:
        await subscribed(service, receiver, org)
    return made


async def arrives(store: Store, receiver: Receiver, org: str) -> None:
    """Has events happen, batch after batch, each when all of the one before it have arrived."""
    before = len(receiver.received)
    for batch in range(3):
        await happen(store, *(f"run/{before}-{batch}-{n}" for n in range(6)), org=org)
        await until(lambda batch=batch: len(receiver.received) == before + 6 * (batch + 1))  # type: ignore[misc]


@pytest.mark.parametrize("are_proven", [False, True])
async def test_hanging_receivers_of_one_organisation_do_not_slow_another(
    store: Store, service: Service, new_receiver: NewReceiver, outbound: Outbound, clock: Clock, are_proven: bool
) -> None:
    dead = await many(service, new_receiver, 10, "hlf")
    (healthy,) = await many(service, new_receiver, 1, "nbf")
    dispatcher = new_dispatcher(store, outbound, clock, **FEW)
    if are_proven:
        await happen(store, "run/before")
        await all_done(dispatcher)
    for receiver in dead:
        receiver.received.clear()
        receiver.answer = hang
    async with working(dispatcher):
        await happen(store, *(f"run/{n}" for n in range(10)), org="hlf")
        held = 8 if are_proven else 4
        await until(lambda: sum(len(receiver.received) for receiver in dead) == held)
        await arrives(store, healthy, "nbf")
        assert held == sum(len(receiver.received) for receiver in dead)  # all of them still without an answer


async def test_untried_receivers_that_hang_do_not_slow_one_of_their_organisation_that_works(
    store: Store, service: Service, new_receiver: NewReceiver, outbound: Outbound, clock: Clock
) -> None:
    (healthy,) = await many(service, new_receiver, 1)
    dispatcher = new_dispatcher(store, outbound, clock, **FEW)
    await happen(store, "run/before")
    await all_done(dispatcher)
    dead = await many(service, new_receiver, 10)
    for receiver in dead:
        receiver.answer = hang
    async with working(dispatcher):
        await arrives(store, healthy, "hlf")
        await until(lambda: sum(len(receiver.received) for receiver in dead) == 4)
        await arrives(store, healthy, "hlf")


async def test_receivers_that_failed_do_not_slow_a_new_one_of_their_organisation_even_after_a_restart(
    store: Store, service: Service, new_receiver: NewReceiver, outbound: Outbound, clock: Clock
) -> None:
    dead = await many(service, new_receiver, 10)
    for receiver in dead:
        receiver.answer = lambda received: 500
    await happen(store, "run/before")
    await all_done(new_dispatcher(store, outbound, clock))
    for receiver in dead:
        receiver.received.clear()
        receiver.answer = hang
    clock.move(minutes=1)
    async with working(new_dispatcher(store, outbound, clock, **FEW)):
        await until(lambda: sum(len(receiver.received) for receiver in dead) == 2)
        (new,) = await many(service, new_receiver, 1)
        await arrives(store, new, "hlf")
        assert 2 == sum(len(receiver.received) for receiver in dead)


async def test_some_that_worked_and_hang_all_of_a_sudden_do_not_slow_another_of_their_organisation(
    store: Store, service: Service, new_receiver: NewReceiver, outbound: Outbound, clock: Clock
) -> None:
    *dead, healthy = await many(service, new_receiver, 4)
    dispatcher = new_dispatcher(store, outbound, clock, timeout_s=LONG_S, at_once=12, per_organization=8)
    await happen(store, "run/before")
    await all_done(dispatcher)
    for receiver in dead:
        receiver.received.clear()
        receiver.answer = hang
    async with working(dispatcher):
        await happen(store, *(f"run/{n}" for n in range(10)))
        await until(lambda: sum(len(receiver.received) for receiver in dead) >= 6)
        await until(lambda: len(healthy.received) == 11)
        await arrives(store, healthy, "hlf")


async def test_dispatcher_ends_when_it_is_told_to_just_as_a_delivery_ends(
    store: Store, outbound: Outbound, clock: Clock
) -> None:
    for turns in range(4):  # of the loop, between the end of a delivery and the end of the host
        dispatcher = new_dispatcher(store, outbound, clock)
        task = asyncio.create_task(dispatcher.run())
        await asyncio.sleep(0.1)
        dispatcher._freed.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        assert (set(), True) == ((await asyncio.wait([task], timeout=10))[1], task.cancelled())
