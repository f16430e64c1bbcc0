"""Reads resource paths and query strings exactly as clients send them.

Clients differ: one writes ``%24filter=a+eq+1`` (plus for space), another ``$filter=a%20eq%201``. Both mean the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from . import errors

GUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
URL_LIMIT = 32_768
BATCH_URL_LIMIT = 65_536
_SEGMENT = re.compile(r"([^()]+)(?:\((.*)\))?", re.DOTALL)
# These characters break a key in a URL even when encoded ("Use alternate keys to reference a record").
FORBIDDEN_IN_KEYS = frozenset("/<>*%&:\\?+")


@dataclass(frozen=True, slots=True)
class Segment:
    """One path segment: a name and, when parentheses follow, what stands between them."""

    name: str
    arguments: str | None


def split_path(path: str) -> list[Segment]:
    """Splits a raw path below the service root into decoded segments."""
    segments = []
    for part in path.strip("/").split("/"):
        text = decode(part)
        match = _SEGMENT.fullmatch(text)
        if match is None:
            raise errors.bad_url(f"Bad Request - Error in query syntax: '{text[:100]}'.")
        segments.append(Segment(match[1], match[2]))
    return segments


def decode(text: str, *, plus: bool = False) -> str:
    """Decodes percent signs (and plus as space in a query); refuses bytes that are not UTF-8."""
    try:
        return unquote(text.replace("+", " ") if plus else text, errors="strict")
    except UnicodeDecodeError:
        raise errors.bad_url("Bad Request - the URL holds bytes that are not UTF-8.") from None


def split_query(query: str) -> list[tuple[str, str, str]]:
    """Splits a raw query into (name, value, raw pair), names and values decoded, in the order sent."""
    pairs = []
    for raw in query.split("&"):
        if raw:
            name, _, value = raw.partition("=")
            pairs.append((decode(name, plus=True), decode(value, plus=True), raw))
    return pairs


def split_outside_quotes(text: str, separator: str) -> list[str]:
    """Splits at a separator that stands outside single quotes and outside parentheses."""
    parts, depth, quoted, start = [], 0, False, 0
    for position, char in enumerate(text):
        if char == "'":
            quoted = not quoted
        elif not quoted and char == "(":
            depth += 1
        elif not quoted and char == ")":
            depth -= 1
        elif char == separator and not quoted and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    if quoted or depth:
        raise errors.bad_url(f"There is an unterminated literal or parenthesis in '{text[:200]}'.")
    return [*parts, text[start:]]


def unquote_literal(text: str) -> str:
    """Returns a quoted OData string without its quotes, and any other literal as it stands."""
    text = text.strip()
    if len(text) >= 2 and text[0] == "'" and text[-1] == "'":
        return text[1:-1].replace("''", "'")
    return text


def key_arguments(arguments: str) -> str | dict[str, str]:
    """Returns a primary key as a lower-case GUID, or the named values of an alternate key, still as literals."""
    if GUID.fullmatch(arguments.strip().strip("'")):
        return arguments.strip().strip("'").lower()
    named = {}
    for part in split_outside_quotes(arguments, ","):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise errors.bad_url(f"Error in query syntax: '{arguments[:100]}' is not a key.")
        named[name.strip()] = value.strip()
    return named


def relative_path(url: str, root: str) -> str:
    """Returns the part of a URL behind the service root: absolute, rooted (``/contacts(…)``) or relative alike."""
    path = url.strip()
    if path.startswith(("http://", "https://")):
        path = path.split("/", 3)[3] if path.count("/") >= 3 else ""
    path = path.lstrip("/")
    match = re.match(r"api/data/v[0-9.]+/", path)
    return path[match.end() :] if match else path
