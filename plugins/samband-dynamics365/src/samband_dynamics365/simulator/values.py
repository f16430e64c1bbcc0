"""Column values: how JSON becomes a stored value, and how a stored value reads to a person.

Sources: "Behavior and format of the date and time column" (no time-zone conversion, whole seconds, first of January
1753 at the earliest), recorded rows (decimals with trailing zeros).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from . import errors
from .schema import Column
from .urls import GUID

INT32 = 2**31
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)?")
EARLIEST = "1753-01-01"


def stored(entity: str, column: Column, value: Any) -> Any:
    """Returns the value to keep for a column, or refuses a value of the wrong type, length or range."""
    if value is None:
        return None
    if column.edm == "Edm.String":
        return _string(entity, column, value)
    if column.edm in {"Edm.Int32", "Edm.Int64"}:
        return _whole(entity, column, value)
    if column.edm == "Edm.Boolean":
        if isinstance(value, bool):
            return value
    elif column.edm in {"Edm.Decimal", "Edm.Double"}:
        return _number(entity, column, value)
    elif column.edm == "Edm.Guid":
        if isinstance(value, str) and GUID.fullmatch(value):
            return value.lower()
    elif column.edm == "Edm.Date":
        return _date(entity, value)
    elif column.edm == "Edm.DateTimeOffset":
        return _moment(entity, value)
    elif column.edm == "Edm.Binary" and isinstance(value, str):
        return value
    raise errors.wrong_literal(entity, value, column.edm)


def _string(entity: str, column: Column, value: Any) -> str:
    if not isinstance(value, str):
        raise errors.wrong_literal(entity, value, "Edm.String")
    if column.max_length is not None and len(value) > column.max_length:
        raise errors.string_too_long(entity, column.name, column.max_length)
    return value


def _whole(entity: str, column: Column, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -INT32 <= value < INT32:
        raise errors.wrong_literal(entity, value, column.edm)
    if column.options is not None and value not in column.options:
        accepted = ",".join(str(option) for option in column.options)
        raise errors.choice_out_of_range(entity, column.name, value, accepted)
    return value


def _number(entity: str, column: Column, value: Any) -> Any:
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e11:
        raise errors.wrong_literal(entity, value, column.edm)
    if column.scale is None:
        return value
    try:
        return scaled(value, column.scale)
    except InvalidOperation:
        raise errors.wrong_literal(entity, value, column.edm) from None


def scaled(value: Any, scale: int) -> Decimal:
    """Returns a decimal with exactly as many places as the service writes."""
    return Decimal(str(value)).quantize(Decimal(1).scaleb(-scale))


def _date(entity: str, value: Any) -> str:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise errors.wrong_literal(entity, value, "Edm.Date")
    try:
        date.fromisoformat(value)
    except ValueError:
        raise errors.wrong_literal(entity, value, "Edm.Date") from None
    if value < EARLIEST:
        raise errors.date_too_early(value)
    return value


def _moment(entity: str, value: Any) -> str:
    if not isinstance(value, str) or not (_MOMENT.fullmatch(value) or _DATE.fullmatch(value)):
        raise errors.wrong_literal(entity, value, "Edm.DateTimeOffset")
    try:
        found = datetime.fromisoformat(value)
        # A moment without a zone is taken as UTC; the service converts nothing.
        found = found.astimezone(UTC) if found.tzinfo is not None else found
    except (ValueError, OverflowError):
        raise errors.wrong_literal(entity, value, "Edm.DateTimeOffset") from None
    text = found.replace(tzinfo=None, microsecond=0).isoformat()
    if text < EARLIEST:
        raise errors.date_too_early(value)
    return f"{text}Z"


def formatted(column: Column, value: Any) -> str | None:
    """Returns a value as this environment shows it to people, or nothing for plain text and ids.

    The caller's locale decides in a real environment; here it is Norwegian dates and English labels.
    """
    if column.options is not None:
        return column.options.get(value)
    if column.edm == "Edm.Boolean":
        return "Yes" if value else "No"
    if column.edm == "Edm.Date" and isinstance(value, str):
        return f"{value[8:10]}.{value[5:7]}.{value[:4]}"
    if column.edm == "Edm.DateTimeOffset" and isinstance(value, str):
        return f"{value[8:10]}.{value[5:7]}.{value[:4]} {value[11:16]}"
    if isinstance(value, Decimal):
        return f"kr {value:,.2f}".replace(",", " ").replace(".", ",")
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    return None
