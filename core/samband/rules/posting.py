"""Turns a claim into the voucher it comes to in the books. Pure: the same claim and mapping give the same voucher.

Every line keeps its sign (debit above zero) and every voucher sums to zero, to the øre, or there is none.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final, Literal, NamedTuple

from samband.outgoing import ChartPeriod, Voucher, VoucherLine, VoucherPayee
from samband.rules.claimparts import Part, Unpostable, parts_of
from samband.rules.mapping import Allowance, ExpenseRule, MappingBody, rate_on
from samband.rules.templates import DIMENSION, IN_CLAIM, IN_LINE, MAX_TEXT, LookUp, Unlisted, read_template

__all__ = ["Part", "Unpostable", "from_row", "open_day", "parts_of", "reversal_of", "to_row", "voucher_of"]

_CENT: Final = Decimal("0.01")
_MAX_CODE: Final = 100
_AHEAD: Final = dt.timedelta(days=31)
"""How far after today a voucher's day may lie; further ahead it is a slip of the pen, such as 2062 for 2026."""


class _Posting(NamedTuple):
    """A line before it has its number."""

    account: str
    amount: Decimal
    text: str
    dimensions: tuple[tuple[str, str], ...] = ()
    tax_rule: str | None = None
    payee: VoucherPayee | None = None
    quantity: Decimal | None = None


def voucher_of(
    body: Mapping[str, Any], *, claim_id: str, key: str, number: int, mapping: MappingBody, mapping_version: int,
    today: dt.date, periods: Sequence[ChartPeriod] | None,
) -> Voucher:  # fmt: skip
    """Gives what a claim comes to.

    Args:
        body: The claim's values as kept, amounts as text or exact.
        claim_id: The platform's id of it.
        key: The item's key; the lines' keys are made of it.
        number: The voucher's number.
        mapping: Already known to have no gap for this claim.
        mapping_version: Of it.
        today: Only to refuse a voucher that would lie far ahead.
        periods: The other side's, as last read; None when they are not known, then none is taken to be closed.

    Raises:
        Unpostable: This claim cannot be booked; the reason names its field.
    """
    day = _day_of(body, mapping, today, periods)
    values = _values(body, claim_id, day)
    debits = list(_debits(body, mapping, values))
    if mapping.grouping == "same":
        debits = _grouped(debits)
    total = sum((posting.amount for posting in debits), Decimal(0))
    if total <= 0:
        raise Unpostable("nothing_to_book", "lines", "The claim comes to nothing, so there is nothing to book.")
    voucher = Voucher(
        key=key, number=number, type=mapping.voucher_type or "", date=day, currency=str(body["currency"]),
        text=_text(mapping.text, IN_CLAIM, values, mapping.look_up), claim=claim_id, mapping_version=mapping_version,
        lines=_numbered(key, [*debits, _credit(body, mapping, values, total)]),
    )  # fmt: skip
    _demand_balance(voucher, _claimed(body))
    return voucher


def reversal_of(voucher: Voucher, *, key: str, number: int, date: dt.date) -> Voucher:
    """Gives the voucher that takes another one back: the same lines with opposite signs, under a number of its own."""
    lines = tuple(
        replace(
            line, key=f"{key}-{line.n}", amount=-line.amount,
            quantity=None if line.quantity is None else -line.quantity,
        )
        for line in voucher.lines
    )  # fmt: skip
    return replace(voucher, key=key, number=number, date=date, lines=lines, reverses=voucher.number)


# ── as it is kept ────────────────────────────────────────────────────────────


def to_row(voucher: Voucher) -> dict[str, Any]:
    """Gives a voucher as JSON values; amounts are text with two decimals. Its key is the item's, and kept there."""
    return {
        "number": voucher.number, "type": voucher.type, "date": voucher.date.isoformat(),
        "currency": voucher.currency, "text": voucher.text, "claim": voucher.claim,
        "mapping_version": voucher.mapping_version, "reverses": voucher.reverses,
        "lines": [_line_row(line) for line in voucher.lines],
    }  # fmt: skip


