"""Reversals: when one may go out, and when it frees the claim whose booking it takes back.

The other side takes a voucher in and books it later, or refuses it then. A reversal that went out beside its booking could
be booked alone, and one that was only taken in could still be refused when its claim has been booked anew. So it waits until
the booking is ``posted``, and has done its work when it is ``posted`` itself. Of what goes out as a file nobody may ever say
so: there, having been handed over is all that is waited for.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import ConflictError
from samband.outgoing import Voucher
from samband.rules.posting import Unpostable, open_day
from samband.rules.schedule import DEFAULT_ZONE, to_local
from samband.rules.selecting import CORE_ROUTES
from samband.store import columns
from samband.store.charts import periods_in
from samband.store.mappings import active_in
from samband.store.models import ExportItem

__all__ = ["day_of_reversal", "has_taken_back", "is_stuck", "may_go"]

_item: sa.Table = ExportItem.__table__


def may_go() -> sa.ColumnElement[bool]:
    """Says of a reserved item that nothing has to happen before it is sent."""
    booking = _item.alias("taken_back")
    is_by_file = sa.func.coalesce(booking.c.route, "").in_(CORE_ROUTES)
    waits = sa.exists().where(booking.c.key == _item.c.reverses, booking.c.state == "accepted", ~is_by_file)
    return sa.or_(_item.c.reverses.is_(None), ~waits.correlate(_item))


def has_taken_back(route: str | None, state: str) -> bool:
    """Tells whether a reversal in that state, which went that way, has taken its booking back."""
    return state == "posted" or (state == "accepted" and route in CORE_ROUTES)


def is_stuck() -> sa.ColumnElement[bool]:
    """Says of a reversal that it takes nothing back unless a person does something: refused, given back, or lying there."""
    lies_there = sa.and_(_item.c.state == "accepted", _item.c.code.is_not(None))
    return sa.or_(_item.c.state.in_(("rejected", "released")), lies_there)


async def day_of_reversal(conn: AsyncConnection, integration_id: str, taken_back: Voucher) -> dt.date:
    """Gives the day a voucher is taken back on, in the caller's transaction: today, or the day of the voucher if later.

    A period that is closed then is dealt with as the mapping in force says, just as for a booking.

    Raises:
        ConflictError: There is no day it may bear now (`period_closed`).
    """
    today = dt.date.fromisoformat(to_local(columns.now(), DEFAULT_ZONE)[:10])
    wanted = max(today, taken_back.date)  # never before what it takes back, which may be dated ahead
    active = await active_in(conn, integration_id, today)
    policy = "hold" if active is None else active[1].closed_period
    try:
        return open_day(wanted, policy, await periods_in(conn, integration_id), today=wanted)
    except Unpostable as error:
        raise ConflictError(
            f"The booking cannot be taken back in {wanted:%Y-%m}, and nothing was changed. {error.message}",
            code="period_closed",
            hint="Have a period opened in the books, or let the mapping take the next open one (closed_period: next_open);"
            " have the periods read again with mapping check --refresh, then agree again.",
        ) from None
