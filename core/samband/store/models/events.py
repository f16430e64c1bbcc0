"""Events on their way out."""

# No `from __future__ import annotations` here: SQLModel needs the real types.
import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field

from samband.store.columns import Json, Table, count, instant, json, serial, text


class Outbox(Table, table=True):
    """An event that was committed with its change. Holds ids, never member data.

    ``seq`` is gapless within the organisation and grows in the order of commits; ``event_id`` is the id receivers see.
    """

    __table_args__ = (
        sa.Index("uq_outbox_seq", "organization_id", "seq", unique=True),
        sa.Index("uq_outbox_event", "event_id", unique=True),
    )

    id: int | None = serial()
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    seq: int = count()
    event_id: str = text(length=32)
    type: str = text(length=64)
    subject: str = text()
    data: dict[str, Any] = json()
    created_at: dt.datetime = instant()


class Subscription(Table, table=True):
    """Somebody's address that events of an organisation are sent to.

    ``secrets`` seals a list of signing secrets with the instants they end at, so that one can follow another without a
    gap. ``fanned_seq`` is the last event that deliveries were made for.
    """

    id: str = text(primary_key=True, length=32)
    organization_id: str = Field(foreign_key="organization.id", nullable=False, index=True)
    url: str = text()
    description: str = text(default="")
    types: list[str] = Field(default_factory=list, sa_type=Json, nullable=False)
    secrets: bytes = Field(sa_type=sa.LargeBinary, nullable=False)
    hint: str = text(default="", length=4)
    state: str = text(length=16)
    reason: str = text(default="", length=64)
    failing_since: dt.datetime | None = instant(nullable=True)
    fanned_seq: int = count()
    revision: int = Field(default=1, nullable=False)
    created_at: dt.datetime = instant()
    updated_at: dt.datetime = instant()


class EventDelivery(Table, table=True):
    """One event on its way to one subscriber. The deliveries of one subject go in order, each after the one before it."""

    __tablename__ = "event_delivery"
    __table_args__ = (
        sa.Index(
            "ix_event_delivery_due", "subscription_id", "next_at",
            sqlite_where=sa.text("state = 'pending'"), postgresql_where=sa.text("state = 'pending'"),
        ),
        # Finds what stands in the way of a delivery; partial, or every delivered one of the subject would be looked at.
        sa.Index(
            "ix_event_delivery_subject", "subscription_id", "subject", "seq",
            sqlite_where=sa.text("state = 'pending'"), postgresql_where=sa.text("state = 'pending'"),
        ),
        sa.Index("ix_event_delivery_state", "subscription_id", "state", "id"),
        sa.Index("ix_event_delivery_organization", "organization_id", "id"),
    )  # fmt: skip

    id: int | None = serial()
    organization_id: str = text(length=63)
    subscription_id: str = Field(foreign_key="subscription.id", nullable=False, ondelete="CASCADE")
    seq: int = count()
    event_id: str = text(length=32)
    type: str = text(length=64)
    subject: str = text()
    state: str = text(length=16)
    attempts: int = Field(default=0, nullable=False)
    next_at: dt.datetime = instant()
    lease_until: dt.datetime | None = instant(nullable=True)
    status: int | None = Field(default=None, nullable=True)
    error: str = text(default="")
    is_replay: bool = Field(default=False, nullable=False)
    created_at: dt.datetime = instant()
    finished_at: dt.datetime | None = instant(nullable=True)


class EventAttempt(Table, table=True):
    """One try at one delivery."""

    __tablename__ = "event_attempt"

    delivery_id: int = Field(
        primary_key=True, foreign_key="event_delivery.id", ondelete="CASCADE",
        sa_type=sa.BigInteger().with_variant(sa.Integer, "sqlite"),
    )  # fmt: skip
    number: int = Field(primary_key=True)
    organization_id: str = text(length=63)
    at: dt.datetime = instant()
    status: int | None = Field(default=None, nullable=True)
    duration_ms: int = Field(default=0, nullable=False)
    error: str = text(default="")
