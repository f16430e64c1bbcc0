"""The audit trail: whole under concurrency, and any change to it is found, whoever makes it."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import io
import sys
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import sqlalchemy as sa
from aiohttp.test_utils import TestClient, TestServer

from samband.acting import act_for
from samband.api import create_app
from samband.service import Service
from samband.store import Store
from samband.store.audit import HOST, record
from samband.store.models import Organization
from samband.store.outbox import emit
from samband.store.trail import Verdict, Wanted

TASKS, EACH = 20, 5
_organization: sa.Table = Organization.__table__


@pytest.fixture
async def service(store: Store) -> Service:
    """Two organisations whose chains are still empty, which those that are added in the usual way have begun."""
    async with store.database.write() as conn:
        for id in ("hlf", "nbf"):
            row = Organization(id=id, name=id, created_at=dt.datetime.now(dt.UTC))
            await conn.execute(sa.insert(_organization).values(**row.model_dump()))
    return Service(store=store, registry=cast(Any, None), bell=cast(Any, None))


@pytest.fixture
async def client(service: Service) -> AsyncIterator[TestClient[Any, Any]]:
    key = await service.ensure_admin_key()
    async with TestClient(TestServer(create_app(service)), headers={"Authorization": f"Bearer {key}"}) as running:
        yield running


async def tell(store: Store, organization: str, number: int, **detail: Any) -> None:
    with act_for(actor=f"key:{number % 3} somebody"):
        async with store.database.write() as conn:
            told = {"number": number} | detail
            await record(conn, organization, ("thing.made", "other.ended")[number % 2], f"thing/{number}", told)


async def told(store: Store, count: int = 10, organization: str = "hlf") -> list[str]:
    """Gives the hashes of a chain that this writes."""
    for number in range(1, count + 1):
        await tell(store, organization, number)
    return [e.hash for e in await store.trail.page(organization, Wanted(), after=0, limit=1000)]


async def tamper(store: Store, *statements: str) -> None:
    """Does what somebody could who owns the database: without the triggers that refuse it."""
    off = ["ALTER TABLE audit_entry DISABLE TRIGGER USER"]
    if store.database.is_sqlite:
        off = ["DROP TRIGGER audit_entry_no_update", "DROP TRIGGER audit_entry_no_delete"]
    async with store.database.write() as conn:
        for statement in (*off, *statements):
            await conn.execute(sa.text(statement))


def found(verdict: Verdict) -> tuple[str | None, int | None]:
    return verdict.flaw, verdict.flaw_seq


# ── written by many ──────────────────────────────────────────────────────────


async def test_twenty_writers_at_once_make_one_unbroken_chain(store: Store, service: Service) -> None:
    async def write(writer: int) -> None:
        for number in range(EACH):
            await tell(store, ("hlf", "nbf", HOST)[(writer + number) % 3], writer * EACH + number)

    await asyncio.gather(*(write(writer) for writer in range(TASKS)))
    verdicts = [await store.trail.verify(chain) for chain in (HOST, "hlf", "nbf")]
    assert [None] * 3 == [v.flaw for v in verdicts]
    assert TASKS * EACH == sum(v.entries for v in verdicts)


async def test_deeds_and_events_in_either_order_do_not_wait_for_each_other_for_ever(
    store: Store, service: Service
) -> None:
    async def write(number: int) -> None:
        async with store.database.write() as conn:
            if number % 2:
                await record(conn, "hlf", "thing.made", f"thing/{number}")
            data = {"run": "1", "state": "succeeded", "operation": "sync"}
            await emit(conn, "hlf", "no.samband.run.succeeded.v1", "run/1", data)
            if not number % 2:
                await record(conn, "hlf", "thing.made", f"thing/{number}")

    async with asyncio.timeout(60):
        await asyncio.gather(*(write(number) for number in range(TASKS)))
    assert (None, TASKS) == ((v := await store.trail.verify("hlf")).flaw, v.entries)


WRITER = """
import asyncio, sys
from samband.store import Store, Vault
from samband.store.audit import record

