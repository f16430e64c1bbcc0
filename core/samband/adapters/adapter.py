"""A plugin as the flow sees it: named operations with time limits, whose errors all belong to the error tree.

Everything a plugin's hooks do happens in its own lane (see `samband.adapters.lane`). What crosses back has been checked against
the hook specifications, and errors have been translated and scrubbed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar, overload

import structlog
from pydantic import BaseModel, SecretStr

from samband.adapters.answers import (
    broken_promise,
    checked_account,
    checked_check,
    checked_consent,
    checked_instant,
)
from samband.adapters.bookkeeping import Bookkeeping
from samband.adapters.containment import Containment
from samband.adapters.forms import parse_form, secrets_of
from samband.adapters.hearing import HEARING_TIMEOUT_S, HOOK, Ear, Heard, Hearing, hear_all
from samband.adapters.lane import Lane
from samband.adapters.progress import ProgressLine
from samband.adapters.reading import Reading
from samband.adapters.sharedtokens import Held, TokenDoor
from samband.adapters.wire import AUTHENTICATE_TIMEOUT_S, DEFAULT_ACCOUNT, Connection, HookCaller, Link, Wire
from samband.contract import (
    Check,
    ConsentRequest,
    Event,
    Limits,
    Manifest,
    Page,
    Selection,
    Stream,
    Token,
)
from samband.errors import ContractError, NotFoundError, SambandError
from samband.http import Outbound
from samband.http.egress import EgressPolicy
from samband.oauth import authorization_code_token
from samband.redaction import Redactor

__all__ = ["Adapter", "AdapterOptions", "Connection", "Observer"]

T = TypeVar("T")

log = structlog.stdlib.get_logger("samband.adapters.adapter")


class Observer(Protocol):
    """Told about every call into a plugin, for metrics. Called from any thread; must be quick and never raise."""

    def hook_finished(self, *, plugin: str, hook: str, outcome: str, duration_s: float) -> None:
        """``outcome`` is ``ok``, ``cancelled`` or the code of the error. ``sync`` and ``fetch`` are told page by page."""

    def lane_troubled(self, *, plugin: str) -> None:
        """The plugin blocked its loop, broke a promise or let something escape."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterOptions:
    """What every adapter of a host has in common.

    Attributes:
        hook_timeout_s: The longest wait for one page or one answer.
        event_timeout_s: The longest wait for one plugin to hear of an event.
        grace_s: How long cancelled work may take to end.
        stall_limit_s: A plugin whose loop has not turned for this long is given up.
        max_abandoned: How often, before it is refused until the host restarts.
        allow_private_hosts: See `samband.settings.HostSettings`.
        redactor: Learns every secret that passes; share the one the host's log uses.
        observer: For metrics.
        now: The clock, aware UTC.
        tokens: Where tokens are kept for all processes; None keeps them in memory.
    """

    hook_timeout_s: float = 600.0
    event_timeout_s: float = 10.0
    grace_s: float = 2.0
    stall_limit_s: float = 60.0
    max_abandoned: int = 3
    allow_private_hosts: tuple[str, ...] = ()
    redactor: Redactor = field(default_factory=Redactor)
    observer: Observer | None = None
    now: Callable[[], datetime] = _utc_now
    tokens: TokenDoor | None = None


