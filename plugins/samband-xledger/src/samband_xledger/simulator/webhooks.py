"""Webhooks: every run of the job that posts something tells the hooks, signed with the token they were made with."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import secrets
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import orjson

from .state import SimulatorState
from .subscriptions import rendered, subject
from .tables import Row
from .world import World

STATES = {"PAUSED": 1, "RECOVERING": 2, "RUNNING": 3, "FAULTED": 4}
_TIMEOUT_S = 10.0
# How many changes one delivery tells is not public.
_MOST_EDGES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One POST: where to, what, and how it is signed."""

    hook: Row
    world: World
    url: str
    body: bytes
    token: str
    age_s: float = 0.0
    spoilt: bool = False


def signature(token: str, moment: datetime, body: bytes) -> str:
    """Returns the signature of a body: HMAC-SHA256 of ``{unix seconds}.{body}``, keyed by the decoded token."""
    key = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    text = f"{int(moment.timestamp())}.".encode() + body
    return base64.urlsafe_b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


class Webhooks:
    """Sends deliveries in order, one at a time, and keeps the hooks' states."""

    def __init__(self, state: SimulatorState) -> None:
        self._state = state
        self._waiting: deque[Delivery] = deque()
        self._bell = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.sent: deque[Delivery] = deque(maxlen=100)
        self.attempts = 0

    async def start(self) -> None:
        """Begins to send."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends, with what was not sent yet lost."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def forget(self) -> None:
        """Drops what waits and what was sent."""
        self._waiting.clear()
        self.sent.clear()
        self.attempts = 0

    def announce(self, world: World, changed: dict[str, list[Row]]) -> int:
        """Queues a delivery for every running hook whose subject changed; returns how many."""
        queued = 0
        for hook in world["webhooks"]:
            name = subject(hook["_query"])
            seen = world.visible(world.tokens[hook["_token"]].entity) if hook["_token"] in world.tokens else set()
            rows = [row for row in changed.get(name, ()) if row["ownerDbId"] in seen]
            if hook["state"]["code"] not in {"RUNNING", "RECOVERING"}:
                continue
            for start in range(0, len(rows), _MOST_EDGES):
                versions = [(secrets.token_urlsafe(8), row) for row in rows[start : start + _MOST_EDGES]]
                body = orjson.dumps(rendered(hook["_query"], name, versions))
                self._queue(Delivery(hook=hook, world=world, url=hook["url"], body=body, token=hook["_token"]))
                queued += 1
        return queued

    def again(self, *, age_s: float = 0.0, spoilt: bool = False) -> bool:
        """Queues the last delivery once more: as a replay, with a date in the past, or wrongly signed."""
        if not self.sent:
            return False
        last = self.sent[-1]
        self._queue(
            Delivery(
                hook=last.hook, world=last.world, url=last.url, body=last.body, token=last.token, age_s=age_s,
                spoilt=spoilt,
            )
        )  # fmt: skip
        return True

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._waiting

    def _queue(self, delivery: Delivery) -> None:
        self._waiting.append(delivery)
        self._bell.set()

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as client:
            while True:
                await self._bell.wait()
                self._bell.clear()
                while self._waiting:
                    await self._deliver(client, self._waiting[0])
                    if self._waiting:
                        self._waiting.popleft()

    async def _deliver(self, client: aiohttp.ClientSession, delivery: Delivery) -> None:
        limit = self._state.switches.webhook_attempts
        hook, world = delivery.hook, delivery.world
        for attempt in range(1, limit + 1):
            if hook["state"]["code"] in {"FAULTED", "PAUSED"}:
                return
            if await self._post(client, delivery):
                world["webhooks"].change(hook, lastSuccessfulPost=world.clock.local(), state=state_of("RUNNING"))
                self.sent.append(delivery)
                return
            name = "FAULTED" if attempt == limit else "RECOVERING"
            world["webhooks"].change(hook, lastFailedPost=world.clock.local(), state=state_of(name))
            await asyncio.sleep(self._state.switches.webhook_wait_s)

    async def _post(self, client: aiohttp.ClientSession, delivery: Delivery) -> bool:
        # The receiver compares with its own clock, so this is real time.
        moment = datetime.now(UTC) - timedelta(seconds=delivery.age_s)
        signed = signature(delivery.token, moment, b"spoilt" if delivery.spoilt else delivery.body)
        headers = {
            "Content-Type": "application/json",
            "Date": format_datetime(moment, usegmt=True),
            "X-XL-Webhook-Signature": signed,
        }
        self.attempts += 1
        try:
            async with client.post(delivery.url, data=delivery.body, headers=headers) as answer:
                return answer.status < 300
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False


def state_of(code: str) -> dict[str, Any]:
    """Returns a webhook's state as the API shows it."""
    return {"dbId": STATES[code], "code": code, "name": code.capitalize()}
