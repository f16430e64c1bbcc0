"""A lane: the event loop, in a thread of its own, that one plugin's code runs on.

A plugin that blocks or spins stops its own lane and nothing else. Work enters with `Lane.run` and `Lane.iterate`, which
are awaited on the core's loop; both loops speak through ``call_soon_threadsafe`` alone, so no field is ever written
from two threads.

What one process cannot prevent: code that holds the interpreter's lock inside an extension module (a runaway regular
expression, for instance) stops every thread for as long as it lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from samband.adapters.loopthread import LoopThread
from samband.errors import ContractError, PluginError, UnavailableError

__all__ = ["Lane"]

T = TypeVar("T")
S = TypeVar("S")


class Lane:
    """The thread and loop that belong to one plugin, replaced by fresh ones when the plugin does not give them back.

    Args:
        name: The plugin's name, for messages and for the thread.
        grace_s: How long cancelled work may take to end.
        stall_limit_s: A lane whose loop has not turned for this long while somebody waits is given up.
        max_abandoned: How many lanes may be given up before the plugin is refused until the host restarts.
        on_trouble: Told in one sentence whenever a lane is given up, or something escapes into the loop.
    """

    def __init__(
        self,
        name: str,
        *,
        grace_s: float = 2.0,
        stall_limit_s: float = 60.0,
        max_abandoned: int = 3,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self._grace_s = grace_s
        self._stall_limit_s = stall_limit_s
        self._max_abandoned = max_abandoned
        self._on_trouble = on_trouble or (lambda reason: None)
        self._thread: LoopThread | None = None
        self._calls: set[_Call[Any]] = set()
        self._closed = False
        self.abandoned = 0
        self.last_stack = ""

    # ── what callers use, on the core's loop ─────────────────────────────────

    def start(self) -> None:
        """Starts the thread now instead of with the first call; does nothing when it runs."""
        self._current()

    @property
    def stalled_for_s(self) -> float:
        """Says for how long the loop has been overdue; 0.0 while it turns, and before it is started."""
        return 0.0 if self._thread is None else self._thread.stalled_for_s

    async def run(self, factory: Callable[[], Awaitable[T]], *, timeout_s: float) -> T:
        """Gives what the awaitable from ``factory`` gives; both are called and awaited inside the lane.

        Cancelling the caller cancels the work. Exceptions keep their type and traceback.

        Raises:
            TimeoutError: It took longer than ``timeout_s`` and has been cancelled.
            UnavailableError: ``plugin_stuck``: the lane did not even notice the cancellation, and was given up.
            ContractError: The work raised what belongs to the interpreter or the loop (``SystemExit``, …).
            PluginError: Too many lanes were given up, or this one is closed.
        """

        async def work(call: _Call[T]) -> None:
            call.deliver(await factory())

        call = self._begin(work, room=1)
        try:
            await self._wait_for(call, lambda: call.ended, timeout_s)
        finally:
            await self._end(call)
        call.raise_error()
        return call.items.popleft()

    async def iterate(
        self,
        factory: Callable[[], AsyncIterator[S]],
        *,
        timeout_s: float,
        prepare: Callable[[S], T],
        ahead: int = 1,
    ) -> AsyncGenerator[T, None]:
        """Yields the prepared items of the iterator from ``factory``, which runs inside the lane.

        While the consumer works on one item the lane fetches and prepares up to ``ahead`` more, and never holds more.
        Closing the generator, or cancelling its consumer, closes the iterator inside the lane.

        Args:
            factory: Called inside the lane.
            timeout_s: Longest wait for one item.
            prepare: Called with each item inside the lane, so that heavy conversion does not burden the core's loop.
            ahead: Items fetched before they are asked for.

        Raises:
            The same as `run`.
        """

        async def work(call: _Call[T]) -> None:
            await _pump(call, factory(), prepare)

        call = self._begin(work, room=ahead)
        try:
            while True:
                call.grant()
                await self._wait_for(call, lambda: bool(call.items) or call.ended, timeout_s)
                if not call.items:
                    break
                # No local name for the item: it would stay alive while the next one is waited for.
                yield call.items.popleft()
        finally:
            await self._end(call)
        call.raise_error()

    def at_end(self, close: Callable[[], Awaitable[None]]) -> None:
        """Has ``close`` awaited in the lane's loop before that loop ends. To be called inside the lane."""
        thread = LoopThread.current()
        if thread is None:
            raise RuntimeError("Lane.at_end must be called from work that runs inside a lane.")
        thread.closers.append(close)

    async def close(self) -> None:
        """Cancels what runs, closes what was registered with `at_end`, and ends the thread within the grace."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._fail_calls(thread, "is stopped because the host stops", code="host_stopping")
        if not await thread.end(self._grace_s * 2):
            self._report(f"did not stop when the host did (in {thread.where()})", thread)
            thread.interrupt()

    # ── giving work to the thread, and getting it back ───────────────────────

    def _current(self) -> LoopThread:
        if self._closed:
            raise PluginError(f"{self.name} is stopped.", code="plugin_stopped")
        if self._thread is not None and not self._thread.is_alive:
            self._abandon(self._thread, is_blocked=False)
        if self._thread is None:
            if self.abandoned >= self._max_abandoned:
                raise PluginError(
                    f"{self.name} did not give its event loop back {self.abandoned} times and is not called any more.",
                    code="plugin_refused",
                    hint="Update or mend the plugin, then restart the host.",
                )
            self._thread = LoopThread(self.name, grace_s=self._grace_s, on_trouble=self._on_trouble)
            self._thread.start()
        return self._thread

    def _begin(self, work: Callable[[_Call[T]], Awaitable[None]], room: int) -> _Call[T]:
        call = _Call[T](self.name, self._current(), room)
        self._calls.add(call)
        call.begin(work)
        return call

    async def _wait_for(self, call: _Call[Any], is_there: Callable[[], bool], timeout_s: float) -> None:
        """Waits until ``is_there``, for at most ``timeout_s``, with an eye on whether the lane's loop turns at all."""
        deadline = time.monotonic() + timeout_s
        while not is_there():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                await self._time_out(call, timeout_s)
                return
            if await self._stays_stalled(call):
                self._abandon(call.thread, is_blocked=True)
                return
            call.news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, max(0.05, self._stall_limit_s / 2))):
                    await call.news.wait()

    async def _stays_stalled(self, call: _Call[Any]) -> bool:
        if call.thread.stalled_for_s <= self._stall_limit_s:
            return False
        # When the whole process was stopped for a while, every lane looks stalled until it has turned once.
        await asyncio.sleep(self._grace_s)
        return call.thread.stalled_for_s > self._stall_limit_s and not call.ended

    async def _time_out(self, call: _Call[Any], timeout_s: float) -> None:
        if not await self._cancel(call):
            self._abandon(call.thread, is_blocked=not call.saw_cancel)
        elif call.saw_cancel:
            raise TimeoutError(f"{self.name} gave no answer within {timeout_s:g} s")
        # Otherwise it ended by itself, just before it would have been cancelled.

    async def _end(self, call: _Call[Any]) -> None:
        """Leaves nothing of the call running, as far as its plugin lets us."""
        try:
            if not call.ended and not await self._cancel(call) and call.saw_cancel:
                self._abandon(call.thread, is_blocked=False)
        finally:
            call.cancel()
            self._calls.discard(call)

    async def _cancel(self, call: _Call[Any]) -> bool:
        """Cancels the work and says whether it ended within the grace.

        A second request follows the first, because closing a generator may itself hang.
        """
        for _ in range(2):
            call.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace_s):
                    await call.over.wait()
            if call.ended or not call.saw_cancel:
                break
        return call.ended

    def _abandon(self, thread: LoopThread, *, is_blocked: bool) -> None:
        """Gives a thread up: whoever waits for it is told, and the next call gets a fresh one."""
        if thread is not self._thread:
            self._fail_calls(thread, "was given up")
            return
        self._thread = None
        self.abandoned += 1
        habit = f"blocked its event loop in {thread.where()}" if is_blocked else "went on after it was cancelled"
        self._report(habit, thread)
        thread.give_up(interrupt=is_blocked)
        self._fail_calls(thread, habit)

    def _fail_calls(self, thread: LoopThread, why: str, *, code: str = "plugin_stuck") -> None:
        hint = "" if code != "plugin_stuck" else "Hooks must await; blocking libraries belong in asyncio.to_thread."
        for call in list(self._calls):
            if call.thread is thread:
                # One error each: an exception that several tasks raise would collect the tracebacks of all of them.
                call.finish(UnavailableError(f"{self.name} {why}; its work was given up.", code=code, hint=hint))

    def _report(self, reason: str, thread: LoopThread) -> None:
        self.last_stack = thread.stack()
        self._on_trouble(reason)


