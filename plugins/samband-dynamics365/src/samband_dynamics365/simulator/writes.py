"""Writing rows: create, upsert with its conditions, delete, single columns.

Sources: "Create a table row", "Update and delete table rows", "Upsert a table row", "Perform conditional operations",
"Users and teams" (users are deleted in two steps).
"""

from __future__ import annotations

from typing import Any

from . import errors
from .addressing import Address, absent, row_id_of
from .exchange import Answer, Call
from .payloads import Payload, parse_json, understand
from .query import parse_options
from .reads import show_row
from .schema import TableSpec
from .state import SimulatorState
from .tables import Row, Table

_NAME_PARTS = ("firstname", "middlename", "lastname")


def create(state: SimulatorState, call: Call, table: Table) -> Answer:
    """Answers a POST on an entity set."""
    body = parse_json(call, table.spec.name)
    options = parse_options(call.query)
    with state.organization.transaction():
        row = insert(state, call, table, body)
        if call.prefer.representation:
            return show_row(state, call, table, row, options, 201)
    return entity_id(call, f"{table.spec.entity_set}({row[table.spec.primary_id]})")


def entity_id(call: Call, path: str) -> Answer:
    """Returns the empty answer of a write that names the row written."""
    url = f"{call.root}/{path}"
    return Answer(status=204, headers={"OData-EntityId": url, "Location": url})


def insert(
    state: SimulatorState, call: Call, table: Table, body: dict[str, Any], values: Row | None = None, depth: int = 0
) -> Row:
    """Creates one row from a body, with the rows the body creates alongside; ``values`` lie beneath the body's."""
    spec = table.spec
    call.caller.require("Create", spec.schema_name, spec.name)
    if spec.name == "systemuser" and not state.switches.users_creatable:
        raise errors.not_supported("Users are created in the directory and synchronised to this environment.")
    if spec.status_of_state == {} and spec.name != "systemuser":
        raise errors.not_supported(f"Rows of '{spec.name}' cannot be created through the Web API.")
    payload = understand(state.organization, call, spec, body, creating=True)
    if depth and (payload.parents or payload.children):
        raise errors.bad_payload(spec.name, "Microsoft.OData.ODataException: Deep insert goes one level deep here")
    for lookup, inner in payload.parents:
        parent = insert(state, call, state.organization.tables[lookup.target], inner, depth=depth + 1)
        payload.values[lookup.column] = parent[state.organization.tables[lookup.target].spec.primary_id]
    row = _new_row(state, call, table, {**(values or {}), **payload.values}, payload)
    for collection, inner in payload.children:
        link = {collection.column: row[spec.primary_id]}
        insert(state, call, state.organization.tables[collection.target], inner, link, depth=depth + 1)
    return row


def _new_row(state: SimulatorState, call: Call, table: Table, values: Row, payload: Payload) -> Row:
    spec = table.spec
    row_id = values.get(spec.primary_id) or state.new_id()
    if row_id in table.rows:
        raise errors.already_exists()
    _may_bind(state, call, spec, payload)
    stamp = state.clock.stamp()
    row: Row = dict.fromkeys(spec.always_selected, row_id)
    row.update(createdon=values.get("overriddencreatedon") or stamp, modifiedon=stamp)
    if "_ownerid_value" in spec.columns:
        user_id = call.caller.user_id
        row.update(dict.fromkeys(("_createdby_value", "_modifiedby_value", "_ownerid_value"), user_id))
        row["_owningbusinessunit_value"] = state.seeded.business_unit_id
    row.update(values)
    row[spec.primary_id] = row_id
    _follow_state(table, row, values)
    return state.organization.write(table, row_id, _derived(spec, row))


def _may_bind(state: SimulatorState, call: Call, spec: TableSpec, payload: Payload) -> None:
    for target in payload.bound:
        call.caller.require("Append", spec.schema_name, spec.name)
        call.caller.require("AppendTo", state.organization.tables[target].spec.schema_name, target)


def _follow_state(table: Table, row: Row, given: Row) -> None:
    """Keeps status reason and state together: the reason must belong to the state, a lone state picks its first."""
    allowed = table.spec.status_of_state
    if not allowed or not {"statecode", "statuscode"} & set(given):
        return
    state = table.value(row, "statecode")
    if "statuscode" not in given:
        row["statuscode"] = allowed.get(state, (1,))[0]
    elif table.value(row, "statuscode") not in allowed.get(state, ()):
        raise errors.wrong_status(table.spec.name, state, table.value(row, "statuscode"))


def _derived(spec: TableSpec, row: Row) -> Row:
    """Adds the columns the platform computes: full names, base amounts, the owning user."""
    if spec.name in {"contact", "systemuser"}:
        parts = [row.get(name) for name in _NAME_PARTS]
        row["fullname"] = " ".join(part for part in parts if part) or None
        row["yomifullname"] = row["fullname"]
    if "_ownerid_value" in row:
        row["_owninguser_value"] = row["_ownerid_value"]
    for name in list(row):
        if f"{name}_base" in spec.columns:
            row[f"{name}_base"] = row[name]
    return row


