"""Sealed values whatever table they stand in: found, sealed again while others write, and proven to open."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from samband.store import Store, Vault
from samband.store.answers import Request
from samband.store.keyring import id_of, new_key
from samband.store.models import Table
from samband.store.rotation import SEALED, SealedColumn

OLD, NEW = new_key(), new_key()
NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(days=1)


def name_of(key: str) -> str:
    return id_of(base64.b64decode(key)).hex()


def over(store: Store, *keys: str) -> Store:
    """The same database under another ring. Not to be closed: it is the first one's."""
    return Store(store.database, Vault.from_secret(",".join(keys)))


def extra(table: str, number: int) -> dict[str, Any]:
    """What a row of a table needs besides its owner and the sealed value."""
    mark = f"{number:04d}"
    rows: dict[str, dict[str, Any]] = {
        "credential": {"hints": {}, "revision": 1, "updated_at": NOW},
        "kept_token": {"updated_at": NOW},
        "consent": {"id": f"consent-{mark}", "created_at": NOW, "expires_at": LATER},
        "webhook": {"plugin": "crm", "key_hash": mark, "created_at": NOW, "updated_at": NOW},
        "subscription": {
            "id": f"sub-{mark}", "url": "https://example.org", "state": "active", "created_at": NOW, "updated_at": NOW,
        },
        "drop_point": {"settings": {"kind": "sftp"}, "hint": "", "revision": 1, "updated_at": NOW},
        "kept_file": {
            "id": f"file-{mark}", "name": mark, "profile": "machine", "media_type": "text/csv", "size": 1,
            "digest": mark, "rows": 1, "keys": [], "state": "ready", "created_at": NOW,
        },
        "inbox": {"delivery_key": mark, "state": "received", "received_at": NOW},
        "kept_answer": {
            "caller": "k1", "route": "POST /x", "key": f"key {mark}:/", "fingerprint": "f", "state": "answered",
            "locked_until": NOW, "created_at": NOW,
        },
    }  # fmt: skip
    return rows[table]


async def fill(store: Store, vault: Vault, per_column: int) -> int:
    """Puts values into every sealed column, sealed the way whoever uses the column does."""
    await store.catalog.add_organization("hlf", "HLF")
    integrations = [await store.catalog.add_integration("hlf", f"crm{n}", "CRM", {}) for n in range(per_column)]
    async with store.database.write() as conn:
        for column in SEALED:
            for number, integration in enumerate(integrations):
                row = extra(column.table.name, number) | {"organization_id": "hlf"}
                if "integration_id" in column.table.c:
                    row["integration_id"] = integration.id
                row_id = ":".join(str(row[c.name]) for c in column.row_id)
                owner = f"hlf/{row_id}/{column.field}"
                row[column.column.name] = vault.seal(f"{column.name} {number}".encode(), owner=owner)
                await conn.execute(sa.insert(column.table).values(**row))
    return per_column * len(SEALED)


async def heads(store: Store, column: SealedColumn) -> set[bytes]:
    async with store.database.read() as conn:
        return {bytes(head)[:9] for head in await conn.scalars(sa.select(column.column)) if head is not None}


def test_every_column_of_bytes_is_known_to_rotation() -> None:
    binary = {
        f"{table.name}.{column.name}"
        for table in Table.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, sa.LargeBinary)
    }
    assert binary == {column.name for column in SEALED}


async def test_everything_is_sealed_again_with_the_newest_key(store: Store) -> None:
    total = await fill(store, Vault.from_secret(OLD), 130)
    ring = over(store, OLD, NEW)
    done = await ring.rotation.rotate()
    assert (total, 0, name_of(NEW)) == (done.sealed_again.total(), 0, done.key)
    found = await over(store, NEW).rotation.verify()
    assert (True, total, 0) == (found.is_ok, found.columns.total(), found.due)
    assert {name_of(NEW): total} == dict(found.keys)
    assert {column.name for column in SEALED} == set(found.columns)
    assert 0 == (await ring.rotation.rotate()).sealed_again.total()


async def test_value_in_the_form_before_is_brought_to_the_present_one(store: Store) -> None:
    await fill(store, Vault.from_secret(NEW), 1)
    credential, raw = SEALED[0], base64.b64decode(NEW)
    integration = await store.catalog.integration("hlf", "crm0")
    head, nonce = b"\x01" + id_of(raw), secrets.token_bytes(12)
    bound = head + f"hlf/{integration.id}/credentials".encode()
    async with store.database.write() as conn:
        old_form = head + nonce + AESGCM(raw).encrypt(nonce, b'{"a":1}', bound)
        await conn.execute(sa.update(credential.table).values(sealed=old_form))
    ring = over(store, NEW)
    assert {"a": 1} == await ring.catalog.credentials(integration)
    assert 1 == (await ring.rotation.verify()).due
    assert {"credential.sealed": 1} == dict((await ring.rotation.rotate()).sealed_again)
    assert {b"\x02" + id_of(raw)} == await heads(store, credential)
    assert {"a": 1} == await ring.catalog.credentials(integration)


