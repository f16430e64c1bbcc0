"""The migrations make exactly the schema that the models describe, on both databases, and keep what was there."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from samband.store import Store, Vault, schema
from samband.store.models import Table


async def test_migrated_schema_is_the_one_of_the_models(empty_database_url: str, vault: Vault) -> None:
    store = Store.open(empty_database_url, vault=vault)
    try:
        assert (None, schema.HEAD) == await store.migrate()
        async with store.database.write() as conn:
            differences = await conn.run_sync(_differences)
    finally:
        await store.close()
    assert [] == differences


def _differences(connection: sa.Connection) -> list[Any]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": Table.metadata})
    return list(compare_metadata(context, Table.metadata))


async def test_newest_revision_is_the_one_the_program_names() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    config.set_main_option("path_separator", "os")
    assert [schema.HEAD] == ScriptDirectory.from_config(config).get_heads()


async def test_audit_entries_can_be_neither_changed_nor_removed(store: Store) -> None:
    from samband.store.audit import HOST, record

    async with store.database.write() as conn:
        await record(conn, HOST, "key.created", "key/1", {"name": "x"})
    attempts = ["UPDATE audit_entry SET actor = 'other'", "DELETE FROM audit_entry"]
    if store.database.is_sqlite:
        attempts.append("INSERT OR REPLACE INTO audit_entry SELECT * FROM audit_entry")
    for statement in attempts:
        with pytest.raises(Exception, match="append-only"):
            async with store.database.write() as conn:
                await conn.execute(sa.text(statement))
