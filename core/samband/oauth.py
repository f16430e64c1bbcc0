"""Access tokens: fetched once however many ask, renewed before they end, and never trusted unread.

authlib builds and signs the grant; the host's own HTTP session carries it. `authlib` is imported where it is used:
it takes a tenth of a second, and everything that imports `samband` would pay for it.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote_plus

from pydantic import SecretStr

from samband.contract import Context, HttpResponse, Token
from samband.errors import (
    AuthError,
    AuthReason,
    ContractError,
    RateLimitedError,
    RemoteError,
    RetryableError,
    UnavailableError,
)
from samband.redaction import Redactor

if TYPE_CHECKING:
    from samband.contract import Logger

__all__ = ["MAX_TOKEN_ANSWER_BYTES", "TokenSource", "client_credentials_token"]

MAX_TOKEN_ANSWER_BYTES: Final = 1024 * 1024
"""Most bytes of a token endpoint's answer; the host gives sessions for ``authenticate`` this as their limit."""

_TOKEN_TIMEOUT_S: Final = 10.0
_MAX_TOKEN_CHARS: Final = 16 * 1024
_LIFETIME_WHEN_UNSAID_S: Final = 300
_MAX_LIFETIME_S: Final = 10 * 366 * 24 * 3600
_ASSERTION_LIFETIME_S: Final = 300
_EARLY_RETRY_S: Final = 10.0

# RFC 6749 section 5.2 and RFC 8707; what a vendor means beyond that is its plugin's ``classify``.
_REASONS: Final[Mapping[str, tuple[AuthReason, str]]] = {
    "invalid_client": ("secret_wrong", "Check the client id and enter the client secret or key again."),
    "invalid_scope": ("scope_refused", "Check the scope, and that the client may ask for it."),
    "invalid_target": ("scope_refused", "Check the resource, and that the client may ask for it."),
    "unauthorized_client": ("consent_missing", "Allow this client to use the client credentials grant there."),
    "access_denied": ("consent_missing", "Give the client its consent at the other side."),
}


