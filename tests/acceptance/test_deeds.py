"""Every deed that the API offers leaves its entry, by the key that did it; an operation that nobody has judged fails this.

In one process, with a plugin that can do everything and another one that a person has to agree to.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import sqlalchemy as sa
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr
from standardwebhooks import Webhook

from samband import (
    Check,
    CredentialsModel,
    ExportFile,
    Manifest,
    Page,
    Receipt,
    Record,
    RemoteError,
    SettingsModel,
    Stream,
    Token,
    hookimpl,
    webhooks,
)
from samband.api import create_app
from samband.flow import Flow, FlowSettings
from samband.service import Service
from samband.store import Store
from samband.store.audit import HOST
from samband.store.models import Alert, AuditEntry, DeadLetter, ExportItem, Run
from samband.store.trail import Wanted
from samband.tokens import TokenService
from tests.integration.playing import SilentBell
from tests.rotation.caller import registry_of
from tests.rotation.server import CLIENT_ID, CLIENT_SECRET, RotatingServer

NO_DEEDS = {
    "test_integration": "a light read; what it finds is on the integration",
    "refresh_chart": "it reads the other side's lists again; when, is on the copy",
    "preview_schedule": "it only reckons",
    "preview_export": "it only reckons",
    "preview_mapping": "it only reckons",
    "test_drop": "it signs in, and lists what lies there",
    "test_webhook": "it checks a sample of its own",
    "receive_delivery": "it comes from another system, by no key, and is kept in the inbox",
}
"""Operations that may change nothing anybody would ask after later, each with its reason."""

ORG, CANARY = "hlf", "canary-5f2e9a71-never-in-the-trail"
BASE = f"/v1/organizations/{ORG}"
OURS = f"{BASE}/integrations/everything"
HOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Settings(SettingsModel):
    label: str = ""


class Credentials(CredentialsModel):
    password: SecretStr


class Everything:
    """A plugin with every capability; ``trouble`` makes its reads fail."""

    manifest = Manifest(
        name="everything", title="Everything", version="1", settings=Settings, credentials=Credentials,
        streams=(
            Stream(name="people", kind="member", title="People"),
            Stream(name="memberships", kind="membership", title="Memberships"),
            Stream(name="courses", kind="course_enrollment", title="Courses"),
            Stream(name="vouchers", kind="reimbursement", title="Vouchers", direction="push"),
        ),
        capabilities=frozenset({"sync", "fetch", "webhook", "check", "export", "find_exported", "render", "acknowledge"}),
        webhook="standard-webhooks", field_classes=frozenset({"plain", "personal", "special"}),
    )  # fmt: skip
    trouble = False

    @hookimpl
    async def authenticate(self, ctx: Any) -> Token:
        return Token(value=SecretStr("a-token"))

    @hookimpl
    async def check(self, ctx: Any) -> Check:
        return Check(summary="There.")

    @hookimpl
    async def sync(self, ctx: Any, stream: str, cursor: str | None) -> AsyncIterator[Page]:
        if self.trouble:
            raise RemoteError("They do not want to.")
        values = {"status": "active", "first_name": CANARY}
        # What is no person lacks what it must have, and becomes the outcome that a retry is asked for.
        yield Page(records=[Record(key=f"{stream}-1", values=values)], cursor="1", complete=True)

    @hookimpl
    async def fetch(self, ctx: Any, stream: str, selection: Any) -> AsyncIterator[Page]:
        yield Page(complete=True)

    @hookimpl
    async def export(self, ctx: Any, batch: Any) -> AsyncIterator[Receipt]:
        for item in batch.items:
            yield Receipt(key=item.key, state="accepted", reference="V-1")

    @hookimpl
    async def find_exported(self, ctx: Any, keys: Any) -> AsyncIterator[Receipt]:
        nothing: list[Receipt] = []
        for receipt in nothing:
            yield receipt

    @hookimpl
    async def render(self, ctx: Any, batch: Any, profile: str) -> ExportFile:
        return ExportFile(name="claims.csv", media_type="text/csv", content=b"rows", rows=len(batch.items))

    @hookimpl
    async def acknowledge(self, ctx: Any, name: str, content: bytes) -> list[Receipt]:
        return [Receipt(key=content.decode(), state="posted", reference="1041")]

    @hookimpl
    async def handle_webhook(self, ctx: Any, request: Any) -> list[Any]:
        webhooks.verify_standard_webhooks(request)
        return []


@dataclass
class Desk:
    """A host's service and API, and one key that does everything here."""

    store: Store
    service: Service
    flow: Flow
    plugin: Everything
    client: TestClient[Any, Any]
    key: str
    server: RotatingServer
    seen: dict[str, int] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    wrong: dict[str, Any] = field(default_factory=dict)

    @property
    def actor(self) -> str:
        return f"key:{self.key.split('_')[1]} drift"

    async def do(
        self,
        name: str,
        path: str,
        body: Any = None,
        *,
        expect: str | tuple[str, ...] = (),
        chain: str = ORG,
        raw: bytes | None = None,
    ) -> Any:
        """Performs one operation of the document by its name, and compares what it left in the trail."""
        method = next(m for (n, m) in self.operations if n == name)
        sent = {"json": body} if raw is None else {"data": raw}
        answer = await self.client.request(method, path, headers={"Authorization": f"Bearer {self.key}"}, **sent)
        text = await answer.text()
        assert answer.status < 300, (name, answer.status, text)
        entries = await self._new_entries(chain)
        expected = (expect,) if isinstance(expect, str) else expect
        told = [entry.action for entry in entries if entry.actor == self.actor]
        self.left.setdefault(name, []).extend(told)
        if not set(expected) <= set(told) or (not expected and name not in NO_DEEDS):
            self.wrong[name] = {"expected": expected, "told": [(e.actor, e.action) for e in entries]}
        return await answer.json() if text else None

    async def done(self, method: str, path: str, body: Any) -> None:
        """Performs what leaves no entry, or none that is looked at."""
        answer = await self.client.request(method, path, json=body, headers={"Authorization": f"Bearer {self.key}"})
        assert answer.status < 300, await answer.text()
        await self._new_entries(ORG)

    async def _new_entries(self, chain: str) -> list[AuditEntry]:
        entries = await self.store.trail.page(chain, Wanted(), after=self.seen.get(chain, 0), limit=500)
        if entries:
            self.seen[chain] = entries[-1].seq
        return entries

    async def learn(self) -> None:
        document = await (await self.client.get("/openapi.json")).json()
        drawn = [(op["operationId"], m.upper()) for ops in document["paths"].values() for m, op in ops.items()]
        self.operations = drawn
        self.changing = {name for name, method in drawn if method != "GET"}

    async def quietly(self, run_id: str) -> str:
        """Carries a run out, and takes note of what the trail says of it."""
        await self.flow.execute(run_id)
        await self._new_entries(ORG)
        return (await self.service.runs.get(ORG, run_id)).state

    async def set_run(self, run_id: str, **values: Any) -> None:
        table: sa.Table = Run.__table__
        async with self.store.database.write() as conn:
            await conn.execute(sa.update(table).where(table.c.id == run_id).values(**values))

    async def insert(self, row: Any) -> int:
        values = {name: value for name, value in row.model_dump().items() if name != "id"}
        async with self.store.database.write() as conn:
            number = await conn.scalar(sa.insert(row.__table__).values(**values).returning(row.__table__.c.id))
        return int(number or 0)


