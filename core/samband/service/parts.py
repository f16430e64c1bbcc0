"""What every area of the service works with, and the look-ups they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from samband.adapters.adapter import Connection
from samband.adapters.registry import Registry
from samband.errors import ConflictError
from samband.http.egress import EgressPolicy
from samband.presenting import STALL_AFTER_S, run_view
from samband.redaction import Redactor
from samband.store import Store
from samband.store.models import Integration, Run
from samband.views import RunView


class Bell(Protocol):
    """The doorbell as the service sees it: a hint to a worker that may get lost without harm."""

    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool: ...
    async def ping(self) -> float | None: ...
    async def depth(self) -> int | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The host's parts as the service uses them.

    Attributes:
        public_url: Where the world reaches this host, without a slash at the end; used verbatim in addresses that are
            given away (webhooks, consent callbacks). Empty when nobody has said.
        stall_after_s: How long a run may be alive without progress before it is shown as stalled.
        egress: Where the host itself may connect to, for subscribers of events.
        redactor: Learns the secrets that are made here.
        drop_root: Below it are the folders that export files are put into; None when there are none.
    """

    store: Store
    registry: Registry
    bell: Bell
    public_url: str = ""
    stall_after_s: float = STALL_AFTER_S
    egress: EgressPolicy = field(default_factory=EgressPolicy)
    redactor: Redactor = field(default_factory=Redactor)
    drop_root: Path | None = None

    async def integration(self, org: str, type: str) -> Integration:
        """Gives an organisation's integration of a type, or raises `NotFoundError`."""
        await self.store.catalog.organization(org)
        return await self.store.catalog.integration(org, type)

    async def run(self, org: str, run_id: str) -> Run:
        """Gives an organisation's run, or raises `NotFoundError`."""
        await self.store.catalog.organization(org)
        return await self.store.feeds.run(org, run_id)

    async def connection(self, integration: Integration) -> Connection:
        """Gives what an adapter needs to act for an integration; `ConflictError` when it has no credentials."""
        credentials = await self.store.catalog.credentials(integration)
        if credentials is None:
            raise ConflictError(
                "The integration has no credentials.", code="credentials_missing", hint="Set its credentials first."
            )
        return Connection(
            organization_id=integration.organization_id, integration_id=integration.id, revision=integration.revision,
            settings=integration.settings, credentials=credentials,
        )  # fmt: skip

    async def run_view(self, run: Run) -> RunView:
        cursors = await self.store.feeds.cursors_present(run.integration_id)
        return run_view(run, cursor_present=has_cursors(run, cursors), stall_after_s=self.stall_after_s)


def has_cursors(run: Run, cursors: Mapping[str, bool]) -> bool:
    """Tells whether every stream of a run has a cursor for the next one."""
    return bool(run.streams) and all(cursors.get(name, False) for name in run.streams)
