"""``samband reimbursement`` and ``samband export``: claims, and sending them to the books."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from samband.cli.client import At
from samband.cli.files import read_object
from samband.cli.following import demand_success, follow
from samband.cli.listing import Columns, Part, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Revision, Url, Wait
from samband.cli.output import facts, show
from samband.client.client import organization_path

__all__ = ["export", "reimbursement"]

reimbursement = typer.Typer(help="Reimbursements, the claims to be paid: put, show, list.")
export = typer.Typer(help="Exports of reimbursements: order, items.")

ClaimId = Annotated[str, typer.Argument(help="The claim's id, as the platform has it.")]
CLAIMS = Columns(
    "reimbursements",
    ("Id", "Status", "Total", "Currency", "Version", "Updated"),
    lambda one: (one["id"], one["status"], one["total"], one["currency"], one["version"], one["updated_at"]),
)
ITEMS = Columns(
    "items",
    ("Claim", "Export", "Type", "State", "Reference", "Field", "They said"),
    lambda one: (
        one["reimbursement"], one["number"], one["integration"], one["state"], one["reference"] or "none",
        one["field"] or "none", one["message"] or "nothing",
    ),
)  # fmt: skip


@reimbursement.command("put")
def put_claim(
    org: Org,
    id: ClaimId,
    file: Annotated[Path, typer.Option("--file", help="JSON file; - reads standard input.")] = Path("-"),
    revision: Revision = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Adds a claim, or replaces it by its next version; from a file, because it names a person and an account."""
    values = read_object(file, "claim")
    if_match = None if revision is None else f'"{revision}"'
    told = At(url, data_dir).order(lambda client: client.put_reimbursement(org, id, values, if_match=if_match))
    show(told, lambda: _lines(told), as_json=json)


@reimbursement.command("show")
def show_claim(org: Org, id: ClaimId, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Shows one claim; whom it is for and its lines with --json."""
    found = At(url, data_dir).get(f"{organization_path(org)}/reimbursements/{quote(id, safe='')}")
    show(found, lambda: _lines(found), as_json=json)


@reimbursement.command("list")
def list_claims(
    org: Org,
    status: Annotated[str | None, typer.Option("--status", help="Only these, for instance approved.")] = None,
    limit: Limit = 100,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists claims in the order of their ids."""
    path, part = organization_path(org) + "/reimbursements", Part(limit, after, every)
    show_part(At(url, data_dir), path, CLAIMS, part, as_json=json, status=status)


@export.command("order")
def order(
    org: Org,
    id: Annotated[
        list[str] | None, typer.Argument(help="Claims; every approved one that has not gone out when none is named.")
    ] = None,
    type: Annotated[str | None, typer.Option("--type", help="The integration, where several take claims.")] = None,
    wait: Wait = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Sends approved claims to the books, each of them once."""
    at = At(url, data_dir)
    ordered = at.order(lambda client: client.export_reimbursements(org, id or None, type=type))
    if wait and ordered["run"] is not None:
        ordered["run"] = follow(at, ordered["run"])
    show(ordered, lambda: _order_lines(ordered), as_json=json)
    if wait and ordered["run"] is not None:
        demand_success(ordered["run"])


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


def _lines(claim: Mapping[str, Any]) -> Iterable[str]:
    return facts(
        ("Claim", f"{claim['organization']}/{claim['id']}"), ("Status", claim["status"]),
        ("Total", f"{claim['total']} {claim['currency']}"), ("Lines", len(claim["values"].get("lines", ()))),
        ("Revision", claim["version"]), ("Updated", claim["updated_at"]),
    )  # fmt: skip


def _order_lines(ordered: Mapping[str, Any]) -> Iterable[str]:
    run = ordered["run"]
    yield f"Goes to: {ordered['type']}"
    yield f"Run: {run['organization']}/{run['id']}, {run['state']}" if run else "Run: none, there was nothing to send"
    yield f"Sent: {', '.join(ordered['reserved']) or 'none'}"
    yield from (f"Not sent: {skipped['id']}, {skipped['reason']}" for skipped in ordered["skipped"])