class _Call(Generic[T]):
    """One piece of work in a lane, seen from both loops.

    Fields of the first group are touched on the core's loop only, those of the second inside the lane only. Each side
    changes the other's by ``call_soon_threadsafe``, which keeps the order.
    """

    def __init__(self, name: str, thread: LoopThread, room: int) -> None:
        self.name = name
        self.thread = thread
        self.core = asyncio.get_running_loop()
        self.items: deque[T] = deque()
        self.news = asyncio.Event()
        self.over = asyncio.Event()
        self.error: BaseException | None = None
        self.saw_cancel = False

        self._task: asyncio.Task[None] | None = None
        self._room = room
        self._granted: asyncio.Future[None] | None = None
        self._is_cancelled = False

    # ── on the core's loop ───────────────────────────────────────────────────

    @property
    def ended(self) -> bool:
        return self.over.is_set()

    def begin(self, work: Callable[[_Call[T]], Awaitable[None]]) -> None:
        context = contextvars.copy_context()  # so that log lines inside the lane say what they are about
        if not self.thread.post(self._start, work, context):
            self.finish(UnavailableError(f"{self.name} has just been stopped.", code="plugin_stuck"))

    def grant(self) -> None:
        """Allows the lane one more item."""
        self.thread.post(self._on_grant)

    def cancel(self) -> None:
        if not self.ended:
            self.thread.post(self._on_cancel)

    def finish(self, error: BaseException | None) -> None:
        """Ends the call for its caller; whatever the lane still sends is dropped."""
        if not self.ended:
            self.error = error
            self.over.set()
            self.news.set()

    def raise_error(self) -> None:
        """Raises what the work raised, turned into a `ContractError` where it would harm the caller's own loop."""
        error, self.error = self.error, None
        if error is None:
            return
        if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
            raise error
        raise ContractError(
            f"{self.name} raised {type(error).__name__}.", hint="A hook may only raise errors."
        ) from error

    def _take(self, item: T) -> None:
        if not self.ended:
            self.items.append(item)
            self.news.set()

    def _note_cancel(self) -> None:
        self.saw_cancel = True

    # ── inside the lane ──────────────────────────────────────────────────────

    def deliver(self, item: T) -> None:
        self.core.call_soon_threadsafe(self._take, item)

    async def take_room(self) -> None:
        """Waits until the consumer has room for one more item."""
        while self._room <= 0:
            self._granted = asyncio.get_running_loop().create_future()
            await self._granted
        self._room -= 1

    def _on_grant(self) -> None:
        self._room += 1
        if self._granted is not None and not self._granted.done():
            self._granted.set_result(None)

    def _start(self, work: Callable[[_Call[T]], Awaitable[None]], context: contextvars.Context) -> None:
        self._task = asyncio.get_running_loop().create_task(self._contained(work), context=context)

    def _on_cancel(self) -> None:
        self._is_cancelled = True
        self._tell_core(self._note_cancel)
        if self._task is not None:
            self._task.cancel()

    async def _contained(self, work: Callable[[_Call[T]], Awaitable[None]]) -> None:
        error: BaseException | None = None
        try:
            await work(self)
        except asyncio.CancelledError as cancelled:
            error = None if self._is_cancelled else cancelled
        except BaseException as raised:  # noqa: BLE001 -- the loop must survive whatever a plugin raises
            error = raised
        self._tell_core(self.finish, error)

    def _tell_core(self, callback: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the core's loop is closed: nobody is left to be told
            self.core.call_soon_threadsafe(callback, *args)


async def _pump(call: _Call[T], iterator: AsyncIterator[S], prepare: Callable[[S], T]) -> None:
    try:
        while True:
            await call.take_room()
            try:
                item = await anext(iterator)
            except StopAsyncIteration:
                return
            call.deliver(prepare(item))
            del item  # or it would stay alive while the next one is fetched
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
