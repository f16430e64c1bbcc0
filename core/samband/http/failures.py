"""What went wrong on the wire, in the words and types of `samband.errors`."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import aiohttp

from samband.errors import (
    AdapterError,
    OutcomeUnknownError,
    RateLimitedError,
    RemoteError,
    RetryableError,
    UnavailableError,
)
from samband.http.answer import Answer
from samband.http.pauses import MAX_PAUSE_S, asked_pause_s

__all__ = ["Setback", "setback_of_answer", "setback_of_exception"]

REDIRECTS: Final = frozenset({300, 301, 302, 303, 305, 307, 308})
AWAY: Final = frozenset({408, 429, 502, 503, 504})

_SIGN_IN: Final = re.compile(r"(?i)/(?:log-?[io]n|log-?on|sign-?in|signin-[a-z]+)(?:\.[a-z]+)?/?$")
"""How the path of a page to sign in at ends. Such a page stands in front of what was asked for."""

# Numbers of OpenSSL's x509_vfy.h.
_CERTIFICATE_CHECKS: Final = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is signed by itself",
    19: "its certificate chain ends in an issuer that is not trusted here",
    20: "the issuer of its certificate is not trusted here",
    21: "the issuer of its certificate is not trusted here",
    23: "its certificate has been revoked",
    62: "its certificate is for another host name",
    64: "its certificate is for another address",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """One try that did not end well.

    Attributes:
        error: What the caller hears when nothing more is tried.
        may_repeat: Whether the same request may be sent again.
        outcome: What the breaker learns: ``failed`` when they were away, ``answered`` when they were there but busy or of
            another opinion, ``abandoned`` when it says nothing about them.
        pause_s: Seconds they asked us to wait, cut to an hour.
        is_stale_connection: It died on a connection kept from earlier, which says nothing about them.
    """

    error: AdapterError
    may_repeat: bool
    outcome: Literal["answered", "failed", "abandoned"] = "failed"
    pause_s: float | None = None
    is_stale_connection: bool = False


def setback_of_answer(answer: Answer, *, method: str, idempotent: bool, now: datetime) -> Setback | None:
    """Gives the setback in an answer, or None for one that the plugin judges.

    A gateway's 502 or 504, and a 503 that names no time to come back, can come after the request was carried out: for
    a write that makes the outcome unknown. A 429, a 408 and a 503 with ``Retry-After`` are refusals to begin.
    """
    status = answer.status
    if status in REDIRECTS:
        return Setback(error=_redirect(answer), may_repeat=False, outcome="answered")
    if status not in AWAY:
        return None
    asked = asked_pause_s(answer.headers.get("Retry-After"), answer.headers.get("Date"), now)
    if not idempotent and (status in (502, 504) or (status == 503 and asked is None)):
        return Setback(error=_unknown(answer.host, method, f"{status}"), may_repeat=False)
    pause, said = _cut(asked)
    kind: type[RetryableError] = RateLimitedError if status == 429 else UnavailableError
    return Setback(
        error=kind(f"{answer.host} answered {status}{said}.", retry_after_s=pause),
        may_repeat=idempotent,
        outcome="answered" if status == 429 else "failed",
        pause_s=pause,
    )


def setback_of_exception(
    error: Exception, *, host: str, method: str, idempotent: bool, was_sent: bool, was_reused: bool, timeout_s: float
) -> Setback:
    """Gives the setback in an exception of the client library.

    Args:
        error: As it was raised.
        host: For the message.
        method: For the message.
        idempotent: Whether it may be sent twice.
        was_sent: Whether a connection stood, so that the request may have reached them.
        was_reused: Whether that connection was kept from an earlier request.
        timeout_s: The time limit, for the message.
    """
    tls = _tls_problem(error)
    if tls is not None:
        refusal = RemoteError(
            f"The connection to {host} is not safe: {tls}.",
            code="tls_failed",
            hint="Tell whoever runs that system; it cannot be switched off here.",
        )
        return Setback(error=refusal, may_repeat=False, outcome="abandoned")
    what = _what_happened(error, timeout_s)
    if was_sent and not idempotent:
        return Setback(error=_unknown(host, method, what), may_repeat=False)
    if isinstance(error, aiohttp.ClientResponseError):
        malformed = RemoteError(f"{host} sent something that is not HTTP.", code="answer_malformed")
        return Setback(error=malformed, may_repeat=False, outcome="answered")
    return Setback(
        error=UnavailableError(f"{host}: {what}."),
        may_repeat=True,
        is_stale_connection=was_reused and isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError),
    )


def _redirect(answer: Answer) -> RemoteError:
    location = answer.headers.get("Location", "")
    path = re.split(r"[?#]", location, maxsplit=1)[0]
    # Only the host of where it leads is told: the rest of such a link may carry what should not be seen.
    leads_to = re.match(r"https?://([\w.-]{1,253})(?::[0-9]+)?(?:[/?#]|$)", location)
    if _SIGN_IN.search(path.partition("://")[2] or path):
        return RemoteError(
            f"{answer.host} answered {answer.status} and wants somebody to sign in"
            f"{f' at {leads_to[1]}' if leads_to else ''}; nothing was taken.",
            code="redirect_to_sign_in",
            hint="Check the credentials and their rights at the other side, then test the integration.",
        )
    return RemoteError(
        f"{answer.host} answered {answer.status}, a redirect{f' to {leads_to[1]}' if leads_to else ''}, "
        "which is not followed.",
        code="redirect_refused",
        hint="Put the address it leads to into the settings, if it is theirs.",
    )


def _cut(asked: float | None) -> tuple[float | None, str]:
    if asked is None or asked <= 0:
        return None, ""
    if asked > MAX_PAUSE_S:
        return MAX_PAUSE_S, f" and asked for a pause of {asked:.0f} seconds, which is cut to {MAX_PAUSE_S:.0f}"
    return asked, f" and asked for a pause of {asked:.0f} seconds"


def _unknown(host: str, method: str, what: str) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"{host} was sent a {method} and it is not known whether it was carried out ({what}).",
        hint="Look the entry up at the other side before it is sent again.",
    )


def _what_happened(error: Exception, timeout_s: float) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved"
    if isinstance(error, TimeoutError):
        return f"no complete answer within {timeout_s:g} seconds"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "no connection could be made"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut off or damaged"
    return "the connection was lost"


def _tls_problem(error: Exception) -> str | None:
    """Names the check that failed, or None when the trouble is another one (a lost connection in the handshake too)."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        if isinstance(cause, ssl.SSLCertVerificationError):
            # OpenSSL's own words are constants but for the host name, which is no secret.
            return _CERTIFICATE_CHECKS.get(cause.verify_code) or f"certificate check failed ({cause.verify_message})"
        return "its certificate does not match"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        cause = error.os_error
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return None
        reason = getattr(cause, "reason", None)
        return f"no TLS version or cipher in common, or no TLS at all ({reason or 'handshake failed'})"
    return None
