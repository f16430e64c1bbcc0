"""Chosen records are read again, by id or by when they changed, and the stream's own reading stands where it stood."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from samband.errors import AlreadyRunningError, ConflictError
from samband.service.backfills import Chosen
from samband.views import RunView

from .conftest import Hosts, Simulator, simulator_process, until
from .test_trouble import execute, strike, sync

MEMBERS = 300


async def backfill(hosts: Hosts, **chosen: Any) -> RunView:
    """Carries one backfill of contacts out in this process."""
    return await execute(
        hosts, await hosts.service.backfills.order("hlf", "dynamics365", Chosen(stream="contacts", **chosen))
    )


async def standing(hosts: Hosts) -> list[tuple[Any, ...]]:
    """Gives where every stream's own reading stands."""
    query = "SELECT name, cursor, generation, reading_full, digest, unresolved_since, last_read_at FROM stream ORDER BY name"
    async with hosts.store.database.read() as conn:
        return [tuple(row) for row in await conn.execute(sa.text(query))]


async def keys_of(hosts: Hosts, stream: str = "contacts") -> list[str]:
    query = "SELECT b.key FROM binding b JOIN stream s ON s.id = b.stream_id WHERE s.name = :s ORDER BY b.key"
    async with hosts.store.database.read() as conn:
        return list((await conn.scalars(sa.text(query), {"s": stream})).all())


async def outcomes(hosts: Hosts, run: RunView) -> dict[str, str]:
    page = await hosts.service.runs.outcomes("hlf", run.id, limit=500)
    return {o.key: o.outcome for o in page.items}


def touched(simulator: Simulator, **order: Any) -> dict[str, list[str]]:
    changes: dict[str, list[str]] = simulator.control("touch", {"table": "contacts", **order})["changes"]["contacts"]
    return changes


