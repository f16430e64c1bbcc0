"""Query options: which ones exist, what they say and what the rows they pick are.

Sources: "Query data using the Web API" (overview, select columns, filter rows, order rows, page results, join tables).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import total_ordering
from typing import Any

from . import errors
from .access import Caller
from .filters import Operand, Test, compile_filter
from .tables import Organization, Row, Table
from .urls import split_outside_quotes, split_query

KNOWN = frozenset({"$select", "$filter", "$orderby", "$top", "$count", "$expand", "$deltatoken", "$skiptoken", "$id"})
_PLAIN = frozenset({"tag", "annotations"})
_ORDER_ITEM = re.compile(r"\s*([\w/.]+)(?:\s+(asc|desc))?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One item of ``$orderby``."""

    path: str
    descending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one query; ``kept`` is the raw query as sent, without tokens, for building links."""

    select: tuple[str, ...] | None = None
    filter: str | None = None
    orderby: tuple[Order, ...] = ()
    top: int | None = None
    count: bool = False
    expand: tuple[Expand, ...] = ()
    delta_token: str | None = None
    skip_token: str | None = None
    ref_id: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    kept: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expand:
    """One expanded navigation property with the options in its parentheses."""

    name: str
    options: Options


def parse_options(query: str) -> Options:
    """Reads a raw query string; refuses options the service does not have."""
    pairs = split_query(query)
    kept = "&".join(raw for name, _, raw in pairs if name not in {"$skiptoken", "$deltatoken"})
    return _options({name: value for name, value, _ in _unique(pairs)}, kept)


def _unique(pairs: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    seen = set()
    for name, _, _ in pairs:
        if name in seen and name.startswith("$"):
            raise errors.bad_url(f"Query option '{name}' was specified more than once, but it must be specified once.")
        seen.add(name)
        if name not in KNOWN and name not in _PLAIN and not name.startswith("@"):
            raise _unknown(name)
    return pairs


def _unknown(name: str) -> errors.ApiError:
    if name == "$skip":
        return errors.bad_url("Skip Clause is not supported in CRM")
    return errors.bad_url(f"The query parameter {name[:100]} is not supported.")


def _options(values: dict[str, str], kept: str) -> Options:
    return Options(
        select=_names(values["$select"]) if "$select" in values else None,
        filter=values.get("$filter"),
        orderby=_orders(values.get("$orderby")),
        top=_top(values.get("$top")),
        count=_flag(values.get("$count")),
        expand=_expands(values.get("$expand")),
        delta_token=values.get("$deltatoken"),
        skip_token=values.get("$skiptoken"),
        ref_id=values.get("$id"),
        aliases={name: value for name, value in values.items() if name.startswith("@")},
        kept=kept,
    )


def _names(text: str) -> tuple[str, ...] | None:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise errors.bad_url("The value for OData query '$select' cannot be empty.")
    return None if names == ("*",) else names


def _orders(text: str | None) -> tuple[Order, ...]:
    if text is None:
        return ()
    orders = []
    for part in text.split(","):
        match = _ORDER_ITEM.fullmatch(part)
        if match is None:
            raise errors.bad_url(f"Syntax error in '$orderby': '{part[:100]}'.")
        orders.append(Order(path=match[1], descending=match[2] == "desc"))
    return tuple(orders)


def _top(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.strip().isascii() or not text.strip().isdigit() or len(text) > 9:
        raise errors.bad_url(f"Invalid value '{text[:50]}' for $top query option found. It must be a whole number.")
    return int(text)


def _flag(text: str | None) -> bool:
    if text is not None and text not in {"true", "false"}:
        raise errors.bad_url(f"Invalid value '{text[:50]}' for $count query option found. It must be true or false.")
    return text == "true"


def _expands(text: str | None, *, nested: bool = False) -> tuple[Expand, ...]:
    if text is None:
        return ()
    if nested:
        raise errors.bad_url("This service expands one level only.")
    return tuple(_expand(part.strip()) for part in split_outside_quotes(text, ","))


def _expand(text: str) -> Expand:
    name, opening, rest = text.partition("(")
    if not name or (opening and not rest.endswith(")")):
        raise errors.bad_url(f"Syntax error in '$expand': '{text[:100]}'.")
    values: dict[str, str] = {}
    for part in split_outside_quotes(rest[:-1], ";") if rest[:-1] else []:
        option, equals, value = part.partition("=")
        if option.strip() not in {"$select", "$filter", "$orderby", "$top", "$expand"} or not equals:
            raise _unknown(option.strip())
        values[option.strip()] = value
    _expands(values.get("$expand"), nested=True)
    return Expand(name=name.strip(), options=_options({k: v for k, v in values.items() if k != "$expand"}, ""))


@dataclass(frozen=True, slots=True)
class TableScope:
    """What names in ``$filter`` and ``$orderby`` mean for one table."""

    organization: Organization
    table: Table

    def column(self, path: str) -> Operand:
        """Returns a column of this table, or of the table a single-valued navigation property leads to."""
        head, _, rest = path.partition("/")
        spec = self.table.spec
        if not rest:
            column = spec.columns.get(head)
            if column is None:
                raise unknown_column(spec.name, head)
            default = spec.template.get(head)
            return Operand(lambda row: row.get(head, default), column.edm)
        lookup = spec.lookups.get(head)
        if lookup is None:
            raise unknown_column(spec.name, head)
        target = self.organization.tables[lookup.target]
        inner = TableScope(self.organization, target).column(rest)
        source = lookup.column

        def get(row: Row) -> Any:
            other = target.rows.get(row.get(source) or "")
            return None if other is None else inner.get(other)

        return Operand(get, inner.edm)

    def collection(self, path: str) -> tuple[Callable[[Any], Iterable[Any]], TableScope]:
        """Returns the related rows of a collection-valued navigation property."""
        found = self.table.spec.collections.get(path)
        if found is None:
            raise unknown_column(self.table.spec.name, path)
        target, column, primary_id = self.organization.tables[found.target], found.column, self.table.spec.primary_id

        def related(row: Row) -> Iterator[Row]:
            return (target.rows[other] for other in target.referring(column, row[primary_id]))

        return related, TableScope(self.organization, target)


def unknown_column(entity: str, name: str) -> errors.ApiError:
    """Returns the refusal of a name that the table does not have."""
    return errors.bad_url(f"Could not find a property named '{name[:100]}' on type 'Microsoft.Dynamics.CRM.{entity}'.")


def checked_select(table: Table, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Returns the selected columns, or refuses a name that is not a column in exactly this casing."""
    for name in names or ():
        if name not in table.spec.columns:
            raise unknown_column(table.spec.name, name)
    return names


