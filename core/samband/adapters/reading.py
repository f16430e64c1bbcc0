"""One read of one stream: the plugin's pages, each shown to keep the promises of ``sync``, or of ``fetch``."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence

from samband.contract import Page, Record
from samband.errors import ContractError, RemoteError

__all__ = ["MAX_CURSOR_BYTES", "Reading"]

MAX_CURSOR_BYTES = 64 * 1024

_REPEATS_BORNE = 1
_PAGES_REMEMBERED = 1_000
# A source may give long stretches of nothing, or of rows that share one watermark, but not for ever.
_PAGES_WITHOUT_ADVANCE = 2_000
_MAX_VERSION_LENGTH = 400
_END = object()


class Reading:
    """Checks pages as they come.

    The page that says ``complete`` is handed on only when the plugin has really ended after it: deletions follow from
    that word, so it must not be taken back.

    Args:
        plugin: Named in errors.
        pages: What the hook gave.
        asked: For ``fetch``, the keys that were asked for: only those may be said to be gone. Empty for a window, which
            says nothing about what is gone. None for ``sync``.
    """

    def __init__(self, plugin: str, pages: AsyncIterator[object], *, asked: Sequence[str] | None = None) -> None:
        self._plugin = plugin
        self._hook = "sync" if asked is None else "fetch"
        self._asked = None if asked is None else frozenset(asked)
        self._pages = pages
        self._seen: deque[int] = deque(maxlen=_PAGES_REMEMBERED)
        self._cursor: str | None = None
        self._repeats = 0
        self._standing = 0
        self._is_over = False

    async def next_page(self) -> Page | None:
        """Gives the next page, or None after the complete one.

        Raises:
            ContractError: The plugin broke a promise of the hook; names which one.
            RemoteError: ``paging_loops``: the pages come round again and no end is in sight.
        """
        if self._is_over:
            return None
        page = self._checked(await anext(self._pages, _END))
        if page.complete:
            self._is_over = True
            if await anext(self._pages, _END) is not _END:
                raise self._broken("yielded another page after the one that was complete.")
        return page

    async def aclose(self) -> None:
        """Closes the plugin's iterator, where it can be closed."""
        close = getattr(self._pages, "aclose", None)
        if close is not None:
            await close()

    def _checked(self, page: object) -> Page:
        if page is _END:
            raise self._broken("ended without a page that is complete; nothing is deleted because of it.")
        if not isinstance(page, Page):
            raise self._broken(f"yielded {type(page).__name__} instead of samband.Page.")
        problem = page_problem(page)
        if problem is not None:
            raise self._broken(f"yielded a page whose {problem}.")
        if self._asked is not None and not self._asked.issuperset(page.deleted):
            raise self._broken("said that records are gone that it was not asked for; nothing is deleted.")
        if not page.complete:
            self._watch_for_loops(page)
        return page

    def _watch_for_loops(self, page: Page) -> None:
        is_empty = not page.records and not page.deleted
        if page.cursor == self._cursor and (page.cursor is not None or is_empty):
            self._standing += 1
            if self._standing > _PAGES_WITHOUT_ADVANCE:
                raise self._loops(f"{self._standing} pages in a row did not get any further")
        else:
            self._standing = 0
        self._cursor = page.cursor
        if page.cursor is None and is_empty:
            return
        # The keys belong to the mark: rows that share one watermark may fill several pages with one cursor.
        mark = hash((page.cursor, tuple(record.key for record in page.records), tuple(page.deleted)))
        if mark in self._seen:
            self._repeats += 1
            if self._repeats > _REPEATS_BORNE:
                raise self._loops("the same pages came again")
        self._seen.append(mark)

    def _broken(self, what: str) -> ContractError:
        return ContractError(f"{self._plugin}: {self._hook} {what}", hint="Tell the plugin's author.")

    def _loops(self, what: str) -> RemoteError:
        return RemoteError(
            f"Reading went round in circles: {what}.",
            code="paging_loops",
            hint="What was read before is kept. Report it to the maker of the other system or of the plugin.",
        )


def page_problem(page: Page) -> str | None:
    """Says in a few words, without any value, what is wrong with a page; None when it keeps its promises."""
    if not _is_list(page.records) or not _is_list(page.deleted):
        return "records and deleted must both be lists or tuples"
    if not all(isinstance(key, str) for key in page.deleted):
        return "deleted keys must all be text"
    if not isinstance(page.complete, bool):
        return "complete must be True or False"
    if page.total is not None and not _is_count(page.total):
        return "total must be a whole number from 0 to 2^63, or None"
    return _cursor_problem(page.cursor) or _record_problem(page.records)


def _cursor_problem(cursor: object) -> str | None:
    if cursor is None:
        return None
    if not isinstance(cursor, str):
        return "cursor must be text or None"
    try:
        size = len(cursor.encode())
    except UnicodeEncodeError:
        return "cursor holds half a character, which cannot be stored"
    if "\x00" in cursor:
        return "cursor holds a NUL character, which cannot be stored"
    return f"cursor is longer than {MAX_CURSOR_BYTES // 1024} KiB" if size > MAX_CURSOR_BYTES else None


def _record_problem(records: Sequence[object]) -> str | None:
    for number, record in enumerate(records, start=1):
        if not isinstance(record, Record):
            return f"record {number} is {type(record).__name__} instead of samband.Record"
        if record.key is not None and not isinstance(record.key, str):
            return f"record {number} has a key that is not text"
        # Asked for every record of every page, and asking an abstract class is slow: nearly all are plain dicts.
        if record.values.__class__ is not dict and not isinstance(record.values, Mapping):
            return f"record {number} has values that are not a mapping"
        if record.version is not None and not _is_version(record.version):
            return f"record {number} has a version that is not a printable text of at most 400 characters"
    return None


def _is_version(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_VERSION_LENGTH and value.isprintable()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
