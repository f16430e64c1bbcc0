"""The OpenAPI 3.1 document, generated from the endpoints; what they declare is what they do."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from samband.api.endpoints import Endpoint
from samband.api.examples import RAW_EXAMPLES, example_of
from samband.api.problems import MEDIA_TYPE, PROBLEMS, SEALED, Kind, Problem
from samband.api.repeats import REPLAYED
from samband.api.signatures import Parameter

__all__ = ["openapi_document", "problem_codes"]

_REF = "#/components/schemas/{model}"
_LISTING = re.compile(r"Listing\[(\w+?)(?:View)?\]")
_PROBLEM: TypeAdapter[Any] = TypeAdapter(Problem)
Key = tuple[str, Literal["validation", "serialization"]]
_DESCRIPTION = """\
samband carries data between an organisation's platform and the systems it already uses.

Every answer carries `X-Request-Id`. Every refusal is a problem document (RFC 9457) with a stable `code`.
Listings are read part by part: pass `next` as `after` until it is null. A few that cannot be long always come whole.

What the other system or its plugin reports keeps the code that the plugin gave it, under the status of its kind: 409 for a
refusal, 429 and 503 for what may pass, 502 for the rest. Codes like that are not all listed here."""


def openapi_document(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """Gives the document for the endpoints, in their order."""
    known = list(endpoints)
    schemas, definitions = _schemas(known)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in known:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas, definitions)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "samband",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(e.tag for e in known)],
        "paths": paths,
        "components": {"schemas": definitions, "securitySchemes": {"key": _SECURITY_SCHEME}},
        "security": [{"key": []}],
    }


def problem_codes(endpoint: Endpoint) -> tuple[str, ...]:
    """Gives every code the endpoint can answer: those it declares, and those its shape implies."""
    codes = ["internal_error", "expectation_failed", *endpoint.problems]
    if endpoint.takes_raw:
        # What goes wrong at an address of pages is told on a page.
        return tuple(codes) if endpoint.media_type == "text/html" else (*codes, "database_unavailable")
    if any(p.where != "path" or p.wire != "org" for p in endpoint.signature.parameters) or endpoint.reads_body:
        codes.append("invalid_request")
    if endpoint.verb is not None:
        codes += ["key_missing", "key_refused", "access_refused", "invalid_request", "not_ready"]
        codes += ["database_unavailable", "database_refused"]
    if "{org}" in endpoint.path:
        codes.append("organization_not_found")
    if endpoint.reads_body:
        codes += _BODY_CODES
    if endpoint.keeps_answers:
        codes += ["idempotency_key_reused", "idempotency_in_progress", "idempotency_outcome_unknown"]
        codes += SEALED  # answers are kept so
    return tuple(dict.fromkeys(codes))


_BODY_CODES = (
    "not_json",
    "body_broken",
    "body_too_slow",
    "body_too_large",
    "content_type_unsupported",
    "content_encoding_unsupported",
)
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Chosen by the caller. For 24 hours a repeat with the same key gets the same answer, and nothing is "
    "done twice; a request that was refused may be mended and sent again under the same key.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key made by samband. It reaches certain organisations or all, and allows certain verbs.",
}


def _schemas(endpoints: list[Endpoint]) -> tuple[dict[Key, Any], dict[str, Any]]:
    # All at once, so that two models of one name could never take each other's place.
    wanted: list[tuple[str, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
        ("problem", "serialization", _PROBLEM)
    ]
    for endpoint in endpoints:
        name = endpoint.name
        if endpoint.signature.body is not None:
            wanted.append((name, "validation", TypeAdapter(endpoint.signature.body)))
        if endpoint.signature.answer is not None:
            wanted.append((name, "serialization", endpoint.signature.answer))
    schemas, extra = TypeAdapter.json_schemas(wanted, ref_template=_REF, schema_generator=_NamedSchemas)
    return schemas, extra["$defs"]


class _NamedSchemas(GenerateJsonSchema):
    def normalize_name(self, name: str) -> str:
        return super().normalize_name(_LISTING.sub(r"\1Listing", name))


def _operation(endpoint: Endpoint, schemas: dict[Key, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    name = endpoint.name
    summary, _, description = (inspect.getdoc(endpoint.handler) or "").partition("\n\n")
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "tags": [endpoint.tag]}
    verb = "Public: needs no key." if endpoint.verb is None else f"Needs a key with the verb `{endpoint.verb}`."
    operation["description"] = f"{description}\n\n{verb}".strip()
    if endpoint.verb is None:
        operation["security"] = []
    parameters = [_parameter(p) for p in endpoint.signature.parameters]
    if endpoint.keeps_answers:
        parameters.append(_IDEMPOTENCY_KEY)
    if parameters:
        operation["parameters"] = parameters
    if endpoint.signature.body is not None:
        content = {"application/json": {"schema": schemas[name, "validation"]}}
        operation["requestBody"] = {"required": endpoint.signature.body_is_required, "content": content}
    if endpoint.takes_bytes:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"required": True, "content": content}
    if endpoint.takes_raw and endpoint.reads_body:
        operation["requestBody"] = {"required": False, "content": {"*/*": {"schema": {}}}}
    success = _success(endpoint, schemas, definitions)
    others = {str(status): success | {"description": text} for status, text in endpoint.also.items()}
    operation["responses"] = {str(endpoint.status): success} | others | dict(_refusals(endpoint, schemas))
    if endpoint.media_type == "text/html":
        page = {"description": "A page that says what to do.", "content": {"text/html": {"schema": {"type": "string"}}}}
        operation["responses"] |= {str(status): page for status in (404, 409, 502, 503)}
    elif endpoint.takes_raw:
        whatever = {"*/*": {"schema": {}, "example": "what the sender's handshake asks for"}}
        operation["responses"]["2XX"] = {"description": "What the plugin answers.", "content": whatever}
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = parameter.adapter.json_schema()
    drawn = {"name": parameter.wire, "in": parameter.where, "required": parameter.is_required}
    if (text := schema.pop("description", None)) is not None:
        drawn["description"] = text
    if not parameter.is_required and parameter.default is not None:
        schema["default"] = parameter.default
    return drawn | {"schema": schema}


def _success(endpoint: Endpoint, schemas: dict[Key, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if endpoint.signature.answer is None:
        schema, example = _RAW[endpoint.media_type], RAW_EXAMPLES[endpoint.name]
    else:
        schema = schemas[endpoint.name, "serialization"]
        example = example_of(schema, definitions)
    response: dict[str, Any] = {
        "description": "Started." if endpoint.status == 202 else "Done.",
        "headers": _headers(
            {**endpoint.headers, "X-Request-Id": "The request id."}
            | (
                {REPLAYED: "true when this is the answer the same request got before."}
                if endpoint.keeps_answers
                else {}
            )
        ),
        "content": {endpoint.media_type: {"schema": schema, "example": example}},
    }
    return response


_RAW: dict[str, dict[str, Any]] = {
    "text/plain": {"type": "string"},
    "text/csv": {"type": "string"},
    "text/html": {"type": "string"},
    "application/octet-stream": {"type": "string", "format": "binary"},
    "application/json": {"type": "object"},
}


def _refusals(endpoint: Endpoint, schemas: dict[Key, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    by_status: dict[int, dict[str, Kind]] = {}
    for code in problem_codes(endpoint):
        kind = PROBLEMS[code]
        by_status.setdefault(kind.status, {})[code] = kind
    for status, kinds in sorted(by_status.items()):
        media = {
            "schema": schemas["problem", "serialization"],
            "examples": {c: _example(c, k) for c, k in kinds.items()},
        }
        description = " · ".join(f"`{code}` {kind.title}" for code, kind in kinds.items())
        yield (
            str(status),
            {
                "description": description,
                "headers": _headers({"X-Request-Id": "The request id."} | _HEADERS_BY_STATUS.get(status, {})),
                "content": {MEDIA_TYPE: media},
            },
        )


_HEADERS_BY_STATUS = {
    401: {"WWW-Authenticate": "How to present a key."},
    403: {"WWW-Authenticate": "What the key lacks."},
    409: {"Location": "With already_running: the run that is alive."},
    429: {"Retry-After": "Seconds to wait."},
    503: {"Retry-After": "Seconds to wait."},
}


def _example(code: str, kind: Kind) -> dict[str, Any]:
    detail = f"{kind.title}."
    document = {"type": f"/problems/{code}", "title": kind.title, "status": kind.status, "code": code}
    return {"value": document | {"detail": detail, "instance": "5f0c7a1e"}}


def _headers(texts: dict[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in texts.items()}
