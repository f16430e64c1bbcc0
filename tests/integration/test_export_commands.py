"""What a person types about exports and corrections: keys to act on, what is given up, and what is agreed to."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from aiohttp.test_utils import TestServer

from samband.access import ALL_VERBS
from samband.api import create_app
from samband.cli import run
from samband.store import Store

from .booking import ORG, Books, Desk

REASON = "--reason 'Seen in their list.'"


class Terminal(io.StringIO):
    """Standard input at which somebody sits."""

    def isatty(self) -> bool:
        return True


@dataclass
class Said:
    """What a command wrote, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Say = Callable[..., Awaitable[Said]]


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk.around(store, Books())


@pytest.fixture
async def say(desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Say]:
    """Types a command; with ``typed`` at a terminal, where that is entered."""
    await desk.connect("c-1", "c-2")
    key = await desk.service.create_key("all", verbs=ALL_VERBS, organizations=[ORG])
    async with TestServer(create_app(desk.service)) as server:

        async def typing(line: str, typed: str | None = None) -> Said:
            monkeypatch.setenv("SAMBAND_API_KEY", key)
            monkeypatch.setenv("SAMBAND_URL", str(server.make_url("")))
            monkeypatch.setattr(sys, "stdin", io.StringIO() if typed is None else Terminal(typed))
            capsys.readouterr()
            code = await asyncio.to_thread(run, shlex.split(line))
            written = capsys.readouterr()
            return Said(code, written.out, written.err)

        yield typing


async def sent(desk: Desk, *ids: str) -> str:
    """Exports claims; gives the run."""
    ordered = await desk.service.exports.order(ORG, ids)
    assert ordered.run is not None
    await desk.work(ordered.run)
    return ordered.run.id


async def key_of(desk: Desk, item: str) -> str:
    return (await desk.items())[item].key


# ── listings ─────────────────────────────────────────────────────────────────


async def test_items_are_listed_with_all_that_a_person_needs_to_act_on_them(desk: Desk, say: Say) -> None:
    await sent(desk, "c-1")
    item = (await desk.items())["c-1/1"]
    await desk.change(item.key, route="file", message="Period closed.", field="date", reason="Asked for by phone.")
    heading, row = (await say(f"export items {ORG}")).lines
    assert ["Key", "Claim", "Type", "State", "Voucher", "Way", "Month", "Reference", "Why"] == heading.split()
    assert [item.key, "c-1", "books", "accepted", str(item.voucher_number), "file", "2026-03", item.reference] == (
        row.split()[:8]
    )
    assert row.endswith("They said: date: Period closed. Reason given: Asked for by phone.")


async def test_items_can_be_heard_one_fact_after_the_other(desk: Desk, say: Say) -> None:
    run_id = await sent(desk, "c-1", "c-2")
    lines = (await say(f"export items {ORG} --long --run {ORG}/{run_id}")).lines
    first, second = (block.splitlines() for block in "\n".join(lines).split("\n\n"))
    items = sorted((await desk.items()).values(), key=lambda item: item.key)
    assert [f"Key: {item.key}" for item in items] == [first[0], second[0]]
    assert {"Type: books", "State: accepted", "Month: 2026-03", f"Run: {ORG}/{run_id}"} <= set(first)
    assert all(": " in line for line in (*first, *second))
    assert ["There are no items."] == (await say(f"export items {ORG} --long --state superseded")).lines


async def test_items_tell_their_type_to_programs_too(desk: Desk, say: Say) -> None:
    await sent(desk, "c-1")
    (item,) = (await say(f"export items {ORG} --json")).document["items"]
    assert ("books", (await desk.integration()).id) == (item["type"], item["integration"])


async def test_batch_is_named_as_the_command_that_shows_it_takes_it(desk: Desk, say: Say) -> None:
    run_id = await sent(desk, "c-1")
    named = (await say(f"export batches {ORG}")).lines[1].split()[0]
    assert f"{ORG}/{run_id}" == named
    shown = (await say(f"export batch {named}")).lines
    assert f"Run: {named}" == shown[0]
    (how,) = [line.partition(": ")[2] for line in shown if line.startswith("Each item with its key: ")]
    assert await key_of(desk, "c-1/1") in (await say(how.removeprefix("samband "))).out
    assert named == (await say(f"runs list {ORG}")).lines[1].split()[0]
    assert 2 == (await say(f"export batch {run_id}")).code


