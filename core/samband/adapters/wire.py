"""What one plugin holds on one event loop: its connections, its tokens, and the contexts its hooks are given."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import BaseModel, SecretStr

from samband.adapters.answers import broken_promise, checked_account, checked_hosts, checked_token
from samband.adapters.containment import Containment
from samband.adapters.pluginlog import PluginLog
from samband.adapters.sharedtokens import Held, SharedTokens, TokenDoor
from samband.contract import Context, Limits, Manifest, Token
from samband.errors import UnavailableError
from samband.http import Outbound
from samband.oauth import MAX_TOKEN_ANSWER_BYTES, TokenSource
from samband.redaction import Redactor

__all__ = ["Connection", "HookCaller", "Wire", "secrets_of_token"]

AUTHENTICATE_TIMEOUT_S = 60.0
DEFAULT_ACCOUNT = "default"

HookCaller = Callable[..., object]
"""``(hook, **arguments) -> what this one plugin's hook gives``; None when it gives nothing or has no such hook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Which integration is meant, and what it is set to.

    Attributes:
        organization_id: Whose integration it is.
        integration_id: Which one.
        revision: Raised by every edit; tokens of an older revision are forgotten.
        settings: As stored; parsed by the adapter into the plugin's model.
        credentials: Decrypted; parsed by the adapter into the plugin's model, and never shown.
        is_trial: New settings or credentials are being tried before they replace the old ones: no kept token is used,
            and what is obtained is thrown away.
    """

    organization_id: str
    integration_id: str
    revision: int
    settings: Mapping[str, Any]
    credentials: Mapping[str, Any] = field(repr=False)
    is_trial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A connection whose settings and credentials are parsed: what a context is made of."""

    connection: Connection
    settings: BaseModel
    credentials: BaseModel = field(repr=False)


def secrets_of_token(token: Token) -> list[SecretStr]:
    """Gives everything in a token that must never be seen."""
    refresh = [] if token.refresh_token is None else [token.refresh_token]
    return [token.value, *refresh, *token.fills.values()]


