"""How a client proves who it is to a token endpoint: by its secret, by a signed assertion, or not at all."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import quote_plus

from pydantic import SecretStr

from samband.errors import AuthError, ContractError

__all__ = ["AssertionAlg", "Client", "SecretPlace"]

SecretPlace = Literal["client_secret_post", "client_secret_basic"]
AssertionAlg = Literal["PS256", "RS256"]

_ASSERTION_LIFETIME_S: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A registered client; with neither a secret nor a key it is a public one.

    Attributes:
        client_id: As registered.
        client_secret: The secret; or else a private key.
        auth_method: Where the secret travels.
        private_key_pem: RSA key for ``private_key_jwt``.
        certificate_pem: The key's certificate.
        assertion_alg: How the assertion is signed.
    """

    client_id: str
    client_secret: SecretStr | None = None
    auth_method: SecretPlace = "client_secret_post"
    private_key_pem: SecretStr | None = field(default=None, repr=False)
    certificate_pem: str | None = None
    assertion_alg: AssertionAlg = "PS256"

    def __post_init__(self) -> None:
        if self.client_secret is not None and self.private_key_pem is not None:
            raise _either_or()

    def demand_proof(self) -> None:
        """Refuses a public client, for a grant that consists of the client's own proof."""
        if self.client_secret is None and self.private_key_pem is None:
            raise _either_or()

    @property
    def secrets(self) -> list[SecretStr]:
        return [secret for secret in (self.client_secret, self.private_key_pem) if secret is not None]

    @property
    def named_in_body(self) -> str | None:
        """Gives the client id where the body has to name it beside (or instead of) a proof.

        Entra wants the client named beside an assertion too; RFC 7523 allows it. `ClientAuth` adds it beside a secret.
        """
        return self.client_id if self.client_secret is None else None

    def signed(self, grant: str, *, token_url: str, now: datetime) -> tuple[str, dict[str, str], str]:
        """Gives address, headers and body of the request for ``grant``, proof included."""
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if self.client_secret is None and self.private_key_pem is None:
            return token_url, headers, grant
        url, headers, body = self._proof(token_url, now).prepare("POST", token_url, headers, grant)
        return str(url), dict(headers), str(body)

    def _proof(self, token_url: str, now: datetime) -> Any:
        if self.client_secret is not None:
            return _secret_auth(self.client_id, self.client_secret, self.auth_method)
        return _key_auth(now, token_url, self.client_id, self.private_key_pem, self.certificate_pem, self.assertion_alg)


def _either_or() -> ContractError:
    return ContractError("A token is asked for with either a client secret or a private key.", field="client_secret")


def _secret_auth(client_id: str, client_secret: SecretStr, auth_method: str) -> Any:
    from authlib.oauth2.auth import ClientAuth

    secret = client_secret.get_secret_value()
    if auth_method == "client_secret_basic":
        # authlib puts them together as they are, which strict servers refuse for a secret with + / or %.
        return ClientAuth(quote_plus(client_id), quote_plus(secret), auth_method)
    return ClientAuth(client_id, secret, auth_method)


def _key_auth(
    now: datetime,
    token_url: str,
    client_id: str,
    private_key_pem: SecretStr | None,
    certificate_pem: str | None,
    alg: str,
) -> Any:
    from authlib.oauth2.auth import ClientAuth
    from authlib.oauth2.rfc7523 import PrivateKeyJWT
    from joserfc.errors import JoseError
    from joserfc.jwk import RSAKey

    assert private_key_pem is not None
    try:
        key = RSAKey.import_key(private_key_pem.get_secret_value())
        is_private = key.is_private
    except (JoseError, ValueError, TypeError):
        # Not chained: a parser may quote what it was given.
        is_private = False
    if not is_private:
        raise AuthError(
            "The private key cannot be read.",
            reason="secret_wrong",
            hint="Enter an RSA key as unencrypted PEM, from -----BEGIN to -----END.",
            field="private_key_pem",
        )
    issued = int(now.timestamp())
    claims = {"aud": token_url, "iat": issued, "nbf": issued, "exp": issued + _ASSERTION_LIFETIME_S}
    header = {} if certificate_pem is None else {"x5t#S256": _thumbprint(certificate_pem, key, now)}
    return ClientAuth(client_id, key, PrivateKeyJWT(token_url, claims=claims, headers=header, alg=alg))


def _thumbprint(certificate_pem: str, key: Any, now: datetime) -> str:
    """Gives the certificate's SHA-256 thumbprint after checking that it is the key's own and has not expired."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        is_own = certificate.public_key() == key.get_op_key("verify")
    except (ValueError, TypeError):
        raise AuthError(
            "The certificate cannot be read.",
            reason="secret_wrong",
            hint="Enter it as PEM, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----.",
            field="certificate_pem",
        ) from None
    if not is_own:
        raise AuthError(
            "The certificate does not belong to the private key.",
            reason="secret_wrong",
            hint="Enter the key and the certificate that were made together.",
            field="certificate_pem",
        )
    if certificate.not_valid_after_utc <= now:
        raise AuthError(
            f"The certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}.",
            reason="certificate_expired",
            hint="Make a new certificate, upload it at the other side and enter it here.",
            field="certificate_pem",
        )
    return base64.urlsafe_b64encode(certificate.fingerprint(SHA256())).rstrip(b"=").decode()