async def test_credentials_that_are_replaced_during_rotation_stay_replaced(store: Store) -> None:
    await fill(store, Vault.from_secret(OLD), 150)
    ring = over(store, OLD, NEW)
    former = over(store, OLD)  # a process that does not know the new key yet
    integrations = await store.catalog.integrations("hlf")

    async def replace() -> None:
        for integration in integrations:
            pending = former.catalog.pending({"secret": f"new {integration.plugin}"}, {})
            await former.catalog.set_credentials(integration, pending)

    await asyncio.gather(replace(), ring.rotation.rotate(), ring.rotation.rotate())
    await ring.rotation.rotate()
    alone = over(store, NEW)
    opened = [await alone.catalog.credentials(integration) for integration in integrations]
    assert [{"secret": f"new {integration.plugin}"} for integration in integrations] == opened
    assert (await alone.rotation.verify()).is_ok


async def test_several_rotations_at_once_seal_every_value_once(store: Store) -> None:
    total = await fill(store, Vault.from_secret(OLD), 60)
    done = await asyncio.gather(*(over(store, OLD, NEW).rotation.rotate() for _ in range(4)))
    assert total == sum(d.sealed_again.total() for d in done)
    assert (await over(store, NEW).rotation.verify()).is_ok


async def test_rotation_that_is_cut_off_goes_on_where_it_was(store: Store) -> None:
    total = await fill(store, Vault.from_secret(OLD), 60)
    ring, cut_off = over(store, OLD, NEW), 0
    while True:
        task = asyncio.create_task(ring.rotation.rotate())
        await asyncio.sleep(0.01 * (cut_off + 1))
        if task.done():
            break
        cut_off += 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        found = await ring.rotation.verify()
        assert (True, total) == (found.is_ok, found.columns.total())
    assert cut_off > 0
    assert (True, 0) == ((found := await over(store, NEW).rotation.verify()).is_ok, found.due)


async def test_lost_key_is_named_and_its_values_stay_as_they_are(store: Store) -> None:
    await fill(store, Vault.from_secret(OLD), 2)
    ring = over(store, NEW)
    before = [await heads(store, column) for column in SEALED]
    assert [name_of(OLD)] == await ring.rotation.missing_keys()
    done = await ring.rotation.rotate()
    assert (0, 2 * len(SEALED)) == (done.sealed_again.total(), done.unopened)
    assert before == [await heads(store, column) for column in SEALED]
    found = await ring.rotation.verify()
    assert (False, {name_of(OLD): 2 * len(SEALED)}) == (found.is_ok, dict(found.missing))


@pytest.mark.parametrize("column", SEALED, ids=lambda column: column.name)
async def test_missing_key_of_any_column_is_found(store: Store, column: SealedColumn) -> None:
    await fill(store, Vault.from_secret(NEW), 3)
    ring = over(store, NEW)
    assert [] == await ring.rotation.missing_keys()
    strange = Vault.from_secret(OLD).seal(b"v", owner="whose/ever/this")
    one = sa.select(*column.key).limit(1)
    async with store.database.write() as conn:
        row = (await conn.execute(one)).one()
        where = [key == row._mapping[key.name] for key in column.key]
        await conn.execute(sa.update(column.table).where(*where).values({column.column.name: strange}))
    assert [name_of(OLD)] == await ring.rotation.missing_keys()


async def test_value_that_was_moved_to_another_row_is_broken_and_is_located(store: Store) -> None:
    await fill(store, Vault.from_secret(NEW), 2)
    credential = SEALED[0]
    async with store.database.write() as conn:
        values = (await conn.execute(sa.select(*credential.key, credential.column))).all()
        mine = credential.key[0] == values[0].integration_id
        await conn.execute(sa.update(credential.table).where(mine).values(sealed=values[1].sealed))
    found = await over(store, NEW).rotation.verify()
    assert (False, 1, {}) == (found.is_ok, found.broken, dict(found.missing))
    assert [f"credential.sealed of hlf, row {values[0].integration_id}: secret_misplaced"] == found.examples


async def test_rotation_is_in_the_audit_trail_of_the_host(store: Store) -> None:
    total = await fill(store, Vault.from_secret(OLD), 1)
    await over(store, OLD, NEW).rotation.rotate()
    await over(store, OLD, NEW).rotation.rotate()
    async with store.database.read() as conn:
        entries = (
            await conn.execute(
                sa.text("SELECT action, subject FROM audit_entry WHERE organization_id = '*' AND action LIKE 'keys.%'")
            )
        ).all()
    assert [("keys.rotated", f"key/{name_of(NEW)}")] == [tuple(entry) for entry in entries]
    assert total == len(SEALED)


# ── whoever seals and rotation agree on the owner ────────────────────────────


async def _credentials(store: Store) -> None:
    integration = await store.catalog.integration("hlf", "crm0")
    await store.catalog.set_credentials(integration, store.catalog.pending({"secret": "s"}, {}))


async def _answer(store: Store) -> None:
    request = Request(caller="k9", route="POST /runs", key="a key: /it", organization_id="hlf", fingerprint="f")
    await store.answers.begin(request, lock_s=10)
    await store.answers.keep(request, status=200, headers={}, body=b"{}")


@pytest.mark.parametrize("use", [_credentials, _answer])
async def test_what_the_store_itself_seals_is_sealed_again(
    store: Store, use: Callable[[Store], Awaitable[None]]
) -> None:
    await fill(store, Vault.from_secret(OLD), 1)
    await use(over(store, OLD))
    done = await over(store, OLD, NEW).rotation.rotate()
    assert 0 == done.unopened
    assert (await over(store, NEW).rotation.verify()).is_ok
