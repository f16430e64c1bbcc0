"""Settling: items are marked as sent before they are, and leave that state only by what is known of them."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.contract import Receipt
from samband.errors import ConflictError, NotFoundError, StaleLeaseError
from samband.rules.selecting import LIVE_STATES
from samband.store import audit, columns
from samband.store.corrections import finish_in, reopen_in, withdraw_in
from samband.store.database import Database
from samband.store.models import ExportItem, Reimbursement, Run
from samband.store.models.exports import LIVE_REVERSAL
from samband.store.outbox import emit, emit_all
from samband.store.reversals import has_taken_back, may_go
from samband.store.runs import Lease, fenced, owned
from samband.store.turns import one_at_a_time

_item: sa.Table = ExportItem.__table__
_claim: sa.Table = Reimbursement.__table__
_run: sa.Table = Run.__table__

_IN_FLIGHT_S: Final = 120.0
"""How long a request that a worker began within its lease may still be on its way when the lease is over."""
_FORMER_KEPT: Final = 20
"""Earlier answers of which their state, reference, time and digest are kept beside the last one."""
UNCERTAIN: Final = ("sent", "unknown")
BOOKED: Final = ("accepted", "posted")

_Legal = Mapping[str, Collection[str]]
_FROM: Final[_Legal] = {
    "accepted": UNCERTAIN,
    "posted": (*UNCERTAIN, "accepted"),
    "rejected": (*UNCERTAIN, "accepted"),
    "unknown": ("sent",),
}
"""State of a receipt → the states that an item may leave for it. Nothing leaves a state because it is not known any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How items go out: by which route, and why not by another. Empty for a plugin that has but one."""

    name: str | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An item that is marked as sent, and what is to be sent.

    Attributes:
        body: The claim's values; a voucher is in the item.
        is_bound: Its route was fixed before: it goes that way, or not at all.
    """

    item: ExportItem
    body: Mapping[str, Any]
    is_bound: bool


