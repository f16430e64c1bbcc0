"""Which part of the service answers a request: the map from paths to rows, functions, metadata and batches."""

from __future__ import annotations

from collections.abc import Callable

from . import associations, batch, bulk, errors, functions, metadata, reads, writes
from .addressing import address, find_row
from .exchange import Answer, Call, error_payload
from .state import SimulatorState
from .tables import Table
from .urls import BATCH_URL_LIMIT, URL_LIMIT, Segment, split_path

CRM_PREFIX = "Microsoft.Dynamics.CRM."
_FUNCTIONS: dict[str, Callable[[SimulatorState, Call], Answer]] = {
    "WhoAmI": functions.who_am_i,
    "RetrieveVersion": functions.retrieve_version,
    "$metadata": metadata.csdl_document,
}


def handle(state: SimulatorState, call: Call) -> Answer:
    """Answers one request; every refusal becomes the documented error envelope."""
    bulk.run_waiting_jobs(state)
    return _answer(state, call, URL_LIMIT)


def _answer(state: SimulatorState, call: Call, url_limit: int) -> Answer:
    try:
        if len(call.path) + len(call.query) > url_limit:
            raise errors.ApiError(414, "0x80060888", f"The URL is longer than {url_limit} characters.")
        return _dispatch(state, call)
    except errors.ApiError as error:
        payload = error_payload(error.code, error.message, call.prefer.annotations)
        return Answer(status=error.status, payload=payload, headers=error.headers)


def _dispatch(state: SimulatorState, call: Call) -> Answer:
    if call.path.strip("/") == "":
        _only(call, "GET")
        return metadata.service_document(state, call)
    segments = split_path(call.path)
    first, rest = segments[0], segments[1:]
    if first.name == "$batch" and not rest:
        _only(call, "POST")
        return batch.execute(state, call, lambda inner: _answer(state, inner, BATCH_URL_LIMIT))
    if first.name == "BulkDelete" and not rest:
        _only(call, "POST")
        return bulk.bulk_delete(state, call)
    if first.name in _FUNCTIONS and not rest:
        _only(call, "GET")
        return _FUNCTIONS[first.name](state, call)
    if first.name == "EntityDefinitions":
        _only(call, "GET")
        return metadata.entity_definitions(state, call, first, rest)
    table = state.organization.table_of_set(first.name)
    if table is None:
        raise errors.unknown_resource(first.name)
    if first.arguments is None:
        return _on_set(state, call, table, rest)
    return _on_row(state, call, table, first.arguments, rest)


def _only(call: Call, *methods: str) -> None:
    if call.method not in methods:
        raise errors.not_supported(f"The HTTP method {call.method} is not supported for this resource.")


def _on_set(state: SimulatorState, call: Call, table: Table, rest: list[Segment]) -> Answer:
    if not rest:
        _only(call, "GET", "POST")
        return (reads.list_rows if call.method == "GET" else writes.create)(state, call, table)
    if len(rest) == 1 and rest[0].name == "$count":
        _only(call, "GET")
        return reads.count_rows(state, call, table)
    if len(rest) == 1 and rest[0].name.startswith(CRM_PREFIX):
        _only(call, "POST")
        return bulk.run(state, call, table, rest[0].name)
    raise errors.unknown_resource(rest[0].name)


def _on_row(state: SimulatorState, call: Call, table: Table, arguments: str, rest: list[Segment]) -> Answer:
    where = address(table, arguments)
    if not rest:
        _only(call, "GET", "PATCH", "DELETE")
        return {"GET": reads.one_row, "PATCH": writes.upsert, "DELETE": writes.delete}[call.method](state, call, where)
    segment, last = rest[0], rest[-1].name
    if segment.name == f"{CRM_PREFIX}RetrieveUserPrivileges" and table.spec.name == "systemuser" and len(rest) == 1:
        _only(call, "GET")
        return functions.user_privileges(state, call, find_row(where)[0])
    if len(rest) > 2 or (len(rest) == 2 and last not in {"$value", "$ref"}):
        raise errors.unknown_resource(last)
    if segment.name in table.spec.columns and segment.arguments is None and last != "$ref":
        _only(call, "GET", "PUT", "DELETE")
        if call.method == "GET":
            return reads.one_column(state, call, where, segment.name, raw=len(rest) == 2)
        return writes.put_column(state, call, where, segment.name)
    if last == "$value":
        raise errors.unknown_resource(last)
    return associations.navigate(state, call, where, segment, ref=len(rest) == 2)
