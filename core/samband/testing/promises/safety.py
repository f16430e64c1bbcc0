"""What a plugin promises so that nobody is harmed: no endless read, no stray call, no leaked secret, no rest left behind."""

from __future__ import annotations

import asyncio
import base64
import gc
import logging
import os
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import structlog
from aiohttp import web

from samband.contract import Manifest
from samband.errors import AdapterError
from samband.testing import faults
from samband.testing.counterpart import Counterpart
from samband.testing.driver import PluginDriver
from samband.testing.loopback import serve
from samband.testing.promises.access import spoilt_credentials
from samband.testing.promises.declarations import secrets_in
from samband.testing.promises.wording import broken
from samband.testing.proxy import FaultProxy
from samband.testing.results import ReadResult

__all__ = ["Safety"]

_SYNC = "samband.hookspecs.Hooks.sync"
_MAX_CANCELS = 5
_SETTLE_S = 2.0
_ARRIVAL_S = 15.0
_GLANCE_S = 0.005
_async = pytest.mark.asyncio(loop_scope="function")


class Safety:
    """Tests of what must never happen."""

    @_async
    async def test_paging_never_runs_in_circles(self, driver: PluginDriver, proxy: FaultProxy, stream: str) -> None:
        full, calls = await driver.counted_read(stream)
        if calls < 2:
            pytest.skip(f"{stream} is read with one call")
        for number in sorted({1, calls - 1}):
            result = ReadResult()
            with proxy.fault(faults.stuck(), at=number, where=driver.is_data_call):
                error = await _bounded(driver, stream, result, limit=3 * calls + 30)
            is_whole = error is None and result.state == full.state
            assert is_whole or isinstance(error, AdapterError), broken(
                "An answer that comes again and again is RemoteError, never the end of a complete read.",
                f"{stream}: stuck at call {number}, {_told(error, result, full)}",
                see=_SYNC,
            )
            driver.rest()

    @_async
    async def test_nothing_is_fetched_from_a_host_that_is_not_configured(
        self, driver: PluginDriver, proxy: FaultProxy, stream: str
    ) -> None:
        full, _ = await driver.counted_read(stream)
        strayed: list[str] = []
        rewritten: list[str] = []
        with serve(_trap(strayed)) as trap:
            other = trap.replace("127.0.0.1", "localhost")
            fault = faults.elsewhere(proxy.origins, other, lambda: rewritten.append(stream))
            with proxy.fault(fault, where=driver.is_data_call):
                reading = ReadResult()
                error = await driver.attempt(stream, into=reading)
        assert strayed == [], broken(
            "The integration is talked to at its declared hosts, besides nothing else.",
            f"{stream}: {len(strayed)} requests went to another host",
            see="samband.Manifest.egress_hosts",
        )
        if not rewritten:
            pytest.skip(f"the answers for {stream} hold no absolute links")
        is_whole = error is None and reading.state == full.state
        assert is_whole or isinstance(error, AdapterError), broken(
            "A link that leads to another host is RemoteError, never the end of the read.",
            f"{stream}: {_told(error, reading, full)}",
            see="samband.HttpSession",
        )

    @_async
    async def test_no_secret_is_shown_in_an_error_or_a_log(
        self,
        driver: PluginDriver,
        proxy: FaultProxy,
        manifest: Manifest,
        counterpart: Counterpart,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        credentials = manifest.credentials.model_validate(dict(counterpart.credentials))
        secrets = dict(secrets_in(credentials))
        told: list[str] = []
        with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as events:
            for name, spoilt in spoilt_credentials(manifest, counterpart):
                wrong = dict(secrets_in(manifest.credentials.model_validate(dict(spoilt))))
                secrets[f"{name} (wrong)"] = wrong[name]
                told += await driver.with_credentials(spoilt).complaints()
            secrets["token"] = (await driver.authenticate()).value.get_secret_value()
            for code in (400, 401, 403, 500):
                with proxy.fault(faults.echo_request(code)):
                    told += await driver.complaints()
            told += await driver.complaints()
        told += [*map(repr, events), caplog.text, driver.log.text]
        leaks = {
            name for name, secret in secrets.items() for form in _forms(secret) if any(form in text for text in told)
        }
        assert not leaks, broken(
            "No secret is ever shown: not in an error, its causes or its hint, not in a log line.",
            f"shown in clear: {', '.join(sorted(leaks))}",
            see="samband.errors.SambandError",
            way_out="Say which field is wrong, never what it holds.",
        )

    @_async
    async def test_a_read_cancelled_at_any_call_leaves_nothing_behind(
        self, driver: PluginDriver, proxy: FaultProxy, stream: str
    ) -> None:
        full, calls = await driver.counted_read(stream)
        for number in _spread(calls):
            with proxy.fault(faults.silence(), at=number, where=driver.is_data_call):
                await _cancel_at(driver, proxy, stream, number)
            again = await driver.read(stream)
            assert again.state == full.state, broken(
                "A hook may be cancelled at any await.",
                f"{stream}: after a read was cancelled at call {number}, a full read gives another result",
                see="samband.hookspecs",
            )

    @_async
    async def test_nothing_is_left_open_when_the_host_stops(
        self, driver: PluginDriver, proxy: FaultProxy, stream: str
    ) -> None:
        await driver.read(stream)
        await driver.close()
        await _settle(proxy)
        before = _open_files()
        async with driver.again() as fresh:
            with proxy.fault(faults.silence(), at=1, where=fresh.is_data_call):
                await _cancel_at(fresh, proxy, stream, 1)
            await fresh.read(stream)
        await _settle(proxy, before)
        assert proxy.open_connections == 0, broken(
            "Every connection goes through ctx.http, which the host closes.",
            f"{stream}: {proxy.open_connections} connections stayed open",
            see="samband.Context.http",
        )
        assert _open_files() <= before, broken(
            "A hook leaves no file or socket open.",
            f"{stream}: {_open_files() - before} file descriptors more than before",
            see="samband.hookspecs",
            way_out="Close what you open in a finally block or a context manager.",
        )


async def _bounded(driver: PluginDriver, stream: str, into: ReadResult, *, limit: int) -> Exception | None:
    """Reads with the host's watch over repeated pages; fails the test when the calls do not end."""
    before = driver.data_calls
    reading = asyncio.create_task(driver.attempt_guarded(stream, into=into))
    while not reading.done() and driver.data_calls - before <= limit:
        await asyncio.wait([reading], timeout=_GLANCE_S)
    is_over = reading.done()
    reading.cancel()
    await asyncio.wait([reading], timeout=_SETTLE_S)
    assert is_over, broken(
        "A read ends, whatever the other side answers.",
        f"{stream}: the same answer came again and again, and more than {limit} calls were made",
        see=_SYNC,
        way_out="Yield each page as it comes, or raise RemoteError when a link was seen before.",
    )
    return reading.result()


async def _cancel_at(driver: PluginDriver, proxy: FaultProxy, stream: str, number: int) -> None:
    """Starts a read whose ``number``-th call is never answered, and cancels it there."""
    seen = driver.data_calls
    reading = asyncio.create_task(driver.attempt(stream, into=ReadResult()))
    async with asyncio.timeout(_ARRIVAL_S):
        while driver.data_calls < seen + number and not reading.done():
            await asyncio.wait([reading], timeout=_GLANCE_S)
    reading.cancel()
    done, _ = await asyncio.wait([reading], timeout=_SETTLE_S)
    assert done, broken(
        "Cancellation is never swallowed.",
        f"{stream}: cancelled at call {number}, the read was still going on {_SETTLE_S:g} s later",
        see="samband.hookspecs",
    )


def _told(error: Exception | None, result: ReadResult, full: ReadResult) -> str:
    if error is not None:
        return f"it raised {type(error).__name__}: {error}"
    return f"the read ended as if it were whole, with {len(result.state)} of {len(full.state)} records"


def _spread(calls: int) -> Iterator[int]:
    step = max(1, calls // _MAX_CANCELS)
    yield from range(1, calls + 1, step)


def _trap(strayed: list[str]) -> web.Application:
    async def catch(request: web.Request) -> web.Response:
        strayed.append(request.method)
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", catch)
    return app


def _forms(secret: str) -> set[str]:
    raw = secret.encode()
    return {secret, quote(secret, safe=""), base64.b64encode(raw).decode().rstrip("=")}


def _open_files() -> int:
    for directory in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(directory):
            return len(os.listdir(directory))
    return 0


async def _settle(proxy: FaultProxy, files: int | None = None) -> None:
    """Waits until the proxy has noticed that connections were closed: it lives in a thread of its own."""
    gc.collect()  # what is only waiting to be collected is not left open
    until = asyncio.get_running_loop().time() + _SETTLE_S
    while proxy.open_connections or (files is not None and _open_files() > files):
        if asyncio.get_running_loop().time() > until:
            return
        await asyncio.sleep(_GLANCE_S)
