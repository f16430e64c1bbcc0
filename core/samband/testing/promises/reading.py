"""What `sync` promises about a read when nothing goes wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from samband.contract import Manifest, Record
from samband.errors import PluginError, RejectedError
from samband.kinds import Kind, field_problems
from samband.testing.counterpart import Counterpart
from samband.testing.driver import PluginDriver
from samband.testing.promises.declarations import known_kinds
from samband.testing.promises.wording import broken
from samband.testing.results import ReadResult

__all__ = ["Reads"]

_SYNC = "samband.hookspecs.Hooks.sync"
_MAX_RESUMES = 6
_MAX_KEY = 400  # samband.Record.key
_MAX_CURSOR = 64 * 1024  # samband.Page.cursor
_async = pytest.mark.asyncio(loop_scope="function")


class Reads:
    """Tests that read every stream of a healthy system."""

    tolerated_share: ClassVar[float]

    @_async
    async def test_a_read_ends_with_exactly_one_complete_page(self, driver: PluginDriver, stream: str) -> None:
        reading = await driver.read(stream)
        completes = [page.complete for page in reading.pages]
        assert completes == [False] * (len(completes) - 1) + [True], broken(
            "Exactly the last page has complete=True.",
            f"{stream}: complete was {completes or 'never said, for there was no page'}",
            see=_SYNC,
        )

    @_async
    async def test_every_record_has_a_key_and_a_version_that_is_text(self, driver: PluginDriver, stream: str) -> None:
        records = (await driver.read(stream)).records
        assert records, broken(
            "The counterpart has records in every stream, or else nothing is proved.",
            f"{stream} is empty",
            see="samband.testing.Counterpart",
            way_out="Give it some rows.",
        )
        bad = [r for r in records if not isinstance(r.key, str) or not 0 < len(r.key) <= _MAX_KEY]
        assert len(bad) < len(records), broken(
            "A record's key is their id: text of at most 400 characters.",
            f"{stream}: none of {len(records)} records has one",
            see="samband.Record.key",
        )
        kinds = {type(record.version).__name__ for record in records}
        assert kinds <= {"str", "NoneType"}, broken(
            "A record's version is text, or None.", f"{stream}: {sorted(kinds)}", see="samband.Record.version"
        )

    @_async
    async def test_cursors_are_text_of_at_most_64_kib(self, driver: PluginDriver, stream: str) -> None:
        for number, page in enumerate((await driver.read(stream)).pages, 1):
            if page.cursor is not None:
                fits = isinstance(page.cursor, str) and 0 < len(page.cursor.encode()) <= _MAX_CURSOR
                assert fits, broken(
                    "A cursor is an opaque text of at most 64 KiB.",
                    f"{stream}, page {number}: {type(page.cursor).__name__} of {len(page.cursor)}",
                    see="samband.Page.cursor",
                )

    @_async
    async def test_values_fit_the_canonical_kind(
        self, driver: PluginDriver, stream: str, manifest: Manifest, request: pytest.FixtureRequest
    ) -> None:
        kind = known_kinds(manifest)[manifest.stream(stream).kind]
        records = (await driver.read(stream)).records
        problems: Counter[str] = Counter()
        for record in records:
            problem = _problem_with(record, driver, stream, kind, manifest)
            problems.update([problem] if problem else [])
        failed = problems.total()
        # Shown beside the test, also when it passes (pytest -rP).
        request.node.add_report_section("call", "records", f"{stream}: {failed} of {len(records)} failed to convert")
        told = "; ".join(f"{count} × {problem}" for problem, count in problems.most_common(5))
        assert failed <= self.tolerated_share * len(records), broken(
            f"Converted values fit the kind {kind.name!r}.",
            f"{stream}: {failed} of {len(records)} records do not: {told}",
            see="samband.kinds",
            way_out="Mend convert, or raise tolerated_share if the counterpart holds bad rows on purpose.",
        )

    @_async
    async def test_two_reads_give_the_same(self, driver: PluginDriver, stream: str) -> None:
        first, second = await driver.read(stream), await driver.read(stream)
        assert _differences(first.state, second.state) == {}, broken(
            "The same pages follow as far as the other side's data allows.",
            f"{stream}: a second full read of unchanged data differs: {_differences(first.state, second.state)}",
            see=_SYNC,
        )

    @_async
    async def test_a_read_resumed_after_any_page_loses_nothing(self, driver: PluginDriver, stream: str) -> None:
        full = await driver.read(stream)
        marks = [number for number, page in enumerate(full.pages[:-1], 1) if page.cursor is not None]
        if not marks:
            pytest.skip(
                f"{stream} is read in {len(full.pages)} page(s) with no cursor before the last: nothing to resume"
            )
        for number in marks[:: max(1, len(marks) // _MAX_RESUMES)][: _MAX_RESUMES + 1]:
            rest = await driver.read(stream, full.pages[number - 1].cursor)
            resumed = ReadResult(full.pages[:number]).followed_by(rest)
            assert _differences(full.state, resumed.state) == {}, broken(
                "With a cursor that an earlier page carried, sync gives what comes after that page.",
                f"{stream}: resumed after page {number} of {len(full.pages)} the result differs from one full read:"
                f" {_differences(full.state, resumed.state)}",
                see=_SYNC,
                way_out="Give a page's cursor only when everything before it is in that page or an earlier one.",
            )

    @_async
    async def test_closing_a_read_after_its_first_page_does_no_harm(self, driver: PluginDriver, stream: str) -> None:
        full = await driver.read(stream)
        pages = driver.pages(stream)
        await anext(pages, None)
        await pages.aclose()
        again = await driver.read(stream)
        assert again.state == full.state, broken(
            "A read may be closed after any page.", f"{stream}: the read after that gave another result", see=_SYNC
        )

    @_async
    async def test_the_host_itself_reads_the_same(self, driver: PluginDriver, stream: str) -> None:
        direct = await driver.read(stream)
        if [page.complete for page in direct.pages].count(True) != 1:
            pytest.skip("the host refuses such a read; see the test that asks for one complete page")
        try:
            pages = await driver.read_as_host(stream)
        except PluginError:
            pytest.skip("the plugin does not load; see the test that loads it")
        assert pages.state == direct.state, broken(
            "Hooks run on an event loop in a thread of the plugin's own, and give there what they give anywhere.",
            f"{stream}: read through the host the result differs: {_differences(direct.state, pages.state)}",
            see="samband.hookspecs",
        )

    @_async
    async def test_an_incremental_read_after_no_change_is_empty(self, driver: PluginDriver, stream: str) -> None:
        cursor = await _cursor_of_finished_read(driver, stream)
        again = await driver.read(stream, cursor)
        changed = sum(len(page.records) + len(page.deleted) for page in again.pages)
        assert changed == 0, broken(
            "From the cursor of a finished read only changes are read.",
            f"{stream}: nothing had changed, and {changed} records or deletions came",
            see="samband.Stream.incremental",
        )

    @_async
    async def test_an_incremental_read_gives_exactly_what_was_changed(
        self, driver: PluginDriver, stream: str, counterpart: Counterpart
    ) -> None:
        cursor = await _cursor_of_finished_read(driver, stream)
        touched = await asyncio.to_thread(counterpart.touch, stream) if counterpart.touch is not None else None
        if touched is None:
            pytest.skip(f"the counterpart cannot change anything in {stream}")
        found = await driver.read(stream, cursor)
        assert (set(found.state), found.deleted) == (set(touched.changed), set(touched.deleted)), broken(
            "From the cursor of a finished read exactly the changes follow.",
            f"{stream}: {len(touched.changed)} records and {len(touched.deleted)} deletions were made;"
            f" missing {_few(set(touched.changed) - set(found.state))},"
            f" too many {_few(set(found.state) - set(touched.changed))},"
            f" deletions missing {_few(set(touched.deleted) - found.deleted)},"
            f" too many {_few(found.deleted - set(touched.deleted))}",
            see="samband.Stream.incremental",
        )
        full = await driver.read(stream)
        for key in touched.deleted:
            assert key not in full.state, broken("What was deleted is gone.", f"{stream}: {key} came again", see=_SYNC)


async def _cursor_of_finished_read(driver: PluginDriver, stream: str) -> str:
    if not driver.manifest.stream(stream).incremental:
        pytest.skip(f"{stream} is declared incremental=False: every read is a full one")
    reading = await driver.read(stream)
    cursor = reading.final_cursor
    assert cursor is not None, broken(
        "A finished read of an incremental stream leaves a cursor.",
        f"{stream}: the last page had cursor=None",
        see="samband.Stream.incremental",
        way_out="Give the cursor, or declare incremental=False.",
    )
    return cursor


def _problem_with(record: Record, driver: PluginDriver, stream: str, kind: Kind, manifest: Manifest) -> str | None:
    """Says what is wrong with one record, naming the field and never the value."""
    if not record.key:
        return "a record without a key"
    try:
        values = driver.convert(stream, record)
        kind.validator.validate_python(values)
    except RejectedError as err:
        return f"rejected by convert: {err.field or err.code}"
    except ValidationError as err:
        return ", ".join(f"{problem.field}: {problem.message}" for problem in field_problems(err)[:3])
    refused = sorted(
        name
        for name, value in values.items()
        if value is not None and kind.class_of(name) not in manifest.field_classes
    )
    return f"data classes that the manifest does not declare: {', '.join(refused)}" if refused else None


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, str]:
    """Says in which keys two results differ, without their values."""
    found = {
        "missing": one.keys() - other.keys(),
        "too many": other.keys() - one.keys(),
        "changed": {key for key in one.keys() & other.keys() if one[key] != other[key]},
    }
    return {what: _few(keys) for what, keys in found.items() if keys}


def _few(keys: set[str]) -> str:
    shown = ", ".join(sorted(keys)[:3])
    return f"{len(keys)} ({shown}{', …' if len(keys) > 3 else ''})" if keys else "none"