def row_test(organization: Organization, table: Table, options: Options, caller: Caller) -> Test | None:
    """Returns the test that picks rows: the filter, and the rows the caller may see; nothing when all are picked."""
    depth = caller.require("Read", table.spec.schema_name, table.spec.name)
    tests: list[Test] = []
    if options.filter is not None:
        tests.append(compile_filter(options.filter, TableScope(organization, table), options.aliases))
    if depth != "Global" and "_ownerid_value" in table.spec.columns:
        user_id = caller.user_id
        tests.append(lambda row: row.get("_ownerid_value") == user_id)
    if not tests:
        return None
    return tests[0] if len(tests) == 1 else lambda row: all(test(row) for test in tests)


@total_ordering
class _Descending:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and bool(self.value == other.value)

    def __lt__(self, other: _Descending) -> bool:
        return bool(other.value < self.value)


SortKey = Callable[[Row], tuple[Any, ...]]


def sort_key(organization: Organization, table: Table, orders: tuple[Order, ...]) -> SortKey:
    """Returns the key rows sort by: nulls first, strings without case, the primary key last."""
    scope = TableScope(organization, table)
    getters = [(scope.column(order.path).get, order.descending) for order in orders]
    primary_id = table.spec.primary_id

    def key(row: Row) -> tuple[Any, ...]:
        parts = [sortable(get(row), descending) for get, descending in getters]
        return (*parts, row[primary_id])

    return key


def sortable(value: Any, descending: bool) -> Any:
    """Returns one value so that values of a column compare in the order asked for."""
    pair = (0, 0) if value is None else (1, value.casefold() if isinstance(value, str) else value)
    return _Descending(pair) if descending else pair
