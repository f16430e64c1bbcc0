"""What is wrong with a mapping as far as the other side's accounts, dimensions, tax rules and periods tell."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, NamedTuple

from samband.outgoing import Chart, ChartEntry, ChartPeriod
from samband.rules.mapping import ExpenseRule, MappingBody, closest
from samband.rules.templates import IN_CLAIM, IN_LINE, Placeholder, Template, read_template

__all__ = [
    "MappingFinding",
    "chart_of",
    "chart_row",
    "check_mapping",
    "finding_row",
    "periods_of",
    "texts_of",
    "unchecked",
]

FindingCode = Literal[
    "account_unknown",
    "account_closed",
    "dimension_unknown",
    "dimension_closed",
    "tax_rule_unknown",
    "tax_rule_closed",
    "period_closed",
    "period_ending",
]
ENDS_SOON: Final = dt.timedelta(days=7)
_HINTS: Final = 10
_CANDIDATES: Final = 2_000
"""Comparing names is slow: so many findings get a suggestion, each among so many names."""
_ENTRIES_TOLD: Final = 200
"""A dimension that is set up anew over there may leave no code of a table as it was: so many are told one by one."""
_CODES: Final = 200_000
"""Far more than tables have entries; a mapping that puts them together in thousands of ways is not looked at to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingFinding:
    """One thing that the other side would refuse.

    Attributes:
        code: Stable.
        field: Of the mapping, dotted.
        message: One sentence for people.
        suggestion: The code that was perhaps meant.
    """

    code: FindingCode
    field: str
    message: str
    suggestion: str | None = None


def check_mapping(mapping: MappingBody, chart: Chart, today: dt.date) -> list[MappingFinding]:
    """Gives what is wrong, in the order of the mapping. What has a placeholder is only known with a claim at hand."""
    hints = itertools.count()
    return [
        *_of_accounts(mapping, chart, hints),
        *_of_tax_rules(mapping, chart, hints),
        *_of_dimensions(mapping, chart, hints),
        *_of_periods(mapping, chart, today),
    ]


def unchecked(mapping: MappingBody, chart: Chart) -> list[str]:
    """Names what nobody can check: dimensions that the other side does not list, tables of other things, tax rules, periods."""
    places = [(dimension, _table_of(template)) for _, dimension, template in _templates(mapping)]
    names = sorted({dimension for dimension, _ in places} - set(chart.dimensions))
    checked = {looked_up.table for dimension, looked_up in places if looked_up and dimension in chart.dimensions}
    more = [("tax_rules", chart.tax_rules), ("periods", chart.periods)]
    return [
        *(f"dimensions.{name}" for name in names),
        *(f"lookups.{table}" for table in sorted(set(mapping.lookups) - checked)),
        *(name for name, listed in more if listed is None),
    ]


# ── as it is kept ────────────────────────────────────────────────────────────


def chart_row(chart: Chart) -> dict[str, Any]:
    """Gives a chart as JSON values; an entry is a list of code, text and whether it is open."""
    return {
        "accounts": _entry_rows(chart.accounts),
        "dimensions": {name: _entry_rows(entries) for name, entries in chart.dimensions.items()},
        "tax_rules": None if chart.tax_rules is None else _entry_rows(chart.tax_rules),
        "periods": None
        if chart.periods is None
        else [[p.first.isoformat(), p.last.isoformat(), p.is_open] for p in chart.periods],
    }


def chart_of(row: Mapping[str, Any]) -> Chart | None:
    """Gives the chart that was kept; None when none ever was."""
    if not row:
        return None
    tax_rules = row["tax_rules"]
    return Chart(
        accounts=_entries(row["accounts"]),
        dimensions={name: _entries(entries) for name, entries in row["dimensions"].items()},
        tax_rules=None if tax_rules is None else _entries(tax_rules),
        periods=periods_of(row),
    )


def periods_of(row: Mapping[str, Any]) -> tuple[ChartPeriod, ...] | None:
    """Gives the periods of a chart that was kept, without reading the rest of it; None when they are not known."""
    kept = row.get("periods")
    if kept is None:
        return None
    return tuple(
        ChartPeriod(first=dt.date.fromisoformat(first), last=dt.date.fromisoformat(last), is_open=is_open)
        for first, last, is_open in kept
    )


