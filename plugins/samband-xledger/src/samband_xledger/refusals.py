"""What Xledger's refusals mean: which waits, which asks for a person, which is certain, and which leaves the outcome open.

For a write this is decided here and nowhere else: either it is certain that nothing was stored, or the outcome is unknown.
Sources: Xledger's GraphQL samples (error codes, waits), and what running clients of others show (HTTP statuses, wordings);
neither is a specification, so whatever is not recognised counts as unknown.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from samband import (
    AdapterError,
    AuthError,
    OutcomeUnknownError,
    RateLimitedError,
    RejectedError,
    RemoteError,
    UnavailableError,
)
from samband_xledger.instants import to_utc

Row = Mapping[str, Any]

# What they ask for when they say no time: the waits of Xledger's own sample.
_WAITS: Final = {
    "BAD_REQUEST.BURST_RATE_LIMIT_REACHED": 5.0,
    "BAD_REQUEST.CONCURRENCY_LIMIT_REACHED": 1.0,
    "BAD_REQUEST.INSUFFICIENT_CREDITS": 20 * 60.0,
}
_JITTER: Final = 0.25
_TIMED_OUT: Final = re.compile(r"\bquery timed out\b", re.IGNORECASE)
_BAD_TOKEN: Final = re.compile(
    r"bad format for api token|\b(invalid|unknown|expired|revoked|missing)\b.{0,20}\btoken\b"
    r"|\btoken\b.{0,30}\b(invalid|unknown|expired|revoked|missing|not found|not valid|not recogni[sz]ed)\b"
    r"|\bnot authenticated\b|\bunauthenticated\b",
    re.IGNORECASE,
)
_TOKEN_CODES: Final = frozenset({"UNAUTHENTICATED", "UNAUTHORIZED", "INVALID_TOKEN"})
_NO_RIGHT: Final = re.compile(
    r"\b(no|not|lacks?|missing|without|insufficient|denied|requires?)\b.{0,60}\b(access|rights?|permissions?|privileges?)\b"
    r"|\b(access|rights?|permissions?|privileges?)\b.{0,60}\b(denied|missing|required|refused|insufficient)\b"
    r"|\bnot (allowed|authori[sz]ed|permitted)\b|\bforbidden\b",
    re.IGNORECASE,
)
_RIGHT_CODES: Final = frozenset({"FORBIDDEN", "ACCESS_DENIED", "PERMISSION_DENIED", "MISSING_RIGHT", "NO_ACCESS"})
_INVALID_CODES: Final = frozenset(
    {"INVALID_VALUE", "ARGUMENTS_OF_CORRECT_TYPE", "GRAPHQL_VALIDATION_FAILED", "BAD_USER_INPUT"}
)
_INVALID: Final = re.compile(
    r"^(Cannot query field|Unknown (argument|type|field)|Variable \"|Field \"|Syntax Error)|\bNo value matching\b"
    r"|\bgot invalid value\b",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One entry of ``errors``.

    Attributes:
        message: Their words.
        code: The code beside the message; empty when there is none.
        detail: The other code, within the extensions; empty when there is none.
        path: Where in the answer or the input; empty when they do not say.
        reset_at: When they take requests again, aware UTC.
        examples: Codes they would take instead, where they tell them.
    """

    message: str
    code: str = ""
    detail: str = ""
    path: tuple[str | int, ...] = ()
    reset_at: datetime | None = None
    examples: tuple[Row, ...] = ()

    @property
    def is_of_token(self) -> bool:
        return self._has(_TOKEN_CODES) or _BAD_TOKEN.search(self.message) is not None

    @property
    def is_of_right(self) -> bool:
        return self._has(_RIGHT_CODES) or _NO_RIGHT.search(self.message) is not None

    @property
    def is_of_input(self) -> bool:
        return self._has(_INVALID_CODES) or _INVALID.search(self.message) is not None

    def _has(self, codes: frozenset[str]) -> bool:
        return any(code.rpartition(".")[2].upper() in codes for code in (self.code, self.detail))


class InputRefusedError(RejectedError):
    """They refused what was asked or sent before they did anything with it.

    Args:
        refusals: All that they said, in order.
    """

    default_code = "input_refused"

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        first = refusals[0]
        super().__init__("Xledger refused what was sent.", remote_message=first.message, field=field_of(first))
        self.refusals = tuple(refusals)


def is_about_one_right(error: Exception) -> bool:
    """Tells whether they named a right that is missing, as against refusing without a word."""
    return isinstance(error, AuthError) and error.code == "auth_missing_privilege"


def field_of(refusal: Refusal) -> str | None:
    """Gives the field that a refusal is about, such as ``subledger.code``; None when it does not say."""
    said = re.match(r"([A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*)*): ", refusal.message)
    if said:
        return said[1]
    names = [part for part in refusal.path if isinstance(part, str)]
    return names[-1] if len(names) > 1 else None


