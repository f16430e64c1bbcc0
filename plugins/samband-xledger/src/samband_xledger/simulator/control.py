"""The control door: how tests and demonstrations look into the simulator and change it.

It asks for no credentials, so it answers only to clients on the same machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import orjson
from aiohttp import web

from . import drop_folder, rounds
from .configuration import configure
from .errors import Refusal
from .faults import FaultBook, FaultRule
from .looks import books, counters, log, shown_state, staging
from .seed import ENTITY_CODE
from .state import SimulatorState
from .touch import touch
from .webhooks import Webhooks
from .world import World

Order = dict[str, Any]
Handler = Callable[[Order], dict[str, Any]]
BASE = "/__sim"


def add_routes(app: web.Application, state: SimulatorState, webhooks: Webhooks) -> None:
    """Adds the routes under ``/__sim``."""
    door = _Door(state, webhooks)
    for path, handler in {
        "reset": door.reset,
        "faults": door.faults,
        "faults/clear": door.clear_faults,
        "config": lambda order: configure(state, order),
        "clock/advance": door.advance,
        "job/run": lambda order: rounds.run(state, webhooks),
        "drop/scan": door.scan,
        "touch": lambda order: touch(world_of(state, order), order, webhooks),
        "webhooks/deliver": door.deliver,
        "refresh": door.refresh,
    }.items():
        app.router.add_post(f"{BASE}/{path}", _guarded(handler))
    for path, look in {
        "books": books,
        "staging": staging,
        "counters": counters,
        "state": shown_state,
        "log": log,
    }.items():
        app.router.add_get(f"{BASE}/{path}", _guarded(_looking(state, look)))
    app.router.add_get(f"{BASE}/webhooks", _guarded(door.hooks))


def world_of(state: SimulatorState, order: Order) -> World:
    """Returns the environment an order names; demo when it names none."""
    name = str(order.get("environment", "demo"))
    if name not in state.worlds:
        raise ValueError("environment is demo or live")
    return state.worlds[name]


def _looking(state: SimulatorState, look: Callable[[SimulatorState, World, Order], Order]) -> Handler:
    return lambda order: look(state, world_of(state, order), order)


def _guarded(handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        if not _is_local(request.remote):
            return _json({"error": "the control door answers to this machine only"}, 403)
        try:
            body = await request.read()
            order = orjson.loads(body) if body.strip() else dict(request.query)
            if not isinstance(order, dict):
                raise ValueError("the body must be a JSON object")
            return _json(handler(order), 200)
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            return _json({"error": str(problem) or type(problem).__name__}, 400)
        except Refusal as refusal:
            return _json({"error": refusal.message}, 400)

    return handle


def _is_local(remote: str | None) -> bool:
    try:
        return ipaddress.ip_address((remote or "").partition("%")[0]).is_loopback
    except ValueError:
        return False


def _json(payload: Order, status: int) -> web.Response:
    return web.Response(body=orjson.dumps(payload), status=status, content_type="application/json")


class _Door:
    def __init__(self, state: SimulatorState, webhooks: Webhooks) -> None:
        self._state = state
        self._webhooks = webhooks

    def reset(self, order: Order) -> Order:
        self._state.reset()
        self._webhooks.forget()
        return {"reset": True}

    def refresh(self, order: Order) -> Order:
        """Overwrites demo with live, as the vendor does: demo's own tokens are gone, live's work there."""
        self._state.refresh_demo()
        return {"tokens": len(self._state.world.tokens)}

    def faults(self, order: Order) -> Order:
        rules = order.get("rules", [order] if "fault" in order else [])
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            raise ValueError("rules must be a list of objects")
        parsed = [FaultRule.parse(rule) for rule in rules]
        if "seed" in order or order.get("clear"):
            kept = [] if order.get("clear") else self._state.faults.rules
            self._state.faults = FaultBook(int(order.get("seed", 1)))
            self._state.faults.rules = kept
        self._state.faults.rules.extend(parsed)
        return {"rules": [rule.as_json() for rule in self._state.faults.rules]}

    def clear_faults(self, order: Order) -> Order:
        return self.faults({"clear": True})

    def advance(self, order: Order) -> Order:
        if "to" in order:
            moment = datetime.fromisoformat(str(order["to"]))
            if moment.tzinfo is None:
                raise ValueError("to must have an offset")
            self._state.clock.move_to(moment)
        self._state.clock.advance(float(order.get("seconds", 0)) + 3_600 * float(order.get("hours", 0)))
        return {"now": self._state.clock.now().isoformat(), "local": self._state.clock.local()}

    def scan(self, order: Order) -> Order:
        if self._state.drop_folder is None:
            raise ValueError("the simulator was started without a drop folder")
        found = drop_folder.pick_up(self._state.world, self._state.drop_folder, ENTITY_CODE, self._state.faults)
        return {"files": [upload.name for upload in found]}

    def deliver(self, order: Order) -> Order:
        how = order.get("how", "replay")
        if how not in {"replay", "stale", "bad_signature"}:
            raise ValueError("how is replay, stale or bad_signature")
        age_s = float(order.get("age_s", 3_600 if how == "stale" else 0))
        return {"queued": self._webhooks.again(age_s=age_s, spoilt=how == "bad_signature")}

    def hooks(self, order: Order) -> Order:
        world = world_of(self._state, order)
        return {
            "attempts": self._webhooks.attempts,
            "idle": self._webhooks.idle,
            "webhooks": [
                {
                    "dbId": str(hook["dbId"]),
                    "url": hook["url"],
                    "state": hook["state"]["code"],
                    "lastSuccessfulPost": hook.get("lastSuccessfulPost"),
                    "lastFailedPost": hook.get("lastFailedPost"),
                }
                for hook in world["webhooks"]
            ],
        }
