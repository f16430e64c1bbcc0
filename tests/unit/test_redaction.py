from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from decimal import Decimal
from html import escape
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from samband.redaction import MASK, MAX_TEXT, Redactor

SECRET = 's3cr~t+/%&"<æ\\ø'


def forms(secret: str) -> list[str]:
    raw = secret.encode()
    return [
        secret,
        quote(secret, safe=""),
        quote(secret, safe="").lower() if secret.islower() else quote(secret, safe=""),
        quote_plus(secret),
        urlencode({"x": secret})[2:],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        escape(secret),
        repr(secret)[1:-1],
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
    ]


@pytest.mark.parametrize("form", forms(SECRET))
def test_a_known_secret_is_masked_in_every_form_it_may_travel_in(form: str) -> None:
    redactor = Redactor()
    redactor.add(SecretStr(SECRET))
    scrubbed = redactor.scrub(f"before {form} after")
    assert form not in scrubbed
    assert scrubbed.startswith(f"before {MASK}")
    assert scrubbed.endswith("after")


@settings(max_examples=100)
@given(st.text(min_size=8, max_size=40), st.text(max_size=8), st.text(max_size=8))
def test_a_known_secret_is_masked_wherever_it_stands(secret: str, before: str, after: str) -> None:
    redactor = Redactor()
    redactor.add(secret)
    assert secret not in redactor.scrub(f"{before}{secret}{after}").replace(MASK, "")


@settings(max_examples=100)
@given(st.binary(max_size=7), st.binary(max_size=7))
def test_a_secret_inside_a_longer_base64_text_is_masked(before: bytes, after: bytes) -> None:
    secret = "the-client-secret-of-crm"
    redactor = Redactor()
    redactor.add(secret)
    encoded = base64.b64encode(before + secret.encode() + after).decode()
    scrubbed = redactor.scrub(f"seen: {encoded}")
    assert MASK in scrubbed
    left = scrubbed.replace("seen: ", "").replace(MASK, "")
    assert len(left) <= len(encoded) - 4 * len(secret) // 3 + 6


@pytest.mark.parametrize("secret", ["", "a", "abc"])
def test_values_too_short_to_be_secret_are_left_alone(secret: str) -> None:
    redactor = Redactor()
    redactor.add(secret)
    assert redactor.scrub("abc of a text") == "abc of a text"


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("Authorization: Bearer abc.def-123", "Authorization: ***"),
        ("{'Authorization': 'Basic aWQ6cw=='}", "{'Authorization': '***'}"),
        ("('Proxy-Authorization', 'x')", "('Proxy-Authorization', '***')"),
        ("sent with Bearer abcDEF123 to", "sent with Bearer *** to"),
        ("Set-Cookie: a=b; Path=/", "Set-Cookie: ***"),
        ('{"access_token":"a\\"b","expires_in":3599}', '{"access_token":"***","expires_in":3599}'),
        ('{"refresh_token" : "x y"}', '{"refresh_token" : "***"}'),
        ('{"access_token":"cut of', '{"access_token":"***"'),
        ('"{\\"client_secret\\":\\"a b\\",\\"n\\":1}"', '"{\\"client_secret\\":\\"***\\",\\"n\\":1}"'),
        ("{'password': 'hun ter2', 'user': 'kari'}", "{'password': '***', 'user': 'kari'}"),
        ("grant_type=x&client_secret=a%20b&scope=y", "grant_type=x&client_secret=***&scope=y"),
        ("client_assertion=abc&x=1", "client_assertion=***&x=1"),
        ("https://host/cb?code=abc&state=1", "https://host/cb?code=***&state=1"),
        ("code=abc&state=1", "code=***&state=1"),
        ("api_key=abc, x-api-key: def", "api_key=***, x-api-key: ***"),
        ("password='a b'", "password='***'"),
        ("<w:Password>a b</w:Password>", "<w:Password>***</w:Password>"),
        ("redis://user:pw@host/0", "redis://***@host/0"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln end", "jwt *** end"),
        ("-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----", "***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII cut off", "***"),
    ],
)
def test_what_looks_like_a_secret_is_masked_unknown_as_it_is(text: str, scrubbed: str) -> None:
    redactor = Redactor()
    assert redactor.scrub(text) == scrubbed
    assert redactor.scrub(scrubbed) == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "AADSTS7000215: Invalid client secret provided. Trace ID: 0aa1-2 Correlation ID: b-3 Timestamp: 2026-03-01 12:00:00Z",
        '{"error":{"code":"0x80040217","message":"contact With Id = 1 Does Not Exist"}}',
        "status code=500 after 3 tries",
        '{"token_type":"Bearer","expires_in":3599}',
        "https://login.example.no/oauth2/token",
        "basic information for the bearer of this note",
        "reason: secret_expired",
        "medlemmer 1000 av 2000",
    ],
)
def test_what_support_needs_stays(text: str) -> None:
    assert Redactor().scrub(text) == text


