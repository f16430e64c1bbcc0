"""Starts and stops a simulator on a loopback port."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from .app import build_app
from .notices import Notices
from .seed import SeedPlan
from .state import CLIENT_ID, CLIENT_SECRET, TENANT_ID, SimulatorState

HOST = "127.0.0.1"
_LINE_LIMIT = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorAddress:
    """Where a running simulator answers and what an adapter needs to know to use it."""

    base_url: str
    token_url: str
    control_url: str
    settings: dict[str, Any]
    credentials: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Returns the address as the start line prints it."""
        return {
            "name": "dynamics365",
            "base_url": self.base_url,
            "token_url": self.token_url,
            "settings": self.settings,
            "credentials": self.credentials,
            "control_url": self.control_url,
        }


class Simulator:
    """A Dataverse environment with its directory, in this process, on a loopback port."""

    def __init__(self, plan: SeedPlan | None = None) -> None:
        self.state = SimulatorState(plan=plan or SeedPlan())
        self.notices = Notices(self.state)
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> SimulatorAddress:
        """Listens on a port (0 picks a free one) and returns the address once requests are answered."""
        runner = web.AppRunner(
            build_app(self.state, self.notices),
            access_log=None,
            # Next links and filters may make a URL of 32,768 characters.
            max_line_size=_LINE_LIMIT,
            max_field_size=_LINE_LIMIT,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        self._runner = runner
        site = web.TCPSite(runner, HOST, port)
        await site.start()
        await self.notices.start()
        return address_of(runner.addresses[0][1])

    async def stop(self) -> None:
        """Closes every connection and the port; safe to call twice."""
        await self.notices.stop()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


def address_of(port: int) -> SimulatorAddress:
    """Returns the address of a simulator on a port."""
    base_url = f"http://{HOST}:{port}"
    return SimulatorAddress(
        base_url=base_url,
        token_url=f"{base_url}/{TENANT_ID}/oauth2/v2.0/token",
        control_url=f"{base_url}/__sim",
        settings=connection_settings(base_url),
        credentials={"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET},
    )


def connection_settings(base_url: str) -> dict[str, object]:
    """Returns what an operator types into samband to connect to this environment; data, shared with nobody's code."""
    return {
        "environment_url": base_url,
        "authority_url": base_url,
        "tenant_id": TENANT_ID,
        "api_version": "v9.2",
        "staff": True,
        "memberships": {
            "set_name": "sb_memberships",
            "logical_name": "sb_membership",
            "primary_key": "sb_membershipid",
            "contact_column": "_sb_contactid_value",
            "mapping": {
                "joined_on": "sb_startdate",
                "left_on": "sb_enddate",
                "member_number": "sb_membernumber",
                "is_primary": "sb_isprimary",
                "status": {"column": "sb_status", "choices": {"1": "active", "2": "paused", "3": "ended"}},
            },
        },
    }
