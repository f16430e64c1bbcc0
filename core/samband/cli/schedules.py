"""``samband schedule``: reading integrations by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from samband.cli.client import At
from samband.cli.listing import Columns, Part, show_items, show_part
from samband.cli.options import After, DataDir, Every, Full, Json, Limit, Org, Revision, Streams, Type, Url
from samband.cli.output import facts, show
from samband.client.client import integration_path

app = typer.Typer(help="Schedules: set, show, list, delete, pause, resume, preview, occurrences.")

Name = Annotated[str, typer.Option("--name", help="Which one; an integration may have several.")]
Cron = Annotated[
    str | None, typer.Option("--cron", help="Minute, hour, day of month, month, day of week: '30 2 * * *'.")
]
Interval = Annotated[int | None, typer.Option("--interval", min=1, help="Seconds from one time to the next instead.")]
Zone = Annotated[str, typer.Option("--zone", help="The zone that --cron is meant in.")]

SCHEDULES = Columns(
    "schedules",
    ("Name", "When", "Reads", "State", "Next, local"),
    lambda one: (one["name"], one["words"], "everything" if one["full"] else "changes", _state(one), _next(one)),
)


def _occurrences(org: str) -> Columns:
    return Columns(
        "occurrences",
        ("Planned, local", "State", "Why", "Run", "Run's state"),
        lambda one: (
            one["local"], one["state"], one["reason"] or "none", f"{org}/{one['run']}" if one["run"] else "none",
            one["run_state"] or "none",
        ),
    )  # fmt: skip


def _path(org: str, type: str, name: str) -> str:
    return f"{integration_path(org, type)}/schedules/{quote(name, safe='')}"


@app.command("set")
def set_schedule(
    org: Org,
    type: Type,
    cron: Cron = None,
    interval: Interval = None,
    zone: Zone = "Europe/Oslo",
    name: Name = "default",
    full: Full = False,
    stream: Streams = None,
    overlap: Annotated[
        str | None, typer.Option("--overlap", help="While a run is alive: skip, queue_one or cancel_running.")
    ] = None,
    catch_up: Annotated[
        str | None, typer.Option("--catch-up", help="Of times missed while nothing ran: none, latest or all.")
    ] = None,
    grace: Annotated[int | None, typer.Option("--grace", min=0, help="Seconds late that still are on time.")] = None,
    jitter: Annotated[
        int | None, typer.Option("--jitter", min=0, help="Seconds that organisations are spread over.")
    ] = None,
    revision: Revision = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Reads an integration by itself from now on. What is left out is set to its default; the same again changes nothing."""
    given = {"streams": stream, "overlap": overlap, "catch_up": catch_up, "misfire_grace_s": grace, "jitter_s": jitter}
    further = {"full": full} | {option: value for option, value in given.items() if value is not None}
    if_match = None if revision is None else f'"{revision}"'
    made = At(url, data_dir).order(
        lambda client: client.schedule_sync(
            org, type, cron=cron, interval_s=interval, zone=zone, name=name, if_match=if_match, **further
        )
    )
    show(made, lambda: _lines(made), as_json=json)


