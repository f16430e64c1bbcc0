"""Reimbursements, and what became of each one that was sent away."""

# No `from __future__ import annotations` here: SQLModel needs the real types.
import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field

from samband.store.columns import Json, Table, count, instant, json, text

NOT_OVER = "state IN ('reserved', 'sent', 'accepted', 'posted', 'unknown')"


class Reimbursement(Table, table=True):
    """A claim as the platform last told it. ``id`` is the platform's own."""

    __table_args__ = (sa.Index("ix_reimbursement_status", "organization_id", "status", "id"),)

    organization_id: str = Field(primary_key=True, foreign_key="organization.id")
    id: str = text(primary_key=True, length=100)
    version: int = Field(default=1, nullable=False)
    status: str = text(length=16)
    body: dict[str, Any] = json()
    digest: str = text(length=64)
    created_at: dt.datetime = instant()
    updated_at: dt.datetime = instant()


class ExportItem(Table, table=True):
    """One claim on its way to one system. ``key`` is fixed before the first attempt and travels with it.

    The partial index is the guard: a claim that is on its way, booked or uncertain cannot be taken a second time.
    """

    __tablename__ = "export_item"
    __table_args__ = (
        sa.Index(
            "uq_export_item_live", "organization_id", "reimbursement_id", unique=True,
            sqlite_where=sa.text(NOT_OVER), postgresql_where=sa.text(NOT_OVER),
        ),
        sa.Index("ix_export_item_claim", "organization_id", "reimbursement_id"),
        sa.Index("ix_export_item_run", "run_id"),
        sa.Index("ix_export_item_state", "integration_id", "state"),
    )  # fmt: skip

    key: str = text(primary_key=True, length=40)
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    integration_id: str = Field(foreign_key="integration.id", nullable=False)
    reimbursement_id: str = text(length=100)
    version: int = Field(nullable=False)
    number: int = count()
    run_id: str | None = text(nullable=True, default=None, length=32)
    stream: str = text(length=100)
    state: str = text(length=16)
    fence: int = Field(default=0, nullable=False)
    attempts: int = Field(default=0, nullable=False)
    reference: str | None = text(nullable=True, default=None)
    code: str | None = text(nullable=True, default=None, length=64)
    field: str | None = text(nullable=True, default=None)
    message: str = text(default="")
    evidence: dict[str, Any] | None = Field(default=None, sa_type=Json, nullable=True)
    reason: str = text(default="")
    created_at: dt.datetime = instant()
    sent_at: dt.datetime | None = instant(nullable=True)
    settled_at: dt.datetime | None = instant(nullable=True)
