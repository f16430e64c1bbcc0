"""aiohttp applications on 127.0.0.1, served from a thread of their own.

The thread has its own event loop, so a server started here outlives the loop of one test (a class can share it), goes
on answering while a test blocks, and works the same from plain and from async tests.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from aiohttp import web

__all__ = ["ServerThread", "serve"]

T = TypeVar("T")

HOST = "127.0.0.1"
_CALL_LIMIT_S = 30.0  # a hang in a server under test must end the test, not the build


class ServerThread:
    """An event loop that runs in a daemon thread until it is closed."""

    def __init__(self, name: str = "samband-loopback") -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Gives the coroutine's result; blocks the calling thread until it is there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(_CALL_LIMIT_S)

    def close(self) -> None:
        """Cancels what still runs, ends the thread and closes the loop."""
        self.run(self._cancel_rest())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_CALL_LIMIT_S)
        self.loop.close()

    async def _cancel_rest(self) -> None:
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self.loop.shutdown_asyncgens()


@contextmanager
def serve(app: web.Application) -> Iterator[str]:
    """Gives the address of a running application, for instance ``http://127.0.0.1:41234``; stops it at the end."""
    thread = ServerThread()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    try:
        yield thread.run(_start(runner))
    finally:
        thread.run(runner.cleanup())
        thread.close()


async def _start(runner: web.AppRunner) -> str:
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    return f"http://{HOST}:{runner.addresses[0][1]}"
