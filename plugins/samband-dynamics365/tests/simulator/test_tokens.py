"""The directory: tokens by secret and by certificate, its refusals, and what the environment does with tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Signer:
    """A key with its certificate, signing assertions the way clients do."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "samband-test")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(self.key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.der = certificate.public_bytes(serialization.Encoding.DER)

    def sign(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        signed = f"{encoded(header)}.{encoded(claims)}".encode()
        if header["alg"] == "PS256":
            pad: Any = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
        else:
            pad = padding.PKCS1v15()
        return signed.decode() + "." + plain(self.key.sign(signed, pad, hashes.SHA256()))


def plain(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def encoded(value: dict[str, Any]) -> str:
    return plain(json.dumps(value).encode())


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


def form_of(api: Any, **changes: str | None) -> dict[str, str]:
    form: dict[str, str | None] = {
        "grant_type": "client_credentials",
        "scope": f"{api.address.base_url}/.default",
        **api.address.credentials,
        **changes,
    }
    return {name: value for name, value in form.items() if value is not None}


async def ask(api: Any, form: dict[str, str], url: str | None = None, **options: Any) -> tuple[int, dict[str, Any]]:
    async with api.http.post(url or api.address.token_url, data=form, **options) as answer:
        return answer.status, await answer.json()


def assertion_form(api: Any, assertion: str) -> dict[str, str]:
    return form_of(api, client_secret=None, client_assertion_type=ASSERTION_TYPE, client_assertion=assertion)


async def test_version_two_answers_with_numbers_and_no_refresh_token(api: Any) -> None:
    status, found = await ask(api, form_of(api))
    assert status == 200
    assert set(found) == {"token_type", "expires_in", "ext_expires_in", "access_token"}
    assert (found["token_type"], found["expires_in"]) == ("Bearer", 3599)


async def test_version_one_answers_with_numbers_as_strings(api: Any) -> None:
    url = api.address.token_url.replace("/v2.0", "")
    status, found = await ask(api, form_of(api, scope=None, resource=f"{api.address.base_url}/"), url)
    assert status == 200
    assert found["expires_in"] == "3599"
    assert 3590 <= int(found["expires_on"]) - time.time() <= 3600
    assert found["resource"] == api.address.base_url


async def test_secret_may_come_in_a_basic_header(api: Any) -> None:
    credentials = api.address.credentials
    text = f"{credentials['client_id']}:{credentials['client_secret']}".encode()
    header = {"Authorization": f"Basic {base64.b64encode(text).decode()}"}
    status, _ = await ask(api, form_of(api, client_id=None, client_secret=None), headers=header)
    assert status == 200


async def test_discovery_names_the_token_endpoint(api: Any) -> None:
    tenant = api.address.settings["tenant_id"]
    async with api.http.get(f"{api.address.base_url}/{tenant}/v2.0/.well-known/openid-configuration") as answer:
        assert (await answer.json())["token_endpoint"] == api.address.token_url


@pytest.mark.parametrize(
    ("changes", "status", "error", "number"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        ({"client_secret": None}, 401, "invalid_client", 7000216),
        ({"client_id": str(uuid.UUID(int=1))}, 400, "unauthorized_client", 700016),
        ({"scope": "https://other.crm4.dynamics.com/.default"}, 400, "invalid_resource", 500011),
        ({"scope": "BASE/user_impersonation"}, 400, "invalid_scope", 1002012),
        ({"scope": "not a scope"}, 400, "invalid_scope", 70011),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
        ({"grant_type": None}, 400, "invalid_request", 900144),
    ],
)
async def test_refusals_carry_the_aadsts_number(
    api: Any, changes: dict[str, str | None], status: int, error: str, number: int
) -> None:
    changes = {k: v and v.replace("BASE", api.address.base_url) for k, v in changes.items()}
    got, found = await ask(api, form_of(api, **changes))
    assert (got, found["error"], found["error_codes"]) == (status, error, [number])
    assert found["error_description"].startswith(f"AADSTS{number}: ")
    assert {"timestamp", "trace_id", "correlation_id", "error_uri"} <= set(found)


async def test_unknown_tenant_is_90002(api: Any) -> None:
    url = api.address.token_url.replace(api.address.settings["tenant_id"], str(uuid.UUID(int=2)))
    status, found = await ask(api, form_of(api), url)
    assert (status, found["error_codes"]) == (400, [90002])


async def test_secrets_can_expire_and_be_rotated(api: Any) -> None:
    await api.control("config", {"secret": "expire"})
    assert (await ask(api, form_of(api)))[1]["error_codes"] == [7000222]
    await api.control("config", {"secret": {"rotate": "another"}})
    assert (await ask(api, form_of(api)))[1]["error_codes"] == [7000215]
    assert (await ask(api, form_of(api, client_secret="another")))[0] == 200


async def test_missing_consent_is_65001(api: Any) -> None:
    client_id = api.address.credentials["client_id"]
    await api.control("config", {"applications": [{"client_id": client_id, "consented": False}]})
    assert (await ask(api, form_of(api)))[1]["error_codes"] == [65001]


def header_of(signer: Signer, algorithm: str, padded: bool) -> dict[str, Any]:
    name, digest = ("x5t#S256", hashlib.sha256) if algorithm == "PS256" else ("x5t", hashlib.sha1)
    thumbprint = plain(digest(signer.der).digest())
    return {"alg": algorithm, "typ": "JWT", name: thumbprint + ("=" if padded else "")}


def claims_of(api: Any, **changes: Any) -> dict[str, Any]:
    client_id, now = api.address.credentials["client_id"], time.time()
    claims = {
        "aud": api.address.token_url,
        "iss": client_id,
        "sub": client_id,
        "jti": str(uuid.uuid4()),
        "exp": now + 600,
        "iat": now,
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


async def trust(api: Any, signer: Signer) -> None:
    client_id = api.address.credentials["client_id"]
    await api.control("config", {"applications": [{"client_id": client_id, "certificates": [signer.pem]}]})


@pytest.mark.parametrize("algorithm", ["PS256", "RS256"])
@pytest.mark.parametrize("padded", [True, False])
async def test_assertions_of_both_forms_are_taken(api: Any, signer: Signer, algorithm: str, padded: bool) -> None:
    await trust(api, signer)
    assertion = signer.sign(header_of(signer, algorithm, padded), claims_of(api))
    status, found = await ask(api, assertion_form(api, assertion))
    assert (status, found["token_type"]) == (200, "Bearer")


def test_thumbprints_are_written_as_in_the_published_example() -> None:
    from samband_dynamics365.simulator import assertions

    digest = bytes.fromhex("84E05C1D98BCE3A5421D225B140B36E86A3D5534")
    assert assertions.unpadded(digest) == "hOBcHZi846VCHSJbFAs26Go9VTQ"


@pytest.mark.parametrize("algorithm", ["PS256", "RS256"])
async def test_assertions_made_by_the_vendors_library_are_taken(api: Any, signer: Signer, algorithm: str) -> None:
    creators = pytest.importorskip("msal.oauth2cli.assertion")
    await trust(api, signer)
    pem = signer.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    digest = {"PS256": ("sha256_thumbprint", hashlib.sha256), "RS256": ("sha1_thumbprint", hashlib.sha1)}[algorithm]
    creator = creators.JwtAssertionCreator(pem, algorithm=algorithm, **{digest[0]: digest[1](signer.der).hexdigest()})
    client_id = api.address.credentials["client_id"]
    made = creator.create_normal_assertion(api.address.token_url, client_id, subject=client_id)
    assertion = made.decode() if isinstance(made, bytes) else made
    assert (await ask(api, assertion_form(api, assertion)))[0] == 200


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"aud": "https://elsewhere.example.org/token"}, 700023),
        ({"iss": "somebody else"}, 700021),
        ({"sub": None}, 700021),
        ({"exp": 1_000_000}, 700024),
        ({"exp": "soon"}, 700024),
        ({"nbf": 99_999_999_999}, 700024),
        ({"jti": None}, 50027),
    ],
)
async def test_claims_are_checked(api: Any, signer: Signer, changes: dict[str, Any], number: int) -> None:
    await trust(api, signer)
    assertion = signer.sign(header_of(signer, "PS256", False), claims_of(api, **changes))
    status, found = await ask(api, assertion_form(api, assertion))
    assert (status, found["error"], found["error_codes"]) == (401, "invalid_client", [number])


