"""Streams, records, and what every page changed. Counted in thousands, and written set-based in `samband.store.page_writer`.

They have no foreign keys, because their parents are locked or written in the same transaction and a check per row costs
a fifth of the write.
"""

# No `from __future__ import annotations` here: SQLModel needs the real types.
import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field

from samband.store.columns import Table, count, instant, json, serial, text


class Stream(Table, table=True):
    """Where the reading of one stream of one integration stands.

    ``generation`` counts full reads; a binding not touched by the present one is gone at the other side once the read is
    complete. ``unresolved_since`` is the change number at which a record of the stream last pointed to something
    unknown: once such a thing has been created after it, the stream is read whole again. ``digest`` names the settings
    and versions the cursor was made with; with others it is worthless.
    """

    __table_args__ = (sa.UniqueConstraint("integration_id", "name"),)

    id: int | None = Field(default=None, primary_key=True)
    integration_id: str = Field(foreign_key="integration.id", nullable=False)
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    name: str = text(length=100)
    kind: str = text(length=63)
    cursor: str | None = text(nullable=True, default=None)
    generation: int = Field(default=0, nullable=False)
    reading_full: bool = Field(default=False, nullable=False)
    digest: str = text(default="", length=16)
    held: int = count()
    unresolved_since: int | None = Field(default=None, sa_type=sa.BigInteger, nullable=True)
    last_read_at: dt.datetime | None = instant(nullable=True)


class Page(Table, table=True):
    """One committed page: its counts, and the range of change numbers it took. What a run did is its pages' ranges.

    ``deactivated`` are those of the updated ones whose status went to an ended one.
    """

    __table_args__ = (sa.UniqueConstraint("run_id", "number"),)

    id: int | None = serial()
    run_id: str = Field(foreign_key="run.id", nullable=False)
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    stream_id: int = Field(foreign_key="stream.id", nullable=False)
    number: int = Field(nullable=False)
    first_seq: int = count()
    change_count: int = count()
    created: int = count()
    updated: int = count()
    unchanged: int = count()
    deleted: int = count()
    skipped: int = count()
    failed: int = count()
    deactivated: int = count()
    committed_at: dt.datetime = instant()


class Binding(Table, table=True):
    """Our record ↔ their key, with what was last agreed. ``hash`` is null when the thing is gone at the other side."""

    # With a rowid on purpose: their keys come in no order, and this way only a slim index is written in no order.
    __table_args__ = (sa.Index("ix_binding_record", "organization_id", "record_id"),)

    stream_id: int = Field(primary_key=True)
    key: str = text(primary_key=True)
    organization_id: str = text(length=63)
    record_id: int = Field(sa_type=sa.BigInteger, nullable=False)
    tag: str | None = text(nullable=True, default=None)
    hash: str | None = text(nullable=True, default=None, length=32)
    generation: int = Field(default=0, nullable=False)


class Record(Table, table=True):
    """A record as it stands now. A deleted one keeps its number and version and loses its values."""

    __table_args__ = ({"sqlite_with_rowid": False},)

    organization_id: str = text(primary_key=True, length=63)
    kind: str = text(primary_key=True, length=63)
    id: int = Field(sa_type=sa.BigInteger, primary_key=True)
    version: int = Field(nullable=False)
    deleted: bool = Field(default=False, nullable=False)
    body: dict[str, Any] = json()
    updated_at: dt.datetime = instant()


class Change(Table, table=True):
    """One change of one record, numbered without gaps within its organisation. Time and run are its page's."""

    __table_args__ = ({"sqlite_with_rowid": False},)

    organization_id: str = text(primary_key=True, length=63)
    seq: int = Field(sa_type=sa.BigInteger, primary_key=True)
    kind: str = text(length=63)
    record_id: int = Field(sa_type=sa.BigInteger, nullable=False)
    op: str = text(length=8)
    version: int = Field(nullable=False)
    page_id: int = Field(sa_type=sa.BigInteger, nullable=False)


class Outcome(Table, table=True):
    """A record that was skipped or failed. (Created, updated and deleted ones have a change; unchanged ones a count.)"""

    __table_args__ = ({"sqlite_with_rowid": False},)

    page_id: int = Field(sa_type=sa.BigInteger, primary_key=True)
    position: int = Field(primary_key=True)
    organization_id: str = text(length=63)
    key: str = text()
    outcome: str = text(length=8)
    code: str = text(length=64)
    field: str | None = text(nullable=True, default=None)
    message: str = text()
