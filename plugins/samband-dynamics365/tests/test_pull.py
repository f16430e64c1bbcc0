"""The plugin against the simulator, as a process of its own, through the host's real session and token source."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import ValidationError

from samband import AuthError, Context, CursorExpiredError, Page, Record, RejectedError, RemoteError, Token
from samband.http import Outbound
from samband.http.egress import EgressPolicy
from samband.kinds import BUILTIN_KINDS
from samband.oauth import TokenSource
from samband.redaction import Redactor
from samband.testing import FakeClock, FakeLog, fake_context
from samband_dynamics365 import plugin
from samband_dynamics365.settings import DynamicsCredentials, DynamicsSettings

MEMBERS, MEMBERSHIPS, STAFF = 23, 31, 4
MEMBERSHIP_TABLE = {
    "set_name": "sb_memberships",
    "logical_name": "sb_membership",
    "contact_column": "sb_contactid",
    "mapping": {
        "association_code": "_sb_chapterid_value",
        "member_number": "sb_membernumber",
        "status": {"column": "sb_status", "choices": {"1": "active", "2": "paused", "3": "ended"}},
        "is_primary": "sb_isprimary",
        "joined_on": "sb_startdate",
        "left_on": "sb_enddate",
    },
}


@dataclass
class Simulator:
    """The other side: its address, its keys, and the door to change it by."""

    about: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.about["base_url"])

    def order(self, door: str, /, **body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.about['control_url']}/{door}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())

    def look(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.about['control_url']}/{path}", timeout=20) as answer:
            return json.loads(answer.read())

    def configure(self, **settings: Any) -> None:
        self.order("config", **settings)

    def configure_user(self, **user: Any) -> None:
        self.configure(users=[{"client_id": self.about["credentials"]["client_id"], **user}])

    def fault(self, name: str, *, path: str = "^/api/data/.*contacts", **parameters: Any) -> None:
        self.order("faults", fault=name, path=path, **{"times": 1, **parameters})

    def settings(self, **changes: Any) -> DynamicsSettings:
        own = {"environment_url": self.url, "authority_url": self.url, "tenant_id": self.about["settings"]["tenant_id"]}
        return DynamicsSettings.model_validate({**own, "page_size": 5, **changes})

    def credentials(self, **changes: Any) -> DynamicsCredentials:
        return DynamicsCredentials.model_validate({**self.about["credentials"], **changes})


@pytest.fixture(scope="module")
def running_simulator() -> Iterator[Simulator]:
    command = [sys.executable, "-m", "samband_dynamics365.simulator", "--die-with-parent"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Simulator(json.loads(process.stdout.readline()))
        process.terminate()


@pytest.fixture
def simulator(running_simulator: Simulator) -> Simulator:
    running_simulator.order("reset", members=MEMBERS, memberships=MEMBERSHIPS, staff=STAFF, seed=1)
    return running_simulator


@dataclass
class Connection:
    """One integration with the host's session; waits take no time."""

    context: Context
    signing_in: Context
    log: FakeLog
    tokens: TokenSource

    async def pages(self, stream: str = "contacts", cursor: str | None = None) -> list[Page]:
        return [page async for page in plugin.sync(self.context, stream, cursor)]

    async def records(self, stream: str) -> list[Record]:
        return [record for page in await self.pages(stream) for record in page.records]


@asynccontextmanager
async def connected(settings: DynamicsSettings, credentials: DynamicsCredentials) -> AsyncIterator[Connection]:
    clock, log = FakeClock(), FakeLog()
    outbound = Outbound(
        policy=EgressPolicy(allow_private=["127.0.0.1"]), redactor=Redactor(), sleep=clock.sleep, clock=clock.monotonic
    )

    def session(tokens: TokenSource | None) -> Any:
        return outbound.session(
            integration_id="i", account=plugin.manifest.account(settings), limits=plugin.manifest.limits,
            hosts=plugin.manifest.egress_hosts(settings), tokens=tokens, log=log,
        )  # fmt: skip

    def now() -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    signing_in = fake_context(settings=settings, credentials=credentials, http=session(None), now=now, log=log)

    async def fetch() -> Token:
        return await plugin.authenticate(signing_in)

    tokens = TokenSource(fetch, now=now, log=log)
    context = fake_context(settings=settings, http=session(tokens), now=now, log=log)
    try:
        yield Connection(context=context, signing_in=signing_in, log=log, tokens=tokens)
    finally:
        await outbound.close()


