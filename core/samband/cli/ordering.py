"""``samband export order|preview|batches|batch``: sending claims, and what went out together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from samband.cli.client import At
from samband.cli.exportfiles import file_lines
from samband.cli.following import demand_success, follow
from samband.cli.listing import Columns, Part, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Run, Url, Wait, two_names
from samband.cli.output import facts, show
from samband.client.client import organization_path

__all__ = ["add_to"]

Claims = Annotated[
    list[str] | None, typer.Argument(help="Claims; every approved one that has not gone out when none is named.")
]
Since = Annotated[str | None, typer.Option("--from", help="Without claims: approved on this day or later; 2026-03-01.")]
Until = Annotated[str | None, typer.Option("--until", help="Without claims: approved on this day or earlier.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="A claim that is left out and why: c-1=Receipt missing. Repeatable."),
]
Type = Annotated[str | None, typer.Option("--type", help="The integration, where several take claims.")]
Route = Annotated[str | None, typer.Option("--route", help="file or download; the plugin chooses its way otherwise.")]


class _Batches(Columns):
    """Names each run as other commands take it, and says what to do where nothing has gone out yet."""

    @classmethod
    def of(cls, org: str) -> _Batches:
        return cls(
            "batches",
            ("Run", "Ordered", "Goes to", "Outcome", "Items", "Sum", "Months", "By whom"),
            lambda one: (
                f"{org}/{one['run']}", one["created_at"], one["type"], one["outcome"], one["items"],
                _sums(one["totals"]), _months(one), one["requested_by"] or one["reason"],
            ),
        )  # fmt: skip

    def lines(self, items: Any) -> Iterable[str]:
        if items:
            return super().lines(items)
        return [
            "Nothing has been exported yet.",
            "See what would go out with 'samband export preview ORG', then send it with 'samband export order ORG'.",
        ]


def add_to(app: typer.Typer) -> None:
    """Adds the commands to ``samband export``."""
    app.command("order")(order)
    app.command("preview")(preview)
    app.command("batches")(batches)
    app.command("batch")(batch)


def order(
    org: Org,
    id: Claims = None,
    since: Since = None,
    until: Until = None,
    exclude: Exclude = None,
    route: Route = None,
    type: Type = None,
    wait: Wait = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Sends approved claims to the books, each of them once."""
    at, left_out = At(url, data_dir), _exclusions(exclude)
    ordered = at.order(
        lambda client: client.export_reimbursements(
            org, id or None, type=type, since=since, until=until, exclude=left_out, route=route
        )
    )
    if wait and ordered["run"] is not None:
        ordered["run"] = follow(at, ordered["run"])
    show(ordered, lambda: _order_lines(org, ordered), as_json=json)
    if wait and ordered["run"] is not None:
        demand_success(ordered["run"])


def preview(
    org: Org,
    id: Claims = None,
    since: Since = None,
    until: Until = None,
    exclude: Exclude = None,
    route: Route = None,
    type: Type = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Tells what an order would come to now, or why it would be refused. Sends nothing."""
    left_out = _exclusions(exclude)
    seen = At(url, data_dir).order(
        lambda client: client.preview_export(
            org, id or None, type=type, since=since, until=until, exclude=left_out, route=route
        )
    )
    show(seen, lambda: _preview_lines(org, seen), as_json=json)


def batches(
    org: Org,
    type: Type = None,
    limit: Limit = 20,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists what went out together, newest first."""
    path, part = organization_path(org) + "/exports/batches", Part(limit, after, every)
    show_part(At(url, data_dir), path, _Batches.of(org), part, as_json=json, type=type)


def batch(run: Run, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Shows one batch with all its claims."""
    org, run_id = two_names(run, "ORG/RUN")
    found = At(url, data_dir).get(f"{organization_path(org)}/exports/batches/{quote(run_id, safe='')}")
    show(found, lambda: [*_batch_lines(org, found), *file_lines(found["files"])], as_json=json)


def _exclusions(given: list[str] | None) -> dict[str, str]:
    excluded = {}
    for one in given or ():
        id, has_reason, reason = one.partition("=")
        if not has_reason:
            raise typer.BadParameter(
                "Write it as claim=reason, for instance c-1=Receipt missing.", param_hint="--exclude"
            )
        excluded[id] = reason
    return excluded


def _order_lines(org: str, ordered: Mapping[str, Any]) -> Iterator[str]:
    run = ordered["run"]
    yield f"Goes to: {ordered['type']}"
    yield f"Run: {run['organization']}/{run['id']}, {run['state']}" if run else "Run: none, there was nothing to send"
    yield f"Sent: {', '.join(ordered['reserved']) or 'none'}"
    yield from _common_lines(org, ordered)


def _preview_lines(org: str, seen: Mapping[str, Any]) -> Iterator[str]:
    yield f"Would go to: {seen['type']}"
    yield f"Claims: {seen['count']}"
    yield f"Would be sent: {', '.join(seen['claims']) or 'none'}"
    yield from map(_refusal_line, seen["refused_before"])
    yield from _common_lines(org, seen)
    for voucher in seen["vouchers"]:
        amount = f"{voucher['amount']} {voucher['currency']}"
        yield f"Voucher: {voucher['number']}, {voucher['date']}, {amount}, claim {voucher['claim']}"


def _common_lines(org: str, told: Mapping[str, Any]) -> Iterator[str]:
    if told["totals"]:
        yield f"Sum: {_sums(told['totals'])}"
    if told["mapping_version"] is not None:
        yield f"Mapping: version {told['mapping_version']}"
    for skipped in told["skipped"]:
        place = f" ({skipped['field']})" if skipped["field"] else ""
        words = f": {skipped['message']}" if skipped["message"] else ""
        yield f"Not sent: {skipped['id']}, {skipped['code'] or skipped['reason']}{place}{words}"
    for overlap in told["overlaps"]:
        yield f"Warning: run {org}/{overlap['run']} has {overlap['claims']} claims of {', '.join(overlap['days'])}"


def _batch_lines(org: str, found: Mapping[str, Any]) -> Iterable[str]:
    states = ", ".join(f"{count} {state}" for state, count in found["states"].items())
    return facts(
        ("Run", f"{org}/{found['run']}"), ("Goes to", found["type"]), ("Outcome", found["outcome"]), ("Items", states),
        ("Sum", _sums(found["totals"])), ("Months", _months(found)), ("By", ", ".join(found["routes"]) or None),
        ("Files", ", ".join(found["acknowledgements"]) or None), ("Ordered", found["created_at"]),
        ("Ordered by", found["requested_by"] or found["reason"]), ("Claims", ", ".join(found["claims"])),
        ("Error", found["error"]),
        ("Each item with its key", f"samband export items {org} --run {found['run']}"),
    )  # fmt: skip


def _refusal_line(refusal: Mapping[str, Any]) -> str:
    field = f"{refusal['field']}: " if refusal["field"] else ""
    words = refusal["message"] or refusal["code"] or "they gave no reason"
    since = "the claim has changed since" if refusal["is_changed"] else "the claim has not changed since"
    return f"Refused before: {refusal['claim']}, {since}; they said: {field}{words}"


def _sums(totals: Mapping[str, str]) -> str:
    return ", ".join(f"{amount} {currency}" for currency, amount in totals.items()) or "none"


def _months(batch: Mapping[str, Any]) -> str:
    first, last = batch["period_first"], batch["period_last"]
    return "none" if first is None else first if first == last else f"{first} to {last}"
