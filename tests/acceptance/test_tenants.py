"""Organisations that cannot see each other: every operation of the OpenAPI document, called with another's real ids.

The document is the list: an operation that this walk does not know how to call fails it, so that none can be forgotten.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp.test_utils import TestClient, TestServer

from samband.api import create_app
from samband.store.models import Alert, ChartCopy, Correction, DeadLetter, ExportItem, KeptFile, Run

from .conftest import Hosts, Simulator

MINE, THEIRS, NOWHERE = "hlf", "vondt-i-viljen", "nowhere"
Client = TestClient[Any, Any]

NOT_ANYBODYS = {
    "get_plugin": "an installed plugin belongs to the host",
    "get_event_schema": "a schema belongs to samband",
    "receive_delivery": "its address is the secret, and it takes no key",
    "answer_challenge": "its address is the secret, and it takes no key",
    "come_back": "the state it brings is the secret, and it takes no key",
}
"""Operations with a parameter in their address that names nothing of an organisation's."""

NAMED_BY_THE_CALLER = {
    "put_reimbursement": "whoever sends it chooses its id, within an organisation",
    "delete_named_schedule": "a schedule is named within an integration",
}
"""Operations whose last parameter is a name in the organisation, so that another's means nothing and is no id."""

NAMES = {"org", "type", "kind", "name"}
"""Parameters that are names within an organisation; the others are ids that another organisation's thing can have."""

OF_EVERY_KIND = {"kind": "member"}
NO_SUCH = {
    "/mapping/versions/{version}": "999999",
    "run": "0" * 32, "/v1/keys/{id}": "0" * 12, "/v1/integrations/{id}": "0" * 32, "/subscriptions/{id}": "0" * 32,
    "/events/{id}": "0" * 32, "/records/{kind}/{id}": "999999", "/dead-letters/{id}": "999999",
    "/alerts/{id}": "999999", "/reimbursements/{id}": "no-such", "/corrections/{id}": "0" * 32,
    "/exports/files/{id}": "0" * 32, "/exports/{key}": "0" * 32,
}  # fmt: skip
"""An id of the same form that nothing has, by parameter or by the address up to it."""


@dataclass
class Operation:
    """One operation of the document."""

    method: str
    path: str
    drawn: dict[str, Any]
    document: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.drawn["operationId"])

    @property
    def parameters(self) -> list[str]:
        return re.findall(r"\{(\w+)\}", self.path)

    @property
    def is_public(self) -> bool:
        return self.drawn.get("security") == []

    def body(self) -> Any:
        """Gives the example that the document itself shows; None for an operation that takes no body."""
        content = self.drawn.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            return None
        schema = content["schema"]
        schema = next((arm for arm in schema.get("anyOf", [schema]) if "$ref" in arm), schema)
        while "$ref" in schema:
            schema = self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        assert schema.get("examples"), f"the body of {self.name} has no example in the document"
        return schema["examples"][0]


