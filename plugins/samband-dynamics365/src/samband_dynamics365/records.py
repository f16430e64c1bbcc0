"""Their rows into our records: pure functions, no network.

A row is converted only when its ETag is new to the core, so the two halves are apart: `split_rows` runs for every row
that is read, the compiled converters for those that changed.
"""

from __future__ import annotations

import datetime as dt
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from samband import Record, RejectedError, RemoteError
from samband_dynamics365.settings import DynamicsSettings, Source, Table

Row = Mapping[str, Any]
Converter = Callable[[Row], dict[str, Any]]
_Reader = Callable[[Any], Any]

# Not persons: support (3), non-interactive (4) and delegated administrator (5) accounts. learn.microsoft.com, table
# reference of systemuser, column accessmode, 2025.
_ACCOUNT_MODES = frozenset({3, 4, 5})


def split_rows(rows: Sequence[Any], table: Table) -> tuple[list[Record], list[str]]:
    """Gives the records of a page and the keys that are gone, in their order.

    Raises:
        RemoteError: A row is not an object.
    """
    records: list[Record] = []
    deleted: list[str] = []
    primary_key = table.primary_key
    people_only = table.people_only
    add = records.append
    for position, row in enumerate(rows):
        if row.__class__ is not dict:
            raise _not_a_row(table, position, len(rows))
        if "@odata.context" in row and _is_deletion(row):
            deleted.append(_key_of_deletion(row, table))
            continue
        key = row.get(primary_key)
        key = key.lower() if key.__class__ is str else None
        if people_only and key is not None and _is_account(row):
            deleted.append(key)  # leaves again if it was a person's once; unknown to the core otherwise
            continue
        version = row.get("@odata.etag")
        add(Record(key=key, values=row, version=version if version.__class__ is str else None))
    return records, deleted


def _is_deletion(row: Row) -> bool:
    context = row["@odata.context"]
    return isinstance(context, str) and context.endswith("$deletedEntity")


def _key_of_deletion(row: Row, table: Table) -> str:
    key = row.get("id")  # named "id" whatever the table's own key is called
    if isinstance(key, str) and key:
        return key.lower()
    raise RemoteError(
        f"Dynamics said that a row of {table.set_name} was deleted, but not which one.", code="deletion_without_id"
    )


def _is_account(row: Row) -> bool:
    return row.get("applicationid") is not None or row.get("accessmode") in _ACCOUNT_MODES


def _not_a_row(table: Table, position: int, count: int) -> RemoteError:
    return RemoteError(
        f"Row {position + 1} of {count} in an answer for {table.set_name} is not an object.", code="malformed_page"
    )


def contact_to_member(row: Row, settings: DynamicsSettings) -> dict[str, Any]:
    """Gives the member a contact stands for; `RejectedError` names the field of a value that does not fit."""
    return _converters(settings)["contacts"](row)


def user_to_member(row: Row, settings: DynamicsSettings) -> dict[str, Any]:
    """Gives the staff member a user of the environment stands for."""
    return _converters(settings)["staff"](row)


def row_to_membership(row: Row, settings: DynamicsSettings) -> dict[str, Any]:
    """Gives the membership a row of the membership table stands for; ``member`` is the contact's key."""
    return _converters(settings)["memberships"](row)


# Settings hold dictionaries and so cannot be dictionary keys; while an object lives, its id is its own.
_compiled: dict[int, dict[str, Converter]] = {}


def _converters(settings: DynamicsSettings) -> dict[str, Converter]:
    found = _compiled.get(id(settings))
    if found is None:
        found = {stream: compile_converter(table) for stream, table in settings.tables.items()}
        _compiled[id(settings)] = found
        weakref.finalize(settings, _compiled.pop, id(settings), None)
    return found


def compile_converter(table: Table) -> Converter:
    """Gives the function that turns a row of this table into canonical values.

    The mapping is taken apart once. Columns of text, nearly all of them, are read in one tight loop; the others through
    a function each. Every mapped field is in the result; None where the row says ``null`` or only blanks.
    """
    constants = {field: source.constant for field, source in table.mapping.items() if source.column is None}
    texts: list[tuple[str, str]] = []
    others: list[tuple[str, str, _Reader]] = [(f, c, _lookup_reader(f, c)) for f, c in table.lookups.items()]
    for field, source in table.mapping.items():
        if source.column is None:
            continue
        reader = _reader_for(field, source.column, source, table)
        if reader is None:
            texts.append((field, source.column))
        else:
            others.append((field, source.column, reader))

    def convert(row: Row) -> dict[str, Any]:
        values: dict[str, Any] = constants.copy()
        try:
            for field, column in texts:
                value = row[column]
                if value is not None and value.__class__ is not str:
                    value = _number_as_text(field, column, value)
                values[field] = (value and value.strip()) or None
            for field, column, read in others:
                values[field] = read(row[column])
        except KeyError as err:
            raise _absent_column(table, err.args[0]) from None
        return values

    return convert


