"""Writes events in the transaction of what they tell."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.store.ids import new_id
from samband.store.models import Organization, Outbox

_organization: sa.Table = Organization.__table__  # type: ignore[attr-defined]
_outbox: sa.Table = Outbox.__table__  # type: ignore[attr-defined]


async def emit(conn: AsyncConnection, organization_id: str, type: str, subject: str, data: Mapping[str, Any]) -> int:
    """Adds an event to the outbox and gives its number, gapless within the organisation.

    Args:
        type: For instance ``no.samband.run.succeeded.v1``; its data has a schema in `samband.eventtypes`.
        subject: What it is about, for instance ``run/0198…``; events of one subject are delivered in order.
        data: Ids, states and counts. Never member data.
    """
    seq = await conn.scalar(
        sa.update(_organization)
        .where(_organization.c.id == organization_id)
        .values(event_seq=_organization.c.event_seq + 1)
        .returning(_organization.c.event_seq)
    )
    await insert_event(conn, organization_id, int(seq or 0), type, subject, data, dt.datetime.now(dt.UTC))
    return int(seq or 0)


async def insert_event(
    conn: AsyncConnection, organization_id: str, seq: int, type: str, subject: str, data: Mapping[str, Any],
    at: dt.datetime,
) -> None:  # fmt: skip
    """Adds an event under a number that the transaction has taken already."""
    await conn.execute(
        sa.insert(_outbox).values(
            organization_id=organization_id, seq=seq, event_id=new_id(), type=type, subject=subject, data=dict(data),
            created_at=at,
        )
    )  # fmt: skip
