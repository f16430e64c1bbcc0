"""Everything a running simulator holds: its two environments, the clock, limits, faults and what was seen."""

from __future__ import annotations

from collections import Counter, deque
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .clock import Clock
from .faults import FaultBook
from .limits import LimitRules, Meter
from .seed import SeedPlan, seeded
from .switches import Switches
from .world import World

ENVIRONMENTS = ("demo", "live")
_LOG_LENGTH = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request in the log: never its body, never a credential."""

    at: str
    environment: str
    door: str
    operations: tuple[str, ...]
    status: int
    nodes: int
    fault: str | None


class SimulatorState:
    """The whole simulator apart from HTTP."""

    def __init__(self, plan: SeedPlan | None = None, drop_folder: Path | None = None) -> None:
        self.plan = plan or SeedPlan()
        self.drop_folder = drop_folder
        self.started_switches: dict[str, Any] = {}
        self.internal_errors: list[str] = []
        self.reset()

    def reset(self) -> None:
        """Puts everything back to the start."""
        self.clock = Clock()
        self.worlds = {name: seeded(name, self.clock, self.plan) for name in ENVIRONMENTS}
        self.switches = Switches(**self.started_switches)
        self.limits = LimitRules()
        self.meters: dict[str, Meter] = {}
        self.faults = FaultBook()
        self.counters: Counter[str] = Counter()
        self.nodes: Counter[str] = Counter()
        self.log: deque[Seen] = deque(maxlen=_LOG_LENGTH)
        self.turn = 0

    @property
    def world(self) -> World:
        """The environment the start line names."""
        return self.worlds["demo"]

    def meter(self, token: str) -> Meter:
        """Returns the meter of a token."""
        return self.meters.setdefault(token, Meter())

    def refresh_demo(self) -> None:
        """Overwrites demo with a copy of live."""
        copied = deepcopy(self.worlds["live"], {id(self.clock): self.clock})
        copied.name = "demo"
        self.worlds["demo"] = copied