@pytest.fixture
async def connection(simulator: Simulator) -> AsyncIterator[Connection]:
    settings = simulator.settings(staff=True, memberships=MEMBERSHIP_TABLE)
    async with connected(settings, simulator.credentials()) as it:
        yield it


def convert(stream: str, record: Record, settings: DynamicsSettings) -> dict[str, Any]:
    read = plugin.manifest.stream(stream).convert
    assert read is not None
    return dict(read(record.values, settings))


def validate(stream: str, values: dict[str, Any]) -> dict[str, Any]:
    """Validates values as the core does: a reference is our record id by then."""
    kind = next(k for k in BUILTIN_KINDS if k.name == plugin.manifest.stream(stream).kind)
    return kind.validator.validate_python(values)


# signing in


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_token_is_obtained_with_a_secret(simulator: Simulator, version: str) -> None:
    async with connected(simulator.settings(token_version=version), simulator.credentials()) as it:
        token = await plugin.authenticate(it.signing_in)
        assert token.expires_at is not None
        assert (token.header, token.scheme) == ("Authorization", "Bearer")
        assert token.expires_at > dt.datetime.now(dt.UTC) + dt.timedelta(minutes=30)
        assert (await plugin.check(it.context)).is_ok


def make_certificate() -> dict[str, str]:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "samband")])
    today = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, today, today + dt.timedelta(days=2))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    return {
        "certificate_pem": certificate.public_bytes(pem).decode(),
        "private_key_pem": key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain).decode(),
    }


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_token_is_obtained_with_a_certificate(simulator: Simulator, version: str) -> None:
    own = make_certificate()
    client_id = simulator.about["credentials"]["client_id"]
    simulator.configure(applications=[{"client_id": client_id, "certificates": [own["certificate_pem"]]}])
    credentials = simulator.credentials(client_secret=None, **own)
    async with connected(simulator.settings(token_version=version), credentials) as it:
        assert (await plugin.check(it.context)).is_ok


async def refusal_of(settings: DynamicsSettings, credentials: DynamicsCredentials) -> AuthError:
    async with connected(settings, credentials) as it:
        with pytest.raises(AuthError) as caught:
            await plugin.authenticate(it.signing_in)
    return caught.value


NOBODY = "00000000-0000-0000-0000-00000000dead"


@pytest.mark.parametrize(
    ("settings", "credentials", "reason", "field"),
    [
        ({}, {"client_secret": "the-secret-id-perhaps"}, "secret_wrong", "credentials.client_secret"),
        ({}, {"client_id": NOBODY}, "client_unknown", "credentials.client_id"),
        ({"tenant_id": NOBODY}, {}, "tenant_unknown", "settings.tenant_id"),
        ({"environment_url": "https://elsewhere.crm4.dynamics.com"}, {}, "scope_refused", "settings.environment_url"),
        ({}, {"client_secret": None, **make_certificate()}, "secret_wrong", "credentials.certificate_pem"),
    ],
    ids=["secret", "client", "tenant", "environment", "certificate"],
)
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_refused_sign_in_says_which_part_is_wrong(
    simulator: Simulator, settings: Any, credentials: Any, reason: str, field: str, version: str
) -> None:
    given = simulator.settings(token_version=version, **settings)
    error = await refusal_of(given, simulator.credentials(**credentials))
    assert (error.reason, error.code, error.field) == (reason, f"auth_{reason}", field)
    assert error.hint
    assert error.remote_message.startswith("AADSTS")
    assert "the-secret-id-perhaps" not in f"{error} {error.remote_message}"


async def test_an_expired_secret_is_told_apart_from_a_wrong_one(simulator: Simulator) -> None:
    simulator.configure(secret="expire")
    error = await refusal_of(simulator.settings(), simulator.credentials())
    assert (error.reason, error.message) == ("secret_expired", "The client secret has expired.")


