"""Where the money is: one sentence that stands alone, and what led there, in the order it happened."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from samband.service.timeline import timeline_of
from samband.store.models import Correction, ExportItem, Reimbursement, ReimbursementVersion
from samband.views.reimbursements import TimelineView

T0 = dt.datetime(2026, 3, 2, 9, 0, tzinfo=dt.UTC)
BODY = {"payee": {"id": "p", "name": "Canary"}, "currency": "NOK", "status": "approved", "approved_on": "2026-03-02",
        "approved_by": "Kari", "lines": [{"expense_type": "toll", "amount": "123.50", "date": "2026-03-01"}]}  # fmt: skip


def at(minutes: int) -> dt.datetime:
    return T0 + dt.timedelta(minutes=minutes)


def claim(status: str = "approved", version: int = 1) -> Reimbursement:
    return Reimbursement(
        organization_id="nbf", id="c-17", version=version, status=status, body=BODY | {"status": status}, digest="d",
        created_at=T0, updated_at=T0,
    )  # fmt: skip


def version(number: int, minutes: int, status: str = "approved") -> ReimbursementVersion:
    return ReimbursementVersion(
        organization_id="nbf", reimbursement_id="c-17", version=number, status=status, body=BODY | {"status": status},
        digest="d", actor="key:1 platform", created_at=at(minutes),
    )  # fmt: skip


def item(state: str, number: int = 1, **values: Any) -> ExportItem:
    given = {"version": 1, "created_at": at(10), "voucher_number": 70_000 + number, "run_id": "r-1", **values}
    return ExportItem(
        key=f"k-{number}", organization_id="nbf", integration_id="i", reimbursement_id="c-17", number=number,
        stream="vouchers", state=state, **given,
    )  # fmt: skip


def correction(state: str, **values: Any) -> Correction:
    return Correction(
        id="x-1", organization_id="nbf", reimbursement_id="c-17", item_key="k-1", state=state, status="approved",
        body=BODY, digest="n", proposed_by="key:1 platform", created_at=at(60), **values,
    )  # fmt: skip


def told(view: TimelineView) -> list[str]:
    assert sorted(entry.at for entry in view.items) == [entry.at for entry in view.items]
    assert "Canary" not in view.model_dump_json()
    return [entry.what for entry in view.items]


SENT: dict[str, Any] = {"sent_at": at(11), "attempts": 1, "route": "graphql"}
ACCEPTED: dict[str, Any] = {**SENT, "settled_at": at(12), "accepted_at": at(12), "reference": "S-9"}
POSTED: dict[str, Any] = {**ACCEPTED, "settled_at": at(20), "posted_at": at(20), "reference": "4711"}


@pytest.mark.parametrize(
    ("items", "state", "summary"),
    [
        ([], "approved", "is approved and waits to be sent to the books."),
        ([item("reserved")], "reserved", "is reserved since 2026-03-02 and goes out with run nbf/r-1."),
        ([item("sent", **SENT)], "sent", "was sent to the accounting system on 2026-03-02 and has no answer yet."),
        (
            [item("unknown", **SENT)], "uncertain",
            "was sent on 2026-03-02 and nobody knows yet whether it arrived; it is looked up before anything is sent again.",
        ),
        (
            [item("accepted", **ACCEPTED)], "accepted",
            "was accepted by the accounting system on 2026-03-02, under their reference S-9; it is not known to be booked "
            "yet.",
        ),
        ([item("posted", **POSTED)], "booked", "was booked as number 4711, as we learnt on 2026-03-02."),
        (
            [item("posted", **POSTED, voucher={"date": "2026-02-28"})], "booked",
            "was booked as number 4711, dated 2026-02-28, as we learnt on 2026-03-02.",
        ),
        (
            [item("accepted", **ACCEPTED, code="ERROR", message="Account 7130 is closed.")], "stuck",
            "lies in the accounting system since 2026-03-02, which cannot book it as it is: Account 7130 is closed; it is "
            "booked when it is mended there, and can be sent anew when its lines are removed there.",
        ),
        (
            [item("rejected", **SENT, settled_at=at(12), message="Unknown account")], "rejected",
            "was rejected by the accounting system: Unknown account.",
        ),
        ([item("released")], "approved", "is approved and waits to be sent to the books."),
        ([item("reversed", **POSTED)], "approved", "is approved and waits to be sent to the books again."),
        (
            [item("superseded", **POSTED), item("posted", 2, **POSTED)], "booked",
            "was booked as number 4711, as we learnt on 2026-03-02.",
        ),
    ],
)  # fmt: skip
def test_summary_says_where_the_money_is(items: list[ExportItem], state: str, summary: str) -> None:
    view = timeline_of(claim(), [version(1, 0)], items, [])
    assert (state, f"Claim c-17, 123.50 NOK, {summary}") == (view.state, view.summary)


@pytest.mark.parametrize("status", ["draft", "submitted", "rejected", "withdrawn"])
def test_claim_that_is_not_approved_says_so(status: str) -> None:
    view = timeline_of(claim(status), [version(1, 0, status)], [], [])
    assert ("not_approved", ["told"]) == (view.state, told(view))
    assert f"Claim c-17, 123.50 NOK, is {status} and has not been sent to the books." == view.summary


def test_claim_that_was_mended_after_a_rejection_waits_again() -> None:
    view = timeline_of(claim(version=2), [version(2, 30), version(1, 0)], [item("rejected", **SENT)], [])
    assert "approved" == view.state
    assert view.summary.endswith("waits to be sent to the books again.")


def test_whole_way_is_told_in_its_order() -> None:
    versions = [version(2, 5), version(1, 0, "submitted")]
    view = timeline_of(claim(version=2), versions, [item("posted", **POSTED, looked_up_at=at(15), version=2)], [])
    assert ["told", "told", "approved", "reserved", "sent", "accepted", "looked_up", "booked"] == told(view)
    by_what = {entry.what: entry for entry in view.items}
    assert "It was approved by Kari on 2026-03-02." == by_what["approved"].text
    assert "Version 2 was sent by graphql." == by_what["sent"].text
    assert ("graphql", "r-1", 70_001) == (by_what["sent"].route, by_what["sent"].run, by_what["sent"].number)
    assert ("4711", "Version 2 was booked as number 4711.") == (by_what["booked"].reference, by_what["booked"].text)
    assert "key:1 platform" == by_what["told"].actor


def test_second_and_fifth_sending_are_told_as_such() -> None:
    for attempts, words in (
        (1, ""),
        (2, ", for the second time"),
        (3, ", for the third time"),
        (5, ", for the 5th time"),
    ):
        view = timeline_of(claim(), [], [item("sent", **SENT | {"attempts": attempts})], [])
        assert [f"Version 1 was sent by graphql{words}."] == [e.text for e in view.items if e.what == "sent"]


def test_correction_is_told_from_its_proposal_to_its_end() -> None:
    booked = item("posted", **POSTED)
    waiting = timeline_of(claim(), [version(1, 0)], [booked], [correction("proposed")])
    assert "correction_proposed" == waiting.state
    assert waiting.summary.endswith("on 2026-03-02; a change to it waits for a person to agree.")

    agreed = {"decided_at": at(70), "decided_by": "key:9 Kari", "reversal_key": "k-2", "reason": "Misread"}
    back = item("sent", 2, purpose="reversal", reverses="k-1", created_at=at(70), sent_at=at(71), attempts=1)
    going = timeline_of(
        claim(version=2), [version(2, 70), version(1, 0)], [booked, back], [correction("approved", **agreed)]
    )
    assert "reversing" == going.state
    assert going.summary.endswith(
        "is being corrected: the reversal of its booking was sent to the accounting system on 2026-03-02 and has no "
        "answer yet."
    )

    over = [
        item("reversed", **POSTED),
        item("accepted", 2, purpose="reversal", reverses="k-1", created_at=at(70), sent_at=at(71), settled_at=at(72),
             accepted_at=at(72)),
    ]  # fmt: skip
    done = timeline_of(claim(version=2), [version(2, 70), version(1, 0)], over, [correction("done", **agreed)])
    assert "approved" == done.state
    what = told(done)
    wanted = ["correction_proposed", "correction_approved", "reversed", "correction_done"]
    assert wanted == [one for one in what if one in wanted]
    texts = {entry.what: entry.text for entry in done.items}
    assert "The proposed change was agreed to by key:9 Kari. Reason: Misread." == texts["correction_approved"]
    assert "The booking as number 4711 was reversed as voucher 70002." == texts["reversed"]


def test_dismissed_correction_is_told_with_its_reason() -> None:
    gone = correction("dismissed", decided_at=at(70), decided_by="key:9 Kari", reason="It was right.")
    view = timeline_of(claim(), [version(1, 0)], [item("posted", **POSTED)], [gone])
    assert "booked" == view.state
    texts = {entry.what: entry.text for entry in view.items}
    assert "The proposed change was dismissed by key:9 Kari. Reason: It was right." == texts["correction_dismissed"]


def test_versions_that_are_not_listed_are_counted() -> None:
    assert 40 == timeline_of(claim(version=42), [version(42, 2), version(41, 1)], [], []).left_out


EVERY_STATE = ["reserved", "sent", "accepted", "posted", "rejected", "unknown", "released", "reversed", "superseded"]


@pytest.mark.parametrize("state", EVERY_STATE)
@pytest.mark.parametrize("purpose", ["booking", "reversal"])
@pytest.mark.parametrize("bare", [True, False])
def test_every_state_has_words_whatever_is_known_of_it(state: str, purpose: str, bare: bool) -> None:
    values = {} if bare else POSTED
    one = item(state, purpose=purpose, reverses="k-0" if purpose == "reversal" else None, **values)
    for standing in ("proposed", "approved", "done", "dismissed"):
        view = timeline_of(claim(), [version(1, 0)], [one], [correction(standing, reversal_key="k-1")])
        told(view)
        assert view.summary.endswith(".")
        assert not view.summary.endswith("..")
        assert all(entry.text.endswith(".") and " None" not in entry.text for entry in view.items)


def test_days_are_those_of_the_people_who_read_them() -> None:
    late = dt.datetime(2026, 11, 23, 23, 1, tzinfo=dt.UTC)
    view = timeline_of(claim(), [version(1, 0)], [item("posted", **{**POSTED, "posted_at": late})], [])
    assert view.summary.endswith("as we learnt on 2026-11-24.")
