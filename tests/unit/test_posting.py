"""What is sent is signed as Standard Webhooks says, and retried on a schedule that is kind and long enough."""

from __future__ import annotations

import base64
import datetime as dt

import pytest
from standardwebhooks import Webhook

from samband.errors import RemoteError
from samband.events import MAX_ATTEMPTS, RETRY_AFTER_S, retry_delay_s
from samband.http.egress import EgressPolicy
from samband.http.posting import checked_address, new_secret, signed_headers

# The vector in the tests of every official library: https://github.com/standard-webhooks/standard-webhooks
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, TIMESTAMP, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_signature_is_the_one_of_the_official_vector() -> None:
    at = dt.datetime.fromtimestamp(TIMESTAMP, dt.UTC)
    headers = signed_headers(id=ID, at=at, body=BODY, secrets=[SECRET])
    assert {"webhook-id": ID, "webhook-timestamp": str(TIMESTAMP), "webhook-signature": SIGNATURE} == headers


def test_every_valid_secret_signs_and_the_official_library_takes_each() -> None:
    secrets = [new_secret(), new_secret()]
    headers = signed_headers(id=ID, at=dt.datetime.now(dt.UTC), body=BODY, secrets=secrets)
    assert 2 == len(headers["webhook-signature"].split(" "))
    for secret in secrets:
        assert {"test": 2432232314} == Webhook(secret).verify(BODY, headers)


def test_new_secret_is_32_random_bytes() -> None:
    first, second = new_secret(), new_secret()
    assert first != second
    assert 32 == len(base64.b64decode(first.removeprefix("whsec_")))


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_retries_begin_within_five_seconds_grow_and_go_on_for_a_day(chance: float) -> None:
    delays = [retry_delay_s(attempt, chance) for attempt in range(1, MAX_ATTEMPTS)]
    known = [delay for delay in delays if delay is not None]
    assert len(RETRY_AFTER_S) == len(known)
    assert known[0] <= 5
    assert known == sorted(known)
    assert 24 * 3600 <= sum(known)
    assert retry_delay_s(MAX_ATTEMPTS, chance) is None


def test_jitter_is_a_fifth_either_way() -> None:
    assert (3.2, 4.0) == (retry_delay_s(1, 0.0), retry_delay_s(1, 0.5))
    assert 4.79 < (retry_delay_s(1, 0.999) or 0) < 4.8


@pytest.mark.parametrize(
    "url",
    [
        "http://platform.example/hook",
        "https://127.0.0.1/hook",
        "https://[::1]/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://10.1.2.3/hook",
        "https://platform.example:8443/hook",
        "https://user:word@platform.example/hook",
        "https://2130706433/hook",
        "https://[64:ff9b::7f00:1]/hook",
        "https://platform.example\\@127.0.0.1/",
        "https://[::1",
        "ftp://platform.example/hook",
        "platform.example/hook",
        "",
    ],
)
def test_address_that_events_must_not_be_sent_to_is_refused(url: str) -> None:
    with pytest.raises(RemoteError) as refusal:
        checked_address(EgressPolicy(), url)
    assert "egress_refused" == refusal.value.code


def test_private_address_is_taken_when_the_operator_lists_it() -> None:
    policy = EgressPolicy(allow_private=("127.0.0.1", "hooks.internal:8080"))
    assert "127.0.0.1" == checked_address(policy, "http://127.0.0.1:4000/hook").host
    assert 8080 == checked_address(policy, "http://hooks.internal:8080/").port
    assert "/h?x=1" == checked_address(EgressPolicy(), "https://platform.example/h?x=1").path_qs