async def test_missing_consent_is_told(simulator: Simulator) -> None:
    client_id = simulator.about["credentials"]["client_id"]
    simulator.configure(applications=[{"client_id": client_id, "consented": False}])
    assert (await refusal_of(simulator.settings(), simulator.credentials())).reason == "consent_missing"


# testing the connection


async def test_a_check_of_a_good_connection_lists_every_table(connection: Connection) -> None:
    found = await plugin.check(connection.context)
    assert (found.is_ok, list(found.missing)) == (True, [])
    assert [name for name in found.facts if name.startswith("Table ")] == [
        "Table contact",
        "Table systemuser",
        "Table sb_membership",
    ]


@pytest.mark.parametrize(
    ("user", "code"),
    [
        ({"remove": True}, "auth_no_application_user"),
        ({"roles": []}, "auth_no_role"),
        ({"disabled": True}, "auth_user_disabled"),
    ],
)
async def test_a_check_says_what_is_wrong_with_the_user(
    simulator: Simulator, connection: Connection, user: dict[str, Any], code: str
) -> None:
    simulator.configure_user(**user)
    with pytest.raises(AuthError) as caught:
        await plugin.check(connection.context)
    assert caught.value.code == code
    assert caught.value.hint


@pytest.mark.parametrize("depth", ["None", "Basic", "Local", "Deep"])
async def test_a_check_names_a_right_that_does_not_reach_the_whole_table(
    simulator: Simulator, connection: Connection, depth: str
) -> None:
    simulator.configure_user(privileges={"prvReadContact": depth})
    found = await plugin.check(connection.context)
    assert list(found.missing) == ["prvReadContact (organisation level)"]


async def test_a_check_names_tables_and_columns_that_are_not_there(simulator: Simulator) -> None:
    table = {**MEMBERSHIP_TABLE, "logical_name": "sb_nothing", "set_name": "sb_nothings"}
    status = {"column": "statecode", "choices": {"0": "active"}}
    mapping = {"status": status, "email": "emailadress1", "member_number": "_sb_nobody_value"}
    settings = simulator.settings(memberships=table, contacts={"mapping": mapping})
    async with connected(settings, simulator.credentials()) as it:
        found = await plugin.check(it.context)
    assert list(found.missing) == [
        "column contact._sb_nobody_value",
        "column contact.emailadress1",
        "table sb_nothing",
    ]


async def test_reading_a_column_that_is_not_there_names_it(simulator: Simulator) -> None:
    status = {"column": "statecode", "choices": {"0": "active"}}
    settings = simulator.settings(contacts={"mapping": {"status": status, "email": "emailadress1"}})
    async with connected(settings, simulator.credentials()) as it:
        with pytest.raises(RemoteError, match="no column emailadress1"):
            await it.pages()


async def test_a_check_names_another_set_name(simulator: Simulator) -> None:
    settings = simulator.settings(memberships={**MEMBERSHIP_TABLE, "set_name": "sb_chapters"})
    async with connected(settings, simulator.credentials()) as it:
        found = await plugin.check(it.context)
    assert list(found.missing) == ["EntitySetName of sb_membership is sb_memberships, and the settings say sb_chapters"]


# reading


@pytest.mark.parametrize(("stream", "count"), [("contacts", MEMBERS), ("memberships", MEMBERSHIPS), ("staff", STAFF)])
async def test_a_full_read_brings_every_row_once(
    simulator: Simulator, connection: Connection, stream: str, count: int
) -> None:
    pages = await connection.pages(stream)
    keys = [record.key for page in pages for record in page.records]
    assert (len(keys), len(set(keys))) == (count, count)
    assert [page.complete for page in pages] == [False] * (len(pages) - 1) + [True]
    table = connection.context.settings.tables[stream].set_name
    versions = simulator.look(f"state?rows={table}")["rows"][table]["versions"]
    assert set(keys) <= set(versions)


@pytest.mark.parametrize("stream", ["contacts", "memberships", "staff"])
async def test_what_is_read_fits_the_canonical_kind(connection: Connection, stream: str) -> None:
    for record in await connection.records(stream):
        assert validate(stream, convert(stream, record, connection.context.settings))["status"]


