"""What of exports waits for a person: counted per integration, in one statement for all of an organisation's."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.rules.findings import Unfinished
from samband.rules.selecting import CORE_ROUTES
from samband.store.models import Correction, ExportItem, Integration, Reimbursement
from samband.store.reversals import is_stuck

__all__ = ["unfinished_in", "unfinished_statement"]

_item: sa.Table = ExportItem.__table__
_claim: sa.Table = Reimbursement.__table__
_correction: sa.Table = Correction.__table__
_integration: sa.Table = Integration.__table__

UNDECIDED_FOR: Final = dt.timedelta(days=1)
"""How long a proposed correction may wait for a person before somebody is told."""


async def unfinished_in(
    conn: AsyncConnection, organization_id: str, *, unposted_before: dt.datetime
) -> dict[str, Unfinished]:
    """Gives integration → what of its exports waits, for those of the organisation where anything does.

    Args:
        unposted_before: What was accepted before and is not booked counts as unposted.
    """
    found: dict[str, dict[str, int]] = {}
    for row in await conn.execute(unfinished_statement(organization_id, unposted_before)):
        found.setdefault(row.integration_id, {})[row.what] = row.number
    return {integration_id: Unfinished(**counts) for integration_id, counts in found.items()}


def unfinished_statement(organization_id: str, unposted_before: dt.datetime) -> sa.Select[Any]:
    """Gives the statement of `unfinished_in`, for whoever wants to see how the database goes about it.

    Of the ledger only what is in one of the states asked for is read, by ``ix_export_item_state``.
    """
    mine = _item.c.integration_id.in_(
        sa.select(_integration.c.id).where(_integration.c.organization_id == organization_id)
    )
    undecided = _correction.c.created_at < dt.datetime.now(dt.UTC) - UNDECIDED_FOR
    each = sa.union_all(
        _accepted(unposted_before).where(mine),
        _refused().where(mine),
        _of_corrections("stuck", organization_id, "approved", _correction.c.reversal_key).where(is_stuck()),
        _of_corrections("waiting", organization_id, "proposed", _correction.c.item_key).where(undecided),
    ).subquery("each_one")
    counted = sa.select(each.c.what, each.c.integration_id, sa.func.count().label("number"))
    return counted.group_by(each.c.what, each.c.integration_id)


def _accepted(unposted_before: dt.datetime) -> sa.Select[Any]:
    """Gives what the other side has and has not booked; what it cannot book is told apart from what is only slow."""
    stuck, is_by_file = _item.c.code.is_not(None), sa.func.coalesce(_item.c.route, "").in_(CORE_ROUTES)
    what = sa.case((stuck, "stuck"), (is_by_file, "unposted_files"), else_="unposted").label("what")
    is_old = sa.func.coalesce(_item.c.accepted_at, _item.c.created_at) < unposted_before
    return sa.select(what, _item.c.integration_id).where(_item.c.state == "accepted", sa.or_(stuck, is_old))


def _refused() -> sa.Select[Any]:
    """Gives bookings that were refused, whose claim is as it was and has not gone out again.

    Of a reversal that was refused its correction tells.
    """
    later = _item.alias("later")
    again = sa.exists().where(
        later.c.organization_id == _item.c.organization_id, later.c.reimbursement_id == _item.c.reimbursement_id,
        later.c.number > _item.c.number, later.c.state != "released",
    )  # fmt: skip
    same = sa.and_(
        _claim.c.organization_id == _item.c.organization_id, _claim.c.id == _item.c.reimbursement_id,
        _claim.c.version == _item.c.version,
    )  # fmt: skip
    refused = sa.and_(_item.c.state == "rejected", _item.c.purpose == "booking", ~again.correlate(_item))
    return sa.select(sa.literal("refused").label("what"), _item.c.integration_id).join(_claim, same).where(refused)


def _of_corrections(what: str, organization_id: str, state: str, key: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Gives the items that an organisation's corrections in a state are about."""
    told = sa.select(sa.literal(f"corrections_{what}").label("what"), _item.c.integration_id)
    mine = sa.and_(_correction.c.organization_id == organization_id, _correction.c.state == state)
    return told.join(_correction, sa.and_(key == _item.c.key, mine))
