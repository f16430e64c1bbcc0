"""What is refused before the service sees it, and how the refusal reads."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest

ORGS = "/v1/organizations"
ONE = "/v1/organizations/hlf/integrations/dynamics365"
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("data", "code", "status"),
    [
        (b'{"id": ', "not_json", 400),
        (b'{"id": NaN}', "not_json", 400),
        (b'{"id": "\xff"}', "not_json", 400),
        (b'{"id": "\\ud800"}', "not_json", 400),
        (b"[" * 1500, "not_json", 400),
        (b"[]", "invalid_request", 422),
        (b"null", "invalid_request", 422),
        (b"", "invalid_request", 422),
        (b'{"id": "x", "name": "' + b"a" * 3000 + b'"}', "body_too_large", 413),
    ],
)
async def test_a_body_that_cannot_be_used_gets_its_own_code(ask: Any, data: bytes, code: str, status: int) -> None:
    answer = await ask("POST", ORGS, data=data, headers=JSON)
    assert ((await answer.json())["code"], answer.status) == (code, status)


async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(ask: Any) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 1000

    answer = await ask("POST", ORGS, data=endless(), headers=JSON)
    assert (answer.status, (await answer.json())["code"]) == (413, "body_too_large")


async def test_a_body_that_arrives_too_slowly_is_given_up(ask: Any) -> None:
    async def slow() -> Any:
        yield b'{"id": '
        await asyncio.sleep(1.0)
        yield b'"x"}'

    answer = await ask("POST", ORGS, data=slow(), headers=JSON)
    assert (answer.status, (await answer.json())["code"]) == (408, "body_too_slow")
    assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=iso-8859-1", ""]
)
async def test_a_body_that_is_not_declared_as_json_is_refused(ask: Any, content_type: str) -> None:
    answer = await ask("POST", ORGS, data=b'{"id": "x", "name": "X"}', headers={"Content-Type": content_type})
    assert (answer.status, (await answer.json())["code"]) == (415, "content_type_unsupported")


async def test_a_compressed_body_is_refused_without_being_unpacked(ask: Any) -> None:
    bomb = gzip.compress(b'{"id": "x", "name": "' + b" " * 1_000_000 + b'"}')
    answer = await ask("POST", ORGS, data=bomb, headers=JSON | {"Content-Encoding": "gzip"})
    assert (answer.status, (await answer.json())["code"]) == (415, "content_encoding_unsupported")


async def test_unknown_fields_are_refused_with_the_known_ones(ask: Any) -> None:
    answer = await ask("POST", ORGS, json={"id": "x", "name": "X", "colour": "secret-value"})
    body = await answer.json()
    assert answer.status == 422
    assert body["errors"] == [
        {"field": "colour", "code": "unknown_key", "message": "There is no such field. Known here: id, name."}
    ]


async def test_every_field_at_fault_is_named_at_once_and_no_value_is_repeated(ask: Any) -> None:
    answer = await ask("POST", ORGS, json={"id": "NOT-AN-ID-1234", "name": 4711})
    assert [e["field"] for e in (await answer.json())["errors"]] == ["id", "name"]
    text = await answer.text()
    assert "NOT-AN-ID-1234" not in text
    assert "4711" not in text


async def test_a_name_that_looks_like_a_value_gone_astray_is_not_repeated(ask: Any) -> None:
    answer = await ask("POST", ORGS, json={"id": "x", "name": "X", "p@ss word!": 1, "s" * 50: 1})
    assert [e["field"] for e in (await answer.json())["errors"]] == ["(unnamed)", "(unnamed)"]


async def test_types_are_not_bent_to_fit(ask: Any) -> None:
    answer = await ask("POST", f"{ONE}/runs", json={"full": "true"})
    assert [e["field"] for e in (await answer.json())["errors"]] == ["full"]


async def test_an_endpoint_without_a_body_takes_an_empty_object_and_nothing_else(ask: Any) -> None:
    accepted = await ask("POST", f"{ONE}/enable", json={})
    refused = await ask("POST", f"{ONE}/enable", json={"dry_run": True})
    assert accepted.status == 200
    assert (await refused.json())["errors"] == [
        {"field": "dry_run", "code": "unknown_key", "message": "There is no such field. Known here: none."}
    ]


async def test_unknown_query_parameters_are_refused_with_the_known_ones(ask: Any) -> None:
    answer = await ask("GET", "/v1/organizations/hlf/runs?stat=failed")
    message = "There is no such parameter. Known here: type, state, after, limit."
    assert (await answer.json())["errors"] == [{"field": "stat", "code": "unknown_parameter", "message": message}]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=many", "limit"),
        ("limit=1&limit=2", "limit"),
        ("state=sleeping", "state"),
        ("after=%00", "after"),
        ("after=", "after"),
        ("type=../x", "type"),
    ],
)
async def test_a_query_parameter_out_of_bounds_is_named(ask: Any, query: str, field: str) -> None:
    answer = await ask("GET", f"/v1/organizations/hlf/runs?{query}")
    assert answer.status == 422
    assert [e["field"] for e in (await answer.json())["errors"]] == [field]


@pytest.mark.parametrize("number", ["0", "-1", "abc", "9223372036854775808", "1.5", "٣", "%00"])
async def test_a_record_id_that_is_no_row_number_is_refused(ask: Any, number: str) -> None:
    answer = await ask("GET", f"/v1/organizations/hlf/records/member/{number}")
    assert (answer.status, [e["field"] for e in (await answer.json())["errors"]]) == (422, ["id"])


@pytest.mark.parametrize(
    "org",
    ["%2e%2e%2fetc", "a%2Fb", "%00", "hlf%00", "%F0%9F%A6%BB", "%FF%FE", "o" * 300, "HLF", "hlf%0A", "-", "hlf%20"],
)
async def test_an_odd_organisation_id_is_simply_not_there(ask: Any, service: Any, org: str) -> None:
    from yarl import URL

    answer = await ask("GET", URL(f"/v1/organizations/{org}/runs", encoded=True))
    assert (answer.status, (await answer.json())["code"]) == (404, "organization_not_found")
    assert [name for name, _ in service.calls] == ["authenticate_key"]


async def test_an_unknown_address_is_a_problem_document_too(ask: Any) -> None:
    for path in ("/v2", "/v1/organizations/", "/", "/v1/organizations/hlf/integrations/dynamics365/explode"):
        answer = await ask("GET", path)
        assert (answer.status, (await answer.json())["code"]) == (404, "route_unknown")


async def test_a_method_an_address_does_not_take_names_those_it_takes(ask: Any) -> None:
    answer = await ask("DELETE", ORGS)
    assert (answer.status, (await answer.json())["code"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS, POST"


async def test_options_answers_with_the_methods_and_nothing_else(ask: Any) -> None:
    answer = await ask("OPTIONS", ORGS, key=None)
    assert (answer.status, await answer.read()) == (204, b"")
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    assert (await ask("OPTIONS", "/nowhere", key=None)).status == 404


async def test_head_gives_the_headers_of_get_without_the_body(ask: Any) -> None:
    got, headed = await ask("GET", ONE), await ask("HEAD", ONE)
    assert (headed.status, await headed.read()) == (200, b"")
    for name in ("ETag", "Content-Length", "Content-Type"):
        assert headed.headers[name] == got.headers[name]


async def test_the_request_id_of_the_client_is_kept_when_it_is_a_plain_one(ask: Any) -> None:
    kept = await ask("GET", "/livez", headers={"X-Request-Id": "job-17.a_b"})
    made = await ask("GET", "/livez", headers={"X-Request-Id": "x" * 65})
    odd = await ask("GET", "/livez", headers={"X-Request-Id": "<script>"})
    assert kept.headers["X-Request-Id"] == "job-17.a_b"
    assert len(made.headers["X-Request-Id"]) == len(odd.headers["X-Request-Id"]) == 32


@pytest.mark.parametrize("path", ["/livez", "/v1/plugins", "/nowhere", "/v1/organizations/nope"])
async def test_every_answer_carries_the_same_safe_headers_and_no_banner(ask: Any, path: str) -> None:
    answer = await ask("GET", path)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "X-Request-Id" in answer.headers
    assert "Server" not in answer.headers


async def test_a_problem_document_carries_the_request_id_as_its_instance(ask: Any) -> None:
    answer = await ask("GET", "/v1/organizations/nope", headers={"X-Request-Id": "abc"})
    assert await answer.json() == {
        "type": "/problems/organization_not_found",
        "title": "There is no such organisation",
        "status": 404,
        "code": "organization_not_found",
        "detail": "There is no such organisation, or none that this key reaches.",
        "hint": "See /v1/organizations for those the key reaches.",
        "instance": "abc",
    }


async def test_a_get_with_a_body_is_answered_as_one_without(ask: Any) -> None:
    answer = await ask("GET", ONE, data=json.dumps({"x": 1}), headers=JSON)
    assert answer.status == 200
