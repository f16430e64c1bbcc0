"""``samband integration drop``: where an integration's files go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from samband.cli.client import At
from samband.cli.files import read_bytes, read_object, read_secret
from samband.cli.options import DataDir, Json, Org, Revision, Type, Url
from samband.cli.output import ExitCode, facts, show
from samband.client.client import integration_path
from samband.errors import ConfigurationError

app = typer.Typer(help="Where an integration's files go: show, set, remove, test.")

SecretFile = Annotated[
    Path | None, typer.Option("--password-file", help="File with the password; - reads standard input.")
]
KeyFile = Annotated[Path | None, typer.Option("--key-file", help="File with the private key.")]
PassphraseFile = Annotated[Path | None, typer.Option("--passphrase-file", help="File with the key's passphrase.")]


@app.command("show")
def show_drop(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Shows where the integration's files go; never what signs in there."""
    _show(At(url, data_dir).get(_path(org, type)), json)


@app.command("set")
def set_drop(
    org: Org,
    type: Type,
    settings: Annotated[
        Path, typer.Option("--settings", help="JSON file with kind, and host, user, folder, host_keys or path.")
    ],
    password: SecretFile = None,
    key: KeyFile = None,
    passphrase: PassphraseFile = None,
    revision: Revision = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Sets where files go; secrets come from files, never from arguments. Test it afterwards."""
    body: dict[str, Any] = {"settings": read_object(settings, "settings")}
    secrets = {"password": read_secret(password), "private_key": _key(key), "passphrase": read_secret(passphrase)}
    body |= {name: value for name, value in secrets.items() if value is not None}
    _show(At(url, data_dir).put(_path(org, type), body, revision=revision), json)


@app.command("remove")
def remove_drop(
    org: Org, type: Type, revision: Revision = None, url: Url = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Forgets where files go, and what signs in there. What lies there stays there."""
    _show(At(url, data_dir).delete(_path(org, type), revision=revision), json)


@app.command("test")
def try_drop(org: Org, type: Type, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Signs in and lists; writes nothing. Exit code 1 when that does not work."""
    told = At(url, data_dir).post(f"{_path(org, type)}/test")
    lines = facts(
        ("Result", "ok" if told["ok"] else "failed"), ("Found", told["message"]), ("What to do", told["hint"])
    )
    show(told, lines, as_json=json)
    if not told["ok"]:
        raise typer.Exit(ExitCode.FAILED)


def _path(org: str, type: str) -> str:
    return f"{integration_path(org, type)}/drop"


def _key(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return read_bytes(file, "private key").decode("ascii")
    except UnicodeDecodeError:
        raise ConfigurationError("The private key is no text.", code="bad_secret", field="--key-file") from None


def _show(drop: Mapping[str, Any], as_json: bool) -> None:
    show(drop, lambda: _lines(drop), as_json=as_json)


def _lines(drop: Mapping[str, Any]) -> Iterable[str]:
    yield f"Integration: {drop['organization']}/{drop['type']}"
    yield from facts(*((name.replace("_", " ").capitalize(), value) for name, value in drop["settings"].items()))
    yield f"Secret: {'ends in ' + drop['secret_hint'] if drop['secret_hint'] else 'set' if drop['has_secret'] else 'none'}"
    yield f"Revision: {drop['revision']}"
