"""A page is taken in whole, in one transaction: records, bindings, changes, outcomes, cursor and event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from samband import Page, Record, Stream
from samband.errors import AlreadyRunningError, StaleLeaseError
from samband.kinds import MEMBER, MEMBERSHIP
from samband.rules.intake import StreamPlan, convert_page, page_keys, take_in
from samband.store import Lease, PageCommit, Store, StreamPosition

CONTACTS = StreamPlan.build(
    stream=Stream(name="contacts", kind="member", title="Contacts"), kind=MEMBER, settings=None, digest="d1",
    declared=("plain", "personal", "special"),
)  # fmt: skip
BELONGINGS = StreamPlan.build(
    stream=Stream(name="belongings", kind="membership", title="Belongings", references={"member": "contacts"}),
    kind=MEMBERSHIP, settings=None, digest="d1", declared=("plain", "personal", "special"),
)  # fmt: skip


def person(key: str, version: str = "1", **values: Any) -> Record:
    return Record(key=key, version=version, values={"status": "active", "first_name": key.upper(), **values})


class Sync:
    """Plays one run against the store, page by page."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self.store, self.lease = store, lease
        self.position: StreamPosition | None = None

    async def begin(
        self, plan: StreamPlan = CONTACTS, *, digest: str = "d1", incremental: bool = True
    ) -> StreamPosition:
        self.plan = plan
        self.position = await self.store.streams.begin(
            self.lease, name=plan.stream.name, kind=plan.kind.name, digest=digest, incremental=incremental,
            reference_kinds=["member"] if plan.stream.references else [],
        )  # fmt: skip
        return self.position

    async def page(
        self, records: Sequence[Record] = (), deleted: Sequence[str] = (), cursor: str | None = None,
        complete: bool = False,
    ) -> dict[str, int]:  # fmt: skip
        assert self.position is not None
        page = Page(records=records, deleted=deleted, cursor=cursor, complete=complete)
        known = await self.store.pages.known("hlf", self.position, page_keys(page))
        converted = convert_page(page, known, self.plan)
        references = {}
        ids = await self.store.streams.ids(self.lease.integration_id)
        for field, stream in self.plan.stream.references.items():
            references[field] = await self.store.pages.resolve(ids[stream], converted.reference_keys(field))
        intake = take_in(converted, page, known, references)
        return await self.store.pages.commit(
            self.lease,
            self.position,
            PageCommit(intake=intake, cursor=cursor, complete=complete, advances=complete or cursor is not None),
        )


async def start(store: Store, *, full: bool = False, streams: Sequence[str] = ("contacts",)) -> Sync:
    integrations = await store.catalog.integrations("hlf")
    if not integrations:
        await store.catalog.add_organization("hlf", "HLF")
        integrations = [await store.catalog.add_integration("hlf", "crm", "CRM", {})]
    run = await store.runs.order(
        integration=integrations[0], plugin_version="1", operation="sync", streams=streams, full=full, reason="test",
        requested_by="test",
    )  # fmt: skip
    lease = await store.runs.claim(run.id, "worker", 30)
    assert lease is not None
    return Sync(store, lease)


async def rows(store: Store, query: str) -> list[tuple[Any, ...]]:
    async with store.database.read() as conn:
        return [tuple(r) for r in await conn.execute(sa.text(query))]


def only(counts: dict[str, int]) -> dict[str, int]:
    return {k: v for k, v in counts.items() if v}


async def test_new_records_get_version_one_and_gapless_change_numbers(store: Store) -> None:
    sync = await start(store)
    await sync.begin()
    assert {"created": 2} == only(await sync.page([person("a"), person("b")], cursor="c1"))
    assert {"created": 1} == only(await sync.page([person("c")], cursor="c2", complete=True))
    assert [(1, 1, "created", 1), (2, 2, "created", 1), (3, 3, "created", 1)] == await rows(
        store, "SELECT seq, record_id, op, version FROM change ORDER BY seq"
    )
    assert "succeeded" == await store.runs.succeed(sync.lease)


async def test_same_version_is_unchanged_and_same_values_are_unchanged(store: Store) -> None:
    sync = await start(store)
    await sync.begin()
    await sync.page([person("a"), person("b"), person("c")], cursor="c1", complete=True)
    await store.runs.succeed(sync.lease)
    sync = await start(store)
    position = await sync.begin()
    assert "c1" == position.cursor
    assert not position.reading_full
    counts = await sync.page(
        [person("a"), person("b", "2"), person("c", "2", last_name="New")], cursor="c2", complete=True
    )
    assert {"unchanged": 2, "updated": 1} == only(counts)
    assert [(3, "updated", 2)] == await rows(store, "SELECT record_id, op, version FROM change WHERE seq > 3")


