"""Every approved claim reaches the books exactly once, or is known to be uncertain and then looked up.

The other side here is a file of bookings that takes anything, also the same claim twice: a double booking would show.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from samband.errors import AlreadyRunningError, ConflictError, InvalidError
from samband.views.exports import ExportItemView, ExportView

from .conftest import Hosts, install_plugin, until

HEAD = """
import json, os, signal, time
from decimal import Decimal
from samband import (
    CredentialsModel, Manifest, OutcomeUnknownError, Receipt, RetryableError, SettingsModel, Stream, Token, hookimpl
)
from pydantic import SecretStr

class Settings(SettingsModel): pass
class Credentials(CredentialsModel): pass

manifest = Manifest(
    name=__name__, title="Books", version="1.0", settings=Settings, credentials=Credentials,
    streams=(Stream(name="vouchers", kind="reimbursement", title="Vouchers", direction="push"),),
    capabilities=frozenset({"export", "find_exported"}), field_classes=frozenset({"plain", "personal"}),
)

BOOKS, PLAN = os.environ.get("BOOKS", ""), os.environ.get("PLAN", "")

def book(item):
    total = sum((line["amount"] for line in item.values["lines"]), Decimal(0))
    with open(BOOKS, "a") as file:
        file.write(json.dumps([item.key, str(total), item.values["payee"]["id"]]) + "\\n")

def booked():
    return {json.loads(line)[0] for line in open(BOOKS)} if os.path.exists(BOOKS) else set()

def planned(payee):
    # What is planned for a payee happens once.
    plan = json.load(open(PLAN))
    deed = plan.pop(payee, None)
    json.dump(plan, open(PLAN, "w"))
    return deed

@hookimpl
async def authenticate(ctx):
    return Token(value=SecretStr("a-token"))
"""
BODY = """
@hookimpl
async def export(ctx, batch):
    for item in batch.items:
        deed = planned(item.values["payee"]["id"])
        if deed == "die before":
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == "busy":
            raise RetryableError("Busy.", retry_after_s=0.2)
        if deed == "reject":
            yield Receipt(key=item.key, state="rejected", code="cost_centre", field="lines.0", message="Unknown cost centre.")
            continue
        book(item)
        if deed == "die after":
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == "drop":
            raise OutcomeUnknownError("No answer.")
        if deed == "break":
            raise KeyError("a defect")
        if deed == "silent":
            continue
        if deed == "hang":
            import asyncio
            await asyncio.sleep(3600)
        yield Receipt(key=item.key, state="accepted", reference="V-" + item.key[:8])

@hookimpl
async def find_exported(ctx, keys):
    there = booked()
    for key in keys:
        if key in there:
            yield Receipt(key=key, state="accepted", reference="V-" + key[:8])
"""
PLUGIN = "books"


@pytest.fixture(autouse=True)
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Installs the plugin for this process and for its workers, before either looks for plugins."""
    folder = tmp_path / "plugins"
    install_plugin(folder, PLUGIN, BODY, head=HEAD)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("BOOKS", str(tmp_path / "booked"))
    monkeypatch.setenv("PLAN", str(tmp_path / "plan"))
    monkeypatch.setenv("SAMBAND_SETTLE_AFTER_S", "0.5")
    monkeypatch.setenv("SAMBAND_HOOK_TIMEOUT_S", "3")
    (tmp_path / "plan").write_text("{}")
    yield tmp_path / "booked"
    sys.modules.pop(PLUGIN, None)


def claim(payee: str, amount: str = "100.50", status: str = "approved") -> dict[str, Any]:
    return {
        "payee": {"id": payee}, "currency": "NOK", "status": status,
        "lines": [{"expense_type": "toll", "amount": amount, "date": "2026-03-01"}],
    }  # fmt: skip


async def connect(hosts: Hosts, *payees: str) -> None:
    await hosts.service.organizations.create("nbf", "NBF")
    await hosts.service.integrations.create("nbf", PLUGIN, settings={}, credentials={})
    assert (await hosts.service.integrations.test("nbf", PLUGIN)).ok
    await hosts.service.integrations.enable("nbf", PLUGIN)
    for payee in payees:
        await hosts.service.reimbursements.put("nbf", f"c-{payee}", claim(payee))


async def items(hosts: Hosts) -> dict[str, ExportItemView]:
    page = await hosts.service.exports.items("nbf", limit=500)
    return {item.reimbursement: item for item in page.items}


def bookings(books: Path) -> Counter[str]:
    return Counter(line.split('"')[1] for line in books.read_text().splitlines()) if books.exists() else Counter()


async def settled(hosts: Hosts, order: ExportView) -> str:
    assert order.run is not None
    return (await hosts.ended(order.run)).state


