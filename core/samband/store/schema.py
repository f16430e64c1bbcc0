"""Brings a database to the present schema, under a lock, in one transaction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from samband.errors import ConfigurationError
from samband.store.database import Database

HEAD = "0006"
"""The newest revision; a test compares it with the migration files."""

# Any number that nothing else in the database uses: it only has to be the same for every host of it.
_ADVISORY_LOCK = 7_226_223

MIGRATIONS = Path(__file__).with_name("migrations")


async def current_revision(database: Database) -> str | None:
    """Gives the database's revision, or None for one that is empty."""
    async with database.read() as conn:
        has_table = await conn.run_sync(lambda c: sa.inspect(c).has_table("alembic_version"))
        if not has_table:
            return None
        revision: str | None = await conn.scalar(sa.text("SELECT version_num FROM alembic_version"))
        return revision


async def migrate(database: Database) -> tuple[str | None, str]:
    """Runs the missing migrations and gives the revisions before and after.

    Two hosts may start at once: the second waits for the first, then finds nothing to do.

    Raises:
        ConfigurationError: The database is newer than this program.
    """
    before = await current_revision(database)
    if before == HEAD:
        return before, HEAD
    async with database.write() as conn:
        if not database.is_sqlite:
            await conn.execute(sa.text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        await conn.run_sync(_upgrade)
    return before, HEAD


def _upgrade(connection: sa.Connection) -> None:
    # Imported here because Alembic takes a tenth of a second to import and most starts have nothing to migrate.
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(alembic_config(connection), "head")
    except CommandError as err:
        raise ConfigurationError(
            "The database was written by a newer samband than this one.",
            code="database_too_new",
            hint="Install the newer version, or restore a backup made before the upgrade.",
        ) from err


def alembic_config(connection: sa.Connection) -> Any:
    """Gives Alembic's configuration for an open connection; no ini file is needed."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
