"""A person agrees at the other side and comes back; and tokens over the API, which never shows one."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import sqlalchemy as sa
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from samband.access import ALL_VERBS, Verb
from samband.adapters.registry import Registry
from samband.api import create_app
from samband.errors import NotFoundError
from samband.service import Service
from samband.store import Store
from samband.store.models import AuditEntry, Consent, KeptToken
from samband.tokens import TokenService
from tests.rotation.caller import registry_of
from tests.rotation.server import CLIENT_ID, CLIENT_SECRET, RotatingServer

PUBLIC_URL = "https://samband.example.no/there"
REDIRECT_URI = f"{PUBLIC_URL}/oauth/callback"
ASK = "/v1/organizations/hlf/integrations/rotating/consent"


class SilentBell:
    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool:
        return True

    async def ping(self) -> float | None:
        return 0.0

    async def depth(self) -> int | None:
        return 0


@dataclass
class House:
    """A host's service and API, with one integration nobody has agreed to yet."""

    store: Store
    server: RotatingServer
    service: Service
    client: TestClient[web.Request, web.Application]
    integration_id: str
    registry: Registry

    async def key(self, *verbs: Verb, organizations: list[str] | None = None) -> str:
        return await self.service.create_key("test", verbs=verbs or ALL_VERBS, organizations=organizations)

    async def post(self, path: str, key: str) -> ClientResponse:
        answer = await self.client.post(path, headers={"Authorization": f"Bearer {key}"})
        await answer.read()
        return answer

    async def link(self) -> dict[str, str]:
        """Asks for a consent; gives what its link says at the other side."""
        answer = await self.post(ASK, await self.key())
        assert answer.status == 200, await answer.text()
        return dict(parse_qsl(urlsplit((await answer.json())["url"]).query))

    def agree(self, link: dict[str, str]) -> str:
        """Agrees at the other side; gives the code that the browser brings back."""
        self.server.codes["code-of-theirs"] = link
        return "code-of-theirs"

    async def come_back(self, **query: str) -> tuple[int, str]:
        answer = await self.client.get("/oauth/callback", params=query)
        assert "text/html" == answer.content_type
        return answer.status, await answer.text()

    async def deeds(self) -> list[str]:
        async with self.store.database.read() as conn:
            table = AuditEntry.__table__
            deeds = await conn.scalars(sa.select(table.c.action).order_by(table.c.seq))
            return [deed for deed in deeds if deed.startswith(("token.", "consent."))]


