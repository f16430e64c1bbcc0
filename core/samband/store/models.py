"""The tables. Every row carries its organisation; ids of things counted in thousands are small integers.

Table models do not validate (SQLModel's choice): everything that comes from outside has passed a pydantic model before it
gets here. Rows counted in thousands (binding, record, change, outcome) are written set-based in `samband.store.pages` and
nowhere else; they have no foreign keys, because their parents are locked or written in the same transaction and a check
per row costs a fifth of the write.
"""

# No `from __future__ import annotations` here: SQLModel needs the real types.
import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcInstant(sa.types.TypeDecorator[dt.datetime]):
    """Stores an aware UTC instant: ``timestamptz`` on PostgreSQL, sortable ISO text in milliseconds on SQLite.

    SQLite has no time type and gives naive values back, which is how zones get lost; text keeps them and sorts right.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.String(24))
        return dialect.type_descriptor(sa.DateTime(timezone=True))

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return iso_ms(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if isinstance(value, str):
            return dt.datetime.fromisoformat(value)
        return value.astimezone(dt.UTC)  # type: ignore[no-any-return]


def iso_ms(value: dt.datetime) -> str:
    """Gives the one text form of an instant on SQLite, for instance ``2026-03-29T01:00:00.000Z``."""
    return value.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"


Json = sa.JSON().with_variant(JSONB(), "postgresql")


class Table(SQLModel):
    """Base of every table; one metadata with a naming convention so that migrations have stable names."""

    metadata = sa.MetaData(naming_convention=NAMING)


def _text(*, primary_key: bool = False, nullable: bool = False, default: Any = ..., length: int | None = None) -> Any:
    column_type = sa.String(length) if length else sa.Text()
    if default is ...:
        return Field(sa_type=column_type, primary_key=primary_key, nullable=nullable)
    return Field(default=default, sa_type=column_type, primary_key=primary_key, nullable=nullable)


def _instant(*, nullable: bool = False) -> Any:
    if nullable:
        return Field(default=None, sa_type=UtcInstant, nullable=True)
    return Field(sa_type=UtcInstant, nullable=False)


def _json() -> Any:
    return Field(default_factory=dict, sa_type=Json, nullable=False)


def _count() -> Any:
    return Field(default=0, sa_type=sa.BigInteger, nullable=False)


class Organization(Table, table=True):
    """An organisation, with the two counters its records and changes are numbered from.

    Taking numbers from a row that the page's own transaction has locked makes the change feed gapless: a sequence would
    let a later page commit first, and a reader would step over the earlier one for ever.
    """

    id: str = _text(primary_key=True, length=63)
    name: str = _text()
    record_seq: int = _count()
    change_seq: int = _count()
    created_at: dt.datetime = _instant()


class Integration(Table, table=True):
    """One organisation's use of one plugin."""

    __table_args__ = (sa.UniqueConstraint("organization_id", "plugin"),)

    id: str = _text(primary_key=True, length=32)
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    plugin: str = _text(length=63)
    display_name: str = _text()
    state: str = _text(length=16)
    settings: dict[str, Any] = _json()
    connection: str = _text(default="unknown", length=32)
    last_check: dict[str, Any] | None = Field(default=None, sa_type=Json, nullable=True)
    revision: int = Field(default=1, nullable=False)
    created_at: dt.datetime = _instant()
    updated_at: dt.datetime = _instant()


class Credential(Table, table=True):
    """An integration's credentials, sealed by the vault; only the last four characters are readable."""

    integration_id: str = Field(primary_key=True, foreign_key="integration.id", ondelete="CASCADE")
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    sealed: bytes = Field(sa_type=sa.LargeBinary, nullable=False)
    hints: dict[str, Any] = _json()
    updated_at: dt.datetime = _instant()


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
    name: str = _text(length=100)
    kind: str = _text(length=63)
    cursor: str | None = _text(nullable=True, default=None)
    generation: int = Field(default=0, nullable=False)
    reading_full: bool = Field(default=False, nullable=False)
    digest: str = _text(default="", length=16)
    held: int = _count()
    unresolved_since: int | None = Field(default=None, sa_type=sa.BigInteger, nullable=True)
    last_read_at: dt.datetime | None = _instant(nullable=True)


