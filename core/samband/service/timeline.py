"""Where the money of a claim is: everything that happened to it, in order, and one sentence that stands alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from samband.rules.schedule import DEFAULT_ZONE, to_local
from samband.rules.selecting import LIVE_STATES
from samband.store.models import Correction, ExportItem, Reimbursement, ReimbursementVersion
from samband.views.reimbursements import TimelineEntryView, TimelineView

__all__ = ["timeline_of"]

_STATES = {
    "reserved": "reserved", "sent": "sent", "accepted": "accepted", "posted": "booked", "unknown": "uncertain",
}  # fmt: skip
# What happened in the same millisecond is told in the order in which it must have happened.
_ORDER = (
    "told", "approved", "reserved", "sent", "uncertain", "looked_up", "accepted", "booked",
    "rejected", "released", "superseded", "reversed", "correction_proposed", "correction_approved",
    "correction_dismissed", "correction_done",
)  # fmt: skip


def timeline_of(
    claim: Reimbursement, versions: Sequence[ReimbursementVersion], items: Sequence[ExportItem],
    corrections: Sequence[Correction],
) -> TimelineView:  # fmt: skip
    """Gives a claim's timeline.

    Args:
        versions: The newest ones, newest first.
        items: All its exports, reversals among them.
        corrections: All of them.
    """
    by_number = sorted(items, key=lambda item: (item.number, item.created_at))
    reversals = {item.reverses: item for item in by_number if item.purpose == "reversal" and item.reverses}
    entries = [
        *_of_versions(versions),
        *(entry for item in by_number for entry in _of_item(item, reversals.get(item.key))),
        *(entry for correction in corrections for entry in _of_correction(correction, by_number)),
    ]
    entries.sort(key=lambda entry: (entry.at, _ORDER.index(entry.what)))
    total = _total(claim.body)
    state, summary = _standing(claim, by_number, corrections)
    oldest = min((version.version for version in versions), default=1)
    return TimelineView(
        reimbursement=claim.id, organization=claim.organization_id, state=state, summary=summary, total=total,
        currency=claim.body["currency"], items=entries, left_out=oldest - 1,
    )  # fmt: skip


# ── where it stands ──────────────────────────────────────────────────────────


def _standing(claim: Reimbursement, items: Sequence[ExportItem], corrections: Sequence[Correction]) -> tuple[Any, str]:
    head = f"Claim {claim.id}, {_total(claim.body)} {claim.body['currency']},"
    bookings = [item for item in items if item.purpose == "booking"]
    live = next((item for item in bookings if item.state in LIVE_STATES), None)
    is_open = {correction.state: correction for correction in corrections}
    if live is not None:
        if "approved" in is_open:
            return "reversing", f"{head} is being corrected: {_reversal_stands(items, is_open['approved'])}."
        told = f"{head} {_item_stands(live)}"
        if "proposed" in is_open:
            return "correction_proposed", f"{told}; a change to it waits for a person to agree."
        is_stuck = live.state == "accepted" and live.code
        return "stuck" if is_stuck else _STATES[live.state], f"{told}."
    if claim.status != "approved":
        return "not_approved", f"{head} is {claim.status} and has not been sent to the books."
    last = bookings[-1] if bookings else None
    if last is not None and last.state == "rejected" and last.version == claim.version:
        return "rejected", f"{head} was rejected by the accounting system: {_words(last)}"
    again = " again" if last is not None and last.state in ("reversed", "rejected") else ""
    return "approved", f"{head} is approved and waits to be sent to the books{again}."


def _item_stands(item: ExportItem) -> str:
    when = _day(item.posted_at or item.accepted_at or item.settled_at or item.sent_at or item.created_at)
    if item.state == "posted":
        dated = f", dated {item.voucher['date']}" if item.voucher else ""
        return f"was booked{_as_number(item)}{dated}, as we learnt on {when}"
    if item.state == "accepted" and item.code:
        return (
            f"lies in the accounting system since {when}, which cannot book it as it is: {_words(item).rstrip('.')}; it is"
            " booked when it is mended there, and can be sent anew when its lines are removed there"
        )
    if item.state == "accepted":
        return f"was accepted by the accounting system on {when}{_as_reference(item)}; it is not known to be booked yet"
    if item.state == "unknown":
        return (
            f"was sent on {when} and nobody knows yet whether it arrived; it is looked up before anything is sent again"
        )
    if item.state == "sent":
        return f"was sent to the accounting system on {when} and has no answer yet"
    return (
        f"is reserved since {when} and goes out with run {item.organization_id}/{item.run_id}"
        if item.run_id
        else f"is reserved since {when}"
    )


def _reversal_stands(items: Sequence[ExportItem], correction: Correction) -> str:
    reversal = next((item for item in items if item.key == correction.reversal_key), None)
    if reversal is None:
        return "its booking is to be reversed"
    if reversal.state == "rejected":
        return f"the reversal of its booking was rejected, and a person has to see to it: {_words(reversal)}".rstrip(
            "."
        )
    if reversal.state == "released":
        return "the reversal of its booking was not sent, and a person has to agree to the correction again"
    taken_back = next((item for item in items if item.key == reversal.reverses), None)
    if reversal.state == "reserved" and taken_back is not None and taken_back.state == "accepted":
        return "the reversal of its booking goes out when it is known that the booking was booked"
    return f"the reversal of its booking {_item_stands(reversal)}"


# ── what happened ────────────────────────────────────────────────────────────


def _of_versions(versions: Sequence[ReimbursementVersion]) -> Iterator[TimelineEntryView]:
    before = None
    for version in reversed(versions):
        by = f" by {version.actor}" if version.actor else ""
        yield TimelineEntryView(
            at=version.created_at, what="told", actor=version.actor or None, version=version.version,
            text=f"Version {version.version} was told{by}: {version.status}, {_total(version.body)} "
            f"{version.body['currency']}.",
        )  # fmt: skip
        if version.status == "approved" and before != "approved":
            day = version.body.get("approved_on")
            who = version.body.get("approved_by")
            text = "It was approved" + (f" by {who}" if who else "") + (f" on {day}" if day else "") + "."
            yield TimelineEntryView(at=version.created_at, what="approved", text=text, version=version.version)
        before = version.status


def _of_item(item: ExportItem, reversal: ExportItem | None) -> Iterator[TimelineEntryView]:
    what = "The reversal" if item.purpose == "reversal" else f"Version {item.version}"
    named = f", voucher {item.voucher_number}" if item.voucher_number is not None else ""
    yield _entry(item, "reserved", item.created_at, f"{what} was reserved for export{named}.")
    if item.sent_at is not None:
        way = f" by {item.route}" if item.route else ""
        again = f", for the {item.attempts}th time" if item.attempts > 3 else _ATTEMPTS.get(item.attempts, "")
        yield _entry(item, "sent", item.sent_at, f"{what} was sent{way}{again}.")
    if item.state == "unknown":
        text = "No answer came; it is looked up before anything is sent again."
        yield _entry(item, "uncertain", item.settled_at or item.sent_at or item.created_at, text)
    if item.looked_up_at is not None:
        yield _entry(item, "looked_up", item.looked_up_at, "The accounting system was asked what became of it.")
    yield from _of_outcome(item, what)
    if item.state == "reversed" and reversal is not None:
        at = _taken_back_at(reversal) or reversal.created_at
        text = f"The booking{_as_number(item)} was reversed{_as_voucher(reversal)}."
        yield _entry(item, "reversed", at, text)
    if item.state == "superseded":
        text = f"A person had it exported again. Reason: {item.reason or 'none was kept'}"
        yield _entry(item, "superseded", item.settled_at or item.created_at, _sentence(text))


_ATTEMPTS = {2: ", for the second time", 3: ", for the third time"}


def _of_outcome(item: ExportItem, what: str) -> Iterator[TimelineEntryView]:
    settled = item.settled_at or item.sent_at or item.created_at
    was_taken = item.state in ("accepted", "posted", "reversed", "superseded")
    accepted_at = item.accepted_at or (settled if was_taken and item.posted_at is None else None)
    if accepted_at is not None:
        text = f"{what} was accepted by the accounting system{_as_reference(item) if item.posted_at is None else ''}."
        yield _entry(item, "accepted", accepted_at, text)
    if item.posted_at is not None:
        yield _entry(item, "booked", item.posted_at, f"{what} was booked{_as_number(item)}.")
    if item.state == "rejected":
        yield _entry(item, "rejected", settled, f"{what} was rejected by the accounting system: {_words(item)}")
    if item.state == "released":
        yield _entry(item, "released", settled, f"{what} was not sent: the order was cancelled or failed before.")


def _taken_back_at(reversal: ExportItem) -> dt.datetime | None:
    return reversal.posted_at or reversal.accepted_at or reversal.settled_at


def _of_correction(correction: Correction, items: Sequence[ExportItem]) -> Iterator[TimelineEntryView]:
    def entry(what: Any, at: dt.datetime, text: str, actor: str | None = None) -> TimelineEntryView:
        return TimelineEntryView(at=at, what=what, text=text, actor=actor or None, correction=correction.id)

    total = f"{_total(correction.body)} {correction.body['currency']}"
    who = f" by {correction.proposed_by}" if correction.proposed_by else ""
    text = f"A change was proposed{who}: {correction.status}, {total}. It waits for a person."
    yield entry("correction_proposed", correction.created_at, text, correction.proposed_by)
    if correction.decided_at is None:
        return
    by, reason = f" by {correction.decided_by}", _sentence(f" Reason: {correction.reason}" if correction.reason else "")
    if correction.state == "dismissed":
        text = f"The proposed change was dismissed{by}.{reason}"
        yield entry("correction_dismissed", correction.decided_at, text, correction.decided_by)
        return
    text = f"The proposed change was agreed to{by}.{reason}"
    yield entry("correction_approved", correction.decided_at, text, correction.decided_by)
    if correction.state == "done":
        reversal = next((item for item in items if item.key == correction.reversal_key), None)
        at = correction.decided_at if reversal is None else _taken_back_at(reversal)
        yield entry("correction_done", at or correction.decided_at, "The correction is done.")


def _entry(item: ExportItem, what: Any, at: dt.datetime, text: str) -> TimelineEntryView:
    is_answer = what in ("accepted", "booked", "rejected", "reversed")
    return TimelineEntryView(
        at=at, what=what, text=text, version=item.version, export=item.number, key=item.key, run=item.run_id,
        route=item.route, number=item.voucher_number, reference=item.reference if is_answer else None,
        code=item.code if what == "rejected" else None,
    )  # fmt: skip


# ── words ────────────────────────────────────────────────────────────────────


def _as_number(item: ExportItem) -> str:
    if item.state == "accepted" or item.reference is None:
        return _as_voucher(item)
    return f" as number {item.reference}"


def _as_voucher(item: ExportItem) -> str:
    return "" if item.voucher_number is None else f" as voucher {item.voucher_number}"


def _as_reference(item: ExportItem) -> str:
    return "" if item.reference is None else f", under their reference {item.reference}"


def _words(item: ExportItem) -> str:
    return _sentence(item.message or item.code or "they gave no reason")


def _sentence(text: str) -> str:
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def _day(at: dt.datetime) -> str:
    """Gives the day by the calendar of the people who read it."""
    return to_local(at, DEFAULT_ZONE)[:10]


def _total(body: Any) -> str:
    return f"{sum((Decimal(line['amount']) for line in body['lines']), Decimal(0)):.2f}"
