"""The plugins of this host: which are installed, which may load, which did, and what went wrong with the others.

A distribution that is not on the allow-list is never imported. Each of the others is loaded under a time limit and
checked; whatever it does in there is written beside its name, and the host starts without it.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Literal

import pluggy
import structlog

from samband import hookspecs
from samband.adapters.adapter import Adapter, AdapterOptions
from samband.adapters.admission import Implementations, hook_problems, manifest_problems
from samband.adapters.distributions import Offer, offers
from samband.adapters.loopthread import interrupt_thread, place_of_thread
from samband.contract import Event, Limits, Manifest, Stream
from samband.errors import NotFoundError, PluginError, SambandError
from samband.hookspecs import Hooks
from samband.kinds import BUILTIN_KINDS, Kinds
from samband.settings import AllowedPlugin, PluginsFile
from samband.views import PluginView, StreamView

__all__ = ["Registry"]

log = structlog.stdlib.get_logger("samband.adapters.registry")

_MAX_DETAIL = 16_000


@dataclass(slots=True)
class _Entry:
    """One line of the list of plugins."""

    name: str
    distribution: str
    version: str
    state: Literal["loaded", "failed", "blocked"] = "failed"
    reason: str = ""
    detail: str = ""
    adapter: Adapter | None = None
    troubles: int = 0
    schemas: tuple[dict[str, Any], dict[str, Any]] = field(default_factory=lambda: ({}, {}))


class Registry:
    """Every plugin that is installed, wanted or added, and an `Adapter` for each one that loaded.

    Args:
        options: What all adapters have in common.
    """

    def __init__(self, options: AdapterOptions | None = None) -> None:
        self.kinds = Kinds(BUILTIN_KINDS)
        self._options = options or AdapterOptions()
        self._plugins = pluggy.PluginManager(hookspecs.PROJECT)
        self._plugins.add_hookspecs(Hooks)
        self._entries: list[_Entry] = []

    @classmethod
    def discover(
        cls,
        plugins: PluginsFile | None,
        *,
        allow_installed: bool = False,
        load_timeout_s: float = 10.0,
        options: AdapterOptions | None = None,
    ) -> Registry:
        """Loads the installed plugins that may load. Never raises because of a plugin: see `views`.

        Args:
            plugins: The allow-list; None is an empty one.
            allow_installed: Also loads installed plugins that are not listed. For demonstrations.
            load_timeout_s: The longest wait for the import of one plugin.
            options: See `Registry`.
        """
        registry = cls(options)
        allowed = dict(plugins.allowed) if plugins is not None else {}
        installed = offers()
        for offer in installed:
            registry._consider(offer, allowed.get(offer.name), allow_installed, load_timeout_s)
        for missing in allowed.values():
            registry._list_if_missing(missing, installed)
        return registry

    def add(
        self,
        plugin: ModuleType | object,
        *,
        name: str | None = None,
        distribution: str = "(local)",
        version: str = "0",
    ) -> Adapter:
        """Admits a plugin that is at hand already, for tests and for embedding.

        Raises:
            PluginError: It was not admitted; says everything that is wrong with it. Nothing of it stays.
        """
        entry = _Entry(name or _name_of(plugin), distribution, version)
        self._admit(entry, plugin, None)
        self._entries.append(entry)
        return self.adapter(entry.name)

    # ── asking ───────────────────────────────────────────────────────────────

    def adapter(self, name: str) -> Adapter:
        """Gives the adapter of a loaded plugin; `NotFoundError` ``unknown_plugin`` lists the ones there are."""
        for entry in self._entries:
            if entry.name == name and entry.adapter is not None:
                return entry.adapter
        broken = next((entry for entry in self._entries if entry.name == name), None)
        if broken is not None:
            raise NotFoundError(
                f"The plugin {name} is not loaded: {broken.reason}", code="unknown_plugin", hint=self._there_are()
            )
        raise NotFoundError(f"There is no plugin {name!r}.", code="unknown_plugin", hint=self._there_are())

    @property
    def names(self) -> list[str]:
        """Gives the names of the loaded plugins."""
        return [entry.name for entry in self._entries if entry.adapter is not None]

    def views(self) -> list[PluginView]:
        """Gives every plugin that is installed, wanted or added, by name, with the reason where one is not loaded."""
        return [_view(entry) for entry in sorted(self._entries, key=lambda e: (e.name, e.distribution))]

    def note_trouble(self, name: str, reason: str) -> None:
        """Shows beside a loaded plugin what it did wrong since; the latest reason and how often there was one."""
        for entry in self._entries:
            if entry.name == name and entry.adapter is not None:
                self._note(entry, reason)

    # ── telling ──────────────────────────────────────────────────────────────

    async def broadcast(self, event: Event) -> None:
        """Tells every plugin that listens. Never raises: a failure is logged with the plugin's name."""
        listeners = {impl.plugin_name for impl in self._plugins.hook.on_event.get_hookimpls()}
        async with asyncio.TaskGroup() as group:
            for name in sorted(listeners & set(self.names)):
                group.create_task(self._tell(name, event))

    async def close(self) -> None:
        """Ends every plugin's thread and connections."""
        async with asyncio.TaskGroup() as group:
            for entry in self._entries:
                if entry.adapter is not None:
                    group.create_task(entry.adapter.close())

    async def _tell(self, name: str, event: Event) -> None:
        try:
            await self.adapter(name).tell(event)
        except SambandError as error:
            log.warning("event_not_heard", plugin=name, event_id=event.id, code=error.code, reason=error.message)

    # ── letting in ───────────────────────────────────────────────────────────

    def _consider(
        self, offer: Offer, allowed: AllowedPlugin | None, allow_installed: bool, load_timeout_s: float
    ) -> None:
        entry = _Entry(offer.name, offer.distribution, offer.version)
        self._entries.append(entry)
        refusal = offer.refusal(allowed, allow_installed=allow_installed)
        if refusal is not None:
            entry.state = "blocked"
            entry.reason, entry.detail = refusal
            log.info("plugin_blocked", plugin=offer.name, distribution=offer.distribution, reason=entry.reason)
            return
        try:
            self._admit(entry, _loaded_within(offer, load_timeout_s), allowed)
        except PluginError as error:
            entry.reason, entry.detail = str(error), _detail_of(error)
            log.warning("plugin_failed", plugin=offer.name, distribution=offer.distribution, reason=entry.reason)
        else:
            log.info("plugin_loaded", plugin=offer.name, distribution=offer.distribution, version=offer.version)

    def _list_if_missing(self, allowed: AllowedPlugin, installed: Sequence[Offer]) -> None:
        if any(offer.name == allowed.name and offer.is_from(allowed.distribution) for offer in installed):
            return
        others = [offer.name for offer in installed if offer.is_from(allowed.distribution)]
        if others:
            reason = f"{allowed.distribution} has no plugin of that name; it has {', '.join(others)}."
        else:
            wanted = "" if allowed.version == "*" else f"=={allowed.version}"
            reason = f"It is listed but not installed. Run: pip install {allowed.distribution}{wanted}"
        self._entries.append(_Entry(allowed.name, allowed.distribution, "", reason=reason))
        log.warning("plugin_missing", plugin=allowed.name, distribution=allowed.distribution, reason=reason)

    def _admit(self, entry: _Entry, plugin: object, allowed: AllowedPlugin | None) -> None:
        """Checks and registers a plugin; after a `PluginError` nothing of it is left."""
        manifest = self._checked(entry, plugin)
        schemas = _schemas(manifest)
        adapter = self._new_adapter(entry, manifest, plugin, allowed)
        try:
            self._plugins.register(plugin, entry.name)
            self._plugins.check_pending()
        except Exception as error:
            if self._plugins.has_plugin(entry.name):
                self._plugins.unregister(name=entry.name)
            raise PluginError(" ".join(str(error).split()), code="plugin_invalid") from error
        for kind in manifest.kinds:
            self.kinds.add(kind)
        entry.adapter, entry.schemas = adapter, schemas
        entry.state, entry.reason = "loaded", ""

    def _checked(self, entry: _Entry, plugin: object) -> Manifest:
        try:
            hash(plugin)
            manifest = getattr(plugin, "manifest", None)
            implemented = self._implementations(plugin)
            problems = [
                *manifest_problems(manifest, implemented=implemented, kinds=self.kinds),
                *hook_problems(implemented),
            ]
        except Exception as error:
            raise PluginError(f"It could not be inspected: {type(error).__name__}.", code="plugin_invalid") from error
        if isinstance(manifest, Manifest) and manifest.name != entry.name:
            problems.append(f"Its manifest is called {manifest.name!r} and its entry point {entry.name!r}.")
        if entry.name in self.names:
            problems.append(f"Another plugin called {entry.name!r} is loaded already.")
        if problems or not isinstance(manifest, Manifest):
            raise PluginError(" ".join(problems), code="plugin_invalid")
        return manifest

    def _implementations(self, plugin: object) -> Implementations:
        found = {}
        for attribute in dir(plugin):
            options = self._plugins.parse_hookimpl_opts(plugin, attribute)
            if options is not None:
                found[options.get("specname") or attribute] = (getattr(plugin, attribute), dict(options))
        return found

    def _new_adapter(self, entry: _Entry, manifest: Manifest, plugin: object, allowed: AllowedPlugin | None) -> Adapter:
        return Adapter(
            manifest,
            self._caller_of(plugin),
            package=_package_of(plugin),
            distribution=entry.distribution,
            version=entry.version,
            options=self._options,
            limits=_limits_of(manifest, allowed),
            allow_private_hosts=allowed.allow_private_hosts if allowed is not None else (),
            on_trouble=lambda reason: self._note(entry, reason),
        )

    def _caller_of(self, plugin: object) -> Callable[..., object]:
        """Gives the call of a hook on one plugin alone."""

        def call(hook: str, **arguments: object) -> object:
            # Never a first-result hook: a coroutine is never None, so the first plugin would always win.
            others = [other for other in self._plugins.get_plugins() if other is not plugin]
            results = self._plugins.subset_hook_caller(hook, remove_plugins=others)(**arguments)
            return results[0] if results else None

        return call

    def _note(self, entry: _Entry, reason: str) -> None:
        entry.troubles += 1
        entry.reason = reason if entry.troubles == 1 else f"{reason} (trouble number {entry.troubles})"
        log.warning("plugin_trouble", plugin=entry.name, distribution=entry.distribution, reason=reason)

    def _there_are(self) -> str:
        return f"There are: {', '.join(sorted(self.names)) or 'none'}."


