"""What of exports waits for a person is told once, with its number, and closes by itself when it is dealt with."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from samband.caretaker import Caretaker
from samband.store import Store
from samband.store.models import Correction
from samband.store.unfinished import unfinished_statement

from .booking import ORG, Books, Desk, ago, claim

_correction: sa.Table = Correction.__table__


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk.around(store, Books())


async def alerts(desk: Desk, **settings: Any) -> dict[str, int]:
    """Gives kind → number of the alerts that are open after a look."""
    await Caretaker(store=desk.store, registry=desk.registry, **settings).look_after(ORG)
    page = await desk.service.health.alerts(ORG)
    return {alert.kind: alert.data.get("items") or alert.data.get("corrections") for alert in page.items}


async def told(desk: Desk) -> list[tuple[str, str]]:
    rows = (await desk.store.events.after(ORG, 0, limit=500)).rows
    return [(row.type.split(".")[3], row.data["kind"]) for row in rows if ".alert." in row.type]


async def export(desk: Desk, *claims: str) -> None:
    await desk.connect(*claims)
    await desk.work((await desk.service.exports.order(ORG)).run)


async def key(desk: Desk, name: str) -> str:
    return (await desk.items())[name].key


async def test_refused_items_are_one_alert_until_each_claim_is_told_anew_or_taken_again(desk: Desk) -> None:
    desk.books.deed = lambda item: "refuse"
    await export(desk, "c-1", "c-2")
    assert {"export_refused": 2} == await alerts(desk)
    await desk.put("c-1", lines=claim("99.00")["lines"])
    assert {"export_refused": 1} == await alerts(desk)
    desk.books.deed = lambda item: None
    await desk.work((await desk.service.exports.order(ORG, ids=["c-2"])).run)
    assert {} == await alerts(desk)
    assert [("opened", "export_refused"), ("closed", "export_refused")] == await told(desk)


async def test_item_that_lies_there_refused_is_told_until_it_is_booked(desk: Desk) -> None:
    await export(desk, "c-1")
    item = await key(desk, "c-1/1")
    await desk.change(item, code="cost_centre", message="Kari Nordmann has no cost centre.")
    assert {"export_stuck": 1} == await alerts(desk)
    (alert,) = (await desk.service.health.alerts(ORG)).items
    assert "Kari" not in alert.model_dump_json()
    await desk.change(item, state="posted", code=None)
    assert {} == await alerts(desk)


async def test_accepted_item_is_told_when_it_is_not_booked_for_days(desk: Desk) -> None:
    await export(desk, "c-1", "c-2")
    item = await key(desk, "c-1/1")
    await desk.change(item, accepted_at=ago(days=8))
    assert {"export_unposted": 1} == await alerts(desk)
    assert {} == await alerts(desk, unposted_after_days=9.0)
    assert {"export_unposted": 1} == await alerts(desk)
    await desk.change(item, state="posted")
    assert {} == await alerts(desk)


@pytest.mark.parametrize(
    ("route", "further", "expected"),
    [
        ("api", {"find_exported"}, {"export_unposted": 1}),
        ("file", {"find_exported"}, {"export_unposted": 1}),
        ("api", {"acknowledge", "render"}, {}),
        ("file", {"acknowledge", "render"}, {"export_unposted": 1}),
        ("download", {"render"}, {}),
    ],
)
async def test_nobody_is_told_to_wait_for_an_answer_that_never_comes(
    desk: Desk, route: str, further: set[str], expected: dict[str, int]
) -> None:
    await export(desk, "c-1")
    await desk.change(await key(desk, "c-1/1"), accepted_at=ago(days=8), route=route)
    (observed,) = await desk.store.conditions.of_organization(ORG, stalled_before=ago(hours=1))
    exports = observed.exports.told_by({"export", *further})
    assert sum(expected.values()) == exports.unposted + exports.unposted_files


async def correct(desk: Desk) -> str:
    """Gives a correction that waits for a person."""
    await export(desk, "c-1")
    desk.books.post()
    await desk.change(await key(desk, "c-1/1"), state="posted")
    await desk.put("c-1", lines=claim("99.00")["lines"])
    (correction,) = (await desk.service.reimbursements.corrections(ORG)).items
    return str(correction.id)


@pytest.mark.parametrize(
    "left", [{"state": "rejected"}, {"state": "released"}, {"state": "accepted", "code": "period"}]
)
async def test_correction_whose_reversal_is_stuck_is_told_until_it_is_agreed_to_again(
    desk: Desk, left: dict[str, Any]
) -> None:
    correction = await correct(desk)
    await desk.service.reimbursements.approve_correction(ORG, correction)
    assert {} == await alerts(desk)
    await desk.change(await key(desk, "c-1/2"), **left)
    stuck = {"export_stuck": 1} if left["state"] == "accepted" else {}
    assert {"correction_stuck": 1, **stuck} == await alerts(desk)
    await desk.change(await key(desk, "c-1/2"), state="rejected", code=None)
    await desk.service.reimbursements.approve_correction(ORG, correction)
    assert {} == await alerts(desk)


async def test_correction_that_waits_for_longer_than_a_day_is_told(desk: Desk) -> None:
    correction = await correct(desk)
    assert {} == await alerts(desk)
    async with desk.store.database.write() as conn:
        await conn.execute(sa.update(_correction).values(created_at=ago(hours=25)))
    assert {"correction_waiting": 1} == await alerts(desk)
    await desk.service.reimbursements.dismiss_correction(ORG, correction, reason="It was right.")
    assert {} == await alerts(desk)


async def test_only_items_in_the_states_asked_for_are_read(desk: Desk) -> None:
    await export(desk, "c-1")
    statement = unfinished_statement(ORG, ago(days=7))
    dialect = desk.store.database.engine.dialect
    written = statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    async with desk.store.database.write() as conn:
        if desk.store.database.is_sqlite:
            plan = [str(step.detail) for step in await conn.execute(sa.text(f"EXPLAIN QUERY PLAN {written}"))]
        else:
            await conn.execute(sa.text("SET LOCAL enable_seqscan = off"))  # of few rows all are read at once
            plan = list(await conn.scalars(sa.text(f"EXPLAIN {written}")))
    assert not [step for step in plan if "SCAN export_item" in step or "Seq Scan on export_item" in step]
    assert [step for step in plan if "ix_export_item_state" in step]