async def main(url, key, name, each):
    store = Store.open(url, vault=Vault.from_secret(key))
    for number in range(int(each)):
        async with store.database.write() as conn:
            await record(conn, "hlf", "thing.made", f"thing/{name}-{number}")
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_processes_that_write_at_once_make_one_unbroken_chain(
    store: Store, service: Service, database_url: str
) -> None:
    from ..conftest import KEY

    command = [sys.executable, "-c", WRITER, database_url, KEY]
    writers = [await asyncio.create_subprocess_exec(*command, str(name), "20") for name in range(4)]
    codes = await asyncio.wait_for(asyncio.gather(*(writer.wait() for writer in writers)), 120)
    verdict = await store.trail.verify("hlf")
    assert ([0] * 4, None, 80) == (codes, verdict.flaw, verdict.entries)


async def test_deed_that_is_rolled_back_leaves_no_entry_and_no_gap(store: Store, service: Service) -> None:
    await told(store, 2)
    async with store.database.write() as conn:
        await record(conn, "hlf", "thing.made", "thing/3")
        await conn.rollback()
    await tell(store, "hlf", 4)
    verdict = await store.trail.verify("hlf")
    assert (None, 3) == (verdict.flaw, verdict.entries)


# ── tampered with ────────────────────────────────────────────────────────────

OURS = "organization_id = 'hlf' AND seq"
FORGED = (
    "INSERT INTO audit_entry SELECT organization_id, 11, at, actor, action, subject, detail, hash, hash"
    f" FROM audit_entry WHERE {OURS} = 10"
)

FORGERIES: dict[str, tuple[list[str], str, int]] = {
    "changed actor": ([f"UPDATE audit_entry SET actor = 'nobody' WHERE {OURS} = 4"], "changed", 4),
    "changed action": ([f"UPDATE audit_entry SET action = 'x.y' WHERE {OURS} = 1"], "changed", 1),
    "changed subject": ([f"UPDATE audit_entry SET subject = 'x/y' WHERE {OURS} = 9"], "changed", 9),
    "changed detail": ([f"UPDATE audit_entry SET detail = '{{}}' WHERE {OURS} = 4"], "changed", 4),
    "detail of another kind": ([f"UPDATE audit_entry SET detail = '[1]' WHERE {OURS} = 4"], "changed", 4),
    "changed instant": (
        [f"UPDATE audit_entry SET at = (SELECT max(at) FROM audit_entry WHERE {OURS} = 10) WHERE {OURS} = 1"],
        "changed", 1,
    ),
    "changed hash": ([f"UPDATE audit_entry SET hash = previous WHERE {OURS} = 6"], "changed", 6),
    "changed link": ([f"UPDATE audit_entry SET previous = hash WHERE {OURS} = 6"], "unlinked", 6),
    "removed": ([f"DELETE FROM audit_entry WHERE {OURS} = 7"], "missing", 7),
    "removed first": ([f"DELETE FROM audit_entry WHERE {OURS} = 1"], "missing", 1),
    "removed and closed up": (
        [f"DELETE FROM audit_entry WHERE {OURS} = 10", f"UPDATE audit_entry SET seq = 10 WHERE {OURS} = 9"],
        "missing", 9,
    ),
    "closed up with link and end": (
        [
            f"UPDATE audit_entry SET previous = (SELECT hash FROM audit_entry WHERE {OURS} = 8) WHERE {OURS} = 10",
            f"DELETE FROM audit_entry WHERE {OURS} = 9",
            f"UPDATE audit_entry SET seq = 9 WHERE {OURS} = 10",
            "UPDATE audit_head SET seq = 9 WHERE organization_id = 'hlf'",
        ],
        "changed", 9,
    ),
    "swapped": (
        [
            f"UPDATE audit_entry SET seq = 100 WHERE {OURS} = 3",
            f"UPDATE audit_entry SET seq = 3 WHERE {OURS} = 4",
            f"UPDATE audit_entry SET seq = 4 WHERE {OURS} = 100",
        ],
        "unlinked", 3,
    ),
    "put in at the end": ([FORGED], "beyond_end", 11),
    "put in with the end": ([FORGED, "UPDATE audit_head SET seq = 11 WHERE organization_id = 'hlf'"], "changed", 11),
    "taken over from another chain": (
        [
            f"DELETE FROM audit_entry WHERE {OURS} = 1",
            "UPDATE audit_entry SET organization_id = 'hlf' WHERE organization_id = 'nbf' AND seq = 1",
        ],
        "changed", 1,
    ),
    "cut": ([f"DELETE FROM audit_entry WHERE {OURS} > 8"], "cut", 9),
    "all of it cut": ([f"DELETE FROM audit_entry WHERE {OURS} > 0"], "cut", 1),
    "end removed": (["DELETE FROM audit_head WHERE organization_id = 'hlf'"], "beyond_end", 1),
    "end changed": (["UPDATE audit_head SET hash = 'x' WHERE organization_id = 'hlf'"], "end_changed", 10),
    "end put back": (["UPDATE audit_head SET seq = 8 WHERE organization_id = 'hlf'"], "beyond_end", 9),
}  # fmt: skip


