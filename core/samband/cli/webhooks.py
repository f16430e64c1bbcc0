"""``samband webhook``: being told of changes by the other side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from samband.cli.client import At, HostClient
from samband.cli.files import read_bytes, read_secret, read_texts
from samband.cli.listing import Columns, Part, show_part
from samband.cli.options import After, DataDir, Every, Json, Limit, Org, Revision, Type, Url
from samband.cli.output import ExitCode, facts, show
from samband.client import Client
from samband.client.client import integration_path
from samband.errors import AccessError

app = typer.Typer(help="Webhooks in: set, show, secret, test, deliver, deliveries, replay, delete.")

SecretFile = Annotated[
    Path | None,
    typer.Option("--secret-file", help="File with the sender's secret; - reads standard input. Made when not given."),
]
State = Annotated[str | None, typer.Option("--state", help="Only those that are received, processed or failed.")]


def _deliveries(org: str) -> Columns:
    return Columns(
        "deliveries",
        ("Id", "Received", "State", "Note", "Streams", "Run", "Run's state", "Bytes"),
        lambda one: (
            one["id"], one["received_at"], one["state"], one["note"] or "none",
            ", ".join(t["stream"] for t in one["triggers"]) or "none", f"{org}/{one['run']}" if one["run"] else "none",
            one["run_state"] or "none", one["size"],
        ),
    )  # fmt: skip


def _path(org: str, type: str) -> str:
    return f"{integration_path(org, type)}/webhook"


@app.command("set")
def set_webhook(
    org: Org,
    type: Type,
    secret_file: SecretFile = None,
    new_address: Annotated[
        bool, typer.Option("--new-address", help="Makes a new address; the old one is unknown at once.")
    ] = False,
    revision: Revision = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Makes the address an integration is told at, or changes it. A secret that is made here is shown this once."""
    body = {"secret": read_secret(secret_file), "new_address": new_address}
    _show(At(url, data_dir).put(_path(org, type), body, revision=revision), json)


@app.command("show")
def show_webhook(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Shows the address, how deliveries prove themselves, and what came during the last 24 hours."""
    _show(At(url, data_dir).get(_path(org, type)), json)


@app.command("secret")
def replace_secret(
    org: Org,
    type: Type,
    secret_file: SecretFile = None,
    overlap: Annotated[
        int, typer.Option("--overlap", min=0, help="Seconds that the present secret goes on counting beside it.")
    ] = 0,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Replaces the secret, from a file or by one that is made and shown this once. The new one works at once."""
    body = {"secret": read_secret(secret_file), "overlap_s": overlap}
    _show(At(url, data_dir).post(f"{_path(org, type)}/secret", body), json)


@app.command("test")
def rehearse(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Has a signed sample verified as deliveries are; 1 when it was refused. It does not leave the host."""
    found = At(url, data_dir).post(f"{_path(org, type)}/test")
    show(found, [found["message"]], as_json=json)
    if not found["ok"]:
        raise typer.Exit(ExitCode.FAILED)


@app.command("deliver")
def deliver(
    org: Org,
    type: Type,
    file: Annotated[Path, typer.Option("--file", help="The raw body; - reads standard input.")] = Path("-"),
    headers: Annotated[
        Path | None, typer.Option("--headers", help="JSON file with the sender's headers, signature included.")
    ] = None,
    query: Annotated[
        Path | None, typer.Option("--query", help="JSON file with the query, for senders that prove themselves there.")
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Hands a delivery over as its sender would, for instance one that came to another place.

    Its proof is verified like any other's; a delivery that came before is known and does nothing. Needs a key that may
    configure, because the address is a secret.
    """
    payload, sent, asked = read_bytes(file, "body"), read_texts(headers, "headers"), read_texts(query, "query")

    async def ask(host: HostClient) -> str:
        address = (await host.get(_path(org, type)))["address"]
        if address is None:
            raise AccessError(
                "This key may not see the webhook's address.", code="forbidden", hint="Use one that may configure."
            )
        source = address.rpartition("/webhooks/")[2]
        return await Client.over(host).process_webhook_event(source, payload, headers=sent, query=asked)

    outcome = At(url, data_dir).ask(ask)
    show({"outcome": outcome}, [f"The delivery was {outcome}."], as_json=json)


@app.command("deliveries")
def list_deliveries(
    org: Org,
    type: Type,
    state: State = None,
    limit: Limit = 50,
    after: After = None,
    every: Every = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists what was taken in, newest first: what it asked for and what became of it, never what it held."""
    path, part = f"{_path(org, type)}/deliveries", Part(limit, after, every)
    show_part(At(url, data_dir), path, _deliveries(org), part, as_json=json, state=state)


@app.command("replay")
def replay(
    org: Org,
    type: Type,
    id: Annotated[list[int] | None, typer.Argument(help="Deliveries, by their ids; or choose by the options.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Received at or after this: 2026-03-01T00:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Received before this.")] = None,
    state: State = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lets chosen deliveries count once more. Each becomes a new one, marked with the one it repeats."""
    chosen = {"ids": id or None, "since": since, "until": until, "state": state}
    body = {name: value for name, value in chosen.items() if value is not None}
    done = At(url, data_dir).post(f"{_path(org, type)}/deliveries/replay", body)
    which = f", now {done['first']} to {done['last']}" if done["count"] else ""
    show(done, [f"Deliveries that count once more: {done['count']}{which}."], as_json=json)


@app.command("delete")
def delete(
    org: Org, type: Type, revision: Revision = None, url: Url = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Takes the address away. Deliveries that were taken in stay."""
    gone = At(url, data_dir).delete(_path(org, type), revision=revision)
    show(gone, [f"The webhook of {org}/{type} is gone; what is sent to its address is unknown now."], as_json=json)


def _show(webhook: Mapping[str, Any], json: bool) -> None:
    show(webhook, lambda: _lines(webhook), as_json=json)


def _lines(webhook: Mapping[str, Any]) -> Iterable[str]:
    yield from facts(
        ("Address", webhook["address"] or "shown to keys that may configure"),
        ("What to do", webhook["hint"]),
        ("Proof", _PROOFS.get(webhook["proof"], webhook["proof"])),
        ("Secret, shown this once", webhook["secret"]),
        ("Secret ends in", webhook["secret_hint"]),
        ("Older secret counts until", webhook["older_secret_until"]),
        ("Deliveries that used the older secret", webhook["old_secret_used"] or None),
        ("Revision", webhook["revision"]),
        ("Last delivery", webhook["last_received_at"] or "none yet"),
        ("Waiting for a run", webhook["waiting"]),
    )
    yield from (f"Of the last 24 hours, {outcome}: {number}" for outcome, number in webhook["counts"].items())
    yield from (f"Of the last 24 hours, refused, {why}: {number}" for why, number in webhook["refused"].items())


_PROOFS = {"none": "none: whoever knows the address can trigger a sync"}