def _reader_for(field: str, column: str, source: Source, table: Table) -> _Reader | None:
    shape = table.fields[field]
    if source.choices:
        return _choice_reader(field, column, source)
    if shape == "date":
        return _date_reader(field, column, takes_instant=source.date_only)
    if shape == "flag":
        return _flag_reader(field, column)
    if column.startswith("_") and column.endswith("_value"):
        return _guid_reader(field, column)
    return None


def _choice_reader(field: str, column: str, source: Source) -> _Reader:
    kind = source.option_type
    options = {_option(key, kind): result for key, result in source.choices.items()}
    may_be_empty = field != "status"

    def read(value: Any) -> Any:
        if value.__class__ is kind:  # exact: True is also an int, and equal to 1
            if value in options:
                return options[value]
            raise _unknown_option(field, column, value)
        if value is None and may_be_empty:
            return None
        raise _wrong_type(field, column, value, _TYPE_NAMES[kind])

    return read


def _option(key: str, kind: type) -> Any:
    return key == "true" if kind is bool else kind(key)


def _date_reader(field: str, column: str, *, takes_instant: bool) -> _Reader:
    def read(value: Any) -> str | None:
        if value is None:
            return None
        if value.__class__ is not str:
            raise _wrong_type(field, column, value, "a date")
        try:
            if len(value) == 10 and value[4] == value[7] == "-":
                dt.date.fromisoformat(value)
                return str(value)
            instant = dt.datetime.fromisoformat(value)
            if takes_instant and instant.tzinfo is not None:
                return instant.astimezone(dt.UTC).date().isoformat()
        except (ValueError, OverflowError):
            raise _wrong_type(field, column, value, "a date") from None
        raise _is_instant(field, column)

    return read


def _flag_reader(field: str, column: str) -> _Reader:
    def read(value: Any) -> bool | None:
        if value is None or value.__class__ is bool:
            return value
        raise _wrong_type(field, column, value, "true or false")

    return read


def _guid_reader(field: str, column: str) -> _Reader:
    def read(value: Any) -> str | None:
        if value is None:
            return None
        if value.__class__ is str:
            return value.strip().lower() or None
        raise _wrong_type(field, column, value, "an id")

    return read


def _lookup_reader(field: str, column: str) -> _Reader:
    read_guid = _guid_reader(field, column)

    def read(value: Any) -> Any:
        key = read_guid(value)
        if key is None:
            raise RejectedError(f"The lookup {column} is empty.", field=field, code="missing")
        return key

    return read


def _number_as_text(field: str, column: str, value: Any) -> str:
    # Whole numbers (a member number) are exact. Decimals are not: JSON carries them as binary fractions.
    if value.__class__ is int:
        return str(value)
    raise _wrong_type(field, column, value, "text")


_TYPE_NAMES: Mapping[type, str] = {
    int: "an option number",
    bool: "true or false",
    str: "text",
    float: "a decimal number",
    list: "a list",
    dict: "an object",
    type(None): "empty",
}


def _wrong_type(field: str, column: str, value: Any, wanted: str) -> RejectedError:
    got = "a whole number" if value.__class__ is int else _TYPE_NAMES.get(value.__class__, "something else")
    got = "other text" if got == wanted or (got == "text" and wanted == "a date") else got
    return RejectedError(
        f"The column {column} should hold {wanted} and holds {got}.",
        field=field,
        code="missing" if value is None else "wrong_type",
        hint=f"Map {field} to another column, or correct the row in Dynamics.",
    )


def _unknown_option(field: str, column: str, value: Any) -> RejectedError:
    option = "a text" if isinstance(value, str) else f"the option {str(value).lower()}"
    return RejectedError(
        f"The column {column} holds {option}, which the settings do not explain.",
        field=field,
        code="unknown_option",
        hint=f"Add it to the choices of {field} in the settings.",
    )


def _is_instant(field: str, column: str) -> RejectedError:
    return RejectedError(
        f"The column {column} holds date and time, and {field} is a calendar date.",
        field=field,
        code="not_a_date",
        hint="Map a Date Only column, or set 'date_only' to take the date in UTC.",
    )


def _absent_column(table: Table, column: str) -> RejectedError:
    field = next((f for f, source in table.mapping.items() if source.column == column), None)
    field = field or next((f for f, lookup in table.lookups.items() if lookup == column), None)
    # Dataverse writes an empty column as null, so this is not an empty value and must not clear ours.
    return RejectedError(f"The row came without the column {column}.", field=field, code="missing_column")
