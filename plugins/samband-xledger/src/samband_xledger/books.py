"""What Xledger has: where lines of ours are, and what is booked at all.

A line passes through three tables: ``glImportItems`` (staged), ``glImportItemErrors`` beside it (tried and refused by
the import job), ``journalEntries`` (posted). The job moves lines while we read, so what is posted is read last.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal

from samband import Booked, Context, Receipt, Sought, UnavailableError
from samband_xledger.graphql import MOST_ROWS, Xledger, edges_of
from samband_xledger.postings import HOME_CURRENCY, Line, by_item, line_keys, read_line, to_amount, to_text
from samband_xledger.refusals import Row
from samband_xledger.settings import XledgerSettings

_STAGED: Final = "dbId extIdentifier trRegNumber invoiceNumber amount invoiceAmount text"
_POSTED: Final = (
    "dbId extIdentifier invoiceNumber transactionNumber amount invoiceAmount text postedDate"
    " transactionHeader { transactionNumber }"
)
_BOOKED: Final = "postedDate account { code } currency { code }"
_PAGE: Final = "pageInfo { hasNextPage }"
_AT_ONCE: Final = 200
_PROBED: Final = 12
"""Lines of each voucher that are asked for at first; vouchers that have so many are asked about again."""

_MOST_LINES: Final = 500
_BY_FILE: Final = frozenset({"soap", "file", "download"})
_CUT: Final = re.compile(r"\(([0-9]{1,3}) lines\)$")
_WARNINGS: Final = frozenset({"WARNING", "INFO", "INFORMATION", "NOTICE"})


async def find(ctx: Context, wire: Xledger, sought: Sequence[Sought]) -> AsyncGenerator[Receipt, None]:
    """Yields what became of items: nothing for one that is certainly not there.

    Raises:
        RetryableError: An answer from which nothing can be concluded.
    """
    direct = [one for one in sought if one.route not in _BY_FILE]
    for start in range(0, len(direct), _AT_ONCE):
        part = direct[start : start + _AT_ONCE]
        trace = await _Trace.of_keys(wire, part)
        for receipt in filter(None, (trace.receipt(one, ctx) for one in part)):
            yield receipt
    if filed := [one for one in sought if one.route in _BY_FILE]:
        trace = await _Trace.of_files(wire, filed)
        for receipt in filter(None, (trace.receipt(one, ctx) for one in filed)):
            yield receipt


class _Trace:
    """The lines of some items, in all three tables."""

    def __init__(
        self,
        staged: Iterable[Line],
        posted: Iterable[Line],
        errors: Mapping[str, list[Row]],
        nameless: Collection[int] = (),
    ) -> None:
        self.staged = by_item(staged)
        self.posted = by_item(posted)
        self.errors = errors
        self.nameless = nameless

    @classmethod
    async def of_keys(cls, wire: Xledger, sought: Sequence[Sought]) -> _Trace:
        """Looks for lines that carry our keys in ``extIdentifier``."""
        keys = [one.key for one in sought]
        staged, posted = await _lines(wire, list(line_keys(keys, 1, _PROBED)), by_number=_numbers(sought))
        places = by_item([*staged, *posted])
        if long := [key for key in keys if max(places.get(key, {0: []})) >= _PROBED]:
            more = await _lines(wire, list(line_keys(long, _PROBED + 1, _MOST_LINES)), by_number=())
            staged, posted = staged + more[0], posted + more[1]
        settled = by_item(posted)
        if open_ := [key for key in keys if key not in settled]:
            # The import job may have moved lines between the two halves of the first answer.
            posted += await _posted_lines(wire, list(line_keys(open_, 1, _PROBED)))
        return cls(_unique(staged), _unique(posted), await complaints(wire, [line.id for line in staged]))

    @classmethod
    async def of_files(cls, wire: Xledger, sought: Sequence[Sought]) -> _Trace:
        """Looks for lines that came in with a file: an import may have dropped every key but the mark in the text.

        They are found by the voucher's number, and those that are not found by it by their day, which costs a request for
        each; all are then told by the mark. What is posted is read after what is staged, because the import job moves lines
        that way; what is nowhere then is looked for among the staged ones again, because the job may have taken the file in
        meanwhile. A line that has the number and has lost its mark is nobody's, but not nothing either.
        """
        keys, numbers = {one.key for one in sought}, _numbers(sought)
        staged = await _staged_with(wire, numbers)
        posted = await _posted_with(wire, numbers)
        if nowhere := keys - _marked(staged, posted):
            days = sorted({one.date.isoformat() for one in sought if one.date is not None and one.key in nowhere})
            posted += await _posted_on(wire, days)
            if nowhere - _marked(posted):
                staged += await _staged_with(wire, numbers)
        nameless = {line.number for line in (*staged, *posted) if line.place is None and line.number is not None}
        staged = [line for line in staged if line.place and line.place[0] in keys]
        posted = [line for line in posted if line.place and line.place[0] in keys]
        errors = await complaints(wire, [line.id for line in staged])
        return cls(_unique(staged), _unique(posted), errors, nameless)

    def receipt(self, one: Sought, ctx: Context) -> Receipt | None:
        staged, posted = self.staged.get(one.key, {}), self.posted.get(one.key, {})
        evidence = _evidence(staged, posted, ctx)
        if not staged and not posted:
            if one.number in self.nameless:
                return _nameless(one, evidence)
            return _absent(one, ctx, evidence)
        if posted and _is_whole(posted, one) and staged.keys() <= posted.keys():
            numbers = sorted({line.transaction for lines in posted.values() for line in lines if line.transaction})
            if numbers:
                return Receipt(key=one.key, state="posted", reference=", ".join(numbers)[:400], evidence=evidence)
        if not posted and _is_whole(staged, one):
            errors = [error for lines in staged.values() for line in lines for error in self.errors.get(line.id, ())]
            if errors:
                return _refused(one, errors, evidence)
            ids = ",".join(line.id for _, lines in sorted(staged.items()) for line in lines)
            reference = one.reference or (ids if len(ids) <= 400 else None)
            return Receipt(key=one.key, state="accepted", reference=reference, evidence=evidence)
        return Receipt(
            key=one.key,
            state="unknown",
            code="partial",
            message=f"Xledger has a part of the voucher: {len(staged)} lines staged, {len(posted)} posted.",
            evidence=evidence,
        )


def _marked(*lines: Iterable[Line]) -> set[str]:
    """Gives the items that lines carry the mark of."""
    return {line.place[0] for some in lines for line in some if line.place}


def _is_whole(lines: Mapping[int, Sequence[Line]], one: Sought) -> bool:
    """Tells whether these are all lines of a voucher, as far as what is known of it can tell.

    Its places have no gap from 1 on, they are as many as the receipt of its acceptance named, and they balance. Tax that
    Xledger itself has split off from a line that is posted stands on lines without our key, so those need not balance.
    """
    places = sorted(lines)
    if places != list(range(1, len(places) + 1)) or len(places) < 2:
        return False
    expected = one.lines if one.lines is not None else _count_in(one.reference)
    if expected is not None and len(places) != expected:
        return False
    if all(line.transaction for copies in lines.values() for line in copies):
        return True  # what is posted was balanced as a whole, or it would not have been posted
    amounts = [copies[0].amount for copies in lines.values()]
    return None not in amounts and sum((a for a in amounts if a is not None), Decimal()) == 0


def _count_in(reference: str | None) -> int | None:
    """Gives how many lines an earlier receipt named; None when it does not say."""
    if not reference:
        return None
    if cut := _CUT.search(reference):
        return int(cut[1])
    if not all(part.isdecimal() for part in reference.split(",")):
        return None
    return len(reference.split(",")) if "," in reference else None


def _nameless(one: Sought, evidence: dict[str, str]) -> Receipt:
    return Receipt(
        key=one.key,
        state="unknown",
        code="mark_lost",
        message=f"Xledger has lines with the voucher's number {one.number}, but no key of ours in them: somebody has to look"
        " whether they are the voucher's.",
        evidence=evidence,
    )


def _absent(one: Sought, ctx: Context, evidence: dict[str, str]) -> Receipt | None:
    settings: XledgerSettings = ctx.settings
    if one.state == "accepted":
        ctx.log.warning("accepted_voucher_gone", key=one.key, number=one.number)
        return Receipt(
            key=one.key,
            state="unknown",
            code="vanished",
            message="Xledger took the voucher and no longer has it; somebody may have removed its lines or booked it by hand.",
            evidence=evidence,
        )
    latest = dt.timedelta(hours=settings.soap_settle_after_h)
    if one.route in _BY_FILE and (one.sent_at is None or ctx.now() - one.sent_at < latest):
        return Receipt(
            key=one.key,
            state="unknown",
            code="import_job_pending",
            message="Files are taken in by a job; that this one is not there yet says nothing.",
            evidence=evidence,
        )
    return None


def _refused(one: Sought, errors: Sequence[Row], evidence: dict[str, str]) -> Receipt:
    said = list(dict.fromkeys(to_text(error.get("message")) or "" for error in errors))
    first = said[0]
    field = first.partition(":")[0].strip() if ":" in first and " " not in first.partition(":")[0] else None
    level = errors[0].get("errorLevel")
    return Receipt(
        key=one.key,
        state="rejected",
        code=(to_text(level.get("code")) if isinstance(level, Mapping) else None) or "import_refused",
        field=field,
        message="\n".join(text for text in said[:5] if text) or "Xledger's import job refused it without a word.",
        evidence=evidence
        | {
            "still in Xledger": "yes: the lines lie in its import list, and have to be removed there before it is sent again"
        },
    )


def _evidence(
    staged: Mapping[int, Sequence[Line]], posted: Mapping[int, Sequence[Line]], ctx: Context
) -> dict[str, str]:
    told = {
        "looked up at": ctx.now().isoformat(timespec="seconds"),
        "lines staged": str(len(staged)),
        "lines posted": str(len(posted)),
    }
    copies = max((len(lines) for lines in (*staged.values(), *posted.values())), default=1)
    if copies > 1:
        told["copies"] = f"{copies}: the same line is there more than once"
        ctx.log.error("lines_there_more_than_once", copies=copies)
    return told


# ── reading lines ────────────────────────────────────────────────────────────


async def _lines(wire: Xledger, keys: Sequence[str], *, by_number: Sequence[int]) -> tuple[list[Line], list[Line]]:
    """Gives the staged and the posted lines with these keys, asked for in one request."""
    numbered = ""
    if by_number:
        numbered = f"numbered: glImportItems(first: $first, filter: {{trRegNumber_in: {json.dumps(list(by_number))}}})"
        numbered += f" {{ edges {{ node {{ {_STAGED} }} }} {_PAGE} }}"
    document = f"""
