"""What goes over the wire, against a hand-written server that answers with captured bodies."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from samband import (
    AdapterError,
    AuthError,
    Context,
    CursorExpiredError,
    HttpSession,
    Page,
    RateLimitedError,
    RemoteError,
    UnavailableError,
)
from samband.testing import FakeLog
from samband_dynamics365 import plugin
from samband_dynamics365.client import Dataverse, Position, is_own_link
from samband_dynamics365.refusals import parse_code
from samband_dynamics365.settings import DynamicsSettings

DATA = Path(__file__).parent / "data"
CONTACT: dict[str, Any] = json.loads((DATA / "contact.json").read_text())
DEFINITION: dict[str, Any] = json.loads((DATA / "entity_definition_contact.json").read_text())
WHO_AM_I: dict[str, Any] = json.loads((DATA / "who_am_i.json").read_text())
CODES: dict[str, dict[str, Any]] = {e["name"]: e for e in json.loads((DATA / "error_codes.json").read_text())}

DEFINITION_PATH = "/api/data/v9.2/EntityDefinitions(LogicalName='contact')"
CONTACTS_PATH = "/api/data/v9.2/contacts"
CONTACTS_COLUMNS = (
    "address1_city,address1_country,address1_line1,address1_postalcode,birthdate,contactid,emailaddress1,firstname,"
    "lastname,mobilephone,statecode,telephone1"
)

Reply = dict[str, Any] | list[Any] | web.Response


class Environment:
    """Answers what it was told to, path by path, and keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.replies: dict[str, list[Reply]] = {}
        self.log = FakeLog()
        self.settings: DynamicsSettings
        self.http: HttpSession

    def reply(self, path: str, *replies: Reply) -> None:
        """Gives these answers in their order; the last one is given from then on."""
        self.replies[path] = list(replies)

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        replies = self.replies.get(request.path)
        if replies is None:
            return refused(404, "0x80060888", f"Resource not found for the segment '{request.path}'.")
        found = replies.pop(0) if len(replies) > 1 else replies[0]
        if isinstance(found, web.Response):
            return web.Response(status=found.status, body=found.body, headers=found.headers)
        return web.json_response(found)

    def link(self, query: str) -> str:
        return f"{self.settings.environment_url}{CONTACTS_PATH}?{query}"

    def asked(self, path: str = CONTACTS_PATH) -> list[str]:
        return [r.raw_path for r in self.requests if r.path == path]

    def context(self) -> Context:
        return Context(
            organization_id="org", integration_id="int", run_id="run", settings=self.settings, http=self.http,
            now=lambda: dt.datetime.now(dt.UTC), log=self.log,
        )  # fmt: skip

    async def pages(self, cursor: str | None = None, stream: str = "contacts") -> list[Page]:
        return [page async for page in plugin.sync(self.context(), stream, cursor)]

    async def failure(self, cursor: str | None = None, stream: str = "contacts") -> AdapterError:
        with pytest.raises(AdapterError) as caught:
            await self.pages(cursor, stream)
        return caught.value


@pytest.fixture
async def environment(plain_session: HttpSession) -> AsyncIterator[Environment]:
    it = Environment()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", it.answer)
    async with TestServer(app) as server:
        it.http = plain_session
        it.settings = settings_for(server)
        it.reply(DEFINITION_PATH, DEFINITION)
        yield it


def settings_for(server: TestServer, **extra: Any) -> DynamicsSettings:
    return DynamicsSettings.model_validate(
        {"environment_url": str(server.make_url("")), "tenant_id": "contoso.onmicrosoft.com", **extra}
    )


def refused(status: int, code: Any, message: str, **headers: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)


def known_refusal(name: str, status: int, *, decimal: bool = False) -> web.Response:
    entry = CODES[name]
    return refused(status, str(entry["code"]) if decimal else entry["hex"], entry["message"])


def contact(number: int) -> dict[str, Any]:
    row = {column: CONTACT.get(column) for column in CONTACTS_COLUMNS.split(",")}
    key = f"00000000-0000-0000-0000-{number:012x}"
    return {**row, "@odata.etag": f'W/"{number}"', "contactid": key}


