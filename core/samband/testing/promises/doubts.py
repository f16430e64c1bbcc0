"""What a plugin promises that carries claims to the books, when nobody knows what became of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from samband.contract import Item
from samband.errors import AdapterError, OutcomeUnknownError, RateLimitedError, RetryableError
from samband.testing import faults
from samband.testing.driver import PluginDriver
from samband.testing.outlet import Outlet, Told
from samband.testing.promises.trouble import CASES, Case, injected
from samband.testing.promises.wording import broken
from samband.testing.proxy import FaultProxy

__all__ = ["FIND_CASES", "LOST_CASES", "Doubts"]

_EXPORT = "samband.hookspecs.Hooks.export"
_FIND = "samband.hookspecs.Hooks.find_exported"
_UNKNOWN = "samband.errors.OutcomeUnknownError"
_WAIT_S = 90  # longer than the host sits out inside a call
_MOST_CALLS = 8
_async = pytest.mark.asyncio(loop_scope="function")

_ANY = (AdapterError,)
_ENDINGS = (
    Case("reset", faults.reset(), _ANY),
    Case("silence", faults.silence(), _ANY, is_slow=True),
    Case("500", faults.status(500), _ANY),
    Case("502", faults.status(502), _ANY),
    Case("503", faults.status(503), _ANY),
    Case("504", faults.status(504), _ANY),
    Case("web-page", faults.html_page(), _ANY),
)
"""Ends that look the same to the plugin whether it was carried out or not."""

LOST_CASES = (
    *(Case(f"{case.name}-unread", case.fault, _ANY, case.is_slow) for case in _ENDINGS),
    *(Case(f"{case.name}-carried-out", faults.carried_out(case.fault), _ANY, case.is_slow) for case in _ENDINGS if case.fault),
    Case("cut-off", faults.cut_off(), _ANY),
    Case("truncated", faults.truncated(), _ANY),
    Case("empty", faults.empty_body(), _ANY),
)  # fmt: skip
"""A request that was sent whole, and whose answer is lost or says nothing. All of them leave the outcome open."""

FIND_CASES = (
    *CASES,
    Case("null", faults.status(200, body=b"null"), _ANY),
    Case("200-error", faults.status(200), _ANY),
)
"""Answers from which nothing can be concluded about an item."""


class Doubts:
    """Tests that lose what was sent or what was answered, and hold what the plugin says against what is there."""

    @_async
    async def test_a_lost_answer_leaves_the_outcome_open(
        self, outlet: Outlet, driver: PluginDriver, proxy: FaultProxy, lost_case: Case
    ) -> None:
        calls = await outlet.count_calls(2)
        for number in range(1, min(calls, _MOST_CALLS) + 1):
            items = outlet.items(2)
            with injected(driver, proxy, lost_case, at=number):
                sent = await outlet.send(items)
            there = await outlet.there(items)
            _check_honest(
                sent, items, there, f"{outlet.stream.name}: {lost_case.name} from call {number} of {calls} on"
            )

    @_async
    async def test_nothing_is_written_again_before_it_was_looked_up(
        self, outlet: Outlet, driver: PluginDriver, proxy: FaultProxy
    ) -> None:
        calls = min(await outlet.count_calls(1), _MOST_CALLS)
        write = await _place_of_the_write(outlet, driver, proxy, calls)
        lost = faults.carried_out(faults.reset())
        for number in range(1, calls + 1):
            (item,) = outlet.items(1)
            before = len(proxy.calls)
            with _resting(driver), proxy.fault(lost, at=number, times=1, where=driver.is_data_call):
                sent = await outlet.send([item])
            made = [call.fingerprint for call in proxy.calls[before:] if driver.is_data_call(call)]
            there = await outlet.there([item])
            told = f"{outlet.stream.name}: the answer to call {number} of {calls} was lost once"
            _check_honest(sent, [item], there, told)
            if number == write:
                assert made.count(made[number - 1]) == 1, broken(
                    "A write whose outcome is unknown is never repeated by itself.",
                    f"{told}, and the same request was made {made.count(made[number - 1])} times",
                    see=_EXPORT,
                    way_out="Do not say idempotent=True for a request that writes; yield unknown, the host looks it up.",
                )

    @_async
    async def test_a_refused_connection_means_that_nothing_was_sent(
        self, outlet: Outlet, driver: PluginDriver, proxy: FaultProxy
    ) -> None:
        await outlet.route()
        await driver.warm_up()
        items = outlet.items(2)
        with _resting(driver), proxy.refusing():
            sent = await outlet.send(items)
        assert (isinstance(sent.error, RetryableError), sent.receipts) == (True, []), broken(
            "When nothing of the batch was sent, export raises RetryableError and the items wait.",
            f"{outlet.stream.name}: with every connection refused it became {sent.ending}",
            see=_EXPORT,
            way_out="Let the host's UnavailableError through: it is raised only when no connection stood.",
        )
        there = await outlet.there(items)
        assert set(there.values()) == {0}, broken(
            "RetryableError says that nothing of what has no receipt was sent.",
            f"{outlet.stream.name}: connections were refused, and the items are there {sorted(there.values())} times",
            see=_EXPORT,
        )
        again = await outlet.send(items)
        assert [again.fate(item.key) for item in items] in (["accepted"] * 2, ["posted"] * 2), broken(
            "Items that were not sent are sent again under the same keys.",
            f"{outlet.stream.name}: after connections were refused and came back: {again.ending}",
            see=_EXPORT,
        )

    @_async
    @pytest.mark.parametrize("code", [429, 503])
    async def test_a_request_to_wait_is_passed_on_and_nothing_is_settled_by_it(
        self, outlet: Outlet, driver: PluginDriver, proxy: FaultProxy, code: int
    ) -> None:
        calls = await outlet.count_calls(2)
        busy = faults.status(code, retry_after=str(_WAIT_S))
        for number in range(1, min(calls, _MOST_CALLS) + 1):
            items = outlet.items(2)
            with _resting(driver), proxy.fault(busy, at=number, where=driver.is_data_call):
                sent = await outlet.send(items)
            wanted = RateLimitedError if code == 429 else RetryableError
            waits = sent.error.retry_after_s if isinstance(sent.error, wanted) else None
            is_told = waits is not None and waits >= _WAIT_S - 1
            told = f"{outlet.stream.name}: {code} with Retry-After: {_WAIT_S} from call {number} of {calls} on"
            assert is_told, broken(
                f"{code} with a time to wait is {wanted.__name__}, and the wait reaches the core as retry_after_s.",
                f"{told}: {sent.ending}; retry_after_s={waits}",
                see="samband.errors.RetryableError",
                way_out="Let the host's own error through.",
            )
            open_ = [receipt for receipt in sent.receipts if receipt.state in ("unknown", "rejected")]
            assert not open_, broken(
                "Who asks for time has taken nothing and refused nothing.", f"{told}: {sent.ending}", see=_EXPORT
            )
            _check_honest(sent, items, await outlet.there(items), told)

    @_async
    async def test_what_cannot_be_looked_up_is_never_taken_for_not_there(
        self, outlet: Outlet, driver: PluginDriver, proxy: FaultProxy, find_case: Case
    ) -> None:
        items = await outlet.sent_well(2)
        await outlet.settle()
        before = driver.data_calls
        found = await outlet.find(items)
        if any(found.fate(item.key) not in ("accepted", "posted") for item in items):
            pytest.skip("items are not found even when all is well; see the test that looks up what was sent")
        calls = driver.data_calls - before if find_case.fault is not None else 1
        for number in range(1, min(calls, _MOST_CALLS) + 1):
            with injected(driver, proxy, find_case, at=number):
                found = await outlet.find(items)
            told = f"{outlet.stream.name}: {find_case.name} from call {number} of {calls} on"
            _check_not_lost(found, items, told, is_first=number == 1)
            assert found.error is None or isinstance(found.error, find_case.allowed), broken(
                f"This becomes {' or '.join(kind.__name__ for kind in find_case.allowed)}.",
                f"{told}: {found.ending}",
                see="samband.errors",
                way_out="Say idempotent=True for a POST that only reads."
                if isinstance(found.error, OutcomeUnknownError)
                else "Judge the status of every answer, parse it with answer.json(), and let the host's errors through.",
            )
        again = await outlet.find(items)
        assert [again.fate(item.key) in ("accepted", "posted") for item in items] == [True, True], broken(
            "After trouble a look-up finds everything.", f"after {find_case.name}: {again.ending}", see=_FIND
        )


def _check_honest(sent: Told, items: Sequence[Item], there: Mapping[str, int], told: str) -> None:
    """Holds what the plugin said became of items against how often they are at the other side."""
    problems = {problem for item in items if (problem := _lie(sent.fate(item.key), there[item.key]))}
    assert not problems, broken(
        "A request that was sent and not answered is unknown: a receipt that says so, or OutcomeUnknownError.",
        f"{told}: {'; '.join(sorted(problems))}. It gave {sent.ending}",
        see=_UNKNOWN,
        way_out="Let the host's OutcomeUnknownError through, and raise it for every answer to a write that you cannot read.",
    )
    is_open = not all(item.key in sent.by_key for item in items)
    is_clear = sent.error is None or isinstance(sent.error, RetryableError | OutcomeUnknownError)
    assert is_clear or not (is_open and any(there.values())), broken(
        "export raises RetryableError when nothing was sent, and OutcomeUnknownError when that is not certain.",
        f"{told}: {sent.ending}",
        see=_UNKNOWN,
        way_out="Raise OutcomeUnknownError for every answer to a write that you cannot read.",
    )


def _lie(fate: str, times: int) -> str | None:
    if times > 1:
        return f"an item is there {times} times"
    if fate in ("accepted", "posted") and times == 0:
        return f"an item was told as {fate} and is not there"
    if fate == "rejected":
        return "an item was told as rejected, and nobody had refused it"
    if fate == "not sent" and times:
        return "an item was told as not sent and is there: it would be sent again"
    return None


def _check_not_lost(found: Told, items: Sequence[Item], told: str, *, is_first: bool) -> None:
    silent = [item for item in items if found.error is None and item.key not in found.by_key]
    assert not silent, broken(
        "find_exported yields nothing only for what is certainly not there: what cannot be told raises, or is unknown.",
        f"{told}: of {len(items)} items that are there it said nothing of {len(silent)}; they would be sent again",
        see=_FIND,
        way_out="Let errors through, and raise RemoteError for an answer that is not what you asked for.",
    )
    invented = [receipt for receipt in found.receipts if receipt.state != "unknown"]
    assert not (is_first and invented), broken(
        "What nobody has answered is not settled.", f"{told}: {found.ending}", see=_FIND
    )


async def _place_of_the_write(outlet: Outlet, driver: PluginDriver, proxy: FaultProxy, calls: int) -> int:
    """Gives which call of a good export writes; 0 when none does by itself.

    It is the last one from which on everything decides: carried out the item is there, and unread it is not.
    """
    for number in range(calls, 0, -1):
        arrived = []
        for lost in (faults.carried_out(faults.reset()), faults.reset()):
            items = outlet.items(1)
            with _resting(driver), proxy.fault(lost, at=number, where=driver.is_data_call):
                await outlet.send(items)
            arrived.append(any((await outlet.there(items)).values()))
        if arrived == [True, False]:
            return number
    return 0


@contextmanager
def _resting(driver: PluginDriver) -> Iterator[None]:
    try:
        yield
    finally:
        driver.clock.advance(_WAIT_S)
        driver.rest()