async def test_whatever_is_done_to_a_chain_is_found_where_it_was_done(store: Store, service: Service) -> None:
    await told(store)
    await told(store, 10, "nbf")
    assert (None, 10) == ((v := await store.trail.verify("hlf")).flaw, v.entries)
    await tamper(store)
    seen = {}
    for forgery, (statements, *_) in FORGERIES.items():
        for statement in ("DROP TABLE IF EXISTS kept_entry", "CREATE TABLE kept_entry AS SELECT * FROM audit_entry",
                          "DROP TABLE IF EXISTS kept_head", "CREATE TABLE kept_head AS SELECT * FROM audit_head"):  # fmt: skip
            await run(store, statement)
        for statement in statements:
            await run(store, statement)
        seen[forgery] = found(await store.trail.verify("hlf"))
        for table in ("entry", "head"):
            await run(store, f"DELETE FROM audit_{table}")
            await run(store, f"INSERT INTO audit_{table} SELECT * FROM kept_{table}")
    assert {forgery: (flaw, seq) for forgery, (_, flaw, seq) in FORGERIES.items()} == seen
    assert (None, None) == found(await store.trail.verify("hlf"))


async def run(store: Store, statement: str) -> None:
    async with store.database.write() as conn:
        await conn.execute(sa.text(statement))


async def test_tail_cut_together_with_the_noted_end_is_found_by_a_hash_that_was_kept(
    store: Store, service: Service
) -> None:
    hashes = await told(store)
    await tamper(
        store,
        "DELETE FROM audit_entry WHERE organization_id = 'hlf' AND seq > 6",
        f"UPDATE audit_head SET seq = 6, hash = '{hashes[5]}' WHERE organization_id = 'hlf'",
    )
    assert (None, 6) == ((v := await store.trail.verify("hlf")).flaw, v.entries), "nothing inside the database shows it"
    assert ("expected_missing", 6) == found(await store.trail.verify("hlf", expect=hashes[9]))
    kept_earlier = await store.trail.verify("hlf", expect=hashes[3])
    assert (None, 4) == (kept_earlier.flaw, kept_earlier.expected_seq)


async def test_chain_written_anew_is_found_by_a_hash_that_was_kept(store: Store, service: Service) -> None:
    hashes = await told(store)
    await tamper(store, "DELETE FROM audit_entry", "DELETE FROM audit_head")
    await told(store)
    assert None is (await store.trail.verify("hlf")).flaw
    assert ("expected_missing", 10) == found(await store.trail.verify("hlf", expect=hashes[9]))


async def test_what_cannot_even_be_read_is_found_too(store: Store, service: Service) -> None:
    if not store.database.is_sqlite:
        pytest.skip("PostgreSQL takes no such values")
    await told(store)
    await tamper(store, "UPDATE audit_entry SET at = 'yesterday' WHERE organization_id = 'hlf' AND seq = 5")
    verdict = await store.trail.verify("hlf")
    assert (("unreadable", 5), 4) == (found(verdict), verdict.entries)
    await run(store, "UPDATE audit_entry SET detail = '{' WHERE organization_id = 'hlf' AND seq = 3")
    assert ("unreadable", 3) == found(await store.trail.verify("hlf"))


async def test_entries_that_come_during_the_walk_are_no_flaw(store: Store, service: Service) -> None:
    await told(store, 3)

    async def go_on_writing() -> None:
        for number in range(60):
            await tell(store, "hlf", number)

    writing = asyncio.create_task(go_on_writing())
    flaws = []
    while not writing.done():
        flaws.append((await store.trail.verify("hlf")).flaw)
    await writing
    assert {None} == set(flaws)


