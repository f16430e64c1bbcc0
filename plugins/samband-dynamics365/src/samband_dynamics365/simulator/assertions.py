"""Signed client assertions: which ones the token endpoint takes in place of a secret.

Source: "Microsoft identity platform certificate credentials". Two header forms are in use: PS256 with ``x5t#S256`` and
RS256 with ``x5t``. Real clients pad the thumbprint, send float times and leave ``nbf`` out, so all of that is accepted.
The AADSTS numbers other than 700027 are assumed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

CLOCK_SKEW_S = 300.0
MAX_ASSERTION = 20_000


class EntraError(Exception):
    """A refusal of the token endpoint: HTTP status, OAuth error and AADSTS number."""

    def __init__(self, status: int, error: str, number: int, description: str) -> None:
        super().__init__(description)
        self.status = status
        self.error = error
        self.number = number
        self.description = description


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate registered with an application."""

    thumbprint_sha1: str
    thumbprint_sha256: str
    public_key: rsa.RSAPublicKey

    @classmethod
    def from_pem(cls, pem: str) -> Certificate:
        """Reads a PEM certificate; raises ValueError when it is not one with an RSA key."""
        certificate = x509.load_pem_x509_certificate(pem.encode())
        key = certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("the certificate does not hold an RSA key")
        der = certificate.public_bytes(serialization.Encoding.DER)
        return cls(
            thumbprint_sha1=unpadded(hashlib.sha1(der).digest()),  # noqa: S324  the thumbprint Entra uses
            thumbprint_sha256=unpadded(hashlib.sha256(der).digest()),
            public_key=key,
        )


def unpadded(data: bytes) -> str:
    """Returns bytes in base64url without padding, the form of thumbprints."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _refused(number: int, reason: str) -> EntraError:
    return EntraError(401, "invalid_client", number, reason)


class AssertionChecker:
    """Checks assertions and remembers their ids, so that none is taken twice."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seen: dict[str, float] = {}

    def check(
        self, assertion: str, client_id: str, certificates: Iterable[Certificate], audiences: Iterable[str]
    ) -> None:
        """Returns when the assertion proves the application, raises the refusal otherwise."""
        header, claims, signed, signature = _parts(assertion)
        certificate = _certificate(header, certificates)
        _verify(str(header.get("alg")), certificate.public_key, signed, signature)
        if claims.get("iss") != client_id or claims.get("sub") != client_id:
            raise _refused(700021, "Client assertion application identifier doesn't match 'client_id' parameter.")
        found = claims.get("aud")
        if not set(audiences) & ({found} if isinstance(found, str) else set()):
            raise _refused(700023, "Client assertion audience claim does not match Realm issuer.")
        self._check_times(claims)
        self._check_replay(claims)

    def _check_times(self, claims: dict[str, Any]) -> None:
        now, expires = self.clock(), claims.get("exp")
        not_before = claims.get("nbf", now)
        numbers = [value for value in (expires, not_before) if isinstance(value, int | float)]
        if len(numbers) != 2 or isinstance(expires, bool):
            raise _refused(700024, "Client assertion is not within its valid time range: 'exp' is required.")
        if numbers[0] <= now - CLOCK_SKEW_S or numbers[1] > now + CLOCK_SKEW_S:
            raise _refused(700024, "Client assertion is not within its valid time range.")

    def _check_replay(self, claims: dict[str, Any]) -> None:
        jti = claims.get("jti")
        if not isinstance(jti, str) or not jti:
            raise _refused(50027, "JWT token is invalid or malformed: 'jti' is required.")
        now = self.clock()
        self.seen = {known: until for known, until in self.seen.items() if until > now - CLOCK_SKEW_S}
        if jti in self.seen:
            raise _refused(50013, "Assertion failed validation: the assertion was used before.")
        self.seen[jti] = float(claims["exp"])


def _parts(assertion: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    malformed = _refused(50027, "JWT token is invalid or malformed.")
    pieces = assertion.split(".")
    if len(pieces) != 3 or len(assertion) > MAX_ASSERTION:
        raise malformed
    try:
        header, claims, signature = (_decoded(piece) for piece in pieces)
        parsed_header, parsed_claims = orjson.loads(header), orjson.loads(claims)
    except (binascii.Error, orjson.JSONDecodeError, ValueError):
        raise malformed from None
    if not isinstance(parsed_header, dict) or not isinstance(parsed_claims, dict):
        raise malformed
    return parsed_header, parsed_claims, f"{pieces[0]}.{pieces[1]}".encode(), signature


def _decoded(piece: str) -> bytes:
    return base64.urlsafe_b64decode(piece + "=" * (-len(piece) % 4))


def _certificate(header: dict[str, Any], certificates: Iterable[Certificate]) -> Certificate:
    # One revision of the vendor page names the SHA-256 thumbprint "x5t"; both names are looked up in both forms.
    given = {str(header.get(name, "")).rstrip("=") for name in ("x5t", "x5t#S256")} - {""}
    for certificate in certificates:
        if given & {certificate.thumbprint_sha1, certificate.thumbprint_sha256}:
            return certificate
    raise _refused(
        700027,
        "The certificate with the given identifier used to sign the client assertion is not registered on application.",
    )


def _verify(algorithm: str, key: rsa.RSAPublicKey, signed: bytes, signature: bytes) -> None:
    pad: padding.AsymmetricPadding
    if algorithm == "PS256":
        pad = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)
    elif algorithm == "RS256":
        pad = padding.PKCS1v15()
    else:
        raise _refused(50027, f"JWT token is invalid or malformed: algorithm '{algorithm[:20]}' is not supported.")
    try:
        key.verify(signature, signed, pad, hashes.SHA256())
    except InvalidSignature:
        raise _refused(700027, "Client assertion failed signature validation.") from None
