"""Following runs to their end, and the exit code that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import typer

from samband.cli.client import At
from samband.cli.output import ExitCode, counts_text, note, show
from samband.cli.runs import run_lines

__all__ = ["demand_success", "follow", "progress_lines", "show_ordered"]


def show_ordered(at: At, run: Mapping[str, Any], *, wait: bool, as_json: bool) -> None:
    """Shows a run that was just ordered; with ``wait`` at its end, with the exit code 1 unless it succeeded."""
    last = follow(at, run) if wait else run
    show(last, lambda: run_lines(last), as_json=as_json)
    if wait:
        demand_success(last)


def follow(at: At, run: Mapping[str, Any]) -> Mapping[str, Any]:
    """Gives a run as it ended, or as it waits for a person; its progress is told on the way."""
    last: Mapping[str, Any] = at.ask(lambda host: host.follow(run, progress_lines()))
    return last


def demand_success(*runs: Mapping[str, Any]) -> None:
    """Ends the command with 1 unless all of the runs succeeded."""
    if any(run["state"] != "succeeded" for run in runs):
        raise typer.Exit(ExitCode.FAILED)


def progress_lines(every: int = 1_000) -> Callable[[Mapping[str, Any]], None]:
    """Gives a listener that writes a line when the state changes and after each ``every`` records."""
    told = {"state": "", "thousands": 0}

    def tell(run: Mapping[str, Any]) -> None:
        done = sum(run["counts"].values())
        if run["state"] == told["state"] and done // every == told["thousands"]:
            return
        told.update(state=run["state"], thousands=done // every)
        total = f" of about {run['expected_total']}" if run["expected_total"] else ""
        note(f"{run['state']}: {done} records{total} ({counts_text(run['counts'])})")

    return tell