def texts_of(row: Mapping[str, Any] | None) -> dict[str, str]:
    """Gives the accounts' names of a chart that was kept."""
    return {code: text for code, text, _ in (row or {}).get("accounts", ())}


def finding_row(finding: MappingFinding) -> dict[str, Any]:
    """Gives a finding as JSON values."""
    return asdict(finding)


def _entry_rows(entries: Sequence[ChartEntry]) -> list[list[Any]]:
    return [[entry.code, entry.text, entry.is_open] for entry in entries]


def _entries(rows: Sequence[Sequence[Any]]) -> tuple[ChartEntry, ...]:
    return tuple(ChartEntry(code=code, text=text, is_open=is_open) for code, text, is_open in rows)


# ── codes ────────────────────────────────────────────────────────────────────


def _of_accounts(mapping: MappingBody, chart: Chart, hints: Iterator[int]) -> Iterator[MappingFinding]:
    known = {entry.code: entry for entry in chart.accounts}
    for field, code in _accounts(mapping):
        yield from _judge(field, code, known, "account_unknown", "account_closed", "account", hints)


def _accounts(mapping: MappingBody) -> Iterator[tuple[str, str]]:
    if mapping.payee.account is not None:
        yield "payee.account", mapping.payee.account
    for name, rule in _used(mapping):
        if rule.account is not None:
            yield f"expense_types.{name}.account", rule.account
        if rule.allowance is not None and rule.allowance.taxable_account is not None:
            yield f"expense_types.{name}.allowance.taxable_account", rule.allowance.taxable_account


def _of_tax_rules(mapping: MappingBody, chart: Chart, hints: Iterator[int]) -> Iterator[MappingFinding]:
    if chart.tax_rules is None:
        return
    known = {entry.code: entry for entry in chart.tax_rules}
    for name, rule in _used(mapping):
        taxable = None if rule.allowance is None else rule.allowance.taxable_tax_rule
        for field, code in (("tax_rule", rule.tax_rule), ("allowance.taxable_tax_rule", taxable)):
            if code is not None:
                where = f"expense_types.{name}.{field}"
                yield from _judge(where, code, known, "tax_rule_unknown", "tax_rule_closed", "tax rule", hints)


def _of_dimensions(mapping: MappingBody, chart: Chart, hints: Iterator[int]) -> Iterator[MappingFinding]:
    known = {name: {entry.code: entry for entry in entries} for name, entries in chart.dimensions.items()}
    told: dict[str, int] = {}
    for use in itertools.islice(_uses(mapping, known), _CODES):
        what, values = f"value of the dimension {use.dimension}", known[use.dimension]
        for finding in _judge(use.field, use.code, values, "dimension_unknown", "dimension_closed", what, hints):
            if use.table is None or told.get(use.table, 0) < _ENTRIES_TOLD:
                yield finding
            if use.table is not None:
                told[use.table] = told.get(use.table, 0) + 1
    for table, count in told.items():
        if count > _ENTRIES_TOLD:
            text = f"The other system does not take {count - _ENTRIES_TOLD} more codes of the table {table!r} either."
            yield MappingFinding(code="dimension_unknown", field=f"lookups.{table}", message=text)


class _Use(NamedTuple):
    """A code of a dimension that a mapping can come to.

    Attributes:
        field: Of the mapping, dotted.
        table: That the code is in, if it is in one.
    """

    field: str
    dimension: str
    code: str
    table: str | None = None


def _uses(mapping: MappingBody, known: Container[str]) -> Iterator[_Use]:
    """Gives the codes of known dimensions that do not depend on a claim, or only on which entry of a table it takes."""
    seen: set[tuple[str, Template]] = set()  # each type has its own, but they use the same tables in the same way
    for field, dimension, template in _templates(mapping):
        if dimension not in known:
            continue
        if (code := template.literal) is not None:
            yield _Use(field, dimension, code)
        elif (looked_up := _table_of(template)) is not None and (dimension, template) not in seen:
            seen.add((dimension, template))
            yield from _entries_of(mapping, dimension, template, looked_up)
            if looked_up.default:  # which stands there when the claim says nothing
                yield _Use(field, dimension, template.render({}))


