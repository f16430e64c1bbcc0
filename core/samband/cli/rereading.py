"""``samband dry-run`` and ``samband backfill``: what a sync would do, and reading chosen records again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from samband.cli.client import At, HostClient
from samband.cli.following import demand_success, progress_lines, show_ordered
from samband.cli.options import DataDir, Full, Json, Org, Streams, Type, Url, Wait
from samband.cli.output import note, show
from samband.cli.runs import difference_lines, run_lines
from samband.client.client import integration_path, organization_path
from samband.errors import InvalidError

__all__ = ["backfill", "dry_run"]

Keys = Annotated[
    list[str] | None, typer.Option("--key", help="A record, by the other system's id; may be given again.")
]
Since = Annotated[
    str | None, typer.Option("--since", help="Changed at or after this, for instance 2026-03-01T00:00:00Z.")
]
Until = Annotated[str | None, typer.Option("--until", help="Changed before this; now when not given.")]


def dry_run(
    org: Org,
    type: Type,
    full: Full = False,
    stream: Streams = None,
    key: Keys = None,
    since: Since = None,
    until: Until = None,
    read: Annotated[int | None, typer.Option("--read", min=1, help="How many records are read at most.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many differences are shown.")] = 100,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Finds out what a sync would do, record by record, and does none of it. Waits for the end.

    With --key or --since as if only these records of one --stream were read. Ends with 1 unless the dry run succeeded.
    'samband runs differences' lists all that was found, for 24 hours.
    """
    body: dict[str, Any] = {"full": full} | ({} if read is None else {"limit": read})
    if key or since or until:
        body["chosen"] = _chosen(stream, key, since, until)
    elif stream:
        body["streams"] = stream

    async def ask(host: HostClient) -> dict[str, Any]:
        order = await host.post(f"{integration_path(org, type)}/dry-runs", body)
        run: dict[str, Any] = await host.follow(order, progress_lines())
        path = f"{organization_path(org)}/runs/{run['id']}/differences"
        # What a dry run found before it failed is worth seeing too.
        page = await host.part(path, limit=limit)
        return run | {"differences": page["items"], "differences_next": page["next"]}

    found = At(url, data_dir).ask(ask)
    show(found, lambda: _lines(found), as_json=json)
    if found["differences_next"] is not None and not json:
        note(f"There are more: samband runs differences {org}/{found['id']} --after {found['differences_next']}")
    demand_success(found)


def backfill(
    org: Org,
    type: Type,
    stream: Annotated[str, typer.Option("--stream", help="The stream they are in.")],
    key: Keys = None,
    since: Since = None,
    until: Until = None,
    wait: Wait = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Reads chosen records again, by --key or by --since and --until. The stream's cursor stays where it is."""
    at = At(url, data_dir)
    run = at.post(f"{integration_path(org, type)}/backfills", _chosen([stream], key, since, until))
    show_ordered(at, run, wait=wait, as_json=json)


def _chosen(
    streams: list[str] | None, keys: list[str] | None, since: str | None, until: str | None
) -> dict[str, object]:
    if streams is None or len(streams) != 1:
        raise InvalidError("Name the one --stream that the chosen records are in.", code="usage")
    found = {"stream": streams[0], "keys": keys or None, "since": since, "until": until}
    return {name: value for name, value in found.items() if value is not None}


def _lines(found: Mapping[str, Any]) -> Iterable[str]:
    yield from run_lines(found)
    for item in found["differences"]:
        yield from difference_lines(item)
