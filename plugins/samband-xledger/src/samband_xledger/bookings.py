"""The stream of what is posted: all of it once, and from then on the changes that Xledger logs for three days.

Source for the log: a client of Xledger's GraphQL that mirrors whole tables (``<entity>_deltas``, kept for about three days).
The place in the log is taken before the full read begins, so what changes meanwhile is read again afterwards.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self

from samband import AuthError, Context, CursorExpiredError, Page
from samband_xledger.charts import account_codes
from samband_xledger.graphql import Xledger
from samband_xledger.postings import to_text
from samband_xledger.records import Joined, records_of
from samband_xledger.refusals import InputRefusedError, Row, is_about_one_right

KEPT_FOR: Final = dt.timedelta(days=3)
_MARGIN: Final = dt.timedelta(minutes=15)  # as much as Xledger's own sample overlaps two reads by
_FIELDS: Final = "dbId text amount accountDbId header { dbId transactionNumber postedDate } currency { code }"
_ENTRY_FIELDS: Final = "dbId extIdentifier invoiceNumber text amount transactonHeaderDbId account { dbId }"
_PAGE: Final = "pageInfo { hasNextPage }"
_ALL: Final = f"""
query ($first: Int!, $after: String) {{
  transactions(first: $first, after: $after) {{ edges {{ cursor node {{ {_FIELDS} }} }} {_PAGE} }}
}}"""
_CHANGES: Final = f"""
query ($first: Int!, $after: String) {{
  transactions_deltas(first: $first, after: $after) {{ edges {{ cursor node {{ dbId mutationType }} }} {_PAGE} }}
}}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place from which the stream can be read on.

    Attributes:
        part: In a full read, or in the log of changes.
        log: Cursor of the last change that was read; None at the log's beginning.
        log_read_at: When the log was known to reach back to that cursor, aware UTC.
        after: In a full read, the cursor of the last row.
    """

    part: Literal["full", "changes"]
    log: str | None
    log_read_at: dt.datetime
    after: str | None = None

    def to_cursor(self) -> str:
        """Gives the cursor that `from_cursor` reads."""
        told = {"v": 1, "part": self.part, "log": self.log, "at": self.log_read_at.isoformat(), "after": self.after}
        return json.dumps(told, separators=(",", ":"))

    @classmethod
    def from_cursor(cls, cursor: str) -> Self:
        """Gives the position a cursor stands for; `CursorExpiredError` when it is none of ours."""
        try:
            told = json.loads(cursor)
            at = dt.datetime.fromisoformat(told["at"])
            places = (told["log"], told["after"])
            is_ours = told["v"] == 1 and told["part"] in ("full", "changes") and at.tzinfo is not None
            is_ours = is_ours and all(isinstance(place, str | None) for place in places)
        except (ValueError, TypeError, KeyError, RecursionError):
            is_ours = False
        if not is_ours:
            raise CursorExpiredError("The stored cursor cannot be read.")
        return cls(part=told["part"], log=told["log"], log_read_at=at, after=told["after"])


async def read(ctx: Context, cursor: str | None) -> AsyncGenerator[Page, None]:
    """Yields the stream's pages, as the hook ``sync`` promises.

    Raises:
        CursorExpiredError: The log no longer reaches back to where the last read ended.
    """
    wire = Xledger(ctx)
    if cursor is None:
        start = Position(part="full", log=await _end_of_log(wire), log_read_at=ctx.now())
    else:
        start = Position.from_cursor(cursor)
        if ctx.now() - start.log_read_at > KEPT_FOR - _MARGIN:
            raise CursorExpiredError("Xledger keeps changes for three days, and the last read is longer ago.")
    accounts = await account_codes(wire)
    pages = _full(ctx, wire, start, accounts) if start.part == "full" else _changed(ctx, wire, start, accounts)
    async for page in pages:
        yield page


async def _end_of_log(wire: Xledger) -> str | None:
    last = None
    async for edges, _ in wire.pages(_CHANGES, "transactions_deltas"):
        last = edges[-1][0] if edges else last
    return last


async def _full(
    ctx: Context, wire: Xledger, start: Position, accounts: Mapping[str, str]
) -> AsyncGenerator[Page, None]:
    done = 0
    async for edges, has_more in wire.pages(_ALL, "transactions", after=start.after):
        rows = [node for _, node in edges]
        done += len(rows)
        ctx.progress(done, None)
        after = edges[-1][0] if has_more else None
        position = replace(start, after=after) if has_more else replace(start, part="changes", after=None)
        yield Page(
            records=records_of(_with_accounts(rows, accounts), await _joined(ctx, wire, rows)),
            cursor=position.to_cursor(),
            complete=not has_more,
        )


async def _changed(
    ctx: Context, wire: Xledger, start: Position, accounts: Mapping[str, str]
) -> AsyncGenerator[Page, None]:
    began = ctx.now()
    position = start
    try:
        async for edges, has_more in wire.pages(_CHANGES, "transactions_deltas", after=start.log):
            changed, deleted = _sorted_out([node for _, node in edges])
            rows = await _rows(wire, changed)
            there = {to_text(row.get("dbId")) for row in rows}
            deleted = [id for id in deleted if id not in there]
            log = edges[-1][0] if edges else position.log
            # Only at the log's end is it certain that it reaches back to this place.
            position = replace(position, log=log, log_read_at=position.log_read_at if has_more else began)
            yield Page(
                records=records_of(_with_accounts(rows, accounts), await _joined(ctx, wire, rows)),
                deleted=deleted,
                cursor=position.to_cursor(),
                complete=not has_more,
            )
    except InputRefusedError as err:
        if position is start and start.log is not None:
            raise CursorExpiredError("Xledger no longer knows the place where the last read ended.") from err
        raise


def _sorted_out(changes: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Gives the ids that may be there and those that were deleted; one that came back afterwards is in both."""
    kinds = {id: to_text(change.get("mutationType")) for change in changes if (id := to_text(change.get("dbId")))}
    gone = {id for change in changes if (id := to_text(change.get("dbId"))) and change.get("mutationType") == "DELETED"}
    return [id for id, last in kinds.items() if last != "DELETED"], sorted(gone)


