"""The brake: how much a run may take away before a person is asked. Pure.

A system that is half empty, a filter that was changed by mistake or a permission that was withdrawn looks, from here, like
many people who left at once. Nobody notices until letters are not sent, so a run that would take that many away stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

__all__ = ["ENDED_STATUSES", "STATUS_FIELD", "Brake", "Removal", "ends"]

STATUS_FIELD: Final = "status"
ENDED_STATUSES: Final = frozenset({"inactive", "ended"})
"""What the status of a record that counts no more is called (`samband.kinds`); every other status is a live one."""


def ends(values: object) -> bool:
    """Tells whether a record with these values counts no more, though it is still there."""
    return isinstance(values, dict) and values.get(STATUS_FIELD) in ENDED_STATUSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What a run takes away from one stream, from its start up to and with the page that is weighed.

    Attributes:
        held: Records of the stream when the run began.
        deleted: Records that go.
        deactivated: Records whose status goes from a live one to an ended one.
    """

    held: int
    deleted: int
    deactivated: int = 0

    @property
    def total(self) -> int:
        return self.deleted + self.deactivated


@dataclass(frozen=True, slots=True, kw_only=True)
class Brake:
    """How much is too much: more than ``share`` of what is held, and at least ``floor`` records.

    Attributes:
        share: Part of the records held, between 0 and 1. Exactly this part still passes.
        floor: Fewer records than this never stop a run, so that a small organisation is not asked every week.
    """

    share: float = 0.10
    floor: int = 20

    def limit(self, held: int) -> int:
        """Gives the largest number of records that may go without asking."""
        # Decimal, because 0.29 * 100 is 28.999999999999996 and the twenty-ninth record is still exactly the share.
        return max(self.floor - 1, int(Decimal(str(self.share)) * held))

    def stops(self, removal: Removal, *, released: int = 0) -> bool:
        """Tells whether a run has to be held.

        Args:
            released: How many a person has agreed to for this run and stream; more than that asks again.
        """
        return removal.total > max(self.limit(removal.held), released)
