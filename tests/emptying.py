"""Takes out of a used PostgreSQL database whatever a test has left in it, so that the next test gets it as new.

Copying the template costs several times as much. Only a database that differs in nothing but a few rows is emptied: its
catalogs have to be as the template's are (a statement that changes a schema leaves its transaction's number there), no
relation may have grown to where the planner judges it otherwise than a new one, and nobody may have gathered figures on it.
"""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg

_CATALOGS = (
    "pg_class", "pg_attribute", "pg_attrdef", "pg_constraint", "pg_index", "pg_inherits", "pg_policy", "pg_proc", "pg_trigger",
    "pg_event_trigger", "pg_type", "pg_enum", "pg_rewrite", "pg_sequence", "pg_depend", "pg_namespace", "pg_default_acl",
    "pg_extension", "pg_statistic_ext", "pg_publication", "pg_description", "pg_largeobject_metadata",
)  # fmt: skip
_CHANGES = " UNION ALL ".join(
    f"SELECT '{name}', count(*)::text, max(xmin::text::bigint)::text FROM {name}" for name in _CATALOGS
)
_FIGURES = (
    "SELECT 'figures', sum(relpages)::text, sum(reltuples)::text FROM pg_class"
    " WHERE relnamespace = 'public'::regnamespace"
)
_DATABASE = (
    "SELECT 'database', concat_ws(' ', pg_get_userbyid(datdba), datallowconn, datconnlimit, datacl),"
    " (SELECT count(*) FROM pg_db_role_setting WHERE setdatabase = d.oid)::text"
    " FROM pg_database d WHERE datname = current_database()"
)
_REVISION = "SELECT 'revision', string_agg(version_num, ' '), '' FROM alembic_version"
_MARK = f"{_CHANGES} UNION ALL {_FIGURES} UNION ALL {_DATABASE} UNION ALL {_REVISION}"

_FEW_PAGES = 10  # the planner takes a table that nobody looked at to have as many: PostgreSQL's tableam.c
_USED = (
    "SELECT relkind::text AS kind, quote_ident(relname) AS name, relname = 'alembic_version' AS stays,"
    " pg_relation_size(oid) / current_setting('block_size')::int AS pages"
    " FROM pg_class WHERE relkind IN ('r', 'i', 'S')"
    " AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0"
)
_RESTART = "SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence"

Mark = tuple[tuple[str, ...], ...]


async def mark_of(address: str) -> Mark:
    """Gives what tells a database that was changed in anything but its rows."""
    connection = await asyncpg.connect(address)
    try:
        return await _mark(connection)
    finally:
        await connection.close()


async def has_been_emptied(address: str, as_new: Mark) -> bool:
    """Empties a database that nobody uses; says no when it has to go, because it is not what a new one would be.

    Args:
        address: The database, as a user whom neither triggers nor row-level security bind.
        as_new: The mark of a database with the schema and nothing in it.
    """
    connection = await asyncpg.connect(address)
    try:
        used = await connection.fetch(_USED)
        if as_new != await _mark(connection) or any(relation["pages"] > _FEW_PAGES for relation in used):
            return False
        await _delete(connection, (r["name"] for r in used if r["kind"] == "r" and not r["stays"]))
        return True
    finally:
        await connection.close()


async def _mark(connection: asyncpg.Connection) -> Mark:
    return tuple(tuple(row) for row in await connection.fetch(_MARK))


async def _delete(connection: asyncpg.Connection, tables: Iterable[str]) -> None:
    """Deletes every row and lets the numbers begin again; not by TRUNCATE, which makes every file anew."""
    words = "; ".join(f"DELETE FROM {table}" for table in tables)
    # The trail of what was done refuses to be deleted, and foreign keys want an order of their own.
    await connection.execute(f"SET session_replication_role = replica; {words}; {_RESTART}")
