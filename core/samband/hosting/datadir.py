"""One host per data directory: two on the same files would undo each other's work."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import Final

from samband.errors import ConfigurationError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK_FILE", "DataDirLock"]

LOCK_FILE: Final = "in-use.lock"


class DataDirLock:
    """Holds a directory for this process, from `acquire` to `release` or to the end of the process, however it ends.

    The lock is the operating system's and goes with the process, so nothing is left to clean up after a crash. Programs
    started from here do not inherit it. The file stays: deleting it would let two processes lock two files of one name.

    Args:
        directory: Created, readable by its owner alone, when it does not exist.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._fd: int | None = None

    def acquire(self) -> None:
        """Takes the directory; does nothing when this object holds it already.

        Raises:
            ConfigurationError: Another process has it (``data_dir_in_use``), the directory cannot be written
                (``data_dir_unusable``), or the system has no such lock (``platform_unsupported``).
        """
        if self._fd is not None:
            return
        if fcntl is None:
            raise ConfigurationError(
                "This system cannot lock a data directory.",
                code="platform_unsupported",
                hint="Run samband on Linux or macOS; on Windows use WSL or a container.",
            )
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise self._refusal(error, holder) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        _held.add(self)

    def release(self) -> None:
        """Gives the directory back; safe to call again."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            # By name, and not only by closing: a child that was just forked may still have the file open.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self._let_go()

    def __enter__(self) -> DataDirLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _open(self) -> int:
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Python opens files close-on-exec: a started program cannot hold the lock.
            return os.open(self.directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"The data directory {self.directory} cannot be written: {error.strerror}.",
                code="data_dir_unusable",
                field="SAMBAND_DATA_DIR",
                hint="Choose a directory that the host's user owns.",
            ) from error

    def _refusal(self, error: OSError, holder: str) -> ConfigurationError:
        if not isinstance(error, BlockingIOError):
            return ConfigurationError(
                f"The data directory {self.directory} cannot be locked: {error.strerror}.",
                code="data_dir_unusable",
                field="SAMBAND_DATA_DIR",
                hint="Put it on a local disk.",
            )
        who = f"process {holder}" if holder.isdigit() else "another process"
        return ConfigurationError(
            f"The data directory {self.directory} is in use by {who}.",
            code="data_dir_in_use",
            field="SAMBAND_DATA_DIR",
            hint="Stop that process first, or give this host a directory of its own.",
        )

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        _held.discard(self)


_held: weakref.WeakSet[DataDirLock] = weakref.WeakSet()


def _let_go_in_fork() -> None:
    """Closes what a fork without exec (a process pool) would hold on to after the host itself is gone."""
    for lock in list(_held):
        lock._let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_fork)
