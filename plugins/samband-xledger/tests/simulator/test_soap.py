"""The SOAP services, asked by zeep as a client of theirs would, on both versions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import requests
import zeep
from zeep.exceptions import Fault, TransportError, XMLSyntaxError

BINDINGS = {"1.1": "Soap", "1.2": "Soap12"}
ROWS = """<?xml version="1.0" encoding="utf-8"?>
<xml><JournalEntries>
  <JournalEntry><EntityCode>23601</EntityCode><VoucherType>GL</VoucherType><VoucherNo>4711</VoucherNo>
    <FiscalYear>2026</FiscalYear><VoucherDate>20260301</VoucherDate><Account>7140</Account><Posting1>101</Posting1>
    <Text>Reise, bilag 4711</Text><Amount>265.00</Amount></JournalEntry>
  <JournalEntry><EntityCode>23601</EntityCode><VoucherType>GL</VoucherType><VoucherNo>4711</VoucherNo>
    <FiscalYear>2026</FiscalYear><VoucherDate>20260301</VoucherDate><Account>2910</Account>
    <SubledgerNo>1001</SubledgerNo><Text>Reise, bilag 4711</Text><Amount>-265.00</Amount></JournalEntry>
</JournalEntries></xml>"""


class Services:
    """Blocking calls of zeep, each in a thread."""

    def __init__(self, api: Any, version: str, *, live: bool = False) -> None:
        self.given = (
            api.address.live
            if live
            else {
                "settings": api.address.settings,
                "credentials": api.address.credentials,
            }
        )
        self.application = "XLEDGER" if live else "XLEDGERDEMO"
        self.version = version

    async def log_on(self, **more: Any) -> str:
        secrets = self.given["credentials"]
        arguments = {
            "sLogonID": secrets["soap_user"],
            "sPassword": secrets["soap_password"],
            "sApplication": self.application,
            **more,
        }
        return await self._call("Authentication", lambda service: service.LogonKey(**arguments))

    async def upload(self, key: str, content: str | bytes = ROWS, **more: Any) -> str:
        arguments = {
            "sUserName": self.given["credentials"]["soap_user"],
            "sKey": key,
            "sApplication": self.application,
            "sFileName": "samband.xml",
            "aFile": content if isinstance(content, bytes) else content.encode(),
            "sImportCode": "GL02XML",
            "iEntityCode": 23601,
            **more,
        }
        return await self._call("FileUpload", lambda service: service.ReceiveFile(**arguments))

    async def _call(self, name: str, ask: Callable[[Any], str]) -> str:
        address = f"{self.given['settings']['soap_url']}/WS/Common/Lib/{name}.asmx"

        def work() -> str:
            with requests.Session() as session:
                transport = zeep.Transport(session=session, operation_timeout=5)
                client = zeep.Client(f"{address}?WSDL", transport=transport)
                binding = f"{{http://ws.xledger.net/}}{name}{BINDINGS[self.version]}"
                return ask(client.create_service(binding, address))

        return await asyncio.to_thread(work)


@pytest.fixture(params=list(BINDINGS))
def soap(request: pytest.FixtureRequest, api: Any) -> Services:
    return Services(api, request.param)


async def test_a_file_is_taken_then_posted_by_the_job_under_its_own_number(api: Any, soap: Services) -> None:
    assert "samband.xml" in await soap.upload(await soap.log_on())
    assert 0 == (await api.look("books"))["lines"]
    assert {"posted": 1, "failed": 0, "numbers": [4711]} == await api.run_job()
    lines = (await api.look("books"))["entries"]
    assert [("7140", "265.00"), ("2910", "-265.00")] == [(line["account"], line["amount"]) for line in lines]
    # The layout has no column for our key: the number and the text are what is left of the claim.
    assert {(None, 4711, "Reise, bilag 4711", "soap")} == {
        (line["extIdentifier"], line["transactionNumber"], line["text"], line["door"]) for line in lines
    }


async def test_live_takes_its_own_application_and_password(api: Any) -> None:
    live = Services(api, "1.2", live=True)
    await live.upload(await live.log_on())
    with pytest.raises(Fault, match="Unknown application"):
        await live.log_on(sApplication="XLEDGERDEMO")
    await api.run_job()
    assert 2 == (await api.look("books?environment=live"))["lines"]


@pytest.mark.parametrize(
    ("order", "more", "message"),
    [
        ({}, {"sPassword": "wrong"}, "Invalid user name or password"),
        ({}, {"sLogonID": "nobody"}, "Invalid user name or password"),
        ({}, {"sApplication": "XLEDGER"}, "Unknown application"),
        ({"users": [{"name": "ws.samband", "roles": ["File Uploader"]}]}, {}, "role Web Service User"),
    ],
)
async def test_a_log_on_that_is_wrong_gets_a_fault(
    api: Any, soap: Services, order: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    await api.control("config", order)
    with pytest.raises(Fault, match=message) as caught:
        await soap.log_on(**more)
    assert ("s:Server" if soap.version == "1.1" else "s:Receiver") == caught.value.code


@pytest.mark.parametrize(
    ("order", "more", "message"),
    [
        ({"logon_keys": "expire"}, {}, "not valid or has expired"),
        ({}, {"sKey": "wrong"}, "not valid or has expired"),
        ({}, {"sUserName": "somebody"}, "not valid or has expired"),
        ({}, {"sApplication": "XLEDGER"}, "Unknown application"),
        ({}, {"sImportCode": "GL99"}, "Unknown import code 'GL99'"),
        ({}, {"iEntityCode": 23700}, "no access to entity 23700"),
        ({"users": [{"name": "ws.samband", "roles": ["Web Service User"]}]}, {}, "role File Uploader"),
        ({"switches": {"max_file_bytes": 100}}, {}, "Maximum request length exceeded"),
        ({}, {"aFile": b"<xml><JournalEntries>"}, "The file is not XML"),
        ({}, {"aFile": b"<GLTransaction/>"}, "must hold xml/JournalEntries"),
        ({}, {"aFile": b"<xml><JournalEntries/></xml>"}, "holds no rows"),
        (
            {},
            {"aFile": b"<xml><JournalEntries><JournalEntry><ExtId>1</ExtId></JournalEntry></JournalEntries></xml>"},
            "unknown element ExtId",
        ),
    ],
)
async def test_an_upload_that_is_wrong_gets_a_fault_and_leaves_nothing(
    api: Any, soap: Services, order: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    key = await soap.log_on()
    await api.control("config", order)
    with pytest.raises(Fault, match=message):
        await soap.upload(**{"key": key, **more})
    assert [] == (await api.look("staging"))["files"]


async def test_a_key_lives_twenty_minutes_on_the_simulated_clock(api: Any, soap: Services) -> None:
    key = await soap.log_on()
    await api.control("clock/advance", {"seconds": 1_190})
    await soap.upload(key)
    await api.control("clock/advance", {"seconds": 20})
    with pytest.raises(Fault, match="expired"):
        await soap.upload(key)
    await soap.upload(await soap.log_on())


async def test_refusals_may_come_as_a_result_with_http_200(api: Any, soap: Services) -> None:
    await api.control("config", {"switches": {"soap_errors": "result"}})
    assert "The logon key is not valid or has expired." == await soap.upload("wrong")


async def test_a_file_may_be_read_by_the_job_only(api: Any, soap: Services) -> None:
    await api.control("config", {"switches": {"file_checks": "job"}})
    await soap.upload(await soap.log_on(), b"<xml>")
    await api.run_job()
    files = (await api.look("staging"))["files"]
    assert ["failed"] == [file["state"] for file in files]
    assert files[0]["message"].startswith("The file is not XML")


async def test_rows_that_are_wrong_are_told_by_the_job_and_nothing_of_the_voucher_is_posted(
    api: Any, soap: Services
) -> None:
    key = await soap.log_on()
    await soap.upload(key, ROWS.replace("7140", "9999").replace("20260301", "2026-03-01").replace("265.00", "265,00"))
    assert 1 == (await api.run_job())["failed"]
    messages = " ".join(await api.messages())
    assert "account.code: No value matching owner" in messages
    assert "VoucherDate cannot be '2026-03-01'" in messages
    assert "Amount cannot be '265,00'" in messages
    assert 0 == (await api.look("books"))["lines"]


async def test_what_is_no_envelope_gets_a_fault_of_the_client(api: Any, soap: Services) -> None:
    url = f"{api.address.settings['soap_url']}/WS/Common/Lib/FileUpload.asmx"
    kind = {"1.1": "text/xml", "1.2": "application/soap+xml"}[soap.version]
    for body in (
        b"",
        b"<",
        b"<a/>",
        b'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body/></e:Envelope>',
    ):
        async with api.http.post(url, data=body, headers={"Content-Type": f"{kind}; charset=utf-8"}) as answer:
            assert 500 == answer.status
            assert b"Fault" in await answer.read()


@pytest.mark.parametrize(
    ("fault", "error", "facts"),
    [
        ("soap_fault", Fault, {}),
        ("html_503", Fault, {"code": None}),
        ("html_503_broken", TransportError, {"status_code": 503}),
        ("html_401_broken", TransportError, {"status_code": 401}),
        ("html_200", XMLSyntaxError, {}),
        ("redirect_login", TransportError, {"status_code": 200}),
        ("empty_200", TransportError, {"status_code": 200}),
        ("empty_503", TransportError, {"status_code": 503}),
        ("drop", requests.exceptions.ConnectionError, {}),
        ("truncate", requests.exceptions.RequestException, {}),
    ],
)
@pytest.mark.parametrize("commit", [False, True])
async def test_every_answer_that_zeep_was_seen_to_meet_can_be_made(
    api: Any, soap: Services, fault: str, error: type[Exception], facts: dict[str, Any], commit: bool
) -> None:
    key = await soap.log_on()
    await api.control("faults", {"fault": fault, "operation": "ReceiveFile", "commit": commit})
    with pytest.raises(error) as caught:
        await soap.upload(key)
    assert facts == {name: getattr(caught.value, name) for name in facts}
    # Half an answer comes of work that was done.
    done = 1 if commit or fault == "truncate" else 0
    assert done == len((await api.look("staging"))["files"])
    await soap.upload(key)


async def test_an_answer_that_comes_too_late_is_a_read_timeout_after_the_work(api: Any, soap: Services) -> None:
    key = await soap.log_on()
    await api.control("faults", {"fault": "slow", "seconds": 7, "operation": "ReceiveFile"})
    with pytest.raises(requests.exceptions.ReadTimeout):
        await soap.upload(key)
    assert 1 == len((await api.look("staging"))["files"])


async def test_a_key_may_be_gone_when_it_is_used(api: Any, soap: Services) -> None:
    key = await soap.log_on()
    await api.control("faults", {"fault": "expired_key", "operation": "ReceiveFile"})
    with pytest.raises(Fault, match="expired"):
        await soap.upload(key)


async def test_the_same_file_twice_is_two_files(api: Any) -> None:
    soap = Services(api, "1.2")
    await api.control("config", {"switches": {"duplicate_numbers": "post"}})
    key = await soap.log_on()
    for _ in range(2):
        await soap.upload(key)
        await api.run_job()
    assert [4711] == (await api.look("books?summary=1"))["vouchers_posted_twice"]
