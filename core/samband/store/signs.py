"""Signs of life: when each part of the host last did its round."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from samband.store.database import Database
from samband.store.models import SignOfLife

_sign: sa.Table = SignOfLife.__table__


class Signs:
    """One row for each part, by the database's clock: several hosts that share the work share the row."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def beat(self, name: str, owner: str) -> None:
        """Notes that a part is alive now.

        Args:
            name: Of the part, for instance ``scheduler``.
            owner: Which process did the round.
        """
        insert = sqlite.insert(_sign) if self._db.is_sqlite else postgresql.insert(_sign)
        statement = insert.values(name=name, at=self._db.now(), owner=owner)
        statement = statement.on_conflict_do_update(
            index_elements=[_sign.c.name], set_={"at": statement.excluded.at, "owner": statement.excluded.owner}
        )
        async with self._db.write() as conn:
            await conn.execute(statement)

    async def age(self, name: str) -> float | None:
        """Gives the seconds since a part was last known to be alive; None when it never was."""
        query = sa.select(_sign.c.at, self._db.now().label("now")).where(_sign.c.name == name)
        async with self._db.read() as conn:
            row = (await conn.execute(query)).one_or_none()
        return None if row is None else max(0.0, float((row.now - row.at).total_seconds()))
