"""``samband sync``, ``memberships sync`` and ``courses sync``: order runs, and wait for them when asked to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import typer

from samband.cli.client import At
from samband.cli.following import demand_success, follow, show_ordered
from samband.cli.options import DataDir, Full, Json, Org, Streams, Type, Url, Wait
from samband.cli.output import ExitCode, counts_text, show

__all__ = ["courses", "memberships", "sync"]

memberships = typer.Typer(help="Members and memberships, from everything that brings them.")
courses = typer.Typer(help="Course enrolments, from everything that brings them.")


def sync(
    org: Org,
    type: Type,
    full: Full = False,
    stream: Streams = None,
    wait: Wait = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Starts a sync. While one is still going on, this is refused with 4 and names that run."""
    at = At(url, data_dir)
    run = at.order(lambda client: client.trigger_sync(org, type, streams=stream, full=full))
    show_ordered(at, run, wait=wait, as_json=json)


@memberships.callback()
def _memberships() -> None:
    """Members and memberships, from everything that brings them."""


@courses.callback()
def _courses() -> None:
    """Course enrolments, from everything that brings them."""


@memberships.command("sync")
def sync_memberships(
    org: Org, full: Full = False, wait: Wait = False, url: Url = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Starts a sync of every enabled integration that brings members or memberships, one run each."""
    at = At(url, data_dir)
    _show_started(at, at.order(lambda client: client.sync_membership_data(org, full=full)), wait, json)


@courses.command("sync")
def sync_courses(
    org: Org, full: Full = False, wait: Wait = False, url: Url = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Starts a sync of every enabled integration that brings course enrolments, one run each."""
    at = At(url, data_dir)
    _show_started(at, at.order(lambda client: client.sync_course_enrollments(org, full=full)), wait, json)


def _show_started(at: At, started: dict[str, Any], wait: bool, json: bool) -> None:
    if wait:
        for which in ("runs", "already_running"):
            started[which] = [follow(at, run) for run in started[which]]
    show(started, lambda: _lines(started), as_json=json)
    if started["not_started"]:
        raise typer.Exit(ExitCode.FAILED)
    if wait:
        demand_success(*started["runs"], *started["already_running"])


def _lines(started: Mapping[str, Any]) -> Iterable[str]:
    for which, word in (("runs", "started"), ("already_running", "was going on already")):
        for run in started[which]:
            records = f", {counts_text(run['counts'])}" if run["finished_at"] else ""
            yield f"{run['type']}: {word}, run {run['organization']}/{run['id']}, {run['state']}{records}"
    for left in started["not_started"]:
        yield f"{left['type']}: not started. {left['message']} ({left['code']})"
        if left["hint"]:
            yield f"  What to do: {left['hint']}"
