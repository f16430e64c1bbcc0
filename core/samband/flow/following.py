"""Following up: what became of items is asked without anybody ordering an export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from samband.acting import act_for
from samband.adapters.registry import Registry
from samband.errors import SambandError
from samband.store import Store
from samband.store.ledger import STEPS_S
from samband.store.models import Integration

__all__ = ["FollowingUp"]

log = structlog.stdlib.get_logger("samband.flow.following")

_AT_ONCE: Final = 50


class Bell(Protocol):
    """Wakes a worker."""

    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool: ...


class FollowingUp:
    """Orders a run for each integration with items that nobody knows the end of, or that wait to be sent.

    Args:
        steps_s: Ages at which an item is asked about.
        up_to_days: Beyond this age it is not asked about any more.
        every_s: Seconds between two looks.
        at_once: Integrations that are read from the store together.
    """

    def __init__(
        self, *, store: Store, registry: Registry, bell: Bell, steps_s: Sequence[float] = STEPS_S,
        up_to_days: float = 90.0, every_s: float = 5.0, at_once: int = _AT_ONCE,
    ) -> None:  # fmt: skip
        self._store = store
        self._registry = registry
        self._bell = bell
        self._steps_s = steps_s
        self._up_to_days = up_to_days
        self._every_s = every_s
        self._at_once = at_once

    async def round(self) -> float:
        """Orders what is due; gives the seconds until the next look."""
        after: str | None = ""
        while after is not None:
            due = await self._store.ledger.to_follow_up(
                self._at_once, steps_s=self._steps_s, up_to_days=self._up_to_days, after=after
            )
            for integration in due:
                with act_for(organization=integration.organization_id, actor="scheduler"):
                    try:
                        await self.order(integration)
                    except SambandError as error:
                        # One integration's settings that fit no more must not keep the others waiting.
                        log.warning("follow_up_not_ordered", integration=integration.id, code=error.code)
            after = due[-1].id if len(due) == self._at_once else None
        return self._every_s

    async def order(self, integration: Integration) -> str | None:
        """Orders a run that asks what became of an integration's items; None when an export is under way."""
        adapter = self._registry.adapter(integration.plugin)
        streams = [stream.name for stream in adapter.manifest.streams if stream.direction != "pull"]
        run_id = await self._store.ledger.follow_up(
            integration, streams=streams, plugin_version=adapter.version, account=adapter.account(integration.settings)
        )
        if run_id is not None:
            await self._bell.ring(run_id)
        return run_id