query ($keys: [String!]!, $first: Int!) {{
  staged: glImportItems(first: $first, filter: {{extIdentifier_in: $keys}}) {{ edges {{ node {{ {_STAGED} }} }} {_PAGE} }}
  {numbered}
  posted: journalEntries(first: $first, filter: {{extIdentifier_in: $keys}}) {{ edges {{ node {{ {_POSTED} }} }} {_PAGE} }}
}}"""
    names = ["staged", "posted", *(["numbered"] if numbered else [])]
    found = await _looked_up(wire, document, {"keys": list(keys)}, names)
    return found["staged"] + found.get("numbered", []), found["posted"]


async def _posted_lines(wire: Xledger, keys: Sequence[str]) -> list[Line]:
    document = f"""
query ($keys: [String!]!, $first: Int!) {{
  posted: journalEntries(first: $first, filter: {{extIdentifier_in: $keys}}) {{ edges {{ node {{ {_POSTED} }} }} {_PAGE} }}
}}"""
    return (await _looked_up(wire, document, {"keys": list(keys)}, ["posted"]))["posted"]


async def _staged_with(wire: Xledger, numbers: Sequence[int]) -> list[Line]:
    found: list[Line] = []
    for start in range(0, len(numbers), 1000):
        part = json.dumps(list(numbers[start : start + 1000]))
        document = f"""
