"""The plugins of this machine, with and without a host around them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from samband.adapters.adapter import AdapterOptions, Observer
from samband.adapters.distributions import offers
from samband.adapters.registry import Registry
from samband.adapters.sharedtokens import TokenDoor
from samband.contract import Manifest
from samband.errors import NotFoundError
from samband.redaction import Redactor
from samband.settings import AllowedPlugin, HostSettings, PluginsFile, load_plugins_file, load_settings
from samband.views import PluginView

__all__ = ["Stand", "all_simulators", "discover", "inspect_plugins", "simulator_module"]

T = TypeVar("T")


def discover(
    settings: HostSettings, redactor: Redactor, observer: Observer | None = None, tokens: TokenDoor | None = None
) -> Registry:  # fmt: skip
    """Loads the plugins that the operator allows; one that does not load is listed with its reason."""
    path = settings.plugins_path
    return Registry.discover(
        None if path is None else load_plugins_file(path),
        allow_installed=settings.allow_installed,
        load_timeout_s=settings.load_timeout_s,
        options=AdapterOptions(
            hook_timeout_s=settings.hook_timeout_s,
            allow_private_hosts=settings.allow_private_hosts,
            redactor=redactor,
            observer=observer,
            tokens=tokens,
        ),
    )


def inspect_plugins(plugins_file: Path | None = None, *, allow_installed: bool = False) -> list[PluginView]:
    """Gives every plugin of this machine, loaded or not, without starting a host."""
    overrides: dict[str, Any] = {}
    if plugins_file is not None:
        overrides["plugins_file"] = plugins_file
    if allow_installed:
        overrides["allow_installed"] = True
    settings = load_settings(**overrides)
    return _look(lambda: discover(settings, Redactor()), Registry.views)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """A plugin's stand-in for the other side.

    Attributes:
        module: What ``python -m`` runs.
        is_read: It has members, which the plugin reads.
        takes_vouchers: Claims are exported to it.
    """

    module: str
    is_read: bool
    takes_vouchers: bool


def all_simulators() -> dict[str, Stand]:
    """Gives plugin name → its simulator, for every installed plugin that loads and has one."""

    def find(registry: Registry) -> dict[str, Stand]:
        manifests = [registry.adapter(name).manifest for name in registry.names]
        return {manifest.name: _stand(manifest, manifest.simulator) for manifest in manifests if manifest.simulator}

    return _look(lambda: Registry.discover(None, allow_installed=True), find)


def _stand(manifest: Manifest, module: str) -> Stand:
    pulled = {stream.kind for stream in manifest.streams if stream.direction != "push"}
    pushed = {stream.kind for stream in manifest.streams if stream.direction != "pull"}
    return Stand(module=module, is_read="member" in pulled, takes_vouchers="voucher" in pushed)


def simulator_module(name: str) -> str:
    """Gives the module of one plugin's simulator. Naming the plugin is leave to load it, and no other.

    Raises:
        NotFoundError: No such plugin is installed, it does not load, or it has no simulator.
    """
    found = {offer.name: offer.distribution for offer in offers()}
    if name not in found:
        raise NotFoundError(
            f"No plugin called {name} is installed.",
            code="plugin_not_found",
            hint=f"Installed are: {', '.join(sorted(found)) or 'none'}.",
        )
    allowed = PluginsFile(allowed={name: AllowedPlugin(name=name, distribution=found[name])})
    module = _look(lambda: Registry.discover(allowed), lambda registry: registry.adapter(name).manifest.simulator)
    if module is None:
        raise NotFoundError(f"The plugin {name} has no simulator.", code="simulator_not_found")
    return module


def _look(open_registry: Callable[[], Registry], question: Callable[[Registry], T]) -> T:
    """Gives what a question finds in a registry that is closed again."""

    async def look() -> T:
        registry = await asyncio.to_thread(open_registry)
        try:
            return question(registry)
        finally:
            await registry.close()

    return asyncio.run(look())
