"""A voucher becomes lines for Xledger and comes back as it was; what must not leave is refused before anything is sent."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samband import RejectedError, Voucher, VoucherLine, VoucherPayee
from samband_xledger.postings import by_item, check_voucher, nodes_of, packed, read_line, split_key, to_amount
from samband_xledger.settings import XledgerSettings

SETTINGS = XledgerSettings(
    entity_code="23601",
    dimension_fields={"department": "glObject1", "project": "project"},
    subledger_types={"employee": "E"},
)
KEY = "0123456789abcdef0123456789abcdef"


def voucher(*amounts: str, key: str = KEY, number: int = 4711) -> Voucher:
    lines = [
        VoucherLine(n=n, key=f"{key}-{n}", account="7140", amount=Decimal(amount), text=f"Reise {n}")
        for n, amount in enumerate(amounts, 1)
    ]
    return Voucher(
        key=key,
        number=number,
        type="GL",
        date=date(2026, 3, 1),
        currency="NOK",
        text="Reise",
        lines=lines,
        claim="claim-1",
        mapping_version=1,
    )


def with_line(found: Voucher, **changes: object) -> Voucher:
    first, *rest = found.lines
    return replace(found, lines=[replace(first, **changes), *rest])


amounts = st.lists(st.decimals(min_value=-99_999, max_value=99_999, places=2), min_size=1, max_size=40)


@settings(deadline=None)
@given(amounts=amounts, number=st.integers(min_value=1, max_value=99_999_999))
def test_lines_come_back_with_their_keys_amounts_and_number(amounts: list[Decimal], number: int) -> None:
    balanced = [*amounts, -sum(amounts, Decimal())]
    found = voucher(*[f"{amount:.2f}" for amount in balanced], number=number)
    nodes = nodes_of(found, SETTINGS)
    lines = [read_line({"dbId": str(n), **node}) for n, node in enumerate(nodes.values(), 1)]
    assert [(line.key, line.amount, number) for line in found.lines] == [
        (line.key, line.amount, line.number) for line in lines
    ]
    assert list(range(1, len(balanced) + 1)) == sorted(by_item(lines)[KEY])


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(min_value=2, max_value=500), max_size=10))
def test_no_voucher_is_split_and_no_parcel_is_too_large(sizes: list[int]) -> None:
    vouchers = [voucher(*["0.00"] * size, key=f"{n:032x}", number=n + 1) for n, size in enumerate(sizes)]
    parcels = packed(vouchers, {v.key: nodes_of(v, SETTINGS) for v in vouchers})
    assert vouchers == [v for parcel in parcels for v in parcel.vouchers]
    assert all(len(parcel.inputs) <= 500 for parcel in parcels)
    assert all(len(one.inputs) + len(two.nodes[two.vouchers[0].key]) > 500 for one, two in pairwise(parcels))


@settings(deadline=None)
@given(cents=st.integers(min_value=1, max_value=10**9), sign=st.sampled_from([1, -1]))
def test_a_voucher_that_is_off_by_an_oere_is_refused(cents: int, sign: int) -> None:
    with pytest.raises(RejectedError) as caught:
        check_voucher(voucher(f"{Decimal(cents) / 100:.2f}", f"{Decimal(-cents + sign) / 100:.2f}"))
    assert ("unbalanced", "lines") == (caught.value.code, caught.value.field)


@pytest.mark.parametrize(
    ("found", "code", "field"),
    [
        (voucher("0.00"), "too_few_lines", "lines"),
        (voucher(*["0.00"] * 501), "too_many_lines", "lines"),
        (voucher("1.00", "-1.00", number=0), "bad_number", "number"),
        (voucher("1.00", "-1.00", number=100_000_000), "bad_number", "number"),
        (with_line(voucher("1.00", "-1.00"), key="other-1"), "bad_line_key", "lines"),
        (with_line(voucher("1.00", "-1.00"), n=2, key=f"{KEY}-2"), "bad_line_key", "lines"),
        (with_line(voucher("1.00", "-1.00"), amount=Decimal("1.001")), "bad_amount", "lines.1.amount"),
        (with_line(voucher("1.00", "-1.00"), amount=Decimal("NaN")), "bad_amount", "lines.1.amount"),
        (with_line(voucher("1.00", "-1.00"), account=" "), "missing", "lines.1.account"),
        (with_line(voucher("1.00", "-1.00"), text="x" * 201), "bad_text", "lines.1.text"),
        (with_line(voucher("1.00", "-1.00"), text="a\nb"), "bad_text", "lines.1.text"),
        (
            with_line(voucher("1.00", "-1.00"), dimensions={"team": "1"}),
            "dimension_unmapped",
            "lines.1.dimensions.team",
        ),
        (with_line(voucher("1.00", "-1.00"), payee=VoucherPayee(strategy="employee")), "missing", "payee.code"),
    ],
)
def test_what_must_not_leave_is_refused_with_its_field(found: Voucher, code: str, field: str) -> None:
    with pytest.raises(RejectedError) as caught:
        nodes_of(found, SETTINGS)
    assert (code, field) == (caught.value.code, caught.value.field)


@pytest.mark.parametrize(
    ("payee", "expected"),
    [
        (
            VoucherPayee(strategy="employee", code="1001", bank_account="12345678903"),
            {"subledger": {"code": "1001"}, "slTransactionType": {"code": "E"}, "bankAccount": "12345678903"},
        ),
        (VoucherPayee(strategy="supplier", code="20001"), {"subledger": {"code": "20001"}}),
        (VoucherPayee(strategy="liability", bank_account="12345678903"), {"bankAccount": "12345678903"}),
        (VoucherPayee(strategy="liability", code="1001", name="Kari"), {}),
    ],
)
def test_a_payee_is_named_as_the_strategy_says(payee: VoucherPayee, expected: dict[str, object]) -> None:
    node = nodes_of(with_line(voucher("1.00", "-1.00"), payee=payee), SETTINGS)[f"{KEY}-1"]
    names = ("subledger", "slTransactionType", "bankAccount")
    assert expected == {name: node[name] for name in names if name in node}


def test_a_line_says_everything_that_xledger_needs() -> None:
    found = with_line(
        voucher("265.00", "-265.00"),
        dimensions={"department": "101", "project": "1000"},
        tax_rule="1",
        quantity=Decimal("50.0"),
    )
    assert nodes_of(found, SETTINGS)[f"{KEY}-1"] == {
        "owner": {"code": "23601"},
        "transactionSource": {"code": "GL"},
        "trRegNumber": 4711,
        "trItemNumber": 1,
        "positionNumber": 1,
        "jobLevel": {"dbSubId": 1},
        "postedDate": "2026-03-01",
        "account": {"code": "7140"},
        "amount": "265.00",
        "invoiceAmount": "265.00",
        "currency": {"code": "NOK"},
        "text": "Reise 1",
        "extIdentifier": f"{KEY}-1",
        "invoiceNumber": "4711",
        "yourReference": "claim-1",
        "glObject1": {"code": "101"},
        "project": {"code": "1000"},
        "taxRule": {"code": "1"},
        "quantity": "50.0",
    }


def test_a_line_that_came_with_a_file_is_known_by_the_mark_in_its_text() -> None:
    line = read_line({"dbId": 7, "extIdentifier": None, "text": f"Reise bilag 4711 {KEY}-2", "amount": "1.00"})
    assert (KEY, 2) == line.place


@pytest.mark.parametrize("text", ["", "abc", "abc-", "abc-0", "abc-01", "-1", f"{'x' * 300}-1"])
def test_a_text_that_is_no_line_key_is_none(text: str) -> None:
    assert split_key(text) is None


@pytest.mark.parametrize("value", [None, True, "", "x", "NaN", "Infinity", [], 1.5])
def test_what_is_no_amount_is_none(value: object) -> None:
    assert to_amount(value) is None
