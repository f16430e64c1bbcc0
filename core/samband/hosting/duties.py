"""What a worker process does by itself, round after round, besides executing runs: schedules, events, probes, clean-up.

Every duty looks into the database for what is due, so any number of processes may do the same one at once, and a
process that dies leaves nothing that another does not find.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from samband.errors import NotReadyError

__all__ = ["Duty", "keep_up"]

log = structlog.stdlib.get_logger("samband.hosting.duties")

_TROUBLED_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """Something that is done again and again.

    Attributes:
        name: In logs.
        work: One round; gives the seconds until the next one. Must be safe to repeat and to cut off anywhere.
    """

    name: str
    work: Callable[[], Awaitable[float]]


async def keep_up(duty: Duty) -> None:
    """Does a duty round after round, for ever: trouble in one round is logged and the next one comes all the same."""
    while True:
        try:
            pause_s = await duty.work()
        except NotReadyError as err:
            log.warning("duty_interrupted", duty=duty.name, code=err.code)
            pause_s = _TROUBLED_PAUSE_S
        except Exception:
            log.exception("duty_failed", duty=duty.name)
            pause_s = _TROUBLED_PAUSE_S
        await asyncio.sleep(pause_s)