class TokenSource:
    """Keeps one token fresh for everything in this process that uses the same credential.

    Args:
        fetch: Obtains a token now; called by one task at a time.
        now: The clock, aware UTC.
        leeway_s: How long before its end a token is renewed; half of its lifetime at most.
        log: Told about renewals, never with the token.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Token]],
        *,
        now: Callable[[], datetime],
        leeway_s: float = 120.0,
        log: Logger,
    ) -> None:
        self._fetch = fetch
        self._now = now
        self._leeway_s = leeway_s
        self._log = log
        self._lock = asyncio.Lock()
        self._token: Token | None = None
        self._renew_at: datetime | None = None
        self._superseded: str | None = None
        self._flights = 0
        self._failure: Exception | None = None

    async def get(self) -> Token:
        """Gives a token that is valid for a while; obtains or renews one first when needed.

        Raises:
            AdapterError: What ``fetch`` raised. Everybody who waited for the same fetch hears the same.
        """
        token = self._fresh()
        if token is not None:
            return token
        return await self._after_flight(self._fresh, is_early=True)

    async def renew(self, stale: Token) -> Token:
        """Gives another token than the refused one; obtains it at most once per refused token.

        Raises:
            AdapterError: What ``fetch`` raised.
        """
        value = stale.value.get_secret_value()
        token = self._other_than(value)
        if token is None:
            token = await self._after_flight(lambda: self._other_than(value), is_early=False)
        self._superseded = value
        return token

    def forget(self) -> None:
        """Drops the token; the next use obtains one. For credentials that have changed."""
        self._token = self._renew_at = self._superseded = None

    def _fresh(self) -> Token | None:
        is_due = self._renew_at is not None and self._now() >= self._renew_at
        return None if is_due else self._token

    def _other_than(self, value: str) -> Token | None:
        token = self._fresh()
        if token is None or (token.value.get_secret_value() == value and self._superseded != value):
            return None
        return token

    async def _after_flight(self, usable: Callable[[], Token | None], *, is_early: bool) -> Token:
        """Fetches under the lock unless somebody else just did, with success or without."""
        seen = self._flights
        async with self._lock:
            token = usable()
            if token is not None:
                return token
            if self._flights != seen and self._failure is not None:
                raise self._failure
            try:
                token = await self._fetch()
                self._keep(token)
            except Exception as error:
                self._flights += 1
                still = self._put_off() if is_early and isinstance(error, RetryableError) else None
                self._failure = None if still is not None else error
                if still is None:
                    raise
                return still
            self._flights += 1
            self._failure = None
            return token

    def _keep(self, token: Token) -> None:
        now = self._now()
        self._renew_at = None
        if token.expires_at is not None:
            lifetime_s = (token.expires_at - now).total_seconds()
            if lifetime_s <= 0:
                raise RemoteError(
                    "The token they gave had already expired.",
                    code="token_expired",
                    hint="Check the clock of this machine.",
                )
            self._renew_at = token.expires_at - timedelta(seconds=min(self._leeway_s, lifetime_s / 2))
        self._token, self._superseded = token, None
        self._log.info("token_obtained", expires_at=str(token.expires_at or "never"))

    def _put_off(self) -> Token | None:
        """Gives the present token while it lasts, when they are away just as an early renewal is due."""
        token, retry_at = self._token, self._now() + timedelta(seconds=_EARLY_RETRY_S)
        if token is None or token.expires_at is None or token.expires_at <= retry_at:
            return None
        self._renew_at = retry_at
        self._log.warning("token_renewal_put_off", until=str(retry_at), expires_at=str(token.expires_at))
        return token


async def client_credentials_token(
    ctx: Context,
    *,
    token_url: str,
    client_id: str,
    client_secret: SecretStr | None = None,
    scope: str | None = None,
    resource: str | None = None,
    auth_method: Literal["client_secret_post", "client_secret_basic"] = "client_secret_post",
    private_key_pem: SecretStr | None = None,
    certificate_pem: str | None = None,
    assertion_alg: Literal["PS256", "RS256"] = "PS256",
    classify: Callable[[int, Mapping[str, Any]], AuthError | None] | None = None,
) -> Token:
    """Obtains a token by the client credentials grant (RFC 6749 section 4.4), with a secret or a signed assertion.

    Safe to call again. Call it from ``authenticate``.

    Args:
        ctx: Of the hook; its session must have ``token_url``'s host among its own.
        token_url: The token endpoint, https.
        client_id: As registered there.
        client_secret: The secret; or else a private key.
        scope: Space-separated, None to leave it out.
        resource: RFC 8707, or the older form of the same name; None to leave it out.
        auth_method: Where the secret travels. In Basic, id and secret are form-encoded first (RFC 6749 section 2.3.1).
        private_key_pem: RSA key for ``private_key_jwt`` (RFC 7523), unencrypted PEM.
        certificate_pem: The key's certificate; its SHA-256 thumbprint becomes the assertion's ``x5t#S256``.
        assertion_alg: How the assertion is signed.
        classify: Turns a vendor's own error document into an `AuthError`; ``(status, document)``, None to leave it to us.

    Returns:
        A bearer token that expires when they say, or in five minutes when they do not.

    Raises:
        AuthError: They refused; ``reason`` says why as far as they do.
        RetryableError: They are busy or away.
        RemoteError: Code ``token_answer_invalid``: the answer is not a token answer.
        ContractError: Neither or both of secret and key were given.
    """
    if (client_secret is None) == (private_key_pem is None):
        raise ContractError("A token is asked for with either a client secret or a private key.", field="client_secret")
    url, headers, body = _signed_request(
        # Entra wants the client named beside an assertion too; RFC 7523 allows it.
        _grant(scope, resource, client_id if client_secret is None else None),
        token_url=token_url,
        client_auth=(
            _secret_auth(client_id, client_secret, auth_method)
            if client_secret is not None
            else _key_auth(ctx.now(), token_url, client_id, private_key_pem, certificate_pem, assertion_alg)
        ),
    )
    # Asking twice for a token does no harm, so the host may repeat this POST.
    answer = await ctx.http.request(
        "POST", url, headers=headers, data=body.encode(), timeout_s=_TOKEN_TIMEOUT_S, idempotent=True
    )
    secrets = [secret for secret in (client_secret, private_key_pem) if secret is not None]
    return _token_of(answer, now=ctx.now(), secrets=secrets, classify=classify)


# ── what is asked ────────────────────────────────────────────────────────────


def _grant(scope: str | None, resource: str | None, client_id: str | None) -> str:
    from authlib.oauth2.rfc6749.parameters import prepare_token_request  # type: ignore[import-untyped]

    wanted = {"scope": scope, "resource": resource, "client_id": client_id}
    asked = {name: value for name, value in wanted.items() if value}
    return str(prepare_token_request("client_credentials", **asked))


def _signed_request(grant: str, *, token_url: str, client_auth: Any) -> tuple[str, dict[str, str], str]:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    url, headers, body = client_auth.prepare("POST", token_url, headers, grant)
    return str(url), dict(headers), str(body)


def _secret_auth(client_id: str, client_secret: SecretStr, auth_method: str) -> Any:
    from authlib.oauth2.auth import ClientAuth  # type: ignore[import-untyped]

    secret = client_secret.get_secret_value()
    if auth_method == "client_secret_basic":
        # authlib puts them together as they are, which strict servers refuse for a secret with + / or %.
        return ClientAuth(quote_plus(client_id), quote_plus(secret), auth_method)
    return ClientAuth(client_id, secret, auth_method)


def _key_auth(
    now: datetime,
    token_url: str,
    client_id: str,
    private_key_pem: SecretStr | None,
    certificate_pem: str | None,
    alg: str,
) -> Any:
    from authlib.oauth2.auth import ClientAuth
    from authlib.oauth2.rfc7523 import PrivateKeyJWT  # type: ignore[import-untyped]
    from joserfc.errors import JoseError
    from joserfc.jwk import RSAKey

    assert private_key_pem is not None
    try:
        key = RSAKey.import_key(private_key_pem.get_secret_value())
        is_private = key.is_private
    except (JoseError, ValueError, TypeError):
        # Not chained: a parser may quote what it was given.
        is_private = False
    if not is_private:
        raise AuthError(
            "The private key cannot be read.",
            reason="secret_wrong",
            hint="Enter an RSA key as unencrypted PEM, from -----BEGIN to -----END.",
            field="private_key_pem",
        )
    issued = int(now.timestamp())
    claims = {"aud": token_url, "iat": issued, "nbf": issued, "exp": issued + _ASSERTION_LIFETIME_S}
    header = {} if certificate_pem is None else {"x5t#S256": _thumbprint(certificate_pem, key, now)}
    return ClientAuth(client_id, key, PrivateKeyJWT(token_url, claims=claims, headers=header, alg=alg))


def _thumbprint(certificate_pem: str, key: Any, now: datetime) -> str:
    """Gives the certificate's SHA-256 thumbprint after checking that it is the key's own and has not expired."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        is_own = certificate.public_key() == key.get_op_key("verify")
    except (ValueError, TypeError):
        raise AuthError(
            "The certificate cannot be read.",
            reason="secret_wrong",
            hint="Enter it as PEM, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----.",
            field="certificate_pem",
        ) from None
    if not is_own:
        raise AuthError(
            "The certificate does not belong to the private key.",
            reason="secret_wrong",
            hint="Enter the key and the certificate that were made together.",
            field="certificate_pem",
        )
    if certificate.not_valid_after_utc <= now:
        raise AuthError(
            f"The certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}.",
            reason="secret_expired",
            hint="Make a new certificate, upload it at the other side and enter it here.",
            field="certificate_pem",
        )
    return base64.urlsafe_b64encode(certificate.fingerprint(SHA256())).rstrip(b"=").decode()


