"""How an organisation's claims become vouchers: its accounts, tax rules, dimensions and rates. Data, and what lacks in it.

Nothing here knows a particular accounting system; account numbers and codes are the organisation's own.
"""

from __future__ import annotations

import datetime as dt
import difflib
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from samband.errors import FieldProblem, InvalidError
from samband.kinds import Amount, field_problems
from samband.rules.claimparts import Part, Unpostable, dimensions_of, parts_of
from samband.rules.templates import DIMENSION, IN_CLAIM, IN_LINE, Placeholder, read_template

__all__ = [
    "Allowance",
    "ExpenseRule",
    "Gap",
    "Lookup",
    "MappingBody",
    "PayeeRule",
    "RateRow",
    "closest",
    "digest_of",
    "gaps",
    "parse_mapping",
    "rate_on",
]

_NO_CONTROLS: Final = r"^[^\x00-\x1f\x7f]*$"
_TRIMMED: Final = r"^[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$"
_SEARCHED: Final = 500
_HINTS: Final = 10
"""Comparing names is slow: so many gaps get a suggestion, and of no table that has more entries than are searched."""


def _a_day(value: Any) -> Any:
    # A bare number would be taken for days or seconds since 1970.
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value, re.ASCII) is None:
        raise ValueError("write the day as 2026-01-31")
    if not isinstance(value, str | dt.date) or isinstance(value, dt.datetime):
        raise ValueError("write the day as text, for instance 2026-01-31")
    return value


def _in_line(source: str) -> str:
    read_template(source, IN_LINE)
    return source


def _in_claim(source: str) -> str:
    read_template(source, IN_CLAIM)
    return source


def _two_decimals(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.01"))


def _in_order(rows: list[RateRow]) -> list[RateRow]:
    days = [row.valid_from for row in rows]
    if len(set(days)) != len(days):
        raise ValueError("two rows begin on the same day")
    if days != sorted(days):
        raise ValueError("put the rows in the order of their days, the oldest first")
    return rows


Code = Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=_TRIMMED)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=_TRIMMED)]
TableName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=_NO_CONTROLS)]
LineTemplate = Annotated[str, StringConstraints(max_length=200, pattern=_NO_CONTROLS), AfterValidator(_in_line)]
ClaimTemplate = Annotated[str, StringConstraints(max_length=200, pattern=_NO_CONTROLS), AfterValidator(_in_claim)]
Day = Annotated[
    dt.date, BeforeValidator(_a_day, json_schema_input_type=dt.date),
    Field(ge=dt.date(1990, 1, 1), le=dt.date(2200, 1, 1)),
]  # fmt: skip
Rate = Annotated[Amount, AfterValidator(_two_decimals)]


class Shape(BaseModel):
    """Closed and frozen, and silent about what was sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class RateRow(Shape):
    """What a kilometre is worth from a day on, until the next row begins."""

    valid_from: Day
    rate: Rate = Field(description="What is paid; for people. What a claim itself applied is what counts.")
    tax_free: Rate = Field(description="How much of it is free of tax.")


RateTable = Annotated[list[RateRow], Field(min_length=1, max_length=200), AfterValidator(_in_order)]


class Allowance(Shape):
    """An allowance by the kilometre, part of which is taxable. Which rate is free is a table, never a matter of today."""

    rates: Name = Field(description="Name of the rate table.")
    taxable_account: Code | None = Field(default=None, description="Where the part beyond the tax-free rate goes.")
    taxable_tax_rule: Code | None = None


class ExpenseRule(Shape):
    """What an expense type comes to."""

    account: Code | None = Field(default=None, description="Required, unless the type is excluded.")
    tax_rule: Code | None = Field(default=None, description="Null leaves it to the other system.")
    dimensions: dict[Name, LineTemplate | None] = Field(
        default={}, max_length=20, description="Beside the default ones; null takes a default one away."
    )
    text: LineTemplate = "{expense_type} {date} {claim}"
    excluded: bool = Field(
        default=False, strict=True,
        description="Never exported: a claim that has such a line is skipped as a whole, with that reason.",
    )  # fmt: skip
    allowance: Allowance | None = None


class PayeeRule(Shape):
    """Where the debt to the person is booked."""

    strategy: Literal["employee", "supplier", "liability"]
    account: Code | None = None
    code: ClaimTemplate | None = Field(default=None, description="Their number in the subledger; required for one.")
    dimensions: dict[Name, ClaimTemplate | None] = Field(default={}, max_length=20)
    text: ClaimTemplate = "{claim} {date}"
    with_name: bool = Field(default=False, strict=True, description="Whether the person's name goes along.")
    with_bank_account: bool = Field(default=False, strict=True, description="Whether the bank account goes along.")


class Lookup(Shape):
    """A table that says what a code of the platform's is in the books: an activity's cost centre, a person's number."""

    entries: dict[Key, Code] = Field(min_length=1, max_length=20_000, description="What claims say → the code for it.")
    default: Code | None = Field(
        default=None, description="For what the table does not have; with null that is a gap, and refuses an export."
    )


