"""The control door: how tests and demonstrations look into the simulator and change it.

It asks for no credentials, so it answers only to clients on the same machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

from .configuration import configure
from .errors import ApiError
from .faults import FaultRule
from .notices import Notices
from .seed import SeedPlan
from .state import SimulatorState
from .touch import touch

Handler = Callable[[SimulatorState, dict[str, Any]], dict[str, Any]]


def add_routes(app: web.Application, state: SimulatorState, notices: Notices | None = None) -> None:
    """Adds the routes under ``/__sim``."""
    for name, handler in {
        "reset": _reset,
        "seed": _seed,
        "touch": touch,
        "faults": _faults,
        "config": configure,
    }.items():
        app.router.add_post(f"/__sim/{name}", _posted(state, handler))
    if notices is not None:
        app.router.add_post("/__sim/webhooks", _posted(state, lambda state, order: notices.order(order)))
    app.router.add_get("/__sim/state", _got(state, _state))
    app.router.add_get("/__sim/log", _got(state, _log))


def _posted(state: SimulatorState, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        return _run(request, state, handler, body)

    return handle


def _got(state: SimulatorState, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        return _run(request, state, handler, orjson.dumps(dict(request.query)))

    return handle


def _run(request: web.Request, state: SimulatorState, handler: Handler, body: bytes) -> web.Response:
    if not _is_local(request.remote):
        return _json({"error": "the control door answers to this machine only"}, 403)
    try:
        order = orjson.loads(body) if body.strip() else {}
        if not isinstance(order, dict):
            raise ValueError("the body must be a JSON object")
        return _json(handler(state, order), 200)
    except (ValueError, TypeError, KeyError) as problem:
        return _json({"error": str(problem) or type(problem).__name__}, 400)
    except ApiError as refusal:
        return _json({"error": refusal.message, "code": refusal.code}, 400)


def _is_local(remote: str | None) -> bool:
    try:
        return ipaddress.ip_address((remote or "").partition("%")[0]).is_loopback
    except ValueError:
        return False


def _json(payload: dict[str, Any], status: int) -> web.Response:
    return web.Response(body=orjson.dumps(payload), status=status, content_type="application/json")


def _plan(state: SimulatorState, order: dict[str, Any]) -> SeedPlan:
    numbers = {name: order[name] for name in ("members", "memberships", "staff", "seed") if name in order}
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 2_000_000:
            raise ValueError(f"{name} must be a whole number")
    return replace(state.plan, **numbers)


def _reset(state: SimulatorState, order: dict[str, Any]) -> dict[str, Any]:
    state.reset(_plan(state, order))
    return _counts(state)


def _seed(state: SimulatorState, order: dict[str, Any]) -> dict[str, Any]:
    state.seed(_plan(state, order))
    return _counts(state)


def _counts(state: SimulatorState) -> dict[str, Any]:
    tables = state.organization.tables.values()
    return {
        "version": state.organization.version,
        "counts": {table.spec.entity_set: len(table.rows) for table in tables},
        "application_user": state.seeded.application_user,
        "organization": state.seeded.organization_id,
        "business_unit": state.seeded.business_unit_id,
    }


def _faults(state: SimulatorState, order: dict[str, Any]) -> dict[str, Any]:
    rules = order.get("rules", [order] if "fault" in order else [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise ValueError("rules must be a list of objects")
    parsed = [FaultRule.parse(rule) for rule in rules]
    if order.get("clear"):
        state.faults.rules.clear()
    state.faults.rules.extend(parsed)
    return {"rules": [_rule(rule) for rule in state.faults.rules]}


def _rule(rule: FaultRule) -> dict[str, Any]:
    return {"fault": rule.kind, "path": rule.path, "method": rule.method, "left": rule.times, "hits": rule.hits}


def _state(state: SimulatorState, query: dict[str, Any]) -> dict[str, Any]:
    shown = _counts(state)
    shown.update(
        now=state.clock.now().isoformat(),
        tokens_issued=state.office.issued,
        requests_seen=state.requests_seen,
        limit_refusals=state.limits.refusals,
        internal_errors=state.internal_errors,
        faults=[_rule(rule) for rule in state.faults.rules],
        jobs=state.jobs,
        plan={name: getattr(state.plan, name) for name in ("members", "memberships", "staff", "seed")},
    )
    wanted = str(query.get("rows", ""))
    if wanted:
        shown["rows"] = {name: _rows(state, name) for name in wanted.split(",")}
    return shown


def _rows(state: SimulatorState, entity_set: str) -> dict[str, Any]:
    table = state.organization.table_of_set(entity_set)
    if table is None:
        raise ValueError(f"there is no entity set {entity_set[:60]}")
    return {
        "versions": {row_id: row["versionnumber"] for row_id, row in table.rows.items()},
        "deleted": table.tombstones,
    }


def _log(state: SimulatorState, query: dict[str, Any]) -> dict[str, Any]:
    entries = [seen.as_json() for seen in state.log]
    return {"requests_seen": state.requests_seen, "requests": entries[-int(query.get("last", len(entries))) :]}
