from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr
from yarl import URL

from samband.contract import Token
from samband.errors import ContractError
from samband.http.request import OutgoingRequest, shown_path


def build(**changes: Any) -> OutgoingRequest:
    given: dict[str, Any] = {
        "method": "PUT",
        "url": "https://crm.example/x",
        "params": None,
        "headers": None,
        "json": None,
        "data": None,
        "timeout_s": 10.0,
        "idempotent": None,
        "locate": lambda url: URL(url, encoded=True),
        "may_authorise": False,
    }
    return OutgoingRequest.build(**(given | changes))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"headers": {"X-A": "1\r\nX-B: 2"}}, "headers"),
        ({"headers": {"X-A": "1\nX-B: 2"}}, "headers"),
        ({"headers": {"X-A\r\nX-B": "1"}}, "headers"),
        ({"headers": {"X-A": "1\x00"}}, "headers"),
        ({"headers": {"X A": "1"}}, "headers"),
        ({"headers": {"": "1"}}, "headers"),
        ({"headers": {"X-A": 1}}, "headers"),
        ({"headers": {"Host": "evil.example"}}, "headers"),
        ({"headers": {"content-length": "5"}}, "headers"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "headers"),
        ({"headers": {"Cookie": "a=b"}}, "headers"),
        ({"headers": {"aUTHORIZATION": "Bearer x"}}, "headers"),
        ({"json": {}, "data": b""}, "json"),
        ({"json": {"amount": float("nan")}}, "json"),
        ({"json": {"lines": [{"amount": float("inf")}, None]}}, "json"),
        ({"json": {"amount": Decimal("NaN")}}, "json"),
        ({"json": {"amount": 2**70}}, "json"),
        ({"json": {"name": "\ud800"}}, "json"),
        ({"json": object()}, "json"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"method": "get"}, "method"),
        ({"method": "GET /x HTTP/1.1\r\n"}, "method"),
        ({"url": "https://crm.example/blåbær"}, "url"),
    ],
)
def test_a_plugin_that_breaks_a_rule_is_told_which(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ContractError) as caught:
        build(**arguments)
    assert caught.value.field == named
    assert "Bearer x" not in str(caught.value)


def test_money_is_written_digit_for_digit() -> None:
    request = build(
        json={"a": Decimal("0.10"), "b": Decimal("1E+3"), "c": Decimal("12345678901234567890.12"), "d": None}
    )
    assert request.body == b'{"a":0.10,"b":1000,"c":12345678901234567890.12,"d":null}'
    assert request.headers == {"Content-Type": "application/json"}


def test_a_content_type_of_the_plugin_is_kept() -> None:
    assert build(json={}, headers={"content-type": "application/merge-patch+json"}).headers == {
        "content-type": "application/merge-patch+json"
    }


@pytest.mark.parametrize(
    ("method", "said", "is_idempotent"),
    [
        ("GET", None, True),
        ("HEAD", None, True),
        ("PUT", None, True),
        ("DELETE", None, True),
        ("OPTIONS", None, True),
        ("POST", None, False),
        ("PATCH", None, False),
        ("POST", True, True),
        ("PUT", False, False),
    ],
)
def test_a_method_is_safe_to_repeat_unless_it_is_said(method: str, said: bool | None, is_idempotent: bool) -> None:
    assert build(method=method, idempotent=said).idempotent is is_idempotent


def test_params_leave_the_address_before_them_as_it_is() -> None:
    request = build(url="https://crm.example/x?a=%2f#part", params={"$top": "5", "q": "a+b c&d=æ"})
    assert str(request.url) == "https://crm.example/x?a=%2f&$top=5&q=a%2Bb%20c%26d%3D%C3%A6"


def test_the_token_is_not_kept_with_the_request_nor_shown() -> None:
    request = build(data={"password": "hemmelig"})
    token = Token(value=SecretStr("tok-1"))
    assert request.headers_with(token)["Authorization"] == "Bearer tok-1"
    assert "Authorization" not in request.headers
    assert "hemmelig" not in repr(request)


def test_the_tokens_own_header_is_not_the_plugins_to_set() -> None:
    token = Token(value=SecretStr("tok-1"), header="X-Api-Key", scheme="")
    with pytest.raises(ContractError):
        build(headers={"x-api-key": "mine"}).headers_with(token)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/api/contacts?$filter=x", "/api/contacts"),
        ("/c(mail='kari@example.no',n='2')/x", "/c(mail='…',n='…')/x"),
        ("/c(mail=%27kari%27)/x", "/c(mail='…')/x"),
        ("/c('it''s)/never closed", "/c('…''…'"),
        ("/users/kari@example.no/x", "/users/…/x"),
        ("/users/kari%40example.no", "/users/…"),
        ("/" + "a" * 500, "/" + "a" * 199),
    ],
)
def test_a_logged_path_holds_no_query_no_quoted_key_and_no_address_of_a_person(path: str, shown: str) -> None:
    assert shown_path(URL(f"https://crm.example{path}", encoded=True)) == shown