class MappingBody(Shape):
    """A mapping. Templates know the placeholders of `samband.rules.templates`."""

    voucher_type: Code | None = Field(default=None, description="Null leaves it to the other system's settings.")
    date: Literal["approved", "expense"] = Field(
        default="approved", description="The day a voucher bears: of the approval, or of the latest expense."
    )
    closed_period: Literal["hold", "next_open"] = Field(
        default="hold", description="When that day's period is closed: wait, or the first day of the next open one."
    )
    grouping: Literal["none", "same"] = Field(
        default="none", description="With same, lines that differ in nothing but the amount become one."
    )
    text: ClaimTemplate = "{claim}"
    payee: PayeeRule
    expense_types: dict[Name, ExpenseRule] = Field(min_length=1, max_length=500)
    rates: dict[Name, RateTable] = Field(default={}, max_length=50)
    dimensions: dict[Name, LineTemplate] = Field(
        default={}, max_length=20, description="Of every expense line; a dimension's name → its code or a template."
    )
    lookups: dict[TableName, Lookup] = Field(
        default={}, max_length=50, description="Tables by name, for templates such as {payee.id:employees}."
    )

    def look_up(self, table: str, key: str) -> str | None:
        """Gives what a table has for a key, or its default; None when it has neither."""
        found = self.lookups[table]
        return found.entries.get(key, found.default)


def parse_mapping(raw: Mapping[str, Any] | MappingBody, *, prefix: str = "mapping") -> MappingBody:
    """Gives a mapping that is whole in itself.

    Raises:
        InvalidError: Names every field that is malformed, and every one that a voucher needs and that is not there.
    """
    if isinstance(raw, MappingBody):
        body = raw
    else:
        try:
            body = MappingBody.model_validate(raw)
        except ValidationError as error:
            raise InvalidError("The mapping is not valid.", problems=field_problems(error, prefix)) from None
    problems = [
        FieldProblem(field=f"{prefix}.{field}" if prefix else field, code=code, message=message)
        for field, code, message in _lacking(body)
    ]
    if problems:
        raise InvalidError(
            "The mapping is not whole, so it cannot be saved.", problems=problems, code="mapping_incomplete",
            hint="Fill in what is named, or mark an expense type as excluded.",
        )  # fmt: skip
    return body


def digest_of(body: MappingBody) -> str:
    """Gives what two mappings that mean the same have in common."""
    told = orjson.dumps(body.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(told).hexdigest()


def rate_on(rows: Sequence[RateRow], day: dt.date) -> RateRow | None:
    """Gives the row that counts on a day; None before the first one."""
    return next((row for row in reversed(rows) if row.valid_from <= day), None)


def closest(name: str, known: Iterable[str]) -> str | None:
    """Gives the known name that somebody may have meant; of several that are as close, the one that begins alike."""
    folded = {candidate.casefold(): candidate for candidate in known}
    meant = name.casefold()
    found = difflib.get_close_matches(meant, folded, n=8, cutoff=0.6)
    if not found:
        return None

    def distance(candidate: str) -> tuple[float, int, str]:
        alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(candidate, meant, strict=False))
        return -difflib.SequenceMatcher(None, candidate, meant).ratio(), -len(list(alike)), candidate

    return folded[min(found, key=distance)]


