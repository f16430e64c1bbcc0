"""What goes out by file is delivered once, or is known not to be, or is said to be uncertain."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from samband.contract import ExportFile
from samband.errors import ContractError, OutcomeUnknownError, RemoteError, RetryableError, StaleLeaseError
from samband.store import Store
from samband.twin import Doors, Twin
from samband.twin.place import trouble

from .filing import Desk, batch, item, sought


@pytest.fixture
async def desk(store: Store, tmp_path: Path) -> AsyncIterator[Desk]:
    root = tmp_path / "drop"
    root.mkdir(mode=0o750)
    opened = Desk(store, root)
    await opened.open({"kind": "folder"})
    yield opened
    await opened.close()


def delivered(desk: Desk) -> list[str]:
    return sorted(path.name for path in desk.folder.iterdir() if path.is_file()) if desk.folder.exists() else []


class Killed(BaseException):
    """What ends a worker in the middle."""


class FaultyDoors(Doors):
    """Opens the real folder, and has a worker die right before or right after one step."""

    def __init__(self, doors: Doors, step: str, when: str, error: BaseException | None = None) -> None:
        super().__init__(drop_root=doors.drop_root, egress=doors.egress, redactor=doors.redactor)
        object.__setattr__(self, "plan", (step, when, error))

    def opened(self, *given: Any, **named: Any) -> Any:
        return _Faulty(super().opened(*given, **named), *self.plan)  # type: ignore[attr-defined]


class _Faulty:
    def __init__(self, opened: Any, step: str, when: str, error: BaseException | None) -> None:
        self._opened, self._step, self._when, self._error = opened, step, when, error or Killed()

    async def __aenter__(self) -> Any:
        self._place = await self._opened.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._opened.__aexit__(*error)

    def __getattr__(self, name: str) -> Any:
        async def step(*given: Any) -> Any:
            told = f"{name} {given[0] or 'drop'}" if name == "write" else name
            if told == self._step and self._when == "before":
                raise self._error
            done = await getattr(self._place, name)(*given)
            if told == self._step and self._when == "after":
                raise self._error
            return done

        return step


async def test_file_is_delivered_whole_with_its_manifest_beside_it(desk: Desk) -> None:
    receipts = await desk.send(await desk.lease(), item(1), item(2, amount="10.00"))
    (name,) = delivered(desk)
    content = (desk.folder / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert {1: ("accepted", name), 2: ("accepted", name)} == {n: (r.state, r.reference) for n, r in receipts.items()}
    assert {digest} == {receipt.evidence["sha256"] for receipt in receipts.values()}
    assert b"00000001;7140;1234.50;Reise\n" == content.splitlines(keepends=True)[0]
    manifest = json.loads((desk.folder / "manifests" / f"{name}.json").read_bytes())
    told = {key: manifest[key] for key in ("format", "file", "sha256", "size", "rows", "debits")}
    assert {
        "format": "samband-manifest/1", "file": name, "sha256": digest, "size": len(content), "rows": 4,
        "debits": {"NOK": "1244.50"},
    } == told  # fmt: skip
    assert [{"key": f"{n:032x}", "voucher": n, "mapping_version": 1} for n in (1, 2)] == manifest["keys"]


async def test_same_batch_has_the_same_name_and_bytes_again(desk: Desk, store: Store) -> None:
    lease = await desk.lease()
    broken = Twin(store, desk.adapter, FaultyDoors(desk.doors, "rename", "before"))
    with pytest.raises(Killed):
        [_ async for _ in broken.send(desk.connection, batch(item(1)), lease=lease, route="file")]
    (part,) = delivered(desk)
    content = (desk.folder / part).read_bytes()
    assert {} == await desk.find(sought(1))
    await desk.send(lease, item(1))
    assert [part.removesuffix(".part")] == delivered(desk)
    assert content == (desk.folder / delivered(desk)[0]).read_bytes()
    assert ["delivered"] == [f.state for f in await store.files.page("nbf", integration_id=None, after=None, limit=9)]


CRASHES = {
    ("prepare", "before"): None, ("write manifests", "before"): None, ("write manifests", "after"): None,
    ("write drop", "before"): None, ("write drop", "after"): None, ("rename", "before"): None,
    ("rename", "after"): "accepted",
}  # fmt: skip


@pytest.mark.parametrize(("step", "when"), CRASHES)
async def test_worker_that_dies_at_a_step_leaves_behind_what_can_be_judged(
    desk: Desk, store: Store, step: str, when: str
) -> None:
    lease = await desk.lease()
    dying = Twin(store, desk.adapter, FaultyDoors(desk.doors, step, when))
    with pytest.raises(Killed):
        [_ async for _ in dying.send(desk.connection, batch(item(1), item(2)), lease=lease, route="file")]
    found = await desk.find(sought(1), sought(2))
    expected = CRASHES[step, when]
    assert ({} if expected is None else {1: expected, 2: expected}) == {n: r.state for n, r in found.items()}
    assert found.keys() == (await desk.find(sought(1), sought(2))).keys()
    if expected is None:
        assert [] == delivered(desk)
        await desk.send(lease, item(1), item(2))
    assert 1 == len(delivered(desk))


async def test_file_that_was_released_and_is_nowhere_stays_unknown_for_ever(desk: Desk, store: Store) -> None:
    dying = Twin(store, desk.adapter, FaultyDoors(desk.doors, "rename", "after"))
    with pytest.raises(Killed):
        [_ async for _ in dying.send(desk.connection, batch(item(1)), lease=await desk.lease(), route="file")]
    (desk.folder / delivered(desk)[0]).unlink()
    assert ["unknown", "unknown"] == [(await desk.find(sought(1)))[1].state for _ in range(2)]


async def test_file_that_the_other_side_has_archived_was_delivered(desk: Desk, store: Store) -> None:
    dying = Twin(store, desk.adapter, FaultyDoors(desk.doors, "rename", "after"))
    with pytest.raises(Killed):
        [_ async for _ in dying.send(desk.connection, batch(item(1)), lease=await desk.lease(), route="file")]
    (name,) = delivered(desk)
    (desk.folder / name).rename(desk.folder / "archive" / name)
    assert ("accepted", name) == ((r := (await desk.find(sought(1)))[1]).state, r.reference)


async def test_delivered_file_that_was_taken_is_accepted_still(desk: Desk) -> None:
    await desk.send(await desk.lease(), item(1))
    (desk.folder / delivered(desk)[0]).unlink()
    assert "accepted" == (await desk.find(sought(1, "accepted")))[1].state


async def test_paused_worker_can_not_release_a_file_that_was_given_up(desk: Desk, store: Store) -> None:
    """It is paused right before the name; meanwhile another worker has looked, and found nothing delivered."""
    lease = await desk.lease()
    paused, go_on = asyncio.Event(), asyncio.Event()

    class Paused(FaultyDoors):
        def opened(self, *given: Any, **named: Any) -> Any:
            return _Pausing(Doors.opened(self, *given, **named), paused, go_on)

    slow = Twin(store, desk.adapter, Paused(desk.doors, "", ""))

    async def send() -> None:
        async for _ in slow.send(desk.connection, batch(item(1)), lease=lease, route="file"):
            pass

    sending = asyncio.create_task(send())
    await asyncio.wait_for(paused.wait(), 20)
    assert {} == await desk.find(sought(1))
    go_on.set()
    with pytest.raises(OutcomeUnknownError):
        await sending
    assert [] == delivered(desk)
    assert {} == await desk.find(sought(1))


class _Pausing(_Faulty):
    def __init__(self, opened: Any, paused: asyncio.Event, go_on: asyncio.Event) -> None:
        super().__init__(opened, "", "", None)
        self._paused, self._go_on = paused, go_on

    def __getattr__(self, name: str) -> Any:
        async def step(*given: Any) -> Any:
            if name == "rename":
                self._paused.set()
                await self._go_on.wait()
            return await getattr(self._place, name)(*given)

        return step


async def test_worker_that_lost_its_run_delivers_nothing(desk: Desk, store: Store) -> None:
    lease = await desk.lease()
    await store.runs.release(lease)
    assert await store.runs.claim(lease.run_id, "two", 30.0) is not None
    with pytest.raises(StaleLeaseError):
        await desk.send(lease, item(1))
    assert not desk.folder.exists() or [] == delivered(desk)


async def test_trouble_before_the_name_means_that_nothing_was_sent(desk: Desk, store: Store) -> None:
    lease = await desk.lease()
    for step in ("prepare", "write manifests", "write drop"):
        full = Twin(store, desk.adapter, FaultyDoors(desk.doors, step, "before", trouble("No room.", code="drop_full")))
        with pytest.raises(RetryableError):
            [_ async for _ in full.send(desk.connection, batch(item(1)), lease=lease, route="file")]
    assert {} == await desk.find(sought(1))


@pytest.mark.parametrize(("when", "expected"), [("before", None), ("after", "accepted")])
async def test_no_answer_to_the_name_is_an_outcome_that_is_looked_up(
    desk: Desk, store: Store, when: str, expected: str | None
) -> None:
    lost = Twin(store, desk.adapter, FaultyDoors(desk.doors, "rename", when, trouble("Gone.")))
    with pytest.raises(OutcomeUnknownError):
        [_ async for _ in lost.send(desk.connection, batch(item(1)), lease=await desk.lease(), route="file")]
    found = await desk.find(sought(1))
    assert ([] if expected is None else [expected]) == [receipt.state for receipt in found.values()]


async def test_drop_point_that_cannot_be_looked_at_settles_nothing(desk: Desk, store: Store) -> None:
    dying = Twin(store, desk.adapter, FaultyDoors(desk.doors, "rename", "before"))
    with pytest.raises(Killed):
        [_ async for _ in dying.send(desk.connection, batch(item(1)), lease=await desk.lease(), route="file")]
    assert desk.root is not None
    desk.root.rename(desk.root.with_name("away"))
    with pytest.raises(RetryableError):
        await desk.find(sought(1))
    desk.root.with_name("away").rename(desk.root)
    assert {} == await desk.find(sought(1))


async def test_large_batch_becomes_several_files_and_no_voucher_is_split(desk: Desk, store: Store) -> None:
    items = [item(n) for n in range(1, 11)]
    small = Twin(store, desk.adapter, desk.doors, max_bytes=200)
    lease = await desk.lease()
    receipts = [r async for r in small.send(desk.connection, batch(*items), lease=lease, route="file")]
    assert {item.key for item in items} == {receipt.key for receipt in receipts}
    lines = [(desk.folder / name).read_text().splitlines() for name in delivered(desk)]
    assert all(len("".join(part)) <= 200 for part in lines)
    numbers = [{line.split(";")[0] for line in part} for part in lines]
    assert 10 == sum(map(len, numbers))
    assert len(numbers) > 3
    assert 20 == sum(map(len, lines))


async def test_item_that_cannot_be_written_is_rejected_and_the_others_go_out(desk: Desk) -> None:
    receipts = await desk.send(await desk.lease(), item(1), item(2, "unwritable"), item(3))
    assert {1: "accepted", 2: "rejected", 3: "accepted"} == {n: r.state for n, r in receipts.items()}
    assert ("unwritable", "text") == (receipts[2].code, receipts[2].field)
    assert "00000002" not in (desk.folder / delivered(desk)[0]).read_text()


async def test_voucher_too_large_for_a_file_is_rejected(desk: Desk, store: Store) -> None:
    tiny = Twin(store, desk.adapter, desk.doors, max_bytes=10)
    lease = await desk.lease()
    receipts = [r async for r in tiny.send(desk.connection, batch(item(1)), lease=lease, route="file")]
    assert [("rejected", "voucher_too_large")] == [(r.state, r.code) for r in receipts]


async def test_file_for_download_is_kept_and_put_nowhere(desk: Desk, store: Store) -> None:
    receipts = await desk.send(await desk.lease(), item(1), route="download")
    (kept,) = await store.files.page("nbf", integration_id=None, after=None, limit=9)
    assert ("accepted", kept.name, "ready") == (receipts[1].state, receipts[1].reference, kept.state)
    assert not desk.folder.exists()
    assert receipts == await desk.find(sought(1))


async def test_what_was_never_made_is_certainly_not_there(desk: Desk) -> None:
    assert {} == await desk.find(sought(1))


async def test_report_in_the_drop_point_settles_items_one_by_one(desk: Desk, store: Store) -> None:
    await desk.send(await desk.lease(), item(1), item(2), item(3))
    reports = desk.folder / "acknowledged"
    (reports / "one.txt").write_text(f"{1:032x};posted;1041\n{2:032x};rejected;Unknown account\n{9:032x};posted;7\n")
    (reports / "not a report.bin").write_bytes(b"\x00\x01 nonsense")
    (reports / "large.txt").write_bytes(b"x" * (1024 * 1024 + 1))
    found = await desk.find(*(sought(n, "accepted") for n in (1, 2, 3)))
    assert {1: "posted", 2: "rejected", 3: "accepted"} == {n: r.state for n, r in found.items()}
    assert ("1041", "one.txt") == (found[1].reference, found[1].evidence["report"])
    assert "Unknown account" == found[2].message
    (kept,) = await store.files.page("nbf", integration_id=None, after=None, limit=9)
    assert "acknowledged" == kept.state


async def test_report_in_the_drop_point_that_has_lost_the_keys_settles_by_number(desk: Desk) -> None:
    await desk.add_items(1, 2, 3)
    receipts = await desk.send(await desk.lease(), item(1), item(2))
    name = receipts[1].reference
    folder = desk.folder / "acknowledged"
    (folder / "a.txt").write_text(f"1@{name};posted;1041\n2@theirs.csv;posted;1042\n3@{name};posted;1043\n")
    (folder / f"{name}").write_text("2;rejected;Unknown account\n")
    found = await desk.find(*(sought(n, "accepted", name) for n in (1, 2, 3)))
    assert {1: ("posted", "1041"), 2: ("rejected", name), 3: ("accepted", name)} == {
        n: (receipt.state, receipt.reference) for n, receipt in found.items()
    }
    assert "voucher number 1" == found[1].evidence["matched by"]


async def test_report_proves_delivery_of_a_file_that_is_nowhere(desk: Desk, store: Store) -> None:
    dying = Twin(store, desk.adapter, FaultyDoors(desk.doors, "rename", "after"))
    with pytest.raises(Killed):
        [_ async for _ in dying.send(desk.connection, batch(item(1)), lease=await desk.lease(), route="file")]
    (desk.folder / delivered(desk)[0]).unlink()
    (desk.folder / "acknowledged" / "one.txt").write_text(f"{1:032x};posted;1041\n")
    assert "posted" == (await desk.find(sought(1)))[1].state


async def test_name_that_lies_there_already_is_refused_before_anything_is_sent(desk: Desk, store: Store) -> None:
    lease = await desk.lease()
    file = await desk.adapter.render(desk.connection, batch(item(1)), "machine")
    desk.books.gives = file
    desk.folder.mkdir(parents=True)
    (desk.folder / file.name).write_text("somebody else's")
    with pytest.raises(RetryableError, match="same name"):
        await desk.send(lease, item(1))
    assert {} == await desk.find(sought(1))
    assert "somebody else's" == (desk.folder / file.name).read_text()


async def test_two_batches_never_share_a_name(desk: Desk) -> None:
    lease = await desk.lease()
    desk.books.gives = ExportFile(name="always.csv", media_type="text/csv", content=b"x", rows=1)
    await desk.send(lease, item(1))
    with pytest.raises(RemoteError) as refused:
        await desk.send(lease, item(2))
    assert "file_name_taken" == refused.value.code
    assert {} == await desk.find(sought(2))


async def test_hook_that_writes_files_reaches_nobody(desk: Desk) -> None:
    desk.books.calls_out = True
    with pytest.raises(RemoteError) as refused:
        await desk.send(await desk.lease(), item(1))
    assert "file_hook_calls_nobody" == refused.value.code


@pytest.mark.parametrize(
    "name", ["../x.csv", "/x.csv", "x/y.csv", ".hidden", "=x.csv", "x\r.csv", "", "x.part", "a" * 121]
)
async def test_unsafe_file_name_is_a_broken_promise(desk: Desk, name: str) -> None:
    desk.books.gives = ExportFile(name=name, media_type="text/csv", content=b"x", rows=1)
    with pytest.raises(ContractError):
        await desk.send(await desk.lease(), item(1))


async def test_content_is_sealed_in_the_database(desk: Desk, store: Store) -> None:
    import sqlalchemy as sa

    await desk.send(await desk.lease(), item(1, "Kari Nordmann"))
    async with store.database.read() as conn:
        sealed = bytes(await conn.scalar(sa.text("SELECT content FROM kept_file")))
    assert b"Kari" not in sealed
    (kept,) = await store.files.page("nbf", integration_id=None, after=None, limit=9)
    assert b"Kari Nordmann" in await store.files.content(kept)


async def test_organizations_have_folders_of_their_own_below_the_root(desk: Desk) -> None:
    await desk.set_drop({"kind": "folder", "path": "inn/xledger"})
    await desk.send(await desk.lease(), item(1))
    assert 1 == len([path for path in (desk.folder / "inn" / "xledger").iterdir() if path.is_file()])


@pytest.mark.parametrize("level", ["nbf", "nbf/books", "nbf/books/inn"])
async def test_link_on_the_way_is_not_followed(desk: Desk, tmp_path: Path, level: str) -> None:
    assert desk.root is not None
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "books" / "inn").mkdir(parents=True)
    link = desk.root / level
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    await desk.set_drop({"kind": "folder", "path": "inn"})
    with pytest.raises(RetryableError) as refused:
        await desk.send(await desk.lease(), item(1))
    assert "drop_link" == refused.value.code
    assert [] == [path for path in elsewhere.rglob("*") if path.is_file()]


async def test_link_in_place_of_a_report_is_not_read(desk: Desk, tmp_path: Path) -> None:
    await desk.send(await desk.lease(), item(1))
    secret = tmp_path / "report"
    secret.write_text(f"{1:032x};posted;1041\n")
    (desk.folder / "acknowledged" / "report.txt").symlink_to(secret)
    assert "accepted" == (await desk.find(sought(1, "accepted")))[1].state


async def test_without_a_drop_root_nothing_is_put_anywhere(store: Store) -> None:
    rootless = Desk(store, None)
    await rootless.open({"kind": "folder"})
    with pytest.raises(RetryableError) as refused:
        await rootless.send(await rootless.lease(), item(1))
    await rootless.close()
    assert "drop_root_missing" == refused.value.code


async def test_files_are_as_open_as_the_root(desk: Desk) -> None:
    await desk.send(await desk.lease(), item(1))
    (name,) = delivered(desk)
    assert (0o640, 0o750) == ((desk.folder / name).stat().st_mode & 0o777, desk.folder.stat().st_mode & 0o777)
