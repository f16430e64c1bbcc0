"""The language of a mapping's texts: ``{placeholder}`` and ``{placeholder|default}``, and nothing that can be computed.

``{date:form}`` writes the day in one of a few forms; without one it is written as ``2026-03-01``. ``{payee.id:table}`` looks
a code up in one of the mapping's tables. ``{dimension.activity}`` is what the claim says of its activity.

A template is read when the mapping is saved, so a placeholder or a form that does not exist is an error of that field
then, and not of a claim later. What a claim puts into a placeholder is never read as a template again.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = [
    "DATE_FORMS",
    "DIMENSION",
    "IN_CLAIM",
    "IN_LINE",
    "MAX_TEXT",
    "LookUp",
    "Placeholder",
    "Template",
    "Unlisted",
    "clean",
    "read_template",
]

LookUp = Callable[[str, str], str | None]
"""Gives what a table has for a key, by the table's name and the key; None when it has nothing."""

IN_CLAIM: Final = ("date", "claim", "payee.id", "payee.name", "text")
"""What is known of a claim as a whole, besides its dimensions."""
IN_LINE: Final = ("expense_type", "receipt", *IN_CLAIM)
"""What is known of one of its lines; ``date`` and ``text`` are the line's then."""
MAX_TEXT: Final = 200

_MONTHS: Final = (
    "januar", "februar", "mars", "april", "mai", "juni",
    "juli", "august", "september", "oktober", "november", "desember",
)  # fmt: skip
"""In bokmål, where months begin with a small letter."""
_WRITTEN: Final[Mapping[str, Callable[[dt.date], str]]] = {
    "yyyy-mm-dd": dt.date.isoformat,
    "dd.mm.yyyy": lambda day: f"{day.day:02}.{day.month:02}.{day.year:04}",
    "dd.mm.yy": lambda day: f"{day.day:02}.{day.month:02}.{day.year % 100:02}",
    "mm.yyyy": lambda day: f"{day.month:02}.{day.year:04}",
    "mmmm yyyy": lambda day: f"{_MONTHS[day.month - 1]} {day.year:04}",
    "d. mmmm yyyy": lambda day: f"{day.day}. {_MONTHS[day.month - 1]} {day.year:04}",
}
DATE_FORMS: Final = tuple(_WRITTEN)
"""How a day may be written; the first is how it is written when a template does not say."""
_DAYS: Final = ("date",)
"""Placeholders that stand for a day."""
DIMENSION: Final = "dimension."
"""How a placeholder begins that stands for a claim's code of a dimension; of the line, else of the claim."""
_KEYS: Final = ("payee.id", "expense_type")
"""Placeholders that can be looked up, besides dimensions. What people have written freely is no key."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_DROPPED: Final = ("Cf", "Cs")  # direction marks and halves of characters: they show nothing, and mislead
_SPACED: Final = ("Cc", "Zl", "Zp")


class Placeholder(NamedTuple):
    """A place in a template for something of the claim.

    Attributes:
        name: What of it.
        default: Stands there when the claim says nothing.
        form: How a day is written, one of `DATE_FORMS`; empty for the first, and for what is no day.
        table: Where it is looked up; empty when it stands there as the claim says it.
    """

    name: str
    default: str = ""
    form: str = ""
    table: str = ""

    def written(self, values: Mapping[str, str], look_up: LookUp) -> str:
        """Gives what stands there. A day comes as ``2026-03-01``.

        Raises:
            Unlisted: It is looked up, and the table has nothing for it.
        """
        value = values.get(self.name, "")
        if value and self.form:
            return _WRITTEN[self.form](dt.date.fromisoformat(value))
        if value and self.table:
            found = look_up(self.table, value)
            if found is None:
                raise Unlisted(self, value)
            return found
        return value or self.default


class Unlisted(LookupError):
    """A table has nothing for what a claim says.

    Attributes:
        placeholder: What was looked up, and where.
        key: What the claim says.
    """

    def __init__(self, placeholder: Placeholder, key: str) -> None:
        super().__init__(f"the table {placeholder.table} has no such entry")
        self.placeholder = placeholder
        self.key = key


def _nowhere(table: str, key: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Template:
    """A template that was read.

    Attributes:
        pieces: Literal texts, and placeholders in between.
    """

    pieces: tuple[str | Placeholder, ...]

    def render(self, values: Mapping[str, str], look_up: LookUp = _nowhere) -> str:
        """Gives the text, on one line and without control characters; empty values give way to their defaults.

        Raises:
            Unlisted: A table has nothing for one of the values.
        """
        return clean(
            "".join([piece if isinstance(piece, str) else piece.written(values, look_up) for piece in self.pieces])
        )

    @property
    def placeholders(self) -> list[Placeholder]:
        """Gives its placeholders, in their order."""
        return [piece for piece in self.pieces if isinstance(piece, Placeholder)]

    @property
    def literal(self) -> str | None:
        """Gives the text of a template that is the same for every claim; None when it has a placeholder."""
        return None if self.placeholders else self.render({})


@lru_cache(maxsize=4096)
def read_template(source: str, allowed: tuple[str, ...] = IN_LINE) -> Template:
    """Gives the template.

    Raises:
        ValueError: It has a brace too many, a placeholder that is not ``allowed``, or a form that there is not; the
            sentence says which there are.
    """
    pieces: list[str | Placeholder] = []
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


def _piece(match: re.Match[str], allowed: tuple[str, ...]) -> str | Placeholder:
    whole, inside = match[0], match[1]
    if whole in ("{{", "}}"):
        return whole[0]
    if inside is None:
        raise ValueError("a brace stands alone; write {{ or }} for the character itself")
    told, _, default = inside.partition("|")
    name, has_form, form = told.partition(":")
    is_dimension = name.startswith(DIMENSION) and _NAME.fullmatch(name, len(DIMENSION)) is not None
    if name not in allowed and not is_dimension:
        known = ", ".join(f"{{{known}}}" for known in (*allowed, f"{DIMENSION}NAME"))
        raise ValueError(f"there is no such placeholder here; known: {known}")
    if not has_form:
        return Placeholder(name, default)
    if name in _DAYS:
        if form not in _WRITTEN:
            known = ", ".join(f"{{{name}:{known}}}" for known in DATE_FORMS)
            raise ValueError(f"a day cannot be written in this form; known: {known}")
        return Placeholder(name, default, form)
    if not is_dimension and name not in _KEYS:
        raise ValueError(f"only a day can be written in another form, and only codes be looked up; write {{{name}}}")
    if _NAME.fullmatch(form) is None:
        raise ValueError(f"a table's name has small letters, digits and underscores, as in {{{name}:cost_centres}}")
    return Placeholder(name, default, table=form)
