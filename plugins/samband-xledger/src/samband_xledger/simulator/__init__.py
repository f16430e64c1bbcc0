"""An Xledger tenant that runs on this machine, for tests and demonstrations.

It knows the vendor's described behaviour and nothing about the adapter it is used to test.
"""

from __future__ import annotations

from .app import build_app
from .seed import SeedPlan
from .server import Simulator, SimulatorAddress
from .state import SimulatorState

__all__ = ["SeedPlan", "Simulator", "SimulatorAddress", "SimulatorState", "build_app"]
