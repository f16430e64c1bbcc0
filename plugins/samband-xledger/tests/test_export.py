"""Vouchers against the simulator: each is booked once, or its fate is open until it is looked up."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web

from samband import (
    AuthError,
    Batch,
    Item,
    RateLimitedError,
    Receipt,
    Sought,
    UnavailableError,
    Voucher,
    VoucherLine,
)
from samband.testing import serve
from samband_xledger import plugin
from samband_xledger.graphql import Xledger

DAY = date(2026, 3, 1)


def voucher(n: int = 1, *, lines: int = 2, account: str = "7140", day: date = DAY, **first: Any) -> Voucher:
    key = f"{n:032x}"
    amounts = [Decimal("265.00")] * (lines - 1)
    amounts.append(-sum(amounts, Decimal()))
    found = [
        VoucherLine(
            n=place,
            key=f"{key}-{place}",
            account=account if place < lines else "2910",
            amount=amount,
            text=f"Reise {n}",
        )
        for place, amount in enumerate(amounts, 1)
    ]
    found[0] = replace(found[0], **first)
    return Voucher(
        key=key,
        number=1_000 + n,
        type="GL",
        date=day,
        currency="NOK",
        text="Reise",
        lines=found,
        claim=f"claim-{n}",
        mapping_version=1,
    )


def batch(*vouchers: Voucher, route: str | None = "graphql") -> Batch:
    items = [Item(key=v.key, stream="vouchers", values={}, voucher=v) for v in vouchers]
    return Batch(id="batch-1", items=items, route=route)


async def collected(receipts: AsyncIterator[Receipt]) -> dict[str, Receipt]:
    found = [receipt async for receipt in receipts]
    assert len({receipt.key for receipt in found}) == len(found)
    return {receipt.key: receipt for receipt in found}


async def sent(link: Any, *vouchers: Voucher) -> dict[str, Receipt]:
    return await collected(plugin.export(link.ctx, batch(*vouchers)))


async def kept(link: Any, vouchers: Sequence[Voucher], *, into: list[Receipt]) -> None:
    """Sends, and keeps the receipts that came before an error."""
    async for receipt in plugin.export(link.ctx, batch(*vouchers)):
        into += [receipt]


async def found(link: Any, *vouchers: Voucher, state: str = "unknown", **more: Any) -> dict[str, Receipt]:
    sought = [
        Sought(
            key=v.key,
            state=state,
            number=v.number,
            date=v.date,
            **{"route": "graphql", "sent_at": link.ctx.now(), **more},
        )
        for v in vouchers
    ]
    return await collected(plugin.find_exported(link.ctx, [v.key for v in vouchers], sought))


def states(receipts: dict[str, Receipt]) -> list[str]:
    return [receipts[key].state for key in sorted(receipts)]


def posted(simulator: Any) -> Counter[str]:
    """Line key → how often it stands in the books."""
    entries = simulator.control("books")["entries"]
    return Counter(line["extIdentifier"] for line in entries if line["extIdentifier"])


def keys(*vouchers: Voucher) -> Counter[str]:
    return Counter(line.key for v in vouchers for line in v.lines)


async def test_a_voucher_goes_from_accepted_to_posted_with_their_number(link: Any, simulator: Any) -> None:
    one = voucher()
    receipt = (await sent(link, one))[one.key]
    assert ("accepted", 2) == (receipt.state, len((receipt.reference or "").split(",")))
    assert {"graphql", "2", "1001"} <= set(receipt.evidence.values())
    waiting = (await found(link, one, state="accepted", reference=receipt.reference))[one.key]
    assert ("accepted", receipt.reference) == (waiting.state, waiting.reference)
    simulator.control("job/run", {})
    booked = (await found(link, one, state="accepted", reference=receipt.reference))[one.key]
    assert ("posted", True) == (booked.state, (booked.reference or "").isdecimal())
    assert keys(one) == posted(simulator)


async def test_vouchers_share_mutations_and_none_is_split(link: Any, simulator: Any) -> None:
    vouchers = [voucher(n, lines=200) for n in range(1, 6)]
    assert ["accepted"] * 5 == states(await sent(link, *vouchers))
    assert 3 == simulator.control("counters")["requests"]["addGLImportItems"]
    simulator.control("job/run", {})
    assert keys(*vouchers) == posted(simulator)
    assert ["posted"] * 5 == states(await found(link, *vouchers))


async def test_a_voucher_that_does_not_balance_is_refused_and_the_others_go(link: Any, simulator: Any) -> None:
    bad = voucher(2, amount=Decimal("265.01"))
    receipts = await sent(link, voucher(1), bad, voucher(3))
    assert ["accepted", "rejected", "accepted"] == states(receipts)
    assert "unbalanced" == receipts[bad.key].code
    assert {} == await found(link, bad)


async def test_an_item_without_a_voucher_is_refused(link: Any) -> None:
    item = Item(key="a" * 32, stream="vouchers", values={"amount": "1.00"})
    receipts = await collected(plugin.export(link.ctx, Batch(id="b", items=[item])))
    assert "not_a_voucher" == receipts["a" * 32].code


@pytest.mark.parametrize("status", [200, 400])
async def test_the_one_bad_voucher_is_refused_in_their_words_and_the_rest_is_booked_once(
    link: Any, simulator: Any, status: int
) -> None:
    simulator.control("config", {"switches": {"validation_status": status}})
    vouchers = [voucher(n, account="9999" if n == 7 else "7140") for n in range(1, 21)]
    receipts = await sent(link, *vouchers)
    bad = receipts.pop(vouchers[6].key)
    assert ("rejected", "account.code", True) == (bad.state, bad.field, "No value matching" in bad.message)
    assert ["accepted"] * 19 == states(receipts)
    simulator.control("job/run", {})
    assert keys(*(v for v in vouchers if v is not vouchers[6])) == posted(simulator)


async def test_a_foreign_currency_is_booked_at_their_rate(link: Any, simulator: Any) -> None:
    one = replace(voucher(), currency="SEK")
    await sent(link, one)
    simulator.control("job/run", {})
    assert ["posted"] == states(await found(link, one))
    lines = [line async for page in plugin.booked(link.ctx, DAY, DAY) for line in page]
    assert {("SEK", "265.00"), ("SEK", "-265.00")} == {(line.currency, f"{line.amount:.2f}") for line in lines}


@pytest.mark.parametrize("place", [None, "inputs[{}]"])
async def test_a_refusal_that_names_no_value_is_narrowed_down_to_the_voucher(make_link: Any, place: str | None) -> None:
    sent_keys: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        asked = await request.json()
        inputs = asked["variables"].get("inputs")
        if inputs is None:
            empty = {"edges": [], "pageInfo": {"hasNextPage": False}}
            return web.json_response({"data": dict.fromkeys(("staged", "posted", "numbered"), empty)})
        bad = [n for n, given in enumerate(inputs) if given["node"]["text"] in ("Reise 3", "Reise 11")]
        if bad:
            message = "Not valid." if place is None else f"Not valid at {place.format(bad[0])}."
            errors = [{"message": message, "extensions": {"code": "INVALID_VALUE"}}]
            return web.json_response({"data": None, "errors": errors})
        sent_keys.update(given["clientId"] for given in inputs)
        edges = [{"clientId": given["clientId"], "node": {"dbId": str(n)}} for n, given in enumerate(inputs, 1)]
        return web.json_response({"data": {"addGLImportItems": {"edges": edges}}})

    app = web.Application(client_max_size=0)
    app.router.add_post("/graphql", answer)
    vouchers = [voucher(n) for n in range(1, 17)]
    with serve(app) as address:
        link = make_link({"entity_code": "1", "routes": ["graphql"], "graphql_url": f"{address}/graphql"})
        receipts = await sent(link, *vouchers)
    assert {3, 11} == {int(key, 16) for key, receipt in receipts.items() if receipt.state == "rejected"}
    assert keys(*(v for n, v in enumerate(vouchers, 1) if n not in (3, 11))) == sent_keys


async def test_a_refused_mutation_that_stored_something_after_all_is_not_sent_again(make_link: Any) -> None:
    first, second = voucher(1), voucher(2)
    stored: list[dict[str, Any]] = []
    mutations = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal mutations
        asked = await request.json()
        inputs = asked["variables"].get("inputs")
        if inputs is None:
            there = stored if "extIdentifier_in" in asked["query"] else []
            nodes = [{"cursor": str(n), "node": {"dbId": str(n), **node}} for n, node in enumerate(there, 1)]
            page = {"pageInfo": {"hasNextPage": False}}
            data = {
                "staged": {"edges": nodes, **page},
                "numbered": {"edges": [], **page},
                "posted": {"edges": [], **page},
            }
            return web.json_response({"data": {**data, "glImportItemErrors": {"edges": [], **page}}})
        mutations += 1
        if mutations == 1:
            stored.extend(given["node"] for given in inputs if given["node"]["trRegNumber"] == first.number)
            errors = [{"message": "Not valid.", "extensions": {"code": "INVALID_VALUE"}}]
            return web.json_response({"data": None, "errors": errors})
        edges = [{"clientId": given["clientId"], "node": {"dbId": "9"}} for given in inputs]
        assert {second.number} == {given["node"]["trRegNumber"] for given in inputs}
        return web.json_response({"data": {"addGLImportItems": {"edges": edges}}})

    app = web.Application()
    app.router.add_post("/graphql", answer)
    with serve(app) as address:
        link = make_link({"entity_code": "1", "routes": ["graphql"], "graphql_url": f"{address}/graphql"})
        assert ["accepted", "accepted"] == states(await sent(link, first, second))
    assert 2 == mutations


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "commit_drop"},
        {"fault": "truncate"},
        {"fault": "timeout", "commit": True},
        {"fault": "data_null", "commit": True},
        {"fault": "edges_null"},
        {"fault": "html_200", "commit": True},
        {"fault": "html_503", "commit": True},
        {"fault": "empty_200", "commit": True},
        {"fault": "status", "status": 504, "commit": True},
    ],
    ids=lambda fault: fault["fault"],
)
async def test_what_was_stored_without_an_answer_is_open_and_then_found(
    link: Any, simulator: Any, fault: dict[str, Any]
) -> None:
    one = voucher()
    simulator.control("faults", {**fault, "operation": "addGLImportItems"})
    assert ["unknown"] == states(await sent(link, one))
    assert ["accepted"] == states(await found(link, one))
    simulator.control("job/run", {})
    assert ["posted"] == states(await found(link, one))
    assert keys(one) == posted(simulator)


@pytest.mark.parametrize("kind", ["drop", "timeout", "data_null", "html_200", "html_503"])
async def test_what_was_not_stored_is_open_and_then_certainly_not_there(link: Any, simulator: Any, kind: str) -> None:
    one = voucher()
    simulator.control("faults", {"fault": kind, "operation": "addGLImportItems"})
    assert ["unknown"] == states(await sent(link, one))
    assert {} == await found(link, one)


async def test_after_an_open_mutation_the_rest_is_given_back_unsent(link: Any, simulator: Any) -> None:
    vouchers = [voucher(n, lines=300) for n in range(1, 4)]
    simulator.control("faults", {"fault": "commit_drop", "operation": "addGLImportItems", "skip": 1})
    receipts: list[Receipt] = []
    with pytest.raises(UnavailableError):
        await kept(link, vouchers, into=receipts)
    assert ["accepted", "unknown"] == [receipt.state for receipt in receipts]
    assert {vouchers[0].key: "accepted", vouchers[1].key: "accepted"} == {
        key: receipt.state for key, receipt in (await found(link, *vouchers)).items()
    }


@pytest.mark.parametrize("limit", ["credits", "burst", "concurrency"])
async def test_a_limit_gives_back_what_was_not_sent(link: Any, simulator: Any, limit: str) -> None:
    vouchers = [voucher(n, lines=300) for n in range(1, 4)]
    simulator.control(
        "faults", {"fault": "limit", "limit": limit, "reset_s": 60, "operation": "addGLImportItems", "skip": 2}
    )
    receipts: list[Receipt] = []
    with pytest.raises(RateLimitedError) as caught:
        await kept(link, vouchers, into=receipts)
    assert (["accepted"] * 2, True) == ([receipt.state for receipt in receipts], (caught.value.retry_after_s or 0) > 50)
    assert {} == await found(link, vouchers[2])


async def test_what_the_import_job_refuses_is_theirs_still_with_its_words_until_it_is_posted(
    link: Any, simulator: Any
) -> None:
    one = voucher()
    simulator.control("config", {"periods": {"2026-03": "closed"}})
    receipt = (await sent(link, one))[one.key]
    assert ("accepted", None) == (receipt.state, receipt.code)
    simulator.control("job/run", {})
    stuck = (await found(link, one, state="accepted", reference=receipt.reference))[one.key]
    assert ("accepted", "ERROR", receipt.reference) == (stuck.state, stuck.code, stuck.reference)
    assert "period" in stuck.message.lower()
    assert "still in Xledger" in stuck.evidence
    simulator.control("config", {"periods": {"2026-03": "open"}})
    simulator.control("job/run", {})
    mended = (await found(link, one, state="accepted", reference=receipt.reference, code=stuck.code))[one.key]
    assert ("posted", None) == (mended.state, mended.code)


async def test_what_the_import_job_refused_is_rejected_when_its_lines_are_removed(link: Any, simulator: Any) -> None:
    one = voucher(day=date(2010, 1, 1))
    receipt = (await sent(link, one))[one.key]
    simulator.control("job/run", {})
    stuck = (await found(link, one, state="accepted", reference=receipt.reference))[one.key]
    ids = (receipt.reference or "").split(",")
    removal = "mutation ($ids: [Int64String!]!) { removeGLImportItems(dbIds: $ids) { numAffected } }"
    told = await Xledger(link.ctx).read(removal, {"ids": ids})
    assert len(ids) == told["removeGLImportItems"]["numAffected"]
    gone = (await found(link, one, state="accepted", reference=receipt.reference, code=stuck.code))[one.key]
    assert ("rejected", "removed") == (gone.state, gone.code)
    # Nothing is known to be wrong with one that is gone without a word: that is for a person.
    silent = (await found(link, one, state="accepted", reference=receipt.reference))[one.key]
    assert ("unknown", "vanished") == (silent.state, silent.code)


async def test_an_accepted_voucher_that_is_gone_is_open_and_never_taken_for_unsent(link: Any, simulator: Any) -> None:
    one = voucher()
    assert {one.key: ("unknown", "vanished")} == {
        key: (receipt.state, receipt.code) for key, receipt in (await found(link, one, state="accepted")).items()
    }


async def test_a_part_of_a_voucher_is_open(link: Any, simulator: Any) -> None:
    whole = voucher(lines=4)
    part = replace(
        whole,
        lines=[
            replace(line, amount=amount)
            for line, amount in zip(whole.lines[:2], (Decimal(1), Decimal(-1)), strict=True)
        ],
    )
    await sent(link, part)
    receipt = (await found(link, whole, reference="1,2,3,4"))[whole.key]
    assert ("unknown", "partial") == (receipt.state, receipt.code)


async def test_a_long_voucher_is_found_whole_and_a_part_of_it_is_not_taken_for_it(link: Any, simulator: Any) -> None:
    one = voucher(lines=120)
    receipt = (await sent(link, one))[one.key]
    assert (receipt.reference or "").endswith("(120 lines)")
    for reference, expected in ((receipt.reference, "accepted"), ("1…9 (121 lines)", "unknown")):
        told = (await found(link, one, state="accepted", reference=reference))[one.key]
        assert (expected, "120") == (told.state, told.evidence["lines staged"])


@pytest.mark.parametrize("route", ["soap", "file"])
async def test_a_file_that_is_not_there_yet_is_open_until_its_job_must_have_run(link: Any, route: str) -> None:
    one = voucher()
    young, old = link.ctx.now() - timedelta(hours=167), link.ctx.now() - timedelta(hours=169)
    receipts = await found(link, one, route=route, sent_at=young)
    assert ("unknown", "import_job_pending") == (receipts[one.key].state, receipts[one.key].code)
    assert ["unknown"] == states(await found(link, one, route=route, sent_at=None))
    assert {} == await found(link, one, route=route, sent_at=old)


@pytest.mark.parametrize("is_posted", [False, True])
async def test_vouchers_that_went_by_file_over_soap_are_found_by_the_mark_in_their_text(
    link: Any, simulator: Any, is_posted: bool
) -> None:
    one, two = voucher(1), voucher(2)
    receipts = await collected(plugin.export(link.ctx, batch(one, route="soap")))
    assert ["accepted"] == states(receipts)
    simulator.control("job/run", {})
    if is_posted:
        simulator.control("job/run", {})
    told = await found(link, one, two, route="soap")
    assert ("unknown", "import_job_pending") == (told[two.key].state, told[two.key].code)
    assert told[one.key].state in ("accepted", "posted")
    assert not is_posted or told[one.key].state == "posted"


async def test_a_line_that_is_posted_twice_shows(link: Any, simulator: Any) -> None:
    simulator.control("config", {"switches": {"duplicate_numbers": "post"}})
    one = voucher()
    for claim in ("claim-1", "claim-2"):  # hides the first from the look before writing
        await sent(link, replace(one, claim=claim))
        simulator.control("job/run", {})
    receipt = (await found(link, one))[one.key]
    assert ("posted", True) == (receipt.state, "copies" in receipt.evidence)
    assert any(entry.event == "lines_there_more_than_once" for entry in link.log.entries)


@pytest.mark.parametrize("kind", ["data_null", "edges_null", "html_200", "timeout"])
async def test_a_look_up_that_is_answered_with_nothing_concludes_nothing(link: Any, simulator: Any, kind: str) -> None:
    one = voucher()
    await sent(link, one)
    simulator.control("faults", {"fault": kind, "operation": "glImportItems", "times": None})
    with pytest.raises(UnavailableError):
        await found(link, one, voucher(2))


async def test_a_tenant_that_writes_null_for_empty_lists_is_understood(link: Any, simulator: Any) -> None:
    simulator.control("config", {"switches": {"null_edges": True}})
    one, two, before = voucher(1), voucher(2), voucher(3)
    await sent(link, before)
    simulator.control("job/run", {})
    await sent(link, one)
    assert {one.key: "accepted"} == {key: receipt.state for key, receipt in (await found(link, one, two)).items()}


async def test_many_vouchers_are_looked_up_with_few_requests(link: Any, simulator: Any) -> None:
    vouchers = [voucher(n, lines=3) for n in range(1, 101)]
    await sent(link, *vouchers)
    simulator.control("job/run", {})
    before = len(simulator.control("log")["requests"])
    assert ["posted"] * 100 == states(await found(link, *vouchers))
    assert len(simulator.control("log")["requests"]) - before <= 2


async def test_a_claim_whose_first_voucher_may_still_be_booked_is_not_sent_again(link: Any, simulator: Any) -> None:
    first, second = voucher(1), replace(voucher(2), claim="claim-1")
    simulator.control("config", {"periods": {"2026-03": "closed"}})
    await sent(link, first)
    simulator.control("job/run", {})
    assert ["accepted"] == states(await found(link, first))
    assert "earlier_lines_left" == (await sent(link, second))[second.key].code
    # Somebody opens the period, and the job books what it had refused.
    simulator.control("config", {"periods": {"2026-03": "open"}})
    simulator.control("job/run", {})
    assert "booked_already" == (await sent(link, second))[second.key].code
    assert keys(first) == posted(simulator)


@pytest.mark.parametrize("is_posted", [False, True])
async def test_a_voucher_that_arrived_after_all_is_not_sent_again(link: Any, simulator: Any, is_posted: bool) -> None:
    one = voucher()
    simulator.control("faults", {"fault": "commit_drop", "operation": "addGLImportItems"})
    assert ["unknown"] == states(await sent(link, one))
    if is_posted:
        simulator.control("job/run", {})
    assert ["posted" if is_posted else "accepted"] == states(await sent(link, one))
    simulator.control("job/run", {})
    assert keys(one) == posted(simulator)


@pytest.mark.parametrize("is_posted", [False, True])
async def test_a_claim_is_booked_anew_once_its_first_voucher_was_taken_back(
    link: Any, simulator: Any, is_posted: bool
) -> None:
    first, back, anew = (
        voucher(1),
        replace(voucher(2), claim="claim-1", reverses=1001),
        replace(voucher(3), claim="claim-1"),
    )
    back = replace(back, lines=[replace(line, amount=-line.amount) for line in back.lines])
    for one in (first, back, anew):
        assert ["accepted"] == states(await sent(link, one))
        if is_posted:
            simulator.control("job/run", {})
    simulator.control("job/run", {})
    assert keys(first, back, anew) == posted(simulator)


async def test_a_booking_is_not_taken_back_twice(link: Any, simulator: Any) -> None:
    first, back = voucher(1), replace(voucher(2), claim="claim-1", reverses=1001)
    back = replace(back, lines=[replace(line, amount=-line.amount) for line in back.lines])
    again = replace(back, key=f"{3:032x}", number=1003)
    again = replace(again, lines=[replace(line, key=f"{again.key}-{line.n}") for line in back.lines])
    await sent(link, first)
    simulator.control("job/run", {})
    assert ["accepted"] == states(await sent(link, back))
    told = (await sent(link, again))[again.key]
    assert ("rejected", "reversed_already", True) == (told.state, told.code, "1002" in told.message)
    simulator.control("job/run", {})
    assert "reversed_already" == (await sent(link, again))[again.key].code
    assert keys(first, back) == posted(simulator)


async def test_a_reversal_that_the_import_job_refused_is_not_followed_by_another(link: Any, simulator: Any) -> None:
    first = voucher(1, day=date(2026, 2, 10))
    back = replace(voucher(2), claim="claim-1", reverses=1001)
    back = replace(back, lines=[replace(line, amount=-line.amount) for line in back.lines])
    again = replace(back, key=f"{3:032x}", number=1003)
    again = replace(again, lines=[replace(line, key=f"{again.key}-{line.n}") for line in back.lines])
    await sent(link, first)
    simulator.control("job/run", {})
    simulator.control("config", {"periods": {"2026-03": "closed"}})
    await sent(link, back)
    simulator.control("job/run", {})
    assert "earlier_lines_left" == (await sent(link, again))[again.key].code


async def test_nothing_is_sent_while_it_cannot_be_told_what_is_there_already(link: Any, simulator: Any) -> None:
    simulator.control("faults", {"fault": "timeout", "operation": "glImportItems", "times": None})
    with pytest.raises(UnavailableError):
        await sent(link, voucher())
    assert "addGLImportItems" not in simulator.control("counters")["requests"]


@pytest.mark.parametrize("keep", [False, True])
async def test_booked_gives_staged_failed_and_posted_lines_once(link: Any, simulator: Any, keep: bool) -> None:
    simulator.control("config", {"switches": {"keep_posted_items": keep}})
    first, second = voucher(1), voucher(2)
    await sent(link, first)
    simulator.control("job/run", {})
    await sent(link, second)
    lines = [line async for page in plugin.booked(link.ctx, DAY, DAY) for line in page]
    ours = {
        line.line_key: (line.state, line.account, f"{line.amount:.2f}", line.currency, line.number) for line in lines
    }
    assert ours == {
        first.lines[0].key: ("posted", "7140", "265.00", "NOK", 1001),
        first.lines[1].key: ("posted", "2910", "-265.00", "NOK", 1001),
        second.lines[0].key: ("staged", "7140", "265.00", "NOK", 1002),
        second.lines[1].key: ("staged", "2910", "-265.00", "NOK", 1002),
    }
    assert len(lines) == 4
    assert [] == [line async for page in plugin.booked(link.ctx, date(2026, 4, 1), date(2026, 4, 30)) for line in page]


async def test_a_failed_line_is_told_as_failed(link: Any, simulator: Any) -> None:
    await sent(link, voucher(day=date(2010, 1, 1)))
    simulator.control("job/run", {})
    lines = [line async for page in plugin.booked(link.ctx, date(2010, 1, 1), date(2010, 1, 1)) for line in page]
    assert "failed" in {line.state for line in lines}


async def test_the_chart_shows_what_is_open_and_what_is_closed(make_link: Any, simulator: Any) -> None:
    settings = {
        **simulator.settings,
        "dimension_fields": {"department": "glObject1", "project": "project"},
        "dimension_kinds": {"department": "Kostnadssted", "other": "Ukjent"},
    }
    chart = await plugin.chart(make_link(settings, simulator.credentials).ctx)
    accounts = {entry.code: entry for entry in chart.accounts}
    departments = {entry.code: entry.is_open for entry in chart.dimensions["department"]}
    projects = {entry.code: entry.is_open for entry in chart.dimensions["project"]}
    assert ("Reisekostnad, ikke oppgavepliktig", True) == (accounts["7140"].text, accounts["7140"].is_open)
    assert {"101": True, "102": True, "103": True, "199": False} == departments
    assert (True, False) == (projects["1000"], projects["1999"])
    assert "other" not in chart.dimensions
    assert {"0", "1", "11", "13"} == {rule.code for rule in chart.tax_rules or ()}
    march = next(period for period in chart.periods or () if period.first == DAY)
    assert (date(2026, 3, 31), True) == (march.last, march.is_open)


async def test_the_way_is_open_when_graphql_answers(link: Any, simulator: Any) -> None:
    assert "graphql" == (await plugin.choose_route(link.ctx, {})).name


async def test_the_check_tells_whether_files_can_go_over_soap(make_link: Any, link: Any, simulator: Any) -> None:
    assert "open" == (await plugin.check(link.ctx)).facts["Files over SOAP"]
    bare = make_link(simulator.settings, {"api_token": simulator.credentials["api_token"]})
    found_ = await plugin.check(bare.ctx)
    assert (True, True) == (found_.is_ok, "no log-on key" in found_.facts["Files over SOAP"])


@pytest.mark.parametrize(("routes", "count"), [(["soap"], 1), (["file"], 0), (["soap", "file"], 1)])
async def test_without_a_token_the_check_says_what_cannot_be_looked_up(
    make_link: Any, simulator: Any, routes: list[str], count: int
) -> None:
    log_on = {name: value for name, value in simulator.credentials.items() if name != "api_token"}
    found_ = await plugin.check(make_link({**simulator.settings, "routes": routes}, log_on).ctx)
    assert count == sum("API token" in missing for missing in found_.missing)


async def test_the_check_names_entity_environment_and_requests(link: Any) -> None:
    found = await plugin.check(link.ctx)
    assert (True, "demo") == (found.is_ok, found.facts["Environment"])
    assert "Forbundet" in found.summary
    assert any("requests" in label.lower() for label in found.facts)


@pytest.mark.parametrize(
    ("right", "verb", "missing"),
    [
        ("GLImportItem", "read", "Read General Ledger: GLImportItem"),
        ("GLImportItem", "write", "Write General Ledger: GLImportItem"),
        ("JournalEntry", "read", "Read General Ledger: JournalEntry"),
        ("Account", "read", "Read General Ledger: Account"),
        ("Project", "read", "Read Project: Project"),
    ],
)
async def test_the_check_lists_exactly_the_right_that_is_missing(
    link: Any, simulator: Any, right: str, verb: str, missing: str
) -> None:
    rights_without(simulator, {verb: [right]})
    assert [missing] == list((await plugin.check(link.ctx)).missing)


async def test_the_check_needs_no_right_that_posting_does_not_need(link: Any, simulator: Any) -> None:
    rights_without(
        simulator,
        {
            "read": ["Entity", "Employee", "Supplier", "Transaction", "PeriodStatusItem", "TaxTableSetup", "Webhook"],
            "write": ["Webhook"],
        },
    )
    found = await plugin.check(link.ctx)
    assert (True, []) == (found.is_ok, list(found.missing))


async def test_the_check_says_when_the_token_was_made_in_another_entity(make_link: Any, simulator: Any) -> None:
    other = make_link({**simulator.settings, "entity_code": "23700"}, simulator.credentials)
    (missing,) = (await plugin.check(other.ctx)).missing
    assert "23700" in missing


async def test_a_wrong_token_asks_for_a_person(make_link: Any, simulator: Any) -> None:
    stranger = make_link({**simulator.settings, "routes": ["graphql"]}, {"api_token": "bm8tc3VjaC10b2tlbi1uby1zdWNo"})
    with pytest.raises(AuthError):
        await plugin.check(stranger.ctx)
    with pytest.raises(AuthError):
        await sent(stranger, voucher())


def rights_without(simulator: Any, lost: dict[str, Sequence[str]]) -> None:
    """Takes rights away from the token."""
    token = {"token": simulator.credentials["api_token"]}
    without = {f"without_{verb}": list(rights) for verb, rights in lost.items()}
    simulator.control("config", {"tokens": [{**token, **without}]})


def test_times_are_those_of_oslo() -> None:
    from samband_xledger.instants import to_lower_bound, to_utc

    assert datetime(2026, 3, 2, 11, 0, tzinfo=UTC) == to_utc("2026-03-02T12:00:00")
    assert datetime(2026, 7, 2, 10, 0, tzinfo=UTC) == to_utc("2026-07-02T12:00:00")
    assert "2026-07-02T12:00:00" == to_lower_bound(datetime(2026, 7, 2, 10, 0, tzinfo=UTC))
    # On 25 October 2026 the clocks go back from three to two at 01:00 UTC: what follows carries an earlier time.
    assert "2026-10-25T01:45:00" == to_lower_bound(datetime(2026, 10, 25, 0, 45, tzinfo=UTC))
