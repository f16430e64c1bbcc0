"""Tokens: one flight, early renewal, careful reading; against a token endpoint behind HTTP."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import RSAKey
from pydantic import SecretStr

from samband import ConsentRequest, client_credentials_token, refresh_token_token
from samband.contract import Context, Limits, Token
from samband.errors import (
    AuthError,
    ContractError,
    RateLimitedError,
    RemoteError,
    RetryableError,
    UnavailableError,
)
from samband.http import Outbound
from samband.http.egress import EgressPolicy
from samband.oauth import MAX_TOKEN_ANSWER_BYTES, TokenSource, authorization_code_token
from samband.redaction import Redactor

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET = SecretStr("s~cr+t/%9 .x")
KEPT = Token(value=SecretStr("tok-0"), refresh_token=SecretStr("ref-0"))
GOOD: Mapping[str, Any] = {"access_token": "tok-1", "token_type": "Bearer", "expires_in": 3599}


class Lines:
    def __init__(self) -> None:
        self.text = ""

    def debug(self, event: str, **values: Any) -> None:
        self.text += f"{event} {values}\n"

    info = warning = error = debug


# ── the endpoint ─────────────────────────────────────────────────────────────


@dataclass
class Endpoint:
    """A token endpoint that gives one answer and keeps what it was asked."""

    status: int = 200
    answer: Any = field(default_factory=lambda: dict(GOOD))
    headers: dict[str, str] = field(default_factory=dict)
    forms: list[dict[str, str]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    url: str = ""
    lines: Lines = field(default_factory=Lines)
    context: Context | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.forms.append({name: str(value) for name, value in (await request.post()).items()})
        self.authorizations.append(request.headers.get("Authorization"))
        if isinstance(self.answer, str | bytes):
            body = self.answer if isinstance(self.answer, bytes) else self.answer.encode()
            return web.Response(status=self.status, body=body, headers=self.headers, content_type="text/html")
        return web.json_response(self.answer, status=self.status, headers=self.headers)

    async def ask(self, **changes: Any) -> Token:
        given: dict[str, Any] = {"token_url": self.url, "client_id": "client:1", "client_secret": SECRET}
        assert self.context is not None
        return await client_credentials_token(self.context, **(given | changes))

    async def refresh(self, *, kept: Token | None = KEPT, **changes: Any) -> Token:
        given: dict[str, Any] = {"token_url": self.url, "client_id": "client:1", "client_secret": SECRET}
        assert self.context is not None
        return await refresh_token_token(replace(self.context, token=kept), **(given | changes))

    async def trade(self, **changes: Any) -> Token:
        assert self.context is not None
        request = ConsentRequest(
            authorize_url="https://login.example/authorize", token_url=self.url, client_id="client:1", **changes
        )
        return await authorization_code_token(
            self.context, request, code=SecretStr("the-code"), verifier=SecretStr("the-verifier"),
            redirect_uri="https://samband.example/oauth/callback",
        )  # fmt: skip


async def no_wait(seconds: float) -> None: ...


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    found = Endpoint()
    application = web.Application()
    application.router.add_post("/token", found.handle)
    async with TestServer(application) as server:
        found.url = f"http://127.0.0.1:{server.port}/token"
        outbound = Outbound(policy=EgressPolicy(["127.0.0.1"]), redactor=Redactor(), sleep=no_wait)
        session = outbound.session(
            integration_id="i",
            account="login",
            hosts=["127.0.0.1"],
            limits=Limits(requests_per_s=10_000, max_body_bytes=MAX_TOKEN_ANSWER_BYTES),
            tokens=None,
            log=found.lines,
        )
        found.context = Context(
            organization_id="o",
            integration_id="i",
            run_id=None,
            settings=None,
            http=session,
            now=lambda: START,
            log=found.lines,
        )
        yield found
        await outbound.close()


async def test_a_secret_is_traded_for_a_token(endpoint: Endpoint) -> None:
    token = await endpoint.ask(scope="https://org.crm4.dynamics.com/.default", resource="urn:x")
    assert token.value.get_secret_value() == "tok-1"
    assert token.expires_at == START + timedelta(seconds=3599)
    assert (token.header, token.scheme) == ("Authorization", "Bearer")
    assert endpoint.forms == [
        {
            "grant_type": "client_credentials",
            "scope": "https://org.crm4.dynamics.com/.default",
            "resource": "urn:x",
            "client_id": "client:1",
            "client_secret": SECRET.get_secret_value(),
        }
    ]
    assert endpoint.authorizations == [None]


async def test_id_and_secret_are_form_encoded_inside_basic(endpoint: Endpoint) -> None:
    await endpoint.ask(auth_method="client_secret_basic")
    sent = endpoint.authorizations[0] or ""
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"client%3A1:s~cr%2Bt%2F%259+.x"
    assert "client_secret" not in endpoint.forms[0]


async def test_nothing_secret_is_logged(endpoint: Endpoint) -> None:
    await endpoint.ask()
    await endpoint.ask(auth_method="client_secret_basic")
    assert "http_attempt" in endpoint.lines.text
    for secret in (SECRET.get_secret_value(), "tok-1", "client_secret", "Basic"):
        assert secret not in endpoint.lines.text


# ── keys and certificates ────────────────────────────────────────────────────


@dataclass
class KeyPair:
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    def pem(self) -> SecretStr:
        return SecretStr(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode()
        )

    def public(self) -> RSAKey:
        return RSAKey.import_key(
            self.key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def certificate(self, *, valid_to: timedelta = timedelta(days=1)) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "samband")])
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(START - timedelta(days=9))
            .not_valid_after(START + valid_to)
            .sign(self.key, hashes.SHA256())
        )

    def certificate_pem(self, **validity: timedelta) -> str:
        return self.certificate(**validity).public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="module")
def pair() -> KeyPair:
    return KeyPair()


@pytest.mark.parametrize("alg", ["PS256", "RS256"])
async def test_a_key_signs_an_assertion_with_its_certificates_thumbprint(
    endpoint: Endpoint, pair: KeyPair, alg: Literal["PS256", "RS256"]
) -> None:
    await endpoint.ask(
        client_secret=None, private_key_pem=pair.pem(), certificate_pem=pair.certificate_pem(), assertion_alg=alg
    )
    form = endpoint.forms[0]
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assertion = jwt.decode(form["client_assertion"], pair.public(), algorithms=[alg])
    assert assertion.header["alg"] == alg
    claims = assertion.claims
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("client:1", "client:1", endpoint.url)
    assert (claims["iat"], claims["exp"]) == (int(START.timestamp()), int(START.timestamp()) + 300)
    assert "client_secret" not in form
    assert form["client_assertion"] not in endpoint.lines.text


async def test_the_thumbprint_is_of_the_certificate_that_was_given(endpoint: Endpoint, pair: KeyPair) -> None:
    pem = pair.certificate_pem()
    await endpoint.ask(client_secret=None, private_key_pem=pair.pem(), certificate_pem=pem)
    header = jwt.decode(endpoint.forms[0]["client_assertion"], pair.public(), algorithms=["PS256"]).header
    print_of_it = x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256())
    assert header["x5t#S256"] == base64.urlsafe_b64encode(print_of_it).rstrip(b"=").decode()


async def test_every_assertion_is_another_one(endpoint: Endpoint, pair: KeyPair) -> None:
    for _ in range(2):
        await endpoint.ask(client_secret=None, private_key_pem=pair.pem())
    first, second = (
        jwt.decode(form["client_assertion"], pair.public(), algorithms=["PS256"]).claims["jti"]
        for form in endpoint.forms
    )
    assert first != second


@pytest.mark.parametrize("pem", ["", "no key", "-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----"])
async def test_a_key_that_cannot_be_read_is_named(endpoint: Endpoint, pem: str) -> None:
    with pytest.raises(AuthError) as caught:
        await endpoint.ask(client_secret=None, private_key_pem=SecretStr(pem))
    assert (caught.value.reason, caught.value.field) == ("secret_wrong", "private_key_pem")
    assert endpoint.forms == []


async def test_a_public_key_is_not_taken_for_a_private_one(endpoint: Endpoint, pair: KeyPair) -> None:
    public = pair.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(AuthError):
        await endpoint.ask(client_secret=None, private_key_pem=SecretStr(public.decode()))


async def test_a_certificate_that_is_wrong_or_over_is_named(endpoint: Endpoint, pair: KeyPair) -> None:
    over = pair.certificate_pem(valid_to=timedelta(days=-1))
    for pem, reason in (
        ("x", "secret_wrong"),
        (KeyPair().certificate_pem(), "secret_wrong"),
        (over, "certificate_expired"),
    ):
        with pytest.raises(AuthError) as caught:
            await endpoint.ask(client_secret=None, private_key_pem=pair.pem(), certificate_pem=pem)
        assert (caught.value.reason, caught.value.field) == (reason, "certificate_pem")
    assert endpoint.forms == []


async def test_either_a_secret_or_a_key_is_given(endpoint: Endpoint, pair: KeyPair) -> None:
    for changes in ({"client_secret": None}, {"private_key_pem": pair.pem()}):
        with pytest.raises(ContractError):
            await endpoint.ask(**changes)


# ── refresh tokens and codes ─────────────────────────────────────────────────


async def test_a_refresh_token_is_traded_for_a_token_and_its_successor(endpoint: Endpoint) -> None:
    endpoint.answer = {**GOOD, "refresh_token": "ref-1"}
    token = await endpoint.refresh(scope="read")
    assert token.refresh_token is not None
    assert ("tok-1", "ref-1") == (token.value.get_secret_value(), token.refresh_token.get_secret_value())
    assert [
        {
            "grant_type": "refresh_token", "refresh_token": "ref-0", "scope": "read", "client_id": "client:1",
            "client_secret": SECRET.get_secret_value(),
        }
    ] == endpoint.forms  # fmt: skip
    assert not any(secret in endpoint.lines.text for secret in ("ref-0", "ref-1", "tok-1"))


async def test_a_server_that_does_not_rotate_leaves_the_old_refresh_token_in_force(endpoint: Endpoint) -> None:
    assert KEPT.refresh_token == (await endpoint.refresh()).refresh_token


async def test_a_public_client_names_itself_and_proves_nothing(endpoint: Endpoint) -> None:
    await endpoint.refresh(client_secret=None)
    assert [{"grant_type": "refresh_token", "refresh_token": "ref-0", "client_id": "client:1"}] == endpoint.forms
    assert [None] == endpoint.authorizations


async def test_a_refresh_can_be_signed_with_a_key(endpoint: Endpoint, pair: KeyPair) -> None:
    await endpoint.refresh(client_secret=None, private_key_pem=pair.pem(), certificate_pem=pair.certificate_pem())
    (form,) = endpoint.forms
    claims = jwt.decode(form["client_assertion"], pair.public(), algorithms=["PS256"]).claims
    assert ("client:1", "client:1", "client:1") == (claims["iss"], claims["sub"], form["client_id"])
    assert "client_secret" not in form


@pytest.mark.parametrize("kept", [None, Token(value=SecretStr("tok-0"))])
async def test_without_a_refresh_token_somebody_has_to_sign_in_and_nothing_is_sent(
    endpoint: Endpoint, kept: Token | None
) -> None:
    with pytest.raises(AuthError) as caught:
        await endpoint.refresh(kept=kept)
    assert ("sign_in_needed", []) == (caught.value.reason, endpoint.forms)


async def test_a_spent_refresh_token_is_a_refused_grant_and_is_not_repeated_in_words(endpoint: Endpoint) -> None:
    endpoint.status = 400
    endpoint.answer = {"error": "invalid_grant", "error_description": "Token ref-0 was used."}
    with pytest.raises(AuthError) as caught:
        await endpoint.refresh()
    assert ("grant_refused", "Token *** was used.") == (caught.value.reason, caught.value.remote_message)
    assert 1 == len(endpoint.forms)


@pytest.mark.parametrize("refresh_token", ["", "a b", "a\r\nX-Evil: 1", 5, ["r"], "x" * (16 * 1024 + 1)])
async def test_a_refresh_token_that_cannot_be_kept_is_refused(endpoint: Endpoint, refresh_token: Any) -> None:
    endpoint.answer = {**GOOD, "refresh_token": refresh_token}
    with pytest.raises(RemoteError) as caught:
        await endpoint.refresh()
    assert ("token_answer_invalid", False) == (caught.value.code, "X-Evil" in str(caught.value))


async def test_a_refresh_without_a_clear_answer_is_not_sent_twice(endpoint: Endpoint) -> None:
    endpoint.status, endpoint.answer = 503, "busy"
    with pytest.raises(UnavailableError) as caught:
        await endpoint.refresh()
    assert ("token_answer_lost", 1) == (caught.value.code, len(endpoint.forms))


async def test_client_credentials_bring_no_refresh_token(endpoint: Endpoint) -> None:
    endpoint.answer = {**GOOD, "refresh_token": "ref-1"}
    assert (await endpoint.ask()).refresh_token is None


@pytest.mark.parametrize("secret", [None, SECRET])
async def test_a_code_is_traded_with_its_verifier(endpoint: Endpoint, secret: SecretStr | None) -> None:
    endpoint.answer = {**GOOD, "refresh_token": "ref-1"}
    token = await endpoint.trade(client_secret=secret)
    assert SecretStr("ref-1") == token.refresh_token
    (form,) = endpoint.forms
    assert ("authorization_code", "the-code", "the-verifier", "https://samband.example/oauth/callback") == (
        form["grant_type"], form["code"], form["code_verifier"], form["redirect_uri"],
    )  # fmt: skip
    assert ("client:1", secret is not None) == (form["client_id"], "client_secret" in form)
    assert "the-code" not in endpoint.lines.text


async def test_a_code_with_basic_keeps_the_client_out_of_the_body(endpoint: Endpoint) -> None:
    await endpoint.trade(client_secret=SECRET, auth_method="client_secret_basic")
    assert (endpoint.authorizations[0] or "").startswith("Basic ")
    assert not {"client_secret", "client_id"} & set(endpoint.forms[0])


# ── answers ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("expires_in", "seconds"), [(3599, 3599), ("3599", 3599), (1, 1), (None, 300), (315_360_000, 315_360_000)]
)
async def test_the_lifetime_is_read_as_number_or_text(endpoint: Endpoint, expires_in: Any, seconds: int) -> None:
    endpoint.answer = {**GOOD, "expires_in": expires_in}
    assert (await endpoint.ask()).expires_at == START + timedelta(seconds=seconds)


async def test_a_token_without_a_lifetime_lasts_five_minutes(endpoint: Endpoint) -> None:
    endpoint.answer = {"access_token": "tok-1", "token_type": "bearer"}
    assert (await endpoint.ask()).expires_at == START + timedelta(minutes=5)


@pytest.mark.parametrize(
    "answer",
    [
        {**GOOD, "expires_in": 0},
        {**GOOD, "expires_in": -1},
        {**GOOD, "expires_in": "-1"},
        {**GOOD, "expires_in": "soon"},
        {**GOOD, "expires_in": 1e3},
        {**GOOD, "expires_in": True},
        {**GOOD, "expires_in": [3599]},
        {**GOOD, "expires_in": 10**15},
        {**GOOD, "expires_in": "9" * 30},
        {**GOOD, "token_type": "mac"},
        {**GOOD, "token_type": None},
        {**GOOD, "token_type": 5},
        {**GOOD, "access_token": ""},
        {**GOOD, "access_token": None},
        {**GOOD, "access_token": 5},
        {**GOOD, "access_token": "a b"},
        {**GOOD, "access_token": "a\r\nX-Evil: 1"},
        {**GOOD, "access_token": "blåbær"},
        {**GOOD, "access_token": "a\x00"},
        {**GOOD, "access_token": "x" * (16 * 1024 + 1)},
        {"token_type": "Bearer"},
        {},
        [],
        "null",
        "",
        "<html><title>Sign in</title>",
        '{"access_token": NaN}',
        "[" * 50_000,
    ],
)
async def test_a_bad_token_answer_is_refused_with_a_plain_message(endpoint: Endpoint, answer: Any) -> None:
    endpoint.answer = answer
    with pytest.raises(RemoteError) as caught:
        await endpoint.ask()
    assert caught.value.code == "token_answer_invalid"
    assert caught.value.message.startswith("The answer of the token endpoint ")
    assert "X-Evil" not in str(caught.value)


async def test_an_answer_beyond_a_mebibyte_is_not_read(endpoint: Endpoint) -> None:
    endpoint.answer = {**GOOD, "more": "x" * MAX_TOKEN_ANSWER_BYTES}
    with pytest.raises(RemoteError) as caught:
        await endpoint.ask()
    assert caught.value.code == "body_too_large"


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (401, "invalid_client", "secret_wrong"),
        (400, "invalid_client", "secret_wrong"),
        (400, "invalid_scope", "scope_refused"),
        (400, "invalid_target", "scope_refused"),
        (400, "unauthorized_client", "consent_missing"),
        (400, "invalid_grant", "refused"),
        (400, "unsupported_grant_type", "refused"),
        (200, "invalid_client", "secret_wrong"),
        (400, "Some <b>thing</b>", "refused"),
    ],
)
async def test_a_refusal_says_which_part_was_refused(endpoint: Endpoint, status: int, error: str, reason: str) -> None:
    endpoint.status = status
    endpoint.answer = {"error": error, "error_description": f"Their words, {SECRET.get_secret_value()}\r\n and more"}
    with pytest.raises(AuthError) as caught:
        await endpoint.ask()
    assert caught.value.reason == reason
    assert caught.value.hint
    assert caught.value.remote_message == "Their words, *** and more"
    assert "<b>" not in str(caught.value)
    assert len(endpoint.forms) == 1


async def test_a_vendor_has_its_own_reading_of_errors(endpoint: Endpoint) -> None:
    endpoint.status = 401
    endpoint.answer = {"error": "invalid_client", "error_codes": [7000222]}

    def classify(status: int, document: Mapping[str, Any]) -> AuthError | None:
        if 7000222 in document.get("error_codes", []):
            return AuthError(f"Expired ({status}).", reason="secret_expired")
        return None

    with pytest.raises(AuthError) as caught:
        await endpoint.ask(classify=classify)
    assert caught.value.reason == "secret_expired"
    endpoint.answer = {"error": "invalid_client"}
    with pytest.raises(AuthError) as caught:
        await endpoint.ask(classify=classify)
    assert caught.value.reason == "secret_wrong"


@pytest.mark.parametrize(
    ("status", "answer", "error"),
    [
        (429, {}, RateLimitedError),
        (500, {}, UnavailableError),
        (503, "busy", UnavailableError),
        (400, {"error": "temporarily_unavailable"}, UnavailableError),
        (400, {"error": "slow_down"}, RateLimitedError),
    ],
)
async def test_trouble_of_theirs_may_be_tried_again(
    endpoint: Endpoint, status: int, answer: Any, error: type[RetryableError]
) -> None:
    endpoint.status, endpoint.answer = status, answer
    with pytest.raises(error):
        await endpoint.ask()


async def test_a_redirect_does_not_get_the_secret(endpoint: Endpoint) -> None:
    endpoint.status, endpoint.headers = 307, {"Location": "http://127.0.0.1:1/steal"}
    with pytest.raises(RemoteError) as caught:
        await endpoint.ask()
    assert caught.value.code == "redirect_refused"


# ── together with the session that uses the token ────────────────────────────


async def test_a_token_revoked_under_many_calls_is_renewed_once(endpoint: Endpoint) -> None:
    good = ""

    async def fetch() -> Token:
        nonlocal good
        good = f"tok-{len(endpoint.forms) + 1}"
        endpoint.answer = {**GOOD, "access_token": good}
        return await endpoint.ask()

    async def data(request: web.Request) -> web.Response:
        return web.json_response({}, status=200 if request.headers["Authorization"] == f"Bearer {good}" else 401)

    application = web.Application()
    application.router.add_get("/data", data)
    outbound = Outbound(policy=EgressPolicy(["127.0.0.1"]), redactor=Redactor(), sleep=no_wait)
    source = TokenSource(fetch, now=lambda: START, log=endpoint.lines)
    session = outbound.session(
        integration_id="i",
        account="crm",
        hosts=["127.0.0.1"],
        limits=Limits(requests_per_s=10_000, concurrency=50),
        tokens=source,
        log=endpoint.lines,
    )
    async with TestServer(application) as server:
        url = f"http://127.0.0.1:{server.port}/data"
        for revoked in (False, True):
            good = "revoked" if revoked else good
            answers = await asyncio.gather(*(session.request("GET", url) for _ in range(50)))
            assert {answer.status for answer in answers} == {200}
        assert len(endpoint.forms) == 2
        assert "tok-" not in endpoint.lines.text
        await outbound.close()
