"""What became of items as people and books tell it later: stuck, mended, removed, seen by somebody, come in by file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import pytest

from samband import Receipt, UnavailableError, hookimpl
from samband.errors import ConflictError
from samband.store import Store

from .booking import ORG, Books, Desk, FilingBooks


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk.around(store, Books())


async def sent(desk: Desk, *claims: str) -> None:
    await desk.connect(*claims)
    view = await desk.service.exports.order(ORG)
    assert view.run is not None
    await desk.work(view.run)


# ── what lies there, and cannot be booked ────────────────────────────────────


def stuck(key: str, message: str = "Account 7130 is closed.") -> Receipt:
    return Receipt(key=key, state="accepted", reference="S-9", code="ERROR", message=message)


async def export_events(desk: Desk) -> list[str]:
    told = await desk.store.events.after(ORG, 0, limit=500)
    return [row.type.split(".")[-2] for row in told.rows if ".export." in row.type]


async def test_what_they_cannot_book_and_keep_is_not_free_until_its_lines_are_gone(desk: Desk) -> None:
    await sent(desk, "c-1")
    key = (await desk.items())["c-1/1"].key
    for _ in range(2):
        desk.books.staged[key] = stuck(key)
        await desk.follow_up()
    item = (await desk.items())["c-1/1"]
    assert ("accepted", "ERROR", "Account 7130 is closed.") == (item.state, item.code, item.message)
    assert ["accepted", "stuck"] == await export_events(desk)  # once, however often they say it
    assert "stuck" == (await desk.service.reimbursements.timeline(ORG, "c-1")).state
    assert [] == (await desk.service.exports.order(ORG)).reserved
    with pytest.raises(ConflictError) as refused:
        await desk.service.exports.again(ORG, "c-1", reason="The account is another one now.")
    assert "lies_there_still" == refused.value.code
    assert (await desk.items())["c-1/1"].looked_up_at is None  # it is asked about now, not in six hours
    desk.books.staged[key] = Receipt(key=key, state="rejected", code="removed", message="They are gone.")
    await desk.follow_up()
    assert ["accepted", "stuck", "rejected"] == await export_events(desk)
    assert ["c-1"] == (await desk.service.exports.order(ORG)).reserved


async def test_what_is_mended_there_is_booked_and_was_never_refused(desk: Desk) -> None:
    await sent(desk, "c-1")
    key = (await desk.items())["c-1/1"].key
    desk.books.staged[key] = stuck(key)
    await desk.follow_up()
    desk.books.staged[key] = Receipt(key=key, state="accepted", reference="S-9")
    await desk.follow_up()
    assert ("accepted", None, "") == ((item := (await desk.items())["c-1/1"]).state, item.code, item.message)
    desk.books.staged[key] = Receipt(key=key, state="posted", reference="T-1")
    await desk.follow_up()
    item = (await desk.items())["c-1/1"]
    assert ("posted", "T-1") == (item.state, item.reference)
    assert ["accepted", "stuck", "posted"] == await export_events(desk)
    assert ["accepted"] * 3 == [each.state for each in item.former]
    assert len({each.digest for each in item.former}) == 3
    assert item.run is not None
    assert 1 == (await desk.service.runs.get(ORG, item.run)).counts.created


# ── a person has seen it in the books ────────────────────────────────────────


@pytest.mark.parametrize("state", ["accepted", "rejected"])
async def test_what_a_person_has_seen_in_the_books_is_settled_under_its_number(desk: Desk, state: str) -> None:
    await sent(desk, "c-1")
    key = (await desk.items())["c-1/1"].key
    await desk.change(key, state=state)
    outcomes: tuple[Literal["booked", "not_booked"], ...] = ("booked", "not_booked")
    for outcome in outcomes:
        with pytest.raises(ConflictError) as refused:
            await desk.service.exports.resolve(ORG, key, outcome=outcome, reason="Seen in March.")
        assert "not_uncertain" == refused.value.code
    view = await desk.service.exports.resolve(ORG, key, outcome="booked", reference="4711", reason="Seen in March.")
    assert ("posted", "4711", "Seen in March.") == (view.state, view.reference, view.reason)


async def test_refusal_of_a_claim_that_has_gone_out_again_is_not_taken_back(desk: Desk) -> None:
    await sent(desk, "c-1")
    key = (await desk.items())["c-1/1"].key
    await desk.change(key, state="rejected")
    assert ["c-1"] == (await desk.service.exports.order(ORG)).reserved
    with pytest.raises(ConflictError) as refused:
        await desk.service.exports.resolve(ORG, key, outcome="booked", reference="4711", reason="Seen in March.")
    assert "already_exported" == refused.value.code
    assert {"c-1/1": "rejected", "c-1/2": "reserved"} == await desk.states()


# ── what went as a file ──────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "state"),
    [
        (("posted", "T-1", None), "posted"), (("accepted", "S-1", "ERROR"), "accepted"),
        (("rejected", None, "removed"), "accepted"), (None, "accepted"),
    ],
)  # fmt: skip
async def test_books_are_believed_of_a_file_only_where_they_have_it(
    store: Store, said: tuple[Any, str | None, str | None] | None, state: str
) -> None:
    desk = Desk.around(store, FilingBooks())
    key = await handed_over(desk)
    if said is not None:
        desk.books.staged[key] = Receipt(key=key, state=said[0], reference=said[1], code=said[2], message="So it is.")
    await desk.follow_up()
    item = (await desk.items())["c-1/1"]
    assert (state, True) == (item.state, desk.books.asked[key] > 0)
    assert (said is not None and state == "accepted" and said[0] == "accepted") == (item.code == "ERROR")


async def test_books_that_cannot_be_asked_stop_no_file(store: Store) -> None:
    desk = Desk.around(store, AbsentBooks())
    await handed_over(desk)
    await desk.follow_up()
    assert "succeeded" == (await desk.service.runs.page(ORG, limit=1)).items[0].state
    assert {"c-1/1": "accepted"} == await desk.states()


class AbsentBooks(FilingBooks):
    @hookimpl
    async def find_exported(self, ctx: Any, keys: Sequence[str], sought: Sequence[Any]) -> AsyncIterator[Receipt]:
        raise UnavailableError("Not today.")
        yield  # which makes it an iterator


async def handed_over(desk: Desk) -> str:
    """Exports a claim as a file; gives its key."""
    await desk.connect("c-1")
    made = await desk.service.exports.order(ORG, route="download")
    assert made.run is not None
    assert "succeeded" == await desk.work(made.run)
    item = (await desk.items())["c-1/1"]
    assert ("accepted", "download") == (item.state, item.route)
    return item.key
