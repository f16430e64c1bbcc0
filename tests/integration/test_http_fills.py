"""Secrets inside a body, headers for some hosts alone, and a renewal that the plugin asks for."""

from __future__ import annotations

import asyncio
import datetime as dt
import traceback
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from samband.contract import Token
from samband.errors import AdapterError, AuthError, ContractError, OutcomeUnknownError
from samband.http import AuthorisedSession, Outbound
from samband.oauth import TokenSource
from samband.store import Store
from samband.store.models import KeptToken
from samband.store.tokens import Claim, KeptAccess, credential_mark
from samband.testing import FakeLog
from tests.integration.test_http import Lines, Peer, make_session, ok, outbound, peer, status

__all__ = ["outbound", "peer"]  # fixtures

CANARY = "ca<na&ry'\"key-7731"
FILLED = b"<k>ca&lt;na&amp;ry&#x27;&quot;key-7731</k>"


class Keyring:
    """A source whose tokens carry a fill each; counts what it is asked."""

    def __init__(self, *tokens: Token) -> None:
        self.tokens = list(tokens)
        self.fetched = 0
        self.source = TokenSource(self._fetch, now=lambda: dt.datetime.now(dt.UTC), log=FakeLog())

    async def _fetch(self) -> Token:
        await asyncio.sleep(0)
        self.fetched += 1
        return self.tokens[min(self.fetched, len(self.tokens)) - 1]


def token_of(value: str = "api", *, hosts: Any = None, **fills: str) -> Token:
    return Token(
        value=SecretStr(value), scheme="token", hosts=hosts, fills={name: SecretStr(it) for name, it in fills.items()}
    )


def session_of(outbound: Outbound, *tokens: Token, **changes: Any) -> tuple[AuthorisedSession, Keyring]:
    keyring = Keyring(*tokens)
    return make_session(outbound, tokens=keyring.source, **changes), keyring


# ── bodies with secrets in them ──────────────────────────────────────────────


async def test_a_place_in_the_body_is_filled_as_xml_text_and_only_when_asked_for(
    peer: Peer, outbound: Outbound
) -> None:
    session, _ = session_of(outbound, token_of(soap_key=CANARY))
    await session.request("POST", peer.url(), data=b"<k>{{soap_key}}</k>", fill=True)
    await session.request("POST", peer.url(), data=b"<k>{{soap_key}}</k>")
    assert [FILLED, b"<k>{{soap_key}}</k>"] == [body for *_, body in peer.requests]


@pytest.mark.parametrize(
    "body",
    [
        b"<k>{{other}}</k>",
        b"<k>{{soap_key}}</k><t>{{soap_key}}</t>",  # the second one came in with somebody's text
        b"<k>{{soap_key}}</k><t>{{ what\nwas written }}</t>",
        b"<k></k>",
    ],
)
async def test_a_body_that_cannot_be_filled_with_certainty_is_not_sent(
    peer: Peer, outbound: Outbound, body: bytes
) -> None:
    session, _ = session_of(outbound, token_of(soap_key=CANARY))
    with pytest.raises(ContractError) as caught:
        await session.request("POST", peer.url(), data=body, fill=True)
    assert ([], "data", False) == (peer.requests, caught.value.field, "was written" in str(caught.value))


@pytest.mark.parametrize("body", [{"json": {"k": "{{soap_key}}"}}, {"data": {"k": "{{soap_key}}"}}, {}])
async def test_only_bytes_are_filled(peer: Peer, outbound: Outbound, body: dict[str, Any]) -> None:
    session, _ = session_of(outbound, token_of(soap_key=CANARY))
    with pytest.raises(ContractError, match="bytes"):
        await session.request("POST", peer.url(), fill=True, **body)
    assert [] == peer.requests


async def test_without_a_token_that_has_fills_the_way_out_is_named(peer: Peer, outbound: Outbound) -> None:
    bare, _ = session_of(outbound, token_of())
    for session in (bare, make_session(outbound, tokens=None)):
        with pytest.raises(AuthError) as caught:
            await session.request("POST", peer.url(), data=b"{{soap_key}}", fill=True)
        assert ("fills_missing", True) == (caught.value.code, "credentials" in caught.value.hint)
    assert [] == peer.requests


async def test_a_fill_that_cannot_stand_in_xml_is_refused_without_being_shown(peer: Peer, outbound: Outbound) -> None:
    session, _ = session_of(outbound, token_of(soap_key="canary\x00key"))
    with pytest.raises(ContractError) as caught:
        await session.request("POST", peer.url(), data=b"{{soap_key}}", fill=True)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


async def test_a_filled_body_is_filled_anew_after_a_401(peer: Peer, outbound: Outbound) -> None:
    session, keyring = session_of(outbound, token_of(hosts=(), soap_key="one"), token_of(hosts=(), soap_key="two"))
    peer.answer(status(401), ok())
    await session.request("POST", peer.url(), data=b"{{soap_key}}", fill=True)
    assert ([b"one", b"two"], 2) == ([body for *_, body in peer.requests], keyring.fetched)


