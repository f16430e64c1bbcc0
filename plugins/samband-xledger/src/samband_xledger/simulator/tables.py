"""Rows in memory with the indexes that keep look-ups cheap when there are tens of thousands of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Row = dict[str, Any]


class Table:
    """Rows by their ``dbId``, in the order they were made.

    A row holds what the API shows under the API's names; names that begin with ``_`` are the simulator's own.
    """

    def __init__(self, *indexed: str) -> None:
        self.rows: dict[int, Row] = {}
        self._indexes: dict[str, dict[Any, dict[int, None]]] = {name: {} for name in indexed}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows.values())

    def add(self, row: Row) -> Row:
        """Adds a row and returns it."""
        key = row["dbId"]
        self.rows[key] = row
        for name, index in self._indexes.items():
            index.setdefault(row.get(name), {})[key] = None
        return row

    def remove(self, key: int) -> Row | None:
        """Takes a row out and returns it, or nothing when there was none."""
        row = self.rows.pop(key, None)
        if row is not None:
            for name, index in self._indexes.items():
                self._forget(index, row.get(name), key)
        return row

    def change(self, row: Row, **values: Any) -> None:
        """Writes values into a row and keeps the indexes right."""
        for name, value in values.items():
            index = self._indexes.get(name)
            if index is not None:
                self._forget(index, row.get(name), row["dbId"])
                index.setdefault(value, {})[row["dbId"]] = None
            row[name] = value

    def is_indexed(self, name: str) -> bool:
        """Tells whether `having` answers for this name without a scan."""
        return name == "dbId" or name in self._indexes

    def having(self, name: str, values: Iterable[Any]) -> list[Row]:
        """Returns the rows with one of these values, in the order they were made."""
        if name == "dbId":
            keys = {value for value in values if value in self.rows}
        else:
            index = self._indexes[name]
            keys = {key for value in values for key in index.get(value, ())}
        return [self.rows[key] for key in sorted(keys)]

    @staticmethod
    def _forget(index: dict[Any, dict[int, None]], value: Any, key: int) -> None:
        kept = index.get(value)
        if kept is not None:
            kept.pop(key, None)
            if not kept:
                del index[value]