def from_row(key: str, row: Mapping[str, Any]) -> Voucher:
    """Gives the voucher that was kept under a key."""
    return Voucher(
        key=key, number=int(row["number"]), type=row["type"], date=dt.date.fromisoformat(row["date"]),
        currency=row["currency"], text=row["text"], claim=row["claim"], mapping_version=int(row["mapping_version"]),
        reverses=row.get("reverses"), lines=tuple(_line_of(key, line) for line in row["lines"]),
    )  # fmt: skip


def _line_row(line: VoucherLine) -> dict[str, Any]:
    told: dict[str, Any] = {
        "n": line.n, "account": line.account, "amount": f"{line.amount:.2f}", "text": line.text,
        "dimensions": dict(line.dimensions), "tax_rule": line.tax_rule,
        "quantity": None if line.quantity is None else f"{line.quantity:f}", "payee": None,
    }  # fmt: skip
    if line.payee is not None:
        payee = line.payee
        told["payee"] = {
            "strategy": payee.strategy, "code": payee.code, "name": payee.name, "bank_account": payee.bank_account,
        }  # fmt: skip
    return told


def _line_of(key: str, row: Mapping[str, Any]) -> VoucherLine:
    quantity, payee = row.get("quantity"), row.get("payee")
    return VoucherLine(
        n=int(row["n"]), key=f"{key}-{row['n']}", account=row["account"], amount=Decimal(row["amount"]),
        text=row["text"], dimensions=dict(row.get("dimensions") or {}), tax_rule=row.get("tax_rule"),
        payee=None if payee is None else VoucherPayee(**payee),
        quantity=None if quantity is None else Decimal(quantity),
    )  # fmt: skip


# ── the day ──────────────────────────────────────────────────────────────────


def _day_of(
    body: Mapping[str, Any], mapping: MappingBody, today: dt.date, periods: Sequence[ChartPeriod] | None
) -> dt.date:
    latest = max(_line_day(line) for line in body["lines"])
    approved = body.get("approved_on")
    takes_approval = mapping.date == "approved" and approved
    day = dt.date.fromisoformat(str(approved)[:10]) if takes_approval else latest
    if day > today + _AHEAD:
        field = "approved_on" if takes_approval else "lines"
        raise Unpostable("date_in_future", field, f"The voucher would be dated {day}, far ahead; correct the claim.")
    return open_day(day, mapping.closed_period, periods, today=today)


def open_day(
    day: dt.date, policy: Literal["hold", "next_open"], periods: Sequence[ChartPeriod] | None, *, today: dt.date
) -> dt.date:
    """Gives the day a voucher is dated that is meant for ``day``; never an earlier one.

    Args:
        policy: What the mapping says of a period that is closed.
        periods: The other side's, as last read; None when they are not known, then none is taken to be closed.
        today: No voucher is put off to a day that lies far after it.

    Raises:
        Unpostable: Its period is closed and the mapping says to wait, no later one is open, or that lies far ahead
            (`period_closed`); or the books have no such period (`period_unknown`).
    """
    if periods is None or any(period.is_open and period.first <= day <= period.last for period in periods):
        return day
    later = [period.first for period in periods if period.is_open and period.first > day]
    if policy == "next_open" and later and min(later) <= today + _AHEAD:
        return min(later)
    if not any(period.first <= day <= period.last for period in periods):
        raise Unpostable("period_unknown", "date", f"The books have no period that {day} belongs to.")
    if policy == "hold":
        way = "and the mapping says to wait"
    else:
        way = f"and the next open one begins on {min(later)}, far ahead" if later else "and no later one is open"
    raise Unpostable("period_closed", "date", f"The period of {day} is closed in the books, {way}.")


def _line_day(line: Mapping[str, Any]) -> dt.date:
    return dt.date.fromisoformat(str(line["date"])[:10])


# ── the lines ────────────────────────────────────────────────────────────────


def _debits(body: Mapping[str, Any], mapping: MappingBody, values: Mapping[str, str]) -> Iterator[_Posting]:
    for index, line in enumerate(body["lines"]):
        try:
            if line.get("currency") not in (None, body["currency"]):
                raise Unpostable("currency_mixed", "currency", "The line is in another currency than the claim.")
            for part in parts_of(line):
                yield from _postings(part, line, mapping, values)
        except Unpostable as error:
            # The payee is the claim's, though a line may look it up.
            field = error.field if error.field.startswith("payee") else f"lines.{index}.{error.field}"
            raise Unpostable(error.code, field, error.message) from None


