"""Kept tokens and consents: sealed, one row each, changed under a lock and as `samband.rules.refresh` says."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.contract import Token
from samband.errors import NotFoundError
from samband.rules.refresh import Begin, Change, Keep, Refuse, Row, TakeLease
from samband.store.audit import record
from samband.store.connections import move_connection
from samband.store.database import Database
from samband.store.models import Consent, Credential, Integration, KeptToken
from samband.store.outbox import emit
from samband.store.vault import Vault

__all__ = ["Claim", "KeptAccess", "PendingConsent", "Tokens", "credential_mark"]

_token: sa.Table = KeptToken.__table__
_consent: sa.Table = Consent.__table__
_credential: sa.Table = Credential.__table__
_integration: sa.Table = Integration.__table__


def credential_mark(settings: Mapping[str, Any], credentials: Mapping[str, Any]) -> str:
    """Gives what tells one set of settings and credentials from another. Kept sealed only: it is made of secrets."""
    told = orjson.dumps([dict(settings), dict(credentials)], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(told).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """On behalf of which connection a token is looked at.

    Attributes:
        revision: The integration's when the connection was made.
        mark: Of the connection's settings and credentials.
        owner: Names the worker on the lease, for people.
    """

    organization_id: str
    integration_id: str
    revision: int
    mark: str
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAccess:
    """A token with what the host has noted beside it."""

    token: Token
    renew_at: dt.datetime | None
    renewed_at: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingConsent:
    """A person on the way to the other side and back."""

    id: str
    organization_id: str
    integration_id: str
    requested_by: str
    expires_at: dt.datetime
    secret: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Standing:
    """What the integration's own rows say now: whether a claim is current, and which credentials they are."""

    is_current: bool
    credential_revision: int


