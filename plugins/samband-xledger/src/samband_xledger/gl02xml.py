"""Journal lines as the XML that goes into an upload over SOAP.

Source of the layout: calls of another firm's production code (reference of 2026). It shows dates as ``yyyyMMdd``, amounts
with a decimal point and credit below zero, one element a line, and no voucher number; see `samband_xledger.layouts`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from lxml import etree  # type: ignore[import-untyped]

from samband import ExportFile, RejectedError, Voucher
from samband_xledger.layouts import facts_of, refuse_unsaid
from samband_xledger.postings import check_voucher
from samband_xledger.settings import XledgerSettings

__all__ = ["digest_of", "gl02xml"]

_MEDIA_TYPE: Final = "application/xml"


def gl02xml(vouchers: Sequence[Voucher], settings: XledgerSettings) -> ExportFile:
    """Writes vouchers, each whole and in their order. The same vouchers make the same bytes and the same name.

    Raises:
        RejectedError: A voucher does not balance to the øre, two have the same number, or something of one cannot be said.
            Nothing has been sent then.
    """
    refuse_shared_numbers(vouchers)
    layout = settings.xml_layout
    root = etree.Element(layout.root)
    rows = root if layout.rows is None else etree.SubElement(root, layout.rows)
    count = 0
    for voucher in vouchers:
        check_voucher(voucher)
        for line in voucher.lines:
            said = facts_of(
                voucher, line, entity=settings.entity_code, voucher_type=settings.voucher_type,
                fields=settings.dimension_fields,
            )  # fmt: skip
            refuse_unsaid(said, layout.fields, line)
            entry = etree.SubElement(rows, layout.row)
            for fact, name in layout.fields.items():
                if fact in said:
                    etree.SubElement(entry, name).text = said[fact]
            count += 1
    content = etree.tostring(root, xml_declaration=True, encoding="utf-8")
    name = f"samband-{digest_of(vouchers)}.xml"
    return ExportFile(name=name, media_type=_MEDIA_TYPE, content=content, rows=count)


def refuse_shared_numbers(vouchers: Sequence[Voucher]) -> None:
    """Refuses vouchers of which two have one number: in a file they would become one.

    Raises:
        RejectedError: So it is.
    """
    if len({voucher.number for voucher in vouchers}) < len(vouchers):
        raise RejectedError("Two vouchers of the file have the same number.", code="number_taken", field="number")


def digest_of(vouchers: Sequence[Voucher]) -> str:
    """Gives what tells one selection of vouchers from another, for the name of their file."""
    return hashlib.sha256("\n".join(voucher.key for voucher in vouchers).encode()).hexdigest()[:16]
