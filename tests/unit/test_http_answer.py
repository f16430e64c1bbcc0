from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samband.errors import RemoteError
from samband.http.answer import Answer
from samband.redaction import Redactor


def answer(body: bytes, content_type: str = "application/json") -> Answer:
    redactor = Redactor()
    redactor.add("s3cret-value")
    return Answer(
        status=200,
        headers={"Content-Type": content_type},
        url="https://crm.example/x",
        body=body,
        host="crm.example",
        redactor=redactor,
    )


@pytest.mark.parametrize(
    ("body", "document"),
    [
        (b'{"a":[1,2.5,"\xc3\xa6",null,true]}', {"a": [1, 2.5, "æ", None, True]}),
        (b"\xef\xbb\xbf[1]", [1]),
        (b'"\\ud800"', "\ud800"),
        (b'{"id":18446744073709551616}', {"id": 18446744073709551616}),
        (b"[-9999999999999999999]", [-9999999999999999999]),
        (b'{"kid":"12345678901234567890123"}', {"kid": "12345678901234567890123"}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b" 12345678901234567890 ", 12345678901234567890),
    ],
)
def test_json_is_read_exactly(body: bytes, document: Any) -> None:
    assert answer(body).json() == document


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":1',
        b"NaN",
        b'{"a":NaN}',
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e999]",
        b"[-1e999]",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 3_000 + b"]" * 3_000,
        b"9" * 5_000,
        b"[" + b"9" * 5_000 + b"]",
        b"<html></html>",
        b"\xff\xfe\x00",
        b"[1] trailing",
    ],
)
def test_what_is_not_json_is_a_remote_error_and_never_a_crash(body: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        answer(body).json()
    assert caught.value.code == "not_json"
    assert "crm.example" in str(caught.value)
    assert "application/json" in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_exact_reading_keeps_every_digit() -> None:
    body = b'{"sum":0.10,"big":12345678901234567890.123,"n":3,"e":1e2}'
    document = answer(body).json_exact()
    assert document == {"sum": Decimal("0.10"), "big": Decimal("12345678901234567890.123"), "n": 3, "e": Decimal("1e2")}
    assert str(document["sum"]) == "0.10"


@pytest.mark.parametrize("body", [b"[NaN]", b"[Infinity]", b"[" * 100_000, b"[1e99999999999999999999999]"])
def test_an_exact_reading_refuses_what_is_no_number(body: bytes) -> None:
    with pytest.raises(RemoteError):
        answer(body).json_exact()


def test_of_a_page_that_is_not_json_only_the_title_is_shown() -> None:
    page = b"<html><head><TITLE>\n 502  Bad\tGateway s3cret-value </TITLE></head><body>Kari Nordmann</body></html>"
    with pytest.raises(RemoteError) as caught:
        answer(page, "text/html; charset=utf-8").json()
    assert caught.value.remote_message == "502 Bad Gateway ***"
    assert "text/html" in str(caught.value)
    assert "Kari" not in str(caught.value)
    with pytest.raises(RemoteError) as caught:
        answer(b"<title>" + b"x" * 200 + b"</title>", "text/html").json()
    assert len(caught.value.remote_message) == 80


def test_of_data_that_is_cut_off_nothing_is_shown() -> None:
    with pytest.raises(RemoteError) as caught:
        answer(b'{"name":"Kari Nordmann","diag').json()
    assert (caught.value.remote_message, "Kari" in str(caught.value)) == ("", False)


def test_text_is_decoded_by_its_charset_and_never_guessed() -> None:
    assert answer("blåbær".encode("latin-1"), "text/csv; charset=ISO-8859-1").text() == "blåbær"
    assert answer("blåbær".encode(), "text/csv").text() == "blåbær"
    assert answer("\ufeffblåbær".encode(), 'text/csv; charset="UTF-8"').text() == "blåbær"
    for body, kind in ((b"\xe5", "text/csv"), (b"x", "text/csv; charset=no-such")):
        with pytest.raises(RemoteError) as caught:
            answer(body, kind).text()
        assert caught.value.code == "not_text"


def test_an_answer_shows_neither_body_nor_headers_of_secrets() -> None:
    assert "Kari" not in repr(answer(b"Kari"))


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(RemoteError):
        answer(body).json()
