"""Does with many at once what each asks for alone.

What is asked for while one round is at work forms the next round: under load a round is large, alone it is one, and nobody
ever waits for others to come.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Gathering"]

T = TypeVar("T")
R = TypeVar("R")


class Gathering(Generic[T, R]):
    """Answers each `ask` with its part of what a round gave.

    Needs no start and no end: rounds go on in a task of their own for as long as somebody waits. The task acts for nobody
    in particular, whoever asked first.

    Args:
        work: One round: gives a result or an error for each of the things asked for, in their order. What it raises
            itself is everybody's error.
        at_most: In one round.
        side_by_side: Rounds that may be at work at once.
    """

    def __init__(
        self, work: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]], *, at_most: int = 500,
        side_by_side: int = 1,
    ) -> None:  # fmt: skip
        self._work = work
        self._at_most = at_most
        self._side_by_side = side_by_side
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_work = 0

    @property
    def depth(self) -> int:
        """How many wait for a round."""
        return len(self._waiting)

    async def ask(self, thing: T) -> R:
        """Gives the thing's result once its round is over, or raises its error."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((thing, future))
        if self._at_work < self._side_by_side:
            self._at_work += 1
            # An empty context: a round is no part of the request that happened to come first.
            task = asyncio.create_task(self._go_on(), name="samband-round", context=contextvars.Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _go_on(self) -> None:
        try:
            while self._waiting:
                asked = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._at_most))]
                try:
                    await self._round(asked)
                finally:
                    for _, future in asked:
                        future.cancel()  # only what the round, cut off, left unanswered
        finally:
            # In one step with the last look at who waits: whoever comes after it has to start a task.
            self._at_work -= 1

    async def _round(self, asked: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        results: Sequence[R | Exception]
        try:
            results = await self._work([thing for thing, _ in asked])
        except Exception as error:  # noqa: BLE001 -- it is raised where it was asked for
            results = [error] * len(asked)
        for (_, future), result in zip(asked, results, strict=True):
            if future.done():  # whoever asked has gone
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
