"""The HTTP side of the simulator: aiohttp in front, everything that decides behind.

The order on every data request: a fault that takes the answer's place, the token, the application user, the limits,
the service itself, a fault that spoils the answer.
"""

from __future__ import annotations

import asyncio
import re
import time
import traceback
import uuid

from aiohttp import web

from . import control, directory, errors, fault_answers, fault_wire, tokens
from .access import Caller, admitted
from .exchange import Answer, Call, Preferences, error_payload
from .faults import AFTER, FaultRule
from .notices import Notices
from .service import handle
from .state import Seen, SimulatorState

STATE: web.AppKey[SimulatorState] = web.AppKey("state", SimulatorState)
_DATA_PATH = re.compile(r"/api/data/(v9\.[0-9])(?:/(.*))?", re.DOTALL)
_METHODS = frozenset({"GET", "POST", "PATCH", "PUT", "DELETE"})


def build_app(state: SimulatorState, notices: Notices | None = None) -> web.Application:
    """Returns the application that serves one simulated environment; ``notices`` tells others of its changes."""
    # The size limit is the service's own (413 with its envelope), so aiohttp's is off.
    app = web.Application(client_max_size=0)
    app[STATE] = state
    control.add_routes(app, state, notices)
    app.router.add_route("*", "/{tail:.*}", _entry)
    return app


async def _entry(request: web.Request) -> web.StreamResponse:
    state = request.app[STATE]
    started = time.perf_counter()
    state.requests_seen += 1
    path, _, query = readable(request.raw_path).partition("?")
    rule = state.faults.strike(request.method, path)
    response: web.StreamResponse | None = None
    try:
        answer = await _answer(state, request, path, query, rule)
        response = await _send(state, request, answer, rule)
        return response
    finally:
        _log(state, request, path, 0 if response is None else response.status, rule, started)


async def _answer(state: SimulatorState, request: web.Request, path: str, query: str, rule: FaultRule | None) -> Answer:
    try:
        where = origin(request)
        instead = None
        if rule is not None:
            instead = fault_answers.instead(state, rule, request.headers.get("Authorization"), where)
        answer = instead or await _route(state, request, path, query)
        if rule is not None and rule.kind in AFTER:
            fault_answers.spoil(rule, answer, where, f"{path}?{query}")
    except Exception as problem:  # noqa: BLE001
        # Never a 500 of the simulator's own: what it failed to foresee is refused, and kept for the tests to see.
        state.internal_errors.append("".join(traceback.format_exception(problem))[-4_000:])
        answer = Answer(status=400, payload=error_payload("0x80060888", "The request could not be understood."))
    if path.startswith("/api/data/"):
        _stamp(state, request, answer)
    return answer


async def _route(state: SimulatorState, request: web.Request, path: str, query: str) -> Answer:
    body = await _read(state, request)
    if body is None:
        error = errors.too_large()
        return Answer(status=error.status, payload=error_payload(error.code, error.message))
    data = _DATA_PATH.fullmatch(path)
    if data is not None:
        return await _data(state, request, data[1], data[2] or "", query, body)
    found = directory.route(state, request.method, path, request.headers, body, origin(request))
    if found is not None:
        return found
    if path.rstrip("/") == "/api/data":
        return directory.unauthorized(origin(request), state.office.tenant_id)
    return Answer(status=404, raw=b"Not found", content_type="text/plain")


async def _read(state: SimulatorState, request: web.Request) -> bytes | None:
    chunks, size = [], 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > state.switches.max_body_bytes:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def origin(request: web.Request) -> str:
    """Returns scheme and host as this client addresses the simulator; links in answers start with it."""
    return f"{request.scheme}://{readable(request.host)}"


