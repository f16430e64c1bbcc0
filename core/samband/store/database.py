"""One database, SQLite or PostgreSQL: the engine, its transactions and its clock."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from samband.acting import acting
from samband.errors import ConfigurationError, NotReadyError
from samband.store.columns import UtcInstant

BUSY_TIMEOUT_MS = 10_000

T = TypeVar("T")

_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    f"busy_timeout={BUSY_TIMEOUT_MS}",
    "foreign_keys=ON",
    "cache_size=-4000",
    "wal_autocheckpoint=4000",
    "journal_size_limit=67108864",
)

_CONFINE = sa.text("SELECT set_config('samband.organization', :organization, true)")
_IS_BEYOND_WALLS = sa.text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")


class Database:
    """Opens connections; nothing outside `samband.store` sees one."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.dialect = engine.dialect.name
        self._writer = asyncio.Lock()
        self._stepper: ThreadPoolExecutor | None = None
        self._direct: sqlite3.Connection | None = None

    @classmethod
    def open(cls, url: str) -> Database:
        """Prepares an engine; the first connection is made by the first transaction."""
        try:
            parsed = sa.make_url(url)
        except exc.ArgumentError as err:
            raise ConfigurationError(
                "The database address cannot be read.",
                hint="Write it as sqlite:///path/to/file.db or postgresql://user:password@host/name.",
                field="SAMBAND_DATABASE_URL",
            ) from err
        if parsed.drivername in ("sqlite", "sqlite+aiosqlite"):
            return cls(_sqlite_engine(parsed.set(drivername="sqlite+aiosqlite")))
        if parsed.drivername in ("postgresql", "postgres", "postgresql+asyncpg"):
            return cls(_postgres_engine(parsed.set(drivername="postgresql+asyncpg")))
        raise ConfigurationError(
            f"A database of the kind {parsed.drivername!r} is not supported.",
            hint="Use sqlite:///… or postgresql://….",
            field="SAMBAND_DATABASE_URL",
        )

    @property
    def is_sqlite(self) -> bool:
        return self.dialect == "sqlite"

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Runs a transaction that writes; it commits at the end of the block and rolls back on any error.

        On SQLite it begins with ``BEGIN IMMEDIATE`` (a plain one that turns into a write fails at once when another
        writer is active) and the writers of one process queue up here rather than poll for the file's lock.
        """
        async with self._writer if self.is_sqlite else contextlib.nullcontext(), self._connect(write=True) as conn:
            yield conn

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Runs a transaction that only reads, on one snapshot."""
        async with self._connect(write=False) as conn:
            yield conn

    async def in_one_step(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a whole transaction that writes, on SQLite, with one crossing to a thread, and gives what ``work`` gives.

        For small transactions that come by the thousand: through the engine each of them crosses a dozen times, and waits
        for the interpreter each time. ``work`` is called in that thread with the driver's own connection.
        """
        if self._stepper is None:
            self._stepper = ThreadPoolExecutor(1, thread_name_prefix="samband-sqlite")
        async with self._writer:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._stepper, self._step, work)
            except sqlite3.OperationalError as err:
                raise NotReadyError(
                    "The database does not answer.", code="database_unavailable", hint="Try again in a moment."
                ) from err

    def _step(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._direct is None:
            path = self.engine.url.database or ""
            self._direct = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000)
            for pragma in _PRAGMAS:
                self._direct.execute(f"PRAGMA {pragma}").close()
        direct = self._direct
        try:
            direct.execute("BEGIN IMMEDIATE").close()
            result = work(direct)
            direct.execute("COMMIT").close()
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                direct.rollback()
            raise
        return result

    def _end_steps(self) -> None:
        direct, self._direct = self._direct, None
        if direct is not None:
            direct.close()

    @contextlib.asynccontextmanager
    async def _connect(self, *, write: bool) -> AsyncIterator[AsyncConnection]:
        try:
            async with self.engine.connect() as conn:
                await conn.execution_options(samband_write=write)
                async with conn.begin():
                    if not self.is_sqlite:
                        # The second wall (see migration 0003): a statement that forgets its WHERE still sees one
                        # organisation only. Set for this transaction, so that a pooled connection keeps nothing.
                        await conn.execute(_CONFINE, {"organization": acting().organization})
                    yield conn
        except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError, sqlite3.OperationalError, OSError) as err:
            raise NotReadyError(
                "The database does not answer.", code="database_unavailable", hint="Try again in a moment."
            ) from err
        except exc.DBAPIError as err:
            raise _translated(err) from err

    def now(self) -> sa.ColumnElement[dt.datetime]:
        """Gives the database's own clock as an SQL expression, so that leases do not depend on a worker's clock.

        SQLite has no server: its clock is this machine's.
        """
        if self.is_sqlite:
            return sa.literal(dt.datetime.now(dt.UTC), UtcInstant)
        return sa.func.clock_timestamp(type_=UtcInstant)

    def after(self, seconds: float) -> sa.ColumnElement[dt.datetime]:
        """Gives the database's time ``seconds`` from now."""
        delta = dt.timedelta(seconds=seconds)
        if self.is_sqlite:
            return sa.literal(dt.datetime.now(dt.UTC) + delta, UtcInstant)
        return sa.cast(sa.func.clock_timestamp() + sa.literal(delta, sa.Interval), UtcInstant)

    async def is_behind_walls(self) -> bool:
        """Tells whether row-level security binds the database's user; on SQLite there is none that could be lacking."""
        if self.is_sqlite:
            return True
        async with self.read() as conn:
            return not await conn.scalar(_IS_BEYOND_WALLS)

    async def close(self) -> None:
        if self._stepper is not None:
            stepper, self._stepper = self._stepper, None
            await asyncio.get_running_loop().run_in_executor(stepper, self._end_steps)
            stepper.shutdown(wait=False)
        await self.engine.dispose()


# PostgreSQL's error classes (its manual, appendix A): what may be well again in a moment, and what a person has to mend.
_PASSING = ("08", "53", "57", "58")
_PASSING_CODES = ("25P03", "40001", "40P01", "55P03")
_MISCONFIGURED = ("28", "3D")


def _translated(err: exc.DBAPIError) -> Exception:
    """Gives the error of the tree that a driver's error means; a fault in our own statement stays what it is."""
    state = str(getattr(err.orig, "sqlstate", None) or getattr(err.orig, "pgcode", None) or "")
    if err.connection_invalidated or state[:2] in _PASSING or state in _PASSING_CODES:
        return NotReadyError(
            "The database does not take this now.", code="database_unavailable", hint="Try again in a moment."
        )
    if state[:2] in _MISCONFIGURED:
        return ConfigurationError(
            "The database refuses the user, or has no database of that name.",
            code="database_refused",
            hint="Check user, password and database name in SAMBAND_DATABASE_URL.",
            field="SAMBAND_DATABASE_URL",
        )
    return err


def _dumps(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()


def _sqlite_engine(url: sa.URL) -> AsyncEngine:
    engine = create_async_engine(
        url,
        json_serializer=_dumps,
        json_deserializer=orjson.loads,
        hide_parameters=True,  # an error would quote them, and they are members' data
        pool_size=8,
        pool_use_lifo=True,  # few connections are warm, and each keeps pages in memory
    )

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions by itself: see `begin` below
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        is_write = connection.get_execution_options().get("samband_write", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")

    return engine


def _postgres_engine(url: sa.URL) -> AsyncEngine:
    return create_async_engine(
        url,
        json_serializer=_dumps,
        json_deserializer=orjson.loads,
        hide_parameters=True,  # an error would quote them, and they are members' data
        pool_size=10,
        max_overflow=10,
        pool_pre_ping=True,
        pool_timeout=10,
        connect_args={
            "timeout": 10,
            "command_timeout": 120,
            "server_settings": {
                "application_name": "samband",
                # A prepared statement may keep a plan that was made while a table was empty; planning anew costs well
                # under a millisecond, that plan could cost seconds a page.
                "plan_cache_mode": "force_custom_plan",
                # A worker that stalls inside a transaction must not keep its locks longer than its lease.
                "idle_in_transaction_session_timeout": "30000",
            },
        },
    )