def _postings(
    part: Part, line: Mapping[str, Any], mapping: MappingBody, values: Mapping[str, str]
) -> Iterator[_Posting]:
    rule = mapping.expense_types.get(part.expense_type)
    if rule is None or (rule.account is None and not rule.excluded):
        raise Unpostable("expense_type_unmapped", "expense_type", f"{part.expense_type!r} has no account.")
    if rule.excluded:
        raise Unpostable(
            "expense_type_excluded", "expense_type",
            f"The mapping excludes {part.expense_type!r}; the claim is left out as a whole, so that no money is lost.",
        )  # fmt: skip
    assert rule.account is not None
    day = _line_day(line)
    known = {
        **values, "expense_type": part.expense_type, "date": day.isoformat(),
        "text": _plain(line.get("text")), "receipt": _plain(line.get("receipt")),
        **_dimension_values(line),
    }  # fmt: skip
    posting = _Posting(
        rule.account, part.amount, _text(rule.text, IN_LINE, known, mapping.look_up),
        _dimensions(mapping, rule, known), rule.tax_rule, quantity=part.kilometres,
    )  # fmt: skip
    if rule.allowance is None:
        yield posting
        return
    yield from _split(posting, part, rule.allowance, mapping, day)


def _split(whole: _Posting, part: Part, allowance: Allowance, mapping: MappingBody, day: dt.date) -> Iterator[_Posting]:
    """Gives the tax-free part at the rate of the expense's own day, and what is beyond it as a line of its own."""
    row = rate_on(mapping.rates.get(allowance.rates, ()), day)
    if row is None:
        raise Unpostable("rate_missing", "date", f"The rate table {allowance.rates!r} has no row for {day}.")
    if part.kilometres is None:
        raise Unpostable("kilometres_missing", "kilometres", "An allowance by the kilometre needs the kilometres.")
    free = min(part.amount, _rounded(part.kilometres * row.tax_free))
    beyond = part.amount - free
    if part.rate is not None and part.rate <= row.tax_free and beyond:
        if beyond > _CENT:
            raise Unpostable(
                "rate_contradicts_amount", "amount",
                "The kilometres at the rate that the line names come to less than its amount; correct the claim.",
            )  # fmt: skip
        free, beyond = part.amount, Decimal(0)  # they round another way than we do
    if free:
        yield whole._replace(amount=free)
    if beyond:
        if allowance.taxable_account is None:
            raise Unpostable("expense_type_unmapped", "expense_type", "Its taxable part has no account.")
        # The kilometres stand on one of the two lines only, or a sum over them would count each twice.
        yield whole._replace(
            account=allowance.taxable_account, amount=beyond, tax_rule=allowance.taxable_tax_rule,
            quantity=None if free else whole.quantity,
        )  # fmt: skip


def _credit(body: Mapping[str, Any], mapping: MappingBody, values: Mapping[str, str], total: Decimal) -> _Posting:
    rule, person = mapping.payee, body["payee"]
    if rule.account is None:
        raise Unpostable("payee_unmapped", "payee", "The mapping names no account for the debt to the person.")
    code = _written(rule.code, IN_CLAIM, values, mapping.look_up) if rule.code else ""
    if rule.strategy != "liability" and not code:
        raise Unpostable("payee_code_missing", "payee", "The person's number in the subledger comes out empty.")
    if len(code) > _MAX_CODE:
        raise Unpostable("payee_code_too_long", "payee", "The person's number in the subledger is too long.")
    payee = VoucherPayee(
        strategy=rule.strategy, code=code or None, name=_plain(person.get("name")) or None if rule.with_name else None,
        bank_account=person.get("bank_account") or None if rule.with_bank_account else None,
    )  # fmt: skip
    wanted = {name: template for name, template in rule.dimensions.items() if template is not None}
    dimensions = _rendered(wanted, IN_CLAIM, values, mapping.look_up)
    return _Posting(
        rule.account, -total, _text(rule.text, IN_CLAIM, values, mapping.look_up), dimensions, payee=payee
    )  # fmt: skip


