"""Stand-ins for what the host gives a hook: a context, a clock, a logger, a progress recorder.

There is no fake HTTP session on purpose: give a hook a real one and a server on 127.0.0.1 (`samband.testing.serve`,
`samband.testing.connect`), so that what is tested is what will run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from samband.contract import Context, HttpResponse, HttpSession
from samband.errors import ConfigurationError

__all__ = ["FakeClock", "FakeLog", "LogEntry", "ProgressRecorder", "fake_context"]


class FakeClock:
    """A clock that stands still until it is told to move; sleeping moves it and takes no time.

    Attributes:
        slept: Every sleep that was asked for, in seconds, in order.
    """

    def __init__(self, start: datetime = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)) -> None:
        self._start = start
        self._passed_s = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        """Gives the time as aware UTC."""
        return self._start + timedelta(seconds=self._passed_s)

    def monotonic(self) -> float:
        """Gives the seconds since the clock was made."""
        return self._passed_s

    def advance(self, seconds: float) -> None:
        """Moves the clock forward."""
        self._passed_s += seconds

    async def sleep(self, seconds: float) -> None:
        """Moves the clock forward by what was asked for and lets the other tasks run once."""
        self.slept.append(seconds)
        self._passed_s += max(seconds, 0.0)
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One call of a logger."""

    level: str
    event: str
    values: Mapping[str, Any]


class FakeLog:
    """A logger that keeps what it is told, unredacted, so that a test can look for what must not be there.

    Attributes:
        entries: In order, shared by every logger bound from this one.
    """

    def __init__(self, entries: list[LogEntry] | None = None, **bound: Any) -> None:
        self.entries: list[LogEntry] = [] if entries is None else entries
        self._bound = bound

    def bind(self, **values: Any) -> FakeLog:
        """Gives a logger that adds these values to every entry."""
        return FakeLog(self.entries, **{**self._bound, **values})

    def debug(self, event: str, **values: Any) -> None:
        self._add("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        self._add("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        self._add("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        self._add("error", event, values)

    @property
    def text(self) -> str:
        """Everything that was logged, as one text to search in."""
        return "\n".join(f"{entry.level} {entry.event} {dict(entry.values)!r}" for entry in self.entries)

    def _add(self, level: str, event: str, values: Mapping[str, Any]) -> None:
        self.entries.append(LogEntry(level, event, {**self._bound, **values}))


@dataclass
class ProgressRecorder:
    """A progress callback that keeps what it is told.

    Attributes:
        reports: ``(done, total)`` in order.
    """

    reports: list[tuple[int, int | None]] = field(default_factory=list)

    def __call__(self, done: int, total: int | None) -> None:
        self.reports.append((done, total))


class _NoNetwork:
    """The session of a context that was made without one."""

    async def request(self, method: str, url: str, **_: Any) -> HttpResponse:
        raise self._refusal(f"send {method} {url.partition('?')[0]}")

    async def renew_token(self) -> None:
        raise self._refusal("have the token renewed")

    async def fill_names(self) -> frozenset[str]:
        raise self._refusal("know what the token holds")

    @staticmethod
    def _refusal(wanted: str) -> ConfigurationError:
        return ConfigurationError(
            f"The hook wanted to {wanted}, but this context has no HTTP session.",
            hint="Pass fake_context(http=…) a session, for instance one from samband.testing.connect.",
        )


def fake_context(
    *,
    settings: Any = None,
    credentials: Any = None,
    http: HttpSession | None = None,
    now: Callable[[], datetime] | None = None,
    log: FakeLog | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    organization_id: str = "test-organization",
    integration_id: str = "test-integration",
    run_id: str | None = "test-run",
) -> Context:
    """Gives a context for calling one hook or one of its functions directly.

    What is left out is a stand-in: a clock that stands still, a logger and a progress recorder that only keep what they
    are told, and a session that refuses to send.
    """
    return Context(
        organization_id=organization_id,
        integration_id=integration_id,
        run_id=run_id,
        settings=settings,
        credentials=credentials,
        http=http or _NoNetwork(),
        now=now or FakeClock().now,
        log=log or FakeLog(),
        progress=progress or ProgressRecorder(),
    )
