"""A chart as people look things up in it: its accounts, tax rules, dimensions' values and periods in one order."""

from __future__ import annotations

import heapq
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, get_args

from samband.rules.chartcheck import periods_of

__all__ = ["CHART_KINDS", "ChartKind", "ChartPlace", "ChartRow", "list_chart", "lists_of", "unlisted_of"]

ChartKind = Literal["account", "tax_rule", "dimension", "period"]
CHART_KINDS: Final[tuple[ChartKind, ...]] = get_args(ChartKind)
"""In the order of the listing."""
_LISTS: Final[Mapping[ChartKind, str]] = {
    "account": "accounts", "tax_rule": "tax_rules", "dimension": "dimensions", "period": "periods",
}  # fmt: skip


class ChartPlace(NamedTuple):
    """Where a row stands in the listing. It holds for another reading of the same chart too.

    Attributes:
        kind: Number of its kind in `CHART_KINDS`.
        dimension: Name of its dimension; empty for what is no dimension's value.
        code: Of a period its days and whether it is open.
    """

    kind: int
    dimension: str
    code: str


class ChartRow(NamedTuple):
    """One thing that a mapping may refer to.

    Attributes:
        place: Unique, and what the rows are sorted by.
        code: What a mapping says; None for a period.
        first: Of a period, as ``2026-01-01``; None for everything else.
        last: Of a period, included.
    """

    place: ChartPlace
    code: str | None
    name: str
    is_open: bool
    first: str | None = None
    last: str | None = None

    @property
    def kind(self) -> ChartKind:
        return CHART_KINDS[self.place.kind]


def lists_of(kind: ChartKind | None) -> tuple[str, ...]:
    """Gives the lists of a kept chart that have rows of a kind; None for every kind."""
    return tuple(_LISTS.values()) if kind is None else (_LISTS[kind],)


def unlisted_of(lists: Mapping[str, Any]) -> list[str]:
    """Names those of these lists that the other side does not tell, so that nobody knows what is in them."""
    return [name for name, kept in lists.items() if kept is None]


def list_chart(
    lists: Mapping[str, Any], *, search: str = "", after: ChartPlace | None = None, limit: int
) -> list[ChartRow]:
    """Gives rows by kind, dimension and code.

    Args:
        lists: Of a kept chart, by their names there.
        search: Only rows whose code, name or days have this in them, in capitals or not.
        after: Only rows behind this place.
        limit: How many at most.
    """
    rows = (row for row in _rows(lists, _folded(search.strip())) if after is None or row.place > after)
    return heapq.nsmallest(limit, rows)  # of 200,000 rows a page is wanted, so they are not all sorted


def _rows(lists: Mapping[str, Any], sought: str) -> Iterator[ChartRow]:
    for number, kind in enumerate(CHART_KINDS):
        kept = lists.get(_LISTS[kind])
        if kept is None:
            continue
        if kind == "period":
            yield from _periods(number, lists, sought)
        elif kind == "dimension":
            for name, entries in kept.items():
                yield from _entries(number, name, entries, sought)
        else:
            yield from _entries(number, "", kept, sought)


def _entries(number: int, dimension: str, entries: Collection[Any], sought: str) -> Iterator[ChartRow]:
    for code, text, is_open in entries:
        if not sought or sought in _folded(text) or sought in _folded(code):
            yield ChartRow(ChartPlace(number, dimension, code), code, text, is_open)


def _periods(number: int, lists: Mapping[str, Any], sought: str) -> Iterator[ChartRow]:
    for period in dict.fromkeys(periods_of(lists) or ()):
        first, last = period.first.isoformat(), period.last.isoformat()
        if sought in first or sought in last:
            place = ChartPlace(number, "", f"{first} {last} {period.is_open:d}")
            yield ChartRow(place, None, "", period.is_open, first, last)


def _folded(text: str) -> str:
    # Some systems write å as a letter and a ring; both are the same letter to whoever looks for it.
    return text.casefold() if text.isascii() else unicodedata.normalize("NFC", text).casefold()
