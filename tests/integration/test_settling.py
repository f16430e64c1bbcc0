"""What is sent is settled by what is known of it, by whichever way it went, and by whoever comes to know."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from samband import OutcomeUnknownError, RateLimitedError, Receipt, RetryableError, UnavailableError
from samband.errors import ConflictError, InvalidError, NotFoundError
from samband.store import Store
from samband.store.models import Run
from samband.store.settling import move
from samband.store.trail import Wanted

from .booking import MAPPING, ORG, PLUGIN, Books, Desk, FilingBooks, RoutedBooks, ago, claim

_run: sa.Table = Run.__table__


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk.around(store, Books())


@pytest.fixture
def routed(store: Store) -> Desk:
    return Desk.around(store, RoutedBooks())


async def sent(desk: Desk, *claims: str, **settings: Any) -> str:
    """Connects, orders the claims' export and carries it out; gives the run's id."""
    await desk.connect(*claims)
    ordered = await desk.service.exports.order(ORG)
    assert ordered.run is not None
    await desk.work(ordered.run, **settings)
    return ordered.run.id


async def follow_up(desk: Desk, **settings: Any) -> str | None:
    """Does one round of the duty and carries out what it ordered; gives the run's state."""
    before = len(desk.bell.rung)
    await desk.following().round()
    for run_id in desk.bell.rung[before:]:
        await desk.worker(**settings).execute(run_id)
        return (await desk.service.runs.get(ORG, run_id)).state
    return None


async def events(desk: Desk, type: str) -> list[dict[str, Any]]:
    read = await desk.store.events.after(ORG, 0, limit=500, types=[f"no.samband.export.{type}.v1"])
    return [dict(row.data) for row in read.rows]


# ── routes ───────────────────────────────────────────────────────────────────


async def test_items_go_the_way_that_was_chosen_and_keep_it_with_the_reasons(routed: Desk) -> None:
    routed.books.closed["api"] = UnavailableError("The gateway is down.")
    run = await sent(routed, "c-1", "c-2")
    assert ["soap", "soap"] == [each.route for each in routed.books.sent]
    item = (await routed.items())["c-1/1"]
    assert ("accepted", "soap", "The gateway is down. (told)") == (item.state, item.route, item.passed_over["api"])
    assert [{}, {"api": "The gateway is down."}] == routed.books.avoided
    notes = (await routed.service.runs.get(ORG, run)).notes
    assert any("soap" in note and "The gateway is down." in note for note in notes)


async def test_when_no_other_way_is_offered_the_refusal_goes_on_and_nothing_is_lost(routed: Desk) -> None:
    routed.books.open_routes = ["api"]
    routed.books.closed["api"] = UnavailableError("The gateway is down.")
    await routed.connect("c-1")
    ordered = await routed.service.exports.order(ORG)
    assert ordered.run is not None
    assert "waiting" == await routed.work(ordered.run)
    item = (await routed.items())["c-1/1"]
    assert ("reserved", None) == (item.state, item.route)


async def test_being_asked_to_slow_down_is_no_reason_for_another_way(routed: Desk) -> None:
    routed.books.closed["api"] = RateLimitedError("Slowly.", retry_after_s=60)
    await routed.connect("c-1")
    ordered = await routed.service.exports.order(ORG)
    assert ordered.run is not None
    assert "waiting" == await routed.work(ordered.run)
    assert [] == routed.books.sent
    assert [{}] == routed.books.avoided


@pytest.mark.parametrize("trouble", ["lost", "raised"])
async def test_after_an_unknown_outcome_an_item_goes_the_way_it_went_before_or_not_at_all(
    routed: Desk, trouble: str
) -> None:
    await routed.connect("c-1")
    books = routed.books

    def once(item: Any) -> str | None:
        if trouble == "raised":
            raise OutcomeUnknownError("No answer.")
        return "lost"

    books.deed = once
    ordered = await routed.service.exports.order(ORG)
    assert ordered.run is not None
    assert "waiting" == await routed.work(ordered.run, settle_after_s=0.3)
    books.deed = lambda item: None
    # The way it went refuses now; another one is open, and is not taken.
    books.closed["api"] = UnavailableError("The gateway is down.")
    await asyncio.sleep(0.35)
    await _make_due(routed)
    assert "waiting" == await routed.work(ordered.run, settle_after_s=0.3)
    item = (await routed.items())["c-1/1"]
    assert ("reserved", "api", []) == (item.state, item.route, books.sent)
    books.closed.clear()
    books.open_routes = ["soap"]
    await _make_due(routed)
    assert "succeeded" == await routed.work(ordered.run, settle_after_s=0.3)
    assert ["api"] == [each.route for each in books.sent]


