"""Drop points: where an integration's files go, and what signs in there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import NotFoundError
from samband.store import audit, columns
from samband.store.catalog import changed_meanwhile
from samband.store.database import Database
from samband.store.models import DropPoint, Integration
from samband.store.vault import Vault

_drop: sa.Table = DropPoint.__table__


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPoint:
    """A stored drop point. ``secret`` is opened: hold it no longer than it is used."""

    settings: dict[str, Any]
    secret: bytes | None = field(repr=False)
    hint: str
    revision: int
    updated_at: dt.datetime


class Drops:
    """Every statement about drop points."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._db = database
        self._vault = vault

    async def find(self, integration_id: str) -> KeptPoint | None:
        """Gives an integration's drop point; None when it has none."""
        async with self._db.read() as conn:
            row = await _row(conn, integration_id)
        if row is None:
            return None
        secret = None
        if row.secret is not None:
            secret = self._vault.open(bytes(row.secret), owner=_owner(row.organization_id, integration_id))
        return KeptPoint(
            settings=row.settings, secret=secret, hint=row.hint, revision=row.revision, updated_at=row.updated_at
        )

    async def put(
        self, integration: Integration, settings: Mapping[str, Any], *, secret: bytes | None, hint: str,
        keep_secret: bool, if_revision: int | None,
    ) -> None:  # fmt: skip
        """Sets the drop point.

        Args:
            secret: What signs in; None for none, unless ``keep_secret``.
            keep_secret: Leaves the present one.

        Raises:
            ConflictError: Somebody else has changed it since ``if_revision``.
        """
        sealed = None
        if secret is not None:
            sealed = self._vault.seal(secret, owner=_owner(integration.organization_id, integration.id))
        try:
            async with self._db.write() as conn:
                row = await _row(conn, integration.id)
                if if_revision not in (None, 0 if row is None else row.revision):
                    raise changed_meanwhile()
                values: dict[str, Any] = {"settings": dict(settings), "updated_at": columns.now()}
                if not keep_secret:
                    values |= {"secret": sealed, "hint": hint}
                await self._save(conn, integration, row, values)
                detail = {"kind": settings["kind"], "secret_replaced": secret is not None}
                subject = f"integration/{integration.id}"
                await audit.record(conn, integration.organization_id, "drop.changed", subject, detail)
        except IntegrityError:
            raise changed_meanwhile() from None

    async def _save(
        self, conn: AsyncConnection, integration: Integration, row: sa.Row[Any] | None, values: Mapping[str, Any]
    ) -> None:
        if row is None:
            whose = {"integration_id": integration.id, "organization_id": integration.organization_id, "revision": 1}
            await conn.execute(sa.insert(_drop).values(**{"secret": None, "hint": "", **whose, **values}))
            return
        mine = sa.and_(_drop.c.integration_id == integration.id, _drop.c.revision == row.revision)
        changed = await conn.execute(sa.update(_drop).where(mine).values(revision=_drop.c.revision + 1, **values))
        if changed.rowcount != 1:
            raise changed_meanwhile()

    async def remove(self, integration: Integration, *, if_revision: int | None) -> None:
        """Forgets the drop point and what signs in there. What was put there stays there."""
        async with self._db.write() as conn:
            row = await _row(conn, integration.id)
            if row is None:
                raise no_drop()
            if if_revision not in (None, row.revision):
                raise changed_meanwhile()
            await conn.execute(sa.delete(_drop).where(_drop.c.integration_id == integration.id))
            subject = f"integration/{integration.id}"
            await audit.record(
                conn, integration.organization_id, "drop.removed", subject, {"kind": row.settings["kind"]}
            )


def no_drop() -> NotFoundError:
    """Gives the error for an integration without a drop point."""
    return NotFoundError("The integration has no drop point.", code="drop_not_found", hint="Set one first.")


async def _row(conn: AsyncConnection, integration_id: str) -> sa.Row[Any] | None:
    return (await conn.execute(sa.select(_drop).where(_drop.c.integration_id == integration_id))).one_or_none()


def _owner(organization_id: str, integration_id: str) -> str:
    return f"{organization_id}/{integration_id}/drop"
