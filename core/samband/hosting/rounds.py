"""Which duties a worker process has; what each one does is in the module it is taken from."""

from __future__ import annotations

import datetime as dt
import os
import socket

from samband.adapters.registry import Registry
from samband.caretaker import Caretaker
from samband.charts import ChartReader
from samband.events import Dispatcher, Teller, sweep_events
from samband.flow.following import FollowingUp
from samband.hosting.duties import Duty
from samband.http import Outbound
from samband.http.posting import Poster
from samband.queue import Doorbell
from samband.receiving import HandingOver
from samband.redaction import Redactor
from samband.scheduler import Scheduler
from samband.settings import HostSettings
from samband.store import Store

__all__ = ["duties"]


def duties(
    settings: HostSettings, store: Store, registry: Registry, bell: Doorbell, outbound: Outbound, redactor: Redactor
) -> list[Duty]:
    """Gives what a worker process does by itself besides executing runs.

    Args:
        outbound: The way to subscribers; closed by whoever opened it.
    """
    scheduler = Scheduler(store=store, registry=registry, bell=bell, owner=f"{socket.gethostname()}/{os.getpid()}")
    caretaker = Caretaker(
        store=store, registry=registry, probe_every_s=settings.probe_every_s, stall_after_s=settings.stall_after_s,
        unposted_after_days=settings.unposted_after_days, webhooks=store.inbox.judged,
    )  # fmt: skip
    return [
        Duty(name="schedules", work=scheduler.round),
        Duty(name="overdue schedules", work=scheduler.watch),
        Duty(name="probes", work=caretaker.probe_round),
        Duty(name="alerts", work=caretaker.alert_round),
        Duty(name="charts of accounts", work=ChartReader(store=store, registry=registry).round),
        Duty(name="follow-ups of exports", work=_following(settings, store, registry, bell).round),
        *_delivery_duties(settings, store, registry, bell),
        *_event_duties(settings, store, registry, outbound, redactor),
        Duty(name="kept answers", work=store.sweep_answers),
        Duty(name="dry runs", work=store.sweep_differences),
    ]


def _following(settings: HostSettings, store: Store, registry: Registry, bell: Doorbell) -> FollowingUp:
    return FollowingUp(
        store=store, registry=registry, bell=bell, steps_s=settings.follow_up_steps_s,
        up_to_days=settings.follow_up_days, every_s=settings.follow_up_every_s,
    )  # fmt: skip


def _delivery_duties(settings: HostSettings, store: Store, registry: Registry, bell: Doorbell) -> list[Duty]:
    """Gives what turns webhook deliveries into runs, and empties old ones."""
    handing_over = HandingOver(store=store, registry=registry, bell=bell, keep_days=settings.webhook_keep_days)
    return [
        Duty(name="deliveries", work=handing_over.round),
        Duty(name="old deliveries", work=handing_over.sweep),
    ]


def _event_duties(
    settings: HostSettings, store: Store, registry: Registry, outbound: Outbound, redactor: Redactor
) -> list[Duty]:
    """Gives what brings events out: to subscribers, to plugins, and out of the way when they are old."""
    dispatcher = Dispatcher(store=store, poster=Poster(outbound), public_url=settings.public_url, redactor=redactor)

    async def sweep() -> float:
        return await sweep_events(
            store,
            keep_events=dt.timedelta(days=settings.event_retention_days),
            keep_deliveries=dt.timedelta(days=settings.delivery_retention_days),
        )

    return [
        Duty(name="events to subscribers", work=dispatcher.run),
        Duty(name="events to plugins", work=Teller(store=store, registry=registry).round),
        Duty(name="old events", work=sweep),
    ]
