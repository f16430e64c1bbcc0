"""Voucher numbers: made of the item's key, and the next free one when another voucher of the integration has it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import ConflictError
from samband.rules.selecting import next_number, number_of
from samband.store.models import ExportItem

_item: sa.Table = ExportItem.__table__

_ASKED_AT_ONCE: Final = 5_000
_PROBED_AT_ONCE: Final = 200
_PROBES: Final = 500


async def voucher_numbers(conn: AsyncConnection, integration_id: str, keys: Sequence[str]) -> dict[str, int]:
    """Gives each key its number, in the transaction that reserves; the caller holds the organisation's lock.

    Raises:
        ConflictError: No number is free where these keys look for one.
    """
    used = await _used(conn, integration_id, [number_of(key) for key in keys])
    given: dict[str, int] = {}
    for key in keys:
        number = number_of(key)
        if number in used:
            number = await _next_free(conn, integration_id, number, used)
        used.add(number)
        given[key] = number
    return given


async def _next_free(conn: AsyncConnection, integration_id: str, number: int, used: Collection[int]) -> int:
    for _ in range(_PROBES):
        candidates = list(_following(number, _PROBED_AT_ONCE))
        taken = await _used(conn, integration_id, candidates)
        for candidate in candidates:
            if candidate not in taken and candidate not in used:
                return candidate
        number = candidates[-1]
    raise ConflictError(
        "No voucher number is free for a claim.", code="voucher_numbers_used_up",
        hint="The integration has nearly used up its eight-digit numbers; connect the books anew.",
    )  # fmt: skip


def _following(number: int, count: int) -> Iterator[int]:
    for _ in range(count):
        number = next_number(number)
        yield number


async def _used(conn: AsyncConnection, integration_id: str, numbers: Sequence[int]) -> set[int]:
    used: set[int] = set()
    for start in range(0, len(numbers), _ASKED_AT_ONCE):
        asked = numbers[start : start + _ASKED_AT_ONCE]
        query = sa.select(_item.c.voucher_number).where(
            _item.c.integration_id == integration_id, _item.c.voucher_number.in_(asked)
        )
        used.update(await conn.scalars(query))
    return used
