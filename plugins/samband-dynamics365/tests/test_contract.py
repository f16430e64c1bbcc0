"""The plugin keeps every promise of the hook specifications, proved against its own simulator."""

from typing import ClassVar

from samband.testing import PluginContract
from samband_dynamics365 import plugin

TABLES = {"contacts": "contacts", "staff": "systemusers", "memberships": "sb_memberships"}


class TestContract(PluginContract):
    plugin = plugin
    settings: ClassVar = {"page_size": 25}
    simulator_arguments = ("--members", "60", "--memberships", "70", "--staff", "30")

    @classmethod
    def touch_order(cls, stream):
        return {"table": TABLES[stream], "create": 1, "update": 2, "delete": 1}
