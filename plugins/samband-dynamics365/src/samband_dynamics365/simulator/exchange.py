"""One request and one answer of the simulated Web API, free of any HTTP library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from .access import Caller

JSON_TYPE = "application/json; odata.metadata=minimal"
_PREFERENCE = re.compile(r'\s*([A-Za-z.\-]+)\s*(?:=\s*(?:"([^"]*)"|([^,;\s]*)))?\s*(?:,|;|$)')
DEFAULT_PAGE_CAP = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What the comma-joined ``Prefer`` header asks for ("Compose HTTP requests", section Prefer header)."""

    representation: bool = False
    max_page_size: int | None = None
    annotations: str | None = None
    track_changes: bool = False
    continue_on_error: bool = False

    @classmethod
    def parse(cls, header: str | None) -> Preferences:
        """Reads one header value; unknown preferences are ignored, as HTTP asks for."""
        found = {
            match[1].lower(): match[2] if match[2] is not None else match[3]
            for match in _PREFERENCE.finditer(header or "")
        }
        size = found.get("odata.maxpagesize") or ""
        return cls(
            representation=found.get("return") == "representation",
            max_page_size=int(size) if size.isdecimal() and len(size) < 10 and int(size) > 0 else None,
            annotations=found.get("odata.include-annotations"),
            track_changes="odata.track-changes" in found,
            continue_on_error="odata.continue-on-error" in found,
        )

    def applied(self, *, tracked: bool = False, paged: bool = False, represented: bool = False) -> str | None:
        """Returns the ``Preference-Applied`` value for those preferences that the answer honoured."""
        parts = []
        if represented and self.representation:
            parts.append("return=representation")
        if paged and self.max_page_size:
            parts.append(f"odata.maxpagesize={self.max_page_size}")
        if self.annotations:
            parts.append(f'odata.include-annotations="{self.annotations}"')
        if tracked:
            parts.append("odata.track-changes")
        return ",".join(parts) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request inside ``/api/data/v9.x/``: a raw path and query, lower-cased header names and the whole body.

    ``references`` maps the ``$n`` of a changeset to the rows its earlier parts made.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    origin: str
    version: str
    caller: Caller
    prefer: Preferences
    references: Mapping[str, str] = field(default_factory=dict)

    @property
    def root(self) -> str:
        """Returns the service root as this client addresses it, without a slash at the end."""
        return f"{self.origin}/api/data/{self.version}"

    def condition(self, name: str) -> str | None:
        """Returns a conditional header, or nothing when it is absent or holds the literal word ``null``.

        Source: "Compose HTTP requests and handle errors": samples send ``If-None-Match: null`` on every request.
        """
        value = self.headers.get(name)
        return None if value is None or value.strip().lower() in {"", "null"} else value.strip()


@dataclass(slots=True, kw_only=True)
class Answer:
    """What the service replies: a status, headers and either a JSON payload or raw bytes."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    payload: dict[str, Any] | None = None
    raw: bytes | None = None
    content_type: str = JSON_TYPE

    def body(self) -> bytes:
        """Returns the bytes that go on the wire."""
        if self.raw is not None:
            return self.raw
        return b"" if self.payload is None else dump_json(self.payload)


def dump_json(value: object) -> bytes:
    """Serialises a payload, decimals with all their trailing zeros."""
    return orjson.dumps(value, default=_encode)


def _encode(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    raise TypeError(f"cannot serialise {type(value).__name__}")


def error_payload(code: str, message: str, annotations: str | None = None) -> dict[str, Any]:
    """Returns the error envelope, with the vendor's details when all annotations were asked for."""
    error: dict[str, Any] = {"code": code, "message": message}
    if annotations == "*":
        error["@Microsoft.PowerApps.CDS.ErrorDetails.OperationStatus"] = "0"
        error["@Microsoft.PowerApps.CDS.ErrorDetails.SubErrorCode"] = "0"
        error["@Microsoft.PowerApps.CDS.HelpLink"] = f"https://go.microsoft.com/fwlink/?linkid=2195293&error={code}"
        error["@Microsoft.PowerApps.CDS.TraceText"] = ""
        error["@Microsoft.PowerApps.CDS.InnerError.Message"] = message
    return {"error": error}
