"""What we say is booked, held against what the other side has, line by line, until every difference has a name.

The two sums of an account are made without looking at any single difference; the differences are found line by line, each
by one of the rules of `samband.rules.discrepancies`. What the second does not account for in the first is ``unexplained``:
it is computed, never assumed, so that a rule that is missing or wrong shows.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final, get_args

from samband.outgoing import Booked
from samband.rules.discrepancies import (
    NOTED,
    RULES,
    UNSETTLED,
    ZERO,
    Case,
    Code,
    Explanation,
    OurLine,
    OurVoucher,
    Place,
    Rule,
    Stuck,
    TheirLine,
    There,
    stuck_one,
)

_BUCKETS: Final[Mapping[str, str]] = {
    "reserved": "approved", "sent": "sent", "accepted": "accepted", "posted": "posted", "unknown": "unknown",
}  # fmt: skip
_LINE_KEY: Final = re.compile(r"([0-9a-f]{32})-([1-9][0-9]{0,4})")
_RANK: Final = {"posted": 0, "staged": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An approved claim that has not been taken, as the lines that it would come to.

    Attributes:
        lines: Empty when it cannot be turned into a voucher; then ``total`` stands under no account.
        reason: Why it cannot.
    """

    claim: str
    currency: str
    total: Decimal
    lines: Sequence[OurLine] = ()
    reason: str | None = None
    field: str | None = None


class Books:
    """The other side's lines by item key, added part by part. Other people's lines are counted and not kept."""

    def __init__(self) -> None:
        self.lines: dict[str, list[TheirLine]] = {}
        self.others = 0
        self._texts: dict[str, str] = {}

    def add(self, booked: Iterable[Booked]) -> None:
        for line in booked:
            named = _LINE_KEY.fullmatch(line.line_key or "")
            if named is None:
                self.others += 1
                continue
            account = self._texts.setdefault(line.account, line.account)  # one text for thousands of lines
            kept = TheirLine(int(named[2]), line.state, line.date, account, line.amount, line.currency, line.reference)
            self.lines.setdefault(named[1], []).append(kept)


