"""``samband sync``: orders a run, and waits for it when asked to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from samband.cli.client import HostClient, ask_host
from samband.cli.integrations import path_of
from samband.cli.options import DataDir, Json, Org, Type, Url, data_dir_or_default
from samband.cli.output import ExitCode, counts_text, note, show
from samband.cli.runs import run_lines

__all__ = ["progress_lines", "sync"]


def sync(
    org: Org,
    type: Type,
    full: Annotated[bool, typer.Option("--full", help="Read everything again instead of the changes.")] = False,
    stream: Annotated[list[str] | None, typer.Option("--stream", help="Only this one; may be given again.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; 1 when it did not all succeed.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Starts a sync. While one is still going on, this is refused with 4 and names that run."""
    path = f"{path_of(org, type)}/runs"
    body = {"full": full} | ({"streams": stream} if stream else {})

    async def ask(host: HostClient) -> Any:
        run = await host.post(path, body)
        return await host.follow(run, progress_lines()) if wait else run

    run = ask_host(url, data_dir_or_default(data_dir), ask)
    show(run, lambda: run_lines(run), as_json=json)
    if wait and run["state"] != "succeeded":
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
