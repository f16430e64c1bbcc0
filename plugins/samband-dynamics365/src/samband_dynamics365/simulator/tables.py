"""The rows of the simulated organisation: one version counter, change logs, alternate keys and transactions.

Every write takes the next number of one organisation-wide counter; that number is the row's ``versionnumber``, its
ETag and its place in the change log ("Use change tracking to synchronize data").
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import errors
from .schema import Key, Lookup, Schema, TableSpec, load_schema

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happened to one row: ``message`` is Create, Update or Delete; rows as they were stored."""

    spec: TableSpec
    row_id: str
    message: str
    before: Row | None
    after: Row | None


FIRST_VERSION = 1_000_000
_COMPACT_ABOVE = 20_000


class Table:
    """The rows of one table, with everything needed to find and to follow them.

    ``rows`` holds only the columns that differ from the table's template; `TableSpec.template` supplies the rest.
    """

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.rows: dict[str, Row] = {}
        self.ids: list[str] = []
        self.tombstones: dict[str, int] = {}
        self.change_versions: list[int] = []
        self.change_ids: list[str] = []
        self.key_rows: dict[str, dict[tuple[Any, ...], str]] = {key.name: {} for key in spec.keys}
        # Which rows point where, for lookups that deletions and relations follow; users are pointed at by every row.
        self.links: dict[str, dict[str, set[str]]] = {
            column: {} for column, found in spec.targets.items() if found[0].target != "systemuser"
        }
        self.tracked = spec.name in {"contact", "account", "systemuser", "sb_membership", "sb_chapter"}
        self.optimistic = True
        self.pending_keys: set[str] = set()
        self.readable_since = 0

    def value(self, row: Row, column: str) -> Any:
        """Returns a column of a row, from the template where the row itself is silent."""
        found = row.get(column, self)
        return self.spec.template.get(column) if found is self else found

    def active_keys(self) -> list[Key]:
        """Returns the alternate keys whose index is built."""
        return [key for key in self.spec.keys if key.name not in self.pending_keys]

    def page_ids(self, after: str | None) -> Iterator[str]:
        """Yields row ids in primary-key order, starting behind the given id."""
        start = 0 if after is None else bisect_right(self.ids, after)
        for position in range(start, len(self.ids)):
            yield self.ids[position]

    def key_values(self, key: Key, row: Row) -> tuple[Any, ...] | None:
        """Returns the row's values for an alternate key; nothing when one is null, for then it is not checked."""
        values = tuple(fold(self.value(row, column)) for column in key.columns)
        return None if None in values else values

    def put(self, row_id: str, row: Row | None) -> None:
        """Stores, replaces or removes one row and keeps ids and alternate keys in step."""
        old = self.rows.get(row_id)
        if old is not None:
            self._unindex(old, row_id)
        if row is None:
            if old is not None:
                del self.rows[row_id]
                del self.ids[bisect_left(self.ids, row_id)]
            return
        if old is None:
            insort(self.ids, row_id)
        self.rows[row_id] = row
        self.index(row, row_id)

    def index(self, row: Row, row_id: str) -> None:
        """Makes a stored row findable by its alternate keys and lookups."""
        for key in self.spec.keys:
            values = self.key_values(key, row)
            if values is not None:
                self.key_rows[key.name][values] = row_id
        for column, found in self.links.items():
            target = row.get(column)
            if target is not None:
                found.setdefault(target, set()).add(row_id)

    def referring(self, column: str, target: str) -> list[str]:
        """Returns the ids of the rows whose lookup leads to a row, in primary-key order."""
        known = self.links.get(column)
        if known is not None:
            return sorted(known.get(target, ()))
        return [row_id for row_id in self.ids if self.rows[row_id].get(column) == target]

    def _unindex(self, row: Row, row_id: str) -> None:
        for key in self.spec.keys:
            values = self.key_values(key, row)
            if values is not None and self.key_rows[key.name].get(values) == row_id:
                del self.key_rows[key.name][values]
        for column, found in self.links.items():
            target = row.get(column)
            if target is not None:
                found[target].discard(row_id)

    def log(self, version: int, row_id: str) -> None:
        """Appends one change to the log; versions only ever grow."""
        self.change_versions.append(version)
        self.change_ids.append(row_id)

    def compact(self) -> None:
        """Drops log entries that a later change of the same row made worthless."""
        live = len(self.rows) + len(self.tombstones)
        if len(self.change_ids) < max(_COMPACT_ABOVE, 2 * live):
            return
        kept = [
            (version, row_id)
            for version, row_id in zip(self.change_versions, self.change_ids, strict=True)
            if self.version_of(row_id) == version
        ]
        self.change_versions = [version for version, _ in kept]
        self.change_ids = [row_id for _, row_id in kept]

    def version_of(self, row_id: str) -> int | None:
        """Returns the newest version of a row, be it there or deleted."""
        row = self.rows.get(row_id)
        return self.tombstones.get(row_id) if row is None else int(row["versionnumber"])


def fold(value: Any) -> Any:
    """Returns a value as alternate keys and filters compare it: strings without case."""
    return value.casefold() if isinstance(value, str) else value