class Wire:
    """Belongs to one event loop and is used on it alone; a plugin's fresh lane gets a fresh wire.

    Args:
        manifest: The plugin's.
        call_hook: Calls a hook on this plugin alone.
        outbound: The loop's way out.
        limits: Of one external account.
        redactor: Learns every token.
        contained: Translates what ``authenticate`` raises.
        accounted: Writes a call of ``authenticate`` into log and metrics.
        now: The clock, aware UTC.
        tokens: Where tokens are kept for all processes; None keeps them in memory, for this loop alone.
    """

    def __init__(
        self,
        manifest: Manifest,
        call_hook: HookCaller,
        *,
        outbound: Outbound,
        limits: Limits,
        redactor: Redactor,
        contained: Containment,
        accounted: Callable[[str], AbstractContextManager[None]],
        now: Callable[[], datetime],
        tokens: TokenDoor | None = None,
    ) -> None:
        self.outbound = outbound
        self._manifest = manifest
        self._call_hook = call_hook
        self._limits = limits
        self._limits_for_tokens = replace(limits, max_body_bytes=min(limits.max_body_bytes, MAX_TOKEN_ANSWER_BYTES))
        self._redactor = redactor
        self._contained = contained
        self._accounted = accounted
        self._now = now
        self._tokens = tokens
        self._sources: dict[str, tuple[int, TokenSource | SharedTokens]] = {}

    def token_source(self, link: Link) -> TokenSource | SharedTokens:
        """Gives the one source of tokens of an integration; an edit of the integration starts a new one."""
        connection = link.connection
        if connection.is_trial:
            return self._own_source(link)
        revision, source = self._sources.get(connection.integration_id, (None, None))
        if source is None or revision != connection.revision:
            source = self._own_source(link) if self._tokens is None else self._shared_source(link, self._tokens)
            self._sources[connection.integration_id] = (connection.revision, source)
        return source

    async def renew_token(self, link: Link) -> Held:
        """Has the token renewed now; those who ask at once share one renewal."""
        source = self.token_source(link)
        if isinstance(source, SharedTokens):
            return await source.force()
        token = await source.force()
        return Held(token=token, generation=source.flights, renew_at=None, renewed_at=self._now())

    def _own_source(self, link: Link) -> TokenSource:
        async def fetch() -> Token:
            return await self._authenticate(link, source.kept)

        source = TokenSource(fetch, now=self._now, log=self._log(link, None))
        return source

    def _shared_source(self, link: Link, door: TokenDoor) -> SharedTokens:
        loop = asyncio.get_running_loop()

        def ask(kept: Token | None) -> concurrent.futures.Future[Token]:
            asking = self._authenticate(link, kept)
            try:
                return asyncio.run_coroutine_threadsafe(asking, loop)
            except RuntimeError:
                asking.close()
                raise UnavailableError(f"{self._manifest.name} was stopped.", code="plugin_stuck") from None

        return SharedTokens(
            door, link.connection, self._manifest.name, ask, learn=self.learn, now=self._now, log=self._log(link, None)
        )

    def context(
        self,
        link: Link,
        *,
        run_id: str | None = None,
        is_authenticating: bool = False,
        kept: Token | None = None,
        progress: Callable[[int, int | None], None] = lambda done, total: None,
    ) -> Context:
        """Gives what a hook is given. Credentials and the token ``kept`` last are in it only while authenticating."""
        log = self._log(link, run_id)
        name = self._manifest.name
        with self._contained.around("egress_hosts"):
            hosts = checked_hosts(name, self._manifest.egress_hosts(link.settings))
        with self._contained.around("account"):
            account = checked_account(name, self._manifest.account(link.settings))
        if account == DEFAULT_ACCOUNT:
            # A plugin that names no account: what one organisation's system does must not hold up another's.
            account = f"{link.connection.integration_id}/{account}"
        if is_authenticating:
            # Signing in is another service than the data, with limits and outages of its own.
            account += "/sign-in"
        session = self.outbound.session(
            integration_id=link.connection.integration_id,
            account=account,
            hosts=hosts,
            limits=self._limits_for_tokens if is_authenticating else self._limits,
            tokens=None if is_authenticating else self.token_source(link),
            log=log,
            run_id=run_id,
        )
        return Context(
            organization_id=link.connection.organization_id,
            integration_id=link.connection.integration_id,
            run_id=run_id,
            settings=link.settings,
            credentials=link.credentials if is_authenticating else None,
            token=kept,
            http=session,
            now=self._now,
            log=log,
            progress=progress,
        )

    async def awaited(self, hook: str, **arguments: object) -> object:
        """Gives what an ``async def`` hook returns."""
        result = self._call_hook(hook, **arguments)
        if not isinstance(result, Awaitable):
            raise broken_promise(self._manifest.name, hook, f"gave {type(result).__name__}", "write it as async def.")
        return await result

    async def _authenticate(self, link: Link, kept: Token | None) -> Token:
        with self._accounted("authenticate"):
            self.learn(kept)
            context = self.context(link, is_authenticating=True, kept=kept)
            with self._contained.around("authenticate"):
                async with asyncio.timeout(AUTHENTICATE_TIMEOUT_S):
                    token = await self.awaited("authenticate", ctx=context)
                checked = checked_token(self._manifest.name, token)
        self.learn(checked)
        return checked

    def learn(self, token: Token | None) -> None:
        """Has the redactor know a token, one of another process or of an earlier start too."""
        for secret in () if token is None else secrets_of_token(token):
            self._redactor.add(secret)

    def _log(self, link: Link, run_id: str | None) -> PluginLog:
        connection = link.connection
        bound = {
            "plugin": self._manifest.name,
            "organization": connection.organization_id,
            "integration": connection.integration_id,
        }
        return PluginLog(self._redactor, bound if run_id is None else {**bound, "run": run_id})
