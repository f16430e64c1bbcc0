"""Who changes a subscription and who settles a delivery of it at the same moment wait in line, not for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Literal

import pytest
import sqlalchemy as sa

from samband.errors import NotFoundError
from samband.events import Dispatcher
from samband.http.posting import Posted
from samband.service import Service
from samband.store import Store
from samband.store.deliveries import Delivery

from .conftest import Clock, Receiver, all_done, deliveries, failing, happen, subscribed

PATIENCE_S = 30.0
_WAITING = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


async def are_waiting(store: Store, number: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with store.database.read() as conn:
                if await conn.scalar(_WAITING) == number:
                    return
            await asyncio.sleep(0.02)


async def one_after_the_other(store: Store, id: str, first: Awaitable[object], second: Awaitable[object]) -> None:
    """Has two begin while the subscription's row is held, so that the first gets it when the second is on its way."""
    if store.database.is_sqlite:  # there writers are one after the other by themselves
        await asyncio.gather(first, second)
        return
    async with store.database.write() as conn:
        await conn.execute(sa.text("SELECT id FROM subscription WHERE id = :id FOR UPDATE"), {"id": id})
        tasks = [asyncio.ensure_future(first)]
        await are_waiting(store, 1)
        tasks.append(asyncio.ensure_future(second))
        await are_waiting(store, 2)
    await asyncio.gather(*tasks)


async def in_flight(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock
) -> Delivery:
    """Gives a delivery on its way, of a subscription whose last attempt failed."""
    receiver.answer = failing(500)
    made = await subscribed(service, receiver)
    await happen(store, "run/1", "run/1")
    await all_done(dispatcher)
    clock.move(seconds=5)
    (delivery,) = await store.deliveries.claim({made.id: 1}, clock(), lease_s=60)
    return delivery


async def settle(store: Store, dispatcher: Dispatcher, delivery: Delivery, outcome: str) -> None:
    now = dispatcher.now()
    if outcome == "success":
        await store.deliveries.note_success(delivery, now, status=200, duration_ms=1)
        return
    failure = dispatcher._failure(delivery, Posted(status=500, duration_ms=1, error="status_refused"), now)
    await store.deliveries.note_failure(delivery, now, failure, status=500, duration_ms=1)


@pytest.mark.parametrize("outcome", ["success", "failure"])
async def test_subscription_is_switched_on_while_a_delivery_is_settled(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock,
    outcome: Literal["success", "failure"],
) -> None:  # fmt: skip
    delivery = await in_flight(store, service, receiver, dispatcher, clock)
    id = delivery.subscription_id
    await service.subscriptions.disable("hlf", id)
    await one_after_the_other(
        store, id, service.subscriptions.enable("hlf", id), settle(store, dispatcher, delivery, outcome)
    )
    assert "enabled" == (await service.subscriptions.get("hlf", id)).state
    first, _ = await deliveries(service, id)
    assert {"success": ("delivered", 200), "failure": ("pending", 500)}[outcome] == (first.state, first.status)


@pytest.mark.parametrize("outcome", ["success", "failure"])
async def test_subscription_is_deleted_while_a_delivery_is_settled(
    store: Store, service: Service, receiver: Receiver, dispatcher: Dispatcher, clock: Clock,
    outcome: Literal["success", "failure"],
) -> None:  # fmt: skip
    delivery = await in_flight(store, service, receiver, dispatcher, clock)
    id = delivery.subscription_id
    await one_after_the_other(
        store, id, service.subscriptions.delete("hlf", id), settle(store, dispatcher, delivery, outcome)
    )
    with pytest.raises(NotFoundError):
        await service.subscriptions.get("hlf", id)
