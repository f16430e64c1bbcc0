"""The command line against an API on loopback that answers as a host does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from samband import errors
from samband.cli.client import HostClient

KEY = "smb_0123_secret"
PROBLEM = {"title": "…", "detail": "It went wrong.", "instance": "i1"}


@pytest.fixture
async def host(loopback: Callable[[web.Application], str]) -> AsyncIterator[HostClient]:
    app = web.Application()
    app.router.add_route("*", "/answer/{status}", answer)
    app.router.add_get("/page", page)
    app.router.add_get("/text", text)
    async with HostClient(loopback(app), KEY) as client:
        yield client


async def answer(request: web.Request) -> web.Response:
    if request.headers["Authorization"] != f"Bearer {KEY}":
        return web.Response(status=500)
    body: dict[str, Any] = await request.json() if request.can_read_body else {}
    return web.json_response(PROBLEM | body, status=int(request.match_info["status"]))


async def page(request: web.Request) -> web.Response:
    first, limit = int(request.query.get("after", 0)), int(request.query["limit"])
    last = min(first + limit, 1_200)
    return web.json_response({"items": list(range(first, last)), "next": str(last) if last < 1_200 else None})


async def text(request: web.Request) -> web.Response:
    return web.Response(text="<html>not a host</html>")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidError),
        (401, errors.AccessError),
        (403, errors.AccessError),
        (404, errors.NotFoundError),
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
