"""Which kept files carry an item is looked up by its key: right, and at no greater cost for more files."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from samband.contract import ExportFile
from samband.store import Store, Vault, schema
from samband.store.files import FileFacts
from samband.store.models import KeptFile, KeptFileItem

from .filing import ORG, Desk

_file: sa.Table = KeptFile.__table__
_carried: sa.Table = KeptFileItem.__table__
NOW = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
HELD, ASKED = 20_000, 200  # so many that no figures, or lack of them, make a walk through all the cheaper plan


@pytest.fixture
async def desk(store: Store) -> AsyncIterator[Desk]:
    opened = Desk(store, None)
    await opened.open()
    yield opened
    await opened.registry.close()


def key(number: int) -> str:
    return f"{number:032x}"


def row(desk: Desk, number: int, keys: Sequence[str], **values: Any) -> dict[str, Any]:
    return {
        "id": f"{number:032x}", "organization_id": ORG, "integration_id": desk.integration.id, "run_id": None,
        "name": f"{number}.csv", "profile": "machine", "media_type": "text/csv", "content": b"x", "size": 1,
        "digest": "d", "rows": 1, "keys": list(keys), "state": "delivered", "created_at": NOW, **values,
    }  # fmt: skip


async def kept(desk: Desk, name: str, *keys: str) -> FileFacts:
    file = ExportFile(name=name, media_type="text/csv", content=b"x", rows=1)
    return await desk.store.files.begin(await desk.lease(), file, digest="d", keys=keys, state="made")


async def links(store: Store) -> list[tuple[str, str]]:
    async with store.database.read() as conn:
        rows = await conn.execute(sa.select(_carried.c.key, _carried.c.file_id).order_by(*_carried.c))
        return [(found.key, found.file_id) for found in rows]


# ── right ────────────────────────────────────────────────────────────────────


async def test_file_is_found_by_each_of_its_items_and_by_no_other(desk: Desk) -> None:
    facts = await kept(desk, "one.csv", key(1), key(2))
    files, mine = desk.store.files, desk.integration.id
    assert [[facts], [facts], [facts]] == [
        await files.carrying(mine, [key(n) for n in ns]) for ns in ([1], [2], [1, 2])
    ]
    assert [[], [], []] == [
        await files.carrying(mine, [key(3)]), await files.carrying(mine, []), await files.carrying("other", [key(1)]),
    ]  # fmt: skip


async def test_file_that_names_an_item_twice_is_kept_with_both_and_found_once(desk: Desk) -> None:
    facts = await kept(desk, "one.csv", key(1), key(1))
    assert [key(1), key(1)] == facts.keys
    assert [facts] == await desk.store.files.carrying(desk.integration.id, [key(1), key(1)])


async def test_file_that_is_taken_up_again_is_found_as_before(desk: Desk) -> None:
    files = desk.store.files
    lease = await desk.lease()
    file = ExportFile(name="one.csv", media_type="text/csv", content=b"x", rows=1)
    first = await files.begin(lease, file, digest="d", keys=[key(1)], state="made")
    assert await files.give_up(first.id)
    again = await files.begin(lease, file, digest="d", keys=[key(1)], state="made")
    assert first.id == again.id
    assert [again] == await files.carrying(desk.integration.id, [key(1)])
    assert [(key(1), first.id)] == await links(desk.store)


async def test_whatever_is_asked_the_answer_is_what_reading_every_file_would_give(desk: Desk) -> None:
    made = random.Random(7)
    other = await desk.store.catalog.add_integration(ORG, "others", "Others", {})
    whose = [desk.integration.id, other.id]
    files = [
        row(desk, n, made.sample([key(k) for k in range(40)], made.randint(0, 5)), integration_id=made.choice(whose))
        for n in range(80)
    ]
    async with desk.store.database.write() as conn:
        await conn.execute(sa.insert(_file), files)
        carried = [{"key": k, "file_id": f["id"], "organization_id": ORG} for f in files for k in f["keys"]]
        await conn.execute(sa.insert(_carried), carried)
    for _ in range(30):
        integration_id, asked = made.choice(whose), made.sample([key(k) for k in range(50)], made.randint(1, 6))
        found = await desk.store.files.carrying(integration_id, asked)
        expected = [f["id"] for f in files if f["integration_id"] == integration_id and set(f["keys"]) & set(asked)]
        assert expected == [facts.id for facts in found]


async def test_links_go_with_their_file(desk: Desk) -> None:
    facts = await kept(desk, "one.csv", key(1))
    async with desk.store.database.write() as conn:
        await conn.execute(sa.delete(_file).where(_file.c.id == facts.id))
    assert [] == await links(desk.store)


async def test_files_that_were_kept_before_the_links_were_are_found_too(empty_database_url: str, vault: Vault) -> None:
    from alembic import command

    store = Store.open(empty_database_url, vault=vault)
    desk = Desk(store, None)
    try:
        async with store.database.write() as conn:
            await conn.run_sync(lambda c: command.upgrade(schema.alembic_config(c), "0004"))
        await desk.open()
        files = [row(desk, 1, [key(1), key(2), key(1)]), row(desk, 2, []), row(desk, 3, [key(2)], state="void")]
        async with store.database.write() as conn:
            await conn.execute(sa.insert(_file), files)
        assert ("0004", schema.HEAD) == await store.migrate()
        carriers = [await store.files.carrying(desk.integration.id, [key(n)]) for n in (1, 2, 3)]
    finally:
        await desk.registry.close()
        await store.close()
    assert [[key(1)], [key(1), key(3)], []] == [[facts.id for facts in found] for found in carriers]


# ── and at no greater cost ───────────────────────────────────────────────────


@pytest.mark.parametrize("is_analysed", [False, True], ids=["never-analysed", "analysed"])
async def test_files_are_found_by_key_however_many_there_are(desk: Desk, is_analysed: bool) -> None:
    """A plan that walks the files would be right and slower with every one of them, with the planner's figures or without."""
    store = desk.store
    await fill(desk)
    if is_analysed:
        async with store.database.write() as conn:
            await conn.execute(sa.text("ANALYZE"))
    statement = store.files.carrying_statement(desk.integration.id, [key(n) for n in range(7, 7 + ASKED)])
    async with store.database.write() as conn:
        found = (await conn.execute(statement)).all()
        written = str(statement.compile(conn.sync_connection, compile_kwargs={"literal_binds": True})).replace(
            ":", r"\:"
        )
        if store.database.is_sqlite:
            plan = [str(step.detail) for step in await conn.execute(sa.text(f"EXPLAIN QUERY PLAN {written}"))]
            assert ["SCAN k "] == [step[:7] for step in plan if step.startswith("SCAN")], plan  # the keys asked for
        else:
            told = await conn.scalar(sa.text(f"EXPLAIN (ANALYZE, FORMAT JSON) {written}"))
            plan = told if isinstance(told, list) else json.loads(told)
            assert 4 * ASKED >= sum(_rows_met(plan[0]["Plan"])), plan
    assert ASKED == len(found)


async def fill(desk: Desk) -> None:
    """Keeps many files with one item each."""
    async with desk.store.database.write() as conn:
        for start in range(0, HELD, 2_000):
            files = [row(desk, n, [key(n)]) for n in range(start, start + 2_000)]
            await conn.execute(sa.insert(_file), files)
            carried = [{"key": f["keys"][0], "file_id": f["id"], "organization_id": ORG} for f in files]
            await conn.execute(sa.insert(_carried), carried)


def _rows_met(node: dict[str, Any]) -> Iterator[int]:
    """Gives how many rows of a table each scan of a plan has met, those it threw away included."""
    if "Scan" in node["Node Type"] and "Relation Name" in node:
        dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        yield round((node["Actual Rows"] + dropped) * node["Actual Loops"])
    for child in node.get("Plans", ()):
        yield from _rows_met(child)
