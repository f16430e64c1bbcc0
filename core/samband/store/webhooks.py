"""The addresses that integrations are told at, and the secrets their deliveries are proved with."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import ConflictError
from samband.store import audit, columns
from samband.store.database import Database
from samband.store.models import Integration, Webhook
from samband.store.vault import Vault

_webhook: sa.Table = Webhook.__table__
_integration: sa.Table = Integration.__table__

RECOGNISED_DAYS = 30
"""How long a replaced secret is still recognised, so that a refusal can say that it is the old one."""

_MAX_RETIRED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSecret:
    """A secret and when it stops counting; None for the one that counts until it is replaced."""

    value: SecretStr
    until: dt.datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An opened webhook.

    Attributes:
        key: The unguessable part of the address.
        dedupe_key: What delivery ids are hashed under; outlives the address, because ids are known for ever.
        secrets: Newest first.
    """

    integration_id: str
    organization_id: str
    plugin: str
    revision: int
    key: str = field(repr=False)
    dedupe_key: bytes = field(repr=False)
    secrets: tuple[KeptSecret, ...] = field(repr=False)
    hint: str = ""
    created_at: dt.datetime
    updated_at: dt.datetime
    received_at: dt.datetime | None = None

    def counting(self, now: dt.datetime) -> tuple[SecretStr, ...]:
        """Gives the secrets that a delivery may be proved with, newest first."""
        return tuple(s.value for s in self.secrets if s.until is None or s.until > now)

    def retired(self, now: dt.datetime) -> tuple[SecretStr, ...]:
        """Gives the secrets that were replaced and do not count any more."""
        return tuple(s.value for s in self.secrets if s.until is not None and s.until <= now)


@dataclass(frozen=True, slots=True)
class Found:
    """What one look at an address says: enough to know whether what was opened before still holds."""

    integration_id: str
    plugin: str
    state: str
    revisions: tuple[int, int]


def key_hash(key: str) -> str:
    """Gives what an address is looked up by. A key has 256 random bits, so a plain hash gives nothing away."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class Webhooks:
    """Every statement about addresses and their secrets."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._db = database
        self._vault = vault

    # ── on the way in ────────────────────────────────────────────────────────

    async def look(self, key_hashes: Sequence[str]) -> dict[str, Found]:
        """Gives what is behind each hash that stands for an address, in one query."""
        statement = (
            sa.select(
                _webhook.c.key_hash, _webhook.c.integration_id, _webhook.c.plugin, _integration.c.state,
                _webhook.c.revision, _integration.c.revision.label("settings_revision"),
            )
            .join(_integration, _integration.c.id == _webhook.c.integration_id)
            .where(_webhook.c.key_hash.in_(key_hashes), _webhook.c.is_enabled)
        )  # fmt: skip
        async with self._db.read() as conn:
            return {
                row.key_hash: Found(
                    row.integration_id, row.plugin, row.state, (row.revision, row.settings_revision)
                )
                for row in await conn.execute(statement)
            }  # fmt: skip

    # ── for whoever looks after it ───────────────────────────────────────────

    async def of(self, integration_id: str) -> Address | None:
        """Gives an integration's address, opened; None when it has none. Call it only at the moment of use."""
        async with self._db.read() as conn:
            row = await self._row(conn, integration_id, is_locked=False)
        return None if row is None or not row.is_enabled else self._opened(row)

    async def put(
        self, integration: Integration, *, secret: str | None, first_secret: str | None = None, new_address: bool,
        if_revision: int | None,
    ) -> Address:  # fmt: skip
        """Makes the address, or changes it; a secret that is given replaces the one before at once.

        Args:
            first_secret: Taken where there is none and none is given.

        Raises:
            ConflictError: Somebody else has changed it since ``if_revision``, or has just made the first one.
        """
        try:
            async with self._db.write() as conn:
                row, now = await self._row(conn, integration.id), columns.now()
                _demand_revision(row.revision if row is not None and row.is_enabled else 0, if_revision)
                address = _fresh(integration, now) if row is None else self._opened(row)
                is_made = row is None or not row.is_enabled
                if is_made or new_address:
                    address = replace(address, key=_new_key())
                given = secret or (None if address.secrets else first_secret)
                if given is not None:
                    address = _with_secret(address, given, now, dt.timedelta(0))
                address = replace(address, revision=address.revision + 1, updated_at=now)
                await self._save(conn, address, is_new=row is None)
                deed = "webhook.created" if is_made else "webhook.changed"
                detail = {"secret_replaced": given is not None, "new_address": is_made or new_address}
                await audit.record(conn, integration.organization_id, deed, f"integration/{integration.id}", detail)
        except IntegrityError:
            raise _changed_meanwhile() from None
        return address

    async def replace_secret(
        self, integration: Integration, secret: str, *, overlap_s: int, if_revision: int | None = None
    ) -> Address | None:
        """Puts a new secret in front; the one before counts for ``overlap_s`` more. None when there is no address."""
        now = columns.now()
        async with self._db.write() as conn:
            row = await self._row(conn, integration.id)
            if row is None or not row.is_enabled:
                return None
            _demand_revision(row.revision, if_revision)
            opened = replace(self._opened(row), revision=row.revision + 1, updated_at=now)
            address = _with_secret(opened, secret, now, dt.timedelta(seconds=overlap_s))
            await self._save(conn, address)
            await audit.record(
                conn, integration.organization_id, "webhook.secret_replaced", f"integration/{integration.id}",
                {"overlap_s": overlap_s},
            )  # fmt: skip
        return address

    async def remove(self, integration: Integration, *, if_revision: int | None) -> bool:
        """Takes the address away; False when there was none.

        What delivery ids are hashed under stays, so that an address made later knows what came to this one.
        """
        now = columns.now()
        async with self._db.write() as conn:
            row = await self._row(conn, integration.id)
            if row is None or not row.is_enabled:
                return False
            _demand_revision(row.revision, if_revision)
            gone = replace(
                self._opened(row), revision=row.revision + 1, updated_at=now, key=_new_key(), secrets=(), hint=""
            )
            await self._save(conn, gone, is_enabled=False)
            await audit.record(conn, integration.organization_id, "webhook.removed", f"integration/{integration.id}")
        return True

    async def _row(self, conn: AsyncConnection, integration_id: str, *, is_locked: bool = True) -> sa.Row[Any] | None:
        statement = sa.select(_webhook).where(_webhook.c.integration_id == integration_id)
        if is_locked and not self._db.is_sqlite:
            statement = statement.with_for_update()
        return (await conn.execute(statement)).one_or_none()

    async def _save(
        self, conn: AsyncConnection, address: Address, *, is_enabled: bool = True, is_new: bool = False
    ) -> None:
        sealed = self._vault.seal(_packed(address), owner=_owner(address.organization_id, address.integration_id))
        values = {
            "key_hash": key_hash(address.key), "sealed": sealed, "hint": address.hint, "is_enabled": is_enabled,
            "revision": address.revision, "updated_at": address.updated_at,
        }  # fmt: skip
        if not is_new:
            mine = _webhook.c.integration_id == address.integration_id
            await conn.execute(sa.update(_webhook).where(mine).values(**values))
            return
        # Not an upsert: of two that make the first one at once, the later must not put its own in place of the other's.
        await conn.execute(
            sa.insert(_webhook).values(
                integration_id=address.integration_id, organization_id=address.organization_id, plugin=address.plugin,
                created_at=address.created_at, **values,
            )
        )  # fmt: skip

    def _opened(self, row: sa.Row[Any]) -> Address:
        owner = _owner(row.organization_id, row.integration_id)
        told = orjson.loads(self._vault.open(bytes(row.sealed), owner=owner))
        kept = tuple(
            KeptSecret(value=SecretStr(s["value"]), until=s["until"] and dt.datetime.fromisoformat(s["until"]))
            for s in told["secrets"]
        )
        return Address(
            integration_id=row.integration_id, organization_id=row.organization_id, plugin=row.plugin,
            revision=row.revision, key=told["key"], dedupe_key=base64.b64decode(told["dedupe_key"]), secrets=kept,
            hint=row.hint, created_at=row.created_at, updated_at=row.updated_at, received_at=row.received_at,
        )  # fmt: skip


