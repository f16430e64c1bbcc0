"""A month of exports held against books that are read live: on both databases, over the API and the command line."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp.test_utils import TestClient, TestServer

from samband import (
    AuthError,
    Booked,
    Manifest,
    RemoteError,
    RetryableError,
    Stream,
    Token,
    Voucher,
    VoucherLine,
    VoucherPayee,
    hookimpl,
)
from samband.api import create_app
from samband.cli import run
from samband.cli.reconcile import lines as in_words
from samband.client import Client
from samband.errors import AdapterError, ConflictError, InvalidError, NotFoundError, NotReadyError
from samband.rules.mapping import parse_mapping
from samband.rules.posting import to_row
from samband.rules.selecting import item_key
from samband.service.parts import Parts
from samband.service.reconciliation import Reconciliation
from samband.store import Store
from samband.store.models import ExportItem, Mapping, Reimbursement
from samband.views.reconciliation import ReconciliationView

from .playing import Bench, Credentials, SecretStr, Settings

PERIOD, DAY = "2026-03", dt.date(2026, 3, 9)
NOW = dt.datetime(2026, 3, 31, 12, tzinfo=dt.UTC)
NAME, BANK = "Kari Nordmann", "12345678903"


class Unread:
    """A plugin that takes vouchers, and whose books cannot be read."""

    reads: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.manifest = Manifest(
            name=name, title="Books", version="1.0", settings=Settings, credentials=Credentials,
            streams=(Stream(name="vouchers", kind="voucher", title="Vouchers", direction="push"),),
            capabilities=frozenset({"export", "find_exported", *self.reads}),
            field_classes=frozenset({"plain", "personal"}),
        )  # fmt: skip

    @hookimpl
    async def authenticate(self, ctx: Any) -> Token:
        return Token(value=SecretStr("a-token"))

    @hookimpl
    async def export(self, ctx: Any, batch: Any) -> AsyncIterator[Any]:
        raise AssertionError("nothing is exported here")
        yield

    @hookimpl
    async def find_exported(self, ctx: Any, keys: Sequence[str]) -> AsyncIterator[Any]:
        raise AssertionError("nothing is looked up here")
        yield


class Ledger(Unread):
    """A plugin whose books are a list.

    Attributes:
        lists: What ``booked`` yields; anything at all.
        trouble: Raised instead.
        is_slow: It never comes to an end.
        asked: The days that were asked for.
    """

    reads = ("booked",)

    def __init__(self, name: str = "books") -> None:
        super().__init__(name)
        self.lists: list[Any] = []
        self.trouble: Exception | None = None
        self.is_slow = False
        self.asked: list[tuple[dt.date, dt.date]] = []

    @hookimpl
    async def booked(self, ctx: Any, first: dt.date, last: dt.date) -> AsyncIterator[Any]:
        self.asked.append((first, last))
        if self.trouble is not None:
            raise self.trouble
        for part in self.lists:
            yield part
        while self.is_slow:
            await asyncio.sleep(0.01)


def key(n: int) -> str:
    return f"{n:032x}"


def voucher(n: int, amount: str = "100.00", day: dt.date = DAY) -> Voucher:
    payee = VoucherPayee(strategy="liability", name=NAME, bank_account=BANK)
    booked = [("7140", Decimal(amount), None), ("2910", -Decimal(amount), payee)]
    return Voucher(
        key=key(n), number=n, type="GL", date=day, currency="NOK", text=NAME, claim=f"c-{n}", mapping_version=1,
        lines=[
            VoucherLine(n=i, key=f"{key(n)}-{i}", account=account, amount=value, text=NAME, payee=whom)
            for i, (account, value, whom) in enumerate(booked, start=1)
        ],
    )  # fmt: skip


def as_booked(made: Voucher, state: Any = "posted", day: dt.date | None = None) -> list[Booked]:
    return [
        Booked(
            line_key=line.key, state=state, date=day or made.date, account=line.account, amount=line.amount,
            number=made.number, reference=f"GL-{made.number}", currency="NOK",
        )
        for line in made.lines
    ]  # fmt: skip


async def keep(store: Store, org: str, made: Sequence[Voucher], state: str = "posted", plugin: str = "books") -> None:
    """Puts items into the ledger as if they had been exported."""
    integration = await store.catalog.integration(org, plugin)
    rows = [
        {
            "key": one.key, "organization_id": org, "integration_id": integration.id, "reimbursement_id": one.claim,
            "version": 1, "number": 1, "stream": "vouchers", "state": state, "fence": 0, "attempts": 1, "message": "",
            "reason": "", "purpose": "booking", "voucher_number": one.number, "voucher": to_row(one),
            "mapping_version": 1, "period": f"{one.date:%Y-%m}", "created_at": NOW,
            "posted_at": NOW if state == "posted" else None,
        }
        for one in made
    ]  # fmt: skip
    async with store.database.write() as conn:
        await conn.execute(sa.insert(ExportItem.__table__), rows)


async def map_claims(store: Store, integration_id: str) -> None:
    body = {
        "payee": {"strategy": "liability", "account": "2910"}, "date": "expense",
        "expense_types": {"mileage": {"account": "7140"}},
    }  # fmt: skip
    row = {
        "integration_id": integration_id, "version": 1, "organization_id": "hlf",
        "body": parse_mapping(body).model_dump(mode="json"), "digest": "0" * 64,
        "effective_from": dt.date(2020, 1, 1), "author": "", "note": "", "created_at": NOW,
    }  # fmt: skip
    async with store.database.write() as conn:
        await conn.execute(sa.insert(Mapping.__table__).values(**row))


async def claim(
    store: Store, org: str, id: str, status: str = "approved", day: str = "2026-03-02", expense_type: str = "mileage"
) -> None:
    lines = [{"expense_type": expense_type, "amount": "12.50", "date": day}]
    body = {"payee": {"id": "p-1", "name": NAME}, "currency": "NOK", "status": status, "lines": lines}
    row = {
        "organization_id": org, "id": id, "version": 1, "status": status, "body": body, "digest": "0" * 64,
        "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    async with store.database.write() as conn:
        await conn.execute(sa.insert(Reimbursement.__table__).values(**row))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def bench(store: Store, ledger: Ledger) -> AsyncIterator[Bench]:
    bench = Bench(store, ledger, Unread("unread"))  # type: ignore[arg-type]
    await bench.connect("hlf", "books")
    yield bench
    await bench.close()


async def compared(bench: Bench, **asked: Any) -> ReconciliationView:
    return await bench.service.reconciliation.month("hlf", PERIOD, **asked)


def named(view: ReconciliationView) -> list[tuple[str, str, str]]:
    return [(d.code, d.account, d.amount) for d in view.differences]


# ── the whole line ───────────────────────────────────────────────────────────


async def test_month_that_agrees_is_clean(bench: Bench, ledger: Ledger) -> None:
    made = [voucher(n) for n in range(1, 1_201)]  # more than one part of ours
    await keep(bench.store, "hlf", made)
    ledger.lists = [as_booked(one) for one in made]
    view = await compared(bench)
    assert (True, True, "0.00", 1_200) == (view.complete, view.clean, view.unexplained, view.vouchers["posted"])
    assert [("2910", "-120000.00", "-120000.00", "0.00"), ("7140", "120000.00", "120000.00", "0.00")] == [
        (a.account, a.posted, a.theirs, a.difference) for a in view.accounts
    ]
    assert [(dt.date(2026, 2, 1), dt.date(2026, 4, 30))] == ledger.asked
    assert "All 1200 vouchers of March 2026 are booked; nothing is unexplained." == first_line(view)


async def test_every_fault_in_the_books_is_named(bench: Bench, ledger: Ledger) -> None:
    await keep(bench.store, "hlf", [voucher(n) for n in range(1, 6)])
    await keep(bench.store, "hlf", [voucher(6)], "unknown")
    moved = voucher(7, day=dt.date(2026, 4, 2))
    await keep(bench.store, "hlf", [moved])
    ledger.lists = [
        as_booked(voucher(1)) * 2,
        as_booked(voucher(3), day=dt.date(2026, 2, 27)),
        [Booked(line_key=f"{key(4)}-1", state="posted", date=DAY, account="6000", amount=Decimal("100.00"))],
        [Booked(line_key=f"{key(4)}-2", state="posted", date=DAY, account="2910", amount=Decimal("-99.00"))],
        as_booked(voucher(5), "staged"),
        as_booked(voucher(6)),
        as_booked(moved, day=dt.date(2026, 3, 30)),
        as_booked(voucher(99)),
        [Booked(line_key="Husleie", state="posted", date=DAY, account="6300", amount=Decimal("9000.00"))],
    ]
    view = await compared(bench)
    assert {
        ("booked_twice", "7140", "100.00"), ("not_booked_there", "7140", "-100.00"), ("date_moved", "7140", "-100.00"),
        ("account_differs", "7140", "-100.00"), ("account_differs", "6000", "100.00"), ("amount_differs", "2910", "1.00"),
        ("waiting_there", "7140", "-100.00"), ("uncertain", "7140", "100.00"), ("date_moved", "7140", "100.00"),
        ("booked_unknown_to_us", "7140", "100.00"),
    } == {one for one in named(view) if one[1] != "2910" or one[0] == "amount_differs"}  # fmt: skip
    assert ("0.00", False, 1, 1) == (view.unexplained, view.clean, view.other_lines, view.uncertain)
    assert {"0.00"} == {account.unexplained for account in view.accounts}


async def test_items_that_a_restored_backup_does_not_have_are_named(bench: Bench, ledger: Ledger) -> None:
    """The backup was made before c-2 was exported: it is in the books, and nobody here knows."""
    await keep(bench.store, "hlf", [voucher(1)])
    ledger.lists = [as_booked(voucher(1)), as_booked(voucher(2))]
    await bench.service.integrations.disable("hlf", "books")
    view = await compared(bench)
    assert {("booked_unknown_to_us", key(2), None)} == {(d.code, d.key, d.reimbursement) for d in view.differences}
    assert not view.clean
    await keep(bench.store, "hlf", [voucher(2)])
    assert (await compared(bench)).clean


async def test_claim_that_would_be_sent_again_after_a_restore_is_named(bench: Bench, ledger: Ledger) -> None:
    integration = await bench.store.catalog.integration("hlf", "books")
    await claim(bench.store, "hlf", "c-1")
    known = item_key("hlf", integration.id, "c-1", 1)
    lost = voucher(1)
    ledger.lists = [[replace(line, line_key=f"{known}-{n}") for n, line in enumerate(as_booked(lost), start=1)]]
    view = await compared(bench)
    assert {("booked_unknown_to_us", known, "c-1")} == {(d.code, d.key, d.reimbursement) for d in view.differences}
    told = "\n".join(in_words(json.loads(view.model_dump_json())))
    assert f"Key {known}, which claim c-1 would be sent under AGAIN" in told


async def test_what_is_booked_between_the_two_readings_is_not_said_to_be_missing(bench: Bench, ledger: Ledger) -> None:
    await keep(bench.store, "hlf", [voucher(1)], "accepted")
    ledger.lists = [as_booked(voucher(1))]
    view = await compared(bench)
    assert {"posted_unnoted"} == {d.code for d in view.differences}
    assert view.clean


async def test_approved_claims_that_cannot_be_mapped_stand_under_no_account_with_the_reason(
    bench: Bench, ledger: Ledger
) -> None:
    await claim(bench.store, "hlf", "c-50")
    await claim(bench.store, "hlf", "c-51", status="submitted")
    await claim(bench.store, "hlf", "c-52", day="2026-05-02")
    view = await compared(bench)
    assert [("c-50", "12.50", "mapping_missing")] == [(c.reimbursement, c.total, c.reason) for c in view.unmapped]
    assert [(None, "NOK", "12.50", "0.00")] == [(a.account, a.currency, a.approved, a.posted) for a in view.accounts]
    assert 1 == view.waiting


async def test_claim_on_its_way_is_not_counted_a_second_time_as_approved(bench: Bench, ledger: Ledger) -> None:
    await claim(bench.store, "hlf", "c-1")
    await keep(bench.store, "hlf", [voucher(1)], "reserved")
    view = await compared(bench)
    assert (0, {"reserved": 1}, ["-100.00", "100.00"]) == (
        view.waiting, view.vouchers, [a.approved for a in view.accounts]
    )  # fmt: skip


async def test_other_organisations_items_are_nobodys_here(bench: Bench, ledger: Ledger) -> None:
    await bench.connect("nbf", "books")
    await keep(bench.store, "nbf", [voucher(1)])
    ledger.lists = [as_booked(voucher(1))]
    view = await compared(bench)
    assert {("booked_unknown_to_us", None)} == {(d.code, d.reimbursement) for d in view.differences}


async def test_no_name_and_no_account_number_of_a_member_is_in_the_answer(bench: Bench, ledger: Ledger) -> None:
    await keep(bench.store, "hlf", [voucher(1), voucher(2)])
    await claim(bench.store, "hlf", "c-50")
    ledger.lists = [as_booked(voucher(1)) * 2]
    text = (await compared(bench)).model_dump_json()
    assert "booked_twice" in text
    assert (NAME in text, "Nordmann" in text, BANK in text) == (False, False, False)


async def test_list_is_cut_and_sums_are_whole(bench: Bench, ledger: Ledger) -> None:
    await keep(bench.store, "hlf", [voucher(n) for n in range(1, 51)])
    view = await compared(bench, limit=10)
    assert (10, 100) == (len(view.differences), view.differences_total)
    assert {"-5000.00", "5000.00"} == {a.explained["not_booked_there"] for a in view.accounts}


async def test_our_half_alone_is_marked_as_such(bench: Bench, ledger: Ledger) -> None:
    ledger.trouble = RetryableError("Away.")
    await keep(bench.store, "hlf", [voucher(1)])
    view = await compared(bench, ours_only=True)
    assert (False, None, None, None) == (view.complete, view.clean, view.unexplained, view.other_lines)
    assert {None} == {a.theirs for a in view.accounts}
    assert [] == ledger.asked


# ── when it cannot be compared ───────────────────────────────────────────────


@pytest.mark.parametrize(
    ("trouble", "wait_s"),
    [(RetryableError("Away.", retry_after_s=90), 90), (RetryableError("Away."), 60), (RemoteError("HTML."), 60)],
)
async def test_other_side_that_cannot_be_read_is_a_problem_of_its_own(
    bench: Bench, ledger: Ledger, trouble: Exception, wait_s: int
) -> None:
    ledger.trouble = trouble
    with pytest.raises(NotReadyError) as told:
        await compared(bench)
    assert ("other_side_unreadable", wait_s) == (told.value.code, told.value.retry_after_s)


async def test_refused_access_stays_what_it_is(bench: Bench, ledger: Ledger) -> None:
    ledger.trouble = AuthError("No.", reason="missing_privilege")
    with pytest.raises(AuthError):
        await compared(bench)


async def test_reading_that_does_not_end_is_ended(bench: Bench, ledger: Ledger) -> None:
    ledger.is_slow = True
    parts = Parts(store=bench.store, registry=bench.registry, bell=bench.bell)
    with pytest.raises(NotReadyError) as told:
        await Reconciliation(parts, read_limit_s=0.1).month("hlf", PERIOD)
    assert "other_side_unreadable" == told.value.code


@pytest.mark.parametrize(
    "wrong",
    [
        "no list",
        ["no line"],
        [Booked(line_key=None, state="posted", date=dt.date(2026, 1, 31), account="1", amount=Decimal(1))],
        [Booked(line_key=None, state="posted", date=dt.date(2026, 5, 1), account="1", amount=Decimal(1))],
        [Booked(line_key=None, state="posted", date=NOW, account="1", amount=Decimal(1))],
        [Booked(line_key=None, state="posted", date=DAY, account="", amount=Decimal(1))],
        [Booked(line_key=None, state="posted", date=DAY, account="1", amount=Decimal("1.001"))],
        [Booked(line_key=None, state="posted", date=DAY, account="1", amount=Decimal("NaN"))],
        [Booked(line_key=None, state="posted", date=DAY, account="1", amount=Decimal("1e12"))],
        [Booked(line_key=None, state="posted", date=DAY, account="1", amount=1.5)],  # type: ignore[arg-type]
        [Booked(line_key=None, state="gone", date=DAY, account="1", amount=Decimal(1))],  # type: ignore[arg-type]
        [Booked(line_key=7, state="posted", date=DAY, account="1", amount=Decimal(1))],  # type: ignore[arg-type]
        [Booked(line_key=None, state="posted", date=DAY, account="1", amount=Decimal(1), number=-1)],
        [Booked(line_key=None, state="posted", date=DAY, account="1", amount=Decimal(1), currency="KRONE")],
    ],
)
async def test_books_that_break_the_promise_are_not_compared(bench: Bench, ledger: Ledger, wrong: Any) -> None:
    ledger.lists = [as_booked(voucher(1)), wrong]
    with pytest.raises(AdapterError) as told:
        await compared(bench)
    assert "contract_broken" == told.value.code


async def test_free_text_of_others_never_stops_a_comparison(bench: Bench, ledger: Ledger) -> None:
    odd = ["", "\x00", "a" * 10_000, "tab\there", key(1), f"{key(1)}-0", f"{key(1)}-1 ", "🚌"]
    ledger.lists = [
        [Booked(line_key=text, state="posted", date=DAY, account="6300", amount=Decimal("1.0"), reference="\x07")]
        for text in odd
    ]
    view = await compared(bench)
    assert (len(odd), [], True) == (view.other_lines, view.accounts, view.clean)


async def test_integration_whose_books_cannot_be_read_is_refused_with_the_way_out(bench: Bench) -> None:
    await bench.connect("nbf", "unread")
    for asked in ({}, {"type": "unread"}):
        with pytest.raises(ConflictError) as told:
            await bench.service.reconciliation.month("nbf", PERIOD, **asked)
        assert ("reconciliation_unsupported", True) == (told.value.code, "ours_only" in told.value.hint)
    view = await bench.service.reconciliation.month("nbf", PERIOD, ours_only=True)
    assert "unread" == view.type


async def test_several_integrations_have_to_be_told_apart(store: Store) -> None:
    bench = Bench(store, Ledger("books"), Ledger("other"))  # type: ignore[arg-type]
    await bench.connect("hlf", "books", "other")
    with pytest.raises(ConflictError) as told:
        await compared(bench)
    assert "exporter_ambiguous" == told.value.code
    assert "other" == (await compared(bench, type="other")).type
    await bench.close()


async def test_wrong_questions_name_what_is_wrong(bench: Bench) -> None:
    for period in ("2026-13", "2026-3", "1999-12", "2026-00", "", "2026-03-01"):
        with pytest.raises(InvalidError) as told:
            await bench.service.reconciliation.month("hlf", period)
        assert "period" == told.value.field
    for org, type in (("nowhere", None), ("hlf", "unread"), ("nowhere", "books")):
        with pytest.raises(NotFoundError):
            await bench.service.reconciliation.month(org, PERIOD, type=type)


async def test_the_last_and_the_first_month_there_is_are_months(bench: Bench, ledger: Ledger) -> None:
    for period in ("2000-01", "2099-12"):
        assert (await bench.service.reconciliation.month("hlf", period)).clean
    assert [(1999, 2000), (2099, 2100)] == [(first.year, last.year) for first, last in ledger.asked]


# ── over the API, and in words ───────────────────────────────────────────────


async def test_api_answers_with_the_comparison_and_its_problems(bench: Bench, ledger: Ledger) -> None:
    await keep(bench.store, "hlf", [voucher(1)])
    ledger.lists = [as_booked(voucher(1))]
    made = await bench.service.create_key("reader", verbs=["read"], organizations=["hlf"])
    path, header = "/v1/organizations/hlf/exports/reconciliation", {"Authorization": f"Bearer {made}"}
    async with TestClient(TestServer(create_app(bench.service))) as client:
        answer = await client.get(path, params={"period": PERIOD}, headers=header)
        told = await answer.json()
        assert (200, True, "0.00") == (answer.status, told["clean"], told["unexplained"])
        wrong = await client.get(path, params={"period": "2026-3"}, headers=header)
        assert (422, "period") == (wrong.status, (await wrong.json())["errors"][0]["field"])
        ledger.trouble = RetryableError("Away.", retry_after_s=90)
        away = await client.get(path, params={"period": PERIOD}, headers=header)
        assert (503, "90") == (away.status, away.headers["Retry-After"])
        assert "other_side_unreadable" == (await away.json())["code"]
        half = await client.get(path, params={"period": PERIOD, "ours_only": "true"}, headers=header)
        assert (200, False) == (half.status, (await half.json())["complete"])
        foreign = await client.get(path.replace("hlf", "nbf"), params={"period": PERIOD}, headers=header)
        assert 404 == foreign.status


def first_line(view: ReconciliationView) -> str:
    return next(in_words(json.loads(view.model_dump_json())))


async def test_differences_are_told_in_words_worst_first(bench: Bench, ledger: Ledger) -> None:
    await keep(bench.store, "hlf", [voucher(1), voucher(2), voucher(3)])
    await keep(bench.store, "hlf", [voucher(4)], "accepted")
    ledger.lists = [as_booked(voucher(1)) * 2, as_booked(voucher(3)), as_booked(voucher(4), "staged")]
    told = list(in_words(json.loads((await compared(bench)).model_dump_json())))
    assert (
        "3 of 4 vouchers of March 2026 are booked, 1 accepted and not booked yet; 2 vouchers ask for a person; "
        "nothing is unexplained." == told[0]
    )
    assert "Account 7140, NOK: accepted 100.00, posted 300.00; theirs 300.00; no difference." in told
    listed = [line for line in told if line.startswith("  ") and not line.startswith("    ")]
    assert [
        "  Look into this. Claim c-2, voucher 2: we have it as booked, they do not have it (not_booked_there); not there.",
        "  Look into this. Claim c-1, voucher 1: booked more than once (booked_twice); posted there, dated 2026-03-09, "
        "as GL-1.",
        "  Claim c-4, voucher 4: waits there to be booked (waiting_there); staged there, dated 2026-03-09, as GL-4.",
    ] == listed


async def test_single_and_empty_months_are_told_in_words(bench: Bench, ledger: Ledger) -> None:
    assert "No voucher of ours belongs to March 2026; nothing is unexplained." == first_line(await compared(bench))
    await keep(bench.store, "hlf", [voucher(1)])
    ledger.lists = [as_booked(voucher(1))]
    assert "The one voucher of March 2026 is booked; nothing is unexplained." == first_line(await compared(bench))
    half = list(in_words(json.loads((await compared(bench, ours_only=True)).model_dump_json())))
    assert "The other side was not asked: this is our half alone, and nothing is compared." == half[1]


async def test_command_ends_with_nought_only_when_the_month_is_clean(
    bench: Bench, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await keep(bench.store, "hlf", [voucher(1)])
    made = await bench.service.create_key("reader", verbs=["read"], organizations=["hlf"])

    async def said(*more: str) -> tuple[int, str]:
        monkeypatch.setenv("SAMBAND_API_KEY", made)  # the command takes it out of the environment
        line = ["export", "reconcile", "hlf", "--period", PERIOD, "--url", str(server.make_url("")), *more]
        return await asyncio.to_thread(run, line), capsys.readouterr().out

    async with TestServer(create_app(bench.service)) as server:
        ledger.lists = [as_booked(voucher(1))]
        code, told = await said()
        assert (0, "The one voucher of March 2026 is booked; nothing is unexplained.") == (code, told.splitlines()[0])
        assert 1 == (await said("--ours-only"))[0]
        await keep(bench.store, "hlf", [voucher(2)], "unknown")
        code, told = await said("--json")
        assert (1, False, 1) == (code, json.loads(told)["clean"], json.loads(told)["uncertain"])
        await keep(bench.store, "hlf", [voucher(3)])
        ledger.lists = [as_booked(voucher(1)), as_booked(voucher(3)) * 2]
        code, told = await said()
        assert (1, True) == (code, "booked more than once (booked_twice)" in told)
        ledger.trouble = RetryableError("Away.")
        assert 5 == (await said())[0]


async def test_typed_client_reads_the_comparison(bench: Bench, ledger: Ledger) -> None:
    made = await bench.service.create_key("reader", verbs=["read"], organizations=["hlf"])
    async with TestServer(create_app(bench.service)) as server, Client(str(server.make_url("")), made) as client:
        assert (await client.reconciliation("hlf", PERIOD)).clean
        assert not (await client.reconciliation("hlf", PERIOD, integration="books", ours_only=True)).complete


async def test_claims_that_wait_are_mapped_as_they_would_be_booked(bench: Bench, ledger: Ledger) -> None:
    integration = await bench.store.catalog.integration("hlf", "books")
    await map_claims(bench.store, integration.id)
    for id, day in (("c-50", "2026-03-02"), ("c-51", "2026-04-02")):
        await claim(bench.store, "hlf", id, day=day)
    await claim(bench.store, "hlf", "c-52", expense_type="taxi")
    view = await compared(bench)
    assert [("2910", "-12.50"), ("7140", "12.50"), (None, "12.50")] == [(a.account, a.approved) for a in view.accounts]
    assert [("c-52", "mapping_gap", "expense_type.taxi")] == [
        (c.reimbursement, c.reason, c.field) for c in view.unmapped
    ]
    assert 2 == view.waiting
