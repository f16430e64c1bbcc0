"""What was agreed to be taken back and is not makes a month ask for a person, though both sides have the same lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from samband.cli.reconcile import lines as in_words
from samband.store import Store
from samband.store.models import Correction, ExportItem

from .playing import Bench
from .test_reconciliation import NOW, Ledger, Unread, as_booked, claim, compared, keep, key, voucher

_item: sa.Table = ExportItem.__table__
_correction: sa.Table = Correction.__table__


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def bench(store: Store, ledger: Ledger) -> AsyncIterator[Bench]:
    bench = Bench(store, ledger, Unread("unread"))  # type: ignore[arg-type]
    await bench.connect("hlf", "books")
    yield bench
    await bench.close()


async def change(bench: Bench, n: int, **values: Any) -> None:
    async with bench.store.database.write() as conn:
        await conn.execute(sa.update(_item).where(_item.c.key == key(n)).values(**values))


async def reverse(bench: Bench, ledger: Ledger, correction: str, **reversal: Any) -> None:
    """Has the booking of c-1 (103.50), which is in the books, taken back by an item in some state; the claim is 12.50."""
    await claim(bench.store, "hlf", "c-1")
    await keep(bench.store, "hlf", [voucher(1, "103.50"), voucher(2, "-103.50")])
    back = {"reimbursement_id": "c-1", "purpose": "reversal", "reverses": key(1), "posted_at": None}
    await change(bench, 2, **back | reversal)
    row = {
        "id": "k" * 32, "organization_id": "hlf", "reimbursement_id": "c-1", "item_key": key(1), "reversal_key": key(2),
        "state": correction, "status": "approved", "body": {}, "digest": "0" * 64, "reason": "", "proposed_by": "",
        "created_at": NOW,
    }  # fmt: skip
    async with bench.store.database.write() as conn:
        await conn.execute(sa.insert(_correction).values(**row))
    ledger.lists = [as_booked(voucher(1, "103.50"))]


def told(view: Any) -> list[str]:
    return list(in_words(json.loads(view.model_dump_json())))


@pytest.mark.parametrize("state", ["rejected", "released"])
async def test_month_with_a_correction_that_is_stuck_is_not_clean(bench: Bench, ledger: Ledger, state: str) -> None:
    await reverse(bench, ledger, "approved", state=state)
    view = await compared(bench)
    assert (False, "0.00") == (view.clean, view.unexplained)
    (found,) = view.differences
    assert ("correction_stuck", True, "c-1") == (found.code, found.asks_for_a_person, found.reimbursement)
    assert ("103.50", "12.50", "k" * 32, None) == (found.booked, found.approved, found.correction, found.account)
    assert [
        "  Look into this. Claim c-1, voucher 2, a reversal: its correction was agreed to, and what was booked has not been"
        " taken back (correction_stuck); not there.",
        "    Booked 103.50, and the claim comes to 12.50 NOK.",
        f"    Mend what was refused, then agree again: samband claims approve hlf {'k' * 32}",
    ] == told(view)[-3:]
    assert "1 voucher asks for a person; nothing is unexplained." in told(view)[0]


async def test_stuck_correction_is_told_in_the_months_of_both_its_vouchers(bench: Bench, ledger: Ledger) -> None:
    await reverse(bench, ledger, "approved", state="rejected", period="2026-04")
    months = bench.service.reconciliation.month
    told = {period: await months("hlf", period) for period in ("2026-02", "2026-03", "2026-04")}
    assert {"2026-02": [], "2026-03": ["correction_stuck"], "2026-04": ["correction_stuck"]} == {
        period: [found.code for found in view.differences] for period, view in told.items()
    }


@pytest.mark.parametrize("state", ["reserved", "sent", "unknown"])
async def test_reversal_that_is_on_its_way_is_not_stuck(bench: Bench, ledger: Ledger, state: str) -> None:
    await reverse(bench, ledger, "approved", state=state)
    assert "correction_stuck" not in [found.code for found in (await compared(bench)).differences]


async def test_reversal_that_lies_there_refused_is_told_with_what_keeps_it(bench: Bench, ledger: Ledger) -> None:
    await reverse(bench, ledger, "approved", state="accepted", code="period", message="Closed.")
    ledger.lists.append(as_booked(voucher(2, "-103.50"), "staged"))
    view = await compared(bench)
    assert ["correction_stuck", "refused_there", "refused_there"] == [found.code for found in view.differences]
    words = "\n".join(told(view))
    assert "refused by their import, and lies there still (refused_there)" in words
    assert "Mend in the other system what its import refuses" in words
    assert "waits there to be booked" not in words


async def test_reversal_refused_after_the_claim_went_out_again_is_told(bench: Bench, ledger: Ledger) -> None:
    await reverse(bench, ledger, "done", state="rejected")
    await change(bench, 1, state="reversed")
    await keep(bench.store, "hlf", [voucher(3, "99.00")])
    await change(bench, 3, reimbursement_id="c-1")
    ledger.lists.append(as_booked(voucher(3, "99.00")))
    view = await compared(bench)
    assert (["reversal_refused"], False) == ([found.code for found in view.differences], view.clean)
    assert "Have the older booking taken back in the other system." in told(view)[-1]


async def test_booking_that_another_reversal_has_taken_back_is_not_told(bench: Bench, ledger: Ledger) -> None:
    await reverse(bench, ledger, "done", state="rejected")
    await change(bench, 1, state="reversed")
    await keep(bench.store, "hlf", [voucher(3, "-103.50")])
    await change(bench, 3, reimbursement_id="c-1", purpose="reversal", reverses=key(1))
    ledger.lists.append(as_booked(voucher(3, "-103.50")))
    view = await compared(bench)
    assert ([], True) == ([found.code for found in view.differences], view.clean)


async def test_item_refused_and_booked_after_all_is_not_said_to_have_never_been_sent(
    bench: Bench, ledger: Ledger
) -> None:
    await keep(bench.store, "hlf", [voucher(1)], "rejected")
    ledger.lists = [as_booked(voucher(1))]
    words = "\n".join(told(await compared(bench)))
    assert "they have it, though here it is refused, given back, or not sent yet (booked_unexpectedly)" in words
