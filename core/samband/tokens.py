"""The token service: one token for every integration, kept encrypted, and renewed by one worker at a time.

It executes `samband.rules.refresh`. In one process everybody who needs the same token waits for one flight; across
processes the flight holds a lease in the database while it asks. A flight belongs to the host and not to whoever began it:
a caller that is cancelled does not cut off a request whose answer may hold the only refresh token there is.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime as dt
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

import structlog

from samband.acting import act_for
from samband.adapters.sharedtokens import AskForToken, Held
from samband.adapters.wire import AUTHENTICATE_TIMEOUT_S, Connection
from samband.contract import Token
from samband.errors import AuthError, NotReadyError, RemoteError, RetryableError, SambandError, UnavailableError
from samband.oauth import LEEWAY_S, renewal_due
from samband.rules.refresh import Ask, Asked, Change, Done, Failed, GiveBack, Keep, Look, Pause, Refuse, Renewal, Row
from samband.rules.refusals import judge_refusal
from samband.store import Store
from samband.store.tokens import Claim, KeptAccess, credential_mark

__all__ = ["LEASE_S", "RefreshObserver", "TokenService", "claim_of"]

_ANSWER_WITHIN_S: Final = AUTHENTICATE_TIMEOUT_S + 10.0
LEASE_S: Final = _ANSWER_WITHIN_S + 20.0
"""Longer than any question to a token endpoint may take, with room for keeping the answer."""

_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 1.0
_KEEP_PATIENCE_S: Final = 300.0
_CLOSE_WITHIN_S: Final = 10.0

log = structlog.stdlib.get_logger("samband.tokens")
T = TypeVar("T")


class RefreshObserver(Protocol):
    """Told of every time a token was asked for, for metrics."""

    def token_refreshed(self, *, plugin: str, outcome: str) -> None:
        """``outcome`` is ``renewed``, ``refused`` (somebody has to sign in), ``dropped`` (came too late) or ``failed``."""


@dataclass(frozen=True, slots=True)
class _Order:
    """One flight: for whom, and by what."""

    claim: Claim
    ask: AskForToken
    plugin: str
    beyond: int | None


class TokenService:
    """Keeps the tokens of one host; made on the host's event loop and used from any.

    Args:
        store: Where they are kept.
        owner: Names this process on leases.
        lease_s: How long a worker that has gone silent keeps others from asking. Must outlast the slowest answer.
        leeway_s: How long before its end a token is renewed; half of its lifetime at most.
        observer: For metrics.
        now: The clock, aware UTC. Leases go by the database's.
    """

    def __init__(
        self, store: Store, *, owner: str = "", lease_s: float = LEASE_S, leeway_s: float = LEEWAY_S,
        observer: RefreshObserver | None = None, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:  # fmt: skip
        self._store = store
        self._owner = owner
        self._lease_s = lease_s
        self._leeway_s = leeway_s
        self._observer = observer
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._flights: dict[tuple[str, str], asyncio.Task[Held]] = {}
        self._is_closed = False

    # ── asked from any loop ──────────────────────────────────────────────────

    async def obtain(
        self, connection: Connection, ask: AskForToken, *, plugin: str, beyond: int | None = None,
        is_forced: bool = False,
    ) -> Held:  # fmt: skip
        """Gives a token that everybody shares; see `samband.adapters.sharedtokens.TokenDoor`."""
        order = _Order(claim_of(connection, self._owner), ask, plugin, beyond)
        return await self._on_own_loop(self._obtain(order, is_forced=is_forced))

    async def close(self) -> None:
        """Begins no new flight and lets those under way come home, for a while."""
        self._is_closed = True
        if self._flights:
            await asyncio.wait(list(self._flights.values()), timeout=_CLOSE_WITHIN_S)
        for flight in list(self._flights.values()):
            flight.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    async def _on_own_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits ``work`` on the host's loop, where the database belongs; a cancelled caller cancels it there."""
        if asyncio.get_running_loop() is self._loop:
            return await work
        try:
            crossing = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise UnavailableError("The host is stopping.", code="host_stopping") from None
        return await asyncio.wrap_future(crossing)

    # ── one flight for all who ask in this process ───────────────────────────

    async def _obtain(self, order: _Order, *, is_forced: bool) -> Held:
        if is_forced:
            row = await self._store.tokens.row(order.claim, self._now())
            order = replace(order, beyond=row.generation)
        while True:
            held = await asyncio.shield(self._flight(order))
            if order.beyond is None or held.generation > order.beyond:
                return held

    def _flight(self, order: _Order) -> asyncio.Task[Held]:
        key = (order.claim.integration_id, order.claim.mark)
        flight = self._flights.get(key)
        if flight is None:
            if self._is_closed:
                raise UnavailableError("The host is stopping.", code="host_stopping")
            with act_for(organization=order.claim.organization_id, actor="samband"):
                flight = asyncio.create_task(self._fly(order), name="samband-token")
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._land(key, done))
        return flight

    def _land(self, key: tuple[str, str], flight: asyncio.Task[Held]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # everybody who waited has it, and it may be that nobody is left

    # ── one worker's way through the protocol ────────────────────────────────

    async def _fly(self, order: _Order) -> Held:
        renewal, waiting = Renewal(beyond=order.beyond), _Waiting(2 * self._lease_s)
        while not renewal.is_over:
            renewal = renewal.after(await self._do(order, renewal, waiting))
        end = renewal.step
        if isinstance(end, Done):
            return _held(end.row)
        assert isinstance(end, Failed)
        raise _error_of(end)

    async def _do(self, order: _Order, renewal: Renewal, waiting: _Waiting) -> Any:
        match renewal.step:
            case Look():
                return await self._store.tokens.row(order.claim, self._now())
            case Pause():
                return await waiting.pause()
            case Ask(kept, was_in_flight):
                return await self._ask(order, None if kept is None else kept.token, was_in_flight)
            case Keep() | Refuse() as change:
                return await self._settle(order, change)
            case GiveBack() as change:
                return await self._give_back(order, change)
            case Done() | Failed():
                raise RuntimeError("the renewal is over")
            case change:
                return await self._change(order, change)

    async def _change(self, order: _Order, change: Change) -> Row | None:
        return await self._store.tokens.change(order.claim, change, now=self._now(), lease_s=self._lease_s)

    async def _settle(self, order: _Order, change: Keep | Refuse) -> Row | None:
        """Writes what came of asking; a database that is away is waited for, since this may be the only copy."""
        waiting = _Waiting(_KEEP_PATIENCE_S)
        while True:
            try:
                row = await self._change(order, change)
                break
            except NotReadyError:
                if waiting.is_over:
                    raise
                await waiting.pause()
        outcome = "dropped" if row is None else "renewed" if isinstance(change, Keep) else "refused"
        self._note(order, outcome)
        return row

    async def _give_back(self, order: _Order, change: GiveBack) -> Row | None:
        try:
            return await self._change(order, change)
        except NotReadyError:
            return None  # it runs out by itself

    async def _ask(self, order: _Order, kept: Token | None, was_in_flight: bool) -> Asked:
        try:
            token = await _answer_of(order.ask(kept))
            return Asked("token", self._access(token))
        except AuthError as error:
            if judge_refusal(error).is_final:
                return Asked("refused", _told(error, was_in_flight))
            self._note(order, "failed", error.code)
            return Asked("failed", error, is_plain=True)
        except SambandError as error:
            self._note(order, "failed", error.code)
            return Asked("failed", error, is_passing=isinstance(error, RetryableError))

    def _access(self, token: Token) -> KeptAccess:
        now = self._now()
        try:
            renew_at = renewal_due(token, now, self._leeway_s)
        except RemoteError:
            if token.refresh_token is None:
                raise
            # Over when it came, but what it can be renewed with must not be lost.
            renew_at = now
        return KeptAccess(token=token, renew_at=renew_at, renewed_at=now)

    def _note(self, order: _Order, outcome: str, code: str = "") -> None:
        log.info("token_" + outcome, plugin=order.plugin, integration=order.claim.integration_id, code=code)
        if self._observer is not None:
            self._observer.token_refreshed(plugin=order.plugin, outcome=outcome)


class _Waiting:
    """Short growing pauses, up to a patience over which they are not continued."""

    def __init__(self, patience_s: float) -> None:
        self._ends_at = asyncio.get_running_loop().time() + patience_s
        self._next_s = _FIRST_PAUSE_S

    @property
    def is_over(self) -> bool:
        return asyncio.get_running_loop().time() >= self._ends_at

    async def pause(self) -> None:
        if self.is_over:
            raise UnavailableError(
                "Another worker has been renewing the token for too long.",
                code="token_busy",
                hint="It is tried again; if it stays so, look for workers that hang.",
            )
        await asyncio.sleep(self._next_s)
        self._next_s = min(self._next_s * 1.6, _LONGEST_PAUSE_S)


def claim_of(connection: Connection, owner: str = "") -> Claim:
    """Gives on whose behalf a token of a connection is looked at."""
    return Claim(
        organization_id=connection.organization_id, integration_id=connection.integration_id,
        revision=connection.revision, mark=credential_mark(connection.settings, connection.credentials), owner=owner,
    )  # fmt: skip


async def _answer_of(asking: concurrent.futures.Future[Token]) -> Token:
    """Gives what the lane answers. A lane that was ended or given up answers nothing, or with a cancellation."""
    answer = asyncio.wrap_future(asking)
    try:
        done, _ = await asyncio.wait({answer}, timeout=_ANSWER_WITHIN_S)
    finally:
        if not answer.done():
            answer.cancel()
    if not done or answer.cancelled():
        raise UnavailableError("The plugin was stopped while it obtained a token.", code="plugin_stuck")
    return answer.result()


def _held(row: Row) -> Held:
    access: KeptAccess = row.kept
    return Held(token=access.token, generation=row.generation, renew_at=access.renew_at, renewed_at=access.renewed_at)


def _told(error: AuthError, was_in_flight: bool) -> Mapping[str, str]:
    """Gives a refusal in the shape that is kept and told again to everybody who asks."""
    message = error.message
    if was_in_flight:
        message += " The refresh token that is kept was spent by a renewal that ended before its answer could be kept."
    return {
        "reason": error.reason, "code": error.code, "message": message, "hint": error.hint,
        "remote_message": error.remote_message,
    }  # fmt: skip


def _error_of(end: Failed) -> SambandError:
    if end.why == "refused":
        return AuthError(
            end.error["message"], reason=end.error["reason"], code=end.error["code"], hint=end.error["hint"],
            remote_message=end.error["remote_message"],
        )  # fmt: skip
    if end.why == "superseded":
        return UnavailableError(
            "Settings or credentials were changed meanwhile.",
            code="connection_superseded",
            hint="The work begins anew with the new ones.",
        )
    assert isinstance(end.error, SambandError)
    return end.error
