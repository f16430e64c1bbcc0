"""The grants: what is sent to a token endpoint, and where a person is sent to agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import SecretStr

from samband.contract import ConsentRequest, Context, Token
from samband.errors import AuthError, OutcomeUnknownError, UnavailableError
from samband.oauth.answers import GRANT_REFUSALS, Classify, token_of
from samband.oauth.clients import AssertionAlg, Client, SecretPlace

__all__ = ["authorization_code_token", "authorization_url", "client_credentials_token", "refresh_token_token"]

_TOKEN_TIMEOUT_S: Final = 10.0


async def client_credentials_token(
    ctx: Context,
    *,
    token_url: str,
    client_id: str,
    client_secret: SecretStr | None = None,
    scope: str | None = None,
    resource: str | None = None,
    auth_method: SecretPlace = "client_secret_post",
    private_key_pem: SecretStr | None = None,
    certificate_pem: str | None = None,
    assertion_alg: AssertionAlg = "PS256",
    classify: Classify | None = None,
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
    client = Client(
        client_id=client_id, client_secret=client_secret, auth_method=auth_method, private_key_pem=private_key_pem,
        certificate_pem=certificate_pem, assertion_alg=assertion_alg,
    )  # fmt: skip
    client.demand_proof()
    grant = _grant("client_credentials", scope=scope, resource=resource, client_id=client.named_in_body)
    url, headers, body = client.signed(grant, token_url=token_url, now=ctx.now())
    # Asking twice for a token does no harm, so the host may repeat this POST.
    answer = await ctx.http.request(
        "POST", url, headers=headers, data=body.encode(), timeout_s=_TOKEN_TIMEOUT_S, idempotent=True
    )
    return token_of(answer, now=ctx.now(), secrets=client.secrets, classify=classify)


async def refresh_token_token(
    ctx: Context,
    *,
    token_url: str,
    client_id: str,
    client_secret: SecretStr | None = None,
    scope: str | None = None,
    auth_method: SecretPlace = "client_secret_post",
    private_key_pem: SecretStr | None = None,
    certificate_pem: str | None = None,
    assertion_alg: AssertionAlg = "PS256",
    classify: Classify | None = None,
) -> Token:
    """Obtains a token by the refresh token grant (RFC 6749 section 6), with the refresh token of ``ctx.token``.

    Call it from ``authenticate``, and only there: the host sees to it that nobody else spends the same refresh token at
    that moment, and keeps what comes back before anyone uses it. The request is sent once and never repeated by
    itself, since a server that rotates refresh tokens takes a repeat for theft.

    Args:
        ctx: Of the hook.
        token_url: The token endpoint, https; its host must be among the integration's.
        client_id: As registered there.
        client_secret: The secret; or a private key; or neither, for a public client.
        scope: Space-separated, None for what was agreed to.
        auth_method: Where the secret travels.
        private_key_pem: As in `client_credentials_token`.
        certificate_pem: As in `client_credentials_token`.
        assertion_alg: As in `client_credentials_token`.
        classify: As in `client_credentials_token`. Give ``reason="grant_refused"`` where a person has to sign in again.

    Returns:
        A bearer token with the refresh token they sent, or with the old one where they sent none.

    Raises:
        AuthError: ``sign_in_needed`` when nobody has agreed yet, ``grant_refused`` when the refresh token is worth nothing
            any more, otherwise as `client_credentials_token`.
        RetryableError: They are busy or away, or no answer came.
        RemoteError: Code ``token_answer_invalid``.
    """
    if ctx.token is None or ctx.token.refresh_token is None:
        raise AuthError(
            "Nobody has signed in at the other side yet.",
            reason="sign_in_needed",
            hint="Ask for a consent link, and have somebody follow it who may agree there.",
        )
    spent = ctx.token.refresh_token
    client = Client(
        client_id=client_id, client_secret=client_secret, auth_method=auth_method, private_key_pem=private_key_pem,
        certificate_pem=certificate_pem, assertion_alg=assertion_alg,
    )  # fmt: skip
    grant = _grant("refresh_token", refresh_token=spent.get_secret_value(), scope=scope, client_id=client.named_in_body)
    token = await _traded(ctx, client, grant, token_url, [spent], classify)
    return token if token.refresh_token is not None else replace(token, refresh_token=spent)


async def authorization_code_token(
    ctx: Context, request: ConsentRequest, *, code: SecretStr, verifier: SecretStr, redirect_uri: str
) -> Token:
    """Trades an authorization code for a token (RFC 6749 section 4.1.3, with PKCE, RFC 7636). The host's own part.

    Raises:
        AuthError: They refused; ``grant_refused`` when the code is worth nothing (any more).
        RetryableError: They are busy or away, or no answer came; the code may be spent.
        RemoteError: Code ``token_answer_invalid``.
    """
    client = Client(client_id=request.client_id, client_secret=request.client_secret, auth_method=request.auth_method)
    grant = _grant(
        "authorization_code",
        redirect_uri=redirect_uri,
        code=code.get_secret_value(),
        code_verifier=verifier.get_secret_value(),
        client_id=client.named_in_body,
    )
    return await _traded(ctx, client, grant, request.token_url, [code, verifier], None)


def authorization_url(request: ConsentRequest, *, redirect_uri: str, state: str, verifier: SecretStr) -> str:
    """Gives the address where a person agrees; what the host has to say there no plugin's parameter replaces."""
    from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
    from authlib.oauth2.rfc7636 import create_s256_code_challenge

    ours = {
        "response_type": "code", "client_id": request.client_id, "redirect_uri": redirect_uri, "state": state,
        "scope": request.scope or None, "code_challenge_method": "S256",
        "code_challenge": create_s256_code_challenge(verifier.get_secret_value()),
    }  # fmt: skip
    extra = {name: value for name, value in request.parameters.items() if name not in (*ours, "uri")}
    return str(prepare_grant_uri(request.authorize_url, **ours, **extra))


async def _traded(
    ctx: Context, client: Client, grant: str, token_url: str, spent: list[SecretStr], classify: Classify | None
) -> Token:
    """Sends a grant that can be spent once, once."""
    url, headers, body = client.signed(grant, token_url=token_url, now=ctx.now())
    try:
        answer = await ctx.http.request(
            "POST", url, headers=headers, data=body.encode(), timeout_s=_TOKEN_TIMEOUT_S, idempotent=False
        )
    except OutcomeUnknownError as error:
        raise UnavailableError(
            "The token endpoint was asked for a token and no answer came.",
            code="token_answer_lost",
            hint="It is asked once more, with what is kept; if that has been spent, somebody has to sign in again.",
            remote_message=error.remote_message,
        ) from None
    return token_of(
        answer,
        now=ctx.now(),
        secrets=[*client.secrets, *spent],
        classify=classify,
        refusals=GRANT_REFUSALS,
        is_refreshable=True,
    )


def _grant(grant_type: str, *, redirect_uri: str | None = None, **wanted: str | None) -> str:
    from authlib.oauth2.rfc6749.parameters import prepare_token_request

    asked: Mapping[str, Any] = {name: value for name, value in wanted.items() if value}
    return str(prepare_token_request(grant_type, redirect_uri=redirect_uri, **asked))
