"""The file route: the CSV that Xledger takes in, the sheet for people, and the report that comes back.

For plugin.py (plain functions; use asyncio.to_thread for batches of thousands):
    render(batch, profile, settings) -> ExportFile
    acknowledge(content) -> list[Receipt]

Machine file (profile ``machine``), the layout that is in use at a tenant: header row `Voucher Type;Voucher No;Voucher Date;
Account;Posting 1;…;Posting 5;Period Start;No of Periods;Subledger No;Invoice Date;Invoice No;OCR;Due Date;Text;TaxRule;Amount`.
Text ends in ``bilag <number> <line key>``. What the layout has no column for, such as a project, is refused and never left
out: map it to a posting, or add a column to the layout in the settings.

Report, as we read it: header row `file;voucher no;line;state;transaction number;message` and more, UTF-8, `;`, a row a line;
state is accepted, posted or rejected. A row that gives back the line's text (a column ``text``, or whatever cell it stands in)
has our key at the end of it. One that has lost it is known by file and voucher number, provided that the file is named as we
name ours. Xledger's own report is not public: another layout of it needs another reader here.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from samband import Batch, ExportFile, Receipt, RejectedError, RemoteError, Voucher
from samband.spreadsheet import MEDIA_TYPE, Column, write_human
from samband_xledger.gl02xml import digest_of, refuse_shared_numbers
from samband_xledger.layouts import facts_of, line_key_in, refuse_unsaid
from samband_xledger.postings import check_voucher, split_key, voucher_of
from samband_xledger.settings import XledgerSettings

__all__ = ["REPORT_COLUMNS", "acknowledge", "render"]

REPORT_COLUMNS: Final = ("file", "voucher no", "line", "state", "transaction number", "message")

_MOST_REPORT: Final = 16 * 1024 * 1024
_STATES: Final = ("rejected", "accepted", "posted")
_KEY: Final = re.compile(r"[0-9a-f]{32}")
_NUMBER: Final = re.compile(r"0*([1-9][0-9]{0,7})")
_OWN_FILE: Final = re.compile(r"(?:.*[\\/])?samband-[0-9A-Za-z._-]+\.csv")


def render(batch: Batch, profile: str, settings: XledgerSettings) -> ExportFile:
    """Writes the batch's vouchers, each whole and in their order, for Xledger (``machine``) or for people (``human``).

    The same vouchers make the same bytes and the same name.

    Raises:
        RejectedError: A voucher does not balance to the øre, or something of one cannot be said in the file.
    """
    vouchers = [voucher_of(item) for item in batch.items]
    refuse_shared_numbers(vouchers)
    for voucher in vouchers:
        check_voucher(voucher)
    rows = sum(len(voucher.lines) for voucher in vouchers)
    name = f"samband-{digest_of(vouchers)}"
    if profile == "machine":
        content = _machine(vouchers, settings)
        return ExportFile(name=f"{name}.gl.csv", media_type="text/csv; charset=utf-8", content=content, rows=rows)
    if profile == "human":
        return ExportFile(name=f"{name}.csv", media_type=MEDIA_TYPE, content=_human(vouchers, settings), rows=rows)
    raise RejectedError(f"There is no profile {profile[:20]}.", code="profile_unknown", field="profile")


def _machine(vouchers: Sequence[Voucher], settings: XledgerSettings) -> bytes:
    columns = settings.csv_layout.columns
    target = io.StringIO(newline="")
    # No cell needs quotes (see layouts), and QUOTE_NONE says so loudly instead of writing what an import may not read.
    writer = csv.writer(target, delimiter=";", lineterminator="\r\n", quoting=csv.QUOTE_NONE, quotechar=None)
    writer.writerow(columns)
    for voucher in vouchers:
        for line in voucher.lines:
            said = facts_of(
                voucher, line, entity=settings.entity_code, voucher_type=settings.voucher_type,
                fields=settings.dimension_fields,
            )  # fmt: skip
            refuse_unsaid(said, columns.values(), line)
            writer.writerow([said.get(fact, "") if fact is not None else "" for fact in columns.values()])
    return target.getvalue().encode("utf-8")


# ── for people ───────────────────────────────────────────────────────────────


def _human(vouchers: Sequence[Voucher], settings: XledgerSettings) -> bytes:
    names = sorted({name for voucher in vouchers for line in voucher.lines for name in line.dimensions})
    columns = [
        Column(name="number", heading="Bilagsnr", kind="whole"),
        Column(name="type", heading="Bilagsart", kind="code"),
        Column(name="date", heading="Bilagsdato", kind="date"),
        Column(name="line", heading="Linje", kind="whole"),
        Column(name="account", heading="Konto", kind="code"),
        *(Column(name=f"dimension {name}", heading=f"Dimensjon {name}", kind="code") for name in names),
        Column(name="text", heading="Tekst"),
        Column(name="tax_rule", heading="Avgiftskode", kind="code"),
        Column(name="amount", heading="Beløp", kind="amount"),
        Column(name="currency", heading="Valuta", kind="code"),
        Column(name="payee_code", heading="Reskontronr", kind="code"),
        Column(name="payee_name", heading="Mottaker"),
        Column(name="bank_account", heading="Kontonr mottaker", kind="code", width=11),
        Column(name="quantity", heading="Kilometer", kind="decimal"),
        Column(name="claim", heading="Krav"),
        Column(name="reverses", heading="Tilbakefører bilag", kind="whole"),
        Column(name="mapping_version", heading="Konteringsversjon", kind="whole"),
        Column(name="key", heading="Nøkkel"),
    ]
    return write_human(columns, (row for voucher in vouchers for row in _human_rows(voucher, settings.voucher_type)))


def _human_rows(voucher: Voucher, voucher_type: str) -> Iterator[dict[str, Any]]:
    for line in voucher.lines:
        payee = line.payee
        yield {
            "number": voucher.number, "type": voucher.type or voucher_type, "date": voucher.date, "line": line.n,
            "account": line.account,
            **{f"dimension {name}": code for name, code in line.dimensions.items()},
            "text": line.text, "tax_rule": line.tax_rule, "amount": line.amount, "currency": voucher.currency,
            "payee_code": payee and payee.code, "payee_name": payee and payee.name,
            "bank_account": payee and payee.bank_account, "quantity": line.quantity, "claim": voucher.claim,
            "reverses": voucher.reverses, "mapping_version": voucher.mapping_version, "key": line.key,
        }  # fmt: skip


# ── back ─────────────────────────────────────────────────────────────────────


def acknowledge(content: bytes) -> list[Receipt]:
    """Gives a receipt for each of our items that the report tells of, in its order.

    An item is posted when all of its lines are, under one number; one whose lines had different fates is ``unknown`` and
    says so, because half of a voucher is no voucher. A voucher of which no row gives back a key has its number for one, and
    the name of its file in the evidence. Rows with neither a key of ours nor a file of ours are others' and left out.

    Raises:
        RemoteError: It is no such report, or none of its rows can be recognised as ours.
    """
    rows = _report_rows(content)
    keys = _keys_by_number(rows)
    found: dict[tuple[str, str], list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        file, number = _place_of(row)
        if key := _key_of(row) or keys.get((file, number)):
            found[key, ""].append(row)
        elif number and _OWN_FILE.fullmatch(file):
            found[number, file].append(row)
    if rows and not found:
        raise _no_report(
            "none of its rows gives back a key of ours, or a voucher number with a file named as we name ours"
        )
    return [_receipt(key, told) for (key, _), told in found.items()]


def _keys_by_number(rows: Sequence[Mapping[str, str]]) -> dict[tuple[str, str], str]:
    """Gives file and voucher number → key, for lines that have lost their text beside others of their voucher that have not."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        if (key := _key_of(row)) and all(_place_of(row)):
            found[_place_of(row)].add(key)
    return {place: keys.pop() for place, keys in found.items() if len(keys) == 1}


