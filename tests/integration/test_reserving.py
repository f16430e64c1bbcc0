"""Claims become items with vouchers, each claim once, in one transaction."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter

import pytest
import sqlalchemy as sa

from samband.errors import AlreadyRunningError, ConflictError, InvalidError
from samband.rules.selecting import HIGHEST_NUMBER, item_key, next_number, number_of
from samband.store import Store
from samband.store.models import Reimbursement
from samband.store.numbering import voucher_numbers
from samband.store.trail import Wanted
from samband.store.turns import one_at_a_time
from samband.views.exports import ExportView

from .booking import MAPPING, ORG, PLUGIN, Books, Desk, claim

_claim: sa.Table = Reimbursement.__table__


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk.around(store, Books())


async def test_order_reserves_a_voucher_for_each_claim_with_the_version_of_the_mapping(desk: Desk) -> None:
    await desk.connect("c-1", "c-2")
    ordered = await desk.service.exports.order(ORG)
    assert (["c-1", "c-2"], {"NOK": "201.00"}, 1) == (ordered.reserved, ordered.totals, ordered.mapping_version)
    item = (await desk.items())["c-1/1"]
    assert ("reserved", 1, "2026-03") == (item.state, item.mapping_version, item.period)
    assert number_of(item.key) == item.voucher_number
    assert ordered.run is not None
    assert "succeeded" == await desk.work(ordered.run)
    assert {item.voucher_number for item in (await desk.items()).values()} == {each.number for each in desk.books.sent}


async def test_without_a_mapping_nothing_is_reserved(desk: Desk) -> None:
    await desk.connect("c-1", mapping=None)
    with pytest.raises(ConflictError) as refused:
        await desk.service.exports.order(ORG)
    assert "mapping_missing" == refused.value.code
    assert {} == await desk.items()


async def test_gap_refuses_the_whole_order_and_names_the_types_with_their_claims(desk: Desk) -> None:
    await desk.connect("c-1")
    await desk.put("c-2", type="taxi")
    await desk.put("c-3", type="ferry")
    await desk.put("c-4", type="taxi")
    for asked in (desk.service.exports.order(ORG), desk.service.exports.preview(ORG)):
        with pytest.raises(ConflictError) as refused:
            await asked
        assert "mapping_gap" == refused.value.code
        told = {problem.field: problem.message for problem in refused.value.problems}
        assert {"mapping.expense_types.ferry", "mapping.expense_types.taxi"} == told.keys()
        assert "c-2, c-4" in told["mapping.expense_types.taxi"]
    assert {} == await desk.items()
    left_out = {"c-2": "Is looked into.", "c-3": "Is looked into.", "c-4": "Is looked into."}
    ordered = await desk.service.exports.order(ORG, exclude=left_out)
    assert ["c-1"] == ordered.reserved


async def test_bad_single_claim_is_skipped_with_its_reason(desk: Desk) -> None:
    await desk.connect("c-1")
    await desk.put("c-2", type="hotel")
    ordered = await desk.service.exports.order(ORG)
    assert ["c-1"] == ordered.reserved
    (skipped,) = ordered.skipped
    told = (skipped.id, skipped.reason, skipped.code, skipped.field)
    assert ("c-2", "unpostable", "expense_type_excluded", "lines.0.expense_type") == told
    assert skipped.message


async def test_order_in_which_every_claim_is_bad_fails_with_the_reasons(desk: Desk) -> None:
    await desk.connect()
    await desk.put("c-1", type="hotel")
    with pytest.raises(ConflictError) as refused:
        await desk.service.exports.order(ORG)
    assert "nothing_postable" == refused.value.code
    assert ["c-1.lines.0.expense_type"] == [problem.field for problem in refused.value.problems]


async def test_empty_scope_is_a_success_with_zero(desk: Desk) -> None:
    await desk.connect(mapping=None)
    ordered = await desk.service.exports.order(ORG)
    assert (None, [], [], {}) == (ordered.run, ordered.reserved, ordered.skipped, ordered.totals)


async def test_days_choose_by_the_day_of_approval_with_both_ends(desk: Desk) -> None:
    await desk.connect()
    for day in (1, 2, 3, 4):
        await desk.put(f"c-{day}", approved_on=f"2026-03-0{day}")
    ordered = await desk.service.exports.order(ORG, first=dt.date(2026, 3, 2), last=dt.date(2026, 3, 3))
    assert ["c-2", "c-3"] == ordered.reserved


async def test_excluded_claim_stays_with_its_reason_in_the_answer_and_in_the_trail(desk: Desk) -> None:
    await desk.connect("c-1", "c-2")
    ordered = await desk.service.exports.order(ORG, ["c-1", "c-2"], exclude={"c-2": "The receipt is missing."})
    assert [("c-2", "excluded", "The receipt is missing.")] == [(s.id, s.reason, s.message) for s in ordered.skipped]
    page = await desk.service.audit.page(ORG, Wanted(action="export.excluded"))
    assert ["reimbursement/c-2"] == [entry.subject for entry in page.items]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"ids": ["c-1"], "first": dt.date(2026, 3, 1)}, "ids"),
        ({"first": dt.date(2026, 3, 2), "last": dt.date(2026, 3, 1)}, "until"),
        ({"exclude": {"c-1": "no"}}, "exclude.0.reason"),
        ({"exclude": {"c 1": "Is looked into."}}, "exclude.0.id"),
        ({"ids": ["c 1"]}, "ids.0"),
    ],
)
async def test_order_that_contradicts_itself_names_the_field(desk: Desk, given: dict[str, object], field: str) -> None:
    await desk.connect()
    with pytest.raises(InvalidError) as refused:
        await desk.service.exports.order(ORG, **given)  # type: ignore[arg-type]
    assert [field] == [problem.field for problem in refused.value.problems]


async def test_preview_tells_the_same_as_the_order_and_writes_nothing(desk: Desk) -> None:
    await desk.connect("c-1", "c-2")
    await desk.put("c-3", type="hotel")
    seen = await desk.service.exports.preview(ORG)
    assert {} == await desk.items()
    assert (2, {"NOK": "201.00"}) == (seen.count, seen.totals)
    ordered = await desk.service.exports.order(ORG)
    assert (ordered.reserved, ordered.skipped, ordered.totals) == (seen.claims, seen.skipped, seen.totals)
    items = await desk.items()
    assert {v.claim: v.number for v in seen.vouchers} == {i.reimbursement: i.voucher_number for i in items.values()}
    assert {"100.50"} == {voucher.amount for voucher in seen.vouchers}


async def test_overlap_with_an_earlier_batch_is_a_warning_with_its_run_and_days(desk: Desk) -> None:
    await desk.connect("c-1")
    first = await desk.service.exports.order(ORG)
    assert first.run is not None
    await desk.work(first.run)
    await desk.put("c-2")
    second = await desk.service.exports.order(ORG, first=dt.date(2026, 3, 1), last=dt.date(2026, 3, 31))
    assert ["c-2"] == second.reserved
    assert [(first.run.id, ["2026-03-02"], 1)] == [(o.run, o.days, o.claims) for o in second.overlaps]


async def test_twenty_overlapping_orders_at_once_never_take_a_claim_twice(desk: Desk) -> None:
    names = [f"c-{number:02}" for number in range(30)]
    await desk.connect(*names)
    # Neighbours share claims: whoever is late finds some of his taken.
    scopes = [names[start : start + 12] for start in range(20)]
    orders = (desk.service.exports.order(ORG, scope) for scope in scopes)
    answers = await asyncio.gather(*orders, return_exceptions=True)
    taken = [answer for answer in answers if isinstance(answer, ExportView)]
    refused = [answer for answer in answers if isinstance(answer, AlreadyRunningError)]
    assert (1, 19) == (len(taken), len(refused)), answers
    (first,) = taken  # whichever came first has all that it asked for, and nobody else has anything
    assert sorted(first.reserved) in scopes
    assert sorted(first.reserved) == sorted(item.reimbursement for item in (await desk.items()).values())


async def test_twenty_overlapping_orders_at_once_that_join_a_waiting_run_never_take_a_claim_twice(desk: Desk) -> None:
    names = [f"c-{number:02}" for number in range(31)]
    await desk.connect(*names)
    desk.books.deed = lambda item: "lost"
    first = await desk.service.exports.order(ORG, ["c-30"])
    assert first.run is not None
    assert "waiting" == await desk.work(first.run, settle_after_s=3600)
    scopes = [names[start : start + 11] for start in range(20)]
    answers = await asyncio.gather(*(desk.service.exports.order(ORG, scope) for scope in scopes))
    reserved = Counter(id for answer in answers for id in answer.reserved)
    assert dict.fromkeys(names[:30], 1) == reserved
    assert {first.run.id} == {answer.run.id for answer in answers if answer.run is not None}
    numbers = [item.voucher_number for item in (await desk.items()).values()]
    assert 31 == len(set(numbers))


async def test_claim_that_changes_while_its_voucher_is_made_goes_out_as_it_is_then(desk: Desk) -> None:
    await desk.connect("c-1", "c-2")
    async with desk.store.database.write() as conn:
        await one_at_a_time(conn, ORG)
        ordering = asyncio.create_task(desk.service.exports.order(ORG))
        await asyncio.sleep(0.3)  # its vouchers are made by now, and it waits
        mine = sa.and_(_claim.c.organization_id == ORG, _claim.c.id == "c-1")
        body = claim(amount="40.00")
        await conn.execute(sa.update(_claim).where(mine).values(version=2, body=body))
        await conn.execute(sa.update(_claim).where(_claim.c.id == "c-2").values(status="withdrawn"))
    assert (["c-1"], {"NOK": "40.00"}) == ((await ordering).reserved, (await ordering).totals)
    (item,) = (await desk.items()).values()
    assert ("c-1", 2) == (item.reimbursement, item.version)


async def test_number_that_is_taken_leads_to_the_next_free_one(desk: Desk) -> None:
    await desk.connect("c-1", "c-2")
    integration = await desk.integration()
    wanted = number_of(item_key(ORG, integration.id, "c-2", 1))
    await desk.service.exports.order(ORG, ["c-1"])
    first = (await desk.items())["c-1/1"]
    await desk.change(first.key, voucher_number=wanted, state="released")
    async with desk.store.database.write() as conn:
        await conn.execute(sa.text("UPDATE run SET state = 'cancelled'"))
    await desk.service.exports.order(ORG, ["c-2"])
    assert next_number(wanted) == (await desk.items())["c-2/1"].voucher_number


async def test_keys_that_want_one_number_in_one_order_get_two(desk: Desk) -> None:
    await desk.connect()
    integration = await desk.integration()
    async with desk.store.database.read() as conn:
        given = await voucher_numbers(conn, integration.id, ["same", "same-as-well", "another"])
        assert 3 == len(set(given.values()))
    assert 1 == next_number(HIGHEST_NUMBER)


async def test_second_version_of_the_mapping_does_not_touch_a_voucher_that_is_reserved(desk: Desk) -> None:
    await desk.connect("c-1")
    ordered = await desk.service.exports.order(ORG)
    changed = {**MAPPING, "expense_types": {"toll": {"account": "7999"}}}
    await desk.service.mappings.put(ORG, PLUGIN, mapping=changed)
    assert ordered.run is not None
    await desk.work(ordered.run)
    assert 1 == (await desk.items())["c-1/1"].mapping_version
