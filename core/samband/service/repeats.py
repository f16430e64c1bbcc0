"""Repeats: what was answered to a request with an Idempotency-Key, kept for 24 hours."""

from __future__ import annotations

from samband.errors import ConflictError, InvalidError
from samband.service.parts import Parts
from samband.store.answers import Found, Request

LOCK_S = 180.0
"""How long a request may be worked on; longer than the slowest one. After that nobody is working on it any more."""


class Repeats:
    """Kept answers. Not for Python callers, who see what their call returned or raised."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def order(self, *, caller: str, route: str, key: str, organization: str, said: str) -> Request:
        # The organisation is part of the route: a caller that uses one key in two organisations makes two requests, and
        # on PostgreSQL what is kept for the one cannot even be seen from the other.
        route = f"{organization}/{route}"
        return Request(caller=caller, route=route, key=key, organization_id=organization, fingerprint=said)

    async def begin(self, request: Request) -> Found | None:
        """Reserves the key; gives the answer kept for it when there is one.

        Raises:
            InvalidError: The key belongs to another request.
            ConflictError: The same request is being worked on, or nobody knows what came of it.
        """
        found = await self._parts.store.answers.begin(request, lock_s=LOCK_S)
        if found is None:
            return None
        if found.fingerprint != request.fingerprint:
            raise InvalidError(
                "This Idempotency-Key was used for another request.",
                code="idempotency_key_reused",
                hint="Use a new key for a new request.",
            )
        if found.state == "unknown":
            raise ConflictError(
                "The request with this Idempotency-Key was begun, and its end is not known.",
                code="idempotency_outcome_unknown",
                hint="See whether it was done; if not, send it with a new key.",
            )
        if found.state != "answered":
            raise ConflictError(
                "The request with this Idempotency-Key is being worked on.",
                code="idempotency_in_progress",
                hint="Send it again in a moment: it will get the same answer.",
            )
        return found

    async def keep(self, request: Request, *, status: int, headers: dict[str, str], body: bytes) -> None:
        await self._parts.store.answers.keep(request, status=status, headers=headers, body=body)

    async def forget(self, request: Request) -> None:
        await self._parts.store.answers.forget(request)

    async def doubt(self, request: Request) -> None:
        await self._parts.store.answers.doubt(request)