class Adapter(Bookkeeping):
    """One plugin, ready to be called for any integration. Made by `samband.adapters.registry.Registry`.

    Args:
        manifest: Already admitted.
        call_hook: Calls a hook on this plugin alone.
        package: Top-level package of its code, to name lines in errors.
        distribution: Where it comes from.
        version: Of the distribution.
        options: Common to all adapters.
        limits: Of one external account; the manifest's unless the operator set others.
        allow_private_hosts: Of this plugin, besides the common ones.
        on_trouble: Told in one sentence when the plugin misbehaves.
    """

    def __init__(
        self,
        manifest: Manifest,
        call_hook: HookCaller,
        *,
        package: str,
        distribution: str,
        version: str,
        options: AdapterOptions,
        limits: Limits | None = None,
        allow_private_hosts: Collection[str] = (),
        on_trouble: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.manifest = manifest
        self.distribution = distribution
        self.version = version
        self._call_hook = call_hook
        self._options = options
        self.limits = limits or manifest.limits
        self._policy = EgressPolicy(allow_private=(*options.allow_private_hosts, *allow_private_hosts))
        self._redactor = options.redactor
        self._on_trouble = on_trouble
        self._contained = Containment(manifest.name, package, self._redactor.scrub)
        self._lane = Lane(
            manifest.name,
            grace_s=options.grace_s,
            stall_limit_s=options.stall_limit_s,
            max_abandoned=options.max_abandoned,
            on_trouble=self._note_trouble,
        )
        self._wires: dict[asyncio.AbstractEventLoop, Wire] = {}

    @property
    def stalled_for_s(self) -> float:
        """Says for how long the plugin has kept its own event loop from turning; 0.0 when all is well."""
        return self._lane.stalled_for_s

    # ── what needs no call ───────────────────────────────────────────────────

    def parse_settings(self, raw: Mapping[str, Any]) -> BaseModel:
        """Gives the plugin's settings model; `InvalidError` names every field at fault and never a value."""
        with self._contained.parsing("settings"):
            return parse_form(self.manifest.settings, raw, form="settings", policy=self._policy)

    def parse_credentials(self, raw: Mapping[str, Any]) -> BaseModel:
        """Gives the plugin's credentials model, whose secrets are known to the redactor from now on."""
        with self._contained.parsing("credentials"):
            credentials = parse_form(self.manifest.credentials, raw, form="credentials", policy=self._policy)
        for secret in secrets_of(credentials):
            self._redactor.add(secret)
        return credentials

    def streams(self, connection: Connection) -> list[Stream]:
        """Gives the streams that these settings switch on and that are read, in reading order."""
        settings = self.parse_settings(connection.settings)
        with self._contained.around("enabled"):
            return [s for s in self.manifest.streams if s.direction != "push" and s.enabled(settings)]

    def hosts(self, raw: Mapping[str, Any]) -> frozenset[str]:
        """Gives the hosts that an integration with these settings may be talked to at."""
        settings = self.parse_settings(raw)
        with self._contained.around("egress_hosts"):
            return frozenset(self.manifest.egress_hosts(settings))

    def account(self, raw: Mapping[str, Any]) -> str:
        """Names the external account that an integration with these settings uses; empty when it is one of its own."""
        settings = self.parse_settings(raw)
        with self._contained.around("account"):
            account = checked_account(self.manifest.name, self.manifest.account(settings))
        return "" if account == DEFAULT_ACCOUNT else f"{self.manifest.name}/{account}"[:300]

    def credentials_expire_at(self, raw: Mapping[str, Any]) -> datetime | None:
        """Gives when these credentials stop working as far as they say themselves, in UTC; None when they do not."""
        credentials = self.parse_credentials(raw)
        with self._contained.around("credentials_expire_at"):
            return checked_instant(
                self.manifest.name, "credentials_expire_at", self.manifest.credentials_expire_at(credentials)
            )

    # ── calls ────────────────────────────────────────────────────────────────

    async def authenticate_now(self, connection: Connection) -> Token:
        """Obtains a fresh token, which every later call of the integration then uses; see `renew_token`."""
        return (await self.renew_token(connection)).token

    async def renew_token(self, connection: Connection) -> Held:
        """Has the integration's token renewed now, for all processes. Calls at the same time share one renewal.

        Raises:
            AuthError: Access was refused; a person is needed.
            RetryableError: Try again later.
        """
        link = self._link(connection)

        async def work() -> Held:
            return await self._wire().renew_token(link)

        return await self._call("renew_token", work, AUTHENTICATE_TIMEOUT_S)

    def consent(self, connection: Connection) -> ConsentRequest | None:
        """Gives where a person agrees to this integration; None for a system that does not ask for one."""
        if self.manifest.consent is None:
            return None
        link = self._link(connection)
        with self._contained.around("consent"):
            request = self.manifest.consent(link.settings, link.credentials)
            return checked_consent(self.manifest.name, request, self._policy)

    async def exchange_code(
        self, connection: Connection, request: ConsentRequest, *, code: SecretStr, verifier: SecretStr,
        redirect_uri: str,
    ) -> Token:  # fmt: skip
        """Trades the code that a person came back with for a token, through the integration's own outbound session.

        Raises:
            AuthError: They refused the code or the client.
            AdapterError: Anything else; the code may be spent.
        """
        link = self._link(connection)

        async def work() -> Token:
            wire = self._wire()
            for secret in (code, verifier):
                self._redactor.add(secret)
            with self._contained.around("exchange_code"):
                context = wire.context(link, is_authenticating=True)
                token = await authorization_code_token(
                    context, request, code=code, verifier=verifier, redirect_uri=redirect_uri
                )
            wire.learn(token)
            return token

        return await self._call("exchange_code", work, AUTHENTICATE_TIMEOUT_S)

    async def check(self, connection: Connection, *, timeout_s: float = 10.0) -> Check:
        """Proves access with one light read; a plugin without that hook proves that it can obtain a token."""
        link = self._link(connection)

        async def work() -> Check:
            wire = self._wire()
            if "check" not in self.manifest.capabilities:
                await wire.token_source(link).get()
                return Check(summary=f"{self.manifest.title} granted access.")
            with self._contained.around("check"):
                check = await wire.awaited("check", ctx=wire.context(link))
                return checked_check(self.manifest.name, check, self._redactor.scrub)

        return await self._call("check", work, timeout_s)

    @overload
    def sync(
        self, connection: Connection, stream: str, cursor: str | None, *, run_id: str, prepare: None = None,
        progress: Callable[[int, int | None], None] | None = None, ahead: int = 0,
    ) -> AsyncGenerator[Page, None]: ...  # fmt: skip

    @overload
    def sync(
        self, connection: Connection, stream: str, cursor: str | None, *, run_id: str, prepare: Callable[[Page], T],
        progress: Callable[[int, int | None], None] | None = None, ahead: int = 0,
    ) -> AsyncGenerator[T, None]: ...  # fmt: skip

    async def sync(
        self, connection: Connection, stream: str, cursor: str | None, *, run_id: str,
        prepare: Callable[[Page], Any] | None = None, progress: Callable[[int, int | None], None] | None = None,
        ahead: int = 0,
    ) -> AsyncGenerator[Any, None]:  # fmt: skip
        """Yields the stream's pages, each checked and prepared inside the plugin's lane. Close it when you stop early.

        Args:
            connection: Which integration.
            stream: A name from the manifest.
            cursor: Where to go on; None reads everything.
            run_id: On whose behalf.
            prepare: Turns a page into what the caller wants, inside the lane; without it pages come as they are.
            progress: Called on the caller's loop with ``(done, total)``.
            ahead: Pages fetched before they are asked for. A caller that stores one page while it asks for the next
                needs none; one that stores and only then asks wants 1.

        Raises:
            AdapterError: The plugin's own, translated; see `samband.hookspecs.Hooks.sync`.
            InvalidError: The stored settings or credentials do not fit the plugin any more.
            NotFoundError: There is no such stream.
        """
        self._demand_stream(stream)
        link, line = self._link(connection), ProgressLine(progress)

        def read() -> _Pages:
            with self._contained.around("sync"):
                context = self._wire().context(link, run_id=run_id, progress=line.report)
                pages = self._iterator("sync", ctx=context, stream=stream, cursor=cursor)
            return _Pages("sync", Reading(self.manifest.name, pages), self._contained, self._note_trouble)

        async with aclosing(self._pages("sync", read, prepare or _as_it_is, ahead)) as pages:
            async for page in pages:
                yield page
                del page  # or it would stay alive while the next one is waited for

    async def fetch(
        self, connection: Connection, stream: str, selection: Selection, *, run_id: str,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> AsyncGenerator[Page, None]:  # fmt: skip
        """Yields pages with the chosen records of a stream, each checked. Close it when you stop early.

        Their cursors are taken off: a read of chosen records says nothing about where the stream's own reading stands.

        Args:
            connection: Which integration.
            stream: A name from the manifest.
            selection: What to read; at most 1,000 keys.
            run_id: On whose behalf.
            progress: Called on the caller's loop with ``(done, total)``.

        Raises:
            AdapterError: The plugin's own, translated; see `samband.hookspecs.Hooks.fetch`.
            InvalidError: The stored settings or credentials do not fit the plugin any more.
            NotFoundError: There is no such stream, or the plugin cannot read chosen records.
        """
        self._demand_stream(stream)
        if "fetch" not in self.manifest.capabilities:
            raise NotFoundError(
                f"{self.manifest.title} cannot be asked for chosen records.", code="backfill_unsupported",
                hint="Order a full run instead.",
            )  # fmt: skip
        link, line = self._link(connection), ProgressLine(progress)

        def read() -> _Pages:
            with self._contained.around("fetch"):
                context = self._wire().context(link, run_id=run_id, progress=line.report)
                pages = self._iterator("fetch", ctx=context, stream=stream, selection=selection)
            reading = Reading(self.manifest.name, pages, asked=selection.keys)
            return _Pages("fetch", reading, self._contained, self._note_trouble)

        async with aclosing(self._pages("fetch", read, _without_cursor, 0)) as pages:
            async for page in pages:
                yield page
                del page

    async def _pages(
        self, hook: str, read: Callable[[], AsyncIterator[Any]], prepare: Callable[[Page], Any], ahead: int
    ) -> AsyncGenerator[Any, None]:
        """Yields what the lane reads, and accounts for every page."""
        pages = self._lane.iterate(read, timeout_s=self._options.hook_timeout_s, prepare=prepare, ahead=ahead)
        async with aclosing(pages):
            while True:
                with self._accounted(hook):
                    page = await anext(pages, _END)
                if page is _END:
                    return
                yield page
                del page  # or it would stay alive while the next one is waited for

    def _demand_stream(self, stream: str) -> None:
        if stream not in {s.name for s in self.manifest.streams}:
            raise NotFoundError(f"{self.manifest.name} has no stream {stream!r}.", code="unknown_stream")

    async def compute(self, function: Callable[[], T]) -> T:
        """Gives ``function()``, called in the plugin's lane: for conversions that would hold up the core's loop."""

        async def work() -> T:
            with self._contained.around("convert"):
                return function()

        return await self._call("convert", work, self._options.hook_timeout_s)

    async def handle_webhook(self, hearings: Sequence[Hearing]) -> list[Heard | SambandError]:
        """Gives for each delivery what the plugin said of it, or the error it was refused with, in their order.

        Raises:
            UnavailableError: The plugin did not give its lane back; nothing is known about any of them.
            PluginError: It is not called any more.
        """
        ear = Ear(
            manifest=self.manifest, call_hook=self._call_hook, contained=self._contained, redactor=self._redactor,
            now=self._options.now, account=self._write,
        )  # fmt: skip

        async def work() -> list[Heard | SambandError]:
            return await hear_all(ear, hearings)

        try:
            heard = await self._lane.run(work, timeout_s=2 * HEARING_TIMEOUT_S)
        except TimeoutError as error:
            raise self._contained.translated(HOOK, error) from None
        for broken in (found for found in heard if isinstance(found, ContractError)):
            self._note_trouble(broken.message)
        return heard

    async def tell(self, event: Event) -> None:
        """Tells the plugin of an event, if it listens."""

        async def work() -> None:
            with self._contained.around("on_event"):
                heard = self._call_hook("on_event", event=event)
                if isinstance(heard, Awaitable):
                    await heard

        await self._call("on_event", work, self._options.event_timeout_s)

    async def close(self) -> None:
        """Ends what runs, closes connections and ends the plugin's thread."""
        await self._lane.close()

    @property
    def _hook_timeout_s(self) -> float:
        return self._options.hook_timeout_s

    # ── the one way in ───────────────────────────────────────────────────────

    async def _call(self, hook: str, work: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        with self._accounted(hook):
            return await self._lane.run(work, timeout_s=timeout_s)

    @contextmanager
    def _accounted(self, hook: str) -> Iterator[None]:
        """Translates what is left to translate, and writes the call into the log and the metrics."""
        started, outcome = time.perf_counter(), "ok"
        try:
            yield
        except TimeoutError as error:
            outcome = "hook_timeout"
            raise self._contained.translated(hook, error) from None
        except SambandError as error:
            outcome = error.code
            if isinstance(error, ContractError):
                self._note_trouble(error.message)
            raise
        except BaseException as error:
            outcome = "cancelled" if isinstance(error, asyncio.CancelledError | GeneratorExit) else "host_error"
            raise
        finally:
            self._write(hook, outcome, time.perf_counter() - started)

    def _write(self, hook: str, outcome: str, duration_s: float) -> None:
        plugin = self.manifest.name
        log.debug("hook_finished", plugin=plugin, hook=hook, outcome=outcome, duration_s=round(duration_s, 4))
        if self._options.observer is not None:
            self._options.observer.hook_finished(plugin=plugin, hook=hook, outcome=outcome, duration_s=duration_s)

    def _note_trouble(self, reason: str) -> None:
        self._on_trouble(reason)
        if self._options.observer is not None:
            self._options.observer.lane_troubled(plugin=self.manifest.name)

    def _link(self, connection: Connection) -> Link:
        """Parses both forms before anything is called, so that a stored one that fits no more is named at once."""
        credentials = self.parse_credentials(connection.credentials)
        return Link(connection=connection, settings=self.parse_settings(connection.settings), credentials=credentials)

    # ── inside the lane ──────────────────────────────────────────────────────

    def _wire(self) -> Wire:
        """Gives the connections and tokens of the lane's loop; a fresh lane gets fresh ones."""
        loop = asyncio.get_running_loop()
        wire = self._wires.get(loop)
        if wire is None:
            wire = self._wires[loop] = self._new_wire()
            outbound = wire.outbound

            async def close() -> None:
                self._wires.pop(loop, None)
                await outbound.close()

            self._lane.at_end(close)
        return wire

    def _new_wire(self) -> Wire:
        return Wire(
            self.manifest,
            self._call_hook,
            outbound=Outbound(policy=self._policy, redactor=self._redactor, now=self._options.now),
            limits=self.limits,
            redactor=self._redactor,
            contained=self._contained,
            accounted=self._accounted,
            now=self._options.now,
            tokens=self._options.tokens,
        )

    def _iterator(self, hook: str, **arguments: object) -> Any:
        result = self._call_hook(hook, **arguments)
        if hasattr(result, "__anext__"):
            return result
        if asyncio.iscoroutine(result):
            result.close()
        what = f"gave {type(result).__name__} instead of an async iterator"
        raise broken_promise(self.manifest.name, hook, what, "write it as an async generator, with yield.")


_END: Any = object()


def _as_it_is(page: Page) -> Page:
    return page


def _without_cursor(page: Page) -> Page:
    return page if page.cursor is None else replace(page, cursor=None)


class _Pages:
    """The reading as an async iterator whose errors belong to the tree. It keeps no page alive."""

    def __init__(self, hook: str, reading: Reading, contained: Containment, on_trouble: Callable[[str], None]) -> None:
        self._hook = hook
        self._reading = reading
        self._contained = contained
        self._on_trouble = on_trouble

    def __aiter__(self) -> _Pages:
        return self

    async def __anext__(self) -> Page:
        with self._contained.around(self._hook):
            page = await self._reading.next_page()
        if page is None:
            raise StopAsyncIteration
        return page

    async def aclose(self) -> None:
        try:
            with self._contained.around(self._hook):
                await self._reading.aclose()
        except SambandError as error:
            # The read has ended one way or the other; how it cleans up after itself changes nothing about that.
            self._on_trouble(error.message)
