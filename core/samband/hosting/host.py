"""The composition root: puts the parts of a host together, in one process or in several, and takes them down again.

Nothing else constructs a store, a registry, a queue server or a worker. The order below is the order of need: what is
started first is stopped last, and a start that fails half-way leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import structlog

from samband.errors import ConfigurationError, NotReadyError
from samband.hosting.addressfile import write_address, write_private
from samband.hosting.datadir import DataDirLock
from samband.hosting.directly import opened_database
from samband.hosting.duties import keep_up
from samband.hosting.embedded import EmbeddedServer
from samband.hosting.interpreter import tune_interpreter
from samband.hosting.masterkeys import open_vault
from samband.queue import Doorbell
from samband.redaction import Redactor
from samband.rules.brake import Brake
from samband.settings import HostSettings
from samband.store import Bounds, Store, schema
from samband.store.database import Database

if TYPE_CHECKING:
    from aiohttp import web

    from samband.adapters.registry import Registry
    from samband.api import Metrics
    from samband.hosting.observing import WorkMetrics
    from samband.http.egress import EgressPolicy
    from samband.service import Service
    from samband.worker import RunWorker

__all__ = ["ALL_ROLES", "Host", "Role", "create_admin_key", "migrate"]

Role = Literal["api", "worker"]
ALL_ROLES: Final[frozenset[Role]] = frozenset({"api", "worker"})

_HOST_ID_FILE: Final = "host-id"
_QUEUE_DIR: Final = "queue"
_DRAIN_S: Final = 20.0
"""How long runs may go on after a stop was asked for; with what follows it the host is gone within 30 seconds."""
_REQUESTS_END_WITHIN_S: Final = 5.0
_BACKLOG: Final = 512

log = structlog.stdlib.get_logger("samband.hosting.host")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class Host:
    """One process of samband: the API, a worker, or both.

    A host with both roles owns its data directory: it locks it, starts the bundled queue server there unless
    ``redis_url`` names another, brings the database up to date, and takes up at once the runs that its former self left
    when it died. A host with one role shares the database and the queue with others and does none of that.

    Args:
        settings: See `samband.settings.HostSettings`.
        roles: What this process does.
        redactor: The one the log uses; it learns every secret that passes.

    Attributes:
        url: Where the API answers; empty without that role, and before the start.
        admin_key: The first API key, in clear, only at the very first start of a database.
    """

    def __init__(
        self, settings: HostSettings, *, roles: frozenset[Role] = ALL_ROLES, redactor: Redactor | None = None
    ) -> None:
        self.settings = settings
        self.roles = roles
        self.url = ""
        self.admin_key: str | None = None
        self._redactor = redactor or Redactor()
        self._parts = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._worker: RunWorker | None = None
        self._site: web.SockSite | None = None
        self._metrics: Metrics | None = None
        self._observer: WorkMetrics | None = None
        self._service: Service | None = None

    @property
    def service(self) -> Service:
        """The service that the API asks, for Python callers in this process; there is none before the start."""
        if self._service is None:
            raise RuntimeError("The host has not been started.")
        return self._service

    async def start(self) -> None:
        """Starts every part; when it returns the API answers and the worker works.

        Raises:
            ConfigurationError: A setting, the data directory or the port does not allow a start.
            NotReadyError: The database does not answer, or its schema is not this program's.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop(drain=False)
            raise

    async def wait(self) -> None:
        """Returns when a part has ended by itself, which none should: raises what ended it."""
        if not self._tasks:
            raise RuntimeError("The host has not been started.")
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self, *, drain: bool = True) -> None:
        """Takes no new work from this moment, lets what is going on end, and takes every part down. Safe to repeat.

        Args:
            drain: Without it runs are given back at once, to be resumed from their last page.
        """
        ends: list[Coroutine[Any, Any, None]] = []
        if self._site is not None:
            ends.append(self._site.stop())
            self._site = None
        if self._worker is not None:
            ends.append(self._worker.stop(drain=drain))
        for result in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(result, BaseException):
                log.error("stop_failed", exc_info=result)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._parts.aclose()

    # ── the parts, in the order of need ──────────────────────────────────────

    async def _start(self) -> None:
        self._demand_shared_parts()
        if "api" in self.roles:
            self._measure()
        listening = self._listen() if "api" in self.roles else None
        if self._owns_data_dir:
            self._parts.enter_context(DataDirLock(self.settings.data_dir))
        store = await self._open_store()
        redis_url, _, registry = await _all_of(self._queue_url(), self._prepare(store), self._discover(store))
        if self._owns_data_dir:
            await store.tokens.free_leases_of(f"{self._host_id()}/")
        bell = Doorbell(redis_url)
        self._parts.push_async_callback(bell.close)
        from samband.receiving import ReceivingLimits
        from samband.service import Service

        service = Service(
            store=store, registry=registry, bell=bell, public_url=self.settings.public_url,
            stall_after_s=self.settings.stall_after_s, egress=self._egress(), redactor=self._redactor,
            receiving=ReceivingLimits(max_bytes=self.settings.webhook_max_bytes), drop_root=self.settings.drop_root,
        )  # fmt: skip
        self._parts.push_async_callback(service.webhooks.close)
        self._service = service
        if "worker" in self.roles:
            await self._start_worker(store, registry, bell, redis_url)
        if listening is not None:
            self.admin_key = await service.ensure_admin_key()
            await self._start_api(service, listening)
        tune_interpreter()
        log.info("host_started", url=self.url, roles=sorted(self.roles))

    @property
    def _owns_data_dir(self) -> bool:
        return self.roles == ALL_ROLES

    def _demand_shared_parts(self) -> None:
        """Refuses a process that is to work with others and does not say with which database and queue."""
        given = {"SAMBAND_DATABASE_URL": self.settings.database_url, "SAMBAND_REDIS_URL": self.settings.redis_url}
        missing = [name for name, value in given.items() if value is None]
        if missing and not self._owns_data_dir:
            raise ConfigurationError(
                f"A process of its own for {' and '.join(sorted(self.roles))} needs {' and '.join(missing)}.",
                code="shared_parts_missing",
                hint="Set SAMBAND_DATABASE_URL=postgresql://… and SAMBAND_REDIS_URL=redis://… to the ones all processes "
                "share, or run everything in one process with 'samband up'.",
                field=missing[0],
            )

    def _listen(self) -> socket.socket:
        """Takes the port first of all: a port in use is a person's mistake and must cost them no wait."""
        settings = self.settings
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        self._parts.callback(listening.close)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((settings.host, settings.port))
        except (OSError, UnicodeError) as error:
            raise _cannot_listen(settings, error) from error
        return listening

    async def _open_store(self) -> Store:
        database = Database.open(self.settings.database)
        self._parts.push_async_callback(database.close)
        settings = self.settings
        store = Store(
            database,
            await open_vault(settings, database, may_create=self._owns_data_dir),
            bounds=Bounds(
                # However few places there are, one organisation never has them all.
                per_organization=min(settings.max_runs_per_organization, max(1, settings.worker_concurrency - 1)),
                per_account=settings.max_runs_per_account,
            ),
            brake=Brake(share=settings.brake_share, floor=settings.brake_floor),
        )
        self._parts.push_async_callback(store.close)
        return store

    async def _queue_url(self) -> str:
        if self.settings.redis_url is not None:
            return self.settings.redis_url
        server = EmbeddedServer(self.settings.data_dir / _QUEUE_DIR, program=self.settings.redis_server)
        url = await server.start()
        self._parts.push_async_callback(server.stop)
        self._run(server.supervise(), "queue server")
        return url

    async def _prepare(self, store: Store) -> None:
        if self._owns_data_dir:
            before, after = await store.migrate()
            if before != after:
                log.info("database_migrated", before=before, after=after)
        elif not await store.is_migrated():
            raise NotReadyError(
                "The database's schema is not the one this program works with.",
                code="migration_needed",
                hint="Run 'samband migrate' once, with the same SAMBAND_DATABASE_URL.",
            )

    async def _discover(self, store: Store) -> Registry:
        # Plugins are imported in a thread, so that a slow one does not hold up the rest of the start.
        from samband.hosting.installed import discover
        from samband.tokens import TokenService

        tokens = TokenService(store, owner=f"{self._host_id()}/{os.getpid()}", observer=self._observer)
        registry = await asyncio.to_thread(discover, self.settings, self._redactor, self._observer, tokens)
        self._parts.push_async_callback(registry.close)
        # Before the lanes are closed: what a token endpoint is answering just now may be the only copy there is.
        self._parts.push_async_callback(tokens.close)
        return registry

    def _measure(self) -> None:
        """Has the API's figures include what the work of this process comes to."""
        from samband.api import Metrics
        from samband.hosting.observing import WorkMetrics

        self._metrics = Metrics()
        self._observer = WorkMetrics(self._metrics.registry)

    async def _start_worker(self, store: Store, registry: Registry, bell: Doorbell, redis_url: str) -> None:
        from samband.flow import Flow, FlowSettings
        from samband.http import Outbound
        from samband.twin import Doors
        from samband.worker import RunWorker

        settings = self.settings
        owner = f"{self._host_id()}/"
        if self._owns_data_dir:
            freed = await store.runs.free_leases_of(owner)
            await bell.reclaim(freed)
            if freed:
                log.info("runs_taken_up_again", count=len(freed))
        flow = Flow(
            store=store,
            registry=registry,
            settings=FlowSettings(
                owner=f"{owner}{os.getpid()}-{secrets.token_hex(4)}",
                lease_s=settings.lease_s,
                heartbeat_s=settings.heartbeat_s,
                max_attempts=settings.max_attempts,
                settle_after_s=settings.settle_after_s,
                follow_up_steps_s=settings.follow_up_steps_s,
                follow_up_days=settings.follow_up_days,
            ),
            observer=self._observer,
            doors=Doors(drop_root=settings.drop_root, egress=self._egress(), redactor=self._redactor),
        )
        self._worker = RunWorker(
            redis_url=redis_url,
            execute=flow.execute,
            due=store.due_runs,
            next_after=store.runs.next_after,
            concurrency=settings.worker_concurrency,
            # Only spares others a look at the database; whose a run is, the lease there decides.
            lease_s=min(10.0, settings.lease_s),
            sweep_s=settings.sweep_s,
            drain_s=_DRAIN_S,
        )
        self._run(self._worker.run(), "worker")
        # Its first round is a moment away; from then on a scheduler that no longer ticks makes the host unready.
        await store.signs.beat("scheduler", owner)
        from samband.hosting.rounds import duties

        outbound = Outbound(policy=self._egress(), redactor=self._redactor)
        self._parts.push_async_callback(outbound.close)
        for duty in duties(self.settings, store, registry, bell, outbound, self._redactor):
            self._run(keep_up(duty), duty.name)

    def _egress(self) -> EgressPolicy:
        from samband.http.egress import EgressPolicy

        return EgressPolicy(allow_private=self.settings.allow_private_hosts)

    async def _start_api(self, service: Service, listening: socket.socket) -> None:
        from aiohttp import web

        from samband.api import create_app

        runner = web.AppRunner(
            create_app(service, max_body_bytes=self.settings.max_body_bytes, metrics=self._metrics),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=_REQUESTS_END_WITHIN_S,
        )
        await runner.setup()
        self._parts.push_async_callback(runner.cleanup)
        self._site = web.SockSite(runner, listening, backlog=_BACKLOG)
        await self._site.start()
        host, port = listening.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if self._owns_data_dir:
            path = write_address(self.settings.data_dir, self.url)
            self._parts.callback(path.unlink, missing_ok=True)
        if not self._tasks:
            self._run(asyncio.Event().wait(), "api")

    def _host_id(self) -> str:
        """Gives the name that leases carry: this data directory's own, or one for this process alone."""
        if not self._owns_data_dir:
            return f"{socket.gethostname()}-{secrets.token_hex(4)}"
        path = self.settings.data_dir / _HOST_ID_FILE
        try:
            return path.read_text("ascii").strip()
        except FileNotFoundError:
            host_id = secrets.token_hex(8)
            write_private(path, host_id.encode())
            return host_id

    def _run(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        self._tasks.add(asyncio.create_task(work, name=f"samband {name}"))


async def migrate(settings: HostSettings) -> tuple[str | None, str]:
    """Brings the database's schema up to date and gives the revisions before and after. Safe to run twice at once."""
    if settings.database_url is None:
        _make_data_dir(settings.data_dir)
    database = Database.open(settings.database)
    try:
        return await schema.migrate(database)
    finally:
        await database.close()


async def create_admin_key(settings: HostSettings, name: str) -> str:
    """Makes an API key for everything and gives it in clear, this once. For whoever can reach the database itself."""
    from samband.access import ALL_VERBS, Keys
    from samband.store.api_keys import ApiKeys

    async with opened_database(settings) as database:
        return await Keys(ApiKeys(database)).create(name, verbs=ALL_VERBS, organizations=None)


def _make_data_dir(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(
            f"The data directory {data_dir} cannot be made: {error.strerror}.",
            code="data_dir_unusable",
            hint="Choose another with --data-dir or SAMBAND_DATA_DIR.",
            field="SAMBAND_DATA_DIR",
        ) from error


async def _all_of(a: Coroutine[Any, Any, A], b: Coroutine[Any, Any, B], c: Coroutine[Any, Any, C]) -> tuple[A, B, C]:
    """Waits for all three side by side; when one fails the others have ended too, and its error is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(a), group.create_task(b), group.create_task(c)
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        raise first from first.__cause__
    return tasks[0].result(), tasks[1].result(), tasks[2].result()


def _cannot_listen(settings: HostSettings, error: OSError | UnicodeError) -> ConfigurationError:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"Port {settings.port} on {settings.host} is in use.",
            code="port_in_use",
            hint="Stop what listens there, or choose another with --port; --port 0 takes a free one.",
            field="SAMBAND_PORT",
        )
    reason = error.strerror if isinstance(error, OSError) else "it is not a host name"
    return ConfigurationError(
        f"The host cannot listen on {settings.host} port {settings.port}: {reason}.",
        code="cannot_listen",
        hint="Choose another address with SAMBAND_HOST or another port with --port.",
        field="SAMBAND_HOST",
    )