def deletion(number: int) -> dict[str, Any]:
    context = "https://org.crm4.dynamics.com/api/data/v9.2/$metadata#contacts/$deletedEntity"
    return {"@odata.context": context, "id": f"00000000-0000-0000-0000-{number:012x}", "reason": "deleted"}


def keys(page: Page) -> list[str]:
    return [str(record.key)[-1] for record in page.records]


def skiptoken(number: int, cookie: str) -> str:
    inner = quote(quote(cookie, safe=""), safe="")
    text = f'<cookie pagenumber="{number}" pagingcookie="{inner}" istracking="False" />'
    return f"$select=contactid&$skiptoken={quote(text, safe='')}"


# requests


async def test_a_full_read_begins_with_every_header_the_vendor_asks_for(environment: Environment) -> None:
    environment.reply(CONTACTS_PATH, {"value": [], "@odata.deltaLink": environment.link("$deltatoken=1")})
    await environment.pages()
    request = environment.requests[-1]
    assert request.raw_path == f"{CONTACTS_PATH}?$select={CONTACTS_COLUMNS}"
    wanted = {
        "Accept": "application/json",
        "OData-Version": "4.0",
        "OData-MaxVersion": "4.0",
        "If-None-Match": "null",
        "Prefer": "odata.track-changes,odata.maxpagesize=5000",
    }
    assert {name: request.headers[name] for name in wanted} == wanted


async def test_links_are_followed_as_they_are_written_and_with_the_same_page_size(environment: Environment) -> None:
    second, third = (
        skiptoken(2, "<cookie page='1'/>"),
        "$select=contactid&$deltatoken=919042%2108%2f22%2f2017%2008%3a10",
    )
    environment.reply(
        CONTACTS_PATH,
        {"value": [contact(1)], "@odata.nextLink": environment.link(second)},
        {"value": [contact(2)], "@odata.deltaLink": environment.link(third)},
    )
    first, last = await environment.pages()
    assert (keys(first), keys(last)) == (["1"], ["2"])
    assert (first.complete, last.complete) == (False, True)
    assert environment.asked()[1] == f"{CONTACTS_PATH}?{second}"
    await environment.pages(last.cursor)
    assert environment.asked()[2] == f"{CONTACTS_PATH}?{third}"
    asked = [r.headers["Prefer"] for r in environment.requests if r.path == CONTACTS_PATH]
    assert set(asked) == {"odata.track-changes,odata.maxpagesize=5000"}


async def test_a_record_is_their_row_with_its_etag(environment: Environment) -> None:
    environment.reply(CONTACTS_PATH, {"value": [contact(7)], "@odata.deltaLink": environment.link("$deltatoken=1")})
    ((record,),) = [page.records for page in await environment.pages()]
    assert (record.key, record.version) == ("00000000-0000-0000-0000-000000000007", 'W/"7"')
    assert record.values == contact(7)


async def test_changes_come_with_deletions_and_a_new_delta_link(environment: Environment) -> None:
    link = environment.link("$deltatoken=2")
    environment.reply(CONTACTS_PATH, {"value": [contact(1), deletion(2)], "@odata.deltaLink": link})
    cursor = Position(link=environment.link("$deltatoken=1"), is_delta=True).to_cursor()
    (page,) = await environment.pages(cursor)
    assert (keys(page), [key[-1] for key in page.deleted]) == (["1"], ["2"])
    assert json.loads(page.cursor or "") == {"v": 1, "delta": link}
    assert environment.asked(DEFINITION_PATH) == []


async def test_a_read_goes_on_where_a_page_ended(environment: Environment) -> None:
    answers: list[Reply] = [
        {"value": [contact(1)], "@odata.nextLink": environment.link("$skiptoken=a")},
        {"value": [contact(2)], "@odata.nextLink": environment.link("$skiptoken=b")},
        {"value": [contact(3)], "@odata.deltaLink": environment.link("$deltatoken=1")},
    ]
    environment.reply(CONTACTS_PATH, *answers)
    whole = await environment.pages()
    for number, page in enumerate(whole[:-1], start=1):
        environment.reply(CONTACTS_PATH, *answers[number:])
        assert await environment.pages(page.cursor) == whole[number:]


