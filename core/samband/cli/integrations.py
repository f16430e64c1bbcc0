"""``samband integration``: one organisation's use of one plugin, from its settings to its being switched on."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer

from samband.cli.client import HostClient, ask_host
from samband.cli.options import DataDir, Json, Org, Type, Url, data_dir_or_default
from samband.cli.output import show, table
from samband.errors import ConfigurationError

__all__ = ["app", "path_of"]

app = typer.Typer(help="Integrations: create, list, show, set-credentials, enable, disable.")

SettingsFile = Annotated[
    Path, typer.Option("--settings", help="JSON file with the plugin's settings; - reads standard input.")
]


def path_of(org: str, type: str) -> str:
    """Gives the address of an integration on the host."""
    return f"/v1/organizations/{quote(org, safe='')}/integrations/{quote(type, safe='')}"


def _read_object(path: Path, what: str) -> dict[str, Any]:
    """Gives the JSON object in a file, or on standard input for ``-``; an error never repeats its content."""
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        found = orjson.loads(raw)
    except OSError as error:
        problem = f"The {what} cannot be read from {path}: {error.strerror}."
        raise ConfigurationError(problem, code="file_unreadable", field=what) from error
    except orjson.JSONDecodeError as error:
        problem = f"The {what} are not JSON: the reading stopped at line {error.lineno}, column {error.colno}."
        raise ConfigurationError(problem, code="not_json", field=what) from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"The {what} must be one JSON object.", code="not_json", field=what)
    return found


@app.command("create")
def create(
    org: Org,
    type: Type,
    settings: SettingsFile,
    credentials: Annotated[
        Path | None, typer.Option("--credentials", help="JSON file with the credentials; they can also be set later.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="For people.")] = "",
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Connects an organisation to a system. It is saved; test it with 'samband check', then enable it."""
    if str(settings) == str(credentials) == "-":
        raise ConfigurationError("Only one of --settings and --credentials can come from standard input.")
    body: dict[str, Any] = {"type": type, "display_name": name, "settings": _read_object(settings, "settings")}
    if credentials is not None:
        body["credentials"] = _read_object(credentials, "credentials")

    async def ask(host: HostClient) -> Any:
        return await host.post(f"/v1/organizations/{quote(org, safe='')}/integrations", body)

    _show(ask_host(url, data_dir_or_default(data_dir), ask), as_json=json)


@app.command("list")
def list_integrations(
    org: Org,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists an organisation's integrations."""

    async def ask(host: HostClient) -> Any:
        return await host.get(f"/v1/organizations/{quote(org, safe='')}/integrations")

    found = ask_host(url, data_dir_or_default(data_dir), ask)["items"]
    rows = [(item["type"], item["display_name"], item["state"]) for item in found]
    show({"integrations": found}, table(("Type", "Name", "State"), rows), as_json=json)


@app.command("show")
def show_integration(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Shows an integration and how it is doing. Of its credentials, only the last four characters."""
    path = path_of(org, type)

    async def ask(host: HostClient) -> Any:
        return {**await host.get(path), "status": await host.get(f"{path}/status")}

    _show(ask_host(url, data_dir_or_default(data_dir), ask), as_json=json)


@app.command("set-credentials")
def set_credentials(
    org: Org,
    type: Type,
    file: Annotated[Path, typer.Option("--file", help="JSON file; - reads standard input.")] = Path("-"),
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Replaces the credentials, from a file or from standard input; never from an argument."""
    body = {"credentials": _read_object(file, "credentials")}

    async def ask(host: HostClient) -> Any:
        return await host.put(f"{path_of(org, type)}/credentials", body)

    _show(ask_host(url, data_dir_or_default(data_dir), ask), as_json=json)


@app.command("enable")
def enable(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Switches an integration on; its connection must have been tested."""
    _switch(org, type, "enable", url, data_dir, json)


@app.command("disable")
def disable(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Switches an integration off: no new run starts."""
    _switch(org, type, "disable", url, data_dir, json)


def _switch(org: str, type: str, what: str, url: str | None, data_dir: Path | None, json: bool) -> None:
    async def ask(host: HostClient) -> Any:
        return await host.post(f"{path_of(org, type)}/{what}")

    _show(ask_host(url, data_dir_or_default(data_dir), ask), as_json=json)


def _show(integration: Mapping[str, Any], *, as_json: bool) -> None:
    show(integration, lambda: _lines(integration), as_json=as_json)


def _lines(integration: Mapping[str, Any]) -> Iterable[str]:
    yield f"Integration: {integration['organization']}/{integration['type']}"
    yield f"Name: {integration['display_name']}"
    yield f"State: {integration['state']}"
    for field, hint in integration["credentials"].items():
        yield f"Credential {field}: {'ends in ' + hint if hint else 'not set'}"
    status = integration.get("status")
    if status is None:
        return
    yield f"Connection: {status['connection']}"
    last = status["last_run"]
    yield f"Last run: {last['id']}, {last['state']}" if last else "Last run: none yet"
    yield f"Open dead letters: {status['open_dead_letters']}"
    for stream in status["streams"]:
        cursor = "has a cursor" if stream["has_cursor"] else "no cursor yet"
        yield f"Stream {stream['name']}: {stream['records']} records, {cursor}"
