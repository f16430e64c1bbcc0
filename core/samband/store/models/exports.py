"""Reimbursements, and what became of each one that was sent away."""

# No `from __future__ import annotations` here: SQLModel needs the real types.
import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field

from samband.store.columns import Json, Table, count, instant, json, text

NOT_OVER = "state IN ('reserved', 'sent', 'accepted', 'posted', 'unknown')"
LIVE_BOOKING = f"purpose = 'booking' AND {NOT_OVER}"
LIVE_REVERSAL = f"purpose = 'reversal' AND {NOT_OVER}"


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

    ``purpose`` is ``booking`` or ``reversal``; a reversal names in ``reverses`` the item it takes back. ``voucher`` is what
    is sent, made when the claim was reserved, and ``period`` the month it is booked in (``2026-03``). ``route`` is the way
    it went; it is set before the first attempt and kept once the outcome was unknown.
    """

    __tablename__ = "export_item"
    __table_args__ = (
        sa.Index(
            "uq_export_item_live", "organization_id", "reimbursement_id", unique=True,
            sqlite_where=sa.text(LIVE_BOOKING), postgresql_where=sa.text(LIVE_BOOKING),
        ),
        # A claim that is booked anew after a reversal may be reversed again; the same booking may not.
        sa.Index(
            "uq_export_item_reversal", "organization_id", "reverses", unique=True,
            sqlite_where=sa.text(LIVE_REVERSAL), postgresql_where=sa.text(LIVE_REVERSAL),
        ),
        sa.Index("ix_export_item_claim", "organization_id", "reimbursement_id"),
        sa.Index("ix_export_item_run", "run_id"),
        sa.Index("ix_export_item_state", "integration_id", "state"),
        sa.Index(
            "uq_export_item_voucher", "integration_id", "voucher_number", unique=True,
            sqlite_where=sa.text("voucher_number IS NOT NULL"), postgresql_where=sa.text("voucher_number IS NOT NULL"),
        ),
        sa.Index("ix_export_item_period", "organization_id", "period"),
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
    purpose: str = text(default="booking", length=16)
    reverses: str | None = text(nullable=True, default=None, length=40)
    voucher_number: int | None = Field(default=None, nullable=True)
    voucher: dict[str, Any] | None = Field(default=None, sa_type=Json, nullable=True)
    mapping_version: int | None = Field(default=None, nullable=True)
    period: str | None = text(nullable=True, default=None, length=7)
    route: str | None = text(nullable=True, default=None, length=40)
    created_at: dt.datetime = instant()
    sent_at: dt.datetime | None = instant(nullable=True)
    settled_at: dt.datetime | None = instant(nullable=True)
    accepted_at: dt.datetime | None = instant(nullable=True)
    posted_at: dt.datetime | None = instant(nullable=True)
    looked_up_at: dt.datetime | None = instant(nullable=True)


class ReimbursementVersion(Table, table=True):
    """A claim as it was told once; never changed."""

    __tablename__ = "reimbursement_version"

    organization_id: str = Field(primary_key=True, foreign_key="organization.id")
    reimbursement_id: str = text(primary_key=True, length=100)
    version: int = Field(primary_key=True)
    status: str = text(length=16)
    body: dict[str, Any] = json()
    digest: str = text(length=64)
    actor: str = text(default="", length=200)
    created_at: dt.datetime = instant()


class Correction(Table, table=True):
    """A change to a claim that is in the books already: proposed, and carried out only when a person agrees.

    ``state`` is proposed → approved → done, or dismissed. When it is approved the claim takes ``body`` and a reversal of
    ``item_key`` is reserved; it is done when that reversal is booked (by file: handed over).
    """

    __table_args__ = (
        sa.Index(
            "uq_correction_open", "organization_id", "reimbursement_id", unique=True,
            sqlite_where=sa.text("state IN ('proposed', 'approved')"),
            postgresql_where=sa.text("state IN ('proposed', 'approved')"),
        ),
        sa.Index("ix_correction_state", "organization_id", "state", "id"),
    )  # fmt: skip

    id: str = text(primary_key=True, length=32)
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    reimbursement_id: str = text(length=100)
    item_key: str = text(length=40)
    reversal_key: str | None = text(nullable=True, default=None, length=40)
    state: str = text(length=16)
    status: str = text(length=16)
    body: dict[str, Any] = json()
    digest: str = text(length=64)
    reason: str = text(default="")
    proposed_by: str = text(default="", length=200)
    decided_by: str | None = text(nullable=True, default=None, length=200)
    created_at: dt.datetime = instant()
    decided_at: dt.datetime | None = instant(nullable=True)


class Mapping(Table, table=True):
    """One version of how an integration's claims become vouchers; never changed, the next one follows."""

    integration_id: str = Field(primary_key=True, foreign_key="integration.id", ondelete="CASCADE")
    version: int = Field(primary_key=True)
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    body: dict[str, Any] = json()
    digest: str = text(length=64)
    effective_from: dt.date = Field(nullable=False)
    author: str = text(default="", length=200)
    note: str = text(default="", length=400)
    restored_from: int | None = Field(default=None, nullable=True)
    created_at: dt.datetime = instant()


class ChartCopy(Table, table=True):
    """The other side's accounts, dimensions, tax rules and periods as last read, and what was wrong with the mapping then."""

    __tablename__ = "chart_copy"

    integration_id: str = Field(primary_key=True, foreign_key="integration.id", ondelete="CASCADE")
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    body: dict[str, Any] = json()
    findings: dict[str, Any] = json()
    read_at: dt.datetime = instant()
    next_read_at: dt.datetime = instant()


class KeptFile(Table, table=True):
    """A file that carried items out, sealed: it names people and their bank accounts."""

    __tablename__ = "kept_file"
    __table_args__ = (sa.Index("ix_kept_file_organization", "organization_id", "id"),)

    id: str = text(primary_key=True, length=32)
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    integration_id: str = Field(foreign_key="integration.id", ondelete="CASCADE", nullable=False)
    run_id: str | None = text(nullable=True, default=None, length=32)
    name: str = text(length=200)
    profile: str = text(length=16)
    media_type: str = text(length=100)
    content: bytes = Field(sa_type=sa.LargeBinary, nullable=False)
    size: int = Field(nullable=False)
    digest: str = text(length=64)
    rows: int = Field(nullable=False)
    keys: list[str] = Field(default_factory=list, sa_type=Json, nullable=False)
    state: str = text(length=16)
    created_at: dt.datetime = instant()
    delivered_at: dt.datetime | None = instant(nullable=True)
    acknowledged_at: dt.datetime | None = instant(nullable=True)


class KeptFileItem(Table, table=True):
    """An item that a kept file carries, to be found by its key; their order is in the file's ``keys``."""

    __tablename__ = "kept_file_item"
    __table_args__ = (sa.Index("ix_kept_file_item_file", "file_id"),)

    key: str = text(primary_key=True, length=40)
    file_id: str = Field(primary_key=True, foreign_key="kept_file.id", ondelete="CASCADE")
    organization_id: str = Field(foreign_key="organization.id", nullable=False)


class DropPoint(Table, table=True):
    """Where an integration's files go. ``secret`` is sealed and never read back; ``hint`` is its last four characters."""

    __tablename__ = "drop_point"

    integration_id: str = Field(primary_key=True, foreign_key="integration.id", ondelete="CASCADE")
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    settings: dict[str, Any] = json()
    secret: bytes | None = Field(default=None, sa_type=sa.LargeBinary, nullable=True)
    hint: str = text(default="", length=8)
    revision: int = Field(default=1, nullable=False)
    updated_at: dt.datetime = instant()
