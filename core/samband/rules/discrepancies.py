"""How two sides can differ over one line, and what each way is called."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final, Literal, NamedTuple

ZERO: Final = Decimal("0.00")

Code = Literal[
    "not_booked_there",
    "accepted_but_absent",
    "booked_twice",
    "booked_unknown_to_us",
    "booked_unexpectedly",
    "superseded_still_there",
    "correction_stuck",
    "reversal_refused",
    "refused_there",
    "failed_there",
    "amount_differs",
    "currency_differs",
    "uncertain",
    "account_differs",
    "date_moved",
    "posted_unnoted",
    "waiting_there",
    "reversed",
]
"""Why a line differs, worst first. `docs/how-to/reconcile-the-books.md` says what to do about each."""

There = Literal["posted", "staged", "failed", "absent"]

NOTED: Final[Collection[Code]] = ("account_differs", "date_moved", "posted_unnoted", "waiting_there", "reversed")
"""Differences that ask nobody for anything: an accountant's deed, or what passes by itself."""

UNSETTLED: Final = ("sent", "unknown")


class OurLine(NamedTuple):
    """A line of a voucher as we made it."""

    n: int
    account: str
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class OurVoucher:
    """An item of the export ledger with its voucher's lines.

    Attributes:
        key: The item's.
        was_posted: Whether the other side once said that it is booked.
        refusal: Why they cannot book what lies there still, a code of theirs; None for what is not known to be refused.
        period: The month it is to be booked in, ``2026-03``.
    """

    key: str
    claim: str
    state: str
    purpose: str
    was_posted: bool
    number: int | None
    period: str | None
    currency: str
    lines: Sequence[OurLine]
    refusal: str | None = None

    @property
    def is_said_posted(self) -> bool:
        """Says whether we count it as booked: posted, or posted once and taken back since by a voucher of its own."""
        return self.state == "posted" or (self.state == "reversed" and self.was_posted)


class TheirLine(NamedTuple):
    """A line that the other side has under a key of our form."""

    n: int
    state: Literal["staged", "posted", "failed"]
    date: dt.date
    account: str
    amount: Decimal
    currency: str | None
    reference: str | None

    @property
    def period(self) -> str:
        return period_of(self.date)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """A booking that was to be taken back, and is not: its reversal was refused, or never went out.

    Attributes:
        key: Of the reversal, as ``state`` and ``number`` are.
        correction: That waits for a person to agree again; None for one that is over, where agreeing does not help.
        booked: What the booking comes to.
        approved: What the claim comes to now.
    """

    key: str
    state: str
    number: int | None
    claim: str
    correction: str | None
    currency: str
    booked: Decimal
    approved: Decimal


Place = tuple[str | None, str | None]
"""Account and currency: amounts of two currencies are never added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One difference of one line, and what it comes to in the period.

    Attributes:
        n: The line's; 0 for what is about a whole voucher, which has no account.
        amount: What it adds to theirs − ours at its place; zero for what differs without a sum (yet).
        state: Of our item; None when we have none.
        there: How the other side has it.
        date: Of the other side's line, if there is one.
        correction: That is stuck, and waits for a person to agree again.
        booked: What the booking comes to that should have been taken back.
        approved: What its claim comes to now.
    """

    code: Code
    key: str
    n: int
    account: str | None
    currency: str | None
    amount: Decimal
    there: There
    claim: str | None = None
    number: int | None = None
    purpose: str | None = None
    state: str | None = None
    date: dt.date | None = None
    reference: str | None = None
    correction: str | None = None
    booked: Decimal | None = None
    approved: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line key with everything both sides have under it.

    Attributes:
        voucher: None for an item that we do not have.
        line: None for a line that we do not have.
        there: The copy that is taken for the line; None when there is none but failed ones.
        extra: Every further copy that is posted or may still be.
        failed: One that could not be booked.
        claim: Of an item that we do not have, the approved claim that would go out under its key.
    """

    period: str
    key: str
    n: int
    voucher: OurVoucher | None
    line: OurLine | None
    there: TheirLine | None
    extra: Sequence[TheirLine]
    failed: TheirLine | None
    claim: str | None = None

    @property
    def is_at_home(self) -> bool:
        return self.voucher is not None and self.voucher.period == self.period

    def is_here(self, line: TheirLine) -> bool:
        """Says whether the line counts in the period's books."""
        return line.state == "posted" and line.period == self.period

    def place_of(self, line: TheirLine) -> Place:
        ours = None if self.voucher is None else self.voucher.currency
        return line.account, line.currency or ours

    def found(self) -> There:
        if self.there is not None:
            return self.there.state
        return "absent" if self.failed is None else "failed"

    def explain(
        self, code: Code, amount: Decimal, *, place: Place | None = None, line: TheirLine | None = None
    ) -> Explanation:
        """Gives a difference of this line, at our place unless another is named."""
        shown = line or self.there or self.failed
        account, currency = place or self._home(shown)
        found = Explanation(
            code=code, key=self.key, n=self.n, account=account or "", currency=currency, amount=amount,
            there=line.state if line else self.found(), date=None if shown is None else shown.date,
            reference=None if shown is None else shown.reference,
        )  # fmt: skip
        if (ours := self.voucher) is None:
            return replace(found, claim=self.claim)
        return replace(found, claim=ours.claim, number=ours.number, purpose=ours.purpose, state=ours.state)

    def _home(self, shown: TheirLine | None) -> Place:
        if self.line is not None and self.voucher is not None:
            return self.line.account, self.voucher.currency
        assert shown is not None  # a case comes from one side or from the other
        return self.place_of(shown)


