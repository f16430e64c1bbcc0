"""An integration's tokens as one lane sees them: kept by the host for all processes, and remembered here for a while."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from samband.contract import Logger, Token
from samband.errors import AdapterError, NotReadyError, RemoteError, RetryableError, SambandError, UnavailableError

if TYPE_CHECKING:
    from samband.adapters.wire import Connection

__all__ = ["AskForToken", "Held", "SharedTokens", "TokenDoor"]

_LOOK_AGAIN_S: Final = 10.0
_INTERIM_S: Final = 1.0

AskForToken: TypeAlias = Callable[[Token | None], "concurrent.futures.Future[Token]"]
"""``(the token kept last) -> a new one``: calls ``authenticate`` inside the plugin's lane. May be called on any thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A token and what is known about it.

    Attributes:
        generation: Grows with every token that is kept for the integration.
        renew_at: From then on the host is asked again; None for never.
        renewed_at: When it was obtained.
    """

    token: Token
    generation: int
    renew_at: datetime | None
    renewed_at: datetime


class TokenDoor(Protocol):
    """Where tokens are kept for all processes; `samband.tokens.TokenService` is one. Used on any event loop."""

    async def obtain(
        self,
        connection: Connection,
        ask: AskForToken,
        *,
        plugin: str,
        beyond: int | None = None,
        is_forced: bool = False,
    ) -> Held:
        """Gives a token that everybody shares, and obtains one under the lease when there is none.

        Args:
            connection: On whose behalf.
            ask: Obtains a token now.
            plugin: For figures.
            beyond: The generation that was refused: a later one is wanted.
            is_forced: A later one is wanted than there is now.

        Raises:
            AdapterError: What ``ask`` raised, now or (for a refused grant) some time ago.
            SambandError: The store's own.
        """


class SharedTokens:
    """Where the sessions of one connection get their token from, inside one lane.

    Args:
        door: Where tokens are kept.
        connection: Of the integration.
        plugin: For figures.
        ask: See `AskForToken`.
        learn: Told every token, so that none is ever written anywhere.
        now: The clock, aware UTC.
        log: Never told the token.
    """

    def __init__(
        self, door: TokenDoor, connection: Connection, plugin: str, ask: AskForToken, *,
        learn: Callable[[Token], None], now: Callable[[], datetime], log: Logger,
    ) -> None:  # fmt: skip
        self._door = door
        self._connection = connection
        self._plugin = plugin
        self._ask = ask
        self._learn = learn
        self._now = now
        self._log = log
        self._held: Held | None = None
        self._look_at: datetime | None = None

    async def get(self) -> Token:
        """Gives a token that is valid for a while.

        While the database or the other side is away, the one that is remembered goes on being used to its end.

        Raises:
            AdapterError: There is none to be had.
        """
        held = self._held
        if held is not None and (self._look_at is None or self._now() < self._look_at):
            return held.token
        try:
            return (await self._obtain()).token
        except RetryableError as error:
            token = self._put_off(error)
            if token is None:
                raise
            return token

    async def renew(self, stale: Token) -> Token:
        """Gives another token than the refused one.

        The host first looks whether somebody has renewed it already, and has it renewed at most once.

        Raises:
            AdapterError: There is none to be had.
        """
        held = self._held
        if held is None or stale is not held.token:
            return await self.get()  # another call has renewed it meanwhile
        return (await self._obtain(beyond=held.generation)).token

    async def force(self) -> Held:
        """Has the token renewed now, whatever there is; those who ask at once share one renewal.

        Raises:
            AdapterError: There is none to be had.
        """
        return await self._obtain(is_forced=True)

    async def _obtain(self, *, beyond: int | None = None, is_forced: bool = False) -> Held:
        try:
            held = await self._door.obtain(
                self._connection, self._ask, plugin=self._plugin, beyond=beyond, is_forced=is_forced
            )
        except AdapterError:
            raise
        except NotReadyError as error:
            raise UnavailableError(error.message, code=error.code, hint=error.hint) from error
        except SambandError as error:
            # Inside a hook only adapters' errors mean something; this one is ours and must not be blamed on the plugin.
            raise RemoteError(error.message, code=error.code, hint=error.hint) from error
        return self._remember(held)

    def _remember(self, held: Held) -> Held:
        if self._held is not None and held.generation < self._held.generation:
            return self._held  # answers overtook each other
        if self._held is None or held.generation != self._held.generation:
            self._learn(held.token)
            self._held = held
        self._look_at = held.renew_at
        if held.renew_at is not None and held.renew_at <= self._now():
            # Due already: somebody else is renewing it, or it could not be renewed just now.
            self._look_at = self._within(held.token, _INTERIM_S)
        return self._held

    def _within(self, token: Token, seconds: float) -> datetime:
        """Gives an instant within so many seconds, and before the token is over."""
        now, ends = self._now(), token.expires_at
        left_s = seconds if ends is None else max(0.0, (ends - now).total_seconds() / 2)
        return now + timedelta(seconds=min(seconds, left_s))

    def _put_off(self, error: RetryableError) -> Token | None:
        held = self._held
        if held is None or (held.token.expires_at is not None and held.token.expires_at <= self._now()):
            return None
        self._look_at = self._within(held.token, _LOOK_AGAIN_S)
        self._log.warning("token_renewal_put_off", until=str(self._look_at), code=error.code)
        return held.token