async def test_timeline_ends_with_the_keys_and_what_can_be_done(desk: Desk, say: Say) -> None:
    await sent(desk, "c-1")
    item = (await desk.items())["c-1/1"]
    lines = (await say(f"claims timeline {ORG} c-1")).lines
    assert f"Item {item.key}: export 1, voucher {item.voucher_number}, accepted" == lines[-1]
    await desk.change(item.key, state="unknown", accepted_at=None)
    how = (await say(f"claims timeline {ORG} c-1")).lines[-1].partition("samband ")[2]
    assert f"export resolve {ORG} {item.key} --outcome booked|not_booked --reason WHY" == how
    line = how.replace("booked|not_booked", "booked").replace("WHY", "'Seen in their list.'")
    assert "State: accepted" in (await say(line)).lines


# ── deciding ─────────────────────────────────────────────────────────────────


async def test_uncertain_item_is_settled_by_naming_its_claim(desk: Desk, say: Say) -> None:
    await sent(desk, "c-1")
    key = await key_of(desk, "c-1/1")
    await desk.change(key, state="unknown")
    told = await say(f"export resolve {ORG} --claim c-1 --outcome booked --reference 70012 {REASON}")
    assert (0, [f"Item: {key}", "Claim: c-1", "State: posted", "Reference: 70012"]) == (told.code, told.lines[:4])


async def test_claim_without_an_uncertain_item_is_refused_with_the_way_out(desk: Desk, say: Say) -> None:
    await sent(desk, "c-1")
    line = f"export resolve {ORG} --claim {{}} --outcome booked {REASON}"
    told = await say(line.format("c-1"))
    assert (4, True) == (told.code, "Claim c-1 has no uncertain item." in told.err)
    assert f"{await key_of(desk, 'c-1/1')} (booking, accepted)" in told.err
    assert "samband export order" in (await say(line.format("c-2"))).err
    assert 3 == (await say(line.format("none"))).code
    assert {"c-1/1": "accepted"} == await desk.states()


async def test_claim_with_two_uncertain_items_is_ambiguous(desk: Desk, say: Say) -> None:
    await sent(desk, "c-1")
    await desk.service.exports.again(ORG, "c-1", reason="It was deleted there.")
    keys = [await key_of(desk, f"c-1/{number}") for number in (1, 2)]
    await desk.change(keys[0], state="unknown", purpose="reversal")
    await desk.change(keys[1], state="unknown")
    told = await say(f"export resolve {ORG} --claim c-1 --outcome booked {REASON} --json")
    assert (4, "ambiguous_claim") == (told.code, told.document["error"]["code"])
    assert all(key in told.document["error"]["hint"] for key in keys)
    assert {"unknown"} == set((await desk.states()).values())


@pytest.mark.parametrize("named", ["", "0123 --claim c-1"])
async def test_item_is_named_in_one_way(say: Say, named: str) -> None:
    told = await say(f"export resolve {ORG} {named} --outcome booked {REASON} --json")
    assert (2, "usage") == (told.code, told.document["error"]["code"])


async def test_exporting_again_asks_at_a_terminal_and_names_what_is_given_up(desk: Desk, say: Say) -> None:
    await sent(desk, "c-1")
    item = (await desk.items())["c-1/1"]
    await desk.change(item.key, route="file")
    told = await say(f"export again {ORG} c-1 {REASON}", typed="no\n")
    assert (1, "") == (told.code, told.out)
    named = {
        f"Given up: {item.key}", "State: accepted", "Type: books", f"Voucher: {item.voucher_number}", "Way: file",
        "Amount: 100.50 NOK", f"Reference: {item.reference}",
    }  # fmt: skip
    assert named <= set(told.err.splitlines())
    assert "may be booked twice; continue?" in told.err
    assert "Code: not_confirmed" in told.err
    assert {"c-1/1": "accepted"} == await desk.states()
    told = await say(f"export again {ORG} c-1 {REASON} --json", typed="yes\n")
    assert (0, await key_of(desk, "c-1/2")) == (told.code, told.document["item"])
    assert {"c-1/1": "superseded", "c-1/2": "reserved"} == await desk.states()


@pytest.mark.parametrize("typed", ["", "\n", "y e s\n"])
async def test_whatever_is_not_yes_is_no(desk: Desk, say: Say, typed: str) -> None:
    await sent(desk, "c-1")
    assert 1 == (await say(f"export again {ORG} c-1 {REASON}", typed=typed)).code
    assert {"c-1/1": "accepted"} == await desk.states()