class Tokens:
    """Every statement about tokens and consents."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._db = database
        self._vault = vault

    # ── the kept token ───────────────────────────────────────────────────────

    async def row(self, claim: Claim, now: dt.datetime) -> Row:
        """Gives the row as it stands, for the bearer of a claim; an integration without one has an empty row."""
        async with self._db.read() as conn:
            return await self._read(conn, claim, now)

    async def change(self, claim: Claim, change: Change, *, now: dt.datetime, lease_s: float) -> Row | None:
        """Applies a change to the locked row and gives the row after it; None, and nothing written, when it is refused.

        Keeping a token and keeping a refusal also say what that means for the integration, in the same transaction.
        """
        async with self._db.write() as conn:
            if isinstance(change, TakeLease):
                await self._ensure(conn, claim)
            await conn.execute(sa.select(_token.c.fence).where(_mine(claim)).with_for_update())
            row = change.apply(await self._read(conn, claim, now))
            if row is None:
                return None
            standing = await self._standing(conn, claim)
            values = self._values(claim, change, row, standing, lease_s)
            had_failed = await self._had_failed(conn, claim)
            await conn.execute(sa.update(_token).where(_mine(claim)).values(**values))
            if isinstance(change, Keep):
                await self._tell_recovered(conn, claim, had_failed)
            elif isinstance(change, Refuse):
                await self._tell_refused(conn, claim, change.refusal)
        return row

    async def adopt(self, claim: Claim, access: KeptAccess) -> int | None:
        """Keeps a token that a person has just brought, over whatever is going on; gives its generation.

        The fence moves on, so that a renewal which is under way with what there was before is dropped.

        Returns:
            None when settings or credentials are other ones by now.
        """
        async with self._db.write() as conn:
            await self._ensure(conn, claim)
            await conn.execute(sa.select(_token.c.fence).where(_mine(claim)).with_for_update())
            row = await self._read(conn, claim, access.renewed_at)
            if not row.is_current:
                return None
            standing = await self._standing(conn, claim)
            generation = row.generation + 1
            had_failed = await self._had_failed(conn, claim)
            await conn.execute(
                sa.update(_token).where(_mine(claim)).values(
                    fence=row.fence + 1, **_FREE, **self._token_values(claim, access, standing, generation),
                )
            )  # fmt: skip
            await self._tell_recovered(conn, claim, had_failed)
            subject = f"integration/{claim.integration_id}"
            await record(conn, claim.organization_id, "consent.given", subject, {"generation": generation})
        return generation

    async def note_renewed(self, claim: Claim, generation: int) -> None:
        """Writes into the audit trail that a person had the token renewed."""
        async with self._db.write() as conn:
            subject = f"integration/{claim.integration_id}"
            await record(conn, claim.organization_id, "token.renewed", subject, {"generation": generation})

    async def free_leases_of(self, owner_prefix: str) -> int:
        """Gives back the leases of workers that are known to be dead: those of this data directory's former host."""
        mine = _token.c.lease_owner.startswith(owner_prefix, autoescape=True)
        async with self._db.write() as conn:
            answer = await conn.execute(
                sa.update(_token).where(mine).values(lease_owner=None, lease_until=None, fence=_token.c.fence + 1)
            )
        return int(answer.rowcount)

    async def _had_failed(self, conn: AsyncConnection, claim: Claim) -> bool:
        return await conn.scalar(sa.select(_token.c.failed_at).where(_mine(claim))) is not None

    async def _ensure(self, conn: AsyncConnection, claim: Claim) -> None:
        if await conn.scalar(sa.select(_integration.c.id).where(_integration.c.id == claim.integration_id)) is None:
            raise NotFoundError("There is no such integration.", code="integration_not_found")
        insert = sqlite.insert(_token) if self._db.is_sqlite else postgresql.insert(_token)
        now = dt.datetime.now(dt.UTC)
        await conn.execute(
            insert.values(
                integration_id=claim.integration_id, organization_id=claim.organization_id, revision=0, generation=0,
                fence=0, is_in_flight=False, updated_at=now,
            ).on_conflict_do_nothing()
        )  # fmt: skip

    async def _read(self, conn: AsyncConnection, claim: Claim, now: dt.datetime) -> Row:
        standing = await self._standing(conn, claim)
        leased = (_token.c.lease_until > self._db.now()).label("is_leased")
        found = (await conn.execute(sa.select(_token, leased).where(_mine(claim)))).one_or_none()
        if found is None:
            return Row(is_current=standing.is_current)
        sealed = self._open(claim, found.sealed)
        # Tokens, and refusals, that came of other credentials or settings say nothing about these.
        is_ours = found.revision == standing.credential_revision and sealed.get("mark") == claim.mark
        kept = _access(sealed, found) if is_ours and "value" in sealed else None
        return Row(
            kept=kept, generation=found.generation, fence=found.fence,
            is_fresh=kept is not None and (kept.renew_at is None or now < kept.renew_at),
            is_usable=kept is not None and (kept.token.expires_at is None or now < kept.token.expires_at),
            is_leased=bool(found.is_leased), is_in_flight=found.is_in_flight,
            refusal=found.failure if is_ours else None, is_current=standing.is_current,
        )  # fmt: skip

    async def _standing(self, conn: AsyncConnection, claim: Claim) -> _Standing:
        found = (
            await conn.execute(
                sa.select(_integration.c.revision, _integration.c.settings, _credential.c.sealed,
                          _credential.c.revision.label("credential_revision"))
                .select_from(_integration.outerjoin(_credential, _credential.c.integration_id == _integration.c.id))
                .where(_integration.c.id == claim.integration_id)
            )
        ).one_or_none()  # fmt: skip
        if found is None or found.sealed is None:
            return _Standing(is_current=False, credential_revision=0)
        # Most edits touch neither settings nor credentials, so another revision alone says nothing yet.
        is_current = found.revision == claim.revision
        if not is_current:
            credentials = orjson.loads(self._vault.open(bytes(found.sealed), owner=_owner(claim, "credentials")))
            is_current = credential_mark(found.settings, credentials) == claim.mark
        return _Standing(is_current=is_current, credential_revision=found.credential_revision)

    def _values(
        self, claim: Claim, change: Change, row: Row, standing: _Standing, lease_s: float
    ) -> dict[str, Any]:  # fmt: skip
        lease: dict[str, Any] = dict(_FREE)
        if isinstance(change, TakeLease | Begin):
            lease = {"lease_owner": claim.owner, "lease_until": self._db.after(lease_s)}
        values = {**lease, "fence": row.fence, "is_in_flight": row.is_in_flight}
        if isinstance(change, Keep):
            values |= self._token_values(claim, change.token, standing, row.generation)
        elif isinstance(change, Refuse):
            now = dt.datetime.now(dt.UTC)
            values |= {
                "revision": standing.credential_revision, "sealed": self._seal(claim, {}), "expires_at": None,
                "renew_at": None, "failure": dict(change.refusal), "failed_at": now, "updated_at": now,
            }  # fmt: skip
        return values

    def _token_values(
        self, claim: Claim, access: KeptAccess, standing: _Standing, generation: int
    ) -> dict[str, Any]:  # fmt: skip
        token = access.token
        refresh = None if token.refresh_token is None else token.refresh_token.get_secret_value()
        said = {
            "value": token.value.get_secret_value(), "header": token.header, "scheme": token.scheme,
            "refresh_token": refresh, "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
            "hosts": None if token.hosts is None else sorted(token.hosts),
            "fills": {name: secret.get_secret_value() for name, secret in token.fills.items()},
        }  # fmt: skip
        return {
            "revision": standing.credential_revision, "generation": generation, "sealed": self._seal(claim, said),
            "expires_at": token.expires_at, "renew_at": access.renew_at, "is_in_flight": False, "failure": None,
            "failed_at": None, "updated_at": access.renewed_at,
        }  # fmt: skip

    def _seal(self, claim: Claim, said: Mapping[str, Any]) -> bytes:
        return self._vault.seal(orjson.dumps({"mark": claim.mark, **said}), owner=_owner(claim, "token"))

    def _open(self, claim: Claim, sealed: bytes | None) -> dict[str, Any]:
        if sealed is None:
            return {}
        return dict(orjson.loads(self._vault.open(bytes(sealed), owner=_owner(claim, "token"))))

    async def _tell_refused(self, conn: AsyncConnection, claim: Claim, refusal: Mapping[str, Any]) -> None:
        # The integration first and the audit trail last, as everywhere: two transactions must not wait for each other.
        code = str(refusal.get("code", ""))
        subject = f"integration/{claim.integration_id}"
        await move_connection(conn, claim.integration_id, "needs_reauthentication", code=code)
        await record(conn, claim.organization_id, "token.refused", subject, {"code": code})

    async def _tell_recovered(self, conn: AsyncConnection, claim: Claim, had_failed: bool) -> None:
        mine = sa.select(_integration.c.connection, _integration.c.plugin).where(
            _integration.c.id == claim.integration_id
        )
        before = (await conn.execute(mine)).one()
        if before.connection != "needs_reauthentication" and not (had_failed and before.connection == "unknown"):
            return
        await move_connection(conn, claim.integration_id, "connected")
        if before.connection == "unknown":
            # Credentials that were replaced have put the connection back to the beginning; what was told of it before
            # is still unanswered.
            data = {
                "integration": claim.integration_id, "type": before.plugin, "connection": "connected",
                "before": "needs_reauthentication", "code": "",
            }  # fmt: skip
            subject = f"integration/{claim.integration_id}"
            await emit(conn, claim.organization_id, "no.samband.integration.recovered.v1", subject, data)

    # ── consents ─────────────────────────────────────────────────────────────

    async def add_consent(self, consent: PendingConsent) -> None:
        """Keeps a consent that a person is asked for; what nobody came back for in a day is thrown away."""
        now = dt.datetime.now(dt.UTC)
        sealed = self._vault.seal(orjson.dumps(dict(consent.secret)), owner=_consent_owner(consent))
        old = sa.and_(
            _consent.c.integration_id == consent.integration_id, _consent.c.expires_at < now - dt.timedelta(days=1)
        )
        async with self._db.write() as conn:
            await conn.execute(sa.delete(_consent).where(old))
            await conn.execute(
                sa.insert(_consent).values(
                    id=consent.id, organization_id=consent.organization_id, integration_id=consent.integration_id,
                    sealed=sealed, requested_by=consent.requested_by, created_at=now, expires_at=consent.expires_at,
                )
            )  # fmt: skip
            subject = f"integration/{consent.integration_id}"
            await record(conn, consent.organization_id, "consent.asked", subject, {"consent": consent.id[:12]})

    async def use_consent(self, consent_id: str) -> PendingConsent | None:
        """Takes a consent that has not been used and is not over. It can be taken once."""
        now = dt.datetime.now(dt.UTC)
        is_open = sa.and_(_consent.c.id == consent_id, _consent.c.used_at.is_(None), _consent.c.expires_at > now)
        async with self._db.write() as conn:
            row = (
                await conn.execute(sa.update(_consent).where(is_open).values(used_at=now).returning(_consent))
            ).one_or_none()
        if row is None:
            return None
        opened = self._vault.open(bytes(row.sealed), owner=f"{row.organization_id}/{row.id}/consent")
        return PendingConsent(
            id=row.id, organization_id=row.organization_id, integration_id=row.integration_id,
            requested_by=row.requested_by, expires_at=row.expires_at, secret=orjson.loads(opened),
        )  # fmt: skip

    async def note_consent_refused(self, consent: PendingConsent, code: str) -> None:
        """Writes into the audit trail that a consent came to nothing."""
        subject = f"integration/{consent.integration_id}"
        async with self._db.write() as conn:
            await record(conn, consent.organization_id, "consent.refused", subject, {"code": code})


_FREE = {"lease_owner": None, "lease_until": None}


def _mine(claim: Claim) -> sa.ColumnElement[bool]:
    return _token.c.integration_id == claim.integration_id


def _owner(claim: Claim, field: str) -> str:
    return f"{claim.organization_id}/{claim.integration_id}/{field}"


def _consent_owner(consent: PendingConsent) -> str:
    return f"{consent.organization_id}/{consent.id}/consent"


def _access(sealed: Mapping[str, Any], found: sa.Row[Any]) -> KeptAccess:
    refresh, expires_at, hosts = sealed.get("refresh_token"), sealed.get("expires_at"), sealed.get("hosts")
    token = Token(
        value=SecretStr(sealed["value"]), header=sealed["header"], scheme=sealed["scheme"],
        expires_at=None if expires_at is None else dt.datetime.fromisoformat(expires_at),
        refresh_token=None if refresh is None else SecretStr(refresh),
        hosts=None if hosts is None else tuple(hosts),
        fills={name: SecretStr(value) for name, value in sealed.get("fills", {}).items()},
    )  # fmt: skip
    return KeptAccess(token=token, renew_at=found.renew_at, renewed_at=found.updated_at)
