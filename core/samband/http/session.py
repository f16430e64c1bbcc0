"""The only way out to the network: authorised, rate-limited, time-limited, retried, redacted and kept to known hosts.

`Outbound` belongs to one event loop and holds what calls share; `AuthorisedSession` is what a plugin is given.
The retry loop is written out instead of taken from stamina: its waits cannot be injected, its jitter only adds, and a
pause they ask for must hold back every call of the same account, which is the budget's work and not a decorator's.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp
from aiohttp.abc import AbstractResolver

from samband.contract import Limits, Token
from samband.errors import (
    AuthError,
    ConfigurationError,
    ContractError,
    RateLimitedError,
    RemoteError,
    UnavailableError,
)
from samband.http.answer import Answer, read_body
from samband.http.budget import AccountBudget, BudgetSnapshot, Patience
from samband.http.egress import EgressPolicy, GuardedConnector
from samband.http.failures import Setback, setback_of_answer, setback_of_exception
from samband.http.pauses import BACK_OFF_S, back_off_s
from samband.http.request import OutgoingRequest, shown_path
from samband.redaction import Redactor

if TYPE_CHECKING:
    from samband.contract import Logger

__all__ = ["AuthorisedSession", "Outbound", "Tokens"]

_READ_BUFFER: Final = 512 * 1024
_MAX_HEADER: Final = 32 * 1024
_LARGE_BODY: Final = 1024 * 1024
_WRITE_KEEPALIVE_S: Final = 1.0
_TRIES: Final = len(BACK_OFF_S) + 1

_used: ContextVar[tuple[object, Token] | None] = ContextVar("samband_token_used", default=None)
"""The session and the token that the running task sent last, so that it is this one that it has renewed."""


class Tokens(Protocol):
    """Where a session gets its token from; `samband.oauth.TokenSource` is one."""

    async def get(self) -> Token: ...
    async def renew(self, stale: Token) -> Token: ...


@dataclass(slots=True)
class _Trip:
    """How far one try got, noted by the client's trace hooks."""

    connected: bool = False
    reused: bool = False


