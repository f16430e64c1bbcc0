"""The language of a mapping's texts: ``{placeholder}`` and ``{placeholder|default}``, and nothing that can be computed.

A template is read when the mapping is saved, so a placeholder that does not exist is an error of that field then, and not
of a claim later. What a claim puts into a placeholder is never read as a template again.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

__all__ = ["IN_CLAIM", "IN_LINE", "MAX_TEXT", "Template", "clean", "read_template"]

IN_CLAIM: Final = ("date", "claim", "payee.id", "payee.name", "text")
"""What is known of a claim as a whole."""
IN_LINE: Final = ("expense_type", "receipt", *IN_CLAIM)
"""What is known of one of its lines; ``date`` and ``text`` are the line's then."""
MAX_TEXT: Final = 200

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_DROPPED: Final = ("Cf", "Cs")  # direction marks and halves of characters: they show nothing, and mislead
_SPACED: Final = ("Cc", "Zl", "Zp")


@dataclass(frozen=True, slots=True)
class Template:
    """A template that was read.

    Attributes:
        pieces: Literal texts, and (placeholder, default) in between.
    """

    pieces: tuple[str | tuple[str, str], ...]

    def render(self, values: Mapping[str, str]) -> str:
        """Gives the text, on one line and without control characters; empty values give way to their defaults."""
        return clean(
            "".join(piece if isinstance(piece, str) else values.get(piece[0], "") or piece[1] for piece in self.pieces)
        )

    @property
    def literal(self) -> str | None:
        """Gives the text of a template that is the same for every claim; None when it has a placeholder."""
        return None if any(isinstance(piece, tuple) for piece in self.pieces) else self.render({})


@lru_cache(maxsize=4096)
def read_template(source: str, allowed: tuple[str, ...] = IN_LINE) -> Template:
    """Gives the template.

    Raises:
        ValueError: It has a brace too many or a placeholder that is not ``allowed``; the sentence says which there are.
    """
    pieces: list[str | tuple[str, str]] = []
    end = 0
    for match in _PIECE.finditer(source):
        pieces.append(source[end : match.start()])
        pieces.append(_piece(match, allowed))
        end = match.end()
    pieces.append(source[end:])
    return Template(tuple(piece for piece in pieces if piece))


def clean(text: str) -> str:
    """Gives a text on one line: control characters become spaces, marks that show nothing go, spaces are single."""
    if not text.isprintable():  # rare; and looking at every character is slow
        text = "".join(map(_cleaned, text))
    return " ".join(text.split())


def _cleaned(letter: str) -> str:
    kind = unicodedata.category(letter)
    return "" if kind in _DROPPED else " " if kind in _SPACED else letter


def _piece(match: re.Match[str], allowed: tuple[str, ...]) -> str | tuple[str, str]:
    whole, inside = match[0], match[1]
    if whole in ("{{", "}}"):
        return whole[0]
    if inside is None:
        raise ValueError("a brace stands alone; write {{ or }} for the character itself")
    name, _, default = inside.partition("|")
    if name not in allowed:
        raise ValueError(f"there is no such placeholder here; known: {', '.join('{' + n + '}' for n in allowed)}")
    return name, default
