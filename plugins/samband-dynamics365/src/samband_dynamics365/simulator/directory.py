"""The paths of the simulated directory (Entra): discovery and the two token endpoints."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from urllib.parse import parse_qsl

from .assertions import EntraError
from .exchange import Answer
from .state import SimulatorState
from .tokens import error_answer

_DISCOVERY = re.compile(r"/([^/]+)/(v2\.0/)?\.well-known/openid-configuration")
_TOKEN = re.compile(r"/([^/]+)/oauth2/(v2\.0/)?token")
_JSON = "application/json"


def route(
    state: SimulatorState, method: str, path: str, headers: Mapping[str, str], body: bytes, origin: str
) -> Answer | None:
    """Answers a request to the directory, or returns nothing when the path is not one of its own."""
    token, discovery = _TOKEN.fullmatch(path), _DISCOVERY.fullmatch(path)
    try:
        if discovery is not None:
            return _discovery(state, discovery[1], origin)
        if token is not None:
            return _token(state, method, token[1], 2 if token[2] else 1, path, headers, body, origin)
    except EntraError as error:
        trace_id = str(uuid.uuid4())
        correlation_id = headers.get("client-request-id") or str(uuid.uuid4())
        payload = error_answer(error, state.clock.time(), trace_id, correlation_id)
        return Answer(status=error.status, payload=payload, content_type=_JSON)
    return None


def unauthorized(origin: str, tenant_id: str) -> Answer:
    """Returns the 401 that tells where tokens come from, as the .NET client's authority discovery reads it."""
    challenge = f"Bearer authorization_uri={origin}/{tenant_id}/oauth2/authorize, resource_id={origin}/"
    return Answer(status=401, raw=b"", content_type="text/plain", headers={"WWW-Authenticate": challenge})


def _discovery(state: SimulatorState, tenant: str, origin: str) -> Answer:
    if tenant.lower() not in state.office.tenants:
        raise EntraError(400, "invalid_tenant", 90002, f"Tenant '{tenant[:60]}' not found.")
    base = f"{origin}/{tenant}"
    payload = {
        "token_endpoint": f"{base}/oauth2/v2.0/token",
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "jwks_uri": f"{base}/discovery/v2.0/keys",
        "issuer": f"{origin}/{state.office.tenant_id}/v2.0",
        "response_types_supported": ["code"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "tenant_region_scope": "EU",
    }
    return Answer(status=200, payload=payload, content_type=_JSON)


def _token(
    state: SimulatorState,
    method: str,
    tenant: str,
    version: int,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    origin: str,
) -> Answer:
    if method != "POST":
        raise EntraError(400, "invalid_request", 900561, "The endpoint only accepts POST requests.")
    form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    payload = state.office.issue(tenant, version, form, headers.get("Authorization"), f"{origin}{path}", origin)
    no_store = {"Cache-Control": "no-store, no-cache", "Pragma": "no-cache"}
    return Answer(status=200, payload=payload, content_type=_JSON, headers=no_store)
