"""The SOAP and the file way against the simulator, as a process of its own, through the plugin's hooks."""

from __future__ import annotations

import io
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import zeep

from samband import Batch, Item, OutcomeUnknownError, Receipt, RetryableError, Sought, Voucher, VoucherLine
from samband.testing import start_simulator
from samband_xledger import envelopes, plugin
from samband_xledger.settings import XledgerSettings

SETTINGS = {"dimension_fields": {"department": "glObject1"}, "routes": ["soap", "graphql", "file"]}


def voucher(number: int, *amounts: str) -> Voucher:
    key = f"{number:032x}"
    lines = [
        VoucherLine(n=n, key=f"{key}-{n}", account="7140" if n == 1 else "2910", amount=Decimal(amount), text="Reise",
                    dimensions={"department": "101"} if n == 1 else {})
        for n, amount in enumerate(amounts or ("265.00", "-265.00"), start=1)
    ]  # fmt: skip
    return Voucher(key=key, number=number, type="GL", date=date(2026, 3, 2), currency="NOK", text="Reise", lines=lines,
                   claim=f"c{number}", mapping_version=1)  # fmt: skip


def batch(*made: Voucher, route: str = "soap") -> Batch:
    items = [Item(key=one.key, stream="vouchers", values={}, voucher=one) for one in made]
    return Batch(id="run-1", items=items, route=route)


async def export(link: Any, *made: Voucher) -> list[Receipt]:
    return [receipt async for receipt in plugin.export(link.ctx, batch(*made))]


async def find(link: Any, *made: Voucher, state: Any = "unknown") -> list[Receipt]:
    sought = [
        Sought(key=one.key, state=state, route="soap", sent_at=link.clock.now(), number=one.number, date=one.date)
        for one in made
    ]
    return [receipt async for receipt in plugin.find_exported(link.ctx, [one.key for one in made], sought)]


@pytest.fixture
def by_soap(make_link: Callable[..., Any], simulator: Any) -> Any:
    return make_link({**simulator.settings, **SETTINGS}, simulator.credentials)


def shapes(description: str) -> dict[str, Any]:
    """What a description says, whatever it calls its parts."""
    wsdl: Any = zeep.Client(description).wsdl
    found: dict[str, Any] = {}
    for binding in wsdl.bindings.values():
        for operation in binding._operations.values():
            version = type(binding).__name__
            asked, answered = operation.input.body, operation.output.body
            found[f"{version} {operation.name}"] = (
                operation.soapaction, operation.style, asked.qname, answered.qname,
                [(name, str(element.type.qname), element.min_occurs) for name, element in asked.type.elements],
                [(name, str(element.type.qname), element.min_occurs) for name, element in answered.type.elements],
            )  # fmt: skip
    ports = [port for service in wsdl.services.values() for port in service.ports.values()]
    found["paths"] = {port.binding_options["address"].partition("/WS/")[2] for port in ports}
    return found


@pytest.mark.parametrize("service", ["Authentication", "FileUpload"])
def test_our_description_says_what_the_service_says_of_itself(simulator: Any, service: str) -> None:
    url = f"{simulator.settings['soap_url']}/WS/Common/Lib/{service}.asmx?WSDL"
    with urllib.request.urlopen(url, timeout=20) as answer:
        theirs = shapes(io.BytesIO(answer.read()))  # type: ignore[arg-type]
    ours = shapes(str(envelopes._DESCRIPTIONS / f"{service}.wsdl"))
    assert theirs == ours
    assert 3 == len(ours)


@pytest.mark.parametrize("version", ["1.1", "1.2"])
async def test_an_upload_is_accepted_imported_by_the_job_and_found_under_its_number(
    make_link: Callable[..., Any], simulator: Any, version: str
) -> None:
    link = make_link({**simulator.settings, **SETTINGS, "soap_version": version}, simulator.credentials)
    made = [voucher(4711), voucher(4712, "100.00", "25.00", "-125.00")]
    assert "soap" == (await plugin.choose_route(link.ctx, {})).name
    assert ["accepted", "accepted"] == [receipt.state for receipt in await export(link, *made)]
    simulator.control("job/run", {})
    simulator.control("job/run", {})
    books = simulator.control("books")
    assert (5, 2, [], []) == (books["lines"], books["vouchers"], books["vouchers_posted_twice"], books["unbalanced"])
    assert {4711, 4712} == {entry["voucher"] for entry in books["entries"]}
    found = await find(link, *made, state="accepted")
    assert ["posted", "posted"] == [receipt.state for receipt in found]