async def test_amount_that_is_given_up_is_that_of_the_version_that_went_out(desk: Desk, say: Say) -> None:
    await sent(desk, "c-1")
    await desk.change(await key_of(desk, "c-1/1"), state="rejected")
    await desk.put("c-1", amount="40.00")
    await desk.change(await key_of(desk, "c-1/1"), state="accepted")
    told = await say(f"export again {ORG} c-1 {REASON}", typed="no\n")
    assert {"Amount: 100.50 NOK", "Amount sent instead: 40.00 NOK"} <= set(told.err.splitlines())


async def test_without_a_terminal_exporting_again_wants_yes_beforehand(desk: Desk, say: Say) -> None:
    await sent(desk, "c-1")
    told = await say(f"export again {ORG} c-1 {REASON} --json")
    assert (2, "confirmation_needed") == (told.code, told.document["error"]["code"])
    assert "--yes" in told.document["error"]["hint"]
    assert {"c-1/1": "accepted"} == await desk.states()
    assert 0 == (await say(f"export again {ORG} c-1 {REASON} --yes")).code
    assert {"c-1/1": "superseded", "c-1/2": "reserved"} == await desk.states()


async def test_nothing_is_asked_where_there_is_nothing_to_give_up(say: Say) -> None:
    told = await say(f"export again {ORG} c-1 {REASON}", typed="yes\n")
    assert (4, False) == (told.code, "continue?" in told.err)
    assert "Code: not_exported" in told.err
    assert 3 == (await say(f"export again {ORG} none {REASON}", typed="yes\n")).code


async def test_correction_shows_what_somebody_agrees_to(desk: Desk, say: Say) -> None:
    await sent(desk, "c-1")
    lines = [
        {"expense_type": "toll", "amount": "90.00", "date": "2026-03-01"},
        {"expense_type": "hotel", "amount": "12.00", "date": "2026-03-02"},
    ]
    await desk.put("c-1", lines=lines, currency="SEK", payee={"id": "p-18"})
    (correction,) = (await desk.service.reimbursements.corrections(ORG)).items
    told = (await say(f"claims correction {ORG} {correction.id}")).lines
    assert {"Total now: 100.50 NOK", "Total would be: 102.00 SEK"} <= set(told)
    assert {
        "Change payee.id: p-17 becomes p-18", "Change currency: NOK becomes SEK",
        "Change lines.0.amount: 100.50 becomes 90.00", "Change lines.1.expense_type: nothing becomes hotel",
        "Change lines.1.amount: nothing becomes 12.00", "Change lines.1.date: nothing becomes 2026-03-02",
    } == {line for line in told if line.startswith("Change ")}  # fmt: skip
    agreed = (await say(f"claims approve {ORG} {correction.id}")).lines
    assert not [line for line in agreed if line.startswith(("Total now", "Change "))]


# ── before it is sent ────────────────────────────────────────────────────────


async def test_preview_tells_what_was_refused_before_and_whether_the_claim_has_changed(desk: Desk, say: Say) -> None:
    desk.books.deed = lambda item: "refuse"
    await sent(desk, "c-1", "c-2")
    await desk.put("c-2", amount="40.00")
    told = (await say(f"export preview {ORG}")).lines
    assert [
        "Refused before: c-1, the claim has not changed since; they said: lines.0: Unknown.",
        "Refused before: c-2, the claim has changed since; they said: lines.0: Unknown.",
    ] == [line for line in told if line.startswith("Refused")]


async def test_refusal_that_was_got_over_is_not_told_of_any_more(desk: Desk, say: Say) -> None:
    desk.books.deed = lambda item: "refuse"
    await sent(desk, "c-1", "c-2")
    desk.books.deed = lambda item: None
    await sent(desk, "c-1", "c-2")
    await desk.change(await key_of(desk, "c-1/2"), state="reversed")
    await desk.change(await key_of(desk, "c-2/2"), state="released")
    seen = await desk.service.exports.preview(ORG)
    assert (["c-1", "c-2"], [("c-2", 1, False)]) == (
        seen.claims, [(one.claim, one.number, one.is_changed) for one in seen.refused_before],
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    handlers, level, settings = logging.root.handlers[:], logging.root.level, structlog.get_config()
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.configure(**settings)
