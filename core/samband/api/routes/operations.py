"""For those who run the host: is it alive, is it ready, how is it doing, what does it speak."""

from __future__ import annotations

from typing import Literal

from aiohttp import web
from pydantic import BaseModel

from samband.api.access import require_everywhere
from samband.api.endpoints import Call, Endpoints
from samband.api.metrics import CONTENT_TYPE, METRICS
from samband.api.problems import UnreadyError

endpoints = Endpoints("Operations")

OPENAPI_DOCUMENT: web.AppKey[bytes] = web.AppKey("openapi_document", bytes)
# What the service says of a part that makes work slower and loses none of it.
_DEGRADED = "degraded:"


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """Every part answers."""

    status: Literal["ready"] = "ready"
    parts: dict[str, str]


@endpoints.add("GET", "/livez", verb=None)
async def get_livez(call: Call) -> Alive:
    """Answers as long as the process does."""
    return Alive()


@endpoints.add("GET", "/readyz", verb=None, problems=("not_ready",))
async def get_readyz(call: Call) -> Ready:
    """Tells whether every part the host needs answers; if not, which one does not."""
    parts = await call.service.health.readiness()
    failing = [part for part, state in parts.items() if state != "ok" and not state.startswith(_DEGRADED)]
    if failing:
        raise UnreadyError(failing, parts)
    return Ready(parts=parts)


@endpoints.add("GET", "/metrics", verb="read", media_type="text/plain")
async def get_metrics(call: Call) -> web.Response:
    """Gives the figures of this process and the state of the work, in Prometheus' text format.

    Needs a key that is not bound to certain organisations.
    """
    require_everywhere(call.caller)
    text = await call.request.app[METRICS].render(call.service)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})


@endpoints.add("GET", "/openapi.json", verb=None)
async def get_openapi(call: Call) -> web.Response:
    """Gives this description."""
    return web.Response(body=call.request.app[OPENAPI_DOCUMENT], content_type="application/json")
