"""The store: the only part that commits."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from samband.store import schema
from samband.store.api_keys import ApiKeys
from samband.store.catalog import Catalog
from samband.store.database import Database
from samband.store.feeds import Feeds
from samband.store.page_writer import PageWriter
from samband.store.runs import Runs
from samband.store.streams import Streams
from samband.store.vault import Vault


class Store:
    """One database with everything samband knows.

    Attributes:
        catalog: Organisations, integrations, credentials.
        api_keys: Who may ask.
        runs: Ordering, claiming and ending runs.
        streams: Where each stream's reading stands.
        pages: Taking pages in.
        feeds: Listings.
    """

    def __init__(self, database: Database, vault: Vault) -> None:
        self.database = database
        self.catalog = Catalog(database, vault)
        self.api_keys = ApiKeys(database)
        self.runs = Runs(database)
        self.streams = Streams(database)
        self.pages = PageWriter(database)
        self.feeds = Feeds(database)

    @classmethod
    def open(cls, url: str, *, vault: Vault) -> Store:
        """Prepares a store for ``sqlite:///…`` or ``postgresql://…``; it connects when first used."""
        return cls(Database.open(url), vault)

    async def migrate(self) -> tuple[str | None, str]:
        """Brings the schema up to date and gives the revisions before and after."""
        return await schema.migrate(self.database)

    async def is_migrated(self) -> bool:
        """Tells whether the schema is the one this program was written for."""
        return await schema.current_revision(self.database) == schema.HEAD

    async def ping(self) -> None:
        """Asks the database for a sign of life; `NotReadyError` when there is none."""
        async with self.database.read() as conn:
            await conn.execute(sa.text("SELECT 1"))

    async def due_runs(self, limit: int) -> Sequence[str]:
        """Gives runs that somebody should be working on."""
        return await self.runs.due(limit)

    async def close(self) -> None:
        await self.database.close()
