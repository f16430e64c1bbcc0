"""``samband up``, ``serve``, ``worker`` and ``migrate``: the processes that do the work."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from samband.cli.options import DataDir, Json
from samband.cli.output import note, show
from samband.hosting.logs import configure_logging
from samband.redaction import Redactor
from samband.settings import HostSettings, load_settings

if TYPE_CHECKING:
    from samband.hosting.host import Host, Role

__all__ = ["migrate", "run_loop", "serve", "stop_signals", "up", "worker"]

T = TypeVar("T")

Port = Annotated[
    int | None, typer.Option("--port", min=0, max=65535, help="Port of the API; 0 takes a free one. SAMBAND_PORT.")
]
Address = Annotated[str | None, typer.Option("--host", help="Address the API listens on. SAMBAND_HOST.")]
PluginsPath = Annotated[
    Path | None, typer.Option("--plugins-file", help="The allow-list of plugins. SAMBAND_PLUGINS_FILE.")
]


def up(
    data_dir: DataDir = None,
    host: Address = None,
    port: Port = None,
    plugins_file: PluginsPath = None,
    json: Json = False,
) -> None:
    """Runs everything in one process: API, worker, scheduler, and the bundled queue server.

    Needs nothing else: the database is a SQLite file in the data directory unless SAMBAND_DATABASE_URL names another.
    The first start prints the first API key, once. SIGTERM and Ctrl-C stop it: what is going on may end, for up to 20
    seconds; a second signal ends it at once.
    """
    settings = host_settings(data_dir=data_dir, host=host, port=port, plugins_file=plugins_file)
    _host(settings, frozenset({"api", "worker"}), json)


def serve(
    data_dir: DataDir = None,
    host: Address = None,
    port: Port = None,
    plugins_file: PluginsPath = None,
    json: Json = False,
) -> None:
    """Runs the API alone. Needs SAMBAND_DATABASE_URL and SAMBAND_REDIS_URL, and 'samband migrate' before."""
    settings = host_settings(data_dir=data_dir, host=host, port=port, plugins_file=plugins_file)
    _host(settings, frozenset({"api"}), json)


def worker(data_dir: DataDir = None, plugins_file: PluginsPath = None, json: Json = False) -> None:
    """Runs a worker alone. Needs SAMBAND_DATABASE_URL and SAMBAND_REDIS_URL; start as many as you like."""
    _host(host_settings(data_dir=data_dir, plugins_file=plugins_file), frozenset({"worker"}), json)


def migrate(data_dir: DataDir = None, json: Json = False) -> None:
    """Brings the database's schema up to date. Safe to run again, and from several places at once."""
    from samband.hosting import host

    before, after = run_loop(host.migrate(host_settings(data_dir=data_dir)))
    text = f"The database is up to date ({after})." if before == after else f"Migrated from {before} to {after}."
    show({"before": before, "after": after, "changed": before != after}, [text], as_json=json)


def host_settings(**given: Any) -> HostSettings:
    return load_settings(**{name: value for name, value in given.items() if value is not None})


def _host(settings: HostSettings, roles: frozenset[Role], json: bool) -> None:
    redactor = Redactor()
    configure_logging(level=settings.log_level, format=settings.log_format, redactor=redactor)
    from samband.hosting.host import Host

    run_loop(_until_stopped(Host(settings, roles=roles, redactor=redactor), json))


async def _until_stopped(host: Host, json: bool) -> None:
    with stop_signals() as stopping:
        start = asyncio.create_task(host.start())
        if not await _before(stopping, start):
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)
            return
        _tell_ready(host, json)
        wait = asyncio.create_task(host.wait())
        try:
            await _before(stopping, wait)
        finally:
            wait.cancel()
            note("Stopping; what is going on may end.")
            await host.stop()


async def _before(stopping: asyncio.Event, task: asyncio.Task[None]) -> bool:
    """Waits for the task or the signal, whichever is first; True when it was the task, whose error is raised."""
    signalled = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({task, signalled}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        signalled.cancel()
    if task.done():
        task.result()
        return True
    return False


def _tell_ready(host: Host, json: bool) -> None:
    document: dict[str, str] = {"event": "ready", "url": host.url, "data_dir": str(host.settings.data_dir)}
    if host.admin_key is not None:
        document["admin_key"] = host.admin_key
    show(document, [f"samband answers at {host.url}" if host.url else "samband's worker is working"], as_json=json)
    if host.admin_key is not None and not json:
        note("This is the first API key. It is shown once and kept nowhere; put it away safely:")
        note(host.admin_key)
        note("Commands that talk to this host read it from the variable SAMBAND_API_KEY.")


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """Gives an event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield stopping
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's work on an event loop; on uvloop's where the extra ``speed`` is installed."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return factory