Rule = Callable[[Case], Iterator[Explanation]]


def unknown_to_us(case: Case) -> Iterator[Explanation]:
    """Names what has a key of our form and is none of ours: booked before a backup was taken back, or by a stranger."""
    if case.line is None and case.there is not None and case.there.period == case.period:
        amount = case.there.amount if case.is_here(case.there) else ZERO
        yield case.explain("booked_unknown_to_us", amount, place=case.place_of(case.there))


def other_state(case: Case) -> Iterator[Explanation]:
    """Names a line that is further with one side than with the other, as if it stood where we meant it to."""
    if case.line is None or case.voucher is None or not case.is_at_home:
        return
    found, amount = case.found(), case.line.amount
    if case.voucher.is_said_posted:
        if found != "posted":
            yield case.explain(_MISSING[found], -amount)
        return
    code = _unsaid(case.voucher, found)
    if code is not None:
        yield case.explain(code, amount if found == "posted" else ZERO)


_MISSING: Final[Mapping[There, Code]] = {
    "staged": "waiting_there", "failed": "failed_there", "absent": "not_booked_there"
}  # fmt: skip


def _unsaid(voucher: OurVoucher, found: There) -> Code | None:
    """Gives what to call a line that we do not count as booked; None when both sides agree."""
    state = voucher.state
    if state in UNSETTLED:
        return "uncertain"
    if voucher.refusal is not None and found in ("staged", "failed"):
        return "refused_there"
    if state in ("accepted", "reversed"):
        there: Mapping[There, Code] = {"failed": "failed_there", "absent": "accepted_but_absent"}
        waiting: Mapping[There, Code] = {"posted": "posted_unnoted", "staged": "waiting_there"}
        return there.get(found) or ("reversed" if state == "reversed" else waiting[found])
    if found in ("failed", "absent"):
        return None
    return "superseded_still_there" if state == "superseded" else "booked_unexpectedly"


def moved(case: Case) -> Iterator[Explanation]:
    """Names a line that is booked in another month than ours."""
    if case.line is None or case.there is None or case.there.state != "posted":
        return
    if case.is_at_home and not case.is_here(case.there):
        yield case.explain("date_moved", -case.line.amount)
    elif not case.is_at_home and case.is_here(case.there):
        yield case.explain("date_moved", case.line.amount)


def misplaced(case: Case) -> Iterator[Explanation]:
    """Names a line that stands on another account, or in another currency."""
    if case.line is None or case.voucher is None or case.there is None or not case.is_here(case.there):
        return
    meant, found = (case.line.account, case.voucher.currency), case.place_of(case.there)
    if meant != found:
        code: Code = "currency_differs" if meant[0] == found[0] else "account_differs"
        yield case.explain(code, -case.line.amount, place=meant)
        yield case.explain(code, case.line.amount, place=found)


def other_amount(case: Case) -> Iterator[Explanation]:
    """Names a line of another amount."""
    if case.line is not None and case.there is not None and case.is_here(case.there):
        more = case.there.amount - case.line.amount
        if more:
            yield case.explain("amount_differs", more, place=case.place_of(case.there))


def twice(case: Case) -> Iterator[Explanation]:
    """Names every copy beyond the first: those that are booked, and those that still may be."""
    for line in case.extra:
        if case.is_at_home or line.period == case.period:
            amount = line.amount if case.is_here(line) else ZERO
            yield case.explain("booked_twice", amount, place=case.place_of(line), line=line)


def stuck_one(stuck: Stuck, there: There) -> Explanation:
    """Names what is in the books and should not be any more; it has no sum, since both sides have it booked."""
    return Explanation(
        code="reversal_refused" if stuck.correction is None else "correction_stuck", key=stuck.key, n=0, account=None,
        currency=stuck.currency, amount=ZERO, there=there, claim=stuck.claim, number=stuck.number, purpose="reversal",
        state=stuck.state, correction=stuck.correction, booked=stuck.booked, approved=stuck.approved,
    )  # fmt: skip


RULES: Final[Sequence[Rule]] = (unknown_to_us, other_state, moved, misplaced, other_amount, twice)


# ── months ───────────────────────────────────────────────────────────────────


def period_of(day: dt.date) -> str:
    """Gives the month of a day, ``2026-03``."""
    return f"{day.year:04}-{day.month:02}"


def month(period: str, ahead: int = 0) -> tuple[dt.date, dt.date]:
    """Gives the first and the last day of the month that lies ``ahead`` months from ``period``."""
    year, number = map(int, period.split("-"))
    return _first(year, number, ahead), _first(year, number, ahead + 1) - dt.timedelta(days=1)


def _first(year: int, number: int, ahead: int) -> dt.date:
    years, months = divmod(number - 1 + ahead, 12)
    return dt.date(year + years, months + 1, 1)
