"""The API over a service that keeps everything in a dictionary: the lowest seam the API has."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from samband.api import create_app
from samband.api.routes.operations import OPENAPI_DOCUMENT
from samband.errors import AlreadyRunningError, ConflictError, FieldProblem, InvalidError, NotFoundError
from samband.views import (
    ChangesPage,
    ChangeView,
    CheckView,
    Counts,
    DeadLetterView,
    FeedPage,
    IntegrationView,
    OrganizationView,
    OutcomeView,
    PluginView,
    RecordView,
    RunView,
    StatusView,
)

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
ADMIN, READER, BOUND, OPERATOR = "smb_admin_1", "smb_reader_1", "smb_bound_1", "smb_operator_1"
ALL = frozenset({"read", "operate", "configure", "admin"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FakeCaller:
    key_id: str
    name: str
    organizations: frozenset[str] | None
    verbs: frozenset[str]

    def reaches(self, organization_id: str) -> bool:
        return self.organizations is None or organization_id in self.organizations


CALLERS = {
    ADMIN: FakeCaller(key_id="k1", name="admin", organizations=None, verbs=ALL),
    READER: FakeCaller(key_id="k2", name="reader", organizations=None, verbs=frozenset({"read"})),
    BOUND: FakeCaller(key_id="k3", name="bound", organizations=frozenset({"hlf", "later"}), verbs=ALL),
    OPERATOR: FakeCaller(key_id="k4", name="operator", organizations=None, verbs=frozenset({"read", "operate"})),
}


class ReplayedRun(RunView):
    replayed: bool = True


class FakeService:
    """Keeps the promises the API relies on, without a database."""

    def __init__(self) -> None:
        self.organizations: dict[str, OrganizationView] = {}
        self.integrations: dict[tuple[str, str], IntegrationView] = {}
        self.runs: dict[str, RunView] = {}
        self.granted: dict[tuple[str, str, str], tuple[object, str]] = {}
        self.plugins = [plugin("dynamics365"), plugin("broken", state="failed", detail="Traceback: /srv/secret/path")]
        self.parts = {"database": "ok", "migrations": "ok", "queue": "ok", "keys": "ok"}
        self.snapshot: dict[str, Any] = {"runs": {"queued": 2, "running": 1}, "queue_depth": None}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.defects: dict[str, Exception] = {}
        self.dead_letter = DeadLetterView(
            id=7, organization="hlf", type="dynamics365", run="r1", reason="remote_error", message="Gave up.",
            occurrences=2, created_at=NOW, updated_at=NOW,
        )  # fmt: skip

    @property
    def areas(self) -> Areas:
        return Areas(self)

    def _called(self, name: str, **arguments: Any) -> None:
        self.calls.append((name, arguments))
        if name in self.defects:
            raise self.defects[name]

    async def authenticate_key(self, presented: str) -> FakeCaller | None:
        self._called("authenticate_key")
        return CALLERS.get(presented)

    async def create_organization(self, id: str, name: str) -> OrganizationView:
        self._called("create_organization")
        if id in self.organizations:
            raise ConflictError("There is one already.", code="organization_exists")
        self.organizations[id] = OrganizationView(id=id, name=name, created_at=NOW)
        return self.organizations[id]

    async def list_organizations(
        self, among: Collection[str] | None = None, *, after: str | None = None, limit: int = 100
    ) -> FeedPage:
        reached = [o for o in self.organizations.values() if among is None or o.id in among]
        return FeedPage(items=[o for o in reached if after is None or o.id > after][:limit])

    async def get_organization(self, org: str) -> OrganizationView:
        self._called("get_organization", org=org)
        if org not in self.organizations:
            raise NotFoundError("The service's own words.", code="organization_not_found")
        return self.organizations[org]

    def list_plugins(self) -> list[PluginView]:
        return self.plugins

    async def create_integration(
        self, org: str, type: str, *, display_name: str = "", settings: Mapping[str, Any],
        credentials: Mapping[str, Any] | None = None, credentials_expire_at: dt.datetime | None = None,
    ) -> IntegrationView:  # fmt: skip
        self._called("create_integration", settings=settings, credentials=credentials)
        await self.get_organization(org)
        if "environment_url" not in settings:
            text = "Give the address of the environment."
            problem = FieldProblem(field="settings.environment_url", code="missing", message=text)
            raise InvalidError("The settings are not valid.", problems=[problem])
        if (org, type) in self.integrations:
            raise ConflictError("There is one already.", code="integration_exists")
        self.integrations[org, type] = IntegrationView(
            id=f"i-{org}-{type}", organization=org, type=type, display_name=display_name, state="saved",
            settings=dict(settings), credentials={k: str(v)[-4:] for k, v in (credentials or {}).items()},
            created_at=NOW, updated_at=NOW, revision=1,
        )  # fmt: skip
        return self.integrations[org, type]

    async def list_integrations(self, org: str, *, after: str | None = None, limit: int = 100) -> FeedPage:
        await self.get_organization(org)
        return FeedPage(items=[view for (owner, _), view in self.integrations.items() if owner == org])

    async def get_integration(self, org: str, type: str) -> IntegrationView:
        await self.get_organization(org)
        if (org, type) not in self.integrations:
            raise NotFoundError("There is no such integration.", code="integration_not_found")
        return self.integrations[org, type]

    async def _change(self, org: str, type: str, **values: Any) -> IntegrationView:
        view = await self.get_integration(org, type)
        changed = view.model_copy(update=values | {"revision": view.revision + 1})
        self.integrations[org, type] = changed
        return changed

    async def update_integration(
        self, org: str, type: str, *, settings: Mapping[str, Any] | None, display_name: str | None,
        if_revision: int | None,
    ) -> IntegrationView:  # fmt: skip
        self._called("update_integration", if_revision=if_revision)
        view = await self.get_integration(org, type)
        if if_revision is not None and if_revision != view.revision:
            raise ConflictError("It was changed meanwhile.", code="revision_mismatch", hint="Fetch it again.")
        values = {"settings": settings, "display_name": display_name}
        return await self._change(org, type, **{k: v for k, v in values.items() if v is not None})

    async def set_credentials(
        self, org: str, type: str, credentials: Mapping[str, Any], *, expires_at: dt.datetime | None = None,
        test: bool = True, if_revision: int | None = None,
    ) -> IntegrationView:  # fmt: skip
        self._called("set_credentials", credentials=credentials)
        self.expires_at = expires_at
        if if_revision not in (None, (await self.get_integration(org, type)).revision):
            raise ConflictError("It was changed meanwhile.", code="revision_mismatch", hint="Fetch it again.")
        return await self._change(org, type, credentials={k: str(v)[-4:] for k, v in credentials.items()})

    async def test_integration(self, org: str, type: str) -> CheckView:
        await self.get_integration(org, type)
        return CheckView(ok=True, checked_at=NOW, latency_ms=12, summary="Found Contoso.")

    async def enable_integration(self, org: str, type: str) -> IntegrationView:
        self._called("enable_integration")
        return await self._change(org, type, state="enabled")

    async def disable_integration(self, org: str, type: str) -> IntegrationView:
        return await self._change(org, type, state="disabled")

    async def trigger_sync(
        self, org: str, type: str, *, streams: list[str] | None = None, full: bool = False, reason: str = "api",
        requested_by: str = "", idempotency_key: str | None = None,
    ) -> RunView:  # fmt: skip
        self._called("trigger_sync", streams=streams, full=full, requested_by=requested_by, key=idempotency_key)
        integration = await self.get_integration(org, type)
        order = (streams, full)
        if idempotency_key is not None and (found := self.granted.get((org, type, idempotency_key))):
            if found[0] != order:
                raise InvalidError("The key was used for another request.", code="idempotency_key_reused")
            return ReplayedRun(**self.runs[found[1]].model_dump())
        for run in self.runs.values():
            if run.integration == integration.id and run.is_live:
                raise AlreadyRunningError(run_id=run.id)
        run = run_view(f"r{len(self.runs) + 1}", integration, streams=streams or ["contacts"], full=full)
        self.runs[run.id] = run.model_copy(update={"requested_by": requested_by})
        if idempotency_key is not None:
            self.granted[org, type, idempotency_key] = (order, run.id)
        return self.runs[run.id]

    async def get_integration_status(self, org: str, type: str) -> StatusView:
        view = await self.get_integration(org, type)
        return StatusView(
            organization=org, type=type, integration=view.id, state=view.state, connection="connected"
        )  # fmt: skip

    async def get_last_sync_result(self, org: str, type: str) -> RunView:
        view = await self.get_integration(org, type)
        for run in reversed(self.runs.values()):
            if run.integration == view.id:
                return run
        raise NotFoundError("The integration has never run.", code="never_ran")

    async def list_runs(
        self, org: str, *, type: str | None = None, state: str | None = None, after: str | None = None, limit: int = 50
    ) -> FeedPage:
        self._called("list_runs", type=type, state=state, after=after, limit=limit)
        await self.get_organization(org)
        found = [r for r in reversed(self.runs.values()) if r.organization == org and state in (None, r.state)]
        if after is not None:
            found = found[[r.id for r in found].index(after) + 1 :]
        return FeedPage(items=found[:limit], next=found[limit - 1].id if len(found) > limit else None)

    async def get_run(self, org: str, run_id: str) -> RunView:
        await self.get_organization(org)
        if run_id not in self.runs or self.runs[run_id].organization != org:
            raise NotFoundError("There is no such run.", code="run_not_found")
        return self.runs[run_id]

    async def list_outcomes(
        self, org: str, run_id: str, *, outcome: str | None = None, after: int = 0, limit: int = 100
    ) -> FeedPage:
        self._called("list_outcomes", outcome=outcome, after=after, limit=limit)
        await self.get_run(org, run_id)
        return FeedPage(items=[OutcomeView(position=1, stream="contacts", key="a", outcome="created")], next="1")

    async def list_records(
        self, org: str, kind: str, *, after: int = 0, limit: int = 100, include_deleted: bool = False
    ) -> FeedPage:
        self._called("list_records", after=after, limit=limit, include_deleted=include_deleted)
        return FeedPage(items=[await self.get_record(org, kind, after + 1)], next=None)

    async def get_record(self, org: str, kind: str, record_id: int) -> RecordView:
        await self.get_organization(org)
        if kind != "member":
            raise NotFoundError("There is no such kind of record.", code="kind_not_found")
        if record_id > 3:
            raise NotFoundError("There is no such record.", code="record_not_found")
        values = {"first_name": "Kåre", "status": "active"}
        return RecordView(id=record_id, kind=kind, version=1, deleted=False, values=values, updated_at=NOW)

    async def list_changes(self, org: str, *, after: int = 0, limit: int = 500, kind: str | None = None) -> ChangesPage:
        self._called("list_changes", after=after, limit=limit, kind=kind)
        await self.get_organization(org)
        change = ChangeView(seq=after + 1, kind="member", record_id=1, op="created", version=1, at=NOW, run="r1")
        return ChangesPage(items=[change], next=after + 1, has_more=False)

    async def list_dead_letters(
        self, org: str, *, open_only: bool = True, type: str | None = None, after: int | None = None, limit: int = 50
    ) -> FeedPage:
        await self.get_organization(org)
        return FeedPage(
            items=[self.dead_letter] if not open_only or self.dead_letter.acknowledged_at is None else [], next=None
        )

    async def acknowledge_dead_letter(self, org: str, id: int, by: str) -> DeadLetterView:
        if (org, id) != ("hlf", self.dead_letter.id):
            raise NotFoundError("There is no such dead letter.", code="dead_letter_not_found")
        self.dead_letter = self.dead_letter.model_copy(update={"acknowledged_at": NOW, "acknowledged_by": by})
        return self.dead_letter

    async def readiness(self) -> dict[str, str]:
        return self.parts

    async def metrics_snapshot(self) -> Mapping[str, Any]:
        self._called("metrics_snapshot")
        return self.snapshot


class Areas:
    """The fake as the API sees the service: its areas, and the operations on itself."""

    def __init__(self, fake: FakeService) -> None:
        self.trigger_sync = fake.trigger_sync
        self.get_integration_status = fake.get_integration_status
        self.get_last_sync_result = fake.get_last_sync_result
        self.list_plugins = fake.list_plugins
        self.authenticate_key = fake.authenticate_key
        self.organizations = SimpleNamespace(
            create=fake.create_organization, page=fake.list_organizations, get=fake.get_organization
        )
        self.integrations = SimpleNamespace(
            create=fake.create_integration, page=fake.list_integrations, get=fake.get_integration,
            update=fake.update_integration, set_credentials=fake.set_credentials, test=fake.test_integration,
            enable=fake.enable_integration, disable=fake.disable_integration,
        )  # fmt: skip
        self.runs = SimpleNamespace(
            page=fake.list_runs, get=fake.get_run, outcomes=fake.list_outcomes, dead_letters=fake.list_dead_letters,
            acknowledge_dead_letter=fake.acknowledge_dead_letter,
        )  # fmt: skip
        self.records = SimpleNamespace(page=fake.list_records, get=fake.get_record, changes=fake.list_changes)
        self.health = SimpleNamespace(readiness=fake.readiness, metrics_snapshot=fake.metrics_snapshot)


def plugin(name: str, **values: Any) -> PluginView:
    return PluginView(
        **{"name": name, "title": name, "distribution": f"samband-{name}", "version": "1", "state": "loaded"} | values
    )


def run_view(id: str, integration: IntegrationView, **values: Any) -> RunView:
    told = {
        "id": id, "organization": integration.organization, "integration": integration.id, "type": integration.type,
        "operation": "sync", "streams": ["contacts"], "reason": "api", "full": False, "state": "queued",
        "counts": Counts(), "pages": 0, "cursor_present": False, "attempt": 0, "plugin_version": "1",
        "requested_by": "", "created_at": NOW, "available_at": NOW,
    }  # fmt: skip
    return RunView(**told | values)


Ask = Callable[..., Awaitable[ClientResponse]]


def undocumented(document: Mapping[str, Any], request: web.BaseRequest, response: web.StreamResponse) -> str | None:
    """Tells what of an answer the OpenAPI document does not promise; None when it promises all of it."""
    resource = request.match_info.route.resource if isinstance(request, web.Request) else None
    method = "get" if request.method == "HEAD" else request.method.lower()
    if resource is None:
        return None
    promised = document["paths"][resource.canonical].get(method, {}).get("responses", {}).get(str(response.status))
    what = f"{method} {resource.canonical} {response.status}"
    if promised is None:
        return what
    media = promised["content"].get(response.content_type)
    assert isinstance(response, web.Response)
    if media is None:
        return f"{what} {response.content_type}"
    if response.content_type == "application/problem+json":
        code = json.loads(response.text or "")["code"]
        return None if code in media["examples"] else f"{what} {code}"
    return None


@pytest.fixture
async def service() -> FakeService:
    """A service with one organisation and one integration."""
    fake = FakeService()
    await fake.create_organization("hlf", "Hørselshemmedes Landsforbund")
    await fake.create_organization("nbf", "Norges Blindeforbund")
    await fake.create_integration("hlf", "dynamics365", settings={"environment_url": "https://contoso.example"})
    fake.calls.clear()
    return fake


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    """A client of the API. Afterwards every answer it got must be one the OpenAPI document promises."""
    app = create_app(service.areas, max_body_bytes=2_000, request_timeout_s=0.3)  # type: ignore[arg-type]
    document = json.loads(app[OPENAPI_DOCUMENT])
    surprises: list[str] = []

    async def compare(request: web.Request, response: web.StreamResponse) -> None:
        if (surprise := undocumented(document, request, response)) is not None:
            surprises.append(surprise)

    app.on_response_prepare.append(compare)
    async with TestClient(TestServer(app)) as opened:
        yield opened
    assert surprises == []


@pytest.fixture
def ask(client: TestClient[web.Request, web.Application]) -> Ask:
    """Sends one request with a key (the admin's unless told), and reads the answer."""

    async def send(method: str, path: str, *, key: str | None = ADMIN, **options: Any) -> ClientResponse:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= options.pop("headers", {})
        response = await client.request(method, path, headers=headers, **options)
        await response.read()
        return response

    return send


@pytest.fixture
def keys() -> dict[str, str]:
    """The keys the service knows."""
    return {"admin": ADMIN, "reader": READER, "bound": BOUND, "operator": OPERATOR}