async def _make_due(desk: Desk) -> None:
    async with desk.store.database.write() as conn:
        await conn.execute(sa.update(_run).values(available_at=ago(seconds=1)))


async def test_way_by_file_is_refused_where_the_plugin_writes_none(desk: Desk) -> None:
    await desk.connect("c-1")
    with pytest.raises(ConflictError) as refused:
        await desk.service.exports.order(ORG, route="file")
    assert "route_unsupported" == refused.value.code


async def test_what_is_ordered_as_a_file_goes_out_as_one_under_the_same_numbers(store: Store) -> None:
    desk = Desk.around(store, FilingBooks())
    await desk.connect("c-1", "c-2")
    ordered = await desk.service.exports.order(ORG, route="download")
    assert ordered.run is not None
    await desk.work(ordered.run)
    found = await desk.items()
    assert {("accepted", "download")} == {(item.state, item.route) for item in found.values()}
    (file,) = (await desk.service.files.page(ORG)).items
    assert (4, [file.id]) == (file.rows, (await desk.service.exports.batch(ORG, ordered.run.id)).acknowledgements)
    # The way over the API is open, and nothing is sent that way meanwhile; the books are only asked whether it came in.
    await follow_up(desk)
    assert ([], {item.key for item in found.values()}) == (desk.books.sent, set(desk.books.asked))
    assert {"accepted"} == set((await desk.states()).values())


# ── settling ─────────────────────────────────────────────────────────────────


async def test_proof_is_kept_with_each_item_and_holds_no_secret(desk: Desk) -> None:
    await sent(desk, "c-1")
    item = (await desk.items())["c-1/1"]
    assert item.reference == f"V-{item.key[:8]}"
    assert item.digest is not None
    assert (64, True) == (len(item.digest), item.accepted_at is not None)
    assert {"token"} == item.told.keys()
    assert "a-token" not in item.told["token"]


async def test_voucher_that_was_meddled_with_is_refused_before_it_is_sent(desk: Desk) -> None:
    await desk.connect("c-1", "c-2")
    ordered = await desk.service.exports.order(ORG)
    item = (await desk.items())["c-1/1"]
    row = await desk.store.ledger.items(ORG, state=None, reimbursement_id="c-1", run_id=None, after=None, limit=1)
    voucher = dict(row[0].voucher or {})
    voucher["lines"][0]["amount"] = "100.51"
    await desk.change(item.key, voucher=voucher)
    assert ordered.run is not None
    assert "partial" == await desk.work(ordered.run)
    found = await desk.items()
    assert ("rejected", "voucher_unbalanced") == (found["c-1/1"].state, found["c-1/1"].code)
    assert {found["c-2/1"].key} == desk.books.arrivals.keys()


async def test_rejected_claim_is_mended_and_goes_out_under_the_next_number(desk: Desk) -> None:
    desk.books.deed = lambda item: "refuse"
    await sent(desk, "c-1")
    desk.books.deed = lambda item: None
    await desk.put("c-1", amount="99.00")
    ordered = await desk.service.exports.order(ORG)
    assert ordered.run is not None
    await desk.work(ordered.run)
    found = await desk.items()
    assert {"c-1/1": "rejected", "c-1/2": "accepted"} == {name: item.state for name, item in found.items()}
    assert found["c-1/1"].voucher_number != found["c-1/2"].voucher_number


