"""The OpenAPI document says what the code does, and every example in it is a true one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import TypeAdapter

from samband.api import create_app
from samband.api.endpoints import Endpoint
from samband.api.openapi import openapi_document, problem_codes
from samband.api.problems import ERROR_STATUS, PROBLEMS, Problem
from samband.api.routes import ENDPOINTS
from samband.errors import ServiceError

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
    if endpoint.path in PUBLIC or endpoint.name == "preview_schedule":  # which changes nothing
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
