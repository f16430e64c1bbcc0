"""What a Dataverse webhook says: which row of which table was touched. Pure; nothing else of the body is used.

A webhook carries no signature, only the static key of its registration. What it holds of the row is a part of it, written
before or after other steps, and may be left out when it is large: so it only says what to read, and the row itself is read.

Source: Microsoft Learn, "Use webhooks to create external handlers for server events" and "Register a web hook" (2026).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from samband import RejectedError, Trigger, WebhookRequest, webhooks
from samband_dynamics365.settings import DynamicsSettings

KEY_PARAMETER: Final = "code"
"""Where a registration with the authentication *WebhookKey* puts its key."""

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NO_ID: Final = "00000000-0000-0000-0000-000000000000"
_ENTITY_HEADER: Final = "x-ms-dynamics-entity-name"


def triggers_of(request: WebhookRequest, settings: DynamicsSettings) -> list[Trigger]:
    """Proves a delivery and gives what it says should be read: one row, or nothing when its table is not read.

    Raises:
        SignatureError: The key is not the registration's.
        RejectedError: The body is no execution context.
    """
    webhooks.verify_query(request, parameter=KEY_PARAMETER)
    context = webhooks.json_object(request)
    table = _text(context, "PrimaryEntityName") or request.headers.get(_ENTITY_HEADER, "")
    if not table:
        raise RejectedError("The delivery does not name a table.", code="not_an_execution_context")
    stream = next((name for name, known in settings.tables.items() if known.logical_name == table.lower()), None)
    if stream is None:
        return []
    row = _text(context, "PrimaryEntityId").lower()
    keys = [row] if _ID.fullmatch(row) and row != _NO_ID else []
    return [Trigger(stream=stream, keys=keys, delivery_id=_delivery_id(context, table, row))]


def _delivery_id(context: Mapping[str, Any], table: str, row: str) -> str | None:
    """Gives what is the same when the service sends a delivery again, and differs between any two.

    ``OperationId`` is the system job's. A step that runs within the user's request has none, and what its deliveries share
    (``CorrelationId``) may be the same for two changes of one row: they go without an id rather than be taken for one.
    """
    operation = _id(context, "OperationId")
    if operation is None:
        return None
    extension = context.get("OwningExtension")
    step = _id(extension, "Id") if isinstance(extension, Mapping) else None
    return "/".join((operation, step or "", table, row, _text(context, "MessageName")))


def _id(told: Mapping[str, Any], name: str) -> str | None:
    value = _text(told, name).lower()
    return value if _ID.fullmatch(value) and value != _NO_ID else None


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    return value if isinstance(value, str) else ""
