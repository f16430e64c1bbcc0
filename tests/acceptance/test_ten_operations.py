"""The ten operations come to the same in Python, with the typed client, and on the command line.

One host carries an organisation for each way and operation; every way gives the document of the operation's answer.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio
from standardwebhooks import Webhook

from samband.client import Client
from samband.errors import SambandError
from samband.hosting.host import Host
from samband.receiving import Received
from samband.service import Service
from samband.settings import HostSettings
from samband.views import LIVE_STATES, View

from .commanding import CLAIM, Commands, install

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = b'{"changed": "p29"}'


class Way(Protocol):
    """One way to ask for an operation: gives the answer's document, or ``{"code": …}`` of what refused it."""

    async def ask(self, operation: str, *names: str, **options: Any) -> dict[str, Any]: ...


@dataclass
class ByPython:
    service: Service

    async def ask(self, operation: str, *names: str, **options: Any) -> dict[str, Any]:
        answer = await _refusals(getattr(self.service, operation)(*names, **options))
        return {"outcome": answer.outcome} if isinstance(answer, Received) else _document(answer)


@dataclass
class ByClient:
    client: Client

    async def ask(self, operation: str, *names: str, **options: Any) -> dict[str, Any]:
        answer = await _refusals(getattr(self.client, operation)(*names, **options))
        return {"outcome": answer} if isinstance(answer, str) else _document(answer)


@dataclass
class ByCommand:
    commands: Commands

    async def ask(self, operation: str, *names: str, **options: Any) -> dict[str, Any]:
        words = getattr(self, operation)(*names, **options)
        typed = await asyncio.to_thread(self.commands.type, *words, "--json")
        document: dict[str, Any] = typed.document
        return {"code": document["error"]["code"]} if "error" in document and typed.code else document

    def trigger_sync(self, org: str, type: str, *, streams: list[str] | None = None, full: bool = False) -> list[str]:
        chosen = [word for stream in streams or () for word in ("--stream", stream)]
        return ["sync", org, type, *chosen, *(["--full"] if full else [])]

    def get_integration_status(self, org: str, type: str) -> list[str]:
        return ["status", org, type]

    def get_last_sync_result(self, org: str, type: str) -> list[str]:
        return ["runs", "latest", org, type]

    def schedule_sync(self, org: str, type: str, *, cron: str, full: bool) -> list[str]:
        return ["schedule", "set", org, type, "--cron", cron, *(["--full"] if full else [])]

    def cancel_scheduled_sync(self, org: str, type: str) -> list[str]:
        return ["schedule", "delete", org, type]

    def sync_membership_data(self, org: str) -> list[str]:
        return ["memberships", "sync", org]

    def sync_course_enrollments(self, org: str) -> list[str]:
        return ["courses", "sync", org]

    def refresh_oauth_token(self, integration: str) -> list[str]:
        return ["token", "refresh", integration]

    def export_reimbursements(self, org: str, ids: list[str]) -> list[str]:
        return ["export", "order", org, *ids]

    def process_webhook_event(self, source: str, payload: bytes, *, headers: Mapping[str, str]) -> list[str]:
        # The command finds the address itself: it is a secret, and arguments can be read by everybody.
        org, type = self.sources[source]
        named = uuid.uuid4().hex
        body = self.commands.file(f"body-{named}", payload)
        return ["webhook", "deliver", org, type, "--file", body, "--headers",
                self.commands.file(f"headers-{named}", dict(headers))]  # fmt: skip

    def __post_init__(self) -> None:
        self.sources: dict[str, tuple[str, str]] = {}


async def _refusals(answer: Any) -> Any:
    try:
        return await answer
    except SambandError as error:
        return error


def _document(answer: Any) -> dict[str, Any]:
    if isinstance(answer, SambandError):
        return {"code": answer.code}
    assert isinstance(answer, View)
    return dict(json.loads(answer.model_dump_json()))