def _loaded_within(offer: Offer, timeout_s: float) -> object:
    """Imports a plugin in a thread of its own; `PluginError` when that raises, exits or does not end."""
    loaded: list[object] = []
    raised: list[BaseException] = []

    def load() -> None:
        try:
            loaded.append(offer.load())
        except BaseException as error:  # noqa: BLE001 -- sys.exit at import must not end the host either
            raised.append(error)

    thread = threading.Thread(target=load, name=f"samband-load-{offer.name}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if loaded:
        return loaded[0]
    if raised:
        error = raised[0]
        raise PluginError(f"Importing it raised {type(error).__name__}.", code="plugin_import_failed") from error
    place = place_of_thread(thread)
    interrupt_thread(thread)
    raise PluginError(
        f"Importing it did not end within {timeout_s:g} s (in {place}).",
        code="plugin_import_hangs",
        hint="A plugin must not connect or wait while it is imported.",
    )


def _detail_of(error: PluginError) -> str:
    cause = error.__cause__
    return "".join(traceback.format_exception(cause))[-_MAX_DETAIL:] if cause is not None else ""


def _schemas(manifest: Manifest) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        return manifest.settings.model_json_schema(), manifest.credentials.model_json_schema()
    except Exception as error:
        raise PluginError("Its models have no JSON schema, so no form can be drawn.", code="plugin_invalid") from error


def _limits_of(manifest: Manifest, allowed: AllowedPlugin | None) -> Limits:
    overrides: dict[str, Any] = dict(allowed.limits) if allowed is not None else {}
    return replace(manifest.limits, **overrides)


def _name_of(plugin: object) -> str:
    name = getattr(getattr(plugin, "manifest", None), "name", None)
    return name if isinstance(name, str) else getattr(plugin, "__name__", type(plugin).__name__)


def _package_of(plugin: object) -> str:
    module = plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__
    return module.partition(".")[0]


def _view(entry: _Entry) -> PluginView:
    manifest = entry.adapter.manifest if entry.adapter is not None else None
    return PluginView(
        name=entry.name,
        title=manifest.title if manifest else entry.name,
        distribution=entry.distribution,
        version=entry.version,
        state=entry.state,
        reason=entry.reason,
        detail=entry.detail,
        capabilities=sorted(manifest.capabilities) if manifest else [],
        streams=[_stream_view(stream) for stream in manifest.streams] if manifest else [],
        settings_schema=entry.schemas[0],
        credentials_schema=entry.schemas[1],
        has_simulator=manifest is not None and manifest.simulator is not None,
    )


def _stream_view(stream: Stream) -> StreamView:
    return StreamView(
        name=stream.name,
        title=stream.title,
        kind=stream.kind,
        direction=stream.direction,
        incremental=stream.incremental,
    )
