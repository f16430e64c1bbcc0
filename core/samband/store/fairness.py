"""Who is next: bounded parallelism per organisation and per external account, and a fair order among what waits.

A slot is a live lease and nothing else, so there is no second counter that could drift: a worker that dies gives its
slots back when its leases run out.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.store.models import LIVE, Run

__all__ = ["Bounds", "has_room", "is_due", "startable", "take_turns"]

_run: sa.Table = Run.__table__

_Clock = sa.ColumnElement[dt.datetime]

# The first half of the keys of PostgreSQL's advisory locks: any two numbers that nothing else uses.
_ORGANIZATIONS, _ACCOUNTS = 7_620_001, 7_620_002


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many runs go on at once, over all workers.

    Attributes:
        per_organization: Of one organisation.
        per_account: That use one external account, whichever organisations they belong to.
    """

    per_organization: int = 4
    per_account: int = 2


def is_due(now: _Clock) -> sa.ColumnElement[bool]:
    """Says of a run that somebody should be working on it: its time has come, or its worker has gone silent."""
    return sa.or_(
        sa.and_(_run.c.state.in_(("queued", "waiting")), _run.c.available_at <= now),
        sa.and_(_run.c.state == "running", _run.c.lease_until < now),
    )


def has_room(bounds: Bounds, now: _Clock) -> sa.ColumnElement[bool]:
    """Says of a run that another one of its organisation, and of its account, may go on. For the claim itself."""
    other = _run.alias("other")
    going_on = sa.and_(other.c.state == "running", other.c.lease_until >= now, other.c.id != _run.c.id)

    def count(same: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
        return sa.select(sa.func.count()).select_from(other).where(going_on, same).correlate(_run).scalar_subquery()

    return sa.and_(
        count(other.c.organization_id == _run.c.organization_id) < bounds.per_organization,
        sa.or_(_run.c.account == "", count(other.c.account == _run.c.account) < bounds.per_account),
    )


async def take_turns(conn: AsyncConnection, run_id: str) -> None:
    """Makes claims for one organisation, and for one account, wait for each other until the transaction ends.

    Two workers that count at the same moment would both see room for one more. On SQLite writers wait anyway. The
    organisation always comes before the account, so two claims never wait for each other both ways.
    """
    if conn.dialect.name == "sqlite":
        return
    account = sa.func.coalesce(sa.func.nullif(_run.c.account, ""), _run.c.id)
    await conn.execute(
        sa.select(
            sa.func.pg_advisory_xact_lock(_ORGANIZATIONS, sa.func.hashtext(_run.c.organization_id)),
            sa.func.pg_advisory_xact_lock(_ACCOUNTS, sa.func.hashtext(account)),
        ).where(_run.c.id == run_id)
    )


def startable(bounds: Bounds, now: _Clock, *, among: sa.ColumnElement[bool] | None = None) -> sa.Select[Any]:
    """Gives the ids of runs that may start now, in turn: one of each organisation, then a second of each, and so on.

    An organisation, and an account, is listed only as often as it has room, its oldest first. So a backlog of hundreds
    neither fills the list nor is rung for in vain.

    Args:
        among: Only these.
    """
    going_on = sa.and_(_run.c.state == "running", _run.c.lease_until >= now)
    organizations = _counted(_run.c.organization_id, going_on).cte("busy_organization")
    accounts = _counted(_run.c.account, sa.and_(going_on, _run.c.account != "")).cte("busy_account")
    room = bounds.per_organization - sa.func.coalesce(organizations.c.n, 0)
    account_room = bounds.per_account - sa.func.coalesce(accounts.c.n, 0)
    waiting = (
        sa.select(
            _run.c.id, _run.c.organization_id, _run.c.account, _run.c.available_at,
            room.label("room"), account_room.label("account_room"),
        )
        .outerjoin(organizations, organizations.c.name == _run.c.organization_id)
        .outerjoin(accounts, accounts.c.name == _run.c.account)
        .where(sa.text(f"run.{LIVE}"), is_due(now), room > 0, sa.or_(_run.c.account == "", account_room > 0))
    )  # fmt: skip
    if among is not None:
        waiting = waiting.where(among)
    queue = waiting.cte("waiting")
    oldest_first = (queue.c.available_at, queue.c.id)
    turn = sa.func.row_number().over(partition_by=queue.c.organization_id, order_by=oldest_first)
    turns = sa.select(queue, turn.label("turn")).cte("turns")
    # Counted among what its organisation may start, so that one organisation's backlog never takes another's place.
    place = sa.func.row_number().over(
        partition_by=turns.c.account, order_by=(turns.c.turn, turns.c.available_at, turns.c.id)
    )
    places = sa.select(turns, place.label("place")).where(turns.c.turn <= turns.c.room).cte("places")
    return (
        sa.select(places.c.id)
        .where(sa.or_(places.c.account == "", places.c.place <= places.c.account_room))
        .order_by(places.c.turn, places.c.available_at, places.c.id)
    )


def _counted(name: sa.ColumnElement[str], which: sa.ColumnElement[bool]) -> sa.Select[str, int]:
    return sa.select(name.label("name"), sa.func.count().label("n")).where(which).group_by(name)
