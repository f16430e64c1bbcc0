"""A drop point that is a folder of this machine, or one that is mounted here."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from samband.errors import UnavailableError
from samband.twin.place import Entry, trouble

__all__ = ["FolderPlace"]

T = TypeVar("T")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STEP_TIMEOUT_S: Final = 60.0


class FolderPlace:
    """Walks down from the root by file descriptors, one folder at a time, so that no link can lead out of it.

    Folders and files are as open as the root itself: whoever may read there may read what is put there.

    Args:
        root: The host's drop root; must exist.
        parts: Folders below it; made when they are first written to.
    """

    def __init__(self, root: Path, parts: tuple[str, ...]) -> None:
        self._root = root
        self._parts = parts

    async def prepare(self, *folders: str) -> None:
        await self._in_thread(lambda: self._prepare(folders))

    async def write(self, folder: str, name: str, content: bytes) -> None:
        await self._in_thread(lambda: self._write(folder, name, content))

    async def rename(self, old: str, new: str) -> None:
        await self._in_thread(lambda: self._rename(old, new))

    async def size(self, folder: str, name: str) -> int | None:
        return await self._in_thread(lambda: self._size(folder, name))

    async def read(self, folder: str, name: str, limit: int) -> bytes | None:
        return await self._in_thread(lambda: self._read(folder, name, limit))

    async def entries(self, folder: str) -> list[Entry]:
        return await self._in_thread(lambda: self._entries(folder))

    async def remove(self, folder: str, name: str) -> bool:
        return await self._in_thread(lambda: self._remove(folder, name))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(_STEP_TIMEOUT_S):
                return await asyncio.to_thread(work)
        except UnavailableError:
            raise
        except TimeoutError:
            raise trouble("The drop folder does not answer.") from None
        except OSError as error:
            # The path is the operator's and not for everybody; the reason is enough to act on.
            raise trouble(f"The drop folder cannot be used: {error.strerror or type(error).__name__}.") from None

    # ── in the thread ────────────────────────────────────────────────────────

    def _prepare(self, folders: tuple[str, ...]) -> None:
        for folder in ("", *folders):
            with self._opened(folder, is_made=True):
                pass

    def _write(self, folder: str, name: str, content: bytes) -> None:
        with self._opened(folder, is_made=True) as at:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=at)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, 0o600, dir_fd=at), "wb") as file:
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(self._root).st_mode) & 0o666)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.fsync(at)

    def _rename(self, old: str, new: str) -> None:
        with self._opened("") as at:
            os.rename(old, new, src_dir_fd=at, dst_dir_fd=at)
            os.fsync(at)

    def _size(self, folder: str, name: str) -> int | None:
        with contextlib.suppress(FileNotFoundError), self._opened(folder) as at:
            return os.stat(name, dir_fd=at, follow_symlinks=False).st_size
        return None

    def _read(self, folder: str, name: str, limit: int) -> bytes | None:
        with contextlib.suppress(FileNotFoundError), self._opened(folder) as at:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, dir_fd=at), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise trouble("What lies in the drop folder under that name is no file.")
                return file.read(limit + 1)
        return None

    def _entries(self, folder: str) -> list[Entry]:
        found = []
        with contextlib.suppress(FileNotFoundError), self._opened(folder) as at:
            for name in sorted(os.listdir(at)):
                with contextlib.suppress(FileNotFoundError):
                    told = os.stat(name, dir_fd=at, follow_symlinks=False)
                    if stat.S_ISREG(told.st_mode):
                        found.append(Entry(name=name, size=told.st_size, changed=told.st_mtime))
        return found

    def _remove(self, folder: str, name: str) -> bool:
        with contextlib.suppress(FileNotFoundError), self._opened(folder) as at:
            os.unlink(name, dir_fd=at)
            os.fsync(at)
            return True
        return False

    @contextlib.contextmanager
    def _opened(self, folder: str, *, is_made: bool = False) -> Iterator[int]:
        """Opens a folder inside the drop point; with ``is_made`` it is there afterwards."""
        try:
            at = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise trouble(
                f"The host's drop root cannot be used: {error.strerror or type(error).__name__}.", code="drop_root_missing",
                hint="Whoever runs the host makes the folder that SAMBAND_DROP_ROOT names, or mounts it.",
            ) from None  # fmt: skip
        try:
            mode = stat.S_IMODE(os.fstat(at).st_mode)
            for part in (*self._parts, *([folder] if folder else [])):
                inner = self._step(at, part, mode if is_made else None)
                os.close(at)
                at = inner
            yield at
        finally:
            os.close(at)

    @staticmethod
    def _step(at: int, part: str, mode: int | None) -> int:
        if mode is not None:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=at)
                inner = os.open(part, _DIRECTORY, dir_fd=at)
                os.fchmod(inner, mode)
                os.fsync(at)
                return inner
        try:
            return os.open(part, _DIRECTORY, dir_fd=at)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise trouble(
                "A folder on the way to the drop point is a link or a file.", code="drop_link",
                hint="Put a real folder there: links are not followed, because they could lead out of the drop root.",
            ) from None  # fmt: skip
