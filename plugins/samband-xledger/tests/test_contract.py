"""The plugin keeps every promise of the hook specifications, proved against its own simulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from samband.testing import Counterpart, PluginContract, start_simulator
from samband_xledger import plugin


class TestContract(PluginContract):
    plugin = plugin
    settings: ClassVar = {"bookings": True, "page_size": 25, "routes": ["graphql", "file"]}

    @classmethod
    def touch_order(cls, stream):
        return {"table": "transactions", "create": 1, "update": 2, "delete": 1}

    @pytest.fixture(scope="class")
    @classmethod
    def counterpart(cls) -> Iterator[Counterpart]:
        """Gives the simulator with the API token alone: what a log-on for files does is tested where files are."""
        with start_simulator(
            "samband_xledger.simulator",
            arguments=("--vouchers", "40"),
            settings=cls.settings,
            touch_order=cls.touch_order,
        ) as found:
            settings = {name: value for name, value in found.settings.items() if name != "soap_url"}
            yield Counterpart(
                settings=settings,
                credentials={"api_token": found.credentials["api_token"]},
                touch=found.touch,
            )
