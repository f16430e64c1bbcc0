"""``samband org``: the organisations whose data the host carries."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from samband.cli.client import At, HostClient, ask_host
from samband.cli.options import DataDir, Json, Org, Url, data_dir_or_default
from samband.cli.output import facts, show, table
from samband.client.client import organization_path

app = typer.Typer(help="Organisations: create, list, show.")


@app.command("create")
def create(
    id: Annotated[str, typer.Argument(help="Lower-case letters, digits and hyphens; part of every address.")],
    name: Annotated[str, typer.Argument(help="For people; the id when not given.")] = "",
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Adds an organisation."""

    async def ask(host: HostClient) -> Any:
        return await host.post("/v1/organizations", {"id": id, "name": name or id})

    created = ask_host(url, data_dir_or_default(data_dir), ask)
    show(created, [f"Created the organisation {created['id']} ({created['name']})."], as_json=json)


@app.command("list")
def list_organizations(url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Lists the organisations that the key reaches."""

    async def ask(host: HostClient) -> Any:
        return [item async for item in host.each("/v1/organizations")]

    found = ask_host(url, data_dir_or_default(data_dir), ask)
    rows = [(item["id"], item["name"], item["created_at"]) for item in found]
    show({"organizations": found}, table(("Id", "Name", "Created"), rows), as_json=json)


@app.command("show")
def show_organization(org: Org, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Shows one organisation."""
    found = At(url, data_dir).get(organization_path(org))
    lines = facts(("Organisation", found["id"]), ("Name", found["name"]), ("Created", found["created_at"]))
    show(found, lines, as_json=json)
