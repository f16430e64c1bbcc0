"""Two that move the same items at once, or in an order that nobody had in mind: nothing is sent twice or taken back twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from samband import ExportFile, Manifest, Receipt, Stream, Token, hookimpl
from samband.errors import ConflictError
from samband.store import Lease, Store
from samband.store.ledger import Way
from samband.store.models import ExportItem
from samband.store.settling import move
from samband.store.trail import Wanted

from .booking import ORG, PLUGIN, Books, Credentials, Desk, FilingBooks, Settings, ago, claim

_item: sa.Table = ExportItem.__table__


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk.around(store, Books())


async def ordered(desk: Desk, *claims: str) -> Any:
    await desk.connect(*claims)
    view = await desk.service.exports.order(ORG)
    assert view.run is not None
    return view.run


async def leased(desk: Desk, run: Any) -> Lease:
    lease = await desk.store.runs.claim(run.id, "one", 60.0)
    assert lease is not None
    return lease


async def follow_up(desk: Desk) -> None:
    before = len(desk.bell.rung)
    await desk.following().round()
    for run_id in desk.bell.rung[before:]:
        await desk.worker().execute(run_id)


# ── a report and a worker ────────────────────────────────────────────────────


async def test_what_a_report_settles_while_a_worker_takes_it_is_not_sent_again(desk: Desk) -> None:
    lease = await leased(desk, await ordered(desk, "c-1"))
    key = (await desk.items())["c-1/1"].key
    await desk.change(key, attempts=1)  # looked for in vain, and about to go out again
    integration = await desk.integration()
    async with desk.store.database.write() as conn:
        # What `settle_by_report` does, held open until the worker waits for the row.
        await conn.execute(sa.update(_item).where(_item.c.key == key).values(state="unknown"))
        await move(conn, ORG, integration.id, None, [Receipt(key=key, state="accepted")])
        taking = asyncio.create_task(desk.store.ledger.take(lease, 10, way=Way()))
        await asyncio.sleep(0.3)
    assert [] == await taking
    assert {"c-1/1": "accepted"} == await desk.states()


async def test_report_of_a_refusal_does_not_free_what_a_worker_is_sending(desk: Desk) -> None:
    lease = await leased(desk, await ordered(desk, "c-1"))
    (taken,) = await desk.store.ledger.take(lease, 10, way=Way())
    refusal = Receipt(key=taken.item.key, state="rejected", code="closed")
    told = await desk.store.reports.settle_by_report(await desk.integration(), [refusal], {})
    assert ([], ["sent"]) == (list(told.settled), [item.state for item in told.unchanged])
    assert ["on_its_way"] == [skipped.reason for skipped in (await _order_named(desk, "c-1", lease))]
    await desk.store.ledger.settle(lease, [Receipt(key=taken.item.key, state="accepted")])
    assert {"c-1/1": "accepted"} == await desk.states()


async def _order_named(desk: Desk, id: str, lease: Lease) -> Sequence[Any]:
    return (await desk.service.exports.preview(ORG, [id])).skipped


async def test_settling_a_reversal_and_its_booking_at_once_waits_for_one_another_in_one_order(desk: Desk) -> None:
    reversal, booking = await _reversed(desk)
    integration = await desk.integration()
    receipts = [
        Receipt(key=booking, state="posted", reference="1"),
        Receipt(key=reversal, state="posted", reference="2"),
    ]
    await desk.change(reversal, state="sent")
    async with desk.store.database.write() as conn:
        rows = sa.select(_item.c.key).where(_item.c.key == booking).with_for_update()
        await conn.execute(rows)
        settling = asyncio.create_task(_settle(desk, integration.id, receipts[1]))
        await asyncio.sleep(0.3)
        await move(conn, ORG, integration.id, None, [receipts[0]])
    await settling
    assert {"c-1/1": "reversed", "c-1/2": "posted"} == await desk.states()


async def _settle(desk: Desk, integration_id: str, receipt: Receipt) -> None:
    async with desk.store.database.write() as conn:
        await move(conn, ORG, integration_id, None, [receipt])


# ── a person and a worker ────────────────────────────────────────────────────


async def test_item_that_a_worker_looks_up_is_not_let_go_by_a_person_meanwhile(desk: Desk) -> None:
    run = await ordered(desk, "c-1")
    desk.books.deed = lambda item: "lost"
    await desk.work(run, settle_after_s=60.0)
    key = (await desk.items())["c-1/1"].key
    await desk.store.runs.nudge((await desk.integration()).id)
    await leased(desk, run)
    with pytest.raises(ConflictError) as refused:
        await desk.service.exports.resolve(ORG, key, outcome="not_booked", reason="I saw no voucher.")
    assert "still_sending" == refused.value.code
    assert {"c-1/1": "unknown"} == await desk.states()


# ── taking back what is not there ────────────────────────────────────────────


async def _reversed(desk: Desk) -> tuple[str, str]:
    """Exports a claim and agrees to its correction; gives the keys of reversal and booking."""
    await desk.work(await ordered(desk, "c-1"))
    told, _ = await desk.service.reimbursements.put(ORG, "c-1", claim("80.00"))
    await desk.service.reimbursements.approve_correction(ORG, str(told.correction), reason="Misread.")
    found = await desk.items()
    return found["c-1/2"].key, found["c-1/1"].key


async def test_booking_that_they_refuse_after_all_is_not_taken_back(desk: Desk) -> None:
    _, booking = await _reversed(desk)
    desk.books.staged[booking] = Receipt(key=booking, state="rejected", code="period_closed", message="Closed.")
    await follow_up(desk)
    assert {"c-1/1": "rejected", "c-1/2": "released"} == await desk.states()
    assert [booking] == [each.key for each in desk.books.sent]
    (correction,) = (await desk.service.reimbursements.corrections(ORG)).items
    assert "done" == correction.state
    assert ["c-1"] == (await desk.service.exports.order(ORG)).reserved


async def test_reversal_that_is_out_when_its_booking_is_refused_is_told_of_in_the_trail(desk: Desk) -> None:
    reversal, booking = await _reversed(desk)
    integration = await desk.integration()
    await desk.change(reversal, state="unknown")
    async with desk.store.database.write() as conn:
        await move(conn, ORG, integration.id, None, [Receipt(key=booking, state="rejected", code="closed")])
    assert {"c-1/1": "rejected", "c-1/2": "unknown"} == await desk.states()
    told = [e for e in await desk.store.trail.page(ORG, Wanted(), after=0, limit=500) if "in_vain" in e.action]
    assert [{"booking": booking, "reversal": reversal, "state": "unknown"}] == [entry.detail for entry in told]


async def test_booking_that_is_refused_while_its_correction_is_agreed_to_is_not_taken_back(desk: Desk) -> None:
    run = await ordered(desk, "c-1")
    await desk.work(run)
    booking, integration = (await desk.items())["c-1/1"].key, await desk.integration()
    told, _ = await desk.service.reimbursements.put(ORG, "c-1", claim("80.00"))
    async with desk.store.database.write() as conn:
        await move(conn, ORG, integration.id, None, [Receipt(key=booking, state="rejected", code="closed")])
        agreeing = asyncio.create_task(
            desk.service.reimbursements.approve_correction(ORG, str(told.correction), reason="Misread.")
        )
        await asyncio.sleep(0.3)
    assert "done" == (await agreeing).state
    assert {"c-1/1": "rejected"} == await desk.states()


async def test_reversal_is_never_dated_before_what_it_takes_back(desk: Desk) -> None:
    await desk.work(await ordered(desk, "c-1"))
    found = (await desk.items())["c-1/1"]
    async with desk.store.database.write() as conn:
        row = (await conn.execute(sa.select(_item.c.voucher).where(_item.c.key == found.key))).scalar_one()
        await conn.execute(
            sa.update(_item).where(_item.c.key == found.key).values(voucher={**row, "date": "2999-01-31"})
        )
    told, _ = await desk.service.reimbursements.put(ORG, "c-1", claim("80.00"))
    await desk.service.reimbursements.approve_correction(ORG, str(told.correction), reason="Misread.")
    async with desk.store.database.read() as conn:
        back = (await conn.execute(sa.select(_item).where(_item.c.purpose == "reversal"))).one()
    assert ("2999-01-31", "2999-01") == (back.voucher["date"], back.period)


# ── nobody to ask ────────────────────────────────────────────────────────────


class MuteBooks:
    """Books that cannot be asked any more, and take files."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    manifest = Manifest(
        name=PLUGIN, title="Books", version="2.0", settings=Settings, credentials=Credentials,
        streams=(Stream(name="vouchers", kind="voucher", title="Vouchers", direction="push"),),
        capabilities=frozenset({"export", "render"}), field_classes=frozenset({"plain", "personal"}),
    )  # fmt: skip

    @hookimpl
    async def authenticate(self, ctx: Any) -> Token:
        return Token(value=SecretStr("a-token"))

    @hookimpl
    async def export(self, ctx: Any, batch: Any) -> AsyncIterator[Receipt]:
        for item in batch.items:
            self.sent.append(item.key)
            yield Receipt(key=item.key, state="accepted")

    @hookimpl
    async def render(self, ctx: Any, batch: Any, profile: str) -> ExportFile:
        raise AssertionError("nothing is to be written")


async def test_what_nobody_was_asked_about_is_not_taken_to_be_missing(store: Store) -> None:
    before = Desk.around(store, FilingBooks())
    run = await ordered(before, "c-1")
    before.books.deed = lambda item: "lost"
    assert "waiting" == await before.work(run, settle_after_s=60.0)
    key = (await before.items())["c-1/1"].key
    await before.change(key, route="api", sent_at=ago(days=1))
    mute: Any = MuteBooks()
    after = Desk.around(store, mute)
    await store.runs.nudge((await after.integration()).id)
    await after.work(run)
    assert ({"c-1/1": "unknown"}, []) == (await after.states(), mute.sent)
