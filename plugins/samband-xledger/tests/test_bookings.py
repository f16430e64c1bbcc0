"""What is posted, read whole once and then by changes, against the simulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from samband import Batch, CursorExpiredError, Item, Page, RejectedError, Voucher, VoucherLine
from samband.testing import FakeClock
from samband_xledger import plugin
from samband_xledger.bookings import Position
from samband_xledger.records import to_ledger_entry

KEY = "0123456789abcdef0123456789abcdef"


def voucher() -> Voucher:
    amounts = (Decimal("265.00"), Decimal("35.50"), Decimal("-300.50"))
    lines = [
        VoucherLine(n=n, key=f"{KEY}-{n}", account="2910" if n == 3 else "7140", amount=amount, text=f"Reise {n}")
        for n, amount in enumerate(amounts, 1)
    ]
    return Voucher(
        key=KEY,
        number=1001,
        type="GL",
        date=date(2026, 3, 1),
        currency="NOK",
        text="Reise",
        lines=lines,
        claim="claim-1",
        mapping_version=1,
    )


async def send(link: Any, one: Voucher) -> None:
    batch = Batch(id="b", items=[Item(key=one.key, stream="vouchers", values={}, voucher=one)])
    assert ["accepted"] == [receipt.state async for receipt in plugin.export(link.ctx, batch)]


async def read(link: Any, cursor: str | None = None) -> list[Page]:
    return [page async for page in plugin.sync(link.ctx, "bookings", cursor)]


def entries(pages: list[Page], settings: Any = None) -> list[dict[str, Any]]:
    return [to_ledger_entry(record.values, settings) for page in pages for record in page.records]


@pytest.fixture
def small(make_link: Callable[..., Any], simulator: Any) -> Any:
    return make_link({**simulator.settings, "bookings": True, "page_size": 3}, simulator.credentials)


async def test_a_booking_of_ours_carries_our_key_and_the_vouchers_number(small: Any, simulator: Any) -> None:
    one = voucher()
    await send(small, one)
    simulator.control("job/run", {})
    simulator.control("touch", {"table": "transactions", "create": 1})
    ours = [entry for entry in entries(await read(small)) if entry["ext_identifier"]]
    strangers = [entry for entry in entries(await read(small)) if not entry["ext_identifier"]]
    assert [(line.key, line.account, f"{line.amount:.2f}") for line in one.lines] == [
        (entry["ext_identifier"], entry["account"], entry["amount"]) for entry in ours
    ]
    assert {("1001", "2026-03-01", "NOK")} == {(e["voucher_number"], e["date"], e["currency"]) for e in ours}
    assert (2, {None}) == (len(strangers), {entry["voucher_number"] for entry in strangers})


async def test_changes_are_read_from_where_the_full_read_began(small: Any, simulator: Any) -> None:
    simulator.control("touch", {"table": "transactions", "create": 3})
    (*_, last) = await read(small)
    assert last.cursor is not None
    expected = simulator.control("touch", {"table": "transactions", "create": 2, "update": 1, "delete": 1})
    told = expected["expected"]["transactions"]
    changed = await read(small, last.cursor)
    keys = {record.key for page in changed for record in page.records}
    assert (set(told["upserted_ids"]), set(told["deleted_ids"])) == (keys, {d for p in changed for d in p.deleted})
    assert [] == entries(await read(small, changed[-1].cursor))


async def test_a_row_that_was_changed_and_then_deleted_is_only_deleted(small: Any, simulator: Any) -> None:
    simulator.control("touch", {"table": "transactions", "create": 1})
    (*_, last) = await read(small)
    simulator.control("touch", {"table": "transactions", "update": 1})
    simulator.control("touch", {"table": "transactions", "delete": 1})
    (page,) = await read(small, last.cursor)
    assert ([], 1) == (list(page.records), len(page.deleted))


@pytest.mark.parametrize(("days", "is_expired"), [(2.9, False), (3.1, True)])
async def test_a_log_that_no_longer_reaches_back_asks_for_a_full_read(
    make_link: Callable[..., Any], simulator: Any, days: float, is_expired: bool
) -> None:
    clock = FakeClock()
    link = make_link({**simulator.settings, "bookings": True}, simulator.credentials, clock=clock)
    (page,) = await read(link)
    clock.advance(days * 86_400)
    if is_expired:
        with pytest.raises(CursorExpiredError):
            await read(link, page.cursor)
    else:
        assert (await read(link, page.cursor))[-1].complete


async def test_a_cursor_that_xledger_no_longer_knows_asks_for_a_full_read(small: Any, simulator: Any) -> None:
    (page,) = await read(small)
    place = Position.from_cursor(page.cursor or "")
    strange = Position(part="changes", log="no-such-place", log_read_at=place.log_read_at)
    with pytest.raises(CursorExpiredError):
        await read(small, strange.to_cursor())


@pytest.mark.parametrize(
    "cursor",
    ["", "{", "[]", "1", "null", '{"v":2}', '{"v":1,"part":"full"}', '{"v":1,"part":"x","at":"2026-03-02T12:00:00+00:00"}',
     '{"v":1,"part":"full","at":"2026-03-02T12:00:00","log":null,"after":null}',
     '{"v":1,"part":"full","at":"2026-03-02T12:00:00+00:00"}',
     '{"v":1,"part":"full","at":"2026-03-02T12:00:00+00:00","log":7,"after":null}'],
)  # fmt: skip
def test_a_cursor_that_is_none_of_ours_asks_for_a_full_read(cursor: str) -> None:
    with pytest.raises(CursorExpiredError):
        Position.from_cursor(cursor)


async def test_without_the_right_to_entries_bookings_come_without_our_keys(small: Any, simulator: Any) -> None:
    await send(small, voucher())
    simulator.control("job/run", {})
    token = {"token": simulator.credentials["api_token"], "without_read": ["JournalEntry"]}
    simulator.control("config", {"tokens": [token]})
    assert [None] * 3 == [entry["ext_identifier"] for entry in entries(await read(small))]
    assert "list_not_readable" in small.log.text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount": "1.005"}, "amount"),
        ({"amount": None}, "amount"),
        ({"header": None}, "transaction_number"),
        ({"header": {"transactionNumber": "1", "postedDate": None}}, "date"),
        ({"_account": None}, "account"),
    ],
)
def test_a_row_that_does_not_fit_names_its_field(change: dict[str, Any], field: str) -> None:
    row = {"amount": "1.00", "header": {"transactionNumber": "7", "postedDate": "2026-03-01"}, "_account": "7140"}
    assert "1.00" == to_ledger_entry(row, None)["amount"]
    with pytest.raises(RejectedError) as caught:
        to_ledger_entry({**row, **change}, None)
    assert field == caught.value.field


def test_a_cursor_is_small_and_comes_back_as_it_was() -> None:
    place = Position(part="full", log="d.7", log_read_at=FakeClock().now(), after="23601.42")
    assert place == Position.from_cursor(place.to_cursor())
    assert set(json.loads(place.to_cursor())) == {"v", "part", "log", "at", "after"}