# ── what is answered ─────────────────────────────────────────────────────────


def _token_of(
    answer: HttpResponse,
    *,
    now: datetime,
    secrets: list[SecretStr],
    classify: Callable[[int, Mapping[str, Any]], AuthError | None] | None,
) -> Token:
    if len(answer.body) > MAX_TOKEN_ANSWER_BYTES:
        raise _invalid("is larger than a token answer can be")
    if answer.status == 429:
        raise RateLimitedError("The token endpoint asked us to slow down.")
    if answer.status >= 500:
        raise UnavailableError(f"The token endpoint answered {answer.status}.")
    document = _document(answer)
    if answer.status != 200 or "error" in document:
        raise _refusal(answer.status, document, secrets, classify)
    kind = document.get("token_type")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise _invalid("has a token_type that is not bearer")
    value = document.get("access_token")
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value) or len(value) > _MAX_TOKEN_CHARS:
        raise _invalid("has no access_token of printable characters")
    return Token(value=SecretStr(value), expires_at=now + timedelta(seconds=_lifetime_s(document.get("expires_in"))))


def _document(answer: HttpResponse) -> Mapping[str, Any]:
    try:
        document = answer.json()
    except RemoteError as error:
        raise _invalid(f"({answer.status}) is not JSON", said=error.remote_message) from None
    if not isinstance(document, Mapping):
        raise _invalid(f"({answer.status}) is not a JSON object")
    return document


