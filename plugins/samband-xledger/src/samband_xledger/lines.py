"""Reading lines of vouchers out of Xledger, in answers that are certainly whole.

A line passes through three tables: ``glImportItems`` (staged), ``glImportItemErrors`` beside it (tried and refused by
the import job), ``journalEntries`` (posted).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from samband import UnavailableError
from samband_xledger.graphql import MOST_ROWS, Xledger, edges_of
from samband_xledger.postings import Line, read_line, to_text
from samband_xledger.refusals import Row

STAGED: Final = "dbId extIdentifier trRegNumber invoiceNumber amount invoiceAmount text"
POSTED: Final = (
    "dbId extIdentifier invoiceNumber transactionNumber amount invoiceAmount text postedDate"
    " transactionHeader { transactionNumber }"
)
PAGE: Final = "pageInfo { hasNextPage }"
_NUMBERS_AT_ONCE: Final = 1000
_WARNINGS: Final = frozenset({"WARNING", "INFO", "INFORMATION", "NOTICE"})


async def with_keys(wire: Xledger, keys: Sequence[str], *, by_number: Sequence[int]) -> tuple[list[Line], list[Line]]:
    """Gives the staged and the posted lines with these keys, asked for in one request."""
    numbered = ""
    if by_number:
        numbered = f"numbered: glImportItems(first: $first, filter: {{trRegNumber_in: {json.dumps(list(by_number))}}})"
        numbered += f" {{ edges {{ node {{ {STAGED} }} }} {PAGE} }}"
    document = f"""
query ($keys: [String!]!, $first: Int!) {{
  staged: glImportItems(first: $first, filter: {{extIdentifier_in: $keys}}) {{ edges {{ node {{ {STAGED} }} }} {PAGE} }}
  {numbered}
  posted: journalEntries(first: $first, filter: {{extIdentifier_in: $keys}}) {{ edges {{ node {{ {POSTED} }} }} {PAGE} }}
}}"""
    names = ["staged", "posted", *(["numbered"] if numbered else [])]
    found = await _looked_up(wire, document, {"keys": list(keys)}, names)
    return found["staged"] + found.get("numbered", []), found["posted"]


async def posted_with_keys(wire: Xledger, keys: Sequence[str]) -> list[Line]:
    """Gives the posted lines with these keys."""
    document = f"""
query ($keys: [String!]!, $first: Int!) {{
  posted: journalEntries(first: $first, filter: {{extIdentifier_in: $keys}}) {{ edges {{ node {{ {POSTED} }} }} {PAGE} }}
}}"""
    return (await _looked_up(wire, document, {"keys": list(keys)}, ["posted"]))["posted"]


async def staged_with_numbers(wire: Xledger, numbers: Sequence[int]) -> list[Line]:
    """Gives the staged lines of the vouchers with these numbers."""
    found: list[Line] = []
    for start in range(0, len(numbers), _NUMBERS_AT_ONCE):
        part = json.dumps(list(numbers[start : start + _NUMBERS_AT_ONCE]))
        document = f"""
query ($first: Int!) {{
  staged: glImportItems(first: $first, filter: {{trRegNumber_in: {part}}}) {{ edges {{ node {{ {STAGED} }} }} {PAGE} }}
}}"""
        found += (await _looked_up(wire, document, {}, ["staged"]))["staged"]
    return found


async def posted_with_numbers(wire: Xledger, numbers: Sequence[int]) -> list[Line]:
    """Gives the posted lines of the vouchers with these numbers."""
    found: list[Line] = []
    for start in range(0, len(numbers), _NUMBERS_AT_ONCE):
        part = json.dumps([str(number) for number in numbers[start : start + _NUMBERS_AT_ONCE]])
        document = f"""
query ($first: Int!) {{
  posted: journalEntries(first: $first, filter: {{invoiceNumber_in: {part}}}) {{ edges {{ node {{ {POSTED} }} }} {PAGE} }}
}}"""
        found += (await _looked_up(wire, document, {}, ["posted"]))["posted"]
    return found


async def posted_on(wire: Xledger, days: Sequence[str]) -> list[Line]:
    """Gives every line that is posted on one of these days, ours or not."""
    found: list[Line] = []
    for day in days:
        where = f'{{postedDate_gte: "{day}", postedDate_lte: "{day}"}}'
        document = f"""