async def test_item_of_a_worker_that_died_is_not_sent_again_before_its_time_from_the_takeover(desk: Desk) -> None:
    """The first attempt lies far back, but the worker that made it may have been sending until it died."""
    await desk.connect("c-1")
    ordered = await desk.service.exports.order(ORG)
    assert ordered.run is not None
    item = (await desk.items())["c-1/1"]
    await desk.change(item.key, state="sent", fence=0, run_id=ordered.run.id, sent_at=ago(hours=1))
    assert "waiting" == await desk.work(ordered.run, settle_after_s=60)
    assert [] == desk.books.sent
    assert "unknown" == (await desk.items())["c-1/1"].state
    await desk.change(item.key, sent_at=ago(seconds=61))
    await _make_due(desk)
    assert "succeeded" == await desk.work(ordered.run, settle_after_s=60)
    assert {item.key: 1} == desk.books.arrivals


async def test_what_cannot_be_told_yet_stays_unknown_and_is_never_sent_again(desk: Desk) -> None:
    desk.books.deed = lambda item: "silent"
    await desk.connect("c-1")
    ordered = await desk.service.exports.order(ORG)
    assert ordered.run is not None
    key = (await desk.items())["c-1/1"].key
    desk.books.staged[key] = Receipt(key=key, state="unknown", code="still_staging")
    assert "partial" == await desk.work(ordered.run)
    for _ in range(2):
        assert "partial" == await follow_up(desk)
        await desk.change(key, looked_up_at=None)
    assert ({key: 1}, "unknown") == (desk.books.arrivals, (await desk.items())["c-1/1"].state)
    assert 1 == len(await events(desk, "unknown"))
    desk.books.staged[key] = Receipt(key=key, state="posted", reference="70012")
    assert "succeeded" == await follow_up(desk)
    assert "posted" == (await desk.items())["c-1/1"].state


# ── following up ─────────────────────────────────────────────────────────────


async def test_accepted_item_becomes_posted_without_anybody_ordering_an_export(desk: Desk) -> None:
    await sent(desk, "c-1")
    key = (await desk.items())["c-1/1"].key
    desk.books.staged[key] = Receipt(key=key, state="posted", reference="70012", evidence={"journal": "GL-9"})
    assert "succeeded" == await follow_up(desk)
    item = (await desk.items())["c-1/1"]
    assert ("posted", "70012", {"journal": "GL-9"}) == (item.state, item.reference, item.told)
    assert item.posted_at is not None
    assert ["70012"] == [data["reference"] for data in await events(desk, "posted")]
    assert await follow_up(desk) is None


async def test_accepted_item_that_they_could_not_book_is_rejected_and_the_claim_is_free(desk: Desk) -> None:
    await sent(desk, "c-1")
    key = (await desk.items())["c-1/1"].key
    desk.books.staged[key] = Receipt(key=key, state="rejected", code="closed", message="The account is closed.")
    assert "partial" == await follow_up(desk)
    item = (await desk.items())["c-1/1"]
    assert ("rejected", "The account is closed.") == (item.state, item.message)
    assert [key] == [data["key"] for data in await events(desk, "rejected")]
    assert ["c-1"] == (await desk.service.exports.order(ORG)).reserved


async def test_accepted_item_that_they_do_not_find_stays_accepted_and_is_not_sent_again(desk: Desk) -> None:
    await sent(desk, "c-1")
    key = (await desk.items())["c-1/1"].key
    desk.books.staged[key] = None
    await follow_up(desk)
    assert ("accepted", 1) == ((await desk.items())["c-1/1"].state, desk.books.arrivals[key])


@pytest.mark.parametrize(
    ("accepted", "asked", "is_due"),
    [(5, None, False), (20, None, True), (30, 10, False), (70, 40, True), (70, 5, False), (400, 50, False),
     (400, 200, True), (4000, 3000, True), (4000, 300, False), (90_000, 30_000, True), (90_000, 1_000, False),
     (91 * 86_400, None, False)],
)  # fmt: skip
async def test_the_other_side_is_asked_at_certain_ages_and_ever_more_rarely(
    desk: Desk, accepted: float, asked: float | None, is_due: bool
) -> None:
    """``asked`` is how long ago."""
    await sent(desk, "c-1", steps_s=(3600.0,))
    key = (await desk.items())["c-1/1"].key
    looked = None if asked is None else ago(seconds=asked)
    await desk.change(key, accepted_at=ago(seconds=accepted), looked_up_at=looked)
    due = await desk.store.ledger.to_follow_up(10)
    assert is_due == bool(due)
    integration = await desk.integration()
    assert is_due == bool(await desk.store.ledger.accepted_due(integration.id, 10))


