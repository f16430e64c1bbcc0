"""What a test leaves in a PostgreSQL database never reaches the next test, which may be given the same one emptied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from samband.store import Store, Vault, audit
from tests.conftest import KEY, MigratedDatabases, PostgresServer
from tests.emptying import has_been_emptied, mark_of

pytestmark = pytest.mark.postgres

LEFT = {
    "a table": 'CREATE TABLE "left" (id int)',
    "a column": "ALTER TABLE organization ADD COLUMN left_here text",
    "a column that is gone": "ALTER TABLE organization DROP COLUMN told_seq",
    "a wall that is down": "ALTER TABLE integration NO FORCE ROW LEVEL SECURITY",
    "a trigger that is off": "ALTER TABLE audit_entry DISABLE TRIGGER ALL",
    "a right": "GRANT SELECT ON organization TO public",
    "a setting": 'ALTER DATABASE "{name}" SET work_mem = 1024',
    "a closed door": 'ALTER DATABASE "{name}" CONNECTION LIMIT 3',
    "another revision": "UPDATE alembic_version SET version_num = '0000'",
    "figures for the planner": "ANALYZE organization",
    "a table that has grown": (
        "INSERT INTO organization (id, name, record_seq, change_seq, event_seq, told_seq, created_at)"
        " SELECT n, repeat('x', 200), 0, 0, 0, 0, now() FROM generate_series(1, 1000) n"
    ),
}


@dataclass(frozen=True)
class Taken:
    """A database as tests are given it."""

    url: str
    name: str
    admin: str


@pytest.fixture
async def taken(postgres_server: PostgresServer, migrated_databases: MigratedDatabases) -> AsyncIterator[Taken]:
    if postgres_server.role is None:
        pytest.skip("the given user is bound by triggers and walls, so used databases are dropped")
    url, name = await asyncio.to_thread(migrated_databases.take)
    yield Taken(url, name, postgres_server.address_of(name, as_admin=True))
    migrated_databases.give_back(name)


async def ask(url: str, statement: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def content(url: str) -> dict[str, list[Any]]:
    """Gives every row of every table, and where every sequence stands."""
    names = await ask(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    found = {name: await ask(url, f'SELECT to_jsonb(t)::text FROM "{name}" t ORDER BY 1') for (name,) in names}
    return found | {"numbers": await ask(url, "SELECT sequencename, last_value FROM pg_sequences ORDER BY 1")}


async def use(url: str) -> None:
    """Leaves rows that refuse to be deleted and rows that others point at."""
    store = Store.open(url, vault=Vault.from_secret(KEY))
    try:
        await store.catalog.add_organization("hlf", "HLF")
        pending = store.catalog.pending({"secret": "s"}, {})
        integration = await store.catalog.add_integration("hlf", "learning", "Learning", {}, pending)
        await store.runs.order(
            integration=integration, plugin_version="1", operation="sync", streams=["things"], full=False,
            reason="test", requested_by="test",
        )  # fmt: skip
        async with store.database.write() as conn:
            await audit.record(conn, "hlf", "test.used", "test/1", {})
    finally:
        await store.close()


async def test_used_database_is_as_new_when_it_was_emptied(taken: Taken) -> None:
    mark, new = await mark_of(taken.admin), await content(taken.admin)
    await use(taken.url)
    await ask(taken.admin, "SELECT nextval('outbox_id_seq')")
    used = {name for name, rows in (await content(taken.admin)).items() if rows != new[name]}
    assert {"audit_entry", "integration", "numbers", "organization", "run"} <= used
    assert await has_been_emptied(taken.admin, mark)
    assert new == await content(taken.admin)


@pytest.mark.parametrize("left", LEFT)
async def test_database_in_which_more_was_left_than_rows_is_not_used_again(taken: Taken, left: str) -> None:
    mark = await mark_of(taken.admin)
    await ask(taken.admin, LEFT[left].format(name=taken.name))
    assert not await has_been_emptied(taken.admin, mark)


async def test_whoever_still_has_the_old_address_is_cut_off(
    taken: Taken, migrated_databases: MigratedDatabases
) -> None:
    url, name = await asyncio.to_thread(migrated_databases.take)
    left_behind = await asyncpg.connect(url)
    assert await asyncio.wrap_future(migrated_databases.give_back(name))
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await left_behind.fetch("SELECT 1")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(url)
