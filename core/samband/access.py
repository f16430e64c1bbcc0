"""API keys: made, shown once, kept as hashes, and recognised again."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from samband.store.api_keys import ApiKeys
from samband.store.models import ApiKey

Verb = Literal["read", "operate", "configure", "admin"]
ALL_VERBS: tuple[Verb, ...] = ("read", "operate", "configure", "admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who presented a valid API key.

    Attributes:
        key_id: The key's public part, for the log.
        organizations: The organisations it reaches; None for all.
        verbs: What it may do there.
    """

    key_id: str
    name: str
    organizations: frozenset[str] | None
    verbs: frozenset[str]

    def reaches(self, organization_id: str) -> bool:
        return self.organizations is None or organization_id in self.organizations


class Keys:
    """The keys of one database."""

    def __init__(self, rows: ApiKeys) -> None:
        self._rows = rows

    async def holder_of(self, presented: str) -> Caller | None:
        """Tells who holds this key; None for anything that is not a valid one."""
        prefix, _, rest = presented.partition("_")
        key_id, _, secret = rest.partition("_")
        if prefix != "smb" or not key_id or not secret or len(presented) > 200 or not presented.isascii():
            return None
        key = await self._rows.find(key_id)
        if key is None or key.revoked_at is not None:
            return None
        if not hmac.compare_digest(key.secret_hash, hashlib.sha256(secret.encode()).hexdigest()):
            return None
        organizations = None if key.organizations is None else frozenset(key.organizations)
        return Caller(key_id=key.id, name=key.name, organizations=organizations, verbs=frozenset(key.verbs))

    async def first(self) -> str | None:
        """Makes the first key and gives it in clear, this once; None when there are keys already."""
        if not await self._rows.is_empty():
            return None
        return await self.create("admin", verbs=ALL_VERBS, organizations=None)

    async def create(self, name: str, *, verbs: Sequence[Verb], organizations: Sequence[str] | None) -> str:
        """Makes an API key and gives it in clear; only its hash is kept."""
        key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        row = ApiKey(
            id=key_id, name=name, secret_hash=hashlib.sha256(secret.encode()).hexdigest(), last_four=secret[-4:],
            verbs=list(verbs), organizations=None if organizations is None else list(organizations),
            created_at=dt.datetime.now(dt.UTC),
        )  # fmt: skip
        await self._rows.add(row)
        return f"smb_{key_id}_{secret}"
