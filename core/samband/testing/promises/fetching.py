"""What a plugin promises that can be asked for chosen records."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from samband.contract import Manifest, Record, Selection
from samband.errors import PluginError, RejectedError
from samband.testing.counterpart import Counterpart
from samband.testing.driver import PluginDriver
from samband.testing.promises.wording import broken
from samband.testing.results import ReadResult

__all__ = ["Fetches"]

_FETCH = "samband.hookspecs.Hooks.fetch"
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = Selection(since=_LONG_AGO, until=_LONG_AGO + timedelta(days=1))
_ALPHABETS = ("0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_async = pytest.mark.asyncio(loop_scope="function")


class Fetches:
    """Tests that ask for chosen records; skipped for a plugin without ``fetch``."""

    @classmethod
    def unknown_key(cls, stream: str, keys: Collection[str]) -> str:
        """Gives a key of the right form that no record of the stream has. Override it where the form is a strict one.

        Without that it is one of ``keys`` with its last letters and digits exchanged.
        """
        known, key = set(keys), min(keys)
        places = [place for place, char in enumerate(key) if any(char in alphabet for alphabet in _ALPHABETS)]
        for place in reversed(places):
            alphabet = next(alphabet for alphabet in _ALPHABETS if key[place] in alphabet)
            # Hexadecimal digits stay hexadecimal digits.
            for char in alphabet[:6] if key[place] in "abcdefABCDEF" else alphabet:
                other = key[:place] + char + key[place + 1 :]
                if other not in known:
                    return other
        return f"{key}0"

    @_async
    async def test_fetched_keys_give_exactly_those_records_as_a_read_does(
        self, driver: PluginDriver, stream: str, manifest: Manifest
    ) -> None:
        full = await _full_read(driver, stream, manifest)
        asked = sorted(full.state)[:: max(1, len(full.state) // 3)][:3]
        found = await driver.fetch(stream, Selection(keys=asked))
        assert (sorted(found.state), found.deleted) == (asked, set()), broken(
            "With keys, fetch gives those records and no others.",
            f"{stream}: asked for {asked}, got {sorted(found.state)[:10]} and {sorted(found.deleted)[:10]} as deleted",
            see=_FETCH,
        )
        read, fetched = _told(driver, stream, full), _told(driver, stream, found)
        different = [key for key in asked if read[key] != fetched[key]]
        assert not different, broken(
            "A fetched record has the version and the values that reading the stream gives it.",
            f"{stream}: {', '.join(different)} came with another version or other values",
            see=_FETCH,
            way_out="Build the records of sync and fetch in one place, and ask for the same columns.",
        )

    @_async
    async def test_a_fetched_key_that_is_not_there_is_told_as_deleted_and_nothing_else_is(
        self, driver: PluginDriver, stream: str, manifest: Manifest
    ) -> None:
        full = await _full_read(driver, stream, manifest)
        there, absent = min(full.state), self.unknown_key(stream, full.state)
        found = await driver.fetch(stream, Selection(keys=[there, absent]))
        assert (set(found.state), found.deleted) == ({there}, {absent}), broken(
            "A key of selection.keys that is gone at the other side belongs in Page.deleted; nothing else does.",
            f"{stream}: asked for one record that is there and one that is not, got {sorted(found.state)} as records"
            f" and {sorted(found.deleted)[:10]} as deleted",
            see=_FETCH,
        )

    @_async
    async def test_a_fetch_ends_with_exactly_one_complete_page(
        self, driver: PluginDriver, stream: str, manifest: Manifest
    ) -> None:
        full = await _full_read(driver, stream, manifest)
        for what, selection in {
            "keys": Selection(keys=sorted(full.state)[:2]),
            "a window": Selection(since=_LONG_AGO),
            "a window with nothing in it": _NEVER,
        }.items():
            completes = [page.complete for page in (await driver.fetch(stream, selection)).pages]
            assert completes == [False] * (len(completes) - 1) + [True], broken(
                "Exactly the last page of a fetch has complete=True, also when nothing was found.",
                f"{stream}, {what}: complete was {completes or 'never said, for there was no page'}",
                see=_FETCH,
            )

    @_async
    async def test_a_fetched_window_gives_what_changed_in_it_and_deletes_nothing(
        self, driver: PluginDriver, stream: str, manifest: Manifest, counterpart: Counterpart
    ) -> None:
        await _full_read(driver, stream, manifest)
        # Some seconds to spare: other systems keep whole seconds, and their clock is not ours.
        moment = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=2)
        touched = await asyncio.to_thread(counterpart.touch, stream) if counterpart.touch is not None else None
        full = await driver.read(stream)
        before = await driver.fetch(stream, Selection(until=moment))
        after = await driver.fetch(stream, Selection(since=moment))
        never = await driver.fetch(stream, _NEVER)
        later = await driver.fetch(stream, Selection(since=moment + timedelta(days=1)))
        found = {
            "both sides of one instant": _keys(before) & _keys(after),
            "neither side": full.state.keys() - _keys(before) - _keys(after),
            "after a change, not": set(() if touched is None else touched.changed) - _keys(after),
            "a day in 1970": _keys(never),
            "tomorrow": _keys(later),
        }
        wrong = {what: sorted(keys)[:3] for what, keys in found.items() if keys}
        assert not wrong, broken(
            "A window holds what was changed at or after since and before until.",
            f"{stream}: {'; '.join(f'{what}: {keys}' for what, keys in wrong.items())}",
            see="samband.Selection",
        )
        deleted = before.deleted | after.deleted | never.deleted | later.deleted
        assert not deleted, broken(
            "A window deletes nothing: what is not in it is not gone.",
            f"{stream}: {len(deleted)} records were told as deleted",
            see=_FETCH,
        )

    @_async
    async def test_the_host_itself_fetches_the_same(
        self, driver: PluginDriver, stream: str, manifest: Manifest
    ) -> None:
        full = await _full_read(driver, stream, manifest)
        selection = Selection(keys=[min(full.state)])
        direct = await driver.fetch(stream, selection)
        if [page.complete for page in direct.pages].count(True) != 1 or direct.deleted:
            pytest.skip("the host refuses such a fetch; see the tests that ask for one complete page and for deletions")
        try:
            pages = await driver.fetch_as_host(stream, selection)
        except PluginError:
            pytest.skip("the plugin does not load; see the test that loads it")
        assert _told(driver, stream, pages) == _told(driver, stream, direct), broken(
            "Hooks run on an event loop in a thread of the plugin's own, and give there what they give anywhere.",
            f"{stream}: fetched through the host the result differs",
            see="samband.hookspecs",
        )


async def _full_read(driver: PluginDriver, stream: str, manifest: Manifest) -> ReadResult:
    if "fetch" not in manifest.capabilities:
        pytest.skip("the plugin has no fetch: it cannot be asked for chosen records")
    return await driver.read(stream)


def _keys(result: ReadResult) -> set[str]:
    return {record.key for record in result.records if record.key}


def _told(driver: PluginDriver, stream: str, result: ReadResult) -> Mapping[str, Any]:
    """Gives key → version and converted values: rows may carry more or less that nobody maps."""
    return {r.key: (r.version, _values(driver, stream, r)) for r in result.records if r.key}


def _values(driver: PluginDriver, stream: str, record: Record) -> object:
    try:
        return dict(driver.convert(stream, record))
    except RejectedError as err:
        return err.code, err.field
