"""Literals of ``$filter`` and how they compare with stored values."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from . import errors
from .urls import GUID

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}
NUMBERS = frozenset({"Edm.Int32", "Edm.Int64", "Edm.Decimal", "Edm.Double"})


@dataclass(frozen=True, slots=True)
class Literal:
    """A value written in an expression: its token kind and its value as text, number, boolean or nothing."""

    kind: str
    value: Any


def literal_of(kind: str, text: str) -> Literal:
    """Reads one token as a value."""
    if kind == "string":
        return Literal("string", text[1:-1].replace("''", "'"))
    if text in {"true", "false"}:
        return Literal("boolean", text == "true")
    if text == "null":
        return Literal("null", None)
    if kind == "number":
        return Literal("number", _number(text))
    return Literal(kind, text)


def _number(text: str) -> Any:
    try:
        return int(text) if text.lstrip("+-").isdigit() and len(text) < 30 else Decimal(text)
    except (InvalidOperation, ValueError):
        raise errors.bad_url(f"The literal '{text[:50]}' is not a number.") from None


def comparison(name: str, edm: str, literal: Literal) -> Callable[[Any], bool]:
    """Returns the test of a stored value against a literal, or refuses types that do not go together."""
    if literal.value is None:
        if name not in {"eq", "ne"}:
            return lambda value: False
        return (lambda value: value is None) if name == "eq" else (lambda value: value is not None)
    wanted = _fitted(name, edm, literal)
    compare = COMPARISONS[name]
    if name == "ne":
        return lambda value: value is None or compare(comparable(edm, value), wanted)
    return lambda value: value is not None and compare(comparable(edm, value), wanted)


def among(edm: str, literals: list[Literal]) -> Callable[[Any], bool]:
    """Returns the test whether a stored value is one of the literals, as fast for many of them as for one."""
    wanted = {_fitted("eq", edm, literal) for literal in literals}
    return lambda value: value is not None and comparable(edm, value) in wanted


def comparable(edm: str, value: Any) -> Any:
    """Returns a stored value in the form comparisons use."""
    if edm in {"Edm.String", "Edm.Guid"}:
        return str(value).casefold()
    if edm == "Edm.DateTimeOffset":
        return str(value).removesuffix("Z")
    return value


def _fitted(name: str, edm: str, literal: Literal) -> Any:
    kind, value = literal.kind, literal.value
    if edm == "Edm.String" and kind in {"string", "guid", "date", "moment"}:
        return str(value).casefold()
    if edm == "Edm.Guid" and kind in {"guid", "string"} and GUID.fullmatch(str(value)):
        return str(value).casefold()
    if edm in NUMBERS and kind == "number":
        return value
    if edm in NUMBERS and kind == "string":
        return _number(str(value))
    if edm == "Edm.Boolean" and kind == "boolean":
        return value
    if edm == "Edm.Boolean" and kind == "string" and str(value).lower() in {"true", "false"}:
        return str(value).lower() == "true"
    if edm in {"Edm.Date", "Edm.DateTimeOffset"} and kind in {"date", "moment", "string"}:
        return _moment(edm, str(value))
    shown = {"string": "Edm.String", "number": "Edm.Int32", "boolean": "Edm.Boolean", "guid": "Edm.Guid"}
    raise errors.bad_url(
        "A binary operator with incompatible types was detected. Found operand types "
        f"'{edm}' and '{shown.get(kind, 'Edm.DateTimeOffset')}' for operator kind '{name}'."
    )


def _moment(edm: str, text: str) -> str:
    try:
        found = datetime.fromisoformat(text)
        found = found.astimezone(UTC) if found.tzinfo is not None else found
    except (ValueError, OverflowError):
        raise errors.bad_url(f"The literal '{text[:50]}' is not a date or a moment.") from None
    # Without the zone a whole second is a prefix of the same second with a fraction, so text order is time order.
    stamp = found.replace(tzinfo=None).isoformat()
    return stamp[:10] if edm == "Edm.Date" else stamp.rstrip("0") if "." in stamp else stamp


def pattern(function: str, text: str) -> Callable[[str], bool]:
    """Returns the search of contains, startswith or endswith, wildcards included."""
    wanted = text.casefold()
    if not any(char in text for char in "%_["):
        if function == "contains":
            return lambda value: wanted in value.casefold()
        if function == "startswith":
            return lambda value: value.casefold().startswith(wanted)
        return lambda value: value.casefold().endswith(wanted)
    front, back = ("" if function == "startswith" else "%"), ("" if function == "endswith" else "%")
    try:
        expression = re.compile(_wildcards(re.sub("%+", "%", front + text + back)), re.IGNORECASE | re.DOTALL)
    except re.error:
        raise errors.bad_url(f"The pattern '{text[:50]}' is not valid.") from None
    return lambda value: expression.fullmatch(value) is not None


def _wildcards(text: str) -> str:
    parts, position = [], 0
    while position < len(text):
        char = text[position]
        closing = text.find("]", position + 1) if char == "[" else -1
        if closing > position + 1:
            inner = text[position + 1 : closing].replace("\\", "\\\\").replace("[", "\\[")
            parts.append(f"[{inner}]" if not inner.startswith("^") or len(inner) > 1 else re.escape(f"[{inner}]"))
            position = closing + 1
            continue
        parts.append({"%": ".*", "_": "."}.get(char) or re.escape(char))
        position += 1
    return "".join(parts)
