"""Runs a plugin's simulator as a process of its own, and speaks the little that all simulators have in common.

The simulator protocol: ``python -m <manifest.simulator> --port N --members N`` prints one line of JSON on standard output
once it answers (``name``, ``base_url``, ``settings``, ``credentials``, ``control_url``) and ends on SIGTERM. Behind
``control_url`` it takes ``POST touch`` with ``{"create": n, "update": n, "delete": [ids]}``, changes its records behind
the API's back, and answers with ``changes`` (per table the ids that were ``created``) and ``expected`` (per table the
``upserted_ids`` and ``deleted_ids`` that a read of the changes must find).

A simulator of books that vouchers go to has no members. Its line has a ``mapping`` that fits its accounts, and behind
``control_url`` it takes ``POST job/run``: it does at once what such a system does by itself some time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from samband.errors import ConfigurationError, RemoteError

__all__ = ["SimulatorProcess", "Touched"]

_ANSWERS_WITHIN_S: Final = 60.0
_ENDS_WITHIN_S: Final = 5.0
_LINE_LIMIT: Final = 1024 * 1024

# The kernel ends the simulator with this process (PR_SET_PDEATHSIG is 1, see prctl(2)), however this process ends. A
# small Python asks for that and then becomes the simulator, because code between fork and exec may deadlock.
_DIE_WITH_PARENT: Final = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """What a simulator says it changed: what a read of the changes must find, no more and no less.

    Attributes:
        created: Their keys of the records that are new.
        updated: Of those that were there and are different now.
        deleted: Of those that are gone.
    """

    created: frozenset[str]
    updated: frozenset[str]
    deleted: frozenset[str]


class SimulatorProcess:
    """One running simulator.

    Args:
        module: What ``python -m`` runs.
        arguments: Passed on as they are.
    """

    def __init__(self, module: str, arguments: Sequence[str] = ()) -> None:
        self.module = module
        self._arguments = list(arguments)
        self._process: asyncio.subprocess.Process | None = None
        self.line = b""
        self.address: dict[str, Any] = {}

    async def start(self) -> dict[str, Any]:
        """Starts it and gives what its line says.

        Raises:
            ConfigurationError: It ended or stayed silent; its own words are on standard error.
        """
        launch = [sys.executable, "-c", _DIE_WITH_PARENT, str(os.getpid()), "-m", self.module, *self._arguments]
        self._process = await asyncio.create_subprocess_exec(
            *launch,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
            # Ctrl-C in a terminal goes to every process of the group: stopping is this process's to do, in order.
            start_new_session=True,
        )
        try:
            self.address = await self._first_line(self._process)
        except BaseException:
            await self.stop()
            raise
        return self.address

    async def wait(self) -> int:
        """Returns its exit code when it has ended."""
        return await self._running().wait()

    async def stop(self) -> None:
        """Ends it; safe to call again."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_ENDS_WITHIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def touch(self, *, create: int = 0, update: int = 0, delete: Collection[str] = ()) -> Touched:
        """Changes records at the other side, as people there would, and gives what must arrive of it.

        Args:
            create: How many new ones.
            update: How many of those that are there.
            delete: Keys of those to delete.
        """
        answer = await self._control("touch", {"create": create, "update": update, "delete": sorted(delete)})
        created = _keys(change["created"] for change in answer["changes"].values())
        upserted = _keys(table["upserted_ids"] for table in answer["expected"].values())
        deleted = _keys(table["deleted_ids"] for table in answer["expected"].values())
        return Touched(created=created & upserted, updated=upserted - created, deleted=deleted)

    async def work(self) -> None:
        """Has it do at once what the system itself does some time, such as posting what lies in its import list."""
        await self._control("job/run", {})

    async def _control(self, door: str, order: dict[str, Any]) -> Any:
        timeout = aiohttp.ClientTimeout(total=_ANSWERS_WITHIN_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(f"{self.address['control_url']}/{door}", json=order) as response,
            ):
                answer = orjson.loads(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError) as error:
            raise RemoteError(f"The simulator {self.module} does not answer at its control door.") from error
        if response.status != 200:
            words = str(answer.get("error", ""))
            raise RemoteError(f"The simulator {self.module} refused what it was told to do.", remote_message=words)
        return answer

    async def _first_line(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        if process.stdout is None:
            raise RuntimeError("The simulator was started without a pipe.")
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                self.line = await process.stdout.readline()
            found = orjson.loads(self.line)
        except (TimeoutError, ValueError):
            found = None
        if not isinstance(found, dict) or not {"settings", "credentials", "control_url"} <= found.keys():
            raise ConfigurationError(
                f"The simulator {self.module} did not say where it answers.",
                code="simulator_failed",
                hint=f"Try it by itself: python -m {self.module} {' '.join(self._arguments)}".rstrip(),
            )
        return found

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("The simulator has not been started.")
        return self._process


def _keys(lists: Iterable[Iterable[str]]) -> frozenset[str]:
    return frozenset(key for keys in lists for key in keys)
