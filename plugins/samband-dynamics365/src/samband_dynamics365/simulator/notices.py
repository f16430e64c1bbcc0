"""Tells registered addresses of changed rows, as the service's webhooks do: one JSON execution context for each change.

A registration stands for a service endpoint with its steps ("Register a web hook"), delivered asynchronously: stage 40,
mode 1. Only the status is read; one further attempt is made, and only for 502, 503 and 504 ("Use webhooks").
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import aiohttp

from .schema import Column, TableSpec
from .state import SimulatorState
from .tables import Change, Row

TIME_LIMIT_S = 60.0
SIZE_LIMIT = 256 * 1024
RETRIED = (502, 503, 504)
AUTHENTICATIONS = ("key", "header", "query")
_LEFT_OUT_WHEN_LARGE = ("ParentContext", "InputParameters", "PreEntityImages", "PostEntityImages")
_SCHEMA = "http://schemas.microsoft.com/xrm/2011/Contracts"
_ORGANIZATION = "simulated"
# The number of a time with an offset is itself moved by the offset; two independent recordings show it.
_SKEW = timedelta(hours=7)
_LOG_LENGTH = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """An address that is told of changes; ``tables`` holds logical names, and ``messages`` Create, Update or Delete."""

    url: str
    authentication: str
    name: str
    value: str
    tables: frozenset[str]
    messages: frozenset[str]
    step_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def covers(self, change: Change) -> bool:
        """Tells whether a change is to be told here."""
        return change.spec.name in self.tables and change.message in self.messages

    @property
    def address(self) -> str:
        """Returns where deliveries go, with the secret where the query carries it."""
        if self.authentication == "header":
            return self.url
        joint = "&" if "?" in self.url else "?"
        return self.url + joint + urlencode({"code" if self.authentication == "key" else self.name: self.value})

    @property
    def headers(self) -> dict[str, str]:
        """Returns the headers that carry the secret."""
        return {self.name: self.value} if self.authentication == "header" else {}


class Notices:
    """Sends what happens in an environment to whoever registered; runs between `start` and `stop`."""

    def __init__(self, state: SimulatorState) -> None:
        self._state = state
        self._news = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._http: aiohttp.ClientSession | None = None
        self.registrations: list[Registration] = []
        self.log: deque[dict[str, Any]] = deque(maxlen=_LOG_LENGTH)

    async def start(self) -> None:
        """Begins to listen to the environment."""
        self._http = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=TIME_LIMIT_S)
        )
        self._state.listen(self._news.set)
        self._task = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        """Ends what is being sent; safe to call twice."""
        self._state.listen(None)
        tasks = [*self._sending, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def order(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carries out an order of the control door: ``{"clear": true}``, or a registration.

        Raises:
            ValueError: The order makes no sense; the text says why.
        """
        if order.get("clear"):
            self.registrations.clear()
            self.log.clear()
        if "url" in order:
            self.registrations.append(self._registration(order))
        return {
            "registrations": [
                {"url": r.url, "step": r.step_id, "tables": sorted(r.tables), "messages": sorted(r.messages)}
                for r in self.registrations
            ],
            "under_way": len(self._sending),
            "deliveries": list(self.log),
        }

    def _registration(self, order: dict[str, Any]) -> Registration:
        authentication = str(order.get("authentication", "key"))
        if authentication not in AUTHENTICATIONS:
            raise ValueError(f"authentication is one of {', '.join(AUTHENTICATIONS)}")
        tables = set()
        for name in order.get("tables", ["contacts"]):
            table = self._state.organization.table_of_set(str(name))
            if table is None:
                raise ValueError(f"there is no entity set {str(name)[:60]}")
            tables.add(table.spec.name)
        return Registration(
            url=str(order["url"]),
            authentication=authentication,
            name=str(order.get("name", "code")),
            value=str(order["value"]),
            tables=frozenset(tables),
            messages=frozenset(str(m) for m in order.get("messages", ["Create", "Update", "Delete"])),
        )

    async def _listen(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            changes = self._state.organization.take_changes()
            for change in changes:
                for registration in self.registrations:
                    if registration.covers(change):
                        task = asyncio.create_task(self._send(registration, change))
                        self._sending.add(task)
                        task.add_done_callback(self._sending.discard)

    async def _send(self, registration: Registration, change: Change) -> None:
        context = execution_context(self._state, registration, change)
        body = on_the_wire(context)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "x-ms-dynamics-organization": _ORGANIZATION,
            "x-ms-dynamics-entity-name": change.spec.name,
            "x-ms-dynamics-request-name": change.message,
            "x-ms-correlation-request-id": context["CorrelationId"],
            **registration.headers,
        }
        if len(body) > SIZE_LIMIT:
            body = on_the_wire({k: v for k, v in context.items() if k not in _LEFT_OUT_WHEN_LARGE})
            headers["x-ms-dynamics-msg-size-exceeded"] = "true"
        for attempt in (1, 2):
            status = await self._post(registration.address, body, headers)
            self.log.append({
                "table": change.spec.name, "id": change.row_id, "message": change.message, "status": status,
                "attempt": attempt, "operation": context["OperationId"],
            })  # fmt: skip
            if status not in RETRIED:
                return

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        assert self._http is not None
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self._http.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                return answer.status
        return 0


