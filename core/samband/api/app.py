"""The aiohttp application: routes, and what holds for every request (id, log, figures, problem answers, headers)."""

from __future__ import annotations

import functools
import re
import time
import uuid
from typing import TYPE_CHECKING

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

import samband
from samband.api.bodies import BodyLimits
from samband.api.endpoints import Endpoint
from samband.api.metrics import METRICS, Metrics
from samband.api.openapi import openapi_document
from samband.api.problems import MEDIA_TYPE, PROBLEMS, document, explain, unexpected
from samband.api.routes import ENDPOINTS
from samband.api.routes.operations import OPENAPI_DOCUMENT
from samband.errors import SambandError

if TYPE_CHECKING:
    from samband.service import Service

__all__ = ["create_app"]

_log = structlog.get_logger("samband.api")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
_UNMATCHED = "unmatched"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def create_app(
    service: Service,
    *,
    max_body_bytes: int = 1024 * 1024,
    request_timeout_s: float = 30.0,
    metrics: Metrics | None = None,
) -> web.Application:
    """Gives the HTTP API over a service; run it with any aiohttp runner.

    Args:
        service: Already started; the application neither opens nor closes it.
        max_body_bytes: A longer request body is refused with 413.
        request_timeout_s: How long a body may take to arrive before it is refused with 408.
        metrics: Where requests are counted; a fresh registry when None.
    """
    app = web.Application(
        middlewares=[_observe, _explain],
        client_max_size=max_body_bytes,
        # Bodies are never unpacked: a small compressed one could stand for a very large one. aiohttp's own access
        # log would write addresses with their queries; ours writes the template.
        handler_args={"auto_decompress": False, "access_log": None},
    )
    app[METRICS] = metrics or Metrics()
    app[OPENAPI_DOCUMENT] = _openapi_document()
    app.on_response_prepare.append(_dress)
    limits = BodyLimits(max_bytes=max_body_bytes, timeout_s=request_timeout_s)
    for endpoint in ENDPOINTS:
        handler = _bind(endpoint, service, limits)
        methods = ("GET", "HEAD") if endpoint.method == "GET" else (endpoint.method,)
        for method in methods:
            app.router.add_route(method, endpoint.path, handler, expect_handler=_expect)
    return app


@functools.cache
def _openapi_document() -> bytes:
    """Gives the document as it is served. The endpoints stand fast, so the applications of a process share one."""
    return orjson.dumps(openapi_document(ENDPOINTS, samband.__version__))


def _bind(endpoint: Endpoint, service: Service, limits: BodyLimits) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await endpoint.serve(request, service, limits)

    return handle


@web.middleware
async def _observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Names the request, and writes one log line and one measurement when it has its answer."""
    started = time.perf_counter()
    # aiohttp runs each request in a task with its own context, so there is nothing to unbind.
    structlog.contextvars.bind_contextvars(request_id=_name(request))
    response = await handler(request)
    took_s = time.perf_counter() - started
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else _UNMATCHED
    request.app[METRICS].observe(request.method, route, response.status, took_s)
    # The template and not the address: what a client puts into an address can be anything.
    # Deliveries that were taken in come by the thousand, and each has its row in the inbox.
    write = _log.debug if route.startswith("/webhooks/") and response.status < 300 else _log.info
    write("request", method=request.method, route=route, status=response.status, duration_ms=round(took_s * 1000, 1))
    return response


@web.middleware
async def _explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever goes wrong into a problem document."""
    instance = request[_ID]
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        return _explain_routing(refusal, request)
    except SambandError as error:
        answer = explain(error, request, instance)
        if answer is None:
            _log_defect(error)
        return answer or unexpected(instance)
    except Exception as defect:  # noqa: BLE001 -- the last wall: logged with its place, answered without anything
        _log_defect(defect)
        return unexpected(instance)


def _explain_routing(refusal: web.HTTPException, request: web.Request) -> web.StreamResponse:
    """Gives the answer to what the router refused, and to OPTIONS on an address that exists."""
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted({*refusal.allowed_methods, "OPTIONS"}))
        if request.method == "OPTIONS":
            return web.Response(status=204, headers={"Allow": allow})
        text = f"This address takes {allow}."
        kind = PROBLEMS["method_not_allowed"]
        return document(kind, "method_not_allowed", text, request[_ID], headers={"Allow": allow})
    if isinstance(refusal, web.HTTPNotFound):
        text = "There is nothing at this address."
        hint = "See /openapi.json for every address there is."
        return document(PROBLEMS["route_unknown"], "route_unknown", text, request[_ID], hint=hint)
    _log_defect(refusal)  # no handler raises aiohttp's own answers
    return unexpected(request[_ID])


async def _expect(request: web.Request) -> None:
    """Sends the interim answer a client waits for before its body. Runs before the middlewares do."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # Otherwise an error after this would be taken for one in the middle of the answer.
        request.writer.output_size = 0
        return
    text = "Only 'Expect: 100-continue' is supported."
    answer = document(PROBLEMS["expectation_failed"], "expectation_failed", text, _name(request))
    raise web.HTTPExpectationFailed(text=answer.text, content_type=MEDIA_TYPE)


async def _dress(request: web.Request, response: web.StreamResponse) -> None:
    """Puts the headers on that every answer carries, and takes the server's banner off."""
    response.headers.update(_HEADERS)
    response.headers["X-Request-Id"] = _name(request)
    response.headers.pop("Server", None)


def _name(request: web.Request) -> str:
    """Gives the request's id: the client's own if it is a plain one, otherwise a new one."""
    if _ID not in request:
        sent = request.headers.get("X-Request-Id", "")
        request[_ID] = sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
    return request[_ID]


def _log_defect(defect: BaseException) -> None:
    # The log keeps its type and place, not its words: see samband.hosting.logs.
    _log.error("request_failed", exc_info=defect)