@pytest.fixture
async def desk(store: Store, tmp_path: Path) -> AsyncIterator[Desk]:
    tokens, plugin = TokenService(store), Everything()
    async with RotatingServer().running() as server, registry_of(tokens) as registry:
        registry.add(plugin, name="everything", distribution="samband-everything", version="1")
        bell = SilentBell()
        service = Service(
            store=store, registry=registry, bell=bell, public_url="https://samband.example", drop_root=tmp_path
        )
        flow = Flow(store=store, registry=registry, settings=FlowSettings(owner="one"))
        key = await service.create_key("drift", verbs=["read", "operate", "configure", "admin"], organizations=None)
        async with TestClient(TestServer(create_app(service))) as client:
            made = Desk(store, service, flow, plugin, client, key, server)
            await made.learn()
            await made._new_entries(HOST)
            yield made
        await tokens.close()


async def test_every_deed_leaves_an_entry_by_the_key_that_did_it(desk: Desk) -> None:
    await _set_up(desk)
    await _keys(desk)
    await _schedules(desk)
    await _runs(desk)
    await _mapping(desk)
    await _drop(desk)
    await _claims(desk)
    await _webhook(desk)
    await _subscriptions(desk)
    await _consent(desk)
    await _troubles(desk)
    await desk.do("disable_integration", f"{OURS}/disable", expect="integration.disabled")
    assert {} == desk.wrong
    assert set() == desk.changing - set(desk.left) - set(NO_DEEDS), "say what these leave in the trail, or why nothing"
    assert set() == {name for name, told in desk.left.items() if told} & set(NO_DEEDS)
    await _nothing_got_in(desk)