async def test_an_assertion_works_once(api: Any, signer: Signer) -> None:
    await trust(api, signer)
    form = assertion_form(api, signer.sign(header_of(signer, "PS256", False), claims_of(api)))
    assert (await ask(api, form))[0] == 200
    assert (await ask(api, form))[1]["error_codes"] == [50013]


async def test_signature_must_come_from_a_registered_certificate(api: Any, signer: Signer) -> None:
    unknown = signer.sign(header_of(signer, "PS256", False), claims_of(api))
    assert (await ask(api, assertion_form(api, unknown)))[1]["error_codes"] == [700027]
    await trust(api, signer)
    changed = unknown.rpartition(".")[0] + "." + plain(b"x" * 256)
    assert (await ask(api, assertion_form(api, changed)))[1]["error_codes"] == [700027]
    for broken in ("a.b", "a.b.c", "....", encoded({}) + "." + encoded({}) + ".x"):
        assert (await ask(api, assertion_form(api, broken)))[0] == 401


async def test_missing_or_wrong_token_is_401_with_the_place_to_get_one(api: Any) -> None:
    cases = [("v9.2/WhoAmI", {}), ("", {}), ("v9.2/WhoAmI", {"Authorization": "Bearer nonsense"})]
    for path, header in cases:
        async with api.http.get(f"{api.address.base_url}/api/data/{path}", headers=header) as answer:
            assert answer.status == 401
            challenge = answer.headers["WWW-Authenticate"]
    tenant = api.address.settings["tenant_id"]
    assert challenge == (
        f"Bearer authorization_uri={api.address.base_url}/{tenant}/oauth2/authorize, "
        f"resource_id={api.address.base_url}/"
    )


async def test_tokens_live_as_long_as_configured(api: Any) -> None:
    await api.control("config", {"token_lifetime_s": 60})
    await api.log_in()
    assert (await api.get("WhoAmI")).status == 200
    await api.control("config", {"advance_s": 61})
    assert (await api.get("WhoAmI")).status == 401


async def test_application_users_are_admitted_or_told_why_not(api: Any) -> None:
    client_id = api.address.credentials["client_id"]
    cases = [({"roles": []}, "0x80042F09"), ({"disabled": True}, "0x8004A112"), ({"remove": True}, "0x80072560")]
    for change, code in cases:
        await api.control("config", {"users": [{"client_id": client_id, "disabled": False, **change}]})
        reply = await api.get("WhoAmI")
        assert (reply.status, reply.code) == (403, code)


async def test_log_shows_requests_but_neither_tokens_nor_secrets(api: Any) -> None:
    await api.get("WhoAmI")
    async with api.http.get(f"{api.address.control_url}/log") as answer:
        text = await answer.text()
        entry = json.loads(text)["requests"][-1]
    assert api.token not in text
    assert api.address.credentials["client_secret"] not in text
    assert (entry["method"], entry["path"], entry["status"]) == ("GET", "/api/data/v9.2/WhoAmI", 200)
    assert entry["token"] == hashlib.sha256(api.token.encode()).hexdigest()[:12]
