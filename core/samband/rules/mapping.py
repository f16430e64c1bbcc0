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
from samband.rules.claimparts import Unpostable, parts_of
from samband.rules.templates import IN_CLAIM, IN_LINE, read_template

__all__ = [
    "Allowance",
    "ExpenseRule",
    "Gap",
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


Code = Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=r"^[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$")]  # fmt: skip  # noqa: E501
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
        kind: ``expense_type`` when it is not mapped, ``rate`` when a rate table does not reach back to an expense's day.
        name: The expense type, or the rate table.
        claims: Ids of the claims that need it, in their order.
        message: One sentence with the way out.
    """

    kind: Literal["expense_type", "rate"]
    name: str
    claims: tuple[str, ...]
    message: str


def gaps(mapping: MappingBody, claims: Mapping[str, Mapping[str, Any]]) -> list[Gap]:
    """Gives what the mapping lacks for these claims (id → values as kept), by kind and name; empty when nothing."""
    needed: dict[tuple[str, str], dict[str, None]] = {}
    oldest: dict[str, dt.date] = {}
    for claim_id, body in claims.items():
        for kind, name, day in _needs(mapping, body):
            needed.setdefault((kind, name), {})[claim_id] = None
            if kind == "rate":
                oldest[name] = min(day, oldest.get(name, day))
    found = []
    for (kind, name), ids in sorted(needed.items()):
        if kind == "rate":
            text = f"The rate table {name!r} begins after {oldest[name]}; add a row that was in force then."
            found.append(Gap(kind="rate", name=name, claims=tuple(ids), message=text))
        else:
            found.append(Gap(kind="expense_type", name=name, claims=tuple(ids), message=_unmapped(mapping, name)))
    return found


def _needs(mapping: MappingBody, body: Mapping[str, Any]) -> Iterator[tuple[str, str, dt.date]]:
    """Gives what one claim needs and does not find; what is wrong with the claim itself is not the mapping's gap."""
    for line in body["lines"]:
        try:
            parts = parts_of(line)
        except Unpostable:
            continue
        day = dt.date.fromisoformat(str(line["date"]))
        for part in parts:
            rule = mapping.expense_types.get(part.expense_type)
            if rule is None:
                yield "expense_type", part.expense_type, day
            elif rule.allowance is not None and not rule.excluded:
                name = rule.allowance.rates
                if rate_on(mapping.rates.get(name, ()), day) is None:
                    yield "rate", name, day


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
