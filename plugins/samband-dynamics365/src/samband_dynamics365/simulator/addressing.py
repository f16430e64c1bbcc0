"""Which row a URL means: by primary key, by alternate key, or by a reference inside a body.

Source: "Use an alternate key to reference a record".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import errors
from .schema import Column, Key
from .tables import Organization, Row, Table, fold
from .urls import FORBIDDEN_IN_KEYS, GUID, key_arguments, relative_path, split_path, unquote_literal
from .values import stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A row addressed by its id, or by an alternate key with the column values that stood in the URL."""

    table: Table
    arguments: str
    row_id: str | None = None
    key: Key | None = None
    values: dict[str, Any] | None = None


def address(table: Table, arguments: str, *, in_url: bool = True) -> Address:
    """Reads what stands between the parentheses behind an entity set name."""
    parsed = key_arguments(arguments)
    spec = table.spec
    if isinstance(parsed, str):
        return Address(table=table, arguments=arguments, row_id=parsed)
    # Only the key the CSDL declares may be named: systemusers(systemuserid=...) is refused, for its key is ownerid.
    if len(parsed) == 1 and (set(parsed) == {spec.primary_id} or set(parsed) == {"ownerid"}):
        name, literal = next(iter(parsed.items()))
        declared = "ownerid" if spec.name == "systemuser" else spec.primary_id
        if name == declared and GUID.fullmatch(literal):
            return Address(table=table, arguments=arguments, row_id=literal.lower())
        raise errors.key_not_defined(spec.name)
    key = next((key for key in table.active_keys() if set(key.columns) == set(parsed)), None)
    if key is None:
        raise errors.key_not_defined(spec.name)
    values = {name: _key_value(table, spec.columns[name], literal, in_url) for name, literal in parsed.items()}
    return Address(table=table, arguments=arguments, key=key, values=values)


def _key_value(table: Table, column: Column, literal: str, in_url: bool) -> Any:
    text = unquote_literal(literal)
    if column.edm == "Edm.String":
        if not literal.startswith("'"):
            raise errors.bad_url(f"The value of key column '{column.name}' must stand in quotes.")
        broken = FORBIDDEN_IN_KEYS & set(text)
        if in_url and broken:
            raise errors.bad_url(
                f"A potentially dangerous Request.Path value was detected from the client ({min(broken)})."
            )
        return text
    if column.edm in {"Edm.Int32", "Edm.Int64"} and text.lstrip("-").isdigit() and len(text) < 12:
        return stored(table.spec.name, column, int(text))
    return stored(table.spec.name, column, text)


def row_id_of(where: Address) -> str | None:
    """Returns the id of the addressed row when it exists."""
    if where.row_id is not None:
        return where.row_id if where.row_id in where.table.rows else None
    if where.key is None or where.values is None:
        return None
    values = tuple(fold(where.values[name]) for name in where.key.columns)
    return where.table.key_rows[where.key.name].get(values)


def find_row(where: Address) -> tuple[str, Row]:
    """Returns the addressed row with its id, or the refusal for one that is not there."""
    row_id = row_id_of(where)
    if row_id is None:
        raise absent(where)
    return row_id, where.table.rows[row_id]


def absent(where: Address) -> errors.ApiError:
    """Returns the refusal for a row that is not there."""
    if where.row_id is not None:
        return errors.row_absent(where.table.spec.name, where.row_id)
    return errors.key_absent(where.table.spec.name)


def reference(organization: Organization, text: str, root: str) -> Address:
    """Reads a reference to a row inside a body: an absolute, rooted or relative URL, by id or alternate key."""
    segments = split_path(relative_path(text, root).partition("?")[0])
    table = organization.table_of_set(segments[0].name)
    if table is None or segments[0].arguments is None or len(segments) != 1:
        raise errors.bad_url(f"Resource not found for the segment '{segments[0].name[:100]}'.")
    return address(table, segments[0].arguments, in_url=False)
