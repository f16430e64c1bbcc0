"""The ten operations, and the areas around them.

Every method takes the organisation first and never looks beyond it. What goes wrong is raised as one of the
`samband.errors.ServiceError` types, with the fields at fault and the way out.
"""

from __future__ import annotations

from collections.abc import Sequence

from samband.access import Caller, Keys, Verb
from samband.adapters.registry import Registry
from samband.service.health import Health
from samband.service.integrations import Integrations
from samband.service.organizations import Organizations
from samband.service.parts import Bell, Parts
from samband.service.records import Records
from samband.service.runs import Runs
from samband.store import Store
from samband.views import PluginView, RunView, StatusView


class Service:
    """Everything a caller can ask of samband.

    Attributes:
        organizations: Whose data is carried.
        integrations: What each organisation is connected to.
        runs: Orders, and what became of them.
        records: What is held, and its changes.
        health: How integrations and the host are doing.
    """

    def __init__(self, *, store: Store, registry: Registry, bell: Bell, public_url: str = "") -> None:
        parts = Parts(store=store, registry=registry, bell=bell, public_url=public_url)
        self._parts = parts
        self._keys = Keys(store.api_keys)
        self.organizations = Organizations(parts)
        self.integrations = Integrations(parts)
        self.runs = Runs(parts)
        self.records = Records(parts)
        self.health = Health(parts)

    # ── the ten operations ───────────────────────────────────────────────────

    async def trigger_sync(
        self, org: str, type: str, *, streams: Sequence[str] | None = None, full: bool = False, reason: str = "api",
        requested_by: str = "", idempotency_key: str | None = None,
    ) -> RunView:  # fmt: skip
        """Orders a sync and rings for a worker; see `Runs.order_sync`."""
        return await self.runs.order_sync(
            org, type, streams=streams, full=full, reason=reason, requested_by=requested_by,
            idempotency_key=idempotency_key,
        )  # fmt: skip

    async def get_integration_status(self, org: str, type: str) -> StatusView:
        """Tells how an integration is doing."""
        return await self.health.status(org, type)

    async def get_last_sync_result(self, org: str, type: str) -> RunView:
        """Gives the newest run; `NotFoundError` when there was none."""
        return await self.runs.latest(org, type)

    # ── plugins and access ───────────────────────────────────────────────────

    def list_plugins(self) -> list[PluginView]:
        """Gives every plugin that is installed or wanted, with the reason where one did not load."""
        return self._parts.registry.views()

    async def authenticate_key(self, presented: str) -> Caller | None:
        """Tells who holds this key; None for anything that is not a valid one."""
        return await self._keys.holder_of(presented)

    async def ensure_admin_key(self) -> str | None:
        """Makes the first key and gives it in clear, this once; None when there are keys already."""
        return await self._keys.first()

    async def create_key(self, name: str, *, verbs: Sequence[Verb], organizations: Sequence[str] | None) -> str:
        """Makes an API key and gives it in clear; only its hash is kept."""
        return await self._keys.create(name, verbs=verbs, organizations=organizations)
