"""The SOAP way: what goes out, and what each answer means for a file that has left."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from lxml import etree
from pydantic import SecretStr

from samband import (
    AuthError,
    Batch,
    Context,
    HttpSession,
    Item,
    Limits,
    OutcomeUnknownError,
    RateLimitedError,
    Receipt,
    RejectedError,
    RemoteError,
    RetryableError,
    Token,
    UnavailableError,
    Voucher,
    VoucherLine,
    VoucherPayee,
)
from samband.http import Outbound
from samband.http.egress import EgressPolicy
from samband.oauth import TokenSource
from samband.redaction import Redactor
from samband.testing import FakeClock, FakeLog, fake_context
from samband_xledger import envelopes, soap
from samband_xledger.gl02xml import gl02xml
from samband_xledger.layouts import XmlLayout
from samband_xledger.routing import access_token
from samband_xledger.settings import XledgerCredentials, XledgerSettings

NS = "http://ws.xledger.net/"
V11, V12 = "http://schemas.xmlsoap.org/soap/envelope/", "http://www.w3.org/2003/05/soap-envelope"
TYPES = {V11: "text/xml; charset=utf-8", V12: "application/soap+xml; charset=utf-8"}
KEY = "5f1d0c9a7b3e"

Answering = Callable[[web.Request], web.StreamResponse]


# ── the other side ───────────────────────────────────────────────────────────


def envelope(inner: str, version: str = V12, status: int = 200, kind: str | None = None) -> Answering:
    text = (
        f'<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="{version}"><s:Body>{inner}</s:Body></s:Envelope>'
    )
    headers = {"Content-Type": kind or TYPES[version]}
    return lambda request: web.Response(status=status, body=text.encode(), headers=headers)


def result(text: str, version: str = V12, operation: str = "ReceiveFile", more: str = "") -> Answering:
    inner = (
        f'<{operation}Response xmlns="{NS}"><{operation}Result>{text}</{operation}Result>{more}</{operation}Response>'
    )
    return envelope(inner, version)


def fault(text: str, version: str = V12, *, ours: bool = False, status: int = 500) -> Answering:
    if version == V12:
        code = "Sender" if ours else "Receiver"
        inner = (
            f"<s:Fault><s:Code><s:Value>s:{code}</s:Value></s:Code>"
            f'<s:Reason><s:Text xml:lang="en">{text}</s:Text></s:Reason></s:Fault>'
        )
    else:
        code = "Client" if ours else "Server"
        inner = f"<s:Fault><faultcode>s:{code}</faultcode><faultstring>{text}</faultstring><detail/></s:Fault>"
    return envelope(inner, version, status)


def plain(status: int, body: str = "", kind: str = "text/html", **headers: str) -> Answering:
    named = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return lambda request: web.Response(status=status, body=body.encode(), headers=named)


def drop(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


HTML = "<html><head><title>Service Unavailable</title></head><body><p>Later</p></body></html>"
BROKEN_HTML = "<!DOCTYPE html><html><head><title>Oh<body><p>Try again<br>"


@dataclass
class Peer:
    """A server whose uploads are answered by a list, the last one for ever; the log-on gives numbered keys."""

    server: TestServer
    uploads: list[bytes] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    log_ons: list[bytes] = field(default_factory=list)
    answers: list[Answering] = field(default_factory=lambda: [result("OK 1 file.xml")])
    log_on_answers: list[Answering] = field(default_factory=list)
    hang_s: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def upload(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        self.uploads.append(await request.read())
        await asyncio.sleep(self.hang_s)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(request)

    async def log_on(self, request: web.Request) -> web.StreamResponse:
        self.log_ons.append(await request.read())
        if self.log_on_answers:
            return self.log_on_answers.pop(0)(request)
        return result(f"{KEY}{len(self.log_ons)}", operation="LogonKey")(request)

    async def describe(self, request: web.Request) -> web.StreamResponse:
        return plain(200, '<definitions name="ReceiveFile"/>', "text/xml")(request)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    application = web.Application()
    server = TestServer(application)
    found = Peer(server)
    application.router.add_post("/WS/Common/Lib/FileUpload.asmx", found.upload)
    application.router.add_get("/WS/Common/Lib/FileUpload.asmx", found.describe)
    application.router.add_post("/WS/Common/Lib/Authentication.asmx", found.log_on)
    async with server:
        yield found


class Hurried:
    """The host's session with a shorter time limit, for an answer that does not come."""

    def __init__(self, session: HttpSession, timeout_s: float) -> None:
        self._session, self._timeout_s = session, timeout_s
        self.renew_token, self.fill_names = session.renew_token, session.fill_names

    async def request(self, method: str, url: str, **options: Any) -> Any:
        return await self._session.request(method, url, **{**options, "timeout_s": self._timeout_s})


