"""Events on their way out: to every subscriber, each at its own pace, and to the plugins of this process.

A subscriber hears of everything at least once, in order per subject, from the outbox that was written with the change.
Several processes may do this side by side: a delivery is taken under a lease, and one that a killed process had taken
comes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import enum
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import structlog

from samband.acting import act_for
from samband.adapters.registry import Registry
from samband.contract import Event
from samband.errors import NotReadyError, StoreError
from samband.eventtypes import schema_path
from samband.http.posting import POST_TIMEOUT_S, Posted, Poster, signed_headers
from samband.redaction import Redactor
from samband.store import Store
from samband.store.deliveries import Delivery, Failure
from samband.store.models import Outbox, Subscription
from samband.views.events import event_view

__all__ = ["MAX_ATTEMPTS", "RETRY_AFTER_S", "DispatchLimits", "Dispatcher", "Teller", "retry_delay_s", "sweep_events"]

log = structlog.stdlib.get_logger("samband.events")

_MINUTE, _HOUR = 60.0, 3600.0
RETRY_AFTER_S: Final = (
    4.0, 30.0, 2 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE, _HOUR, 2 * _HOUR, 4 * _HOUR, 6 * _HOUR, 8 * _HOUR, 10 * _HOUR,
)  # fmt: skip
"""Pauses after the first, second … failed attempt, each varied by a fifth either way: 25 to 38 hours in all."""
MAX_ATTEMPTS: Final = len(RETRY_AFTER_S) + 1

_JITTER: Final = 0.2
_FAILURES_BEFORE_PAUSING: Final = 3
_LONGEST_PAUSE_S: Final = 60.0
_REMEMBERED_FOR: Final = dt.timedelta(days=1)
_TOLD_AT_ONCE: Final = 50
_IDLE_S: Final = 0.5
_TROUBLED_S: Final = 5.0
_SWEEP_EVERY_S: Final = 600.0


def retry_delay_s(attempt: int, chance: float) -> float | None:
    """Gives the pause after the ``attempt``-th attempt, counted from 1, or None after the last one.

    Args:
        chance: In [0, 1), spreads it by ± 20 %.
    """
    if attempt >= MAX_ATTEMPTS:
        return None
    return RETRY_AFTER_S[attempt - 1] * (1 - _JITTER + 2 * _JITTER * chance)


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchLimits:
    """How much one process sends at once, and when a receiver is given up.

    Attributes:
        per_receiver: Deliveries to one subscription at once whose last attempt succeeded; any other gets one.
        per_organization: Deliveries to the subscriptions of one organisation.
        at_once: Deliveries in all. What part of these two is open to whom: see `_SHARES`.
        lease_s: How long a delivery is this process's; must outlast one attempt.
        failing_for: A subscription without one success for so long is switched off.
        exhausted_in_row: So is one that so many deliveries in a row were given up for.
    """

    per_receiver: int = 4
    per_organization: int = 64
    at_once: int = 256
    lease_s: float = POST_TIMEOUT_S + 30.0
    failing_for: dt.timedelta = dt.timedelta(days=5)
    exhausted_in_row: int = 10


class _Standing(enum.Enum):
    """What came of the last attempt at a receiver, as far as this process knows."""

    PROVEN = enum.auto()
    UNTRIED = enum.auto()
    FAILING = enum.auto()


@dataclass(slots=True)
class _Pace:
    """How fast one receiver is sent to by this process."""

    organization_id: str
    in_flight: int = 0
    failures: int = 0
    standing: _Standing = _Standing.UNTRIED
    not_before: dt.datetime | None = None
    noted_at: dt.datetime | None = None

    def room(self, now: dt.datetime, most: int) -> int:
        if self.not_before is not None and now < self.not_before:
            return 0
        return (most if self.standing is _Standing.PROVEN else 1) - self.in_flight

    def note(self, posted: Posted, now: dt.datetime) -> None:
        self.noted_at = now
        if posted.is_success:
            self.failures, self.not_before, self.standing = 0, None, _Standing.PROVEN
            return
        self.failures += 1
        self.standing = _Standing.FAILING
        beyond = self.failures - _FAILURES_BEFORE_PAUSING
        pause_s = min(_LONGEST_PAUSE_S, 2.0 ** min(beyond, 10)) if beyond >= 0 else 0.0
        pause_s = max(pause_s, posted.pause_s or 0.0)
        self.not_before = now + dt.timedelta(seconds=pause_s)


_SHARES: Final = {"any": 1, "beyond_first": 2, "unproven": 2, "failing": 4}
"""Into how many parts the slots are divided, of which deliveries of a kind may use one.

