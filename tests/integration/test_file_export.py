"""From an order to a file and back: the file twin in the export flow, with an API that is away and comes back."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from samband import Batch, ExportFile, Manifest, OutcomeUnknownError, Receipt, RetryableError, Route, Stream, hookimpl
from samband.adapters.registry import Registry
from samband.flow import Flow, FlowSettings
from samband.service import Service
from samband.store import Store
from samband.store.models import Run
from samband.twin import Doors

from .filing import ORG, PLUGIN, STREAM, Books, Credentials, Settings
from .playing import SilentBell

_run: sa.Table = Run.__table__


class Choosy(Books):
    """Goes by its API when that is there, else by file; keeps a list of what its API was given."""

    manifest = Manifest(
        name=PLUGIN, title="Books", version="1.0", settings=Settings, credentials=Credentials,
        streams=(Stream(name=STREAM, kind="reimbursement", title="Vouchers", direction="push"),),
        capabilities=frozenset({"export", "find_exported", "render", "acknowledge", "choose_route"}),
        field_classes=frozenset({"plain", "personal"}),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.is_away = True
        self.is_silent = self.is_lost = self.is_mute = False
        self.taken: list[str] = []

    @hookimpl
    async def choose_route(self, ctx: Any, avoided: Any) -> Route:
        return Route(name="file", reasons={"api": "It is away."}) if self.is_away else Route(name="api")

    @hookimpl
    async def export(self, ctx: Any, batch: Batch) -> AsyncIterator[Receipt]:
        if self.is_away:
            raise RetryableError("Away.")
        for item in batch.items:
            if not self.is_lost:
                self.taken.append(item.key)
            if self.is_silent:
                raise OutcomeUnknownError("No answer.")
            yield Receipt(key=item.key, state="accepted", reference="V-1")

    @hookimpl
    async def find_exported(self, ctx: Any, keys: Any, sought: Any) -> AsyncIterator[Receipt]:
        if self.is_mute:
            raise RetryableError("Nobody can be asked.")
        for key in keys:
            if key in self.taken:
                yield Receipt(key=key, state="accepted", reference="V-1")

    @hookimpl
    async def render(self, ctx: Any, batch: Batch, profile: str) -> ExportFile:
        content = "".join(f"{item.key};{item.values['payee']['id']}\n" for item in batch.items).encode()
        return ExportFile(name=f"gl-{batch.id}.csv", media_type="text/csv", content=content, rows=len(batch.items))


class Works:
    """A service and a worker around the plugin."""

    def __init__(self, store: Store, root: Path) -> None:
        self.store, self.root, self.plugin = store, root, Choosy()
        self.registry = Registry()
        self.registry.add(self.plugin, name=PLUGIN, distribution="samband-books", version="1.0")
        self.service = Service(store=store, registry=self.registry, bell=SilentBell(), drop_root=root)
        self.flow = Flow(
            store=store, registry=self.registry, settings=FlowSettings(owner="one", settle_after_s=0.01),
            doors=Doors(drop_root=root),
        )  # fmt: skip

    async def open(self) -> None:
        await self.service.organizations.create(ORG, "NBF")
        await self.service.integrations.create(ORG, PLUGIN, settings={}, credentials={})
        assert (await self.service.integrations.test(ORG, PLUGIN)).ok
        await self.service.integrations.enable(ORG, PLUGIN)
        await self.service.files.put_drop(ORG, PLUGIN, {"kind": "folder"})

    async def put(self, *ids: str) -> None:
        for id in ids:
            claim = {
                "payee": {"id": f"p-{id}"}, "currency": "NOK", "status": "approved",
                "lines": [{"expense_type": "toll", "amount": "10.00", "date": "2026-03-01"}],
            }  # fmt: skip
            await self.service.reimbursements.put(ORG, id, claim)

    async def export(self, **order: Any) -> str:
        """Orders an export, and has it carried out; gives the state it ended in, or ``none`` without a run."""
        ordered = await self.service.exports.order(ORG, **order)
        if ordered.run is None:
            return "none"
        await self.flow.execute(ordered.run.id)
        return (await self.service.runs.get(ORG, ordered.run.id)).state

    async def work(self) -> None:
        """Has every run carried out that is open, whenever it is due."""
        async with self.store.database.write() as conn:
            await conn.execute(sa.update(_run).values(available_at=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)))
            open_ = list(await conn.scalars(sa.select(_run.c.id).where(_run.c.state.in_(("queued", "waiting")))))
        for run in open_:
            await self.flow.execute(run)

    async def states(self) -> dict[str, tuple[str, str | None]]:
        page = await self.service.exports.items(ORG, limit=500)
        return {item.reimbursement: (item.state, item.reference) for item in page.items}

    def files(self) -> list[str]:
        folder = self.root / ORG / PLUGIN
        return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.exists() else []


@pytest.fixture
async def works(store: Store, tmp_path: Path) -> AsyncIterator[Works]:
    root = tmp_path / "drop"
    root.mkdir()
    opened = Works(store, root)
    await opened.open()
    yield opened
    await opened.registry.close()


async def test_what_went_out_by_file_is_not_sent_again_when_the_api_returns(works: Works) -> None:
    await works.put("c-1", "c-2")
    assert "succeeded" == await works.export()
    (name,) = works.files()
    assert {"c-1": ("accepted", name), "c-2": ("accepted", name)} == await works.states()
    works.plugin.is_away = False
    await works.put("c-3")
    assert "succeeded" == await works.export()
    assert [name] == works.files()
    assert 1 == len(works.plugin.taken)
    assert ("accepted", "V-1") == (await works.states())["c-3"]


async def test_report_in_the_drop_folder_closes_the_loop(works: Works) -> None:
    await works.put("c-1")
    await works.export()
    (item,) = (await works.service.exports.items(ORG)).items
    told = await works.service.files.acknowledge(ORG, PLUGIN, "one.txt", f"{item.key};posted;1041\n".encode())
    assert (1, {"c-1": ("posted", "1041")}) == (told.settled, await works.states())
    assert "none" == await works.export()


async def test_download_is_a_run_that_tells_its_format(works: Works) -> None:
    await works.put("c-1")
    ordered = await works.service.exports.order(ORG, route="download")
    assert ordered.run is not None
    await works.flow.execute(ordered.run.id)
    run = await works.service.runs.get(ORG, ordered.run.id)
    assert "succeeded" == run.state
    assert any("text/csv" in note and "ready to be fetched" in note for note in run.notes)
    (kept,) = (await works.service.files.page(ORG)).items
    assert (run.id, "ready", []) == (kept.run, kept.state, works.files())
    assert "none" == await works.export()


@pytest.mark.parametrize("route", ["file", "download"])
@pytest.mark.parametrize("has_arrived", [True, False])
async def test_what_is_uncertain_elsewhere_never_goes_out_by_file(works: Works, route: Any, has_arrived: bool) -> None:
    plugin = works.plugin
    plugin.is_away, plugin.is_silent, plugin.is_lost, plugin.is_mute = False, True, not has_arrived, True
    await works.put("c-1")
    await works.export()
    assert "unknown" == (await works.states())["c-1"][0]
    # Neither by name, nor with everything that is open, nor beside another claim that does go out by file.
    named = await works.service.exports.order(ORG, ids=["c-1"], route=route)
    assert ([], ["outcome_unknown"]) == (named.reserved, [skipped.reason for skipped in named.skipped])
    plugin.is_away = True
    await works.put("c-2")
    ordered = await works.service.exports.order(ORG, route=route)
    assert ["c-2"] == ordered.reserved
    # It is asked for again, and when it is known not to have arrived it goes the way it went before, or waits.
    plugin.is_mute = plugin.is_silent = False
    await asyncio.sleep(0.05)
    await works.work()
    keys = {item.reimbursement: item.key for item in (await works.service.exports.items(ORG)).items}
    carried = [key for file in (await works.service.files.page(ORG)).items for key in file.keys]
    assert keys["c-1"] not in carried
    plugin.is_away = plugin.is_lost = False
    await works.work()
    states = await works.states()
    assert (("accepted", "V-1"), [keys["c-1"]]) == (states["c-1"], plugin.taken)
    carried = [key for file in (await works.service.files.page(ORG)).items for key in file.keys]
    assert [keys["c-2"]] == carried