@asynccontextmanager
async def connected(
    url: str, log: FakeLog | None = None, *, timeout_s: float = 10.0, password: str = "riktig-4711",
    credentials: Mapping[str, Any] | None = None, **settings: Any,
) -> AsyncIterator[Context]:  # fmt: skip
    """A context with the host's own session, and tokens from the plugin's own log-on."""
    log, clock = log or FakeLog(), FakeClock()
    made = XledgerSettings.model_validate(
        {"entity_code": "23601", "environment": "demo", "soap_url": url, "routes": ["soap"], **settings}
    )
    given = XledgerCredentials.model_validate(
        {"soap_user": "ws.samband", "soap_password": password} if credentials is None else credentials
    )
    outbound = Outbound(policy=EgressPolicy(["127.0.0.1"]), redactor=Redactor(), now=clock.now, sleep=clock.sleep,
                        clock=clock.monotonic, in_call_wait_s=0.0)  # fmt: skip

    def session(tokens: TokenSource | None) -> HttpSession:
        limits = Limits(requests_per_s=10_000, concurrency=20, timeout_s=10)
        opened = outbound.session(integration_id="i", account="a", hosts=[made.soap_host, made.graphql_host],
                                  limits=limits, tokens=tokens, log=log)  # fmt: skip
        return opened if timeout_s == 10.0 else Hurried(opened, timeout_s)

    async def authenticate() -> Token:
        ctx = fake_context(settings=made, credentials=given, http=session(None), now=clock.now, log=log)
        return await access_token(ctx, soap.log_on)

    tokens = TokenSource(authenticate, now=clock.now, log=log)
    try:
        yield fake_context(settings=made, http=session(tokens), now=clock.now, log=log)
    finally:
        await outbound.close()


# ── what is sent ─────────────────────────────────────────────────────────────


def voucher(number: int = 4711, *amounts: str, **changes: Any) -> Voucher:
    key = f"{number:032x}"
    given = amounts or ("265.00", "-265.00")
    lines = [
        VoucherLine(n=n, key=f"{key}-{n}", account="7140" if n == 1 else "2910", amount=Decimal(amount), text="Reise, tog",
                    dimensions={"avdeling": "101"} if n == 1 else {}, tax_rule="1" if n == 1 else None,
                    payee=None if n == 1 else VoucherPayee(strategy="employee", code="1001"))
        for n, amount in enumerate(given, start=1)
    ]  # fmt: skip
    made = Voucher(key=key, number=number, type="GL", date=date(2026, 3, 1), currency="NOK", text="Reise", lines=lines,
                   claim=f"c{number}", mapping_version=1)  # fmt: skip
    return replace(made, **changes)


def batch(*vouchers: Voucher) -> Batch:
    items = [Item(key=made.key, stream="vouchers", values={}, voucher=made) for made in vouchers or (voucher(),)]
    return Batch(id="run-1", items=items, route="soap")


AVDELING = {"dimension_fields": {"avdeling": "glObject1", "prosjekt": "project"}}


async def sent(ctx: Context, *vouchers: Voucher) -> list[Receipt]:
    return [receipt async for receipt in soap.export_by_soap(ctx, batch(*vouchers))]


def told(body: bytes) -> dict[str, str]:
    root = etree.fromstring(body)
    call = root.find(f".//{{{NS}}}ReceiveFile")
    assert call is not None
    return {etree.QName(item).localname: item.text or "" for item in call}