async def test_approved_claims_are_booked_once_and_stay_booked(hosts: Hosts, books: Path) -> None:
    await connect(hosts, "a", "b")
    await hosts.service.reimbursements.put("nbf", "c-draft", claim("c", status="draft"))
    hosts.start_worker()
    order = await hosts.service.export_reimbursements("nbf", ["c-a", "c-b", "c-draft", "c-none", "c-a"])
    assert ["c-a", "c-b"] == order.reserved
    assert [("c-draft", "not_approved"), ("c-none", "not_found")] == [(s.id, s.reason) for s in order.skipped]
    assert "succeeded" == await settled(hosts, order)
    found = await items(hosts)
    assert {"accepted"} == {item.state for item in found.values()}
    assert {f"V-{item.key[:8]}" for item in found.values()} == {item.reference for item in found.values()}
    again = await hosts.service.export_reimbursements("nbf", ["c-a"])
    assert (None, [("c-a", "already_exported")]) == (again.run, [(s.id, s.reason) for s in again.skipped])
    nothing = await hosts.service.export_reimbursements("nbf")
    assert (None, [], []) == (nothing.run, nothing.reserved, nothing.skipped)
    assert {1} == set(bookings(books).values())
    assert '"100.50"' in await asyncio.to_thread(books.read_text)


@pytest.mark.parametrize("deed", ["drop", "silent", "hang", "break", "busy", "die before", "die after"])
async def test_whatever_happens_in_the_middle_each_claim_is_booked_once(
    hosts: Hosts, books: Path, tmp_path: Path, deed: str
) -> None:
    payees = [f"p{number}" for number in range(8)]
    await connect(hosts, *payees)
    await asyncio.to_thread((tmp_path / "plan").write_text, f'{{"p3": "{deed}"}}')
    worker = hosts.start_worker()
    order = await hosts.service.export_reimbursements("nbf")
    if deed.startswith("die"):
        await until(lambda: _is_gone(worker))
        hosts.start_worker()
    await settled(hosts, order)
    # A run that ended badly leaves its reserved claims for the next order, which is what a person would do.
    for _ in range(3):
        if {item.state for item in (await items(hosts)).values()} == {"accepted"}:
            break
        following = await hosts.service.export_reimbursements("nbf")
        if following.run is not None:
            await settled(hosts, following)
    found = await items(hosts)
    assert {"accepted": 8} == Counter(item.state for item in found.values())
    assert {item.key: 1 for item in found.values()} == bookings(books)


async def _is_gone(process: Any) -> bool:
    return process.poll() is not None


async def test_rejected_claim_says_why_and_can_be_mended_and_sent_again(
    hosts: Hosts, books: Path, tmp_path: Path
) -> None:
    await connect(hosts, "a", "b")
    await asyncio.to_thread((tmp_path / "plan").write_text, '{"a": "reject"}')
    hosts.start_worker()
    assert "partial" == await settled(hosts, await hosts.service.export_reimbursements("nbf"))
    refused = (await items(hosts))["c-a"]
    told = (refused.state, refused.code, refused.field, refused.message)
    assert ("rejected", "cost_centre", "lines.0", "Unknown cost centre.") == told
    await hosts.service.reimbursements.put("nbf", "c-a", claim("a", "99.00"))
    order = await hosts.service.export_reimbursements("nbf")
    assert ["c-a"] == order.reserved
    assert "succeeded" == await settled(hosts, order)
    page = await hosts.service.exports.items("nbf", reimbursement="c-a")
    assert [(1, "rejected"), (2, "accepted")] == sorted((i.number, i.state) for i in page.items)
    assert 2 == len(bookings(books))


async def test_twenty_orders_at_once_never_take_a_claim_twice(hosts: Hosts) -> None:
    await connect(hosts, *(f"p{number}" for number in range(20)))
    orders = (hosts.service.export_reimbursements("nbf") for _ in range(20))
    answers = await asyncio.gather(*orders, return_exceptions=True)
    taken = [a for a in answers if isinstance(a, ExportView)]
    refused = [a for a in answers if isinstance(a, AlreadyRunningError)]
    assert (1, 19) == (len(taken), len(refused)), answers
    assert 20 == len(taken[0].reserved)
    async with hosts.store.database.read() as conn:
        assert 20 == await conn.scalar(sa.text("SELECT count(*) FROM export_item"))


async def test_exported_claim_is_not_changed_silently(hosts: Hosts) -> None:
    await connect(hosts, "a")
    await hosts.service.export_reimbursements("nbf")
    same, outcome = await hosts.service.reimbursements.put("nbf", "c-a", claim("a"))
    assert (1, "unchanged") == (same.version, outcome)
    with pytest.raises(ConflictError) as caught:
        await hosts.service.reimbursements.put("nbf", "c-a", claim("a", "1.00"))
    assert "already_exported" == caught.value.code