async def test_every_membership_refers_to_a_contact_that_was_read(connection: Connection) -> None:
    contacts = {record.key for record in await connection.records("contacts")}
    settings = connection.context.settings
    members = [convert("memberships", r, settings)["member"] for r in await connection.records("memberships")]
    assert set(members) <= contacts


async def test_changes_bring_exactly_what_changed(simulator: Simulator, connection: Connection) -> None:
    cursors = {stream: (await connection.pages(stream))[-1].cursor for stream in ("contacts", "memberships")}
    expected = simulator.order("touch", table="contacts", create=4, update=7, delete=3, create_and_delete=2)["expected"]
    for stream, table in (("contacts", "contacts"), ("memberships", "sb_memberships")):
        pages = await connection.pages(stream, cursors[stream])
        upserted = [record.key for page in pages for record in page.records]
        deleted = [key for page in pages for key in page.deleted]
        assert sorted(upserted) == expected[table]["upserted_ids"]
        assert sorted(deleted) == expected[table]["deleted_ids"]
        assert await connection.pages(stream, pages[-1].cursor) != pages


async def test_nothing_changed_is_one_empty_page_with_a_new_cursor(connection: Connection) -> None:
    whole = await connection.pages()
    (page,) = await connection.pages(cursor=whole[-1].cursor)
    assert (list(page.records), list(page.deleted), page.complete) == ([], [], True)
    assert page.cursor is not None


async def test_an_unchanged_row_keeps_its_version_and_a_changed_one_does_not(
    simulator: Simulator, connection: Connection
) -> None:
    before = {record.key: record.version for record in await connection.records("contacts")}
    changed = simulator.order("touch", table="contacts", update=3)["changes"]["contacts"]["updated"]
    after = {record.key: record.version for record in await connection.records("contacts")}
    assert sorted(key for key in before if before[key] != after[key]) == sorted(changed)


async def test_a_full_read_resumes_after_every_page(connection: Connection) -> None:
    whole = await connection.pages()
    assert len(whole) == 5
    for number, page in enumerate(whole[:-1], start=1):
        rest = await connection.pages(cursor=page.cursor)
        assert [p.records for p in rest] == [p.records for p in whole[number:]]


async def test_a_read_of_changes_resumes_after_every_page(simulator: Simulator, connection: Connection) -> None:
    start = (await connection.pages())[-1].cursor
    simulator.order("touch", table="contacts", create=6, update=6, delete=5)
    whole = await connection.pages(cursor=start)
    assert len(whole) > 2
    for number, page in enumerate(whole[:-1], start=1):
        rest = await connection.pages(cursor=page.cursor)
        assert [(p.records, p.deleted) for p in rest] == [(p.records, p.deleted) for p in whole[number:]]


async def test_an_untracked_table_is_read_whole_without_a_cursor(simulator: Simulator, connection: Connection) -> None:
    simulator.configure(tables={"contacts": {"tracked": False}})
    pages = await connection.pages()
    assert sum(len(page.records) for page in pages) == MEMBERS
    assert pages[-1].cursor is None
    assert "full_read_every_time" in connection.log.text
    assert "change tracking off" in (await plugin.check(connection.context)).facts["Table contact"]


# trouble


@pytest.mark.parametrize("status", [400, 410, 500])
async def test_an_expired_delta_token_is_a_cursor_that_has_expired(
    simulator: Simulator, connection: Connection, status: int
) -> None:
    cursor = (await connection.pages())[-1].cursor
    simulator.configure(tracking={"expired_status": status}, delta_expiry="now")
    with pytest.raises(CursorExpiredError):
        await connection.pages(cursor=cursor)


async def test_a_changed_table_expires_the_cursor(simulator: Simulator, connection: Connection) -> None:
    cursor = (await connection.pages())[-1].cursor
    simulator.configure(schema_changed=["contacts"])
    with pytest.raises(CursorExpiredError):
        await connection.pages(cursor=cursor)