async def _rows(wire: Xledger, ids: Sequence[str]) -> list[Row]:
    wanted = [id for id in ids if id.isdecimal()]
    found: list[Row] = []
    for start in range(0, len(wanted), 1000):
        where = f"{{dbId_in: {json.dumps(wanted[start : start + 1000])}}}"
        found += await wire.rows(_ALL.replace("after: $after", f"after: $after, filter: {where}"), "transactions")
    return found


async def _joined(ctx: Context, wire: Xledger, rows: Sequence[Row]) -> Joined:
    """Reads what the entries know of these rows; without the right to, the rows go without."""
    headers = sorted({id for row in rows if (id := _header(row)) is not None and id.isdecimal()})
    if not headers:
        return Joined()
    document = f"""
query ($first: Int!, $after: String) {{
  journalEntries(first: $first, after: $after, filter: {{transactonHeaderDbId_in: {json.dumps(headers)}}}) {{
    edges {{ cursor node {{ {_ENTRY_FIELDS} }} }} {_PAGE}
  }}
}}"""
    try:
        return Joined(await wire.rows(document, "journalEntries"))
    except (AuthError, InputRefusedError) as err:
        if isinstance(err, AuthError) and not is_about_one_right(err):
            raise
        ctx.log.warning("list_not_readable", list="journalEntries", reason=err.code)
        return Joined()


def _header(row: Row) -> str | None:
    header = row.get("header")
    return to_text(header.get("dbId")) if isinstance(header, Mapping) else None


def _with_accounts(rows: Sequence[Row], accounts: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{**row, "_account": accounts.get(to_text(row.get("accountDbId")) or "")} for row in rows]