async def _house(store: Store, server: RotatingServer, service: Service) -> str:
    await service.organizations.create("hlf", "HLF")
    await service.organizations.create("nbf", "NBF")
    made = await service.integrations.create(
        "hlf", "rotating", settings={"base_url": server.url},
        credentials={"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET},
    )  # fmt: skip
    return made.id


@pytest.fixture
async def house(store: Store) -> AsyncIterator[House]:
    tokens = TokenService(store)
    async with RotatingServer().running() as server, registry_of(tokens) as registry:
        service = Service(store=store, registry=registry, bell=SilentBell(), public_url=PUBLIC_URL)
        integration_id = await _house(store, server, service)
        async with TestClient(TestServer(create_app(service))) as client:
            yield House(store, server, service, client, integration_id, registry)
        await tokens.close()


# ── there and back ───────────────────────────────────────────────────────────


async def test_a_person_who_agrees_connects_the_integration(house: House) -> None:
    before = await house.service.integrations.test("hlf", "rotating")
    assert before.error is not None
    assert "auth_sign_in_needed" == before.error.code
    assert "needs_reauthentication" == (await house.service.get_integration_status("hlf", "rotating")).connection
    link = await house.link()
    status, page = await house.come_back(state=link["state"], code=house.agree(link))
    assert (200, True) == (status, "Rotating is connected." in page)
    assert "connected" == (await house.service.get_integration_status("hlf", "rotating")).connection
    assert (await house.service.integrations.test("hlf", "rotating")).ok
    assert ["consent.asked", "consent.given"] == await house.deeds()


async def test_the_link_says_what_it_must_and_no_parameter_of_the_plugin_replaces_it(house: House) -> None:
    answer = await (await house.post(ASK, await house.key())).json()
    link = dict(parse_qsl(urlsplit(answer["url"]).query))
    fixed = {name: link[name] for name in ("tenant", "response_type", "client_id", "redirect_uri", "prompt")}
    assert {
        "tenant": "7", "response_type": "code", "client_id": CLIENT_ID, "redirect_uri": REDIRECT_URI,
        "prompt": "consent",
    } == fixed  # fmt: skip
    assert ("S256", 43, "read offline_access") == (
        link["code_challenge_method"], len(link["code_challenge"]), link["scope"],
    )  # fmt: skip
    assert len(link["state"]) >= 43
    assert answer["url"].startswith(f"{house.server.url}/authorize?tenant=7&")
    lasts = dt.datetime.fromisoformat(answer["expires_at"]) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(minutes=9) < lasts <= dt.timedelta(minutes=10)


async def test_the_exchange_proves_itself_by_the_verifier_and_names_the_same_address(house: House) -> None:
    link = await house.link()
    await house.come_back(state=link["state"], code=house.agree(link))
    (form,) = house.server.forms
    assert {
        "grant_type": "authorization_code", "redirect_uri": REDIRECT_URI, "code": "code-of-theirs",
        "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "code_verifier": form["code_verifier"],
    } == form  # fmt: skip
    assert 43 <= len(form["code_verifier"]) <= 128


async def test_what_was_brought_is_renewed_by_its_refresh_token_from_then_on(house: House) -> None:
    link = await house.link()
    await house.come_back(state=link["state"], code=house.agree(link))
    view = await house.service.refresh_oauth_token(house.integration_id)
    assert (house.integration_id, 2) == (view.integration, view.generation)
    assert ["authorization_code", "refresh_token"] == [form["grant_type"] for form in house.server.forms]


async def test_neither_state_nor_verifier_is_readable_in_the_database(house: House) -> None:
    link = await house.link()
    await house.come_back(state=link["state"], code=house.agree(link))
    async with house.store.database.read() as conn:
        (row,) = (await conn.execute(sa.select(Consent.__table__))).all()
    kept = " ".join(str(value) for value in row) + bytes(row.sealed).decode("latin-1")
    assert link["state"] not in kept
    assert house.server.forms[0]["code_verifier"] not in kept


# ── what goes wrong ──────────────────────────────────────────────────────────


async def test_a_link_works_once(house: House) -> None:
    link = await house.link()
    code = house.agree(link)
    answers = await asyncio.gather(*(house.come_back(state=link["state"], code=code) for _ in range(5)))
    assert [200, 404, 404, 404, 404] == sorted(status for status, _ in answers)
    assert 1 == house.server.token_calls


async def test_a_preview_of_the_address_does_not_use_the_link_up(house: House) -> None:
    link = await house.link()
    query = {"state": link["state"], "code": house.agree(link)}
    assert 200 == (await house.client.head("/oauth/callback", params=query)).status
    assert 200 == (await house.come_back(**query))[0]


async def test_a_link_that_is_too_old_is_worth_nothing(house: House) -> None:
    link = await house.link()
    async with house.store.database.write() as conn:
        past = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
        await conn.execute(sa.update(Consent.__table__).values(expires_at=past))
    status, page = await house.come_back(state=link["state"], code=house.agree(link))
    assert (404, True, 0) == (status, "too old" in page, house.server.token_calls)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"state": ""},
        {"state": "<script>alert(1)</script>", "code": "<b>x</b>", "error": "<i>y</i>"},
        {"state": "x" * 5000},
        {"state": "\x00", "code": "\ud7ff"},
        {"code": "1", "session_state": "2", "more": "3"},
    ],
)
async def test_what_nobody_asked_for_gets_a_page_that_repeats_none_of_it(house: House, query: dict[str, str]) -> None:
    status, page = await house.come_back(**query)
    assert 404 == status
    assert not any(value in page for value in query.values() if len(value) > 1)
    assert "<script" not in page


@pytest.mark.parametrize("error", ["access_denied", "<b>server_error</b>"])
async def test_a_no_from_the_other_side_is_told_in_our_words_and_uses_the_link_up(house: House, error: str) -> None:
    link = await house.link()
    status, page = await house.come_back(state=link["state"], error=error, error_description="CANARY-words")
    assert (409, False, False) == (status, error in page, "CANARY" in page)
    assert 404 == (await house.come_back(state=link["state"], code=house.agree(link)))[0]
    assert ["consent.asked", "consent.refused"] == await house.deeds()