class Settling:
    """Every statement that moves an item."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # ── sending ──────────────────────────────────────────────────────────────

    async def bound_routes(self, integration_id: str) -> list[str]:
        """Gives the routes that items which may go out are bound to: they went that way before, or were ordered to."""
        mine = sa.and_(_ready(integration_id), _item.c.route.is_not(None))
        async with self._db.read() as conn:
            return sorted(await conn.scalars(sa.select(_item.c.route).where(mine).distinct()))

    async def has_free(self, integration_id: str) -> bool:
        """Tells whether something may go out that is bound to no route."""
        mine = sa.and_(_ready(integration_id), _item.c.route.is_(None))
        async with self._db.read() as conn:
            return await conn.scalar(sa.select(_item.c.key).where(mine).limit(1)) is not None

    async def take(self, lease: Lease, limit: int, *, way: Way, is_bound: bool = False) -> list[Taken]:
        """Marks the next reserved items as sent, before they are, and gives each with its claim's values.

        Args:
            way: How they go.
            is_bound: Takes items that are bound to that route, instead of those that are bound to none.

        Raises:
            StaleLeaseError: Another worker owns the run now; nothing was marked.
            RunCancelledError: Somebody cancelled the run; nothing was marked. What was sent before is settled all the same.
        """
        async with self._db.write() as conn:
            asked = fenced(sa.update(_run), lease).values(fence=_run.c.fence).returning(_run.c.cancel_requested_at)
            owned((await conn.execute(asked)).one_or_none())
            chosen = sa.select(_item.c.key).where(
                _ready(lease.integration_id), _item.c.route == way.name if is_bound else _item.c.route.is_(None)
            )
            values: dict[str, Any] = {
                "state": "sent", "sent_at": self._db.now(), "attempts": _item.c.attempts + 1, "fence": lease.fence,
                "run_id": lease.run_id, "route": way.name,
            }  # fmt: skip
            if way.reasons and not is_bound:
                values["evidence"] = {"route": way.name, "reasons": dict(way.reasons)}
            first = chosen.order_by(_item.c.created_at, _item.c.key).limit(limit)
            # The state once more: on PostgreSQL the choice is not made again for a row that was waited for, and a report
            # may have settled it meanwhile.
            marked = sa.update(_item).where(_item.c.key.in_(first), _item.c.state == "reserved")
            marked = marked.values(**values).returning(_item)
            items = [ExportItem(**row._mapping) for row in await conn.execute(marked)]
            told = sa.select(_claim.c.id, _claim.c.body).where(
                _claim.c.organization_id == lease.organization_id,
                _claim.c.id.in_({item.reimbursement_id for item in items if item.voucher is None}),
            )
            bodies = {row.id: row.body for row in await conn.execute(told)}
        items.sort(key=lambda item: (item.created_at, item.key))
        return [Taken(item=item, body=bodies.get(item.reimbursement_id, {}), is_bound=is_bound) for item in items]

    async def give_back(
        self, lease: Lease, keys: Sequence[str], *, from_states: Sequence[str], is_free: bool = False
    ) -> int:
        """Makes items reserved again that are certain not to have arrived; gives how many.

        Args:
            is_free: Nothing was sent at all: another route may be chosen for them.
        """
        values: dict[str, Any] = {"state": "reserved", "sent_at": None, "run_id": lease.run_id}
        if is_free:
            values |= {"route": None, "evidence": None}
        async with self._db.write() as conn:
            await demand_lease(conn, lease)
            mine = sa.and_(
                _item.c.key.in_(list(keys)), _item.c.integration_id == lease.integration_id,
                _item.c.state.in_(from_states),
            )  # fmt: skip
            answer = await conn.execute(sa.update(_item).where(mine).values(**values))
        return int(answer.rowcount)

    # ── settling ─────────────────────────────────────────────────────────────

    async def settle(self, lease: Lease, receipts: Sequence[Receipt]) -> dict[str, int]:
        """Writes what became of items, each change with an event, in one transaction; gives how many ended how.

        Raises:
            StaleLeaseError: Another worker owns the run now; nothing was written, and it will look the items up.
        """
        counts = {"accepted": 0, "posted": 0, "rejected": 0, "unknown": 0}
        if not receipts:
            return counts
        async with self._db.write() as conn:
            await demand_lease(conn, lease)
            moved = await move(conn, lease.organization_id, lease.integration_id, lease.run_id, receipts)
            for before, state in moved:
                # What was counted as booked when it was accepted is not counted again when it is posted, or stuck.
                if before.state not in BOOKED or state not in BOOKED:
                    counts[state] += 1
            created = counts["accepted"] + counts["posted"]
            changed: dict[str, Any] = {"created": _run.c.created + created} if created else {}
            changed |= {"failed": _run.c.failed + counts["rejected"]} if counts["rejected"] else {}
            if changed:
                changed |= {"attempt": 0, "progress_at": dt.datetime.now(dt.UTC)}
                await conn.execute(sa.update(_run).where(_run.c.id == lease.run_id).values(**changed))
        return counts

    async def note_orphans(self, lease: Lease) -> int:
        """Makes unknown what earlier workers left as sent, and gives how many.

        From this moment counts how long it has been out: the worker that sent it may have been alive until its lease
        ran out, which was no later than now.
        """
        async with self._db.write() as conn:
            await demand_lease(conn, lease)
            left = sa.and_(
                _item.c.integration_id == lease.integration_id, _item.c.state == "sent",
                sa.or_(_item.c.fence != lease.fence, _item.c.run_id != lease.run_id),
            )  # fmt: skip
            keys = list(await conn.scalars(sa.select(_item.c.key).where(left).order_by(_item.c.key)))
            return await self._doubt(conn, lease, keys, "worker_died")

    async def doubt(self, lease: Lease, keys: Sequence[str], code: str) -> int:
        """Makes items unknown whose sending has ended just now without an answer."""
        async with self._db.write() as conn:
            await demand_lease(conn, lease)
            return await self._doubt(conn, lease, keys, code)

    async def _doubt(self, conn: AsyncConnection, lease: Lease, keys: Sequence[str], code: str) -> int:
        if not keys:
            return 0
        receipts = [Receipt(key=key, state="unknown", code=code[:64]) for key in keys]
        moved = await move(conn, lease.organization_id, lease.integration_id, lease.run_id, receipts)
        # The last moment at which it may have been sent: not the first, which a slow batch leaves far behind.
        doubted = sa.and_(_item.c.key.in_(list(keys)), _item.c.state == "unknown")
        await conn.execute(sa.update(_item).where(doubted).values(sent_at=self._db.now()))
        return len(moved)

    async def note_looked_up(self, lease: Lease, keys: Sequence[str]) -> None:
        """Notes that the other side was asked about items, so that it is asked again only after a while."""
        async with self._db.write() as conn:
            mine = sa.and_(_item.c.key.in_(list(keys)), _item.c.integration_id == lease.integration_id)
            await conn.execute(sa.update(_item).where(mine).values(looked_up_at=self._db.now()))

    # ── a person decides ─────────────────────────────────────────────────────

    async def resolve(
        self, organization_id: str, key: str, *, outcome: Literal["booked", "not_booked"], reference: str | None,
        reason: str,
    ) -> ExportItem:  # fmt: skip
        """Settles an item by a person's word, with the reason.

        What was accepted and is never told to be posted, and what was refused and has been booked all the same, are
        settled as booked under a reference.

        Raises:
            NotFoundError: There is no such item.
            ConflictError: It is known what became of it (`not_uncertain`), a worker still has it (`still_sending`), or its
                claim has gone out again since (`already_exported`).
        """
        async with self._db.write() as conn:
            await one_at_a_time(conn, organization_id)
            item = await self._doubtful(
                conn, organization_id, key, is_posted=outcome == "booked" and reference is not None
            )
            await self._demand_idle(conn, item, is_let_go=outcome == "not_booked")
            if outcome == "booked":
                state: Literal["posted", "accepted"] = "posted" if reference else "accepted"
                receipt = Receipt(key=key, state=state, reference=reference, evidence={"by": "a person"})
                await move(conn, organization_id, item.integration_id, item.run_id, [receipt])
            else:
                await self._let_go(conn, item)
            explained = sa.update(_item).where(_item.c.key == key).values(reason=audit.bounded(reason))
            row = (await conn.execute(explained.returning(_item))).one()
            detail = {
                "outcome": outcome, "was": item.state, "reference": reference, "reason": audit.bounded(reason),
                "reimbursement": item.reimbursement_id,
            }  # fmt: skip
            await audit.record(conn, organization_id, "export.resolved", f"export/{key}", detail)
        return ExportItem(**row._mapping)

    async def _doubtful(self, conn: AsyncConnection, organization_id: str, key: str, *, is_posted: bool) -> ExportItem:
        mine = sa.select(_item).where(_item.c.organization_id == organization_id, _item.c.key == key)
        row = (await conn.execute(mine.with_for_update())).one_or_none()
        if row is None:
            raise NotFoundError("There is no such export.", code="export_not_found")
        item = ExportItem(**row._mapping)
        if item.state == "rejected" and is_posted:
            await self._take_back_refusal(conn, item)
        elif item.state not in (*UNCERTAIN, *(("accepted",) if is_posted else ())):
            raise ConflictError(
                f"It is known what became of it: its state is {item.state}.", code="not_uncertain",
                hint="What is uncertain is resolved by a person; what was accepted or rejected only as booked, with the"
                " number it is booked under.",
            )  # fmt: skip
        return item

    async def _take_back_refusal(self, conn: AsyncConnection, item: ExportItem) -> None:
        """Makes what was refused uncertain again, unless its claim, or its booking, has another one meanwhile."""
        same = _item.c.reverses == item.reverses if item.reverses else _item.c.reverses.is_(None)
        other = sa.select(_item.c.key).where(
            _item.c.organization_id == item.organization_id, _item.c.reimbursement_id == item.reimbursement_id,
            _item.c.purpose == item.purpose, same, _item.c.state.in_(LIVE_STATES),
        )  # fmt: skip
        if await conn.scalar(other.limit(1)) is not None:
            raise ConflictError(
                "The claim has gone out again since this was refused.", code="already_exported",
                hint="Have one of the two taken back in the books; the reconciliation lists them.",
            )  # fmt: skip
        await conn.execute(sa.update(_item).where(_item.c.key == item.key).values(state="unknown"))

    async def _demand_idle(self, conn: AsyncConnection, item: ExportItem, *, is_let_go: bool) -> None:
        working = sa.select(_run.c.id).where(
            _run.c.integration_id == item.integration_id, _run.c.operation == "export", _run.c.state == "running",
            _run.c.lease_until > self._db.after(-_IN_FLIGHT_S if is_let_go else 0.0),
        )  # fmt: skip
        # What is let go is listened to no more: not while somebody is about to hear that it is there.
        mine = working if is_let_go else working.where(_run.c.id == item.run_id)
        if (is_let_go or item.state == "sent") and await conn.scalar(mine.limit(1)) is not None:
            raise ConflictError(
                "A worker is sending it, or looking it up, just now.", code="still_sending",
                hint="Wait for the run to end, or for two minutes when its worker died.",
            )  # fmt: skip

    async def _let_go(self, conn: AsyncConnection, item: ExportItem) -> None:
        gone = sa.update(_item).where(_item.c.key == item.key)
        await conn.execute(gone.values(state="released", settled_at=self._db.now()))
        data = {
            "key": item.key, "reimbursement": item.reimbursement_id, "version": item.version, "state": "released",
            "integration": item.integration_id,
        }  # fmt: skip
        subject = f"reimbursement/{item.reimbursement_id}"
        await emit(conn, item.organization_id, "no.samband.export.released.v1", subject, data)

    # ── what is open ─────────────────────────────────────────────────────────

    async def uncertain(
        self, integration_id: str, limit: int, *, settle_after_s: float, after: str = ""
    ) -> list[tuple[ExportItem, bool]]:
        """Gives items whose fate nobody knows, in the order of their keys, and whether each has been out long enough.

        Args:
            settle_after_s: How long, by the database's clock, before not being found means that it never arrived.
        """
        mine = sa.and_(_item.c.integration_id == integration_id, _item.c.state.in_(UNCERTAIN), _item.c.key > after)
        is_judged = sa.func.coalesce(_item.c.sent_at <= self._db.after(-settle_after_s), sa.true()).label("is_judged")
        async with self._db.read() as conn:
            rows = (
                await conn.execute(sa.select(_item, is_judged).where(mine).order_by(_item.c.key).limit(limit))
            ).all()
        return [
            (ExportItem(**{c.name: row._mapping[c.name] for c in _item.columns}), bool(row.is_judged)) for row in rows
        ]

    async def is_young(self, integration_id: str, *, settle_after_s: float) -> bool:
        """Tells whether something uncertain has not been out for long enough to be judged."""
        mine = sa.and_(
            _item.c.integration_id == integration_id, _item.c.state.in_(UNCERTAIN),
            _item.c.sent_at > self._db.after(-settle_after_s),
        )  # fmt: skip
        async with self._db.read() as conn:
            return await conn.scalar(sa.select(_item.c.key).where(mine).limit(1)) is not None

    async def count_uncertain(self, integration_id: str) -> int:
        mine = sa.and_(_item.c.integration_id == integration_id, _item.c.state.in_(UNCERTAIN))
        async with self._db.read() as conn:
            return int(await conn.scalar(sa.select(sa.func.count()).select_from(_item).where(mine)) or 0)


def _ready(integration_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(_item.c.integration_id == integration_id, _item.c.state == "reserved", may_go())


async def move(
    conn: AsyncConnection, organization_id: str, integration_id: str, run_id: str | None, receipts: Sequence[Receipt]
) -> list[tuple[ExportItem, str]]:
    """Brings items into the states of their receipts where that is a legal step, with an event for each that moved.

    Gives each that moved as it was before, with its state now. In the caller's transaction.
    """
    told = {receipt.key: receipt for receipt in receipts}
    touched = [*told, *await _counterparts(conn, organization_id, receipts)]
    mine = sa.and_(_item.c.key.in_(touched), _item.c.integration_id == integration_id, _item.c.state.in_(LIVE_STATES))
    found = await conn.execute(sa.select(_item).where(mine).order_by(_item.c.key).with_for_update())
    before = {row.key: ExportItem(**row._mapping) for row in found if row.key in told}
    moving = [
        (before[key], receipt)
        for key, receipt in told.items()
        if key in before and (before[key].state in _FROM[receipt.state] or _is_news(before[key], receipt))
    ]
    if moving:
        now = columns.now()
        rows = [{"which": item.key, **_settled(item, receipt, now)} for item, receipt in moving]
        names = [name for name in rows[0] if name != "which"]
        changed = sa.update(_item).where(_item.c.key == sa.bindparam("which"))
        await conn.execute(changed.values({name[4:]: sa.bindparam(name) for name in names}), rows)
    told_of = [_event(item, receipt, run_id) for item, receipt in moving if item.state != receipt.state]
    stuck = [(item, receipt) for item, receipt in moving if receipt.state == "accepted" and receipt.code]
    told_of += [_event(item, receipt, run_id, "stuck") for item, receipt in stuck]
    await emit_all(conn, organization_id, told_of)
    for item, receipt in moving:
        had, has = has_taken_back(item.route, item.state), has_taken_back(item.route, receipt.state)
        if item.purpose == "reversal" and has and not had:
            await finish_in(conn, item.key)
        elif item.purpose == "reversal" and had and not has:
            await reopen_in(conn, item.key)
        elif item.purpose == "booking" and receipt.state == "rejected" and item.state in BOOKED:
            await withdraw_in(conn, item)
    return [(item, receipt.state) for item, receipt in moving]


async def _counterparts(conn: AsyncConnection, organization_id: str, receipts: Sequence[Receipt]) -> list[str]:
    """Gives the bookings that told reversals take back, and the reversals of bookings that are told to be refused.

    They change with what is told, and are locked with it, before the organisation's row: two transactions that did it in
    two orders would wait for each other.
    """
    taken_back = sa.select(_item.c.reverses).where(
        _item.c.key.in_([receipt.key for receipt in receipts]), _item.c.reverses.is_not(None)
    )
    found = list(await conn.scalars(taken_back))
    if refused := [receipt.key for receipt in receipts if receipt.state == "rejected"]:
        reversals = sa.select(_item.c.key).where(
            _item.c.organization_id == organization_id, _item.c.reverses.in_(refused), sa.text(LIVE_REVERSAL)
        )
        found += await conn.scalars(reversals)
    return found


def _settled(item: ExportItem, receipt: Receipt, now: dt.datetime) -> dict[str, Any]:
    is_known, is_booked = receipt.state != "unknown", receipt.state in BOOKED
    values = {
        "state": receipt.state, "reference": receipt.reference or (item.reference if is_booked else None),
        "code": receipt.code, "field": receipt.field, "message": receipt.message,
        "evidence": _evidence(item, receipt, now), "settled_at": now if is_known else None,
        "accepted_at": (item.accepted_at or now) if is_booked else item.accepted_at,
        "posted_at": now if receipt.state == "posted" else None,
    }  # fmt: skip
    return {f"new_{name}": value for name, value in values.items()}


def _is_news(item: ExportItem, receipt: Receipt) -> bool:
    """Tells whether something else than before keeps what they have from being booked, or nothing any more."""
    is_there = item.state == receipt.state == "accepted"
    return is_there and (item.code, item.message) != (receipt.code, receipt.message if receipt.code else "")


def _event(
    item: ExportItem, receipt: Receipt, run_id: str | None, deed: str | None = None
) -> tuple[str, str, dict[str, Any]]:
    told = {
        "key": item.key, "reimbursement": item.reimbursement_id, "version": item.version, "state": receipt.state,
        "integration": item.integration_id, "run": run_id, "reference": receipt.reference or item.reference,
        "code": receipt.code, "field": receipt.field,
    }  # fmt: skip
    data = {name: value for name, value in told.items() if value is not None}
    return f"no.samband.export.{deed or receipt.state}.v1", f"reimbursement/{item.reimbursement_id}", data


def _evidence(item: ExportItem, receipt: Receipt, now: dt.datetime) -> dict[str, Any]:
    """Gives what is kept as proof: the way it went and why, their reference, when, and a digest of all they said."""
    told = [
        receipt.key, receipt.state, receipt.reference, receipt.code, receipt.field, receipt.message,
        sorted(receipt.evidence.items()),
    ]  # fmt: skip
    kept = dict(item.evidence or {})
    if item.route is not None:
        kept["route"] = item.route
    if "digest" in kept:
        former = {"state": item.state} | {name: kept.get(name) for name in ("reference", "at", "digest")}
        kept["former"] = [*kept.get("former", []), former][-_FORMER_KEPT:]
    return kept | {
        "reference": receipt.reference or kept.get("reference"), "at": columns.iso_ms(now),
        "digest": hashlib.sha256(orjson.dumps(told)).hexdigest(),
        "told": dict(receipt.evidence) or kept.get("told", {}),
    }  # fmt: skip


async def demand_lease(conn: AsyncConnection, lease: Lease) -> None:
    """Refuses a worker that does not own the run any more, in the transaction that would write.

    Raises:
        StaleLeaseError: Another worker owns it, or it is over.
    """
    answer = await conn.execute(fenced(sa.update(_run), lease).values(fence=_run.c.fence))
    if answer.rowcount != 1:
        raise StaleLeaseError("Another worker owns this run now.")
