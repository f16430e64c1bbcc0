"""What a plugin says a mapping may refer to, shown to keep the promises of ``chart`` before anyone relies on it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from samband.adapters.answers import broken_promise
from samband.contract import Chart, ChartEntry, ChartPeriod
from samband.errors import ContractError

__all__ = ["MAX_ENTRIES", "checked_chart"]

MAX_ENTRIES: Final = 200_000
"""Accounts, dimension values and tax rules that a chart has at most, together."""
_MAX_DIMENSIONS: Final = 50
_MAX_PERIODS: Final = 2_000
_MAX_CODE: Final = 100
_MAX_TEXT: Final = 200
_CODE: Final = re.compile(rf"[^\x00-\x1f\x7f]{{1,{_MAX_CODE}}}")


def checked_chart(plugin: str, chart: object, scrub: Callable[[str], str]) -> Chart:
    """Gives the chart, its texts scrubbed and cut; `ContractError` when it is not one."""
    if not isinstance(chart, Chart):
        raise _broken(plugin, f"gave {type(chart).__name__}", "return a samband.Chart.")
    if not isinstance(chart.dimensions, Mapping) or len(chart.dimensions) > _MAX_DIMENSIONS:
        raise _broken(plugin, "gave dimensions that are no mapping, or too many", f"{_MAX_DIMENSIONS} at most.")
    for name in chart.dimensions:
        if not isinstance(name, str) or not _CODE.fullmatch(name):
            raise _broken(plugin, "gave a dimension without a usable name", f"text of 1 to {_MAX_CODE} characters.")
    checker = _Checker(plugin, scrub)
    return Chart(
        accounts=checker.entries("accounts", chart.accounts),
        dimensions={name: checker.entries(f"dimensions[{name!r}]", given) for name, given in chart.dimensions.items()},
        tax_rules=None if chart.tax_rules is None else checker.entries("tax_rules", chart.tax_rules),
        periods=None if chart.periods is None else _periods(plugin, chart.periods),
    )


class _Checker:
    """Counts entries over all lists of one chart."""

    def __init__(self, plugin: str, scrub: Callable[[str], str]) -> None:
        self._plugin = plugin
        self._scrub = scrub
        self._count = 0

    def entries(self, where: str, given: object) -> tuple[ChartEntry, ...]:
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise _broken(self._plugin, f"gave {where} that are no list", "give a list of samband.ChartEntry.")
        self._count += len(given)
        if self._count > MAX_ENTRIES:
            raise _broken(self._plugin, f"gave more than {MAX_ENTRIES} entries", "leave out what nothing is booked on.")
        codes: set[str] = set()
        return tuple(self._entry(where, entry, codes) for entry in given)

    def _entry(self, where: str, entry: object, codes: set[str]) -> ChartEntry:
        if not isinstance(entry, ChartEntry):
            raise _broken(self._plugin, f"gave {type(entry).__name__} in {where}", "give samband.ChartEntry.")
        if not isinstance(entry.code, str) or not _CODE.fullmatch(entry.code):
            way_out = f"a code is text of 1 to {_MAX_CODE} characters."
            raise _broken(self._plugin, f"gave an entry without a usable code in {where}", way_out)
        if not isinstance(entry.text, str) or not isinstance(entry.is_open, bool):
            raise _broken(self._plugin, f"gave an entry of the wrong shape in {where}", "text is str, is_open is bool.")
        if entry.code in codes:
            raise _broken(self._plugin, f"gave one code twice in {where}", "say once whether it is open.")
        codes.add(entry.code)
        text = self._scrub(entry.text.replace("\x00", " "))[:_MAX_TEXT]
        return ChartEntry(code=entry.code, text=text, is_open=entry.is_open)


def _periods(plugin: str, given: object) -> tuple[ChartPeriod, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) > _MAX_PERIODS:
        raise _broken(plugin, "gave periods that are no list, or too many", f"{_MAX_PERIODS} at most.")
    for period in given:
        if not isinstance(period, ChartPeriod) or not isinstance(period.is_open, bool):
            raise _broken(plugin, "gave something else than periods", "give samband.ChartPeriod.")
        if not _is_day(period.first) or not _is_day(period.last) or period.first > period.last:
            raise _broken(plugin, "gave a period that is none", "first and last are dates, in that order.")
    return tuple(sorted(given, key=lambda period: (period.first, period.last)))


def _is_day(value: object) -> bool:
    return isinstance(value, dt.date) and not isinstance(value, dt.datetime)


def _broken(plugin: str, what: str, way_out: str) -> ContractError:
    return broken_promise(plugin, "chart", what, way_out)