def readable(text: str) -> str:
    """Returns text from the wire without the surrogates that stand for bytes which are not UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


async def _data(
    state: SimulatorState, request: web.Request, version: str, path: str, query: str, body: bytes
) -> Answer:
    prefer = Preferences.parse(readable(",".join(request.headers.getall("Prefer", []))))
    try:
        caller = _caller(state, request)
        if caller is None:
            return directory.unauthorized(origin(request), state.office.tenant_id)
        if request.method not in _METHODS:
            raise errors.not_supported()
        call = Call(
            method=request.method,
            path=path,
            query=query,
            headers={name.lower(): readable(value) for name, value in request.headers.items()},
            body=body,
            origin=origin(request),
            version=version,
            caller=caller,
            prefer=prefer,
        )
        return await _limited(state, call)
    except errors.ApiError as error:
        payload = error_payload(error.code, error.message, prefer.annotations)
        return Answer(status=error.status, payload=payload, headers=error.headers)


def _caller(state: SimulatorState, request: web.Request) -> Caller | None:
    token = state.office.recognise(request.headers.get("Authorization"))
    if token is None:
        return None
    user = state.users.get(token.client_id.lower())
    if user is not None:
        row = state.organization.tables["systemuser"].rows.get(user.user_id)
        if row is not None and row.get("isdisabled"):
            raise errors.user_disabled()
    return admitted(user)


async def _limited(state: SimulatorState, call: Call) -> Answer:
    weight = call.body.count(b"HTTP/1.1") if call.path == "$batch" and state.switches.batch_counts_parts else 1
    state.limits.enter(call.caller.user_id, max(weight, 1))
    started = time.perf_counter()
    try:
        if state.switches.latency_s > 0:
            await asyncio.sleep(state.switches.latency_s)
        return handle(state, call)
    finally:
        state.limits.leave(call.caller.user_id, time.perf_counter() - started)


def _stamp(state: SimulatorState, request: web.Request, answer: Answer) -> None:
    """Adds the headers every data answer carries ("Send parallel requests", "Service protection API limits")."""
    request_id = str(uuid.uuid4())
    token = state.office.recognise(request.headers.get("Authorization"))
    user = None if token is None else state.users.get(token.client_id.lower())
    requests, seconds = state.limits.remaining("" if user is None else user.user_id)
    answer.headers.update(
        {
            "OData-Version": "4.0",
            "Cache-Control": "no-cache",
            "x-ms-service-request-id": request_id,
            "REQ_ID": request_id,
            "x-ms-ratelimit-burst-remaining-xrm-requests": str(requests),
            "x-ms-ratelimit-time-remaining-xrm-requests": f"{seconds:.2f}",
            "x-ms-dop-hint": str(state.switches.dop_hint),
        }
    )
    echoed = request.headers.get("x-ms-client-request-id")
    if echoed is not None:
        answer.headers["x-ms-client-request-id"] = readable(echoed)
    answer.headers.setdefault("Set-Cookie", f"ARRAffinity={state.seeded.organization_id};Path=/;HttpOnly")


async def _send(
    state: SimulatorState, request: web.Request, answer: Answer, rule: FaultRule | None
) -> web.StreamResponse:
    body = answer.body()
    headers = dict(answer.headers)
    if body or answer.status == 200:
        headers["Content-Type"] = _with_charset(answer.content_type)
    if rule is not None:
        spoilt = await fault_wire.send(request, rule, answer.status, headers, body)
        if spoilt is not None:
            return spoilt
    response = web.Response(status=answer.status, headers=headers, body=body if body else None)
    if state.switches.gzip and len(body) > 1_000:
        response.enable_compression()
    return response


def _with_charset(content_type: str) -> str:
    return f"{content_type}; charset=utf-8" if content_type.startswith(("application/json", "text/")) else content_type


def _log(
    state: SimulatorState, request: web.Request, path: str, status: int, rule: FaultRule | None, started: float
) -> None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    state.log.append(
        Seen(
            time=state.clock.now().isoformat(timespec="milliseconds"),
            method=request.method,
            path=readable(request.raw_path)[:2_000],
            status=status,
            token=tokens.fingerprint(token.strip()) if scheme.lower() == "bearer" and token else None,
            fault=None if rule is None else rule.kind,
            duration_ms=round((time.perf_counter() - started) * 1_000, 3),
        )
    )
