"""One process of many callers: ``python -m tests.rotation.caller '{"database": …}'``. Tells on its last line how it went."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from samband.adapters.adapter import Adapter, AdapterOptions, Connection
from samband.adapters.registry import Registry
from samband.adapters.sharedtokens import TokenDoor
from samband.contract import Limits
from samband.errors import SambandError
from samband.store import Store, Vault
from samband.store.models import Integration
from samband.tokens import TokenService
from tests.conftest import KEY
from tests.rotation import plugin


@contextlib.asynccontextmanager
async def registry_of(tokens: TokenDoor, **options: Any) -> AsyncIterator[Registry]:
    """Gives a registry with the plugin, whose tokens are kept behind this door."""
    registry = Registry(AdapterOptions(allow_private_hosts=("127.0.0.1",), tokens=tokens, **options))
    registry.add(plugin).limits = Limits(requests_per_s=10_000, concurrency=64)
    try:
        yield registry
    finally:
        await registry.close()


@contextlib.asynccontextmanager
async def adapter_of(store: Store, **options: Any) -> AsyncIterator[Adapter]:
    """Gives the plugin's adapter as a host would: with a token service over this store."""
    tokens = TokenService(store, **options)
    async with registry_of(tokens) as registry:
        try:
            yield registry.adapter("rotating")
        finally:
            await tokens.close()


async def connection_of(store: Store, integration: Integration) -> Connection:
    credentials = await store.catalog.credentials(integration)
    assert credentials is not None
    return Connection(
        organization_id=integration.organization_id, integration_id=integration.id, revision=integration.revision,
        settings=integration.settings, credentials=credentials,
    )  # fmt: skip


async def work(database: str, integration_id: str, callers: int, seconds: float, lease_s: float) -> Counter[str]:
    store = Store.open(database, vault=Vault.from_secret(KEY))
    told: Counter[str] = Counter()
    ends_at = time.monotonic() + seconds

    async def call(adapter: Adapter, connection: Connection) -> None:
        while time.monotonic() < ends_at:
            try:
                await adapter.check(connection, timeout_s=60)
                told["ok"] += 1
            except SambandError as error:
                told[error.code] += 1
            await asyncio.sleep(0.02)

    try:
        connection = await connection_of(store, await store.catalog.integration_by_id(integration_id))
        async with adapter_of(store, lease_s=lease_s) as adapter:
            print("ready", flush=True)
            await asyncio.gather(*(call(adapter, connection) for _ in range(callers)))
    finally:
        await store.close()
    return told


if __name__ == "__main__":
    print(json.dumps(asyncio.run(work(**json.loads(sys.argv[1])))), flush=True)
