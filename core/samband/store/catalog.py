"""Organisations, integrations and credentials: few rows, written one by one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import ConflictError, NotFoundError
from samband.store import audit
from samband.store.columns import iso_ms, now
from samband.store.connections import move_connection
from samband.store.database import Database
from samband.store.ids import new_id
from samband.store.models import Credential, Integration, Organization
from samband.store.vault import Vault

_organization: sa.Table = Organization.__table__
_integration: sa.Table = Integration.__table__
_credential: sa.Table = Credential.__table__

_MOST_NAMES = 50
"""What one list in the audit trail holds."""


@dataclass(frozen=True, slots=True)
class PendingCredentials:
    """Credentials on their way to the vault: never shown, and with the last four characters of each apart.

    ``expires_at`` is when they stop working, as far as anybody knows.
    """

    values: bytes = field(repr=False)
    hints: dict[str, str]
    fields: tuple[str, ...] = ()
    expires_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialFacts:
    """What may be shown of stored credentials.

    Attributes:
        hints: Field → last four characters.
        revision: Grows with every replacement, also over a time without credentials.
        updated_at: When they were last set.
        expires_at: When they stop working; None when nobody knows.
    """

    hints: dict[str, str]
    revision: int
    updated_at: dt.datetime
    expires_at: dt.datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiringCredentials:
    """Credentials that somebody has to replace before ``expires_at``, and whose they are."""

    organization_id: str
    integration_id: str
    plugin: str
    state: str
    expires_at: dt.datetime


def changed_meanwhile() -> ConflictError:
    """Gives the refusal of a change that was made on something which is no longer so."""
    return ConflictError(
        "The integration was changed by somebody else meanwhile.",
        code="revision_mismatch",
        hint="Fetch it again, and repeat your change on what you find.",
    )


class Catalog:
    """Every statement about who is connected to what."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._db = database
        self._vault = vault

    # ── organisations ────────────────────────────────────────────────────────

    async def add_organization(self, organization_id: str, name: str) -> Organization:
        row = Organization(id=organization_id, name=name, created_at=now())
        try:
            async with self._db.write() as conn:
                await conn.execute(sa.insert(_organization).values(**row.model_dump()))
                await audit.record(conn, organization_id, "organization.created", f"organization/{organization_id}")
        except IntegrityError as err:
            raise ConflictError(
                f"There is an organisation {organization_id!r} already.", code="organization_exists"
            ) from err
        return row

    async def organizations(
        self, among: Collection[str] | None = None, *, after: str | None = None, limit: int | None = None
    ) -> list[Organization]:
        """Gives organisations by id.

        Args:
            among: Only these; None for all.
            after: Goes on after this id.
        """
        query = sa.select(_organization).order_by(_organization.c.id).limit(limit)
        if among is not None:
            query = query.where(_organization.c.id.in_(among))
        if after is not None:
            query = query.where(_organization.c.id > after)
        async with self._db.read() as conn:
            return [Organization(**row._mapping) for row in await conn.execute(query)]

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
        at = now()
        row = Integration(
            id=new_id(), organization_id=organization_id, plugin=plugin, display_name=display_name, state="saved",
            settings=settings, created_at=at, updated_at=at,
        )  # fmt: skip
        try:
            async with self._db.write() as conn:
                await conn.execute(sa.insert(_integration).values(**row.model_dump()))
                await _record(conn, row, "integration.created", type=plugin, settings=sorted(settings)[:_MOST_NAMES])
                if credentials is not None:
                    await self._put_credentials(conn, row, credentials, is_tested=False)
        except IntegrityError as err:
            raise ConflictError(
                f"The organisation has a {plugin} integration already.",
                code="integration_exists",
                hint="Change that one instead.",
            ) from err
        return row

    async def integrations(
        self, organization_id: str, *, after: str | None = None, limit: int | None = None
    ) -> list[Integration]:
        """Gives an organisation's integrations by type, from the one after ``after`` on."""
        query = sa.select(_integration).where(_integration.c.organization_id == organization_id)
        if after is not None:
            query = query.where(_integration.c.plugin > after)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_integration.c.plugin).limit(limit))
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
        is_retest_needed = is_retest_needed or forget_credentials
        if is_retest_needed:
            values |= {"state": _to_be_tested("tested", "enabled"), "last_check": None}
        async with self._db.write() as conn:
            before = await _locked(conn, integration.id)
            if values.get("state") == "enabled":
                await self._demand_credentials(conn, integration.id)
            if is_retest_needed:
                await move_connection(conn, integration.id, "unknown")
            changed = await self._change(conn, integration.id, if_revision, values)
            action, detail = _told(before, changed)
            await _record(conn, changed, action, **detail)
            if forget_credentials:
                gone = await conn.execute(sa.delete(_credential).where(_credential.c.integration_id == integration.id))
                if gone.rowcount:
                    await _record(conn, changed, "credentials.forgotten", reason="settings_lead_to_other_hosts")
        return changed

    async def _demand_credentials(self, conn: AsyncConnection, integration_id: str) -> None:
        # The integration's row is locked by now, and whoever takes credentials away locks it first: nobody can now.
        found = await conn.scalar(
            sa.select(sa.literal(1)).where(_credential.c.integration_id == integration_id).limit(1)
        )
        if found is None:
            raise ConflictError(
                "The integration has no credentials.", code="credentials_missing", hint="Set its credentials first."
            )

    async def _change(
        self, conn: AsyncConnection, integration_id: str, if_revision: int | None, values: dict[str, Any]
    ) -> Integration:
        statement = sa.update(_integration).where(_integration.c.id == integration_id)
        if if_revision is not None:
            statement = statement.where(_integration.c.revision == if_revision)
        edited = {"revision": _integration.c.revision + 1, "updated_at": dt.datetime.now(dt.UTC)}
        row = (await conn.execute(statement.values(**edited, **values).returning(_integration))).one_or_none()
        if row is None:
            raise changed_meanwhile()
        return Integration(**row._mapping)

    async def note_check(
        self, integration: Integration, check: dict[str, Any], connection: str, *, code: str = "", **values: Any
    ) -> None:
        """Keeps what a connection test found, without raising the revision: nobody edited anything.

        Args:
            check: A `samband.views.CheckView` as JSON.
            connection: What it says about the connection; told as an event when that is a change.
            code: Of the error that was met.
        """
        async with self._db.write() as conn:
            present = await _locked(conn, integration.id)
            if present is None or present.revision != integration.revision:
                return  # settings that changed during the test were not the ones tested, so the result is not theirs
            await move_connection(
                conn, integration.id, connection, code=code, last_check=check, latency_ms=check["latency_ms"],
                probed_at=dt.datetime.now(dt.UTC), **values,
            )  # fmt: skip

    # ── credentials ──────────────────────────────────────────────────────────

    def pending(
        self, values: dict[str, Any], hints: dict[str, str], expires_at: dt.datetime | None = None
    ) -> PendingCredentials:
        """Holds credentials ready for being stored; they are sealed for the integration they are stored with."""
        return PendingCredentials(
            values=orjson.dumps(values), hints=hints, fields=tuple(sorted(values)), expires_at=expires_at
        )

    async def set_credentials(
        self, integration: Integration, credentials: PendingCredentials, *, if_revision: int | None = None,
        check: dict[str, Any] | None = None,
    ) -> Integration:  # fmt: skip
        """Stores credentials in place of those before, in one transaction with what that means for the integration.

        Args:
            if_revision: Only if nobody changed the integration since this revision.
            check: The test that these very credentials passed: the integration stays what it is. Without one it has
                to be tested again: a tested or enabled one becomes ``saved``.

        Raises:
            ConflictError: Somebody changed the integration meanwhile.
        """
        values: dict[str, Any] = {"last_check": check}
        if check is None:
            values["state"] = _to_be_tested("tested", "enabled")
        async with self._db.write() as conn:
            await _locked(conn, integration.id)
            await move_connection(conn, integration.id, "unknown" if check is None else "connected")
            changed = await self._change(conn, integration.id, if_revision, values)
            await self._put_credentials(conn, changed, credentials, is_tested=check is not None)
        return changed

    async def note_refused_credentials(self, integration: Integration, code: str) -> None:
        """Writes down that somebody tried to replace the credentials with ones that do not work."""
        async with self._db.write() as conn:
            await _record(conn, integration, "credentials.refused", code=code)

    async def _put_credentials(
        self, conn: AsyncConnection, integration: Integration, credentials: PendingCredentials, *, is_tested: bool
    ) -> None:
        values = {
            "organization_id": integration.organization_id, "hints": credentials.hints,
            "sealed": self._vault.seal(credentials.values, owner=_owner(integration)),
            # The integration's own revision: it grows with every replacement, and goes on growing while there are none,
            # so a token that was obtained with former credentials can never pass for one of these.
            "revision": integration.revision,
            "expires_at": credentials.expires_at, "updated_at": dt.datetime.now(dt.UTC),
        }  # fmt: skip
        mine = _credential.c.integration_id == integration.id
        replaced = (await conn.execute(sa.update(_credential).where(mine).values(**values))).rowcount
        if not replaced:
            await conn.execute(sa.insert(_credential).values(integration_id=integration.id, **values))
        await _record(
            conn, integration, "credentials.replaced" if replaced else "credentials.set",
            fields=list(credentials.fields[:_MOST_NAMES]), revision=integration.revision, tested=is_tested,
            expires_at=None if credentials.expires_at is None else iso_ms(credentials.expires_at),
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

    async def credential_facts(self, integration_ids: Sequence[str]) -> dict[str, CredentialFacts]:
        """Gives, per integration that has credentials, what may be shown of them."""
        shown = _credential.c.hints, _credential.c.revision, _credential.c.updated_at, _credential.c.expires_at
        mine = _credential.c.integration_id.in_(integration_ids)
        async with self._db.read() as conn:
            rows = await conn.execute(sa.select(_credential.c.integration_id, *shown).where(mine))
            return {
                row.integration_id: CredentialFacts(
                    hints=dict(row.hints), revision=row.revision, updated_at=row.updated_at, expires_at=row.expires_at
                )
                for row in rows
            }

    async def expiring_credentials(self, before: dt.datetime) -> list[ExpiringCredentials]:
        """Gives the credentials of every organisation that stop working before an instant, the first to end first.

        Those that have ended already are among them, and those of integrations that are switched off.
        """
        whose = _integration.c.organization_id, _integration.c.plugin, _integration.c.state
        query = (
            sa.select(_integration.c.id, *whose, _credential.c.expires_at)
            .join(_credential, _credential.c.integration_id == _integration.c.id)
            .where(_credential.c.expires_at < before)
            .order_by(_credential.c.expires_at, _integration.c.id)
        )
        async with self._db.read() as conn:
            return [
                ExpiringCredentials(
                    organization_id=row.organization_id, integration_id=row.id, plugin=row.plugin, state=row.state,
                    expires_at=row.expires_at,
                )
                for row in await conn.execute(query)
            ]  # fmt: skip


def _owner(integration: Integration) -> str:
    return f"{integration.organization_id}/{integration.id}/credentials"


def _to_be_tested(*states: str) -> sa.ColumnElement[str]:
    """Decided from the row as it is then, so that a change made meanwhile (switched off, say) is not undone."""
    return sa.case((_integration.c.state.in_(states), "saved"), else_=_integration.c.state)


async def _locked(conn: AsyncConnection, integration_id: str) -> Integration | None:
    """Gives an integration as it is now; nobody else changes it before this transaction ends."""
    row = (
        await conn.execute(sa.select(_integration).where(_integration.c.id == integration_id).with_for_update())
    ).one_or_none()
    return None if row is None else Integration(**row._mapping)


def _told(before: Integration | None, changed: Integration) -> tuple[str, dict[str, Any]]:
    """Gives what a change is called in the audit trail. Of settings only the names: their values may say too much."""
    was: dict[str, Any] = {} if before is None else before.settings
    settings = sorted(
        name for name in was.keys() | changed.settings.keys() if was.get(name) != changed.settings.get(name)
    )
    state_before = "" if before is None else before.state
    detail: dict[str, Any] = {"state": changed.state, "before": state_before, "revision": changed.revision}
    if state_before != changed.state and changed.state in ("enabled", "disabled"):
        return f"integration.{changed.state}", detail
    return "integration.changed", detail | ({"settings": settings[:_MOST_NAMES]} if settings else {})


async def _record(conn: AsyncConnection, integration: Integration, action: str, **detail: Any) -> None:
    told = {"type": integration.plugin} | {name: value for name, value in detail.items() if value is not None}
    await audit.record(conn, integration.organization_id, action, f"integration/{integration.id}", told)
