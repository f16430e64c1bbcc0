"""Schedules and their firings."""

# No `from __future__ import annotations` here: SQLModel needs the real types.
import datetime as dt

import sqlalchemy as sa
from sqlmodel import Field

from samband.store.columns import Json, Table, instant, text


class Schedule(Table, table=True):
    """When an integration is read by itself: by a cron expression in a zone, or by an interval.

    ``next_at`` is the next planned time with its jitter, null while paused; ``next_planned_at`` the same without.
    ``overdue_since`` is the planned time that has led nowhere, from when that was told until it is over.
    """

    __table_args__ = (
        sa.UniqueConstraint("integration_id", "name"),
        sa.Index("ix_schedule_next", "next_at"),
        sa.Index("ix_schedule_organization", "organization_id", "id"),
    )

    id: str = text(primary_key=True, length=32)
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    integration_id: str = Field(foreign_key="integration.id", nullable=False, ondelete="CASCADE")
    name: str = text(length=63)
    cron: str | None = text(nullable=True, default=None, length=200)
    interval_s: int | None = Field(default=None, nullable=True)
    zone: str = text(default="Europe/Oslo", length=64)
    streams: list[str] | None = Field(default=None, sa_type=Json, nullable=True)
    full: bool = Field(default=False, nullable=False)
    overlap: str = text(length=16)
    catch_up: str = text(length=16)
    misfire_grace_s: int = Field(nullable=False)
    jitter_s: int = Field(default=0, nullable=False)
    anchor_at: dt.datetime = instant()
    next_planned_at: dt.datetime | None = instant(nullable=True)
    next_at: dt.datetime | None = instant(nullable=True)
    last_planned_at: dt.datetime | None = instant(nullable=True)
    paused_at: dt.datetime | None = instant(nullable=True)
    trouble: str = text(default="")
    overdue_since: dt.datetime | None = instant(nullable=True)
    revision: int = Field(default=1, nullable=False)
    created_at: dt.datetime = instant()
    updated_at: dt.datetime = instant()


class Occurrence(Table, table=True):
    """One planned time of one schedule. Inserting the row is the firing: nobody can insert it twice."""

    __table_args__ = (
        sa.Index(
            "ix_occurrence_waiting", "schedule_id",
            sqlite_where=sa.text("state = 'waiting'"), postgresql_where=sa.text("state = 'waiting'"),
        ),
        sa.Index("ix_occurrence_run", "run_id"),
    )  # fmt: skip

    schedule_id: str = Field(primary_key=True, foreign_key="schedule.id", ondelete="CASCADE")
    planned_at: dt.datetime = instant(primary_key=True)
    organization_id: str = text(length=63)
    fired_at: dt.datetime = instant()
    state: str = text(length=16)
    reason: str = text(default="", length=32)
    run_id: str | None = text(nullable=True, default=None, length=32)
