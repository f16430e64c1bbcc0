"""A dry run tells record by record what a sync would do, and does none of it."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import pytest
import sqlalchemy as sa

from samband.errors import AlreadyRunningError, ConflictError, InvalidError, NotFoundError
from samband.rules.difference import put_together
from samband.service.backfills import Chosen
from samband.store import Store
from samband.store.models import Table
from samband.views import RunView
from samband.views.backfills import DifferenceView

from .conftest import Hosts, Simulator
from .test_trouble import execute, strike, sync

OWN = ("difference", "run")


async def rehearse(hosts: Hosts, **order: Any) -> tuple[RunView, list[DifferenceView]]:
    """Carries one dry run out in this process and gives what it found."""
    run = await execute(hosts, await hosts.service.backfills.order_dry_run("hlf", "dynamics365", **order))
    return run, await differences(hosts, run)


async def differences(hosts: Hosts, run: RunView) -> list[DifferenceView]:
    found: list[DifferenceView] = []
    after: str | None = "0"
    while after is not None:
        page = await hosts.service.backfills.differences("hlf", run.id, after=int(after), limit=97)
        found += page.items
        after = page.next
    return found


async def dump(store: Store, *, without: tuple[str, ...] = OWN) -> dict[str, list[str]]:
    """Gives every row of every table as text."""
    async with store.database.read() as conn:
        return {
            table.name: sorted(str(tuple(row)) for row in await conn.execute(sa.select(table)))
            for table in Table.metadata.sorted_tables
            if table.name not in without
        }


async def syncs(hosts: Hosts) -> list[str]:
    """Gives every run that is no dry run as text."""
    async with hosts.store.database.read() as conn:
        rows = await conn.execute(sa.text("SELECT * FROM run WHERE operation = 'sync' ORDER BY id"))
        return [str(tuple(row)) for row in rows]


def only(run: RunView) -> dict[str, int]:
    return {name: count for name, count in run.counts.model_dump().items() if count and name != "unchanged"}


Told = set[tuple[str, str, str, str | None, str | None]]


def told(found: list[DifferenceView]) -> Told:
    return {(d.stream, d.key, d.op, d.code, d.field) for d in found}


async def became(hosts: Hosts, run: RunView) -> Told:
    """Gives what a real run did, in the words of a dry run."""
    found: Told = set()
    after: str | None = "0"
    while after is not None:
        page = await hosts.service.runs.outcomes("hlf", run.id, after=int(after), limit=500)
        found |= {(o.stream, o.key, o.outcome, o.code, o.field) for o in page.items}
        after = page.next
    return found


async def bodies(hosts: Hosts) -> dict[tuple[str, str], dict[str, Any]]:
    """Gives every record held, by stream and key, with references in the form in which a dry run names new ones."""
    query = (
        "SELECT s.name, b.key, b.record_id, r.body FROM binding b JOIN stream s ON s.id = b.stream_id "
        "JOIN record r ON r.organization_id = b.organization_id AND r.kind = s.kind AND r.id = b.record_id"
    )
    text = sa.text(query).columns(body=sa.JSON)
    async with hosts.store.database.read() as conn:
        return {(row.name, row.key): row.body for row in await conn.execute(text)}


async def test_dry_run_writes_nothing_but_what_it_found(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    await sync(hosts)
    simulator.control("touch", {"table": "contacts", "create": 3, "update": 4, "delete": 2})
    strike(simulator, "bad_rows", rows=["unknown_choice"], times=1)
    for full in (False, True):
        ordered = await hosts.service.backfills.order_dry_run("hlf", "dynamics365", full=full)
        before = await dump(hosts.store), await syncs(hosts)
        run = await execute(hosts, ordered)
        assert run.state in ("succeeded", "partial"), run
        assert {"created", "updated", "deleted"} <= only(run).keys()
        assert before == (await dump(hosts.store), await syncs(hosts))


async def test_dry_run_of_a_new_integration_writes_not_even_its_streams(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    await hosts.service.integrations.disable("hlf", "dynamics365")
    ordered = await hosts.service.backfills.order_dry_run("hlf", "dynamics365")
    before = await dump(hosts.store)
    run = await execute(hosts, ordered)
    assert ("succeeded", "dry_run") == (run.state, run.operation)
    assert before == await dump(hosts.store)
    assert [] == before["stream"]
    assert 0 < run.counts.created == len([d for d in await differences(hosts, run) if d.op == "created"])


@pytest.mark.parametrize("scenario", ["first", "changes", "full", "other-settings", "expired", "garbage"])
async def test_sync_after_a_dry_run_does_exactly_what_it_told(
    hosts: Hosts, simulator: Simulator, scenario: str
) -> None:
    seed = random.randrange(10**6)
    await hosts.connect(simulator, page_size=70)
    if scenario != "first":
        await sync(hosts)
        simulator.control("touch", {"changes": [
            {"table": "contacts", "create": 5, "update": 9, "delete": 3, "seed": seed},
            {"table": "sb_memberships", "create": 6, "update": 4, "delete": 2, "seed": seed},
        ]})  # fmt: skip
    if scenario == "other-settings":
        settings = (await hosts.service.integrations.get("hlf", "dynamics365")).settings
        await hosts.service.integrations.update("hlf", "dynamics365", settings={**settings, "page_size": 60})
        await hosts.service.integrations.test("hlf", "dynamics365")
        await hosts.service.integrations.enable("hlf", "dynamics365")
    if scenario == "expired":
        simulator.control("config", {"delta_expiry": "now"})
    if scenario == "garbage":
        names = ["duplicate_id", "null_id", "unknown_choice", "wrong_type", "year_one"]
        strike(simulator, "bad_rows", rows=names, times=2)
    held = await bodies(hosts)
    rehearsed, found = await rehearse(hosts, full=scenario == "full")
    run = await sync(hosts, full=scenario == "full")
    assert (rehearsed.state, only(rehearsed), seed) == (run.state, only(run), seed)
    assert told(found) == await became(hosts, run)
    after = await bodies(hosts)
    for difference in found:
        if difference.op in ("created", "updated", "deleted"):
            place = (difference.stream, difference.key)
            expected = put_together(held.get(place, {}), difference.before, difference.after)
            member = expected.get("member")
            if isinstance(member, dict):  # a record that was new itself
                assert member["stream"] == "contacts"
                expected["member"] = after[place]["member"]
            assert expected == after[place], (place, seed)
    assert only(run) or scenario == "expired"


async def test_dry_run_stops_after_as_many_records_as_were_ordered_and_tells_no_deletions(
    hosts: Hosts, simulator: Simulator
) -> None:
    await hosts.connect(simulator, page_size=100)
    await sync(hosts)
    simulator.control("touch", {"table": "contacts", "delete": 4})
    run, found = await rehearse(hosts, full=True, limit=150)
    assert 150 == sum(run.counts.model_dump().values())
    assert [] == [d for d in found if d.op == "deleted"]
    assert ["contacts: stopped after as many records as were ordered. "
            "What a full read would delete at its end is not among them."] == run.notes  # fmt: skip
    whole, found = await rehearse(hosts, full=True)
    assert ([], 4) == (whole.notes, len([d for d in found if d.op == "deleted"]))


async def test_dry_run_of_chosen_records_tells_what_their_backfill_would_do(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    await sync(hosts)
    changes = simulator.control("touch", {"table": "contacts", "create": 2, "update": 3, "delete": 2})["changes"][
        "contacts"
    ]
    chosen = Chosen(stream="contacts", keys=[*changes["created"], *changes["updated"], *changes["deleted"]])
    run, found = await rehearse(hosts, chosen=chosen)
    real = await execute(hosts, await hosts.service.backfills.order("hlf", "dynamics365", chosen))
    assert (only(real), told(found)) == (only(run), await became(hosts, real))
    assert {"created", "updated", "deleted"} <= only(run).keys()


async def test_dry_run_goes_on_beside_a_sync_and_not_beside_another_dry_run(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    await hosts.service.trigger_sync("hlf", "dynamics365")
    first = await hosts.service.backfills.order_dry_run("hlf", "dynamics365")
    with pytest.raises(AlreadyRunningError) as caught:
        await hosts.service.backfills.order_dry_run("hlf", "dynamics365")
    assert first.id == caught.value.run_id
    assert "succeeded" == (await execute(hosts, first)).state
    # And it is not taken for the last thing that was done.
    assert "sync" == (await hosts.service.get_last_sync_result("hlf", "dynamics365")).operation


async def test_dry_run_that_was_cut_off_begins_again_and_tells_everything_once(
    hosts: Hosts, simulator: Simulator
) -> None:
    await hosts.connect(simulator, page_size=50)
    strike(simulator, "status", status=503, times=4, skip=3)
    run, found = await rehearse(hosts)
    assert ("waiting", 150) == (run.state, len(found))
    simulator.control("faults", {"clear": True})
    integration = await hosts.store.catalog.integration("hlf", "dynamics365")
    await hosts.store.runs.nudge(integration.id)
    run = await execute(hosts, run)
    found = await differences(hosts, run)
    assert ("succeeded", len(found)) == (run.state, len({(d.stream, d.key) for d in found}))
    assert list(range(1, len(found) + 1)) == [d.position for d in found]
    assert run.counts.created + run.counts.skipped == len(found)
    assert told(found) == await became(hosts, await sync(hosts))


async def test_what_a_dry_run_found_is_thrown_away_after_a_day_and_for_a_newer_one(
    hosts: Hosts, simulator: Simulator
) -> None:
    await hosts.connect(simulator, page_size=100)
    first, _ = await rehearse(hosts)
    second, _ = await rehearse(hosts)
    with pytest.raises(NotFoundError) as caught:
        await differences(hosts, first)
    assert "differences_gone" == caught.value.code
    assert 0 == await hosts.store.differences.sweep()
    assert await differences(hosts, second)
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(hours=24, seconds=1)
    async with hosts.store.database.write() as conn:
        await conn.execute(
            sa.update(Table.metadata.tables["run"]).where(sa.column("id") == second.id).values(finished_at=long_ago)
        )
    assert 1 == await hosts.store.differences.sweep()
    with pytest.raises(NotFoundError):
        await differences(hosts, second)
    assert [] == (await dump(hosts.store, without=()))["difference"]
    assert second.counts == (await hosts.service.runs.get("hlf", second.id)).counts


async def test_dry_run_that_makes_no_sense_is_refused_with_the_field_at_fault(
    hosts: Hosts, simulator: Simulator
) -> None:
    await hosts.connect(simulator)
    chosen = Chosen(stream="contacts", keys=["a"])
    for order, field in (
        ({"streams": ["nothing"]}, "streams"),
        ({"limit": 0}, "limit"),
        ({"chosen": chosen, "full": True}, "chosen"),
        ({"chosen": Chosen(stream="nothing", keys=["a"])}, "chosen.stream"),
    ):
        with pytest.raises(InvalidError) as caught:
            await hosts.service.backfills.order_dry_run("hlf", "dynamics365", **order)  # type: ignore[arg-type]
        assert [field] == [problem.field for problem in caught.value.problems]
    with pytest.raises(ConflictError) as refused:
        await differences(hosts, await sync(hosts))
    assert "not_a_dry_run" == refused.value.code


async def test_dry_run_tells_that_a_sync_would_be_held_and_the_sync_is(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    await sync(hosts)
    held = len((await hosts.service.records.page("hlf", "member", limit=500)).items)
    simulator.control("touch", {"table": "contacts", "delete": 60})
    run, _ = await rehearse(hosts)
    assert 60 == run.counts.deleted
    (note,) = run.notes
    assert note.startswith(
        "contacts: a sync would be held until someone agrees: it would delete 60 and deactivate 0 of "
    )
    real = await sync(hosts)
    assert "held" == real.state
    assert real.brake is not None
    assert f"0 of {real.brake.held} records, and {real.brake.limit} may go" in note
    assert real.brake.held <= held
