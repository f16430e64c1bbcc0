"""Which way vouchers go and why, what opens the ways, and that a voucher is the same on all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as sized
from hypothesis import strategies as st
from lxml import etree
from pydantic import SecretStr

from samband import (
    AdapterError,
    AuthError,
    Batch,
    Context,
    Item,
    Limits,
    RateLimitedError,
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
from samband_xledger.files import render
from samband_xledger.gl02xml import gl02xml
from samband_xledger.layouts import line_key_in
from samband_xledger.postings import nodes_of
from samband_xledger.routing import access_token, choose
from samband_xledger.settings import XledgerCredentials, XledgerSettings

BOTH = ("api_token", "soap_user", "soap_key")


def settings(**changes: Any) -> XledgerSettings:
    return XledgerSettings.model_validate({"entity_code": "23601", **changes})


# ── the choice ───────────────────────────────────────────────────────────────


@asynccontextmanager
async def connected(
    made: XledgerSettings, fills: tuple[str, ...] | AdapterError = BOTH, log: FakeLog | None = None
) -> AsyncIterator[Context]:
    """A context whose token holds these secrets, or cannot be had."""

    async def authenticate() -> Token:
        if isinstance(fills, AdapterError):
            raise fills
        return Token(value=SecretStr("abcd"), hosts=(), fills={name: SecretStr("abcd") for name in fills})

    log = log or FakeLog()
    outbound = Outbound(policy=EgressPolicy(), redactor=Redactor())
    tokens = TokenSource(authenticate, now=FakeClock().now, log=log)
    session = outbound.session(
        integration_id="i", account="a", hosts=["xledger.invalid"], limits=Limits(), tokens=tokens, log=log
    )
    try:
        yield fake_context(settings=made, http=session, log=log)
    finally:
        await outbound.close()


@dataclass
class Probes:
    """Probes that answer as told, and what they were asked."""

    answers: Mapping[str, AdapterError | None]

    def __post_init__(self) -> None:
        self.asked: list[str] = []

    @property
    def all(self) -> Mapping[str, Callable[[Context], Awaitable[None]]]:
        return {name: self._probe(name) for name in ("graphql", "soap")}

    def _probe(self, name: str) -> Callable[[Context], Awaitable[None]]:
        async def probe(ctx: Context) -> None:
            self.asked.append(name)
            answer = self.answers.get(name)
            if answer is not None:
                raise answer

        return probe


AWAY = UnavailableError("They are away.", retry_after_s=60)


@pytest.mark.parametrize(
    ("changes", "fills", "answers", "avoided", "route", "asked", "words"),
    [
        ({}, BOTH, {}, {}, "graphql", ["graphql"], {}),
        ({"routes": ["soap", "graphql"]}, BOTH, {}, {}, "soap", ["soap"], {}),
        ({"pinned_route": "soap"}, BOTH, {}, {}, "soap", ["soap"], {}),
        ({"pinned_route": "file"}, BOTH, {}, {}, "file", [], {}),
        ({}, BOTH, {"graphql": AWAY}, {}, "soap", ["graphql", "soap"], {"graphql": "away"}),
        ({}, BOTH, {"graphql": RemoteError("It is no GraphQL.")}, {}, "soap", ["graphql", "soap"], {"graphql": "no GraphQL"}),
        ({}, BOTH, {"graphql": AuthError("The token is refused.")}, {}, "soap", ["graphql", "soap"], {"graphql": "refused"}),
        ({}, BOTH, {"graphql": AWAY, "soap": AWAY}, {}, "file", ["graphql", "soap"], {"graphql": "away", "soap": "away"}),
        ({}, ("soap_user", "soap_key"), {}, {}, "soap", ["soap"], {"graphql": "no API token"}),
        ({}, ("api_token",), {"graphql": AWAY}, {}, "file", ["graphql"], {"graphql": "away", "soap": "no log-on key"}),
        ({}, (), {}, {}, "file", [], {"graphql": "no API token", "soap": "no log-on key"}),
        ({}, BOTH, {}, {"graphql": "Too many at once."}, "soap", ["soap"], {"graphql": "Too many at once"}),
        ({}, AuthError("The log-on is refused."), {}, {}, "file", [], {"graphql": "refused", "soap": "refused"}),
    ],
)  # fmt: skip
async def test_the_first_way_that_is_open_is_taken_and_each_one_passed_over_has_its_reason(
    changes: dict[str, Any], fills: Any, answers: dict[str, Any], avoided: dict[str, str], route: str, asked: list[str],
    words: dict[str, str],
) -> None:  # fmt: skip
    probes, log = Probes(answers), FakeLog()
    async with connected(settings(**changes), fills, log) as ctx:
        found = await choose(ctx, avoided, probes.all)
    assert (route, asked, set(words)) == (found.name, probes.asked, set(found.reasons))
    assert all(word in found.reasons[name] for name, word in words.items())
    chosen = next(entry for entry in log.entries if entry.event == "route_chosen")
    assert (route, found.reasons) == (chosen.values["route"], chosen.values["passed_over"])


async def test_a_pinned_way_that_is_closed_is_not_gone_round() -> None:
    probes = Probes({"soap": AWAY})
    async with connected(settings(pinned_route="soap")) as ctx:
        with pytest.raises(RetryableError) as caught:
            await choose(ctx, {}, probes.all)
    assert (["soap"], "no_route", 60) == (probes.asked, caught.value.code, caught.value.retry_after_s)


async def test_when_no_way_is_open_the_shortest_wait_is_asked_for_and_every_reason_told() -> None:
    probes = Probes({"graphql": RateLimitedError("Credits are used up.", retry_after_s=1200), "soap": AWAY})
    async with connected(settings(routes=["graphql", "soap"])) as ctx:
        with pytest.raises(RetryableError) as caught:
            await choose(ctx, {}, probes.all)
    assert 60 == caught.value.retry_after_s
    assert "graphql: Credits are used up. soap: They are away." in caught.value.message


async def test_when_every_way_wants_credentials_a_person_is_told() -> None:
    async with connected(settings(routes=["graphql", "soap"]), ()) as ctx:
        with pytest.raises(AuthError, match="no API token"):
            await choose(ctx, {}, Probes({}).all)


async def test_ways_that_refused_in_this_run_are_not_asked_again_and_are_no_matter_of_credentials() -> None:
    probes = Probes({})
    async with connected(settings(routes=["graphql", "soap"])) as ctx:
        with pytest.raises(RetryableError):
            await choose(ctx, {"graphql": "Busy.", "soap": "Refused."}, probes.all)
    assert [] == probes.asked


# ── what opens the ways ──────────────────────────────────────────────────────

API = {"api_token": "api-token-1"}
SOAP = {"soap_user": "ws.samband", "soap_password": "hemmelig"}
KEY = {"soap_user": SecretStr("ws.samband"), "soap_key": SecretStr("key-1234")}


async def token_for(given: dict[str, str], answer: Any = KEY, **changes: Any) -> tuple[Token, int]:
    asked = 0

    async def log_on(ctx: Context) -> Mapping[str, SecretStr]:
        nonlocal asked
        asked += 1
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    ctx = fake_context(settings=settings(**changes), credentials=XledgerCredentials.model_validate(given))
    return await access_token(ctx, log_on), asked


def left_min(token: Token) -> float | None:
    return None if token.expires_at is None else (token.expires_at - FakeClock().now()) / timedelta(minutes=1)


async def test_one_token_opens_both_ways_and_each_secret_goes_to_its_own_host() -> None:
    token, asked = await token_for(API | SOAP, logon_key_lifetime_min=15)
    assert ("api-token-1", "token", ("www.xledger.net",), 1, 15.0) == (
        token.value.get_secret_value(), token.scheme, token.hosts, asked, left_min(token),
    )  # fmt: skip
    assert set(BOTH) == set(token.fills)


@pytest.mark.parametrize(
    ("given", "changes", "hosts", "fills", "asked"),
    [
        (API, {}, ("www.xledger.net",), {"api_token"}, 0),
        (SOAP, {}, (), {"soap_user", "soap_key"}, 1),
        (API | SOAP, {"routes": ["graphql", "file"]}, ("www.xledger.net",), {"api_token"}, 0),
        (API | SOAP, {"pinned_route": "graphql"}, ("www.xledger.net",), {"api_token"}, 0),
        ({}, {}, (), set(), 0),
    ],
)
async def test_nobody_is_logged_on_for_a_way_that_is_not_used(
    given: dict[str, str], changes: dict[str, Any], hosts: tuple[str, ...], fills: set[str], asked: int
) -> None:
    token, times = await token_for(given, **changes)
    assert (hosts, fills, asked) == (token.hosts, set(token.fills), times)
    assert token.value.get_secret_value()


@pytest.mark.parametrize(
    ("error", "minutes"), [(UnavailableError("Away."), 2.0), (AuthError("Wrong."), 30.0), (RemoteError("Odd."), 30.0)]
)
async def test_a_log_on_that_fails_leaves_the_other_way_open_and_a_wrong_password_is_not_hammered(
    error: Exception, minutes: float
) -> None:
    token, _ = await token_for(API | SOAP, error)
    assert ({"api_token"}, minutes) == (set(token.fills), left_min(token))


async def test_a_log_on_that_fails_and_is_all_there_is_is_told() -> None:
    with pytest.raises(AuthError, match="Wrong"):
        await token_for(SOAP, AuthError("Wrong."), routes=["soap"])
    with pytest.raises(AuthError, match="no credentials"):
        await token_for({}, routes=["graphql", "soap"])


# ── the same on every way ────────────────────────────────────────────────────

FIELDS = {"avdeling": "glObject1", "bærer": "glObject3", "prosjekt": "glObject2"}


@dataclass(frozen=True)
class Said:
    """One line, as each way says it."""

    number: int
    day: str
    type: str
    account: str
    amount: Decimal
    key: str | None
    tax_rule: str | None
    dimensions: tuple[tuple[str, str], ...]
    subledger: str | None


def by_graphql(vouchers: list[Voucher], made: XledgerSettings) -> list[Said]:
    return [
        Said(
            node["trRegNumber"], node["postedDate"].replace("-", ""), node["transactionSource"]["code"],
            node["account"]["code"], Decimal(node["amount"]), node["extIdentifier"], node.get("taxRule", {}).get("code"),
            tuple((str(n), node[f"glObject{n}"]["code"]) for n in range(1, 6) if f"glObject{n}" in node),
            node.get("subledger", {}).get("code"),
        )
        for voucher in vouchers for node in nodes_of(voucher, made).values()
    ]  # fmt: skip


def by_row(row: Mapping[str, str], space: str) -> Said:
    postings = tuple((str(n), row[f"Posting{space}{n}"]) for n in range(1, 6) if row.get(f"Posting{space}{n}", ""))
    return Said(
        int(row[f"Voucher{space}No"]), row[f"Voucher{space}Date"], row[f"Voucher{space}Type"], row["Account"],
        Decimal(row["Amount"]), line_key_in(row["Text"]), row.get("TaxRule") or None, postings,
        row.get(f"Subledger{space}No") or None,
    )  # fmt: skip


def by_soap(vouchers: list[Voucher], made: XledgerSettings) -> list[Said]:
    root = etree.fromstring(gl02xml(vouchers, made).content)
    return [by_row({cell.tag: cell.text or "" for cell in entry}, "") for entry in root[0]]


def by_file(vouchers: list[Voucher], made: XledgerSettings) -> list[Said]:
    items = [Item(key=voucher.key, stream="vouchers", values={}, voucher=voucher) for voucher in vouchers]
    content = render(Batch(id="b", items=items, route="file"), "machine", made).content.decode()
    # Without a notion of quotes, as the crudest import would read it.
    lines = [line.split(";") for line in content.split("\r\n")[:-1]]
    return [by_row(dict(zip(lines[0], cells, strict=True)), " ") for cells in lines[1:]]


CODES = st.text("0123456789ABCÆØÅ-./ ", min_size=1, max_size=12).filter(lambda code: code.strip() == code)
CENTS = st.integers(-(10**11), 10**11).filter(bool)
TEXTS = st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=200)


@st.composite
def vouchers(draw: st.DrawFn) -> list[Voucher]:
    numbers = draw(st.lists(st.integers(1, 99_999_999), min_size=1, max_size=4, unique=True))
    return [draw(one_voucher(number)) for number in numbers]


@st.composite
def one_voucher(draw: st.DrawFn, number: int) -> Voucher:
    key = f"{draw(st.integers(0, 2**96 - 1)):x}{number:08x}".rjust(32, "0")
    amounts = draw(st.lists(CENTS, min_size=1, max_size=6))
    amounts.append(-sum(amounts))
    lines = [
        VoucherLine(
            n=n, key=f"{key}-{n}", account=draw(CODES), amount=Decimal(cents) / 100, text=draw(TEXTS),
            dimensions=draw(st.dictionaries(st.sampled_from(sorted(FIELDS)), CODES)),
            tax_rule=draw(st.none() | CODES),
            payee=draw(st.none() | st.builds(VoucherPayee, strategy=st.just("employee"), code=CODES)),
        )
        for n, cents in enumerate(amounts, start=1)
    ]  # fmt: skip
    day = draw(st.dates(date(2020, 1, 1), date(2035, 12, 31)))
    return Voucher(key=key, number=number, type="GL", date=day, currency="NOK", text="Reise", lines=lines, claim="c",
                   mapping_version=1)  # fmt: skip


@sized(max_examples=60, deadline=None)
@given(vouchers())
def test_a_voucher_says_the_same_on_all_three_ways(made: list[Voucher]) -> None:
    chosen = settings(dimension_fields=FIELDS)
    spoken = [by_graphql(made, chosen), by_soap(made, chosen), by_file(made, chosen)]
    assert spoken[0] == spoken[1] == spoken[2]
    for voucher in made:
        for way in spoken:
            mine = [said for said in way if said.number == voucher.number]
            assert (len(voucher.lines), Decimal(0)) == (len(mine), sum(said.amount for said in mine))