async def _set_up(desk: Desk) -> None:
    await desk.do("create_organization", "/v1/organizations", {"id": ORG, "name": "HLF"}, expect="organization.created")
    body = {"type": "everything", "settings": {}, "credentials": {"password": CANARY}}
    await desk.do("create_integration", f"{BASE}/integrations", body, expect=("integration.created", "credentials.set"))
    await desk.do("update_integration", OURS, {"settings": {"label": "x"}}, expect="integration.changed")
    body = {"credentials": {"password": f"{CANARY}-2"}}
    await desk.do("set_credentials", f"{OURS}/credentials", body, expect="credentials.replaced")
    await desk.do("test_integration", f"{OURS}/test")
    await desk.do("enable_integration", f"{OURS}/enable", expect="integration.enabled")


async def _keys(desk: Desk) -> None:
    made = await desk.do(
        "create_key", "/v1/keys", {"name": "more", "verbs": ["read"], "organizations": [ORG]}, expect="key.created"
    )
    await desk.do("revoke_key", f"/v1/keys/{made['id']}", expect="key.revoked")
    await desk.do("create_key", "/v1/keys", {"name": "all", "verbs": ["read"]}, expect="key.created", chain=HOST)


async def _schedules(desk: Desk) -> None:
    nightly = {"cron": "30 2 * * *", "zone": "Europe/Oslo"}
    await desk.do("preview_schedule", "/v1/schedules/preview", nightly)
    await desk.do("schedule_sync", f"{OURS}/schedule", nightly, expect="schedule.created")
    await desk.do("schedule_sync", f"{OURS}/schedule", nightly | {"full": True}, expect="schedule.changed")
    await desk.do("cancel_scheduled_sync", f"{OURS}/schedule", expect="schedule.deleted")
    one = f"{OURS}/schedules/nightly"
    await desk.do("put_named_schedule", one, nightly, expect="schedule.created")
    await desk.do("pause_schedule", f"{one}/pause", expect="schedule.paused")
    await desk.do("resume_schedule", f"{one}/resume", {}, expect="schedule.resumed")
    await desk.do("delete_named_schedule", one, expect="schedule.deleted")


async def _runs(desk: Desk) -> None:
    run = await desk.do("trigger_run", f"{OURS}/runs", {}, expect="run.ordered")
    await desk.do("cancel_run", f"{BASE}/runs/{run['id']}/cancel", expect="run.cancelled")
    run = await desk.do("retry_run", f"{BASE}/runs/{run['id']}/retry", expect="run.retried")
    assert "partial" == await desk.quietly(run["id"])
    again = await desk.do("retry_failed", f"{BASE}/runs/{run['id']}/retry-failed", expect="run.failed_retried")
    await desk.quietly(again["run"]["id"])
    for name, path in (("sync_membership_data", "memberships"), ("sync_course_enrollments", "course-enrollments")):
        started = await desk.do(name, f"{BASE}/{path}/sync", {}, expect="run.ordered")
        await desk.quietly(started["runs"][0]["id"])
    for name, decision in (("approve_run", "approve"), ("reject_run", "reject")):
        run = await desk.do("trigger_run", f"{OURS}/runs", {}, expect="run.ordered")
        brake = {
            "reason": "removals", "stream": "people", "would_delete": 30, "would_deactivate": 0, "held": 100,
            "share": 0.1, "limit": 20,
            "held_at": "2026-01-01T00:00:00Z", "released": {},
        }  # fmt: skip
        await desk.set_run(run["id"], state="held", brake=brake)
        past = {"approve": "run.approved", "reject": "run.rejected"}[decision]
        await desk.do(name, f"{BASE}/runs/{run['id']}/{decision}", {"reason": "It is so. " * 50}, expect=past)
        await desk.set_run(run["id"], state="cancelled", finished_at=dt.datetime.now(dt.UTC))
    run = await desk.do(
        "order_backfill", f"{OURS}/backfills", {"stream": "people", "keys": ["a"]}, expect="backfill.ordered"
    )
    await desk.quietly(run["id"])
    run = await desk.do("order_dry_run", f"{OURS}/dry-runs", {}, expect="dry_run.ordered")
    await desk.quietly(run["id"])


