"""Change tracking: what changed since a token, in the order and shape the service documents.

Source: "Use change tracking to synchronize data". A token is ``version!moment``. The version is that of the START of
the read that handed it out, so a row modified while pages are being read is reported again by the next delta.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from . import errors
from .paging import Position, encode
from .query import Options
from .tables import Row, Table

_TOKEN = re.compile(r"(\d{1,18})!(\d\d/\d\d/\d{4} \d\d:\d\d:\d\d)")
_MOMENT = "%m/%d/%Y %H:%M:%S"
REFUSED = ("$filter", "$orderby", "$expand", "$top")


@dataclass(slots=True, kw_only=True)
class TrackingRules:
    """The switches of change tracking.

    The statuses of ``expired_status`` and ``not_tracked_status`` are assumed; no document states them over Web API.
    """

    expiry_s: float = 7 * 86_400.0
    expired_status: int = 400
    not_tracked_status: int = 400
    cookie_says_tracking: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of a delta: a row as it is now, or the id of a row that is gone."""

    version: int
    row_id: str
    row: Row | None


def write_token(version: int, now: datetime) -> str:
    """Returns a delta token as it stands in a link, percent-encoded."""
    return encode(f"{version}!{now.astimezone(UTC).strftime(_MOMENT)}")


def read_token(token: str, table: Table, rules: TrackingRules, now: datetime) -> int:
    """Returns the version of a token, or refuses one that is malformed, expired or older than the table's shape."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise errors.bad_url("The delta token is not valid.")
    try:
        issued = datetime.strptime(match[2], _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        raise errors.bad_url("The delta token is not valid.") from None
    version = int(match[1])
    if version < table.readable_since or now - issued > timedelta(seconds=rules.expiry_s):
        raise errors.version_stamp_expired(rules.expired_status)
    return version


def refuse_options(options: Options) -> None:
    """Refuses the query options that change tracking does not allow."""
    used = (options.filter, options.orderby, options.expand, options.top)
    for name, value in zip(REFUSED, used, strict=True):
        if value not in (None, ()):
            raise errors.tracking_option_refused(name)


def changes(table: Table, position: Position, size: int) -> tuple[list[Change], Position | None]:
    """Returns the next changes between ``since`` and ``until``: upserts by version, then deletions by version."""
    found: list[Change] = []
    phase, after = position.phase or "upserts", position.after
    if phase == "upserts":
        found = list(islice(_entries(table, position, after, deleted=False), size + 1))
        if len(found) > size:
            return found[:size], _next(position, "upserts", found[size - 1].version)
        phase, after = "deletions", None
    room = size - len(found)
    gone = list(islice(_entries(table, position, after, deleted=True), room + 1))
    if len(gone) > room:
        # With no room left the next page starts the deletions from their beginning.
        return found + gone[:room], _next(position, "deletions", gone[room - 1].version if room else None)
    return found + gone, None


def _next(position: Position, phase: str, after: int | None) -> Position:
    return Position(page=position.page + 1, after=after, since=position.since, until=position.until, phase=phase)


def _entries(table: Table, position: Position, after: int | None, *, deleted: bool) -> Iterator[Change]:
    if type(after) not in (int, type(None)):
        raise errors.ApiError(400, "0x80041129", "Malformed XML in the Paging Cookie")
    since, until = position.since or 0, position.until or 0
    start = bisect_right(table.change_versions, max(since, after or 0))
    for index in range(start, len(table.change_versions)):
        version, row_id = table.change_versions[index], table.change_ids[index]
        if version > until:
            return
        if table.version_of(row_id) == version and (row_id not in table.rows) is deleted:
            yield Change(version=version, row_id=row_id, row=table.rows.get(row_id))


def count_changes(table: Table, since: int, until: int) -> int:
    """Returns how many changes a delta between two versions holds."""
    position = Position(page=1, after=None, since=since, until=until)
    return sum(1 for deleted in (False, True) for _ in _entries(table, position, None, deleted=deleted))
