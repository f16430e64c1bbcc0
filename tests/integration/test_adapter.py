"""An adapter calls one plugin under time limits and lets nothing but checked answers and known errors through."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from samband.adapters.adapter import Adapter, AdapterOptions, Connection
from samband.adapters.registry import Registry
from samband.contract import Page
from samband.errors import (
    AdapterError,
    AuthError,
    ContractError,
    InvalidError,
    NotFoundError,
    PluginError,
    RateLimitedError,
    RemoteError,
    UnavailableError,
)

HANG = 30
SECRET = "s3cret-of-the-client"
PLUGIN = """
import asyncio, time
from pydantic import SecretStr, field_validator
from samband import *
from samband.errors import *

class Settings(SettingsModel):
    environment_url: str
    region: str = "crm4"
    with_people: bool = True

    @field_validator("region")
    @classmethod
    def known(cls, region):
        if region == "crash":
            raise TypeError("a mistake of the author")
        if not region.startswith("crm"):
            raise ValueError(f"{region} is not a region")
        return region

class Credentials(CredentialsModel):
    client_id: str = "id"
    client_secret: SecretStr

def host_of(settings):
    return [settings.environment_url.split("//")[1].strip("/")]

manifest = Manifest(
    name="NAME", title="Demo", version="1.0", settings=Settings, credentials=Credentials,
    streams=(
        Stream(name="people", kind="member", title="People", enabled=lambda settings: settings.with_people),
        Stream(name="places", kind="membership", title="Places"),
        Stream(name="out", kind="member", title="Out", direction="push"),
    ),
    capabilities=frozenset({"sync"}), egress_hosts=host_of,
)

@hookimpl
async def authenticate(ctx):
    answer = await ctx.http.request(
        "POST", ctx.settings.environment_url + "/token",
        data={"client_secret": ctx.credentials.client_secret.get_secret_value()}, idempotent=True,
    )
    return Token(value=SecretStr(answer.json()["access_token"]))

