"""``samband export files|download|acknowledge``: files that carried claims out, and the reports that come back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from samband.cli.client import At
from samband.cli.files import read_bytes
from samband.cli.listing import Columns, Part, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Type, Url
from samband.cli.output import show
from samband.client.client import organization_path
from samband.errors import ConfigurationError

__all__ = ["add_to", "file_lines"]

FILES = Columns(
    "files",
    ("Id", "Name", "State", "Claims", "Rows", "Made", "Delivered", "Acknowledged"),
    lambda one: (
        one["id"], one["name"], one["state"], one["items"], one["rows"], one["created_at"],
        one["delivered_at"] or "no", one["acknowledged_at"] or "no",
    ),
)  # fmt: skip


def file_lines(files: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Gives who has fetched the files of a batch, and when."""
    for file in files:
        times = {0: "never fetched", 1: "fetched once"}.get(file["downloads"], f"fetched {file['downloads']} times")
        yield f"File {file['id']}: {file['name']}, {file['state']}, {times}"
        yield from (f"  {one['at']}: {one['profile']}, by {one['by']}" for one in file["fetched"])
        if file["downloads"] > len(file["fetched"]):
            yield "  and earlier; see 'samband audit list' with the action export_file.downloaded"


def add_to(app: typer.Typer) -> None:
    """Adds the commands to ``samband export``."""
    app.command("files")(list_files)
    app.command("download")(download)
    app.command("acknowledge")(acknowledge)


def list_files(
    org: Org,
    type: Annotated[str | None, typer.Option("--type", help="Only of this integration.")] = None,
    limit: Limit = 100,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists files that carried claims out, newest first."""
    path, part = organization_path(org) + "/exports/files", Part(limit, after, every)
    show_part(At(url, data_dir), path, FILES, part, as_json=json, type=type)


def download(
    org: Org,
    id: Annotated[str, typer.Argument(help="The file's id; 'samband export files' lists them.")],
    to: Annotated[Path, typer.Option("--to", help="Where to write it; must not exist yet.")],
    profile: Annotated[
        str,
        typer.Option("--profile", help="machine for the file itself, human for a sheet for people, json for programs."),
    ] = "machine",
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Fetches a file. It names people and their bank accounts; that you have fetched it is audited."""
    path = f"{organization_path(org)}/exports/files/{quote(id, safe='')}"
    content, headers = At(url, data_dir).ask(lambda host: host.fetch(path, profile=profile))
    try:
        # Readable for nobody else, whatever the shell's own mask is.
        with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    except OSError as error:
        problem = f"The file cannot be written to {to}: {error.strerror}."
        raise ConfigurationError(problem, code="file_unwritable", field="--to") from None
    told = {"id": id, "to": str(to), "profile": profile, "size": len(content), "sha256": headers["ETag"].strip('"')}
    show(told, [f"File: {to}, {len(content)} bytes", f"SHA-256: {told['sha256']}"], as_json=json)


def acknowledge(
    org: Org,
    type: Type,
    file: Annotated[Path, typer.Argument(help="The other system's report; - reads standard input.")],
    name: Annotated[str | None, typer.Option("--name", help="Its name, where the file has another one by now.")] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Settles claims by the other system's report of a file it took in."""
    content = read_bytes(file, "report")
    told = At(url, data_dir).order(
        lambda client: client.acknowledge_export(org, type, name=name or file.name or "report", content=content)
    )
    show(told, lambda: _lines(told), as_json=json)


def _lines(told: Mapping[str, Any]) -> Iterable[str]:
    yield f"Report: {told['name']}"
    yield f"Settled: {told['settled']}"
    yield f"Unchanged: {told['unchanged']}"
    yield from (f"Claim {one['reimbursement']}: {one['state']}" for one in told["items"] if one["changed"])
    yield from (f"Not known here: {key}" for key in told["unknown"])
