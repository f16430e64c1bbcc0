"""From the staging table through the import job into the books."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from samband_xledger.simulator import Simulator

STAGED = "{ glImportItems(first: 100) { edges { node { dbId trRegNumber extIdentifier amount } } } }"


async def test_a_voucher_is_staged_then_posted_with_a_number_and_our_keys(api: Any) -> None:
    ids = await api.add(api.voucher(4711, key="a"))
    staged = await api.nodes(STAGED, "glImportItems")
    assert ids == [row["dbId"] for row in staged]
    assert [(4711, "a-1", "100.00"), (4711, "a-2", "-100.00")] == [
        (row["trRegNumber"], row["extIdentifier"], row["amount"]) for row in staged
    ]
    assert [] == await api.posted("a-1", "a-2")
    outcome = await api.run_job()
    assert (1, 0) == (outcome["posted"], outcome["failed"])
    lines = await api.posted("a-1", "a-2")
    assert [("7140", "100.00"), ("2910", "-100.00")] == [(row["account"]["code"], row["amount"]) for row in lines]
    assert {str(outcome["numbers"][0])} == {row["transactionHeader"]["transactionNumber"] for row in lines}
    assert [] == await api.nodes(STAGED, "glImportItems")


async def test_lines_of_one_number_are_one_voucher_whichever_request_brought_them(api: Any) -> None:
    first, second = api.voucher(5)
    await api.add([first])
    assert 1 == (await api.run_job())["failed"]
    assert ["The voucher 5 does not balance: 100.00."] == await api.messages()
    await api.add([second])
    assert 1 == (await api.run_job())["posted"]
    assert [] == await api.messages()


@pytest.mark.parametrize(
    ("order", "more", "message"),
    [
        ({}, {"amounts": ("100.00", "-99.99")}, "The voucher 7 does not balance: 0.01."),
        ({"periods": {"2026-03": "closed"}}, {}, "The period 2026-03 is closed."),
        ({}, {"postedDate": "2019-03-02"}, "There is no period for 2019-03-02."),
        ({"accounts": {"7140": "closed"}}, {}, "Account 7140 is closed."),
        ({}, {"glObject1": {"code": "199"}}, "glObject1: 199 is not active on 2026-03-02."),
        ({}, {"project": {"code": "1999"}}, "project: 1999 is not active on 2026-03-02."),
        ({"switches": {"lookups": "by_job"}}, {"account": {"code": "9"}}, "account.code: No value matching owner"),
    ],
)
async def test_what_is_wrong_stays_staged_and_is_told_only_in_the_list_of_errors(
    api: Any, order: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    await api.control("config", order)
    ids = await api.add(api.voucher(7, **more))
    assert [] == await api.messages()
    assert 1 == (await api.run_job())["failed"]
    errors = await api.nodes(
        "{ glImportItemErrors(first: 9) { edges { node { message transactionDbId errorLevel { code } } } } }",
        "glImportItemErrors",
    )
    assert all(row["message"].startswith(message) for row in errors)
    assert {"ERROR"} == {row["errorLevel"]["code"] for row in errors}
    assert {row["transactionDbId"] for row in errors} <= set(ids)
    assert ids == [row["dbId"] for row in await api.nodes(STAGED, "glImportItems")]
    assert 0 == (await api.look("books"))["lines"]


async def test_a_voucher_that_failed_is_tried_again_when_the_period_opens(api: Any) -> None:
    await api.control("config", {"periods": {"2026-03": "closed"}})
    await api.add(api.voucher(8))
    await api.run_job()
    await api.control("config", {"periods": {"2026-03": "open"}})
    assert 1 == (await api.run_job())["posted"]
    assert [] == await api.messages()


async def test_a_period_may_be_closed_for_one_entity_alone(api: Any) -> None:
    await api.control("config", {"periods": {"23602/2026-03": "closed"}})
    await api.add(api.voucher(1), api.voucher(2, owner={"code": "23602"}))
    outcome = await api.run_job()
    assert (1, 1) == (outcome["posted"], outcome["failed"])
    query = (
        "{ periodStatusItems(first: 1000) { edges { node { status { code } owner { code } period { fromDate } } } } }"
    )
    closed = [row for row in await api.nodes(query, "periodStatusItems") if row["status"]["code"] == "CLOSED"]
    assert [("23602", "2026-03-01")] == [(row["owner"]["code"], row["period"]["fromDate"]) for row in closed]


async def test_a_number_that_is_posted_already_is_an_error_of_the_job(api: Any) -> None:
    await api.add(api.voucher(9))
    await api.run_job()
    await api.add(api.voucher(9))
    assert 1 == (await api.run_job())["failed"]
    assert ["The voucher number 9 is used already."] == await api.messages()
    books = await api.look("books?summary=1")
    assert ([], ["9-1", "9-2"]) == (books["posted_twice"], books["received_twice"])


async def test_a_line_that_is_sent_twice_before_the_job_runs_doubles_its_voucher(api: Any) -> None:
    await api.add(api.voucher(10))
    await api.add(api.voucher(10))
    assert 1 == (await api.run_job())["posted"]
    books = await api.look("books")
    assert (4, 1, ["10-1", "10-2"]) == (books["lines"], books["vouchers"], books["posted_twice"])


async def test_external_identifiers_are_not_unique_so_a_second_posting_shows(api: Any) -> None:
    await api.control("config", {"switches": {"duplicate_numbers": "post"}})
    for _ in range(2):
        await api.add(api.voucher(11))
        await api.run_job()
    books = await api.look("books?summary=1")
    assert (["11-1", "11-2"], [11]) == (books["posted_twice"], books["vouchers_posted_twice"])


async def test_a_line_may_be_put_right_or_taken_out_while_it_is_staged(api: Any) -> None:
    _, second, third, fourth = await api.add(
        api.voucher(12, amounts=("100.00", "-90.00")), api.voucher(13, amounts=("5.00", "-4.00"))
    )
    await api.ask(
        "mutation ($inputs: [UpdateGLImportItemsInput!]!) { updateGLImportItems(inputs: $inputs) { edges { clientId } } }",
        inputs=[{"node": {"dbId": second, "amount": "-100.00"}}],
    )
    removed = await api.ask(
        "mutation ($ids: [Int64String!]!) { removeGLImportItems(dbIds: $ids) { numAffected skippedDbIds } }",
        ids=[third, fourth, "1"],
    )
    assert {"numAffected": 2, "skippedDbIds": ["1"]} == removed["removeGLImportItems"]
    outcome = await api.run_job()
    assert (1, 0) == (outcome["posted"], outcome["failed"])
    assert ["100.00", "-100.00"] == [row["amount"] for row in await api.posted("12-1", "12-2")]


async def test_lines_on_hold_are_left_alone_by_the_job(api: Any) -> None:
    await api.add(api.voucher(14, jobLevel={"dbSubId": 0}))
    outcome = await api.run_job()
    assert (0, 0) == (outcome["posted"], outcome["failed"])


async def test_amounts_in_another_currency_are_booked_at_their_rate(api: Any) -> None:
    await api.add(api.voucher(15, amounts=("10.00", "-10.00"), currency={"code": "EUR"}, exchangeRate="11.50"))
    inputs = api.voucher(16, amounts=("10.00", "-10.00"), exchangeRate="11.50")
    for line in inputs:
        line["node"]["invoiceAmount"] = line["node"].pop("amount")
    await api.add(inputs)
    await api.run_job()
    assert ["115.00", "-115.00"] == [row["amount"] for row in await api.posted("16-1", "16-2")]


async def test_five_hundred_lines_go_in_one_mutation_and_no_more(api: Any) -> None:
    amounts = ("1.00",) * 499
    full = api.voucher(17, amounts=(*amounts, "-499.00"))
    assert 500 == len(await api.add(full))
    _, body = await api.send(api.add_query, inputs=[*full, full[0]])
    assert "At most 500 nodes" in body["errors"][0]["message"]
    assert 1 == (await api.run_job())["posted"]
    assert 500 == (await api.look("books?summary=1"))["lines"]


async def test_the_job_runs_by_itself_when_it_is_told_how_often() -> None:
    simulator = Simulator(job_every_s=0.02)
    address = await simulator.start()
    try:
        async with asyncio.timeout(20), aiohttp.ClientSession() as http:
            runs = 0
            while runs < 2:
                async with http.get(f"{address.control_url}/counters") as answer:
                    runs = (await answer.json())["job_runs"]
    finally:
        await simulator.stop()
    assert runs >= 2
