"""The audit trail: who did what, each entry chained by hash to the one before it.

An organisation has a chain of its own, and so has the host (``*``). An entry is appended in the transaction of what it
tells, so there is none without its deed and no deed without its entry.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.acting import EVERYWHERE, acting
from samband.store.columns import iso_ms
from samband.store.database import Database
from samband.store.models import AuditEntry, AuditHead

_entry: sa.Table = AuditEntry.__table__  # type: ignore[attr-defined]
_head: sa.Table = AuditHead.__table__  # type: ignore[attr-defined]

HOST = EVERYWHERE
"""The chain of what concerns the whole host."""


async def record(
    conn: AsyncConnection, organization_id: str, action: str, subject: str, detail: Mapping[str, Any] | None = None
) -> None:
    """Appends an entry, in the caller's transaction, by whoever the present task acts for.

    Args:
        organization_id: Whose chain; `HOST` for the host's.
        action: ``thing.deed`` in the past tense, for instance ``credentials.replaced``.
        subject: Which thing, for instance ``integration/0198…``.
        detail: Names, states, counts, digests. Never a secret, never personal data.
    """
    head = await _locked_head(conn, organization_id)
    at, actor, told = dt.datetime.now(dt.UTC), acting().actor[:300], dict(detail or {})
    seq = head.seq + 1
    digest = entry_hash(
        organization_id, seq, at=at, actor=actor, action=action, subject=subject, detail=told, previous=head.hash
    )
    await conn.execute(
        sa.insert(_entry).values(
            organization_id=organization_id, seq=seq, at=at, actor=actor, action=action, subject=subject, detail=told,
            previous=head.hash, hash=digest,
        )
    )  # fmt: skip
    await conn.execute(sa.update(_head).where(_head.c.organization_id == organization_id).values(seq=seq, hash=digest))


def entry_hash(
    organization_id: str, seq: int, *, at: dt.datetime, actor: str, action: str, subject: str,
    detail: Mapping[str, Any], previous: str,
) -> str:  # fmt: skip
    """Gives an entry's hash: SHA-256 over everything it says and the hash of the one before it."""
    told = [organization_id, seq, iso_ms(at), actor, action, subject, dict(detail), previous]
    return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def _locked_head(conn: AsyncConnection, organization_id: str) -> sa.Row[Any]:
    # The update locks the row: two transactions of one chain append one after the other.
    lock = (
        sa.update(_head)
        .where(_head.c.organization_id == organization_id)
        .values(seq=_head.c.seq)
        .returning(_head.c.seq, _head.c.hash)
    )
    row = (await conn.execute(lock)).one_or_none()
    if row is None:
        await conn.execute(_first_head(conn, organization_id))
        row = (await conn.execute(lock)).one()
    return row


def _first_head(conn: AsyncConnection, organization_id: str) -> sa.Insert:
    from sqlalchemy.dialects import postgresql, sqlite

    values = {"organization_id": organization_id, "seq": 0, "hash": ""}
    if conn.dialect.name == "sqlite":
        return sqlite.insert(_head).values(**values).on_conflict_do_nothing()
    return postgresql.insert(_head).values(**values).on_conflict_do_nothing()


class Audit:
    """Reading and verifying the trail."""

    def __init__(self, database: Database) -> None:
        self._db = database
