"""``samband key``: API keys, for whoever runs the host."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from samband.cli.client import HostClient, ask_host
from samband.cli.hosting import host_settings, run_loop
from samband.cli.options import DataDir, Json, data_dir_or_default
from samband.cli.output import show, table
from samband.errors import FieldProblem, InvalidError

app = typer.Typer(
    help="API keys: create, list, revoke. Works on the database itself, so no key is needed; with --url, over the API."
)

ByUrl = Annotated[
    str | None,
    typer.Option("--url", help="Ask the host at this address, with SAMBAND_API_KEY, instead of the database."),
]
KeyId = Annotated[str, typer.Argument(help="The key's id: the part of the key between the two underscores.")]


@app.command("create")
def create(
    name: Annotated[
        str, typer.Argument(help="The program or the role that holds it, for the log and the audit trail.")
    ],
    verb: Annotated[
        list[str] | None,
        typer.Option("--verb", help="read, operate, configure or admin; repeat it. All when not given."),
    ] = None,
    organization: Annotated[
        list[str] | None, typer.Option("--organization", help="One it reaches; repeat it. All when not given.")
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(
            "--days", min=1, max=36500, help="Days it lives; without an end, or with --url a year, if not given."
        ),
    ] = None,
    url: ByUrl = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Makes a key, shown this once. The verbs are independent: admin does not imply read."""
    from samband.access import ALL_VERBS

    ends = None if days is None else dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    wanted = {"name": name, "verbs": list(verb or ALL_VERBS), "organizations": organization or None}
    if url is not None:
        body = wanted | ({} if ends is None else {"expires_at": ends.isoformat(timespec="seconds")})
        made = ask_host(url, data_dir_or_default(data_dir), lambda host: host.post("/v1/keys", body))
    else:
        made = run_loop(_create(data_dir, ends, wanted))
    show(made, [f"API key {made['name']}, shown this once: {made['key']}"], as_json=json)


@app.command("list")
def list_keys(
    state: Annotated[
        str | None, typer.Option("--state", help="Only those that are active, expired or revoked.")
    ] = None,
    url: ByUrl = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists the keys, without their secrets."""
    if state not in (None, "active", "expired", "revoked"):
        problem = FieldProblem(field="--state", code="bad_state", message="Use active, expired or revoked.")
        raise InvalidError("The keys cannot be listed.", problems=[problem])
    if url is not None:

        async def ask(host: HostClient) -> list[Any]:
            return await host.items("/v1/keys", limit=10_000, state=state)

        found = ask_host(url, data_dir_or_default(data_dir), ask)
    else:
        found = run_loop(_list(data_dir, state))
    headings = ("Id", "Name", "State", "Verbs", "Organisations", "Last four", "Created", "Expires", "Last used")
    show({"keys": found}, lambda: table(headings, map(_row, found)), as_json=json)


@app.command("revoke")
def revoke(id: KeyId, url: ByUrl = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Ends a key at once, in every process. Safe to repeat."""
    if url is not None:
        ended = ask_host(url, data_dir_or_default(data_dir), lambda host: host.delete(f"/v1/keys/{id}"))
    else:
        ended = run_loop(_revoke(data_dir, id))
    show(ended, [f"The key {ended['id']} ({ended['name']}) opens nothing any more."], as_json=json)


async def _create(data_dir: Path | None, ends: dt.datetime | None, wanted: Mapping[str, Any]) -> dict[str, Any]:
    from samband.access import Keys
    from samband.hosting.directly import opened_database
    from samband.service.keys import new_key_view
    from samband.store.api_keys import ApiKeys

    async with opened_database(host_settings(data_dir=data_dir)) as database:
        row, clear = await Keys(ApiKeys(database)).issue(None, **wanted, expires_at=ends)
    return new_key_view(row, clear).model_dump(mode="json")


async def _list(data_dir: Path | None, state: Any) -> list[dict[str, Any]]:
    from samband.access import Keys
    from samband.hosting.directly import opened_database
    from samband.service.keys import key_view
    from samband.store.api_keys import ApiKeys

    async with opened_database(host_settings(data_dir=data_dir)) as database:
        rows = await Keys(ApiKeys(database)).page(None, state=state, limit=10_000)
    return [key_view(row).model_dump(mode="json") for row in rows]


async def _revoke(data_dir: Path | None, key_id: str) -> dict[str, Any]:
    from samband.access import Keys
    from samband.hosting.directly import opened_database
    from samband.service.keys import key_view
    from samband.store.api_keys import ApiKeys

    async with opened_database(host_settings(data_dir=data_dir)) as database:
        row = await Keys(ApiKeys(database)).revoke(None, key_id)
    return key_view(row).model_dump(mode="json")


def _row(key: Mapping[str, Any]) -> tuple[object, ...]:
    reach = "all" if key["organizations"] is None else ", ".join(key["organizations"])
    return (
        key["id"], key["name"], key["state"], ", ".join(key["verbs"]), reach, key["last_four"], key["created_at"],
        key["expires_at"] or "never", key["last_used_at"] or "never",
    )  # fmt: skip