@dataclass
class Home:
    """A running host, and the ways to it."""

    service: Service
    ways: Mapping[str, Way]

    async def connected(self, org: str) -> str:
        """Adds an organisation with both systems, tested and enabled; gives the id of the first one's integration."""
        await self.service.organizations.create(org, org)
        for type, credentials in (("learning", {"secret": "s3cret"}), ("books", {})):
            made = await self.service.integrations.create(org, type, settings={}, credentials=credentials)
            check = await self.service.integrations.test(org, type)
            assert check.ok, check
            await self.service.integrations.enable(org, type)
            if type == "learning":
                learning = made.id
        return learning

    async def ended(self, run: Mapping[str, Any]) -> tuple[str, list[str], dict[str, int]]:
        """Waits for a run, and gives how it ended, what it read and what became of the records."""
        async with asyncio.timeout(60):
            while (now := await self.service.runs.get(run["organization"], run["id"])).state in LIVE_STATES:
                await asyncio.sleep(0.02)
        counts = {name: number for name, number in now.counts.model_dump().items() if number}
        return now.state, now.streams, counts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home(folder: Path) -> AsyncIterator[Home]:
    install(folder / "plugins")
    settings = HostSettings(
        data_dir=folder / "data", port=0, plugins_file=None, allow_installed=True, sweep_s=0.2,
        public_url="https://samband.example.org",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "plugins"))
        host = Host(settings)
        await host.start()
        try:
            assert host.admin_key is not None
            async with Client(host.url, host.admin_key) as client:
                command = ByCommand(Commands(host.url, host.admin_key, folder))
                yield Home(
                    host.service, {"python": ByPython(host.service), "client": ByClient(client), "command": command}
                )
        finally:
            await host.stop(drain=False)
            for name in ("learning", "books"):
                sys.modules.pop(name, None)


@pytest.fixture(params=["python", "client", "command"])
def way(request: pytest.FixtureRequest, home: Home) -> Way:
    return home.ways[request.param]


@pytest.fixture
def org() -> str:
    return f"org-{uuid.uuid4().hex[:12]}"


ALL = ["people", "memberships", "courses", "enrollments"]
FIRST = {"created": 33, "failed": 1}


async def test_sync_is_triggered_and_the_last_result_tells_of_it(home: Home, way: Way, org: str) -> None:
    await home.connected(org)
    assert {"code": "never_ran"} == await way.ask("get_last_sync_result", org, "learning")
    run = await way.ask("trigger_sync", org, "learning", full=True)
    assert (org, "learning", "sync", ALL, True) == tuple(
        run[name] for name in ("organization", "type", "operation", "streams", "full")
    )
    assert ("partial", ALL, FIRST) == await home.ended(run)
    last = await way.ask("get_last_sync_result", org, "learning")
    assert (run["id"], "partial", 33) == (last["id"], last["state"], last["counts"]["created"])


async def test_sync_of_chosen_streams_reads_only_those(home: Home, way: Way, org: str) -> None:
    await home.connected(org)
    run = await way.ask("trigger_sync", org, "learning", streams=["courses"])
    assert ("succeeded", ["courses"], {"created": 1}) == await home.ended(run)


async def test_sync_of_what_is_not_there_is_refused(home: Home, way: Way, org: str) -> None:
    assert {"code": "organization_not_found"} == await way.ask("trigger_sync", org, "learning")
    await home.service.organizations.create(org, org)
    assert {"code": "integration_not_found"} == await way.ask("trigger_sync", org, "learning")


async def test_status_tells_how_the_integration_is_doing(home: Home, way: Way, org: str) -> None:
    integration = await home.connected(org)
    await home.ended(await way.ask("trigger_sync", org, "learning"))
    status = await way.ask("get_integration_status", org, "learning")
    told = (status["integration"], status["state"], status["connection"], status["last_run"]["state"])
    assert (integration, "enabled", "connected", "partial") == told
    assert {"people": 30, "memberships": 1, "courses": 1, "enrollments": 1} == {
        stream["name"]: stream["records"] for stream in status["streams"]
    }


async def test_schedule_is_set_and_cancelled(home: Home, way: Way, org: str) -> None:
    await home.connected(org)
    assert {"code": "schedule_not_found"} == await way.ask("cancel_scheduled_sync", org, "learning")
    schedule = await way.ask("schedule_sync", org, "learning", cron="30 2 * * *", full=True)
    assert ("30 2 * * *", "Europe/Oslo", True, 10) == (
        schedule["cron"], schedule["zone"], schedule["full"], len(schedule["next"]),
    )  # fmt: skip
    gone = await way.ask("cancel_scheduled_sync", org, "learning")
    assert {
        "organization": org, "type": "learning", "name": "default", "dropped_occurrences": 0, "cancelled_run": None,
        "live_run": None,
    } == gone  # fmt: skip
    assert [] == await home.service.schedules.all(org, "learning")