LIVE = "state IN ('queued', 'running', 'waiting', 'held')"


class Run(Table, table=True):
    """An order and what became of it. ``fence`` grows with every claim; a write that carries an older one is refused."""

    __table_args__ = (
        # The database itself sees to it that one integration never has two live runs of one operation.
        sa.Index(
            "uq_run_live", "integration_id", "operation", unique=True,
            sqlite_where=sa.text(LIVE), postgresql_where=sa.text(LIVE),
        ),
        sa.Index("ix_run_due", "available_at", sqlite_where=sa.text(LIVE), postgresql_where=sa.text(LIVE)),
        sa.Index("ix_run_organization", "organization_id", "id"),
        sa.Index("ix_run_integration", "integration_id", "id"),
    )  # fmt: skip

    id: str = _text(primary_key=True, length=32)
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    integration_id: str = Field(foreign_key="integration.id", nullable=False)
    plugin: str = _text(length=63)
    plugin_version: str = _text(length=100)
    operation: str = _text(length=16)
    streams: list[str] = Field(default_factory=list, sa_type=Json, nullable=False)
    progress: dict[str, Any] = _json()
    reason: str = _text(length=32)
    requested_by: str = _text()
    full: bool = Field(default=False, nullable=False)
    state: str = _text(length=16)
    fence: int = Field(default=0, nullable=False)
    lease_owner: str | None = _text(nullable=True, default=None)
    lease_until: dt.datetime | None = _instant(nullable=True)
    attempt: int = Field(default=0, nullable=False)
    starts: int = Field(default=0, nullable=False)
    pages: int = Field(default=0, nullable=False)
    created: int = _count()
    updated: int = _count()
    unchanged: int = _count()
    deleted: int = _count()
    skipped: int = _count()
    failed: int = _count()
    expected_total: int | None = Field(default=None, sa_type=sa.BigInteger, nullable=True)
    error: dict[str, Any] | None = Field(default=None, sa_type=Json, nullable=True)
    notes: list[str] = Field(default_factory=list, sa_type=Json, nullable=False)
    created_at: dt.datetime = _instant()
    available_at: dt.datetime = _instant()
    started_at: dt.datetime | None = _instant(nullable=True)
    finished_at: dt.datetime | None = _instant(nullable=True)


class Page(Table, table=True):
    """One committed page: its counts, and the range of change numbers it took. What a run did is its pages' ranges."""

    __table_args__ = (sa.UniqueConstraint("run_id", "number"),)

    id: int | None = Field(default=None, primary_key=True, sa_type=sa.BigInteger().with_variant(sa.Integer, "sqlite"))
    run_id: str = Field(foreign_key="run.id", nullable=False)
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    stream_id: int = Field(foreign_key="stream.id", nullable=False)
    number: int = Field(nullable=False)
    first_seq: int = _count()
    change_count: int = _count()
    created: int = _count()
    updated: int = _count()
    unchanged: int = _count()
    deleted: int = _count()
    skipped: int = _count()
    failed: int = _count()
    committed_at: dt.datetime = _instant()


class Binding(Table, table=True):
    """Our record ↔ their key, with what was last agreed. ``hash`` is null when the thing is gone at the other side."""

    # With a rowid on purpose: their keys come in no order, and this way only a slim index is written in no order.
    __table_args__ = (sa.Index("ix_binding_record", "organization_id", "record_id"),)

    stream_id: int = Field(primary_key=True)
    key: str = _text(primary_key=True)
    organization_id: str = _text(length=63)
    record_id: int = Field(sa_type=sa.BigInteger, nullable=False)
    tag: str | None = _text(nullable=True, default=None)
    hash: str | None = _text(nullable=True, default=None, length=32)
    generation: int = Field(default=0, nullable=False)


