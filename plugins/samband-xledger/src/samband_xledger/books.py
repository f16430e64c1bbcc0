"""All that is booked in Xledger between two days, staged and refused lines included."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, Literal

from samband import Booked, UnavailableError
from samband_xledger.graphql import Xledger
from samband_xledger.lines import PAGE, POSTED, STAGED, complaints
from samband_xledger.postings import HOME_CURRENCY, read_line, to_amount, to_text
from samband_xledger.refusals import Row

_BOOKED: Final = "postedDate account { code } currency { code }"


async def booked(wire: Xledger, first: dt.date, last: dt.date) -> AsyncGenerator[list[Booked], None]:
    """Yields the staged, failed and posted lines between two days. Staged ones that are posted by then come once."""
    document = _between("glImportItems", f"{STAGED} {_BOOKED}", first, last)
    staged = await wire.rows(document, "glImportItems")
    errors = await complaints(wire, [to_text(row.get("dbId")) or "" for row in staged])
    document = _between("journalEntries", f"{POSTED} account {{ code }} currency {{ code }}", first, last)
    seen: set[str] = set()
    async for edges, _ in wire.pages(document, "journalEntries"):
        lines = [_booked(node, "posted") for _, node in edges if not _is_unfinished(node)]
        seen |= {line.line_key for line in lines if line.line_key}
        yield lines
    waiting = [
        _booked(row, "failed" if (to_text(row.get("dbId")) or "") in errors else "staged")
        for row in staged
        if not _is_unfinished(row)
    ]
    yield [line for line in waiting if line.line_key is None or line.line_key not in seen]


def _is_unfinished(row: Row) -> bool:
    """Tells whether a line is somebody else's and lacks what makes it a posting: it must not hide ours."""
    return read_line(row).place is None and (not _code(row.get("account")) or to_amount(row.get("amount")) is None)


def _between(connection: str, fields: str, first: dt.date, last: dt.date) -> str:
    window = f'{{postedDate_gte: "{first.isoformat()}", postedDate_lte: "{last.isoformat()}"}}'
    return f"""
query ($first: Int!, $after: String) {{
  {connection}(first: $first, after: $after, filter: {window}) {{ edges {{ cursor node {{ {fields} }} }} {PAGE} }}
}}"""


def _booked(row: Row, state: Literal["staged", "posted", "failed"]) -> Booked:
    line = read_line(row)
    day, currency = to_text(row.get("postedDate")) or "", _code(row.get("currency"))
    # What is in a foreign currency is compared in that one: the rate is Xledger's.
    is_home = currency in (None, HOME_CURRENCY)
    amount = to_amount(row.get("amount")) if is_home else line.amount
    try:
        date = dt.date.fromisoformat(day[:10])
    except ValueError:
        raise UnavailableError("Xledger gave a line without a date.", code="answer_incomplete") from None
    if amount is None:
        raise UnavailableError("Xledger gave a line without an amount.", code="answer_incomplete")
    return Booked(
        line_key=line.key,
        state=state,
        date=date,
        account=_code(row.get("account")) or "",
        amount=amount,
        number=line.number,
        reference=line.transaction,
        currency=currency,
    )


def _code(found: Any) -> str | None:
    return to_text(found.get("code")) if isinstance(found, Mapping) else None