@pytest.mark.parametrize(("version", "namespace"), [("1.1", V11), ("1.2", V12)])
async def test_a_file_goes_out_in_the_order_and_the_types_that_were_seen(
    peer: Peer, version: str, namespace: str
) -> None:
    async with connected(peer.url, soap_version=version, **AVDELING) as ctx:
        (receipt,) = await sent(ctx)
        file = gl02xml([voucher()], ctx.settings)
    assert ("accepted", file.name, "OK 1 file.xml") == (receipt.state, receipt.reference, receipt.evidence["answer"])
    (body,) = peer.uploads
    assert f"{{{namespace}}}Envelope" == etree.fromstring(body).tag
    assert [
        ("sUserName", "ws.samband"), ("sKey", f"{KEY}1"), ("sApplication", "XLEDGERDEMO"), ("sFileName", file.name),
        ("aFile", base64.b64encode(file.content).decode()), ("sImportCode", "GL02XML"), ("iEntityCode", "23601"),
    ] == list(told(body).items())  # fmt: skip
    (headers,) = peer.headers
    if version == "1.1":
        assert ("text/xml; charset=utf-8", f'"{NS}ReceiveFile"') == (headers["Content-Type"], headers["SOAPAction"])
    else:
        assert f'application/soap+xml; charset=utf-8; action="{NS}ReceiveFile"' == headers["Content-Type"]
    assert "Authorization" not in headers


async def test_the_log_on_is_asked_once_with_what_the_environment_calls_itself(peer: Peer) -> None:
    async with connected(peer.url, environment="live", **AVDELING) as ctx:
        await sent(ctx, voucher(1))
        await sent(ctx, voucher(2))
    (asked,) = peer.log_ons
    assert b">XLEDGER<" in asked
    assert b">riktig-4711<" in asked


async def test_neither_password_nor_key_is_in_a_log_or_an_error(peer: Peer) -> None:
    log = FakeLog()
    said = []
    for answer in (result("OK"), fault("The logon key is not valid"), plain(503, HTML), plain(302, Location="/login")):
        peer.answers = [answer]
        async with connected(peer.url, log, **AVDELING) as ctx:
            try:
                said += [repr(receipt) for receipt in await sent(ctx)]
            except (RetryableError, OutcomeUnknownError) as error:
                said += [repr(error), str(error), error.remote_message]
    text = log.text + "".join(said)
    assert len(peer.uploads) >= 4
    assert ("accepted" in text, "riktig-4711" in text, KEY in text) == (True, False, False)


# ── what the answers mean ────────────────────────────────────────────────────

UNKNOWN = OutcomeUnknownError
DTD = f'<!DOCTYPE x [<!ENTITY a "OK">]><s:Envelope xmlns:s="{V12}"><s:Body><a>&a;</a></s:Body></s:Envelope>'
CUT = f'<s:Envelope xmlns:s="{V12}"><s:Body><ReceiveFileResponse xmlns="{NS}"><ReceiveFileResult>OK 1'

