"""Reading what a token endpoint answers: nothing of it is trusted unread."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeGuard

from pydantic import SecretStr

from samband.contract import HttpResponse, Token
from samband.errors import AuthError, AuthReason, RateLimitedError, RemoteError, UnavailableError
from samband.redaction import Redactor

__all__ = ["CLIENT_REFUSALS", "GRANT_REFUSALS", "MAX_TOKEN_ANSWER_BYTES", "Classify", "Refusals", "token_of"]

MAX_TOKEN_ANSWER_BYTES: Final = 1024 * 1024
"""Most bytes of a token endpoint's answer; the host gives sessions for ``authenticate`` this as their limit."""

Classify = Callable[[int, Mapping[str, Any]], AuthError | None]
Refusals = Mapping[str, tuple[AuthReason, str]]

_MAX_TOKEN_CHARS: Final = 16 * 1024
_LIFETIME_WHEN_UNSAID_S: Final = 300
_MAX_LIFETIME_S: Final = 10 * 366 * 24 * 3600

# RFC 6749 section 5.2 and RFC 8707; what a vendor means beyond that is its plugin's ``classify``.
CLIENT_REFUSALS: Final[Refusals] = {
    "invalid_client": ("secret_wrong", "Check the client id and enter the client secret or key again."),
    "invalid_scope": ("scope_refused", "Check the scope, and that the client may ask for it."),
    "invalid_target": ("scope_refused", "Check the resource, and that the client may ask for it."),
    "insufficient_scope": ("scope_refused", "Have the client given the rights it asks for at the other side."),
    "unauthorized_client": ("consent_missing", "Allow this client to use this grant at the other side."),
    "access_denied": ("consent_missing", "Give the client its consent at the other side."),
}
GRANT_REFUSALS: Final[Refusals] = {
    **CLIENT_REFUSALS,
    # RFC 6749 section 5.2: the code or refresh token is invalid, expired, revoked, or was issued to another client.
    "invalid_grant": ("grant_refused", "Sign in at the other side again: ask for a new consent link."),
}


def token_of(
    answer: HttpResponse,
    *,
    now: datetime,
    secrets: Sequence[SecretStr],
    classify: Classify | None = None,
    refusals: Refusals = CLIENT_REFUSALS,
    is_refreshable: bool = False,
) -> Token:
    """Gives the token in an answer.

    Args:
        answer: As it came.
        now: What ``expires_in`` counts from.
        secrets: What was sent and must not come back in an error's words.
        classify: The vendor's own reading of its error documents.
        refusals: What each error code means for this grant.
        is_refreshable: Whether a refresh token beside it is taken (RFC 6749 section 4.4.3: not with client credentials).

    Raises:
        AuthError: They refused.
        RetryableError: They are busy or away.
        RemoteError: Code ``token_answer_invalid``.
    """
    if len(answer.body) > MAX_TOKEN_ANSWER_BYTES:
        raise _invalid("is larger than a token answer can be")
    if answer.status == 429:
        raise RateLimitedError("The token endpoint asked us to slow down.")
    if answer.status >= 500:
        raise UnavailableError(f"The token endpoint answered {answer.status}.")
    document = _document(answer)
    if answer.status != 200 or "error" in document:
        raise _refusal(answer.status, document, secrets, classify, refusals)
    kind = document.get("token_type")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise _invalid("has a token_type that is not bearer")
    if not _is_token(value := document.get("access_token")):
        raise _invalid("has no access_token of printable characters")
    refresh = document.get("refresh_token") if is_refreshable else None
    if refresh is not None and not _is_token(refresh):
        raise _invalid("has a refresh_token that is not of printable characters")
    return Token(
        value=SecretStr(value),
        expires_at=now + timedelta(seconds=_lifetime_s(document.get("expires_in"))),
        refresh_token=None if refresh is None else SecretStr(refresh),
    )


def _is_token(value: Any) -> TypeGuard[str]:
    return (
        isinstance(value, str) and re.fullmatch(r"[\x21-\x7e]+", value) is not None and len(value) <= _MAX_TOKEN_CHARS
    )


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
    secrets: Sequence[SecretStr],
    classify: Classify | None,
    refusals: Refusals,
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
    reason, hint = refusals.get(
        code, ("refused", "Check the credentials and what the client may do at the other side.")
    )
    shown = code if re.fullmatch(r"[a-z_]{1,60}", code) else "an error"
    return AuthError(
        f"The token endpoint refused the credentials ({shown}).", reason=reason, hint=hint, remote_message=said
    )


def _their_words(document: Mapping[str, Any], secrets: Sequence[SecretStr]) -> str:
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