class Outbound:
    """The outgoing HTTP of one event loop: its connections, and one budget per external account.

    Args:
        policy: Where connections may go.
        redactor: Scrubs log lines and the other side's words.
        now: The wall clock, aware UTC.
        user_agent: Sent with every request.
        in_call_wait_s: Longest pause the other side may ask for that is sat out inside one call, over all of its
            tries; a longer one ends the call so that the run can wait without a worker.
        tls: Another trust store than the machine's, for instance with an organisation's own issuer.
        resolver: Another name service, for tests.
        sleep: Waits for seconds.
        rng: Chance in [0, 1), for jitter.
        clock: Monotonic seconds; must move on while ``sleep`` waits.

    Raises:
        ConfigurationError: ``tls`` does not check certificates or host names.
    """

    def __init__(
        self,
        *,
        policy: EgressPolicy,
        redactor: Redactor,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        user_agent: str = "samband",
        in_call_wait_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
        resolver: AbstractResolver | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        rng: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if tls is not None and (tls.verify_mode is not ssl.CERT_REQUIRED or not tls.check_hostname):
            raise ConfigurationError("The TLS settings do not check certificates and host names.", code="tls_unchecked")
        self.policy = policy
        self.redactor = redactor
        self.now = now
        self.in_call_wait_s = in_call_wait_s
        self.sleep = sleep
        self.rng = rng
        self._clock = clock
        self._user_agent = user_agent
        self._tls = tls
        self._resolver = resolver
        self._clients: dict[bool, aiohttp.ClientSession] = {}
        self._budgets: dict[str, AccountBudget] = {}

    def session(
        self,
        *,
        integration_id: str,
        account: str,
        hosts: Collection[str],
        limits: Limits,
        tokens: Tokens | None,
        log: Logger,
        run_id: str | None = None,
    ) -> AuthorisedSession:
        """Gives a session for one integration; cheap, so make one per run or check.

        Args:
            integration_id: Whose limits these are.
            account: The external account; all sessions with the same name share rate, pauses and breaker.
            hosts: The integration's own hosts.
            limits: Its limits; of several integrations on one account the strictest rate and concurrency count.
            tokens: Where the token comes from; None while a token is being obtained.
            log: Gets one debug line per try.
            run_id: Goes with those lines.
        """
        budget = self._budgets.get(account)
        if budget is None:
            budget = self._budgets[account] = AccountBudget(account, clock=self._clock, sleep=self.sleep)
        budget.configure(integration_id, limits)
        return AuthorisedSession(
            self,
            budget,
            hosts=frozenset(hosts),
            limits=limits,
            tokens=tokens,
            log=log,
            labels={"integration_id": integration_id, "run_id": run_id},
        )

    def budget(self, account: str) -> BudgetSnapshot:
        """Gives how an account is doing; an account nobody has used yet is at rest."""
        budget = self._budgets.get(account)
        return BudgetSnapshot() if budget is None else budget.snapshot(self.now())

    def budgets(self) -> Mapping[str, BudgetSnapshot]:
        """Gives how each account is doing that was used since the start."""
        return {account: budget.snapshot(self.now()) for account, budget in self._budgets.items()}

    async def close(self) -> None:
        """Closes every connection. Safe to call twice; a later request opens new ones."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.close()

    def client(self, *, idempotent: bool) -> aiohttp.ClientSession:
        """Gives the client for requests that may, or may not, be sent twice.

        The two keep their connections apart. A server may close an idle connection in the very moment we write to it;
        a read is then repeated, but of a write nobody knows what became. So writes only reuse a connection that was
        busy within the last second, which no server closes.
        """
        client = self._clients.get(idempotent)
        if client is None:
            client = self._clients[idempotent] = self._new_client(15.0 if idempotent else _WRITE_KEEPALIVE_S)
        return client

    def _new_client(self, keepalive_s: float) -> aiohttp.ClientSession:
        connector = GuardedConnector(
            self.policy,
            resolver=self._resolver,
            # No common ceiling: the accounts' own limits bound it, and one slow account must not use up the others'.
            limit=0,
            keepalive_timeout=keepalive_s,
            ssl=self._tls if self._tls is not None else True,
        )
        client = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._user_agent},
            read_bufsize=_READ_BUFFER,
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
            trace_configs=[_trip_notes()],
            trust_env=False,
        )
        # aiohttp would repeat some requests by itself, unseen by limits, log and ``idempotent``; it has no public
        # switch for that (its own test client sets the same attribute).
        client._retry_connection = False
        return client


class AuthorisedSession:
    """Implements `samband.contract.HttpSession` for one integration; obtained from `Outbound.session`."""

    def __init__(
        self,
        outbound: Outbound,
        budget: AccountBudget,
        *,
        hosts: frozenset[str],
        limits: Limits,
        tokens: Tokens | None,
        log: Logger,
        labels: Mapping[str, str | None],
    ) -> None:
        self._outbound = outbound
        self._budget = budget
        self._hosts = hosts
        self._limits = limits
        self._tokens = tokens
        self._log = log
        self._labels = labels
        self._used: Token | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: bytes | Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
        fill: bool = False,
    ) -> Answer:
        """Sends one request, as `samband.contract.HttpSession.request` says.

        ``Authorization`` may be passed only while there is no token yet, for token endpoints that want the client's
        own credentials there.

        Raises:
            AuthError: 401 also with a renewed token, or no token with fills for a body to be filled.
            RateLimitedError: 429 to the last try, or a pause too long to sit out.
            UnavailableError: No good answer to the last try, or the breaker is open.
            OutcomeUnknownError: A request that must not be sent twice went out and no answer came.
            RemoteError: ``egress_refused``, ``redirect_refused``, ``redirect_to_sign_in``, ``body_too_large``, ``tls_failed``
                or ``answer_malformed``; never repeated.
            ContractError: The arguments break a rule.
        """
        request = OutgoingRequest.build(
            method,
            url,
            params=params,
            headers=headers,
            json=json,
            data=data,
            timeout_s=self._limits.timeout_s if timeout_s is None else timeout_s,
            idempotent=idempotent,
            fill=fill,
            locate=lambda absolute: self._outbound.policy.check_url(absolute, self._hosts),
            may_authorise=self._tokens is None,
        )
        patience = Patience(self._outbound.in_call_wait_s)
        if self._tokens is None:
            return await self._answered(request, None, patience)
        token = await self._tokens.get()
        self._note_used(token)
        answer = await self._answered(request, token, patience)
        is_shown = request.shows(token)
        if answer.status == 401 and is_shown:
            # They refused it unread, so even a write may be sent once more.
            token = await self._tokens.renew(token)
            self._note_used(token)
            answer = await self._answered(request, token, patience)
        if answer.status == 401:
            raise self._refusal(answer, is_shown=is_shown)
        return answer

    async def renew_token(self) -> None:
        """Has the token renewed that the caller used last; one that somebody has renewed since is not renewed again.

        Raises:
            AdapterError: There is none to be had.
            ContractError: There is no token yet, because it is just being obtained.
        """
        if self._tokens is None:
            raise ContractError("authenticate cannot have the token renewed: it is what renews it.", field="http")
        # Two uploads that were refused together were refused the same token: the second must not renew the new one.
        used = _used.get()
        token = used[1] if used is not None and used[0] is self else self._used
        self._note_used(await self._tokens.renew(token if token is not None else await self._tokens.get()))

    async def fill_names(self) -> frozenset[str]:
        """Gives the names of the token's fills; none while there is no token.

        Raises:
            AdapterError: There is no token to be had.
        """
        return frozenset() if self._tokens is None else frozenset((await self._tokens.get()).fills)

    def _note_used(self, token: Token) -> None:
        self._used = token
        _used.set((self, token))

    async def _answered(self, request: OutgoingRequest, token: Token | None, patience: Patience) -> Answer:
        """Tries until there is an answer for the plugin to judge, or nothing more may be tried."""
        attempt, reconnected = 1, False
        while True:
            async with self._budget.turn(patience) as turn:
                result = await self._tried(request, token, attempt)
                if isinstance(result, Answer):
                    turn.outcome = "answered"
                    return result
                # A connection that was closed while it lay idle says nothing about them; ask once more at once.
                reconnect = result.is_stale_connection and result.may_repeat and not reconnected
                if not reconnect:
                    turn.outcome = result.outcome
            if reconnect:
                reconnected = True
                continue
            await self._wait_or_raise(result, attempt, patience)
            attempt += 1

    async def _wait_or_raise(self, setback: Setback, attempt: int, patience: Patience) -> None:
        """Returns when the next try may begin; the pause itself is sat out where every call of the account does."""
        error, pause = setback.error, setback.pause_s
        asked = pause is not None
        if pause is None:
            pause = back_off_s(attempt, self._outbound.rng())
        if isinstance(error, RateLimitedError | UnavailableError) and (asked or isinstance(error, RateLimitedError)):
            self._budget.pause(pause, type(error))
        if not setback.may_repeat or attempt >= _TRIES or (asked and pause > patience.left_s):
            raise error
        if self._budget.refuses_for_s > 0:
            if isinstance(error, UnavailableError) and error.retry_after_s is None:
                error.retry_after_s = self._budget.refuses_for_s
            raise error
        if not asked and isinstance(error, UnavailableError):
            await self._outbound.sleep(pause)

    async def _tried(self, request: OutgoingRequest, token: Token | None, attempt: int) -> Answer | Setback:
        trip, started = _Trip(), time.perf_counter()
        result: Answer | Setback
        try:
            result = await self._exchanged(request, token, trip)
        except RemoteError as error:
            result = Setback(error=error, may_repeat=False, outcome="abandoned")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            result = setback_of_exception(
                error,
                host=request.host,
                method=request.method,
                idempotent=request.idempotent,
                was_sent=trip.connected,
                was_reused=trip.reused,
                timeout_s=request.timeout_s,
            )
        status = result.status if isinstance(result, Answer) else None
        if isinstance(result, Answer):
            now = self._outbound.now()
            setback = setback_of_answer(result, method=request.method, idempotent=request.idempotent, now=now)
            result = setback or result
        self._note(request, status, result, attempt, time.perf_counter() - started)
        return result

    def _note(
        self, request: OutgoingRequest, status: int | None, result: Answer | Setback, attempt: int, took_s: float
    ) -> None:
        self._log.debug(
            "http_attempt",
            method=request.method,
            host=request.host,
            path=self._outbound.redactor.scrub(shown_path(request.url)),
            status=status,
            ms=round(took_s * 1000, 1),
            attempt=attempt,
            error=result.error.code if isinstance(result, Setback) else None,
            **self._labels,
        )

    async def _exchanged(self, request: OutgoingRequest, token: Token | None, trip: _Trip) -> Answer:
        """Makes one exchange within the one time limit, from connecting to the last byte."""
        body = request.body_with(token)
        # aiohttp warns about large plain bytes, which it would copy through the loop in one go.
        payload = BytesIO(body) if body is not None and len(body) > _LARGE_BODY else body
        client = self._outbound.client(idempotent=request.idempotent)
        async with (
            asyncio.timeout(request.timeout_s),
            client.request(
                request.method,
                request.url,
                headers=request.headers_with(token),
                data=payload,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=request.timeout_s),
                trace_request_ctx=trip,
            ) as response,
        ):
            content = await read_body(response, self._limits.max_body_bytes)
            return Answer(
                status=response.status,
                headers=response.headers,
                url=str(request.url),
                body=content,
                host=request.host,
                redactor=self._outbound.redactor,
            )

    def _refusal(self, answer: Answer, *, is_shown: bool) -> AuthError:
        shown = ", also with a token that was renewed just now" if is_shown else " to a request that carries no token"
        said = self._outbound.redactor.scrub(answer.headers.get("WWW-Authenticate", ""))[:300]
        return AuthError(
            f"{answer.host} answered 401{shown}.",
            reason="refused",
            hint="Check the credentials and their rights at the other side, then test the integration.",
            remote_message=said,
        )


def _trip_notes() -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()

    async def note_connected(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
        context.trace_request_ctx.connected = True

    async def note_reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
        context.trace_request_ctx.connected = context.trace_request_ctx.reused = True

    trace.on_connection_create_end.append(note_connected)
    trace.on_connection_reuseconn.append(note_reused)
    return trace