# Each row: what came back, what it means for a file that has left, and how often the file was sent.
TABLE: dict[str, tuple[Answering, type[Exception] | str, int]] = {
    "a receipt": (result("OK 7 x.xml"), "accepted", 1),
    "a receipt in the other version": (result("OK 7", V11), "accepted", 1),
    "a receipt with more than was described": (result("OK 7", more="<Extra>new</Extra>"), "accepted", 1),
    "1.1 fault that refuses the file": (fault("Row 1: unknown element", V11, ours=True), "rejected", 1),
    "1.2 fault that refuses the file": (fault("There is an error in XML document (1, 1)"), "rejected", 1),
    "1.2 fault with HTTP 200": (fault("Maximum request length exceeded.", status=200), "rejected", 1),
    "a fault about the import code": (fault("Unknown import code 'GL02XML'."), RetryableError, 1),
    "a fault about a role": (fault("The user does not have the role File Uploader.", V11), RetryableError, 1),
    "a fault about the entity": (fault("The user has no access to entity 23601."), RetryableError, 1),
    "a fault in the middle": (fault("Server was unable to process request. ---> Timeout expired."), UNKNOWN, 1),
    "a fault of a program that broke": (fault("Object reference not set to an instance of an object."), UNKNOWN, 1),
    "a fault without words": (fault("", V11), UNKNOWN, 1),
    "a key that is refused for good": (fault("The logon key is not valid or has expired."), RetryableError, 2),
    "the same as a result": (result("The logon key is not valid or has expired."), RetryableError, 2),
    "a result that is no success": (result("Error: something went wrong"), UNKNOWN, 1),
    "a result that refuses in words": (result("Unknown import code 'X'."), UNKNOWN, 1),
    "a receipt that speaks of a key": (result("OK, received. The logon key expired meanwhile."), UNKNOWN, 1),
    "an empty result": (result(""), UNKNOWN, 1),
    "well-formed HTML 503": (plain(503, HTML), UNKNOWN, 1),
    "well-formed HTML 500": (plain(500, HTML), UNKNOWN, 1),
    "HTML 503 that says it is XML": (plain(500, HTML, "text/xml"), UNKNOWN, 1),
    "broken HTML 503": (plain(503, BROKEN_HTML), UNKNOWN, 1),
    "broken HTML 401": (plain(401, BROKEN_HTML), RetryableError, 2),
    "403": (plain(403, BROKEN_HTML), RetryableError, 2),
    "empty 503": (plain(503), UNKNOWN, 1),
    "503 that names a time to come back": (plain(503, HTML, Retry_After="120"), UnavailableError, 1),
    "429": (plain(429, Retry_After="60"), RateLimitedError, 1),
    "well-formed HTML 200": (plain(200, HTML), UNKNOWN, 1),
    "HTML 200 that says it is XML": (plain(200, HTML, "text/xml"), UNKNOWN, 1),
    "redirect to log in": (plain(302, Location="/Login.aspx?ReturnUrl=%2fWS"), RetryableError, 2),
    "redirect to an error page": (plain(302, Location="/Error.aspx?aspxerrorpath=/WS"), UNKNOWN, 1),
    "empty 200": (plain(200, "", TYPES[V12]), UNKNOWN, 1),
    "202 without a word": (plain(202, "", TYPES[V12]), UNKNOWN, 1),
    "a lost connection": (drop, UNKNOWN, 1),
    "a document type": (plain(200, DTD, TYPES[V12]), UNKNOWN, 1),
    "a document that is cut off": (plain(200, CUT, TYPES[V12]), UNKNOWN, 1),
    "an answer to something else": (result("OK", operation="LogonKey"), UNKNOWN, 1),
    "an endless answer": (result("OK" + " " * 300_000), UNKNOWN, 1),
}


@pytest.mark.parametrize("row", TABLE)
async def test_an_answer_means_what_it_proves_and_nothing_more(peer: Peer, row: str) -> None:
    answer, meaning, uploads = TABLE[row]
    peer.answers = [answer]
    async with connected(peer.url, **AVDELING) as ctx:
        if isinstance(meaning, str):
            assert [meaning, meaning] == [receipt.state for receipt in await sent(ctx, voucher(1), voucher(2))]
        else:
            with pytest.raises(meaning):
                await sent(ctx, voucher(1), voucher(2))
    assert uploads == len(peer.uploads)


async def test_an_answer_that_does_not_come_in_time_leaves_the_outcome_unknown(peer: Peer) -> None:
    peer.hang_s = 5.0
    async with connected(peer.url, timeout_s=0.3, **AVDELING) as ctx:
        with pytest.raises(OutcomeUnknownError):
            await sent(ctx)
    assert 1 == len(peer.uploads)


async def test_a_service_that_cannot_be_reached_has_taken_nothing(peer: Peer) -> None:
    async with connected(peer.url, **AVDELING) as ctx:
        await ctx.http.fill_names()  # there is a key already
        await peer.server.close()
        with pytest.raises(UnavailableError):
            await sent(ctx)


@pytest.mark.parametrize(
    "refusal",
    [
        fault("The logon key is not valid or has expired."),
        fault("Session has timed out", V11),
        result("Invalid key"),
        plain(403, "no"),
        plain(401),
        plain(302, Location="https://ws.example/login"),
    ],
)
async def test_a_key_that_has_expired_is_renewed_and_the_same_file_sent_once_more(
    peer: Peer, refusal: Answering
) -> None:
    peer.answers = [refusal, result("OK 1")]
    async with connected(peer.url, **AVDELING) as ctx:
        (receipt,) = await sent(ctx)
    assert ("accepted", 2) == (receipt.state, len(peer.log_ons))
    first, second = (told(body) for body in peer.uploads)
    assert (f"{KEY}1", f"{KEY}2") == (first.pop("sKey"), second.pop("sKey"))
    assert first == second


