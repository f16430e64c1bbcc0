"""Many rows in one request: CreateMultiple, UpdateMultiple, UpsertMultiple and the BulkDelete job.

Source: "Use bulk operation messages". On standard tables a bulk message is all or nothing; an upsert says nothing
about single rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from . import errors
from .addressing import Address, reference, row_id_of
from .exchange import Answer, Call
from .payloads import parse_json
from .seed import BULK_TABLES
from .state import BulkDeleteJob, SimulatorState
from .tables import Table
from .urls import GUID
from .writes import insert, patch

_UNCONDITIONAL = frozenset({"if-match", "if-none-match"})


@dataclass(frozen=True, slots=True)
class _Order:
    state: SimulatorState
    call: Call
    table: Table
    targets: list[dict[str, Any]]


def run(state: SimulatorState, call: Call, table: Table, message: str) -> Answer:
    """Answers a POST of one bulk message on an entity set."""
    message = message.removeprefix("Microsoft.Dynamics.CRM.")
    if message == "DeleteMultiple":
        raise errors.ApiError(501, "0x80004001", "DeleteMultiple has not yet been implemented.")
    step = _MESSAGES.get(message)
    if step is None:
        raise errors.unknown_resource(message)
    if table.spec.name not in BULK_TABLES:
        raise errors.not_supported(f"'{message}' is not supported for the table '{table.spec.name}'.")
    plain = replace(call, headers={k: v for k, v in call.headers.items() if k not in _UNCONDITIONAL})
    with state.organization.transaction():
        return step(_Order(state, plain, table, _targets(call, table)))


def _targets(call: Call, table: Table) -> list[dict[str, Any]]:
    targets = parse_json(call, table.spec.name).get("Targets")
    if not isinstance(targets, list) or not targets or not all(isinstance(target, dict) for target in targets):
        raise errors.bad_payload(table.spec.name, "Microsoft.OData.ODataException: 'Targets' must be a list of rows")
    wanted = f"Microsoft.Dynamics.CRM.{table.spec.name}"
    for target in targets:
        if str(target.get("@odata.type", "")).removeprefix("#") != wanted:
            raise errors.bad_payload(
                table.spec.name,
                "Microsoft.OData.ODataException: The type 'Microsoft.Dynamics.CRM.crmbaseentity' of an entry is "
                f"abstract; '@odata.type' must be '{wanted}'",
            )
    return targets


def _create(order: _Order) -> Answer:
    primary_id = order.table.spec.primary_id
    rows = [insert(order.state, order.call, order.table, target) for target in order.targets]
    where = f"{order.call.root}/$metadata#Microsoft.Dynamics.CRM.CreateMultipleResponse"
    return Answer(status=200, payload={"@odata.context": where, "Ids": [row[primary_id] for row in rows]})


def _update(order: _Order) -> Answer:
    for target in order.targets:
        where = _by_primary_id(order.table, target)
        if where is None and "@odata.id" in target:
            where = _by_reference(order, target)
        if where is None:
            raise errors.bad_payload(
                order.table.spec.name, f"System.ArgumentException: '{order.table.spec.primary_id}' is missing"
            )
        patch(order.state, _only_existing(order.call), where, target)
    return Answer(status=204)


def _only_existing(call: Call) -> Call:
    return replace(call, headers={**call.headers, "if-match": "*"})


def _upsert(order: _Order) -> Answer:
    for target in order.targets:
        where = _by_reference(order, target) if "@odata.id" in target else _by_primary_id(order.table, target)
        if where is None:
            insert(order.state, order.call, order.table, target)
            continue
        if row_id_of(where) is None and where.key is not None and set(where.key.columns) & set(target):
            # The create path takes the key from the reference; a second copy in the body clashes with it.
            raise errors.bad_payload(
                order.table.spec.name, "System.ArgumentException: An item with the same key has already been added"
            )
        patch(order.state, order.call, where, target)
    return Answer(status=204)


def _by_primary_id(table: Table, target: dict[str, Any]) -> Address | None:
    row_id = target.get(table.spec.primary_id)
    if row_id is None:
        return None
    if not isinstance(row_id, str) or not GUID.fullmatch(row_id):
        raise errors.wrong_literal(table.spec.name, row_id, "Edm.Guid")
    return Address(table=table, arguments=row_id, row_id=row_id.lower())


def _by_reference(order: _Order, target: dict[str, Any]) -> Address:
    url = target["@odata.id"]
    if not isinstance(url, str):
        raise errors.bad_payload(order.table.spec.name, "Microsoft.OData.ODataException: '@odata.id' must be a URL")
    where = reference(order.state.organization, url, order.call.root)
    if where.table is not order.table:
        raise errors.bad_payload(order.table.spec.name, "Microsoft.OData.ODataException: '@odata.id' names other rows")
    return where


_MESSAGES: dict[str, Callable[[_Order], Answer]] = {
    "CreateMultiple": _create,
    "UpdateMultiple": _update,
    "UpsertMultiple": _upsert,
}


def bulk_delete(state: SimulatorState, call: Call) -> Answer:
    """Answers ``BulkDelete``: the job is accepted now and carried out before the next request."""
    body = parse_json(call, "bulkdelete")
    queries = body.get("QuerySet")
    if not isinstance(queries, list) or not queries:
        raise errors.bad_payload("bulkdelete", "Microsoft.OData.ODataException: 'QuerySet' must be a list of queries")
    job = BulkDeleteJob(job_id=state.new_id(), rows=[])
    for query in queries:
        table = state.organization.tables.get(str(query.get("EntityName"))) if isinstance(query, dict) else None
        if table is None:
            raise errors.bad_payload("bulkdelete", "System.ArgumentException: 'EntityName' names no table")
        call.caller.require("Delete", table.spec.schema_name, table.spec.name)
        job.rows.extend((table.spec.name, row_id) for row_id in _matching(table, query))
    state.waiting_jobs.append(job)
    state.jobs[job.job_id] = "waiting"
    where = f"{call.root}/$metadata#Microsoft.Dynamics.CRM.BulkDeleteResponse"
    return Answer(status=200, payload={"@odata.context": where, "JobId": job.job_id})


def _matching(table: Table, query: dict[str, Any]) -> list[str]:
    """Returns the rows a query expression picks: conditions joined by And, operators Equal and In."""
    criteria = query.get("Criteria") or {}
    conditions = criteria.get("Conditions") if isinstance(criteria, dict) else None
    tests: list[tuple[str, set[str]]] = []
    for found in conditions if isinstance(conditions, list) else []:
        condition = found if isinstance(found, dict) else {}
        name, values = str(condition.get("AttributeName")), condition.get("Values")
        known = condition.get("Operator") in ("Equal", "In") and name in table.spec.columns
        if not known or not isinstance(values, list):
            raise errors.bad_payload("bulkdelete", "System.ArgumentException: this condition is not supported here")
        tests.append((name, {str(v.get("Value") if isinstance(v, dict) else v).casefold() for v in values}))
    return [
        row_id
        for row_id, row in table.rows.items()
        if all(str(table.value(row, name)).casefold() in wanted for name, wanted in tests)
    ]


def run_waiting_jobs(state: SimulatorState) -> None:
    """Carries out the jobs accepted so far."""
    while state.waiting_jobs:
        job = state.waiting_jobs.pop(0)
        state.jobs[job.job_id] = "succeeded"
        try:
            with state.organization.transaction():
                for name, row_id in job.rows:
                    if row_id in state.organization.tables[name].rows:
                        state.organization.remove(state.organization.tables[name], row_id)
        except errors.ApiError:
            state.jobs[job.job_id] = "failed"