A receiver that hangs keeps its slot until the time-out. So half of them is kept for receivers whose last attempt succeeded,
another quarter for those that were not tried yet, and half for a first delivery to somebody who has none on its way.
"""


class _Slots:
    """Counts what is on its way, in all and for each organisation, and tells where there is room for more."""

    def __init__(self, limits: DispatchLimits, paces: Iterable[_Pace]) -> None:
        self._limits = limits
        self._used: Counter[tuple[str, str]] = Counter()
        for pace in paces:
            for nth in range(pace.in_flight):
                self.take(pace, nth)

    def of_organization(self, id: str) -> int:
        return self._used[id, "any"]

    def has_room(self, pace: _Pace, nth: int) -> bool:
        """Tells whether a receiver may be sent one more when ``nth`` are on their way to it."""
        most = {"": self._limits.at_once, pace.organization_id: self._limits.per_organization}
        kinds = self._kinds(pace, nth)
        return all(
            self._used[owner, kind] < max(1, number // _SHARES[kind])
            for owner, number in most.items()
            for kind in kinds
        )

    def take(self, pace: _Pace, nth: int) -> None:
        for kind in self._kinds(pace, nth):
            self._used["", kind] += 1
            self._used[pace.organization_id, kind] += 1

    @staticmethod
    def _kinds(pace: _Pace, nth: int) -> list[str]:
        kinds = ["any"]
        if nth > 0:
            kinds.append("beyond_first")
        if pace.standing is not _Standing.PROVEN:
            kinds.append("unproven")
        if pace.standing is _Standing.FAILING:
            kinds.append("failing")
        return kinds


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass(slots=True)
class Dispatcher:
    """Makes deliveries of new events and attempts those that are due.

    Attributes:
        store: Where everything is.
        poster: The one way out.
        public_url: Where the world reaches the host; makes ``dataschema`` absolute.
        redactor: Learns the signing secrets.
        limits: See `DispatchLimits`.
        now: The clock, aware UTC.
        rng: Chance in [0, 1), for jitter.
    """

    store: Store
    poster: Poster
    public_url: str = ""
    redactor: Redactor = field(default_factory=Redactor)
    limits: DispatchLimits = field(default_factory=DispatchLimits)
    now: Callable[[], dt.datetime] = _utc_now
    rng: Callable[[], float] = random.random
    _paces: dict[str, _Pace] = field(default_factory=dict)
    _freed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> float:
        """Works until it is cancelled. What is being sent then comes again when its lease runs out."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._freed.clear()
                try:
                    is_busy = await self._round(group)
                except NotReadyError as error:
                    # What is on its way goes on: cutting it off would only send it twice.
                    log.warning("dispatch_interrupted", code=error.code)
                    await asyncio.sleep(_TROUBLED_S)
                    continue
                if not is_busy:
                    await self._pause()

    async def deliver_due(self) -> bool:
        """Does one round and waits for its deliveries; True when there was something to do."""
        async with asyncio.TaskGroup() as group:
            return await self._round(group)

    async def _pause(self) -> None:
        """Waits a moment, or until a delivery has ended and made room for the next of its subject."""
        # Not asyncio.wait_for: in Python 3.11 it swallows a cancellation that comes together with the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_S):
                await self._freed.wait()

    async def _round(self, group: asyncio.TaskGroup) -> bool:
        is_more = await self.store.fan_out.advance(self.now())
        is_full = sum(pace.in_flight for pace in self._paces.values()) >= self.limits.at_once
        receivers = {} if is_full else await self._ready()
        claimed = []
        if receivers:
            wanted = {id: most for id, (_, _, most) in receivers.items()}
            claimed = await self.store.deliveries.claim(wanted, self.now(), lease_s=self.limits.lease_s)
        for delivery in claimed:
            subscription, secrets, _ = receivers[delivery.subscription_id]
            self._pace(subscription).in_flight += 1
            group.create_task(self._deliver(subscription, secrets, delivery))
        return is_more or bool(claimed)

    async def _ready(self) -> dict[str, tuple[Subscription, list[str], int]]:
        """Gives the receivers to send to now, with their secrets and how many deliveries each may get."""
        now = self.now()
        due = await self.store.deliveries.receivers(now)
        self._forget_idle({subscription.id for subscription in due}, now)
        for subscription in due:
            if subscription.failing_since is not None:  # also when it was another process that it failed
                self._pace(subscription).standing = _Standing.FAILING
        slots = _Slots(self.limits, self._paces.values())
        chosen: dict[str, tuple[Subscription, list[str], int]] = {}
        for subscription, nth in self._turns(due, slots, now):
            pace = self._pace(subscription)
            if not slots.has_room(pace, nth):
                continue
            is_first = nth == pace.in_flight
            secrets = self._secrets(subscription, now) if is_first else chosen.get(subscription.id, (None, []))[1]
            if secrets:
                chosen[subscription.id] = (subscription, secrets, nth + 1 - pace.in_flight)
                slots.take(pace, nth)
        return chosen

    def _turns(self, due: list[Subscription], slots: _Slots, now: dt.datetime) -> Iterator[tuple[Subscription, int]]:
        """Gives who may ask for a slot, in turn, with how many deliveries are on their way to it by then.

        Whoever has none on its way comes before anybody gets a second one. Among them the organisation with the least
        on its way comes first, and chance decides within one: nobody is always the last.
        """
        asked: Counter[tuple[str, int]] = Counter()
        turns: list[tuple[int, int, Subscription]] = []
        for subscription in sorted(due, key=lambda subscription: self.rng()):
            pace, org = self._pace(subscription), subscription.organization_id
            for nth in range(pace.in_flight, pace.in_flight + pace.room(now, self.limits.per_receiver)):
                turns.append((nth, slots.of_organization(org) + asked[org, nth], subscription))
                asked[org, nth] += 1
        turns.sort(key=lambda turn: turn[:2])
        return ((subscription, nth) for nth, _, subscription in turns)

    def _secrets(self, subscription: Subscription, now: dt.datetime) -> list[str]:
        try:
            secrets = self.store.subscriptions.secrets(subscription, now)
        except StoreError as error:
            # No attempt is spent on it: it goes on as soon as the key is back.
            log.error("subscription_unsigned", subscription=subscription.id, code=error.code, reason=error.message)
            return []
        for secret in secrets:
            self.redactor.add(secret)
        return secrets

    def _pace(self, subscription: Subscription) -> _Pace:
        return self._paces.setdefault(subscription.id, _Pace(subscription.organization_id))

    def _forget_idle(self, due: set[str], now: dt.datetime) -> None:
        for id, pace in list(self._paces.items()):
            is_remembered = pace.noted_at is not None and now < pace.noted_at + _REMEMBERED_FOR
            if id not in due and not pace.in_flight and not is_remembered:
                del self._paces[id]

    async def _deliver(self, subscription: Subscription, secrets: list[str], delivery: Delivery) -> None:
        pace = self._pace(subscription)
        try:
            body = envelope(delivery.event, self.public_url)
            headers = signed_headers(id=delivery.event.event_id, at=self.now(), body=body, secrets=secrets)
            headers |= {"Content-Type": "application/cloudevents+json", "Samband-Attempt": str(delivery.number)}
            if delivery.is_replay:
                headers["Samband-Replay"] = "true"
            posted = await self.poster.post(subscription.url, body, headers)
            pace.note(posted, self.now())
            await self._settle(delivery, posted)
        except NotReadyError as error:
            log.warning("delivery_unsettled", delivery=delivery.id, code=error.code)  # its lease brings it back
        except Exception:
            log.exception("delivery_failed", delivery=delivery.id)  # one delivery's trouble is no other's
        finally:
            pace.in_flight -= 1
            self._freed.set()

    async def _settle(self, delivery: Delivery, posted: Posted) -> None:
        now = self.now()
        with act_for(organization=delivery.organization_id, actor="samband dispatcher"):
            if posted.is_success:
                await self.store.deliveries.note_success(
                    delivery, now, status=posted.status or 0, duration_ms=posted.duration_ms
                )
                return
            failure = self._failure(delivery, posted, now)
            reason = await self.store.deliveries.note_failure(
                delivery, now, failure, status=posted.status, duration_ms=posted.duration_ms
            )
        told = {"subscription": delivery.subscription_id, "event_id": delivery.event.event_id, "error": posted.error}
        log.info("delivery_refused", **told, status=posted.status, attempt=delivery.number)
        if reason is not None:
            log.warning("subscription_disabled", **told, reason=reason)

    def _failure(self, delivery: Delivery, posted: Posted, now: dt.datetime) -> Failure:
        delay_s = retry_delay_s(delivery.number, self.rng())
        retry_at = None if delay_s is None else now + dt.timedelta(seconds=max(delay_s, posted.pause_s or 0.0))
        return Failure(
            error=posted.error, retry_at=retry_at, switch_off="gone" if posted.status == 410 else None,
            failing_limit=self.limits.failing_for, exhausted_limit=self.limits.exhausted_in_row,
        )  # fmt: skip


