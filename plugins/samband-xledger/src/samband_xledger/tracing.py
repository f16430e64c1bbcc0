"""What became of our vouchers: their lines in all of Xledger's tables, and what follows from them.

The import job moves lines from the staged ones to the posted ones while we read, so what is posted is read last.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final

from samband import Context, Receipt, Sought
from samband_xledger import lines as reading
from samband_xledger.graphql import Xledger
from samband_xledger.postings import Line, by_item, line_keys, to_text
from samband_xledger.refusals import Row
from samband_xledger.settings import XledgerSettings

_AT_ONCE: Final = 200
_PROBED: Final = 12
"""Lines of each voucher that are asked for at first; vouchers that have so many are asked about again."""

_MOST_LINES: Final = 500
_LOADED_BY_HAND: Final = frozenset({"file", "download"})
_BY_FILE: Final = frozenset({"soap", *_LOADED_BY_HAND})
_CUT: Final = re.compile(r"\(([0-9]{1,3}) lines\)$")


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
        staged, posted = await reading.with_keys(wire, list(line_keys(keys, 1, _PROBED)), by_number=_numbers(sought))
        places = by_item([*staged, *posted])
        if long := [key for key in keys if max(places.get(key, {0: []})) >= _PROBED]:
            more = await reading.with_keys(wire, list(line_keys(long, _PROBED + 1, _MOST_LINES)), by_number=())
            staged, posted = staged + more[0], posted + more[1]
        settled = by_item(posted)
        if open_ := [key for key in keys if key not in settled]:
            # The import job may have moved lines between the two halves of the first answer.
            posted += await reading.posted_with_keys(wire, list(line_keys(open_, 1, _PROBED)))
        return cls(_unique(staged), _unique(posted), await reading.complaints(wire, [line.id for line in staged]))

    @classmethod
    async def of_files(cls, wire: Xledger, sought: Sequence[Sought]) -> _Trace:
        """Looks for lines that came in with a file: an import may have dropped every key but the mark in the text.

        They are found by the voucher's number, and those that are not found by it by their day, which costs a request for
        each; all are then told by the mark. What is posted is read after what is staged, because the import job moves lines
        that way; what is nowhere then is looked for among the staged ones again, because the job may have taken the file in
        meanwhile. A line that has the number and has lost its mark is nobody's, but not nothing either.
        """
        keys, numbers = {one.key for one in sought}, _numbers(sought)
        staged = await reading.staged_with_numbers(wire, numbers)
        posted = await reading.posted_with_numbers(wire, numbers)
        if nowhere := keys - _marked(staged, posted):
            days = sorted({one.date.isoformat() for one in sought if one.date is not None and one.key in nowhere})
            posted += await reading.posted_on(wire, days)
            if nowhere - _marked(posted):
                staged += await reading.staged_with_numbers(wire, numbers)
        nameless = {line.number for line in (*staged, *posted) if line.place is None and line.number is not None}
        staged = [line for line in staged if line.place and line.place[0] in keys]
        posted = [line for line in posted if line.place and line.place[0] in keys]
        errors = await reading.complaints(wire, [line.id for line in staged])
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
            ids = ",".join(line.id for _, lines in sorted(staged.items()) for line in lines)
            reference = one.reference or (ids if len(ids) <= 400 else None)
            if errors:
                return _refused(one, errors, reference, evidence)
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
    if one.state == "accepted" and one.code is not None:
        return Receipt(
            key=one.key,
            state="rejected",
            code="removed",
            message="Xledger's import could not book it, and its lines have been removed there.",
            evidence=evidence,
        )
    if one.state == "accepted" and one.route not in _LOADED_BY_HAND:
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


def _refused(one: Sought, errors: Sequence[Row], reference: str | None, evidence: dict[str, str]) -> Receipt:
    """Gives what the import job said of lines that it keeps: it takes them up again as soon as they are mended."""
    said = list(dict.fromkeys(to_text(error.get("message")) or "" for error in errors))
    first = said[0]
    field = first.partition(":")[0].strip() if ":" in first and " " not in first.partition(":")[0] else None
    level = errors[0].get("errorLevel")
    return Receipt(
        key=one.key,
        state="accepted",
        reference=reference,
        code=(to_text(level.get("code")) if isinstance(level, Mapping) else None) or "import_refused",
        field=field,
        message="\n".join(text for text in said[:5] if text) or "Xledger's import job refused it without a word.",
        evidence=evidence
        | {
            "still in Xledger": "yes: the lines lie in its import list, and are booked as soon as they are mended there"
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


def _unique(lines: Iterable[Line]) -> Iterator[Line]:
    seen: dict[str, Line] = {}
    for line in lines:
        seen.setdefault(line.id, line)
    return iter(seen.values())


def _numbers(sought: Sequence[Sought]) -> list[int]:
    return sorted({one.number for one in sought if one.number is not None})