async def test_progress_counts_the_rows_read(environment: Environment) -> None:
    environment.reply(
        CONTACTS_PATH,
        {"value": [contact(1), deletion(9)], "@odata.nextLink": environment.link("$skiptoken=a")},
        {"value": [contact(2)], "@odata.deltaLink": environment.link("$deltatoken=1")},
    )
    done: list[tuple[int, int | None]] = []
    ctx = environment.context()
    watched = Context(
        **{f: getattr(ctx, f) for f in Context.__slots__ if f != "progress"}, progress=lambda *a: done.append(a)
    )
    _ = [page async for page in plugin.sync(watched, "contacts", None)]
    assert done == [(2, None), (3, None)]


async def test_an_untracked_table_is_read_whole_every_time_and_the_log_says_so(environment: Environment) -> None:
    environment.reply(DEFINITION_PATH, {**DEFINITION, "ChangeTrackingEnabled": False})
    environment.reply(
        CONTACTS_PATH,
        {"value": [contact(1)], "@odata.nextLink": environment.link("$skiptoken=a")},
        {"value": [contact(2)]},
    )
    first, last = await environment.pages()
    assert (last.cursor, last.complete) == (None, True)
    await environment.pages(first.cursor)
    asked = {r.headers["Prefer"] for r in environment.requests if r.path == CONTACTS_PATH}
    assert asked == {"odata.maxpagesize=5000"}
    assert [e.event for e in environment.log.entries if e.level == "warning"] == ["full_read_every_time"] * 2


async def test_a_table_whose_metadata_may_not_be_read_is_taken_to_be_tracked(environment: Environment) -> None:
    environment.reply(DEFINITION_PATH, known_refusal("PrivilegeDenied", 403))
    environment.reply(CONTACTS_PATH, {"value": [], "@odata.deltaLink": environment.link("$deltatoken=1")})
    await environment.pages()
    assert environment.requests[-1].headers["Prefer"].startswith("odata.track-changes")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"PrimaryIdAttribute": "accountid"},
            "PrimaryIdAttribute of contact is accountid, and the settings say contactid",
        ),
        ({"EntitySetName": "persons"}, "EntitySetName of contact is persons, and the settings say contacts"),
    ],
)
async def test_a_table_under_other_names_is_not_read(
    environment: Environment, change: dict[str, str], says: str
) -> None:
    environment.reply(DEFINITION_PATH, {**DEFINITION, **change})
    error = await environment.failure()
    assert isinstance(error, RemoteError)
    assert says in error.message
    assert environment.asked() == []


# links


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/api/data/v9.2/contacts",
        "https://org.crm4.dynamics.com.evil.example/api/data/v9.2/contacts",
        "https://org.crm4.dynamics.com@evil.example/api/data/v9.2/contacts",
        "https://org.crm4.dynamics.com:444/api/data/v9.2/contacts",
        "http://org.crm4.dynamics.com/api/data/v9.2/contacts",
        "https://org.crm4.dynamics.com\\@evil.example/api/data/v9.2/contacts",
        "https://org.crm4.dynamics.com/api/data\\..\\x",
        "https://org.crm4.dynamics.com/api/data/v9.2/contacts?a=b\r\nHost: evil.example",
        "https://org.crm4.dynamics.com/api/data/v9.2/contacts?$filter=a eq b",
        "https://org.crm4.dynamics.com/main.aspx",
        "//org.crm4.dynamics.com/api/data/v9.2/contacts",
        "/api/data/v9.2/contacts",
        "",
        "https://org.crm4.dynamics.com/api/data/v9.2/contacts?" + "x" * 33_000,
    ],
)
def test_a_link_that_leads_elsewhere_is_not_ours(link: str) -> None:
    settings = DynamicsSettings(environment_url="https://org.crm4.dynamics.com", tenant_id="t.example")
    assert not is_own_link(link, settings)
    with pytest.raises(CursorExpiredError):
        Position.from_cursor(Position(link=link).to_cursor(), settings)


