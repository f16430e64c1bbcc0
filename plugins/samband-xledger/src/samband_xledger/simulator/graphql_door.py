"""The GraphQL door: token, limits, validation, execution, and the answer's envelope."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from graphql import (
    DocumentNode,
    ExecutionResult,
    FieldNode,
    GraphQLError,
    OperationDefinitionNode,
    execute_sync,
    parse,
    validate,
)

from . import errors, reads, writes
from .access import ApiToken
from .calls import Call
from .faults import FaultRule
from .limits import written_reset
from .schema import api, field_types
from .state import SimulatorState
from .wire import Reply
from .world import World

_KEPT_DOCUMENTS = 500
_VARIABLES_CODE = errors.INVALID_VALUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request's query, read once."""

    document: DocumentNode | None
    problems: list[GraphQLError]
    operations: tuple[str, ...]
    variables: dict[str, Any]
    operation_name: str | None


class GraphQLDoor:
    """Answers queries for every environment."""

    def __init__(self, state: SimulatorState) -> None:
        self._state = state
        self._documents: OrderedDict[str, tuple[DocumentNode | None, list[GraphQLError], tuple[str, ...]]] = (
            OrderedDict()
        )
        schema = api()
        for name, found in (("Query", reads.resolvers()), ("Mutation", writes.resolvers())):
            fields = field_types(schema, name).fields
            for field, resolver in found.items():
                fields[field].resolve = resolver
        self._schema = schema

    async def read(self, request: web.Request) -> Asked:
        """Reads a request; one that is no GraphQL request at all comes back with a problem."""
        try:
            body = await _body(request)
            text = body["query"]
            variables = body.get("variables") or {}
            if not isinstance(text, str) or not isinstance(variables, dict):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            problem = GraphQLError("The request body must be JSON with a query.")
            return Asked(document=None, problems=[problem], operations=(), variables={}, operation_name=None)
        document, problems, operations = self._document(text)
        name = body.get("operationName")
        return Asked(
            document=document, problems=problems, operations=operations, variables=variables, operation_name=name
        )

    def _document(self, text: str) -> tuple[DocumentNode | None, list[GraphQLError], tuple[str, ...]]:
        known = self._documents.get(text)
        if known is None:
            try:
                document = parse(text, no_location=len(text) > 20_000)
                known = document, validate(self._schema, document), _operations(document)
            except GraphQLError as problem:
                known = None, [problem], ()
            self._documents[text] = known
            if len(self._documents) > _KEPT_DOCUMENTS:
                self._documents.popitem(last=False)
        return known

    async def answer(
        self, request: web.Request, world: World, asked: Asked, rule: FaultRule | None
    ) -> tuple[Reply, int]:
        """Returns the answer and how many nodes it read or wrote."""
        state = self._state
        token = _token(world, request.headers.get("Authorization"))
        if isinstance(token, str) or (rule is not None and rule.kind == "unauthorized"):
            message = token if isinstance(token, str) else errors.UNKNOWN_TOKEN
            return _reply({"data": None, "errors": [{"message": message}]}, state.switches.auth_status), 0
        usage = token.month(world.clock.local()[:7])
        usage.requests += 1
        usage.bytes_up += request.content_length or 0
        reply, nodes = await self._metered(world, token, asked, rule)
        usage.bytes_down += len(reply.body)
        return reply, nodes

    async def _metered(self, world: World, token: ApiToken, asked: Asked, rule: FaultRule | None) -> tuple[Reply, int]:
        state = self._state
        if rule is not None and rule.kind == "limit":
            return self._limited(rule.parameters), 0
        meter = state.meter(token.text)
        refused = meter.enter(state.limits)
        if refused is not None:
            code, seconds = refused
            return self._refused(code, seconds, state.limits.status), 0
        call = Call(world=world, token=token, switches=state.switches)
        try:
            if state.switches.latency_s > 0:
                await asyncio.sleep(state.switches.latency_s)
            return self._carried_out(call, asked, rule), call.nodes
        finally:
            meter.leave(state.limits, call.nodes)

    def _limited(self, parameters: dict[str, Any]) -> Reply:
        code = errors.LIMIT_CODES.get(str(parameters.get("limit", "burst")), errors.BURST)
        return self._refused(code, float(parameters.get("reset_s", 1.0)), int(parameters.get("status", 200)))

    def _refused(self, code: str, seconds: float, status: int) -> Reply:
        reset_at = written_reset(seconds, self._state.switches.reset_at)
        return _reply({"data": None, "errors": [errors.limited(code, reset_at)]}, status)

    def _carried_out(self, call: Call, asked: Asked, rule: FaultRule | None) -> Reply:
        kind = None if rule is None else rule.kind
        commit = rule is not None and rule.commit
        result = None
        if kind not in {"timeout", "data_null"} or commit:
            result = self._executed(call, asked)
        if kind == "timeout":
            return _reply({"data": None, "errors": [{"message": errors.TIMED_OUT}]}, 200)
        if kind == "data_null" or result is None:
            return _reply({"data": None}, 200)
        if kind == "edges_null":
            for connection in (result.get("data") or {}).values():
                connection["edges"] = None
        return _reply(result, self._status(result))

    def _executed(self, call: Call, asked: Asked) -> dict[str, Any]:
        if asked.document is None or asked.problems:
            return {"data": None, "errors": [_with_code(problem) for problem in asked.problems]}
        done = execute_sync(
            self._schema,
            asked.document,
            context_value=call,
            variable_values=asked.variables,
            operation_name=asked.operation_name,
        )
        return self._envelope(done)

    def _envelope(self, done: ExecutionResult) -> dict[str, Any]:
        if not done.errors:
            return {"data": done.data}
        for problem in done.errors:
            original = problem.original_error
            if original is not None and not isinstance(original, GraphQLError):
                self._state.internal_errors.append(repr(original))
        shown = [_with_code(problem) for problem in done.errors]
        return {"data": done.data, "errors": shown}

    def _status(self, result: dict[str, Any]) -> int:
        if not any("extensions" in problem for problem in result.get("errors", ())):
            return 200
        wanted = self._state.switches.validation_status
        if wanted == 0:
            self._state.turn += 1
            return 400 if self._state.turn % 2 else 200
        return wanted


