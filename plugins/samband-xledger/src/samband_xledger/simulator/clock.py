"""The simulator's clock: it runs like every clock, and may be moved forward; local times are those of Oslo."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

OSLO = ZoneInfo("Europe/Oslo")


class Clock:
    """Simulated time. It never goes back."""

    def __init__(self) -> None:
        self._ahead = timedelta()
        self._written = (0, "")

    def now(self) -> datetime:
        """Returns the simulated time, aware UTC."""
        return datetime.now(UTC) + self._ahead

    def local(self) -> str:
        """Returns the simulated time as the API writes it: Oslo, to the second, without an offset."""
        now = self.now()
        second = int(now.timestamp())
        # Thousands of rows are written in one second.
        if self._written[0] != second:
            self._written = (second, written(now))
        return self._written[1]

    def advance(self, seconds: float) -> None:
        """Moves forward; raises ValueError for a step back."""
        if seconds < 0:
            raise ValueError("the clock does not go back")
        self._ahead += timedelta(seconds=seconds)

    def move_to(self, moment: datetime) -> None:
        """Moves forward to a moment; raises ValueError when it has passed."""
        self.advance((moment - self.now()).total_seconds())


def written(moment: datetime) -> str:
    """Returns a moment as the API writes it."""
    return moment.astimezone(OSLO).strftime("%Y-%m-%dT%H:%M:%S")
