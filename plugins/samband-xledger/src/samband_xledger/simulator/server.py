"""Starts and stops a simulator on a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from . import drop_folder, rounds
from .app import PREFIXES, build_app
from .seed import ENTITY_CODE, PASSWORDS, TOKENS, USER, SeedPlan
from .state import SimulatorState
from .webhooks import Webhooks

HOST = "127.0.0.1"
EXAMPLE_MAPPING = {
    "payee": {"strategy": "liability", "account": "2990"},
    "expense_types": {"toll": {"account": "7140"}, "transport": {"account": "7140", "text": "{expense_type} {date}"}},
}
"""How claims could become vouchers on these accounts, for a host's demonstration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorAddress:
    """Where a running simulator answers and what an adapter needs to know to use it."""

    base_url: str
    control_url: str
    settings: dict[str, Any]
    credentials: dict[str, str]
    live: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Returns the address as the start line prints it."""
        return {
            "name": "xledger",
            "base_url": self.base_url,
            "settings": self.settings,
            "credentials": self.credentials,
            "control_url": self.control_url,
            "mapping": EXAMPLE_MAPPING,
            "live": self.live,
        }


class Simulator:
    """Two Xledger environments in this process, on one loopback port."""

    def __init__(
        self, plan: SeedPlan | None = None, *, drop_folder: Path | None = None, job_every_s: float | None = None
    ) -> None:
        self.state = SimulatorState(plan, drop_folder)
        self.webhooks = Webhooks(self.state)
        self._every_s = job_every_s
        self._runner: web.AppRunner | None = None
        self._scheduler: asyncio.Task[None] | None = None

    async def start(self, port: int = 0) -> SimulatorAddress:
        """Listens on a port (0 picks a free one) and returns the address once requests are answered."""
        if self.state.drop_folder is not None:
            drop_folder.prepare(self.state.drop_folder)
        runner = web.AppRunner(build_app(self.state, self.webhooks), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runner = runner
        await web.TCPSite(runner, HOST, port).start()
        await self.webhooks.start()
        if self._every_s is not None:
            self._scheduler = asyncio.create_task(self._run_jobs(self._every_s))
        return address_of(runner.addresses[0][1])

    def run_job(self) -> dict[str, Any]:
        """Does one round of the vendor's scheduler now."""
        return rounds.run(self.state, self.webhooks)

    async def _run_jobs(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            self.run_job()

    async def stop(self) -> None:
        """Closes every connection and the port; safe to call twice."""
        task, self._scheduler = self._scheduler, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.webhooks.stop()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


def address_of(port: int) -> SimulatorAddress:
    """Returns the address of a simulator on a port."""
    base_url = f"http://{HOST}:{port}"
    return SimulatorAddress(
        base_url=base_url,
        control_url=f"{base_url}/__sim",
        live={"settings": settings_of(base_url, "live"), "credentials": credentials_of("live")},
        settings=settings_of(base_url, "demo"),
        credentials=credentials_of("demo"),
    )


def settings_of(base_url: str, environment: str) -> dict[str, Any]:
    """Returns what an operator types into samband to connect; data, shared with nobody's code."""
    place = f"{base_url}{PREFIXES[environment]}"
    return {
        "environment": environment,
        "entity_code": ENTITY_CODE,
        "graphql_url": f"{place}/graphql",
        "soap_url": place,
    }


def credentials_of(environment: str) -> dict[str, str]:
    """Returns credentials that work in an environment."""
    return {
        "api_token": TOKENS[environment],
        "soap_user": USER,
        "soap_password": PASSWORDS[environment],
    }
