"""Changes behind the API's back: what a person does in the books while nobody looks."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from . import books
from .tables import Row
from .webhooks import Webhooks
from .world import World

TABLES = ("transactions", "journalHeaders")


def touch(world: World, order: dict[str, Any], webhooks: Webhooks) -> dict[str, Any]:
    """Posts, changes and deletes vouchers; says what a read of the delta log must now hold.

    ``{"table": "transactions", "create": 1, "update": 2, "delete": 1}``; rows that are changed or deleted are the oldest.
    """
    table = order.get("table", "transactions")
    if table not in TABLES:
        raise ValueError(f"table is one of {', '.join(TABLES)}")
    create, update, delete = (int(order.get(name, 0)) for name in ("create", "update", "delete"))
    old = list(world[table])
    if len(old) < update + delete:
        raise ValueError(f"there are {len(old)} rows in {table}")
    changed = [_update(world, table, row) for row in old[:update]]
    deleted = [_delete(world, table, row) for row in old[update : update + delete]]
    headers = [_create(world, number) for number in range(create)]
    created = headers if table == "journalHeaders" else _transactions(world, headers)
    if headers:
        webhooks.announce(world, {"journalHeaders": headers, "transactions": _transactions(world, headers)})
    upserted = [str(row["dbId"]) for row in (*changed, *created)]
    return {
        "expected": {
            table: {
                "upserts": len(upserted),
                "deletions": len(deleted),
                "upserted_ids": upserted,
                "deleted_ids": deleted,
            }
        }
    }


def _transactions(world: World, headers: list[Row]) -> list[Row]:
    return world["transactions"].having("_header", [header["dbId"] for header in headers])


def _update(world: World, table: str, row: Row) -> Row:
    now = world.clock.local()
    world[table].change(row, text=f"{row.get('text') or ''} (rettet)"[:250], modifiedAt=now)
    header = row["header"] if table == "transactions" else row
    world["journalHeaders"].change(header, modifiedAt=now)
    world.log(table, row["dbId"], "UPDATED")
    return row


def _delete(world: World, table: str, row: Row) -> str:
    world[table].remove(row["dbId"])
    world.log(table, row["dbId"], "DELETED")
    return str(row["dbId"])


def _create(world: World, number: int) -> Row:
    entity = world["entities"].having("code", ["23601"])[0]["dbId"]
    day = world.clock.local()[:10]
    return books.by_hand(world, entity, world.new_number(), day, Decimal(10 + number), "Ført for hånd")
