"""``samband plugins``: what is installed, what loaded, and why something did not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samband.cli.options import Json
from samband.cli.output import show

if TYPE_CHECKING:
    from samband.views import PluginView


def plugins(
    plugins_file: Annotated[
        Path | None, typer.Option("--plugins-file", help="The allow-list; SAMBAND_PLUGINS_FILE or ./plugins.toml.")
    ] = None,
    installed: Annotated[
        bool, typer.Option("--installed", help="Load every installed plugin, whatever the allow-list says.")
    ] = False,
    json: Json = False,
) -> None:
    """Lists the plugins of this machine. Needs no running host."""
    from samband.hosting.installed import inspect_plugins

    views = inspect_plugins(plugins_file, allow_installed=installed)
    document = {"plugins": [view.model_dump(mode="json") for view in views]}
    show(document, lambda: _lines(views), as_json=json)


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
