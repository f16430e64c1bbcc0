"""Who has fetched kept files, as the audit trail tells it: noted there and nowhere else, so the two cannot differ."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.store.models import AuditEntry

__all__ = ["DOWNLOADED", "Download", "downloads_in", "file_subject"]

_entry: sa.Table = AuditEntry.__table__

DOWNLOADED: Final = "export_file.downloaded"

_SHOWN: Final = 20
# Written out, not bound: SQLite uses the index of these entries only when it can read the action in the statement.
_IS_DOWNLOAD: Final = sa.text(f"action = '{DOWNLOADED}'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One time that a file was fetched.

    Attributes:
        by: Who, as the audit trail names them.
        profile: What was fetched: ``machine``, ``human`` or ``json``.
        times: How often the file was fetched in all, this one included.
    """

    at: dt.datetime
    by: str
    profile: str
    times: int


def file_subject(file_id: str) -> str:
    """Gives what the audit trail calls a file."""
    return f"export_file/{file_id}"


async def downloads_in(
    conn: AsyncConnection, organization_id: str, file_ids: Collection[str]
) -> dict[str, list[Download]]:
    """Gives file → who has fetched it, newest first, the last twenty times; files that nobody fetched are left out."""
    if not file_ids:
        return {}
    named = {file_subject(id): id for id in file_ids}
    newest: Any = sa.func.row_number().over(partition_by=_entry.c.subject, order_by=_entry.c.seq.desc())
    times: Any = sa.func.count().over(partition_by=_entry.c.subject)
    found = (
        sa.select(
            _entry.c.subject, _entry.c.at, _entry.c.actor, _entry.c.detail, newest.label("place"), times.label("times")
        )
        .where(_entry.c.organization_id == organization_id, _entry.c.subject.in_(named), _IS_DOWNLOAD)
        .subquery()
    )
    shown: dict[str, list[Download]] = {}
    query = sa.select(found).where(found.c.place <= _SHOWN).order_by(found.c.subject, found.c.place)
    for row in await conn.execute(query):
        download = Download(at=row.at, by=row.actor, profile=row.detail["profile"], times=row.times)
        shown.setdefault(named[row.subject], []).append(download)
    return shown