async def test_a_log_on_that_fails_while_a_key_is_renewed_leaves_the_items_free(peer: Peer) -> None:
    peer.answers = [fault("The logon key has expired.")]
    async with connected(peer.url, **AVDELING) as ctx:
        await ctx.http.fill_names()
        peer.log_on_answers = [fault("Invalid user name or password.")]
        with pytest.raises(RetryableError) as caught:
            await sent(ctx)
    assert ("soap_refused", 1) == (caught.value.code, len(peer.uploads))


async def test_without_a_key_nothing_is_sent_and_the_items_are_free(peer: Peer) -> None:
    async with connected(peer.url, credentials={"api_token": "abcd1234"}, **AVDELING) as ctx:
        with pytest.raises(RetryableError, match="no log-on key"):
            await sent(ctx)
    assert ([], []) == (peer.uploads, peer.log_ons)


# ── vouchers that cannot go ──────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (voucher(7, "265.00", "-264.99"), "lines"),
        (voucher(7, "265.005", "-265.005"), "lines.1.amount"),
        (replace(voucher(7), number=100_000_000), "number"),
        (voucher(7, currency="EUR"), "currency"),
        (voucher(4711, key=f"{9:032x}", lines=[
            replace(line, key=f"{9:032x}-{line.n}") for line in voucher(4711).lines
        ]), "number"),
    ],
)  # fmt: skip
async def test_a_voucher_that_cannot_go_is_rejected_alone_and_before_anything_is_sent(
    peer: Peer, bad: Voucher, field: str
) -> None:
    async with connected(peer.url, **AVDELING) as ctx:
        receipts = {receipt.key: receipt for receipt in await sent(ctx, voucher(4711), bad)}
    assert ("rejected", field) == (receipts[bad.key].state, receipts[bad.key].field)
    assert "accepted" == receipts[voucher(4711).key].state
    content = base64.b64decode(told(peer.uploads[0])["aFile"])
    assert 1 == content.count(b"<VoucherNo>4711</VoucherNo><FiscalYear>2026</FiscalYear>") / 2


async def test_a_batch_of_which_nothing_can_go_sends_nothing(peer: Peer) -> None:
    async with connected(peer.url, **AVDELING) as ctx:
        (receipt,) = await sent(ctx, voucher(7, "1.00", "1.00"))
    assert ("rejected", [], []) == (receipt.state, peer.uploads, peer.log_ons)


# ── the log-on ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (fault("Invalid user name or password."), AuthError, "secret_wrong"),
        (fault("Invalid user name or password.", V11), AuthError, "secret_wrong"),
        (result("Invalid user name or password.", operation="LogonKey"), AuthError, "secret_wrong"),
        (result("", operation="LogonKey"), AuthError, "secret_wrong"),
        (fault("The user does not have the role Web Service User."), AuthError, "missing_privilege"),
        (plain(302, Location="/login"), AuthError, "secret_wrong"),
        (plain(401), AuthError, "secret_wrong"),
        (plain(403), AuthError, "secret_wrong"),
        (fault("Unknown application."), RemoteError, None),
        (plain(200, HTML), RemoteError, None),
        (plain(302, Location="/elsewhere"), RemoteError, None),
        (fault("Timeout expired."), UnavailableError, None),
        (plain(500, HTML), UnavailableError, None),
    ],
)
async def test_a_log_on_that_fails_says_who_has_to_do_what(
    peer: Peer, answer: Answering, error: type[Exception], reason: str | None
) -> None:
    peer.log_on_answers = [answer] * 4
    async with connected(peer.url) as ctx:
        with pytest.raises(error) as caught:
            await ctx.http.fill_names()
    assert reason == getattr(caught.value, "reason", None)
    assert "riktig-4711" not in repr(caught.value) + str(caught.value)


async def test_a_log_on_is_asked_again_when_the_connection_is_lost(peer: Peer) -> None:
    peer.log_on_answers = [drop]
    async with connected(peer.url) as ctx:
        assert {"soap_user", "soap_key"} == set(await ctx.http.fill_names())
    assert 2 == len(peer.log_ons)


# ── descriptions ─────────────────────────────────────────────────────────────