async def test_backfill_by_ids_brings_what_changed_and_leaves_the_cursor(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    await sync(hosts)
    before, held = await standing(hosts), await keys_of(hosts)
    changed = touched(simulator, update=5, delete=2, create=1)
    asked = [*changed["updated"][:3], changed["deleted"][0], *changed["created"], held[0]]
    run = await backfill(hosts, keys=asked)
    expected = dict.fromkeys(changed["updated"][:3], "updated") | {
        changed["deleted"][0]: "deleted", changed["created"][0]: "created"
    }  # fmt: skip
    expected.pop(held[0], None)
    found = await outcomes(hosts, run)
    found.pop(held[0], None)
    assert ("succeeded", "sync", "backfill", expected) == (run.state, run.operation, run.reason, found)
    assert before == await standing(hosts)

    # The rest comes with the changes, and what the backfill has brought already is not told again.
    after = await sync(hosts)
    rest = (after.counts.created, after.counts.updated, after.counts.deleted)
    assert (0, len(set(changed["updated"]) - set(asked)), 1) == rest
    assert 0 == sum((await sync(hosts)).counts.model_dump().values())


async def test_backfill_by_window_takes_its_beginning_and_not_its_end(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=20)
    await sync(hosts)
    before, keys = await standing(hosts), await keys_of(hosts)
    start, hour = dt.datetime(2026, 1, 10, 12, tzinfo=dt.UTC), dt.timedelta(hours=1)
    moments = {"before": start - dt.timedelta(seconds=1), "first": start, "last": start + hour - dt.timedelta(seconds=1),
               "end": start + hour}  # fmt: skip
    groups = {name: keys[n * 25 : n * 25 + 25] for n, name in enumerate(moments)}
    simulator.control("touch", {"table": "contacts", "update": [
        {"contactid": key, "modifiedon": f"{moments[name]:%Y-%m-%dT%H:%M:%SZ}", "address1_city": name}
        for name, group in groups.items() for key in group
    ]})  # fmt: skip
    run = await backfill(hosts, since=start, until=start + hour)
    inside = dict.fromkeys([*groups["first"], *groups["last"]], "updated")
    assert ("succeeded", inside) == (run.state, await outcomes(hosts, run))
    assert before == await standing(hosts)
    # The rest is still there to be read as a change, and nothing is told twice.
    assert (50, 50) == ((await sync(hosts)).counts.updated, run.counts.updated)


async def test_backfill_by_window_sees_no_deletion(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    await sync(hosts)
    start = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)
    changed = touched(simulator, update=2, delete=3)
    run = await backfill(hosts, since=start)
    assert set(changed["updated"]) <= (await outcomes(hosts, run)).keys()
    assert 0 == run.counts.deleted
    assert 3 == (await sync(hosts)).counts.deleted


async def test_ids_that_nobody_has_are_told_and_do_no_harm(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    await sync(hosts)
    held = await keys_of(hosts)
    unknown = [str(uuid.uuid4()), "no-guid", "' or 1 eq 1 or contactid eq '", "æøå", '"]),true', "%2527"]
    run = await backfill(hosts, keys=[*unknown, held[0]])
    assert ("succeeded", 1, len(unknown)) == (run.state, run.counts.unchanged, run.counts.skipped)
    page = await hosts.service.runs.outcomes("hlf", run.id)
    assert {(key, "skipped", "not_held") for key in unknown} == {(o.key, o.outcome, o.code) for o in page.items}
    assert held == await keys_of(hosts)


async def test_rows_that_the_account_may_not_see_are_not_taken_for_deleted(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    await sync(hosts)
    held = await keys_of(hosts)
    client = simulator.line["credentials"]["client_id"]
    simulator.control("config", {"users": [{"client_id": client, "privileges": {"ReadContact": "Basic"}}]})
    run = await backfill(hosts, keys=held[:5])
    assert run.error is not None
    assert ("failed", "auth_missing_privilege", 0) == (run.state, run.error.code, run.counts.deleted)
    assert held == await keys_of(hosts)


async def test_backfill_of_an_integration_that_never_ran_leaves_the_first_sync_a_whole_one(
    hosts: Hosts, simulator: Simulator
) -> None:
    await hosts.connect(simulator, page_size=100)
    keys = list(simulator.control("state?rows=contacts")["rows"]["contacts"]["versions"])
    run = await backfill(hosts, keys=keys[:7])
    assert ("succeeded", 7) == (run.state, run.counts.created)
    assert [("contacts", None, 0, 0, "", None, None)] == [
        (*row[:3], int(row[3]), *row[4:]) for row in await standing(hosts)
    ]
    first = await sync(hosts)
    assert (7, 0) == (first.counts.unchanged, first.counts.deleted)
    assert sorted(keys) == await keys_of(hosts)


@pytest.mark.crash
async def test_killed_backfill_of_ten_thousand_ids_goes_on_and_brings_each_once(hosts: Hosts) -> None:
    with simulator_process("--members", "11000", "--memberships", "10") as simulator:
        await hosts.connect(simulator)
        simulator.control("config", {"switches": {"latency_s": 0.03}})
        keys = list(simulator.control("state?rows=contacts")["rows"]["contacts"]["versions"])[:10_000]
        ordered = await hosts.service.backfills.order("hlf", "dynamics365", Chosen(stream="contacts", keys=keys))
        kills = 3
        for n in range(1, kills + 1):
            worker = hosts.start_worker(SAMBAND_MAX_ATTEMPTS="100")

            async def has_come_far(n: int = n) -> bool:
                return (await hosts.store.feeds.run("hlf", ordered.id)).created >= 2_200 * n

            await until(has_come_far)
            hosts.kill(worker)
            assert "running" == (await hosts.store.feeds.run("hlf", ordered.id)).state
        hosts.start_worker()
        run = await hosts.ended(ordered, 120)
        assert ("succeeded", 10_000, 0, 0) == (
            run.state, run.counts.created, run.counts.updated, run.counts.deleted
        ), run  # fmt: skip
        assert sorted(keys) == await keys_of(hosts)
        query = "SELECT count(*), count(DISTINCT record_id), max(version) FROM change"
        async with hosts.store.database.read() as conn:
            assert (10_000, 10_000, 1) == tuple((await conn.execute(sa.text(query))).one())
        # A thousand ids are asked for at once, and those that are done are not asked for again: what comes again with
        # each kill is less than one such call.
        assert run.counts.unchanged <= kills * 1_000
        assert [(None, 0)] == [(row[1], row[2]) for row in await standing(hosts)]


# ── only what failed ─────────────────────────────────────────────────────────


async def test_failed_records_alone_are_read_again_and_what_is_well_now_shows(
    hosts: Hosts, simulator: Simulator
) -> None:
    await hosts.connect(simulator, page_size=100)
    strike(simulator, "bad_rows", rows=["unknown_choice", "wrong_type", "null_id"], times=1)
    first = await sync(hosts)
    failed = await hosts.service.runs.outcomes("hlf", first.id, outcome="failed", limit=500)
    keys = {o.key for o in failed.items if o.stream == "contacts" and not o.key.startswith("#")}
    assert len(keys) >= 2
    before = await standing(hosts)
    retry = await hosts.service.backfills.retry_failed("hlf", first.id)
    without = sum(o.key.startswith("#") for o in failed.items)
    assert (first.id, "retry_failed", without) == (retry.run.retry_of, retry.run.reason, retry.without_key)
    assert retry.records == len(failed.items) - without
    assert retry.run.selection is not None
    assert {"contacts": len(keys)}.items() <= {s: c.keys for s, c in retry.run.selection.items()}.items()
    run = await execute(hosts, retry.run)
    assert dict.fromkeys(keys, "created") == {k: o for k, o in (await outcomes(hosts, run)).items() if k in keys}
    # What points to them can only be told now, which the next sync does by itself.
    settled = ("name", "cursor", "generation")
    assert [row[: len(settled)] for row in before] == [row[: len(settled)] for row in await standing(hosts)]


async def test_failures_are_grouped_by_their_cause(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    strike(simulator, "bad_rows", rows=["unknown_choice"] * 7 + ["year_one", "null_id"], times=None)
    run = await sync(hosts)
    failed = (await hosts.service.runs.outcomes("hlf", run.id, outcome="failed", limit=500)).items
    causes = await hosts.service.backfills.failures("hlf", run.id)
    assert len(failed) == sum(cause.count for cause in causes)
    assert [c.count for c in causes] == sorted((c.count for c in causes), reverse=True)
    for cause in causes:
        mine = [o.key for o in failed if (o.stream, o.code, o.field) == (cause.stream, cause.code, cause.field)]
        assert (len(mine), mine[:5]) == (cause.count, cause.keys)
    assert max(len(cause.keys) for cause in causes) == 5


async def test_run_of_which_nothing_failed_has_nothing_to_retry(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    run = await sync(hosts)
    with pytest.raises(ConflictError) as caught:
        await hosts.service.backfills.retry_failed("hlf", run.id)
    assert "nothing_failed" == caught.value.code
    strike(simulator, "bad_rows", rows=["null_id"], times=1)
    keyless = await sync(hosts, full=True)
    assert 1 == keyless.counts.failed
    with pytest.raises(ConflictError, match="without an id") as caught:
        await hosts.service.backfills.retry_failed("hlf", keyless.id)


async def test_backfill_never_goes_on_beside_a_sync(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator, page_size=100)
    live = await hosts.service.trigger_sync("hlf", "dynamics365")
    with pytest.raises(AlreadyRunningError) as caught:
        await hosts.service.backfills.order("hlf", "dynamics365", Chosen(stream="contacts", keys=["a"]))
    assert live.id == caught.value.run_id