query ($first: Int!) {{
  staged: glImportItems(first: $first, filter: {{trRegNumber_in: {part}}}) {{ edges {{ node {{ {_STAGED} }} }} {_PAGE} }}
}}"""
        found += (await _looked_up(wire, document, {}, ["staged"]))["staged"]
    return found


async def _posted_with(wire: Xledger, numbers: Sequence[int]) -> list[Line]:
    found: list[Line] = []
    for start in range(0, len(numbers), 1000):
        part = json.dumps([str(number) for number in numbers[start : start + 1000]])
        document = f"""
query ($first: Int!) {{
  posted: journalEntries(first: $first, filter: {{invoiceNumber_in: {part}}}) {{ edges {{ node {{ {_POSTED} }} }} {_PAGE} }}
}}"""
        found += (await _looked_up(wire, document, {}, ["posted"]))["posted"]
    return found


async def _posted_on(wire: Xledger, days: Sequence[str]) -> list[Line]:
    found: list[Line] = []
    for day in days:
        where = f'{{postedDate_gte: "{day}", postedDate_lte: "{day}"}}'
        document = f"""
query ($first: Int!, $after: String) {{
  posted: journalEntries(first: $first, after: $after, filter: {where}) {{
    edges {{ cursor node {{ {_POSTED} }} }} {_PAGE}
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
  none: glImportItems(first: 1, filter: {{extIdentifier_in: $nobody}}) {{ edges {{ node {{ dbId }} }} {_PAGE} }}
  none_posted: journalEntries(first: 1, filter: {{extIdentifier_in: $nobody}}) {{ edges {{ node {{ dbId }} }} {_PAGE} }}
  some: accounts(first: 1) {{ edges {{ node {{ dbId }} }} {_PAGE} }}
  some_posted: journalEntries(first: 1) {{ edges {{ node {{ dbId }} }} {_PAGE} }}
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
    for start in range(0, len(wanted), 1000):
        part = json.dumps(wanted[start : start + 1000])
        document = f"""
query ($first: Int!, $after: String) {{
  glImportItemErrors(first: $first, after: $after, filter: {{transactionDbId_in: {part}}}) {{
    edges {{ cursor node {{ dbId message transactionDbId errorLevel {{ code name }} }} }} {_PAGE}
  }}
}}"""
        for row in await wire.rows(document, "glImportItemErrors"):
            if not _is_warning(row.get("errorLevel")):
                found.setdefault(to_text(row.get("transactionDbId")) or "", []).append(row)
    return found


def _is_warning(level: Any) -> bool:
    named = (to_text(level.get(name)) or "" for name in ("code", "name")) if isinstance(level, Mapping) else ()
    return any(name.upper() in _WARNINGS for name in named)


def _unique(lines: Iterable[Line]) -> Iterator[Line]:
    seen: dict[str, Line] = {}
    for line in lines:
        seen.setdefault(line.id, line)
    return iter(seen.values())


def _numbers(sought: Sequence[Sought]) -> list[int]:
    return sorted({one.number for one in sought if one.number is not None})


# ── all that is booked ───────────────────────────────────────────────────────


async def booked(wire: Xledger, first: dt.date, last: dt.date) -> AsyncGenerator[list[Booked], None]:
    """Yields the staged, failed and posted lines between two days. Staged ones that are posted by then come once."""
    document = _between("glImportItems", f"{_STAGED} {_BOOKED}", first, last)
    staged = await wire.rows(document, "glImportItems")
    errors = await complaints(wire, [to_text(row.get("dbId")) or "" for row in staged])
    document = _between("journalEntries", f"{_POSTED} account {{ code }} currency {{ code }}", first, last)
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
  {connection}(first: $first, after: $after, filter: {window}) {{ edges {{ cursor node {{ {fields} }} }} {_PAGE} }}
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
