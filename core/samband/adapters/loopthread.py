"""A daemon thread with an event loop that survives what runs on it, and can be given up."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import PurePath
from types import FrameType
from typing import Any, TypeVarTuple

__all__ = ["LoopThread", "interrupt_thread", "is_stdlib", "place_of_thread"]

Ts = TypeVarTuple("Ts")

_here = threading.local()
_BEAT_S = 0.5
_STDLIB = sysconfig.get_path("stdlib")
# Raising into a thread while it holds a lock of the logging or import machinery could leave that lock held for ever.
_NEVER_INTERRUPTED = ("logging", "threading", "importlib", "queue")


class _GivenUp(BaseException):
    """Raised inside a thread that was given up, so that a spinning one stops burning the processor."""


class LoopThread:
    """A thread that runs one event loop until it is ended or given up.

    Args:
        name: Part of the thread's name.
        grace_s: How long its tasks and closers may take when it ends.
        on_trouble: Told, in one sentence, what escaped into the loop. Called inside the thread.
    """

    def __init__(self, name: str, *, grace_s: float, on_trouble: Callable[[str], None]) -> None:
        self.loop = asyncio.new_event_loop()
        self.closers: list[Callable[[], Awaitable[None]]] = []
        self._grace_s = grace_s
        self._on_trouble = on_trouble
        self._ending = False
        self._beat_at = time.monotonic()
        self._thread = threading.Thread(target=self._main, name=f"samband-{name}", daemon=True)
        self.loop.set_exception_handler(self._on_escaped)

    @staticmethod
    def current() -> LoopThread | None:
        """Gives the loop thread that the caller runs in."""
        return getattr(_here, "thread", None)

    # ── from any other thread ────────────────────────────────────────────────

    def start(self) -> None:
        self._thread.start()

    @property
    def stalled_for_s(self) -> float:
        """Says for how long the loop's heartbeat has been overdue."""
        late_s = time.monotonic() - self._beat_at - _BEAT_S
        return late_s if late_s > _BEAT_S and self._thread.is_alive() else 0.0

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self.loop.is_closed()

    def post(self, callback: Callable[[*Ts], object], *args: *Ts) -> bool:
        """Has the loop call ``callback`` soon; False when the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            return False
        return True

    async def end(self, within_s: float) -> bool:
        """Ends the loop and its thread; False when that took longer than ``within_s``."""
        self._ending = True
        self.post(self.loop.stop)
        # A thread cannot be awaited; at most a handful are joined, once, when the host stops.
        await asyncio.to_thread(self._thread.join, within_s)
        return not self._thread.is_alive()

    def give_up(self, *, interrupt: bool) -> None:
        """Asks the loop to end whenever it comes back; ``interrupt`` what keeps it from doing so."""
        self._ending = True
        self.post(self.loop.stop)
        if interrupt:
            self.interrupt()

    def interrupt(self) -> None:
        """Raises inside the thread, which ends pure Python code that spins; a blocking call has to return first."""
        interrupt_thread(self._thread)

    def stack(self) -> str:
        """Gives the thread's stack as it stands, without any values."""
        frame = _frame_of(self._thread)
        return "".join(traceback.format_stack(frame)) if frame else ""

    def where(self) -> str:
        """Says which line the thread is at: the innermost outside the standard library, as ``folder/file.py:12``."""
        return place_of_thread(self._thread)

    # ── inside the thread ────────────────────────────────────────────────────

    def _main(self) -> None:
        _here.thread = self
        try:
            self.loop.call_soon(self._beat)
            while not self._ending:
                self._turn()
            self._wind_down()
        except BaseException as error:  # noqa: BLE001 -- a late interruption; there is nobody above to tell
            self._on_trouble(f"ended with {type(error).__name__}")

    def _turn(self) -> None:
        try:
            self.loop.run_forever()
        except BaseException as error:  # noqa: BLE001 -- SystemExit in a plugin's own task must not end the lane
            if not self._ending:
                self._on_trouble(f"raised {type(error).__name__} into its event loop")

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        self.loop.call_later(_BEAT_S, self._beat)

    def _wind_down(self) -> None:
        try:
            self.loop.run_until_complete(self._finish())
        finally:
            self.loop.close()

    async def _finish(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._grace_s)
        for close in reversed(self.closers):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace_s):
                    await close()
        await self.loop.shutdown_asyncgens()

    def _on_escaped(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # Only the type: the text of somebody else's exception may hold a member's data.
        error = context.get("exception")
        if self._ending or isinstance(error, _GivenUp):
            return
        what = type(error).__name__ if error is not None else "a task that never ended"
        self._on_trouble(f"left {what} behind in its event loop")


def interrupt_thread(thread: threading.Thread) -> None:
    """Raises inside ``thread`` at its next step of Python code, unless it is inside machinery that holds locks."""
    frame = _frame_of(thread)
    module = str(frame.f_globals.get("__name__", "")) if frame else ""
    if thread.ident is None or not thread.is_alive() or module.partition(".")[0] in _NEVER_INTERRUPTED:
        return
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_GivenUp))


def place_of_thread(thread: threading.Thread) -> str:
    """Gives ``folder/file.py:12`` of the innermost frame that is not the standard library's, or a plain word."""
    frame = _frame_of(thread)
    while frame is not None:
        if not is_stdlib(frame.f_code.co_filename):
            return f"{'/'.join(PurePath(frame.f_code.co_filename).parts[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "an unknown place"


def is_stdlib(filename: str) -> bool:
    """Says whether a source file belongs to Python itself."""
    # Without a virtual environment, installed packages live below the standard library.
    return filename.startswith((_STDLIB, "<frozen")) and "-packages" not in filename


def _frame_of(thread: threading.Thread) -> FrameType | None:
    return sys._current_frames().get(thread.ident) if thread.ident is not None else None