@app.command("show")
def show_schedule(
    org: Org, type: Type, name: Name = "default", url: Url = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Shows a schedule: in words, its next ten planned times, and what became of the last one."""
    found = At(url, data_dir).get(_path(org, type, name))
    show(found, lambda: _lines(found), as_json=json)


@app.command("list")
def list_schedules(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Lists an integration's schedules by name."""
    show_items(At(url, data_dir), integration_path(org, type) + "/schedules", SCHEDULES, as_json=json)


@app.command("delete")
def delete(
    org: Org, type: Type, name: Name = "default", url: Url = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Deletes a schedule: nothing of it starts any more. A run that has begun goes on."""
    gone = At(url, data_dir).order(lambda client: client.cancel_scheduled_sync(org, type, name=name))
    lines = facts(
        ("Deleted", f"{org}/{type}, schedule {name}"),
        ("Planned times that waited and will not start", gone["dropped_occurrences"] or None),
        ("Run that had not begun, cancelled", gone["cancelled_run"]),
        ("Run that goes on", gone["live_run"]),
    )
    show(gone, lines, as_json=json)


@app.command("pause")
def pause(
    org: Org, type: Type, name: Name = "default", url: Url = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Stops a schedule from firing until it is resumed."""
    paused = At(url, data_dir).post(_path(org, type, name) + "/pause")
    show(paused, lambda: _lines(paused), as_json=json)


@app.command("resume")
def resume(
    org: Org,
    type: Type,
    name: Name = "default",
    gap: Annotated[
        str, typer.Option("--gap", help="Of the planned times of the pause, make up for: none, latest or all.")
    ] = "none",
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lets a paused schedule fire again, and states what fell into the pause."""
    resumed = At(url, data_dir).post(_path(org, type, name) + "/resume", {"gap": gap})
    show(resumed, lambda: [*_gap_lines(resumed["gap"]), *_lines(resumed["schedule"])], as_json=json)


@app.command("preview")
def preview(
    cron: Cron = None,
    interval: Interval = None,
    zone: Zone = "Europe/Oslo",
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Says what a timing means, in words and as the next ten planned times. Nothing is saved."""
    timing = {"cron": cron, "interval_s": interval, "zone": zone}
    body = {name: value for name, value in timing.items() if value is not None}
    found = At(url, data_dir).post("/v1/schedules/preview", body)
    show(found, lambda: [f"When: {found['words']}", *_planned_lines(found)], as_json=json)


@app.command("occurrences")
def occurrences(
    org: Org,
    type: Type,
    name: Name = "default",
    limit: Limit = 50,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists the planned times that have come, newest first, and what became of each."""
    path, part = _path(org, type, name) + "/occurrences", Part(limit, after, every)
    show_part(At(url, data_dir), path, _occurrences(org), part, as_json=json)


def _lines(schedule: Mapping[str, Any]) -> Iterable[str]:
    last = schedule["last_occurrence"]
    yield from facts(
        ("Schedule", f"{schedule['organization']}/{schedule['type']}, {schedule['name']}"),
        ("When", schedule["words"]),
        ("State", _state(schedule)),
        ("Reads", "everything" if schedule["full"] else "changes"),
        ("Streams", schedule["streams"] or "all that the settings switch on"),
        ("While a run is alive", schedule["overlap"]),
        ("Of missed times, make up for", schedule["catch_up"]),
        ("Last planned time", f"{last['local']}, {last['state']}{_why(last)}" if last else "none yet"),
        ("Trouble", schedule["trouble"]),
        ("Revision", schedule["revision"]),
    )
    yield from _planned_lines(schedule)


def _planned_lines(schedule: Mapping[str, Any]) -> Iterable[str]:
    yield from (f"Planned: {planned['local']} ({planned['at']})" for planned in schedule["next"])


def _gap_lines(gap: Mapping[str, Any] | None) -> Iterable[str]:
    if gap is None:
        return ["It was not paused."]
    planned = gap["planned"] if gap["is_exact"] else f"more than {gap['planned']}"
    return [
        f"Paused from {gap['since']} to {gap['until']}: {planned} planned times, of which {gap['caught_up']} are made up for."
    ]


def _why(occurrence: Mapping[str, Any]) -> str:
    return f" ({occurrence['reason']})" if occurrence["reason"] else ""


def _state(schedule: Mapping[str, Any]) -> str:
    if schedule["paused_at"]:
        return f"paused since {schedule['paused_at']}"
    return f"overdue since {schedule['overdue_planned_at']}" if schedule["is_overdue"] else "active"


def _next(schedule: Mapping[str, Any]) -> str:
    return schedule["next"][0]["local"] if schedule["next"] else "none"
