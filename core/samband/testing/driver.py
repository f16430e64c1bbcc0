"""Calls a plugin's hooks the way the host does, and keeps what they gave and what they said."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, partial
from types import ModuleType, TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from samband.adapters.adapter import Adapter, AdapterOptions, Connection
from samband.adapters.filing import NoWayOut
from samband.adapters.forms import secrets_of
from samband.adapters.reading import Reading
from samband.adapters.registry import Registry
from samband.adapters.wire import secrets_of_token
from samband.contract import (
    Check,
    Context,
    HttpResponse,
    HttpSession,
    Limits,
    Manifest,
    Page,
    Record,
    Selection,
    Sought,
    Token,
)
from samband.errors import SambandError
from samband.http import Outbound
from samband.http.egress import EgressPolicy
from samband.oauth import TokenSource
from samband.redaction import Redactor
from samband.testing.counterpart import Counterpart
from samband.testing.fakes import FakeClock, FakeLog, fake_context
from samband.testing.promises.wording import broken
from samband.testing.proxy import Call, FaultProxy
from samband.testing.results import ReadResult

__all__ = ["PluginDriver", "texts_of"]

_MAX_BODY_BYTES = 8 * 1024 * 1024
_BREAKER_REST_S = 61.0  # twice as long as the host leaves an account alone after ten failures


class PluginDriver:
    """One integration of the plugin under test: its hooks, the host's real HTTP session, and a clock that tests move.

    The hooks are called directly, without the host's containment around them, so that a test sees what the plugin itself
    raises and says. An async context manager.

    Args:
        plugin: The module with manifest and hooks.
        counterpart: The other side.
        proxy: Stands in front of it; every call goes through it.
        credentials: Others than the counterpart's.
        clock: Moves only when told; starts at the real time, because the counterpart looks at a clock of its own.
    """

    def __init__(
        self,
        plugin: ModuleType,
        counterpart: Counterpart,
        proxy: FaultProxy,
        *,
        credentials: Mapping[str, Any] | None = None,
        clock: FakeClock | None = None,
        log: FakeLog | None = None,
    ) -> None:
        self.plugin = plugin
        self.manifest: Manifest = plugin.manifest
        self.clock = clock or FakeClock(datetime.now(UTC))
        self.log = log or FakeLog()
        self.time_limit_s: float | None = None
        self._counterpart = counterpart
        self._proxy = proxy
        self._others: list[PluginDriver] = []
        self.settings = self.manifest.settings.model_validate(proxy.front_settings(counterpart.settings))
        self.credentials = self.manifest.credentials.model_validate(dict(credentials or counterpart.credentials))
        self._sign_in_calls: set[tuple[str, str]] = set()
        proxy.now = self.clock.monotonic
        self._redactor = Redactor()
        self._outbound = Outbound(
            policy=EgressPolicy(self._places()),
            redactor=self._redactor,
            now=self.clock.now,
            clock=self.clock.monotonic,
            sleep=self.clock.sleep,
            rng=lambda: 0.5,
        )
        self._tokens = TokenSource(self.authenticate, now=self.clock.now, log=self.log)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the HTTP session, as the host does when it stops."""
        for other in self._others:
            await other.close()
        await self._outbound.close()

    def with_credentials(self, credentials: Mapping[str, Any]) -> PluginDriver:
        """Gives the same integration with other credentials; closed together with this one."""
        other = PluginDriver(
            self.plugin, self._counterpart, self._proxy, credentials=credentials, clock=self.clock, log=self.log
        )
        self._others.append(other)
        return other

    def again(self) -> PluginDriver:
        """Gives the same integration in a host that was started anew; to be closed by the caller."""
        return PluginDriver(self.plugin, self._counterpart, self._proxy)

    # ── hooks ────────────────────────────────────────────────────────────────

    async def authenticate(self) -> Token:
        """Calls ``authenticate``."""
        before = len(self._proxy.calls)
        ctx = self._context(self._session(tokens=None), credentials=self.credentials)
        try:
            token: Token = await self._hook("authenticate")(ctx=ctx)
        finally:
            self._sign_in_calls.update((call.method, call.url) for call in self._proxy.calls[before:])
        for secret in secrets_of_token(token):
            self._redactor.add(secret)
        return token

    async def check(self) -> Check:
        """Calls ``check``."""
        found: Check = await self._hook("check")(ctx=self._context(self._session(tokens=self._tokens)))
        return found

    async def pages(self, stream: str, cursor: str | None = None) -> AsyncGenerator[Page, None]:
        """Yields what ``sync`` yields; closing it closes the plugin's generator."""
        self._skip_when_off(stream)
        given = self._hook("sync")(ctx=self._context(self._session(tokens=self._tokens)), stream=stream, cursor=cursor)
        if not hasattr(given, "__anext__"):
            pytest.fail(
                broken(
                    "sync is an async generator of Page.",
                    f"it gave a {type(given).__name__}",
                    see="samband.hookspecs.Hooks.sync",
                    way_out="Write async def sync(…) with yield in it.",
                )
            )
        async with aclosing(given):
            async for page in given:
                yield page

    async def read(self, stream: str, cursor: str | None = None) -> ReadResult:
        """Gives one read to its end; what the plugin raises is raised."""
        result = ReadResult()
        async with aclosing(self.pages(stream, cursor)) as pages:
            async for page in pages:
                result.pages.append(page)
        return result

    async def fetch(self, stream: str, selection: Selection) -> ReadResult:
        """Gives what ``fetch`` yields for chosen records; what the plugin raises is raised."""
        self._skip_when_off(stream)
        ctx = self._context(self._session(tokens=self._tokens))
        given = self._hook("fetch")(ctx=ctx, stream=stream, selection=selection)
        if not hasattr(given, "__anext__"):
            pytest.fail(
                broken(
                    "fetch is an async generator of Page.",
                    f"it gave a {type(given).__name__}",
                    see="samband.hookspecs.Hooks.fetch",
                    way_out="Write async def fetch(…) with yield in it.",
                )
            )
        result = ReadResult()
        async with aclosing(given):
            async for page in given:
                result.pages.append(page)
        return result

    def ask(self, hook: str, **given: Any) -> Any:
        """Calls a hook that may talk to the other side and gives what it gave: to be awaited, or read to its end."""
        return self._hook(hook)(ctx=self._context(self._session(tokens=self._tokens)), **given)

    def ask_offline(self, hook: str, **given: Any) -> Any:
        """The same for a hook that has no business with anybody: its session refuses everything."""
        return self._hook(hook)(ctx=self._context(NoWayOut(hook)), **given)

    async def attempt(self, stream: str, *, into: ReadResult) -> Exception | None:
        """Reads until the end or an error, keeps the pages that came, and gives the error."""
        try:
            async with aclosing(self.pages(stream)) as pages:
                async for page in pages:
                    into.pages.append(page)
        except Exception as err:  # noqa: BLE001 - whatever a plugin raises is what the test is about
            return err
        return None

    async def attempt_guarded(self, stream: str, *, into: ReadResult) -> Exception | None:
        """The same as `attempt`, with the host's own watch over pages that come round again."""
        try:
            async with aclosing(self.pages(stream)) as pages:
                reading = Reading(self.manifest.name, pages)
                while (page := await reading.next_page()) is not None:
                    into.pages.append(page)
        except Exception as err:  # noqa: BLE001 - whatever a plugin raises is what the test is about
            return err
        return None

    async def read_as_host(self, stream: str) -> ReadResult:
        """Gives one read through the host's own adapter, in the plugin's lane."""
        return await self._as_host(lambda adapter, link: adapter.sync(link, stream, None, run_id="contract-suite"))

    async def fetch_as_host(self, stream: str, selection: Selection) -> ReadResult:
        """Gives chosen records through the host's own adapter, in the plugin's lane."""
        return await self._as_host(
            lambda adapter, link: adapter.fetch(link, stream, selection, run_id="contract-suite")
        )

    async def _as_host(self, ask: Callable[[Adapter, Connection], AsyncGenerator[Page, None]]) -> ReadResult:
        registry = Registry(
            AdapterOptions(allow_private_hosts=self._places(), redactor=self._redactor, now=self.clock.now)
        )
        connection = Connection(
            organization_id="contract-suite",
            integration_id="contract-suite",
            revision=1,
            settings=self._proxy.front_settings(self._counterpart.settings),
            credentials=dict(self._counterpart.credentials),
        )
        result = ReadResult()
        try:
            async with aclosing(ask(registry.add(self.plugin), connection)) as pages:
                async for page in pages:
                    result.pages.append(page)
        finally:
            await registry.close()
        return result

    # ── what tests ask ───────────────────────────────────────────────────────

    @cached_property
    def readable(self) -> list[str]:
        """Names of the streams that are read with these settings."""
        return [s.name for s in self.manifest.streams if s.direction != "push" and s.enabled(self.settings)]

    @property
    def data_calls(self) -> int:
        """How many calls other than those of ``authenticate`` have reached the proxy."""
        return sum(map(self.is_data_call, self._proxy.calls))

    def is_data_call(self, call: Call) -> bool:
        """Tells whether a call is anything but signing in."""
        return (call.method, call.url) not in self._sign_in_calls

    async def warm_up(self) -> None:
        """Obtains the token, so that the next call is one for data."""
        await self._tokens.get()

    def rest(self) -> None:
        """Lets as much time pass as the host leaves an account alone that failed again and again."""
        self.clock.advance(_BREAKER_REST_S)

    async def counted_read(self, stream: str) -> tuple[ReadResult, int]:
        """Gives one full read, and how many calls for data it took."""
        await self.warm_up()
        before = self.data_calls
        return await self.read(stream), self.data_calls - before

    async def prove_access(self) -> None:
        """Makes one call that needs the token: ``check``, else the first page of the first stream, else a look-up."""
        if "check" in self.manifest.capabilities:
            await self.check()
        elif self.readable:
            async with aclosing(self.pages(self.readable[0])) as pages:
                await anext(pages, None)
        elif "find_exported" in self.manifest.capabilities:
            await self.look_up_nothing()

    async def look_up_nothing(self) -> None:
        """Looks for one item that was never sent."""
        sought = Sought(key="0" * 32, state="unknown")
        async with aclosing(self.ask("find_exported", keys=[sought.key], sought=[sought])) as receipts:
            async for _ in receipts:
                pass

    def convert(self, stream: str, record: Record) -> Mapping[str, Any]:
        """Gives a record's canonical values."""
        convert = self.manifest.stream(stream).convert
        return convert(record.values, self.settings) if convert is not None else record.values

    async def complaints(self) -> list[str]:
        """Uses every hook once and gives all that was said in errors."""
        said: list[str] = []
        uses: list[Callable[[], Any]] = [self.authenticate]
        uses += [self.check] if "check" in self.manifest.capabilities else []
        uses += [partial(self.read, name) for name in self.readable]
        uses += [self.look_up_nothing] if "find_exported" in self.manifest.capabilities else []
        for use in uses:
            try:
                await use()
            except Exception as err:  # noqa: BLE001 - what it says is what the test is about
                self._scrub_remote_words(err)
                said += texts_of(err)
            self.rest()
        return said

    # ── inside ───────────────────────────────────────────────────────────────

    def _places(self) -> tuple[str, ...]:
        return tuple(urlsplit(origin).netloc for origin in self._proxy.origins)

    def _scrub_remote_words(self, error: Exception) -> None:
        # What the other side said is kept apart, and scrubbed by the host on its way out of the plugin.
        if isinstance(error, SambandError):
            for secret in secrets_of(self.credentials):
                self._redactor.add(secret)
            error.remote_message = self._redactor.scrub(error.remote_message)

    def _hook(self, name: str) -> Callable[..., Any]:
        hook = getattr(self.plugin, name, None)
        if hook is None:
            pytest.skip(f"the plugin has no {name} hook")
        taken = inspect.signature(hook).parameters
        # An implementation may take fewer arguments than specified.
        return lambda **given: hook(**{name: value for name, value in given.items() if name in taken})

    def _session(self, tokens: TokenSource | None) -> HttpSession:
        ours = self.manifest.limits
        return _HurriedSession(
            self._outbound.session(
                integration_id="contract-suite",
                account=self.manifest.account(self.settings),
                hosts=self.manifest.egress_hosts(self.settings),
                # The declared rate protects a real system; here it would only make the suite slow.
                limits=Limits(
                    requests_per_s=10_000.0,
                    concurrency=ours.concurrency,
                    timeout_s=ours.timeout_s,
                    max_body_bytes=min(ours.max_body_bytes, _MAX_BODY_BYTES),
                ),
                tokens=tokens,
                log=self.log,
            ),
            lambda: self.time_limit_s,
        )

    def _context(self, http: HttpSession, credentials: Any = None) -> Context:
        ctx = fake_context(settings=self.settings, credentials=credentials, http=http, now=self.clock.now, log=self.log)
        return replace(ctx, run_id=None) if credentials is not None else ctx

    def _skip_when_off(self, stream: str) -> None:
        if stream not in self.readable:
            pytest.skip(f"the counterpart's settings switch {stream} off: let them switch it on")


class _HurriedSession:
    """The host's session with a shorter time limit while a test waits for an answer that will not come."""

    def __init__(self, session: HttpSession, limit_s: Callable[[], float | None]) -> None:
        self._session = session
        self._limit_s = limit_s

    async def request(self, method: str, url: str, **options: Any) -> HttpResponse:
        limit_s = self._limit_s()
        if limit_s is not None:
            options["timeout_s"] = limit_s
        return await self._session.request(method, url, **options)

    async def renew_token(self) -> None:
        await self._session.renew_token()

    async def fill_names(self) -> Collection[str]:
        return await self._session.fill_names()


def texts_of(error: BaseException) -> list[str]:
    """Gives everything an error and its causes say, the way logs and answers show them."""
    texts = ["".join(traceback.format_exception(error))]
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        texts += [repr(one), str(one), repr(one.args), *getattr(one, "__notes__", ())]
        if isinstance(one, SambandError):
            texts += [one.message, one.hint, one.field or "", one.remote_message, one.code]
        left += [one.__cause__, one.__context__]
    return texts
