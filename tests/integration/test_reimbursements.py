"""Claims come in one by one or many at once, are kept in every version, and are never changed behind the books' back."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from samband.acting import act_for
from samband.adapters.registry import Registry
from samband.errors import ConflictError, InvalidError, NotFoundError
from samband.rules.selecting import Scope, item_key
from samband.service import Service
from samband.store import Store
from samband.store.corrections import finish_in, reopen_in
from samband.store.models import ExportItem, Integration
from samband.store.reserving import Order
from samband.store.trail import Wanted
from samband.views.reimbursements import CorrectionView

from .playing import SilentBell

ORG, OTHER = "nbf", "hlf"
ITEM = ExportItem.__table__


def claim(amount: str = "100.00", status: str = "approved", **more: Any) -> dict[str, Any]:
    lines = [{"expense_type": "toll", "amount": amount, "date": "2026-03-01"}]
    return {"payee": {"id": "p-1"}, "currency": "NOK", "status": status, "lines": lines, **more}


class Desk:
    """The service over a store, and a ledger whose items the test moves by hand."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.service = Service(store=store, registry=Registry(), bell=SilentBell())
        self.claims = self.service.reimbursements
        self.books: Integration | None = None

    async def open(self) -> None:
        for organization in (ORG, OTHER):
            await self.service.organizations.create(organization, organization.upper())
        self.books = await self.store.catalog.add_integration(ORG, "books", "Books", {})

    async def book(self, id: str, state: str, *, version: int = 1, number: int = 1, **values: Any) -> str:
        """Puts an item of a claim into the ledger, in a state; gives its key."""
        assert self.books is not None
        now = dt.datetime.now(dt.UTC)
        voucher_number = number * 1000 + sum(map(ord, id))
        key = item_key(ORG, self.books.id, id, number)
        item = ExportItem(
            key=key, organization_id=ORG, integration_id=self.books.id, reimbursement_id=id, version=version,
            number=number, stream="vouchers", state=state, created_at=now,
            **{"voucher_number": voucher_number, "voucher": voucher(key, id, voucher_number), **values},
        )  # fmt: skip
        async with self.store.database.write() as conn:
            await conn.execute(sa.insert(ITEM).values(**item.model_dump()))
        return item.key

    async def move(self, key: str, state: str, **values: Any) -> None:
        async with self.store.database.write() as conn:
            await conn.execute(sa.update(ITEM).where(ITEM.c.key == key).values(state=state, **values))

    async def settle_reversal(self, key: str) -> None:
        """Does what settling a reversal's receipt does."""
        async with self.store.database.write() as conn:
            await conn.execute(
                sa.update(ITEM).where(ITEM.c.key == key).values(state="accepted", accepted_at=dt.datetime.now(dt.UTC))
            )
            await finish_in(conn, key)

    async def correction(self, id: str = "c-1") -> CorrectionView:
        page = await self.claims.corrections(ORG, reimbursement=id)
        return page.items[-1]  # type: ignore[no-any-return]

    async def deeds(self) -> list[str]:
        entries = await self.store.trail.page(ORG, Wanted(), after=0, limit=500)
        return [entry.action for entry in entries if entry.action.startswith(("correction", "reimbursement"))]

    async def events(self) -> list[str]:
        told = await self.store.events.after(ORG, 0, limit=500)
        return [row.type.removeprefix("no.samband.reimbursement.") for row in told.rows if "reimbursement." in row.type]


def voucher(key: str, id: str, number: int) -> dict[str, Any]:
    line: dict[str, Any] = {"text": "Toll", "dimensions": {}, "tax_rule": None, "payee": None, "quantity": None}
    return {
        "number": number, "type": "HB", "date": "2026-03-02", "currency": "NOK", "text": "Claim", "claim": id,
        "mapping_version": 1, "reverses": None,
        "lines": [
            {"n": 1, "key": f"{key}-1", "account": "7140", "amount": "100.00", **line},
            {"n": 2, "key": f"{key}-2", "account": "2990", "amount": "-100.00", **line},
        ],
    }  # fmt: skip


