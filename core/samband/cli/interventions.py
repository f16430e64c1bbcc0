"""``samband runs cancel|retry|retry-failed|approve|reject``: a person steps in."""

from __future__ import annotations

from typing import Annotated

import typer

from samband.cli.client import At
from samband.cli.following import demand_success, follow, show_ordered
from samband.cli.options import DataDir, Json, Run, Url, Wait
from samband.cli.output import facts, show
from samband.cli.runs import app, run_lines, run_path

__all__ = ["app"]


@app.command("cancel")
def cancel(run: Run, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Cancels a run: it writes nothing more. What it has stored stays. Safe to repeat."""
    asked = At(url, data_dir).post(run_path(run) + "/cancel")
    show(asked, lambda: run_lines(asked), as_json=json)


@app.command("retry")
def retry(run: Run, wait: Wait = False, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Orders the same run again, from where its streams stand now."""
    at = At(url, data_dir)
    show_ordered(at, at.post(run_path(run) + "/retry"), wait=wait, as_json=json)


@app.command("retry-failed")
def retry_failed(run: Run, wait: Wait = False, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Reads again only those records that failed in a run."""
    at = At(url, data_dir)
    order = at.post(run_path(run) + "/retry-failed")
    if wait:
        order |= {"run": follow(at, order["run"])}
    left = facts(
        ("Read again", order["records"]),
        ("Came without a usable id", order["without_key"] or None),
        ("Of streams that are switched off", order["not_enabled"] or None),
    )
    show(order, lambda: [*run_lines(order["run"]), *left], as_json=json)
    if wait:
        demand_success(order["run"])


@app.command("approve")
def approve(
    run: Run,
    reason: Annotated[
        str, typer.Option("--reason", help="Why; it is kept for ever in the audit trail, so name no person in it.")
    ],
    up_to: Annotated[
        int | None, typer.Option("--up-to", min=1, help="The most that may go; what it was stopped with if not given.")
    ] = None,
    wait: Wait = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lets a held run go on with what it was stopped for."""
    at = At(url, data_dir)
    body = {"reason": reason} | ({} if up_to is None else {"up_to": up_to})
    show_ordered(at, at.post(run_path(run) + "/approve", body), wait=wait, as_json=json)


@app.command("reject")
def reject(
    run: Run,
    reason: Annotated[
        str, typer.Option("--reason", help="Why; it is kept for ever in the audit trail, so name no person in it.")
    ] = "",
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Ends a held run without doing what it was stopped for. Its stream is read whole next time."""
    ended = At(url, data_dir).post(run_path(run) + "/reject", {"reason": reason})
    show(ended, lambda: run_lines(ended), as_json=json)
