"""Carries a plugin's word on how far it is to the loop of whoever asked, however often the plugin speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

__all__ = ["ProgressLine"]


class ProgressLine:
    """Hands on the latest ``(done, total)`` only, at most once per turn of the listener's loop.

    Args:
        listener: Called on the loop that the line is made on; None drops everything.
    """

    def __init__(self, listener: Callable[[int, int | None], None] | None) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._latest: tuple[int, int | None] = (0, None)
        self._is_on_its_way = False

    def report(self, done: int, total: int | None) -> None:
        """Takes a plugin's word, in the plugin's own thread."""
        if self._listener is None:
            return
        # A page counted as a float or a numpy integer must not fail a read.
        self._latest = (int(done), None if total is None else int(total))
        if not self._is_on_its_way:
            self._is_on_its_way = True
            with suppress(RuntimeError):  # the listener's loop is closed
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # First the mark, then the value: what is reported in between is delivered once more rather than lost.
        self._is_on_its_way = False
        if self._listener is not None:
            self._listener(*self._latest)
