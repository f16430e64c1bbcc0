"""A token endpoint that rotates refresh tokens and keeps account of what it was asked, and an API that wants its tokens."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

CLIENT_ID, CLIENT_SECRET = "samband-test", "canary-client-secret"


@dataclass
class RotatingServer:
    """Gives access token ``a<n>`` with refresh token ``r<n>``; ``r<n>`` is good once.

    Attributes:
        lifetime_s: Of access tokens.
        is_strict: A spent refresh token revokes all that descends from it (RFC 9700 section 4.14.2).
        delay_s: How long the token endpoint takes.
        hold: ``before`` or ``after`` the rotation the next answers wait until ``release`` is set.
        arrived: Set when a token request has come (and, with ``after``, has been worked on).
        spent_twice: Refresh tokens that were used though spent.
        too_early: Renewals of a token that was not due, and that the API had not refused.
        most_at_once: The most token requests that were under way at one time.
    """

    lifetime_s: int = 3600
    is_strict: bool = False
    delay_s: float = 0.0
    hold: str = ""
    number: int = 0
    issued_at: float = field(default_factory=time.time)
    is_revoked: bool = False
    is_away: bool = False
    answers_nothing: bool = False
    scope_refused: bool = False
    refused_by_api: set[int] = field(default_factory=set)
    token_calls: int = 0
    renewals: int = 0
    spent_twice: int = 0
    too_early: int = 0
    most_at_once: int = 0
    api_calls: int = 0
    api_refusals: int = 0
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    forms: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    _live: int = 0

    async def token(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.forms.append(form)
        self.token_calls += 1
        self._live += 1
        self.most_at_once = max(self.most_at_once, self._live)
        try:
            return await self._answer(form)
        finally:
            self._live -= 1

    async def _answer(self, form: dict[str, str]) -> web.StreamResponse:
        if self.is_away:
            return web.Response(status=503, headers={"Retry-After": "1"})
        if self.hold == "before":
            await self._held()
        else:
            await asyncio.sleep(self.delay_s)
        answer = self._judged(form)
        if self.hold == "after":
            await self._held()
        if self.answers_nothing:
            raise web.HTTPGatewayTimeout()
        return answer

    async def _held(self) -> None:
        self.arrived.set()
        await self.release.wait()

    def _judged(self, form: dict[str, str]) -> web.Response:
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return _no("invalid_client")
        if self.scope_refused:
            return _no("invalid_scope")
        if form.get("grant_type") == "authorization_code":
            return self._traded(form)
        if form.get("refresh_token") != f"r{self.number}" or self.is_revoked:
            self.spent_twice += 1
            self.is_revoked = self.is_revoked or self.is_strict
            return _no("invalid_grant")
        due_at = self.issued_at + self.lifetime_s - min(120.0, self.lifetime_s / 2)
        self.too_early += time.time() < due_at - 0.05 and self.number not in self.refused_by_api
        self.renewals += 1
        return self._issued()

    def _traded(self, form: dict[str, str]) -> web.Response:
        asked = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if asked is None or (asked["code_challenge"], asked["redirect_uri"]) != (challenge, form.get("redirect_uri")):
            return _no("invalid_grant")
        self.is_revoked = False
        return self._issued()

    def _issued(self) -> web.Response:
        self.number += 1
        self.issued_at = time.time()
        return web.json_response(
            {
                "access_token": f"a{self.number}", "refresh_token": f"r{self.number}", "token_type": "Bearer",
                "expires_in": self.lifetime_s,
            }
        )  # fmt: skip

    async def data(self, request: web.Request) -> web.Response:
        self.api_calls += 1
        is_good = request.headers.get("Authorization") == f"Bearer a{self.number}"
        # A token that was replaced a moment ago is still good at most servers, and so it is here.
        is_recent = request.headers.get("Authorization") == f"Bearer a{self.number - 1}"
        if self.number in self.refused_by_api or not (is_good or is_recent):
            self.api_refusals += 1
            return web.json_response({}, status=401)
        return web.json_response({"name": "Foreningen"})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RotatingServer]:
        application = web.Application()
        application.router.add_post("/token", self.token)
        application.router.add_get("/data", self.data)
        async with TestServer(application) as server:
            self.url = f"http://127.0.0.1:{server.port}"
            try:
                yield self
            finally:
                self.release.set()


def _no(error: str) -> web.Response:
    return web.json_response({"error": error, "error_description": "They say no."}, status=400)
