"""Each request and each run works under its own organisation, as the database is told for every transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import pytest
import sqlalchemy as sa
from aiohttp.test_utils import TestClient, TestServer

from samband.acting import EVERYWHERE, acting
from samband.api import create_app
from samband.service import Service
from samband.store import Store, Vault
from samband.store.models import AuditEntry

from ..conftest import PostgresServer
from .playing import CHANGES, Bench, SilentBell, Source, people

pytestmark = pytest.mark.postgres


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """PostgreSQL alone: SQLite has nothing to tell."""
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url, name = server.create_database()
    try:
        yield url
    finally:
        server.drop_database(name)


@contextlib.contextmanager
def confinements(store: Store) -> Iterator[list[str]]:
    """Gives the organisation that each transaction of the block said it works for."""
    found: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if "set_config('samband.organization'" in statement:
            found.append(parameters[0])

    engine = store.database.engine.sync_engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


async def test_run_is_confined_to_its_organisation_once_it_is_claimed(store: Store) -> None:
    source = Source("crm", [CHANGES])
    bench = Bench(store, source)
    try:
        await bench.connect("hlf", "crm")
        await bench.connect("nbf", "crm")
        source.deliver("people", people(range(3)))
        run = await bench.service.trigger_sync("hlf", "crm")
        with confinements(store) as seen:
            await bench.flow.execute(run.id)
        assert "succeeded" == (await bench.service.runs.get("hlf", run.id)).state
    finally:
        await bench.close()
    assert [EVERYWHERE] == seen[:1], "the claim looks at the runs of all"
    assert {"hlf"} == set(seen[1:])
    assert EVERYWHERE == acting().organization


async def test_request_is_confined_to_the_organisation_in_its_address(store: Store) -> None:
    service = Service(store=store, registry=cast(Any, None), bell=SilentBell())
    for id in ("hlf", "nbf"):
        await service.organizations.create(id, id)
    keys = {
        "all": await service.create_key("all", verbs=["read", "admin"], organizations=None),
        "one": await service.create_key("one", verbs=["read", "admin"], organizations=["nbf"]),
    }
    expected = [("all", "/v1/organizations/hlf/runs", "hlf"), ("one", "/v1/organizations/nbf/runs", "nbf"),
                ("one", "/v1/organizations", "nbf"), ("all", "/v1/organizations", EVERYWHERE)]  # fmt: skip
    async with TestClient(TestServer(create_app(service))) as client:
        for key in keys:  # so that nothing is written about their first use below
            await client.get("/v1/organizations", headers={"Authorization": f"Bearer {keys[key]}"})
        await store.api_keys.close()
        for key, path, organization in expected:
            with confinements(store) as seen:
                answer = await client.get(path, headers={"Authorization": f"Bearer {keys[key]}"})
            assert 200 == answer.status, await answer.text()
            assert ([EVERYWHERE], {organization}) == (seen[:1], set(seen[1:])), "the key is looked up first"


async def test_what_a_run_does_is_told_under_its_own_name(store: Store) -> None:
    source = Source("crm", [CHANGES])
    bench = Bench(store, source)
    try:
        await bench.connect("hlf", "crm")
        source.deliver("people", people(range(100)))
        await bench.run()
        source.deliver("people", people(range(1)))
        run = await bench.run(full=True)
    finally:
        await bench.close()
    assert "held" == run.state
    table: sa.Table = AuditEntry.__table__
    async with store.database.read() as conn:
        held = await conn.scalars(sa.select(table.c.actor).where(table.c.action == "run.held"))
        assert [f"run:{run.id}"] == list(held)


async def test_readiness_tells_of_a_user_beyond_the_wall_and_stays_ready(
    store: Store, vault: Vault, request: pytest.FixtureRequest, database_url: str
) -> None:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    if server.role is None:
        pytest.skip("the server was given with a plain user")
    name = database_url.partition("?")[0].rpartition("/")[2]
    beyond = Store.open(server.address_of(name, as_admin=True), vault=vault)
    try:
        told = {}
        for who, opened in (("plain", store), ("superuser", beyond)):
            service = Service(store=opened, registry=cast(Any, None), bell=SilentBell())
            async with TestClient(TestServer(create_app(service))) as client:
                answer = await (await client.get("/readyz")).json()
                told[who] = answer["parts"].get("isolation", "")
                assert "isolation" not in answer.get("detail", ""), "it is told, and keeps nobody from being ready"
    finally:
        await beyond.close()
    assert "" == told["plain"]
    assert told["superuser"].startswith("degraded: the database user is a superuser")
