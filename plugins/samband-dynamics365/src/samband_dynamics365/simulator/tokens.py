"""The Entra token endpoints: client credentials by secret or by signed assertion, version 1 and version 2.

Sources: "OAuth 2.0 client credentials flow", "Microsoft identity platform certificate credentials", "AADSTS error
codes". Version 1 returns numbers as strings and takes ``resource``; version 2 takes ``scope`` ending in ``/.default``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

from .assertions import AssertionChecker, Certificate, EntraError

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(slots=True, kw_only=True)
class Application:
    """An app registration; ``secrets`` maps each secret to the moment it expires (seconds since 1970) or nothing."""

    client_id: str
    secrets: dict[str, float | None] = field(default_factory=dict)
    certificates: list[Certificate] = field(default_factory=list)
    consented: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """What stands behind an opaque access token."""

    client_id: str
    resource: str
    expires_at: float


def fingerprint(token: str) -> str:
    """Returns a short hash by which a token may be named in logs."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()[:12]


class TokenOffice:
    """The directory tenant: knows applications, checks credentials, issues and recognises access tokens."""

    def __init__(self, *, tenant_id: str, clock: Callable[[], float]) -> None:
        self.tenant_id = tenant_id
        self.tenants = {tenant_id, "samband-demo.example"}
        self.clock = clock
        self.lifetime_s = 3599.0
        self.applications: dict[str, Application] = {}
        self.resources: set[str] = set()
        self.tokens: dict[str, AccessToken] = {}
        self.issued = 0
        self.checker = AssertionChecker(clock)

    def register(self, application: Application) -> None:
        """Adds or replaces an app registration."""
        self.applications[application.client_id.lower()] = application

    def issue(
        self, tenant: str, version: int, form: Mapping[str, str], basic: str | None, endpoint: str, origin: str
    ) -> dict[str, Any]:
        """Returns the token response for one form post, or raises the refusal Entra would answer.

        ``endpoint`` is the URL the client posted to (an assertion's audience), ``origin`` the environment it is for.
        """
        if tenant.lower() not in self.tenants:
            raise EntraError(
                400,
                "invalid_request",
                90002,
                f"Tenant '{tenant[:60]}' not found. Check to make sure you have the "
                "correct tenant ID and are signing into the correct cloud.",
            )
        self._check_grant(form)
        client_id, secret = _client(form, basic)
        application = self._application(client_id, tenant)
        self._check_credential(application, form, secret, endpoint)
        resource = self._resource(version, form, origin, tenant)
        if not application.consented:
            raise EntraError(
                400,
                "invalid_grant",
                65001,
                f"The user or administrator has not consented to use the application with ID '{client_id}'.",
            )
        return self._grant(application, resource, version)

    def _check_grant(self, form: Mapping[str, str]) -> None:
        grant = form.get("grant_type")
        if not grant:
            raise EntraError(
                400, "invalid_request", 900144, "The request body must contain the following parameter: 'grant_type'."
            )
        if grant != "client_credentials":
            raise EntraError(
                400, "unsupported_grant_type", 70003, f"The app requested an unsupported grant type '{grant[:60]}'."
            )

    def _application(self, client_id: str, tenant: str) -> Application:
        if not client_id:
            raise EntraError(
                400, "invalid_request", 900144, "The request body must contain the following parameter: 'client_id'."
            )
        application = self.applications.get(client_id.lower())
        if application is None:
            raise EntraError(
                400,
                "unauthorized_client",
                700016,
                f"Application with identifier '{client_id[:60]}' was not found in "
                f"the directory '{tenant}'. This can happen if the application has not been installed by the "
                "administrator of the tenant or consented to by any user in the tenant.",
            )
        return application

    def _check_credential(
        self, application: Application, form: Mapping[str, str], secret: str | None, endpoint: str
    ) -> None:
        assertion = form.get("client_assertion")
        if assertion is not None and form.get("client_assertion_type") == ASSERTION_TYPE:
            audiences = {endpoint, endpoint.replace("/oauth2/token", "/oauth2/v2.0/token")}
            self.checker.check(assertion, application.client_id, application.certificates, audiences)
            return
        if secret is None:
            raise EntraError(
                401,
                "invalid_client",
                7000216,
                "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.",
            )
        if secret not in application.secrets:
            raise EntraError(
                401,
                "invalid_client",
                7000215,
                "Invalid client secret provided. Ensure the secret being sent in the "
                "request is the client secret value, not the client secret ID, for a secret added to app "
                f"'{application.client_id}'.",
            )
        expires_at = application.secrets[secret]
        if expires_at is not None and expires_at <= self.clock():
            raise EntraError(
                401,
                "invalid_client",
                7000222,
                f"The provided client secret keys for app '{application.client_id}' "
                "are expired. Visit the portal to create new keys for your app.",
            )

    def _resource(self, version: int, form: Mapping[str, str], origin: str, tenant: str) -> str:
        if version == 1:
            resource = form.get("resource", "").rstrip("/")
            if not resource:
                raise EntraError(
                    400, "invalid_request", 900144, "The request body must contain the following parameter: 'resource'."
                )
        else:
            resource = _resource_of_scope(form.get("scope", ""))
        if resource.lower() not in {known.lower() for known in self.resources | _same_host(origin)}:
            raise EntraError(
                400,
                "invalid_resource",
                500011,
                f"The resource principal named {resource[:100]} was not found in the "
                f"tenant named {tenant}. This can happen if the application has not been installed by the "
                "administrator of the tenant or consented to by any user in the tenant.",
            )
        return resource

    def _grant(self, application: Application, resource: str, version: int) -> dict[str, Any]:
        now = self.clock()
        token = secrets.token_urlsafe(48)
        self.tokens[token] = AccessToken(
            client_id=application.client_id, resource=resource, expires_at=now + self.lifetime_s
        )
        self.issued += 1
        self._forget_expired(now)
        seconds = max(int(self.lifetime_s), 0)
        if version == 2:
            return {
                "token_type": "Bearer",
                "expires_in": seconds,
                "ext_expires_in": seconds,
                "access_token": token,
            }
        return {
            "token_type": "Bearer",
            "expires_in": str(seconds),
            "ext_expires_in": str(seconds),
            "expires_on": str(int(now) + seconds),
            "not_before": str(int(now) - 300),
            "resource": resource,
            "access_token": token,
        }

    def _forget_expired(self, now: float) -> None:
        if len(self.tokens) > 1_000:
            self.tokens = {text: token for text, token in self.tokens.items() if token.expires_at > now}

    def recognise(self, header: str | None) -> AccessToken | None:
        """Returns the token of an ``Authorization`` header, unless it is missing, unknown, revoked or expired."""
        scheme, _, text = (header or "").partition(" ")
        token = self.tokens.get(text.strip()) if scheme.lower() == "bearer" else None
        return token if token is not None and token.expires_at > self.clock() else None

    def revoke(self, header: str | None) -> None:
        """Forgets the token of an ``Authorization`` header before its time."""
        self.tokens.pop((header or "").partition(" ")[2].strip(), None)