async def test_what_was_filled_in_is_in_no_log_and_no_error(peer: Peer, outbound: Outbound) -> None:
    lines = Lines()
    session, _ = session_of(outbound, token_of(soap_key=CANARY), log=lines)

    def drop(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    said: list[str] = []
    for answer in (drop, status(503), status(302, {"Location": "/login"}), status(401)):
        peer.answer(answer)
        with pytest.raises(AdapterError) as caught:
            await session.request("POST", peer.url(), data=b"<k>{{soap_key}}</k>", fill=True)
        said += [*traceback.format_exception(caught.value), repr(caught.value), caught.value.remote_message]
    assert FILLED in {body for *_, body in peer.requests}
    assert len(lines.seen) == 5
    assert "7731" not in "".join(said) + repr(lines.seen)


async def test_a_filled_write_whose_answer_is_lost_is_not_sent_again(peer: Peer, outbound: Outbound) -> None:
    session, _ = session_of(outbound, token_of(soap_key=CANARY))
    peer.answer(status(503))
    with pytest.raises(OutcomeUnknownError):
        await session.request("POST", peer.url(), data=b"{{soap_key}}", fill=True)
    assert 1 == len(peer.requests)


# ── headers for some hosts alone ─────────────────────────────────────────────


async def test_the_header_goes_to_the_hosts_of_the_token_with_their_ports_and_to_no_other(
    peer: Peer, outbound: Outbound
) -> None:
    port = peer.server.port
    cases = [
        (None, True),
        ((f"127.0.0.1:{port}",), True),
        ((f"127.0.0.1:{port}", "other.example"), True),
        (("127.0.0.1",), False),  # a host without a port is its usual port alone
        (("127.0.0.1:1",), False),
        (("other.example",), False),
        ((), False),
    ]
    for hosts, _ in cases:
        session, _keyring = session_of(outbound, token_of(hosts=hosts))
        await session.request("GET", peer.url())
    assert [is_sent for _, is_sent in cases] == ["Authorization" in headers for _, _, headers, _ in peer.requests]


async def test_a_401_to_a_request_that_carried_nothing_renews_nothing(peer: Peer, outbound: Outbound) -> None:
    session, keyring = session_of(outbound, token_of(hosts=("other.example",)))
    peer.answer(status(401))
    with pytest.raises(AuthError, match="carries no token"):
        await session.request("GET", peer.url())
    assert (1, 1) == (len(peer.requests), keyring.fetched)


# ── a renewal that is asked for ──────────────────────────────────────────────


async def test_those_whose_token_was_refused_together_share_one_renewal(peer: Peer, outbound: Outbound) -> None:
    session, keyring = session_of(outbound, *(token_of(soap_key=f"k{n}") for n in range(9)))
    have_sent = asyncio.Barrier(5)

    async def upload() -> None:
        await session.request("POST", peer.url(), data=b"{{soap_key}}", fill=True)
        await have_sent.wait()
        await session.renew_token()
        await session.request("POST", peer.url(), data=b"{{soap_key}}", fill=True)

    async with asyncio.timeout(10):
        await asyncio.gather(*(upload() for _ in range(5)))
    assert ([b"k0"] * 5 + [b"k1"] * 5, 2) == ([body for *_, body in peer.requests], keyring.fetched)


async def test_one_who_is_late_does_not_renew_what_was_renewed_meanwhile(peer: Peer, outbound: Outbound) -> None:
    session, keyring = session_of(outbound, *(token_of(soap_key=f"k{n}") for n in range(9)))
    others_are_done = asyncio.Event()

    async def late() -> None:
        await session.request("POST", peer.url(), data=b"{{soap_key}}", fill=True)
        await others_are_done.wait()
        await session.renew_token()

    waiting = asyncio.create_task(late())
    while not peer.requests:
        await asyncio.sleep(0.01)
    await session.request("POST", peer.url(), data=b"{{soap_key}}", fill=True)
    await session.renew_token()
    await session.request("POST", peer.url(), data=b"{{soap_key}}", fill=True)
    others_are_done.set()
    async with asyncio.timeout(10):
        await waiting
    assert 2 == keyring.fetched


async def test_a_renewal_of_a_session_that_sent_nothing_yet_is_one_of_what_there_is(outbound: Outbound) -> None:
    session, keyring = session_of(outbound, token_of(), token_of("second"))
    await session.renew_token()
    assert 2 == keyring.fetched


async def test_there_is_nothing_to_renew_while_signing_in(outbound: Outbound) -> None:
    with pytest.raises(ContractError):
        await make_session(outbound, tokens=None).renew_token()


# ── kept ─────────────────────────────────────────────────────────────────────


async def test_a_kept_token_comes_back_with_its_hosts_and_fills_and_hides_them(store: Store) -> None:
    await store.catalog.add_organization("hlf", "HLF")
    pending = store.catalog.pending({"api_token": "x"}, {})
    integration = await store.catalog.add_integration("hlf", "xledger", "Xledger", {}, pending)
    claim = Claim(
        organization_id="hlf", integration_id=integration.id, revision=integration.revision,
        mark=credential_mark({}, {"api_token": "x"}),
    )  # fmt: skip
    now = dt.datetime.now(dt.UTC)
    for hosts in (None, (), ("a.example", "b.example:8443")):
        token = token_of(hosts=hosts, soap_user="somebody", soap_key=CANARY)
        assert await store.tokens.adopt(claim, KeptAccess(token=token, renew_at=None, renewed_at=now)) is not None
        assert token == (await store.tokens.row(claim, now)).kept.token
    async with store.database.read() as conn:
        row = (await conn.execute(KeptToken.__table__.select())).one()
    assert "7731" not in " ".join(str(value) for value in row)
