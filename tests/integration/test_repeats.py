"""Idempotency-Key on every POST: done once, answered the same, and never somebody else's answer."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import sqlalchemy as sa
from aiohttp.test_utils import TestClient, TestServer

from samband.api import create_app
from samband.service import Service
from samband.store import Store

Client = TestClient[Any, Any]


@pytest.fixture
async def service(store: Store) -> Service:
    return Service(store=store, registry=cast(Any, None), bell=cast(Any, None))


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    key = await service.ensure_admin_key()
    server = TestServer(create_app(service))
    async with TestClient(server, headers={"Authorization": f"Bearer {key}"}) as running:
        yield running


async def add(client: Client, id: str, key: str, **headers: str) -> tuple[int, bytes, str | None]:
    answer = await client.post(
        "/v1/organizations", json={"id": id, "name": id}, headers={"Idempotency-Key": key, **headers}
    )
    return answer.status, await answer.read(), answer.headers.get("Idempotency-Replayed")


async def test_repeat_gets_the_same_bytes_and_nothing_is_done_twice(client: Client) -> None:
    first, second = await add(client, "hlf", "k1"), await add(client, "hlf", "k1")
    assert (201, None) == (first[0], first[2])
    assert (201, "true") == (second[0], second[2])
    assert first[1] == second[1]
    listed = await (await client.get("/v1/organizations")).json()
    assert ["hlf"] == [o["id"] for o in listed["items"]]


async def test_location_comes_again_with_the_answer(client: Client) -> None:
    body = {"id": "hlf", "name": "HLF"}
    answers = [await client.post("/v1/organizations", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert answers[0].headers["Location"] == answers[1].headers["Location"]


async def test_other_request_under_the_same_key_is_refused(client: Client) -> None:
    await add(client, "hlf", "k1")
    status, body, _ = await add(client, "nbf", "k1")
    assert 422 == status
    assert b"idempotency_key_reused" in body


async def test_refused_request_may_be_mended_under_its_key(client: Client) -> None:
    await add(client, "hlf", "other")
    assert 409 == (await add(client, "hlf", "k1"))[0]
    assert 201 == (await add(client, "nbf", "k1"))[0]


async def test_many_at_once_have_one_effect_and_no_wrong_answer(client: Client) -> None:
    answers = await asyncio.gather(*(add(client, "hlf", "k1") for _ in range(20)))
    done = [a for a in answers if a[0] == 201]
    waiting = [a for a in answers if a[0] == 409]
    assert 20 == len(done) + len(waiting)
    assert 1 == len({a[1] for a in done})
    assert 1 == sum(a[2] is None for a in done)
    assert all(b"idempotency_in_progress" in a[1] for a in waiting)


async def test_two_callers_with_one_key_never_see_each_others_answers(client: Client, service: Service) -> None:
    other = await service.create_key("other", verbs=["admin"], organizations=None)
    first = await add(client, "hlf", "k1")
    second = await add(client, "hlf", "k1", Authorization=f"Bearer {other}")
    assert (201, 409) == (first[0], second[0])
    assert b"organization_exists" in second[1]


async def test_malformed_key_names_the_header(client: Client) -> None:
    status, body, _ = await add(client, "hlf", "k" * 256)
    assert 422 == status
    assert b'"field":"Idempotency-Key"' in body


async def test_request_whose_end_is_not_known_is_not_done_a_second_time(client: Client, store: Store) -> None:
    await add(client, "hlf", "k1")
    past = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
    async with store.database.write() as conn:
        value = past.strftime("%Y-%m-%dT%H:%M:%S.000Z") if store.database.is_sqlite else past
        await conn.execute(
            sa.text("UPDATE kept_answer SET state = 'started', answer = NULL, locked_until = :at"), {"at": value}
        )
    status, body, _ = await add(client, "hlf", "k1")
    assert 409 == status
    assert b"idempotency_outcome_unknown" in body


async def test_failure_that_tells_nothing_keeps_the_key_and_a_refusal_frees_it(store: Store) -> None:
    from samband.errors import ConflictError
    from samband.service.parts import Parts
    from samband.service.repeats import Repeats

    repeats = Repeats(Parts(store=store, registry=cast(Any, None), bell=cast(Any, None)))
    order = repeats.order(caller="c", route="r", key="k", organization="*", said="f")
    assert await repeats.begin(order) is None
    await repeats.forget(order)
    assert await repeats.begin(order) is None
    await repeats.doubt(order)
    with pytest.raises(ConflictError) as caught:
        await repeats.begin(order)
    assert "idempotency_outcome_unknown" == caught.value.code


async def test_answers_are_swept_after_a_day_and_sealed_until_then(client: Client, store: Store) -> None:
    await add(client, "hlf", "k1")
    async with store.database.read() as conn:
        sealed = bytes(await conn.scalar(sa.text("SELECT answer FROM kept_answer")))
    assert b"hlf" not in sealed
    assert 0 == await store.answers.sweep()
    past = dt.datetime.now(dt.UTC) - dt.timedelta(hours=25)
    async with store.database.write() as conn:
        value = past.strftime("%Y-%m-%dT%H:%M:%S.000Z") if store.database.is_sqlite else past
        await conn.execute(sa.text("UPDATE kept_answer SET created_at = :at"), {"at": value})
    assert 1 == await store.answers.sweep()
