"""A run that would take too much away is held before it writes, until a person has decided."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest

from samband.acting import act_for
from samband.errors import ConflictError
from samband.store import Store
from samband.views import RunView

from .playing import CHANGES, PEOPLE, Bench, Source, gone, people

DECISIONS = "action LIKE 'run.%' AND action <> 'run.ordered'"


@pytest.fixture
def source() -> Source:
    return Source("crm", [CHANGES])


@pytest.fixture
async def bench(store: Store, source: Source) -> AsyncIterator[Bench]:
    running = Bench(store, source)
    await running.connect("hlf", "crm")
    yield running
    await running.close()


async def read(bench: Bench, source: Source, count: int) -> RunView:
    """Brings ``count`` people in, with a cursor behind them."""
    source.deliver("people", people(range(count)))
    run = await bench.run()
    assert ("succeeded", count) == (run.state, await bench.held_records())
    return run


def more(source: Source, *pages: Any) -> None:
    """Lets the source have these pages behind what was read before."""
    before = source.pages["people"]
    source.deliver("people", *before, *pages)


async def events(bench: Bench) -> list[str]:
    told = await bench.rows("SELECT type FROM outbox WHERE type LIKE '%.run.%' ORDER BY seq")
    return [type.removeprefix("no.samband.run.").removesuffix(".v1") for (type,) in told]


async def test_first_full_read_is_never_held(bench: Bench, source: Source) -> None:
    assert (await read(bench, source, 300)).brake is None


async def test_exactly_the_share_passes(bench: Bench, source: Source) -> None:
    await read(bench, source, 200)
    more(source, gone(range(20)))
    assert ("succeeded", 180) == ((await bench.run()).state, await bench.held_records())


async def test_one_more_than_the_share_is_held_and_nothing_of_the_page_is_written(bench: Bench, source: Source) -> None:
    await read(bench, source, 200)
    before = await bench.rows("SELECT max(seq) FROM change")
    page = gone(range(21))
    more(source, type(page)(records=people(range(500, 503)).records, deleted=page.deleted))
    run = await bench.run()
    assert run.brake is not None
    assert ("held", 0, 0) == (run.state, run.pages, run.counts.total)
    assert (21, 0, 200, 20, "people") == (
        run.brake.would_delete, run.brake.would_deactivate, run.brake.held, run.brake.limit, run.brake.stream,
    )  # fmt: skip
    assert before == await bench.rows("SELECT max(seq) FROM change")
    assert 200 == await bench.held_records()
    assert ["succeeded", "held"] == await events(bench)
    assert [("run.held",)] == await bench.rows(f"SELECT action FROM audit_entry WHERE {DECISIONS}")


async def test_small_organisation_may_lose_most_of_its_people(bench: Bench, source: Source) -> None:
    await read(bench, source, 25)
    more(source, gone(range(19)))
    assert ("succeeded", 6) == ((await bench.run()).state, await bench.held_records())


async def test_removals_are_summed_over_the_pages_of_a_run(bench: Bench, source: Source) -> None:
    await read(bench, source, 200)
    more(source, gone(range(15)), gone(range(15, 20)), gone(range(20, 21)))
    run = await bench.run()
    assert run.brake is not None
    assert ("held", 21, 180) == (run.state, run.brake.would_delete, await bench.held_records())
    assert 20 == run.counts.deleted


async def test_people_who_become_inactive_count_and_those_who_were_do_not(bench: Bench, source: Source) -> None:
    source.deliver("people", people(range(180)), people(range(180, 200), "inactive"))
    await bench.run()
    more(source, people(range(180, 200), "inactive", last_name="New"), people(range(20), "inactive"))
    passed = await bench.run()
    assert ("succeeded", 40) == (passed.state, passed.counts.updated)
    more(source, people(range(20, 41), "inactive"))
    run = await bench.run()
    assert run.brake is not None
    assert ("held", 0, 21) == (run.state, run.brake.would_delete, run.brake.would_deactivate)


async def test_people_who_are_paused_are_not_counted(bench: Bench, source: Source) -> None:
    await read(bench, source, 100)
    more(source, people(range(100), "paused"))
    assert ("succeeded", 100) == ((run := await bench.run()).state, run.counts.updated)


async def test_emptied_source_is_held_at_the_end_of_a_full_read(store: Store) -> None:
    source = Source("crm", [PEOPLE])
    bench = Bench(store, source)
    await bench.connect("hlf", "crm")
    await read(bench, source, 50)
    source.deliver("people", people(range(0)))
    run = await bench.run()
    assert run.brake is not None
    assert ("held", 50, 50, 50) == (run.state, run.brake.would_delete, run.brake.held, await bench.held_records())
    await bench.close()


async def test_full_read_counts_what_its_last_page_removes_and_what_it_did_not_see(store: Store) -> None:
    source = Source("crm", [PEOPLE])
    bench = Bench(store, source)
    await bench.connect("hlf", "crm")
    await read(bench, source, 100)
    # Nine are said to be deleted, ten are not mentioned and one has become inactive.
    source.deliver("people", people(range(20, 100)), type(people(range(0)))(
        records=people(range(19, 20), "inactive").records, deleted=[f"p{n}" for n in range(9)]
    ))  # fmt: skip
    run = await bench.run()
    assert run.brake is not None
    assert ("held", 19, 1, 100) == (
        run.state, run.brake.would_delete, run.brake.would_deactivate, await bench.held_records()
    )  # fmt: skip
    await bench.close()


async def test_held_run_keeps_its_place_and_no_worker_takes_it(bench: Bench, source: Source) -> None:
    run = await held(bench, source)
    assert [] == await bench.store.runs.due(10)
    assert "held" == (await bench.go_on(run)).state
    with pytest.raises(ConflictError) as refused:
        await bench.service.trigger_sync("hlf", "crm")
    assert run.id == getattr(refused.value, "run_id", None)


async def held(bench: Bench, source: Source) -> RunView:
    await read(bench, source, 100)
    more(source, gone(range(40)))
    run = await bench.run()
    assert "held" == run.state
    return run


async def test_approved_run_goes_on_at_its_cursor_and_removes_what_was_agreed_to(bench: Bench, source: Source) -> None:
    run = await held(bench, source)
    with act_for(actor="key:1 kari"):
        approved = await bench.service.runs.approve("hlf", run.id, reason="Bergen has been closed.")
    assert approved.brake is not None
    assert ("queued", {"people": 40}, "approved", "key:1 kari") == (
        approved.state, approved.brake.released, approved.brake.decision, approved.brake.decided_by,
    )  # fmt: skip
    assert run.id == bench.bell.rung[-1]
    done = await bench.go_on(run)
    assert ("succeeded", 40, 60) == (done.state, done.counts.deleted, await bench.held_records())
    assert done.counts.created == 0
    audited = await bench.rows(f"SELECT actor, action FROM audit_entry WHERE {DECISIONS} ORDER BY seq")
    assert [(f"run:{run.id}", "run.held"), ("key:1 kari", "run.approved")] == audited


async def test_approval_covers_what_they_say_then_up_to_the_approved_number(bench: Bench, source: Source) -> None:
    run = await held(bench, source)
    await bench.service.runs.approve("hlf", run.id, reason="Agreed.")
    source.pages["people"].pop()
    more(source, gone(range(41)))
    again = await bench.go_on(run)
    assert again.brake is not None
    assert ("held", 41, 100) == (again.state, again.brake.would_delete, await bench.held_records())
    await bench.service.runs.approve("hlf", run.id, reason="Agreed, up to half.", up_to=50)
    source.pages["people"].pop()
    more(source, gone(range(30)))
    assert ("succeeded", 70) == ((await bench.go_on(run)).state, await bench.held_records())


async def test_rejected_run_applies_nothing_and_the_next_one_reads_everything(bench: Bench, source: Source) -> None:
    run = await held(bench, source)
    rejected = await bench.service.runs.reject("hlf", run.id, reason="Their export was half empty.")
    assert rejected.brake is not None
    assert ("cancelled", "rejected", 100) == (rejected.state, rejected.brake.decision, await bench.held_records())
    assert "not applied" in rejected.notes[-1]
    assert ["succeeded", "held", "cancelled"] == await events(bench)
    source.deliver("people", people(range(100)))
    after = await bench.run()
    assert ("succeeded", 100, 100) == (after.state, after.counts.unchanged, await bench.held_records())


async def test_only_a_held_run_can_be_decided_on_and_only_once(bench: Bench, source: Source) -> None:
    run = await held(bench, source)
    await bench.service.runs.reject("hlf", run.id)
    for decide in (bench.service.runs.reject, bench.service.runs.approve):
        with pytest.raises(ConflictError) as refused:
            await decide("hlf", run.id, reason="Again.")
        assert "not_held" == refused.value.code


async def test_worker_that_dies_between_refusing_and_holding_finds_the_same_again(bench: Bench, source: Source) -> None:
    """What the refused page did is rolled back first, so a run that was cut off there is weighed again."""
    run = await held(bench, source)
    await bench.set_run(run.id, state="running", brake=None, lease_until=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    again = await bench.go_on(run)
    assert again.brake is not None
    assert ("held", 40, 100) == (again.state, again.brake.would_delete, await bench.held_records())
