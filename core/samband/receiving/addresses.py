"""Whose an address is: looked up for every delivery, opened once for as long as nothing about it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import BaseModel

from samband.adapters.registry import Registry
from samband.errors import InvalidError, NotFoundError, NotReadyError, PluginError
from samband.gathering import Gathering
from samband.store import Store
from samband.store.models import Integration
from samband.store.webhooks import Address, Found, key_hash

__all__ = ["Addresses", "Known"]

_KNOWN_AT_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Known:
    """An address as it was opened last.

    Attributes:
        address: With its secrets.
        settings: The plugin's own model of the integration's settings.
        found: What the look said; as long as another look says the same, this is how things stand.
    """

    address: Address = field(repr=False)
    settings: BaseModel = field(repr=False)
    found: Found


class Addresses:
    """Finds addresses by their unguessable key.

    Args:
        store: Where they are kept.
        registry: Parses settings.
    """

    def __init__(self, *, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._known: dict[str, Known] = {}
        self._looking: Gathering[str, Found | None] = Gathering(self._look)
        self._opening: Gathering[str, Known] = Gathering(self._open)

    def known(self, key: str) -> Known | None:
        """Gives what is remembered of an address. Only a look, or the transaction that stores, tells whether it holds."""
        return self._known.get(key_hash(key))

    async def find(self, key: str) -> Known:
        """Gives what is behind an address now. One that is not there costs the same look.

        Raises:
            NotFoundError: There is no such address.
            NotReadyError: Its plugin cannot be asked now.
        """
        hashed = key_hash(key)
        found = await self._looking.ask(hashed)
        if found is None:
            self._known.pop(hashed, None)
            raise nothing_here()
        known = self._known.get(hashed)
        if known is None or known.found != found:
            known = await self._opening.ask(hashed)
        return known

    def opened(self, address: Address, integration: Integration) -> Known:
        """Gives an address with the settings its plugin needs.

        Raises:
            NotReadyError: The plugin is not there, or the settings do not fit it any more.
        """
        try:
            settings = self._registry.adapter(address.plugin).parse_settings(integration.settings)
        except (PluginError, NotFoundError, InvalidError) as error:
            raise NotReadyError(
                "The plugin of this address cannot be asked now.", code="not_ready", retry_after_s=30
            ) from error
        revisions = (address.revision, integration.revision)
        return Known(address, settings, Found(integration.id, address.plugin, integration.state, revisions))

    async def _look(self, hashes: Sequence[str]) -> list[Found | Exception | None]:
        found = await self._store.webhooks.look(sorted(set(hashes)))
        return [found.get(hashed) for hashed in hashes]

    async def _open(self, hashes: Sequence[str]) -> list[Known | Exception]:
        opened: dict[str, Known | Exception] = {}
        for hashed in dict.fromkeys(hashes):
            try:
                opened[hashed] = await self._open_one(hashed)
            except (NotFoundError, NotReadyError) as error:
                opened[hashed] = error
        return [opened[hashed] for hashed in hashes]

    async def _open_one(self, hashed: str) -> Known:
        found = (await self._store.webhooks.look([hashed])).get(hashed)
        address = None if found is None else await self._store.webhooks.of(found.integration_id)
        if found is None or address is None or key_hash(address.key) != hashed:
            raise nothing_here()
        known = self.opened(address, await self._store.catalog.integration_by_id(found.integration_id))
        if len(self._known) >= _KNOWN_AT_MOST:
            self._known.clear()
        self._known[hashed] = known
        return known


def nothing_here() -> NotFoundError:
    """Gives the one answer for an address that is unknown."""
    return NotFoundError("There is nothing at this address.", code="not_found")