# ── what lacks ───────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Something that a mapping has to say before these claims can go out.

    Attributes:
        kind: ``expense_type`` when it is not mapped, ``lookup`` when a table has no entry for what a claim says, ``rate``
            when a rate table does not reach back to an expense's day.
        name: The expense type, the table and the key as in ``employees/p-17``, or the rate table.
        claims: Ids of the claims that need it, in their order.
        message: One sentence with the way out.
    """

    kind: Literal["expense_type", "lookup", "rate"]
    name: str
    claims: tuple[str, ...]
    message: str

    @property
    def field(self) -> str:
        """Names the field of the mapping that is missing, dotted."""
        if self.kind == "lookup":
            table, _, key = self.name.partition("/")
            return f"lookups.{table}.entries.{key}"
        return f"{'rates' if self.kind == 'rate' else 'expense_types'}.{self.name}"


def gaps(mapping: MappingBody, claims: Mapping[str, Mapping[str, Any]]) -> list[Gap]:
    """Gives what the mapping lacks for these claims (id → values as kept), by kind and name; empty when nothing."""
    needed: dict[tuple[str, str], dict[str, None]] = {}
    oldest: dict[str, dt.date] = {}
    tables = _tables_needed(mapping)
    for claim_id, body in claims.items():
        for kind, name, day in _needs(mapping, tables, body):
            needed.setdefault((kind, name), {})[claim_id] = None
            if kind == "rate":
                oldest[name] = min(day, oldest.get(name, day))
    found = []
    hints = itertools.count()
    for (kind, name), ids in sorted(needed.items()):
        if kind == "rate":
            text = f"The rate table {name!r} begins after {oldest[name]}; add a row that was in force then."
            found.append(Gap(kind="rate", name=name, claims=tuple(ids), message=text))
        elif kind == "lookup":
            text = _unlisted(mapping, tables, name, hints)
            found.append(Gap(kind="lookup", name=name, claims=tuple(ids), message=text))
        else:
            found.append(Gap(kind="expense_type", name=name, claims=tuple(ids), message=_unmapped(mapping, name)))
    return found


@dataclass(frozen=True, slots=True)
class _Tables:
    """What is looked up in tables that have no default.

    Attributes:
        of_claim: Once for a claim.
        of_line: Expense type → for each of its lines.
    """

    of_claim: tuple[Placeholder, ...]
    of_line: Mapping[str, tuple[Placeholder, ...]]

    @property
    def of_people(self) -> set[str]:
        """Names those that people are looked up in."""
        every = itertools.chain(self.of_claim, *self.of_line.values())
        return {placeholder.table for placeholder in every if placeholder.name == "payee.id"}


def _tables_needed(mapping: MappingBody) -> _Tables:
    def looked_up(sources: Iterable[str | None]) -> tuple[Placeholder, ...]:
        every = [p for source in sources if source for p in read_template(source, IN_LINE).placeholders if p.table]
        return tuple(dict.fromkeys(p for p in every if mapping.lookups[p.table].default is None))

    payee = mapping.payee
    return _Tables(
        looked_up((mapping.text, payee.code, payee.text, *payee.dimensions.values())),
        {
            name: looked_up((rule.text, *{**mapping.dimensions, **rule.dimensions}.values()))
            for name, rule in mapping.expense_types.items()
            if not rule.excluded
        },
    )


def _needs(mapping: MappingBody, tables: _Tables, body: Mapping[str, Any]) -> Iterator[tuple[str, str, dt.date]]:
    """Gives what one claim needs and does not find; what is wrong with the claim itself is not the mapping's gap."""
    is_left_out = False
    unlisted = _missing(mapping, tables.of_claim, body)
    for line in body["lines"]:
        day = dt.date.fromisoformat(str(line["date"]))
        try:
            parts = parts_of(line)
        except Unpostable:
            is_left_out = True
            continue
        for part in parts:
            rule = mapping.expense_types.get(part.expense_type)
            if rule is None:
                yield "expense_type", part.expense_type, day
            elif rule.excluded:
                is_left_out = True
            else:
                if rule.allowance is not None and rate_on(mapping.rates.get(rule.allowance.rates, ()), day) is None:
                    yield "rate", rule.allowance.rates, day
                unlisted |= _missing(mapping, tables.of_line[part.expense_type], body, line, part)
    if not is_left_out:  # which it is as a whole, and then looks nothing up
        yield from (("lookup", name, day) for name in unlisted)