async def test_deletion_empties_the_record_and_an_unknown_key_does_no_harm(store: Store) -> None:
    sync = await start(store)
    await sync.begin()
    await sync.page([person("a"), person("b")], cursor="c1")
    assert {"deleted": 1, "skipped": 1} == only(await sync.page(deleted=["a", "never"], cursor="c2", complete=True))
    record = await store.feeds.record("hlf", "member", 1)
    assert (True, 2, {}) == (record.deleted, record.version, record.body)
    assert [r.id for r in await store.feeds.records("hlf", "member", after=0, limit=9, include_deleted=False)] == [2]


async def test_returning_record_keeps_its_number_and_goes_on_with_its_version(store: Store) -> None:
    sync = await start(store)
    await sync.begin()
    await sync.page([person("a")], cursor="c1")
    await sync.page(deleted=["a"], cursor="c2")
    assert {"created": 1} == only(await sync.page([person("a")], cursor="c3", complete=True))
    assert [("created", 1), ("deleted", 2), ("created", 3)] == await rows(
        store, "SELECT op, version FROM change ORDER BY seq"
    )
    assert 1 == (await store.feeds.streams(sync.lease.integration_id))[0].held


async def test_full_read_deletes_what_it_did_not_see_and_only_at_its_end(store: Store) -> None:
    sync = await start(store)
    await sync.begin()
    await sync.page([person(k) for k in "abcd"], cursor="c1", complete=True)
    await store.runs.succeed(sync.lease)
    sync = await start(store, full=True)
    position = await sync.begin()
    assert position.cursor is None
    assert position.reading_full
    assert {"unchanged": 1} == only(await sync.page([person("a")], cursor="c2"))
    # "b" is there but cannot be taken in: it must not be deleted for that.
    counts = await sync.page([person("b", "2", birth_date="0001-01-01")], cursor="c3", complete=True)
    assert {"failed": 1, "deleted": 2} == only(counts)
    assert [(3, "deleted", 2), (4, "deleted", 2)] == await rows(
        store, "SELECT record_id, op, version FROM change WHERE seq > 4 ORDER BY seq"
    )
    held = [r.id for r in await store.feeds.records("hlf", "member", after=0, limit=9, include_deleted=False)]
    assert [1, 2] == held


async def test_stale_worker_writes_nothing(store: Store) -> None:
    sync = await start(store)
    await sync.begin()
    await sync.page([person("a")], cursor="c1")
    await store.runs.free_leases_of("worker")
    other = await store.runs.claim(sync.lease.run_id, "other", 30)
    assert other is not None
    with pytest.raises(StaleLeaseError):
        await sync.page([person("b")], cursor="c2")
    with pytest.raises(StaleLeaseError):
        await store.runs.renew(sync.lease, 30)
    with pytest.raises(StaleLeaseError):
        await store.runs.succeed(sync.lease)
    assert [(1,)] == await rows(store, "SELECT count(*) FROM record")


async def test_run_resumes_at_the_last_committed_cursor(store: Store) -> None:
    sync = await start(store)
    await sync.begin()
    await sync.page([person("a")], cursor="c1")
    await store.runs.release(sync.lease)
    lease = await store.runs.claim(sync.lease.run_id, "other", 30)
    assert lease is not None
    resumed = Sync(store, lease)
    position = await resumed.begin()
    assert ("c1", True) == (position.cursor, position.reading_full)
    await resumed.page([person("b")], cursor="c2", complete=True)
    assert (await resumed.begin()).is_done


async def test_changed_settings_make_the_cursor_worthless(store: Store) -> None:
    sync = await start(store)
    await sync.begin()
    await sync.page([person("a")], cursor="c1", complete=True)
    await store.runs.succeed(sync.lease)
    sync = await start(store)
    position = await sync.begin(digest="d2")
    assert position.cursor is None
    assert position.reading_full
    assert "settings" in (position.note or "")


async def test_reference_becomes_our_record_id_and_an_unknown_one_an_outcome(store: Store) -> None:
    sync = await start(store, streams=("contacts", "belongings"))
    await sync.begin()
    await sync.page([person("a")], cursor="c1", complete=True)
    await sync.begin(BELONGINGS)
    counts = await sync.page(
        [
            Record(key="m1", values={"member": "a", "status": "active"}),
            Record(key="m2", values={"member": "nobody", "status": "active"}),
        ],
        cursor="c9",
        complete=True,
    )
    assert {"created": 1, "failed": 1} == only(counts)
    assert 1 == (await store.feeds.record("hlf", "membership", 2)).body["member"]
    run = await store.feeds.run("hlf", sync.lease.run_id)
    (outcome,), _ = await store.feeds.outcomes(run, outcome="failed", after=0, limit=10)
    assert ("m2", "unknown_reference", "member") == (outcome.key, outcome.code, outcome.field)
    assert "partial" == await store.runs.succeed(sync.lease)