async def _claims(desk: Desk) -> None:
    claim = {
        "payee": {"id": "p-17", "name": CANARY, "bank_account": "12345678903"}, "currency": "NOK",
        "status": "approved",
        "lines": [{"expense_type": "mileage", "date": "2026-03-01", "amount": "100.00"}],
    }  # fmt: skip
    one = f"{BASE}/reimbursements/c-1"
    await desk.done("PUT", one, claim | {"text": "first"})  # a new claim is data, and comes in by the thousand
    await desk.do("put_reimbursement", one, claim, expect="reimbursement.changed")
    many = {"items": [{"id": "c-2", **claim, "text": "first"}]}
    await desk.done("PUT", f"{BASE}/reimbursements", many)
    many = {"items": [{"id": "c-2", **claim}]}
    await desk.do("put_reimbursements", f"{BASE}/reimbursements", many, expect="reimbursement.changed")
    both = {"ids": ["c-1", "c-2"]}
    await desk.do("preview_export", f"{BASE}/reimbursements/export/preview", both)
    ordered = await desk.do("export_reimbursements", f"{BASE}/reimbursements/export", both, expect="export.ordered")
    await desk.set_run(ordered["run"]["id"], state="succeeded")
    await _decide_on_item(desk, "c-2")
    for deed, told in (("dismiss", "correction.dismissed"), ("approve", "correction.approved")):
        await _book(desk, "c-1")
        await desk.done("PUT", one, claim | {"text": deed})
        (proposed,) = (await desk.service.reimbursements.corrections(ORG, state="proposed")).items
        of = f"{BASE}/corrections/{proposed.id}/{deed}"
        await desk.do(f"{deed}_correction", of, {"reason": "It was so."}, expect=told)


async def _mapping(desk: Desk) -> None:
    mapping = {
        "payee": {"strategy": "liability", "account": "2990"}, "expense_types": {"mileage": {"account": "7140"}},
    }  # fmt: skip
    put = f"{OURS}/mapping"
    await desk.do("put_mapping", put, {"mapping": mapping, "note": CANARY}, expect="mapping.saved")
    await desk.done("PUT", put, {"mapping": mapping | {"voucher_type": "GL"}})
    await desk.do("restore_mapping", f"{put}/restore", {"version": 1, "note": CANARY}, expect="mapping.saved")
    await desk.do("preview_mapping", f"{put}/preview", {"mapping": mapping})


async def _drop(desk: Desk) -> None:
    drop = f"{OURS}/drop"
    await desk.do("put_drop", drop, {"settings": {"kind": "folder"}}, expect="drop.changed")
    await desk.do("test_drop", f"{drop}/test")
    await desk.do("delete_drop", drop, expect="drop.removed")


async def _decide_on_item(desk: Desk, id: str) -> None:
    """Has somebody export a claim once more, and settle the new item when nobody knows what became of it."""
    table: sa.Table = ExportItem.__table__
    reason = {"reason": "Seen in their list."}

    async def become_unknown() -> None:
        async with desk.store.database.write() as conn:
            mine = sa.and_(table.c.reimbursement_id == id, table.c.state == "reserved")
            await conn.execute(sa.update(table).where(mine).values(state="unknown"))

    await become_unknown()
    again = await desk.do("export_again", f"{BASE}/reimbursements/{id}/export-again", reason, expect="export.repeated")
    await become_unknown()
    report = f"{BASE}/exports/acknowledgements?type=everything&name=report.csv"
    path = f"{BASE}/exports/{again['item']}/resolve"
    await desk.do("resolve_export", path, {"outcome": "booked", **reason}, expect="export.resolved")
    await desk.do("acknowledge_export", report, raw=again["item"].encode(), expect="export.acknowledged")
    await desk.set_run(again["run"]["id"], state="succeeded")


async def _book(desk: Desk, id: str) -> None:
    """Has a claim's item booked, as a voucher."""
    line = {"text": "Toll", "dimensions": {}, "tax_rule": None, "payee": None, "quantity": None}
    voucher = {
        "number": 7, "type": "HB", "date": "2026-03-02", "currency": "NOK", "text": "Claim", "claim": id,
        "mapping_version": 1, "reverses": None,
        "lines": [{"n": n, "key": f"k-{n}", "account": "1", "amount": a, **line} for n, a in ((1, "1.00"), (2, "-1.00"))],
    }  # fmt: skip
    table: sa.Table = ExportItem.__table__
    async with desk.store.database.write() as conn:
        booked = sa.update(table).where(table.c.reimbursement_id == id)
        await conn.execute(booked.values(state="posted", voucher=voucher))


