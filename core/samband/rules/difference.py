"""What differs between two states of a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["DRY_RUN_RECORDS", "changed_fields", "put_together"]

DRY_RUN_RECORDS = 5_000
"""Records that a dry run reads when nothing else was ordered."""

_ABSENT = object()


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gives the fields that differ, as they were and as they become; a field that one side has not is only in the other."""
    names = [name for name in {**before, **after} if before.get(name, _ABSENT) != after.get(name, _ABSENT)]
    return (
        {name: before[name] for name in names if name in before},
        {name: after[name] for name in names if name in after},
    )


def put_together(body: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the record that ``body`` becomes by a difference of `changed_fields`."""
    return {name: value for name, value in body.items() if name not in before} | dict(after)
