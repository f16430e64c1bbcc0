"""Access tokens and the consents that some of them come from."""

# No `from __future__ import annotations` here: SQLModel needs the real types.
import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field

from samband.store.columns import Json, Table, instant, text


class KeptToken(Table, table=True):
    """An integration's token, and the lease under which it is renewed by one worker at a time.

    ``generation`` grows with every token that is stored; ``fence`` with every lease that is granted, and a result that
    comes under an older one is refused. ``is_in_flight`` says that somebody has asked for a token and has not stored
    what came of it: when such a lease runs out, a refresh token may have been spent and lost. ``failure`` keeps a refusal
    that only a person can mend; while it stands nobody asks again.
    """

    __tablename__ = "kept_token"

    integration_id: str = Field(primary_key=True, foreign_key="integration.id", ondelete="CASCADE")
    organization_id: str = text(length=63)
    revision: int = Field(default=0, nullable=False)
    generation: int = Field(default=0, nullable=False)
    sealed: bytes | None = Field(default=None, sa_type=sa.LargeBinary, nullable=True)
    expires_at: dt.datetime | None = instant(nullable=True)
    renew_at: dt.datetime | None = instant(nullable=True)
    fence: int = Field(default=0, nullable=False)
    lease_owner: str | None = text(nullable=True, default=None)
    lease_until: dt.datetime | None = instant(nullable=True)
    is_in_flight: bool = Field(default=False, nullable=False)
    failure: dict[str, Any] | None = Field(default=None, sa_type=Json, nullable=True)
    failed_at: dt.datetime | None = instant(nullable=True)
    updated_at: dt.datetime = instant()


class Consent(Table, table=True):
    """A person who was sent to the other side to agree, and has not come back or has. Known by its state's hash."""

    id: str = text(primary_key=True, length=64)
    organization_id: str = text(length=63)
    integration_id: str = Field(foreign_key="integration.id", nullable=False, ondelete="CASCADE")
    sealed: bytes = Field(sa_type=sa.LargeBinary, nullable=False)
    requested_by: str = text(default="")
    created_at: dt.datetime = instant()
    expires_at: dt.datetime = instant()
    used_at: dt.datetime | None = instant(nullable=True)