async def _webhook(desk: Desk) -> None:
    hook = f"{OURS}/webhook"
    await desk.do("put_webhook", hook, {"secret": HOOK_SECRET}, expect="webhook.created")
    await desk.do("test_webhook", f"{hook}/test")
    told = await desk.do("replace_webhook_secret", f"{hook}/secret", {}, expect="webhook.secret_replaced")
    secret = told["secret"]
    address = (await desk.do("put_webhook", hook, {"new_address": True}, expect="webhook.changed"))["address"]
    body, now = json.dumps({"changed": []}), dt.datetime.now(dt.UTC)
    signed = {
        "webhook-id": "msg_1", "webhook-timestamp": str(int(now.timestamp())), "Content-Type": "application/json",
        "webhook-signature": Webhook(secret).sign("msg_1", now, body),
    }  # fmt: skip
    delivered = await desk.client.post(f"/webhooks/{address.partition('/webhooks/')[2]}", data=body, headers=signed)
    assert delivered.status < 300, await delivered.text()
    assert [] == await desk._new_entries(ORG), "a delivery is nobody's deed"
    again = {"since": "2020-01-01T00:00:00Z"}
    await desk.do("replay_deliveries", f"{hook}/deliveries/replay", again, expect="deliveries.replayed")
    await desk.do("delete_webhook", hook, expect="webhook.removed")


async def _subscriptions(desk: Desk) -> None:
    made = await desk.do(
        "create_subscription",
        f"{BASE}/subscriptions",
        {"url": "https://example.org/hook"},
        expect="subscription.created",
    )
    one = f"{BASE}/subscriptions/{made['id']}"
    body = {"description": "ours"}
    await desk.do("update_subscription", one, body, expect="subscription.changed")
    await desk.do("replace_subscription_secret", f"{one}/secret", {}, expect="subscription.secret_replaced")
    await desk.do("test_subscription", f"{one}/test", expect="subscription.tested")
    await desk.do("disable_subscription", f"{one}/disable", expect="subscription.disabled")
    await desk.do("enable_subscription", f"{one}/enable", {}, expect="subscription.enabled")
    await desk.do("replay_events", f"{one}/replay", {"after": 0}, expect="subscription.replayed")
    await desk.do("delete_subscription", one, expect="subscription.deleted")


async def _consent(desk: Desk) -> None:
    made = await desk.service.integrations.create(
        ORG, "rotating", settings={"base_url": desk.server.url},
        credentials={"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET},
    )  # fmt: skip
    await desk._new_entries(ORG)
    link = await desk.do("ask_consent", f"{BASE}/integrations/rotating/consent", expect="consent.asked")
    said = dict(parse_qsl(urlsplit(link["url"]).query))
    desk.server.codes["code-of-theirs"] = said
    back = await desk.client.get("/oauth/callback", params={"state": said["state"], "code": "code-of-theirs"})
    assert 200 == back.status
    assert ["consent.given"] == [entry.action for entry in await desk._new_entries(ORG)]
    await desk.do("refresh_oauth_token", f"/v1/integrations/{made.id}/token/refresh", expect="token.renewed")


async def _troubles(desk: Desk) -> None:
    integration = await desk.store.catalog.integration(ORG, "everything")
    now = dt.datetime.now(dt.UTC)
    desk.plugin.trouble = True
    (live,) = [r for r in (await desk.service.runs.page(ORG)).items if r.is_live] or [None]
    if live is not None:
        await desk.quietly(live.id)
    run = await desk.do("trigger_run", f"{OURS}/runs", {"streams": ["people"]}, expect="run.ordered")
    assert "failed" == await desk.quietly(run["id"])
    desk.plugin.trouble = False
    letter = await desk.insert(
        DeadLetter(
            organization_id=ORG, integration_id=integration.id, run_id=run["id"], operation="sync",
            reason="unavailable", message="Away.", occurrences=1, created_at=now, updated_at=now,
        )
    )  # fmt: skip
    alert = await desk.insert(
        Alert(
            organization_id=ORG, integration_id=integration.id, subject="integration/1", kind="stale",
            severity="warning", message="Old.", data={}, opened_at=now,
        )
    )  # fmt: skip
    acknowledge = f"{BASE}/dead-letters/{letter}/acknowledge"
    await desk.do("acknowledge_dead_letter", acknowledge, expect="dead_letter.acknowledged")
    await desk.do("acknowledge_alert", f"{BASE}/alerts/{alert}/acknowledge", expect="alert.acknowledged")


async def _nothing_got_in(desk: Desk) -> None:
    for chain in (HOST, ORG):
        assert None is (await desk.store.trail.verify(chain)).flaw
        kept = str([entry.model_dump() for entry in await desk.store.trail.page(chain, Wanted(), after=0, limit=1000)])
        for secret in (CANARY, HOOK_SECRET, CLIENT_SECRET, desk.key.split("_", 2)[2], "12345678903", "whsec_"):
            assert secret not in kept