class Record(Table, table=True):
    """A record as it stands now. A deleted one keeps its number and version and loses its values."""

    __table_args__ = ({"sqlite_with_rowid": False},)

    organization_id: str = _text(primary_key=True, length=63)
    kind: str = _text(primary_key=True, length=63)
    id: int = Field(sa_type=sa.BigInteger, primary_key=True)
    version: int = Field(nullable=False)
    deleted: bool = Field(default=False, nullable=False)
    body: dict[str, Any] = _json()
    updated_at: dt.datetime = _instant()


class Change(Table, table=True):
    """One change of one record, numbered without gaps within its organisation. Time and run are its page's."""

    __table_args__ = ({"sqlite_with_rowid": False},)

    organization_id: str = _text(primary_key=True, length=63)
    seq: int = Field(sa_type=sa.BigInteger, primary_key=True)
    kind: str = _text(length=63)
    record_id: int = Field(sa_type=sa.BigInteger, nullable=False)
    op: str = _text(length=8)
    version: int = Field(nullable=False)
    page_id: int = Field(sa_type=sa.BigInteger, nullable=False)


class Outcome(Table, table=True):
    """A record that was skipped or failed. (Created, updated and deleted ones have a change; unchanged ones a count.)"""

    __table_args__ = ({"sqlite_with_rowid": False},)

    page_id: int = Field(sa_type=sa.BigInteger, primary_key=True)
    position: int = Field(primary_key=True)
    organization_id: str = _text(length=63)
    key: str = _text()
    outcome: str = _text(length=8)
    code: str = _text(length=64)
    field: str | None = _text(nullable=True, default=None)
    message: str = _text()


class Outbox(Table, table=True):
    """An event that was committed with its change and waits to be delivered. Holds ids, never member data."""

    id: int | None = Field(default=None, primary_key=True, sa_type=sa.BigInteger().with_variant(sa.Integer, "sqlite"))
    organization_id: str = Field(foreign_key="organization.id", nullable=False)
    type: str = _text(length=64)
    subject: str = _text()
    data: dict[str, Any] = _json()
    created_at: dt.datetime = _instant()


class DeadLetter(Table, table=True):
    """Work that was given up. At most one open entry per integration and operation; repeats are counted on it."""

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
    operation: str = _text(length=16)
    run_id: str = Field(foreign_key="run.id", nullable=False)
    reason: str = _text(length=64)
    message: str = _text()
    occurrences: int = Field(default=1, nullable=False)
    created_at: dt.datetime = _instant()
    updated_at: dt.datetime = _instant()
    acknowledged_at: dt.datetime | None = _instant(nullable=True)
    acknowledged_by: str | None = _text(nullable=True, default=None)


class ApiKey(Table, table=True):
    """An API key; only the SHA-256 of its secret is kept (the secret has 256 random bits, so a slow hash adds nothing)."""

    __tablename__ = "api_key"

    id: str = _text(primary_key=True, length=16)
    name: str = _text()
    secret_hash: str = _text(length=64)
    last_four: str = _text(length=4)
    verbs: list[str] = Field(default_factory=list, sa_type=Json, nullable=False)
    organizations: list[str] | None = Field(default=None, sa_type=Json, nullable=True)
    created_at: dt.datetime = _instant()
    revoked_at: dt.datetime | None = _instant(nullable=True)


class Idempotency(Table, table=True):
    """A request that was granted once, so that its repeat gets the same answer."""

    organization_id: str = Field(primary_key=True, foreign_key="organization.id")
    route: str = _text(primary_key=True, length=200)
    key: str = _text(primary_key=True, length=255)
    fingerprint: str = _text(length=64)
    run_id: str = Field(foreign_key="run.id", nullable=False)
    created_at: dt.datetime = _instant()
