"""``samband records``: what is held, and the feed of its changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer

from samband.cli.client import At
from samband.cli.listing import Columns, Part, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Url
from samband.cli.output import facts, show
from samband.client.client import organization_path

app = typer.Typer(help="Records: list, show, changes. They are about people: mind who can see your screen.")

Kind = Annotated[str, typer.Argument(help="The kind, for instance member.")]
RECORDS = Columns(
    "records",
    ("Id", "Version", "State", "Updated", "Comes from"),
    lambda one: (
        one["id"], one["version"], "deleted" if one["deleted"] else "current", one["updated_at"],
        ", ".join(f"{b['stream']} {b['key']}" for b in one["bindings"]) or "nowhere",
    ),
)  # fmt: skip
CHANGES = Columns(
    "changes",
    ("Number", "At", "Kind", "Record", "Change", "Version"),
    lambda one: (one["seq"], one["at"], one["kind"], one["record_id"], one["op"], one["version"]),
)


@app.command("list")
def list_records(
    org: Org,
    kind: Kind,
    deleted: Annotated[bool, typer.Option("--deleted", help="Also those that are deleted at the other side.")] = False,
    limit: Limit = 100,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists an organisation's records of a kind; their values with --json."""
    path, part = f"{organization_path(org)}/records/{quote(kind, safe='')}", Part(limit, after, every)
    show_part(At(url, data_dir), path, RECORDS, part, as_json=json, include_deleted=deleted)


@app.command("show")
def show_record(
    org: Org,
    kind: Kind,
    id: Annotated[int, typer.Argument(help="The record's id.")],
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Shows one record with its values."""
    found = At(url, data_dir).get(f"{organization_path(org)}/records/{quote(kind, safe='')}/{id}")
    show(found, lambda: _lines(found), as_json=json)


@app.command("changes")
def list_changes(
    org: Org,
    kind: Annotated[str | None, typer.Option("--kind", help="Only of this kind.")] = None,
    limit: Limit = 100,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists what changed, oldest first. Keep the number it ends with and give it as --after the next time."""
    path, part = organization_path(org) + "/changes", Part(limit, after, every)
    show_part(At(url, data_dir), path, CHANGES, part, as_json=json, kind=kind)


def _lines(record: Mapping[str, Any]) -> Iterable[str]:
    yield from facts(
        ("Record", f"{record['kind']} {record['id']}"), ("Version", record["version"]),
        ("Deleted", record["deleted"]), ("Updated", record["updated_at"]),
    )  # fmt: skip
    yield from (f"Comes from: {b['integration']}, {b['stream']} {b['key']}" for b in record["bindings"])
    for name, value in record["values"].items():
        yield f"{name}: {value if isinstance(value, str) else orjson.dumps(value).decode()}"
