"""Who may ask, and which answers are kept for a repeat."""

# No `from __future__ import annotations` here: SQLModel needs the real types.
import datetime as dt

import sqlalchemy as sa
from sqlmodel import Field

from samband.store.columns import Json, Table, UtcInstant, instant, text


class ApiKey(Table, table=True):
    """An API key; only the SHA-256 of its secret is kept (the secret has 256 random bits, so a slow hash adds nothing)."""

    __tablename__ = "api_key"

    id: str = text(primary_key=True, length=16)
    name: str = text()
    secret_hash: str = text(length=64)
    last_four: str = text(length=4)
    verbs: list[str] = Field(default_factory=list, sa_type=Json, nullable=False)
    organizations: list[str] | None = Field(default=None, sa_type=Json, nullable=True)
    created_at: dt.datetime = instant()
    created_by: str = text(default="")
    expires_at: dt.datetime | None = instant(nullable=True)
    last_used_at: dt.datetime | None = instant(nullable=True)
    revoked_at: dt.datetime | None = instant(nullable=True)


class KeptAnswer(Table, table=True):
    """The answer to a request that came with an Idempotency-Key, sealed, so that its repeat gets the same bytes.

    ``caller`` is the API key's id: two callers that choose the same key never see each other's answers.
    """

    __tablename__ = "kept_answer"

    caller: str = text(primary_key=True, length=16)
    route: str = text(primary_key=True, length=200)
    key: str = text(primary_key=True, length=255)
    organization_id: str = text(length=63)
    fingerprint: str = text(length=64)
    state: str = text(length=16)
    status: int | None = Field(default=None, nullable=True)
    answer: bytes | None = Field(default=None, sa_type=sa.LargeBinary, nullable=True)
    locked_until: dt.datetime = instant()
    created_at: dt.datetime = Field(sa_type=UtcInstant, nullable=False, index=True)
