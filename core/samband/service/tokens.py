"""Access tokens: renewing one by hand, and having a person agree at the other side where a system asks for that."""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from samband.acting import act_for, acting
from samband.adapters.adapter import Adapter, Connection
from samband.contract import ConsentRequest, Token
from samband.errors import AdapterError, ConflictError, NotFoundError, SambandError
from samband.oauth import authorization_url, renewal_due
from samband.service.parts import Parts
from samband.store.tokens import KeptAccess, PendingConsent
from samband.tokens import claim_of
from samband.views.tokens import ConsentView, TokenView

__all__ = ["CALLBACK_PATH", "ComeBack", "Tokens"]

CALLBACK_PATH: Final = "/oauth/callback"
_CONSENT_LASTS: Final = dt.timedelta(minutes=10)
_LONGEST: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ComeBack:
    """What a browser brought back from the other side; nothing of it is believed before ``state`` is recognised.

    Attributes:
        state: Ours, once.
        code: To be traded for a token.
        iss: Who says so (RFC 9207), where they say it.
        error: Their error code, when they or the person said no.
    """

    state: str
    code: str | None = None
    iss: str | None = None
    error: str | None = None


class Tokens:
    """Renewals and consents."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def renew(self, integration_id: str, *, organizations: Collection[str] | None = None) -> TokenView:
        """Has an integration's token renewed now, for all processes; calls at the same time share one renewal.

        Args:
            integration_id: By its id.
            organizations: Those the caller reaches; None for all. Beyond them there is no such integration.

        Raises:
            NotFoundError: There is none within reach.
            AuthError: The other side refuses.
            RetryableError: It is busy or away.
        """
        integration = await self._parts.store.catalog.integration_by_id(integration_id)
        if organizations is not None and integration.organization_id not in organizations:
            raise NotFoundError("There is no such integration.", code="integration_not_found")
        with act_for(organization=integration.organization_id):
            adapter = self._parts.registry.adapter(integration.plugin)
            connection = await self._parts.connection(integration)
            held = await adapter.renew_token(connection)
            await self._parts.store.tokens.note_renewed(claim_of(connection), held.generation)
        return TokenView(
            integration=integration.id, expires_at=held.token.expires_at, generation=held.generation,
            renewed_at=held.renewed_at,
        )  # fmt: skip

    # ── consent ──────────────────────────────────────────────────────────────

    async def ask_consent(self, org: str, type: str) -> ConsentView:
        """Gives the link by which a person agrees to the connection at the other side. It holds for ten minutes, once.

        Raises:
            ConflictError: The system asks nobody (``consent_unsupported``), or nobody has said under which address the
                world reaches this host (``public_url_missing``).
        """
        integration = await self._parts.integration(org, type)
        adapter = self._parts.registry.adapter(type)
        if adapter.manifest.consent is None:
            raise ConflictError(
                f"{adapter.manifest.title} asks no person for consent.",
                code="consent_unsupported",
                hint="Its credentials are enough: set them and test the connection.",
            )
        connection = await self._parts.connection(integration)
        redirect_uri = self._redirect_uri()
        request = _demanded(adapter, connection)
        state, verifier = secrets.token_urlsafe(32), SecretStr(secrets.token_urlsafe(64))
        self._parts.redactor.add(verifier)
        self._parts.redactor.add(SecretStr(state))
        expires_at = dt.datetime.now(dt.UTC) + _CONSENT_LASTS
        said = {
            "verifier": verifier.get_secret_value(), "mark": claim_of(connection).mark, "redirect_uri": redirect_uri,
        }  # fmt: skip
        await self._parts.store.tokens.add_consent(
            PendingConsent(
                id=_consent_id(state), organization_id=org, integration_id=integration.id,
                requested_by=acting().actor, expires_at=expires_at, secret=said,
            )
        )  # fmt: skip
        url = authorization_url(request, redirect_uri=redirect_uri, state=state, verifier=verifier)
        return ConsentView(url=url, expires_at=expires_at)

    async def take_consent(self, back: ComeBack) -> str:
        """Trades what a person came back with for a token and keeps it; gives the other system's name.

        Raises:
            NotFoundError: ``consent_unknown``: the link has been used, is too old, or was never given by this host.
            ConflictError: ``consent_refused``, ``consent_outdated`` or ``consent_misdirected``.
            AdapterError: The code could not be traded.
        """
        consent = None
        if 0 < len(back.state) <= _LONGEST:
            consent = await self._parts.store.tokens.use_consent(_consent_id(back.state))
        if consent is None:
            raise NotFoundError(
                "This link has been used already, or it is too old.", code="consent_unknown",
                hint="Ask for a new link.",
            )  # fmt: skip
        with act_for(organization=consent.organization_id, actor=f"consent:{consent.requested_by}"):
            try:
                return await self._trade(consent, back)
            except (AdapterError, ConflictError) as error:
                await self._parts.store.tokens.note_consent_refused(consent, error.code)
                raise

    async def _trade(self, consent: PendingConsent, back: ComeBack) -> str:
        integration = await self._parts.store.catalog.integration_by_id(consent.integration_id)
        adapter = self._parts.registry.adapter(integration.plugin)
        connection = await self._parts.connection(integration)
        if claim_of(connection).mark != consent.secret["mark"]:
            raise _outdated()
        request = _demanded(adapter, connection)
        if back.iss is not None and not _is_issuer(back.iss, request):
            raise ConflictError(
                "The answer came from somebody else than was asked.", code="consent_misdirected",
                hint="Ask for a new link, and tell whoever runs this host if it happens again.",
            )  # fmt: skip
        if back.error is not None or not back.code or len(back.code) > _LONGEST:
            raise _said_no(back.error)
        token = await adapter.exchange_code(
            connection, request, code=SecretStr(back.code), verifier=SecretStr(consent.secret["verifier"]),
            redirect_uri=consent.secret["redirect_uri"],
        )  # fmt: skip
        await self._keep(connection, token)
        return adapter.manifest.title

    async def _keep(self, connection: Connection, token: Token) -> None:
        now = dt.datetime.now(dt.UTC)
        access = KeptAccess(token=token, renew_at=renewal_due(token, now), renewed_at=now)
        if await self._parts.store.tokens.adopt(claim_of(connection), access) is None:
            raise _outdated()

    def _redirect_uri(self) -> str:
        # Used verbatim in both legs: an address guessed from the request would be the one behind a proxy.
        if not self._parts.public_url:
            raise ConflictError(
                "Nobody has said under which address the world reaches this host.", code="public_url_missing",
                hint=f"Set SAMBAND_PUBLIC_URL, and register that address with {CALLBACK_PATH} behind it as redirect URI "
                "at the other side.",
            )  # fmt: skip
        return self._parts.public_url + CALLBACK_PATH


def _demanded(adapter: Adapter, connection: Connection) -> ConsentRequest:
    request = adapter.consent(connection)
    assert request is not None
    return request


def _consent_id(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()


def _is_issuer(iss: str, request: ConsentRequest) -> bool:
    if request.issuer is not None:
        return secrets.compare_digest(iss.encode(), request.issuer.encode())
    return _origin(iss) == _origin(request.authorize_url)


def _origin(url: str) -> tuple[Any, ...]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port
    except ValueError:
        return ()


def _said_no(error: str | None) -> SambandError:
    if error == "access_denied":
        text, hint = "The connection was not agreed to at the other side.", "Ask for a new link to try again."
    else:
        # Their words came through a browser, where anybody could have written them: they are not repeated.
        text = "The other side did not accept the request."
        hint = "Check client id, scope and the registered redirect URI at the other side, then ask for a new link."
    return ConflictError(text, code="consent_refused", hint=hint)


def _outdated() -> ConflictError:
    return ConflictError(
        "Settings or credentials were changed since the link was given.", code="consent_outdated",
        hint="Ask for a new link.",
    )  # fmt: skip
