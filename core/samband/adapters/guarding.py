"""A session that lets nothing out for a worker whose lease has run out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from samband.contract import HttpResponse, HttpSession
from samband.errors import OutcomeUnknownError

__all__ = ["GuardedSession"]


class GuardedSession:
    """Refuses requests once the lease is gone: a worker that was paused must not send what another one sends by now.

    What remains is a pause between this look and the socket that is longer than the lease and the time after which an
    item is given back; only the other side could close that, by refusing a key that it knows.
    """

    def __init__(self, session: HttpSession, is_held: Callable[[], bool]) -> None:
        self._session = session
        self._is_held = is_held

    async def request(self, method: str, url: str, **options: Any) -> HttpResponse:
        if not self._is_held():
            raise OutcomeUnknownError(
                "This worker has lost its lease, so it sends nothing more.", code="lease_lost",
                hint="Another worker has taken over and looks up what was sent.",
            )  # fmt: skip
        return await self._session.request(method, url, **options)

    async def renew_token(self) -> None:
        await self._session.renew_token()

    async def fill_names(self) -> Collection[str]:
        return await self._session.fill_names()
