"""The command line against an API on loopback that answers as a host does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from samband import errors
from samband.cli.client import HostClient
from samband.cli.output import _error_lines, error_document
from samband.client import Client
from samband.views import RunView

KEY = "smb_0123_secret"
PROBLEM = {"title": "…", "detail": "It went wrong.", "instance": "i1"}


@pytest.fixture
async def host(loopback: Callable[[web.Application], str]) -> AsyncIterator[HostClient]:
    app = web.Application()
    app.router.add_route("*", "/answer/{status}", answer)
    app.router.add_get("/page", page)
    app.router.add_get("/whole", whole)
    app.router.add_get("/text", text)
    app.router.add_post("/webhooks/learning/the-key", delivery)
    app.router.add_get("/v1/organizations/hlf/integrations/learning/status", answer_of_another_version)
    async with HostClient(loopback(app), KEY) as client:
        yield client


async def answer(request: web.Request) -> web.Response:
    if request.headers["Authorization"] != f"Bearer {KEY}":
        return web.Response(status=500)
    body: dict[str, Any] = await request.json() if request.can_read_body else {}
    return web.json_response(PROBLEM | body, status=int(request.match_info["status"]))


async def page(request: web.Request) -> web.Response:
    first, limit = int(request.query.get("after", 0)), int(request.query.get("limit", 100))
    last = min(first + limit, 1_200)
    return web.json_response({"items": list(range(first, last)), "next": str(last) if last < 1_200 else None})


async def whole(request: web.Request) -> web.Response:
    if request.query_string:
        return web.json_response(PROBLEM | {"code": "invalid_request"}, status=422)
    return web.json_response({"items": [1, 2, 3], "next": None})


async def delivery(request: web.Request) -> web.Response:
    told = {"key": "Authorization" in request.headers, "query": request.query.get("code"), "body": await request.text()}
    return web.json_response({"outcome": f"{told} {request.headers['X-Signature']}"})


async def answer_of_another_version(request: web.Request) -> web.Response:
    return web.json_response({"organization": "hlf", "state": "dreaming of Kari"})


async def text(request: web.Request) -> web.Response:
    return web.Response(text="<html>not a host</html>")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidError),
        (401, errors.AccessError),
        (403, errors.AccessError),
        (404, errors.NotFoundError),
        (410, errors.NotFoundError),
        (409, errors.ConflictError),
        (412, errors.ConflictError),
        (422, errors.InvalidError),
        (429, errors.NotReadyError),
        (503, errors.NotReadyError),
        (500, errors.SambandError),
    ],
)
async def test_refusal_becomes_the_error_it_was_on_the_host(
    host: HostClient, status: int, kind: type[errors.SambandError]
) -> None:
    with pytest.raises(errors.SambandError) as caught:
        await host.post(f"/answer/{status}", {"code": "some_code", "hint": "Do this."})
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.message, caught.value.hint) == ("some_code", "It went wrong.", "Do this.")


async def test_refusal_because_of_a_live_run_names_the_run(host: HostClient) -> None:
    with pytest.raises(errors.AlreadyRunningError) as caught:
        await host.post("/answer/409", {"code": "already_running", "run": "r1"})
    assert caught.value.run_id == "r1"


async def test_conflict_that_lists_what_stands_in_the_way_is_shown_with_its_list(host: HostClient) -> None:
    gap = {"field": "mapping.expense_types.hotel", "code": "unmapped", "message": "Needed by claim c-9."}
    with pytest.raises(errors.ConflictError) as caught:
        await host.post("/answer/409", {"code": "mapping_gap", "errors": [gap]})
    assert "  mapping.expense_types.hotel: Needed by claim c-9." in list(_error_lines(caught.value))
    assert [gap] == error_document(caught.value)["problems"]


async def test_refusal_because_of_fields_names_them(host: HostClient) -> None:
    problem = {"field": "id", "code": "bad_id", "message": "Too long."}
    with pytest.raises(errors.InvalidError) as caught:
        await host.post("/answer/422", {"code": "invalid_request", "errors": [problem]})
    assert caught.value.problems == (errors.FieldProblem(**problem),)


async def test_something_else_that_answers_is_not_taken_for_a_host(host: HostClient) -> None:
    with pytest.raises(errors.NotReadyError) as caught:
        await host.get("/text")
    assert caught.value.code == "not_a_host"


async def test_listing_is_read_over_as_many_parts_as_it_takes(host: HostClient) -> None:
    assert await host.items("/page", limit=10_000) == list(range(1_200))


async def test_listing_stops_at_the_limit(host: HostClient) -> None:
    assert await host.items("/page", limit=7) == list(range(7))


async def test_listing_without_a_limit_is_read_to_its_end(host: HostClient) -> None:
    assert list(range(1_200)) == [item async for item in host.each("/page", part=None)]
    assert [1, 2, 3] == [item async for item in host.each("/whole", part=None)]


async def test_part_of_a_listing_says_where_it_goes_on(host: HostClient) -> None:
    first = await host.part("/page", limit=700)
    assert (first["items"], first["next"]) == (list(range(700)), "700")
    rest = await host.part("/page", limit=None, after=first["next"])
    assert (rest["items"], rest["next"]) == (list(range(700, 1_200)), None)


async def test_delivery_is_handed_over_byte_for_byte_and_without_our_key(host: HostClient) -> None:
    outcome = await Client.over(host).process_webhook_event(
        "learning/the-key", b"raw", headers={"X-Signature": "s"}, query={"code": "c"}
    )
    assert outcome == "{'key': False, 'query': 'c', 'body': 'raw'} s"


async def test_answer_that_is_not_understood_names_its_fields_and_repeats_nothing(host: HostClient) -> None:
    with pytest.raises(errors.NotReadyError) as caught:
        await Client.over(host).get_integration_status("hlf", "learning")
    assert caught.value.code == "answer_not_understood"
    assert "state" in caught.value.message
    assert "Kari" not in caught.value.message


RUN = {
    "id": "r1", "organization": "hlf", "integration": "i1", "type": "learning", "operation": "sync", "streams": [],
    "reason": "api", "full": False, "state": "running", "counts": {}, "pages": 0, "cursor_present": False, "attempt": 1,
    "plugin_version": "1", "requested_by": "", "created_at": "2026-01-01T00:00:00Z",
    "available_at": "2026-01-01T00:00:00Z",
}  # fmt: skip


def _as_from_a_terminal() -> None:
    """Makes Ctrl-C count: what is started by a script in the background inherits that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_waiting_can_be_stopped_and_the_run_goes_on(loopback: Callable[[web.Application], str]) -> None:
    async def ordered(request: web.Request) -> web.Response:
        return web.json_response(RunView.model_validate(RUN).model_dump(mode="json"))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", ordered)
    environment = {**os.environ, "SAMBAND_URL": loopback(app), "SAMBAND_API_KEY": KEY}
    command = [sys.executable, "-m", "samband", "sync", "hlf", "learning", "--wait"]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=_as_from_a_terminal
    ) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("running: 0 records")
        waiting.send_signal(signal.SIGINT)
        assert waiting.stderr.read().startswith("Stopped. What was ordered from a host goes on")
    assert waiting.returncode == 130