def _dimensions(mapping: MappingBody, rule: ExpenseRule, values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    wanted = {**mapping.dimensions, **rule.dimensions}
    templates = {name: template for name, template in wanted.items() if template is not None}
    return _rendered(templates, IN_LINE, values, mapping.look_up)


def _rendered(
    templates: Mapping[str, str], allowed: tuple[str, ...], values: Mapping[str, str], look_up: LookUp
) -> tuple[tuple[str, str], ...]:
    codes = {name: _written(template, allowed, values, look_up) for name, template in templates.items()}
    for name, code in codes.items():
        if not code:
            raise Unpostable("dimension_empty", "dimensions", f"The dimension {name!r} comes out empty for this claim.")
        if len(code) > _MAX_CODE:
            raise Unpostable("dimension_too_long", "dimensions", f"The code of the dimension {name!r} is too long.")
    return tuple(sorted(codes.items()))


def _grouped(postings: Sequence[_Posting]) -> list[_Posting]:
    """Puts lines that differ in nothing but amount and kilometres together, at the place of the first one."""
    groups: dict[tuple[Any, ...], _Posting] = {}
    for posting in postings:
        alike = posting._replace(amount=Decimal(0), quantity=None), posting.quantity is None
        other = groups.get(alike)
        if other is None:
            groups[alike] = posting
            continue
        quantity = None if posting.quantity is None or other.quantity is None else posting.quantity + other.quantity
        groups[alike] = other._replace(amount=other.amount + posting.amount, quantity=quantity)
    return list(groups.values())


def _numbered(key: str, postings: Sequence[_Posting]) -> tuple[VoucherLine, ...]:
    return tuple(
        VoucherLine(
            n=n, key=f"{key}-{n}", account=posting.account, amount=posting.amount.quantize(_CENT), text=posting.text,
            dimensions=dict(posting.dimensions), tax_rule=posting.tax_rule, payee=posting.payee,
            quantity=posting.quantity,
        )
        for n, posting in enumerate(postings, start=1)
    )  # fmt: skip


# ── small things ─────────────────────────────────────────────────────────────


def _values(body: Mapping[str, Any], claim_id: str, day: dt.date) -> dict[str, str]:
    person = body["payee"]
    return {
        "claim": claim_id, "date": day.isoformat(), "text": _plain(body.get("text")),
        "payee.id": _plain(person.get("id")), "payee.name": _plain(person.get("name")), **_dimension_values(body),
    }  # fmt: skip


def _dimension_values(place: Mapping[str, Any]) -> dict[str, str]:
    """Gives the placeholders of a claim's or a line's own dimensions; a line's stand before the claim's."""
    told = place.get("dimensions")
    return {f"{DIMENSION}{name}": code for name, code in told.items()} if told else {}


def _text(template: str, allowed: tuple[str, ...], values: Mapping[str, str], look_up: LookUp) -> str:
    return _written(template, allowed, values, look_up)[:MAX_TEXT].rstrip()


def _written(template: str, allowed: tuple[str, ...], values: Mapping[str, str], look_up: LookUp) -> str:
    try:
        return read_template(template, allowed).render(values, look_up)
    except Unlisted as error:
        table, name = error.placeholder.table, error.placeholder.name
        raise Unpostable(
            "lookup_missing", name.replace(DIMENSION, "dimensions."),
            f"The table {table!r} has no entry for {error.key!r}. Add it, or give the table a default.",
        ) from None  # fmt: skip


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def _rounded(amount: Decimal) -> Decimal:
    return amount.quantize(_CENT, rounding=ROUND_HALF_UP)


def _claimed(body: Mapping[str, Any]) -> Decimal:
    return sum((part.amount for line in body["lines"] for part in parts_of(line)), Decimal(0))


def _demand_balance(voucher: Voucher, claimed: Decimal) -> None:
    """Refuses what cannot happen, because here it would be somebody's money."""
    if sum(line.amount for line in voucher.lines) != 0:
        raise Unpostable("unbalanced", "lines", "The voucher does not come to zero.")
    if sum((line.amount for line in voucher.lines if line.amount > 0), Decimal(0)) != claimed:
        raise Unpostable("unbalanced", "lines", "The voucher does not come to what was claimed.")
