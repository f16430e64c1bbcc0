from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from samband.errors import NotReadyError


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Gives every sample of a Prometheus text by name and labels."""
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


async def test_the_host_is_alive_even_when_nothing_is_ready(ask: Any, service: Any) -> None:
    service.parts["database"] = "The database does not answer."
    assert await (await ask("GET", "/livez", key=None)).json() == {"status": "alive"}


async def test_the_host_is_ready_when_every_part_is(ask: Any, service: Any) -> None:
    answer = await ask("GET", "/readyz", key=None)
    assert (answer.status, await answer.json()) == (200, {"status": "ready", "parts": service.parts})


async def test_a_part_that_does_not_answer_makes_the_host_unready_and_is_named(ask: Any, service: Any) -> None:
    service.parts["database"] = "The database does not answer."
    answer = await ask("GET", "/readyz", key=None)
    body = await answer.json()
    assert (answer.status, body["code"], answer.headers["Retry-After"]) == (503, "not_ready", "5")
    assert (body["detail"], body["parts"]) == ("Not ready: database.", service.parts)


async def test_a_part_that_is_only_slower_does_not_make_the_host_unready(ask: Any, service: Any) -> None:
    service.parts["queue"] = "degraded: the queue does not answer; due runs are found by sweeping"
    answer = await ask("GET", "/readyz", key=None)
    assert (answer.status, (await answer.json())["parts"]["queue"][:9]) == (200, "degraded:")


async def test_requests_are_measured_by_template_and_status_class(ask: Any) -> None:
    for org in ("hlf", "nbf", "nowhere"):
        await ask("GET", f"/v1/organizations/{org}")
    await ask("PROPFIND", "/teapot/1")
    found = samples(await (await ask("GET", "/metrics")).text())
    name, route = "samband_http_request_duration_seconds_count", "/v1/organizations/{org}"
    by_status = {
        status: found[name, frozenset({("method", "GET"), ("route", route), ("status", status)})]
        for status in ("2xx", "4xx")
    }
    assert by_status == {"2xx": 2, "4xx": 1}
    assert found[name, frozenset({("method", "other"), ("route", "unmatched"), ("status", "4xx")})] == 1


async def test_figures_of_the_work_are_gauges(ask: Any) -> None:
    answer = await ask("GET", "/metrics")
    found = samples(await answer.text())
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert found["samband_runs", frozenset({("state", "queued")})] == 2
    assert found["samband_snapshot_up", frozenset()] == 1
    assert not [name for name, _ in found if name == "samband_queue_depth"]


async def test_figures_of_the_process_are_given_while_the_database_is_away(ask: Any, service: Any) -> None:
    service.defects["metrics_snapshot"] = NotReadyError("The database does not answer.")
    found = samples(await (await ask("GET", "/metrics")).text())
    assert found["samband_snapshot_up", frozenset()] == 0
    assert "process_cpu_seconds_total" in {name for name, _ in found}


async def test_the_description_served_is_the_one_of_these_endpoints(ask: Any) -> None:
    document = await (await ask("GET", "/openapi.json", key=None)).json()
    assert (document["openapi"], document["info"]["title"]) == ("3.1.0", "samband")