@pytest.fixture
async def desk(store: Store) -> Desk:
    desk = Desk(store)
    await desk.open()
    return desk


# ── one by one ───────────────────────────────────────────────────────────────


async def test_every_change_is_a_version_and_names_who_told_it(desk: Desk) -> None:
    for actor, amount in (("key:1 platform", "1.00"), ("key:2 finance", "2.00"), ("key:2 finance", "2.00")):
        with act_for(actor=actor):
            view, _ = await desk.claims.put(ORG, "c-1", claim(amount))
    assert (2, "2.00") == (view.version, view.total)
    page = await desk.claims.versions(ORG, "c-1")
    told = [(one.version, one.total, one.actor) for one in page.items]
    assert [(2, "2.00", "key:2 finance"), (1, "1.00", "key:1 platform")] == told
    first = await desk.claims.versions(ORG, "c-1", limit=1)
    assert ("2", [2]) == (first.next, [one.version for one in first.items])
    assert [1] == [one.version for one in (await desk.claims.versions(ORG, "c-1", after=2)).items]


async def test_telling_what_was_read_changes_nothing(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim(text=None))
    read = await desk.claims.get(ORG, "c-1")
    view, outcome = await desk.claims.put(ORG, "c-1", read.values)
    assert ("unchanged", 1) == (outcome, view.version)


async def test_approved_claim_without_its_day_has_the_day_it_was_told(desk: Desk) -> None:
    view, _ = await desk.claims.put(ORG, "c-1", claim())
    days = {(dt.datetime.now(dt.UTC) + dt.timedelta(hours=h)).date().isoformat() for h in (-1, 0, 1, 2)}
    assert view.values["approved_on"] in days
    view, outcome = await desk.claims.put(ORG, "c-1", claim())
    assert "unchanged" == outcome


async def test_change_that_is_based_on_an_older_version_is_refused(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("1.00"))
    await desk.claims.put(ORG, "c-1", claim("2.00"), if_version=1)
    with pytest.raises(ConflictError) as caught:
        await desk.claims.put(ORG, "c-1", claim("3.00"), if_version=1)
    assert "revision_mismatch" == caught.value.code
    with pytest.raises(ConflictError):
        await desk.claims.put(ORG, "c-2", claim(), if_version=1)


async def test_claim_that_is_over_or_rejected_is_changed_at_once(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("1.00"))
    for number, state in enumerate(("rejected", "released", "reversed", "superseded"), 1):
        await desk.book("c-1", state, number=number)
    view, outcome = await desk.claims.put(ORG, "c-1", claim("2.00"))
    assert ("updated", 2) == (outcome, view.version)


# ── many at once ─────────────────────────────────────────────────────────────


async def test_each_of_many_gets_its_own_outcome_and_the_good_ones_are_stored(desk: Desk) -> None:
    for id in ("same", "changed", "sent", "booked"):
        await desk.claims.put(ORG, id, claim())
    await desk.book("sent", "sent")
    await desk.book("booked", "posted")
    answer = await desk.claims.put_many(
        ORG,
        [
            {"id": "new", **claim()}, {"id": "same", **claim()}, {"id": "changed", **claim("9.00")},
            {"id": "sent", **claim("9.00")}, {"id": "booked", **claim("9.00")}, {"id": "twice", **claim()},
            {"id": "bad", **claim("0.00")}, {"id": "twice", **claim("2.00")}, claim(), "nonsense", {"id": "a b", **claim()},
            {"id": "last", **claim()},
        ],
    )  # fmt: skip
    assert [
        "created", "unchanged", "updated", "refused", "proposed", "refused", "refused", "refused", "refused", "refused",
        "refused", "created",
    ] == [item.outcome for item in answer.items]  # fmt: skip
    assert (2, 1, 1, 1, 7) == (answer.created, answer.updated, answer.unchanged, answer.proposed, answer.refused)
    assert {
        3: ("already_exported", "items.3"), 5: ("twice", "items.5.id"), 6: ("invalid_request", "items.6.lines.0.amount"),
        7: ("twice", "items.7.id"), 8: ("invalid_request", "items.8.id"), 9: ("invalid_request", "items.9"),
        10: ("invalid_request", "items.10.id"),
    } == {item.n: (item.code, item.problems[0].field) for item in answer.items if item.outcome == "refused"}  # fmt: skip
    assert answer.items[4].correction == (await desk.correction("booked")).id
    listed = await desk.claims.page(ORG)
    assert ["booked", "changed", "last", "new", "same", "sent"] == [item.id for item in listed.items]
    assert {"changed": "9.00", "booked": "100.00", "sent": "100.00"} == {
        item.id: item.total for item in listed.items if item.id in ("changed", "booked", "sent")
    }
    assert [1, 2] == sorted(one.version for one in (await desk.claims.versions(ORG, "changed")).items)


