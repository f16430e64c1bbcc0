"""The GraphQL schema: node types from ``data/types.graphql``, filters and connections made from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from importlib.resources import files
from typing import Any

from graphql import (
    FloatValueNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    IntValueNode,
    StringValueNode,
    ValueNode,
    build_schema,
)

_SCALARS = ("Int64String", "Decimal", "Date", "DateTime", "String", "Int", "Boolean")
_ORDERED = ("_gt", "_gte", "_lt", "_lte")
_MOST_DIGITS = 18
_TYPE = re.compile(r"^type (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A list one can read: its name, what it lists, and the right that reading takes."""

    name: str
    node: str
    right: str
    deltas: bool = False


CONNECTIONS = (
    Connection(name="entities", node="Entity", right="Entity"),
    Connection(name="accounts", node="Account", right="Account"),
    Connection(name="currencies", node="Currency", right="Currency"),
    Connection(name="objectKinds", node="ObjectKind", right="ObjectKind"),
    Connection(name="objectValues", node="ObjectValue", right="ObjectValue"),
    Connection(name="projects", node="Project", right="Project", deltas=True),
    Connection(name="subledgers", node="Subledger", right="Subledger"),
    Connection(name="suppliers", node="Supplier", right="Supplier", deltas=True),
    Connection(name="employees", node="Employee", right="Employee", deltas=True),
    Connection(name="periodStatusItems", node="PeriodStatusItem", right="PeriodStatusItem"),
    Connection(name="taxTableSetups", node="TaxTableSetup", right="TaxTableSetup"),
    Connection(name="glImportItems", node="GLImportItem", right="GLImportItem"),
    Connection(name="glImportItemErrors", node="GLImportItemError", right="GLImportItem"),
    Connection(name="journalHeaders", node="JournalHeader", right="JournalHeader", deltas=True),
    Connection(name="journalEntries", node="JournalEntry", right="JournalEntry"),
    Connection(name="transactions", node="Transaction", right="Transaction", deltas=True),
    Connection(name="webhooks", node="Webhook", right="Webhook"),
)
SUBSCRIBED = ("transactions", "journalHeaders")

_MUTATIONS = """
type GLImportItemMutationEdge { clientId: String node: GLImportItem }
type GLImportItemMutation { edges: [GLImportItemMutationEdge] }
type WebhookMutationEdge { clientId: String node: Webhook }
type WebhookMutation { edges: [WebhookMutationEdge] }
type Mutation {
  addGLImportItems(inputs: [AddGLImportItemsInput!]!): GLImportItemMutation
  updateGLImportItems(inputs: [UpdateGLImportItemsInput!]!): GLImportItemMutation
  removeGLImportItems(dbIds: [Int64String!]!): RemoveResult
  addWebhooks(inputs: [AddWebhooksInput!]!): WebhookMutation
  removeWebhooks(dbIds: [Int64String!]!): RemoveResult
}
"""


@cache
def api() -> GraphQLSchema:
    """Returns the schema that is served; its query and mutation fields have no resolvers yet."""
    return _with_scalars(build_schema(_text()))


@cache
def deliveries() -> GraphQLSchema:
    """Returns a schema whose queries are the subscriptions: what a webhook delivers is rendered with it."""
    served = api()
    return GraphQLSchema(query=served.subscription_type)


def _text() -> str:
    types = files(__package__).joinpath("data").joinpath("types.graphql").read_text(encoding="utf-8")
    scalars = {name: _scalar_fields(body) for name, body in _TYPE.findall(types)}
    parts = [types]
    queries, subscribed = [], []
    for item in CONNECTIONS:
        parts.append(_connection_text(item.node, scalars[item.node]))
        arguments = f"first: Int, after: String, last: Int, before: String, filter: {item.node}Filter"
        queries.append(f"  {item.name}({arguments}, objectStatus: ObjectStatus): {item.node}Connection")
        if item.deltas:
            queries.append(f"  {item.name}_deltas(first: Int, after: String): DeltaConnection")
        if item.name in SUBSCRIBED:
            parts.append(_mutated_text(item.node))
            subscribed.append(f"  {item.name}Mutated: {item.node}Mutated")
    parts.append("type DeltaEdge { cursor: String node: Delta }")
    parts.append("type DeltaConnection { edges: [DeltaEdge] pageInfo: PageInfo! }")
    parts.append("type Query {\n" + "\n".join(queries) + "\n}")
    parts.append("type Subscription {\n" + "\n".join(subscribed) + "\n}")
    return "\n".join((*parts, _MUTATIONS))


