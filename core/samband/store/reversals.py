"""Reversals: when one may go out, and when it frees the claim whose booking it takes back.

The other side takes a voucher in and books it later, or refuses it then. A reversal that went out beside its booking could
be booked alone, and one that was only taken in could still be refused when its claim has been booked anew. So it waits until
the booking is ``posted``, and has done its work when it is ``posted`` itself. Of what goes out as a file nobody may ever say
so: there, having been handed over is all that is waited for.
"""

from __future__ import annotations

import sqlalchemy as sa

from samband.rules.selecting import CORE_ROUTES
from samband.store.models import ExportItem

__all__ = ["has_taken_back", "may_go"]

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