@pytest.mark.parametrize(
    ("iss", "status"), [("https://evil.example", 409), ("", 409), ("own", 200), ("http://127.0.0.1:1", 409)]
)
async def test_who_says_so_is_checked_where_they_say_it(house: House, iss: str, status: int) -> None:
    link = await house.link()
    named = house.server.url if iss == "own" else iss
    assert status == (await house.come_back(state=link["state"], code=house.agree(link), iss=named))[0]
    assert (status == 200) is (house.server.token_calls == 1)


async def test_a_code_they_do_not_take_is_told_and_nothing_is_kept(house: House) -> None:
    link = await house.link()
    status, page = await house.come_back(state=link["state"], code="CANARY-code")
    assert (502, True, False) == (status, "refused" in page, "CANARY" in page)
    async with house.store.database.read() as conn:
        assert [] == (await conn.execute(sa.select(KeptToken.__table__))).all()


async def test_an_answer_for_settings_that_were_changed_meanwhile_is_not_taken(house: House) -> None:
    link = await house.link()
    changed = {"base_url": house.server.url, "label": "new"}
    await house.service.integrations.update("hlf", "rotating", settings=changed)
    status, page = await house.come_back(state=link["state"], code=house.agree(link))
    assert (409, True, 0) == (status, "changed" in page, house.server.token_calls)


async def test_without_a_public_address_no_link_is_given(house: House) -> None:
    service = Service(store=house.store, registry=house.registry, bell=SilentBell())
    async with TestClient(TestServer(create_app(service))) as client:
        key = await service.create_key("test", verbs=ALL_VERBS, organizations=None)
        answer = await client.post(ASK, headers={"Authorization": f"Bearer {key}"})
        said = await answer.json()
    assert (409, "public_url_missing") == (answer.status, said["code"])
    assert "SAMBAND_PUBLIC_URL" in said["hint"]


async def test_asking_for_consent_needs_the_verb_and_the_organisation(house: House) -> None:
    assert 403 == (await house.post(ASK, await house.key("read", "operate"))).status
    assert 404 == (await house.post(ASK, await house.key(organizations=["nbf"]))).status


# ── renewing by hand ─────────────────────────────────────────────────────────


async def connected(house: House) -> str:
    house.server.number = 7_000_000
    link = await house.link()
    await house.come_back(state=link["state"], code=house.agree(link))
    return f"/v1/integrations/{house.integration_id}/token/refresh"


async def test_a_token_is_renewed_on_request_and_never_shown(house: House) -> None:
    path = await connected(house)
    answer = await house.post(path, await house.key("operate"))
    view = await answer.json()
    assert 200 == answer.status
    assert {"integration", "expires_at", "generation", "renewed_at"} == set(view)
    assert (house.integration_id, 2) == (view["integration"], view["generation"])
    assert "700000" not in await answer.text()
    assert "token.renewed" in await house.deeds()


async def test_requests_at_the_same_time_share_one_renewal(house: House) -> None:
    path, key = await connected(house), await house.key("operate")
    house.server.delay_s = 0.5
    answers = await asyncio.gather(*(house.post(path, key) for _ in range(10)))
    assert {200} == {answer.status for answer in answers}
    assert (1, 0) == (house.server.renewals, house.server.spent_twice)


async def test_a_foreign_integration_is_answered_like_an_unknown_one(house: House) -> None:
    path = await connected(house)
    foreign = await house.post(path, await house.key("operate", organizations=["nbf"]))
    unknown = await house.post(path.replace(house.integration_id, "0198nobody"), await house.key("operate"))
    said = [await answer.json() for answer in (foreign, unknown)]
    for one in said:
        del one["instance"]
    assert (404, 404) == (foreign.status, unknown.status)
    assert said[0] == said[1]
    assert 403 == (await house.post(path, await house.key("read"))).status
    with pytest.raises(NotFoundError):
        await house.service.refresh_oauth_token(house.integration_id, organizations=["nbf"])
    assert 1 == house.server.token_calls


async def test_a_refused_renewal_is_a_problem_that_says_who_has_to_do_what(house: House) -> None:
    path, key = await connected(house), await house.key("operate")
    house.server.is_revoked = True
    for _ in range(2):
        answer = await house.post(path, key)
        said: dict[str, Any] = await answer.json()
        assert (409, "auth_grant_refused", "They say no.") == (answer.status, said["code"], said["remote_message"])
        assert "consent link" in said["hint"]
    assert 2 == house.server.token_calls
    status = await house.service.get_integration_status("hlf", "rotating")
    assert "needs_reauthentication" == status.connection