async def test_schedule_that_means_nothing_is_refused(home: Home, way: Way, org: str) -> None:
    await home.connected(org)
    refused = await way.ask("schedule_sync", org, "learning", cron="30 2 * *", full=False)
    assert {"code": "invalid_request"} == refused


async def test_membership_data_is_synchronised(home: Home, way: Way, org: str) -> None:
    await home.connected(org)
    started = await way.ask("sync_membership_data", org)
    assert ([], []) == (started["already_running"], started["not_started"])
    (run,) = started["runs"]
    assert ("partial", ["people", "memberships"], {"created": 31, "failed": 1}) == await home.ended(run)


async def test_course_enrolments_are_synchronised_with_what_they_refer_to(home: Home, way: Way, org: str) -> None:
    await home.connected(org)
    (run,) = (await way.ask("sync_course_enrollments", org))["runs"]
    told = ("partial", ["people", "courses", "enrollments"], {"created": 32, "failed": 1})
    assert told == await home.ended(run)


@pytest.mark.parametrize("operation", ["sync_membership_data", "sync_course_enrollments"])
async def test_organisation_without_what_is_asked_for_is_told_so(
    home: Home, way: Way, org: str, operation: str
) -> None:
    await home.service.organizations.create(org, org)
    assert {"code": "nothing_connected"} == await way.ask(operation, org)


async def test_token_is_renewed_and_never_shown(home: Home, way: Way, org: str) -> None:
    integration = await home.connected(org)
    first = await way.ask("refresh_oauth_token", integration)
    second = await way.ask("refresh_oauth_token", integration)
    assert {"integration", "expires_at", "generation", "renewed_at"} == set(first)
    assert (integration, first["generation"] + 1) == (second["integration"], second["generation"])
    assert {"code": "integration_not_found"} == await way.ask("refresh_oauth_token", "0" * 32)


async def test_approved_claims_are_exported_once(home: Home, way: Way, org: str) -> None:
    await home.connected(org)
    await home.service.reimbursements.put(org, "c-1", CLAIM)
    await home.service.reimbursements.put(org, "c-2", CLAIM | {"status": "draft"})
    order = await way.ask("export_reimbursements", org, ["c-1", "c-2"])
    assert ("books", ["c-1"], [("c-2", "not_approved")]) == (order["type"], order["reserved"], _skipped(order))
    assert "succeeded" == (await home.ended(order["run"]))[0]
    (item,) = (await home.service.exports.items(org)).items
    assert ("accepted", "V-p-17") == (item.state, item.reference)
    again = await way.ask("export_reimbursements", org, ["c-1"])
    assert (None, [("c-1", "already_exported")]) == (again["run"], _skipped(again))


def _skipped(order: dict[str, Any]) -> list[tuple[str, str]]:
    return [(skipped["id"], skipped["reason"]) for skipped in order["skipped"]]


async def test_delivery_is_taken_in_once_and_believed_only_when_it_is_signed(home: Home, way: Way, org: str) -> None:
    await home.connected(org)
    webhook = await home.service.webhooks.put(org, "learning")
    assert webhook.address is not None
    assert webhook.secret is not None
    source = webhook.address.rpartition("/webhooks/")[2]
    if isinstance(way, ByCommand):
        way.sources[source] = (org, "learning")
    at = dt.datetime.now(dt.UTC)
    headers = {
        "webhook-id": "msg_1", "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(webhook.secret).sign("msg_1", at, BODY.decode()),
    }  # fmt: skip
    assert {"outcome": "accepted"} == await way.ask("process_webhook_event", source, BODY, headers=headers)
    assert {"outcome": "repeated"} == await way.ask("process_webhook_event", source, BODY, headers=headers)
    refused = await way.ask("process_webhook_event", source, BODY + b" ", headers=headers | {"webhook-id": "msg_2"})
    assert {"code": "signature_refused"} == refused
    (received,) = (await home.service.webhooks.deliveries(org, "learning")).items
    assert [("people", ["p29"])] == [(trigger.stream, trigger.keys) for trigger in received.triggers]
