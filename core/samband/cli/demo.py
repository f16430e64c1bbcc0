"""``samband demo``: a whole host with simulated systems on this machine, played through and checked."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from samband.cli.bookrehearsal import BookRehearsal
from samband.cli.client import HostClient, find_key
from samband.cli.hosting import run_loop, stop_signals
from samband.cli.options import Json
from samband.cli.output import ExitCode, note, show, table
from samband.cli.rehearsal import Finding, Rehearsal, wrong
from samband.cli.simulators import SimulatorProcess
from samband.errors import NotFoundError
from samband.hosting.logs import configure_logging
from samband.redaction import Redactor
from samband.settings import HostSettings, load_settings

if TYPE_CHECKING:
    from samband.hosting.installed import Stand

__all__ = ["demo"]

ORGANIZATION = "demo"


def demo(
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Keep the data here; a temporary directory when not given.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when all is checked: 0 when everything came out right.")
    ] = False,
    json: Json = False,
    members: Annotated[int, typer.Option("--members", min=1, max=1_000_000, help="Members to read.")] = 5_000,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the API; 0 takes a free one.")] = 0,
) -> None:
    """Shows samband at work, with nothing else installed and no account anywhere.

    Starts a host and a simulator for each installed plugin, connects them over the public API, reads everything, changes
    some records at the other side, reads the changes, exports claims to the books, and checks every number. Then it stays up
    for you to look around.
    """
    from samband.hosting.installed import all_simulators

    stands = {name: stand for name, stand in all_simulators().items() if stand.is_read or stand.takes_vouchers}
    if not stands:
        raise NotFoundError(
            "No installed plugin has a simulator.",
            code="simulator_not_found",
            hint="Install one, for instance samband-dynamics365.",
        )
    demonstration = Demonstration(stands=stands, data_dir=data_dir, members=members, port=port)
    is_ok = run_loop(_perform(demonstration, once=once, as_json=json))
    raise typer.Exit(ExitCode.OK if is_ok else ExitCode.FAILED)


@dataclass(slots=True, kw_only=True)
class Demonstration:
    """What is shown, and what came of it."""

    stands: Mapping[str, Stand]
    data_dir: Path | None
    members: int
    port: int
    url: str = ""
    key: str = field(default="", repr=False)
    simulators: dict[str, SimulatorProcess] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    async def show(self, parts: contextlib.AsyncExitStack) -> None:
        """Starts everything, each part to be taken down by ``parts``, and plays it through."""
        folder = self.data_dir or Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="samband-demo-")))
        await self._start_simulators(parts)
        self.url, self.key = await self._start_host(self._settings(folder), parts)
        async with HostClient(self.url, self.key) as host:
            await self._ensure_organization(host)
            plugins = {plugin["name"]: plugin for plugin in (await host.get("/v1/plugins"))["items"]}
            for name, simulator in self.simulators.items():
                kind = Rehearsal if self.stands[name].is_read else BookRehearsal
                rehearsal = kind(host, ORGANIZATION, plugins[name], simulator, self.members)
                try:
                    await rehearsal.play()
                finally:
                    self.runs += rehearsal.runs
                    self.findings += rehearsal.findings

    async def _start_simulators(self, parts: contextlib.AsyncExitStack) -> None:
        for name, stand in self.stands.items():
            arguments = ["--port", "0", *(["--members", str(self.members)] if stand.is_read else [])]
            self.simulators[name] = SimulatorProcess(stand.module, arguments)
            parts.push_async_callback(self.simulators[name].stop)
        async with asyncio.TaskGroup() as group:
            for simulator in self.simulators.values():
                group.create_task(simulator.start())

    def _settings(self, folder: Path) -> HostSettings:
        # Nothing of a real installation may be touched, whatever the environment says.
        return load_settings(
            data_dir=folder,
            database_url=None,
            redis_url=None,
            key=None,
            host="127.0.0.1",
            port=self.port,
            allow_installed=True,
            allow_private_hosts=tuple(urlsplit(s.address["base_url"]).netloc for s in self.simulators.values()),
            log_level="warning",
            # Somebody is watching: it is asked at once what became of what was sent.
            follow_up_every_s=0.5,
            follow_up_steps_s=(0.5, 1.0, 2.0),
        )

    async def _start_host(self, settings: HostSettings, parts: contextlib.AsyncExitStack) -> tuple[str, str]:
        from samband.hosting.host import Host

        redactor = Redactor()
        configure_logging(level="warning", format=settings.log_format, redactor=redactor)
        host = Host(settings, redactor=redactor)
        await host.start()
        parts.push_async_callback(host.stop)
        if host.admin_key is not None and self.data_dir is not None:
            note(f"The first API key of {self.data_dir}, shown once: SAMBAND_API_KEY={host.admin_key}")
        return host.url, host.admin_key or find_key()

    async def _ensure_organization(self, host: HostClient) -> None:
        known = {organization["id"] for organization in (await host.get("/v1/organizations"))["items"]}
        if ORGANIZATION not in known:
            body = {"id": ORGANIZATION, "name": "The demonstration's organisation"}
            await host.post("/v1/organizations", body)


async def _perform(demonstration: Demonstration, *, once: bool, as_json: bool) -> bool:
    async with contextlib.AsyncExitStack() as parts:
        stopping = parts.enter_context(stop_signals())
        play = asyncio.create_task(demonstration.show(parts))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({play, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not play.done():
            play.cancel()
            await asyncio.gather(play, return_exceptions=True)
            note("Stopped before the end.")
            return False
        play.result()
        is_ok = not wrong(demonstration.findings)
        show(_document(demonstration, once=once), lambda: _lines(demonstration), as_json=as_json)
        if not once:
            _tell_addresses(demonstration)
            await stop
        stop.cancel()
        return is_ok


def _document(demonstration: Demonstration, *, once: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "ok": not wrong(demonstration.findings),
        "runs": [_run_document(run) for run in demonstration.runs],
        "checks": [finding.document() for finding in demonstration.findings],
        "simulators": {name: one.address["base_url"] for name, one in demonstration.simulators.items()},
    }
    return document if once else document | {"url": demonstration.url, "api_key": demonstration.key}


def _run_document(run: Mapping[str, Any]) -> dict[str, Any]:
    fields = ("id", "organization", "integration", "type", "operation", "streams", "full", "state", "counts", "pages")
    stream = run["streams"][0] if len(run["streams"]) == 1 else "+".join(run["streams"])
    return {name: run[name] for name in fields} | {
        "stream": stream,
        "cursor_present": run["cursor_present"],
        "duration_s": run["duration_s"],
        "records_per_s": _speed(run),
    }


def _speed(run: Mapping[str, Any]) -> float | None:
    return round(sum(run["counts"].values()) / run["duration_s"], 1) if run["duration_s"] else None


def _lines(demonstration: Demonstration) -> Iterable[str]:
    headings = ("Run", "System", "State", "Created", "Updated", "Unchanged", "Deleted", "Seconds", "Records per second")
    yield ""
    yield from table(headings, (_run_row(number, run) for number, run in enumerate(demonstration.runs, 1)))
    yield ""
    mistakes = wrong(demonstration.findings)
    if not mistakes:
        yield f"Everything came out right: {len(demonstration.findings)} checks, none of them failed."
    for finding in mistakes:
        yield f"Wrong: {finding.name}. Expected {finding.expected}, found {finding.found}."


def _run_row(number: int, run: Mapping[str, Any]) -> tuple[object, ...]:
    counts = run["counts"]
    seconds = "" if run["duration_s"] is None else f"{run['duration_s']:.2f}"
    return (number, run["type"], run["state"], counts["created"], counts["updated"], counts["unchanged"],
            counts["deleted"], seconds, _speed(run) or "")  # fmt: skip


def _tell_addresses(demonstration: Demonstration) -> None:
    note("")
    note(f"The API answers at {demonstration.url}; its description is at {demonstration.url}/openapi.json")
    for name, simulator in demonstration.simulators.items():
        note(f"The simulator of {name} answers at {simulator.address['base_url']}")
    note("To use other commands with this host, set these two variables:")
    note(f"SAMBAND_URL={demonstration.url}")
    note(f"SAMBAND_API_KEY={demonstration.key}")
    note("It all runs until you stop it with Ctrl-C.")
