"""Listings: a part at a time with ``--limit`` and ``--after``, or whole with ``--all``, the same for every area."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samband.cli.client import At, HostClient
from samband.cli.output import note, show, table

__all__ = ["Columns", "Part", "show_items", "show_part"]

Row = Callable[[Mapping[str, Any]], Sequence[object]]


@dataclass(frozen=True, slots=True)
class Columns:
    """How the items of a listing are written for people.

    Attributes:
        name: What they are called, in the document as well.
        headings: Over the columns.
        row: Gives an item's cells.
    """

    name: str
    headings: Sequence[str]
    row: Row

    def lines(self, items: Sequence[Mapping[str, Any]]) -> Iterable[str]:
        """Gives a line for each item under the headings; a sentence when there is none."""
        if not items:
            return [f"There are no {self.name.replace('_', ' ')}."]
        return table(self.headings, map(self.row, items))


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a listing is wanted.

    Attributes:
        limit: From ``--limit``.
        after: From ``--after``.
        every: From ``--all``.
    """

    limit: int
    after: str | None = None
    every: bool = False


def show_part(at: At, path: str, columns: Columns, part: Part, *, as_json: bool, **query: object) -> None:
    """Shows a part of a listing, and says how to go on when there is more."""
    limit = None if part.every else part.limit
    page = at.ask(lambda host: host.part(path, limit=limit, after=part.after, **query))
    document = {columns.name: page.pop("items"), **page}
    show(document, lambda: columns.lines(document[columns.name]), as_json=as_json)
    if as_json:
        return
    if "has_more" in page:
        note(f"Go on from here, now or later, with --after {page['next']}.")
    elif page["next"] is not None:
        note(f"There are more. Go on with --after {page['next']}, or ask for --all.")


def show_items(at: At, path: str, columns: Columns, *, as_json: bool) -> None:
    """Shows a listing whole: one that always comes so, or one that comes in parts and is not long."""

    async def every(host: HostClient) -> list[Any]:
        return [item async for item in host.each(path, part=None)]

    items = at.ask(every)
    show({columns.name: items}, lambda: columns.lines(items), as_json=as_json)