def _may_change(call: Call, table: Table, row: Row, operation: str) -> None:
    spec = table.spec
    depth = call.caller.require(operation, spec.schema_name, spec.name)
    if depth != "Global" and "_ownerid_value" in spec.columns and row.get("_ownerid_value") != call.caller.user_id:
        raise errors.privilege_missing(call.caller.user_id, f"prv{operation}{spec.schema_name}", spec.name)


def _check_version(call: Call, table: Table, row: Row) -> None:
    match = call.condition("if-match")
    if match is None or match == "*":
        return
    if not table.optimistic:
        raise errors.optimistic_concurrency_off(table.spec.name)
    if match != row["@odata.etag"]:
        raise errors.version_mismatch()


def upsert(state: SimulatorState, call: Call, where: Address) -> Answer:
    """Answers a PATCH on one row: update, create, or refuse, as the conditions say."""
    body = parse_json(call, where.table.spec.name)
    options = parse_options(call.query)
    with state.organization.transaction():
        row, created = patch(state, call, where, body)
        if call.prefer.representation:
            return show_row(state, call, where.table, row, options, 201 if created else 200)
    # The 204 of an upsert by alternate key echoes that key, not the id ("Upsert a table row").
    if where.key is not None:
        return entity_id(call, call.path.partition("?")[0])
    return entity_id(call, f"{where.table.spec.entity_set}({row[where.table.spec.primary_id]})")


def patch(state: SimulatorState, call: Call, where: Address, body: dict[str, Any]) -> tuple[Row, bool]:
    """Carries out one upsert; returns the row and whether it is new."""
    table, row_id = where.table, row_id_of(where)
    if row_id is None:
        if call.condition("if-match") is not None:
            raise absent(where)
        key = {where.table.spec.primary_id: where.row_id} if where.row_id else dict(where.values or {})
        _check_key_lookups(state, where)
        return insert(state, call, table, body, key), True
    if call.condition("if-none-match") == "*":
        raise errors.already_exists()
    row = table.rows[row_id]
    _check_version(call, table, row)
    _may_change(call, table, row, "Write")
    payload = understand(state.organization, call, table.spec, body, creating=False)
    _may_bind(state, call, table.spec, payload)
    dropped = {table.spec.primary_id, *(where.key.columns if where.key else ())}
    return change(state, call, table, row_id, {k: v for k, v in payload.values.items() if k not in dropped}), False


def _check_key_lookups(state: SimulatorState, where: Address) -> None:
    for column, value in (where.values or {}).items():
        targets = where.table.spec.targets.get(column, ())
        if targets and not any(value in state.organization.tables[lookup.target].rows for lookup in targets):
            raise errors.row_absent(targets[0].target, str(value))


def change(state: SimulatorState, call: Call, table: Table, row_id: str, values: Row) -> Row:
    """Stores changed values of a row; equal values count as a change too, an empty body does not."""
    row = table.rows[row_id]
    if not values:
        return row
    changed = {**row, **values, "modifiedon": state.clock.stamp()}
    if "_modifiedby_value" in table.spec.columns:
        changed["_modifiedby_value"] = call.caller.user_id
    _follow_state(table, changed, values)
    return state.organization.write(table, row_id, _derived(table.spec, changed))


def delete(state: SimulatorState, call: Call, where: Address) -> Answer:
    """Answers a DELETE on one row."""
    row_id = row_id_of(where)
    if row_id is None:
        raise absent(where)
    row = where.table.rows[row_id]
    _check_version(call, where.table, row)
    _may_change(call, where.table, row, "Delete")
    with state.organization.transaction():
        if where.table.spec.name == "systemuser" and not row.get("deletedstate"):
            # The first delete only marks the user; the second one removes the row ("Users and teams").
            change(state, call, where.table, row_id, {"isdisabled": True, "deletedstate": 1})
        else:
            state.organization.remove(where.table, row_id)
    return Answer(status=204)


def put_column(state: SimulatorState, call: Call, where: Address, name: str) -> Answer:
    """Answers a PUT of ``{"value": …}`` or a DELETE on one column."""
    if name in where.table.spec.always_selected:
        raise errors.not_supported(f"The key column '{name}' cannot be changed.")
    if call.method == "PUT":
        body = parse_json(call, where.table.spec.name)
        if "value" not in body:
            raise errors.bad_payload(where.table.spec.name, "Microsoft.OData.ODataException: 'value' was expected")
        value = body["value"]
    else:
        value = None
    row_id = row_id_of(where)
    if row_id is None:
        raise absent(where)
    _check_version(call, where.table, where.table.rows[row_id])
    _may_change(call, where.table, where.table.rows[row_id], "Write")
    with state.organization.transaction():
        payload = understand(state.organization, call, where.table.spec, {name: value}, creating=False)
        change(state, call, where.table, row_id, payload.values)
    return Answer(status=204)
