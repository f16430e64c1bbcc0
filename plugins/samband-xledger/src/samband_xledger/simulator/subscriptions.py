"""What a webhook delivers: the subscription in its payload, checked when it is made and rendered per delivery."""

from __future__ import annotations

import json
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    OperationDefinitionNode,
    OperationType,
    execute_sync,
    parse,
    validate,
)

from .errors import invalid
from .schema import api, deliveries
from .tables import Row


def checked(node: dict[str, Any]) -> DocumentNode:
    """Returns the subscription of a new webhook; raises the API's refusal when it is none."""
    try:
        text = json.loads(node["serializedPayload"])["query"]
        document = parse(text)
    except (ValueError, KeyError, TypeError, GraphQLError):
        raise invalid("serializedPayload: must be a JSON object with a subscription under query.") from None
    problems = validate(api(), document)
    operations = [item for item in document.definitions if isinstance(item, OperationDefinitionNode)]
    if problems or len(operations) != 1 or operations[0].operation is not OperationType.SUBSCRIPTION:
        text = problems[0].message if problems else "One subscription is expected."
        raise invalid(f"serializedPayload: {text}")
    return parse(text_of_query(text_from(node)))


def text_from(node: dict[str, Any]) -> str:
    """Returns the subscription's text."""
    return str(json.loads(node["serializedPayload"])["query"])


def text_of_query(text: str) -> str:
    """Returns a subscription as the query that renders one delivery of it."""
    return text.replace("subscription", "query", 1)


def subject(document: DocumentNode) -> str:
    """Returns the list a subscription is about, for instance ``transactions``."""
    for item in document.definitions:
        if isinstance(item, OperationDefinitionNode):
            for field in item.selection_set.selections:
                if isinstance(field, FieldNode):
                    return field.name.value.removesuffix("Mutated")
    return ""


def rendered(document: DocumentNode, name: str, rows: list[tuple[str, Row]]) -> dict[str, Any]:
    """Returns the body of one delivery: pairs of sync version and row, as the subscription asks for them."""
    edges = [{"syncVersion": version, "node": row} for version, row in rows]
    result = execute_sync(deliveries(), document, root_value={f"{name}Mutated": {"edges": edges}})
    return {"data": result.data}