def _scalar_fields(body: str) -> dict[str, str]:
    pairs = (line.strip().split(": ") for line in body.splitlines() if line.strip())
    return {name: kind for name, kind in pairs if kind in _SCALARS}


def _connection_text(node: str, fields: dict[str, str]) -> str:
    lines = [f"  AND: [{node}Filter!]", f"  OR: [{node}Filter!]"]
    for name, kind in fields.items():
        lines += [f"  {name}: {kind}", f"  {name}_in: [{kind}]"]
        if kind != "Boolean":
            lines += [f"  {name}{suffix}: {kind}" for suffix in _ORDERED]
    return (
        f"type {node}Edge {{ cursor: String node: {node} }}\n"
        f"type {node}Connection {{ edges: [{node}Edge] pageInfo: PageInfo! }}\n"
        f"input {node}Filter {{\n" + "\n".join(lines) + "\n}"
    )


def _mutated_text(node: str) -> str:
    return (
        f"type {node}MutatedEdge {{ syncVersion: String node: {node} }}\n"
        f"type {node}Mutated {{ edges: [{node}MutatedEdge] }}"
    )


def _with_scalars(schema: GraphQLSchema) -> GraphQLSchema:
    for name, (out, taken) in {
        "Int64String": (str, _int64),
        "Decimal": (lambda value: f"{value:.2f}", _decimal),
        "Date": (str, _date),
        "DateTime": (str, _date_time),
    }.items():
        kind = schema.type_map[name]
        assert isinstance(kind, GraphQLScalarType)
        _give(kind, out, taken)
    # Numbers are taken where text is meant, as in the calls of clients that work (bare invoice numbers, for instance).
    return schema


def _give(kind: GraphQLScalarType, out: Any, taken: Any) -> None:
    def from_literal(node: ValueNode, variables: Any = None) -> Any:
        if isinstance(node, IntValueNode | FloatValueNode | StringValueNode):
            return taken(node.value)
        raise GraphQLError(f"{kind.name} must be text or a number.")

    def from_value(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise GraphQLError(f"{kind.name} must be text or a number.")
        return taken(str(value))

    for name, function in {
        "serialize": out,
        "parse_value": from_value,
        "parse_literal": from_literal,
        "coerce_output_value": out,
        "coerce_input_value": from_value,
        "coerce_input_literal": from_literal,
    }.items():
        if hasattr(kind, name):
            setattr(kind, name, function)


def _int64(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise GraphQLError(f"Int64String cannot represent {text[:40]!r}.") from None
    if abs(number) >= 2**63:
        raise GraphQLError("Int64String cannot represent a number beyond 64 bits.")
    return number


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise GraphQLError(f"Decimal cannot represent {text[:40]!r}.") from None
    if not number.is_finite() or abs(number.adjusted()) > _MOST_DIGITS:
        raise GraphQLError(f"Decimal must be finite and have at most {_MOST_DIGITS} digits.")
    return number


def _date(text: str) -> str:
    try:
        return date.fromisoformat(text[:10] if "T" in text else text).isoformat()
    except ValueError:
        raise GraphQLError(f"Date must be written YYYY-MM-DD, not {text[:40]!r}.") from None


def _date_time(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise GraphQLError(f"DateTime must be written YYYY-MM-DDTHH:mm:ss, not {text[:40]!r}.") from None
    if moment.tzinfo is not None:
        raise GraphQLError("DateTime is Central European time and takes no offset.")
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def field_types(schema: GraphQLSchema, name: str) -> GraphQLObjectType:
    """Returns an object type of the schema by name."""
    found = schema.type_map[name]
    assert isinstance(found, GraphQLObjectType)
    return found
