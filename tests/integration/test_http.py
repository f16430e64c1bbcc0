"""The outgoing session against a server that answers as told."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from samband.contract import Limits, Token
from samband.errors import (
    AuthError,
    ContractError,
    OutcomeUnknownError,
    RateLimitedError,
    RemoteError,
    UnavailableError,
)
from samband.http import AuthorisedSession, Outbound
from samband.http.egress import EgressPolicy
from samband.redaction import Redactor

FAST = Limits(requests_per_s=10_000, concurrency=50, timeout_s=5, max_body_bytes=1_000_000)
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Clock:
    """A monotonic clock that moves only while somebody sleeps on it."""

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.slept: list[float] = []
        self.has_slept = asyncio.Event()

    def __call__(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 3))
        self.has_slept.set()
        until = self.seconds + seconds
        await asyncio.sleep(0)
        self.seconds = max(self.seconds, until)


class Lines:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def debug(self, event: str, **values: Any) -> None:
        self.seen.append((event, values))

    info = warning = error = debug


class Keys:
    """A token source that counts renewals and lets only the newest value be good."""

    def __init__(self, *values: str) -> None:
        self.values = list(values)
        self.renewals: list[str] = []

    def _token(self) -> Token:
        return Token(value=SecretStr(self.values[0]))

    async def get(self) -> Token:
        return self._token()

    async def renew(self, stale: Token) -> Token:
        self.renewals.append(stale.value.get_secret_value())
        if len(self.values) > 1 and self.values[0] == stale.value.get_secret_value():
            self.values.pop(0)
        return self._token()


Answering = Callable[[web.Request], web.StreamResponse]


@dataclass
class Peer:
    """A server whose answers are a list; the last one is given for ever."""

    server: TestServer
    answers: list[Answering] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    arrived_at: list[float] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def url(self, path: str = "/x") -> str:
        return f"http://127.0.0.1:{self.server.port}{path}"

    def answer(self, *answers: Answering) -> None:
        self.answers = list(answers)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        self.arrived_at.append(self.clock.seconds)
        make = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return make(request)


def status(code: int, headers: Mapping[str, str] | None = None, text: str = "") -> Answering:
    return lambda request: web.Response(status=code, headers=headers, text=text)


def ok(document: str = "{}") -> Answering:
    return lambda request: web.Response(text=document, content_type="application/json")


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    application = web.Application(client_max_size=10_000_000)
    server = TestServer(application)
    found = Peer(server, answers=[ok()])
    application.router.add_route("*", "/{tail:.*}", found.handle)
    async with server:
        yield found


@pytest.fixture
async def outbound(peer: Peer) -> AsyncIterator[Outbound]:
    made = Outbound(
        policy=EgressPolicy(["127.0.0.1"]),
        redactor=Redactor(),
        now=lambda: NOW,
        sleep=peer.clock.sleep,
        clock=peer.clock,
        rng=lambda: 0.5,
    )
    yield made
    await made.close()


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def session(outbound: Outbound, lines: Lines) -> AuthorisedSession:
    return make_session(outbound, log=lines)


def make_session(outbound: Outbound, **changes: Any) -> AuthorisedSession:
    given: dict[str, Any] = {
        "integration_id": "i1",
        "account": "a",
        "hosts": ["127.0.0.1"],
        "limits": FAST,
        "tokens": None,
        "log": Lines(),
        "run_id": "r1",
    }
    return outbound.session(**(given | changes))


# ── what is sent ─────────────────────────────────────────────────────────────


async def test_a_paging_link_is_sent_byte_for_byte(peer: Peer, session: AuthorisedSession) -> None:
    path = "/a//b/../%7Ec?$skiptoken=%3ccookie%20page=%222%22%3e&x=a+b&y='(1)'&empty="
    answer = await session.request("GET", peer.url(path))
    assert peer.requests[0][1] == path
    assert answer.url == peer.url(path)


async def test_params_are_encoded_and_appended(peer: Peer, session: AuthorisedSession) -> None:
    await session.request("GET", peer.url("/x?a=1"), params={"$filter": "name eq 'Æ & B+C'", "n": "2"})
    assert peer.requests[0][1] == "/x?a=1&$filter=name%20eq%20'%C3%86%20%26%20B%2BC'&n=2"


async def test_bodies_are_json_forms_or_bytes(peer: Peer, session: AuthorisedSession) -> None:
    await session.request("PUT", peer.url(), json={"sum": Decimal("0.10"), "name": "Åse", "none": None})
    await session.request("PUT", peer.url(), data={"a": "1 2", "b": "æ"})
    await session.request("PUT", peer.url(), data=b"x" * 2_000_000, headers={"Content-Type": "text/csv"})
    sent = [(headers["Content-Type"], body) for _, _, headers, body in peer.requests]
    assert sent[0] == ("application/json", '{"sum":0.10,"name":"Åse","none":null}'.encode())
    assert sent[1] == ("application/x-www-form-urlencoded", b"a=1+2&b=%C3%A6")
    assert sent[2] == ("text/csv", b"x" * 2_000_000)


async def test_a_request_that_breaks_a_rule_is_not_sent(peer: Peer, session: AuthorisedSession) -> None:
    with pytest.raises(ContractError):
        await session.request("PUT", peer.url(), headers={"X-A": "1\r\nX-B: 2"})
    assert peer.requests == []


async def test_another_host_is_refused_before_anything_is_sent(peer: Peer, outbound: Outbound) -> None:
    session = make_session(outbound, hosts=["other.example"])
    with pytest.raises(RemoteError) as caught:
        await session.request("GET", peer.url("/secret-path?token=abc"))
    assert caught.value.code == "egress_refused"
    assert "secret-path" not in str(caught.value)
    assert peer.requests == []


async def test_cookies_are_not_kept(peer: Peer, session: AuthorisedSession) -> None:
    peer.answer(status(200, {"Set-Cookie": "a=b; Path=/"}), ok())
    await session.request("GET", peer.url())
    await session.request("GET", peer.url())
    assert "Cookie" not in peer.requests[1][2]


# ── what comes back ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [200, 201, 204, 304, 400, 403, 404, 409, 412, 422, 500, 501])
async def test_every_other_status_is_for_the_plugin_to_judge(peer: Peer, session: AuthorisedSession, code: int) -> None:
    peer.answer(status(code, {"X-Seen": "yes"}))
    answer = await session.request("GET", peer.url())
    assert (answer.status, answer.headers["x-seen"], len(peer.requests)) == (code, "yes", 1)


@pytest.mark.parametrize("code", [300, 301, 302, 303, 307, 308])
async def test_a_redirect_is_refused(peer: Peer, session: AuthorisedSession, code: int) -> None:
    peer.answer(status(code, {"Location": "http://127.0.0.1:1/steal?token=abc"}))
    with pytest.raises(RemoteError) as caught:
        await session.request("GET", peer.url())
    assert (caught.value.code, len(peer.requests)) == ("redirect_refused", 1)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("/login", "redirect_to_sign_in"),
        ("/Account/LogOn.aspx?ReturnUrl=%2fWS", "redirect_to_sign_in"),
        ("https://id.example/sign-in#x", "redirect_to_sign_in"),
        ("/login?ReturnUrl=https://ws.example/WS", "redirect_to_sign_in"),
        ("/Error.aspx?aspxerrorpath=/login", "redirect_refused"),
        ("https://login.example", "redirect_refused"),
        ("https://login.example/elsewhere", "redirect_refused"),
        ("/login/failed-import", "redirect_refused"),
        ("", "redirect_refused"),
    ],
)
async def test_a_redirect_to_a_page_to_sign_in_at_is_told_from_others(
    peer: Peer, session: AuthorisedSession, location: str, code: str
) -> None:
    peer.answer(status(302, {"Location": location}))
    with pytest.raises(RemoteError) as caught:
        await session.request("POST", peer.url())
    assert (code, 1) == (caught.value.code, len(peer.requests))
    assert "Return" not in str(caught.value)


async def test_an_answer_is_read_whole_even_when_it_is_compressed(peer: Peer, session: AuthorisedSession) -> None:
    def compressed(request: web.Request) -> web.StreamResponse:
        response = web.Response(text="[" + "1," * 100_000 + "1]", content_type="application/json")
        response.enable_compression(web.ContentCoding.gzip)
        return response

    peer.answer(compressed)
    assert len((await session.request("GET", peer.url())).json()) == 100_001


async def test_one_line_is_logged_for_each_try_and_holds_no_secret(
    peer: Peer, outbound: Outbound, session: AuthorisedSession, lines: Lines
) -> None:
    outbound.redactor.add("hemmelig-verdi")
    peer.answer(status(503), ok())
    await session.request("GET", peer.url("/c(mail='kari@example.no')/hemmelig-verdi/ola%40x.no?token=abc"))
    assert [event for event, _ in lines.seen] == ["http_attempt", "http_attempt"]
    first, second = (values for _, values in lines.seen)
    assert (first["status"], first["attempt"], first["error"]) == (503, 1, "unavailable")
    assert (second["status"], second["attempt"], second["error"]) == (200, 2, None)
    assert second["path"] == "/c(mail='…')/***/…"
    assert (second["host"], second["method"], second["run_id"]) == ("127.0.0.1", "GET", "r1")
    assert second["ms"] >= 0


# ── trying again ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [408, 502, 503, 504])
async def test_a_server_that_is_away_is_asked_four_times(peer: Peer, session: AuthorisedSession, code: int) -> None:
    peer.answer(status(code))
    with pytest.raises(UnavailableError) as caught:
        await session.request("GET", peer.url())
    assert (len(peer.requests), peer.clock.slept) == (4, [1.0, 2.0, 4.0])
    assert str(code) in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


async def test_the_waits_vary_by_a_fifth(peer: Peer, outbound: Outbound) -> None:
    chances = itertools.cycle([0.0, 0.999_999, 0.5])
    outbound.rng = lambda: next(chances)
    peer.answer(status(503))
    with pytest.raises(UnavailableError):
        await make_session(outbound).request("GET", peer.url())
    assert peer.clock.slept == [0.8, 2.4, 4.0]


@pytest.mark.parametrize("code", [408, 429, 503])
async def test_a_server_that_comes_back_is_asked_no_further(peer: Peer, session: AuthorisedSession, code: int) -> None:
    peer.answer(status(code), status(code), ok('{"a":1}'))
    assert (await session.request("GET", peer.url())).json() == {"a": 1}
    assert len(peer.requests) == 3


async def test_a_write_may_be_declared_safe_to_repeat(peer: Peer, session: AuthorisedSession) -> None:
    peer.answer(status(502), ok())
    assert (await session.request("POST", peer.url(), data=b"same", idempotent=True)).status == 200
    assert [body for _, _, _, body in peer.requests] == [b"same", b"same"]


@pytest.mark.parametrize(
    ("code", "headers", "error"),
    [
        (429, {}, RateLimitedError),
        (408, {}, UnavailableError),
        (503, {"Retry-After": "5"}, UnavailableError),
        (503, {}, OutcomeUnknownError),
        (502, {}, OutcomeUnknownError),
        (504, {"Retry-After": "5"}, OutcomeUnknownError),
    ],
)
async def test_a_write_is_sent_once_and_its_doubt_is_named(
    peer: Peer, session: AuthorisedSession, code: int, headers: dict[str, str], error: type[Exception]
) -> None:
    peer.answer(status(code, headers))
    with pytest.raises(error):
        await session.request("POST", peer.url(), json={})
    with pytest.raises(error):
        await make_session_for(session, "another account").request("PUT", peer.url(), json={}, idempotent=False)
    assert len(peer.requests) == 2


def make_session_for(session: AuthorisedSession, account: str) -> AuthorisedSession:
    return make_session(session._outbound, account=account)


# ── the pause they ask for ───────────────────────────────────────────────────


async def test_the_pause_they_ask_for_is_kept(peer: Peer, session: AuthorisedSession) -> None:
    peer.answer(status(429, {"Retry-After": "7"}), status(503, {"Retry-After": "2"}), status(429), ok())
    await session.request("GET", peer.url())
    waited = [later - earlier for earlier, later in itertools.pairwise(peer.arrived_at)]
    assert waited == [7.0, 2.0, 4.0]


async def test_a_point_in_time_is_taken_by_their_own_clock(peer: Peer, session: AuthorisedSession) -> None:
    theirs = NOW + timedelta(minutes=10)
    headers = {"Date": format_datetime(theirs, usegmt=True)}
    headers["Retry-After"] = format_datetime(theirs + timedelta(seconds=3), usegmt=True)
    peer.answer(status(503, headers), ok())
    await session.request("GET", peer.url())
    assert peer.arrived_at[1] - peer.arrived_at[0] == 3.0


async def test_a_long_pause_gives_the_worker_back(peer: Peer, session: AuthorisedSession) -> None:
    peer.answer(status(429, {"Retry-After": "120"}))
    with pytest.raises(RateLimitedError) as caught:
        await session.request("GET", peer.url())
    assert (caught.value.retry_after_s, len(peer.requests), peer.clock.slept) == (120.0, 1, [])


async def test_an_absurd_pause_is_cut_to_an_hour_and_said(peer: Peer, session: AuthorisedSession) -> None:
    peer.answer(status(503, {"Retry-After": "86400"}))
    with pytest.raises(UnavailableError) as caught:
        await session.request("GET", peer.url())
    assert caught.value.retry_after_s == 3600.0
    assert "86400" in str(caught.value)
    assert "3600" in str(caught.value)


async def test_pauses_add_up_until_the_call_has_waited_enough(peer: Peer, session: AuthorisedSession) -> None:
    peer.answer(status(429, {"Retry-After": "20"}))
    with pytest.raises(RateLimitedError) as caught:
        await session.request("GET", peer.url())
    assert (caught.value.retry_after_s, len(peer.requests), peer.clock.slept) == (20.0, 2, [20.0])


async def test_the_last_try_says_how_long_they_asked(peer: Peer, session: AuthorisedSession) -> None:
    peer.answer(status(429, {"Retry-After": "2"}))
    with pytest.raises(RateLimitedError) as caught:
        await session.request("GET", peer.url())
    assert (caught.value.retry_after_s, len(peer.requests)) == (2.0, 4)


async def test_everybody_on_the_account_waits_and_nobody_else(peer: Peer, outbound: Outbound) -> None:
    peer.answer(status(429, {"Retry-After": "300"}), ok())
    with pytest.raises(RateLimitedError):
        await make_session(outbound).request("GET", peer.url())
    with pytest.raises(RateLimitedError) as caught:
        await make_session(outbound, integration_id="i2").request("GET", peer.url())
    assert caught.value.retry_after_s == 300.0
    assert len(peer.requests) == 1
    assert (await make_session(outbound, account="b").request("GET", peer.url())).status == 200
    assert outbound.budget("a").not_before == NOW + timedelta(seconds=300)
    assert outbound.budget("b").not_before is None
    peer.clock.seconds += 300
    assert (await make_session(outbound).request("GET", peer.url())).status == 200


async def test_a_short_pause_is_sat_out_by_everybody(peer: Peer, outbound: Outbound) -> None:
    peer.answer(status(429, {"Retry-After": "5"}), ok())
    first = asyncio.create_task(make_session(outbound).request("GET", peer.url()))
    await peer.clock.has_slept.wait()
    others = [make_session(outbound).request("GET", peer.url()) for _ in range(5)]
    await asyncio.gather(first, *others)
    assert all(at >= peer.arrived_at[0] + 5 for at in peer.arrived_at[1:])


# ── limits of the account ────────────────────────────────────────────────────


async def test_no_more_requests_are_in_flight_than_allowed(peer: Peer, outbound: Outbound) -> None:
    now_in, most = 0, 0

    async def slow(request: web.Request) -> web.Response:
        nonlocal now_in, most
        now_in += 1
        most = max(most, now_in)
        await asyncio.sleep(0.01)
        now_in -= 1
        return web.json_response({})

    application = web.Application()
    application.router.add_get("/slow", slow)
    async with TestServer(application) as server:
        url = f"http://127.0.0.1:{server.port}/slow"
        strict = Limits(requests_per_s=10_000, concurrency=3)
        sessions = [make_session(outbound), make_session(outbound, integration_id="i2", limits=strict)]
        await asyncio.gather(*(sessions[i % 2].request("GET", url) for i in range(30)))
    assert most == 3
    assert (outbound.budget("a").in_flight, outbound.budget("a").waiting) == (0, 0)


async def test_a_rate_below_one_a_second_still_lets_a_request_through(peer: Peer, outbound: Outbound) -> None:
    limits = Limits(requests_per_s=0.5)
    assert (await make_session(outbound, limits=limits).request("GET", peer.url())).status == 200


async def test_an_account_nobody_used_is_at_rest(outbound: Outbound) -> None:
    snapshot = outbound.budget("never")
    assert (snapshot.waiting, snapshot.in_flight, snapshot.breaker) == (0, 0, "closed")


# ── the breaker ──────────────────────────────────────────────────────────────


async def open_breaker(peer: Peer, session: AuthorisedSession) -> None:
    peer.answer(status(503))
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await session.request("GET", peer.url())


async def test_the_breaker_opens_after_ten_failures_in_a_row(
    peer: Peer, outbound: Outbound, session: AuthorisedSession
) -> None:
    await open_breaker(peer, session)
    assert len(peer.requests) == 10
    assert outbound.budget("a").breaker == "open"
    with pytest.raises(UnavailableError) as caught:
        await session.request("GET", peer.url())
    assert caught.value.code == "breaker_open"
    assert 0 < (caught.value.retry_after_s or 0) <= 30
    assert len(peer.requests) == 10
    peer.answer(ok())
    assert (await make_session(outbound, account="b").request("GET", peer.url())).status == 200


async def test_half_open_sends_one_request_and_closes_on_success(
    peer: Peer, outbound: Outbound, session: AuthorisedSession
) -> None:
    await open_breaker(peer, session)
    peer.clock.seconds += 30
    peer.answer(ok())
    before = len(peer.requests)
    results = await asyncio.gather(*(session.request("GET", peer.url()) for _ in range(8)), return_exceptions=True)
    answered = [result for result in results if not isinstance(result, BaseException)]
    refused = [result for result in results if isinstance(result, UnavailableError)]
    assert (len(peer.requests) - before, len(answered), len(refused)) == (1, 1, 7)
    assert outbound.budget("a").breaker == "closed"


async def test_answers_and_rate_limits_do_not_count_as_failures(
    peer: Peer, outbound: Outbound, session: AuthorisedSession
) -> None:
    peer.answer(status(500))
    for _ in range(12):
        await session.request("GET", peer.url())
    peer.answer(status(429))
    for _ in range(4):
        with pytest.raises(RateLimitedError):
            await session.request("GET", peer.url())
    assert outbound.budget("a").breaker == "closed"


# ── tokens ───────────────────────────────────────────────────────────────────


def only(good: str) -> Answering:
    def judge(request: web.Request) -> web.StreamResponse:
        return web.json_response({}, status=200 if request.headers.get("Authorization") == f"Bearer {good}" else 401)

    return judge


async def test_a_refused_token_is_renewed_once_and_the_request_repeated(peer: Peer, outbound: Outbound) -> None:
    keys = Keys("old-token", "new-token")
    peer.answer(only("new-token"))
    session = make_session(outbound, tokens=keys)
    assert (await session.request("POST", peer.url(), data=b"once")).status == 200
    assert keys.renewals == ["old-token"]
    assert [body for _, _, _, body in peer.requests] == [b"once", b"once"]


async def test_a_second_refusal_is_final(peer: Peer, outbound: Outbound) -> None:
    keys = Keys("old-token", "new-token")
    outbound.redactor.add("new-token")
    peer.answer(status(401, {"WWW-Authenticate": 'Bearer error="invalid_token", echo="new-token"'}))
    with pytest.raises(AuthError) as caught:
        await make_session(outbound, tokens=keys).request("GET", peer.url())
    assert caught.value.reason == "refused"
    assert "invalid_token" in caught.value.remote_message
    assert "new-token" not in caught.value.remote_message
    assert (len(keys.renewals), len(peer.requests)) == (1, 2)


async def test_without_a_token_a_401_is_for_the_plugin_to_judge(peer: Peer, session: AuthorisedSession) -> None:
    peer.answer(status(401))
    answer = await session.request("POST", peer.url(), headers={"Authorization": "Basic aWQ6c2VjcmV0"})
    assert (answer.status, len(peer.requests)) == (401, 1)


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
async def test_a_plugin_does_not_set_the_token_itself(peer: Peer, outbound: Outbound, name: str) -> None:
    with pytest.raises(ContractError):
        await make_session(outbound, tokens=Keys("t-1")).request("GET", peer.url(), headers={name: "Bearer mine"})
    assert peer.requests == []


async def test_a_token_that_would_break_the_header_is_not_sent(peer: Peer, outbound: Outbound) -> None:
    session = make_session(outbound, tokens=Keys("t-1\r\nX-Evil: 1"))
    with pytest.raises(ContractError) as caught:
        await session.request("GET", peer.url())
    assert "t-1" not in str(caught.value)
    assert peer.requests == []


async def test_a_token_may_travel_bare_in_another_header(peer: Peer, outbound: Outbound) -> None:
    class ApiKey(Keys):
        def _token(self) -> Token:
            return Token(value=SecretStr("key-1"), header="X-Api-Key", scheme="")

    await make_session(outbound, tokens=ApiKey()).request("GET", peer.url())
    assert peer.requests[0][2]["X-Api-Key"] == "key-1"
    assert "Authorization" not in peer.requests[0][2]


async def test_the_outbound_may_be_closed_and_used_again(peer: Peer, outbound: Outbound) -> None:
    session = make_session(outbound)
    await session.request("GET", peer.url())
    await outbound.close()
    await outbound.close()
    assert (await session.request("GET", peer.url())).status == 200
