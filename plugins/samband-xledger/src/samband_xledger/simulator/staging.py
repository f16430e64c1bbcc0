"""The staging table: lines that came in, by whichever door, and wait for the import job."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from .tables import Row
from .world import GroupKey, World

CENT = Decimal("0.01")


def stage(world: World, owner: int, lines: Iterable[dict[str, Any]], *, door: str, delivery: str) -> list[Row]:
    """Puts lines into the staging table and returns them.

    Lines belong to one voucher when entity, transaction source and ``trRegNumber`` are the same; lines without a
    number belong together when they came in together.
    """
    items = world["glImportItems"]
    now = world.clock.local()
    staged = []
    for line in lines:
        row = {
            "dbId": world.new_id(),
            "createdAt": now,
            "modifiedAt": now,
            "ownerDbId": owner,
            "owner": world["entities"].rows[owner],
            "_door": door,
            "_delivery": delivery,
            **line,
        }
        settle_amounts(row)
        items.add(row)
        enqueue(world, row)
        if row.get("extIdentifier"):
            world.received[row["extIdentifier"]] += 1
        staged.append(row)
    return staged


def settle_amounts(row: Row) -> None:
    """Fills the amount in the books' currency from the one in the voucher's, and the other way round."""
    rate = row.get("exchangeRate") or Decimal(1)
    amount, foreign = row.get("amount"), row.get("invoiceAmount")
    if amount is None and foreign is not None:
        row["amount"] = (foreign * rate).quantize(CENT)
    elif foreign is None and amount is not None:
        row["invoiceAmount"] = amount if rate == 1 else (amount / rate).quantize(CENT)
    row["jobLevelDbId"] = (row.get("jobLevel") or {}).get("dbId")


def group_of(row: Row) -> GroupKey:
    """Returns the voucher a staged line belongs to."""
    source = (row.get("transactionSource") or {}).get("code") or "GL"
    number = row.get("trRegNumber")
    return (row["ownerDbId"], source, row["_delivery"] if number is None else number)


def enqueue(world: World, row: Row) -> None:
    """Lets the job see a line, with the others of its voucher."""
    world.waiting.setdefault(group_of(row), {})[row["dbId"]] = None


def withdraw(world: World, row: Row) -> None:
    """Takes a line out of the staging table, with the errors that hang on it."""
    key = group_of(row)
    lines = world.waiting.get(key)
    if lines is not None:
        lines.pop(row["dbId"], None)
        if not lines:
            del world.waiting[key]
    world["glImportItems"].remove(row["dbId"])
    forget_errors(world, [row])


def forget_errors(world: World, rows: Iterable[Row]) -> None:
    """Removes the errors of these lines."""
    errors = world["glImportItemErrors"]
    for problem in errors.having("transactionDbId", [row["dbId"] for row in rows]):
        errors.remove(problem["dbId"])
