"""``samband status``, ``overview`` and ``alerts``: how integrations are doing, and what somebody should know of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from samband.cli.client import At
from samband.cli.listing import Columns, Part, show_items, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Type, Url
from samband.cli.output import facts, show
from samband.client.client import organization_path

__all__ = ["alerts", "overview", "status", "status_lines"]

alerts = typer.Typer(help="Alerts: list, acknowledge.")

OVERVIEW = Columns(
    "integrations",
    ("Integration", "State", "Connection", "Freshness", "Last success", "Alerts"),
    lambda one: (
        f"{one['organization']}/{one['type']}", one["state"], one["connection"], one["freshness"],
        one["last_success_at"] or "never", ", ".join(one["alerts"]) or "none",
    ),
)  # fmt: skip
ALERTS = Columns(
    "alerts",
    ("Id", "Severity", "Kind", "Subject", "Since", "State", "Message"),
    lambda one: (
        one["id"], one["severity"], one["kind"], one["subject"], one["opened_at"], _state(one), one["message"],
    ),
)  # fmt: skip


def status(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Tells how an integration is doing: connection, freshness, runs, alerts and streams."""
    found = At(url, data_dir).order(lambda client: client.get_integration_status(org, type))
    show(found, lambda: [f"Integration: {org}/{type}", f"State: {found['state']}", *status_lines(found)], as_json=json)


def overview(url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Lists every integration that the key reaches, with its connection, its freshness and its open alerts."""
    show_items(At(url, data_dir), "/v1/overview", OVERVIEW, as_json=json)


@alerts.command("list")
def list_alerts(
    org: Org,
    type: Annotated[str | None, typer.Option("--type", help="Only of this integration.")] = None,
    closed: Annotated[bool, typer.Option("--closed", help="Also those that are over.")] = False,
    limit: Limit = 50,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists an organisation's alerts, newest first."""
    path, part = organization_path(org) + "/alerts", Part(limit, after, every)
    show_part(At(url, data_dir), path, ALERTS, part, as_json=json, type=type, open_only=not closed)


@alerts.command("acknowledge")
def acknowledge(
    org: Org,
    id: Annotated[int, typer.Argument(help="The alert's id.")],
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Notes that somebody has seen an alert. It stays open until the trouble is over."""
    seen = At(url, data_dir).post(f"{organization_path(org)}/alerts/{id}/acknowledge")
    show(seen, [f"Alert {seen['id']} ({seen['kind']}): {_state(seen)}."], as_json=json)


def status_lines(status: Mapping[str, Any]) -> Iterable[str]:
    """Tells how an integration is doing, one fact per line."""
    last, live = status["last_run"], status["live_run"]
    yield from facts(
        ("Integration id", status["integration"]),
        ("Connection", status["connection"]),
        ("Connection so since", status["connection_since"]),
        ("Freshness", status["freshness"]),
        ("Expected by", status["expected_by"]),
        ("Next planned read", status["next_run_at"] or "none is planned"),
        ("Run under way", f"{live['organization']}/{live['id']}, {live['state']}" if live else None),
        ("Last run", f"{last['organization']}/{last['id']}, {last['state']}" if last else "none yet"),
        ("Last success", status["last_success_at"] or "never"),
        ("Open alerts", status["alerts"] or "none"),
        ("Open dead letters", status["open_dead_letters"]),
    )
    for stream in status["streams"]:
        cursor = "has a cursor" if stream["has_cursor"] else "no cursor yet"
        yield f"Stream {stream['name']}: {stream['records']} records, {cursor}"


def _state(alert: Mapping[str, Any]) -> str:
    state = f"over since {alert['closed_at']}" if alert["closed_at"] else "open"
    return f"{state}, seen by {alert['acknowledged_by']}" if alert["acknowledged_at"] else state