@pytest.mark.parametrize("errors", ["fault", "result"])
async def test_a_key_that_expired_is_renewed_and_the_file_is_there_once(
    by_soap: Any, simulator: Any, errors: str
) -> None:
    simulator.control("config", {"switches": {"soap_errors": errors}})
    await export(by_soap, voucher(1))
    simulator.control("config", {"logon_keys": "expire"})
    (receipt,) = await export(by_soap, voucher(2))
    counters = simulator.control("counters")["requests"]
    assert ("accepted", 2, 3) == (receipt.state, counters["LogonKey"], counters["ReceiveFile"])
    assert 2 == len(simulator.control("staging")["files"])


@pytest.mark.parametrize(
    "config",
    [
        {"import_codes": {"OTHER": "journal"}},
        {"users": [{"name": "ws.samband", "roles": ["Web Service User"]}]},
        {"users": [{"name": "ws.samband", "entities": ["23602"]}]},
    ],
)
async def test_an_upload_that_is_refused_as_a_whole_leaves_the_items_free_for_another_way(
    by_soap: Any, simulator: Any, config: dict[str, Any]
) -> None:
    simulator.control("config", config)
    with pytest.raises(RetryableError) as caught:
        await export(by_soap, voucher(1))
    assert ("soap_refused", []) == (caught.value.code, simulator.control("staging")["files"])
    route = await plugin.choose_route(by_soap.ctx, {"soap": caught.value.message})
    assert ("graphql", {"soap"}) == (route.name, set(route.reasons))


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize(
    "fault", ["drop", "html_503", "html_503_broken", "html_200", "empty_200", "empty_503", "soap_fault", "truncate"]
)
async def test_what_spoils_an_answer_leaves_the_outcome_unknown_whether_the_file_was_taken_or_not(
    by_soap: Any, simulator: Any, fault: str, commit: bool
) -> None:
    simulator.control("faults", {"fault": fault, "commit": commit, "operation": "ReceiveFile", "times": 1})
    with pytest.raises(OutcomeUnknownError):
        await export(by_soap, voucher(1))
    assert 1 == simulator.control("counters")["requests"]["ReceiveFile"]
    is_there = commit or fault == "truncate"
    assert is_there == bool(simulator.control("staging")["files"])


async def test_a_lost_answer_is_settled_by_looking_and_the_books_hold_it_once(by_soap: Any, simulator: Any) -> None:
    simulator.control("faults", {"fault": "commit_drop", "operation": "ReceiveFile"})
    with pytest.raises(OutcomeUnknownError):
        await export(by_soap, voucher(1))
    simulator.control("job/run", {})
    simulator.control("job/run", {})
    (receipt,) = await find(by_soap, voucher(1))
    assert ("posted", 1) == (receipt.state, simulator.control("books")["vouchers"])


async def test_wrong_credentials_for_soap_close_that_way_alone(make_link: Callable[..., Any], simulator: Any) -> None:
    wrong = {**simulator.credentials, "soap_password": "feil-passord-99"}
    link = make_link({**simulator.settings, **SETTINGS}, wrong)
    route = await plugin.choose_route(link.ctx, {})
    assert ("graphql", {"soap"}) == (route.name, set(route.reasons))
    assert "feil-passord-99" not in link.log.text + repr(route)


def with_texts(report: bytes, sent: bytes) -> bytes:
    """Gives the report with the texts of the lines it tells of, where it does not give them back by itself."""
    told, texts = report.decode().splitlines(), [row.split(";")[16] for row in sent.decode().splitlines()]
    if "text" in told[0].split(";"):
        return report
    rows = [f"{told[0]};text", *(f"{row};{texts[int(row.split(';')[2])]}" for row in told[1:])]
    return "\r\n".join(rows).encode()


def test_a_file_in_the_drop_folder_is_imported_and_its_report_settles_every_voucher(tmp_path: Path) -> None:
    with start_simulator("samband_xledger.simulator", arguments=["--drop-folder", str(tmp_path)]) as other_side:
        settings = XledgerSettings.model_validate({**other_side.settings, **SETTINGS})
        good, bad = voucher(1), voucher(2)
        bad = replace(bad, lines=[replace(bad.lines[0], account="9999"), bad.lines[1]])
        file = plugin.files.render(batch(good, bad, route="file"), "machine", settings)
        (tmp_path / file.name).write_bytes(file.content)
        url = str(other_side.settings["soap_url"])
        for path in ("drop/scan", "job/run", "job/run", "job/run"):
            request = urllib.request.Request(f"{url}/__sim/{path}", data=b"{}")
            urllib.request.urlopen(request, timeout=20).close()
        assert (tmp_path / "imported" / file.name).exists()
        report = (tmp_path / "acknowledged" / file.name).read_bytes()
    receipts = {receipt.key: receipt for receipt in plugin.files.acknowledge(with_texts(report, file.content))}
    assert ("posted", "rejected") == (receipts[good.key].state, receipts[bad.key].state)
    assert "9999" in receipts[bad.key].message
