"""Takes multipart bodies apart, with CRLF or bare LF, quoted or bare boundaries and stray blank lines."""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import errors

_BOUNDARY = re.compile(r'multipart/mixed\s*;(?:.*;)?\s*boundary\s*=\s*(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.I)
_REQUEST_LINE = re.compile(r"(GET|POST|PATCH|PUT|DELETE) (\S.*?)(?: HTTP/1\.[01])?\s*", re.I)


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its body, the boundary when it is a changeset, and its Content-ID."""

    body: str
    boundary: str | None
    content_id: str | None


@dataclass(frozen=True, slots=True)
class InnerRequest:
    """A request written inside a part."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes


def boundary_of(content_type: str) -> str | None:
    """Returns the boundary a multipart/mixed content type names."""
    match = _BOUNDARY.match(content_type.strip())
    return None if match is None else match[1] or match[2]


def split_parts(text: str, boundary: str) -> list[Part]:
    """Returns the parts between the boundary lines, or refuses a body that never closes."""
    delimiter = f"--{boundary}"
    parts: list[Part] = []
    lines: list[str] | None = None
    for line in text.replace("\r\n", "\n").split("\n"):
        mark = line.rstrip()
        if mark in {delimiter, f"{delimiter}--"}:
            if lines is not None:
                parts.append(_part("\n".join(lines)))
            lines = []
            if mark != delimiter:
                return parts
        elif lines is not None:
            lines.append(line)
    raise errors.bad_url("The batch body ends without its closing boundary.")


def _part(text: str) -> Part:
    head, _, body = text.lstrip("\n").partition("\n\n")
    headers = _headers(head)
    return Part(body=body, boundary=boundary_of(headers.get("content-type", "")), content_id=headers.get("content-id"))


def _headers(text: str) -> dict[str, str]:
    found = {}
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip().lower()] = value.strip()
    return found


def parse_request(part: Part) -> InnerRequest:
    """Reads the request line, headers and body inside a part."""
    head, _, body = part.body.lstrip("\n").partition("\n\n")
    line, _, rest = head.partition("\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise errors.bad_url(f"'{line[:100]}' is not a request line.")
    return InnerRequest(match[1].upper(), match[2], _headers(rest), body.rstrip("\n").encode("utf-8"))
