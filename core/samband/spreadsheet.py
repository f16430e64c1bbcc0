"""Sheets for people: CSV as a Norwegian Excel opens it, and back again.

A plugin's ``render`` uses this for the profile ``human``, never for ``machine``: what a program reads must not carry
the apostrophes that keep a spreadsheet from running a text as a formula.

The file is UTF-8 with a byte order mark, ``;`` between columns, CRLF at the end of lines, ``1234,56``, ``31.12.2026``.
What a spreadsheet would run is only ever a text, so only columns of text are guarded; a negative amount stays a number.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal

from samband.errors import RejectedError

__all__ = ["MEDIA_TYPE", "Column", "file_name", "guarded", "read_human", "unguarded", "write_human"]

MEDIA_TYPE: Final = "text/csv; charset=utf-8"
_BOM: Final = "\ufeff"

# OWASP ASVS 5.0, 1.2.10: = + - @ TAB NUL; CR, LF and the full-width signs are taken for the same by some programs.
_SIGNS: Final = r"=+\-@\t\r\n\x00\uff1d\uff0b\uff0d\uff20"
# What a program may leave out before it looks: blanks that nobody sees, and apostrophes.
_SKIPPED: Final = r"' \u00a0\u200b\u200c\u200d\u2060\ufeff"
# A sheet that is opened with another separator begins a new cell in the middle of a text (CWE-1236).
_CELL: Final = r"(?:^|(?<=[,;|\t\r\n]))"
_DANGER: Final = re.compile(rf"{_CELL}(?=[{_SKIPPED}]*[{_SIGNS}])")
_GUARD: Final = re.compile(rf"{_CELL}'(?=[{_SKIPPED}]*[{_SIGNS}])")

_SCIENTIFIC: Final = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?[Ee][+-][0-9]+")
_DECIMAL: Final = re.compile(r"-?(?:[0-9]+|[0-9]{1,3}(?:[ \u00a0\u202f][0-9]{3})+)(?:,[0-9]+)?")
_WHOLE: Final = re.compile(r"-?[0-9]+")
_DATE: Final = re.compile(r"([0-9]{2})\.([0-9]{2})\.([0-9]{4})")
_NAME_CHARACTERS: Final = re.compile(r"[^A-Za-z0-9ÆØÅæøå._-]+")
_LONGEST_NAME: Final = 120

Kind = Literal["text", "code", "amount", "decimal", "whole", "date"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a sheet.

    Attributes:
        name: The key in a row.
        heading: For people.
        kind: ``text`` for what people wrote · ``code`` for account, post and other numbers that are no quantities: their
            leading zeros count · ``amount`` for `Decimal` with two decimals · ``decimal`` for any other `Decimal` ·
            ``whole`` for int · ``date`` for `datetime.date`.
        width: Of a ``code`` of digits: how many there are. What a spreadsheet has shortened is filled up again.
    """

    name: str
    heading: str
    kind: Kind = "text"
    width: int = 0