def _missing(
    mapping: MappingBody, looked_up: Iterable[Placeholder], body: Mapping[str, Any],
    line: Mapping[str, Any] | None = None, part: Part | None = None,
) -> dict[str, None]:  # fmt: skip
    """Gives each table and key, as a gap is named, that the table has nothing for; in the order they are looked up."""
    found: dict[str, None] = {}
    for name, _, _, table in looked_up:
        if name.startswith(DIMENSION):
            key = dimensions_of(body, line).get(name.removeprefix(DIMENSION), "")
        else:
            key = body["payee"]["id"] if part is None or name == "payee.id" else part.expense_type
        if key and mapping.look_up(table, key) is None:
            found[f"{table}/{key}"] = None
    return found


def _unlisted(mapping: MappingBody, tables: _Tables, name: str, hints: Iterator[int]) -> str:
    table, _, key = name.partition("/")
    entries = mapping.lookups[table].entries
    # Never of people: somebody else's number is no suggestion.
    is_searched = table not in tables.of_people and len(entries) <= _SEARCHED and next(hints) < _HINTS
    meant = closest(key, entries) if is_searched else None
    like = "" if meant is None else f" {meant!r} is in it; if that is the same, tell claims under that."
    return f"The table {table!r} has no entry for {key!r}. Add it, or give the table a default.{like}"


def _unmapped(mapping: MappingBody, name: str) -> str:
    meant = closest(name, mapping.expense_types)
    like = "" if meant is None else f" {meant!r} is mapped; if that is the same, give it the same name."
    return f"The expense type {name!r} has no account. Map it, or mark it as excluded.{like}"


def _lacking(body: MappingBody) -> Iterator[tuple[str, str, str]]:
    payee = body.payee
    if payee.account is None:
        yield "payee.account", "missing", "Name the account that the debt to the person is booked on."
    if payee.strategy != "liability" and not payee.code:
        text = "Say how the person's number in the subledger is made, for instance {payee.id}."
        yield "payee.code", "missing", text
    for name, rule in body.expense_types.items():
        yield from ((f"expense_types.{name}.{field}", *rest) for field, *rest in _lacking_in_rule(body, rule))  # type: ignore[misc]
    known = ", ".join(sorted(body.lookups)) or "none"
    for field, source in _templates(body):
        for table in sorted({p.table for p in read_template(source, IN_LINE).placeholders} - {"", *body.lookups}):
            text = f"There is no table {table!r} among the mapping's lookups. Known: {known}."
            yield field, "unknown_table", text


def _templates(body: MappingBody) -> Iterator[tuple[str, str]]:
    """Gives every template that the mapping has, each with its field."""
    payee = body.payee
    places: list[tuple[str, str | None, Mapping[str, str | None]]] = [
        ("", body.text, dict(body.dimensions)), ("payee.", payee.text, payee.dimensions),
        *((f"expense_types.{name}.", rule.text, rule.dimensions) for name, rule in body.expense_types.items()),
    ]  # fmt: skip
    for at, text, dimensions in places:
        told = {"text": text, **{f"dimensions.{name}": source for name, source in dimensions.items()}}
        yield from ((f"{at}{field}", source) for field, source in told.items() if source)
    if payee.code:
        yield "payee.code", payee.code


def _lacking_in_rule(body: MappingBody, rule: ExpenseRule) -> Iterator[tuple[str, str, str]]:
    if rule.excluded:
        return
    if rule.account is None:
        yield "account", "missing", "Name the account, or mark the expense type as excluded."
    if rule.allowance is None:
        return
    if rule.allowance.taxable_account is None:
        yield "allowance.taxable_account", "missing", "Name the account for what is beyond the tax-free rate."
    if rule.allowance.rates not in body.rates:
        known = ", ".join(sorted(body.rates)) or "none"
        yield "allowance.rates", "unknown_rates", f"There is no such rate table in the mapping. Known: {known}."
