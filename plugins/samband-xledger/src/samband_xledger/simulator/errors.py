"""Refusals as the API words them: ``code`` beside ``message``, a second code in ``extensions`` for wrong values."""

from __future__ import annotations

from typing import Any

from graphql import GraphQLError

WRONG_SCHEME = 'Bad format for API Token. Expected header: "Authorization: token <your-token>"'
MISSING_TOKEN = "No API Token given."  # noqa: S105  a sentence
UNKNOWN_TOKEN = "Invalid API Token."  # noqa: S105  a sentence
TIMED_OUT = "Your query timed out."
CREDITS = "BAD_REQUEST.INSUFFICIENT_CREDITS"
BURST = "BAD_REQUEST.BURST_RATE_LIMIT_REACHED"
CONCURRENCY = "BAD_REQUEST.CONCURRENCY_LIMIT_REACHED"
LIMIT_CODES = {"credits": CREDITS, "burst": BURST, "concurrency": CONCURRENCY}
LIMIT_MESSAGES = {
    CREDITS: "Insufficient credits.",
    BURST: "Burst rate limit reached.",
    CONCURRENCY: "Concurrency limit reached.",
}
FORBIDDEN = "FORBIDDEN"
INVALID_VALUE = "INVALID_VALUE"


class Refusal(GraphQLError):
    """An error of the service itself; ``beside`` is the code that stands beside the message."""

    def __init__(self, message: str, *, beside: str | None = None, extensions: dict[str, Any] | None = None) -> None:
        super().__init__(message, extensions=extensions)
        self.beside = beside


def invalid(message: str, **extensions: Any) -> Refusal:
    """Returns the refusal of a value."""
    return Refusal(message, extensions={"code": INVALID_VALUE, **extensions})


def forbidden(verb: str, thing: str) -> Refusal:
    """Returns the refusal of a token that lacks a right."""
    return Refusal(f"The API Token has no {verb} access to {thing}.", beside=FORBIDDEN, extensions={"code": FORBIDDEN})


def no_match(path: str, owner: int, field: str, value: object, **extensions: Any) -> Refusal:
    """Returns the refusal of a reference to something that is not there."""
    return invalid(f"{path}.{field}: No value matching owner {owner}, {field} '{value}'.", **extensions)


def limited(code: str, reset_at: str) -> dict[str, Any]:
    """Returns the error of a limit that was reached."""
    return {"message": LIMIT_MESSAGES[code], "code": code, "extensions": {"resetAt": reset_at}}


def shown(problem: GraphQLError) -> dict[str, Any]:
    """Returns an error as it stands in the answer."""
    found: dict[str, Any] = {"message": problem.message}
    original = problem.original_error
    beside = getattr(problem, "beside", None) or getattr(original, "beside", None)
    if beside is not None:
        found["code"] = beside
    if problem.locations:
        found["locations"] = [{"line": place.line, "column": place.column} for place in problem.locations]
    if problem.path:
        found["path"] = problem.path
    if problem.extensions:
        found["extensions"] = problem.extensions
    return found
