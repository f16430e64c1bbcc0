"""What the service tells about itself: service document, CSDL and table definitions.

Sources: "Web API service documents", "Query table definitions using the Web API"; a recorded contact definition for
the names of properties.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from . import definitions, errors
from .definition_query import DefinitionScope, project
from .exchange import Answer, Call
from .filters import compile_filter
from .query import Options, parse_options
from .schema import EDM, csdl
from .state import SimulatorState
from .tables import Table
from .urls import GUID, Segment, key_arguments, unquote_literal

_NS = "http://docs.oasis-open.org/odata/ns/edm"


def service_document(state: SimulatorState, call: Call) -> Answer:
    """Answers a GET on the service root."""
    sets = sorted(state.organization.schema.sets)
    values = [{"name": name, "kind": "EntitySet", "url": name} for name in sets]
    return Answer(status=200, payload={"@odata.context": f"{call.root}/$metadata", "value": values})


def csdl_document(state: SimulatorState, call: Call) -> Answer:
    """Answers ``$metadata``; with ``annotations=true`` each set says whether its changes are tracked."""
    if "annotations=true" not in call.query.split("&"):
        return Answer(status=200, raw=csdl(), content_type="application/xml")
    root = ET.fromstring(csdl())  # noqa: S314  our own file
    for entity_set in root.iter(f"{EDM}EntitySet"):
        table = state.organization.table_of_set(entity_set.get("Name", ""))
        annotation = ET.SubElement(entity_set, f"{EDM}Annotation", {"Term": "Org.OData.Capabilities.V1.ChangeTracking"})
        record = ET.SubElement(annotation, f"{EDM}Record")
        supported = "true" if table is not None and table.tracked else "false"
        ET.SubElement(record, f"{EDM}PropertyValue", {"Property": "Supported", "Bool": supported})
    ET.register_namespace("", _NS)
    return Answer(status=200, raw=ET.tostring(root, encoding="utf-8"), content_type="application/xml")


def entity_definitions(state: SimulatorState, call: Call, first: Segment, rest: list[Segment]) -> Answer:
    """Answers ``EntityDefinitions`` and what lies below one definition."""
    options = parse_options(call.query)
    if first.arguments is None:
        rows = [definitions.entity(table) for table in state.organization.tables.values()]
        return _many(call, "EntityDefinitions", rows, options, definitions.relations(state.organization))
    table = _table(state, first.arguments)
    if not rest:
        row = definitions.entity(table)
        where = f"{call.root}/$metadata#EntityDefinitions/$entity"
        shown = project(row, options, definitions.relations(state.organization))
        return Answer(status=200, payload={"@odata.context": where, **shown})
    return _below(state, call, table, rest, options)


def _table(state: SimulatorState, arguments: str) -> Table:
    parsed = key_arguments(arguments)
    for table in state.organization.tables.values():
        if isinstance(parsed, str):
            if definitions.metadata_id(table.spec.name) == parsed:
                return table
        elif set(parsed) == {"LogicalName"} and unquote_literal(parsed["LogicalName"]) == table.spec.name:
            return table
    named = parsed if isinstance(parsed, str) else unquote_literal(next(iter(parsed.values())))
    raise errors.ApiError(404, "0x80060888", f"Could not find an entity with specified entity name: {named[:100]}")


def _below(state: SimulatorState, call: Call, table: Table, rest: list[Segment], options: Options) -> Answer:
    kinds = {
        "Attributes": definitions.attributes,
        "Keys": definitions.keys,
        "ManyToOneRelationships": definitions.many_to_one,
        "OneToManyRelationships": definitions.one_to_many,
    }
    make = kinds.get(rest[0].name)
    if make is None or len(rest) > 3:
        raise errors.unknown_resource(rest[0].name)
    rows = make(table)
    where = f"EntityDefinitions('{table.spec.name}')/{rest[0].name}"
    arguments = rest[0].arguments
    if len(rest) >= 2:
        cast = rest[1].name.removeprefix("Microsoft.Dynamics.CRM.")
        arguments = arguments if rest[1].arguments is None else rest[1].arguments
        rows = [row for row in rows if definitions.is_kind(row, cast)]
        rows = [{name: value for name, value in row.items() if name != "@odata.type"} for row in rows]
        where = f"{where}/{rest[1].name}"
    if arguments is None:
        return _many(call, where, rows, options, {})
    row = _one(rows, arguments)
    if len(rest) == 3:
        return _nested(call, where, row, rest[2].name)
    shown = project(row, options, {})
    return Answer(status=200, payload={"@odata.context": f"{call.root}/$metadata#{where}/$entity", **shown})


def _one(rows: list[dict[str, Any]], arguments: str) -> dict[str, Any]:
    parsed = key_arguments(arguments)
    name, value = ("MetadataId", parsed) if isinstance(parsed, str) else next(iter(parsed.items()))
    found = [row for row in rows if str(row.get(name)) == unquote_literal(value)]
    if not found or (name not in {"LogicalName", "MetadataId"} and not GUID.fullmatch(value)):
        raise errors.ApiError(404, "0x80060888", f"Could not find the definition {arguments[:100]}")
    return found[0]


def _nested(call: Call, where: str, row: dict[str, Any], name: str) -> Answer:
    found = row.get(name)
    if not isinstance(found, dict):
        raise errors.unknown_resource(name)
    return Answer(status=200, payload={"@odata.context": f"{call.root}/$metadata#{where}/{name}/$entity", **found})


def _many(
    call: Call, where: str, rows: list[dict[str, Any]], options: Options, relations: definitions.Relations
) -> Answer:
    if options.orderby or options.skip_token or options.delta_token:
        raise errors.bad_url("The query parameter is not supported for table definitions.")
    if options.filter is not None:
        test = compile_filter(options.filter, DefinitionScope(rows), options.aliases)
        rows = [row for row in rows if test(row)]
    if options.top is not None:
        rows = rows[: options.top]
    chosen = f"({','.join(options.select)})" if options.select else ""
    payload: dict[str, Any] = {"@odata.context": f"{call.root}/$metadata#{where}{chosen}"}
    if options.count:
        payload["@odata.count"] = len(rows)
    payload["value"] = [project(row, options, relations) for row in rows]
    return Answer(status=200, payload=payload)
