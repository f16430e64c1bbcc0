"""A delivery counts only when it is theirs and fresh; one that comes twice is the same delivery."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from samband import RejectedError, SignatureError, WebhookRequest, webhooks
from samband_xledger.webhooks import triggers_of

TOKEN = "c2FtYmFuZC10ZXN0LXRva2VuLTAwMDE_-w"
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
BODY = b'{"data":{"transactions":{"edges":[{"syncVersion":"v1","node":{"dbId":"7"}},{"syncVersion":"v2","node":{}}]}}}'


def signature(token: str, seconds: int, body: bytes) -> str:
    key = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    return base64.urlsafe_b64encode(hmac.digest(key, f"{seconds}.".encode() + body, hashlib.sha256)).decode()


def delivery(
    body: bytes = BODY, *, age: timedelta = timedelta(), token: str = TOKEN, **headers: str | None
) -> WebhookRequest:
    sent = NOW - age
    told = {
        "date": format_datetime(sent, usegmt=True),
        "x-xl-webhook-signature": signature(token, int(sent.timestamp()), body),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return WebhookRequest(
        method="POST",
        headers={name: value for name, value in told.items() if value is not None},
        query={},
        body=body,
        received_at=NOW,
        secrets=[SecretStr(TOKEN)],
    )


def refusal(request: WebhookRequest) -> str:
    with pytest.raises(SignatureError) as caught:
        triggers_of(request)
    return caught.value.code


def test_a_delivery_that_is_theirs_asks_for_the_bookings() -> None:
    (trigger,) = triggers_of(delivery())
    assert ("bookings", ()) == (trigger.stream, tuple(trigger.keys))


@pytest.mark.parametrize("subject", ["transactions", "journalHeaders", "whatever"])
def test_what_was_subscribed_to_at_xledger_makes_no_difference(subject: str) -> None:
    (trigger,) = triggers_of(delivery(BODY.replace(b"transactions", subject.encode())))
    assert ("bookings", ()) == (trigger.stream, tuple(trigger.keys))


def test_the_same_version_of_two_subjects_is_two_deliveries() -> None:
    other = triggers_of(delivery(BODY.replace(b"transactions", b"journalHeaders")))[0].delivery_id
    assert other != triggers_of(delivery())[0].delivery_id


def test_a_replay_has_the_same_id_and_another_delivery_another() -> None:
    again = triggers_of(delivery(age=timedelta(minutes=1)))[0].delivery_id
    other = triggers_of(delivery(BODY.replace(b"v2", b"v3")))[0].delivery_id
    first = triggers_of(delivery())[0].delivery_id
    assert (True, False) == (first == again, first == other)


def test_the_signature_may_come_without_padding() -> None:
    request = delivery()
    bare = request.headers["x-xl-webhook-signature"].rstrip("=")
    assert triggers_of(replace(request, headers={**request.headers, "x-xl-webhook-signature": bare}))


@pytest.mark.parametrize("minutes", [-14, 0, 14])
def test_a_date_within_fifteen_minutes_is_taken(minutes: int) -> None:
    assert triggers_of(delivery(age=timedelta(minutes=minutes)))


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (delivery(age=timedelta(minutes=16)), "signature_too_old"),
        (delivery(age=timedelta(minutes=-16)), "signature_too_new"),
        (delivery(token="b3RoZXItdG9rZW4tb3RoZXItdG9rZW4"), "signature_wrong"),
        (replace(delivery(), body=BODY + b" "), "signature_wrong"),
        (delivery(date=format_datetime(NOW + timedelta(seconds=1), usegmt=True)), "signature_wrong"),
        (delivery(date=None), "signature_missing"),
        (delivery(x_xl_webhook_signature=None), "signature_missing"),
        (delivery(x_xl_webhook_signature="!!"), "signature_malformed"),
        (delivery(x_xl_webhook_signature="AAAA"), "signature_malformed"),
        (replace(delivery(), secrets=[]), "signature_no_secret"),
        (replace(delivery(), secrets=[SecretStr("not base64 !")]), "signature_no_secret"),
        (replace(delivery(), secrets=[SecretStr("====")]), "signature_no_secret"),
    ],
)
def test_what_is_not_theirs_or_not_fresh_is_refused(request_: WebhookRequest, code: str) -> None:
    assert code == refusal(request_)


@pytest.mark.parametrize(
    "date",
    [
        "2026-03-02T12:00:00Z",
        "1772452800",
        "Mon, 2 Mar 2026 12:00:00 GMT",
        "Mon, 02 Mar 2026 12:00:00 +0000",
        "Mon, 02 Mar 2026 13:00:00 +0100",
        "Sun, 02 Mar 2026 12:00:00 GMT",
        "Mon, 02 Mar 2026 12:00:00",
        "Mon, 02 Mar 26 12:00:00 GMT",
        "Mon, 02 Mar 2026 12:00:00 GMT, Mon, 02 Mar 2026 12:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "soon",
    ],
)
def test_a_date_in_any_other_form_is_refused_though_the_rest_fits(date: str) -> None:
    assert "signature_malformed" == refusal(delivery(date=date))


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_date_makes_trouble_of_another_kind(date: str) -> None:
    with pytest.raises(SignatureError):
        triggers_of(delivery(date=f"{date}?"))


def test_an_older_secret_is_taken_while_it_is_valid() -> None:
    assert triggers_of(replace(delivery(), secrets=[SecretStr("bmV3LXRva2VuLW5ldy10b2tlbg"), SecretStr(TOKEN)]))


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"data":null}',
        b'{"data":{"transactions":null}}',
        b'{"data":{"transactions":{"edges":null}}}',
        b'{"data":[]}',
    ],
)
def test_a_delivery_without_changes_asks_for_nothing(body: bytes) -> None:
    assert [] == triggers_of(delivery(body))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"NaN", b"\xff"])
def test_a_body_that_is_no_object_is_rejected(body: bytes) -> None:
    with pytest.raises(RejectedError):
        triggers_of(delivery(body))


@pytest.mark.parametrize(
    "edge", [None, 1, [], {"syncVersion": None}, {"syncVersion": ["x"]}, {"syncVersion": "\ud800"}]
)
def test_a_strange_edge_is_still_a_change(edge: object) -> None:
    body = json.dumps({"data": {"transactions": {"edges": [edge]}}}).encode()
    try:
        assert len(triggers_of(delivery(body))) == 1
    except RejectedError:
        assert b"ud800" in body  # text that no two parsers read alike is refused as a whole


def test_the_hosts_own_sample_is_signed_and_then_believed() -> None:
    blank = replace(delivery(b'{"samband":"test"}'), headers={"content-type": "application/json"})
    with webhooks.sampling() as sample, pytest.raises(SignatureError):
        triggers_of(blank)
    assert [] == triggers_of(replace(blank, headers={**blank.headers, **sample.headers}))
