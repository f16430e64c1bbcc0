"""What a plugin says stands in the other side's books: each line shown to keep the promises of ``booked``."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from samband.adapters.answers import broken_promise
from samband.adapters.containment import Containment
from samband.contract import Booked
from samband.errors import RemoteError

__all__ = ["MAX_LINES", "BookedLines"]

MAX_LINES: Final = 1_000_000
"""Lines that one comparison takes: far above what three months of an organisation's vouchers come to."""

_CENT: Final = Decimal("0.01")
_MOST: Final = Decimal(10) ** 12
_MAX_KEY: Final = 400
_MAX_ACCOUNT: Final = 100


class BookedLines:
    """Checks lists of lines as they come; an async iterator that belongs to the plugin's lane, with errors of the tree.

    Args:
        plugin: Named in errors.
        lists: What the hook gave.
        first: The first day that was asked for.
        last: The last one.
        contained: Translates what the plugin raises.
    """

    def __init__(
        self, plugin: str, lists: AsyncIterator[object], *, first: dt.date, last: dt.date, contained: Containment
    ) -> None:
        self._plugin = plugin
        self._lists = lists
        self._first = first
        self._last = last
        self._contained = contained
        self._count = 0

    def __aiter__(self) -> BookedLines:
        return self

    async def __anext__(self) -> list[Booked]:
        with self._contained.around("booked"):
            try:
                return self._checked(await anext(self._lists))
            except StopAsyncIteration:
                ended = True
        assert ended
        raise StopAsyncIteration

    async def aclose(self) -> None:
        close = getattr(self._lists, "aclose", None)
        if close is not None:
            with self._contained.around("booked"):
                await close()

    def _checked(self, lines: object) -> list[Booked]:
        if not isinstance(lines, Sequence) or isinstance(lines, str | bytes):
            raise self._broken(f"yielded {type(lines).__name__} instead of a list")
        self._count += len(lines)
        if self._count > MAX_LINES:
            raise RemoteError(
                f"The books have more than {MAX_LINES} lines in the time that was asked for.", code="too_many_lines",
                hint="Have the plugin read only the lines that carry a key of ours.",
            )  # fmt: skip
        return [self._line(line) for line in lines]

    def _line(self, line: object) -> Booked:
        if not isinstance(line, Booked):
            raise self._broken(f"yielded {type(line).__name__} instead of samband.Booked")
        problem = self._problem(line)
        if problem is not None:
            raise self._broken(f"yielded a line whose {problem}")
        # Whoever books by hand writes what they like into a free text: what cannot be shown is no key of ours.
        key = line.line_key if _is_text(line.line_key, _MAX_KEY) else None
        reference = line.reference if _is_text(line.reference, _MAX_KEY) else None
        return replace(line, line_key=key, reference=reference, amount=line.amount.quantize(_CENT))

    def _problem(self, line: Booked) -> str | None:
        """Says in a few words, without any value, what is wrong with a line."""
        if not isinstance(line.line_key, str | None) or not isinstance(line.reference, str | None):
            return "line_key or reference is neither None nor a text"
        if line.state not in ("staged", "posted", "failed"):
            return "state is none of staged, posted and failed"
        if type(line.date) is not dt.date:
            return "date is no day"
        if not self._first <= line.date <= self._last:
            return "date is outside the days that were asked for"
        if not _is_text(line.account, _MAX_ACCOUNT):
            return f"account is no text of at most {_MAX_ACCOUNT} characters"
        return _amount_problem(line.amount) or _rest_problem(line)

    def _broken(self, what: str) -> Exception:
        return broken_promise(self._plugin, "booked", what, "give lists of samband.Booked, of the days asked for.")


def _amount_problem(amount: object) -> str | None:
    if not isinstance(amount, Decimal) or not amount.is_finite():
        return "amount is no finite Decimal"
    if abs(amount) >= _MOST:
        return "amount is 10^12 or more"
    return None if amount == amount.quantize(_CENT) else "amount has more than two decimals"


def _rest_problem(line: Booked) -> str | None:
    number = line.number
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**63):
        return "number is neither None nor a whole number"
    if line.currency is not None and not (_is_text(line.currency, 3) and len(line.currency) == 3):
        return "currency is neither None nor three letters"
    return None


def _is_text(value: object, limit: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= limit and value.isprintable()
