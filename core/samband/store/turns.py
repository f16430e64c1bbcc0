"""One after the other: what reserves or changes an organisation's claims."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection


async def one_at_a_time(conn: AsyncConnection, organization_id: str) -> None:
    """Has everything that reserves or changes an organisation's claims wait for what does so already.

    By an advisory lock, which no run's own transactions take; on SQLite the transaction itself has that effect.
    """
    if conn.dialect.name == "postgresql":
        lock = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:whose, 7226224))")
        await conn.execute(lock, {"whose": organization_id})