def _fresh(integration: Integration, now: dt.datetime) -> Address:
    return Address(
        integration_id=integration.id, organization_id=integration.organization_id, plugin=integration.plugin,
        revision=0, key=_new_key(), dedupe_key=secrets.token_bytes(32), secrets=(), created_at=now, updated_at=now,
    )  # fmt: skip


def _with_secret(address: Address, secret: str, now: dt.datetime, overlap: dt.timedelta) -> Address:
    older = [replace(s, until=min(s.until or now + overlap, now + overlap)) for s in address.secrets]
    # A secret that comes back is the newest one, not a retired one beside it.
    older = [
        s
        for s in older
        if s.value.get_secret_value() != secret and (s.until or now) > now - dt.timedelta(days=RECOGNISED_DAYS)
    ]
    counting = [s for s in older if s.until is not None and s.until > now]
    retired = [s for s in older if s not in counting][:_MAX_RETIRED]
    kept = (KeptSecret(value=SecretStr(secret)), *counting, *retired)
    return replace(address, secrets=kept, hint=secret[-4:])


def _packed(address: Address) -> bytes:
    return orjson.dumps({
        "key": address.key,
        "dedupe_key": base64.b64encode(address.dedupe_key).decode(),
        "secrets": [
            {"value": s.value.get_secret_value(), "until": None if s.until is None else s.until.isoformat()}
            for s in address.secrets
        ],
    })  # fmt: skip


def _owner(organization_id: str, integration_id: str) -> str:
    return f"{organization_id}/{integration_id}/webhook"


def _new_key() -> str:
    return secrets.token_urlsafe(32)


def _demand_revision(revision: int, if_revision: int | None) -> None:
    if if_revision is not None and if_revision != revision:
        raise _changed_meanwhile()


def _changed_meanwhile() -> ConflictError:
    return ConflictError(
        "The webhook was changed by somebody else meanwhile.",
        code="revision_mismatch",
        hint="Fetch it again, and repeat your change on what you find.",
    )
