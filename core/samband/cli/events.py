"""``samband events``: the feed of what happened, and the types of events there are."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import orjson
import typer

from samband.cli.client import At
from samband.cli.listing import Columns, Part, show_items, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Url
from samband.cli.output import facts, show
from samband.client.client import organization_path

app = typer.Typer(
    help="Events: list, show, types, schema. Addresses they are sent to are under 'samband subscription'."
)

EVENTS = Columns(
    "events",
    ("Number", "Time", "Type", "Subject", "Id"),
    lambda one: (one["sequence"], one["time"], one["type"], one["subject"], one["id"]),
)
TYPES = Columns("types", ("Type", "What it says"), lambda one: (one["type"], one["description"]))


@app.command("list")
def list_events(
    org: Org,
    type: Annotated[
        str | None, typer.Option("--type", help="A type, or the beginning of several: no.samband.run.*")
    ] = None,
    limit: Limit = 100,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists events, oldest first. Keep the number it ends with and give it as --after the next time."""
    path, part = organization_path(org) + "/events", Part(limit, after, every)
    show_part(At(url, data_dir), path, EVENTS, part, as_json=json, type=type)


@app.command("show")
def show_event(
    org: Org,
    id: Annotated[str, typer.Argument(help="The event's id.")],
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Shows one event."""
    found = At(url, data_dir).get(f"{organization_path(org)}/events/{quote(id, safe='')}")
    pairs = ((name, value) for name, value in found.items() if name != "data")
    data = ((f"data.{name}", orjson.dumps(value).decode()) for name, value in found["data"].items())
    show(found, lambda: facts(*pairs, *data), as_json=json)


@app.command("types")
def types(url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Lists every type of event."""
    show_items(At(url, data_dir), "/schemas/events", TYPES, as_json=json)


@app.command("schema")
def schema(
    type: Annotated[str, typer.Argument(help="The type's whole name.")],
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Writes the JSON schema of a type's data; over several lines without --json."""
    found = At(url, data_dir).get(f"/schemas/events/{quote(type, safe='')}")
    show(found, orjson.dumps(found, option=orjson.OPT_INDENT_2).decode().split("\n"), as_json=json)