async def test_organisation_without_an_exporter_is_told_what_to_connect(hosts: Hosts) -> None:
    await hosts.service.organizations.create("nbf", "NBF")
    with pytest.raises(ConflictError) as caught:
        await hosts.service.export_reimbursements("nbf", ["c-1"])
    assert "nothing_connected" == caught.value.code
    assert PLUGIN in caught.value.hint


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"currency": "kroner"}, "currency"),
        ({"lines": []}, "lines"),
        ({"status": "paid"}, "status"),
        ({"payee": {}}, "payee.id"),
        ({"diagnosis": "x"}, "diagnosis"),
        ({"lines": [{"expense_type": "toll", "amount": 1.1, "date": "2026-03-01"}]}, "lines.0.amount"),
        ({"lines": [{"expense_type": "toll", "amount": "1.123", "date": "2026-03-01"}]}, "lines.0.amount"),
        ({"lines": [{"expense_type": "toll", "amount": "-1", "date": "2026-03-01"}]}, "lines.0.amount"),
        ({"lines": [{"expense_type": "toll", "amount": "0.00", "date": "2026-03-01"}]}, "lines.0.amount"),
        ({"lines": [{"expense_type": "toll", "amount": "NaN", "date": "2026-03-01"}]}, "lines.0.amount"),
        ({"lines": [{"expense_type": "toll", "amount": "1", "date": "01.03.2026"}]}, "lines.0.date"),
        ({"lines": [{"expense_type": "toll", "amount": "12_50", "date": "2026-03-01"}]}, "lines.0.amount"),
        ({"lines": [{"expense_type": "toll", "amount": "1E+2", "date": "2026-03-01"}]}, "lines.0.amount"),
        ({"lines": [{"expense_type": "toll", "amount": " 1 ", "date": "2026-03-01"}]}, "lines.0.amount"),
        ({"text": "a\x00b"}, "text"),
        ({"payee": {"id": "p\x00"}}, "payee.id"),
    ],
)
async def test_claim_that_does_not_fit_names_its_field(hosts: Hosts, change: dict[str, Any], field: str) -> None:
    await hosts.service.organizations.create("nbf", "NBF")
    with pytest.raises(InvalidError) as caught:
        await hosts.service.reimbursements.put("nbf", "c-1", claim("a") | change)
    assert field in [p.field for p in caught.value.problems]


async def test_cancelled_export_sends_nothing_more_and_frees_what_it_had_reserved(hosts: Hosts, books: Path) -> None:
    await connect(hosts, "a", "b")
    order = await hosts.service.export_reimbursements("nbf", ["c-a"])
    assert order.run is not None
    await hosts.service.runs.cancel("nbf", order.run.id)
    assert "released" == (await items(hosts))["c-a"].state
    await hosts.service.reimbursements.put("nbf", "c-a", claim("a", status="draft"))
    hosts.start_worker()
    assert "succeeded" == await settled(hosts, await hosts.service.export_reimbursements("nbf", ["c-b"]))
    assert {(await items(hosts))["c-b"].key: 1} == bookings(books)


async def test_switched_off_integration_sends_nothing_that_was_ordered_before(hosts: Hosts, books: Path) -> None:
    await connect(hosts, "a")
    order = await hosts.service.export_reimbursements("nbf")
    await hosts.service.integrations.disable("nbf", PLUGIN)
    hosts.start_worker()
    assert "failed" == await settled(hosts, order)
    assert {} == bookings(books)
    assert "released" == (await items(hosts))["c-a"].state


async def test_claim_that_is_in_one_set_of_books_is_not_put_into_another(
    hosts: Hosts, books: Path, tmp_path: Path
) -> None:
    await connect(hosts, "a")
    hosts.start_worker()
    assert "succeeded" == await settled(hosts, await hosts.service.export_reimbursements("nbf"))
    async with hosts.store.database.write() as conn:
        # The same claim offered to another system of the organisation.
        await conn.execute(sa.text("UPDATE integration SET plugin = 'former', state = 'disabled'"))
    pending = hosts.store.catalog.pending({}, {})
    added = await hosts.store.catalog.add_integration("nbf", PLUGIN, "Other books", {}, pending)
    await hosts.store.catalog.change_integration(added, state="enabled")
    nothing = await hosts.service.export_reimbursements("nbf")
    assert (None, []) == (nothing.run, nothing.reserved)


async def test_reserving_does_not_slow_down_with_what_was_exported_before(hosts: Hosts) -> None:
    async with hosts.store.database.read() as conn:
        if hosts.store.database.is_sqlite:
            told = "SELECT name FROM sqlite_master WHERE name = 'ix_export_item_claim'"
        else:
            told = "SELECT indexname FROM pg_indexes WHERE indexname = 'ix_export_item_claim'"
        assert "ix_export_item_claim" == await conn.scalar(sa.text(told))
