"""Filters: equality, lists and bounds on a row's own fields, joined with AND and OR."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from .tables import Row, Table

Test = Callable[[Row], bool]
_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def compiled(given: dict[str, Any]) -> Test:
    """Returns a test for a filter as it came in."""
    tests = [_one(name, value) for name, value in given.items() if value is not None or name not in {"AND", "OR"}]
    return lambda row: all(test(row) for test in tests)


def _one(name: str, value: Any) -> Test:
    if name == "AND":
        every = [compiled(each) for each in value]
        return lambda row: all(test(row) for test in every)
    if name == "OR":
        some = [compiled(each) for each in value]
        return lambda row: any(test(row) for test in some)
    field, _, word = name.partition("_")
    if word == "in":
        wanted = set(value or ())
        return lambda row: row.get(field) in wanted
    bound = _BOUNDS.get(word)
    if bound is None:
        return lambda row: bool(row.get(field) == value)
    return lambda row: row.get(field) is not None and value is not None and bound(row[field], value)


def candidates(table: Table, given: dict[str, Any] | None) -> list[Row]:
    """Returns the rows worth testing: by an index where the filter names an indexed field, else all of them."""
    for name, value in (given or {}).items():
        field, _, word = name.partition("_")
        if word in {"", "in"} and table.is_indexed(field):
            return table.having(field, value or () if word else [value])
    return [table.rows[key] for key in sorted(table.rows)]
