"""Records by kind, and the feed of their changes."""

from __future__ import annotations

from samband.errors import NotFoundError
from samband.presenting import record_view
from samband.service.parts import Parts
from samband.views import (
    ChangesPage,
    ChangeView,
    FeedPage,
    RecordView,
)


class Records:
    """What samband holds for an organisation."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def page(
        self, org: str, kind: str, *, after: int = 0, limit: int = 100, include_deleted: bool = False
    ) -> FeedPage:
        """Gives an organisation's records of a kind, in the order they were first seen."""
        await self._parts.store.catalog.organization(org)
        self._demand_kind(kind)
        rows = await self._parts.store.feeds.records(
            org, kind, after=after, limit=limit + 1, include_deleted=include_deleted
        )
        bindings = await self._parts.store.feeds.bindings(org, [r.id for r in rows[:limit]])
        items = [record_view(r, bindings.get(r.id, [])) for r in rows[:limit]]
        return FeedPage(items=items, next=str(items[-1].id) if len(rows) > limit else None)

    async def get(self, org: str, kind: str, record_id: int) -> RecordView:
        await self._parts.store.catalog.organization(org)
        self._demand_kind(kind)
        row = await self._parts.store.feeds.record(org, kind, record_id)
        return record_view(row, (await self._parts.store.feeds.bindings(org, [row.id])).get(row.id, []))

    async def changes(self, org: str, *, after: int = 0, limit: int = 500, kind: str | None = None) -> ChangesPage:
        """Gives what changed after a sequence number, in order. An empty page means: ask again with the same number."""
        await self._parts.store.catalog.organization(org)
        rows = await self._parts.store.feeds.changes(org, after=after, limit=limit + 1, kind=kind)
        items = [
            ChangeView(
                seq=r.seq, kind=r.kind, record_id=r.record_id, op=r.op, version=r.version, at=r.committed_at,
                run=r.run_id,
            )
            for r in rows[:limit]
        ]  # fmt: skip
        return ChangesPage(items=items, next=items[-1].seq if items else after, has_more=len(rows) > limit)

    def _demand_kind(self, kind: str) -> None:
        if kind not in self._parts.registry.kinds:
            known = ", ".join(sorted(self._parts.registry.kinds))
            raise NotFoundError("There is no such kind of record.", code="kind_not_found", hint=f"There are: {known}.")