def test_nothing_outside_the_package_is_read_and_nothing_is_sent_by_zeep(tmp_path: Any) -> None:
    door = envelopes._FromPackage()
    (tmp_path / "x.wsdl").write_text("<definitions/>")
    for place in (str(tmp_path / "x.wsdl"), "http://127.0.0.1:1/x.wsdl", f"{envelopes._DESCRIPTIONS}/../soap.py"):
        with pytest.raises(PermissionError):
            door.load(place)
    with pytest.raises(PermissionError):
        door.post("http://127.0.0.1:1", b"", {})


def test_bytes_travel_as_base64_and_braces_of_a_file_are_no_places_to_fill() -> None:
    made = envelopes.enclosed("FileUpload", "ReceiveFile", "1.2", aFile=b"{{soap_key}}", iEntityCode=1)
    assert base64.b64encode(b"{{soap_key}}") in made.body
    assert b"{{" not in made.body


# ── the file ─────────────────────────────────────────────────────────────────


def test_the_file_is_laid_out_as_it_was_seen_in_use() -> None:
    settings = XledgerSettings.model_validate({"entity_code": "23601", **AVDELING})
    file = gl02xml([voucher()], settings)
    key = voucher().key
    assert (
        "<?xml version='1.0' encoding='utf-8'?>\n<xml><JournalEntries>"
        "<JournalEntry><EntityCode>23601</EntityCode><VoucherType>GL</VoucherType><VoucherNo>4711</VoucherNo>"
        "<FiscalYear>2026</FiscalYear><VoucherDate>20260301</VoucherDate><Account>7140</Account>"
        "<Posting1>101</Posting1><TaxRule>1</TaxRule><InvoiceNo>4711</InvoiceNo>"
        f"<Text>Reise, tog, bilag 4711 {key}-1</Text><Amount>265.00</Amount></JournalEntry>"
        "<JournalEntry><EntityCode>23601</EntityCode><VoucherType>GL</VoucherType><VoucherNo>4711</VoucherNo>"
        "<FiscalYear>2026</FiscalYear><VoucherDate>20260301</VoucherDate><Account>2910</Account>"
        "<SubledgerNo>1001</SubledgerNo><InvoiceNo>4711</InvoiceNo>"
        f"<Text>Reise, tog, bilag 4711 {key}-2</Text><Amount>-265.00</Amount></JournalEntry>"
        "</JournalEntries></xml>"
    ) == file.content.decode()
    assert (2, file) == (file.rows, gl02xml([voucher()], settings))
    assert re.fullmatch(r"samband-[0-9a-f]{16}\.xml", file.name)
    assert file.name != gl02xml([voucher(4712)], settings).name


def test_the_other_layout_that_was_seen_is_a_matter_of_settings() -> None:
    layout = {"root": "GLTransaction", "rows": None, "row": "entry", "fields": {
        "voucher_no": "Nr", "voucher_date": "Date", "account": "Acc", "posting_1": "Dep", "subledger_no": "Sub",
        "tax_rule": "Tax", "text": "Txt", "amount": "Amt",
    }}  # fmt: skip
    settings = XledgerSettings.model_validate({"entity_code": "1", "xml_layout": layout, **AVDELING})
    root = etree.fromstring(gl02xml([voucher()], settings).content)
    assert ("GLTransaction", ["entry", "entry"]) == (root.tag, [entry.tag for entry in root])
    assert ["Nr", "Date", "Acc", "Dep", "Tax", "Txt", "Amt"] == [cell.tag for cell in root[0]]


@pytest.mark.parametrize("fields", [{"account": "Account"}, {**XmlLayout().fields, "voucher_no": "Account"}])
def test_a_layout_without_a_number_or_with_one_name_twice_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"voucher_no|once"):
        XmlLayout.model_validate({"fields": fields})


def test_what_the_layout_has_no_place_for_is_refused_and_never_left_out() -> None:
    fields = {fact: name for fact, name in XmlLayout().fields.items() if fact != "posting_1"}
    settings = XledgerSettings.model_validate({"entity_code": "1", "xml_layout": {"fields": fields}, **AVDELING})
    with pytest.raises(RejectedError, match="posting_1") as caught:
        gl02xml([voucher()], settings)
    assert ("layout_lacks", "lines.1") == (caught.value.code, caught.value.field)


async def test_a_log_on_gives_nothing_without_credentials() -> None:
    ctx = fake_context(credentials=XledgerCredentials(api_token=SecretStr("abcd1234")))
    assert {} == await soap.log_on(ctx)
