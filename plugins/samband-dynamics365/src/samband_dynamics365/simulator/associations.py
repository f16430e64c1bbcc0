"""Navigation properties as resources: reading what they lead to, and linking rows with ``$ref``.

Source: "Associate and disassociate table rows". Both forms of removing a link from a collection are in use:
``DELETE …/collection(id)/$ref`` and ``DELETE …/collection/$ref?$id=url``.
"""

from __future__ import annotations

from typing import Any

from . import errors
from .addressing import Address, find_row, reference
from .exchange import Answer, Call
from .payloads import parse_json
from .query import Options, parse_options, row_test, sort_key
from .reads import readable_row, show_row
from .render import View, context
from .schema import Collection, Lookup
from .state import SimulatorState
from .tables import Row, Table
from .urls import Segment
from .writes import change


def navigate(state: SimulatorState, call: Call, where: Address, segment: Segment, *, ref: bool) -> Answer:
    """Answers a request on a navigation property of one row."""
    spec = where.table.spec
    lookup, collection = spec.lookups.get(segment.name), spec.collections.get(segment.name)
    if lookup is not None and segment.arguments is None:
        return _lookup(state, call, where, lookup, ref=ref)
    if collection is not None:
        return _collection(state, call, where, collection, segment.arguments, ref=ref)
    raise errors.unknown_resource(segment.name)


def _lookup(state: SimulatorState, call: Call, where: Address, lookup: Lookup, *, ref: bool) -> Answer:
    table = state.organization.tables[lookup.target]
    if call.method == "GET":
        row = readable_row(state, call, where)
        other_id = row.get(lookup.column)
        other = table.rows.get(other_id or "")
        if other is None:
            return Answer(status=204)
        if ref:
            payload = {"@odata.context": f"{call.root}/$metadata#$ref", "@odata.id": _url(call, table, str(other_id))}
            return Answer(status=200, payload=payload)
        return show_row(state, call, table, other, parse_options(call.query))
    if not ref or call.method not in {"PUT", "DELETE"}:
        raise errors.not_supported()
    target = _posted_row(state, call, table) if call.method == "PUT" else None
    _link(state, call, where.table, find_row(where)[0], lookup.column, target)
    return Answer(status=204)


def _collection(
    state: SimulatorState, call: Call, where: Address, collection: Collection, arguments: str | None, *, ref: bool
) -> Answer:
    other = state.organization.tables[collection.target]
    if call.method == "GET" and arguments is None:
        return _members(state, call, where, collection, ref=ref)
    if not ref:
        raise errors.not_supported()
    row_id, _ = find_row(where)
    if call.method in {"POST", "PUT"} and arguments is None:
        _link(state, call, other, _posted_row(state, call, other), collection.column, row_id)
        return Answer(status=204)
    if call.method == "DELETE":
        member = _removed_row(state, call, other, arguments)
        if other.rows[member].get(collection.column) != row_id:
            raise errors.row_absent(collection.target, member)
        _link(state, call, other, member, collection.column, None)
        return Answer(status=204)
    raise errors.not_supported()


def _members(state: SimulatorState, call: Call, where: Address, collection: Collection, *, ref: bool) -> Answer:
    other = state.organization.tables[collection.target]
    owner = readable_row(state, call, where)[where.table.spec.primary_id]
    options = parse_options(call.query)
    test = row_test(state.organization, other, options, call.caller)
    rows = [other.rows[row_id] for row_id in other.referring(collection.column, owner)]
    rows = [row for row in rows if test is None or test(row)]
    rows.sort(key=sort_key(state.organization, other, options.orderby))
    # One page only: relations of one row stay far below the page size here.
    rows = rows[: min(options.top if options.top is not None else state.switches.page_cap, state.switches.page_cap)]
    if ref:
        values = [{"@odata.id": _url(call, other, row[other.spec.primary_id])} for row in rows]
        return _listed(f"{call.root}/$metadata#Collection($ref)", values)
    view = View(state.organization, other, options, call.caller, call.prefer.annotations)
    return _listed(context(call, other.spec.entity_set, options), view.renderer()(rows))


def _listed(where: str, values: list[dict[str, Any]]) -> Answer:
    return Answer(status=200, payload={"@odata.context": where, "value": values})


def _url(call: Call, table: Table, row_id: str) -> str:
    return f"{call.root}/{table.spec.entity_set}({row_id})"


def _posted_row(state: SimulatorState, call: Call, table: Table) -> str:
    body = parse_json(call, table.spec.name)
    url = body.get("@odata.id")
    if not isinstance(url, str):
        raise errors.bad_payload(table.spec.name, "Microsoft.OData.ODataException: '@odata.id' was expected")
    return _referenced(state, call, table, call.references.get(url.strip(), url))


def _removed_row(state: SimulatorState, call: Call, table: Table, arguments: str | None) -> str:
    if arguments is not None:
        return _referenced(state, call, table, f"{table.spec.entity_set}({arguments})")
    url = parse_options(call.query).ref_id
    if url is None:
        raise errors.bad_url("The reference to remove must be named, by key or with $id.")
    return _referenced(state, call, table, url)


def _referenced(state: SimulatorState, call: Call, table: Table, url: str) -> str:
    where = reference(state.organization, url, call.root)
    if where.table is not table:
        raise errors.bad_url(f"A row of '{table.spec.entity_set}' was expected.")
    return find_row(where)[0]


def _link(state: SimulatorState, call: Call, table: Table, row_id: str, column: str, target: str | None) -> None:
    call.caller.require("Append", table.spec.schema_name, table.spec.name)
    test = row_test(state.organization, table, Options(), call.caller)
    row: Row = table.rows[row_id]
    if test is not None and not test(row):
        raise errors.privilege_missing(call.caller.user_id, f"prvAppend{table.spec.schema_name}", table.spec.name)
    with state.organization.transaction():
        change(state, call, table, row_id, {column: target})
