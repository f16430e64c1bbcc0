"""One token for everything in this process that uses the same credential."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from samband.contract import Token
from samband.errors import RemoteError, RetryableError

if TYPE_CHECKING:
    from samband.contract import Logger

__all__ = ["LEEWAY_S", "TokenSource", "renewal_due"]

LEEWAY_S: Final = 120.0
_EARLY_RETRY_S: Final = 10.0


class TokenSource:
    """Keeps one token fresh for everything in this process that uses the same credential.

    Args:
        fetch: Obtains a token now; called by one task at a time.
        now: The clock, aware UTC.
        leeway_s: How long before its end a token is renewed; half of its lifetime at most.
        log: Told about renewals, never with the token.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Token]],
        *,
        now: Callable[[], datetime],
        leeway_s: float = LEEWAY_S,
        log: Logger,
    ) -> None:
        self._fetch = fetch
        self._now = now
        self._leeway_s = leeway_s
        self._log = log
        self._lock = asyncio.Lock()
        self._token: Token | None = None
        self._renew_at: datetime | None = None
        self._superseded: str | None = None
        self._flights = 0
        self._failure: Exception | None = None

    async def get(self) -> Token:
        """Gives a token that is valid for a while; obtains or renews one first when needed.

        Raises:
            AdapterError: What ``fetch`` raised. Everybody who waited for the same fetch hears the same.
        """
        token = self._fresh()
        if token is not None:
            return token
        return await self._after_flight(self._fresh, is_early=True)

    async def renew(self, stale: Token) -> Token:
        """Gives another token than the refused one; obtains it at most once per refused token.

        Raises:
            AdapterError: What ``fetch`` raised.
        """
        value = stale.value.get_secret_value()
        token = self._other_than(value)
        if token is None:
            token = await self._after_flight(lambda: self._other_than(value), is_early=False)
        self._superseded = value
        return token

    async def force(self) -> Token:
        """Obtains a token now, whatever there is; those who ask while one is being obtained share it.

        Raises:
            AdapterError: What ``fetch`` raised.
        """
        seen = self._flights
        return await self._after_flight(lambda: self._token if self._flights != seen else None, is_early=False)

    @property
    def kept(self) -> Token | None:
        """The token obtained last, whether it is still good or not: it may hold the refresh token for the next one."""
        return self._token

    @property
    def flights(self) -> int:
        """How often a token was asked for."""
        return self._flights

    def forget(self) -> None:
        """Drops the token; the next use obtains one. For credentials that have changed."""
        self._token = self._renew_at = self._superseded = None

    def _fresh(self) -> Token | None:
        is_due = self._renew_at is not None and self._now() >= self._renew_at
        return None if is_due else self._token

    def _other_than(self, value: str) -> Token | None:
        token = self._fresh()
        if token is None or (token.value.get_secret_value() == value and self._superseded != value):
            return None
        return token

    async def _after_flight(self, usable: Callable[[], Token | None], *, is_early: bool) -> Token:
        """Fetches under the lock unless somebody else just did, with success or without."""
        seen = self._flights
        async with self._lock:
            token = usable()
            if token is not None:
                return token
            if self._flights != seen and self._failure is not None:
                raise self._failure
            try:
                token = await self._fetch()
                self._keep(token)
            except Exception as error:
                self._flights += 1
                still = self._put_off() if is_early and isinstance(error, RetryableError) else None
                self._failure = None if still is not None else error
                if still is None:
                    raise
                return still
            self._flights += 1
            self._failure = None
            return token

    def _keep(self, token: Token) -> None:
        now = self._now()
        self._renew_at = renewal_due(token, now, self._leeway_s)
        self._token, self._superseded = token, None
        self._log.info("token_obtained", expires_at=str(token.expires_at or "never"))

    def _put_off(self) -> Token | None:
        """Gives the present token while it lasts, when they are away just as an early renewal is due."""
        token, retry_at = self._token, self._now() + timedelta(seconds=_EARLY_RETRY_S)
        if token is None or token.expires_at is None or token.expires_at <= retry_at:
            return None
        self._renew_at = retry_at
        self._log.warning("token_renewal_put_off", until=str(retry_at), expires_at=str(token.expires_at))
        return token


def renewal_due(token: Token, now: datetime, leeway_s: float = LEEWAY_S) -> datetime | None:
    """Gives when a token obtained now is renewed: ``leeway_s`` before its end, half of its lifetime at most.

    Raises:
        RemoteError: ``token_expired``: it is over already.
    """
    if token.expires_at is None:
        return None
    lifetime_s = (token.expires_at - now).total_seconds()
    if lifetime_s <= 0:
        raise RemoteError(
            "The token they gave had already expired.",
            code="token_expired",
            hint="Check the clock of this machine.",
        )
    return token.expires_at - timedelta(seconds=min(leeway_s, lifetime_s / 2))