async def test_outcomes_of_a_run_are_listed_page_by_page(store: Store) -> None:
    sync = await start(store)
    await sync.begin()
    await sync.page([person("a"), person("b"), Record(key=None, values={})], cursor="c1")
    await sync.page([person("c"), person("c", "2")], deleted=["a"], cursor="c2", complete=True)
    run = await store.feeds.run("hlf", sync.lease.run_id)
    seen, after, has_more = [], 0, True
    while has_more:
        part, has_more = await store.feeds.outcomes(run, outcome=None, after=after, limit=2)
        seen += [(o.key, o.outcome, o.code) for o in part]
        after = part[-1].position
    expected = [
        ("a", "created", None), ("b", "created", None), ("#2", "failed", "missing_key"),
        ("c", "created", None), ("a", "deleted", None), ("c", "skipped", "duplicate"),
    ]  # fmt: skip
    assert expected == seen


async def test_second_live_run_is_refused_and_names_the_first(store: Store) -> None:
    sync = await start(store)
    with pytest.raises(AlreadyRunningError) as caught:
        await start(store)
    assert sync.lease.run_id == caught.value.run_id


async def test_each_page_with_changes_leaves_one_event_with_ids_only(store: Store) -> None:
    sync = await start(store)
    await sync.begin()
    await sync.page([person("a", first_name="Hemmelig")], cursor="c1")
    await sync.page([person("a", first_name="Hemmelig")], cursor="c2", complete=True)
    await store.runs.succeed(sync.lease)
    events = await rows(store, "SELECT type, data FROM outbox ORDER BY id")
    assert ["no.samband.records.changed.v1", "no.samband.run.succeeded.v1"] == [e[0] for e in events]
    assert "Hemmelig" not in str(events)


async def test_database_error_never_quotes_a_members_data(store: Store) -> None:
    async with store.database.write() as conn:
        with pytest.raises(sa.exc.DBAPIError) as caught:
            await conn.execute(sa.text("INSERT INTO no_such_table VALUES (:name)"), {"name": "Kari Hemmelig"})
        assert "Hemmelig" not in str(caught.value)
        await conn.rollback()


async def test_page_that_would_be_read_again_is_no_progress(store: Store) -> None:
    sync = await start(store)
    await sync.begin()
    await sync.page([person("a")])
    assert 1 == (await store.feeds.run("hlf", sync.lease.run_id)).attempt
    await sync.page([person("b")], cursor="c1")
    assert 0 == (await store.feeds.run("hlf", sync.lease.run_id)).attempt
    await store.runs.release(sync.lease)
    assert 0 == (await store.feeds.run("hlf", sync.lease.run_id)).attempt


async def test_record_that_came_before_what_it_points_to_is_taken_in_later(store: Store) -> None:
    membership = Record(key="m1", version="1", values={"member": "late", "status": "active"})
    both = ("contacts", "belongings")
    sync = await start(store, streams=both)
    await sync.begin()
    await sync.page([person("a")], cursor="c1", complete=True)
    await sync.begin(BELONGINGS)
    assert {"failed": 1} == only(await sync.page([membership], cursor="b1", complete=True))
    await store.runs.succeed(sync.lease)

    # Nothing has arrived: only what changed is read, and the membership is not among it.
    sync = await start(store, streams=both)
    await sync.begin()
    await sync.page([], cursor="c2", complete=True)
    assert "b1" == (await sync.begin(BELONGINGS)).cursor
    await sync.page([], cursor="b2", complete=True)
    await store.runs.succeed(sync.lease)

    # The contact arrives. The membership has not changed, so only a full read brings it.
    sync = await start(store, streams=both)
    await sync.begin()
    await sync.page([person("late")], cursor="c3", complete=True)
    position = await sync.begin(BELONGINGS)
    assert position.reading_full
    assert "has arrived" in (position.note or "")
    assert {"created": 1} == only(await sync.page([membership], cursor="b3", complete=True))
    await store.runs.succeed(sync.lease)

    sync = await start(store, streams=both)
    await sync.begin()
    await sync.page([person("another")], cursor="c4", complete=True)
    assert not (await sync.begin(BELONGINGS)).reading_full
