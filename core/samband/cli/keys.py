"""``samband key``: API keys, for whoever runs the host."""

from __future__ import annotations

from typing import Annotated

import typer

from samband.cli.hosting import host_settings, run_loop
from samband.cli.options import DataDir, Json
from samband.cli.output import show

app = typer.Typer(help="API keys: create.")


@app.callback()
def _group() -> None:
    """API keys: create."""


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, for the log.")],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Makes a key for everything, shown this once. Works on the database itself, so no other key is needed for it."""
    from samband.hosting import host

    key = run_loop(host.create_admin_key(host_settings(data_dir=data_dir), name))
    show({"name": name, "key": key}, [f"API key {name}, shown this once: {key}"], as_json=json)