async def test_follow_up_leaves_alone_what_a_person_has_to_mend_and_what_failed_a_moment_ago(desk: Desk) -> None:
    run = await sent(desk, "c-1")
    assert await desk.store.ledger.to_follow_up(10, steps_s=(0.0001,))
    async with desk.store.database.write() as conn:
        await conn.execute(sa.update(_run).where(_run.c.id == run).values(state="failed"))
    assert [] == await desk.store.ledger.to_follow_up(10, steps_s=(0.0001,))
    async with desk.store.database.write() as conn:
        await conn.execute(sa.update(_run).where(_run.c.id == run).values(finished_at=ago(hours=1)))
    assert await desk.store.ledger.to_follow_up(10, steps_s=(0.0001,))
    await desk.service.integrations.disable(ORG, PLUGIN)
    assert [] == await desk.store.ledger.to_follow_up(10, steps_s=(0.0001,))


async def test_one_look_reaches_every_integration_however_many_are_read_at_once(desk: Desk) -> None:
    await sent(desk, "c-1")
    other = "hlf"
    await desk.service.organizations.create(other, "HLF")
    await desk.service.integrations.create(other, PLUGIN, settings={}, credentials={})
    assert (await desk.service.integrations.test(other, PLUGIN)).ok
    await desk.service.integrations.enable(other, PLUGIN)
    await desk.service.mappings.put(other, PLUGIN, mapping=MAPPING)
    await desk.service.reimbursements.put(other, "c-2", claim())
    ordered = await desk.service.exports.order(other)
    assert ordered.run is not None
    await desk.worker().execute(ordered.run.id)
    desk.bell.rung.clear()
    assert 7.0 == await desk.following(at_once=1, every_s=7.0).round()
    assert 2 == len(desk.bell.rung)


async def test_order_joins_a_run_that_waits_for_an_outcome_and_rings_it(desk: Desk) -> None:
    await desk.connect("c-1")
    desk.books.deed = lambda item: "lost"
    first = await desk.service.exports.order(ORG)
    assert first.run is not None
    assert "waiting" == await desk.work(first.run, settle_after_s=3600)
    desk.books.deed = lambda item: None
    await desk.put("c-2")
    second = await desk.service.exports.order(ORG)
    assert second.run is not None
    assert (first.run.id, ["c-2"], first.run.id) == (second.run.id, second.reserved, desk.bell.rung[-1])
    assert "waiting" == await desk.work(second.run, settle_after_s=3600)
    assert {"c-1/1": "unknown", "c-2/1": "accepted"} == await desk.states()


async def test_order_that_joins_a_run_which_was_asked_to_slow_down_does_not_wake_it(desk: Desk) -> None:
    await desk.connect("c-1")

    def throttled(item: Any) -> str | None:
        raise RateLimitedError("Slowly.", retry_after_s=600)

    desk.books.deed = throttled
    first = await desk.service.exports.order(ORG)
    assert first.run is not None
    assert "waiting" == await desk.work(first.run)
    desk.books.deed = lambda item: None
    await desk.put("c-2")
    second = await desk.service.exports.order(ORG)
    assert second.run is not None
    assert (first.run.id, ["c-2"]) == (second.run.id, second.reserved)
    assert "waiting" == await desk.work(second.run)
    assert [] == desk.books.sent


async def test_what_joins_a_follow_up_that_ends_this_moment_is_sent_by_the_next_one(desk: Desk) -> None:
    await sent(desk, "c-1")
    await desk.following().round()
    await desk.put("c-2")
    joined = await desk.service.exports.order(ORG)
    assert joined.run is not None
    assert ("follow_up", ["c-2"]) == (joined.run.reason, joined.reserved)
    async with desk.store.database.write() as conn:
        await conn.execute(sa.update(_run).where(_run.c.id == joined.run.id).values(state="succeeded"))
    await follow_up(desk)
    assert "accepted" == (await desk.items())["c-2/1"].state


# ── a person's word ──────────────────────────────────────────────────────────


async def unknown_one(desk: Desk) -> str:
    desk.books.deed = lambda item: "silent"
    await desk.connect("c-1")
    ordered = await desk.service.exports.order(ORG)
    assert ordered.run is not None
    key = (await desk.items())["c-1/1"].key
    desk.books.staged[key] = Receipt(key=key, state="unknown", code="no_search")
    await desk.work(ordered.run)
    assert "unknown" == (await desk.items())["c-1/1"].state
    return key


