"""The routes of runs and dead letters over HTTP, with the real service behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from samband.api import create_app
from samband.store import Store
from samband.views import ErrorView

from .playing import CHANGES, Bench, Source, gone, people

ORG = "/v1/organizations/hlf"
RUNS = f"{ORG}/runs"


@pytest.fixture
def source() -> Source:
    return Source("crm", [CHANGES])


@pytest.fixture
async def bench(store: Store, source: Source) -> AsyncIterator[Bench]:
    running = Bench(store, source)
    await running.connect("hlf", "crm")
    yield running
    await running.close()


class Api:
    def __init__(self, client: TestClient[Any, Any], key: str) -> None:
        self._client, self._key = client, key

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        given = {"Authorization": f"Bearer {self._key}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        async with self._client.request(method, path, json=body, headers=given) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(create_app(bench.service))) as running:
        yield running


@pytest.fixture
async def api(bench: Bench, client: TestClient[Any, Any]) -> Api:
    key = await bench.service.create_key("kari", verbs=["read", "operate", "configure"], organizations=["hlf"])
    return Api(client, key)


async def held(bench: Bench, source: Source) -> str:
    source.deliver("people", people(range(100)))
    await bench.run()
    source.deliver("people", people(range(100)), gone(range(40)))
    run = await bench.run()
    assert "held" == run.state
    return run.id


async def test_run_is_cancelled_and_that_may_be_repeated(bench: Bench, api: Api) -> None:
    run = await bench.service.trigger_sync("hlf", "crm")
    answers = [await api("POST", f"{RUNS}/{run.id}/cancel") for _ in range(2)]
    assert [(202, "cancelled")] * 2 == [(status, body["state"]) for status, body in answers]


async def test_ended_run_is_not_cancelled_and_the_answer_says_how_it_ended(bench: Bench, api: Api) -> None:
    run = await bench.run()
    status, problem = await api("POST", f"{RUNS}/{run.id}/cancel")
    assert (409, "run_ended") == (status, problem["code"])
    assert "it succeeded" in problem["detail"]


async def test_held_run_is_approved_with_a_reason(bench: Bench, api: Api, source: Source) -> None:
    run_id = await held(bench, source)
    status, problem = await api("POST", f"{RUNS}/{run_id}/approve", {})
    assert (422, ["reason"]) == (status, [e["field"] for e in problem["errors"]])
    assert 422 == (await api("POST", f"{RUNS}/{run_id}/approve", {"reason": ""}))[0]
    status, run = await api("POST", f"{RUNS}/{run_id}/approve", {"reason": "Bergen has been closed."})
    assert (202, "queued", {"people": 40}) == (status, run["state"], run["brake"]["released"])
    status, problem = await api("POST", f"{RUNS}/{run_id}/approve", {"reason": "Again."})
    assert (409, "not_held") == (status, problem["code"])


async def test_held_run_is_rejected_and_needs_no_reason(bench: Bench, api: Api, source: Source) -> None:
    status, run = await api("POST", f"{RUNS}/{await held(bench, source)}/reject")
    assert (200, "cancelled", "rejected") == (status, run["state"], run["brake"]["decision"])


async def test_whoever_may_only_operate_decides_about_no_held_run(
    bench: Bench, client: TestClient[Any, Any], source: Source
) -> None:
    run_id = await held(bench, source)
    key = await bench.service.create_key("ola", verbs=["read", "operate"], organizations=["hlf"])
    for decision in ("approve", "reject"):
        status, problem = await Api(client, key)("POST", f"{RUNS}/{run_id}/{decision}", {"reason": "I say so."})
        assert (403, "access_refused") == (status, problem["code"])
    assert "held" == (await bench.service.runs.get("hlf", run_id)).state


async def test_given_up_run_is_retried_and_its_letter_leads_to_the_retry(bench: Bench, api: Api) -> None:
    run = await bench.service.trigger_sync("hlf", "crm")
    lease = await bench.store.runs.claim(run.id, "w", 30)
    assert lease is not None
    await bench.store.runs.give_up(lease, ErrorView(code="unavailable", message="They are away."))
    status, listed = await api("GET", f"{ORG}/dead-letters?type=crm&limit=1")
    assert (200, None) == (status, listed["next"])
    (letter,) = listed["items"]
    status, again = await api("POST", f"{RUNS}/{run.id}/retry")
    assert (202, run.id) == (status, again["retry_of"])
    status, letter = await api("GET", f"{ORG}/dead-letters/{letter['id']}")
    assert (200, again["id"], "kari") == (status, letter["retry_run"], letter["acknowledged_by"])
    status, problem = await api("POST", f"{RUNS}/{run.id}/retry")
    assert (409, "already_running", again["id"]) == (status, problem["code"], problem["run"])


@pytest.mark.parametrize("deed", ["cancel", "retry", "approve", "reject"])
async def test_run_of_another_organisation_is_not_there(bench: Bench, api: Api, deed: str) -> None:
    run = await bench.service.trigger_sync("hlf", "crm")
    await bench.connect("nbf")
    body = {"reason": "No."} if deed in ("approve", "reject") else None
    foreign = await api("POST", f"/v1/organizations/nbf/runs/{run.id}/{deed}", body)
    assert (404, "organization_not_found") == (foreign[0], foreign[1]["code"])
    unknown = await api("POST", f"{RUNS}/nothing/{deed}", body)
    assert (404, "run_not_found") == (unknown[0], unknown[1]["code"])
    assert "queued" == (await bench.service.runs.get("hlf", run.id)).state


async def test_membership_data_is_synced_once_for_one_idempotency_key(bench: Bench, api: Api) -> None:
    first = await api("POST", f"{ORG}/memberships/sync", {"full": True}, Idempotency_Key="k1")
    second = await api("POST", f"{ORG}/memberships/sync", {"full": True}, Idempotency_Key="k1")
    assert first == second
    assert (202, [True], []) == (first[0], [run["full"] for run in first[1]["runs"]], first[1]["already_running"])
    third = await api("POST", f"{ORG}/memberships/sync")
    assert [first[1]["runs"][0]["id"]] == [run["id"] for run in third[1]["already_running"]]


async def test_course_enrolments_that_nothing_offers_are_refused_with_the_way_out(api: Api) -> None:
    status, problem = await api("POST", f"{ORG}/course-enrollments/sync")
    assert (409, "nothing_connected") == (status, problem["code"])
    assert "None of the installed plugins offers course enrolments" in problem["hint"]
