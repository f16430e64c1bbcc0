"""``samband integration``: one organisation's use of one plugin, from its settings to its being switched on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from samband.cli.client import At, HostClient
from samband.cli.files import read_object
from samband.cli.health import status_lines
from samband.cli.listing import Columns, show_items
from samband.cli.options import DataDir, Json, Org, Revision, Type, Url
from samband.cli.output import facts, show
from samband.client.client import integration_path, organization_path
from samband.errors import ConfigurationError, InvalidError

app = typer.Typer(help="Integrations: create, list, show, update, set-credentials, enable, disable.")

ExpiresAt = Annotated[
    str | None, typer.Option("--expires-at", help="When they stop working, for instance 2027-01-31T00:00:00Z.")
]
INTEGRATIONS = Columns(
    "integrations", ("Type", "Name", "State"), lambda one: (one["type"], one["display_name"], one["state"])
)

SettingsFile = Annotated[
    Path, typer.Option("--settings", help="JSON file with the plugin's settings; - reads standard input.")
]


@app.command("create")
def create(
    org: Org,
    type: Type,
    settings: SettingsFile,
    credentials: Annotated[
        Path | None, typer.Option("--credentials", help="JSON file with the credentials; they can also be set later.")
    ] = None,
    expires_at: ExpiresAt = None,
    name: Annotated[str, typer.Option("--name", help="For people.")] = "",
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Connects an organisation to a system. It is saved; test it with 'samband check', then enable it."""
    if str(settings) == str(credentials) == "-":
        raise ConfigurationError("Only one of --settings and --credentials can come from standard input.")
    body: dict[str, Any] = {"type": type, "display_name": name, "settings": read_object(settings, "settings")}
    if credentials is not None:
        body["credentials"] = read_object(credentials, "credentials")
    if expires_at is not None:
        body["credentials_expire_at"] = expires_at
    _show(At(url, data_dir).post(f"{organization_path(org)}/integrations", body), as_json=json)


@app.command("list")
def list_integrations(org: Org, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Lists an organisation's integrations. 'samband overview' tells how all of them are doing."""
    show_items(At(url, data_dir), f"{organization_path(org)}/integrations", INTEGRATIONS, as_json=json)


@app.command("show")
def show_integration(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Shows an integration and how it is doing. Of its credentials, only the last four characters."""
    path = integration_path(org, type)

    async def ask(host: HostClient) -> Any:
        return {**await host.get(path), "status": await host.get(f"{path}/status")}

    _show(At(url, data_dir).ask(ask), as_json=json)


@app.command("update")
def update(
    org: Org,
    type: Type,
    settings: Annotated[
        Path | None, typer.Option("--settings", help="JSON file with all of the settings; - reads standard input.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="For people.")] = None,
    revision: Revision = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Changes the settings, the name, or both; what is left out stays."""
    given = {"display_name": name, "settings": None if settings is None else read_object(settings, "settings")}
    body = {field: value for field, value in given.items() if value is not None}
    if not body:
        raise InvalidError("Say what to change: --settings, --name, or both.", code="usage")
    _show(At(url, data_dir).patch(integration_path(org, type), body, revision=revision), as_json=json)


@app.command("set-credentials")
def set_credentials(
    org: Org,
    type: Type,
    file: Annotated[Path, typer.Option("--file", help="JSON file; - reads standard input.")] = Path("-"),
    expires_at: ExpiresAt = None,
    test: Annotated[
        bool,
        typer.Option(
            help="Test them before they replace those of a tested or enabled integration. Without the test the "
            "integration has to be tested and enabled again."
        ),
    ] = True,
    revision: Revision = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Replaces the credentials, from a file or from standard input; never from an argument."""
    body: dict[str, Any] = {"credentials": read_object(file, "credentials"), "test": test}
    if expires_at is not None:
        body["expires_at"] = expires_at
    path = f"{integration_path(org, type)}/credentials"
    _show(At(url, data_dir).put(path, body, revision=revision), as_json=json)


@app.command("enable")
def enable(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Switches an integration on; its connection must have been tested."""
    _switch(org, type, "enable", url, data_dir, json)


@app.command("disable")
def disable(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Switches an integration off: no new run starts."""
    _switch(org, type, "disable", url, data_dir, json)


def _switch(org: str, type: str, what: str, url: str | None, data_dir: Path | None, json: bool) -> None:
    _show(At(url, data_dir).post(f"{integration_path(org, type)}/{what}"), as_json=json)


def _show(integration: Mapping[str, Any], *, as_json: bool) -> None:
    show(integration, lambda: _lines(integration), as_json=as_json)


def _lines(integration: Mapping[str, Any]) -> Iterable[str]:
    yield f"Integration: {integration['organization']}/{integration['type']}"
    yield f"Name: {integration['display_name']}"
    yield f"State: {integration['state']}"
    for field, hint in integration["credentials"].items():
        yield f"Credential {field}: {'ends in ' + hint if hint else 'set; too short to show its end'}"
    yield from facts(
        ("Credentials last set", integration.get("credentials_updated_at")),
        ("Credentials stop working", integration.get("credentials_expire_at")),
        ("Revision", integration["revision"]),
    )
    if integration.get("status"):
        yield from status_lines(integration["status"])
