"""The database itself, for commands of whoever runs the host: no host has to run, and no API key is needed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from samband.acting import act_for
from samband.errors import NotReadyError
from samband.settings import HostSettings
from samband.store import schema
from samband.store.database import Database

__all__ = ["ACTOR", "opened_database"]

ACTOR: Final = "command"
"""Who did it, in the audit trail: somebody at a shell who can reach the database."""


@contextlib.asynccontextmanager
async def opened_database(settings: HostSettings) -> AsyncIterator[Database]:
    """Opens the database that the settings name, for the block.

    Raises:
        NotReadyError: There is none, or its schema is not this program's.
    """
    absent = NotReadyError(
        "There is no database with this program's schema.",
        code="migration_needed",
        hint="Start the host once, or run 'samband migrate'; check --data-dir and SAMBAND_DATABASE_URL.",
    )
    if settings.database_url is None and not settings.data_dir.is_dir():
        raise absent
    database = Database.open(settings.database)
    try:
        if await schema.current_revision(database) != schema.HEAD:
            raise absent
        with act_for(actor=ACTOR):
            yield database
    finally:
        await database.close()
