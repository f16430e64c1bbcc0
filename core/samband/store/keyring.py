"""The key ring: the master keys, oldest first. The last one seals; every one opens.

A ring is written the same way everywhere it can stand (``SAMBAND_KEY``, a mounted secret, ``keys.json``): each key 32
bytes in base64. A text separates them with commas or white space; the host's own file is ``{"keys": [...]}``.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog

from samband.errors import ConfigurationError

__all__ = ["KEY_BYTES", "KeyFile", "Keys", "id_of", "new_key", "parse_ring"]

KEY_BYTES = 32

Keys = Mapping[bytes, bytes]
"""Key id (8 bytes) → key (32 bytes), oldest first."""

log = structlog.stdlib.get_logger("samband.store.keyring")

_HOW_TO_MAKE = "Make one with: samband keys generate --print"


def id_of(key: bytes) -> bytes:
    """Gives a key's id: eight bytes that tell keys apart and say nothing of them."""
    return hashlib.blake2b(key, digest_size=8, person=b"samband-key").digest()


def new_key() -> str:
    """Makes a key, as it is written in a ring."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def parse_ring(text: str, *, field: str = "SAMBAND_KEY") -> Keys:
    """Gives the keys that stand in a text.

    Raises:
        ConfigurationError: There is none, one is not 32 bytes in base64, or one is there twice: then nobody can say
            which place in the order is meant. It never repeats the text.
    """
    keys: dict[bytes, bytes] = {}
    for number, written in enumerate(re.split(r"[\s,]+", text.strip()), 1):
        key = _decoded(written)
        if key is None:
            problem = f"Key {number} of the ring is not 32 bytes written in base64."
            raise ConfigurationError(problem, code="key_malformed", hint=_HOW_TO_MAKE, field=field)
        if id_of(key) in keys:
            raise ConfigurationError(
                f"The key {id_of(key).hex()} is twice in the ring.",
                code="key_repeated",
                hint="Leave one of the two out. The last key of the ring seals, the others only open.",
                field=field,
            )
        keys[id_of(key)] = key
    return keys


class KeyFile:
    """A ring that stands in a file, read again whenever the file has changed: a running host takes up a new key.

    Args:
        path: ``keys.json``, or a mounted secret with the keys as text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: Keys | None = None
        self._is_told = False

    def keys(self) -> Keys:
        """Gives the ring; the same object as long as the file is the same.

        Raises:
            ConfigurationError: The file cannot be read (``key_file_damaged``) and never could. One that was readable
                before is told of in the log, and what it held then stays in use.
        """
        try:
            stamp = _stamp(self.path)
            if self._keys is None or stamp != self._seen:
                self._keys, self._seen = self._read(), stamp
            self._is_told = False
        except (OSError, ConfigurationError) as err:
            if self._keys is None and getattr(err, "code", "") == "key_repeated":
                raise
            if self._keys is None:
                raise self._damaged() from err
            if not self._is_told:  # once, not for every secret that is opened
                log.warning("key_file_unreadable", file=self.path.name, error=type(err).__name__)
            self._is_told = True
        return self._keys

    def create(self) -> None:
        """Makes the file with a first key, readable by its owner alone; leaves one that is there as it is."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._written([new_key()])
        try:
            # Linked in whole, so that a crash leaves no half key and of two starters one wins.
            os.link(fresh, self.path)
        except FileExistsError:
            return
        finally:
            fresh.unlink()
        _sync_directory(self.path.parent)

    def add(self) -> bytes:
        """Adds a new key at the end, which seals from now on, and gives its id. The keys before it stay."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._held():
            # Read under the lock: of two who add at once neither may undo the other's, for it may have sealed already.
            keys = dict(self._read()) if self.path.exists() else {}
            written = new_key()
            self._written([base64.b64encode(key).decode() for key in keys.values()] + [written]).replace(self.path)
            _sync_directory(self.path.parent)
        return id_of(base64.b64decode(written))

    def _read(self) -> Keys:
        text = self.path.read_text("utf-8")
        if not text.lstrip().startswith("{"):
            return parse_ring(text, field=self.path.name)
        try:
            listed = json.loads(text)["keys"]
            return parse_ring(" ".join(listed), field=self.path.name)
        except (ValueError, KeyError, TypeError) as err:
            raise self._damaged() from err

    def _damaged(self) -> ConfigurationError:
        return ConfigurationError(
            f"The key file {self.path} cannot be read.",
            code="key_file_damaged",
            hint="Restore it from your backup: without it the stored credentials cannot be opened.",
        )

    def _written(self, keys: list[str]) -> Path:
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump({"keys": keys}, file)
            file.flush()
            os.fsync(file.fileno())
        return fresh

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Holds a lock beside the file, which itself is replaced; the lock goes with the process."""
        import fcntl  # here, because Windows has none and can still use the rest

        handle = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _decoded(written: str) -> bytes | None:
    try:
        key = base64.b64decode(written.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_BYTES else None


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