@pytest.mark.parametrize(
    ("outcome", "reference", "state", "event"),
    [("booked", "70012", "posted", "posted"), ("booked", None, "accepted", "accepted"),
     ("not_booked", None, "released", "released")],
)  # fmt: skip
async def test_person_settles_what_nobody_can_look_up(
    desk: Desk, outcome: Any, reference: str | None, state: str, event: str
) -> None:
    key = await unknown_one(desk)
    view = await desk.service.exports.resolve(
        ORG, key, outcome=outcome, reference=reference, reason="Seen in the voucher list."
    )
    assert (state, reference, "Seen in the voucher list.") == (view.state, view.reference, view.reason)
    assert [key] == [data["key"] for data in await events(desk, event)]
    page = await desk.service.audit.page(ORG, Wanted(action="export.resolved"))
    assert [f"export/{key}"] == [entry.subject for entry in page.items]
    free = await desk.service.exports.order(ORG)
    assert (["c-1"] if outcome == "not_booked" else []) == free.reserved
    with pytest.raises(ConflictError) as refused:
        await desk.service.exports.resolve(ORG, key, outcome="booked", reason="Once more, to be sure.")
    assert "not_uncertain" == refused.value.code


async def lease_ran_out(desk: Desk, **given: float) -> None:
    async with desk.store.database.write() as conn:
        await conn.execute(sa.update(_run).values(lease_until=ago(**given)))


async def test_only_what_is_uncertain_and_in_no_workers_hands_is_resolved_and_only_with_a_reason(desk: Desk) -> None:
    await desk.connect("c-1")
    ordered = await desk.service.exports.order(ORG)
    assert ordered.run is not None
    key = (await desk.items())["c-1/1"].key
    with pytest.raises(InvalidError) as short:
        await desk.service.exports.resolve(ORG, key, outcome="booked", reason=" so ")
    assert ["reason"] == [problem.field for problem in short.value.problems]
    with pytest.raises(NotFoundError):
        await desk.service.exports.resolve(ORG, "0" * 32, outcome="booked", reason="Seen in the list.")
    lease = await desk.store.runs.claim(ordered.run.id, "one", 30.0)
    assert lease is not None
    await desk.change(key, state="sent", fence=lease.fence, sent_at=ago(hours=1))
    with pytest.raises(ConflictError) as sending:
        await desk.service.exports.resolve(ORG, key, outcome="not_booked", reason="Not in the list.")
    assert "still_sending" == sending.value.code
    await lease_ran_out(desk, seconds=1)  # what it began in time may still be on its way
    with pytest.raises(ConflictError) as flying:
        await desk.service.exports.resolve(ORG, key, outcome="not_booked", reason="Not in the list.")
    assert "still_sending" == flying.value.code
    await lease_ran_out(desk, seconds=121)
    view = await desk.service.exports.resolve(ORG, key, outcome="not_booked", reason="Not in the list.")
    assert "released" == view.state


@pytest.mark.parametrize("state", ["accepted", "posted", "unknown"])
async def test_claim_is_exported_once_more_under_a_new_key_and_number(desk: Desk, state: str) -> None:
    await sent(desk, "c-1")
    former = (await desk.items())["c-1/1"]
    await desk.change(former.key, state=state)
    view = await desk.service.exports.again(ORG, "c-1", reason="It was deleted in the books.")
    assert view.item != former.key
    await desk.work(view.run)
    found = await desk.items()
    assert {"c-1/1": "superseded", "c-1/2": "accepted"} == {name: item.state for name, item in found.items()}
    assert found["c-1/2"].voucher_number != former.voucher_number
    assert "It was deleted in the books." == found["c-1/1"].reason
    assert [former.key] == [data["key"] for data in await events(desk, "superseded")]
    page = await desk.service.audit.page(ORG, Wanted(action="export.repeated"))
    assert ["reimbursement/c-1"] == [entry.subject for entry in page.items]
    assert {former.key: 1, view.item: 1} == desk.books.arrivals