def execution_context(state: SimulatorState, registration: Registration, change: Change) -> dict[str, Any]:
    """Returns the ``RemoteExecutionContext`` of one change, under ids of its own."""
    user, now = state.seeded.application_user, state.clock.now()
    return {
        "BusinessUnitId": state.seeded.business_unit_id,
        "CorrelationId": str(uuid.uuid4()),
        "Depth": 1,
        "InitiatingUserAgent": "simulator",
        "InitiatingUserAzureActiveDirectoryObjectId": "00000000-0000-0000-0000-000000000000",
        "InitiatingUserId": user,
        "InputParameters": [{"key": "Target", "value": _target(change)}],
        "IsExecutingOffline": False,
        "IsInTransaction": False,
        "IsOfflinePlayback": False,
        "IsolationMode": 1,
        "MessageName": change.message,
        "Mode": 1,
        "OperationCreatedOn": _date(now + _SKEW, "-0700"),
        "OperationId": str(uuid.uuid4()),
        "OrganizationId": state.seeded.organization_id,
        "OrganizationName": _ORGANIZATION,
        "OutputParameters": [{"key": "id", "value": change.row_id}] if change.message == "Create" else [],
        "OwningExtension": _reference("sdkmessageprocessingstep", registration.step_id, typed=False),
        "ParentContext": None,
        "PostEntityImages": [],
        "PreEntityImages": [],
        "PrimaryEntityId": change.row_id,
        "PrimaryEntityName": change.spec.name,
        "RequestId": None,
        "SecondaryEntityName": "none",
        "SharedVariables": [],
        "Stage": 40,
        "UserAzureActiveDirectoryObjectId": "00000000-0000-0000-0000-000000000000",
        "UserId": user,
    }


def on_the_wire(context: Mapping[str, Any]) -> bytes:
    """Returns the body as the service writes it: every slash escaped."""
    return json.dumps(context).replace("/", "\\/").encode()


def _target(change: Change) -> dict[str, Any]:
    if change.message == "Delete":
        return _reference(change.spec.name, change.row_id, typed=True)
    return {
        "__type": f"Entity:{_SCHEMA}",
        "Attributes": [{"key": name, "value": value} for name, value in _attributes(change).items()],
        "EntityState": None,
        "FormattedValues": [],
        "Id": change.row_id,
        "KeyAttributes": [],
        "LogicalName": change.spec.name,
        "RelatedEntities": [],
        "RowVersion": None,
    }


def _attributes(change: Change) -> dict[str, Any]:
    """Returns the columns that an update changed, or that a new row has; never the whole row of an update."""
    before, after = change.before or {}, change.after or {}
    found: dict[str, Any] = {}
    for name, value in after.items():
        column = change.spec.columns.get(name)
        if column is not None and name != "versionnumber" and before.get(name) != value:
            key = name[1:-6] if column.is_lookup else name
            found[key] = _value(change.spec, column, value)
    found[change.spec.primary_id] = change.row_id
    return found


def _value(spec: TableSpec, column: Column, value: Any) -> Any:
    if value is None:
        return None
    if column.is_lookup:
        targets = spec.targets.get(column.name, ())
        return _reference(targets[0].target if targets else "systemuser", str(value), typed=True)
    if column.options is not None or column.is_money:
        kind = "OptionSetValue" if column.options is not None else "Money"
        return {"__type": f"{kind}:{_SCHEMA}", "Value": value}
    if column.edm == "Edm.DateTimeOffset":
        return _date(datetime.fromisoformat(str(value)), "")
    return value


def _reference(table: str, row_id: str, *, typed: bool) -> Row:
    reference: Row = {"__type": f"EntityReference:{_SCHEMA}"} if typed else {}
    return {**reference, "Id": row_id, "KeyAttributes": [], "LogicalName": table, "Name": None, "RowVersion": None}


def _date(moment: datetime, offset: str) -> str:
    return f"/Date({int(moment.astimezone(UTC).timestamp() * 1000)}{offset})/"
