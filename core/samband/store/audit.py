"""The audit trail: who did what, each entry chained by hash to the one before it.

An organisation has a chain of its own, and so has the host (``*``). An entry is appended in the transaction of what it
tells, so there is none without its deed and no deed without its entry. `samband.store.trail` reads and verifies it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.acting import EVERYWHERE, acting
from samband.store.models import AuditEntry, AuditHead, Organization

_entry: sa.Table = AuditEntry.__table__
_head: sa.Table = AuditHead.__table__
_organization: sa.Table = Organization.__table__

HOST = EVERYWHERE
"""The chain of what concerns the whole host."""

_ACTION: Final = re.compile(r"[a-z][a-z0-9_]{0,30}(?:\.[a-z][a-z0-9_]{0,30})+")
_SUBJECT: Final = re.compile(r"[a-z][a-z0-9_-]{0,40}/[^\x00-\x1f\x7f]+")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,40}")
_MAX_ACTION, _MAX_SUBJECT, _MAX_ACTOR = 64, 300, 300
_MAX_NAMES, _MAX_LIST, _MAX_TEXT = 20, 100, 200
# What a JSON number keeps everywhere; the hash must come out the same after the value was in the database.
_MAX_WHOLE = 2**53


async def record(
    conn: AsyncConnection, organization_id: str, action: str, subject: str, detail: Mapping[str, Any] | None = None
) -> None:
    """Appends an entry, in the caller's transaction, by whoever the present task acts for.

    The chain stays locked until that transaction ends, so two deeds of one organisation are told one after the other.

    Args:
        organization_id: Whose chain; `HOST` for the host's.
        action: ``thing.deed`` in the past tense, for instance ``credentials.replaced``.
        subject: Which thing, for instance ``integration/0198…``.
        detail: Names, states, counts, digests. Never a secret, never personal data. At most 20 fields, each a text of
            up to 200 characters (`bounded` cuts one that comes from outside), a whole number, a truth value, None, or a
            list of up to 100 of those.

    Raises:
        ValueError: The action, the subject or the detail is not of that form: a fault of the caller's code, which its
            test meets, and not something a request could bring about.
    """
    _check(action, subject, detail or {})
    head = await _locked_head(conn, organization_id)
    now = dt.datetime.now(dt.UTC)
    at = now.replace(microsecond=now.microsecond // 1000 * 1000)  # what every database keeps of it
    actor, told, seq = acting().actor[:_MAX_ACTOR], dict(detail or {}), head.seq + 1
    digest = entry_hash(
        organization_id, seq, at=at, actor=actor, action=action, subject=subject, detail=told, previous=head.hash
    )
    await conn.execute(
        sa.insert(_entry).values(
            organization_id=organization_id, seq=seq, at=at, actor=actor, action=action, subject=subject, detail=told,
            previous=head.hash, hash=digest,
        )
    )  # fmt: skip
    await conn.execute(sa.update(_head).where(_head.c.organization_id == organization_id).values(seq=seq, hash=digest))


def bounded(text: str) -> str:
    """Gives a text from outside, such as somebody's reason or a host's name, cut to what an entry takes."""
    text = text.replace("\x00", "").encode("utf-8", "replace").decode()
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def entry_hash(
    organization_id: str, seq: int, *, at: dt.datetime, actor: str, action: str, subject: str,
    detail: Mapping[str, Any], previous: str,
) -> str:  # fmt: skip
    """Gives an entry's hash: SHA-256 over everything it says and the hash of the one before it.

    What is hashed is one line of JSON, so that anybody can do the same with an export: a list of the organisation, the
    number, the instant (UTC, with microseconds), actor, action, subject, the detail with its names sorted, and the
    hash before.
    """
    instant = at.astimezone(dt.UTC).isoformat(timespec="microseconds")
    told = [organization_id, seq, instant, actor, action, subject, dict(detail), previous]
    return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def _locked_head(conn: AsyncConnection, organization_id: str) -> sa.Row[Any]:
    if conn.dialect.name != "sqlite" and organization_id != HOST:
        # The organisation's row first, which every event and every page locks too: two transactions that both tell
        # and announce something, in whichever order, then wait for one another instead of each for the other.
        own = sa.select(_organization.c.id).where(_organization.c.id == organization_id)
        await conn.execute(own.with_for_update(key_share=True))
    # The update locks the row: two transactions of one chain append one after the other.
    lock = (
        sa.update(_head)
        .where(_head.c.organization_id == organization_id)
        .values(seq=_head.c.seq)
        .returning(_head.c.seq, _head.c.hash)
    )
    row = (await conn.execute(lock)).one_or_none()
    if row is None:
        await conn.execute(_first_head(conn, organization_id))
        row = (await conn.execute(lock)).one()
    return row


def _first_head(conn: AsyncConnection, organization_id: str) -> sa.Insert:
    values = {"organization_id": organization_id, "seq": 0, "hash": ""}
    if conn.dialect.name == "sqlite":
        return sqlite.insert(_head).values(**values).on_conflict_do_nothing()
    return postgresql.insert(_head).values(**values).on_conflict_do_nothing()


def _check(action: str, subject: str, detail: Mapping[str, Any]) -> None:
    # The texts that are refused are not repeated: they might be what must not get into a log either.
    if len(action) > _MAX_ACTION or not _ACTION.fullmatch(action):
        raise ValueError("the action of an audit entry must read thing.deed")
    if len(subject) > _MAX_SUBJECT or not _SUBJECT.fullmatch(subject):
        raise ValueError(f"the subject of the audit entry {action} must read thing/id, in 300 characters at most")
    if len(detail) > _MAX_NAMES:
        raise ValueError(f"the audit entry {action} has more than {_MAX_NAMES} details")
    for name, value in detail.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"a detail of the audit entry {action} has a name that is no name")
        many = isinstance(value, list | tuple)
        if (many and len(value) > _MAX_LIST) or not all(map(_is_plain, value if many else [value])):
            raise ValueError(f"{name} of the audit entry {action} is of a kind or length that the trail does not take")


def _is_plain(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) <= _MAX_WHOLE
    if not isinstance(value, str) or len(value) > _MAX_TEXT or "\x00" in value:
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
