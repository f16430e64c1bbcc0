"""``samband export``: sending claims to the books, and what became of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

from samband.cli.client import At
from samband.cli.listing import Columns, Part, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Url
from samband.cli.output import facts
from samband.cli.wording import names_of
from samband.client.client import organization_path
from samband.views.exports import ItemState

__all__ = ["export"]

export = typer.Typer(help="Exports of reimbursements: preview, order, what became of them, and files.")

ITEMS = Columns(
    "items",
    ("Key", "Claim", "Type", "State", "Voucher", "Way", "Month", "Reference", "Why"),
    lambda one: (
        one["key"], one["reimbursement"], one["type"], one["state"], one["voucher_number"] or "none",
        one["route"] or "none", one["period"] or "none", one["reference"] or "none", _why(one) or "no reason",
    ),
)  # fmt: skip


class _Blocks(Columns):
    """Gives each item a block of its own, one fact per line, with an empty line between two."""

    def lines(self, items: Sequence[Mapping[str, Any]]) -> Iterable[str]:
        if not items:
            return super().lines(items)
        return [line for n, one in enumerate(items) for line in ([""] if n else []) + list(_block(one))]


@export.command("items")
def list_items(
    org: Org,
    state: Annotated[str | None, typer.Option("--state", help=f"Only {names_of(ItemState)} ones.")] = None,
    claim: Annotated[str | None, typer.Option("--claim", help="Only of this claim.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Only of this run, by its id or as ORG/RUN.")] = None,
    long: Annotated[
        bool, typer.Option("--long", help="A block for each item with all that is known, one fact per line.")
    ] = False,
    limit: Limit = 100,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists what became of claims that were sent away, each item with its key; a line for each, or a block."""
    path, part = organization_path(org) + "/exports", Part(limit, after, every)
    columns = _Blocks(ITEMS.name, ITEMS.headings, ITEMS.row) if long else ITEMS
    wanted = None if run is None else run.removeprefix(f"{org}/")
    show_part(At(url, data_dir), path, columns, part, as_json=json, state=state, reimbursement=claim, run=wanted)


def _why(item: Mapping[str, Any]) -> str:
    """Gives the other system's words and the reason that a person gave, whichever there are."""
    told = item["message"] or item["code"] or ""
    field = f"{item['field']}: " if item["field"] else ""
    reason = f"Reason given: {item['reason']}" if item["reason"] else ""
    return " ".join(part for part in (f"They said: {field}{told}" if told else "", reason) if part)


def _block(item: Mapping[str, Any]) -> Iterable[str]:
    return facts(
        ("Key", item["key"]), ("Claim", item["reimbursement"]), ("Version", item["version"]),
        ("Export", item["number"]), ("Type", item["type"]), ("State", item["state"]),
        ("Takes back", item["reverses"]), ("Voucher", item["voucher_number"]), ("Way", item["route"]),
        ("Ways passed over", [f"{way}: {why}" for way, why in item["passed_over"].items()] or None),
        ("Month", item["period"]), ("Reference", item["reference"]), ("Field", item["field"]), ("Code", item["code"]),
        ("They said", item["message"]), ("Reason given", item["reason"]), ("Attempts", item["attempts"]),
        ("Run", f"{item['organization']}/{item['run']}" if item["run"] else None), ("Reserved", item["created_at"]),
        ("Sent", item["sent_at"]), ("Accepted", item["accepted_at"]), ("Booked", item["posted_at"]),
        ("Last asked about", item["looked_up_at"]),
    )  # fmt: skip
