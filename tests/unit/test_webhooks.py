"""The ready-made proofs, against the official vector and the specification's own library."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook

from samband import RejectedError, SignatureError, WebhookRequest, webhooks

# From every library of github.com/standard-webhooks/standard-webhooks.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = "1614265330"
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
THEN = dt.datetime.fromtimestamp(int(TIMESTAMP), dt.UTC)


def request(
    headers: Mapping[str, str] | None = None, *, body: bytes = BODY, secrets: tuple[str, ...] = (SECRET,),
    at: dt.datetime = THEN, query: Mapping[str, str] | None = None,
) -> WebhookRequest:  # fmt: skip
    return WebhookRequest(
        method="POST", headers=dict(headers or {}), query=dict(query or {}), body=body, received_at=at,
        secrets=[SecretStr(secret) for secret in secrets],
    )  # fmt: skip


def standard(**changes: str | None) -> dict[str, str]:
    told = {"webhook-id": ID, "webhook-timestamp": TIMESTAMP, "webhook-signature": SIGNATURE}
    told |= {f"webhook-{name}": value for name, value in changes.items()}  # type: ignore[misc]
    return {name: value for name, value in told.items() if value is not None}


def reason_of(verify: Callable[[], Any]) -> str:
    with pytest.raises(SignatureError) as caught:
        verify()
    return caught.value.code.removeprefix("signature_")


# ── Standard Webhooks ────────────────────────────────────────────────────────


def test_official_vector_is_believed() -> None:
    assert (ID, int(TIMESTAMP)) == webhooks.verify_standard_webhooks(request(standard()))


@pytest.mark.parametrize("name", ["id", "timestamp", "signature"])
@pytest.mark.parametrize("value", [None, "", "  "])
def test_header_that_is_missing_is_named_so(name: str, value: str | None) -> None:
    assert "missing" == reason_of(lambda: webhooks.verify_standard_webhooks(request(standard(**{name: value}))))


@pytest.mark.parametrize("secrets", [(), ("",), ("whsec_",), ("whsec_!!!",), ("", "whsec_====")])
def test_empty_secret_is_refused_whatever_the_signature(secrets: tuple[str, ...]) -> None:
    signed = base64.b64encode(hmac.digest(b"", f"{ID}.{TIMESTAMP}.".encode() + BODY, "sha256")).decode()
    headers = standard(signature=f"v1,{signed}")
    assert "no_secret" == reason_of(lambda: webhooks.verify_standard_webhooks(request(headers, secrets=secrets)))


@pytest.mark.parametrize(
    "timestamp",
    ["hello", "1614265330.0", "161426533", "16142653300", "+161426533", "-161426533", "1e9       ", "NaN", "inf",
     "١٦١٤٢٦٥٣٣٠", "0x60380b72", "1614265330,1614265330", "1_614_265_33"],
)  # fmt: skip
def test_timestamp_that_is_not_ten_digits_is_malformed(timestamp: str) -> None:
    headers = standard(timestamp=timestamp)
    assert "malformed" == reason_of(lambda: webhooks.verify_standard_webhooks(request(headers)))


@pytest.mark.parametrize(("off_s", "reason"), [(301, "too_old"), (300.5, "too_old"), (-301, "too_new")])
def test_window_is_five_minutes_either_way(off_s: float, reason: str) -> None:
    late = request(standard(), at=THEN + dt.timedelta(seconds=off_s))
    assert reason == reason_of(lambda: webhooks.verify_standard_webhooks(late))


@pytest.mark.parametrize("off_s", [-300, -299, 0, 299, 300])
def test_within_the_window_it_is_believed(off_s: float) -> None:
    assert webhooks.verify_standard_webhooks(request(standard(), at=THEN + dt.timedelta(seconds=off_s)))


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        ("v1,dawfeoifkpqwoekfpqoekf", "wrong"),
        ("g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "malformed"),
        ("v1", "malformed"),
        ("v1,", "wrong"),
        (",", "wrong"),
        ("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OF=", "wrong"),
        ("v1,G0HM9SSE+OTPJTGT/TMIKTSYZLE3UFJELVLNIOLJ1OE=", "wrong"),
        ("v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "wrong"),
        ("v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "wrong"),
        ("v1,\udcff\udcfe", "wrong"),
        ("v1,é", "wrong"),
        ("v1,%%%not base64%%%", "wrong"),
    ],
)
def test_signature_that_does_not_fit_is_refused_and_never_an_accident(signature: str, reason: str) -> None:
    headers = standard(signature=signature)
    assert reason == reason_of(lambda: webhooks.verify_standard_webhooks(request(headers)))


def test_right_one_among_four_signatures_is_enough() -> None:
    several = (
        "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v2,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= "
        f"{SIGNATURE} v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="
    )
    assert webhooks.verify_standard_webhooks(request(standard(signature=several)))


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_")])
def test_secret_counts_with_and_without_its_prefix(secret: str) -> None:
    assert webhooks.verify_standard_webhooks(request(standard(), secrets=(secret,)))


@pytest.mark.parametrize("size", [31, 32, 33])
def test_secret_counts_with_its_padding_missing(size: int) -> None:
    padded = "whsec_" + base64.b64encode(bytes(range(size))).decode()
    headers = standard(signature=Webhook(padded).sign(ID, THEN, BODY.decode()))
    for missing in range(len(padded) - len(padded.rstrip("=")) + 1):
        secret = padded[: len(padded) - missing]
        assert webhooks.verify_standard_webhooks(request(headers, secrets=(secret,)))


def test_every_secret_is_tried() -> None:
    other = "whsec_" + base64.b64encode(b"x" * 24).decode()
    assert webhooks.verify_standard_webhooks(request(standard(), secrets=(other, SECRET)))
    assert "wrong" == reason_of(lambda: webhooks.verify_standard_webhooks(request(standard(), secrets=(other,))))


@pytest.mark.parametrize("id", ["msg.1", "x" * 256, "x" * 5_000, "a b", "msg_\udc80", "naïve"])
def test_id_that_cannot_be_one_is_malformed_even_when_it_is_signed(id: str) -> None:
    signed = base64.b64encode(
        hmac.digest(
            base64.b64decode(SECRET.removeprefix("whsec_")),
            b".".join((id.encode("utf-8", "surrogatepass"), TIMESTAMP.encode(), BODY)), "sha256",
        )
    ).decode()  # fmt: skip
    headers = standard(id=id, signature=f"v1,{signed}")
    assert "malformed" == reason_of(lambda: webhooks.verify_standard_webhooks(request(headers)))


@given(
    body=st.binary(max_size=200), id=st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True),
    key=st.binary(min_size=16, max_size=64), at=st.integers(10**9, 10**10 - 1), flip=st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_our_proof_and_the_specifications_own_library_agree(
    body: bytes, id: str, key: bytes, at: int, flip: int
) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    moment = dt.datetime.fromtimestamp(at, dt.UTC)
    text = body.decode("latin-1")
    headers = {
        "webhook-id": id, "webhook-timestamp": str(at), "webhook-signature": Webhook(secret).sign(id, moment, text),
    }  # fmt: skip
    sent = text.encode()
    assert (id, at) == webhooks.verify_standard_webhooks(request(headers, body=sent, secrets=(secret,), at=moment))
    changed = bytearray(sent + b"!")
    changed[flip % len(changed)] ^= 1
    altered = request(headers, body=bytes(changed), secrets=(secret,), at=moment)
    assert "wrong" == reason_of(lambda: webhooks.verify_standard_webhooks(altered))


@given(st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), st.text()))
@settings(max_examples=200, deadline=None)
def test_whatever_comes_is_refused_and_nothing_else_is_raised(headers: dict[str, str]) -> None:
    assert reason_of(lambda: webhooks.verify_standard_webhooks(request(headers))) in webhooks.REASONS


# ── an HMAC in a header ──────────────────────────────────────────────────────

PLAIN = "a-secret-of-twenty-eight-letters"


def digest(content: bytes = BODY, algorithm: str = "sha256", key: bytes = PLAIN.encode()) -> bytes:
    return hmac.new(key, content, algorithm).digest()


def check_hmac(value: str | None, *, body: bytes = BODY, secrets: tuple[str, ...] = (PLAIN,), **options: Any) -> None:
    headers = {} if value is None else {"x-signature": value}
    headers |= options.pop("headers", {})
    webhooks.verify_hmac(request(headers, body=body, secrets=secrets), header="X-Signature", **options)


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (digest().hex(), {}),
        (digest().hex().upper(), {}),
        ("sha256=" + digest().hex(), {"prefix": "sha256="}),
        (base64.b64encode(digest()).decode(), {"encoding": "base64"}),
        (base64.b64encode(digest()).decode().rstrip("="), {"encoding": "base64"}),
        (base64.urlsafe_b64encode(digest()).decode(), {"encoding": "base64url"}),
        (digest(algorithm="sha512").hex(), {"algorithm": "sha512"}),
        (digest(b"POST" + BODY).hex(), {"content": lambda r: r.method.encode() + r.body}),
        (digest(key=b"\1" * 32).hex(), {"key": lambda text: b"\1" * 32}),
    ],
)  # fmt: skip
def test_hmac_is_believed_however_it_is_written(value: str, options: dict[str, Any]) -> None:
    check_hmac(value, **options)
    assert "wrong" == reason_of(lambda: check_hmac(value, body=BODY + b" ", **{**options, "content": None}))


@pytest.mark.parametrize(
    ("value", "options", "reason"),
    [
        (None, {}, "missing"),
        ("", {}, "missing"),
        (digest().hex()[:-2], {}, "malformed"),
        (digest().hex() + "00", {}, "malformed"),
        ("zz" * 32, {}, "malformed"),
        (digest().hex(), {"prefix": "sha256="}, "malformed"),
        ("sha256=" + digest().hex(), {}, "malformed"),
        (digest().hex(), {"encoding": "base64"}, "malformed"),
        ("not base64 at all", {"encoding": "base64"}, "malformed"),
        ("\udcff" * 64, {}, "malformed"),
        (digest(key=b"other").hex(), {}, "wrong"),
        (digest(key=b"").hex(), {"secrets": ("",)}, "no_secret"),
        (digest().hex(), {"secrets": ()}, "no_secret"),
    ],
)
def test_hmac_that_does_not_fit_is_refused(value: str | None, options: dict[str, Any], reason: str) -> None:
    assert reason == reason_of(lambda: check_hmac(value, **options))


def test_timestamp_beside_an_hmac_is_held_to_the_window() -> None:
    def content(told: WebhookRequest) -> bytes:
        return told.headers["x-time"].encode() + b"." + told.body

    def check(timestamp: str) -> None:
        value = digest(timestamp.encode() + b"." + BODY).hex()
        check_hmac(value, content=content, timestamp_header="X-Time", headers={"x-time": timestamp})

    check(TIMESTAMP)
    assert "too_old" == reason_of(lambda: check(str(int(TIMESTAMP) - 301)))
    assert "too_new" == reason_of(lambda: check(str(int(TIMESTAMP) + 301)))
    assert "malformed" == reason_of(lambda: check("now"))


# ── the secret itself, in a header or the query ──────────────────────────────


def test_secret_in_a_header_is_compared_whole() -> None:
    def check(value: str, secrets: tuple[str, ...] = (PLAIN,), prefix: str = "") -> None:
        webhooks.verify_header(request({"x-api-key": value}, secrets=secrets), header="X-Api-Key", prefix=prefix)

    check(PLAIN)
    check("Bearer " + PLAIN, prefix="Bearer ")
    check(PLAIN, ("other-secret-of-this", PLAIN))
    for wrong in (PLAIN[:-1], PLAIN + "x", PLAIN.upper(), "é", "\udcff"):
        assert "wrong" == reason_of(lambda wrong=wrong: check(wrong))
    assert "missing" == reason_of(lambda: check(""))
    assert "malformed" == reason_of(lambda: check(PLAIN, prefix="Bearer "))
    assert "no_secret" == reason_of(lambda: check("", ("",)))


def test_secret_in_the_query_is_compared_whole() -> None:
    def check(query: dict[str, str], secrets: tuple[str, ...] = (PLAIN,)) -> None:
        webhooks.verify_query(request(query=query, secrets=secrets), parameter="code")

    check({"code": PLAIN})
    assert "wrong" == reason_of(lambda: check({"code": PLAIN[1:]}))
    assert "missing" == reason_of(lambda: check({}))
    assert "missing" == reason_of(lambda: check({"code": ""}))
    assert "no_secret" == reason_of(lambda: check({"code": ""}, ("",)))


# ── what follows ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"x"', b"{", b'{"a": NaN}', b'{"a": 1}x', b"\xff\xfe"])
def test_body_that_is_no_json_object_is_rejected(body: bytes) -> None:
    with pytest.raises(RejectedError) as caught:
        webhooks.json_object(request(body=body))
    assert "delivery_malformed" == caught.value.code
    assert caught.value.__cause__ is None


def test_body_may_begin_with_a_byte_order_mark() -> None:
    assert {"a": 1} == webhooks.json_object(request(body=b'\xef\xbb\xbf{"a": 1}'))


def test_secrets_that_are_made_fit_their_proof_and_others_are_explained() -> None:
    for proof in ("standard-webhooks", "hmac", "header", "query"):
        made = [webhooks.make_secret(proof) for _ in range(2)]
        assert made[0] != made[1]
        assert [None, None] == [webhooks.secret_problem(proof, secret) for secret in made]
    assert webhooks.secret_problem("standard-webhooks", "whsec_AAAA")
    assert webhooks.secret_problem("standard-webhooks", "not base64 ")
    for bad in ("short", " padded-with-some-space ", "x" * 4097, "hemmelig-på-norsk-her", "tab\tin-the-middle-of"):
        assert webhooks.secret_problem("header", bad)


# ── how a right delivery would be signed ─────────────────────────────────────

PROOFS: dict[str, Callable[[WebhookRequest], Any]] = {
    "standard": webhooks.verify_standard_webhooks,
    "hmac": lambda r: webhooks.verify_hmac(
        r, header="x-sig", encoding="base64", prefix="v=", timestamp_header="x-time",
        content=lambda told: told.headers["x-time"].encode() + told.body,
    ),
    "header": lambda r: webhooks.verify_header(r, header="Authorization", prefix="Bearer "),
    "query": lambda r: webhooks.verify_query(r, parameter="code"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROOFS)
def test_sample_that_is_noted_is_believed_and_nothing_is_noted_otherwise(name: str) -> None:
    verify = PROOFS[name]
    with webhooks.sampling() as sample:
        assert reason_of(lambda: verify(request())) in ("missing", "malformed")
    assert sample.is_signed
    verify(request(sample.headers, query=sample.query))
    with webhooks.sampling() as other:
        pass
    with contextlib.suppress(SignatureError):
        verify(request())
    assert not other.is_signed


def test_refusal_never_repeats_what_was_sent() -> None:
    secret, wrong = "the-secret-of-the-sender", "what-the-stranger-sent"
    for name, verify in PROOFS.items():
        headers = {"x-sig": wrong, "authorization": f"Bearer {wrong}", **standard(signature=f"v1,{wrong}")}
        sent = request(headers, query={"code": wrong}, secrets=(secret if name != "standard" else SECRET,))
        with pytest.raises(SignatureError) as caught:
            verify(sent)
        told = json.dumps([str(caught.value), repr(caught.value), repr(vars(caught.value))])
        assert secret not in told
        assert wrong not in told
