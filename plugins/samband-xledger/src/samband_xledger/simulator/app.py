"""The HTTP side of the simulator: which address leads to which door, and where faults strike."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable

from aiohttp import web

from . import control
from .faults import FaultRule
from .graphql_door import GraphQLDoor
from .soap_door import SoapDoor
from .state import Seen, SimulatorState
from .webhooks import Webhooks
from .wire import LOGIN, Reply, instead, send
from .world import World

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# Live lies beside demo, under a path of its own.
PREFIXES = {"demo": "", "live": "/live"}


def build_app(state: SimulatorState, webhooks: Webhooks) -> web.Application:
    """Returns the application that serves both environments and the control door."""
    app = web.Application(client_max_size=0)
    control.add_routes(app, state, webhooks)
    doors = _Doors(state)
    for name, prefix in PREFIXES.items():
        world = state.worlds[name].name
        app.router.add_post(f"{prefix}/graphql", doors.graphql(world))
        app.router.add_route("*", f"{prefix}/WS/Common/Lib/{{service}}.asmx", doors.soap(world))
    app.router.add_get("/login", _login)
    return app


async def _login(request: web.Request) -> web.Response:
    return web.Response(body=LOGIN, content_type="text/html")


class _Doors:
    def __init__(self, state: SimulatorState) -> None:
        self._state = state
        self._graphql = GraphQLDoor(state)
        self._soap = SoapDoor(state)

    def graphql(self, environment: str) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            world = self._state.worlds[environment]
            asked = await self._graphql.read(request)
            rule = self._state.faults.strike("graphql", asked.operations)
            reply, nodes = _skipped(rule), 0
            if reply is None:
                try:
                    reply, nodes = await self._graphql.answer(request, world, asked, rule)
                except Exception as problem:  # noqa: BLE001
                    reply = self._unforeseen(problem)
            return await self._send(request, world, "graphql", asked.operations, rule, reply, nodes)

        return handle

    def soap(self, environment: str) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            world = self._state.worlds[environment]
            asked = await self._soap.read(request)
            rule = self._state.faults.strike("soap", (asked.operation,))
            reply = _skipped(rule)
            if reply is None:
                try:
                    reply = self._soap.answer(world, asked, rule)
                except Exception as problem:  # noqa: BLE001
                    reply = self._unforeseen(problem)
            return await self._send(request, world, "soap", (asked.operation,), rule, reply, 0)

        return handle

    def _unforeseen(self, problem: Exception) -> Reply:
        # Never passed over: what the simulator failed to foresee is kept for the tests to see.
        self._state.internal_errors.append("".join(traceback.format_exception(problem))[-4_000:])
        return Reply(status=500, body=b"Internal error of the simulator", content_type="text/plain")

    async def _send(
        self,
        request: web.Request,
        world: World,
        door: str,
        operations: tuple[str, ...],
        rule: FaultRule | None,
        reply: Reply,
        nodes: int,
    ) -> web.StreamResponse:
        state = self._state
        if rule is not None and rule.commit:
            reply = instead(rule) or reply
        for name in operations:
            state.counters[name] += 1
            state.nodes[name] += nodes
        fault = None if rule is None else f"{'commit_' if rule.commit else ''}{rule.kind}"
        status = 0 if fault is not None and fault.endswith("drop") else reply.status
        at = state.clock.now().isoformat(timespec="milliseconds")
        state.log.append(
            Seen(
                at=at, environment=world.name, door=door, operations=operations, status=status, nodes=nodes, fault=fault
            )
        )
        return await send(request, rule, reply)


def _skipped(rule: FaultRule | None) -> Reply | None:
    """Returns what takes the place of the work when a fault strikes before it."""
    if rule is None or rule.commit:
        return None
    if rule.kind == "drop":
        return Reply(body=b"")
    return instead(rule)