def test_a_text_is_cut_after_it_was_scrubbed() -> None:
    redactor = Redactor()
    redactor.add("the-whole-secret")
    text = "x" * (MAX_TEXT - 5) + "the-whole-secret" + "y" * 100
    assert redactor.scrub(text) == "x" * (MAX_TEXT - 5) + MASK + "yy"
    assert len(redactor.scrub("z" * 10_000_000)) == MAX_TEXT


def test_a_text_that_is_nearly_all_secret_shows_no_half_of_one_at_its_cut() -> None:
    redactor = Redactor()
    secret = "abcdefghij" * 10
    redactor.add(secret)
    assert "abcd" not in redactor.scrub((secret + " ") * 2_000)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("client_secret", "x", MASK),
        ("CLIENT-SECRET", 5, MASK),
        ("x-api-key", "x", MASK),
        ("db.password", "x", MASK),
        ("credentials", {"a": 1}, MASK),
        ("token", None, None),
        ("has_token", True, True),
        ("anything", SecretStr("x"), MASK),
        ("token_url", "https://a.example/x", "https://a.example/x"),
        ("tokens_fetched", 3, 3),
        ("code", "not_found", "not_found"),
        ("key", "member-1", "member-1"),
        ("amount", Decimal("1.50"), Decimal("1.50")),
        ("at", datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)),
        ("headers", {"Authorization": "x", "Accept": "y"}, {"Authorization": MASK, "Accept": "y"}),
        ("items", ("the-secret", [b"the-secret"]), [MASK, [MASK]]),
        ("error", ValueError("with the-secret"), f"with {MASK}"),
        ("map", {"a the-secret b": 1}, {f"a {MASK} b": 1}),
    ],
)
def test_a_value_is_masked_by_its_key_or_scrubbed_to_the_last_text(key: str, value: Any, expected: Any) -> None:
    redactor = Redactor()
    redactor.add("the-secret")
    assert redactor.scrub_value(key, value) == expected


def test_a_value_within_itself_ends() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    assert Redactor().scrub_value("x", endless)


def test_an_object_of_unknown_kind_becomes_scrubbed_text() -> None:
    class Holder:
        def __repr__(self) -> str:
            return "Holder(the-secret)"

    redactor = Redactor()
    redactor.add("the-secret")
    assert redactor.scrub_value("x", Holder()) == f"Holder({MASK})"


def test_a_log_event_is_scrubbed_throughout() -> None:
    redactor = Redactor()
    redactor.add("the-secret")
    event = {"event": "got the-secret", "password": "x", "n": 1, "exception": "Traceback: the-secret"}
    assert redactor.structlog_processor(None, "info", event) == {
        "event": f"got {MASK}",
        "password": MASK,
        "n": 1,
        "exception": f"Traceback: {MASK}",
    }


def test_the_oldest_secrets_give_way_and_those_in_use_do_not() -> None:
    redactor = Redactor()
    redactor.add("long-lived-secret")
    redactor.add("once-used-secret")
    for number in range(2_047):
        redactor.add(f"token-number-{number:05}")
        redactor.add("long-lived-secret")
    assert redactor.scrub("long-lived-secret") == MASK
    assert redactor.scrub("token-number-02046") == MASK
    assert redactor.scrub("once-used-secret") == "once-used-secret"


@pytest.mark.parametrize(
    "text",
    ["'" * 70_000, "token" * 14_000, 'token":"' + "\\" * 70_000, "eyJ" * 20_000, "a://" * 17_000, "<token " * 9_000],
)
def test_no_text_takes_long(text: str) -> None:
    assert len(Redactor().scrub(text)) <= MAX_TEXT
