"""The connection axis of an integration's health: the one place where it changes, and where that is told."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.store.models import Integration
from samband.store.outbox import emit

_integration: sa.Table = Integration.__table__

BROKEN = ("needs_reauthentication", "misconfigured")
"""What a person has to mend; ``degraded`` passes by itself and ``unknown`` says nothing."""


async def move_connection(
    conn: AsyncConnection, integration_id: str, connection: str, *, code: str = "", **values: Any
) -> bool:
    """Brings an integration's connection into a state and tells it once; gives whether that was a change.

    Args:
        connection: ``connected``, ``degraded``, ``needs_reauthentication``, ``misconfigured`` or ``unknown``.
        code: The code of the error that led there.
        values: Further columns that are written either way, such as ``latency_ms``.
    """
    now = dt.datetime.now(dt.UTC)
    if connection == "connected":
        values["contact_at"] = now
    before = (
        await conn.execute(
            sa.select(_integration.c.connection, _integration.c.organization_id, _integration.c.plugin)
            .where(_integration.c.id == integration_id)
            .with_for_update(key_share=True)  # does not hold up who only points to the row
        )
    ).one_or_none()
    if before is None:
        return False
    is_change = bool(before.connection != connection)
    if is_change:
        values |= {"connection": connection, "connection_since": now}
    if values:
        await conn.execute(sa.update(_integration).where(_integration.c.id == integration_id).values(**values))
    if is_change:
        await _tell(conn, integration_id, before, connection, code)
    return is_change


async def _tell(conn: AsyncConnection, integration_id: str, before: Any, connection: str, code: str) -> None:
    data = {
        "integration": integration_id, "type": before.plugin, "connection": connection, "before": before.connection,
        "code": code,
    }  # fmt: skip
    subject = f"integration/{integration_id}"
    if connection == "needs_reauthentication":
        await emit(conn, before.organization_id, "no.samband.integration.needs_reauthentication.v1", subject, data)
    elif connection == "connected" and before.connection in (*BROKEN, "degraded"):
        await emit(conn, before.organization_id, "no.samband.integration.recovered.v1", subject, data)