def test_a_host_is_compared_without_regard_to_case() -> None:
    settings = DynamicsSettings(environment_url="https://Org.CRM4.dynamics.com", tenant_id="t.example")
    assert is_own_link("https://ORG.crm4.dynamics.com/api/data/v9.2/contacts?$deltatoken=1%2108", settings)


@pytest.mark.parametrize("name", ["@odata.nextLink", "@odata.deltaLink"])
@pytest.mark.parametrize("link", ["http://evil.example/api/data/v9.2/contacts?$deltatoken=secret", 5, ""])
async def test_a_page_that_leads_elsewhere_is_not_given_away(environment: Environment, name: str, link: Any) -> None:
    environment.reply(CONTACTS_PATH, {"value": [contact(1)], name: link})
    error = await environment.failure()
    assert (type(error), error.code, error.field) == (RemoteError, "paging_link_refused", "settings.environment_url")
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    "queries",
    [
        ["$skiptoken=a", "$skiptoken=a"],
        ["$skiptoken=a", "$skiptoken=b", "$skiptoken=a"],
        [f"$select={CONTACTS_COLUMNS}"],
        [skiptoken(2, "<cookie page='1'/>"), skiptoken(3, "<cookie page='1'/>")],
    ],
    ids=["same link", "earlier link", "first page", "same paging cookie"],
)
async def test_a_reader_sent_in_circles_stops(environment: Environment, queries: list[str]) -> None:
    answers = [{"value": [contact(1)], "@odata.nextLink": environment.link(query)} for query in queries]
    environment.reply(CONTACTS_PATH, *answers)
    error = await environment.failure()
    assert (type(error), error.code) == (RemoteError, "paging_loops")
    assert len(environment.asked()) == len(queries)


async def test_pages_without_a_paging_cookie_differ_by_their_number(environment: Environment) -> None:
    answers: list[Reply] = [
        {"value": [], "@odata.nextLink": environment.link(skiptoken(number, ""))} for number in (2, 3)
    ]
    environment.reply(CONTACTS_PATH, *answers, {"value": [], "@odata.deltaLink": environment.link("$deltatoken=1")})
    assert len(await environment.pages()) == 3


# cursors


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "null", "[]", "5", "{}", '{"v":1}', '{"v":2,"delta":"L"}', '{"v":1,"delta":5}', '{"delta":"L"}',
     "[" * 100_000, '{"v":1,"next":"https://other.example/api/data/v9.2/contacts"}'],
)  # fmt: skip
def test_a_cursor_that_is_not_ours_has_expired(cursor: str) -> None:
    settings = DynamicsSettings(environment_url="https://org.crm4.dynamics.com", tenant_id="t.example")
    good = "https://org.crm4.dynamics.com/api/data/v9.2/contacts?$deltatoken=1"
    with pytest.raises(CursorExpiredError):
        Position.from_cursor(cursor.replace('"L"', f'"{good}"'), settings)


@pytest.mark.parametrize("is_delta", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_a_cursor_gives_its_position_back(is_delta: bool, tracked: bool) -> None:
    settings = DynamicsSettings(environment_url="https://org.crm4.dynamics.com", tenant_id="t.example")
    link = "https://org.crm4.dynamics.com/api/data/v9.2/contacts?$deltatoken=919042%2108%2f22"
    position = Position(link=link, is_delta=is_delta, tracked=tracked)
    assert Position.from_cursor(position.to_cursor(), settings) == position


# answers that are not what they should be


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"value": None}, "malformed_page"),
        ({}, "malformed_page"),
        ({"value": {"contactid": "a"}}, "malformed_page"),
        ({"value": [contact(1), 5]}, "malformed_page"),
        ([], "malformed_answer"),
        (web.Response(text="<html>Sorry</html>", content_type="text/html"), "remote_error"),
        (web.Response(text='{"value": [{"contactid"', content_type="application/json"), "remote_error"),
        (web.Response(status=204), "remote_error"),
    ],
)
async def test_a_page_that_is_none_fails_the_run(environment: Environment, body: Any, code: str) -> None:
    environment.reply(CONTACTS_PATH, body)
    error = await environment.failure()
    assert (type(error), error.code) == (RemoteError, code)