"""
SYNC = "\n@hookimpl\nasync def sync(ctx, stream, cursor):\n"
CHECK = "\n@hookimpl\nasync def check(ctx):\n"


class Crm:
    """The other side, over HTTP on the loopback."""

    def __init__(self) -> None:
        self.tokens = itertools.count(1)
        self.secrets: list[str] = []
        self.authorizations: list[str] = []
        self.url = ""

    async def token(self, request: web.Request) -> web.Response:
        self.secrets.append(str((await request.post())["client_secret"]))
        return web.json_response({"access_token": f"token-{next(self.tokens)}"})

    async def data(self, request: web.Request) -> web.Response:
        self.authorizations.append(request.headers["Authorization"])
        return web.json_response({"name": "Foreningen"})


@pytest.fixture
async def crm() -> AsyncIterator[Crm]:
    crm = Crm()
    app = web.Application()
    app.router.add_post("/token", crm.token)
    app.router.add_get("/data", crm.data)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    crm.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield crm
    await runner.cleanup()


class Watcher:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.troubles = 0

    def hook_finished(self, *, plugin: str, hook: str, outcome: str, duration_s: float) -> None:
        self.calls.append((hook, outcome))

    def lane_troubled(self, *, plugin: str) -> None:
        self.troubles += 1


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
async def registry(watcher: Watcher) -> AsyncIterator[Registry]:
    options = AdapterOptions(
        hook_timeout_s=HANG,
        grace_s=0.3,
        allow_private_hosts=("127.0.0.1",),
        observer=watcher,
        now=lambda: dt.datetime(2026, 3, 1, tzinfo=dt.UTC),
    )
    registry = Registry(options)
    yield registry
    await asyncio.wait_for(registry.close(), HANG)


Make = Callable[..., Adapter]


@pytest.fixture
def make(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Gives adapters of plugins whose code is a real module on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    written: list[str] = []

    def make_adapter(body: str, *changes: tuple[str, str], name: str = "demo") -> Adapter:
        source = PLUGIN
        if CHECK in body:
            changes = (*changes, ('frozenset({"sync"})', 'frozenset({"sync", "check"})'))
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        module = f"adapter_under_test_{name}"
        written.append(module)
        if SYNC not in body and "def sync" not in body:
            body += f"{SYNC}    yield Page(complete=True)\n"
        (tmp_path / f"{module}.py").write_text(source.replace("NAME", name) + body)
        __import__(module)
        return registry.add(sys.modules[module])

    yield make_adapter
    for module in written:
        sys.modules.pop(module, None)


def connection(crm: Crm, *, revision: int = 1, integration: str = "i1", **settings: object) -> Connection:
    return Connection(
        organization_id="dnf",
        integration_id=integration,
        revision=revision,
        settings={"environment_url": crm.url, **settings},
        credentials={"client_secret": SECRET},
    )


async def read(adapter: Adapter, crm: Crm, cursor: str | None = None, **more: Any) -> list[Any]:
    got: list[Any] = []
    await read_into(got, adapter, crm, cursor, **more)
    return got


async def read_into(got: list[Any], adapter: Adapter, crm: Crm, cursor: str | None = None, **more: Any) -> None:
    async with aclosing(adapter.sync(connection(crm), "people", cursor, run_id="r1", **more)) as pages:
        async for page in pages:
            got.append(page)  # noqa: PERF401 -- what came before an error is kept


# ── settings and credentials ─────────────────────────────────────────────────


def problems_of(parse: Callable[[], object]) -> list[tuple[str, str, str]]:
    with pytest.raises(InvalidError) as caught:
        parse()
    return [(p.field, p.code, p.message) for p in caught.value.problems]


def test_settings_that_fit_become_the_plugins_own_model(make: Make) -> None:
    settings = make("").parse_settings({"environment_url": "https://org.crm4.dynamics.com"})
    assert settings.model_dump() == {
        "environment_url": "https://org.crm4.dynamics.com",
        "region": "crm4",
        "with_people": True,
    }


def test_an_unknown_field_is_named_with_the_known_ones(make: Make) -> None:
    raw = {"environment_ulr": "https://x.example.com"}
    assert problems_of(lambda: make("").parse_settings(raw)) == [
        (
            "settings.environment_ulr",
            "unknown_key",
            "Unknown field. Did you mean environment_url? Known: environment_url, region, with_people.",
        ),
        ("settings.environment_url", "missing", "Field required."),
    ]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://crm.example.com", "url_scheme"),
        ("ftp://crm.example.com", "url_scheme"),
        ("crm.example.com", "url_scheme"),
        ("https://10.0.0.1", "url_refused"),
        ("https://[::1", "url_malformed"),
        ("https://user:hunter2@crm.example.com", "url_refused"),
    ],
)
def test_an_address_that_must_not_be_called_is_refused_when_it_is_saved(make: Make, url: str, code: str) -> None:
    [(field, found, message)] = problems_of(lambda: make("").parse_settings({"environment_url": url}))
    assert (field, found) == ("settings.environment_url", code)
    assert message.endswith(".")
    assert "hunter2" not in message


def test_plain_http_is_taken_for_a_host_the_operator_allowed(make: Make) -> None:
    assert make("").parse_settings({"environment_url": "http://127.0.0.1:8080"})


def test_a_problem_never_quotes_what_was_typed(make: Make) -> None:
    raw = {"environment_url": "https://x.example.com", "region": "hunter2"}
    assert problems_of(lambda: make("").parse_settings(raw)) == [
        ("settings.region", "value_error", "… is not a region.")
    ]


def test_a_validator_that_crashes_is_the_plugins_broken_promise(make: Make) -> None:
    with pytest.raises(ContractError, match=r"demo raised TypeError in its settings model \(.*adapter_under_test_demo"):
        make("").parse_settings({"environment_url": "https://x.example.com", "region": "crash"})


@pytest.mark.parametrize("raw", [{}, {"client_secret": ["hunter2"]}, {"client_secret": "x", "hunter": "hunter2"}])
def test_credentials_that_do_not_fit_are_refused_without_their_values(make: Make, raw: dict[str, object]) -> None:
    assert "hunter2" not in str(problems_of(lambda: make("").parse_credentials(raw)))


def test_something_that_is_no_object_is_refused(make: Make) -> None:
    raw: Any = "hunter2"
    assert problems_of(lambda: make("").parse_settings(raw)) == [
        ("settings", "not_an_object", "Give an object: field → value.")
    ]


def test_a_connection_never_shows_its_credentials(crm: Crm) -> None:
    assert SECRET not in repr(connection(crm))


def test_streams_are_those_that_are_read_and_switched_on(make: Make, crm: Crm) -> None:
    adapter = make("")
    assert [s.name for s in adapter.streams(connection(crm))] == ["people", "places"]
    assert [s.name for s in adapter.streams(connection(crm, with_people=False))] == ["places"]


# ── tokens ───────────────────────────────────────────────────────────────────

READ_DATA = "    answer = await ctx.http.request('GET', ctx.settings.environment_url + '/data')\n"


async def test_a_call_carries_the_token_that_authenticate_obtained(make: Make, crm: Crm, watcher: Watcher) -> None:
    adapter = make(f"{CHECK}{READ_DATA}    return Check(summary=answer.json()['name'])\n")
    for _ in range(3):
        assert (await adapter.check(connection(crm))).summary == "Foreningen"
    assert crm.secrets == [SECRET]
    assert crm.authorizations == ["Bearer token-1"] * 3
    assert watcher.calls == [("authenticate", "ok"), ("check", "ok"), ("check", "ok"), ("check", "ok")]


async def test_an_edited_integration_and_another_one_get_tokens_of_their_own(make: Make, crm: Crm) -> None:
    adapter = make(f"{CHECK}{READ_DATA}    return Check(summary='ok')\n")
    for other in ({"revision": 1}, {"revision": 2}, {"revision": 2}, {"integration": "i2"}):
        await adapter.check(connection(crm, **other))  # type: ignore[arg-type]
    assert crm.authorizations == ["Bearer token-1", "Bearer token-2", "Bearer token-2", "Bearer token-3"]


async def test_authenticating_now_replaces_the_token_for_everybody(make: Make, crm: Crm) -> None:
    adapter = make(f"{CHECK}{READ_DATA}    return Check(summary='ok')\n")
    await adapter.check(connection(crm))
    token = await adapter.authenticate_now(connection(crm))
    await adapter.check(connection(crm))
    assert token.value.get_secret_value() == "token-2"
    assert crm.authorizations == ["Bearer token-1", "Bearer token-2"]


async def test_credentials_are_given_to_authenticate_alone(make: Make, crm: Crm) -> None:
    adapter = make(f"{CHECK}    return Check(summary=str(ctx.credentials))\n")
    assert (await adapter.check(connection(crm))).summary == "None"


async def test_a_plugin_without_a_check_proves_that_it_gets_a_token(make: Make, crm: Crm) -> None:
    assert (await make("").check(connection(crm))).summary == "Demo granted access."
    assert crm.secrets == [SECRET]


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        ("'abc'", "authenticate gave str"),
        ("None", "authenticate gave NoneType"),
        ("Token(value='abc')", "gave an empty token"),
        ("Token(value=SecretStr(''))", "gave an empty token"),
        ("Token(value=SecretStr('x'), refresh_token='abc')", "refresh token in clear"),
        ("Token(value=SecretStr('x'), expires_at=__import__('datetime').datetime(2030, 1, 1))", "without a zone"),
        ("Token(value=SecretStr('x'), hosts='crm.example')", "hosts that are no list"),
        ("Token(value=SecretStr('x'), fills={'key': 'abc'})", "fills of the wrong shape"),
        ("Token(value=SecretStr('x'), fills={'key': SecretStr('')})", "fills of the wrong shape"),
        ("Token(value=SecretStr('x'), fills={'a key': SecretStr('abc')})", "fills of the wrong shape"),
    ],
)
async def test_a_token_that_cannot_be_used_is_a_broken_promise(make: Make, crm: Crm, gives: str, words: str) -> None:
    source = PLUGIN[PLUGIN.index("    answer = await") :]
    with pytest.raises(ContractError, match=words):
        await make("", (source, f"    return {gives}\n")).authenticate_now(connection(crm))


# ── errors ───────────────────────────────────────────────────────────────────


async def test_an_error_of_the_tree_passes_with_its_type_and_without_secrets(make: Make, crm: Crm) -> None:
    adapter = make(
        f"{CHECK}    raise RateLimitedError('Wait, {SECRET}.', retry_after_s=7, remote_message='{SECRET}')\n"
    )
    with pytest.raises(RateLimitedError) as caught:
        await adapter.check(connection(crm))
    assert caught.value.retry_after_s == 7
    assert str(caught.value) == "Wait, ***."
    assert caught.value.remote_message == "***"


async def test_a_fill_of_the_token_is_as_secret_as_the_token_itself(make: Make, crm: Crm) -> None:
    source = PLUGIN[PLUGIN.index("    answer = await") :]
    gives = "    return Token(value=SecretStr('token-1'), fills={'key': SecretStr('fill-canary')})\n"
    raises = f"{CHECK}{READ_DATA}    raise RateLimitedError('Wait, fill-canary.', remote_message='fill-canary')\n"
    with pytest.raises(RateLimitedError) as caught:
        await make(raises, (source, gives)).check(connection(crm))
    assert ("Wait, ***.", "***") == (str(caught.value), caught.value.remote_message)


@pytest.mark.parametrize("seconds", ["'soon'", "float('nan')", "-1", "float('inf')"])
async def test_a_pause_that_is_no_number_of_seconds_is_left_out(make: Make, crm: Crm, seconds: str) -> None:
    with pytest.raises(RateLimitedError) as caught:
        await make(f"{CHECK}    raise RateLimitedError(retry_after_s={seconds})\n").check(connection(crm))
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize(
    "error",
    [
        "KeyError('Kari Nordmann')",
        "SystemExit(1)",
        "KeyboardInterrupt()",
        "GeneratorExit()",
        "asyncio.CancelledError()",
        "StopAsyncIteration()",
        "InvalidError('Kari Nordmann')",
        "StaleLeaseError('Kari Nordmann')",
    ],
)
async def test_anything_else_becomes_a_broken_promise_that_names_the_line_and_not_the_text(
    make: Make, crm: Crm, registry: Registry, watcher: Watcher, error: str
) -> None:
    adapter = make(f"{CHECK}    raise {error}\n")
    kind = error.partition("(")[0].rpartition(".")[2]
    pattern = rf"^demo raised {kind} in check \([^ ]+/adapter_under_test_demo\.py:\d+\)\."
    with capture_logs() as lines, pytest.raises(ContractError, match=pattern) as caught:
        await adapter.check(connection(crm))
    assert "Kari" not in str(caught.value) + str(lines)
    assert caught.value.__suppress_context__
    assert f"raised {kind} in check" in registry.views()[0].reason
    assert watcher.calls[-1] == ("check", "contract_broken")
    assert watcher.troubles == 1


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ("RateLimitedError(), AuthError(), RemoteError()", AuthError),
        ("RateLimitedError(), ExceptionGroup('', [RemoteError()])", RemoteError),
        ("RateLimitedError(), UnavailableError()", RateLimitedError),
        ("RemoteError(), KeyError('Kari')", ContractError),
    ],
)
async def test_of_a_task_group_the_error_counts_that_decides_what_happens_next(
    make: Make, crm: Crm, errors: str, kind: type[AdapterError]
) -> None:
    with pytest.raises(kind):
        await make(f"{CHECK}    raise ExceptionGroup('', [{errors}])\n").check(connection(crm))


async def test_an_error_in_authenticate_is_named_there_although_another_hook_was_called(make: Make, crm: Crm) -> None:
    source = PLUGIN[PLUGIN.index("    answer = await") :]
    adapter = make(f"{CHECK}{READ_DATA}    return Check(summary='ok')\n", (source, "    raise KeyError\n"))
    with pytest.raises(ContractError, match="raised KeyError in authenticate"):
        await adapter.check(connection(crm))


async def test_a_refusal_in_authenticate_reaches_the_caller_of_another_hook(make: Make, crm: Crm) -> None:
    source = PLUGIN[PLUGIN.index("    answer = await") :]
    refuse = "    raise AuthError('No.', reason='secret_expired')\n"
    with pytest.raises(AuthError) as caught:
        await read(make(f"{SYNC}{READ_DATA}    yield Page(complete=True)\n", (source, refuse)), crm)
    assert caught.value.reason == "secret_expired"


async def test_a_slow_answer_is_unavailable_and_may_be_tried_again(make: Make, crm: Crm, watcher: Watcher) -> None:
    adapter = make(f"{CHECK}    await asyncio.sleep(3600)\n")
    with pytest.raises(UnavailableError, match="gave no answer in check within") as caught:
        await adapter.check(connection(crm), timeout_s=0.1)
    assert caught.value.code == "hook_timeout"
    assert watcher.calls[-1] == ("check", "hook_timeout")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    return 'fine'\n", "check gave str"),
        ("    return Check(summary='x', facts=3)\n", "Check of the wrong shape"),
        ("    return Check(summary='x', missing='prvRead')\n", "Check of the wrong shape"),
    ],
)
async def test_a_check_that_is_none_is_a_broken_promise(make: Make, crm: Crm, body: str, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        await make(CHECK + body).check(connection(crm))


async def test_what_a_check_shows_holds_no_secret(make: Make, crm: Crm) -> None:
    check = await make(f"{CHECK}    return Check(summary='{SECRET}', facts={{'a': '{SECRET}'}})\n").check(
        connection(crm)
    )
    assert (check.summary, dict(check.facts)) == ("***", {"a": "***"})


async def test_the_plugins_log_holds_no_secret_and_no_exception_text(make: Make, crm: Crm) -> None:
    log = f"    ctx.log.info('hello {SECRET}', token='abcd', exc_info=ValueError('Kari'), plugin='another')\n"
    with capture_logs() as lines:
        await make(f"{CHECK}{log}    return Check(summary='x')\n").check(connection(crm))
    [line] = [line for line in lines if line["event"].startswith("hello")]
    assert line == {
        "event": "hello ***",
        "token": "***",
        "plugin": "demo",
        "organization": "dnf",
        "integration": "i1",
        "log_level": "info",
    }


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("egress_hosts=host_of", "egress_hosts=lambda settings: 'crm.example.com'", "egress_hosts gave no list"),
        (
            "egress_hosts=host_of",
            "egress_hosts=lambda settings: settings.nope",
            "raised AttributeError in egress_hosts",
        ),
        ("egress_hosts=host_of", "account=lambda settings: ''", "account gave no name"),
    ],
)
async def test_functions_of_the_manifest_are_contained_too(
    make: Make, crm: Crm, old: str, new: str, words: str
) -> None:
    with pytest.raises(ContractError, match=words):
        await make(f"{CHECK}    return Check(summary='x')\n", (old, new)).check(connection(crm))


async def test_stored_settings_that_fit_no_more_are_named_before_anything_is_called(make: Make, crm: Crm) -> None:
    with pytest.raises(InvalidError) as caught:
        await make("").check(connection(crm, colour="red"))
    assert caught.value.problems[0].field == "settings.colour"


# ── reading ──────────────────────────────────────────────────────────────────


def pages(*expressions: str) -> str:
    return SYNC + "".join(f"    yield {expression}\n" for expression in expressions)


async def test_pages_come_in_order_and_the_cursor_goes_in(make: Make, crm: Crm) -> None:
    body = pages(
        "Page(records=[Record(key=cursor, values={})], cursor='b')", "Page(complete=True, cursor='c', total=1)"
    )
    first, last = await read(make(body), crm, "a")
    assert ([record.key for record in first.records], first.cursor) == (["a"], "b")
    assert (last.complete, last.cursor, last.total) == (True, "c", 1)


async def test_pages_are_prepared_in_the_plugins_thread(make: Make, crm: Crm) -> None:
    def prepare(page: Page) -> tuple[bool, str]:
        return page.complete, threading.current_thread().name

    assert await read(make(""), crm, prepare=prepare) == [(True, "samband-demo")]


async def test_heavy_work_can_be_done_in_the_plugins_thread(make: Make) -> None:
    assert await make("").compute(lambda: threading.current_thread().name) == "samband-demo"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (pages("'page'"), "yielded str instead of samband.Page"),
        (pages("None"), "yielded NoneType"),
        (pages("Page(records='abc', complete=True)"), "records and deleted must both be lists"),
        (pages("Page(records=iter(()), complete=True)"), "records and deleted must both be lists"),
        (pages("Page(records=[{}], complete=True)"), "record 1 is dict"),
        (pages("Page(records=[Record(key=1, values={})], complete=True)"), "record 1 has a key that is not text"),
        (pages("Page(records=[Record(key='a', values=[])], complete=True)"), "record 1 has values"),
        (pages("Page(records=[Record(key='a', values={}, version=3)], complete=True)"), "record 1 has a version"),
        (pages("Page(deleted=[1], complete=True)"), "deleted keys"),
        (pages("Page(cursor=7, complete=True)"), "cursor must be text"),
        (pages("Page(cursor='x' * 65537, complete=True)"), "longer than 64 KiB"),
        (pages("Page(cursor='\\0', complete=True)"), "NUL"),
        (pages("Page(cursor='\\ud800', complete=True)"), "half a character"),
        (pages("Page(complete='yes')"), "complete must be True or False"),
        (pages("Page(complete=True, total=-1)"), "total must be"),
        (pages("Page()"), "ended without a page that is complete"),
        (pages("Page(complete=True)", "Page()"), "another page after the one that was complete"),
        ("\n@hookimpl\ndef sync(ctx, stream, cursor):\n    return [Page(complete=True)]\n", "gave list instead"),
        ("\n@hookimpl\ndef sync(ctx, stream, cursor):\n    pass\n", "gave NoneType instead"),
        ("\n@hookimpl\ndef sync(ctx, stream, cursor):\n    return asyncio.sleep(0)\n", "gave coroutine instead"),
    ],
)
async def test_pages_that_break_a_promise_end_the_read(make: Make, crm: Crm, body: str, words: str) -> None:
    got: list[Page] = []
    with pytest.raises(ContractError, match=words):
        await read_into(got, make(body), crm)
    assert [page for page in got if page.complete] == [], "a complete page is held back until the end is certain"


@pytest.mark.parametrize(
    "loop",
    [
        "Page(records=[Record(key='a', values={})], cursor='same')",
        "Page(records=[Record(key='a', values={})])",
        "Page(cursor='same')",
        "Page(deleted=['a'])",
        "Page(cursor=str(next(numbers) % 3))",
    ],
)
async def test_paging_that_goes_round_in_circles_is_ended(make: Make, crm: Crm, loop: str) -> None:
    body = f"import itertools\nnumbers = itertools.count()\n{SYNC}    while True:\n        yield {loop}\n"
    got: list[Page] = []
    with pytest.raises(RemoteError) as caught:
        await read_into(got, make(body), crm)
    assert caught.value.code == "paging_loops"
    assert len(got) <= 5


async def test_different_rows_under_one_watermark_are_no_circle(make: Make, crm: Crm) -> None:
    body = f"{SYNC}    for n in range(50):\n        yield Page(records=[Record(key=str(n), values={{}})], cursor='t')\n"
    assert len(await read(make(body + "    yield Page(complete=True)\n"), crm)) == 51


async def test_stretches_of_nothing_are_no_circle_but_do_not_go_on_for_ever(make: Make, crm: Crm) -> None:
    body = f"{SYNC}    for n in range(500):\n        yield Page()\n    yield Page(complete=True)\n"
    assert len(await read(make(body), crm)) == 501
    with pytest.raises(RemoteError, match="did not get any further"):
        await read(make(f"{SYNC}    while True:\n        yield Page()\n", name="endless"), crm)


async def test_an_unknown_stream_is_refused(make: Make, crm: Crm) -> None:
    with pytest.raises(NotFoundError, match="no stream 'nope'"):
        await anext(make("").sync(connection(crm), "nope", None, run_id="r1"))


async def test_progress_reaches_the_caller_on_its_own_loop(make: Make, crm: Crm) -> None:
    heard: list[tuple[int, int | None, bool]] = []
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()

    def listen(done: int, total: int | None) -> None:
        heard.append((done, total, asyncio.get_running_loop() is loop))
        if done == 1000:
            arrived.set()

    body = f"{SYNC}    for n in range(1001):\n        ctx.progress(n, 1000)\n    yield Page(complete=True)\n"
    await read(make(body), crm, progress=listen)
    await asyncio.wait_for(arrived.wait(), HANG)
    assert heard[-1] == (1000, 1000, True)


async def test_closing_the_read_closes_the_plugins_generator(make: Make, crm: Crm, registry: Registry) -> None:
    body = (
        "closed = []\n"
        f"{SYNC}    try:\n        while True:\n            yield Page(cursor=str(time.monotonic_ns()))\n"
        "    finally:\n        await asyncio.sleep(0)\n        closed.append(True)\n"
    )
    adapter = make(body)
    async with aclosing(adapter.sync(connection(crm), "people", None, run_id="r1")) as got:
        async for _ in got:
            break
    assert sys.modules["adapter_under_test_demo"].closed == [True]
    assert registry.views()[0].reason == ""


async def test_a_generator_that_fails_while_it_is_closed_is_reported_beside_the_plugin(
    make: Make, crm: Crm, registry: Registry
) -> None:
    body = (
        f"{SYNC}    try:\n        while True:\n            yield Page(cursor=str(time.monotonic_ns()))\n"
        "    finally:\n        raise KeyError('Kari')\n"
    )
    async with aclosing(make(body).sync(connection(crm), "people", None, run_id="r1")) as got:
        async for _ in got:
            break
    assert "raised KeyError in sync" in registry.views()[0].reason


async def test_no_more_than_two_pages_are_alive_while_one_is_stored_and_one_is_fetched(make: Make, crm: Crm) -> None:
    alive: weakref.WeakSet[Prepared] = weakref.WeakSet()
    most = 0

    def prepare(page: Page) -> Prepared:
        prepared = Prepared()
        alive.add(prepared)
        return prepared

    body = f"{SYNC}    for n in range(20):\n        yield Page(cursor=str(n))\n    yield Page(complete=True)\n"
    got = make(body).sync(connection(crm), "people", None, run_id="r1", prepare=prepare, ahead=1)
    async with aclosing(got) as prepared_pages:
        async for page in prepared_pages:
            del page
            await asyncio.sleep(0.002)
            most = max(most, len(alive))
    assert most <= 2


class Prepared:
    """Stands for a prepared page; counted while it is alive."""


# ── one bad plugin ───────────────────────────────────────────────────────────

NEVER_TURNS = {"blocks": "    time.sleep(1.5)\n", "spins": "    while True:\n        pass\n"}


@pytest.mark.parametrize("habit", NEVER_TURNS)
async def test_a_plugin_that_keeps_its_loop_harms_nobody_else(
    make: Make, crm: Crm, registry: Registry, habit: str
) -> None:
    bad = make(CHECK + NEVER_TURNS[habit], name="bad")
    good = make(f"{CHECK}{READ_DATA}    return Check(summary='ok')\n", name="good")
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    counting = asyncio.create_task(count_turns())
    trying = asyncio.create_task(bad.check(connection(crm), timeout_s=0.4))
    answers = [(await good.check(connection(crm))).summary for _ in range(5)]
    with pytest.raises(UnavailableError, match=r"bad blocked its event loop in .*adapter_under_test_bad\.py:\d+"):
        await trying
    counting.cancel()
    assert answers == ["ok"] * 5
    assert turns > 5
    reasons = {view.name: view.reason for view in registry.views()}
    assert "blocked its event loop" in reasons["bad"]
    assert reasons["good"] == ""


async def test_after_a_block_the_plugin_works_again_with_fresh_connections(make: Make, crm: Crm) -> None:
    blocks = "    if ctx.settings.region == 'crm9':\n        time.sleep(1)\n"
    adapter = make(f"{CHECK}{blocks}{READ_DATA}    return Check(summary='ok')\n")
    assert (await adapter.check(connection(crm))).summary == "ok"
    with pytest.raises(UnavailableError):
        await adapter.check(connection(crm, region="crm9"), timeout_s=0.1)
    assert (await adapter.check(connection(crm))).summary == "ok"
    assert crm.authorizations == ["Bearer token-1", "Bearer token-2"]


async def test_a_plugin_that_blocks_again_and_again_is_refused(make: Make, crm: Crm) -> None:
    adapter = make(f"{CHECK}    time.sleep(0.8)\n")
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await adapter.check(connection(crm), timeout_s=0.05)
    with pytest.raises(PluginError, match="not called any more"):
        await adapter.check(connection(crm))


@pytest.mark.parametrize("error", ["OSError()", "TimeoutError()", "MemoryError()", "RecursionError()"])
async def test_every_error_that_ends_a_read_belongs_to_the_tree(make: Make, crm: Crm, error: str) -> None:
    with pytest.raises(AdapterError):
        await read(make(f"{SYNC}    yield Page()\n    raise {error}\n"), crm)
