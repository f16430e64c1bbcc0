"""``samband subscription``: addresses that an organisation's events are sent to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from samband.cli.client import At
from samband.cli.listing import Columns, Part, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Revision, Url
from samband.cli.output import ExitCode, facts, show
from samband.client.client import organization_path

app = typer.Typer(
    help="Subscriptions to events: create, list, show, update, secret, test, enable, disable, replay, deliveries, delete."
)

Id = Annotated[str, typer.Argument(help="The subscription's id.")]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", help="A type, or the beginning of several: no.samband.run.*; may be given again."),
]
Description = Annotated[str | None, typer.Option("--description", help="For people.")]

SUBSCRIPTIONS = Columns(
    "subscriptions",
    ("Id", "Address", "Types", "State", "Pending", "Given up"),
    lambda one: (
        one["id"], one["url"], ", ".join(one["types"]) or "all", _state(one), one["pending"], one["exhausted"],
    ),
)  # fmt: skip
DELIVERIES = Columns(
    "deliveries",
    ("Id", "Number", "Type", "Subject", "State", "Attempts", "Status", "Error"),
    lambda one: (
        one["id"], one["sequence"], one["type"], one["subject"], one["state"], len(one["attempts"]),
        one["status"] or "none", one["error"] or "none",
    ),
)  # fmt: skip


def _all(org: str) -> str:
    return organization_path(org) + "/subscriptions"


def _one(org: str, id: str) -> str:
    return f"{_all(org)}/{quote(id, safe='')}"


@app.command("create")
def create(
    org: Org,
    address: Annotated[str, typer.Argument(help="https, port 443. Whoever may read can see it: no secrets in it.")],
    type: Types = None,
    description: Description = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Adds an address that events are sent to, from the next one on. Its signing secret is shown this once."""
    body = {"url": address, "types": type or [], "description": description or ""}
    _show(At(url, data_dir).post(_all(org), body), json)


@app.command("list")
def list_subscriptions(
    org: Org,
    limit: Limit = 100,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists an organisation's subscriptions, oldest first."""
    show_part(At(url, data_dir), _all(org), SUBSCRIPTIONS, Part(limit, after, every), as_json=json)


@app.command("show")
def show_subscription(org: Org, id: Id, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Shows one subscription."""
    _show(At(url, data_dir).get(_one(org, id)), json)


@app.command("update")
def update(
    org: Org,
    id: Id,
    address: Annotated[str | None, typer.Option("--address", help="Where events are sent from now on.")] = None,
    type: Types = None,
    every_type: Annotated[bool, typer.Option("--every-type", help="Send events of every type.")] = False,
    description: Description = None,
    revision: Revision = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Changes the address, the types or the description; what is left out stays."""
    given = {"url": address, "types": [] if every_type else type or None, "description": description}
    body = {name: value for name, value in given.items() if value is not None}
    _show(At(url, data_dir).patch(_one(org, id), body, revision=revision), json)


@app.command("secret")
def replace_secret(
    org: Org,
    id: Id,
    overlap: Annotated[
        int | None, typer.Option("--overlap", min=0, help="Seconds that the present secret signs as well; a day.")
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Makes a new signing secret, shown this once. For a while both sign."""
    body = {} if overlap is None else {"overlap_s": overlap}
    _show(At(url, data_dir).post(f"{_one(org, id)}/secret", body), json)


@app.command("test")
def ping(org: Org, id: Id, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Sends a ping and tells what came back; 1 when it would count as a failure."""
    found = At(url, data_dir).post(f"{_one(org, id)}/test")
    lines = facts(
        ("Ping", "was taken" if found["ok"] else "failed"), ("Status", found["status"] or "no answer came"),
        ("Milliseconds", found["duration_ms"]), ("Error", found["error"]), ("Why", found["message"]),
    )  # fmt: skip
    show(found, lines, as_json=json)
    if not found["ok"]:
        raise typer.Exit(ExitCode.FAILED)


@app.command("enable")
def enable(
    org: Org,
    id: Id,
    catch_up: Annotated[bool, typer.Option(help="Send what happened while it was disabled.")] = True,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Switches a subscription on."""
    _show(At(url, data_dir).post(f"{_one(org, id)}/enable", {"catch_up": catch_up}), json)


@app.command("disable")
def disable(org: Org, id: Id, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Switches a subscription off: nothing is sent until it is switched on again."""
    _show(At(url, data_dir).post(f"{_one(org, id)}/disable"), json)


@app.command("replay")
def replay(
    org: Org,
    id: Id,
    event: Annotated[list[str] | None, typer.Option("--event", help="This one, by its id; may be given again.")] = None,
    after: Annotated[int | None, typer.Option("--after", min=0, help="Those after this number of the feed.")] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Sends events again: those after a number, or exactly these. Their ids stay the same."""
    given = {"ids": event or None, "after": after}
    body = {name: value for name, value in given.items() if value is not None}
    done = At(url, data_dir).post(f"{_one(org, id)}/replay", body)
    lines = [f"Events that will be sent again: {done['replayed']}."]
    if done.get("next") is not None:
        lines.append(f"There are more: go on with --after {done['next']}.")
    show(done, lines, as_json=json)


@app.command("deliveries")
def list_deliveries(
    org: Org,
    id: Id,
    state: Annotated[
        str | None, typer.Option("--state", help="Only those that are pending, delivered, exhausted or skipped.")
    ] = None,
    limit: Limit = 50,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists what became of each event that was to be sent, newest first; every attempt with --json."""
    path, part = f"{_one(org, id)}/deliveries", Part(limit, after, every)
    show_part(At(url, data_dir), path, DELIVERIES, part, as_json=json, state=state)


@app.command("delete")
def delete(org: Org, id: Id, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Removes a subscription with everything that is known of its deliveries."""
    gone = At(url, data_dir).delete(_one(org, id))
    show(gone, [f"The subscription {gone['id']} to {gone['url']} is gone."], as_json=json)


def _show(subscription: Mapping[str, Any], json: bool) -> None:
    show(subscription, lambda: _lines(subscription), as_json=json)


def _lines(subscription: Mapping[str, Any]) -> Iterable[str]:
    return facts(
        ("Subscription", f"{subscription['organization']}/{subscription['id']}"),
        ("Address", subscription["url"]),
        ("Description", subscription["description"]),
        ("Types", subscription["types"] or "all"),
        ("State", _state(subscription)),
        ("No success since", subscription["failing_since"]),
        ("Secret, shown this once", subscription.get("secret")),
        ("Secret ends in", subscription["secret_hint"]),
        ("Deliveries pending", subscription["pending"]),
        ("Deliveries given up", subscription["exhausted"]),
        ("Revision", subscription["revision"]),
    )


def _state(subscription: Mapping[str, Any]) -> str:
    return f"{subscription['state']}, {subscription['reason']}" if subscription["reason"] else subscription["state"]