async def _body(request: web.Request) -> dict[str, Any]:
    """Returns the JSON of a request; of an upload, its part called ``content``."""
    if request.content_type == "multipart/form-data":
        form = await request.post()
        content = form["content"]
        found = orjson.loads(content if isinstance(content, str) else content.file.read())  # type: ignore[union-attr]
    else:
        found = orjson.loads(await request.read())
    if not isinstance(found, dict):
        raise TypeError
    return found


def _operations(document: DocumentNode) -> tuple[str, ...]:
    return tuple(
        field.name.value
        for item in document.definitions
        if isinstance(item, OperationDefinitionNode)
        for field in item.selection_set.selections
        if isinstance(field, FieldNode)
    )


def _token(world: World, header: str | None) -> ApiToken | str:
    """Returns the token of a request, or the message that refuses it."""
    if not header:
        return errors.MISSING_TOKEN
    scheme, _, text = header.partition(" ")
    if scheme != "token" or not text.strip():
        return errors.WRONG_SCHEME
    return world.tokens.get(text.strip(), errors.UNKNOWN_TOKEN)


def _with_code(problem: GraphQLError) -> dict[str, Any]:
    found = errors.shown(problem)
    if "extensions" not in found:
        unknown = problem.message.startswith("Cannot query field")
        variable = problem.message.startswith("Variable ")
        code = "FIELDS_ON_CORRECT_TYPE" if unknown else _VARIABLES_CODE if variable else "ARGUMENTS_OF_CORRECT_TYPE"
        found["extensions"] = {"code": code}
    return found


def _reply(payload: dict[str, Any], status: int) -> Reply:
    return Reply(status=status, body=orjson.dumps(payload))
