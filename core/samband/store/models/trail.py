"""What is kept about the host's own doings: the audit trail, alerts, and signs of life."""

# No `from __future__ import annotations` here: SQLModel needs the real types.
import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field

from samband.store.columns import Table, count, instant, json, serial, text


class AuditHead(Table, table=True):
    """The newest entry of a chain: an organisation's, or the host's own (``*``)."""

    __tablename__ = "audit_head"

    organization_id: str = text(primary_key=True, length=63)
    seq: int = count()
    hash: str = text(default="", length=64)


class AuditEntry(Table, table=True):
    """Who did what, chained by hash to the entry before. The database refuses to change or remove one."""

    __tablename__ = "audit_entry"
    __table_args__ = (
        # Of the deeds that somebody asks for by their subject again and again: who has fetched a file.
        sa.Index(
            "ix_audit_entry_download", "organization_id", "subject",
            sqlite_where=sa.text("action = 'export_file.downloaded'"),
            postgresql_where=sa.text("action = 'export_file.downloaded'"),
        ),
    )  # fmt: skip

    organization_id: str = text(primary_key=True, length=63)
    seq: int = Field(sa_type=sa.BigInteger, primary_key=True)
    at: dt.datetime = instant()
    actor: str = text(length=300)
    action: str = text(length=64)
    subject: str = text(length=300)
    detail: dict[str, Any] = json()
    previous: str = text(length=64)
    hash: str = text(length=64)


class Alert(Table, table=True):
    """A trouble that somebody should know of: opened once when it begins and closed when it is over."""

    __table_args__ = (
        sa.Index(
            "uq_alert_open", "organization_id", "subject", "kind", unique=True,
            sqlite_where=sa.text("closed_at IS NULL"), postgresql_where=sa.text("closed_at IS NULL"),
        ),
        sa.Index("ix_alert_organization", "organization_id", "id"),
    )  # fmt: skip

    id: int | None = serial()
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    integration_id: str | None = text(nullable=True, default=None, length=32)
    subject: str = text(length=300)
    kind: str = text(length=64)
    severity: str = text(length=16)
    message: str = text()
    data: dict[str, Any] = json()
    opened_at: dt.datetime = instant()
    closed_at: dt.datetime | None = instant(nullable=True)
    acknowledged_at: dt.datetime | None = instant(nullable=True)
    acknowledged_by: str = text(default="")


class SignOfLife(Table, table=True):
    """When a part of the host last did its round, for instance the scheduler."""

    __tablename__ = "sign_of_life"

    name: str = text(primary_key=True, length=63)
    at: dt.datetime = instant()
    owner: str = text(default="")


class Difference(Table, table=True):
    """What a dry run would have done to one record: only the fields that differ. Thrown away after a day.

    A record that would be skipped or would fail has no fields here but the reason, as in an outcome.
    """

    run_id: str = Field(primary_key=True, foreign_key="run.id", ondelete="CASCADE")
    position: int = Field(primary_key=True)
    organization_id: str = text(length=63)
    stream: str = text(length=100)
    key: str = text()
    op: str = text(length=8)
    record_id: int | None = Field(default=None, sa_type=sa.BigInteger, nullable=True)
    before: dict[str, Any] = json()
    after: dict[str, Any] = json()
    code: str | None = text(nullable=True, default=None, length=64)
    field: str | None = text(nullable=True, default=None)
    message: str | None = text(nullable=True, default=None)
