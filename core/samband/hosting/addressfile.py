"""How a command finds the host that runs on a data directory: a small file that says where its API answers."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Final

import orjson

__all__ = ["ADDRESS_FILE", "read_address", "write_address", "write_private"]

ADDRESS_FILE: Final = "host.json"


def write_address(data_dir: Path, url: str) -> Path:
    """Writes down that this process answers at ``url``, and gives the file, which is to be removed at the end."""
    path = data_dir / ADDRESS_FILE
    now = dt.datetime.now(dt.UTC).isoformat()
    write_private(path, orjson.dumps({"url": url, "pid": os.getpid(), "started_at": now}))
    return path


def read_address(data_dir: Path) -> str | None:
    """Gives the address of the host that runs on the directory, or None when none does.

    A host that was killed leaves its file behind. Whatever listens on its port by now must not be sent an API key, so
    the process has to be alive.
    """
    try:
        found = orjson.loads((data_dir / ADDRESS_FILE).read_bytes())
        os.kill(int(found["pid"]), 0)
        return str(found["url"])
    except PermissionError:
        return None  # another user's process: not a host that this user started
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)