query ($first: Int!, $after: String) {{
  posted: journalEntries(first: $first, after: $after, filter: {where}) {{
    edges {{ cursor node {{ {POSTED} }} }} {PAGE}
  }}
}}"""
        after: str | None = None
        while True:
            data = await wire.read(document, {"first": MOST_ROWS, "after": after})
            if _is_null(data.get("posted")):
                await _prove_that_null_is_empty(wire)
                data = {"posted": _with_list(data.get("posted"))}
            edges, has_more = edges_of(data, "posted", is_lookup=True)
            found += [read_line(node) for _, node in edges]
            if not has_more:
                break
            if not edges or edges[-1][0] in ("", after):
                raise UnavailableError("Xledger says that more follows, but not where.", code="answer_incomplete")
            after = edges[-1][0]
    return found


async def _looked_up(wire: Xledger, document: str, variables: Row, names: Sequence[str]) -> dict[str, list[Line]]:
    rows = await look_up(wire, document, variables, names)
    return {name: [read_line(row) for row in found] for name, found in rows.items()}


async def look_up(
    wire: Xledger, document: str, variables: Row, names: Sequence[str], *, may_be_new: bool = False
) -> dict[str, list[Row]]:
    """Gives all rows of some connections, each small enough for one page, in an answer that is certainly whole.

    Args:
        wire: Asked.
        document: The query.
        variables: Its variables, but for ``$first``.
        names: The connections.
        may_be_new: Whether books without a single line may be believed to be empty where Xledger writes null. Not for
            finding out whether something arrived.

    Raises:
        RetryableError: An answer from which nothing can be concluded.
        InputRefusedError: They do not understand the question.
    """
    data = await wire.read(document, {**variables, "first": MOST_ROWS})
    if any(_is_null(data.get(name)) for name in names):
        await _prove_that_null_is_empty(wire, may_be_new=may_be_new)
        data = await wire.read(document, {**variables, "first": MOST_ROWS})
        data = {name: _with_list(data.get(name)) for name in names}
    found = {}
    for name in names:
        edges, has_more = edges_of(data, name, is_lookup=True)
        if has_more:
            raise UnavailableError("Xledger gave a look-up in parts, though it is small.", code="answer_incomplete")
        found[name] = [node for _, node in edges]
    return found


def _is_null(connection: Any) -> bool:
    return isinstance(connection, Mapping) and connection.get("edges") is None


def _with_list(connection: Any) -> Any:
    page = connection.get("pageInfo") if isinstance(connection, Mapping) else None
    is_end = isinstance(page, Mapping) and page.get("hasNextPage") is False
    return {**connection, "edges": []} if is_end and _is_null(connection) else connection


async def _prove_that_null_is_empty(wire: Xledger, *, may_be_new: bool = False) -> None:
    """Passes when Xledger writes null for a list that is empty, and is itself well enough to list what is not.

    What is posted is asked for by itself: where it cannot be read, a null looks the same as one for "nothing". Books without
    a single line cannot show the difference, so there a null says nothing.

    Raises:
        UnavailableError: Otherwise: then null says nothing.
    """
    document = f"""
query ($nobody: [String!]!) {{
  none: glImportItems(first: 1, filter: {{extIdentifier_in: $nobody}}) {{ edges {{ node {{ dbId }} }} {PAGE} }}
  none_posted: journalEntries(first: 1, filter: {{extIdentifier_in: $nobody}}) {{ edges {{ node {{ dbId }} }} {PAGE} }}
  some: accounts(first: 1) {{ edges {{ node {{ dbId }} }} {PAGE} }}
  some_posted: journalEntries(first: 1) {{ edges {{ node {{ dbId }} }} {PAGE} }}
}}"""
    data = await wire.read(document, {"nobody": [uuid.uuid4().hex]})
    nothing = [data.get("none"), data.get("none_posted")]
    shown = ["some"] if may_be_new and _is_null(data.get("some_posted")) else ["some", "some_posted"]
    is_well = all(edges_of(data, name, is_lookup=True)[0] for name in shown)
    if not is_well or any(not _is_null(each) or _is_null(_with_list(each)) for each in nothing):
        raise UnavailableError(
            "Xledger answered a look-up with nothing, not even an empty list.", code="answer_incomplete"
        )


async def complaints(wire: Xledger, ids: Sequence[str]) -> dict[str, list[Row]]:
    """Gives the import job's complaints by staged line; warnings are left out."""
    wanted = [id for id in dict.fromkeys(ids) if id.isdecimal()]
    found: dict[str, list[Row]] = {}
    for start in range(0, len(wanted), _NUMBERS_AT_ONCE):
        part = json.dumps(wanted[start : start + _NUMBERS_AT_ONCE])
        document = f"""
query ($first: Int!, $after: String) {{
  glImportItemErrors(first: $first, after: $after, filter: {{transactionDbId_in: {part}}}) {{
    edges {{ cursor node {{ dbId message transactionDbId errorLevel {{ code name }} }} }} {PAGE}
  }}
}}"""
        for row in await wire.rows(document, "glImportItemErrors"):
            if not _is_warning(row.get("errorLevel")):
                found.setdefault(to_text(row.get("transactionDbId")) or "", []).append(row)
    return found


def _is_warning(level: Any) -> bool:
    named = (to_text(level.get(name)) or "" for name in ("code", "name")) if isinstance(level, Mapping) else ()
    return any(name.upper() in _WARNINGS for name in named)
