"""API keys as rows: hashes, never secrets."""

from __future__ import annotations

import sqlalchemy as sa

from samband.store.database import Database
from samband.store.models import ApiKey

_key: sa.Table = ApiKey.__table__  # type: ignore[attr-defined]


class ApiKeys:
    """Every statement about API keys. Needs no vault: nothing here can be opened again."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def add(self, key: ApiKey) -> None:
        async with self._db.write() as conn:
            await conn.execute(sa.insert(_key).values(**key.model_dump()))

    async def is_empty(self) -> bool:
        async with self._db.read() as conn:
            return await conn.scalar(sa.select(_key.c.id).limit(1)) is None

    async def find(self, key_id: str) -> ApiKey | None:
        async with self._db.read() as conn:
            row = (await conn.execute(sa.select(_key).where(_key.c.id == key_id))).one_or_none()
        return None if row is None else ApiKey(**row._mapping)
