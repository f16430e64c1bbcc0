"""A reversal bears a day by the rule that dates bookings: in a closed period it waits, or goes on, as the mapping says."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from samband.errors import ConflictError
from samband.rules.schedule import DEFAULT_ZONE, to_local
from samband.store import Store
from samband.store.models import ChartCopy

from .booking import MAPPING, ORG, PLUGIN, Books, Desk, claim

MONTH, DAY = dt.timedelta(days=32), dt.timedelta(days=1)


@pytest.fixture
async def desk(store: Store) -> Desk:
    """A claim that is booked, with a change to it that waits for a person."""
    desk = Desk.around(store, Books())
    await desk.connect("c-1")
    ordered = await desk.service.exports.order(ORG)
    await desk.work(ordered.run)
    desk.books.post()
    await desk.change((await desk.items())["c-1/1"].key, state="posted")
    await desk.put("c-1", lines=claim("99.00")["lines"])
    return desk


def today() -> dt.date:
    return dt.date.fromisoformat(to_local(dt.datetime.now(dt.UTC), DEFAULT_ZONE)[:10])


def month(day: dt.date, *, is_open: bool) -> list[Any]:
    first = day.replace(day=1)
    last = (first + MONTH).replace(day=1) - DAY
    return [first.isoformat(), last.isoformat(), is_open]


async def read_periods(desk: Desk, periods: Sequence[Any]) -> None:
    integration, now = await desk.integration(), dt.datetime.now(dt.UTC)
    body = {"accounts": [], "dimensions": [], "tax_rules": [], "periods": list(periods)}
    row = {
        "integration_id": integration.id, "organization_id": ORG, "body": body, "findings": {}, "read_at": now,
        "next_read_at": now,
    }  # fmt: skip
    table: sa.Table = ChartCopy.__table__
    async with desk.store.database.write() as conn:
        await conn.execute(sa.delete(table).where(table.c.integration_id == integration.id))
        await conn.execute(sa.insert(table).values(**row))


async def agree(desk: Desk) -> Any:
    (correction,) = (await desk.service.reimbursements.corrections(ORG)).items
    return await desk.service.reimbursements.approve_correction(ORG, correction.id, reason="Misread.")


async def let_pass(desk: Desk, **changes: Any) -> None:
    await desk.service.mappings.put(ORG, PLUGIN, mapping={**MAPPING, "closed_period": "next_open", **changes})


async def test_reversal_in_an_open_period_bears_the_day_it_is_agreed_on(desk: Desk) -> None:
    await read_periods(desk, [month(today(), is_open=True)])
    await agree(desk)
    assert f"{today():%Y-%m}" == (await desk.items())["c-1/2"].period


async def test_reversal_in_a_closed_period_bears_the_first_day_of_the_next_open_one(desk: Desk) -> None:
    await let_pass(desk)
    next_month = today().replace(day=1) + MONTH
    await read_periods(desk, [month(today(), is_open=False), month(next_month, is_open=True)])
    await agree(desk)
    assert f"{next_month:%Y-%m}" == (await desk.items())["c-1/2"].period


async def test_mapping_that_says_to_wait_refuses_the_approval_and_changes_nothing(desk: Desk) -> None:
    await read_periods(desk, [month(today(), is_open=False), month(today().replace(day=1) + MONTH, is_open=True)])
    before = await desk.service.reimbursements.get(ORG, "c-1")
    with pytest.raises(ConflictError) as caught:
        await agree(desk)
    assert "period_closed" == caught.value.code
    assert f"{today():%Y-%m}" in caught.value.message
    assert "next_open" in (caught.value.hint or "")
    (correction,) = (await desk.service.reimbursements.corrections(ORG)).items
    assert ("proposed", None) == (correction.state, correction.reversal)
    assert before == await desk.service.reimbursements.get(ORG, "c-1")
    assert {"c-1/1": "posted"} == await desk.states()
    await read_periods(desk, [month(today(), is_open=True)])
    assert "approved" == (await agree(desk)).state


@pytest.mark.parametrize("later", [[], [month(today() + dt.timedelta(days=120), is_open=True)]])
async def test_approval_is_refused_when_no_period_near_is_open(desk: Desk, later: list[Any]) -> None:
    await let_pass(desk)
    await read_periods(desk, [month(today(), is_open=False), *later])
    with pytest.raises(ConflictError) as caught:
        await agree(desk)
    assert "period_closed" == caught.value.code
    assert {"c-1/1": "posted"} == await desk.states()


async def test_reversal_is_never_dated_before_what_it_takes_back(desk: Desk) -> None:
    ahead = today().replace(day=1) + MONTH
    item = (await desk.items())["c-1/1"]
    async with desk.store.database.write() as conn:
        table = sa.table("export_item", sa.column("key"), sa.column("voucher", sa.JSON))
        kept = await conn.scalar(sa.select(table.c.voucher).where(table.c.key == item.key))
    await desk.change(item.key, voucher={**kept, "date": ahead.isoformat()})
    await read_periods(desk, [month(today(), is_open=True), month(ahead, is_open=True)])
    await agree(desk)
    assert f"{ahead:%Y-%m}" == (await desk.items())["c-1/2"].period
