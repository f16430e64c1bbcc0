"""What a plugin author tests with: a contract suite to subclass, faults to inject, and stand-ins for the host.

    from samband.testing import PluginContract
    from samband_example import plugin


    class TestContract(PluginContract):
        plugin = plugin

Needs the ``testing`` extra: ``pip install samband[testing]``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samband.testing import faults
    from samband.testing.contract_suite import PluginContract
    from samband.testing.counterpart import Counterpart, Touched, start_simulator
    from samband.testing.fakes import FakeClock, FakeLog, LogEntry, ProgressRecorder, fake_context
    from samband.testing.faults import Fault
    from samband.testing.loopback import serve
    from samband.testing.proxy import Call, FaultProxy
    from samband.testing.samples import sample_item

_HOMES = {
    "Call": "proxy",
    "Counterpart": "counterpart",
    "FakeClock": "fakes",
    "FakeLog": "fakes",
    "Fault": "faults",
    "FaultProxy": "proxy",
    "LogEntry": "fakes",
    "PluginContract": "contract_suite",
    "ProgressRecorder": "fakes",
    "Touched": "counterpart",
    "fake_context": "fakes",
    "sample_item": "samples",
    "serve": "loopback",
    "start_simulator": "counterpart",
}

__all__ = [
    "Call",
    "Counterpart",
    "FakeClock",
    "FakeLog",
    "Fault",
    "FaultProxy",
    "LogEntry",
    "PluginContract",
    "ProgressRecorder",
    "Touched",
    "fake_context",
    "faults",
    "sample_item",
    "serve",
    "start_simulator",
]


def __getattr__(name: str) -> object:
    # Resolved on first use: pytest imports this package at every start, and most runs use none of it.
    if name == "faults":
        return import_module("samband.testing.faults")
    if name in _HOMES:
        return getattr(import_module(f"samband.testing.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
