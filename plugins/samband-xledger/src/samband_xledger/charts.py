"""What a mapping may refer to: accounts, values of dimensions, tax rules, periods."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any, Final

from samband import AuthError, Chart, ChartEntry, ChartPeriod, Context
from samband_xledger.graphql import Xledger
from samband_xledger.instants import OSLO
from samband_xledger.postings import to_text
from samband_xledger.refusals import InputRefusedError, Row, is_about_one_right
from samband_xledger.settings import XledgerSettings

_ACCOUNTS: Final = "dbId code description posting"
_VALUES: Final = "code description dateFrom dateTo posting objectKindDbId"
_PROJECTS: Final = "code description fromDate toDate"
_TAX: Final = "dateFrom dateTo object { code description } objectValue { code description }"
_PERIODS: Final = "status { code name } owner { code } period { fromDate toDate }"
_NO: Final = frozenset({"false", "0", "no", "n"})


async def read_chart(ctx: Context, wire: Xledger) -> Chart:
    """Gives the lists as they are now. What may not be read, or is not named in this tenant, is left out."""
    settings: XledgerSettings = ctx.settings
    today = ctx.now().astimezone(OSLO).date()
    return Chart(
        accounts=await read_accounts(wire),
        dimensions=await _dimensions(ctx, wire, settings, today),
        tax_rules=await _tax_rules(ctx, wire, today),
        periods=await _periods(ctx, wire, settings),
    )


async def read_accounts(wire: Xledger) -> list[ChartEntry]:
    """Gives the accounts, each once."""
    rows = await wire.rows(_list("accounts", _ACCOUNTS), "accounts")
    return _entries((row, str(row.get("posting")).lower() not in _NO) for row in rows)


async def account_codes(wire: Xledger) -> dict[str, str]:
    """Gives their id of an account → its code, for lists that name accounts by id alone."""
    rows = await wire.rows(_list("accounts", _ACCOUNTS), "accounts")
    return {id: code for row in rows if (id := to_text(row.get("dbId"))) and (code := to_text(row.get("code")))}


def _list(connection: str, fields: str) -> str:
    return f"""
query ($first: Int!, $after: String) {{
  {connection}(first: $first, after: $after) {{ edges {{ cursor node {{ {fields} }} }} pageInfo {{ hasNextPage }} }}
}}"""


async def _dimensions(
    ctx: Context, wire: Xledger, settings: XledgerSettings, today: dt.date
) -> dict[str, list[ChartEntry]]:
    found: dict[str, list[ChartEntry]] = {}
    if any(field == "project" for field in settings.dimension_fields.values()):
        rows = await _optional(ctx, wire, "projects", _PROJECTS)
        if rows is not None:
            entries = _entries((row, _is_current(row, today, "fromDate", "toDate")) for row in rows)
            found |= {name: entries for name, field in settings.dimension_fields.items() if field == "project"}
    if not settings.dimension_kinds:
        return found
    kinds = await _optional(ctx, wire, "objectKinds", "dbId name")
    values = await _optional(ctx, wire, "objectValues", _VALUES)
    if kinds is None or values is None:
        return found
    ids = {to_text(row.get("name")): to_text(row.get("dbId")) for row in kinds}
    for name, kind in settings.dimension_kinds.items():
        if (id := ids.get(kind)) is None:
            ctx.log.warning("object_kind_unknown", dimension=name, kind=kind)
            continue
        found[name] = _entries(
            (row, _is_current(row, today) and str(row.get("posting")).lower() not in _NO)
            for row in values
            if to_text(row.get("objectKindDbId")) == id
        )
    return found


async def _tax_rules(ctx: Context, wire: Xledger, today: dt.date) -> list[ChartEntry] | None:
    rows = await _optional(ctx, wire, "taxTableSetups", _TAX)
    named = [(_named(row), _is_current(row, today)) for row in rows or ()]
    entries = _entries((rule, is_open) for rule, is_open in named if rule is not None)
    return entries or None  # setups without a code tell nothing about which codes there are


def _named(row: Row) -> Row | None:
    for name in ("objectValue", "object"):
        rule = row.get(name)
        if isinstance(rule, Mapping) and to_text(rule.get("code")):
            return rule
    return None


async def _periods(ctx: Context, wire: Xledger, settings: XledgerSettings) -> list[ChartPeriod] | None:
    rows = await _optional(ctx, wire, "periodStatusItems", _PERIODS)
    if rows is None:
        return None
    found: dict[tuple[dt.date, dt.date], tuple[bool, ChartPeriod]] = {}
    for row in rows:
        owner, period, status = (row.get(name) for name in ("owner", "period", "status"))
        days = _days(period)
        if days is None or not isinstance(status, Mapping):
            continue
        is_own = isinstance(owner, Mapping) and to_text(owner.get("code")) == settings.entity_code
        if days in found and found[days][0] and not is_own:
            continue  # the entity's own status counts before the one it inherits
        said = (to_text(status.get("code")) or to_text(status.get("name")) or "").upper()
        found[days] = (is_own, ChartPeriod(first=days[0], last=days[1], is_open=said.startswith("OPEN")))
    return [period for _, (_, period) in sorted(found.items())] or None


async def _optional(ctx: Context, wire: Xledger, connection: str, fields: str) -> list[Row] | None:
    """Gives a list that posting can do without; None when it may not be read or is called otherwise in this tenant."""
    try:
        return await wire.rows(_list(connection, fields), connection)
    except (AuthError, InputRefusedError) as err:
        if isinstance(err, AuthError) and not is_about_one_right(err):
            raise
        ctx.log.warning("list_not_readable", list=connection, reason=err.code)
    return None


def _entries(rows: Iterable[tuple[Row, bool]]) -> list[ChartEntry]:
    """Gives an entry per code; one that is open anywhere in the token's reach is open."""
    found: dict[str, ChartEntry] = {}
    for row, is_open in rows:
        code = to_text(row.get("code"))
        if code is not None and (code not in found or (is_open and not found[code].is_open)):
            found[code] = ChartEntry(code=code, text=to_text(row.get("description")) or "", is_open=is_open)
    return list(found.values())


def _is_current(row: Row, today: dt.date, first: str = "dateFrom", last: str = "dateTo") -> bool:
    begins, ends = _day(row.get(first)), _day(row.get(last))
    return (begins is None or begins <= today) and (ends is None or today <= ends)


def _days(period: Any) -> tuple[dt.date, dt.date] | None:
    if not isinstance(period, Mapping):
        return None
    first, last = _day(period.get("fromDate")), _day(period.get("toDate"))
    return (first, last) if first is not None and last is not None else None


def _day(value: Any) -> dt.date | None:
    try:
        return dt.date.fromisoformat(value[:10]) if isinstance(value, str) else None
    except ValueError:
        return None
