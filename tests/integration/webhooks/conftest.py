"""A host's inner parts with a plugin for each kind of proof, and its API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from samband.adapters.adapter import AdapterOptions
from samband.adapters.registry import Registry
from samband.api import create_app
from samband.api.routes.operations import OPENAPI_DOCUMENT
from samband.receiving import ReceivingLimits
from samband.service import Service
from samband.store import Store

from .hooked import Bell, Client, Door, keyed, queried, signed_hex, standard, unproved


@pytest.fixture
async def door(store: Store) -> AsyncIterator[Door]:
    registry = Registry(AdapterOptions(grace_s=0.3))
    plugins = {p.manifest.name: p for p in (standard(), signed_hex(), keyed(), queried(), unproved())}
    for name, plugin in plugins.items():
        registry.add(plugin, name=name)
    bell = Bell()
    limits = ReceivingLimits(max_bytes=2_000)
    service = Service(store=store, registry=registry, bell=bell, receiving=limits)
    yield Door(store, service, registry, bell, plugins)
    await service.webhooks.close()
    await registry.close()


@pytest.fixture
async def client(door: Door) -> AsyncIterator[Client]:
    """A client with the admin's key, which deliveries do not use. Every answer it gets has to be a documented one."""
    key = await door.service.ensure_admin_key()
    app = create_app(door.service, max_body_bytes=4_000, request_timeout_s=0.5)
    documented = json.loads(app[OPENAPI_DOCUMENT])["paths"]
    surprises: list[str] = []

    async def compare(request: Any, response: Any) -> None:
        resource = request.match_info.route.resource
        promised = documented[resource.canonical][request.method.lower()]["responses"]
        if str(response.status) not in promised and not ("2XX" in promised and 200 <= response.status < 300):
            surprises.append(f"{request.method} {resource.canonical} {response.status}")

    app.on_response_prepare.append(compare)
    async with TestClient(TestServer(app), headers={"Authorization": f"Bearer {key}"}) as running:
        yield running
    assert [] == surprises