async def test_chain_longer_than_one_part_is_walked_to_its_end(store: Store, service: Service) -> None:
    async with store.database.write() as conn:
        for number in range(1201):
            await record(conn, "hlf", "thing.made", f"thing/{number}")
    verdict = await store.trail.verify("hlf")
    assert (None, 1201) == (verdict.flaw, verdict.entries)
    await tamper(store, "UPDATE audit_entry SET actor = 'x' WHERE organization_id = 'hlf' AND seq = 1001")
    assert ("changed", 1001) == found(await store.trail.verify("hlf"))


async def test_empty_chain_is_whole_and_meets_no_hash(store: Store, service: Service) -> None:
    verdict = await store.trail.verify("nbf")
    assert (None, 0, "") == (verdict.flaw, verdict.entries, verdict.newest_hash)
    assert ("expected_missing", 0) == found(await store.trail.verify("nbf", expect="0" * 64))


# ── what gets in ─────────────────────────────────────────────────────────────

UNFIT: dict[str, tuple[str, str, Any]] = {
    "a long text": ("thing.made", "thing/1", {"a": "x" * 201}),
    "bytes": ("thing.made", "thing/1", {"a": b"x"}),
    "a number with a fraction": ("thing.made", "thing/1", {"a": 1.5}),
    "a huge number": ("thing.made", "thing/1", {"a": 2**60}),
    "an object": ("thing.made", "thing/1", {"a": {"b": 1}}),
    "a list of objects": ("thing.made", "thing/1", {"a": [{"b": 1}]}),
    "a list of lists": ("thing.made", "thing/1", {"a": [["b"]]}),
    "a long list": ("thing.made", "thing/1", {"a": list(range(101))}),
    "an instant": ("thing.made", "thing/1", {"a": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}),
    "a NUL": ("thing.made", "thing/1", {"a": "x\x00"}),
    "half a character": ("thing.made", "thing/1", {"a": "\ud800"}),
    "too many": ("thing.made", "thing/1", {f"a{n}": n for n in range(21)}),
    "a name that is a sentence": ("thing.made", "thing/1", {"Kari Nordmann": 1}),
    "an action that is a sentence": ("Kari did it", "thing/1", {}),
    "a subject without its kind": ("thing.made", "1", {}),
    "a subject that is too long": ("thing.made", "thing/" + "x" * 300, {}),
}


async def test_what_could_carry_a_person_or_a_secret_is_a_fault_at_once(store: Store, service: Service) -> None:
    kept: dict[str, str] = {}
    for what, (action, subject, detail) in UNFIT.items():
        try:
            async with store.database.write() as conn:
                await record(conn, "hlf", action, subject, detail)
        except ValueError as err:
            kept[what] = str(err)
    assert list(UNFIT) == list(kept)
    assert not any("Kari" in text or "xxxx" in text for text in kept.values())
    assert 0 == (await store.trail.verify("hlf")).entries


async def test_plain_details_come_back_as_they_were(store: Store, service: Service) -> None:
    detail = {
        "words": "Ørjan ☃ \n 'x'",
        "least": -(2**53),
        "truth": True,
        "nothing": None,
        "list": ["a", 1, None, False],
    }
    await tell(store, "hlf", 1, **detail)
    (entry,) = await store.trail.page("hlf", Wanted(), after=0, limit=2)
    assert {"number": 1} | detail == entry.detail
    assert None is (await store.trail.verify("hlf")).flaw


# ── read over the API ────────────────────────────────────────────────────────


async def items(client: TestClient[Any, Any], path: str, **query: str) -> list[int]:
    answer = await client.get(path, params=query)
    assert 200 == answer.status, await answer.text()
    return [entry["seq"] for entry in (await answer.json())["items"]]


async def test_entries_are_read_part_by_part_and_chosen(store: Store, client: TestClient[Any, Any]) -> None:
    await told(store, 12)
    path = "/v1/organizations/hlf/audit"
    assert [1, 2, 3, 4, 5] == await items(client, path, limit="5")
    assert [11, 12] == await items(client, path, after="10")
    assert [2, 4, 6] == await items(client, path, action="thing.made", limit="3")
    assert [1, 3, 5] == await items(client, path, action="other", limit="3")
    assert [] == await items(client, path, action="thin")
    assert [3, 6, 9, 12] == await items(client, path, actor="key:0")
    assert [3, 6, 9, 12] == await items(client, path, actor="key:0 somebody")
    assert [] == await items(client, path, actor="key")
    assert [7] == await items(client, path, subject="thing/7")
    assert 12 == len(await items(client, path, subject="thing"))
    assert [] == await items(client, path, subject="thing%")
    assert [] == await items(client, "/v1/organizations/nbf/audit")
    entries = await store.trail.page("hlf", Wanted(), after=0, limit=12)
    since, until = entries[3].at.isoformat(), entries[8].at.isoformat()
    expected = [e.seq for e in entries if entries[3].at <= e.at < entries[8].at]
    assert expected == await items(client, path, since=since, until=until)


