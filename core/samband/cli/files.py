"""What commands read from files and from standard input: settings, claims, deliveries, and everything that is secret."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from samband.errors import ConfigurationError

__all__ = ["read_bytes", "read_object", "read_secret", "read_texts"]


def read_bytes(path: Path, what: str) -> bytes:
    """Gives what is in a file, or on standard input for ``-``."""
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        problem = f"The {what} cannot be read from {path}: {error.strerror}."
        raise ConfigurationError(problem, code="file_unreadable", field=what) from error


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Gives the JSON object in a file, or on standard input for ``-``; an error never repeats its content."""
    try:
        found = orjson.loads(read_bytes(path, what))
    except orjson.JSONDecodeError as error:
        problem = f"The {what} are not JSON: the reading stopped at line {error.lineno}, column {error.colno}."
        raise ConfigurationError(problem, code="not_json", field=what) from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"The {what} must be one JSON object.", code="not_json", field=what)
    return found


def read_texts(path: Path | None, what: str) -> Mapping[str, str]:
    """Gives the JSON object of texts in a file; an empty one without a file."""
    found = {} if path is None else read_object(path, what)
    if not all(isinstance(value, str) for value in found.values()):
        raise ConfigurationError(f"The {what} must be a JSON object of texts.", code="not_json", field=what)
    return found


def read_secret(path: Path | None) -> str | None:
    """Gives the one line of a file, or of standard input for ``-``; None without a file. An error never repeats it."""
    if path is None:
        return None
    try:
        secret = read_bytes(path, "secret").decode("ascii").strip()
    except UnicodeDecodeError:
        secret = ""
    if not secret or not secret.isprintable():
        problem = "The secret must be one line of printable ASCII."
        raise ConfigurationError(problem, code="bad_secret", field="secret")
    return secret
