"""Reserving: claims become items of the export ledger, each with its key, its voucher and the voucher's number.

All of an order is decided and written in one transaction, behind a lock of the organisation's: two orders that overlap
are served one after the other, and the second one finds what the first has taken.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import AlreadyRunningError, ConflictError
from samband.outgoing import ChartPeriod, Voucher
from samband.rules.making import Making, demand_no_gap, good, without_unpostable
from samband.rules.mapping import gaps
from samband.rules.posting import from_row, reversal_of, to_row
from samband.rules.selecting import LIVE_STATES, Choice, Claim, Scope, choose, item_key
from samband.store import audit, columns
from samband.store.charts import periods_in
from samband.store.database import Database
from samband.store.mappings import active_in
from samband.store.models import ExportItem, Integration, Reimbursement, Run
from samband.store.numbering import voucher_numbers
from samband.store.outbox import emit
from samband.store.reversals import day_of_reversal
from samband.store.runs import Runs
from samband.store.turns import one_at_a_time

_item: sa.Table = ExportItem.__table__
_claim: sa.Table = Reimbursement.__table__
_run: sa.Table = Run.__table__

MAX_CLAIMS: Final = 10_000
"""Claims that one order takes at most; the rest stays approved for the next one."""
UNSETTLED: Final = "outcome_unsettled"
"""Why a run waits that has sent everything and does not know of all of it whether it arrived."""
FOLLOW_UP: Final = "follow_up"
"""The reason of a run that was ordered to find out what became of items."""

_WRITTEN_AT_ONCE: Final = 250
_NOT_OVER: Final = ("queued", "running", "waiting", "held")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody wants to be sent.

    Attributes:
        scope: Which claims.
        stream: Where they go.
        posts: Whether that takes vouchers; otherwise it takes the claims themselves.
        route: The way that they must go; None leaves it to the plugin.
        today: By the calendar of the books.
    """

    scope: Scope
    stream: str
    posts: bool
    plugin_version: str
    account: str
    reason: str
    requested_by: str
    today: dt.date
    route: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an order comes to.

    Attributes:
        vouchers: Claim → its voucher; empty when the claims themselves are sent.
        keys: Claim → its item's key.
        periods: What the vouchers' dates were held against.
    """

    choice: Choice
    vouchers: Mapping[str, Voucher] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    mapping_version: int | None = None
    periods: Sequence[ChartPeriod] | None = None


class Reserving:
    """Every statement that makes items."""

    def __init__(self, database: Database, runs: Runs) -> None:
        self._db = database
        self._runs = runs

    async def preview(self, integration: Integration, order: Order) -> Plan:
        """Gives what an order would come to now; writes nothing.

        Raises:
            ConflictError: As `reserve`.
        """
        async with self._db.read() as conn:
            return await self._planned(conn, integration, order)

    async def reserve(self, integration: Integration, order: Order) -> tuple[Run | None, Plan]:
        """Reserves what can go out and orders the run that sends it, in one transaction.

        Gives no run when there is nothing to send. Two orders that overlap never take the same claim: they are served one
        after the other, and the partial unique index stands behind that. A run that only waits, or that follows earlier
        items up, is in nobody's way: what is reserved goes out with it.

        Raises:
            AlreadyRunningError: An export of the integration is still alive; nothing was reserved.
            ConflictError: There is no mapping (`mapping_missing`), it has gaps (`mapping_gap`), or of the claims in scope
                none can be booked (`nothing_postable`).
        """
        org = integration.organization_id
        # Ten thousand vouchers take a second to make, which nobody else's writing should wait for.
        draft = await self.preview(integration, order) if order.posts else None
        async with self._db.write() as conn:
            await one_at_a_time(conn, org)
            plan = await self._planned(conn, integration, order, draft)
            run: Run | None = None
            if plan.choice.taken or await self._has_waiting(conn, integration.id):
                run = await self._ordered(conn, integration, order, len(plan.choice.taken))
                await self._add(conn, integration, order, plan, run.id)
            await self._note(conn, integration, order, plan, run)
        return run, plan

    async def again(self, integration: Integration, order: Order, claim_id: str, *, reason: str) -> tuple[Run, Plan]:
        """Gives up on a claim's item and reserves the claim once more, under a new key and number.

        Raises:
            ConflictError: It is not exported (`not_exported`), is being sent (`still_sending`), lies at the other side and
                is booked when it is mended there (`lies_there_still`), is not approved (`not_approved`), is being reversed
                (`correction_under_way`), or cannot be booked.
            AlreadyRunningError: An export of the integration is still alive.
        """
        org = integration.organization_id
        async with self._db.write() as conn:
            await one_at_a_time(conn, org)
            old = await self._given_up(conn, org, claim_id, reason)
            plan = await self._planned(conn, integration, order)
            if plan.choice.skipped:
                raise ConflictError(
                    "The reimbursement is not approved as it is now.", code="not_approved",
                    hint="Tell it again as approved, then export it.",
                )  # fmt: skip
            run = await self._ordered(conn, integration, order, 1)
            await self._add(conn, integration, order, plan, run.id)
            told = {"item": old.key, "was": old.state, "by": plan.keys[claim_id], "run": run.id}
            detail = {**told, "reason": audit.bounded(reason)}
            await audit.record(conn, org, "export.repeated", f"reimbursement/{claim_id}", detail)
            data = {
                "key": old.key, "reimbursement": claim_id, "version": old.version, "state": "superseded",
                "integration": old.integration_id, "run": run.id,
            }  # fmt: skip
            await emit(conn, org, "no.samband.export.superseded.v1", f"reimbursement/{claim_id}", data)
        return run, plan

    async def reverse_in(self, conn: AsyncConnection, item: ExportItem, *, reason: str) -> ExportItem:
        """Reserves the item that takes another one's voucher back, in the caller's transaction; see `one_at_a_time`.

        It belongs to no run yet: the next order or follow-up of the integration sends it, once it is known that what it
        takes back is booked; the other side is asked about that as soon as possible.

        Raises:
            ConflictError: It carried no voucher, so there is nothing that could be turned around
                (`reversal_unsupported`), or no period is open that it could be booked in (`period_closed`).
        """
        if item.voucher is None:
            raise ConflictError(
                "What was exported is no voucher, and cannot be reversed by samband.", code="reversal_unsupported",
                hint="Reverse it in the other system, then resolve the item here.",
            )  # fmt: skip
        org, taken_back = item.organization_id, from_row(item.key, item.voucher)
        date = await day_of_reversal(conn, item.integration_id, taken_back)
        number = await self._exports_of(conn, org, item.reimbursement_id) + 1
        key = item_key(org, item.integration_id, item.reimbursement_id, number)
        numbers = await voucher_numbers(conn, item.integration_id, [key])
        voucher = reversal_of(taken_back, key=key, number=numbers[key], date=date)
        row = ExportItem(
            **_row(item.integration_id, org, item.reimbursement_id, item.version, number, item.stream, None)
            | _voucher_columns(voucher)
            | {"key": key, "purpose": "reversal", "reverses": item.key, "reason": audit.bounded(reason)}
        )  # fmt: skip
        await conn.execute(sa.insert(_item).values(**row.model_dump()))
        await conn.execute(sa.update(_item).where(_item.c.key == item.key).values(looked_up_at=None))
        return row

    # ── deciding ─────────────────────────────────────────────────────────────

    async def _planned(
        self, conn: AsyncConnection, integration: Integration, order: Order, draft: Plan | None = None
    ) -> Plan:
        """Decides what goes out; vouchers are taken from a draft where nothing has changed that they are made of."""
        choice = choose(order.scope, await self._claims(conn, integration.organization_id, order.scope))
        org = integration.organization_id
        keys = {claim.id: item_key(org, integration.id, claim.id, claim.exports + 1) for claim in choice.taken}
        if not order.posts or not choice.taken:
            return Plan(choice=choice, keys=keys)
        found = await active_in(conn, integration.id, order.today)
        if found is None:
            raise ConflictError(
                "The integration has no mapping that is in force, so claims cannot become vouchers.",
                code="mapping_missing",
                hint="Save one with PUT …/integrations/{type}/mapping, and look at its preview.",
            )
        version, mapping = found
        demand_no_gap(gaps(mapping, {claim.id: claim.body for claim in choice.taken}))
        numbers = await voucher_numbers(conn, integration.id, list(keys.values()))
        periods = await periods_in(conn, integration.id)
        making = Making(keys, numbers, mapping, version, order.today, periods, _ready(draft, version, periods))
        # Pure, and a second's work for ten thousand claims: not on the loop that everybody shares.
        made = await asyncio.to_thread(making.all, choice.taken)
        return Plan(
            choice=without_unpostable(choice, made), vouchers=good(made), keys=keys, mapping_version=version,
            periods=periods,
        )  # fmt: skip

    async def _claims(self, conn: AsyncConnection, organization_id: str, scope: Scope) -> list[Claim]:
        # Wherever it went: a claim that is in one set of books must not be put into another by itself.
        mine = sa.and_(_item.c.organization_id == _claim.c.organization_id, _item.c.reimbursement_id == _claim.c.id)
        live = sa.select(_item.c.state).where(
            mine, _item.c.purpose == sa.literal_column("'booking'"), _item.c.state.in_(LIVE_STATES)
        )
        query = sa.select(
            _claim.c.id, _claim.c.version, _claim.c.status, _claim.c.body, approval_day().label("day"),
            live.limit(1).correlate(_claim).scalar_subquery().label("item_state"),
            sa.select(sa.func.count()).select_from(_item).where(mine).correlate(_claim).scalar_subquery().label("exports"),
        ).where(_claim.c.organization_id == organization_id)  # fmt: skip
        if scope.ids is None:
            query = query.where(_claim.c.status == "approved", ~sa.exists(live.correlate(_claim)))
            query = _within(query, scope)
        else:
            query = query.where(_claim.c.id.in_(scope.ids))
        rows = await conn.execute(query.order_by(_claim.c.id).limit(MAX_CLAIMS))
        return [Claim(**row._mapping) for row in rows]

    async def _has_waiting(self, conn: AsyncConnection, integration_id: str) -> bool:
        doubtful = sa.and_(_item.c.integration_id == integration_id, _item.c.state.in_(("sent", "unknown", "reserved")))
        return await conn.scalar(sa.select(_item.c.key).where(doubtful).limit(1)) is not None

    async def _exports_of(self, conn: AsyncConnection, organization_id: str, claim_id: str) -> int:
        mine = sa.and_(_item.c.organization_id == organization_id, _item.c.reimbursement_id == claim_id)
        return int(await conn.scalar(sa.select(sa.func.count()).select_from(_item).where(mine)) or 0)

    # ── writing ──────────────────────────────────────────────────────────────

    async def _ordered(self, conn: AsyncConnection, integration: Integration, order: Order, count: int) -> Run:
        run = await self._runs.order_in(
            conn, organization_id=integration.organization_id, integration_id=integration.id, plugin=integration.plugin,
            plugin_version=order.plugin_version, operation="export", streams=[order.stream], full=False,
            reason=order.reason, requested_by=order.requested_by, account=order.account, expected_total=count,
        )  # fmt: skip
        return await self._joined(conn, integration.id, count) if run is None else run

    async def _joined(self, conn: AsyncConnection, integration_id: str, count: int) -> Run:
        """Lets what is reserved go out with a run that only waits, or that was ordered to follow earlier items up."""
        live = sa.select(_run).where(
            _run.c.integration_id == integration_id, _run.c.operation == "export", _run.c.state.in_(_NOT_OVER)
        )
        row = (await conn.execute(live.with_for_update())).one_or_none()
        if row is None:  # it ended this moment
            raise AlreadyRunningError("An export has ended this moment; order again.", run_id="")
        if (row.state != "waiting" and row.reason != FOLLOW_UP) or row.cancel_requested_at is not None:
            raise AlreadyRunningError(run_id=row.id)
        values: dict[str, Any] = {"expected_total": sa.func.coalesce(_run.c.expected_total, 0) + count}
        if row.state == "waiting" and (row.error or {}).get("code") == UNSETTLED:
            # It waits for nothing but time; one that was asked to slow down goes on waiting.
            values["available_at"] = self._db.now()
        changed = sa.update(_run).where(_run.c.id == row.id).values(**values).returning(_run)
        return Run(**(await conn.execute(changed)).one()._mapping)

    async def _add(
        self, conn: AsyncConnection, integration: Integration, order: Order, plan: Plan, run_id: str
    ) -> None:
        org, taken = integration.organization_id, plan.choice.taken
        for start in range(0, len(taken), _WRITTEN_AT_ONCE):  # in parts: others have work on this loop too
            rows = []
            for claim in taken[start : start + _WRITTEN_AT_ONCE]:
                row = _row(integration.id, org, claim.id, claim.version, claim.exports + 1, order.stream, run_id)
                voucher = plan.vouchers.get(claim.id)
                rows.append(row | _voucher_columns(voucher) | {"key": plan.keys[claim.id], "route": order.route})
            await conn.execute(sa.insert(_item), rows)

    async def _note(
        self, conn: AsyncConnection, integration: Integration, order: Order, plan: Plan, run: Run | None
    ) -> None:
        excluded = [skipped for skipped in plan.choice.skipped if skipped.reason == "excluded"]
        if run is None and not excluded:
            return
        org, of = integration.organization_id, f"integration/{integration.id}"
        detail = {
            "run": None if run is None else run.id, "claims": len(plan.choice.taken), "route": order.route,
            "skipped": len(plan.choice.skipped), "mapping_version": plan.mapping_version,
        }  # fmt: skip
        await audit.record(conn, org, "export.ordered", of, detail)
        for skipped in excluded:
            why = {"reason": audit.bounded(skipped.message), "run": detail["run"]}
            await audit.record(conn, org, "export.excluded", f"reimbursement/{skipped.id}", why)

    async def _given_up(self, conn: AsyncConnection, org: str, claim_id: str, reason: str) -> ExportItem:
        mine = sa.and_(_item.c.organization_id == org, _item.c.reimbursement_id == claim_id)
        # A run's row first and items after it, as a worker that settles does; else the two could wait for each other.
        running = sa.select(_run.c.id).where(
            _run.c.organization_id == org, _run.c.operation == "export", _run.c.state.in_(_NOT_OVER)
        )
        await conn.execute(running.order_by(_run.c.id).with_for_update())
        live = sa.select(_item).where(mine, _item.c.purpose == "booking", _item.c.state.in_(LIVE_STATES))
        row = (await conn.execute(live.with_for_update())).one_or_none()
        if row is None:
            raise ConflictError(
                "The reimbursement has no export that could be repeated.", code="not_exported",
                hint="Order an export of it; see its timeline.",
            )  # fmt: skip
        if row.state in ("reserved", "sent"):
            raise ConflictError(
                f"The reimbursement is on its way (its item is {row.state}).", code="still_sending",
                hint="Wait for the run to end, or resolve the item when the run is dead.",
            )  # fmt: skip
        if row.state == "accepted" and row.code is not None:
            raise ConflictError(
                f"It lies in the other system still, which cannot book it as it is: {row.message or row.code}",
                code="lies_there_still",
                hint="Have it mended there, or have its lines removed there; it is asked about now, and the claim is free"
                " when they are gone.",
            )
        back = sa.select(_item.c.key).where(_item.c.reverses == row.key, mine, _item.c.state.in_(LIVE_STATES))
        if await conn.scalar(back.limit(1)) is not None:
            raise ConflictError(
                "The booking of the reimbursement is being reversed.", code="correction_under_way",
                hint="Order an export of it when the correction is done; see its timeline.",
            )  # fmt: skip
        given_up = sa.update(_item).where(_item.c.key == row.key)
        await conn.execute(given_up.values(state="superseded", reason=audit.bounded(reason)))
        return ExportItem(**row._mapping)


def approval_day() -> sa.ColumnElement[str]:
    """Gives the day a claim was approved on as text; of one that does not say, the day it was told."""
    told = sa.func.substr(sa.cast(_claim.c.updated_at, sa.Text), 1, 10)
    return sa.func.coalesce(sa.func.substr(_claim.c.body["approved_on"].as_string(), 1, 10), told)


def _within(query: sa.Select[Any], scope: Scope) -> sa.Select[Any]:
    if scope.first is not None:
        query = query.where(approval_day() >= scope.first.isoformat())
    if scope.last is not None:
        query = query.where(approval_day() <= scope.last.isoformat())
    return query


def _ready(
    draft: Plan | None, mapping_version: int, periods: Sequence[ChartPeriod] | None
) -> Mapping[tuple[str, int], Voucher]:
    """Gives a draft's vouchers by claim and version of the claim, when the mapping and the periods are the same still."""
    if draft is None or draft.mapping_version != mapping_version or draft.periods != periods:
        return {}
    return {(claim.id, claim.version): draft.vouchers[claim.id] for claim in draft.choice.taken}


def _row(
    integration_id: str, organization_id: str, claim_id: str, version: int, number: int, stream: str, run_id: str | None
) -> dict[str, Any]:
    return {
        "organization_id": organization_id, "integration_id": integration_id, "reimbursement_id": claim_id,
        "version": version, "number": number, "run_id": run_id, "stream": stream, "state": "reserved", "fence": 0,
        "attempts": 0, "message": "", "reason": "", "purpose": "booking", "created_at": columns.now(),
    }  # fmt: skip


def _voucher_columns(voucher: Voucher | None) -> dict[str, Any]:
    if voucher is None:
        return {"voucher": None, "voucher_number": None, "mapping_version": None, "period": None}
    return {
        "voucher": to_row(voucher), "voucher_number": voucher.number, "mapping_version": voucher.mapping_version,
        "period": voucher.date.strftime("%Y-%m"),
    }  # fmt: skip
