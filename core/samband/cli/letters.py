"""``samband dead-letters``: work that was given up after its attempts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from samband.cli.client import At
from samband.cli.listing import Columns, Part, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Url
from samband.cli.output import facts, show
from samband.client.client import organization_path

app = typer.Typer(help="Dead letters, work that was given up: list, show, acknowledge.")

LetterId = Annotated[int, typer.Argument(help="The dead letter's id.")]
LETTERS = Columns(
    "dead_letters",
    ("Id", "Type", "Run", "Reason", "Times", "Last", "State", "Message"),
    lambda one: (
        one["id"], one["type"], f"{one['organization']}/{one['run']}", one["reason"], one["occurrences"],
        one["updated_at"], _state(one), one["message"],
    ),
)  # fmt: skip


@app.command("list")
def list_letters(
    org: Org,
    type: Annotated[str | None, typer.Option("--type", help="Only of this integration.")] = None,
    acknowledged: Annotated[bool, typer.Option("--acknowledged", help="Also those that were acknowledged.")] = False,
    limit: Limit = 50,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists the work that was given up, newest first. 'samband runs retry' takes it up again."""
    path, part = organization_path(org) + "/dead-letters", Part(limit, after, every)
    show_part(At(url, data_dir), path, LETTERS, part, as_json=json, type=type, open_only=not acknowledged)


@app.command("show")
def show_letter(org: Org, id: LetterId, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Shows one dead letter."""
    _show(At(url, data_dir).get(f"{organization_path(org)}/dead-letters/{id}"), json)


@app.command("acknowledge")
def acknowledge(org: Org, id: LetterId, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Marks a dead letter as seen, under the name of the key."""
    _show(At(url, data_dir).post(f"{organization_path(org)}/dead-letters/{id}/acknowledge"), json)


def _show(letter: Mapping[str, Any], json: bool) -> None:
    lines = facts(
        ("Dead letter", letter["id"]), ("Type", letter["type"]), ("State", _state(letter)),
        ("Run", f"{letter['organization']}/{letter['run']}"), ("Reason", letter["reason"]),
        ("Message", letter["message"]), ("Times", letter["occurrences"]), ("First", letter["created_at"]),
        ("Last", letter["updated_at"]), ("Taken up by the run", letter["retry_run"]),
    )  # fmt: skip
    show(letter, lines, as_json=json)


def _state(letter: Mapping[str, Any]) -> str:
    return f"acknowledged by {letter['acknowledged_by']}" if letter["acknowledged_at"] else "open"
