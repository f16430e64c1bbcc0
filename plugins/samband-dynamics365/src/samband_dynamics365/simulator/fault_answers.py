"""Faults that change an answer: limits, statuses, pages of HTML, bad rows and bad links."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import orjson

from .directory import unauthorized
from .exchange import Answer, error_payload
from .faults import INSTEAD, FaultRule
from .limits import CONCURRENCY, EXECUTION, REQUESTS, limit_error
from .state import SimulatorState

HTML_PAGE = b"<!DOCTYPE html><html><head><title>Runtime Error</title></head><body><h1>Server Error</h1></body></html>"
LIMIT_CODES = {"requests": REQUESTS, "execution": EXECUTION, "concurrency": CONCURRENCY}
STATUS_CODES = {
    500: ("0x80044150", "Generic SQL error."),
    502: ("0x80072328", "Bad Gateway"),
    503: ("0x80072329", "The service is unavailable."),
    504: ("0x80044151", "SQL timeout expired."),
}
PRIMARY_IDS = ("contactid", "accountid", "systemuserid", "sb_membershipid", "sb_chapterid")
_SKIP_TOKEN = re.compile(r"(?:\$|%24)skiptoken=[^&]*&?")
HUGE_STRING = 2 * 1024 * 1024


def instead(state: SimulatorState, rule: FaultRule, authorization: str | None, origin: str) -> Answer | None:
    """Returns the answer a fault gives in place of the service's own, or nothing when the service shall answer."""
    if rule.kind not in INSTEAD:
        return None
    if rule.kind == "throttle":
        return _throttled(state, rule)
    if rule.kind == "status":
        return _status(rule)
    if rule.kind in {"unauthorized", "revoke_token"}:
        if rule.kind == "revoke_token":
            state.office.revoke(authorization)
        return unauthorized(origin, state.office.tenant_id)
    if rule.kind == "html":
        return Answer(status=int(rule.parameters.get("status", 502)), raw=HTML_PAGE, content_type="text/html")
    # What is left happens on the wire; this answer only carries the status.
    return Answer(status=200, raw=b"")


def _throttled(state: SimulatorState, rule: FaultRule) -> Answer:
    retry_after = rule.parameters.get("retry_after", "1")
    at = rule.parameters.get("retry_at_s")
    if at is not None:
        retry_after = format_datetime(state.clock.now() + timedelta(seconds=float(at)), usegmt=True)
    name = str(rule.parameters.get("limit", "requests"))
    shown = None if retry_after is None else str(retry_after)
    error = limit_error(LIMIT_CODES.get(name, REQUESTS), shown, state.limits.rules)
    return Answer(status=429, payload=error_payload(error.code, error.message), headers=error.headers)


def _status(rule: FaultRule) -> Answer:
    status = int(rule.parameters.get("status", 503))
    code, message = STATUS_CODES.get(status, ("0x80040216", "An unexpected error occurred."))
    code = str(rule.parameters.get("code", code))
    message = str(rule.parameters.get("message", message))
    retry_after = rule.parameters.get("retry_after")
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Answer(status=status, payload=error_payload(code, message), headers=headers)


def spoil(rule: FaultRule, answer: Answer, origin: str, target: str) -> None:
    """Changes an answer in place: its rows, its links or its content type."""
    if rule.kind == "wrong_content_type":
        answer.content_type = str(rule.parameters.get("content_type", "text/html"))
    elif rule.kind == "empty_after":
        answer.raw = b""
    elif answer.payload is not None and isinstance(answer.payload.get("value"), list):
        if rule.kind == "bad_rows":
            _bad_rows(answer.payload["value"], rule.parameters.get("rows", sorted(BAD_ROWS)))
        elif rule.kind.endswith("_next_link"):
            _bad_link(rule, answer.payload, origin, target)


def _bad_link(rule: FaultRule, payload: dict[str, Any], origin: str, target: str) -> None:
    link = payload.get("@odata.nextLink")
    if rule.kind == "foreign_next_link" and link is not None:
        host = str(rule.parameters.get("host", "https://collector.example.net"))
        payload["@odata.nextLink"] = str(link).replace(origin, host, 1)
    elif rule.kind == "loop_next_link":
        # Without its skip token the request means the first page again.
        payload["@odata.nextLink"] = origin + _SKIP_TOKEN.sub("", target).rstrip("?&")
        payload.pop("@odata.deltaLink", None)
    elif rule.kind == "repeat_next_link":
        kept = rule.parameters.setdefault("_kept", link)
        if kept is not None:
            payload["@odata.nextLink"] = kept
            payload.pop("@odata.deltaLink", None)


def _primary_id(row: dict[str, Any]) -> str | None:
    return next((name for name in PRIMARY_IDS if name in row), None)


def _bad_rows(rows: list[Any], kinds: list[str]) -> None:
    for index, kind in enumerate(kinds):
        change = BAD_ROWS.get(kind)
        if change is not None and index < len(rows) and isinstance(rows[index], dict):
            rows[index] = dict(rows[index])
            change(rows, index)


def _duplicate(rows: list[Any], index: int) -> None:
    rows.append(dict(rows[index]))


def _null_id(rows: list[Any], index: int) -> None:
    name = _primary_id(rows[index])
    if name is not None:
        rows[index][name] = None


def _put(rows: list[Any], index: int, value: Any, *names: str) -> None:
    row = rows[index]
    name = next((name for name in names if name in row), None)
    if name is None:
        name = next((n for n in row if not n.startswith("@") and n != _primary_id(row)), "value")
    row[name] = value


BAD_ROWS: dict[str, Callable[[list[Any], int], None]] = {
    "duplicate_id": _duplicate,
    "null_id": _null_id,
    "huge_string": lambda rows, i: _put(rows, i, "x" * HUGE_STRING, "lastname", "sb_membernumber", "fullname"),
    "lone_surrogate": lambda rows, i: _put(
        rows, i, orjson.Fragment(b'"\\ud83d broken"'), "firstname", "sb_membernumber", "fullname"
    ),
    "year_one": lambda rows, i: _put(rows, i, "0001-01-01T00:00:00Z", "modifiedon", "createdon"),
    "date_year_one": lambda rows, i: _put(rows, i, "0001-01-01", "birthdate", "sb_startdate"),
    "beyond_64_bit": lambda rows, i: _put(
        rows, i, orjson.Fragment(b"92233720368547758070"), "versionnumber", "gendercode", "sb_status"
    ),
    "unknown_choice": lambda rows, i: _put(rows, i, 987_654_321, "sb_status", "statuscode", "gendercode", "statecode"),
    "unknown_lookup": lambda rows, i: _put(
        rows, i, "deadbeef-0000-4000-8000-000000000000", "_sb_contactid_value", "_ownerid_value"
    ),
    "wrong_type": lambda rows, i: _put(rows, i, {"unexpected": ["shape"]}, "firstname", "sb_startdate", "fullname"),
}