@dataclass
class Tenants:
    """Two organisations, one key each that may do everything there, and one for both."""

    client: Client
    hosts: Hosts
    mine: str
    theirs: str
    both: str
    operations: list[Operation]

    async def ask(self, key: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        answer = await self.client.request(
            method, path, json=body, headers={"Authorization": f"Bearer {key}", "X-Request-Id": "the-same", **headers}
        )
        return answer.status, await answer.text()

    async def done(self, key: str, method: str, path: str, body: Any = None) -> Any:
        answer = await self.client.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"})
        assert answer.status < 300, (method, path, await answer.text())
        return await answer.json()


@pytest.fixture
async def doors(hosts: Hosts) -> AsyncIterator[Tenants]:
    """Two organisations with nothing in them yet, and the API."""
    service = hosts.service
    for organization in (THEIRS, MINE):
        await service.organizations.create(organization, organization.upper())
    every: Any = ["read", "operate", "configure", "admin"]
    reaches = [[MINE], [THEIRS], [MINE, THEIRS]]
    mine, theirs, both = [await service.create_key("all", verbs=every, organizations=reach) for reach in reaches]
    async with TestClient(TestServer(create_app(service))) as client:
        document = await (await client.get("/openapi.json")).json()
        operations = [
            Operation(method.upper(), path, drawn, document)
            for path, drawn_here in document["paths"].items()
            for method, drawn in drawn_here.items()
        ]
        yield Tenants(client, hosts, mine, theirs, both, operations)


@pytest.fixture
async def tenants(doors: Tenants, simulator: Simulator) -> Tenants:
    """Theirs has one of everything; mine has an integration of the same type and nothing else."""
    integrations = doors.hosts.service.integrations
    for organization in (THEIRS, MINE):
        await integrations.create(
            organization, "dynamics365", settings=simulator.line["settings"], credentials=simulator.line["credentials"]
        )
        assert (await integrations.test(organization, "dynamics365")).ok
        await integrations.enable(organization, "dynamics365")
    await _furnish(doors)
    return doors


async def _furnish(tenants: Tenants) -> None:
    """Gives the other organisation one of everything that has an id."""
    hosts, base = tenants.hosts, f"/v1/organizations/{THEIRS}"
    hosts.start_worker()
    run = await hosts.service.trigger_sync(THEIRS, "dynamics365")
    assert "succeeded" == (await hosts.ended(run)).state
    of_type = f"{base}/integrations/dynamics365"
    example = {op.name: op.body() for op in tenants.operations if op.method in ("PUT", "POST")}
    await tenants.done(tenants.theirs, "PUT", f"{of_type}/schedules/nattlig", example["put_named_schedule"])
    await tenants.done(tenants.theirs, "PUT", f"{base}/reimbursements/c-1001", example["put_reimbursement"])
    await tenants.done(tenants.theirs, "PUT", f"{of_type}/mapping", example["put_mapping"])
    await tenants.done(tenants.theirs, "POST", f"{base}/subscriptions", example["create_subscription"])
    integration = await hosts.store.catalog.integration(THEIRS, "dynamics365")
    now = dt.datetime.now(dt.UTC)
    claim = (await hosts.service.reimbursements.get(THEIRS, "c-1001")).values
    rows: tuple[Any, ...] = (
        Alert(
            organization_id=THEIRS, integration_id=integration.id, subject=f"integration/{integration.id}",
            kind="stale", severity="warning", message="Theirs alone.", data={}, opened_at=now,
        ),
        DeadLetter(
            organization_id=THEIRS, integration_id=integration.id, run_id=run.id, operation="sync", reason="unavailable",
            message="Theirs alone.", occurrences=1, created_at=now, updated_at=now,
        ),
        Correction(
            id="c" * 32, organization_id=THEIRS, reimbursement_id="c-1001", item_key="k", state="proposed",
            status="approved", body=claim | {"text": "Theirs alone."}, digest="d" * 64, created_at=now,
        ),
        Run(
            id="b" * 32, organization_id=THEIRS, integration_id=integration.id, plugin="dynamics365", plugin_version="1",
            operation="export", streams=["theirs"], reason="api", requested_by="Theirs alone", state="succeeded",
            created_at=now, available_at=now,
        ),
        ExportItem(
            key="e" * 32, organization_id=THEIRS, integration_id=integration.id, reimbursement_id="c-1001", version=1,
            number=1, run_id="b" * 32, stream="theirs", state="unknown", created_at=now,
        ),
        ChartCopy(
            integration_id=integration.id, organization_id=THEIRS, findings={}, read_at=now, next_read_at=now,
            body={"accounts": [["7140", "Theirs alone", True]], "dimensions": {}, "tax_rules": None, "periods": None},
        ),
        KeptFile(
            id="f" * 32, organization_id=THEIRS, integration_id=integration.id, name="theirs-alone.csv",
            profile="machine", media_type="text/csv", size=12, digest="d" * 64, rows=1, keys=[], state="ready",
            content=hosts.store.files.sealed(THEIRS, "f" * 32, b"Theirs alone"), created_at=now,
        ),
    )  # fmt: skip
    async with hosts.store.database.write() as conn:
        for row in rows:
            numbered = isinstance(row, Alert | DeadLetter)
            values = {name: value for name, value in row.model_dump().items() if name != "id" or not numbered}
            await conn.execute(sa.insert(row.__table__).values(**values))


class Guide:
    """Fills addresses with another organisation's real ids, taken from what that organisation itself is shown."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._listings = {op.path for op in tenants.operations if op.method == "GET"}

    async def theirs(self, operation: Operation) -> dict[str, str]:
        """Gives a value for every parameter in the address, or fails with the one it cannot find."""
        found: dict[str, str] = {"org": THEIRS} | OF_EVERY_KIND
        for parameter in operation.parameters:
            if parameter not in found:
                found[parameter] = await self._value(operation, parameter, found)
        return found

    async def _value(self, operation: Operation, parameter: str, found: dict[str, str]) -> str:
        if operation.path.startswith("/v1/integrations/{id}"):
            integration = await self._tenants.hosts.store.catalog.integration(THEIRS, "dynamics365")
            return integration.id
        listing = operation.path.partition(f"/{{{parameter}}}")[0]
        assert listing in self._listings, f"the walk does not know where {operation.name} has its {parameter} from"
        page = await self._tenants.done(self._tenants.theirs, "GET", listing.format(**found))
        assert page["items"], f"the other organisation has nothing under {listing}: give it one in _furnish"
        item = page["items"][-1]
        return str(next(item[name] for name in (parameter, "id") if name in item))


def none_such(operation: Operation, values: dict[str, str], parameter: str) -> dict[str, str]:
    """Gives the same values with an id of the same form that nothing has."""
    until_then = operation.path.partition(f"{{{parameter}}}")[0] + f"{{{parameter}}}"
    known = next((v for end, v in NO_SUCH.items() if end == parameter or until_then.endswith(end)), None)
    assert known is not None, f"the walk does not know an id like that of {operation.name} which nothing has"
    return values | {parameter: known}


def owned(operations: list[Operation]) -> Iterator[Operation]:
    """Gives the operations that need a key and whose address names something of an organisation's."""
    for operation in operations:
        if operation.parameters and operation.name not in NOT_ANYBODYS:
            assert not operation.is_public, f"{operation.name} names something and needs no key"
            yield operation


async def test_every_operation_answers_for_a_foreign_organisation_as_for_none(tenants: Tenants) -> None:
    guide, wrong = Guide(tenants), {}
    walked = [op for op in owned(tenants.operations) if "org" in op.parameters]
    for operation in walked:
        values, body = await guide.theirs(operation), operation.body()
        foreign = await tenants.ask(tenants.mine, operation.method, operation.path.format(**values), body)
        absent = await tenants.ask(
            tenants.mine, operation.method, operation.path.format(**(values | {"org": NOWHERE})), body
        )
        if foreign != absent or foreign[0] != 404 or "organization_not_found" not in foreign[1]:
            wrong[operation.name] = (foreign, absent)
    assert {} == wrong
    assert len(walked) > 50


async def test_every_operation_answers_for_a_foreign_id_as_for_none(tenants: Tenants) -> None:
    """With the caller's own organisation in the address, or none at all."""
    guide, wrong, walked = Guide(tenants), {}, []
    for operation in owned(tenants.operations):
        values, body = await guide.theirs(operation), operation.body()
        ids = [p for p in operation.parameters if p not in NAMES]
        if not ids or operation.name in NAMED_BY_THE_CALLER:
            continue
        values |= {"org": MINE}
        foreign = await tenants.ask(tenants.mine, operation.method, operation.path.format(**values), body)
        without = none_such(operation, values, ids[-1])
        absent = await tenants.ask(tenants.mine, operation.method, operation.path.format(**without), body)
        walked.append(operation.name)
        if foreign != absent or foreign[0] != 404:
            wrong[operation.name] = (foreign, absent)
    assert {} == wrong
    assert len(walked) > 20


async def test_nothing_that_is_listed_tells_of_another_organisation(tenants: Tenants) -> None:
    guide, told, read = Guide(tenants), {}, 0
    integration = await tenants.hosts.store.catalog.integration(THEIRS, "dynamics365")
    markers = {THEIRS, THEIRS.upper(), "Theirs alone", integration.id, tenants.theirs.split("_")[1]}
    for operation in tenants.operations:
        if operation.method == "GET" and operation.name not in NOT_ANYBODYS and not operation.is_public:
            values = await guide.theirs(operation)
            markers |= {value for name, value in values.items() if name not in NAMES and len(value) > 8}
    for operation in tenants.operations:
        if operation.method != "GET" or operation.is_public or set(operation.parameters) - NAMES:
            continue
        values = {"org": MINE, "type": "dynamics365", "name": "nattlig"} | OF_EVERY_KIND
        status, text = await tenants.ask(tenants.mine, "GET", operation.path.format(**values))
        read += status == 200
        if seen := [marker for marker in markers if marker in text]:
            told[operation.name] = (status, seen)
    assert {} == told
    assert read > 15


async def test_the_other_organisation_itself_does_see_what_is_hidden_from_me(tenants: Tenants) -> None:
    """Without this the walk would also be content with a host that shows nothing to anybody."""
    guide, unseen = Guide(tenants), {}
    for operation in owned(tenants.operations):
        if operation.method == "GET":
            path = operation.path.format(**await guide.theirs(operation))
            status, text = await tenants.ask(tenants.theirs, "GET", path)
            if status != 200:
                unseen[operation.name] = (status, text)
    # They have none of these, and are told so.
    never = {"get_schedule", "get_webhook", "list_differences", "get_reconciliation", "get_drop"}
    assert set() == set(unseen) - never, unseen


async def test_what_concerns_the_whole_host_is_refused_to_a_key_of_one_organisation(doors: Tenants) -> None:
    for method, path, body in (
        ("POST", "/v1/organizations", {"id": "more", "name": "More"}),
        ("GET", "/v1/audit", None),
        ("GET", "/v1/audit.csv", None),
        ("GET", "/v1/audit/verification", None),
        ("GET", "/metrics", None),
    ):
        status, _ = await doors.ask(doors.mine, method, path, body)
        assert (path, 403) == (path, status)


async def test_key_of_one_organisation_makes_none_for_another(doors: Tenants) -> None:
    answers = []
    for organizations in ([THEIRS], [NOWHERE], [MINE, THEIRS], None):
        body = {"name": "more", "verbs": ["read"], "organizations": organizations}
        answers.append(await doors.ask(doors.mine, "POST", "/v1/keys", body))
    assert [422] * 4 == [status for status, _ in answers]
    assert answers[0] == answers[1]
    listed = await doors.done(doors.mine, "GET", "/v1/keys")
    assert [[MINE]] == [item["organizations"] for item in listed["items"]]


async def test_anothers_ids_in_a_body_are_as_good_as_none(tenants: Tenants) -> None:
    base = f"/v1/organizations/{MINE}"
    integration = f"{base}/integrations/dynamics365"
    (event,) = (await tenants.done(tenants.theirs, "GET", f"/v1/organizations/{THEIRS}/events?limit=1"))["items"]
    made = await tenants.done(
        tenants.mine, "POST", f"{base}/subscriptions", {"url": "https://platform.example/", "types": ["no.samband.*"]}
    )
    pairs: dict[str, tuple[dict[str, list[Any]], dict[str, list[Any]]]] = {
        f"{base}/reimbursements/export": ({"ids": ["c-1001"]}, {"ids": ["c-none"]}),
        f"{integration}/webhook/deliveries/replay": ({"ids": [1]}, {"ids": [999999]}),
        f"{base}/subscriptions/{made['id']}/replay": ({"ids": [event["id"]]}, {"ids": ["0" * 32]}),
    }
    differ = {}
    for path, bodies in pairs.items():
        said = [str(value) for body in bodies for values in body.values() for value in values]
        answers = []
        for body in bodies:
            status, text = await tenants.ask(tenants.mine, "POST", path, body)
            answers.append((status, re.sub("|".join(map(re.escape, said)), "…", text)))
        if answers[0] != answers[1]:
            differ[path] = answers
    assert {} == differ


async def test_one_idempotency_key_in_two_organisations_is_two_requests_each_done_once(doors: Tenants) -> None:
    """With one API key for both: PostgreSQL shows the second request nothing of what is kept for the first."""
    made: dict[str, list[str]] = {MINE: [], THEIRS: []}
    for organization in (MINE, THEIRS, MINE, THEIRS):
        answer = await doors.client.post(
            f"/v1/organizations/{organization}/subscriptions",
            json={"url": f"https://{organization}.example/hooks", "types": ["no.samband.run.*"]},
            headers={"Authorization": f"Bearer {doors.both}", "Idempotency-Key": "the-same-for-both"},
        )
        assert 201 == answer.status, await answer.text()
        told = await answer.json()
        assert organization == told["organization"]
        made[organization].append(told["id"])
    assert [1, 1] == [len(set(ids)) for ids in made.values()]
    for organization, ids in made.items():
        listed = await doors.done(doors.both, "GET", f"/v1/organizations/{organization}/subscriptions")
        assert ids[:1] == [item["id"] for item in listed["items"]]
