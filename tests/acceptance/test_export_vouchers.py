"""Vouchers through real workers: killed before and after sending, by several ways, until they are posted.

The other side is a file of bookings that takes anything, also the same voucher twice: a double booking would show.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samband.views.exports import ExportItemView, ExportView

from .conftest import Hosts, install_plugin, until

PLUGIN = "vouchers"
HEAD = """
import json, os, signal
from samband import (
    CredentialsModel, Manifest, OutcomeUnknownError, Receipt, RetryableError, Route, SettingsModel, Stream, Token, hookimpl
)
from pydantic import SecretStr

class Settings(SettingsModel): pass
class Credentials(CredentialsModel): pass

manifest = Manifest(
    name=__name__, title="Books", version="1.0", settings=Settings, credentials=Credentials,
    streams=(Stream(name="vouchers", kind="voucher", title="Vouchers", direction="push"),),
    capabilities=frozenset({"export", "find_exported", "choose_route"}), field_classes=frozenset({"plain", "personal"}),
)

BOOKS, PLAN = os.environ.get("BOOKS", ""), os.environ.get("PLAN", "")

def book(item, route):
    amounts = [str(line.amount) for line in item.voucher.lines]
    with open(BOOKS, "a") as file:
        file.write(json.dumps([item.key, item.voucher.number, route, amounts]) + "\\n")

def booked():
    return {json.loads(line)[0]: json.loads(line)[1] for line in open(BOOKS)} if os.path.exists(BOOKS) else {}

def planned(name):
    # What is planned happens once.
    plan = json.load(open(PLAN))
    deed = plan.pop(name, None)
    json.dump(plan, open(PLAN, "w"))
    return deed

@hookimpl
async def authenticate(ctx):
    return Token(value=SecretStr("a-token"))
"""
BODY = """
@hookimpl
async def choose_route(ctx, avoided):
    return Route(name="soap" if "api" in avoided else "api", reasons=dict(avoided))

@hookimpl
async def export(ctx, batch):
    if batch.route == "api" and planned("api"):
        raise RetryableError("The gateway is down.", retry_after_s=0.2)
    for item in batch.items:
        deed = planned(item.voucher.claim)
        if deed == "die before":
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == "busy":
            raise RetryableError("Busy.", retry_after_s=0.2)
        book(item, batch.route)
        if deed == "die after":
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == "drop":
            raise OutcomeUnknownError("No answer.")
        if deed == "break":
            raise KeyError("a defect")
        if deed == "silent":
            continue
        yield Receipt(key=item.key, state="accepted", reference="S-" + item.key[:8])

@hookimpl
async def find_exported(ctx, keys, sought):
    there = booked()
    for each in sought:
        assert each.number is not None and each.route in ("api", "soap"), each
        if each.key in there:
            yield Receipt(key=each.key, state="posted", reference=str(there[each.key]))
"""
MAPPING: dict[str, Any] = {
    "payee": {"strategy": "employee", "account": "2910", "code": "{payee.id}"},
    "expense_types": {"toll": {"account": "7140"}},
}
CLAIM: dict[str, Any] = {
    "payee": {"id": "p-17"}, "currency": "NOK", "status": "approved", "approved_on": "2026-03-02",
    "lines": [{"expense_type": "toll", "amount": "100.50", "date": "2026-03-01"}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Installs the plugin for this process and for its workers, before either looks for plugins."""
    folder = tmp_path / "plugins"
    install_plugin(folder, PLUGIN, BODY, head=HEAD)
    monkeypatch.syspath_prepend(str(folder))
    for name, value in {
        "PYTHONPATH": str(folder), "BOOKS": str(tmp_path / "booked"), "PLAN": str(tmp_path / "plan"),
        "SAMBAND_SETTLE_AFTER_S": "0.5", "SAMBAND_FOLLOW_UP_EVERY_S": "0.3", "SAMBAND_FOLLOW_UP_STEPS_S": "[0.3]",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    (tmp_path / "plan").write_text("{}")
    yield tmp_path / "booked"
    sys.modules.pop(PLUGIN, None)


async def connect(hosts: Hosts, count: int) -> None:
    await hosts.service.organizations.create("nbf", "NBF")
    await hosts.service.integrations.create("nbf", PLUGIN, settings={}, credentials={})
    assert (await hosts.service.integrations.test("nbf", PLUGIN)).ok
    await hosts.service.integrations.enable("nbf", PLUGIN)
    await hosts.service.mappings.put("nbf", PLUGIN, MAPPING)
    for number in range(count):
        await hosts.service.reimbursements.put("nbf", f"c-{number}", CLAIM)


async def items(hosts: Hosts) -> dict[str, ExportItemView]:
    page = await hosts.service.exports.items("nbf", limit=500)
    return {item.reimbursement: item for item in page.items}


async def all_posted(hosts: Hosts) -> bool:
    found = await items(hosts)
    return bool(found) and {"posted"} == {item.state for item in found.values()}


def written(books: Path) -> list[Any]:
    return [json.loads(line) for line in books.read_text().splitlines()] if books.exists() else []


async def is_gone(process: Any) -> bool:
    return process.poll() is not None


@pytest.mark.parametrize("deed", ["drop", "silent", "break", "busy", "die before", "die after"])
async def test_whatever_happens_in_the_middle_each_voucher_is_booked_once_and_found_posted(
    hosts: Hosts, books: Path, tmp_path: Path, deed: str
) -> None:
    await connect(hosts, 6)
    await asyncio.to_thread((tmp_path / "plan").write_text, json.dumps({"c-3": deed}))
    worker = hosts.start_worker()
    order: ExportView = await hosts.service.export_reimbursements("nbf")
    assert (order.run is not None, 6) == (True, len(order.reserved))
    if deed.startswith("die"):
        await until(lambda: is_gone(worker))
        hosts.start_worker()
    if deed == "break":  # a defect fails the run, and what it had not sent is free: a person orders that again
        assert order.run is not None
        await hosts.ended(order.run)
        await hosts.service.export_reimbursements("nbf")
    await until(lambda: all_posted(hosts))
    found = await items(hosts)
    told = await asyncio.to_thread(written, books)
    assert {item.key: 1 for item in found.values()} == Counter(row[0] for row in told)
    assert {item.key: item.voucher_number for item in found.values()} == {row[0]: row[1] for row in told}
    assert {("100.50", "-100.50")} == {tuple(row[3]) for row in told}


async def test_way_that_refuses_before_anything_is_sent_is_left_for_another_in_the_same_run(
    hosts: Hosts, books: Path, tmp_path: Path
) -> None:
    await connect(hosts, 2)
    await asyncio.to_thread((tmp_path / "plan").write_text, '{"api": "closed"}')
    hosts.start_worker()
    await hosts.service.export_reimbursements("nbf")
    await until(lambda: all_posted(hosts))
    assert ["soap", "soap"] == [row[2] for row in await asyncio.to_thread(written, books)]
    assert {"api": "The gateway is down."} == (await items(hosts))["c-0"].passed_over