def _lifetime_s(expires_in: Any) -> int:
    """Reads ``expires_in``, a number of seconds that some servers send as text."""
    if expires_in is None:
        return _LIFETIME_WHEN_UNSAID_S
    if isinstance(expires_in, str) and re.fullmatch(r"[0-9]{1,12}", expires_in):
        expires_in = int(expires_in)
    if not isinstance(expires_in, int) or isinstance(expires_in, bool) or not 0 < expires_in <= _MAX_LIFETIME_S:
        raise _invalid("has an expires_in that is not a sensible number of seconds")
    return expires_in


def _refusal(
    status: int,
    document: Mapping[str, Any],
    secrets: list[SecretStr],
    classify: Callable[[int, Mapping[str, Any]], AuthError | None] | None,
) -> Exception:
    own = classify(status, document) if classify is not None else None
    if own is not None:
        return own
    code = document.get("error")
    said = _their_words(document, secrets)
    if not isinstance(code, str):
        return _invalid(f"({status}) is neither a token nor an error", said=said)
    if code in ("temporarily_unavailable", "server_error"):
        return UnavailableError(f"The token endpoint answered {code}.", remote_message=said)
    if code == "slow_down":
        return RateLimitedError("The token endpoint asked us to slow down.", remote_message=said)
    reason, hint = _REASONS.get(
        code, ("refused", "Check the credentials and what the client may do at the other side.")
    )
    shown = code if re.fullmatch(r"[a-z_]{1,60}", code) else "an error"
    return AuthError(
        f"The token endpoint refused the credentials ({shown}).", reason=reason, hint=hint, remote_message=said
    )


def _their_words(document: Mapping[str, Any], secrets: list[SecretStr]) -> str:
    said = document.get("error_description")
    if not isinstance(said, str):
        return ""
    redactor = Redactor()
    for secret in secrets:
        redactor.add(secret)
    return redactor.scrub(" ".join(said.split()))


def _invalid(what: str, *, said: str = "") -> RemoteError:
    return RemoteError(
        f"The answer of the token endpoint {what}.",
        code="token_answer_invalid",
        hint="Check the token address in the settings.",
        remote_message=said,
    )
