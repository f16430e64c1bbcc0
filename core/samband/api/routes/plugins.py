"""Plugins: which systems can be connected, and which plugin did not load and why."""

from __future__ import annotations

from samband.api.answers import Listing
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import PluginName
from samband.errors import NotFoundError
from samband.views import PluginView

endpoints = Endpoints("Plugins")


@endpoints.add("GET", "/v1/plugins", verb="read")
async def list_plugins(call: Call) -> Listing[PluginView]:
    """Lists the installed plugins, those that did not load among them; always whole, as there are a few at most."""
    return Listing[PluginView].of([_shown_to(call, plugin) for plugin in call.service.list_plugins()])


@endpoints.add("GET", "/v1/plugins/{name}", verb="read", problems=("unknown_plugin",))
async def get_plugin(call: Call, name: PluginName) -> PluginView:
    """Gives one plugin with the schemas of its settings and credentials."""
    for plugin in call.service.list_plugins():
        if plugin.name == name:
            return _shown_to(call, plugin)
    raise NotFoundError(
        "There is no such plugin.", code="unknown_plugin", hint="See /v1/plugins for those that are installed."
    )


def _shown_to(call: Call, plugin: PluginView) -> PluginView:
    # A traceback tells of the host's inside: it is for those who run the host, not for every reader.
    if "admin" in call.caller.verbs:
        return plugin
    return plugin.model_copy(update={"detail": ""})