@pytest.mark.parametrize("fault", ["unauthorized", "revoke_token"])
async def test_a_refused_token_is_renewed_once_and_the_read_goes_on(
    simulator: Simulator, connection: Connection, fault: str
) -> None:
    await connection.pages()
    simulator.fault(fault, skip=2)
    assert sum(len(page.records) for page in await connection.pages()) == MEMBERS
    assert connection.log.text.count("token_obtained") == 2


async def test_a_token_that_is_always_refused_stops_the_run(simulator: Simulator, connection: Connection) -> None:
    simulator.fault("unauthorized", times=None)
    with pytest.raises(AuthError):
        await connection.pages()


@pytest.mark.parametrize(
    "fault",
    [{"fault": "throttle", "limit": limit, "retry_after": "3"} for limit in ("requests", "execution", "concurrency")]
    + [
        {"fault": "status", "status": 503},
        {"fault": "reset"},
        {"fault": "reset_mid_body"},
        {"fault": "html", "status": 502},
    ],
    ids=lambda f: f"{f['fault']} {f.get('limit', '')}",
)
async def test_a_passing_trouble_is_sat_out(
    simulator: Simulator, connection: Connection, fault: dict[str, Any]
) -> None:
    simulator.order("faults", path="^/api/data/.*contacts", times=2, skip=2, **fault)
    assert sum(len(page.records) for page in await connection.pages()) == MEMBERS


@pytest.mark.parametrize("fault", ["html", "truncate", "empty"])
async def test_an_answer_that_is_none_fails_the_run_and_keeps_the_pages_before(
    simulator: Simulator, connection: Connection, fault: str
) -> None:
    simulator.fault(fault, skip=1, **({"status": 200} if fault == "html" else {}))
    reading = plugin.sync(connection.context, "contacts", None)
    assert len((await anext(reading)).records) == 5
    with pytest.raises(RemoteError):
        await anext(reading)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("foreign_next_link", "paging_link_refused"),
        ("repeat_next_link", "paging_loops"),
        ("loop_next_link", "paging_loops"),
    ],
)
async def test_a_link_that_misleads_stops_the_read(
    simulator: Simulator, connection: Connection, fault: str, code: str
) -> None:
    simulator.fault(fault, skip=3, times=None)
    with pytest.raises(RemoteError) as caught:
        await connection.pages()
    assert caught.value.code == code


BAD_ROWS = (
    "duplicate_id", "null_id", "huge_string", "lone_surrogate", "year_one", "date_year_one", "beyond_64_bit",
    "unknown_choice", "unknown_lookup", "wrong_type",
)  # fmt: skip


@pytest.mark.parametrize("name", BAD_ROWS)
@pytest.mark.parametrize("stream", ["contacts", "memberships"])
async def test_a_bad_row_harms_no_other(simulator: Simulator, connection: Connection, stream: str, name: str) -> None:
    table = connection.context.settings.tables[stream].set_name
    simulator.fault("bad_rows", path=f"^/api/data/.*/{table}$", rows=[name])
    records = await connection.records(stream)
    rows = MEMBERS if stream == "contacts" else MEMBERSHIPS
    assert len(records) == rows + (name == "duplicate_id")
    bad = [record for record in records if not is_good(stream, record, connection.context.settings)]
    assert len(bad) <= 1


def is_good(stream: str, record: Record, settings: DynamicsSettings) -> bool:
    """Tells whether the core would take the record; a refusal must name its field."""
    try:
        validate(stream, convert(stream, record, settings))
    except RejectedError as error:
        assert error.field  # noqa: PT017 - a refusal without a field is the failure looked for
        return False
    except ValidationError:
        return False
    return bool(record.key)


async def test_nothing_secret_or_personal_is_logged(simulator: Simulator, connection: Connection) -> None:
    records = [r for stream in ("contacts", "staff", "memberships") for r in await connection.records(stream)]
    token = (await connection.tokens.get()).value.get_secret_value()
    emails = [str(r.values.get("emailaddress1")) for r in records if r.values.get("emailaddress1")]
    shown = connection.log.text
    assert emails
    for private in (token, simulator.about["credentials"]["client_secret"], *emails):
        assert private not in shown
    assert simulator.look("state")["internal_errors"] == []
