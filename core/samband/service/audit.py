"""The audit trail: read, taken along as a table, and verified."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator

import orjson

from samband.service.parts import Parts
from samband.store.audit import HOST
from samband.store.models import AuditEntry, iso_ms
from samband.store.trail import Verdict, Wanted
from samband.views import FeedPage
from samband.views.audit import AuditEntryView, AuditVerificationView, FlawView

__all__ = ["HOST", "Audit", "Wanted", "entry_view", "verification_view"]

_COLUMNS = ("seq", "at", "actor", "action", "subject", "detail", "previous", "hash")
# A spreadsheet takes a text that begins so for a formula (OWASP, "CSV Injection"); an apostrophe makes it a text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class Audit:
    """Who did what. The organisation `HOST` stands for the host's own chain."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def page(self, org: str, wanted: Wanted | None = None, *, after: int = 0, limit: int = 50) -> FeedPage:
        """Gives entries in the order they were made."""
        await self._demand(org)
        rows = await self._parts.store.trail.page(org, wanted or Wanted(), after=after, limit=limit + 1)
        items = [entry_view(row) for row in rows[:limit]]
        return FeedPage(items=items, next=str(items[-1].seq) if len(rows) > limit else None)

    async def table(self, org: str, wanted: Wanted | None = None) -> AsyncIterator[bytes]:
        """Gives the entries as CSV (RFC 4180, UTF-8), part by part, safe to be opened in a spreadsheet."""
        await self._demand(org)
        return self._rows(org, wanted or Wanted())

    async def verify(self, org: str, *, expect: str | None = None) -> AuditVerificationView:
        """Walks the chain and tells what is wrong with it first, if anything is.

        Args:
            expect: A ``newest_hash`` of an earlier walk, kept elsewhere: it must be met.
        """
        await self._demand(org)
        return verification_view(await self._parts.store.trail.verify(org, expect=expect))

    async def _rows(self, org: str, wanted: Wanted) -> AsyncIterator[bytes]:
        yield _csv([_COLUMNS])
        async for entries in self._parts.store.trail.each(org, wanted):
            yield _csv([_row(entry) for entry in entries])

    async def _demand(self, org: str) -> None:
        if org != HOST:
            await self._parts.store.catalog.organization(org)


def entry_view(row: AuditEntry) -> AuditEntryView:
    return AuditEntryView(
        seq=row.seq, at=row.at, actor=row.actor, action=row.action, subject=row.subject, detail=row.detail,
        previous=row.previous, hash=row.hash,
    )  # fmt: skip


def verification_view(verdict: Verdict) -> AuditVerificationView:
    flaw = None
    if verdict.flaw is not None:
        flaw = FlawView(code=verdict.flaw, seq=verdict.flaw_seq or 0, message=verdict.message)
    return AuditVerificationView(
        organization=verdict.organization_id, ok=flaw is None, entries=verdict.entries, newest_seq=verdict.newest_seq,
        newest_hash=verdict.newest_hash, newest_at=verdict.newest_at, expected_seq=verdict.expected_seq, flaw=flaw,
    )  # fmt: skip


def _row(entry: AuditEntry) -> tuple[str, ...]:
    detail = orjson.dumps(entry.detail, option=orjson.OPT_SORT_KEYS).decode()
    texts = (entry.actor, entry.action, entry.subject, detail)
    return (str(entry.seq), iso_ms(entry.at), *map(_as_text, texts), entry.previous, entry.hash)


def _as_text(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) else value


def _csv(rows: list[tuple[str, ...]]) -> bytes:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue().encode()
