"""What a plugin promises that writes files for the other side, and reads the reports about them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

import pytest

from samband.adapters.filing import checked_file, checked_report
from samband.contract import Batch, ExportFile, Receipt
from samband.errors import ContractError, RejectedError, RemoteError
from samband.testing.driver import PluginDriver
from samband.testing.outlet import Outlet
from samband.testing.promises.wording import broken

__all__ = ["Files"]

_RENDER = "samband.hookspecs.Hooks.render"
_ACKNOWLEDGE = "samband.hookspecs.Hooks.acknowledge"
_A_DAY_S = 86_400.0
_NO_REPORTS = {
    "empty": b"",
    "bytes": bytes(range(256)),
    "words": b"We are back soon.\n",
    "web-page": b"<!DOCTYPE html><html><head><title>Service</title></head><body>Later</body></html>",
    "json": b'{"error": "not found"}',
    "zip": b"PK\x03\x04" + bytes(60),
}
_async = pytest.mark.asyncio(loop_scope="function")


class Files:
    """Tests that render batches and read reports; skipped for a plugin without these hooks."""

    @_async
    @pytest.mark.parametrize("profile", ["machine", "human"])
    async def test_the_same_batch_is_rendered_to_the_same_bytes(
        self, outlet: Outlet, driver: PluginDriver, profile: str
    ) -> None:
        items = outlet.items(3)
        first = await _rendered(outlet, driver, outlet.batch(items, "file"), profile)
        driver.clock.advance(_A_DAY_S)
        second = await _rendered(outlet, driver, outlet.batch(items, "file"), profile)
        different = [name for name in ("name", "content", "rows") if getattr(first, name) != getattr(second, name)]
        assert not different, broken(
            "The same items give the same bytes under the same name.",
            f"{outlet.stream.name}, {profile}: rendered again a day later, {' and '.join(different)} differ",
            see=_RENDER,
            way_out="Make name and content of the items alone: no clock, no chance, no batch id, no order of a set.",
        )
        other = await _rendered(outlet, driver, outlet.batch(outlet.items(3), "file"), profile)
        assert first.name != other.name, broken(
            "A file's name is made of what the batch holds: two batches never share one.",
            f"{outlet.stream.name}, {profile}: two batches were both rendered as {first.name}",
            see="samband.ExportFile.name",
        )

    @_async
    async def test_what_does_not_balance_is_not_rendered(self, outlet: Outlet, driver: PluginDriver) -> None:
        outlet.needs("render")
        good, other = outlet.items(2)
        bad = self.spoilt(other)  # type: ignore[attr-defined]
        if bad is None:
            pytest.skip("the suite knows no bad item of this kind: override PluginContract.spoilt")
        try:
            file = await driver.ask_offline("render", batch=outlet.batch([good, bad], "file"), profile="machine")
        except RejectedError:
            return
        except Exception as err:  # noqa: BLE001 - whatever a plugin raises is what the test is about
            file = err
        pytest.fail(
            broken(
                "render raises RejectedError for a batch that cannot be written.",
                f"{outlet.stream.name}: with a voucher out of balance it gave {type(file).__name__}",
                see=_RENDER,
            )
        )

    @_async
    async def test_a_report_on_its_own_file_settles_exactly_what_was_in_it(
        self, outlet: Outlet, driver: PluginDriver
    ) -> None:
        outlet.needs("render", "acknowledge")
        take_in = outlet.counterpart.take_in
        if take_in is None:
            pytest.skip("the counterpart makes no reports on files: give Counterpart.take_in")
        items = outlet.items(3)
        file = await _rendered(outlet, driver, outlet.batch(items, "file"), "machine")
        name, content = await asyncio.to_thread(take_in, file)
        receipts = await driver.ask_offline("acknowledge", name=name, content=content)
        try:
            receipts = checked_report(driver.manifest.name, receipts, lambda text: text)
        except ContractError as err:
            pytest.fail(broken("A report becomes receipts.", err.message, see=_ACKNOWLEDGE, way_out=err.hint))
        own = {str(item.voucher.number): item.key for item in items if item.voucher is not None}
        fates = Counter(_settled(receipt, own, file) for receipt in receipts)
        assert fates == Counter(item.key for item in items), broken(
            "acknowledge gives a receipt for each item that the report tells of, under its key or its voucher's number.",
            f"{outlet.stream.name}: of {len(items)} items in the file that was taken in, the report settled"
            f" {len(fates.keys() & {item.key for item in items})}, and gave"
            f" {len(receipts)} receipts",
            see=_ACKNOWLEDGE,
            way_out="Put the item's key, or the voucher's number, into a column that comes back in the report.",
        )

    @_async
    @pytest.mark.parametrize("what", _NO_REPORTS)
    async def test_a_file_that_is_no_report_is_refused_as_such(
        self, outlet: Outlet, driver: PluginDriver, what: str
    ) -> None:
        outlet.needs("acknowledge")
        try:
            receipts = await driver.ask_offline("acknowledge", name=f"{what}.csv", content=_NO_REPORTS[what])
            found = f"it gave {len(receipts)} receipts"
        except RemoteError:
            return
        except Exception as err:  # noqa: BLE001 - whatever a plugin raises is what the test is about
            found = f"it raised {type(err).__name__}: {err}"
        pytest.fail(
            broken(
                "acknowledge raises RemoteError for a file that is no report, and says what is wrong with it.",
                f"given {what}, {found}",
                see=_ACKNOWLEDGE,
                way_out="Check heading and rows before anything of the file is believed.",
            )
        )


def _settled(receipt: Receipt, own: Mapping[str, str], file: ExportFile) -> str:
    """Gives the key of the item that a receipt settles as taken, or else what is wrong with it."""
    if receipt.state not in ("accepted", "posted"):
        return receipt.state
    if receipt.evidence.get("file", file.name) != file.name:
        return "of another file"
    return own.get(receipt.key, receipt.key)


async def _rendered(outlet: Outlet, driver: PluginDriver, batch: Batch, profile: str) -> ExportFile:
    outlet.needs("render")
    file = await driver.ask_offline("render", batch=batch, profile=profile)
    try:
        return checked_file(driver.manifest.name, file)
    except ContractError as err:
        pytest.fail(broken("render gives a file that can be kept.", err.message, see=_RENDER, way_out=err.hint))
