"""The second wall: a statement that forgets its WHERE touches one organisation only, because PostgreSQL says so."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from samband.acting import act_for
from samband.store import Store, Vault
from samband.store.models import Table
from samband.store.page_sql import POSTGRES, Statement

from ..conftest import PostgresServer

pytestmark = pytest.mark.postgres

OF_THE_HOST = {"api_key", "sign_of_life"}
"""Tables of the host itself. A new table that carries no organisation has to be put here, deliberately."""

OWNED = [t for t in Table.metadata.sorted_tables if t.name not in OF_THE_HOST]
NAMES = [t.name for t in OWNED]
APPEND_ONLY = "audit_entry"


@pytest.fixture
def server(request: pytest.FixtureRequest) -> PostgresServer:
    found: PostgresServer = request.getfixturevalue("postgres_server")
    return found


@pytest.fixture
def postgres_address(server: PostgresServer) -> Iterator[tuple[str, str]]:
    """An empty database: its address as the plain role, and its name."""
    url, name = server.create_database()
    try:
        yield url, name
    finally:
        server.drop_database(name)


@pytest.fixture
async def walled(postgres_address: tuple[str, str], vault: Vault) -> AsyncIterator[Store]:
    """A store with one row of each of two organisations in every table that carries one."""
    store = Store.open(postgres_address[0], vault=vault)
    await store.migrate()
    numbers = itertools.count(1)
    async with store.database.write() as conn:
        for organization in ("a", "b"):
            made: dict[str, dict[str, Any]] = {}
            for table in OWNED:
                made[table.name] = row = _row(table, organization, made, next(numbers))
                await conn.execute(sa.insert(table).values(**row))
    try:
        yield store
    finally:
        await store.close()


def _row(table: sa.Table, organization: str, made: dict[str, dict[str, Any]], number: int) -> dict[str, Any]:
    return {column.name: _value(column, organization, made, number) for column in table.columns}


def _value(column: sa.Column[Any], organization: str, made: dict[str, dict[str, Any]], number: int) -> Any:
    if column.name == "organization_id" or (column.table.name, column.name) == ("organization", "id"):
        return organization
    for key in column.foreign_keys:
        return made[key.column.table.name][key.column.name]
    kind = column.type
    if isinstance(kind, sa.Boolean):
        return False
    if isinstance(kind, sa.Integer):
        return number
    if isinstance(kind, sa.String):
        return f"{organization}{number}"
    if isinstance(kind, sa.LargeBinary):
        return b"x"
    if isinstance(kind, sa.JSON):
        return {}
    return dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def owner_column(table: sa.Table) -> str:
    return "id" if table.name == "organization" else "organization_id"


def table_named(name: str) -> sa.Table:
    return Table.metadata.tables[name]


async def owners(store: Store, name: str) -> list[str]:
    async with store.database.read() as conn:
        return sorted(await conn.scalars(sa.text(f"SELECT {owner_column(table_named(name))} FROM {name}")))


async def outcome(store: Store, statement: sa.Executable) -> int | str:
    """Gives how many rows a statement touches, or which wall it runs into; takes it back in either case."""
    try:
        async with store.database.write() as conn:
            result = (await conn.execute(statement)).rowcount
            await conn.rollback()
            return result
    except sa.exc.DBAPIError as err:
        return "wall" if "row-level security" in str(err.orig) else str(err.orig)


def test_every_table_carries_its_organisation_or_is_said_to_be_the_hosts() -> None:
    without = {
        t.name for t in Table.metadata.sorted_tables if "organization_id" not in t.c and t.name != "organization"
    }
    assert OF_THE_HOST == without


async def test_every_table_with_an_organisation_has_its_policy_and_binds_its_owner(walled: Store) -> None:
    asked = sa.text(
        "SELECT c.relname FROM pg_class c JOIN pg_policy p ON p.polrelid = c.oid"
        " WHERE c.relrowsecurity AND c.relforcerowsecurity AND p.polcmd = '*' AND p.polwithcheck IS NOT NULL"
    )
    async with walled.database.read() as conn:
        behind = set(await conn.scalars(asked))
    assert set(NAMES) == behind, "give the new table a policy in a migration, as 0003_walls does"


async def test_confined_session_reads_one_organisation_only(walled: Store) -> None:
    seen = {}
    for name in NAMES:
        with act_for(organization="a"):
            seen[name] = await owners(walled, name)
    assert {name: ["a"] for name in NAMES} == seen
    assert {name: ["a", "b"] for name in NAMES} == {name: await owners(walled, name) for name in NAMES}


async def test_update_without_where_changes_one_organisation_only(walled: Store) -> None:
    changed = {}
    for name in set(NAMES) - {APPEND_ONLY}:
        column = owner_column(table_named(name))
        with act_for(organization="a"):
            changed[name] = await outcome(walled, sa.text(f"UPDATE {name} SET {column} = {column}"))
    assert dict.fromkeys(changed, 1) == changed


async def test_delete_without_where_removes_one_organisation_only(walled: Store) -> None:
    with act_for(organization="a"):
        async with walled.database.write() as conn:
            for name in reversed(NAMES):
                if name != APPEND_ONLY:
                    await conn.execute(sa.text(f"DELETE FROM {name}"))
    left = {name: await owners(walled, name) for name in NAMES if name != APPEND_ONLY}
    assert {name: ["b"] for name in left} == left


async def test_confined_session_puts_nothing_in_for_another_organisation(walled: Store) -> None:
    stored = {table.name: await _stored(walled, table, "b") for table in OWNED}
    put = {}
    for table in OWNED:
        row = _row(table, "c" if table.name == "organization" else "b", stored, 900)
        with act_for(organization="a"):
            put[table.name] = await outcome(walled, sa.insert(table).values(**row))
    assert dict.fromkeys(NAMES, "wall") == put


async def _stored(store: Store, table: sa.Table, organization: str) -> dict[str, Any]:
    column = table.c[owner_column(table)]
    async with store.database.read() as conn:
        return dict((await conn.execute(sa.select(table).where(column == organization))).one()._mapping)


async def test_confined_session_cannot_give_its_rows_away(walled: Store) -> None:
    given = {}
    for table in OWNED:
        if table.name != APPEND_ONLY:
            with act_for(organization="a"):
                away = sa.text(f"UPDATE {table.name} SET {owner_column(table)} = 'c'")
                given[table.name] = await outcome(walled, away)
    assert dict.fromkeys(given, "wall") == given


async def test_session_that_says_nothing_sees_nothing(walled: Store, postgres_address: tuple[str, str]) -> None:
    import asyncpg

    connection = await asyncpg.connect(postgres_address[0])
    try:
        seen = {name: await connection.fetchval(f"SELECT count(*) FROM {name}") for name in NAMES}
    finally:
        await connection.close()
    assert dict.fromkeys(NAMES, 0) == seen


async def test_confinement_ends_with_its_transaction(walled: Store) -> None:
    # One connection after the other from the pool: what an earlier transaction was confined to must not stay on it.
    for organization, expected in (("a", ["a"]), ("*", ["a", "b"]), ("b", ["b"]), ("", [])):
        with act_for(organization=organization):
            assert expected == await owners(walled, "organization")


async def test_plain_user_is_behind_the_wall_and_a_superuser_is_told_to_be_beyond_it(
    walled: Store, server: PostgresServer, postgres_address: tuple[str, str], vault: Vault
) -> None:
    assert await walled.database.is_behind_walls()
    if server.role is None:
        pytest.skip("the server was given with a plain user")
    beyond = Store.open(server.address_of(postgres_address[1], as_admin=True), vault=vault)
    try:
        assert not await beyond.database.is_behind_walls()
    finally:
        await beyond.close()


# ── what the wall costs ──────────────────────────────────────────────────────

HELD, ASKED = 20_000, 10  # so many that no figures, or lack of them, make a walk through all the cheaper plan


@pytest.mark.parametrize("is_analysed", [False, True], ids=["never-analysed", "analysed"])
async def test_statements_of_a_page_find_their_rows_by_key_behind_the_wall(walled: Store, is_analysed: bool) -> None:
    """A plan that walks the stream would be right and hundreds of times slower, with the planner's figures or without."""
    stream = (await _stored(walled, table_named("stream"), "a"))["id"]
    keys = [f"k{n}" for n in range(HELD)]
    scope = {
        "org": "a", "kind": "member", "stream": stream, "generation": 2, "now": dt.datetime.now(dt.UTC),
        "page": 1, "first_id": 1, "first_seq": 1,
    }  # fmt: skip
    looked_at: dict[str, int] = {}
    with act_for(organization="a"):
        async with walled.database.write() as conn:
            created = {"rows": _json([[key, "t", "h"] for key in keys]), "bodies": _json([{}] * HELD)}
            for statement in (POSTGRES.created_records, POSTGRES.created_bindings):
                await conn.execute(statement.clause, _given(statement, scope | created))
            if is_analysed:
                await conn.execute(sa.text("ANALYZE record, binding"))
        for name in ("known", "resolve", "live", "seen", "updated_records", "updated_bindings", "deleted_records",
                     "deleted_bindings", "retagged"):  # fmt: skip
            statement = getattr(POSTGRES, name)
            async with walled.database.write() as conn:
                explained = sa.text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.clause.text}")
                explained = explained.bindparams(*statement.clause._bindparams.values())
                plan = await conn.scalar(explained, _given(statement, scope | _page_of(name, keys[:ASKED])))
                await conn.rollback()
            looked_at[name] = sum(_rows_met(plan[0]["Plan"]))
    assert {} == {name: rows for name, rows in looked_at.items() if rows > 2 * ASKED}


def _page_of(name: str, keys: list[str]) -> dict[str, str]:
    rows: list[Any] = [[n + 1, 2, key, "t2", "h2"] for n, key in enumerate(keys)]
    if name == "live":
        rows = [n + 1 for n in range(len(keys))]
    if name == "retagged":
        rows = [[n + 1, key, "t2"] for n, key in enumerate(keys)]
    bodies = [[n + 1, 2, {}] for n in range(len(keys))]
    return {"keys": _json(keys), "rows": _json(rows), "bodies": _json(bodies)}


def _given(statement: Statement, scope: dict[str, Any]) -> dict[str, Any]:
    return {name: scope[name] for name in statement.names}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _rows_met(node: dict[str, Any]) -> Iterator[int]:
    """Gives how many rows of a table each scan of a plan has met, those it threw away included."""
    if "Scan" in node["Node Type"] and "Relation Name" in node:
        dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        yield round((node["Actual Rows"] + dropped) * node["Actual Loops"])
    for child in node.get("Plans", ()):
        yield from _rows_met(child)
