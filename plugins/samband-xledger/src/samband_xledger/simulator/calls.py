"""What one request carries through its resolvers."""

from __future__ import annotations

from dataclasses import dataclass, field

from .access import ApiToken
from .switches import Switches
from .world import World


@dataclass(slots=True, kw_only=True)
class Call:
    """One request of a known token to one environment; ``nodes`` counts what it read and wrote."""

    world: World
    token: ApiToken
    switches: Switches
    nodes: int = 0
    reach: set[int] = field(default_factory=set)
    visible: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.reach = self.world.reach(self.token.entity)
        self.visible = self.world.visible(self.token.entity)
