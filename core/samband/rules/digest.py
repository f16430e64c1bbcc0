"""Names the circumstances under which values were taken in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

INTAKE_VERSION = 1
"""Raised when validation or conversion in the core changes what is stored for the same row."""


def intake_digest(settings: Mapping[str, Any], plugin_version: str) -> str:
    """Gives eight hex digits that change whenever settings, plugin or our own intake do.

    A cursor and a version tag are only worth something under the circumstances they were made in: with another field
    mapping the same row gives other values.
    """
    told = orjson.dumps([INTAKE_VERSION, plugin_version, settings], option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.blake2b(told, digest_size=4).hexdigest()
