"""``samband export``: sending claims to the books."""

from __future__ import annotations

from typing import Annotated

import typer

from samband.cli.client import At
from samband.cli.listing import Columns, Part, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Url
from samband.client.client import organization_path

__all__ = ["export"]

export = typer.Typer(help="Exports of reimbursements: preview, order, what became of them, and files.")

ITEMS = Columns(
    "items",
    ("Claim", "Export", "Type", "State", "Reference", "Field", "They said"),
    lambda one: (
        one["reimbursement"], one["number"], one["integration"], one["state"], one["reference"] or "none",
        one["field"] or "none", one["message"] or "nothing",
    ),
)  # fmt: skip


@export.command("items")
def list_items(
    org: Org,
    state: Annotated[
        str | None,
        typer.Option("--state", help="reserved, sent, accepted, posted, rejected, unknown or released ones only."),
    ] = None,
    claim: Annotated[str | None, typer.Option("--claim", help="Only of this claim.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Only of this run, by its id.")] = None,
    limit: Limit = 100,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists what became of claims that were sent away."""
    path, part = organization_path(org) + "/exports", Part(limit, after, every)
    show_part(At(url, data_dir), path, ITEMS, part, as_json=json, state=state, reimbursement=claim, run=run)