def _entries_of(mapping: MappingBody, dimension: str, template: Template, looked_up: Placeholder) -> Iterator[_Use]:
    table, lookup = looked_up.table, mapping.lookups[looked_up.table]
    codes = {f"lookups.{table}.entries.{key}": code for key, code in lookup.entries.items()}
    if lookup.default is not None:
        codes[f"lookups.{table}.default"] = lookup.default
    for field, code in codes.items():
        yield _Use(field, dimension, template.render({looked_up.name: code}, lambda _table, code: code), table)


def _table_of(template: Template) -> Placeholder | None:
    """Gives the one placeholder of a template that has no other, when it is looked up."""
    placeholders = template.placeholders
    return placeholders[0] if len(placeholders) == 1 and placeholders[0].table else None


def _templates(mapping: MappingBody) -> Iterator[tuple[str, str, Template]]:
    """Gives each place that says a dimension: the field, the dimension's name, and what it says."""
    groups: list[tuple[str, Mapping[str, str | None], tuple[str, ...]]] = [
        ("dimensions", dict(mapping.dimensions), IN_LINE),
        ("payee.dimensions", mapping.payee.dimensions, IN_CLAIM),
    ]
    groups += [(f"expense_types.{name}.dimensions", rule.dimensions, IN_LINE) for name, rule in _used(mapping)]
    for field, templates, allowed in groups:
        for name, template in templates.items():
            if template is not None:
                yield f"{field}.{name}", name, read_template(template, allowed)


def _used(mapping: MappingBody) -> Iterator[tuple[str, ExpenseRule]]:
    return ((name, rule) for name, rule in mapping.expense_types.items() if not rule.excluded)


def _judge(
    field: str,
    code: str,
    known: Mapping[str, ChartEntry],
    is_unknown: FindingCode,
    is_closed: FindingCode,
    what: str,
    hints: Iterator[int],
) -> Iterator[MappingFinding]:
    entry = known.get(code)
    if entry is not None and entry.is_open:
        return
    meant = _meant(code, entry, known) if next(hints) < _HINTS else None
    like, suggestion = ("", None) if meant is None else (f" Did you mean {_named(meant)}?", meant.code)
    if entry is None:
        text = f"The other system has no {what} {code}.{like}"
        yield MappingFinding(code=is_unknown, field=field, message=text, suggestion=suggestion)
    else:
        text = f"The {what} {_named(entry)} is closed.{like}"
        yield MappingFinding(code=is_closed, field=field, message=text, suggestion=suggestion)


def _meant(code: str, entry: ChartEntry | None, known: Mapping[str, ChartEntry]) -> ChartEntry | None:
    """Gives an open entry of a similar name, for one that was closed, or else of a similar code."""
    is_open = [candidate for candidate in known.values() if candidate.is_open]
    if len(is_open) > _CANDIDATES:
        is_open = [candidate for candidate in is_open if candidate.code[:1] == code[:1]][:_CANDIDATES]
    if entry is not None and entry.text:
        named = {candidate.text: candidate for candidate in is_open if candidate.text}
        if (text := closest(entry.text, named)) is not None:
            return named[text]
    coded = {candidate.code: candidate for candidate in is_open}
    found = closest(code, coded)
    return None if found is None else coded[found]


def _named(entry: ChartEntry) -> str:
    return f"{entry.code} {entry.text}".rstrip()


# ── periods ──────────────────────────────────────────────────────────────────


def _of_periods(mapping: MappingBody, chart: Chart, today: dt.date) -> Iterator[MappingFinding]:
    if chart.periods is None:
        return
    open_periods = [period for period in chart.periods if period.is_open]
    field = "closed_period"
    if not any(period.first <= today <= period.last for period in open_periods):
        later = [period.first for period in open_periods if period.first > today]
        if not later:
            text = "No period of the books is open today or later, so nothing can be booked."
        elif mapping.closed_period == "hold":
            text = f"The books' period of today is closed; claims of today wait, though {min(later)} is open."
        else:
            return
        yield MappingFinding(code="period_closed", field=field, message=text)
        return
    last = max(period.last for period in open_periods)
    if last - today <= ENDS_SOON:
        text = f"The last open period of the books ends on {last}; after that nothing can be booked."
        yield MappingFinding(code="period_ending", field=field, message=text)