async def test_claim_that_is_on_its_way_or_never_went_is_not_exported_once_more(desk: Desk) -> None:
    await desk.connect("c-1", "c-2")
    for expected in ("not_exported", "still_sending"):
        with pytest.raises(ConflictError) as refused:
            await desk.service.exports.again(ORG, "c-1", reason="It was deleted in the books.")
        assert expected == refused.value.code
        if expected == "not_exported":
            await desk.service.exports.order(ORG, ["c-1"])
    assert ["c-1/1"] == list(await desk.items())


# ── taking back ──────────────────────────────────────────────────────────────


async def follow_up_and_post(desk: Desk) -> None:
    """Lets the books take over what they were sent, the booking first and what takes it back after it."""
    for _ in range(2):
        desk.books.post()
        await follow_up(desk)


async def corrected(desk: Desk) -> str:
    """Exports a claim and agrees to a change of it; gives the reversal's key."""
    await sent(desk, "c-1")
    told, _ = await desk.service.reimbursements.put(ORG, "c-1", claim("80.00"))
    await desk.service.reimbursements.approve_correction(ORG, str(told.correction), reason="The amount was wrong.")
    return (await desk.items())["c-1/2"].key


async def test_reversal_waits_until_what_it_takes_back_is_booked_and_costs_no_runs_meanwhile(desk: Desk) -> None:
    reversal = await corrected(desk)
    assert "succeeded" == await follow_up(desk)  # asks what became of the booking
    assert {"c-1/1": "accepted", "c-1/2": "reserved"} == await desk.states()
    rung = list(desk.bell.rung)
    await desk.following(steps_s=(0.0001, 60.0)).round()
    assert rung == desk.bell.rung
    timeline = await desk.service.reimbursements.timeline(ORG, "c-1")
    assert "the reversal of its booking goes out when it is known that the booking was booked" in timeline.summary
    await desk.change((await desk.items())["c-1/1"].key, looked_up_at=None)
    desk.books.post()
    await follow_up(desk)
    assert {"c-1/1": "posted", "c-1/2": "accepted"} == await desk.states()
    assert 1 == desk.books.arrivals[reversal]


async def test_claim_is_free_when_its_reversal_is_booked_and_not_before(desk: Desk) -> None:
    reversal = await corrected(desk)
    desk.books.post()
    await follow_up(desk)
    assert {"c-1/1": "posted", "c-1/2": "accepted"} == await desk.states()
    assert "reversing" == (await desk.service.reimbursements.timeline(ORG, "c-1")).state
    assert [("c-1", "already_exported")] == [(s.id, s.reason) for s in (await order_of(desk, "c-1")).skipped]
    desk.books.staged[reversal] = Receipt(key=reversal, state="rejected", code="period_closed", message="Closed.")
    await desk.change(reversal, looked_up_at=None)
    await follow_up(desk)
    assert {"c-1/1": "posted", "c-1/2": "rejected"} == await desk.states()
    (correction,) = (await desk.service.reimbursements.corrections(ORG)).items
    assert "approved" == correction.state
    await desk.service.reimbursements.approve_correction(ORG, correction.id, reason="The period is open again.")
    await follow_up_and_post(desk)
    assert {"c-1/1": "reversed", "c-1/2": "rejected", "c-1/3": "posted"} == await desk.states()
    assert ["c-1"] == (await order_of(desk, "c-1")).reserved


async def order_of(desk: Desk, claim_id: str) -> Any:
    return await desk.service.exports.order(ORG, [claim_id])


@pytest.mark.parametrize("route", ["file", "download"])
async def test_what_goes_by_file_is_taken_back_by_file_without_anybody_saying_that_it_was_booked(
    desk: Desk, route: str
) -> None:
    reversal = await corrected(desk)
    booking, integration = (await desk.items())["c-1/1"].key, await desk.integration()
    await desk.change(booking, route=route)
    assert await desk.store.ledger.has_free(integration.id)
    await desk.change(reversal, state="sent", route=route)
    async with desk.store.database.write() as conn:
        await move(conn, ORG, integration.id, None, [Receipt(key=reversal, state="accepted")])
    assert {"c-1/1": "reversed", "c-1/2": "accepted"} == await desk.states()
    async with desk.store.database.write() as conn:
        await move(conn, ORG, integration.id, None, [Receipt(key=reversal, state="rejected", message="Closed.")])
    assert {"c-1/1": "accepted", "c-1/2": "rejected"} == await desk.states()


