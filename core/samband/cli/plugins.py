"""``samband plugins``: what is installed, what loaded, and why something did not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from samband.cli.client import At
from samband.cli.options import Json
from samband.cli.output import show
from samband.errors import NotFoundError

if TYPE_CHECKING:
    from samband.views import PluginView


def plugins(
    name: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    plugins_file: Annotated[
        Path | None, typer.Option("--plugins-file", help="The allow-list; SAMBAND_PLUGINS_FILE or ./plugins.toml.")
    ] = None,
    installed: Annotated[
        bool, typer.Option("--installed", help="Load every installed plugin, whatever the allow-list says.")
    ] = False,
    url: Annotated[
        str | None, typer.Option("--url", help="Ask the host at this address what it has loaded, with SAMBAND_API_KEY.")
    ] = None,
    json: Json = False,
) -> None:
    """Lists the plugins of this machine. Needs no running host."""
    views = _of_host(url, name) if url is not None else _of_machine(plugins_file, installed, name)
    document = {"plugins": [view.model_dump(mode="json") for view in views]}
    show(document, lambda: _lines(views), as_json=json)


def _of_machine(plugins_file: Path | None, installed: bool, name: str | None) -> Sequence[PluginView]:
    from samband.hosting.installed import inspect_plugins

    views = inspect_plugins(plugins_file, allow_installed=installed)
    chosen = [view for view in views if name in (None, view.name)]
    if name is not None and not chosen:
        hint = "See 'samband plugins' for those that are installed."
        raise NotFoundError(f"There is no plugin {name} on this machine.", code="unknown_plugin", hint=hint)
    return chosen


def _of_host(url: str, name: str | None) -> Sequence[PluginView]:
    from samband.client.client import parsed
    from samband.views import PluginView

    at = At(url, None)
    if name is not None:
        return [parsed(PluginView, at.get(f"/v1/plugins/{quote(name, safe='')}"))]
    return [parsed(PluginView, item) for item in at.get("/v1/plugins")["items"]]


def _lines(views: Sequence[PluginView]) -> Iterable[str]:
    if not views:
        yield "No plugins are installed. Install one, for instance samband-dynamics365, and list it in plugins.toml."
    for view in views:
        yield f"{view.name}: {view.state} ({view.distribution} {view.version})"
        if view.title:
            yield f"  Connects to: {view.title}"
        if view.reason:
            yield f"  Why: {view.reason}"
        if view.capabilities:
            yield f"  Can: {', '.join(view.capabilities)}"
        for stream in view.streams:
            reading = "changes only, after the first read" if stream.incremental else "everything, each time"
            yield f"  Stream {stream.name}: {stream.title}, as {stream.kind}; reads {reading}"
        if view.has_simulator:
            yield f"  Simulator: samband simulate {view.name}"
