"""A schedule reads an integration by itself: from the stored time to records, through a worker process."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

from samband.store.models import Schedule

from .conftest import Hosts, Simulator, until


async def test_scheduled_sync_is_done_by_whoever_works(hosts: Hosts, simulator: Simulator) -> None:
    await hosts.connect(simulator)
    await hosts.service.schedule_sync("hlf", "dynamics365", cron="30 2 * * *")
    table: Any = Schedule.__table__
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    async with hosts.store.database.write() as conn:
        await conn.execute(sa.update(table).values(next_planned_at=now, next_at=now))
    for _ in range(2):
        hosts.start_worker()

    async def is_done() -> bool:
        view = await hosts.service.schedules.get("hlf", "dynamics365")
        return view.last_occurrence is not None and view.last_occurrence.run_state == "succeeded"

    await until(is_done)
    page = await hosts.service.schedules.occurrences("hlf", "dynamics365")
    (run,) = (await hosts.service.runs.page("hlf")).items
    assert ([(now, run.id)], "schedule", "schedule:default") == (
        [(o.planned_at, o.run) for o in page.items], run.reason, run.requested_by
    )  # fmt: skip
    view = await hosts.service.schedules.get("hlf", "dynamics365")
    assert (now, False) == (view.last_success_planned_at, view.is_overdue)
    assert await hosts.store.signs.age("scheduler") is not None
