"""Weighs a page before it is committed: how much would the run have taken away from the stream by then?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.rules.brake import Brake, Removal
from samband.store.models import Page, Run, Stream
from samband.store.runs import Lease

if TYPE_CHECKING:
    from samband.store.page_writer import StreamPosition

__all__ = ["TooMuchError", "weigh"]

_page: sa.Table = Page.__table__
_run: sa.Table = Run.__table__
_stream: sa.Table = Stream.__table__


class TooMuchError(Exception):
    """The page would take away too much; its transaction is rolled back."""

    def __init__(self, removal: Removal) -> None:
        super().__init__("too many removals")
        self.removal = removal


async def weigh(
    conn: AsyncConnection, brake: Brake, lease: Lease, position: StreamPosition, number: int, *, deleted: int,
    deactivated: int,
) -> None:  # fmt: skip
    """Lets a page pass, or stops it.

    Earlier pages of the run count: a source that loses its records page by page is as empty in the end. They are read
    from what was committed, so a run that was cut off and goes on goes on counting.

    Args:
        number: The page's, of which nothing has been written to the stream's counters yet.
        deleted: What it deletes, a finished full read's reconciliation included.
        deactivated: How many of its records go from a live status to an ended one.

    Raises:
        TooMuchError: More than the brake lets pass, and more than anybody has agreed to.
    """
    if not deleted and not deactivated:
        return
    held = sa.select(_stream.c.held).where(_stream.c.id == position.stream_id).scalar_subquery()
    decided = sa.select(_run.c.brake).where(_run.c.id == lease.run_id).scalar_subquery()
    earlier = sa.select(_sum("created"), _sum("deleted"), _sum("deactivated"), held, decided).where(
        _page.c.run_id == lease.run_id, _page.c.stream_id == position.stream_id, _page.c.number < number
    )
    created, gone, ended, now_held, decision = (await conn.execute(earlier)).one()
    removal = Removal(
        # What the run itself has brought is no reason to let more go; in a first read there is nothing else.
        held=int(now_held - created + gone) or int(now_held + gone),
        deleted=int(gone) + deleted,
        deactivated=int(ended) + deactivated,
    )
    if brake.stops(removal, released=((decision or {}).get("released") or {}).get(position.name, 0)):
        raise TooMuchError(removal)


def _sum(name: str) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(_page.c[name]), 0)
