"""``samband runs``: what was synchronised, when, what became of it, and stepping in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from samband.cli.client import At, HostClient
from samband.cli.listing import Columns, Part, show_items, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Run, Type, Url, two_names
from samband.cli.output import counts_text, facts, show
from samband.client.client import organization_path

__all__ = ["DIFFERENCES", "app", "difference_lines", "run_lines", "run_path"]

app = typer.Typer(
    help="Runs: list, show, latest, outcomes, failures, differences; cancel, retry, retry-failed, approve, reject."
)
_OUTCOMES_SHOWN = 20

Outcome = Annotated[
    str | None, typer.Option("--outcome", help="Only created, updated, deleted, skipped or failed ones.")
]

RUNS = Columns(
    "runs",
    ("Run", "Type", "State", "Records", "Started", "Seconds"),
    lambda run: (
        f"{run['organization']}/{run['id']}", run["type"], _state(run), counts_text(run["counts"]),
        run["started_at"] or "not yet", _seconds(run),
    ),
)  # fmt: skip
OUTCOMES = Columns(
    "outcomes",
    ("Position", "Stream", "Key", "Outcome", "Field", "Why"),
    lambda item: (
        item["position"], item["stream"], item["key"], item["outcome"], item["field"] or "none",
        item["message"] or "none",
    ),
)  # fmt: skip
FAILURES = Columns(
    "failures",
    ("Records", "Stream", "Code", "Field", "Why", "For instance"),
    lambda item: (
        item["count"], item["stream"], item["code"], item["field"] or "none", item["message"], ", ".join(item["keys"]),
    ),
)  # fmt: skip
DIFFERENCES = Columns(
    "differences",
    ("Position", "Stream", "Key", "Would be", "Fields"),
    lambda item: (
        item["position"], item["stream"], item["key"], item["op"], ", ".join(item["after"] or item["before"]) or "none",
    ),
)  # fmt: skip


def run_path(run: str) -> str:
    """Gives the address on the host of a run that is written as ``ORG/RUN``."""
    org, run_id = two_names(run, "ORG/RUN")
    return f"{organization_path(org)}/runs/{quote(run_id, safe='')}"


@app.command("list")
def list_runs(
    org: Org,
    type: Annotated[str | None, typer.Option("--type", help="Only this integration.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="Only this state, for instance failed.")] = None,
    limit: Limit = 20,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists an organisation's runs, newest first."""
    part = Part(limit, after, every)
    show_part(At(url, data_dir), organization_path(org) + "/runs", RUNS, part, as_json=json, type=type, state=state)


