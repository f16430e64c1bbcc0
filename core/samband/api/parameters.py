"""The parameters of the API: what each may look like. Everything outside these shapes is refused before the service."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "ORGANIZATION_ID",
    "After",
    "ClaimId",
    "Cursor",
    "IdempotencyKey",
    "IfMatch",
    "InHeader",
    "Input",
    "Instant",
    "KindName",
    "Limit",
    "OrgId",
    "PluginName",
    "RowId",
    "RunId",
    "Title",
]

ORGANIZATION_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# Rows are numbered by 64-bit integers; a larger number would be an error in the driver and not an answer.
_MAX_ROW = 2**63 - 1


class InHeader(str):
    """Marks a parameter as a request header, by the header's name."""


class Input(BaseModel):
    """Base of request bodies: closed, strict, and silent about what was sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


def _text(pattern: str, description: str) -> Any:
    return Field(pattern=pattern, description=description)


def _written(value: Any) -> Any:
    # A bare number would be taken for seconds since 1970.
    if not isinstance(value, str) or re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]", value) is None:
        raise ValueError("write the instant as text with its zone, for instance 2027-01-31T00:00:00Z")
    return value


def _in_utc(value: dt.datetime) -> dt.datetime:
    try:
        return value.astimezone(dt.UTC)
    except OverflowError:  # its zone puts it before the year 1 or after the year 9999
        raise ValueError("give an instant that is within the years 1 to 9999 in UTC") from None


Instant = Annotated[
    AwareDatetime,
    Field(strict=False),  # bodies are read strictly, and JSON has no instants: they are texts there
    BeforeValidator(_written, json_schema_input_type=dt.datetime),
    AfterValidator(_in_utc),
]
"""An instant with its zone, given to the handler in UTC."""
OrgId = Annotated[str, _text(f"^{ORGANIZATION_ID.pattern}$", "The organisation's id.")]
PluginName = Annotated[str, _text("^[a-z][a-z0-9_]{0,62}$", "The integration's type: the plugin's name.")]
KindName = Annotated[str, _text("^[a-z][a-z0-9_]{0,62}$", "The record kind, for instance member.")]
RunId = Annotated[str, _text("^[A-Za-z0-9_-]{1,64}$", "The run's id.")]
ClaimId = Annotated[str, _text("^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$", "The platform's own id of the claim.")]
RowId = Annotated[int, Field(ge=1, le=_MAX_ROW)]
After = Annotated[int, Field(ge=0, le=_MAX_ROW, description="Goes on after this position; 0 is the beginning.")]
Cursor = Annotated[str, _text("^[A-Za-z0-9_.:=+-]{1,200}$", "Goes on after this: the next of the part before.")]
Limit = Annotated[int, Field(ge=1, le=500, description="How many items at most.")]
Title = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
IdempotencyKey = Annotated[
    str,
    InHeader("Idempotency-Key"),
    _text("^[ -~]{1,255}$", "Chosen by the caller; the same key gives the same run again instead of a second one."),
]
IfMatch = Annotated[
    str,
    InHeader("If-Match"),
    Field(
        max_length=100,
        pattern=r'^(\*|(W/)?"[!#-~]*")$',
        description="The ETag the edit is based on; another revision is refused with 412.",
    ),
]