@dataclass(slots=True)
class Account:
    """What an account comes to in one period and currency. Each of our amounts is in exactly one stage."""

    approved: Decimal = ZERO
    sent: Decimal = ZERO
    accepted: Decimal = ZERO
    posted: Decimal = ZERO
    unknown: Decimal = ZERO
    theirs: Decimal = ZERO
    explained: dict[Code, Decimal] = field(default_factory=dict)

    @property
    def difference(self) -> Decimal:
        return self.theirs - self.posted

    @property
    def unexplained(self) -> Decimal:
        return self.difference - sum(self.explained.values(), ZERO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The whole comparison of a period.

    Attributes:
        accounts: Place → its sums; the place of claims that cannot be mapped has no account.
        differences: Worst first, then by key and line.
        vouchers: State → how many of the period's items are in it.
        unmapped: Claims that cannot be turned into a voucher.
    """

    period: str
    accounts: Mapping[Place, Account]
    differences: Sequence[Explanation]
    vouchers: Mapping[str, int]
    waiting: int
    unmapped: Sequence[Waiting]

    @property
    def unexplained(self) -> Decimal:
        """Gives the sum without regard to sign, so that two mistakes cannot hide each other."""
        return sum((abs(account.unexplained) for account in self.accounts.values()), ZERO)

    @property
    def uncertain(self) -> int:
        return sum(self.vouchers.get(state, 0) for state in UNSETTLED)

    @property
    def is_clean(self) -> bool:
        """Says whether nothing is unexplained, nothing uncertain, and nothing there for a person to look into."""
        return not self.unexplained and not self.uncertain and all(d.code in NOTED for d in self.differences)


def reconcile(
    period: str, ours: Iterable[OurVoucher], books: Books | None, waiting: Iterable[Waiting] = (),
    rules: Sequence[Rule] = RULES, *, claims: Mapping[str, str] | None = None, stuck: Iterable[Stuck] = (),
) -> Comparison:  # fmt: skip
    """Compares a month.

    Args:
        period: ``2026-03``.
        ours: The items of the period, and every other item whose key ``books`` has.
        books: The other side's lines of the period and of the months around it; None gives our half alone.
        waiting: Approved claims that would be booked in the period.
        rules: How differences are found.
        claims: Key → the approved claim that would go out under it: an item with that key which only the other side has
            would be booked a second time.
        stuck: Bookings that were to be taken back and are not; line by line nothing of that shows.
    """
    vouchers = {voucher.key: voucher for voucher in ours}
    waits = list(waiting)
    accounts: defaultdict[Place, Account] = defaultdict(Account)
    _add_ours(period, vouchers.values(), waits, accounts)
    differences: list[Explanation] = []
    if books is not None:
        _add_theirs(period, vouchers, books, accounts)
        for case in _cases(period, vouchers, books):
            if case.voucher is None and claims is not None:
                case = replace(case, claim=claims.get(case.key))
            for rule in rules:
                differences += rule(case)
        for found in differences:
            explained = accounts[found.account, found.currency].explained
            explained[found.code] = explained.get(found.code, ZERO) + found.amount
        differences += [stuck_one(one, _there(books.lines.get(one.key, ()))) for one in stuck]
    order = {code: rank for rank, code in enumerate(get_args(Code))}
    return Comparison(
        period=period, accounts=accounts, waiting=len(waits),
        differences=sorted(differences, key=lambda d: (order[d.code], d.key, d.n)),
        vouchers=Counter(v.state for v in vouchers.values() if v.period == period),
        unmapped=[claim for claim in waits if claim.reason is not None],
    )  # fmt: skip


def _add_ours(
    period: str, vouchers: Iterable[OurVoucher], waiting: Iterable[Waiting], accounts: Mapping[Place, Account]
) -> None:
    for voucher in vouchers:
        bucket = "posted" if voucher.is_said_posted else _BUCKETS.get(voucher.state)
        if voucher.period != period or bucket is None:
            continue  # rejected and released ones are not on their way; their claims are approved again
        for line in voucher.lines:
            account = accounts[line.account, voucher.currency]
            setattr(account, bucket, getattr(account, bucket) + line.amount)
    for claim in waiting:
        for line in claim.lines:
            accounts[line.account, claim.currency].approved += line.amount
        if claim.reason is not None:
            accounts[None, claim.currency].approved += claim.total


def _add_theirs(
    period: str, vouchers: Mapping[str, OurVoucher], books: Books, accounts: Mapping[Place, Account]
) -> None:
    for key, lines in books.lines.items():
        voucher = vouchers.get(key)
        for line in lines:
            if line.state == "posted" and line.period == period:
                currency = line.currency or (None if voucher is None else voucher.currency)
                accounts[line.account, currency].theirs += line.amount


def _there(lines: Sequence[TheirLine]) -> There:
    """Gives how the other side has a voucher of which it has these lines."""
    states = {line.state for line in lines}
    return next((state for state in ("posted", "staged", "failed") if state in states), "absent")


def _cases(period: str, vouchers: Mapping[str, OurVoucher], books: Books) -> Iterator[Case]:
    for key in sorted(vouchers.keys() | books.lines.keys()):
        voucher, theirs = vouchers.get(key), books.lines.get(key, ())
        mine = {} if voucher is None else {line.n: line for line in voucher.lines}
        copies: defaultdict[int, list[TheirLine]] = defaultdict(list)
        for line in theirs:
            copies[line.n].append(line)
        for n in sorted(mine.keys() | copies.keys()):
            yield _case(period, key, voucher, n, mine.get(n), copies.get(n, []))


def _case(
    period: str, key: str, voucher: OurVoucher | None, n: int, line: OurLine | None, copies: Sequence[TheirLine]
) -> Case:
    home = period if voucher is None else voucher.period

    def likeness(copy: TheirLine) -> tuple[object, ...]:
        strange = 2 if line is None else (copy.account != line.account) + (copy.amount != line.amount)
        # The rest only makes the choice the same whatever order the books are read in.
        rest = copy.date, copy.reference or "", copy.account, copy.amount, copy.currency or ""
        return _RANK[copy.state], copy.period != home, strange, rest

    alive = sorted((copy for copy in copies if copy.state != "failed"), key=likeness)
    failed = next((copy for copy in copies if copy.state == "failed"), None)
    return Case(
        period=period, key=key, n=n, voucher=voucher, line=line, there=alive[0] if alive else None, extra=alive[1:],
        failed=failed,
    )  # fmt: skip