async def test_instant_without_a_zone_is_refused_by_name(client: TestClient[Any, Any]) -> None:
    answer = await client.get("/v1/audit", params={"since": "2026-01-01T00:00:00"})
    assert (422, "since") == (answer.status, (await answer.json())["errors"][0]["field"])


async def test_walk_over_the_api_names_the_flaw_and_the_newest_hash(store: Store, client: TestClient[Any, Any]) -> None:
    hashes = await told(store)
    path = "/v1/organizations/hlf/audit/verification"
    whole = await (await client.get(path, params={"expect": hashes[4]})).json()
    assert (True, 10, hashes[-1], 5, None) == tuple(
        whole[name] for name in ("ok", "entries", "newest_hash", "expected_seq", "flaw")
    )
    await tamper(store, "DELETE FROM audit_entry WHERE organization_id = 'hlf' AND seq = 7")
    broken = await (await client.get(path)).json()
    assert (False, 6, "missing", 7) == (
        broken["ok"], broken["entries"], broken["flaw"]["code"], broken["flaw"]["seq"],
    )  # fmt: skip
    host = await (await client.get("/v1/audit/verification")).json()
    assert (True, HOST) == (host["ok"], host["organization"])


async def test_hosts_chain_is_for_keys_that_reach_everything(service: Service, client: TestClient[Any, Any]) -> None:
    for verbs, organizations in ((["read"], None), (["read", "admin"], ["hlf"])):
        key = await service.create_key("x", verbs=cast(Any, verbs), organizations=organizations)
        for path in ("/v1/audit", "/v1/audit.csv", "/v1/audit/verification"):
            assert 403 == (await client.get(path, headers={"Authorization": f"Bearer {key}"})).status


async def test_table_holds_every_entry_and_no_formula(store: Store, client: TestClient[Any, Any]) -> None:
    with act_for(actor='=HYPERLINK("http://x")'):
        async with store.database.write() as conn:
            await record(conn, "hlf", "thing.made", 'thing/a"b,c', {"text": "=1+1\nå"})
            for number in range(600):
                await record(conn, "hlf", "thing.made", f"thing/{number}")
    with act_for(actor="+47 22"):
        await tell_as_is(store)
    answer = await client.get("/v1/organizations/hlf/audit.csv")
    assert ("text/csv", 'attachment; filename="audit-hlf.csv"') == (
        answer.content_type, answer.headers["Content-Disposition"],
    )  # fmt: skip
    rows = list(csv.reader(io.StringIO(await answer.text(), newline="")))
    assert ["seq", "at", "actor", "action", "subject", "detail", "previous", "hash"] == rows[0]
    assert [str(n) for n in range(1, 603)] == [row[0] for row in rows[1:]]
    assert ('\'=HYPERLINK("http://x")', 'thing/a"b,c', '{"text":"=1+1\\nå"}') == (rows[1][2], rows[1][4], rows[1][5])
    assert "'+47 22" == rows[-1][2]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row)
    chosen = await client.get("/v1/organizations/hlf/audit.csv", params={"subject": "thing/7"})
    assert 2 == len(list(csv.reader(io.StringIO(await chosen.text()))))
    head = await client.head("/v1/organizations/hlf/audit.csv")
    assert (200, b"") == (head.status, await head.read())


async def tell_as_is(store: Store) -> None:
    async with store.database.write() as conn:
        await record(conn, "hlf", "thing.made", "thing/last")


async def test_table_of_nothing_is_its_heading(client: TestClient[Any, Any]) -> None:
    answer = await client.get("/v1/organizations/nbf/audit.csv")
    assert "seq,at,actor,action,subject,detail,previous,hash\r\n" == await answer.text()