class Organization:
    """All tables of the environment, the version counter and the rules between tables."""

    def __init__(self, schema: Schema | None = None) -> None:
        self.schema = schema or load_schema()
        self.tables = {name: Table(spec) for name, spec in self.schema.tables.items()}
        self.version = FIRST_VERSION
        self.on_delete: dict[str, str] = {}
        self._journal: list[tuple[Table, str, Row | None, int | None]] | None = None
        self._changes: list[Change] = []
        self.announce: Callable[[], None] | None = None

    def take_changes(self) -> list[Change]:
        """Returns what happened since the last time, in its order; only somebody who listens is kept anything for."""
        changes, self._changes = self._changes, []
        return changes

    def _note(self, table: Table, row_id: str, message: str, before: Row | None, after: Row | None) -> None:
        if self.announce is not None:
            self._changes.append(Change(spec=table.spec, row_id=row_id, message=message, before=before, after=after))
            self.announce()

    def table_of_set(self, entity_set: str) -> Table | None:
        """Returns the table behind an entity set name, which is case-sensitive."""
        spec = self.schema.sets.get(entity_set)
        return None if spec is None else self.tables[spec.name]

    def next_version(self) -> int:
        """Takes the next number of the organisation-wide counter."""
        self.version += 1
        return self.version

    def write(self, table: Table, row_id: str, row: Row) -> Row:
        """Stores a whole row under a new version; refuses a clash of alternate keys."""
        for key in table.active_keys():
            values = table.key_values(key, row)
            if values is not None and table.key_rows[key.name].get(values, row_id) != row_id:
                raise errors.key_clash(key.name, ", ".join(key.columns))
        self._remember(table, row_id)
        version = self.next_version()
        stamped = {**row, "@odata.etag": f'W/"{version}"', "versionnumber": version}
        before = table.rows.get(row_id)
        self._note(table, row_id, "Create" if before is None else "Update", before, stamped)
        table.put(row_id, stamped)
        table.tombstones.pop(row_id, None)
        table.log(version, row_id)
        return stamped

    def remove(self, table: Table, row_id: str) -> list[tuple[Table, str, str]]:
        """Deletes a row and follows its relations; returns the other rows touched as (table, id, what happened)."""
        self._remember(table, row_id)
        version = self.next_version()
        self._note(table, row_id, "Delete", table.rows.get(row_id), None)
        table.put(row_id, None)
        table.tombstones[row_id] = version
        table.log(version, row_id)
        return self._follow_delete(table, row_id)

    def _follow_delete(self, table: Table, row_id: str) -> list[tuple[Table, str, str]]:
        touched: list[tuple[Table, str, str]] = []
        for child, lookup in self._referring(table.spec.name):
            rule = self.on_delete.get(f"{child.spec.name}.{lookup.name}", "remove_link")
            for child_id in child.referring(lookup.column, row_id):
                if rule == "restrict":
                    raise errors.ApiError(
                        405,
                        "0x80040227",
                        "The object you tried to delete is associated with another object and cannot be deleted.",
                    )
                if rule == "cascade":
                    touched.append((child, child_id, "deleted"))
                    touched.extend(self.remove(child, child_id))
                else:
                    self.write(child, child_id, {**child.rows[child_id], lookup.column: None})
                    touched.append((child, child_id, "updated"))
        return touched

    def _referring(self, name: str) -> Iterator[tuple[Table, Lookup]]:
        for child in self.tables.values():
            for lookup in child.spec.lookups.values():
                if lookup.target == name and name != "systemuser":
                    yield child, lookup

    def _remember(self, table: Table, row_id: str) -> None:
        if self._journal is not None:
            self._journal.append((table, row_id, table.rows.get(row_id), table.tombstones.get(row_id)))
        else:
            table.compact()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Undoes every write inside when it ends with an error; a nested transaction joins the outer one."""
        if self._journal is not None:
            yield
            return
        lengths = {name: len(table.change_ids) for name, table in self.tables.items()}
        self._journal, told = [], len(self._changes)
        try:
            yield
        except BaseException:
            self._undo(self._journal, lengths)
            del self._changes[told:]
            raise
        finally:
            self._journal = None

    def _undo(self, journal: list[tuple[Table, str, Row | None, int | None]], lengths: dict[str, int]) -> None:
        for table, row_id, row, tombstone in reversed(journal):
            table.put(row_id, row)
            table.tombstones.pop(row_id, None)
            if tombstone is not None:
                table.tombstones[row_id] = tombstone
        for name, length in lengths.items():
            table = self.tables[name]
            del table.change_ids[length:]
            del table.change_versions[length:]

    def load(self, table: Table, rows: Iterable[tuple[str, Row]]) -> None:
        """Stores many new rows at once, without the checks of `write`: for seeding an empty table."""
        for row_id, row in rows:
            self.version += 1
            version = self.version
            row["@odata.etag"] = f'W/"{version}"'
            row["versionnumber"] = version
            table.rows[row_id] = row
            table.change_versions.append(version)
            table.change_ids.append(row_id)
            table.index(row, row_id)
        table.ids = sorted(table.rows)

    def owner_of(self, lookup_column: str, table: Table, row_id: str | None) -> tuple[Lookup, Row] | None:
        """Returns the navigation property and row a lookup value leads to, trying each target of a polymorphic one."""
        for lookup in table.spec.targets.get(lookup_column, ()):
            row = self.tables[lookup.target].rows.get(row_id or "")
            if row is not None:
                return lookup, row
        return None
