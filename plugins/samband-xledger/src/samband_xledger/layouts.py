"""What files with journal lines look like: names of elements and columns, and the one place where a line becomes cells.

Which names an import of Xledger wants belongs to the tenant's import definition, so all of them can be set. The defaults are
the two layouts that are seen in use: the XML sent under the code ``GL02XML``, and the CSV of a tenant that sends its
journals over SFTP. The CSV is written exactly so. The XML that was seen has no voucher number and one dimension only; the
elements beyond it are named after the CSV's columns, which is inferred, not known.

Neither layout has a place for a key of ours. So each line's text ends in ``bilag <number> <line key>``: that is how a voucher
is found again, by people and by programs, and how a report on a file names it. `line_key_in` reads it back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from samband import RejectedError, Voucher, VoucherLine

__all__ = ["CsvLayout", "Fact", "XmlLayout", "facts_of", "line_key_in", "refuse_unsaid"]

Fact = Literal[
    "entity", "voucher_type", "voucher_no", "fiscal_year", "voucher_date", "account", "posting_1", "posting_2",
    "posting_3", "posting_4", "posting_5", "project", "xgl", "subledger_no", "invoice_no", "text", "tax_rule", "amount",
    "ext_identifier", "mapping_version",
]  # fmt: skip
"""What can be said of a line, by a name of ours."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,39}$")]
Heading = Annotated[str, StringConstraints(pattern=r"^[^;\"\x00-\x1f\x7f=+@-][^;\"\x00-\x1f\x7f]{0,39}$")]

_MUST: Final = ("voucher_no", "voucher_date", "account", "text", "amount")
_HELD_IN: Final[dict[str, Fact]] = {
    "glObject1": "posting_1", "glObject2": "posting_2", "glObject3": "posting_3", "glObject4": "posting_4",
    "glObject5": "posting_5", "project": "project", "xgl": "xgl",
}  # fmt: skip
_LONGEST_TEXT: Final = 200
_MARK: Final = re.compile(r"bilag [1-9][0-9]{0,7} ([0-9a-f]{32}-[1-9][0-9]{0,3})$")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+")


class XmlLayout(BaseModel):
    """Names of the elements of an XML file with journal lines, one element a line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Name = Field(default="xml", title="Outermost element", description="Name of the file's root.")
    rows: Name | None = Field(default="JournalEntries", title="Element around the lines", description="Null for none.")
    row: Name = Field(default="JournalEntry", title="Element of one line", description="Repeated for every line.")
    fields: dict[Fact, Name] = Field(
        default={
            "entity": "EntityCode",
            "voucher_type": "VoucherType",
            "voucher_no": "VoucherNo",
            "fiscal_year": "FiscalYear",
            "voucher_date": "VoucherDate",
            "account": "Account",
            "posting_1": "Posting1",
            "posting_2": "Posting2",
            "posting_3": "Posting3",
            "posting_4": "Posting4",
            "posting_5": "Posting5",
            "project": "Project",
            "xgl": "XGL",
            "subledger_no": "SubledgerNo",
            "tax_rule": "TaxRule",
            "invoice_no": "InvoiceNo",
            "text": "Text",
            "amount": "Amount",
        },
        title="Elements of a line",
        description="What of a line → its element, in the order they are written. Empty ones are left out.",
    )

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        _refuse_gaps(set(self.fields))
        if len(set(self.fields.values())) < len(self.fields):
            raise ValueError("each element is named once")
        return self


class CsvLayout(BaseModel):
    """Headings of the columns of a CSV file with journal lines, one row a line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: dict[Heading, Fact | None] = Field(
        default={
            "Voucher Type": "voucher_type",
            "Voucher No": "voucher_no",
            "Voucher Date": "voucher_date",
            "Account": "account",
            "Posting 1": "posting_1",
            "Posting 2": "posting_2",
            "Posting 3": "posting_3",
            "Posting 4": "posting_4",
            "Posting 5": "posting_5",
            "Period Start": None,
            "No of Periods": None,
            "Subledger No": "subledger_no",
            "Invoice Date": None,
            "Invoice No": "invoice_no",
            "OCR": None,
            "Due Date": None,
            "Text": "text",
            "TaxRule": "tax_rule",
            "Amount": "amount",
        },
        title="Columns",
        description="Heading → what stands below it, in their order; null for a column that stays empty.",
    )

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        _refuse_gaps(set(self.columns.values()))
        return self