@pytest.mark.parametrize("decimal", [False, True], ids=["hex", "decimal"])
@pytest.mark.parametrize("status", [400, 410, 500])
async def test_an_expired_delta_token_starts_over_whatever_its_status(
    environment: Environment, status: int, decimal: bool
) -> None:
    environment.reply(CONTACTS_PATH, known_refusal("ExpiredVersionStamp", status, decimal=decimal))
    cursor = Position(link=environment.link("$deltatoken=1"), is_delta=True).to_cursor()
    assert isinstance(await environment.failure(cursor), CursorExpiredError)


@pytest.mark.parametrize(
    ("name", "status", "kind", "code"),
    [
        ("UserNotMemberOfOrg", 403, AuthError, "auth_no_application_user"),
        ("UserNotAssignedRoles", 403, AuthError, "auth_no_role"),
        ("SystemUserDisabled", 403, AuthError, "auth_user_disabled"),
        ("PrivilegeDenied", 403, AuthError, "auth_missing_privilege"),
        ("AccessDenied", 403, AuthError, "auth_missing_privilege"),
        ("CrmSecurityError", 403, AuthError, "auth_missing_privilege"),
        ("ChangeTrackingNotEnabledForEntity", 400, RemoteError, "table_not_tracked"),
        ("ChangeTrackingNotEnabledForRelatedEntities", 400, RemoteError, "table_not_tracked"),
        ("unManagedidssqlerror", 500, UnavailableError, "unavailable"),
        ("unManagedidssqltimeouterror", 500, UnavailableError, "unavailable"),
        ("ThrottlingBurstRequestLimitExceededError", 429, RateLimitedError, "rate_limited"),
        ("ThrottlingTimeExceededError", 429, RateLimitedError, "rate_limited"),
        ("ThrottlingConcurrencyLimitExceededError", 429, RateLimitedError, "rate_limited"),
    ],
)
@pytest.mark.parametrize("decimal", [False, True], ids=["hex", "decimal"])
async def test_a_platform_code_says_what_follows(
    environment: Environment, name: str, status: int, kind: type[AdapterError], code: str, decimal: bool
) -> None:
    environment.reply(CONTACTS_PATH, known_refusal(name, status, decimal=decimal))
    error = await environment.failure()
    assert (type(error), error.code) == (kind, code)
    assert error.remote_message == CODES[name]["message"]


async def test_a_missing_privilege_is_named(environment: Environment) -> None:
    words = (
        "Principal user (Id=7d5c0d3e-0000-0000-0000-000000000000, type=8, roleCount=1) is missing prvReadContact"
        " privilege (Id=ba09ec92-12c4-4312-ba16-5715c2cbd6da) on OTC=2 for entity 'contact'."
    )
    environment.reply(CONTACTS_PATH, refused(403, "0x80040220", words))
    error = await environment.failure()
    assert error.message == "The application user lacks the privilege prvReadContact."
    assert "organisation level" in error.hint


async def test_a_missing_table_names_the_setting(environment: Environment) -> None:
    error = await environment.failure(Position(link=environment.link("$skiptoken=a")).to_cursor())
    assert (type(error), error.code, error.field) == (RemoteError, "table_not_found", "settings.contacts.mapping")
    assert error.message == "The environment has no table contact with the set name contacts."


