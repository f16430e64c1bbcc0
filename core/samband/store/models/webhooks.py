"""Webhooks in: the addresses, the inbox, and the counts of what came."""

# No `from __future__ import annotations` here: SQLModel needs the real types.
import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field

from samband.store.columns import Json, Table, count, instant, serial, text


class Webhook(Table, table=True):
    """The address an integration is told at: found by the hash of its unguessable key.

    ``sealed`` holds the key and the secrets with the instants they end at, newest first.
    """

    integration_id: str = Field(primary_key=True, foreign_key="integration.id", ondelete="CASCADE")
    organization_id: str = text(length=63)
    plugin: str = text(length=63)
    key_hash: str = Field(sa_type=sa.String(64), nullable=False, unique=True)
    sealed: bytes = Field(sa_type=sa.LargeBinary, nullable=False)
    hint: str = text(default="", length=4)
    is_enabled: bool = Field(default=True, nullable=False)
    revision: int = Field(default=1, nullable=False)
    created_at: dt.datetime = instant()
    updated_at: dt.datetime = instant()
    received_at: dt.datetime | None = instant(nullable=True)


class Inbox(Table, table=True):
    """A delivery that was verified and taken in before the sender was answered.

    ``delivery_key`` is a keyed hash of the sender's delivery id, or of what the adapter or the body says; the database
    refuses a second one. It is kept for ever; ``content`` (headers, query and raw body, sealed) is not.
    """

    __table_args__ = (
        sa.UniqueConstraint("integration_id", "delivery_key"),
        sa.Index(
            "ix_inbox_waiting", "integration_id", "id",
            sqlite_where=sa.text("state = 'received'"), postgresql_where=sa.text("state = 'received'"),
        ),
        sa.Index("ix_inbox_organization", "organization_id", "id"),
        sa.Index("ix_inbox_integration", "integration_id", "id"),
    )  # fmt: skip

    id: int | None = serial()
    organization_id: str = text(length=63)
    integration_id: str = Field(foreign_key="integration.id", nullable=False, ondelete="CASCADE")
    delivery_key: str = text(length=64)
    content: bytes | None = Field(default=None, sa_type=sa.LargeBinary, nullable=True)
    size: int = Field(default=0, nullable=False)
    digest: str = text(default="", length=64)
    triggers: list[dict[str, Any]] = Field(default_factory=list, sa_type=Json, nullable=False)
    state: str = text(length=16)
    reason: str = text(default="", length=64)
    run_id: str | None = text(nullable=True, default=None, length=32)
    replay_of: int | None = Field(default=None, sa_type=sa.BigInteger, nullable=True)
    replayed_by: str = text(default="")
    received_at: dt.datetime = instant()
    processed_at: dt.datetime | None = instant(nullable=True)


class WebhookCount(Table, table=True):
    """How many deliveries of one hour ended how: ``accepted``, ``repeated``, or the reason of the refusal."""

    __tablename__ = "webhook_count"

    integration_id: str = Field(primary_key=True, foreign_key="integration.id", ondelete="CASCADE")
    hour: dt.datetime = instant(primary_key=True)
    outcome: str = text(primary_key=True, length=32)
    organization_id: str = text(length=63)
    deliveries: int = count()
