"""What a hook gave before it ended, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from samband.contract import Page, Record

__all__ = ["ReadResult"]


@dataclass
class ReadResult:
    """The pages of one read, whole or broken off."""

    pages: list[Page] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return bool(self.pages) and self.pages[-1].complete

    @property
    def records(self) -> list[Record]:
        return [record for page in self.pages for record in page.records]

    @property
    def deleted(self) -> set[str]:
        """Keys that are gone when all pages have been applied."""
        return self._applied()[1]

    @property
    def state(self) -> Mapping[str, Mapping[str, Any]]:
        """Key → values when all pages have been applied in order."""
        return self._applied()[0]

    @property
    def final_cursor(self) -> str | None:
        """The last page's cursor: where the next run begins."""
        return self.pages[-1].cursor if self.pages else None

    def followed_by(self, other: ReadResult) -> ReadResult:
        """Gives both reads as one."""
        return ReadResult([*self.pages, *other.pages])

    def _applied(self) -> tuple[dict[str, Mapping[str, Any]], set[str]]:
        state: dict[str, Mapping[str, Any]] = {}
        deleted: set[str] = set()
        for page in self.pages:
            for record in page.records:
                if record.key:
                    state[record.key] = record.values
                    deleted.discard(record.key)
            for key in page.deleted:
                state.pop(key, None)
                deleted.add(key)
        return state, deleted