def _client(form: Mapping[str, str], basic: str | None) -> tuple[str, str | None]:
    """Returns the client id and secret, posted or in a Basic header."""
    scheme, _, encoded = (basic or "").partition(" ")
    if scheme.lower() == "basic":
        try:
            client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            raise EntraError(400, "invalid_request", 900144, "The Authorization header cannot be read.") from None
        return unquote_plus(client_id), unquote_plus(secret)
    return form.get("client_id", ""), form.get("client_secret")


def _resource_of_scope(scope: str) -> str:
    if not scope.strip():
        raise EntraError(
            400, "invalid_request", 900144, "The request body must contain the following parameter: 'scope'."
        )
    if len(scope.split()) > 1 or "://" not in scope:
        raise EntraError(
            400,
            "invalid_scope",
            70011,
            f"The provided value for the input parameter 'scope' is not valid. The scope {scope[:100]} is not valid.",
        )
    if not scope.strip().endswith("/.default"):
        raise EntraError(
            400,
            "invalid_scope",
            1002012,
            f"The provided value for scope {scope[:100]} is not valid. Client "
            "credential flows must have a scope value with /.default suffixed to the resource identifier.",
        )
    return scope.strip().removesuffix("/.default").rstrip("/")


def _same_host(origin: str) -> set[str]:
    """Returns the origin under both names of the loopback address."""
    return {origin, origin.replace("//127.0.0.1", "//localhost"), origin.replace("//localhost", "//127.0.0.1")}


def error_answer(error: EntraError, now: float, trace_id: str, correlation_id: str) -> dict[str, Any]:
    """Returns the error envelope of the token endpoint ("AADSTS error codes", handling)."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return {
        "error": error.error,
        "error_description": (
            f"AADSTS{error.number}: {error.description} Trace ID: {trace_id} Correlation ID: {correlation_id} "
            f"Timestamp: {stamp}"
        ),
        "error_codes": [error.number],
        "timestamp": stamp,
        "trace_id": trace_id,
        "correlation_id": correlation_id,
        "error_uri": f"https://login.microsoftonline.com/error?code={error.number}",
    }