def write_human(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Gives the sheet with its headings; the same rows make the same bytes. None and an empty text leave a cell empty.

    Raises:
        RejectedError: A value is not of its column's kind, or would not come back as it is; names row and column, and
            never the value. Row 1 is the headings.
    """
    target = io.StringIO(newline="")
    writer = csv.writer(target, delimiter=";", lineterminator="\r\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([guarded(column.heading) for column in columns])
    for number, row in enumerate(rows, start=2):
        writer.writerow([_cell(column, row.get(column.name), number) for column in columns])
    try:
        return (_BOM + target.getvalue()).encode("utf-8")
    except UnicodeEncodeError:
        raise RejectedError("A text holds half of a character and cannot be written.", code="sheet_text") from None


def read_human(content: bytes, columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Gives the rows of a sheet that `write_human` has made, also after a person has saved it again.

    Columns are found by their headings, in any order. An empty cell is None; a row without anything is left out.

    Raises:
        RejectedError: It is not such a sheet, or a cell cannot be what its column says; names row and column.
    """
    lines = _lines(content)
    if not lines:
        raise RejectedError("The sheet is empty.", code="sheet_empty")
    places = _places(lines[0][1], columns)
    rows = []
    for number, cells in lines[1:]:
        if len(cells) > len(lines[0][1]):
            raise RejectedError(f"Row {number} has more cells than there are headings.", code="sheet_row")
        rows.append({c.name: _value(c, cells[at] if at < len(cells) else "", number) for c, at in places})
    return rows


def guarded(text: str) -> str:
    """Gives a text with an apostrophe before whatever a spreadsheet would take for a formula."""
    return _DANGER.sub("'", text)


def unguarded(text: str) -> str:
    """Takes away exactly the apostrophes that `guarded` put there."""
    return _GUARD.sub("", text)


def file_name(text: str) -> str:
    """Gives a name that is safe on every disk and in every spreadsheet: no folder, no blank, no sign at the beginning."""
    plain = _NAME_CHARACTERS.sub("-", unicodedata.normalize("NFC", text)).lstrip("-.").rstrip("-.")
    return plain[:_LONGEST_NAME] or "file"


# ── out ──────────────────────────────────────────────────────────────────────


class _Number:
    """A number as a Norwegian writes it; to the csv module it is a number, so that it gets no quotes."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __float__(self) -> float:
        return 0.0

    def __str__(self) -> str:
        return self._text


def _cell(column: Column, value: Any, row: int) -> str | _Number:
    if value is None or value == "":
        return ""
    if column.kind == "text":
        return guarded(_typed(column, value, str, row))
    if column.kind == "code":
        return guarded(_checked_code(column, _typed(column, value, str, row), row))
    if column.kind == "date":
        if isinstance(value, dt.datetime):
            raise _wrong(column, row, "is an instant, not a day")
        return f"{_typed(column, value, dt.date, row):%d.%m.}{value.year:04d}"
    if column.kind == "whole":
        if isinstance(value, bool):
            raise _wrong(column, row, "is no number")
        return _Number(str(_typed(column, value, int, row)))
    return _Number(_decimal_text(column, _typed(column, value, Decimal, row), row))


def _typed(column: Column, value: Any, kind: type, row: int) -> Any:
    if not isinstance(value, kind):
        raise _wrong(column, row, f"is {type(value).__name__}, not {kind.__name__}")
    return value


def _decimal_text(column: Column, value: Decimal, row: int) -> str:
    if not value.is_finite():
        raise _wrong(column, row, "is no number")
    if value.adjusted() > 20 or int(value.as_tuple().exponent) < -20:
        raise _wrong(column, row, "is too long a number")
    if column.kind == "amount":
        if value != value.quantize(Decimal("0.01")):
            raise _wrong(column, row, "has more than two decimals")
        value = value.quantize(Decimal("0.01"))
    return f"{value + 0:f}".replace(".", ",")  # + 0 so that there is no -0,00


def _checked_code(column: Column, code: str, row: int) -> str:
    if _SCIENTIFIC.fullmatch(code):
        raise _wrong(column, row, "reads like a number in scientific notation, and would not come back")
    if _is_digits(code) and len(code) < column.width:
        raise _wrong(column, row, f"has fewer than {column.width} digits")
    return code


# ── in ───────────────────────────────────────────────────────────────────────


def _lines(content: bytes) -> list[tuple[int, list[str]]]:
    """Gives the lines that are not empty, each with its number as a person counts rows."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RejectedError(
            "The sheet is not in UTF-8.", code="sheet_encoding", hint="Save it as 'CSV UTF-8', separated by semicolons."
        ) from None
    try:
        found = list(csv.reader(io.StringIO(text, newline=""), delimiter=";", strict=True))
    except csv.Error:
        problem = "The sheet is not CSV: a quote is not closed, or a cell is too long."
        raise RejectedError(problem, code="sheet_syntax") from None
    if found and found[0] == ["sep=", ""]:
        found[0] = []  # what some programs write to say which separator is used
    return [(number, cells) for number, cells in enumerate(found, start=1) if any(cells)]


def _places(headings: Sequence[str], columns: Sequence[Column]) -> list[tuple[Column, int]]:
    known = [unguarded(heading).strip() for heading in headings]
    missing = [column.heading for column in columns if known.count(column.heading.strip()) != 1]
    if missing:
        raise RejectedError(
            f"The sheet lacks, or has twice: {', '.join(missing)}.", code="sheet_headings",
            hint="Leave the headings as they were, separated by semicolons.",
        )  # fmt: skip
    return [(column, known.index(column.heading.strip())) for column in columns]


def _value(column: Column, cell: str, row: int) -> Any:
    if cell == "":
        return None
    if column.kind == "text":
        return unguarded(cell)
    cell = unguarded(cell)
    if _SCIENTIFIC.fullmatch(cell.strip()):
        raise _wrong(
            column, row, "is in scientific notation",
            hint="The spreadsheet has shortened it and its digits are lost: format the column as text, enter it again.",
        )  # fmt: skip
    if column.kind == "code":
        return cell.zfill(column.width) if _is_digits(cell) else cell
    cell = cell.strip()
    if column.kind == "date":
        return _date(column, cell, row)
    if column.kind == "whole":
        if not _WHOLE.fullmatch(cell):
            raise _wrong(column, row, "is no whole number")
        return int(cell)
    return _decimal(column, cell, row)


def _decimal(column: Column, cell: str, row: int) -> Decimal:
    if not _DECIMAL.fullmatch(cell):
        raise _wrong(column, row, "is no number such as 1234,56")
    try:
        value = Decimal(re.sub(r"[ \u00a0\u202f]", "", cell).replace(",", "."))
        if column.kind != "amount":
            return value
        if value != value.quantize(Decimal("0.01")):
            raise _wrong(column, row, "has more than two decimals")
        return value.quantize(Decimal("0.01"))
    except InvalidOperation:
        raise _wrong(column, row, "is too long a number") from None


def _date(column: Column, cell: str, row: int) -> dt.date:
    match = _DATE.fullmatch(cell)
    if match is not None:
        try:
            return dt.date(int(match[3]), int(match[2]), int(match[1]))
        except ValueError:
            pass  # told below, like any other cell that is no day
    raise _wrong(column, row, "is no day such as 31.12.2026")


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _wrong(column: Column, row: int, what: str, *, hint: str = "") -> RejectedError:
    return RejectedError(
        f"Row {row}, {column.heading}: the value {what}.", code="sheet_value", field=column.name, hint=hint
    )
