"""Where the master keys come from, and what the operator does with them: add one, seal again, prove that all opens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from samband.acting import act_for
from samband.errors import ConfigurationError, NotReadyError
from samband.settings import HostSettings
from samband.store import Vault, schema
from samband.store.database import Database
from samband.store.keyring import KeyFile, parse_ring
from samband.store.rotation import Rotated, Rotation, Verified, keys_in_use
from samband.store.vault import HEAD_BYTES

__all__ = ["KEY_FILE", "add_key", "open_vault", "rotate_keys", "verify_keys"]

KEY_FILE: Final = "keys.json"


async def open_vault(settings: HostSettings, database: Database, *, may_create: bool) -> Vault:
    """Gives the vault with the ring of these settings; makes the first key of a new data directory where it may.

    Raises:
        ConfigurationError: There is no key and none may be made: other processes would not have it
            (``master_key_missing``), or the database holds what was sealed with one that is gone (it names that one).
    """
    given = _given(settings)
    if given is not None:
        return given
    file = KeyFile(settings.data_dir / KEY_FILE)
    if not file.path.exists():
        if not may_create:
            raise _no_key(file.path)
        await _refuse_if_sealed(database, file.path)
        file.create()
    return Vault(file.keys)


async def add_key(settings: HostSettings, *, accept_loss: bool = False) -> tuple[str, Path]:
    """Adds a key to the data directory's own file and gives its id and the file. A host that runs takes it up by itself.

    Args:
        accept_loss: Makes the file anew although the database holds what was sealed with keys that are gone.

    Raises:
        ConfigurationError: The ring stands elsewhere (``key_not_in_file``), or its file is lost.
    """
    if settings.key is not None or settings.key_file is not None:
        where = "SAMBAND_KEY" if settings.key is not None else "SAMBAND_KEY_FILE"
        raise ConfigurationError(
            f"The keys of this host come from {where}, which samband does not write.",
            code="key_not_in_file",
            hint="Make a key with 'samband keys generate --print' and add it there, after the ones that are there.",
            field=where,
        )
    file = KeyFile(settings.data_dir / KEY_FILE)
    if not file.path.exists() and not accept_loss and _may_hold_rows(settings):
        database = Database.open(settings.database)
        try:
            await _refuse_if_sealed(database, file.path)
        finally:
            await database.close()
    return file.add().hex(), file.path


async def rotate_keys(settings: HostSettings) -> Rotated:
    """Seals everything again with the newest key; see `samband.store.rotation.Rotation.rotate`."""
    async with _rotation(settings) as rotation:
        with act_for(actor="command line"):
            return await rotation.rotate()


async def verify_keys(settings: HostSettings) -> Verified:
    """Opens every sealed value there is."""
    async with _rotation(settings) as rotation:
        return await rotation.verify()


def _given(settings: HostSettings) -> Vault | None:
    if settings.key is not None and settings.key_file is not None:
        raise ConfigurationError(
            "SAMBAND_KEY and SAMBAND_KEY_FILE are both set.",
            code="keys_twice",
            hint="Keep one of the two; it may hold several keys.",
            field="SAMBAND_KEY_FILE",
        )
    if settings.key is not None:
        return Vault(parse_ring(settings.key.get_secret_value()))
    return None if settings.key_file is None else Vault(KeyFile(settings.key_file).keys)


@asynccontextmanager
async def _rotation(settings: HostSettings) -> AsyncIterator[Rotation]:
    if not _may_hold_rows(settings):
        raise _no_database()
    database = Database.open(settings.database)
    try:
        if await schema.current_revision(database) != schema.HEAD:
            raise _no_database()
        yield Rotation(database, await open_vault(settings, database, may_create=False))
    finally:
        await database.close()


def _may_hold_rows(settings: HostSettings) -> bool:
    """Tells whether there can be a database, without making an empty SQLite file by looking."""
    return settings.database_url is not None or settings.data_dir.is_dir()


async def _refuse_if_sealed(database: Database, path: Path) -> None:
    ids = sorted({bytes(head[1:HEAD_BYTES]).hex() for head in await keys_in_use(database)})
    if ids:
        raise ConfigurationError(
            f"The key file {path} is gone, and the database holds secrets sealed with: {', '.join(ids)}.",
            code="master_key_missing",
            hint="Restore the file from your backup, or give the key as SAMBAND_KEY. A new key would open none of them; "
            "if they are lost for good, see 'samband keys generate --help'.",
            field="SAMBAND_KEY",
        )


def _no_key(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"There is no key that credentials are encrypted with, neither SAMBAND_KEY nor {path}.",
        code="master_key_missing",
        hint="Give every process the same SAMBAND_KEY (made with 'samband keys generate --print'), or the same data "
        "directory.",
        field="SAMBAND_KEY",
    )


def _no_database() -> NotReadyError:
    return NotReadyError(
        "There is no database with this program's schema.",
        code="migration_needed",
        hint="Start the host once, or run 'samband migrate'; check --data-dir and SAMBAND_DATABASE_URL.",
    )
