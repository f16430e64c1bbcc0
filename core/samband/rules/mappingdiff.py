"""What differs between two versions of a mapping, field by field, also in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from samband.rules.mapping import MappingBody

__all__ = ["Difference", "differences"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field that differs.

    Attributes:
        field: Dotted; a row of a rate table is named by the day it begins.
        before: As it was; None when it was not there, or said nothing.
        after: As it is; None likewise.
    """

    field: str
    before: Any
    after: Any

    @property
    def words(self) -> str:
        """Says it in a sentence that can be read aloud."""
        if self.before is None:
            return f"{self.field} is now {_said(self.after)}; before it was not set."
        if self.after is None:
            return f"{self.field} is no longer set; before it was {_said(self.before)}."
        return f"{self.field} is now {_said(self.after)}; before it was {_said(self.before)}."


def differences(before: MappingBody, after: MappingBody) -> list[Difference]:
    """Gives every field that differs, in the order of their names; empty when they mean the same."""
    old, new = dict(_fields("", _told(before))), dict(_fields("", _told(after)))
    return [
        Difference(field=field, before=old.get(field), after=new.get(field))
        for field in sorted({*old, *new})
        if old.get(field) != new.get(field)
    ]


def _told(body: MappingBody) -> dict[str, Any]:
    told = body.model_dump(mode="json")
    told["rates"] = {
        name: {row.pop("valid_from"): row for row in rows} for name, rows in told["rates"].items()
    }  # fmt: skip
    # That a dimension is taken away is something said, other than that nothing is said of it.
    for place in (*told["expense_types"].values(), told["payee"]):
        place["dimensions"] = {name: "(taken away)" if t is None else t for name, t in place["dimensions"].items()}
    return told


def _fields(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _fields(f"{path}.{name}" if path else name, inner)
    elif value is not None:
        yield path, value


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f'"{value}"'
