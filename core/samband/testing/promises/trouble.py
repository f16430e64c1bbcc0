"""What a plugin promises when the other side or the network misbehaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.utils import format_datetime

import pytest

from samband.errors import (
    AdapterError,
    AuthError,
    CursorExpiredError,
    OutcomeUnknownError,
    RateLimitedError,
    RemoteError,
    RetryableError,
    UnavailableError,
)
from samband.testing import faults
from samband.testing.driver import PluginDriver
from samband.testing.faults import Fault
from samband.testing.promises.wording import broken
from samband.testing.proxy import FaultProxy
from samband.testing.results import ReadResult

__all__ = ["CASES", "Case", "Trouble", "injected"]

_SYNC = "samband.hookspecs.Hooks.sync"
_ERRORS = "samband.errors"
_HURRY_S = 0.1  # the time limit of a call that will not be answered
_DATE_GRAIN_S = 1.0  # an HTTP date has no fractions
_async = pytest.mark.asyncio(loop_scope="function")


@dataclass(frozen=True, slots=True)
class Case:
    """A fault and the errors it may become.

    Attributes:
        name: Of the test case.
        fault: What is injected; None refuses connections.
        allowed: Errors that say rightly what the core does next.
        is_slow: Whether it ends only by a time limit.
    """

    name: str
    fault: Fault | None
    allowed: tuple[type[AdapterError], ...]
    is_slow: bool = False

    def __str__(self) -> str:
        return self.name


_RETRY = (RetryableError,)
_EITHER = (RetryableError, RemoteError)
CASES = (
    Case("401", faults.status(401), (AuthError,)),
    Case("403", faults.status(403), (AuthError, RemoteError)),
    Case("404", faults.status(404), (RemoteError, AuthError, CursorExpiredError)),
    Case("429", faults.status(429), (RateLimitedError,)),
    Case("429-seconds", faults.status(429, retry_after="3"), (RateLimitedError,)),
    Case("429-garbage", faults.status(429, retry_after="soon, please"), (RateLimitedError,)),
    Case("500", faults.status(500), _EITHER),
    Case("502", faults.status(502), _RETRY),
    Case("503", faults.status(503), _RETRY),
    Case("504", faults.status(504), _RETRY),
    Case("502-web-page", faults.html_page(502), _RETRY),
    Case("refused", None, (UnavailableError,)),
    Case("reset", faults.reset(), (UnavailableError,)),
    Case("cut-off", faults.cut_off(), (UnavailableError,)),
    Case("silence", faults.silence(), (UnavailableError,), is_slow=True),
    Case("slow-body", faults.slow_body(), (UnavailableError,), is_slow=True),
    Case("truncated", faults.truncated(), _EITHER),
    Case("web-page", faults.html_page(), _EITHER),
    Case("empty", faults.empty_body(), _EITHER),
    Case("endless", faults.endless_body(), (RemoteError,)),
    Case("redirect", faults.redirect("/elsewhere"), (RemoteError,)),
)


class Trouble:
    """Tests that break the conversation at its first call and in the middle of a read."""

    @_async
    async def test_a_fault_at_the_start_becomes_the_right_error(
        self, driver: PluginDriver, proxy: FaultProxy, stream: str, case: Case
    ) -> None:
        await driver.warm_up()
        await _check_trouble(driver, proxy, stream, case, at=1)

    @_async
    async def test_a_fault_in_mid_read_is_never_passed_off_as_the_end(
        self, driver: PluginDriver, proxy: FaultProxy, stream: str, mid_case: Case
    ) -> None:
        full, calls = await driver.counted_read(stream)
        if calls < 2:
            pytest.skip(f"{stream} is read with one call")
        await _check_trouble(driver, proxy, stream, mid_case, at=calls)
        again = await driver.read(stream)
        assert again.state == full.state, broken(
            "After trouble a read succeeds and gives everything.",
            f"{stream}: after {mid_case.name} on call {calls}, {len(full.state.keys() ^ again.state.keys())} records differ",
            see=_SYNC,
        )

    @_async
    @pytest.mark.parametrize(("form", "wait_s"), [("seconds", 20), ("date", 40)])
    async def test_nothing_is_called_before_the_time_they_asked_for(
        self, driver: PluginDriver, proxy: FaultProxy, stream: str, form: str, wait_s: int
    ) -> None:
        await driver.warm_up()
        until = driver.clock.now() + timedelta(seconds=wait_s)
        asked = str(wait_s) if form == "seconds" else format_datetime(until, usegmt=True)
        before = len(proxy.calls)
        with proxy.fault(faults.status(429, retry_after=asked), times=1, where=driver.is_data_call):
            error = await driver.attempt(stream, into=ReadResult())
        refused, *later = [call for call in proxy.calls[before:] if driver.is_data_call(call)]
        early = [call for call in later if call.at < refused.at + wait_s - _DATE_GRAIN_S]
        assert not early, broken(
            "Retry-After is obeyed.",
            f"{stream}: asked to wait {wait_s} s ({form}), the next call came after {early[0].at - refused.at:.1f} s"
            if early
            else "",
            see="samband.HttpSession",
            way_out="Let the host retry; do not repeat a request yourself.",
        )
        if error is not None:
            _check_rate_limit(error, stream, form, wait_s)


def _check_rate_limit(error: Exception, stream: str, form: str, wait_s: int) -> None:
    waits = error.retry_after_s if isinstance(error, RateLimitedError) else None
    assert waits is not None, broken(
        "The wait they asked for reaches the core as RateLimitedError.retry_after_s.",
        f"{stream}, Retry-After as {form}: {type(error).__name__}: {error}",
        see="samband.errors.RateLimitedError",
    )
    assert waits >= wait_s - _DATE_GRAIN_S, broken(
        "retry_after_s is at least what they asked for.",
        f"{stream}, Retry-After as {form}: {waits:g} s instead of {wait_s} s",
        see="samband.errors.RetryableError",
    )


async def _check_trouble(driver: PluginDriver, proxy: FaultProxy, stream: str, case: Case, *, at: int) -> None:
    result = ReadResult()
    with injected(driver, proxy, case, at=at):
        error = await driver.attempt(stream, into=result)
    _check_error(error, result, stream, case)
    error = await driver.attempt(stream, into=ReadResult())
    assert error is None, broken(
        "After trouble a read succeeds.",
        f"{stream}: after {case.name} was over, {type(error).__name__}: {error}",
        see=_SYNC,
    )


@contextmanager
def injected(driver: PluginDriver, proxy: FaultProxy, case: Case, *, at: int) -> Iterator[None]:
    """Has a case happen from the ``at``-th call for data on, and lets time pass afterwards."""
    driver.time_limit_s = _HURRY_S if case.is_slow else None
    try:
        with proxy.refusing() if case.fault is None else proxy.fault(case.fault, at=at, where=driver.is_data_call):
            yield
    finally:
        driver.time_limit_s = None
        driver.rest()


def _check_error(error: Exception | None, reading: ReadResult, stream: str, case: Case) -> None:
    assert error is not None, broken(
        "What the other side could not give is never passed off as an empty or complete read.",
        f"{stream}: with {case.name} the read ended after {len(reading.pages)} page(s) as if nothing had happened",
        see=_SYNC,
        way_out="Judge the status of every answer, and let errors through.",
    )
    assert isinstance(error, case.allowed), broken(
        f"This becomes {' or '.join(kind.__name__ for kind in case.allowed)}.",
        f"{stream}: {case.name} became {type(error).__name__}: {error}",
        see=_ERRORS,
        way_out="Say idempotent=True for a POST that only reads."
        if isinstance(error, OutcomeUnknownError)
        else "Judge the status of every answer, parse it with answer.json(), and let the host's errors through.",
    )
