"""``samband audit``: who did what, and whether the trail is whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from samband.acting import EVERYWHERE
from samband.cli.client import HostClient, ask_host
from samband.cli.hosting import host_settings, run_loop
from samband.cli.keys import ByUrl
from samband.cli.options import DataDir, Json, data_dir_or_default
from samband.cli.output import ExitCode, show
from samband.errors import InvalidError, NotFoundError

app = typer.Typer(
    help="The audit trail: verify, list. Works on the database itself, so no key is needed; with --url, over the API."
)

Organization = Annotated[
    str | None, typer.Option("--organization", help="Whose chain; the host's own is not an organisation's.")
]
_BATCH = 500


@app.command("verify")
def verify(
    organization: Organization = None,
    host: Annotated[bool, typer.Option("--host", help="The host's own chain alone.")] = False,
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect", help="A newest hash printed before and kept elsewhere; needs --organization or --host."
        ),
    ] = None,
    url: ByUrl = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Walks every chain, or one, and tells the first entry that was changed, removed or put in.

    Prints the newest hash of each chain. Keep it somewhere that whoever can write the database cannot: given as
    --expect later, it proves that nothing up to there was cut off or written anew. Ends with 1 when a chain is broken.
    """
    if organization is not None and host:
        raise InvalidError("Name an organisation or --host, not both.", code="usage")
    one = EVERYWHERE if host else organization
    if expect is not None and one is None:
        raise InvalidError("--expect is the hash of one chain: name it with --organization or --host.", code="usage")
    if url is not None:
        found = ask_host(url, data_dir_or_default(data_dir), lambda client: _ask_all(client, one, expect))
    else:
        found = run_loop(_verify(data_dir, one, expect))
    show({"ok": all(v["ok"] for v in found), "chains": found}, [_sentence(v) for v in found], as_json=json)
    if not all(v["ok"] for v in found):
        raise typer.Exit(ExitCode.FAILED)


@app.command("list")
def list_entries(
    organization: Organization = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many at most.")] = 100,
    after: Annotated[int, typer.Option("--after", min=0, help="Only those behind this number.")] = 0,
    url: ByUrl = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Lists who did what in an organisation, oldest first; to the host itself when none is named."""
    chain = organization or EVERYWHERE
    if url is not None:

        async def ask(client: HostClient) -> list[Any]:
            return await _ask_entries(client, _address(chain), after, limit)

        found = ask_host(url, data_dir_or_default(data_dir), ask)
    else:
        found = run_loop(_list(data_dir, chain, after, limit))
    show({"entries": found}, map(_line, found), as_json=json)


async def _verify(data_dir: Path | None, one: str | None, expect: str | None) -> list[dict[str, Any]]:
    from samband.hosting.directly import opened_database
    from samband.service.audit import verification_view
    from samband.store.trail import Trail

    async with opened_database(host_settings(data_dir=data_dir)) as database:
        trail = Trail(database)
        chains = await trail.chains()
        if one is not None:
            _demand(one, chains)
        verdicts = [await trail.verify(chain, expect=expect) for chain in ([one] if one else chains)]
    return [verification_view(verdict).model_dump(mode="json") for verdict in verdicts]


async def _list(data_dir: Path | None, chain: str, after: int, limit: int) -> list[dict[str, Any]]:
    from samband.hosting.directly import opened_database
    from samband.service.audit import entry_view
    from samband.store.trail import Trail, Wanted

    async with opened_database(host_settings(data_dir=data_dir)) as database:
        trail = Trail(database)
        _demand(chain, await trail.chains())
        rows = await trail.page(chain, Wanted(), after=after, limit=limit)
    return [entry_view(row).model_dump(mode="json") for row in rows]


def _demand(chain: str, chains: list[str]) -> None:
    if chain != EVERYWHERE and chain not in chains:
        raise NotFoundError("There is no such organisation, or nothing was ever done in it.", code="chain_not_found")


async def _ask_all(client: HostClient, one: str | None, expect: str | None) -> list[Any]:
    chains = [one]
    if one is None:
        chains = [EVERYWHERE, *(found["id"] for found in (await client.get("/v1/organizations"))["items"])]
    return [await client.get(f"{_address(chain or EVERYWHERE)}/verification", expect=expect) for chain in chains]


async def _ask_entries(client: HostClient, address: str, after: int, limit: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < limit:
        page = await client.get(address, after=after, limit=min(_BATCH, limit - len(found)))
        found += page["items"]
        if page["next"] is None:
            break
        after = page["next"]
    return found


def _address(chain: str) -> str:
    return "/v1/audit" if chain == EVERYWHERE else f"/v1/organizations/{chain}/audit"


def _sentence(verdict: Mapping[str, Any]) -> str:
    whose = "the host" if verdict["organization"] == EVERYWHERE else verdict["organization"]
    newest = f"Newest hash: {verdict['newest_hash'] or 'none'}"
    if verdict["ok"]:
        return f"{whose}: whole, {verdict['entries']} entries. {newest}"
    flaw = verdict["flaw"]
    return (
        f"{whose}: BROKEN at entry {flaw['seq']}: {flaw['message']} In order before it: {verdict['entries']}. {newest}"
    )


def _line(entry: Mapping[str, Any]) -> str:
    detail = orjson.dumps(entry["detail"]).decode()
    return f"{entry['seq']}  {entry['at']}  {entry['actor']}  {entry['action']}  {entry['subject']}  {detail}"
