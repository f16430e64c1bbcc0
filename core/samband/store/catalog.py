"""Organisations, integrations and credentials: few rows, written one by one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import ConflictError, NotFoundError
from samband.store.database import Database
from samband.store.ids import new_id
from samband.store.models import Credential, Integration, Organization
from samband.store.vault import Vault

_organization: sa.Table = Organization.__table__  # type: ignore[attr-defined]
_integration: sa.Table = Integration.__table__  # type: ignore[attr-defined]
_credential: sa.Table = Credential.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class PendingCredentials:
    """Credentials on their way to the vault: never shown, and with the last four characters of each apart."""

    values: bytes = field(repr=False)
    hints: dict[str, str]


class Catalog:
    """Every statement about who is connected to what."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._db = database
        self._vault = vault

    # ── organisations ────────────────────────────────────────────────────────

    async def add_organization(self, organization_id: str, name: str) -> Organization:
        row = Organization(id=organization_id, name=name, created_at=dt.datetime.now(dt.UTC))
        try:
            async with self._db.write() as conn:
                await conn.execute(sa.insert(_organization).values(**row.model_dump()))
        except IntegrityError as err:
            raise ConflictError(
                f"There is an organisation {organization_id!r} already.", code="organization_exists"
            ) from err
        return row

    async def organizations(self) -> list[Organization]:
        async with self._db.read() as conn:
            rows = await conn.execute(sa.select(_organization).order_by(_organization.c.id))
            return [Organization(**row._mapping) for row in rows]

    async def organization(self, organization_id: str) -> Organization:
        """Gives an organisation, or raises `NotFoundError`."""
        async with self._db.read() as conn:
            row = (
                await conn.execute(sa.select(_organization).where(_organization.c.id == organization_id))
            ).one_or_none()
        if row is None:
            raise NotFoundError("There is no such organisation.", code="organization_not_found")
        return Organization(**row._mapping)

    # ── integrations ─────────────────────────────────────────────────────────

    async def add_integration(
        self, organization_id: str, plugin: str, display_name: str, settings: dict[str, Any],
        credentials: PendingCredentials | None = None,
    ) -> Integration:  # fmt: skip
        """Adds an integration, with its credentials in the same transaction where they are given."""
        now = dt.datetime.now(dt.UTC)
        row = Integration(
            id=new_id(), organization_id=organization_id, plugin=plugin, display_name=display_name, state="saved",
            settings=settings, created_at=now, updated_at=now,
        )  # fmt: skip
        try:
            async with self._db.write() as conn:
                await conn.execute(sa.insert(_integration).values(**row.model_dump()))
                if credentials is not None:
                    await self._put_credentials(conn, row, credentials)
        except IntegrityError as err:
            raise ConflictError(
                f"The organisation has a {plugin} integration already.",
                code="integration_exists",
                hint="Change that one instead.",
            ) from err
        return row

    async def integrations(self, organization_id: str) -> list[Integration]:
        async with self._db.read() as conn:
            rows = await conn.execute(
                sa.select(_integration)
                .where(_integration.c.organization_id == organization_id)
                .order_by(_integration.c.plugin)
            )
            return [Integration(**row._mapping) for row in rows]

    async def integration(self, organization_id: str, plugin: str) -> Integration:
        """Gives an organisation's integration of a type, or raises `NotFoundError`."""
        where = sa.and_(_integration.c.organization_id == organization_id, _integration.c.plugin == plugin)
        return await self._integration(where)

    async def integration_by_id(self, integration_id: str) -> Integration:
        """Gives an integration by its id, or raises `NotFoundError`."""
        return await self._integration(_integration.c.id == integration_id)

    async def _integration(self, where: sa.ColumnElement[bool]) -> Integration:
        async with self._db.read() as conn:
            row = (await conn.execute(sa.select(_integration).where(where))).one_or_none()
        if row is None:
            raise NotFoundError("There is no such integration.", code="integration_not_found")
        return Integration(**row._mapping)

    async def change_integration(
        self, integration: Integration, *, if_revision: int | None = None, is_retest_needed: bool = False,
        forget_credentials: bool = False, **values: Any,
    ) -> Integration:  # fmt: skip
        """Changes an integration and raises its revision, in one transaction.

        Args:
            if_revision: Only if nobody changed it since this revision.
            is_retest_needed: What was tested is no longer what is there: a tested or enabled one becomes ``saved``.
            forget_credentials: Throws the credentials away.

        Raises:
            ConflictError: Somebody changed the integration meanwhile.
        """
        if is_retest_needed:
            values |= {"state": _to_be_tested("tested", "enabled"), "last_check": None, "connection": "unknown"}
        async with self._db.write() as conn:
            changed = await self._change(conn, integration, if_revision, values)
            if forget_credentials:
                await conn.execute(sa.delete(_credential).where(_credential.c.integration_id == integration.id))
        return changed

    async def _change(
        self, conn: AsyncConnection, integration: Integration, if_revision: int | None, values: dict[str, Any]
    ) -> Integration:
        statement = sa.update(_integration).where(_integration.c.id == integration.id)
        if if_revision is not None:
            statement = statement.where(_integration.c.revision == if_revision)
        edited = {"revision": _integration.c.revision + 1, "updated_at": dt.datetime.now(dt.UTC)}
        row = (await conn.execute(statement.values(**edited, **values).returning(_integration))).one_or_none()
        if row is None:
            raise ConflictError(
                "The integration was changed by somebody else meanwhile.",
                code="revision_mismatch",
                hint="Fetch it again, and repeat your change on what you find.",
            )
        return Integration(**row._mapping)

    async def note_check(self, integration: Integration, check: dict[str, Any], **values: Any) -> Integration:
        """Keeps what a connection test found, without raising the revision: nobody edited anything."""
        async with self._db.write() as conn:
            row = (
                await conn.execute(
                    sa.update(_integration)
                    .where(_integration.c.id == integration.id, _integration.c.revision == integration.revision)
                    .values(last_check=check, **values)
                    .returning(_integration)
                )
            ).one_or_none()
        # Settings that changed during the test were not the ones tested, so the result is not theirs.
        return integration if row is None else Integration(**row._mapping)

    # ── credentials ──────────────────────────────────────────────────────────

    def pending(self, values: dict[str, Any], hints: dict[str, str]) -> PendingCredentials:
        """Holds credentials ready for being stored; they are sealed for the integration they are stored with."""
        return PendingCredentials(values=orjson.dumps(values), hints=hints)

    async def set_credentials(self, integration: Integration, credentials: PendingCredentials) -> Integration:
        """Stores credentials in place of those before; a tested integration has to be tested again."""
        values = {"state": _to_be_tested("tested"), "last_check": None, "connection": "unknown"}
        async with self._db.write() as conn:
            await self._put_credentials(conn, integration, credentials)
            return await self._change(conn, integration, None, values)

    async def _put_credentials(
        self, conn: AsyncConnection, integration: Integration, credentials: PendingCredentials
    ) -> None:
        await conn.execute(sa.delete(_credential).where(_credential.c.integration_id == integration.id))
        await conn.execute(
            sa.insert(_credential).values(
                integration_id=integration.id, organization_id=integration.organization_id,
                sealed=self._vault.seal(credentials.values, owner=_owner(integration)), hints=credentials.hints,
                updated_at=dt.datetime.now(dt.UTC),
            )
        )  # fmt: skip

    async def credentials(self, integration: Integration) -> dict[str, Any] | None:
        """Opens the credentials; None when none were given. Call only at the moment of use."""
        async with self._db.read() as conn:
            sealed = await conn.scalar(
                sa.select(_credential.c.sealed).where(_credential.c.integration_id == integration.id)
            )
        if sealed is None:
            return None
        opened = orjson.loads(self._vault.open(bytes(sealed), owner=_owner(integration)))
        return dict(opened)

    async def missing_keys(self) -> list[str]:
        """Gives the ids of keys that stored credentials were sealed with and that are not here."""
        async with self._db.read() as conn:
            heads = await conn.scalars(sa.select(sa.func.substr(_credential.c.sealed, 1, 9)).distinct())
            found = {self._vault.missing_key(bytes(head)) for head in heads}
        return sorted(key for key in found if key is not None)

    async def credential_hints(self, integration_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """Gives, per integration, field → last four characters."""
        async with self._db.read() as conn:
            rows = await conn.execute(
                sa.select(_credential.c.integration_id, _credential.c.hints).where(
                    _credential.c.integration_id.in_(integration_ids)
                )
            )
            return {row.integration_id: dict(row.hints) for row in rows}


def _owner(integration: Integration) -> str:
    return f"{integration.organization_id}/{integration.id}/credentials"


def _to_be_tested(*states: str) -> sa.ColumnElement[str]:
    """Decided from the row as it is then, so that a change made meanwhile (switched off, say) is not undone."""
    return sa.case((_integration.c.state.in_(states), "saved"), else_=_integration.c.state)
