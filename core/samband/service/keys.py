"""API keys, as their holders see and make them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from samband.access import Caller, Keys, state_of
from samband.store.api_keys import KeyState
from samband.store.models import ApiKey
from samband.views import FeedPage
from samband.views.access import ApiKeyView, NewApiKeyView

__all__ = ["AccessKeys", "key_view", "new_key_view"]


class AccessKeys:
    """The keys of a host. Every method takes the caller first, and never looks beyond what that key reaches."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def create(
        self, by: Caller, name: str, *, verbs: Sequence[str], organizations: Sequence[str] | None,
        expires_at: dt.datetime | None = None,
    ) -> NewApiKeyView:  # fmt: skip
        """Makes a key that reaches no farther, allows no more and lives no longer than the caller's; see `Keys.issue`."""
        row, clear = await self._keys.issue(
            by, name, verbs=verbs, organizations=organizations, expires_at=expires_at
        )  # fmt: skip
        return new_key_view(row, clear)

    async def page(
        self, by: Caller, *, state: KeyState | None = None, after: str | None = None, limit: int = 50
    ) -> FeedPage:
        """Gives the keys within the caller's reach, oldest first."""
        rows = await self._keys.page(by, state=state, after=after, limit=limit + 1)
        items = [key_view(row) for row in rows[:limit]]
        return FeedPage(items=items, next=items[-1].id if len(rows) > limit else None)

    async def get(self, by: Caller, key_id: str) -> ApiKeyView:
        return key_view(await self._keys.get(by, key_id))

    async def revoke(self, by: Caller, key_id: str) -> ApiKeyView:
        """Ends a key at once. Safe to repeat."""
        return key_view(await self._keys.revoke(by, key_id))


def key_view(row: ApiKey) -> ApiKeyView:
    return ApiKeyView(
        id=row.id, name=row.name, verbs=list(row.verbs), organizations=row.organizations, state=state_of(row),
        last_four=row.last_four, created_at=row.created_at, created_by=row.created_by, expires_at=row.expires_at,
        last_used_at=row.last_used_at, revoked_at=row.revoked_at,
    )  # fmt: skip


def new_key_view(row: ApiKey, clear: str) -> NewApiKeyView:
    return NewApiKeyView(**key_view(row).model_dump(), key=clear)