@app.command("show")
def show_run(run: Run, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Shows one run and the first records in it that were skipped or failed."""
    path = run_path(run)

    async def ask(host: HostClient) -> Any:
        found = await host.get(path)
        outcomes: list[Any] = []
        for outcome in ("failed", "skipped"):
            if found["operation"] == "sync" and found["counts"][outcome]:
                outcomes += await host.items(f"{path}/outcomes", limit=_OUTCOMES_SHOWN, outcome=outcome)
        return found | {"outcomes": outcomes}

    found = At(url, data_dir).ask(ask)
    show(found, lambda: [*run_lines(found), *_outcome_lines(found)], as_json=json)


@app.command("latest")
def latest(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Shows the newest run of an integration."""
    found = At(url, data_dir).order(lambda client: client.get_last_sync_result(org, type))
    show(found, lambda: run_lines(found), as_json=json)


@app.command("outcomes")
def list_outcomes(
    run: Run,
    outcome: Outcome = None,
    limit: Limit = 100,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists what became of each record of a run. Unchanged ones are counted on the run, not listed."""
    path, part = run_path(run) + "/outcomes", Part(limit, after, every)
    show_part(At(url, data_dir), path, OUTCOMES, part, as_json=json, outcome=outcome)


@app.command("failures")
def list_failures(run: Run, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Lists a run's failed records by cause, the most frequent first."""
    show_items(At(url, data_dir), run_path(run) + "/failures", FAILURES, as_json=json)


@app.command("differences")
def list_differences(
    run: Run,
    op: Annotated[
        str | None, typer.Option("--op", help="Only created, updated, deleted, skipped or failed ones.")
    ] = None,
    limit: Limit = 100,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists what a dry run found that a sync would do; the values themselves with --json, and after 'samband dry-run'."""
    part = Part(limit, after, every)
    show_part(At(url, data_dir), run_path(run) + "/differences", DIFFERENCES, part, as_json=json, op=op)


def run_lines(run: Mapping[str, Any]) -> Iterable[str]:
    """Tells about a run, one fact per line."""
    yield f"Run: {run['organization']}/{run['id']}"
    yield f"State: {_state(run)}"
    yield from facts(
        ("Operation", {"dry_run": "dry run, nothing is stored", "export": "export"}.get(run["operation"])),
        ("Streams", run["streams"]),
        ("Records", f"{counts_text(run['counts'])}, in {run['pages']} pages"),
        ("Reading", _reading(run)),
        ("Cursor for the next run", run["cursor_present"] if run["operation"] == "sync" else None),
        ("Seconds", _seconds(run)),
        ("Repeats the run", f"{run['organization']}/{run['retry_of']}" if run["retry_of"] else None),
        ("Asked to stop at", run["cancel_requested_at"]),
    )
    yield from (f"Note: {text}" for text in run["notes"])
    if run["brake"]:
        yield from _brake_lines(run["brake"])
    error = run["error"]
    if error:
        yield f"Error: {error['message']} ({error['code']})"
        yield from facts(("They said", error["remote_message"]), ("What to do", error["hint"]))


def difference_lines(item: Mapping[str, Any]) -> Iterable[str]:
    """Tells what would become of one record, field by field."""
    yield f"{item['stream']} {item['key']}: would be {item['op']}"
    names = dict.fromkeys((*item["before"], *item["after"]))
    if item["op"] == "updated":
        yield from (f"  {name}: {item['before'].get(name)!r} becomes {item['after'].get(name)!r}" for name in names)
    yield from (f"  {line}" for line in facts(("Field", item["field"]), ("Why", item["message"])))


def _state(run: Mapping[str, Any]) -> str:
    return f"{run['state']}, no progress" if run["stalled"] else str(run["state"])


def _reading(run: Mapping[str, Any]) -> str | None:
    if run["operation"] == "export":
        return None
    if run["selection"]:
        return "; ".join(f"{stream}: {_chosen(chosen)}" for stream, chosen in run["selection"].items())
    return "everything" if run["full"] else "from the cursor, if there is one"


def _chosen(chosen: Mapping[str, Any]) -> str:
    if chosen["keys"] is not None:
        return f"{chosen['keys']} chosen records"
    return f"changed from {chosen['since']} to {chosen['until'] or 'now'}"


def _brake_lines(brake: Mapping[str, Any]) -> Iterable[str]:
    yield (
        f"Held in {brake['stream']}: {brake['would_delete']} would be deleted and {brake['would_deactivate']} deactivated "
        f"of {brake['held']}; up to {brake['limit']} go without asking."
    )
    yield from facts(
        ("Decision", brake["decision"] or "none yet; use 'samband runs approve' or 'samband runs reject'"),
        ("Decided by", brake["decided_by"]),
        ("Reason", brake["note"]),
    )


def _outcome_lines(run: Mapping[str, Any]) -> Iterable[str]:
    for item in run["outcomes"]:
        field = f", field {item['field']}" if item["field"] else ""
        yield f"Record {item['stream']} {item['key']}: {item['outcome']}{field}. {item['message'] or ''}".rstrip()


def _seconds(run: Mapping[str, Any]) -> str:
    return "not yet known" if run["duration_s"] is None else f"{run['duration_s']:.2f}"
