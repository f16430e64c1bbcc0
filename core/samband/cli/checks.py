"""``samband check``: does the connection of an integration work?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from samband.cli.client import HostClient, ask_host
from samband.cli.options import DataDir, Json, Url, data_dir_or_default, two_names
from samband.cli.output import ExitCode, show
from samband.client.client import integration_path


def check(
    integration: Annotated[
        str | None, typer.Argument(metavar="[ORG/TYPE]", help="The integration; every one when not given.")
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Tests the connection of one integration, or of every one. Ends with 1 when a test found something wrong."""

    given = two_names(integration, "ORG/TYPE") if integration else None

    async def ask(host: HostClient) -> list[dict[str, Any]]:
        wanted = [given] if given else await _every(host)
        return [
            {"integration": "/".join(names)} | await host.post(f"{integration_path(*names)}/test") for names in wanted
        ]

    checks = ask_host(url, data_dir_or_default(data_dir), ask)
    is_ok = all(found["ok"] for found in checks)
    show({"ok": is_ok, "checks": checks}, lambda: _lines(checks), as_json=json)
    if not is_ok:
        raise typer.Exit(ExitCode.FAILED)


async def _every(host: HostClient) -> list[tuple[str, str]]:
    names: list[tuple[str, str]] = []
    for organization in (await host.get("/v1/organizations"))["items"]:
        found = await host.get(f"/v1/organizations/{organization['id']}/integrations")
        names += [(organization["id"], item["type"]) for item in found["items"]]
    return names


def _lines(checks: list[dict[str, Any]]) -> Iterable[str]:
    if not checks:
        yield "There are no integrations yet. Create one with 'samband integration create'."
    for found in checks:
        yield f"{found['integration']}: {'works' if found['ok'] else 'does not work'} ({found['latency_ms']} ms)"
        yield from _details(found)


def _details(found: Mapping[str, Any]) -> Iterable[str]:
    if found["summary"]:
        yield f"  {found['summary']}"
    yield from (f"  {label}: {value}" for label, value in found["facts"].items())
    yield from (f"  Missing right: {right}" for right in found["missing"])
    yield from (f"  Right that is not needed: {right}" for right in found["unneeded"])
    error = found["error"]
    if error:
        yield f"  Error: {error['message']}"
        if error["remote_message"]:
            yield f"  They said: {error['remote_message']}"
        if error["hint"]:
            yield f"  What to do: {error['hint']}"
