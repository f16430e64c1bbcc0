"""Turns stored rows into the JSON of an answer: selected columns, expanded relations and annotations.

Sources: "Select columns using OData" (formatted values, lookup annotations; the primary key always comes along, money
columns bring the currency), recorded contact answers.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from . import errors
from .access import Caller
from .exchange import Call
from .query import Expand, Options, checked_select, row_test, sort_key
from .schema import Collection, Lookup
from .tables import Organization, Row, Table
from .values import formatted

FORMATTED = "OData.Community.Display.V1.FormattedValue"
ASSOCIATED = "Microsoft.Dynamics.CRM.associatednavigationproperty"
LOGICAL_NAME = "Microsoft.Dynamics.CRM.lookuplogicalname"
TOTAL_EXCEEDED = "Microsoft.Dynamics.CRM.totalrecordcountlimitexceeded"
TOTAL = "Microsoft.Dynamics.CRM.totalrecordcount"
Renderer = Callable[[Iterable[Row]], list[dict[str, Any]]]


def wants(preference: str | None, annotation: str) -> bool:
    """Tells whether an ``odata.include-annotations`` preference asks for an annotation; ``-name`` excludes."""
    wanted = False
    for part in (preference or "").split(","):
        part = part.strip()
        if fnmatch.fnmatchcase(annotation, part.removeprefix("-")):
            wanted = not part.startswith("-")
    return wanted


@dataclass(frozen=True, slots=True)
class View:
    """How the rows of one query are shown."""

    organization: Organization
    table: Table
    options: Options
    caller: Caller
    annotations: str | None = None

    def renderer(self) -> Renderer:
        """Returns the function that renders rows; the choice of columns is made once, not per row."""
        project = self._projection()
        steps: list[Callable[[Row, dict[str, Any]], dict[str, Any]]] = []
        if self.annotations:
            steps.append(self._annotate)
        steps.extend(self._expansion(expand) for expand in self.options.expand)
        if not steps:
            return lambda rows: [project(row) for row in rows]

        def render(rows: Iterable[Row]) -> list[dict[str, Any]]:
            rendered = []
            for row in rows:
                shown = project(row)
                for step in steps:
                    shown = step(row, shown)
                rendered.append(shown)
            return rendered

        return render

    def _projection(self) -> Callable[[Row], dict[str, Any]]:
        template = self.table.spec.template
        names = checked_select(self.table, self.options.select)
        if names is None:
            return lambda row: {**template, **row}
        columns = dict.fromkeys(("@odata.etag", *names, *self.table.spec.always_selected))
        if any(self.table.spec.columns[name].is_money for name in names):
            columns["_transactioncurrencyid_value"] = None
        pairs = [(name, template.get(name)) for name in columns if name == "@odata.etag" or name in template]

        def project(row: Row) -> dict[str, Any]:
            get = row.get
            return {name: get(name, default) for name, default in pairs}

        return project

    def _annotate(self, row: Row, shown: dict[str, Any]) -> dict[str, Any]:
        annotated: dict[str, Any] = {}
        for name, value in shown.items():
            if value is not None and not name.startswith("@"):
                annotated.update(self._annotations_of(name, value))
            annotated[name] = value
        return annotated

    def _annotations_of(self, name: str, value: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        column = self.table.spec.columns.get(name)
        if column is None:
            return found
        if column.is_lookup:
            target = self.organization.owner_of(name, self.table, value)
            if target is not None:
                lookup, row = target
                other = self.organization.tables[lookup.target]
                found[f"{name}@{FORMATTED}"] = other.value(row, other.spec.primary_name)
                found[f"{name}@{ASSOCIATED}"] = lookup.name
                found[f"{name}@{LOGICAL_NAME}"] = lookup.target
        else:
            text = formatted(column, value)
            if text is not None:
                found[f"{name}@{FORMATTED}"] = text
        return {
            key: text
            for key, text in found.items()
            if text is not None and wants(self.annotations, key.partition("@")[2])
        }

    def _expansion(self, expand: Expand) -> Callable[[Row, dict[str, Any]], dict[str, Any]]:
        spec = self.table.spec
        lookup = spec.lookups.get(expand.name)
        if lookup is not None:
            return self._expand_lookup(expand, lookup)
        collection = spec.collections.get(expand.name)
        if collection is not None:
            return self._expand_collection(expand, collection)
        raise errors.bad_url(
            f"Could not find a property named '{expand.name}' on type 'Microsoft.Dynamics.CRM.{spec.name}'."
        )

    def _expand_lookup(self, expand: Expand, lookup: Lookup) -> Callable[[Row, dict[str, Any]], dict[str, Any]]:
        other = self.organization.tables[lookup.target]
        inner = View(self.organization, other, expand.options, self.caller, self.annotations)
        row_test(self.organization, other, Options(), self.caller)
        render = inner.renderer()

        def step(row: Row, shown: dict[str, Any]) -> dict[str, Any]:
            found = other.rows.get(row.get(lookup.column) or "")
            shown[expand.name] = None if found is None else render([found])[0]
            return shown

        return step

    def _expand_collection(self, expand: Expand, found: Collection) -> Callable[[Row, dict[str, Any]], dict[str, Any]]:
        other = self.organization.tables[found.target]
        options = expand.options
        test = row_test(self.organization, other, options, self.caller)
        render = View(self.organization, other, options, self.caller, self.annotations).renderer()
        key = sort_key(self.organization, other, options.orderby)
        primary_id, column = self.table.spec.primary_id, found.column
        related: dict[str, list[Row]] = {}
        for row in other.rows.values():
            owner = row.get(column)
            if owner is not None and (test is None or test(row)):
                related.setdefault(owner, []).append(row)

        def step(row: Row, shown: dict[str, Any]) -> dict[str, Any]:
            rows = sorted(related.get(row[primary_id], ()), key=key)
            shown[expand.name] = render(rows[: options.top] if options.top is not None else rows)
            return shown

        return step


def context(call: Call, entity_set: str, options: Options, suffix: str = "") -> str:
    """Returns the context URL of an answer: the set, the selected columns and the expanded relations."""
    names = list(options.select or ())
    names.extend(f"{expand.name}({','.join(expand.options.select or ())})" for expand in options.expand)
    chosen = f"({','.join(names)})" if names else ""
    return f"{call.root}/$metadata#{entity_set}{chosen}{suffix}"
