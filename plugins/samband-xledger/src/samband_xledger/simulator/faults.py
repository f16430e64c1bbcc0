"""Faults a test may switch on: which request they hit, how often, and whether the work is done before they strike."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

# Faults of the connection and of whatever stands in front of the service.
WIRE = frozenset(
    {
        "drop",
        "truncate",
        "slow",
        "status",
        "html_503",
        "html_503_broken",
        "html_401_broken",
        "html_200",
        "redirect_login",
        "empty_200",
        "empty_503",
    }
)
# Faults in the service's own words.
SPOKEN = frozenset({"limit", "timeout", "unauthorized", "soap_fault", "expired_key", "data_null", "edges_null"})
KINDS = WIRE | SPOKEN
# These spoil an answer, so the work is always done.
_AFTER = frozenset({"truncate", "slow", "edges_null"})


@dataclass(slots=True, kw_only=True)
class FaultRule:
    """One fault: the first ``skip`` matching requests pass, the next ``times`` are hit (nothing means all).

    Attributes:
        operations: Names it is about; empty for every request.
        commit: The request is carried out, and then the fault strikes.
        door: ``graphql``, ``soap``; nothing for both.
    """

    kind: str
    operations: frozenset[str] = frozenset()
    commit: bool = False
    door: str | None = None
    times: int | None = 1
    skip: int = 0
    probability: float = 1.0
    parameters: dict[str, Any] = field(default_factory=dict)
    hits: int = 0

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> FaultRule:
        """Reads a rule from the control door; raises ValueError with a sentence when it cannot be used."""
        kind = data.get("fault")
        commit = bool(data.get("commit", False))
        if kind == "commit_drop":
            kind, commit = "drop", True
        if kind not in KINDS:
            raise ValueError(f"fault must be one of commit_drop, {', '.join(sorted(KINDS))}")
        times, probability = data.get("times", 1), data.get("probability", 1.0)
        if times is not None and (not isinstance(times, int) or times < 0):
            raise ValueError("times must be a whole number or null")
        if not isinstance(probability, int | float) or not 0 <= probability <= 1:
            raise ValueError("probability must be between 0 and 1")
        named = data.get("operation", data.get("operations", ()))
        known = {"fault", "times", "skip", "probability", "operation", "operations", "commit", "door"}
        return cls(
            kind=kind,
            operations=frozenset([named] if isinstance(named, str) else named),
            commit=commit or kind in _AFTER,
            door=data.get("door"),
            times=times,
            skip=int(data.get("skip", 0)),
            probability=float(probability),
            parameters={name: value for name, value in data.items() if name not in known},
        )

    def matches(self, door: str, operations: Collection[str]) -> bool:
        """Tells whether a request is one this rule is about."""
        if self.times == 0 or self.door not in {None, door}:
            return False
        return not self.operations or not self.operations.isdisjoint(operations)

    def as_json(self) -> dict[str, Any]:
        """Returns the rule as the control door shows it."""
        return {
            "fault": self.kind,
            "operations": sorted(self.operations),
            "commit": self.commit,
            "left": self.times,
            "skip": self.skip,
            "hits": self.hits,
        }


class FaultBook:
    """The rules in force, asked once per request; the first rule that strikes wins."""

    def __init__(self, seed: int = 1) -> None:
        self.rules: list[FaultRule] = []
        self.random = random.Random(seed)  # noqa: S311  reproducible faults, no secrets

    def strike(self, door: str, operations: Collection[str]) -> FaultRule | None:
        """Returns the fault that hits this request, and counts it."""
        for rule in self.rules:
            if not rule.matches(door, operations):
                continue
            if rule.skip > 0:
                rule.skip -= 1
                continue
            if rule.probability < 1 and self.random.random() >= rule.probability:
                continue
            if rule.times is not None:
                rule.times -= 1
            rule.hits += 1
            return rule
        return None
