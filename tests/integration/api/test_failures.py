"""What the client and the log are told when something goes wrong behind the API."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from samband import errors
from samband.hosting.logs import configure_logging

ONE = "/v1/organizations/hlf/integrations/dynamics365"
SECRET = "Ola Nordmann 01017012345"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is written to the log, set up as the host does."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    written = io.StringIO()
    configure_logging(format="json", stream=written)
    yield written
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_a_defect_is_answered_with_nothing_but_its_instance(ask: Any, service: Any, log: io.StringIO) -> None:
    service.defects["set_credentials"] = ValueError(f"bad row: {SECRET}")
    body = {"credentials": {"client_secret": "hunter2-hunter2"}}
    answer = await ask("PUT", f"{ONE}/credentials", json=body, headers={"X-Request-Id": "find-me"})
    text = await answer.text()
    assert (answer.status, (await answer.json())["instance"]) == (500, "find-me")
    assert set(await answer.json()) == {"type", "title", "status", "code", "detail", "hint", "instance"}
    for told in ("hunter2", "Nordmann", "bad row", "ValueError", "client_secret"):
        assert told not in text
    assert "find-me" in log.getvalue()
    assert "ValueError" in log.getvalue()
    for told in ("hunter2", "Nordmann", "bad row", "client_secret"):
        assert told not in log.getvalue()


async def test_one_line_per_request_names_its_key_and_template_but_not_its_address(ask: Any, log: io.StringIO) -> None:
    await ask("GET", "/v1/organizations/hlf/runs?limit=5", headers={"X-Request-Id": "abc"})
    (line,) = log.getvalue().splitlines()
    assert '"route":"/v1/organizations/{org}/runs"' in line.replace(": ", ":")
    assert '"key":"k1"' in line.replace(": ", ":")
    assert "limit" not in line
    assert "smb_admin" not in line


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.InvalidError("No."), 422, "invalid_request"),
        (errors.NotFoundError("No."), 404, "not_found"),
        (errors.ConflictError("No."), 409, "conflict"),
        (errors.ConflictError("No.", code="not_tested"), 409, "not_tested"),
        (errors.ConflictError("No.", code="revision_mismatch"), 412, "revision_mismatch"),
        (errors.AccessError("No."), 403, "access_refused"),
        (errors.NotReadyError("No."), 503, "not_ready"),
        (errors.ServiceError("No."), 400, "request_refused"),
        (errors.PluginError("No."), 409, "plugin_failed"),
        (errors.ConfigurationError("No.", code="key_missing"), 503, "key_missing"),
        (errors.AuthError("No."), 409, "auth_refused"),
        (errors.RateLimitedError("No.", retry_after_s=17.2), 429, "rate_limited"),
        (errors.UnavailableError("No."), 503, "unavailable"),
        (errors.RemoteError("No."), 502, "remote_error"),
        (errors.StoreError("No."), 503, "store_error"),
        (errors.SambandError("No."), 500, "internal_error"),
        (RuntimeError("No."), 500, "internal_error"),
        (TimeoutError("No."), 500, "internal_error"),
    ],
)
async def test_every_branch_of_the_error_tree_has_its_status(
    service: Any, error: Exception, status: int, code: str
) -> None:
    from aiohttp.test_utils import TestClient, TestServer

    from samband.api import create_app

    service.defects["enable_integration"] = error
    async with TestClient(TestServer(create_app(service.areas))) as client:
        answer = await client.post(f"{ONE}/enable", headers={"Authorization": "Bearer smb_admin_1"})
        body = await answer.json()
    assert (answer.status, body["code"], body["status"]) == (status, code, status)
    assert answer.content_type == "application/problem+json"
    assert ("Retry-After" in answer.headers) == (status in (429, 503))


async def test_the_wait_that_is_known_is_told(ask: Any, service: Any) -> None:
    service.defects["authenticate_key"] = errors.NotReadyError("The database does not answer.", retry_after_s=9)
    answer = await ask("GET", "/v1/plugins")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "9")


async def _speak(client: Any, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    writer.write(raw)
    await writer.drain()
    try:
        return await asyncio.wait_for(reader.read(65536), 10)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/9.9\r\nAuthorization: Bearer hunter2\r\n\r\n",
        b"G@T /hunter2 HTTP/1.1\r\n\r\n",
        b"GET /hunter2\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"hunter2" * 4000 + b"\r\n\r\n",
    ],
)
async def test_bytes_that_are_not_http_reach_no_log(client: Any, log: io.StringIO, raw: bytes) -> None:
    answer = await _speak(client, raw)
    assert answer.split(b" ")[1] == b"400"
    assert "hunter2" not in log.getvalue()


async def test_a_chunk_that_is_broken_is_the_clients_fault(client: Any, log: io.StringIO) -> None:
    head = b"POST /v1/organizations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer smb_admin_1\r\n"
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await _speak(client, head + b"zz\r\nhunter2\r\n")
    assert answer.split(b" ")[1] == b"400"
    assert "hunter2" not in log.getvalue()


async def test_a_client_that_hangs_up_in_mid_body_leaves_no_defect_in_the_log(client: Any, log: io.StringIO) -> None:
    _reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    head = b"POST /v1/organizations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer smb_admin_1\r\n"
    writer.write(head + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.1)
    assert (await client.get("/livez")).status == 200
    assert "request_failed" not in log.getvalue()


async def test_an_expectation_other_than_continue_is_refused(client: Any) -> None:
    answer = await _speak(client, b"GET /livez HTTP/1.1\r\nHost: x\r\nExpect: wonders\r\nConnection: close\r\n\r\n")
    assert answer.split(b" ")[1] == b"417"
    assert b'"code":"expectation_failed"' in answer
    assert b"wonders" not in answer
    assert b"Server:" not in answer


async def test_a_client_that_waits_for_continue_gets_it_and_then_its_answer(client: Any) -> None:
    body = b'{"id": "via-continue", "name": "X"}'
    head = b"POST /v1/organizations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer smb_admin_1\r\nConnection: close\r\n"
    head += b"Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    writer.write(head)
    assert await asyncio.wait_for(reader.readline(), 10) == b"HTTP/1.1 100 Continue\r\n"
    writer.write(body)
    rest = await asyncio.wait_for(reader.read(), 10)
    assert b"HTTP/1.1 201 Created" in rest
    writer.close()
    await writer.wait_closed()
