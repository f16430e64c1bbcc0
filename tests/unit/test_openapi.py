"""The OpenAPI document says what the code does, and every example in it is a true one."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import TypeAdapter

import samband
from samband.api import create_app
from samband.api.endpoints import Endpoint
from samband.api.examples import RAW_EXAMPLES, VALUES
from samband.api.openapi import openapi_document, problem_codes
from samband.api.problems import ERROR_STATUS, PROBLEMS, Problem, explain
from samband.api.routes import ENDPOINTS
from samband.errors import (
    AuthError,
    ConfigurationError,
    NotReadyError,
    SambandError,
    ServiceError,
    StoreError,
    UnavailableError,
)
from samband.eventtypes import event_schema

DOCUMENT = openapi_document(ENDPOINTS, "1.2.3")


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Gives path, method and operation of everything documented."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def test_document_is_valid_openapi() -> None:
    errors = list(OpenAPIV31SpecValidator(cast(Any, json.loads(json.dumps(DOCUMENT)))).iter_errors())
    assert errors == []


def test_every_route_is_documented_and_everything_documented_is_routed() -> None:
    app = create_app(cast(Any, None))
    routed = {
        (route.resource.canonical, route.method)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert routed == {(path, method) for path, method, _ in operations()}


def test_every_address_that_can_be_read_can_be_asked_for_its_head() -> None:
    app = create_app(cast(Any, None))
    by_method: dict[str, set[str]] = {"GET": set(), "HEAD": set()}
    for route in app.router.routes():
        if route.resource is not None and route.method in by_method:
            by_method[route.method].add(route.resource.canonical)
    assert by_method["HEAD"] == by_method["GET"]


def test_operation_ids_are_unique_and_every_operation_says_what_it_does() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert sorted(set(names)) == sorted(names)
    assert [o["operationId"] for _, _, o in operations() if not o["summary"].endswith(".")] == []
    assert [o["operationId"] for _, _, o in operations() if not o["description"]] == []


# What needs no key: probes, descriptions, and the two doors whose visitors prove themselves in another way.
PUBLIC = {
    "/livez", "/readyz", "/openapi.json", "/schemas/events", "/schemas/events/{type}", "/oauth/callback",
    "/webhooks/{type}/{key}",
}  # fmt: skip
# Things of the host's own, and an operation whose caller knows an integration by its id alone.
OF_THE_HOST = ("/v1/plugins", "/v1/keys", "/v1/audit", "/v1/integrations/{id}/token")


def test_only_probes_descriptions_and_doors_with_a_proof_of_their_own_need_no_key() -> None:
    assert PUBLIC == {path for path, _, operation in operations() if operation.get("security") == []}


def test_every_address_below_an_organisation_names_it_first() -> None:
    placed = ("/v1/organizations/{org}", *OF_THE_HOST, *PUBLIC)
    assert [p for p, _, _ in operations() if "{" in p and not p.startswith(placed)] == []


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: e.name)
def test_changing_needs_more_than_the_verb_read(endpoint: Endpoint) -> None:
    if endpoint.path in PUBLIC or endpoint.name in ("preview_schedule", "preview_mapping"):  # which change nothing
        return
    allowed = ("read", "admin") if endpoint.method == "GET" else ("operate", "configure", "admin")
    assert endpoint.verb in allowed


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: e.name)
def test_every_code_an_endpoint_can_answer_is_in_the_table(endpoint: Endpoint) -> None:
    assert [code for code in problem_codes(endpoint) if code not in PROBLEMS] == []


def test_every_problem_example_is_a_problem_document() -> None:
    for _, _, operation in operations():
        for status, response in operation["responses"].items():
            for code, example in response["content"].get("application/problem+json", {}).get("examples", {}).items():
                problem = Problem.model_validate(example["value"])
                assert (problem.code, str(problem.status)) == (code, status)


def test_every_body_has_an_example_that_its_model_accepts() -> None:
    for endpoint in ENDPOINTS:
        model = endpoint.signature.body
        if model is not None:
            schema = DOCUMENT["components"]["schemas"][model.__name__]
            assert schema["examples"]
            for example in schema["examples"]:
                TypeAdapter(model).validate_python(example)


def test_components_have_plain_names() -> None:
    assert [name for name in DOCUMENT["components"]["schemas"] if not name.isalnum()] == []


def test_every_class_of_service_error_has_a_status() -> None:
    def below(cls: type) -> Iterator[type]:
        for sub in cls.__subclasses__():
            yield sub
            yield from below(sub)

    missing = [c for c in below(ServiceError) if not any(issubclass(c, known) for known, _ in ERROR_STATUS)]
    assert missing == []
    for number, (cls, _) in enumerate(ERROR_STATUS):
        assert not any(issubclass(cls, earlier) for earlier, _ in ERROR_STATUS[:number]), f"{cls} is never reached"


def _answers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Gives the operation's name and the content of everything that is not a refusal."""
    for _, _, operation in operations():
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                yield from ((operation["operationId"], content) for content in response["content"].values())


