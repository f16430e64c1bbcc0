"""On whose behalf the present task works: which organisation it is confined to, and who gave the order.

Set at the edges (a request, a run, a command) and read at two places: the database shows a confined task no other
organisation's rows, and the audit trail names the actor. A task that nobody confined works for the whole host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

__all__ = ["EVERYWHERE", "Acting", "act_for", "acting"]

EVERYWHERE: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acting:
    """One task's confinement and author.

    Attributes:
        actor: For people and the audit trail, for instance ``key:3f9c platform``, ``schedule:nightly`` or ``samband``.
        organization: The one whose rows may be touched; `EVERYWHERE` for the host's own work.
    """

    actor: str = "samband"
    organization: str = EVERYWHERE


_NOBODY: Final = Acting()
_current: ContextVar[Acting] = ContextVar("samband_acting", default=_NOBODY)


def acting() -> Acting:
    """Gives the present task's."""
    return _current.get()


@contextmanager
def act_for(*, organization: str | None = None, actor: str | None = None) -> Iterator[Acting]:
    """Confines and names the work of the block, and of the tasks it starts; what is not given stays as it was."""
    before = _current.get()
    now = Acting(
        actor=before.actor if actor is None else actor,
        organization=before.organization if organization is None else organization,
    )
    token = _current.set(now)
    try:
        yield now
    finally:
        _current.reset(token)
