"""Files as the import definitions read them: GL02XML, and the machine CSV of the drop folder.

Neither layout has a column for ``extIdentifier``: the voucher's number and the text are all that identifies a line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

from lxml import etree  # type: ignore[import-untyped]

from .lookups import Lookups
from .world import World

# Header row of the general ledger files one tenant sends over SFTP.
CSV_COLUMNS = (
    "Voucher Type", "Voucher No", "Voucher Date", "Account", "Posting 1", "Posting 2", "Posting 3", "Posting 4",
    "Posting 5", "Period Start", "No of Periods", "Subledger No", "Invoice Date", "Invoice No", "OCR", "Due Date",
    "Text", "TaxRule", "Amount",
)  # fmt: skip
# Element names of GL02XML beyond the nine seen in production code follow the columns of the CSV, without spaces.
XML_ROOT, XML_LIST, XML_ROW = "xml", "JournalEntries", "JournalEntry"
_PLAIN = {"InvoiceNo": "invoiceNumber", "OCR": "paymentReference", "Text": "text"}
_LOOKUPS = {
    "VoucherType": "transactionSource",
    "Account": "account",
    "SubledgerNo": "subledger",
    "TaxRule": "taxRule",
    "Currency": "currency",
    "Project": "project",
    "XGL": "xgl",
    **{f"Posting{number}": f"glObject{number}" for number in range(1, 6)},
}
_DATES = {"VoucherDate": "postedDate", "InvoiceDate": "invoiceDate", "DueDate": "dueDate"}
_AMOUNTS = {"Amount": "amount", "TaxAmount": "taxAmount"}
_NUMBERS = {"VoucherNo": "trRegNumber", "NoofPeriods": "numberPeriod"}
_IGNORED = frozenset({"EntityCode", "FiscalYear", "PeriodStart"})
KNOWN = frozenset({*_PLAIN, *_LOOKUPS, *_DATES, *_AMOUNTS, *_NUMBERS, *_IGNORED})
MAX_VOUCHER = 99_999_999


class UnreadableFile(ValueError):
    """The file cannot be read at all; the text says where."""


def rows_of_xml(content: bytes) -> list[dict[str, str]]:
    """Returns the rows of a GL02XML file, element name → text."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as problem:
        raise UnreadableFile(f"The file is not XML: {problem.msg}") from None
    if root.tag != XML_ROOT or [each.tag for each in root] != [XML_LIST]:
        raise UnreadableFile(f"The file must hold {XML_ROOT}/{XML_LIST}.")
    rows = []
    for number, entry in enumerate(root[0], start=1):
        if entry.tag != XML_ROW:
            raise UnreadableFile(f"Row {number} is {entry.tag}, not {XML_ROW}.")
        row = {str(item.tag): (item.text or "").strip() for item in entry}
        unknown = sorted(set(row) - KNOWN)
        if unknown:
            raise UnreadableFile(f"Row {number}: unknown element {unknown[0]}.")
        rows.append(row)
    return _not_empty(rows)


def rows_of_csv(content: bytes) -> list[dict[str, str]]:
    """Returns the rows of a machine CSV file, under the element names of GL02XML."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise UnreadableFile("The file is not UTF-8.") from None
    lines = list(csv.reader(io.StringIO(text), delimiter=";"))
    if not lines or tuple(lines[0]) != CSV_COLUMNS:
        raise UnreadableFile("The first row must name the columns of the layout.")
    names = [column.replace(" ", "") for column in CSV_COLUMNS]
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(names):
            raise UnreadableFile(f"Line {number} has {len(line)} columns, not {len(names)}.")
        rows.append(dict(zip(names, line, strict=True)))
    return _not_empty(rows)


def _not_empty(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    if not rows:
        raise UnreadableFile("The file holds no rows.")
    return rows


def staged_lines(world: World, owner: int, rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Returns the rows as lines for the staging table; what a row gets wrong is left for the job to report."""
    lookups = Lookups(world, owner)
    return [_line(lookups, owner, row) for row in rows]


def _line(lookups: Lookups, owner: int, row: Mapping[str, str]) -> dict[str, Any]:
    line: dict[str, Any] = {"_unknown": []}
    for name, text in row.items():
        if text == "" or name in _IGNORED:
            continue
        try:
            _take(line, lookups, owner, name, text)
        except (ValueError, InvalidOperation):
            line["_unknown"].append(f"{name} cannot be '{text[:40]}'.")
    if not line["_unknown"]:
        del line["_unknown"]
    return line


def _take(line: dict[str, Any], lookups: Lookups, owner: int, name: str, text: str) -> None:
    if name in _PLAIN:
        line[_PLAIN[name]] = text
    elif name in _LOOKUPS:
        field = _LOOKUPS[name]
        found = lookups.find(field, "code", text)
        if found is None:
            line["_unknown"].append(f"{field}.code: No value matching owner {owner}, code '{text[:40]}'.")
        else:
            line[field] = found
    elif name in _DATES:
        if len(text) != 8 or not text.isdigit():
            raise ValueError
        line[_DATES[name]] = date(int(text[:4]), int(text[4:6]), int(text[6:])).isoformat()
    elif name in _AMOUNTS:
        # A decimal point and nothing else: no comma, no exponent, no space.
        if not text.removeprefix("-").replace(".", "", 1).isdigit():
            raise ValueError
        line[_AMOUNTS[name]] = Decimal(text)
    else:
        number = int(text) if text.isascii() and text.isdigit() else 0
        if not 1 <= number <= MAX_VOUCHER:
            raise ValueError
        line[_NUMBERS[name]] = number
