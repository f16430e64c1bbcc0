"""References by id, code or description: "any one of", resolved for the entity that is posted in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import Refusal, invalid, no_match
from .tables import Row
from .world import World

TABLES: Mapping[str, str] = {
    "account": "accounts",
    "currency": "currencies",
    "taxRule": "taxRules",
    "transactionSource": "transactionSources",
    "jobLevel": "jobLevels",
    "subledger": "subledgers",
    "project": "projects",
    "company": "companies",
    "glObject1": "objectValues",
    "glObject2": "objectValues",
    "glObject3": "objectValues",
    "glObject4": "objectValues",
    "glObject5": "objectValues",
    "xgl": "objectValues",
}
_BY = ("dbId", "dbSubId", "code", "description")
_SHOWN = 100


class Lookups:
    """The references of one request; what was found once is not searched again."""

    def __init__(self, world: World, owner: int) -> None:
        self._world = world
        self._owner = owner
        self._owners = [*world.owners(owner), None]
        self._found: dict[tuple[str, str, Any], Row | None] = {}

    def resolve(self, field: str, given: Mapping[str, Any]) -> Row | None:
        """Returns what a reference means; raises the API's refusal when there is no such thing.

        References to things this simulator has no table for are kept as they came.
        """
        table = TABLES.get(field)
        if table is None:
            return {name: given[name] for name in _BY if name in given}
        by = next((name for name in _BY if given.get(name) is not None), None)
        row = None if by is None else self.find(field, by, given[by])
        if row is not None and given.get("showAlternatives") != "YES":
            return row
        raise self._refusal(field, by, given)

    def find(self, field: str, by: str, value: Any) -> Row | None:
        """Returns a row of the entity, or of the nearest entity above it that has one."""
        key = (field, by, value)
        if key not in self._found:
            self._found[key] = self._search(field, by, value)
        return self._found[key]

    def _search(self, field: str, by: str, value: Any) -> Row | None:
        table = self._world[TABLES[field]]
        rows = table.having(by, [value]) if table.is_indexed(by) else [row for row in table if row.get(by) == value]
        rows = [row for row in rows if self._fits(field, row)]
        return min(rows, key=lambda row: self._owners.index(row.get("ownerDbId")), default=None)

    def _fits(self, field: str, row: Row) -> bool:
        kind = self._world.object_fields.get(field)
        return row.get("ownerDbId") in self._owners and (kind is None or row.get("objectKindDbId") == kind)

    def _refusal(self, field: str, by: str | None, given: Mapping[str, Any]) -> Refusal:
        more = {}
        if given.get("showAlternatives") == "YES":
            more["exampleValidInputs"] = self._alternatives(field)
        if by is None:
            return invalid(f"{field}: One of dbId, code or description must be given.", **more)
        return no_match(field, self._owner, by, given[by], **more)

    def _alternatives(self, field: str) -> list[dict[str, Any]]:
        rows = [row for row in self._world[TABLES[field]] if self._fits(field, row)]
        return [
            {
                "code": row.get("code"),
                "dbId": row["dbId"],
                "ownerDbId": row.get("ownerDbId") or 0,
                "text": row.get("description") or row.get("name"),
            }
            for row in rows[:_SHOWN]
        ]