def read_refusals(answer: Row) -> list[Refusal]:
    """Gives what stands in ``errors``, as far as it can be read."""
    errors = answer.get("errors")
    entries = errors if isinstance(errors, list) else [errors] if errors else []
    return [_refusal(entry) for entry in entries]


def _refusal(entry: Any) -> Refusal:
    if not isinstance(entry, Mapping):
        return Refusal(message=str(entry)[:1000])
    extensions = entry.get("extensions")
    more: Row = extensions if isinstance(extensions, Mapping) else {}
    path = entry.get("path")
    examples = more.get("exampleValidInputs")
    return Refusal(
        message=str(entry.get("message") or "")[:1000],
        code=_text(entry.get("code")),
        detail=_text(more.get("code")),
        path=tuple(part for part in path if isinstance(part, str | int)) if isinstance(path, list) else (),
        reset_at=_instant(more.get("resetAt")),
        examples=tuple(e for e in examples if isinstance(e, Mapping)) if isinstance(examples, list) else (),
    )


def explain(refusals: Sequence[Refusal], status: int, *, is_write: bool, now: datetime) -> AdapterError:
    """Gives the error that refusals mean: what the host does next depends on its type."""
    for refusal in refusals:
        if refusal.code in _WAITS or refusal.detail in _WAITS:
            return _rate_limited(refusal, now)
    first = refusals[0] if refusals else None
    if first is not None and (any(r.is_of_token for r in refusals)):
        return _token_refused(first)
    if status == 403 or any(r.is_of_right for r in refusals):
        return right_missing(next((r for r in refusals if r.is_of_right), None))
    said = first.message if first is not None else ""
    if any(_TIMED_OUT.search(r.message) for r in refusals):
        return _timed_out(said, is_write=is_write)
    if refusals and all(r.is_of_input for r in refusals):
        return InputRefusedError(refusals)
    if is_write:
        return unknown(f"it answered {status} with an error that is not known", said)
    if status >= 500:
        return UnavailableError(f"Xledger answered {status}.", remote_message=said)
    if status == 404:
        return not_there()
    return RemoteError(f"Xledger answered {status} with an error.", code="query_failed", remote_message=said)


def _rate_limited(refusal: Refusal, now: datetime) -> RateLimitedError:
    code = refusal.code if refusal.code in _WAITS else refusal.detail
    wait_s = _WAITS[code]
    if refusal.reset_at is not None:
        wait_s = max(1.0, (refusal.reset_at - now).total_seconds())
    wait_s += min(wait_s, 60.0) * _JITTER * random.random()  # noqa: S311 - spreads callers, guards nothing
    return RateLimitedError(
        "Xledger asks for a pause.",
        code=code.rpartition(".")[2].lower(),
        retry_after_s=wait_s,
        remote_message=refusal.message,
    )


def _token_refused(refusal: Refusal) -> AuthError:
    return AuthError(
        "Xledger does not take the API token.",
        reason="secret_wrong",
        remote_message=refusal.message,
        hint="Have a domain administrator make a new one (Administration, System Access, GraphQL, API tokens) for this"
        " environment; demo tokens vanish when demo is overwritten from live.",
    )


def right_missing(refusal: Refusal | None) -> AuthError:
    """Gives the error for a right that is wanting; None when they refused without a word."""
    return AuthError(
        "The API token lacks a right." if refusal else "Xledger forbids it and does not say what is missing.",
        reason="missing_privilege",
        code=None if refusal else "forbidden",
        remote_message=refusal.message if refusal else "",
        hint="Test the connection: it lists the rights that are missing. A domain administrator adds them to the token.",
    )


def _timed_out(said: str, *, is_write: bool) -> AdapterError:
    if is_write:
        return unknown("it says that the query timed out", said)
    return UnavailableError("Xledger did not finish a query in time.", code="query_timed_out", remote_message=said)


def not_there() -> RemoteError:
    """Gives the error for an address at which there is no GraphQL."""
    return RemoteError(
        "There is no GraphQL at this address.",
        code="graphql_not_found",
        field="settings.graphql_url",
        hint="Correct 'graphql_url', or leave it out for Xledger's own address.",
    )


def incomplete(how: str) -> UnavailableError:
    """Gives the error for an answer to a read from which something is missing."""
    return UnavailableError(f"Xledger answered {how}.", code="answer_incomplete")


def unknown(how: str, remote_message: str = "") -> OutcomeUnknownError:
    """Gives the error for a write of which it is not known whether it was carried out."""
    return OutcomeUnknownError(
        f"Xledger was sent lines, and {how}.",
        remote_message=remote_message,
        hint="They are looked up before anything is sent again.",
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _instant(value: Any) -> datetime | None:
    """Reads what nobody has written down: a text with or without an offset, or seconds since 1970."""
    try:
        if isinstance(value, str) and not value.isdecimal():
            return to_utc(value)
        if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
            return datetime.fromtimestamp(float(value), UTC)
    except (ValueError, OverflowError, OSError):
        pass  # a wait of our own choosing does as well
    return None
