"""Comparing with the other side's books: the differences found add up to the difference there is, and every fault is named.

Worlds are drawn: what we have, books that agree with it, and faults put into the books. What is expected of each fault is
written down when it is put in, by code that knows nothing of how faults are found.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samband import Booked
from samband.rules.discrepancies import NOTED, RULES, OurLine, OurVoucher, Rule, Stuck, month, twice
from samband.rules.reconciling import Books, Comparison, Waiting, reconcile

PERIOD, BEFORE, AFTER = "2026-03", "2026-02", "2026-04"
ACCOUNTS = ["7140", "7100", "2910", "01920"]
STATES = [
    "reserved", "sent", "accepted", "posted", "unknown", "rejected", "released", "reversed", "superseded"
]  # fmt: skip
FAULTS = ["none", "lost", "double", "double staged", "double in another month", "moved", "account", "amount", "currency",
          "failed", "both"]  # fmt: skip
ZERO = Decimal("0.00")

amounts = st.integers(-9_999_999, 9_999_999).map(lambda cents: Decimal(cents).scaleb(-2))


def key(n: int) -> str:
    return f"{n:032x}"


def voucher(n: int, state: str = "posted", period: str = PERIOD, **values: Any) -> OurVoucher:
    lines = (OurLine(1, "7140", Decimal("100.00")), OurLine(2, "2910", Decimal("-100.00")))
    given_values: dict[str, Any] = {
        "purpose": "booking", "was_posted": state == "posted", "number": n, "currency": "NOK", "lines": lines,
        "claim": f"c-{n}",
    } | values  # fmt: skip
    return OurVoucher(key=key(n), state=state, period=period, **given_values)


def as_booked(ours: OurVoucher, state: Any = "posted", day: dt.date | None = None) -> list[Booked]:
    """Gives a voucher as the other side has it when all went well."""
    day = day or month(ours.period or PERIOD)[0]
    return [
        Booked(
            line_key=f"{ours.key}-{line.n}", state=state, date=day, account=line.account, amount=line.amount,
            currency=ours.currency, number=ours.number, reference=f"GL-{ours.number}",
        )
        for line in ours.lines
    ]  # fmt: skip


def books_of(lines: Iterable[Booked]) -> Books:
    books = Books()
    books.add(lines)
    return books


def compare(
    ours: Sequence[OurVoucher], lines: Iterable[Booked], rules: Sequence[Rule] = RULES, waiting: Sequence[Waiting] = ()
) -> Comparison:
    return reconcile(PERIOD, ours, books_of(lines), waiting, rules)


def found(compared: Comparison) -> list[tuple[str, str, str]]:
    """Gives each difference as code, account and amount."""
    return [(d.code, d.account, str(d.amount)) for d in compared.differences]


# ── drawn worlds ─────────────────────────────────────────────────────────────


@dataclass
class World:
    """Ours, theirs, and what the faults between them have to be called: item key → codes of which one must be named."""

    ours: list[OurVoucher] = field(default_factory=list)
    lines: list[Booked] = field(default_factory=list)
    expected: dict[str, set[str]] = field(default_factory=dict)
    calm: set[str] = field(default_factory=set)

    def unnamed(self, compared: Comparison) -> dict[str, set[str]]:
        """Gives the faults that the comparison does not name."""
        named: dict[str, set[str]] = {}
        for difference in compared.differences:
            named.setdefault(difference.key, set()).add(difference.code)
        return {key: codes for key, codes in self.expected.items() if not codes <= named.get(key, set())}


IN_AGREEMENT = {"reserved": None, "sent": None, "accepted": "staged", "posted": "posted", "unknown": None,
                "rejected": None, "released": None, "reversed": "posted", "superseded": None}  # fmt: skip


@st.composite
def vouchers(draw: st.DrawFn, n: int) -> OurVoucher:
    state = draw(st.sampled_from(STATES))
    parts = draw(st.lists(st.tuples(st.sampled_from(ACCOUNTS), amounts.filter(bool)), min_size=1, max_size=3))
    lines = [OurLine(i, account, amount) for i, (account, amount) in enumerate(parts, start=1)]
    lines.append(OurLine(len(lines) + 1, "2910", -sum((line.amount for line in lines), ZERO)))
    return voucher(
        n, state, draw(st.sampled_from([PERIOD, PERIOD, PERIOD, BEFORE, AFTER])), lines=tuple(lines),
        was_posted=state in ("posted", "reversed"), purpose=draw(st.sampled_from(["booking", "reversal"])),
    )  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn) -> World:
    world = World()
    for n in range(1, draw(st.integers(1, 5)) + 1):
        ours = draw(vouchers(n))
        world.ours.append(ours)
        state = IN_AGREEMENT[ours.state]
        fault = draw(st.sampled_from(FAULTS)) if state == "posted" and ours.period == PERIOD else "none"
        lines = [] if state is None else as_booked(ours, state)
        world.lines += FAULT[fault](world, ours, lines)
    for n in range(900, 900 + draw(st.integers(0, 2))):
        stranger = draw(vouchers(n))
        world.lines += as_booked(replace(stranger, period=PERIOD), "posted")
        world.expected[stranger.key] = {"booked_unknown_to_us"}
    for _ in range(draw(st.integers(0, 3))):
        alien = draw(st.sampled_from([None, "", "Husleie", "ABC-1", f"{0xABCDEF:032X}-1"]))
        amount = draw(amounts)
        world.lines.append(
            Booked(line_key=alien, state="posted", date=dt.date(2026, 3, 9), account="7140", amount=amount)
        )
    world.lines = draw(st.permutations(world.lines))
    return world


def _none(world: World, ours: OurVoucher, lines: list[Booked]) -> list[Booked]:
    if ours.state not in ("sent", "unknown"):
        world.calm.add(ours.key)
    elif ours.period == PERIOD:
        world.expected[ours.key] = {"uncertain"}
    return lines


def _faulty(*codes: str) -> Any:
    def named(change: Any) -> Any:
        def put_in(world: World, ours: OurVoucher, lines: list[Booked]) -> list[Booked]:
            world.expected[ours.key] = set(codes)
            return list(change(lines))

        return put_in

    return named


LATER = dt.date(2026, 4, 3)
FAULT = {
    "none": _none,
    "lost": _faulty("not_booked_there")(lambda lines: []),
    "double": _faulty("booked_twice")(lambda lines: lines + lines),
    "double staged": _faulty("booked_twice")(lambda lines: lines + [replace(x, state="staged") for x in lines]),
    "double in another month": _faulty("booked_twice")(lambda lines: lines + [replace(x, date=LATER) for x in lines]),
    "moved": _faulty("date_moved")(lambda lines: [replace(x, date=LATER) for x in lines]),
    "account": _faulty("account_differs")(lambda lines: [replace(lines[0], account="6000"), *lines[1:]]),
    "amount": _faulty("amount_differs")(
        lambda lines: [replace(lines[0], amount=lines[0].amount + Decimal("0.01")), *lines[1:]]
    ),
    "currency": _faulty("currency_differs")(lambda lines: [replace(x, currency="SEK") for x in lines]),
    "failed": _faulty("failed_there")(lambda lines: [replace(x, state="failed") for x in lines]),
    "both": _faulty("booked_twice", "account_differs", "amount_differs")(
        lambda lines: [replace(lines[0], account="6000", amount=lines[0].amount + 1)] * 2 + lines[1:]
    ),
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_differences_add_up_and_every_fault_is_named(world: World) -> None:
    compared = compare(world.ours, world.lines)
    assert {} == {place: sums for place, sums in compared.accounts.items() if sums.unexplained}
    assert {} == world.unnamed(compared)
    blamed = {d.key for d in compared.differences if d.code not in NOTED}
    assert set() == blamed & world.calm  # nothing that is in order is called a fault


@st.composite
def nonsense(draw: st.DrawFn) -> list[Booked]:
    """Books as nobody would keep them: any line of any key, any number of times."""
    return draw(
        st.lists(
            st.builds(
                Booked,
                line_key=st.builds(lambda k, n: f"{key(k)}-{n}", st.integers(1, 10), st.integers(1, 4)),
                state=st.sampled_from(["staged", "posted", "failed"]),
                date=st.dates(dt.date(2026, 2, 1), dt.date(2026, 4, 30)),
                account=st.sampled_from(ACCOUNTS), amount=amounts,
                currency=st.sampled_from([None, "NOK", "SEK"]), reference=st.sampled_from([None, "GL-1", "GL-2"]),
            ),
            max_size=20,
        )
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 5), unique=True, max_size=5).flatmap(lambda ns: st.tuples(*map(vouchers, ns))), nonsense()
)
def test_whatever_the_books_say_nothing_is_left_unexplained(ours: tuple[OurVoucher, ...], lines: list[Booked]) -> None:
    compared = compare(ours, lines)
    assert ZERO == compared.unexplained
    posted = [x for x in lines if x.state == "posted" and (x.date.year, x.date.month) == (2026, 3)]
    assert sum((x.amount for x in posted), ZERO) == sum((s.theirs for s in compared.accounts.values()), ZERO)


@settings(max_examples=50, deadline=None)
@given(worlds(), st.randoms(use_true_random=False))
def test_order_of_the_lines_changes_nothing(world: World, random: Any) -> None:
    shuffled = list(world.lines)
    random.shuffle(shuffled)
    once, again = compare(world.ours, world.lines), compare(list(reversed(world.ours)), shuffled)
    assert sorted(map(repr, once.differences)) == sorted(map(repr, again.differences))
    assert {p: s.difference for p, s in once.accounts.items()} == {p: s.difference for p, s in again.accounts.items()}


# ── a checker that does not look ─────────────────────────────────────────────


def everything_wrong() -> World:
    """Gives a world with one fault of every kind."""
    world = World()
    for n, (_fault, put_in) in enumerate(FAULT.items(), start=1):
        world.ours.append(voucher(n))
        world.lines += put_in(world, world.ours[-1], as_booked(world.ours[-1]))
    world.lines += as_booked(voucher(99))
    world.expected[key(99)] = {"booked_unknown_to_us"}
    return world


@pytest.mark.parametrize("missing", RULES, ids=lambda rule: rule.__name__)
def test_checker_that_lacks_a_rule_leaves_something_unexplained(missing: Rule) -> None:
    world = everything_wrong()
    assert ZERO == compare(world.ours, world.lines).unexplained
    blind = compare(world.ours, world.lines, [rule for rule in RULES if rule is not missing])
    assert ZERO != blind.unexplained
    assert not blind.is_clean


def test_checker_that_ignores_doubles_is_seen_through() -> None:
    world = everything_wrong()
    lines = {(line.line_key, line.date): line for line in world.lines}  # one of each key, as a careless reader keeps
    compared = compare(world.ours, lines.values())
    assert "booked_twice" in set().union(*world.unnamed(compared).values())
    assert {} == world.unnamed(compare(world.ours, world.lines))


def test_two_mistakes_of_opposite_sign_do_not_hide_each_other() -> None:
    compared = compare([voucher(1)], as_booked(voucher(1)) * 2, [rule for rule in RULES if rule is not twice])
    assert [Decimal("-100.00"), Decimal("100.00")] == sorted(s.unexplained for s in compared.accounts.values())
    assert Decimal("200.00") == compared.unexplained


# ── each difference ──────────────────────────────────────────────────────────


def test_books_that_agree_have_no_differences() -> None:
    compared = compare([voucher(n) for n in range(1, 381)], [x for n in range(1, 381) for x in as_booked(voucher(n))])
    assert [] == found(compared)
    assert compared.is_clean
    sums = compared.accounts["7140", "NOK"]
    assert (Decimal("38000.00"), Decimal("38000.00"), ZERO) == (sums.posted, sums.theirs, sums.difference)
    assert {"posted": 380} == compared.vouchers


@pytest.mark.parametrize(
    ("state", "there", "expected"),
    [
        ("posted", None, "not_booked_there"),
        ("posted", "staged", "waiting_there"),
        ("posted", "failed", "failed_there"),
        ("accepted", "posted", "posted_unnoted"),
        ("accepted", "staged", "waiting_there"),
        ("accepted", "failed", "failed_there"),
        ("accepted", None, "accepted_but_absent"),
        ("unknown", "posted", "uncertain"),
        ("unknown", None, "uncertain"),
        ("sent", "staged", "uncertain"),
        ("reserved", "posted", "booked_unexpectedly"),
        ("rejected", "posted", "booked_unexpectedly"),
        ("released", "staged", "booked_unexpectedly"),
        ("superseded", "posted", "superseded_still_there"),
        ("superseded", None, None),
        ("rejected", "failed", None),
        ("reserved", None, None),
        ("reversed", "posted", "reversed"),
        ("reversed", None, "accepted_but_absent"),
    ],
)
def test_state_with_us_and_state_there_have_one_name(state: str, there: str | None, expected: str | None) -> None:
    ours = voucher(1, state)
    compared = compare([ours], [] if there is None else as_booked(ours, there))
    assert ({expected} if expected else set()) == {d.code for d in compared.differences}
    assert ZERO == compared.unexplained
    assert {there or "absent"} == {d.there for d in compared.differences} or expected is None


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ("staged", "refused_there"),
        ("failed", "refused_there"),
        ("posted", "posted_unnoted"),
        (None, "accepted_but_absent"),
    ],
)
def test_item_that_their_import_refused_is_not_said_to_wait(there: str | None, expected: str) -> None:
    ours = voucher(1, "accepted", refusal="cost_centre")
    compared = compare([ours], [] if there is None else as_booked(ours, there))
    assert {expected} == {d.code for d in compared.differences}
    assert (expected in NOTED, ZERO) == (compared.is_clean, compared.unexplained)


@pytest.mark.parametrize(("correction", "code"), [("k-1", "correction_stuck"), (None, "reversal_refused")])
def test_booking_that_was_not_taken_back_is_told_though_no_line_differs(correction: str | None, code: str) -> None:
    stuck = Stuck(
        key=key(2), state="rejected", number=2, claim="c-1", correction=correction, currency="NOK",
        booked=Decimal("103.50"), approved=Decimal("99.00"),
    )  # fmt: skip
    ours = [voucher(1), voucher(2, "rejected", purpose="reversal")]
    compared = reconcile(PERIOD, ours, books_of(as_booked(ours[0])), stuck=[stuck])
    (found,) = compared.differences
    assert (code, None, ZERO, "absent") == (found.code, found.account, found.amount, found.there)
    assert (Decimal("103.50"), Decimal("99.00")) == (found.booked, found.approved)
    assert not compared.is_clean
    assert {"7140", "2910"} == {account for account, _ in compared.accounts}


def test_uncertain_item_says_whether_they_have_it() -> None:
    compared = compare([voucher(1, "unknown"), voucher(2, "unknown")], as_booked(voucher(2)))
    assert {(key(1), "absent"), (key(2), "posted")} == {(d.key, d.there) for d in compared.differences}
    assert not compared.is_clean
    assert 2 == compared.uncertain


def test_double_in_another_month_is_told_in_both() -> None:
    ours = voucher(1)
    lines = as_booked(ours) + as_booked(ours, day=LATER)
    here, later = compare([ours], lines), reconcile(AFTER, [ours], books_of(lines))
    assert [("booked_twice", "7140", "0.00"), ("booked_twice", "2910", "0.00")] == found(here)
    assert [("booked_twice", "7140", "100.00"), ("booked_twice", "2910", "-100.00")] == found(later)


def test_moved_line_is_missing_in_one_month_and_explained_in_the_other() -> None:
    ours = voucher(1)
    lines = as_booked(ours, day=LATER)
    assert [("date_moved", "7140", "-100.00"), ("date_moved", "2910", "100.00")] == found(compare([ours], lines))
    later = reconcile(AFTER, [ours], books_of(lines))
    assert [("date_moved", "7140", "100.00"), ("date_moved", "2910", "-100.00")] == found(later)


def test_reversal_and_what_it_takes_back_come_to_nothing() -> None:
    first = voucher(1, "reversed", was_posted=True)
    back = voucher(2, purpose="reversal", lines=tuple(line._replace(amount=-line.amount) for line in first.lines))
    compared = compare([first, back], as_booked(first) + as_booked(back))
    assert compared.is_clean
    assert {ZERO} == {sums.theirs for sums in compared.accounts.values()}


def test_amounts_of_two_currencies_are_never_added() -> None:
    crowns, euros = voucher(1), voucher(2, currency="EUR")
    compared = compare([crowns, euros], as_booked(crowns) + as_booked(euros))
    assert {("7140", "NOK"), ("2910", "NOK"), ("7140", "EUR"), ("2910", "EUR")} == compared.accounts.keys()


def test_other_side_that_tells_no_currency_means_ours() -> None:
    compared = compare([voucher(1)], [replace(line, currency=None) for line in as_booked(voucher(1))])
    assert compared.is_clean


def test_lines_without_our_key_are_only_counted() -> None:
    alien = Booked(line_key=None, state="posted", date=dt.date(2026, 3, 1), account="7140", amount=Decimal("5.00"))
    books = books_of([*as_booked(voucher(1)), alien, replace(alien, line_key="Husleie mars")])
    compared = reconcile(PERIOD, [voucher(1)], books)
    assert 2 == books.others
    assert Decimal("100.00") == compared.accounts["7140", "NOK"].theirs


def test_claims_that_wait_stand_under_their_accounts_and_unmapped_ones_under_none() -> None:
    lines = (OurLine(1, "7140", Decimal("10.00")), OurLine(2, "2910", Decimal("-10.00")))
    waiting = [
        Waiting(claim="c-1", currency="NOK", total=Decimal("10.00"), lines=lines),
        Waiting(claim="c-2", currency="NOK", total=Decimal("7.50"), reason="mapping_gap", field="expense_type.taxi"),
    ]
    compared = compare([], [], waiting=waiting)
    assert Decimal("10.00") == compared.accounts["7140", "NOK"].approved
    assert Decimal("7.50") == compared.accounts[None, "NOK"].approved
    assert ["c-2"] == [claim.claim for claim in compared.unmapped]
    assert compared.is_clean


def test_each_amount_of_ours_is_in_one_stage() -> None:
    states = ["reserved", "sent", "accepted", "posted", "unknown"]
    compared = reconcile(PERIOD, [voucher(n, state) for n, state in enumerate(states, 1)], None)
    sums = compared.accounts["7140", "NOK"]
    assert [Decimal("100.00")] * 5 == [sums.approved, sums.sent, sums.accepted, sums.posted, sums.unknown]


def test_months_are_found_over_the_turn_of_the_year() -> None:
    assert (dt.date(2025, 12, 1), dt.date(2025, 12, 31)) == month("2026-01", -1)
    assert (dt.date(2027, 1, 1), dt.date(2027, 1, 31)) == month("2026-12", 1)
    assert (dt.date(2028, 2, 1), dt.date(2028, 2, 29)) == month("2028-02")
