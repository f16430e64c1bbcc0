"""Web origins exchanged in text, so that links keep leading through a proxy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

__all__ = ["Rewriter"]


class Rewriter:
    """Replaces web origins in text: plain, percent-encoded and with JSON's escaped slashes."""

    def __init__(self, origins: Mapping[str, str]) -> None:
        self._forms = {form: new for old, to in origins.items() for form, new in _forms(old, to)}
        longest_first = sorted(self._forms, key=len, reverse=True)
        # Without the look-ahead http://127.0.0.1:80 would match inside http://127.0.0.1:8080.
        self._pattern = re.compile("(?:" + "|".join(map(re.escape, longest_first)) + r")(?![0-9])", re.IGNORECASE)
        self._forms = {form.lower(): new for form, new in self._forms.items()}

    def text(self, text: str) -> str:
        return self._count(text)[0]

    def body(self, body: bytes) -> bytes:
        return self.body_and_count(body)[0]

    def body_and_count(self, body: bytes) -> tuple[bytes, int]:
        # Latin-1 maps every byte to itself and back, so bodies of any encoding pass through unharmed.
        text, count = self._count(body.decode("latin-1"))
        return text.encode("latin-1"), count

    def values(self, value: Any, *, key: str = "") -> Any:
        """Rewrites the fields of a nested mapping whose name ends in ``url``; everything else stays as it is."""
        if isinstance(value, Mapping):
            return {name: self.values(inner, key=str(name)) for name, inner in value.items()}
        return self.text(value) if isinstance(value, str) and key.lower().endswith("url") else value

    def _count(self, text: str) -> tuple[str, int]:
        if not self._forms:
            return text, 0
        return self._pattern.subn(lambda match: self._forms[match[0].lower()], text)


def _forms(old: str, new: str) -> Iterator[tuple[str, str]]:
    yield old, new
    yield quote(old, safe=""), quote(new, safe="")
    yield json.dumps(old)[1:-1].replace("/", "\\/"), json.dumps(new)[1:-1].replace("/", "\\/")
