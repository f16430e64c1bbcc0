"""``samband runs``: what was synchronised, when, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from samband.cli.client import HostClient, ask_host
from samband.cli.options import DataDir, Json, Org, Url, data_dir_or_default, two_names
from samband.cli.output import counts_text, show, table

__all__ = ["app", "run_lines"]

app = typer.Typer(help="Runs: list, show.")
_OUTCOMES_SHOWN = 20


@app.command("list")
def list_runs(
    org: Org,
    type: Annotated[str | None, typer.Option("--type", help="Only this integration.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="Only this state, for instance failed.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")] = 20,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists an organisation's runs, newest first."""

    async def ask(host: HostClient) -> list[Any]:
        return await host.items(f"/v1/organizations/{quote(org, safe='')}/runs", limit=limit, type=type, state=state)

    found = ask_host(url, data_dir_or_default(data_dir), ask)
    headings = ("Run", "Type", "State", "Records", "Started", "Seconds")
    rows = [
        (run["id"], run["type"], run["state"], counts_text(run["counts"]), run["started_at"] or "not yet",
         _seconds(run))
        for run in found
    ]  # fmt: skip
    show({"runs": found}, table(headings, rows), as_json=json)


@app.command("show")
def show_run(
    run: Annotated[str, typer.Argument(metavar="ORG/RUN", help="The organisation's id and the run's id.")],
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Shows one run and the first records in it that were skipped or failed."""
    org, run_id = two_names(run, "ORG/RUN")
    path = f"/v1/organizations/{quote(org, safe='')}/runs/{quote(run_id, safe='')}"

    async def ask(host: HostClient) -> Any:
        found = await host.get(path)
        outcomes: list[Any] = []
        for outcome in ("failed", "skipped"):
            if found["counts"][outcome]:
                outcomes += await host.items(f"{path}/outcomes", limit=_OUTCOMES_SHOWN, outcome=outcome)
        return found | {"outcomes": outcomes}

    found = ask_host(url, data_dir_or_default(data_dir), ask)
    show(found, lambda: [*run_lines(found), *_outcome_lines(found)], as_json=json)


def run_lines(run: Mapping[str, Any]) -> Iterable[str]:
    """Tells about a run, one fact per line."""
    yield f"Run: {run['organization']}/{run['id']}"
    yield f"State: {run['state']}"
    yield f"Streams: {', '.join(run['streams'])}"
    yield f"Records: {counts_text(run['counts'])}, in {run['pages']} pages"
    yield f"Reading: {'everything' if run['full'] else 'from the cursor, if there is one'}"
    yield f"Cursor for the next run: {'yes' if run['cursor_present'] else 'no'}"
    yield f"Seconds: {_seconds(run)}"
    yield from (f"Note: {text}" for text in run["notes"])
    error = run["error"]
    if error:
        yield f"Error: {error['message']} ({error['code']})"
        if error["remote_message"]:
            yield f"They said: {error['remote_message']}"
        if error["hint"]:
            yield f"What to do: {error['hint']}"


def _outcome_lines(run: Mapping[str, Any]) -> Iterable[str]:
    for item in run["outcomes"]:
        field = f", field {item['field']}" if item["field"] else ""
        yield f"Record {item['stream']} {item['key']}: {item['outcome']}{field}. {item['message'] or ''}".rstrip()


def _seconds(run: Mapping[str, Any]) -> str:
    return "not yet known" if run["duration_s"] is None else f"{run['duration_s']:.2f}"
