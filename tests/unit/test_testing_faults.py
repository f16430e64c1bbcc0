"""The fault proxy breaks exactly what it is told to, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from samband.testing import FaultProxy, faults, serve
from samband.testing.rewriting import Rewriter

Loopback = Callable[[web.Application], str]


def _system() -> web.Application:
    """A small system: two linked pages, a mirror of what it was sent, and a redirect to itself."""

    async def page(request: web.Request) -> web.Response:
        number = int(request.query.get("page", "1"))
        following = f"{request.url.origin()}/rows?page={number + 1}" if number < 2 else None
        return web.json_response({"rows": [number], "next": following}, headers={"ETag": f'W/"{number}"'})

    async def mirror(request: web.Request) -> web.Response:
        return web.json_response({"body": await request.text(), "query": request.raw_path, "host": request.host})

    async def moved(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"{request.url.origin()}/rows")

    app = web.Application()
    app.add_routes([web.get("/rows", page), web.post("/mirror", mirror), web.get("/moved", moved)])
    return app


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


@pytest.fixture
def upstream(loopback: Loopback) -> str:
    return loopback(_system())


async def _rows(client: aiohttp.ClientSession, url: str) -> list[int]:
    rows: list[int] = []
    following: str | None = f"{url}/rows"
    while following:
        async with client.get(following, raise_for_status=True) as response:
            answer = await response.json()
        rows += answer["rows"]
        following = answer["next"]
    return rows


async def test_paging_links_keep_leading_through_the_proxy(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str
) -> None:
    assert await _rows(client, fault_proxy.front(upstream)) == [1, 2]
    assert [(call.method, call.url) for call in fault_proxy.calls] == [("GET", f"{upstream}/rows")] * 2


async def test_the_system_sees_its_own_address_in_what_it_is_sent(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str
) -> None:
    url = fault_proxy.front(upstream)
    async with client.post(f"{url}/mirror", params={"scope": f"{url}/.default"}, data={"audience": url}) as response:
        seen = (await response.text()).replace(url, upstream)
    assert url.removeprefix("http://") not in seen
    assert json.loads(seen)["host"] == upstream.removeprefix("http://")


async def test_a_redirect_of_the_system_is_passed_on_and_leads_through_the_proxy(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str
) -> None:
    url = fault_proxy.front(upstream)
    async with client.get(f"{url}/moved", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, f"{url}/rows")


def test_settings_are_rewritten_in_url_fields_only(fault_proxy: FaultProxy) -> None:
    upstream = "http://127.0.0.1:9"
    fronted = fault_proxy.front_settings(
        {"api_url": f"{upstream}/v1", "login": {"token_url": upstream}, "note": upstream, "page_size": 5}
    )
    ours = fault_proxy.front(upstream)
    assert fronted == {"api_url": f"{ours}/v1", "login": {"token_url": ours}, "note": upstream, "page_size": 5}


def test_a_port_that_begins_like_another_is_not_mistaken_for_it() -> None:
    rewriter = Rewriter({"http://127.0.0.1:80": "http://127.0.0.1:7"})
    assert (
        rewriter.text("http://127.0.0.1:8080/x http://127.0.0.1:80/x") == "http://127.0.0.1:8080/x http://127.0.0.1:7/x"
    )


def test_origins_are_rewritten_in_every_way_they_are_written() -> None:
    rewriter = Rewriter({"http://a.test:1": "http://b.test:2"})
    assert rewriter.text("http://a.test:1 http%3A%2F%2Fa.test%3A1 http%3a%2f%2fa.test%3a1 http:\\/\\/a.test:1") == (
        "http://b.test:2 http%3A%2F%2Fb.test%3A2 http%3A%2F%2Fb.test%3A2 http:\\/\\/b.test:2"
    )


async def test_a_status_with_retry_after_replaces_the_answer(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str
) -> None:
    url = fault_proxy.front(upstream)
    with fault_proxy.fault(faults.status(429, retry_after="soon")):
        async with client.get(f"{url}/rows") as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "soon")
    assert await _rows(client, url) == [1, 2]


async def test_a_fault_hits_the_chosen_calls_only(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str
) -> None:
    url = fault_proxy.front(upstream)
    seen = []
    with fault_proxy.fault(faults.status(503), at=2, times=2, where=lambda call: call.url.endswith("/rows")):
        for path in ("rows", "nothing", "rows", "rows", "rows"):
            async with client.get(f"{url}/{path}") as response:
                seen.append(response.status)
    assert seen == [200, 404, 503, 503, 200]


@pytest.mark.parametrize("fault", [faults.reset(), faults.cut_off()], ids=str)
async def test_a_lost_connection_is_lost_for_real(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str, fault: faults.Fault
) -> None:
    url = fault_proxy.front(upstream)
    with fault_proxy.fault(fault), pytest.raises((aiohttp.ClientError, ConnectionError)):
        async with client.get(f"{url}/rows") as response:
            await response.read()
    assert await _rows(client, url) == [1, 2]


@pytest.mark.parametrize("fault", [faults.truncated(), faults.empty_body(), faults.html_page()], ids=str)
async def test_a_broken_document_arrives_as_correct_http(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str, fault: faults.Fault
) -> None:
    url = fault_proxy.front(upstream)
    with fault_proxy.fault(fault):
        async with client.get(f"{url}/rows") as response:
            body = await response.read()
    assert response.status == 200
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(body)


@pytest.mark.parametrize("fault", [faults.slow_body(), faults.silence()], ids=str)
async def test_a_slow_answer_outlasts_any_time_limit(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str, fault: faults.Fault
) -> None:
    url = fault_proxy.front(upstream)
    with fault_proxy.fault(fault), pytest.raises(TimeoutError):
        async with client.get(f"{url}/rows", timeout=aiohttp.ClientTimeout(total=0.3)) as response:
            await response.read()
    assert await _rows(client, url) == [1, 2]


async def test_an_endless_body_goes_on_beyond_any_sensible_size(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str
) -> None:
    url, size = fault_proxy.front(upstream), 0
    with fault_proxy.fault(faults.endless_body()):
        async with client.get(f"{url}/rows") as response:
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > 4_000_000:
                    break
    assert size > 4_000_000


async def test_connections_are_refused_and_open_ones_dropped_until_the_block_ends(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str
) -> None:
    url = fault_proxy.front(upstream)
    assert await _rows(client, url) == [1, 2]
    with fault_proxy.refusing(), pytest.raises(aiohttp.ClientConnectorError):
        await _rows(client, url)
    assert await _rows(client, url) == [1, 2]


async def test_links_can_be_made_to_lead_to_another_host(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str
) -> None:
    url, rewritten = fault_proxy.front(upstream), []
    with (
        serve(_system()) as other,
        fault_proxy.fault(faults.elsewhere([url], other, lambda: rewritten.append(True))),
    ):
        async with client.get(f"{url}/rows") as response:
            assert (await response.json())["next"] == f"{other}/rows?page=2"
    assert rewritten == [True]


async def test_a_stuck_system_gives_its_first_answer_for_ever(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str
) -> None:
    url = fault_proxy.front(upstream)
    with fault_proxy.fault(faults.stuck()):
        async with client.get(f"{url}/rows") as response:
            first = await response.json()
        async with client.get(first["next"]) as response:
            assert await response.json() == first


async def test_a_debug_page_quotes_the_request_with_its_secret(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str
) -> None:
    url = fault_proxy.front(upstream)
    with fault_proxy.fault(faults.echo_request()):
        async with client.get(f"{url}/rows", headers={"X-Api-Key": "canary-41"}) as response:
            assert "canary-41" in await response.text()


async def test_waiting_for_a_call_ends_when_it_arrives(
    client: aiohttp.ClientSession, fault_proxy: FaultProxy, upstream: str
) -> None:
    url = fault_proxy.front(upstream)
    waiting = asyncio.create_task(asyncio.to_thread(fault_proxy.wait_for_calls, 1))
    assert await _rows(client, url) == [1, 2]
    assert await waiting
    assert not fault_proxy.wait_for_calls(99, timeout_s=0.01)


async def test_the_proxy_knows_how_many_connections_are_open(fault_proxy: FaultProxy, upstream: str) -> None:
    url = fault_proxy.front(upstream)
    async with aiohttp.ClientSession() as client:
        assert await _rows(client, url) == [1, 2]
        assert fault_proxy.open_connections == 1


async def test_a_system_that_is_gone_becomes_a_502(client: aiohttp.ClientSession, fault_proxy: FaultProxy) -> None:
    with serve(_system()) as upstream:
        url = fault_proxy.front(upstream)
    async with client.get(f"{url}/rows") as response:
        assert response.status == 502


async def test_what_was_carried_out_is_done_before_its_answer_is_lost(
    fault_proxy: FaultProxy, client: aiohttp.ClientSession, loopback: Loopback
) -> None:
    done: list[str] = []

    async def write(request: web.Request) -> web.Response:
        done.append(await request.text())
        return web.json_response({})

    app = web.Application()
    app.add_routes([web.post("/write", write)])
    url = fault_proxy.front(loopback(app))
    with fault_proxy.fault(faults.carried_out(faults.reset())), pytest.raises(aiohttp.ClientError):
        await client.post(f"{url}/write", data=b"kept")
    with fault_proxy.fault(faults.reset()), pytest.raises(aiohttp.ClientError):
        await client.post(f"{url}/write", data=b"lost")
    assert done == ["kept"]


async def test_two_calls_have_the_same_fingerprint_only_when_they_say_the_same(
    fault_proxy: FaultProxy, client: aiohttp.ClientSession, upstream: str
) -> None:
    url = fault_proxy.front(upstream)
    for path, body in (("mirror", b"a"), ("mirror", b"a"), ("mirror", b"b"), ("mirror?x=1", b"a")):
        async with client.post(f"{url}/{path}", data=body) as response:
            await response.read()
    first, again, *others = [call.fingerprint for call in fault_proxy.calls]
    assert first == again
    assert len({first, *others}) == 3
