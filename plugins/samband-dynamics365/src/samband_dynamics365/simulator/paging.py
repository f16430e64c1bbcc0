"""Pages: at most 5,000 rows, a link to follow verbatim and a paging cookie no client should look into.

Source: "Page results": the ``$skiptoken`` holds an XML cookie whose inner cookie is encoded twice.
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote

import orjson

from . import errors
from .filters import Test
from .query import SortKey
from .tables import Row, Table

_OUTER = re.compile(r'<cookie pagenumber="(\d{1,9})" pagingcookie="([^"<>]*)" istracking="(True|False)" />')
_INNER = re.compile(
    r'<cookie page="\d+"><(\w+) last="\{[^}]*\}" first="\{[^}]*\}" /><at>([A-Za-z0-9_=-]+)</at></cookie>'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where the next page starts; what stands in the paging cookie.

    ``after`` is the last primary key of the page before (or the last version, when ``phase`` says that changes are
    being paged), ``since`` and ``until`` bound a tracked read.
    """

    page: int
    after: Any
    since: int | None = None
    until: int | None = None
    phase: str = ""


def write_cookie(table: str, position: Position, *, first: str, last: str, tracking: bool) -> str:
    """Returns the percent-encoded value of ``$skiptoken``."""
    state = orjson.dumps([position.page, position.after, position.since, position.until, position.phase])
    at = base64.urlsafe_b64encode(state).decode()
    inner = (
        f'<cookie page="{position.page - 1}"><{table}id last="{{{last.upper()}}}" first="{{{first.upper()}}}" />'
        f"<at>{at}</at></cookie>"
    )
    flag = "True" if tracking else "False"
    outer = f'<cookie pagenumber="{position.page}" pagingcookie="{encode(inner)}" istracking="{flag}" />'
    return encode(outer)


def encode(text: str) -> str:
    """Percent-encodes with lower-case digits, as the service writes its links."""
    return re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quote(text, safe=""))


def read_cookie(token: str) -> Position:
    """Returns the position a client was sent to, or refuses a cookie that was altered on the way."""
    outer = _OUTER.fullmatch(token)
    inner = None if outer is None else _INNER.fullmatch(unquote(outer[2]))
    try:
        state: Any = orjson.loads(base64.urlsafe_b64decode(inner[2])) if inner else None
        page, after, since, until, phase = state
        whole = (type(page) is int, since is None or type(since) is int, until is None or type(until) is int)
        if not all(whole) or phase not in {"", "upserts", "deletions"}:
            raise ValueError
    except (ValueError, TypeError):
        raise errors.ApiError(400, "0x80041129", "Malformed XML in the Paging Cookie") from None
    return Position(page=page, after=after, since=since, until=until, phase=phase)


@dataclass(frozen=True, slots=True)
class PageOfRows:
    """Some rows and, when more follow, where the next page starts."""

    rows: list[Row]
    next_after: Any


def plain_page(table: Table, test: Test | None, after: Any, size: int) -> PageOfRows:
    """Returns the next rows in primary-key order; a row deleted meanwhile moves no other row."""
    if after is not None and not isinstance(after, str):
        raise errors.ApiError(400, "0x80041129", "Malformed XML in the Paging Cookie")
    rows = list(islice(_picked(table, test, after), size + 1))
    more = len(rows) > size
    del rows[size:]
    return PageOfRows(rows, rows[-1][table.spec.primary_id] if more else None)


def _picked(table: Table, test: Test | None, after: str | None) -> Iterator[Row]:
    found = table.rows
    rows = (found[row_id] for row_id in table.page_ids(after))
    return rows if test is None else filter(test, rows)


def ordered_page(table: Table, test: Test | None, key: SortKey, after: Any, size: int) -> PageOfRows:
    """Returns the next rows in the order asked for; the cookie holds the id of the last row and how many came before.

    When the last row moved or vanished between pages, the count stands in for it.
    """
    if after is not None and not (
        isinstance(after, list) and len(after) == 2 and isinstance(after[0], str) and type(after[1]) is int
    ):
        raise errors.ApiError(400, "0x80041129", "Malformed XML in the Paging Cookie")
    rows = sorted((row for row in table.rows.values() if test is None or test(row)), key=key)
    start = 0
    if after is not None:
        last = table.rows.get(after[0])
        start = min(max(after[1], 0), len(rows)) if last is None else bisect_right(rows, key(last), key=key)
    chosen = rows[start : start + size]
    more = start + size < len(rows)
    return PageOfRows(chosen, [chosen[-1][table.spec.primary_id], start + size] if more else None)