def envelope(event: Outbox, public_url: str) -> bytes:
    """Gives the document that is sent for an event: the same bytes at every attempt."""
    return event_view(
        id=event.event_id, organization_id=event.organization_id, type=event.type, subject=event.subject,
        at=event.created_at, data=event.data, seq=event.seq, public_url=public_url, schema_path=schema_path(event.type),
    ).document()  # fmt: skip


@dataclass(slots=True)
class Teller:
    """Tells the plugins what was committed, in order per organisation.

    Attributes:
        store: Keeps how far they have heard.
        registry: Tells each plugin; one that fails is logged by name and stops neither the others nor the feed.
    """

    store: Store
    registry: Registry

    async def round(self) -> float:
        """Tells what is new and gives the seconds until the next round. An event may be told twice, never skipped."""
        is_more = False
        for organization_id, told in await self.store.events.untold(limit=500):
            with act_for(organization=organization_id, actor="samband dispatcher"):
                is_more = await self._tell(organization_id, told) or is_more
        return 0.0 if is_more else _IDLE_S * (1 + random.random())  # noqa: S311  # spreads processes apart

    async def _tell(self, organization_id: str, told: int) -> bool:
        read = await self.store.events.after(organization_id, told, limit=_TOLD_AT_ONCE)
        for row in read.rows:
            await self.registry.broadcast(
                Event(
                    id=row.event_id, type=row.type, organization_id=organization_id, subject=row.subject,
                    time=row.created_at, data=row.data,
                )
            )  # fmt: skip
        upto = read.rows[-1].seq if read.rows else read.newest
        # Another process that tells the same ones at this moment goes on alone; this one looks again later.
        return await self.store.events.note_told(organization_id, told, upto) and upto < read.newest


async def sweep_events(
    store: Store, *, keep_events: dt.timedelta, keep_deliveries: dt.timedelta, now: Callable[[], dt.datetime] = _utc_now
) -> float:
    """Forgets events and deliveries that are older than they have to be kept, and gives the seconds to the next time."""
    at = now()
    deliveries = await store.deliveries.sweep(at - keep_deliveries)
    events = await store.events.sweep(at - keep_events, at)
    if events or deliveries:
        log.info("events_swept", events=events, deliveries=deliveries)
    return _SWEEP_EVERY_S
