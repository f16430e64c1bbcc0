"""Request bodies of writes: which values they set, which rows they bind and which related rows they create.

Sources: "Create a table row" (deep insert, client-chosen ids), "Associate and disassociate table rows" (binding,
unbinding with null), "Update and delete table rows".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from . import errors
from .addressing import find_row, reference
from .exchange import Call
from .schema import Collection, Lookup, TableSpec
from .tables import Organization, Row
from .values import stored

# The service fills these itself and ignores what a client sends (ignored rather than refused: assumed).
SERVICE_LOOKUPS = frozenset(
    {
        "createdby",
        "modifiedby",
        "createdonbehalfby",
        "modifiedonbehalfby",
        "owninguser",
        "owningbusinessunit",
        "organizationid_organization",
    }
)


@dataclass(slots=True)
class Payload:
    """A body, understood: column values, the tables its lookups point to and rows to create alongside."""

    values: Row = field(default_factory=dict)
    bound: list[str] = field(default_factory=list)
    parents: list[tuple[Lookup, dict[str, Any]]] = field(default_factory=list)
    children: list[tuple[Collection, dict[str, Any]]] = field(default_factory=list)


def parse_json(call: Call, entity: str) -> dict[str, Any]:
    """Returns the JSON object of a body, or refuses what is not one."""
    content_type = call.headers.get("content-type", "application/json").lower()
    if "json" not in content_type:
        raise errors.ApiError(415, "0x80060888", f"The content type '{content_type[:60]}' is not supported.")
    try:
        body = orjson.loads(call.body)
    except orjson.JSONDecodeError:
        raise errors.bad_payload(
            entity, "Microsoft.OData.ODataException: An error has occurred while reading the JSON of the request"
        ) from None
    if not isinstance(body, dict):
        raise errors.bad_payload(entity, "Microsoft.OData.ODataException: A JSON object was expected")
    return body


def understand(
    organization: Organization, call: Call, spec: TableSpec, body: dict[str, Any], *, creating: bool
) -> Payload:
    """Sorts the members of a body; refuses names the table does not have and values that do not fit."""
    payload = Payload()
    for name, value in body.items():
        if name.endswith("@odata.bind"):
            _bind(organization, call, spec, payload, name.removesuffix("@odata.bind"), value)
        elif "@" in name:
            continue
        elif name in spec.columns:
            _column(spec, payload, name, value)
        elif name in spec.lookups:
            _navigation(spec, payload, spec.lookups[name], value, creating)
        elif name in spec.collections and creating and isinstance(value, list):
            payload.children.extend((spec.collections[name], _object(spec, item)) for item in value)
        else:
            raise errors.invalid_property(spec.name, name)
    return payload


def _object(spec: TableSpec, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise errors.bad_payload(spec.name, "Microsoft.OData.ODataException: A JSON object was expected")
    return value


def _column(spec: TableSpec, payload: Payload, name: str, value: Any) -> None:
    column = spec.columns[name]
    if column.is_lookup:
        raise errors.read_only_lookup(spec.name)
    fitted = stored(spec.name, column, value)
    if not column.read_only:
        payload.values[name] = fitted


def _navigation(spec: TableSpec, payload: Payload, lookup: Lookup, value: Any, creating: bool) -> None:
    if value is None:
        payload.values[lookup.column] = None
    elif creating and isinstance(value, dict):
        payload.parents.append((lookup, value))
    else:
        raise errors.bad_payload(
            spec.name,
            f"Microsoft.OData.ODataException: The navigation property '{lookup.name}' takes a row to create or null",
        )


def _bind(organization: Organization, call: Call, spec: TableSpec, payload: Payload, name: str, value: Any) -> None:
    lookup = spec.lookups.get(name)
    if lookup is None:
        raise errors.undeclared_bind(spec.name, name)
    if name in SERVICE_LOOKUPS:
        return
    if value is None:
        payload.values[lookup.column] = None
        return
    if not isinstance(value, str):
        raise errors.bad_payload(spec.name, f"Microsoft.OData.ODataException: '{name}@odata.bind' takes a URL or null")
    payload.values[lookup.column] = resolve(organization, call, lookup, value)
    payload.bound.append(lookup.target)


def resolve(organization: Organization, call: Call, lookup: Lookup, value: str) -> str:
    """Returns the id of the row a reference names: a URL in any form, or ``$n`` inside a changeset."""
    text = value.strip()
    if text.startswith("$"):
        known = call.references.get(text.partition("/")[0])
        if known is None:
            raise errors.ApiError(
                400, "0x80060888", f"Content-ID Reference: '{text[:40]}' does not exist in the batch context."
            )
        text = known
    where = reference(organization, text, call.root)
    if where.table.spec.name != lookup.target:
        raise errors.bad_payload(
            lookup.target,
            f"Microsoft.OData.ODataException: '{where.table.spec.entity_set}' is not the type of '{lookup.name}'",
        )
    return find_row(where)[0]