async def test_a_missing_column_is_named(environment: Environment) -> None:
    words = "Could not find a property named 'emailadress1' on type 'Microsoft.Dynamics.CRM.contact'."
    environment.reply(CONTACTS_PATH, refused(400, "0x80060888", words))
    error = await environment.failure()
    assert (error.code, error.message) == ("column_not_found", "The table contact has no column emailadress1.")


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refused(400, "", "Bad words."), RemoteError, "Bad words."),
        (refused(400, None, "x" * 5000), RemoteError, "x" * 300),
        (web.json_response({"error": {"innererror": {"message": "Inner."}}}, status=400), RemoteError, "Inner."),
        (web.json_response({"Message": "No such route."}, status=400), RemoteError, "No such route."),
        (web.json_response({"error": "text"}, status=400), RemoteError, ""),
        (web.json_response([1], status=412), RemoteError, ""),
        (web.Response(text="<html>", status=400), RemoteError, ""),
        (web.Response(text="<html>", status=500), UnavailableError, ""),
        (web.Response(text="", status=501), RemoteError, ""),
        (web.Response(text="<html>", status=403), AuthError, ""),
        (web.Response(text="", status=401), AuthError, ""),
        (web.Response(text="", status=408), UnavailableError, ""),
    ],
)
async def test_an_error_is_understood_in_any_shape(
    environment: Environment, answer: web.Response, kind: type[AdapterError], words: str
) -> None:
    environment.reply(CONTACTS_PATH, answer)
    error = await environment.failure()
    assert (type(error), error.remote_message) == (kind, words)


@pytest.mark.parametrize(("header", "seconds"), [("17", 17.0), ("soon", None), ("-1", None), ("", None)])
async def test_how_long_to_wait_is_taken_from_the_answer(
    environment: Environment, header: str, seconds: float | None
) -> None:
    environment.reply(CONTACTS_PATH, refused(429, "0x80072322", "Too many.", **{"Retry-After": header}))
    error = await environment.failure()
    assert isinstance(error, RateLimitedError)
    assert error.retry_after_s == seconds


@pytest.mark.parametrize(
    ("code", "number"),
    [("0x80040217", 0x80040217), ("-2147220969", 0x80040217), (-2147220969, 0x80040217), ("0X80040217", 0x80040217),
     ("", None), ("none", None), (None, None), ([], None), ({}, None), ("0x", None), (float("inf"), None), ("0", None)],
)  # fmt: skip
def test_a_code_is_the_same_in_hex_and_decimal(code: Any, number: int | None) -> None:
    assert parse_code(code) == number


# metadata


@pytest.mark.parametrize("answer", [{}, {"UserId": None}, {"UserId": "../../accounts"}])
async def test_a_user_id_that_is_none_is_refused(environment: Environment, answer: dict[str, Any]) -> None:
    environment.reply("/api/data/v9.2/WhoAmI", answer)
    with pytest.raises(RemoteError) as caught:
        await plugin.check(environment.context())
    assert caught.value.code == "malformed_answer"


async def test_metadata_of_the_captured_table_is_understood(environment: Environment) -> None:
    table = environment.settings.tables["contacts"]
    definition = await Dataverse(environment.http, environment.settings).definition(table)
    assert (definition.set_name, definition.primary_key) == ("contacts", "contactid")
    assert (definition.is_tracked, definition.read_privilege) == (True, "prvReadContact")


def grant(environment: Environment, *depths: str) -> None:
    path = (
        f"/api/data/v9.2/systemusers({WHO_AM_I['UserId']})/Microsoft.Dynamics.CRM."
        "RetrieveUserPrivilegeByPrivilegeName(PrivilegeName='prvReadContact')"
    )
    privileges = [{"Depth": depth, "PrivilegeId": "ba09ec92-12c4-4312-ba16-5715c2cbd6da"} for depth in depths]
    environment.reply(path, {"RolePrivileges": privileges})


@pytest.fixture
def connected(environment: Environment) -> Environment:
    """An environment where everything that `check` asks for is in order."""
    environment.reply("/api/data/v9.2/WhoAmI", WHO_AM_I)
    environment.reply("/api/data/v9.2/organizations", {"value": [{"name": "HLF"}]})
    attributes = [{"LogicalName": name} for name in CONTACTS_COLUMNS.split(",")]
    environment.reply(f"{DEFINITION_PATH}/Attributes", {"value": attributes})
    environment.reply(CONTACTS_PATH, {"value": [contact(1)], "@odata.nextLink": environment.link("$skiptoken=a")})
    grant(environment, "Basic", "Global")
    return environment