async def test_a_thousand_claims_are_taken_and_told_again_without_a_change(desk: Desk) -> None:
    many = [{"id": f"c-{n:04}", **claim(f"{n + 1}.00")} for n in range(1_000)]
    assert 1_000 == (await desk.claims.put_many(ORG, many)).created
    assert 1_000 == (await desk.claims.put_many(ORG, many)).unchanged
    changed = [one | {"text": "again"} for one in many]
    assert 1_000 == (await desk.claims.put_many(ORG, changed)).updated
    assert {2} == {item.version for item in (await desk.claims.page(ORG, limit=500)).items}
    assert 10 == (await desk.deeds()).count("reimbursement.changed")


@pytest.mark.parametrize("size", [0, 1_001])
async def test_no_claims_and_too_many_are_refused_as_a_whole(desk: Desk, size: int) -> None:
    with pytest.raises(InvalidError) as caught:
        await desk.claims.put_many(ORG, [{"id": f"c-{n}", **claim()} for n in range(size)])
    assert "items" == caught.value.field


# ── corrections ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("state", ["accepted", "posted"])
async def test_change_to_a_claim_in_the_books_is_proposed_and_changes_nothing(desk: Desk, state: str) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    key = await desk.book("c-1", state)
    with act_for(actor="key:1 platform"):
        view, outcome = await desk.claims.put(ORG, "c-1", claim("90.00"))
    correction = await desk.correction()
    assert ("proposed", 1, "100.00", correction.id) == (outcome, view.version, view.total, view.correction)
    assert ("proposed", key, "90.00", "key:1 platform") == (
        correction.state, correction.item, correction.total, correction.proposed_by,
    )  # fmt: skip
    assert ["lines.0.amount"] == correction.changed
    assert correction.id == (await desk.claims.get(ORG, "c-1")).correction
    assert (["correction.proposed"], ["correction_proposed.v1"]) == (await desk.deeds(), await desk.events())


@pytest.mark.parametrize("state", ["reserved", "sent", "unknown"])
async def test_claim_that_is_on_its_way_is_not_changed(desk: Desk, state: str) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    await desk.book("c-1", state)
    with pytest.raises(ConflictError) as caught:
        await desk.claims.put(ORG, "c-1", claim("90.00"))
    assert "already_exported" == caught.value.code
    assert "100.00" == (await desk.claims.get(ORG, "c-1")).total
    assert [] == (await desk.claims.corrections(ORG)).items


