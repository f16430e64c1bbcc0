"""Plugins that are told of changes, one for each kind of proof, and the parts of a host that take deliveries in."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from aiohttp.test_utils import TestClient
from pydantic import SecretStr
from standardwebhooks import Webhook

from samband import (
    CredentialsModel,
    Manifest,
    Page,
    SettingsModel,
    Stream,
    Token,
    Trigger,
    WebhookAnswer,
    WebhookRequest,
    hookimpl,
    webhooks,
)
from samband.adapters.registry import Registry
from samband.contract import WebhookProof
from samband.service import Service
from samband.store import Store
from samband.store.models import Integration, Run

Client = TestClient[Any, Any]
BODY = b'{"changed": {"things": ["t1"]}}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PLAIN_SECRET = "a-secret-of-twenty-eight-letters"


class Settings(SettingsModel):
    pass


class Credentials(CredentialsModel):
    pass


class Told:
    """A plugin whose deliveries say ``{"changed": {"things": [keys]}}``, and may say ``"do"``: what it then does wrong.

    Attributes:
        heard: Every request that got past the proof.
        meanwhile: Called when a delivery says ``{"do": "meanwhile"}``, before it is stored.
    """

    def __init__(self, name: str, proof: WebhookProof, verify: Callable[[WebhookRequest], Any]) -> None:
        self.manifest = Manifest(
            name=name, title=name.title(), version="1.0", settings=Settings, credentials=Credentials,
            streams=(
                Stream(name="people", kind="member", title="People"),
                Stream(name="things", kind="member", title="Things"),
            ),
            capabilities=frozenset({"sync", "webhook"}), webhook=proof,
            field_classes=frozenset({"plain", "personal", "special"}),
        )  # fmt: skip
        self.verify = verify
        self.heard: list[WebhookRequest] = []
        self.meanwhile: Callable[[], None] = lambda: None

    @hookimpl
    async def authenticate(self, ctx: Any) -> Token:
        return Token(value=SecretStr("a-token"))

    @hookimpl
    async def sync(self, ctx: Any, stream: str, cursor: str | None) -> AsyncIterator[Page]:
        yield Page(complete=True)

    @hookimpl
    async def handle_webhook(self, ctx: Any, request: WebhookRequest) -> Any:
        if request.method == "GET":
            return WebhookAnswer(body=request.query.get("challenge", "").encode())
        self.verify(request)
        self.heard.append(request)
        said = webhooks.json_object(request)
        match said.get("do"):
            case "break":
                return "nonsense"
            case "hang":
                await asyncio.sleep(60)
            case "call":
                await ctx.http.request("GET", "https://example.org/")
            case "meanwhile":
                await asyncio.to_thread(self.meanwhile)
            case "log":
                ctx.log.warning("told", note=f"signed with {request.secrets[0].get_secret_value()}")
            case "raise":
                raise KeyError("a member's name")
        ids = said.get("id")
        return [Trigger(stream=stream, keys=keys, delivery_id=ids) for stream, keys in said.get("changed", {}).items()]


def standard() -> Told:
    return Told("standard", "standard-webhooks", webhooks.verify_standard_webhooks)


def signed_hex() -> Told:
    return Told("signed", "hmac", lambda request: webhooks.verify_hmac(request, header="X-Signature", prefix="sha256="))


def keyed() -> Told:
    return Told("keyed", "header", lambda request: webhooks.verify_header(request, header="x-api-key"))


def queried() -> Told:
    return Told("queried", "query", lambda request: webhooks.verify_query(request, parameter="code"))


def unproved() -> Told:
    return Told("unproved", "none", lambda request: None)


class Bell:
    """Remembers whom it rang for."""

    def __init__(self) -> None:
        self.rung: list[str] = []

    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool:
        self.rung.append(run_id)
        return True

    async def ping(self) -> float | None:
        return 0.001

    async def depth(self) -> int | None:
        return 0


@dataclass
class Door:
    """A service with every plugin of this module, connected for one organisation and enabled."""

    store: Store
    service: Service
    registry: Registry
    bell: Bell
    plugins: Mapping[str, Told]
    paths: dict[str, str] = field(default_factory=dict)

    async def connect(self, type: str, *, org: str = "hlf", secret: str | None = None) -> Integration:
        """Adds an enabled integration with an address."""
        if org not in {o.id for o in await self.store.catalog.organizations()}:
            await self.service.organizations.create(org, org)
        pending = self.store.catalog.pending({}, {})
        integration = await self.store.catalog.add_integration(org, type, type, {}, pending)
        integration = await self.store.catalog.change_integration(integration, state="enabled")
        view = await self.service.webhooks.put(org, type, secret=secret)
        assert view.address is not None
        self.paths[type if org == "hlf" else f"{org}/{type}"] = view.address
        return integration

    async def rows(self) -> list[Any]:
        async with self.store.database.read() as conn:
            return list(await conn.execute(sa.text("SELECT * FROM inbox ORDER BY id")))

    async def counts(self, type: str = "standard", org: str = "hlf") -> dict[str, int]:
        """Gives what is counted, without what is not."""
        view = await self.service.webhooks.get(org, type)
        return {**{k: v for k, v in view.counts.items() if v}, **{f"refused:{k}": v for k, v in view.refused.items()}}

    async def runs(self) -> list[Run]:
        async with self.store.database.read() as conn:
            rows = await conn.execute(sa.select(Run.__table__).order_by(sa.text("id")))
            return [Run(**row._mapping) for row in rows]

    async def end_runs(self) -> None:
        async with self.store.database.write() as conn:
            await conn.execute(sa.text("UPDATE run SET state = 'succeeded'"))


def sign(
    body: bytes, *, id: str = "msg_1", secret: str = SECRET, at: dt.datetime | None = None, **headers: str
) -> dict[str, str]:
    """Gives the headers of a delivery, signed by the specification's own library."""
    at = at or dt.datetime.now(dt.UTC)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(id, at, body.decode()),
        **headers,
    }


async def until(condition: Callable[[], Any], patience_s: float = 20.0) -> Any:
    """Waits until something has come true, and gives it."""
    async with asyncio.timeout(patience_s):
        while not (found := await condition()):
            await asyncio.sleep(0.01)
    return found


async def deliver(client: Client, path: str, body: bytes = BODY, **headers: str) -> tuple[int, dict[str, Any]]:
    answer = await client.post(path, data=body, headers={"Content-Type": "application/json", **headers})
    return answer.status, await answer.json()


async def truth(value: Any) -> Any:
    return value


async def equal(coming: Any, expected: Any) -> bool:
    return bool(await coming == expected)
