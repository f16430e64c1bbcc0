"""Runs, and the work that was given up."""

# No `from __future__ import annotations` here: SQLModel needs the real types.
import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field

from samband.store.columns import Json, Table, count, instant, json, text

LIVE = "state IN ('queued', 'running', 'waiting', 'held')"


class Run(Table, table=True):
    """An order and what became of it. ``fence`` grows with every claim; a write that carries an older one is refused.

    ``account`` names the external account it uses, ``selection`` what a backfill or retry is limited to, ``brake`` what
    it was stopped for and what was decided, ``progress_at`` when it last moved.
    """

    __table_args__ = (
        # The database itself sees to it that one integration never has two live runs of one operation.
        sa.Index(
            "uq_run_live", "integration_id", "operation", unique=True,
            sqlite_where=sa.text(LIVE), postgresql_where=sa.text(LIVE),
        ),
        sa.Index("ix_run_due", "available_at", sqlite_where=sa.text(LIVE), postgresql_where=sa.text(LIVE)),
        sa.Index("ix_run_organization", "organization_id", "id"),
        sa.Index("ix_run_integration", "integration_id", "id"),
        # Counting what an organisation and an account have running must not look at what is over.
        sa.Index(
            "ix_run_live_organization", "organization_id", "state", sqlite_where=sa.text(LIVE), postgresql_where=sa.text(LIVE)
        ),
    )  # fmt: skip

    id: str = text(primary_key=True, length=32)
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    integration_id: str = Field(foreign_key="integration.id", nullable=False)
    plugin: str = text(length=63)
    plugin_version: str = text(length=100)
    operation: str = text(length=16)
    streams: list[str] = Field(default_factory=list, sa_type=Json, nullable=False)
    progress: dict[str, Any] = json()
    reason: str = text(length=32)
    requested_by: str = text()
    account: str = text(default="", length=300)
    full: bool = Field(default=False, nullable=False)
    selection: dict[str, Any] | None = Field(default=None, sa_type=Json, nullable=True)
    retry_of: str | None = text(nullable=True, default=None, length=32)
    brake: dict[str, Any] | None = Field(default=None, sa_type=Json, nullable=True)
    cancel_requested_at: dt.datetime | None = instant(nullable=True)
    state: str = text(length=16)
    fence: int = Field(default=0, nullable=False)
    lease_owner: str | None = text(nullable=True, default=None)
    lease_until: dt.datetime | None = instant(nullable=True)
    attempt: int = Field(default=0, nullable=False)
    starts: int = Field(default=0, nullable=False)
    pages: int = Field(default=0, nullable=False)
    created: int = count()
    updated: int = count()
    unchanged: int = count()
    deleted: int = count()
    skipped: int = count()
    failed: int = count()
    expected_total: int | None = Field(default=None, sa_type=sa.BigInteger, nullable=True)
    error: dict[str, Any] | None = Field(default=None, sa_type=Json, nullable=True)
    notes: list[str] = Field(default_factory=list, sa_type=Json, nullable=False)
    created_at: dt.datetime = instant()
    available_at: dt.datetime = instant()
    started_at: dt.datetime | None = instant(nullable=True)
    progress_at: dt.datetime | None = instant(nullable=True)
    finished_at: dt.datetime | None = instant(nullable=True)


class DeadLetter(Table, table=True):
    """Work that was given up. At most one open entry per integration and operation; repeats are counted on it.

    ``retry_run_id`` is the run that took the work up again, or did it.
    """

    __tablename__ = "dead_letter"
    __table_args__ = (
        sa.Index(
            "uq_dead_letter_open", "integration_id", "operation", unique=True,
            sqlite_where=sa.text("acknowledged_at IS NULL"), postgresql_where=sa.text("acknowledged_at IS NULL"),
        ),
    )  # fmt: skip

    id: int | None = Field(default=None, primary_key=True)
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    integration_id: str = Field(foreign_key="integration.id", nullable=False)
    operation: str = text(length=16)
    run_id: str = Field(foreign_key="run.id", nullable=False)
    reason: str = text(length=64)
    message: str = text()
    occurrences: int = Field(default=1, nullable=False)
    created_at: dt.datetime = instant()
    updated_at: dt.datetime = instant()
    acknowledged_at: dt.datetime | None = instant(nullable=True)
    acknowledged_by: str | None = text(nullable=True, default=None)
    retry_run_id: str | None = text(nullable=True, default=None, length=32)


class Idempotency(Table, table=True):
    """A request that was granted once, so that its repeat gets the same answer."""

    organization_id: str = Field(primary_key=True, foreign_key="organization.id")
    route: str = text(primary_key=True, length=200)
    key: str = text(primary_key=True, length=255)
    fingerprint: str = text(length=64)
    run_id: str = Field(foreign_key="run.id", nullable=False)
    created_at: dt.datetime = instant()