async def test_same_change_again_is_the_same_proposal_and_another_one_takes_its_place(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    await desk.book("c-1", "posted")
    seen = [(await desk.claims.put(ORG, "c-1", claim(amount)))[0].correction for amount in ("90.00", "90.00", "80.00")]
    assert seen[0] == seen[1] != seen[2]
    page = await desk.claims.corrections(ORG)
    assert [("dismissed", "90.00"), ("proposed", "80.00")] == [(one.state, one.total) for one in page.items]
    with pytest.raises(ConflictError) as caught:  # who agrees now agrees to what nobody wants any more
        await desk.claims.approve_correction(ORG, seen[0] or "")
    assert "correction_over" == caught.value.code


async def test_telling_a_claim_as_it_is_takes_the_proposal_back(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    await desk.book("c-1", "posted")
    await desk.claims.put(ORG, "c-1", claim("90.00"))
    view, outcome = await desk.claims.put(ORG, "c-1", claim("100.00"))
    assert ("unchanged", None) == (outcome, view.correction)
    assert "dismissed" == (await desk.correction()).state
    assert ["correction_proposed.v1", "correction_dismissed.v1"] == await desk.events()


async def test_dismissed_proposal_leaves_everything_as_it_was(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    await desk.book("c-1", "posted")
    await desk.claims.put(ORG, "c-1", claim("90.00"))
    correction = await desk.correction()
    with pytest.raises(InvalidError):
        await desk.claims.dismiss_correction(ORG, correction.id, reason=" ")
    with act_for(actor="key:9 Kari"):
        decided = await desk.claims.dismiss_correction(ORG, correction.id, reason="It was right.")
    assert ("dismissed", "key:9 Kari", "It was right.") == (decided.state, decided.decided_by, decided.reason)
    assert (1, "100.00") == ((await desk.claims.get(ORG, "c-1")).version, (await desk.claims.get(ORG, "c-1")).total)
    for deed in (desk.claims.approve_correction, desk.claims.dismiss_correction):
        with pytest.raises(ConflictError) as caught:
            await deed(ORG, correction.id, reason="again")
        assert "correction_over" == caught.value.code


async def test_anothers_correction_is_as_good_as_none(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    await desk.book("c-1", "posted")
    await desk.claims.put(ORG, "c-1", claim("90.00"))
    correction = await desk.correction()
    for deed in (
        desk.claims.correction(OTHER, correction.id),
        desk.claims.approve_correction(OTHER, correction.id),
        desk.claims.dismiss_correction(OTHER, correction.id, reason="x"),
        desk.claims.timeline(OTHER, "c-1"),
        desk.claims.versions(OTHER, "c-1"),
    ):
        with pytest.raises(NotFoundError):
            await deed
    assert [] == (await desk.claims.corrections(OTHER)).items


async def test_approved_correction_reverses_the_booking_and_frees_the_new_version(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    booked = await desk.book("c-1", "posted")
    await desk.claims.put(ORG, "c-1", claim("90.00"))
    with act_for(actor="key:9 Kari"):
        approved = await desk.claims.approve_correction(ORG, (await desk.correction()).id, reason="Misread.")
    assert ("approved", "key:9 Kari") == (approved.state, approved.decided_by)
    view = await desk.claims.get(ORG, "c-1")
    assert (2, "90.00", approved.id) == (view.version, view.total, view.correction)
    (reversal,) = await _reversals(desk)
    assert (approved.reversal, booked, "reserved") == (reversal["key"], reversal["reverses"], reversal["state"])
    with pytest.raises(ConflictError) as caught:
        await desk.claims.put(ORG, "c-1", claim("80.00"))
    assert "correction_under_way" == caught.value.code
    with pytest.raises(ConflictError) as caught:
        await desk.claims.approve_correction(ORG, approved.id)
    assert "correction_under_way" == caught.value.code
    await desk.settle_reversal(reversal["key"])
    await desk.settle_reversal(reversal["key"])  # told twice, done once
    assert "done" == (await desk.correction()).state
    assert "reversed" == (await _states(desk))[booked]
    assert (3, "updated") == (lambda told: (told[0].version, told[1]))(
        await desk.claims.put(ORG, "c-1", claim("80.00"))
    )
    assert ["correction_proposed.v1", "correction_approved.v1", "correction_done.v1"] == await desk.events()
    expected = ["correction.proposed", "correction.approved", "correction.done", "reimbursement.changed"]
    assert sorted(expected) == sorted(await desk.deeds())


async def test_refused_reversal_can_be_agreed_to_again(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    await desk.book("c-1", "posted")
    await desk.claims.put(ORG, "c-1", claim("90.00"))
    first = await desk.claims.approve_correction(ORG, (await desk.correction()).id)
    await desk.move(first.reversal or "", "rejected", message="The period is closed.")
    timeline = await desk.claims.timeline(ORG, "c-1")
    assert "reversing" == timeline.state
    assert "rejected, and a person has to see to it: The period is closed." in timeline.summary
    again = await desk.claims.approve_correction(ORG, first.id, reason="The period is open again.")
    assert again.reversal != first.reversal
    assert 2 == (await desk.claims.get(ORG, "c-1")).version
    await desk.settle_reversal(again.reversal or "")
    assert "done" == (await desk.correction()).state


async def test_reversal_that_is_refused_after_all_leaves_the_booking_standing(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    booked = await desk.book("c-1", "posted", posted_at=dt.datetime.now(dt.UTC))
    await desk.claims.put(ORG, "c-1", claim("90.00"))
    first = await desk.claims.approve_correction(ORG, (await desk.correction()).id)
    await desk.settle_reversal(first.reversal or "")
    assert "reversed" == (await _states(desk))[booked]
    await desk.move(first.reversal or "", "rejected", message="The period is closed.")
    async with desk.store.database.write() as conn:
        assert await reopen_in(conn, first.reversal or "")
        assert not await reopen_in(conn, first.reversal or "")
    assert ("posted", "approved") == ((await _states(desk))[booked], (await desk.correction()).state)
    assert "reversing" == (await desk.claims.timeline(ORG, "c-1")).state
    again = await desk.claims.approve_correction(ORG, first.id)
    await desk.settle_reversal(again.reversal or "")
    assert ("reversed", "done") == ((await _states(desk))[booked], (await desk.correction()).state)


async def test_reversal_that_is_refused_when_the_new_version_is_out_is_left_to_people(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    booked = await desk.book("c-1", "posted")
    await desk.claims.put(ORG, "c-1", claim("90.00"))
    first = await desk.claims.approve_correction(ORG, (await desk.correction()).id)
    await desk.settle_reversal(first.reversal or "")
    await desk.book("c-1", "sent", number=3, version=2)
    await desk.move(first.reversal or "", "rejected")
    async with desk.store.database.write() as conn:
        assert not await reopen_in(conn, first.reversal or "")
    assert ("reversed", "done") == ((await _states(desk))[booked], (await desk.correction()).state)


async def test_correction_of_what_is_no_longer_in_the_books_is_done_at_once(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    key = await desk.book("c-1", "posted")
    await desk.claims.put(ORG, "c-1", claim("90.00"))
    await desk.move(key, "reversed")
    decided = await desk.claims.approve_correction(ORG, (await desk.correction()).id)
    assert ("done", None) == (decided.state, decided.reversal)
    assert "90.00" == (await desk.claims.get(ORG, "c-1")).total


async def test_correction_waits_while_the_claim_is_on_its_way_again(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    key = await desk.book("c-1", "posted")
    await desk.claims.put(ORG, "c-1", claim("90.00"))
    await desk.move(key, "superseded")
    await desk.book("c-1", "sent", number=2)
    with pytest.raises(ConflictError) as caught:
        await desk.claims.approve_correction(ORG, (await desk.correction()).id)
    assert "already_exported" == caught.value.code
    assert ("proposed", 1) == ((await desk.correction()).state, (await desk.claims.get(ORG, "c-1")).version)


async def _reversals(desk: Desk) -> list[Any]:
    async with desk.store.database.read() as conn:
        rows = await conn.execute(sa.select(ITEM).where(ITEM.c.purpose == "reversal").order_by(ITEM.c.created_at))
        return [row._mapping for row in rows]


async def _states(desk: Desk) -> dict[str, str]:
    async with desk.store.database.read() as conn:
        return {row.key: row.state for row in await conn.execute(sa.select(ITEM.c.key, ITEM.c.state))}


# ── races ────────────────────────────────────────────────────────────────────


async def test_twenty_tellings_at_once_make_one_version_each_and_lose_none(desk: Desk) -> None:
    amounts = [f"{n + 1}.00" for n in range(20)]
    told = await asyncio.gather(*(desk.claims.put(ORG, "c-1", claim(amount)) for amount in amounts))
    assert list(range(1, 21)) == sorted(view.version for view, _ in told)
    page = await desk.claims.versions(ORG, "c-1")
    assert sorted(amounts) == sorted(one.total for one in page.items)
    assert (20, page.items[0].total) == (lambda view: (view.version, view.total))(await desk.claims.get(ORG, "c-1"))


@pytest.mark.parametrize("is_bulk", [False, True], ids=["single", "bulk"])
async def test_change_that_races_with_a_reservation_is_in_it_whole_or_refused(desk: Desk, is_bulk: bool) -> None:
    """What is reserved is the version that is then held: never an older one, and never one that changes afterwards."""
    books = desk.books
    assert books is not None
    ids = [f"c-{n:02}" for n in range(30)]
    await desk.claims.put_many(ORG, [{"id": id, **claim("1.00")} for id in ids])
    order = Order(
        scope=Scope(), stream="claims", posts=False, plugin_version="1", account="", reason="api", requested_by="",
        today=dt.date(2026, 3, 2),
    )  # fmt: skip

    async def reserve() -> list[str]:
        await asyncio.sleep(0.02)
        _, plan = await desk.store.ledger.reserve(books, order)
        return [taken.id for taken in plan.choice.taken]

    async def tell(some: list[str]) -> dict[str, str]:
        if is_bulk:
            answer = await desk.claims.put_many(ORG, [{"id": id, **claim("2.00")} for id in some])
            return {item.id or "": item.outcome for item in answer.items}
        try:
            return {some[0]: (await desk.claims.put(ORG, some[0], claim("2.00")))[1]}
        except ConflictError as error:
            return {some[0]: error.code}

    parts = [ids[:15], ids[15:]] if is_bulk else [[id] for id in ids]
    telling = asyncio.gather(*(tell(part) for part in parts))
    reserved = await reserve()
    told = {id: outcome for part in await telling for id, outcome in part.items()}
    assert ids == reserved
    items = {item.reimbursement: item.version for item in (await desk.service.exports.items(ORG, limit=500)).items}
    held = {one.id: one.version for one in (await desk.claims.page(ORG)).items}
    assert held == items
    assert {id: 2 if outcome == "updated" else 1 for id, outcome in told.items()} == held
    assert {"updated", "refused" if is_bulk else "already_exported"} >= set(told.values())


async def test_proposals_that_race_leave_one_open(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    await desk.book("c-1", "posted")
    await asyncio.gather(*(desk.claims.put(ORG, "c-1", claim(f"{n + 1}.00")) for n in range(10)))
    page = await desk.claims.corrections(ORG)
    assert (10, 1) == (len(page.items), len([one for one in page.items if one.state == "proposed"]))


async def test_agreeing_and_dismissing_at_once_is_decided_once(desk: Desk) -> None:
    await desk.claims.put(ORG, "c-1", claim("100.00"))
    await desk.book("c-1", "posted")
    await desk.claims.put(ORG, "c-1", claim("90.00"))
    id = (await desk.correction()).id
    answers = await asyncio.gather(
        *(desk.claims.approve_correction(ORG, id) for _ in range(4)),
        *(desk.claims.dismiss_correction(ORG, id, reason="No.") for _ in range(4)),
        return_exceptions=True,
    )
    assert 1 == len([one for one in answers if isinstance(one, CorrectionView)]), answers
    assert 7 == len([one for one in answers if isinstance(one, ConflictError)]), answers
    assert len(await _reversals(desk)) == (1 if (await desk.correction()).state == "approved" else 0)