def _place_of(row: Mapping[str, str]) -> tuple[str, str]:
    number = _NUMBER.fullmatch(row["voucher no"])
    return row["file"], number[1] if number else ""


def _key_of(row: Mapping[str, str]) -> str:
    place = split_key(_line_key_of(row))
    return place[0] if place is not None and _KEY.fullmatch(place[0]) else ""


def _line_key_of(row: Mapping[str, str]) -> str:
    named = row.get("ext identifier", "")
    return named or next((key for cell in row.values() if (key := line_key_in(cell)) is not None), "")


def _receipt(key: str, rows: Sequence[Mapping[str, str]]) -> Receipt:
    states = {row["state"] for row in rows}
    numbers = {row["transaction number"] for row in rows} - {""}
    evidence = {
        "file": rows[0].get("file", ""),
        "voucher": rows[0].get("voucher no", ""),
        "lines told of": str(len(rows)),
    }
    words = "; ".join(dict.fromkeys(row["message"] for row in rows if row["message"]))
    if states == {"rejected"}:
        return Receipt(
            key=key, state="rejected", code="file_rejected", message=words or "They gave no reason.", evidence=evidence
        )
    if states == {"posted"} and len(numbers) == 1:
        return Receipt(key=key, state="posted", reference=numbers.pop(), message=words, evidence=evidence)
    if states == {"accepted"}:
        return Receipt(key=key, state="accepted", message=words, evidence=evidence)
    said = (
        f"The report tells different things of its lines: {', '.join(sorted(states))}, {len(numbers)} numbers. {words}"
    )
    return Receipt(key=key, state="unknown", code="file_contradiction", message=said.strip(), evidence=evidence)


def _report_rows(content: bytes) -> list[Mapping[str, str]]:
    if len(content) > _MOST_REPORT:
        raise _no_report("it is too large")
    try:
        text = content.decode("utf-8-sig")
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=";", strict=True) if any(line)]
    except (UnicodeDecodeError, csv.Error):
        raise _no_report("it is no CSV in UTF-8") from None
    heading = [name.strip().lower() for name in lines[0]] if lines else []
    missing = [name for name in REPORT_COLUMNS if name not in heading]
    if missing or len(set(heading)) < len(heading):
        raise _no_report(f"it lacks the columns {', '.join(missing)}" if missing else "a column is there twice")
    return [_row(heading, cells, number) for number, cells in enumerate(lines[1:], start=2)]


def _row(heading: Sequence[str], cells: Sequence[str], number: int) -> Mapping[str, str]:
    if len(cells) != len(heading):
        raise _no_report(f"row {number} has {len(cells)} cells instead of {len(heading)}; it may be cut off")
    row = dict(zip(heading, (cell.strip() for cell in cells), strict=True))
    row["state"] = row["state"].lower()
    if row["state"] not in _STATES:
        raise _no_report(f"row {number} has a state that is none of {', '.join(_STATES)}")
    return row


def _no_report(why: str) -> RemoteError:
    return RemoteError(
        f"The file is no report on an import: {why}.", code="no_report", hint="Nothing was changed by it."
    )
