"""Faults a test may switch on: which request they hit, and how often.

A rule names one fault and says what it matches. The faults themselves happen in two places: `fault_answers` changes
answers, `fault_wire` misuses the connection.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Faults that take the place of the answer: the request is not carried out.
INSTEAD = frozenset(
    {
        "throttle",
        "status",
        "reset",
        "unauthorized",
        "revoke_token",
        "html",
        "empty",
        "endless_body",
    }
)
# Faults that spoil the answer to a request that was carried out.
AFTER = frozenset(
    {
        "commit_reset",
        "reset_mid_body",
        "truncate",
        "slow_body",
        "slow_first_byte",
        "wrong_content_type",
        "repeat_next_link",
        "loop_next_link",
        "foreign_next_link",
        "bad_rows",
        "empty_after",
    }
)
KINDS = INSTEAD | AFTER


@dataclass(slots=True, kw_only=True)
class FaultRule:
    """One fault: the first ``skip`` matching requests pass, the next ``times`` are hit (nothing means all).

    ``probability`` decides per matching request; ``parameters`` belong to the fault and are read by it.
    """

    kind: str
    times: int | None = 1
    skip: int = 0
    probability: float = 1.0
    method: str | None = None
    path: str = "^/api/data/"
    parameters: dict[str, Any] = field(default_factory=dict)
    hits: int = 0

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> FaultRule:
        """Reads a rule from the control door; raises ValueError with a sentence when it cannot be used."""
        kind = data.get("fault")
        if kind not in KINDS:
            raise ValueError(f"fault must be one of {', '.join(sorted(KINDS))}")
        times = data.get("times", 1)
        probability = data.get("probability", 1.0)
        if times is not None and (not isinstance(times, int) or times < 0):
            raise ValueError("times must be a whole number or null")
        if not isinstance(probability, int | float) or not 0 <= probability <= 1:
            raise ValueError("probability must be between 0 and 1")
        path = str(data.get("path", "^/api/data/"))
        try:
            re.compile(path)
        except re.error:
            raise ValueError("path must be a regular expression") from None
        known = {"fault", "times", "skip", "probability", "method", "path"}
        return cls(
            kind=kind,
            times=times,
            skip=int(data.get("skip", 0)),
            probability=float(probability),
            method=None if data.get("method") is None else str(data["method"]).upper(),
            path=path,
            parameters={name: value for name, value in data.items() if name not in known},
        )

    def matches(self, method: str, path: str) -> bool:
        """Tells whether a request is one this rule is about."""
        if self.times == 0 or (self.method is not None and self.method != method):
            return False
        return re.search(self.path, path) is not None


class FaultBook:
    """The rules in force, asked once per request; the first rule that strikes wins."""

    def __init__(self, seed: int) -> None:
        self.rules: list[FaultRule] = []
        self.random = random.Random(seed)  # noqa: S311  reproducible faults, no secrets

    def strike(self, method: str, path: str) -> FaultRule | None:
        """Returns the fault that hits this request, and counts it."""
        for rule in self.rules:
            if not rule.matches(method, path):
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