def facts_of(
    voucher: Voucher, line: VoucherLine, *, entity: str, voucher_type: str, fields: Mapping[str, str]
) -> dict[Fact, str]:
    """Gives what can be said of a line, each as its text for a machine: ``yyyymmdd``, a decimal point, credit below zero.

    Args:
        entity: Code of the entity.
        voucher_type: The transaction source of vouchers whose mapping names none.
        fields: Name of a dimension → the field it has in this tenant.

    Raises:
        RejectedError: Something of it cannot be said in a file. Names the field; better than to leave it out.
    """
    if voucher.currency != "NOK":
        raise RejectedError(
            f"The files have no column for a currency, and the voucher is in {voucher.currency}.",
            code="currency_unsaid", field="currency", hint="Send it by GraphQL.",
        )  # fmt: skip
    said: dict[Fact, str] = {
        "entity": entity,
        "voucher_type": voucher.type or voucher_type,
        "voucher_no": str(voucher.number),
        "fiscal_year": f"{voucher.date.year:04d}",
        "voucher_date": f"{voucher.date.year:04d}{voucher.date:%m%d}",
        "account": line.account,
        "text": _text_of(voucher, line),
        "amount": f"{line.amount + 0:.2f}",
        "invoice_no": str(voucher.number),
        "ext_identifier": line.key,
        "mapping_version": str(voucher.mapping_version),
        **_dimensions(line, fields),
    }
    if line.tax_rule is not None:
        said["tax_rule"] = line.tax_rule
    if line.payee is not None and line.payee.strategy != "liability":
        if not line.payee.code:
            raise RejectedError("The payee has no number in the subledger.", code="missing", field="payee.code")
        said["subledger_no"] = line.payee.code
    for fact, value in said.items():
        _check_code(fact, value, line)
    return said


def refuse_unsaid(said: Mapping[Fact, str], sayable: Collection[Fact | None], line: VoucherLine) -> None:
    """Refuses a line of which something would be lost, because the layout has no place for it.

    Raises:
        RejectedError: Names the field.
    """
    may_be_lost = {"entity", "fiscal_year", "voucher_type", "invoice_no", "ext_identifier", "mapping_version"}
    lost = sorted(said.keys() - set(sayable) - may_be_lost)
    if lost:
        raise RejectedError(
            f"The layout of the file has no place for {', '.join(lost)}.",
            code="layout_lacks", field=f"lines.{line.n}", hint="Add it to the layout in the settings.",
        )  # fmt: skip


def line_key_in(text: str) -> str | None:
    """Gives the line key at the end of a text that a file of ours has carried; None when there is none."""
    found = _MARK.search(text.rstrip())
    return found[1] if found else None


def _dimensions(line: VoucherLine, fields: Mapping[str, str]) -> dict[Fact, str]:
    found: dict[Fact, str] = {}
    for name, code in line.dimensions.items():
        held_in = _HELD_IN.get(fields.get(name, ""))
        if held_in is None:
            raise RejectedError(
                f"The dimension {name} has no field in this tenant.",
                code="dimension_unmapped",
                field=f"lines.{line.n}.dimensions.{name}",
                hint="Add it to 'dimension_fields' in the settings, or take it out of the mapping.",
            )
        if found.get(held_in, code) != code:
            raise RejectedError(
                f"The dimension {name} shares the field {fields[name]} with another one of the line, and their codes differ.",
                code="dimension_field_taken",
                field=f"lines.{line.n}.dimensions.{name}",
                hint="Give each dimension a field of its own in 'dimension_fields'.",
            )
        found[held_in] = code
    return found


def _text_of(voucher: Voucher, line: VoucherLine) -> str:
    mark = f"bilag {voucher.number} {line.key}"
    # Nothing in it may need quotes, or be run by a spreadsheet: not every import understands quotes, and a cell that slips
    # into the next column would be an amount in the wrong place. An apostrophe in front, as for people, would be booked.
    plain = _CONTROL.sub(" ", line.text).replace(";", ",").replace('"', "'").lstrip("=@+-\t ")
    room = _LONGEST_TEXT - len(mark) - 2
    shown = plain if len(plain) <= room else plain[: room - 1].rstrip() + "…"
    return f"{shown}, {mark}" if shown else mark


def _check_code(fact: str, value: str, line: VoucherLine) -> None:
    if fact != "text" and (not value or _CONTROL.search(value) or ";" in value or '"' in value or value[0] in "=@"):
        raise RejectedError(
            "A code is empty, or holds a character that cannot stand in a file.",
            code="bad_code",
            field=f"lines.{line.n}.{fact}",
        )


def _refuse_gaps(facts: Collection[Fact | None]) -> None:
    missing = [fact for fact in _MUST if fact not in facts]
    if missing:
        raise ValueError(f"the layout lacks {', '.join(missing)}")
