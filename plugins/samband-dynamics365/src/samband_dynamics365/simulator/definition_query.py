"""Query options on table definitions: the same language as on rows, over nested property names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from . import errors
from .definitions import Relations
from .filters import Operand, Scope
from .query import Options


@dataclass(frozen=True, slots=True)
class DefinitionScope:
    """What names mean in a filter over definitions; paths lead into complex values."""

    rows: list[dict[str, Any]]

    def column(self, path: str) -> Operand:
        """Returns a property, typed by the values it holds."""
        names = path.split("/")
        if self.rows and names[0] not in self.rows[0]:
            raise _unknown(path)

        def get(row: Any) -> Any:
            for name in names:
                row = row.get(name) if isinstance(row, dict) else None
            return None if isinstance(row, dict | list) else row

        return Operand(get, self._type(get))

    def _type(self, get: Callable[[Any], Any]) -> str:
        for row in self.rows:
            value = get(row)
            if isinstance(value, bool):
                return "Edm.Boolean"
            if isinstance(value, int):
                return "Edm.Int32"
        return "Edm.String"

    def collection(self, path: str) -> tuple[Callable[[Any], Iterable[Any]], Scope]:
        """Refuses lambda expressions, which definitions do not take here."""
        raise _unknown(path)


def _unknown(path: str) -> errors.ApiError:
    return errors.bad_url(
        f"Could not find a property named '{path[:100]}' on type 'Microsoft.Dynamics.CRM.MetadataBase'."
    )


def project(row: dict[str, Any], options: Options, relations: Relations) -> dict[str, Any]:
    """Returns a definition with the selected properties and the expanded lists; ``MetadataId`` always comes along."""
    if options.select is None:
        shown = {name: value for name, value in row.items() if name not in {"OptionSet", "GlobalOptionSet"}}
    else:
        missing = [name for name in options.select if name not in row]
        if missing:
            raise _unknown(missing[0])
        shown = {name: row[name] for name in ("@odata.type", *options.select, "MetadataId") if name in row}
    for expand in options.expand:
        make = relations.get(expand.name)
        if make is not None:
            shown[expand.name] = [project(inner, expand.options, {}) for inner in make(row)]
        elif isinstance(row.get(expand.name), dict) or expand.name in {"OptionSet", "GlobalOptionSet"}:
            value = row.get(expand.name)
            shown[expand.name] = None if value is None else project(value, expand.options, {})
        else:
            raise _unknown(expand.name)
    return shown
