"""A place that files are put in: the few things that a folder and an SFTP server both can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from samband.errors import UnavailableError

__all__ = ["Entry", "Place", "trouble"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file in a folder. ``changed`` only tells one state of it from another."""

    name: str
    size: int
    changed: float


class Place(Protocol):
    """An opened drop point. ``folder`` is a folder inside it, empty for itself; names hold no slash.

    Whatever goes wrong is an `UnavailableError`: the caller knows what was done by then.
    """

    async def prepare(self, *folders: str) -> None:
        """Makes folders that are not there."""

    async def write(self, folder: str, name: str, content: bytes) -> None:
        """Writes a file, and returns when it is on the disk; one of that name is replaced."""

    async def rename(self, old: str, new: str) -> None:
        """Gives a file in the drop point itself its name, at once and for good."""

    async def size(self, folder: str, name: str) -> int | None:
        """Gives a file's size; None when it is not there."""

    async def read(self, folder: str, name: str, limit: int) -> bytes | None:
        """Gives what is in a file, up to ``limit`` bytes and one more; None when it is not there."""

    async def entries(self, folder: str) -> list[Entry]:
        """Gives the files in a folder, in the order of their names; none for a folder that is not there."""

    async def remove(self, folder: str, name: str) -> bool:
        """Takes a file away; tells whether it was there."""


def trouble(message: str, *, code: str = "drop_unavailable", hint: str = "") -> UnavailableError:
    """Gives the error for a drop point that does not do what it should."""
    return UnavailableError(message, code=code, hint=hint or "Test the drop point; the files are kept meanwhile.")
