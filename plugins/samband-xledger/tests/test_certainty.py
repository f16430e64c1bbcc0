"""What is certain and what is not: answers and files that could be taken for more, or for less, than they prove."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from samband import (
    AuthError,
    Batch,
    Booked,
    HttpResponse,
    Item,
    OutcomeUnknownError,
    Receipt,
    RejectedError,
    RetryableError,
    Sought,
    UnavailableError,
    Voucher,
    VoucherLine,
    WebhookRequest,
)
from samband.testing import serve
from samband_xledger import bookings, envelopes, plugin, soap
from samband_xledger.layouts import facts_of
from samband_xledger.postings import check_voucher, nodes_of
from samband_xledger.settings import XledgerSettings
from samband_xledger.webhooks import triggers_of

DAY = date(2026, 3, 2)


def voucher(n: int = 1, *amounts: str, **changes: Any) -> Voucher:
    key = f"{n:032x}"
    lines = [
        VoucherLine(
            n=place,
            key=f"{key}-{place}",
            account="7140" if Decimal(amount) > 0 else "2910",
            amount=Decimal(amount),
            text="Reise",
        )
        for place, amount in enumerate(amounts or ("265.00", "-265.00"), 1)
    ]
    made = Voucher(key=key, number=1_000 + n, type="GL", date=DAY, currency="NOK", text="Reise", lines=lines,
                   claim=f"claim-{n}", mapping_version=1)  # fmt: skip
    return replace(made, **changes)


def batch(*vouchers: Voucher, route: str = "graphql") -> Batch:
    return Batch(
        id="b", items=[Item(key=v.key, stream="vouchers", values={}, voucher=v) for v in vouchers], route=route
    )


async def sent(link: Any, *vouchers: Voucher, route: str = "graphql") -> dict[str, Receipt]:
    return {receipt.key: receipt async for receipt in plugin.export(link.ctx, batch(*vouchers, route=route))}


def sought(link: Any, one: Voucher, *, route: str = "soap", state: Any = "unknown", days: float = 30) -> Sought:
    at = link.ctx.now() - timedelta(days=days)
    return Sought(key=one.key, state=state, route=route, sent_at=at, number=one.number, date=one.date,
                  lines=len(one.lines))  # fmt: skip


async def found(link: Any, one: Sought) -> Receipt | None:
    receipts = [receipt async for receipt in plugin.find_exported(link.ctx, [one.key], [one])]
    return receipts[0] if receipts else None


def row(line: VoucherLine, **more: Any) -> dict[str, Any]:
    return {"dbId": line.key.rpartition("-")[2], "extIdentifier": line.key, "amount": f"{line.amount:.2f}",
            "invoiceAmount": f"{line.amount:.2f}", "account": {"code": line.account}, **more}  # fmt: skip


class Books:
    """A GraphQL of our own that gives what a test puts into it, connection by connection."""

    def __init__(self) -> None:
        self.staged: Callable[[str], Any] = lambda query: []
        self.posted: Callable[[str], Any] = lambda query: []
        self.more: dict[str, Any] = {"glImportItemErrors": []}
        self.mutations = 0
        self.queries: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        asked = await request.json()
        query = asked["query"]
        self.queries.append(query)
        if query.lstrip().startswith("mutation"):
            self.mutations += 1
            edges = [{"clientId": each["clientId"], "node": {"dbId": "9"}} for each in asked["variables"]["inputs"]]
            return web.json_response({"data": {"addGLImportItems": {"edges": edges}}})
        staged, posted = self.staged(query), self.posted(query)
        if isinstance(staged, str):
            return web.json_response({"errors": [{"message": "no", "code": staged}]})
        data = {"staged": staged, "posted": posted, "numbered": [], "glImportItems": staged, "journalEntries": posted}
        return web.json_response({"data": {name: _connection(rows) for name, rows in {**data, **self.more}.items()}})


def _connection(rows: Any) -> dict[str, Any]:
    edges = None if rows is None else [{"cursor": str(n), "node": node} for n, node in enumerate(rows, 1)]
    return {"edges": edges, "pageInfo": {"hasNextPage": False}}


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
def linked(make_link: Callable[..., Any], books: Books) -> Iterator[Any]:
    app = web.Application()
    app.router.add_post("/graphql", books.answer)
    with serve(app) as address:
        yield make_link({"entity_code": "1", "routes": ["graphql"], "graphql_url": f"{address}/graphql"})


# ── a look before writing ────────────────────────────────────────────────────


@pytest.mark.parametrize("amount", [None, "1.00"])
async def test_a_claim_in_a_foreign_currency_is_not_booked_twice(linked: Any, books: Books, amount: str | None) -> None:
    first, second = voucher(1, currency="SEK"), voucher(2, claim="claim-1", currency="SEK")
    rows = [row(line, yourReference="claim-1", amount=amount) for line in first.lines]
    books.staged = lambda query: rows[:1]
    receipts = await sent(linked, second)
    assert ("rejected", "booked_already", 0) == (
        receipts[second.key].state, receipts[second.key].code, books.mutations)  # fmt: skip


async def test_what_was_taken_back_at_another_rate_may_be_booked_anew(linked: Any, books: Books) -> None:
    first = voucher(1, currency="SEK")
    mirrored = [replace(line, key=f"{2:032x}-{line.n}", amount=-line.amount) for line in first.lines]
    back = replace(voucher(2, currency="SEK"), lines=mirrored)
    there = [row(line, yourReference="claim-1", amount="250.00", dbId=f"1{line.n}") for line in first.lines]
    there += [row(line, yourReference="claim-1", amount="-260.00", dbId=f"2{line.n}") for line in back.lines]
    books.posted = lambda query: there
    anew = voucher(3, claim="claim-1", currency="SEK")
    assert "accepted" == (await sent(linked, anew))[anew.key].state


async def test_an_earlier_line_whose_amount_cannot_be_read_is_not_taken_for_nothing(linked: Any, books: Books) -> None:
    rows = [row(voucher(1).lines[0], yourReference="claim-1", amount=None, invoiceAmount=None)]
    books.posted = lambda query: rows
    anew = voucher(2, claim="claim-1")
    assert ("booked_already", 0) == ((await sent(linked, anew))[anew.key].code, books.mutations)


async def test_somebody_elses_reference_that_reads_like_a_claim_stops_nothing(linked: Any, books: Books) -> None:
    one = voucher(1, claim="1001")
    stranger = row(one.lines[0], extIdentifier="INV-77", yourReference="1001", text="Strøm")
    books.posted = lambda query: [stranger]
    assert "accepted" == (await sent(linked, one))[one.key].state


async def test_what_is_there_already_is_never_given_back_as_unsent(linked: Any, books: Books) -> None:
    one = voucher(1)
    rows = [row(line, yourReference="claim-1") for line in one.lines]
    books.staged = lambda query: "BAD_REQUEST.INSUFFICIENT_CREDITS" if "extIdentifier_in" in query else rows
    receipts = await sent(linked, one)
    assert ("unknown", "there_already", 0) == (receipts[one.key].state, receipts[one.key].code, books.mutations)


async def test_a_claim_that_is_booked_over_graphql_does_not_go_by_soap_as_well(
    make_link: Callable[..., Any], simulator: Any
) -> None:
    link = make_link({**simulator.settings, "routes": ["graphql", "soap"]}, simulator.credentials)
    first, second, other = voucher(1), voucher(2, claim="claim-1"), voucher(3)
    await sent(link, first)
    receipts = await sent(link, second, other, route="soap")
    assert ["rejected", "accepted"] == [receipts[v.key].state for v in (second, other)]
    assert "booked_already" == receipts[second.key].code
    for _ in range(2):
        simulator.control("job/run", {})
    told = {entry["voucher"] for entry in simulator.control("books")["entries"]}
    assert second.number not in told


async def test_a_file_goes_also_while_graphql_cannot_be_asked(make_link: Callable[..., Any], simulator: Any) -> None:
    link = make_link({**simulator.settings, "routes": ["graphql", "soap"]}, simulator.credentials)
    simulator.control("faults", {"fault": "timeout", "door": "graphql", "times": None})
    one = voucher(1)
    assert "accepted" == (await sent(link, one, route="soap"))[one.key].state


async def test_a_log_on_that_fails_before_a_file_is_sent_leaves_its_vouchers_free(
    make_link: Callable[..., Any], simulator: Any
) -> None:
    settings = {**simulator.settings, "routes": ["soap"]}
    link = make_link(settings, {"soap_user": "nobody", "soap_password": "wrong"})
    with pytest.raises(RetryableError):
        await sent(link, voucher(1), route="soap")


# ── look-ups ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("table", ["staged", "posted"])
async def test_lines_whose_mark_was_cut_off_are_not_taken_for_nothing(linked: Any, books: Books, table: str) -> None:
    one = voucher(1)
    cut = {"extIdentifier": None, "text": f"Reise, bilag {one.number} {one.key[:20]}"}
    numbers = {"trRegNumber": one.number} if table == "staged" else {"invoiceNumber": str(one.number)}
    rows = [row(line, **cut, **numbers) for line in one.lines]
    setattr(books, table, lambda query: rows)
    receipt = await found(linked, sought(linked, one))
    assert receipt is not None
    assert ("unknown", "mark_lost") == (receipt.state, receipt.code)


async def test_a_file_whose_voucher_was_moved_to_another_day_is_found(linked: Any, books: Books) -> None:
    one = voucher(1)
    mark = [f"Reise, bilag {one.number} {line.key}" for line in one.lines]
    rows = [
        row(line, extIdentifier=None, text=text, invoiceNumber=str(one.number), transactionNumber="7")
        for line, text in zip(one.lines, mark, strict=True)
    ]
    books.posted = lambda query: rows if "invoiceNumber_in" in query else []
    receipt = await found(linked, sought(linked, one))
    assert receipt is not None
    assert ("posted", "7") == (receipt.state, receipt.reference)


async def test_a_file_that_the_job_takes_in_while_it_is_looked_for_is_found(linked: Any, books: Books) -> None:
    one = voucher(1)
    rows = [row(line, trRegNumber=one.number, text=f"Reise, bilag {one.number} {line.key}") for line in one.lines]
    looks: list[str] = []

    def staged(query: str) -> Any:
        if "trRegNumber_in" not in query:
            return []
        looks.append(query)
        return rows if len(looks) > 1 else []

    books.staged = staged
    receipt = await found(linked, sought(linked, one))
    assert receipt is not None
    assert "accepted" == receipt.state


async def test_a_part_that_balances_is_not_taken_for_the_whole(linked: Any, books: Books) -> None:
    one = voucher(1, "10.00", "-10.00", "5.00", "-5.00")
    rows = [row(line) for line in one.lines[:2]]
    books.staged = lambda query: rows if "extIdentifier_in" in query else []
    receipt = await found(linked, sought(linked, one, route="graphql"))
    assert receipt is not None
    assert ("unknown", "partial") == (receipt.state, receipt.code)


async def test_a_voucher_of_which_a_part_waits_still_is_not_posted(linked: Any, books: Books) -> None:
    one = voucher(1, "10.00", "-10.00", "5.00", "-5.00")
    waiting, done = ([row(line, transactionNumber="7") for line in part] for part in (one.lines[2:], one.lines[:2]))
    books.staged = lambda query: waiting if "extIdentifier_in" in query else []
    books.posted = lambda query: done
    receipt = await found(linked, replace(sought(linked, one, route="graphql"), lines=None))
    assert receipt is not None
    assert ("unknown", "partial") == (receipt.state, receipt.code)


@pytest.mark.parametrize("some", [None, []])
async def test_null_for_what_is_posted_proves_nothing_while_nothing_posted_can_be_read(
    linked: Any, books: Books, some: Any
) -> None:
    books.staged = lambda query: None
    books.posted = lambda query: None
    books.more |= {"none": None, "none_posted": None, "some": [{"dbId": "1"}], "some_posted": some}
    with pytest.raises(UnavailableError):
        await found(linked, sought(linked, voucher(1), route="graphql"))


async def test_a_strangers_unfinished_line_does_not_hide_the_books(linked: Any, books: Books) -> None:
    one = voucher(1)
    ours = row(one.lines[0], postedDate=DAY.isoformat())
    stranger = {"dbId": "77", "extIdentifier": None, "amount": None, "account": None, "postedDate": DAY.isoformat()}
    books.staged = lambda query: [ours, stranger]
    lines: list[Booked] = [line async for page in plugin.booked(linked.ctx, DAY, DAY) for line in page]
    assert [one.lines[0].key] == [line.line_key for line in lines]


# ── what a fault means ───────────────────────────────────────────────────────

BROKEN = (
    "Violation of PRIMARY KEY constraint 'PK_Import'. The duplicate key value is (unknown).",
    "The INSERT statement conflicted with the FOREIGN KEY constraint; the referenced key was not found.",
    "Server was unable to process request. ---> Unable to serialize the session state: session timed out.",
    "Server was unable to process request. ---> Specified cast is not valid.",
    "Server was unable to process request. ---> Invalid attempt to read when no data is present.",
    "An unknown error occurred.",
)


@pytest.mark.parametrize("text", BROKEN)
@pytest.mark.parametrize("is_ours", [False, True])
def test_a_program_that_broke_down_has_refused_nothing(text: str, is_ours: bool) -> None:
    assert OutcomeUnknownError is type(soap._meaning_of(envelopes.Fault(is_ours=is_ours, text=text)))


@pytest.mark.parametrize("text", BROKEN)
def test_the_same_words_in_a_result_are_neither_a_receipt_nor_a_refusal(text: str) -> None:
    with pytest.raises(OutcomeUnknownError):
        soap._taken(_envelope("ReceiveFile", text))


@pytest.mark.parametrize("text", ["The logon key is not valid or has expired.", "Session timed out.", "Unknown key."])
def test_a_key_that_is_refused_is_still_understood(text: str) -> None:
    assert soap._KeyRefusedError is type(soap._meaning_of(envelopes.Fault(is_ours=False, text=text)))


def test_a_key_of_a_shape_that_nobody_has_seen_is_not_told() -> None:
    with pytest.raises(AuthError) as caught:
        soap._key_in(_envelope("LogonKey", "K" * 1001))
    assert "KKK" not in repr(caught.value) + str(caught.value) + caught.value.remote_message


def test_an_envelope_does_not_show_the_password_it_holds() -> None:
    made = envelopes.enclosed(
        "Authentication", "LogonKey", "1.2", sLogonID="u", sPassword="hemmelig-1", sApplication="X"
    )
    assert (b"hemmelig-1" in made.body, "hemmelig-1" in repr(made)) == (True, False)


class _Answer:
    status = 200
    url = "http://x"
    headers: Mapping[str, str] = {"Content-Type": "application/soap+xml"}

    def __init__(self, body: bytes) -> None:
        self.body = body


def _envelope(operation: str, text: str) -> HttpResponse:
    inner = f'<{operation}Response xmlns="{envelopes.NAMESPACE}"><{operation}Result>{text}</{operation}Result>'
    outer = f'<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Body>{inner}</{operation}Response>'
    return _Answer(f"{outer}</s:Body></s:Envelope>".encode())  # type: ignore[return-value]


# ── vouchers ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("codes", [("101", "102"), ("101", "101")])
def test_two_dimensions_that_share_a_field_are_never_made_one_silently(codes: tuple[str, str]) -> None:
    settings = XledgerSettings(entity_code="1", dimension_fields={"avdeling": "glObject1", "sted": "glObject1"})
    one = voucher(1)
    line = replace(one.lines[0], dimensions=dict(zip(("avdeling", "sted"), codes, strict=True)))
    made = replace(one, lines=[line, one.lines[1]])

    def told() -> tuple[Any, Any]:
        facts = facts_of(made, line, entity="1", voucher_type="GL", fields=settings.dimension_fields)
        return nodes_of(made, settings)[line.key]["glObject1"], facts["posting_1"]

    if codes[0] == codes[1]:
        assert ({"code": "101"}, "101") == told()
        return
    for write in (lambda: nodes_of(made, settings), told):
        with pytest.raises(RejectedError) as caught:
            write()
        assert "dimension_field_taken" == caught.value.code


def test_a_text_that_cannot_be_written_is_refused_before_anything_is_sent() -> None:
    one = voucher(1)
    bad = replace(one, lines=[replace(one.lines[0], text="Reise \ud83d"), one.lines[1]])
    with pytest.raises(RejectedError) as caught:
        check_voucher(bad)
    assert "lines.1.text" == caught.value.field


# ── reports, changes, deliveries ─────────────────────────────────────────────


async def test_a_report_that_contradicts_itself_about_one_voucher_settles_the_others(linked: Any) -> None:
    keys = [voucher(n).key for n in (1, 2)]
    rows = [
        f"a.csv;1;1;posted;17;;x bilag 1 {keys[0]}-1",
        f"a.csv;1;2;rejected;;no;x bilag 1 {keys[0]}-2",
        f"a.csv;2;1;posted;18;;x bilag 2 {keys[1]}-1",
    ]
    content = "\r\n".join(["file;voucher no;line;state;transaction number;message;text", *rows]).encode()
    receipts = await plugin.acknowledge(linked.ctx, "a.csv", content)
    assert [(keys[1], "posted")] == [(receipt.key, receipt.state) for receipt in receipts]
    assert any(entry.event == "report_contradicts_itself" for entry in linked.log.entries)


@pytest.mark.parametrize(("is_back", "expected"), [(True, (["7"], [])), (False, ([], ["7"]))])
async def test_a_row_that_was_deleted_and_came_back_is_there(
    linked: Any, books: Books, is_back: bool, expected: tuple[list[str], list[str]]
) -> None:
    books.more |= {
        "accounts": [{"dbId": "5", "code": "7140"}],
        "transactions_deltas": [{"dbId": "7", "mutationType": kind} for kind in ("ADDED", "DELETED", "ADDED")],
        "transactions": [{"dbId": "7"}] if is_back else [],
    }
    start = bookings.Position(part="changes", log=None, log_read_at=linked.ctx.now())
    (page,) = [page async for page in bookings.read(linked.ctx, start.to_cursor())]
    assert expected == ([record.key for record in page.records], list(page.deleted))


def test_changes_without_a_version_are_not_taken_for_one_another() -> None:
    ids = {triggers_of(_delivery({"edges": [{"node": {"dbId": n}}]}))[0].delivery_id for n in (1, 2)}
    assert 2 == len(ids)


def test_the_same_delivery_again_is_the_same() -> None:
    ids = {triggers_of(_delivery({"edges": [{"node": {"dbId": 1}}]}))[0].delivery_id for _ in range(2)}
    assert 1 == len(ids)


TOKEN = "c2FtYmFuZC10ZXN0LXRva2VuLTAwMDE"
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def _delivery(connection: Mapping[str, Any]) -> WebhookRequest:
    body = json.dumps({"data": {"transactions": connection}}).encode()
    signed = hmac.digest(
        base64.urlsafe_b64decode(TOKEN + "=" * (-len(TOKEN) % 4)), b"%d." % NOW.timestamp() + body, hashlib.sha256
    )
    headers = {
        "date": format_datetime(NOW, usegmt=True),
        "x-xl-webhook-signature": base64.urlsafe_b64encode(signed).decode().rstrip("="),
    }
    return WebhookRequest(method="POST", headers=headers, query={}, body=body, secrets=[SecretStr(TOKEN)],
                          received_at=NOW)  # fmt: skip