async def test_a_check_shows_the_environment_and_what_can_be_read(connected: Environment) -> None:
    result = await plugin.check(connected.context())
    assert (result.is_ok, result.summary) == (True, "Connected to HLF: 1 table(s) can be read.")
    assert result.facts == {
        "Environment": "HLF",
        "Application user": WHO_AM_I["UserId"],
        "Table contact": "contacts, 12 columns, change tracking on",
    }


async def test_a_check_reads_one_row_only(connected: Environment) -> None:
    await plugin.check(connected.context())
    (asked,) = [r.headers["Prefer"] for r in connected.requests if r.path == CONTACTS_PATH]
    assert asked == "odata.track-changes,odata.maxpagesize=1"


@pytest.mark.parametrize("depths", [(), ("Basic",), ("Local", "Deep")])
async def test_a_check_names_a_privilege_that_does_not_reach_far_enough(
    connected: Environment, depths: tuple[str, ...]
) -> None:
    grant(connected, *depths)
    result = await plugin.check(connected.context())
    assert (result.is_ok, result.missing) == (False, ["prvReadContact (organisation level)"])


async def test_a_check_that_may_not_ask_for_privileges_tries_to_read(connected: Environment) -> None:
    del connected.replies[next(path for path in connected.replies if "Privilege" in path)]
    connected.reply(CONTACTS_PATH, known_refusal("PrivilegeDenied", 403))
    result = await plugin.check(connected.context())
    assert result.missing == ["prvReadContact (organisation level)"]


async def test_a_check_names_the_columns_that_are_not_there(connected: Environment) -> None:
    connected.reply(
        f"{DEFINITION_PATH}/Attributes", {"value": [{"LogicalName": "contactid"}, {"LogicalName": "statecode"}]}
    )
    result = await plugin.check(connected.context())
    assert "column contact.birthdate" in result.missing
    assert "column contact.statecode" not in result.missing


async def test_a_check_names_a_table_that_is_not_there(connected: Environment) -> None:
    connected.reply(DEFINITION_PATH, refused(404, "0x80060888", "Could not find an entity with name contact."))
    result = await plugin.check(connected.context())
    assert (result.missing, result.facts["Table contact"]) == (["table contact"], "not there")


async def test_a_check_says_when_a_table_is_not_tracked(connected: Environment) -> None:
    connected.reply(DEFINITION_PATH, {**DEFINITION, "ChangeTrackingEnabled": False})
    result = await plugin.check(connected.context())
    assert result.facts["Table contact"] == "contacts, 12 columns, change tracking off: every read is a full one"
    assert result.is_ok


async def test_a_check_does_without_the_name_of_the_organisation(connected: Environment) -> None:
    connected.reply("/api/data/v9.2/organizations", known_refusal("PrivilegeDenied", 403))
    result = await plugin.check(connected.context())
    assert result.facts["Environment"] == connected.settings.environment_host


@pytest.mark.parametrize(
    ("name", "reason", "code"),
    [
        ("UserNotMemberOfOrg", "no_application_user", "auth_no_application_user"),
        ("UserNotAssignedRoles", "missing_privilege", "auth_no_role"),
        ("SystemUserDisabled", "refused", "auth_user_disabled"),
    ],
)
@pytest.mark.parametrize("path", ["/api/data/v9.2/WhoAmI", "/api/data/v9.2/organizations"])
async def test_a_check_tells_apart_why_the_user_is_refused(
    connected: Environment, path: str, name: str, reason: str, code: str
) -> None:
    connected.reply(path, known_refusal(name, 403))
    with pytest.raises(AuthError) as caught:
        await plugin.check(connected.context())
    assert (caught.value.reason, caught.value.code) == (reason, code)
