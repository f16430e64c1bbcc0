"""Who may call what: one bearer key in the Authorization header, and nothing else.

No other scheme is looked at: no JWT, no Basic, no cookie, no query parameter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from samband.api.parameters import ORGANIZATION_ID
from samband.api.problems import organization_not_found
from samband.errors import AccessError

if TYPE_CHECKING:
    from samband.access import Caller, Verb
    from samband.service import Service

__all__ = ["admit", "require_everywhere"]

# RFC 6750 section 2.1 (b68token); the scheme's name is case-insensitive by RFC 9110 section 11.1.
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/=-]{1,512})")


async def admit(request: web.Request, service: Service, verb: Verb) -> Caller:
    """Gives the caller, if the key is valid, reaches the organisation in the path and allows the verb."""
    caller = await service.authenticate_key(_presented_key(request))
    if caller is None:
        raise AccessError(
            "The key is not valid.",
            code="key_refused",
            hint="It may be mistyped, have been revoked, or have expired: use another one.",
        )
    structlog.contextvars.bind_contextvars(key=caller.key_id)
    org = request.match_info.get("org")
    if org is not None and not _reaches(caller, org):
        raise organization_not_found()
    if verb not in caller.verbs:
        raise AccessError(
            f"The key does not allow '{verb}'.", hint=f"Use a key with the verb '{verb}', or have it added."
        )
    return caller


def require_everywhere(caller: Caller) -> None:
    """Refuses a key that is bound to certain organisations, for what concerns the whole host."""
    if caller.organizations is not None:
        raise AccessError("The key is bound to certain organisations.", hint="Use a key that reaches all of them.")


def _reaches(caller: Caller, org: str) -> bool:
    if not ORGANIZATION_ID.fullmatch(org):
        return False
    return caller.reaches(org)


def _presented_key(request: web.Request) -> str:
    values = request.headers.getall("Authorization", [])
    if not values:
        raise AccessError("No key was presented.", code="key_missing", hint="Send 'Authorization: Bearer <key>'.")
    match = _BEARER.fullmatch(values[0])
    if len(values) > 1 or match is None:
        raise AccessError(
            "The Authorization header does not hold one bearer key.",
            code="key_refused",
            hint="Send exactly one 'Authorization: Bearer <key>' with a key made by samband; other schemes are not taken.",
        )
    return match[1]
