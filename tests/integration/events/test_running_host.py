"""A host that was merely started sends its events out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from samband.cli.client import HostClient
from samband.hosting.host import Host
from samband.settings import HostSettings

from .conftest import Receiver, until

ORG = "/v1/organizations/hlf"


@pytest.fixture
def settings(tmp_path: Path) -> HostSettings:
    return HostSettings(
        data_dir=tmp_path / "data", port=0, plugins_file=None, sweep_s=0.2, allow_private_hosts=("127.0.0.1",),
        public_url="https://samband.example",
    )  # fmt: skip


async def test_running_host_sends_events_to_its_subscribers(settings: HostSettings, receiver: Receiver) -> None:
    host = Host(settings)
    await host.start()
    try:
        assert host.admin_key is not None
        async with HostClient(host.url, host.admin_key) as client:
            await client.post("/v1/organizations", {"id": "hlf", "name": "HLF"})
            made: dict[str, Any] = await client.post(f"{ORG}/subscriptions", {"url": receiver.url})
            other = await client.post(f"{ORG}/subscriptions", {"url": receiver.url, "types": ["no.samband.run.*"]})
            await client.post(f"{ORG}/subscriptions/{other['id']}/disable")
            await until(lambda: len(receiver.received) == 1)
            feed = await client.get(f"{ORG}/events")
    finally:
        await host.stop(drain=False)
    (received,) = receiver.received
    event = Webhook(made["secret"]).verify(received.body, received.headers)
    assert {"subscription": other["id"], "reason": "person"} == event["data"]
    assert f"https://samband.example/schemas/events/{event['type']}" == event["dataschema"]
    assert [event] == feed["items"]
