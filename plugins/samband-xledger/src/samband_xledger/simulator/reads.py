"""Reading: connections with filters, pages and cursors, and delta logs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import itemgetter
from typing import Any

from . import filters
from .calls import Call
from .errors import forbidden, invalid
from .schema import CONNECTIONS, Connection
from .tables import Row

# "Records per query: 10,000" (the vendor's help pages); what happens beyond is not told, here the page is cut.
ROW_CAP = 10_000
DELTA_LIFE_S = 3 * 86_400
COMPOSITE = frozenset({"journalEntries", "transactions"})
_KEY = itemgetter("dbId")


def resolvers() -> dict[str, Any]:
    """Returns the query fields with what answers them."""
    found: dict[str, Any] = {}
    for item in CONNECTIONS:
        found[item.name] = _reader(item)
        if item.deltas:
            found[f"{item.name}_deltas"] = _delta_reader(item)
    return found


def _reader(item: Connection) -> Any:
    def read(root: Any, info: Any, **arguments: Any) -> dict[str, Any] | None:
        return _read(info.context, item, **arguments)

    return read


def _read(
    call: Call,
    item: Connection,
    *,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    before: str | None = None,
    filter: dict[str, Any] | None = None,
    objectStatus: str | None = None,
) -> dict[str, Any]:
    _allowed(call, item)
    if first is not None and last is not None:
        raise invalid("first and last cannot be used together.")
    rows = _seen(call, item, filter, objectStatus)
    low = 0 if after is None else bisect_right(rows, _key_of(after), key=_KEY)
    high = len(rows) if before is None else bisect_left(rows, _key_of(before), key=_KEY)
    size = min(ROW_CAP, _size(first if last is None else last, call))
    if last is not None:
        start = max(low, high - size)
        page = rows[start:high][::-1]
        more, earlier = start > low, high < len(rows)
    else:
        page = rows[low:high][:size]
        more, earlier = low + len(page) < high, low > 0
    call.nodes += len(page)
    edges = [{"cursor": cursor_of(item.name, row, call), "node": row} for row in page]
    return {
        "edges": None if not edges and call.switches.null_edges else edges,
        "pageInfo": {"hasNextPage": more, "hasPreviousPage": earlier},
    }


def _size(asked: int | None, call: Call) -> int:
    if asked is None:
        return call.switches.default_page
    if asked < 0:
        raise invalid("first and last must not be negative.")
    return asked


def _allowed(call: Call, item: Connection) -> None:
    if item.right not in call.token.read:
        raise forbidden("read", item.right)


def _seen(call: Call, item: Connection, given: dict[str, Any] | None, status: str | None) -> list[Row]:
    world = call.world
    visible = call.visible
    rows = filters.candidates(world[item.name], given)
    test = filters.compiled(given) if given else None
    if item.name == "entities":
        rows = [row for row in rows if row["dbId"] in call.reach]
    else:
        rows = [row for row in rows if row.get("ownerDbId") is None or row["ownerDbId"] in visible]
    if status in {"OPEN", "CLOSED"}:
        today = world.clock.local()[:10]
        rows = [row for row in rows if is_open(row, today) is (status == "OPEN")]
    return rows if test is None else [row for row in rows if test(row)]


def is_open(row: Row, day: str) -> bool:
    """Tells whether something may be posted on: neither switched off nor outside its dates."""
    begins = row.get("dateFrom") or row.get("fromDate") or ""
    ends = row.get("dateTo") or row.get("toDate") or "9999-12-31"
    return row.get("posting", True) is not False and begins <= day <= ends


def cursor_of(name: str, row: Row, call: Call) -> str:
    """Returns a row's cursor: mostly its id, sometimes something longer. Clients must not look into it."""
    if name in COMPOSITE or call.switches.composite_cursors:
        return f"{row.get('ownerDbId') or 0}.{row['dbId']}"
    return str(row["dbId"])


def _key_of(cursor: str) -> int:
    try:
        return int(cursor.rpartition(".")[2])
    except ValueError:
        raise invalid(f"Invalid cursor '{cursor[:40]}'.") from None


def _delta_reader(item: Connection) -> Any:
    def read(root: Any, info: Any, first: int | None = None, after: str | None = None) -> dict[str, Any]:
        return _deltas(info.context, item, first, after)

    return read


def _deltas(call: Call, item: Connection, first: int | None, after: str | None) -> dict[str, Any]:
    _allowed(call, item)
    log = call.world.changes[item.name]
    oldest = call.world.clock.now().timestamp() - DELTA_LIFE_S
    kept = bisect_left(log, oldest, key=lambda change: change.at)
    start = kept
    if after is not None:
        asked = _key_of(after)
        start = max(kept, bisect_right(log, asked, key=lambda change: change.seq))
        if call.switches.expired_cursor == "error" and kept > 0 and asked < log[kept - 1].seq:
            raise invalid("The cursor has expired.")
    size = min(ROW_CAP, _size(first, call))
    page = log[start : start + size]
    call.nodes += len(page)
    edges = [
        {"cursor": f"d.{change.seq}", "node": {"dbId": change.key, "mutationType": change.kind}} for change in page
    ]
    return {
        "edges": None if not edges and call.switches.null_edges else edges,
        "pageInfo": {"hasNextPage": start + len(page) < len(log), "hasPreviousPage": start > kept},
    }
