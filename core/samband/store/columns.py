"""What every table is made of: the base, the column types, and the one text form of an instant on SQLite."""

# No `from __future__ import annotations` here: SQLModel needs the real types.
import datetime as dt
from typing import TYPE_CHECKING, Any, ClassVar

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
    # Not strftime: it writes a year before 1000 with fewer than four digits, which would sort after the others.
    return value.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now() -> dt.datetime:
    """Gives the present as every database keeps it, in milliseconds: what is answered now is what is read later."""
    present = dt.datetime.now(dt.UTC)
    return present.replace(microsecond=present.microsecond // 1000 * 1000)


# None is NULL and not the JSON word null, so that "IS NULL" finds it.
Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Table(SQLModel):
    """Base of every table; one metadata with a naming convention so that migrations have stable names."""

    metadata = sa.MetaData(naming_convention=NAMING)
    if TYPE_CHECKING:
        __table__: ClassVar[sa.Table]  # SQLAlchemy sets it; SQLModel's types do not say so


def text(*, primary_key: bool = False, nullable: bool = False, default: Any = ..., length: int | None = None) -> Any:
    column_type = sa.String(length) if length else sa.Text()
    if default is ...:
        return Field(sa_type=column_type, primary_key=primary_key, nullable=nullable)
    return Field(default=default, sa_type=column_type, primary_key=primary_key, nullable=nullable)


def instant(*, nullable: bool = False, primary_key: bool = False) -> Any:
    if nullable:
        return Field(default=None, sa_type=UtcInstant, nullable=True)
    return Field(sa_type=UtcInstant, nullable=False, primary_key=primary_key)


def json() -> Any:
    return Field(default_factory=dict, sa_type=Json, nullable=False)


def count() -> Any:
    return Field(default=0, sa_type=sa.BigInteger, nullable=False)


def serial() -> Any:
    """A primary key that the database numbers."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return Field(default=None, primary_key=True, sa_type=number)
