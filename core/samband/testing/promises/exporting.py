"""What a plugin promises that carries claims to the books, when nothing goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import ClassVar

import pytest

from samband.adapters.receipts import checked_receipt
from samband.contract import Item, Receipt, Route, Stream
from samband.errors import AdapterError, AuthError, ContractError, RetryableError
from samband.testing.driver import PluginDriver
from samband.testing.outlet import LONG_AGO, Outlet
from samband.testing.promises.wording import broken
from samband.testing.proxy import FaultProxy
from samband.testing.samples import sample_item, spoilt_item

__all__ = ["Exports"]

_EXPORT = "samband.hookspecs.Hooks.export"
_FIND = "samband.hookspecs.Hooks.find_exported"
_CHOOSE = "samband.hookspecs.Hooks.choose_route"
_MOST_WAYS = 12
_NO_WAY = "no_such_way"
_async = pytest.mark.asyncio(loop_scope="function")


class Exports:
    """Tests that send; skipped for a plugin without a push stream of vouchers or reimbursements."""

    routes: ClassVar[Collection[str]]

    @classmethod
    def item(cls, stream: Stream, key: str) -> Item:
        """Gives something new that the other side takes. Override it where accounts, types or fields must be others."""
        return sample_item(stream, key)

    @classmethod
    def spoilt(cls, item: Item) -> Item | None:
        """Gives the item as the plugin must refuse it before it is sent; None when any item may be sent."""
        return spoilt_item(item)

    @_async
    async def test_every_item_gets_one_receipt_and_nothing_else_does(
        self, outlet: Outlet, driver: PluginDriver
    ) -> None:
        items = outlet.items(3)
        sent = await outlet.send(items)
        counted = Counter(receipt.key for receipt in sent.receipts)
        assert (counted, sent.error) == (Counter(item.key for item in items), None), broken(
            "export yields one receipt per item, in any order, and none for anything else.",
            f"{outlet.stream.name}: of {len(items)} items {len({i.key for i in items} - set(counted))} have no receipt,"
            f" {sum(n > 1 for n in counted.values())} have several, {len(set(counted) - {i.key for i in items})} receipts are"
            f" for nothing that was sent; {sent.ending}",
            see=_EXPORT,
        )
        _check_form(sent.receipts, driver, "export")
        refused = [receipt for receipt in sent.receipts if receipt.state not in ("accepted", "posted")]
        assert not refused, broken(
            "Items that the other side takes are accepted.",
            f"{outlet.stream.name}: {sent.ending}; {'; '.join(receipt.message for receipt in refused)[:300]}",
            see=_EXPORT,
            way_out="If the other side wants other accounts, types or fields, override PluginContract.item.",
        )

    @_async
    async def test_what_was_sent_is_found_by_its_key_and_nothing_else_is(
        self, outlet: Outlet, driver: PluginDriver
    ) -> None:
        items = await outlet.sent_well(2)
        await outlet.settle()
        found = await outlet.find(items)
        assert (_keys(found.receipts), found.error) == (Counter(item.key for item in items), None), broken(
            "find_exported yields one receipt for each key that is found.",
            f"{outlet.stream.name}: asked for {len(items)} items that had been accepted: {found.ending}",
            see=_FIND,
            way_out="Send the key in a field of theirs that can be searched, and search by it.",
        )
        _check_form(found.receipts, driver, "find_exported")
        open_ = [receipt for receipt in found.receipts if receipt.state not in ("accepted", "posted")]
        assert not open_, broken(
            "What is there is told as accepted, or as posted.",
            f"{outlet.stream.name}: {found.ending}; {'; '.join(receipt.message for receipt in open_)[:300]}",
            see=_FIND,
            way_out="Where things wait before they can be seen, give Counterpart.settle.",
        )
        strangers = [outlet.item(_next_to(item.key)) for item in items]
        mixed = await outlet.find([items[0], *strangers], sent_at=driver.clock.now() - LONG_AGO)
        assert (_keys(mixed.receipts), mixed.error) == (Counter([items[0].key]), None), broken(
            "find_exported yields nothing for what is certainly not there, and nothing for what was not asked about.",
            f"{outlet.stream.name}: asked for one item that is there and {len(strangers)} that were never sent:"
            f" {mixed.ending}",
            see=_FIND,
            way_out="Compare whole keys, and give receipts for the keys that were asked about.",
        )

    @_async
    async def test_what_was_accepted_is_still_found_when_it_is_asked_about_by_its_receipt(self, outlet: Outlet) -> None:
        items = outlet.items(2)
        sent = await outlet.send(items)
        if any(sent.fate(item.key) not in ("accepted", "posted") for item in items):
            pytest.skip("items are not accepted even when all is well; see the test about one receipt for every item")
        await outlet.settle()
        found = await outlet.find(items, state="accepted", receipts=sent.by_key)
        lost = [item for item in items if found.fate(item.key) not in ("accepted", "posted")]
        assert not lost, broken(
            "Items that were accepted are asked about until they are posted, and are not lost meanwhile.",
            f"{outlet.stream.name}: asked with the references of their receipts: {found.ending}",
            see="samband.Sought.state",
        )

    @_async
    async def test_sending_writes_each_item_once_and_looking_it_up_writes_nothing(self, outlet: Outlet) -> None:
        if outlet.counterpart.entries is None:
            pytest.skip("the counterpart cannot be looked into: give Counterpart.entries")
        items = await outlet.sent_well(2)
        await outlet.find(items)
        await outlet.find(outlet.items(1))
        there = await outlet.there(items)
        assert set(there.values()) == {1}, broken(
            "Each item is written once, under its own key; find_exported must not change anything.",
            f"{outlet.stream.name}: sent once and looked up once, the items are there {sorted(there.values())} times",
            see=_EXPORT,
            way_out="Send the item's key itself, in a field that Counterpart.entries counts by.",
        )

    @_async
    async def test_a_bad_item_is_refused_alone_and_before_it_is_sent(
        self, outlet: Outlet, driver: PluginDriver
    ) -> None:
        good, (bad_key, lone_key) = outlet.items(2), (item.key for item in outlet.items(2))
        bad, lone = self.spoilt(outlet.item(bad_key)), self.spoilt(outlet.item(lone_key))
        if bad is None or lone is None:
            pytest.skip("the suite knows no bad item of this kind: override PluginContract.spoilt")
        calls = await outlet.count_calls(1)
        sent = await outlet.send([good[0], bad, good[1]])
        fates = [sent.fate(item.key) for item in (good[0], bad, good[1])]
        assert fates in (["accepted", "rejected", "accepted"], ["posted", "rejected", "posted"]), broken(
            "Of a batch with one bad item that item alone is rejected, and the others go.",
            f"{outlet.stream.name}: the second of three is out of balance; they became {', '.join(fates)}; {sent.ending}",
            see=_EXPORT,
            way_out="Yield Receipt(state='rejected') for it, and go on with the others.",
        )
        _check_form(sent.receipts, driver, "export")
        before = driver.data_calls
        alone = await outlet.send([lone])
        made = driver.data_calls - before
        there = await outlet.there([bad, lone])
        assert (alone.fate(lone.key), made < calls, set(there.values())) == ("rejected", True, {0}), broken(
            "What does not balance is refused before it is sent.",
            f"{outlet.stream.name}: alone it became {alone.fate(lone.key)} after {made} calls, where a good one takes"
            f" {calls}; the bad items are there {sorted(there.values())} times",
            see="samband.Voucher.lines",
            way_out="Add up the lines before the first call.",
        )

    # ── ways ─────────────────────────────────────────────────────────────────

    @_async
    async def test_a_way_that_refused_is_not_chosen_again_and_every_way_passed_over_has_a_reason(
        self, outlet: Outlet, driver: PluginDriver
    ) -> None:
        outlet.needs("choose_route")
        await driver.warm_up()
        avoided: dict[str, str] = {}
        for _ in range(_MOST_WAYS):
            try:
                route = await driver.ask("choose_route", avoided=dict(avoided))
            except (RetryableError, AuthError):
                break
            self._check_route(route, avoided, driver)
            avoided[route.name] = "It refused in this run, before anything was sent."
        assert 0 < len(avoided) < _MOST_WAYS, broken(
            "choose_route gives one of the plugin's ways, and raises RetryableError or AuthError when none is left.",
            f"after {len(avoided)} ways it had said so {'already' if not avoided else 'not yet'}",
            see=_CHOOSE,
        )

    def _check_route(self, route: object, avoided: Collection[str], driver: PluginDriver) -> None:
        assert isinstance(route, Route), broken(
            "choose_route gives a samband.Route.", f"it gave a {type(route).__name__}", see=_CHOOSE
        )
        known = {*self.routes, "file"} if self.routes else {route.name}
        assert route.name in known - set(avoided), broken(
            "A route is one of the plugin's own ways, or file, and none that has refused in this run.",
            f"it chose {route.name!r}; its ways are {', '.join(sorted(known))}; avoided: {', '.join(avoided) or 'none'}",
            see=_CHOOSE,
            way_out="Name every way in PluginContract.routes, and pass over those in 'avoided'.",
        )
        assert route.name != "file" or "render" in driver.manifest.capabilities, broken(
            "The way file needs the capability render.", "it chose file and has no render hook", see=_CHOOSE
        )
        silent = [name for name in avoided if not str(route.reasons.get(name, "")).strip()]
        assert not silent, broken(
            "A route tells of each way that was passed over why.",
            f"it chose {route.name} and says nothing of {', '.join(silent)}",
            see="samband.Route.reasons",
        )

    @_async
    async def test_a_way_is_chosen_with_reasons_or_refused_clearly_when_nobody_answers(
        self, outlet: Outlet, driver: PluginDriver, proxy: FaultProxy
    ) -> None:
        outlet.needs("choose_route")
        await driver.warm_up()
        usual = await driver.ask("choose_route", avoided={})
        try:
            with proxy.refusing():
                route = await driver.ask("choose_route", avoided={})
        except (RetryableError, AuthError):
            return
        except Exception as err:  # noqa: BLE001 - whatever a plugin raises is what the test is about
            pytest.fail(
                broken(
                    "choose_route raises RetryableError when no way is open now.",
                    f"with every connection refused it raised {type(err).__name__}: {err}",
                    see=_CHOOSE,
                )
            )
        assert route.name == usual.name or str(route.reasons.get(usual.name, "")).strip(), broken(
            "A route tells of each way that was passed over why.",
            f"with every connection refused it chose {route.name} and says nothing of {usual.name}",
            see="samband.Route.reasons",
        )

    @_async
    async def test_what_is_to_go_one_way_never_goes_another(self, outlet: Outlet) -> None:
        outlet.needs("choose_route")
        items = outlet.items(2)
        sent = await outlet.send(items, route=_NO_WAY)
        there = await outlet.there(items)
        assert (isinstance(sent.error, AdapterError), sent.receipts, set(there.values())) == (True, [], {0}), broken(
            "A batch goes the way it is given, or not at all: an item whose outcome was unknown keeps its way.",
            f"{outlet.stream.name}: by a way that does not exist it became {sent.ending}; the items are there"
            f" {sorted(there.values())} times",
            see="samband.Batch.route",
            way_out="Look at batch.route before the first call, and raise RemoteError for one that is not yours.",
        )


def _check_form(receipts: Collection[Receipt], driver: PluginDriver, hook: str) -> None:
    for receipt in receipts:
        try:
            checked_receipt(driver.manifest.name, hook, receipt, lambda text: text)
        except ContractError as err:
            pytest.fail(
                broken("A receipt is whole enough to be kept.", err.message, see="samband.Receipt", way_out=err.hint)
            )


def _keys(receipts: Collection[Receipt]) -> Counter[str]:
    return Counter(receipt.key for receipt in receipts)


def _next_to(key: str) -> str:
    """Gives another key that begins the same way, so that a search by its beginning would show."""
    return key[:-1] + ("0" if key[-1] != "0" else "1")