async def test_reversal_takes_the_booking_back_under_a_number_of_its_own_and_frees_the_claim(desk: Desk) -> None:
    await sent(desk, "c-1")
    told, outcome = await desk.service.reimbursements.put(ORG, "c-1", claim("80.00"))
    assert ("proposed", True) == (outcome, told.correction is not None)
    await desk.service.reimbursements.approve_correction(ORG, str(told.correction), reason="The amount was wrong.")
    assert "reserved" == (await desk.items())["c-1/2"].state
    await follow_up_and_post(desk)
    found = await desk.items()
    assert {"c-1/1": "reversed", "c-1/2": "posted"} == {name: item.state for name, item in found.items()}
    back = found["c-1/2"]
    assert ("reversal", found["c-1/1"].key) == (back.purpose, back.reverses)
    assert ["c-1"] == (await desk.service.exports.order(ORG)).reserved
    await follow_up(desk)
    await desk.worker().execute(desk.bell.rung[-1])
    assert "accepted" == (await desk.items())["c-1/3"].state
    # And once more: a second reversal of the same claim is in nobody's way.
    again, _ = await desk.service.reimbursements.put(ORG, "c-1", claim("70.00"))
    await desk.service.reimbursements.approve_correction(ORG, str(again.correction), reason="Wrong once more.")
    await follow_up_and_post(desk)
    found = await desk.items()
    assert ("reversed", "posted") == (found["c-1/3"].state, found["c-1/4"].state)
    assert 4 == len({item.voucher_number for item in found.values()})


# ── batches ──────────────────────────────────────────────────────────────────


async def test_batches_are_listed_newest_first_with_what_they_come_to(desk: Desk) -> None:
    first = await sent(desk, "c-1", "c-2")
    desk.books.deed = lambda item: "refuse"
    await desk.put("c-3", amount="9.99")
    ordered = await desk.service.exports.order(ORG, requested_by="Kari")
    assert ordered.run is not None
    await desk.work(ordered.run)
    page = await desk.service.exports.batches(ORG)
    newest, oldest = page.items
    assert (ordered.run.id, "refused", {"rejected": 1}, {"NOK": "9.99"}, "Kari") == (
        newest.run, newest.outcome, newest.states, newest.totals, newest.requested_by,
    )  # fmt: skip
    assert (first, "accepted", {"accepted": 2}, {"NOK": "201.00"}, ["c-1", "c-2"]) == (
        oldest.run, oldest.outcome, oldest.states, oldest.totals, oldest.claims,
    )  # fmt: skip
    assert ("2026-03", "2026-03") == (oldest.period_first, oldest.period_last)
    part = await desk.service.exports.batches(ORG, limit=1)
    rest = await desk.service.exports.batches(ORG, limit=1, after=part.next)
    assert [newest.run, oldest.run] == [each.run for each in (*part.items, *rest.items)]
    assert oldest == await desk.service.exports.batch(ORG, first)
    with pytest.raises(NotFoundError):
        await desk.service.exports.batch(ORG, "0" * 32)


async def test_plain_claims_are_summed_as_well(store: Store) -> None:
    desk = Desk.around(store, Books(kind="reimbursement"))
    run = await sent(desk, "c-1", "c-2")
    assert {"NOK": "201.00"} == (await desk.service.exports.batch(ORG, run)).totals


# ── the lease ────────────────────────────────────────────────────────────────


async def test_retryable_trouble_gives_everything_back_and_a_second_run_sends_it_once(desk: Desk) -> None:
    await desk.connect("c-1", "c-2")

    def busy(item: Any) -> str | None:
        raise RetryableError("Busy.", retry_after_s=0)

    desk.books.deed = busy
    ordered = await desk.service.exports.order(ORG)
    assert ordered.run is not None
    assert "waiting" == await desk.work(ordered.run)
    assert {"reserved"} == set((await desk.states()).values())
    desk.books.deed = lambda item: None
    await _make_due(desk)
    assert "succeeded" == await desk.work(ordered.run)
    assert {1} == set(desk.books.arrivals.values())