def test_every_answer_has_an_example_that_is_one_of_its_schema() -> None:
    wrong = {}
    for name, content in _answers():
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        checker = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        if "example" not in content:
            wrong[name] = ["there is none"]
        elif problems := [f"{e.json_path}: {e.message}" for e in checker.iter_errors(content["example"])]:
            wrong[name] = problems
    assert {} == wrong


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if e.signature.answer is not None], ids=lambda e: e.name)
def test_example_of_an_answer_is_one_that_the_handler_could_give(endpoint: Endpoint) -> None:
    drawn = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]["responses"][str(endpoint.status)]
    assert endpoint.signature.answer is not None
    endpoint.signature.answer.validate_json(json.dumps(drawn["content"][endpoint.media_type]["example"]))


def test_example_of_an_event_is_one_of_its_type() -> None:
    event = DOCUMENT["paths"]["/v1/organizations/{org}/events/{id}"]["get"]["responses"]["200"]["content"]
    example = event["application/json"]["example"]
    schema = event_schema(example["type"])
    assert schema is not None
    assert [] == list(Draft202012Validator(schema).iter_errors(example["data"]))


def test_examples_say_nothing_of_fields_that_there_are_none_of() -> None:
    fields = {
        name
        for model, drawn in DOCUMENT["components"]["schemas"].items()
        for field in drawn.get("properties", {})
        for name in (field, f"{model}.{field}", f"{field}[]", f"{model}.{field}[]")
    }
    assert set() == set(VALUES) - fields
    assert set() == set(RAW_EXAMPLES) - {endpoint.name for endpoint in ENDPOINTS}


NOT_OVER_HTTP = {
    "consent_unknown": "told a person's browser on a page",
    "consent_misdirected": "told a person's browser on a page",
    "consent_refused": "told a person's browser on a page",
    "consent_outdated": "told a person's browser on a page",
    "database_too_new": "ends a host that starts on such a database",
    "key_malformed": "ends a host that starts with such a key",
    "key_repeated": "ends a host that starts with such keys",
    "key_file_damaged": "ends a host that starts with such a file",
    "tls_unchecked": "ends a host that starts with such settings",
    "egress_entry_invalid": "ends a host that starts with such settings",
    "unknown_stream": "the end of a run whose plugin has another version by then; shown as the run's error",
}
"""Code of our own → why no answer carries it."""

REACHED = ("api", "service", "store", "http", "oauth", "receiving", "adapters", "access.py", "webhooks.py")
"""What a request can come to."""


def _raised_codes() -> dict[str, str]:
    """Gives every code that is written into the making of one of our own errors, and where."""

    def below(cls: type) -> Iterator[str]:
        yield cls.__name__
        for sub in cls.__subclasses__():
            yield from below(sub)

    ours = {name for root in (ServiceError, StoreError, ConfigurationError) for name in below(root)}
    found, root = {}, Path(samband.__file__).parent
    for place in REACHED:
        for file in sorted((root / place).rglob("*.py")) if (root / place).is_dir() else [root / place]:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in ours:
                    given = [k.value for k in node.keywords if k.arg == "code"]
                    for code in (v.value for v in given if isinstance(v, ast.Constant)):
                        found[str(code)] = f"{file.relative_to(root)}:{node.lineno}"
    return found


def test_every_code_that_is_raised_for_a_caller_is_in_the_table() -> None:
    raised = _raised_codes()
    assert {} == {code: at for code, at in raised.items() if code not in PROBLEMS and code not in NOT_OVER_HTTP}
    assert set() == NOT_OVER_HTTP.keys() - raised.keys(), "nobody raises these"
    assert set() == NOT_OVER_HTTP.keys() & PROBLEMS.keys()
    assert len(raised) > 50


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if e.verb is not None], ids=lambda e: e.name)
def test_everything_that_asks_for_a_key_can_say_that_the_database_is_away(endpoint: Endpoint) -> None:
    assert {"database_unavailable", "database_refused"} <= set(problem_codes(endpoint))


def test_token_that_is_renewed_by_hand_can_be_refused_or_delayed_by_the_other_side() -> None:
    (endpoint,) = (e for e in ENDPOINTS if e.name == "refresh_oauth_token")
    assert {"unavailable", "rate_limited", "remote_error", "auth_grant_refused"} <= set(problem_codes(endpoint))
    assert {"master_key_missing", "secret_unreadable", "secret_misplaced"} <= set(problem_codes(endpoint))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotReadyError("Away.", code="database_unavailable"), "database_unavailable"),
        (ConfigurationError("No.", code="database_refused"), "database_refused"),
        (StoreError("Gone.", code="master_key_missing"), "master_key_missing"),
        (UnavailableError("Away."), "unavailable"),
        (AuthError("No.", reason="grant_refused"), "auth_grant_refused"),
    ],
)
def test_answer_has_the_status_and_the_title_that_the_document_promises(error: SambandError, code: str) -> None:
    answer = explain(error, make_mocked_request("GET", "/"), "1")
    assert answer is not None
    assert isinstance(answer.body, bytes)
    told = json.loads(answer.body)
    assert (code, *PROBLEMS[code]) == (told["code"], told["status"], told["title"])
