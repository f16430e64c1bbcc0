"""Who is connected to what."""

# No `from __future__ import annotations` here: SQLModel needs the real types.
import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field

from samband.store.columns import Json, Table, count, instant, json, text


class Organization(Table, table=True):
    """An organisation, with the counters its records, changes and events are numbered from.

    Taking numbers from a row that the writing transaction has locked makes the feeds gapless: a sequence would
    let a later page commit first, and a reader would step over the earlier one for ever. ``told_seq`` is the last event
    that the plugins have heard of.
    """

    id: str = text(primary_key=True, length=63)
    name: str = text()
    record_seq: int = count()
    change_seq: int = count()
    event_seq: int = count()
    told_seq: int = count()
    created_at: dt.datetime = instant()


class Integration(Table, table=True):
    """One organisation's use of one plugin.

    ``connection`` is one axis of its health: what the last contact said, since ``connection_since``; ``contact_at`` is
    the last one that went well. The other axis, freshness, is computed from its runs and schedules.
    """

    __table_args__ = (
        sa.UniqueConstraint("organization_id", "plugin"),
        sa.Index("ix_integration_probe", "next_probe_at"),
    )

    id: str = text(primary_key=True, length=32)
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    plugin: str = text(length=63)
    display_name: str = text()
    state: str = text(length=16)
    settings: dict[str, Any] = json()
    connection: str = text(default="unknown", length=32)
    connection_since: dt.datetime | None = instant(nullable=True)
    last_check: dict[str, Any] | None = Field(default=None, sa_type=Json, nullable=True)
    contact_at: dt.datetime | None = instant(nullable=True)
    probed_at: dt.datetime | None = instant(nullable=True)
    next_probe_at: dt.datetime | None = instant(nullable=True)
    latency_ms: int | None = Field(default=None, nullable=True)
    revision: int = Field(default=1, nullable=False)
    created_at: dt.datetime = instant()
    updated_at: dt.datetime = instant()


class Credential(Table, table=True):
    """An integration's credentials, sealed by the vault; only the last four characters are readable.

    ``revision`` grows with every replacement: tokens that were obtained with other credentials are worthless.
    """

    integration_id: str = Field(primary_key=True, foreign_key="integration.id", ondelete="CASCADE")
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    sealed: bytes = Field(sa_type=sa.LargeBinary, nullable=False)
    hints: dict[str, Any] = json()
    revision: int = Field(default=1, nullable=False)
    expires_at: dt.datetime | None = instant(nullable=True)
    updated_at: dt.datetime = instant()
