"""Reading rows: lists, pages, deltas, single rows, single columns and counts."""

from __future__ import annotations

from typing import Any

from . import errors, render, tracking
from .addressing import Address, find_row
from .exchange import Answer, Call
from .paging import Position, ordered_page, plain_page, read_cookie, write_cookie
from .query import Options, checked_select, parse_options, row_test, sort_key
from .render import View, context, wants
from .state import SimulatorState
from .tables import Row, Table


def list_rows(state: SimulatorState, call: Call, table: Table) -> Answer:
    """Answers a GET on an entity set: one page of rows, of a tracked read or of a delta."""
    options = parse_options(call.query)
    position = None if options.skip_token is None else read_cookie(options.skip_token)
    tracked = call.prefer.track_changes or options.delta_token is not None
    if tracked or (position is not None and position.until is not None):
        return _tracked(state, call, table, options, position)
    return _plain(state, call, table, options, position)


def _page_size(state: SimulatorState, call: Call, options: Options) -> int:
    # "$top is ignored when odata.maxpagesize is sent" (Page results).
    asked = call.prefer.max_page_size or options.top or state.switches.page_cap
    return min(asked, state.switches.page_cap)


def _plain(state: SimulatorState, call: Call, table: Table, options: Options, position: Position | None) -> Answer:
    view = View(state.organization, table, options, call.caller, call.prefer.annotations)
    show = view.renderer()
    test = row_test(state.organization, table, options, call.caller)
    after, number = (None, 1) if position is None else (position.after, position.page)
    limited = options.top is not None and call.prefer.max_page_size is None
    if options.top == 0 and limited:
        page_rows: list[Row] = []
        next_after = None
    else:
        size = _page_size(state, call, options)
        if options.orderby:
            page = ordered_page(table, test, sort_key(state.organization, table, options.orderby), after, size)
        else:
            page = plain_page(table, test, after, size)
        page_rows, next_after = page.rows, None if limited else page.next_after
    payload: dict[str, Any] = {"@odata.context": context(call, table.spec.entity_set, options)}
    payload.update(_counts(state, call, table, options))
    payload["value"] = show(page_rows)
    if next_after is not None:
        position = Position(page=number + 1, after=next_after)
        payload["@odata.nextLink"] = _next_link(call, table, options, position, page_rows, tracking=False)
    return _listed(call, payload)


def _counts(state: SimulatorState, call: Call, table: Table, options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {}
    cap = state.switches.count_cap
    total = matching_count(state, call, table, options) if options.count else -1
    if wants(call.prefer.annotations, render.TOTAL):
        found[f"@{render.TOTAL}"] = min(total, cap)
    if wants(call.prefer.annotations, render.TOTAL_EXCEEDED):
        found[f"@{render.TOTAL_EXCEEDED}"] = total > cap
    if options.count:
        found["@odata.count"] = min(total, cap)
    return found


def matching_count(state: SimulatorState, call: Call, table: Table, options: Options) -> int:
    """Returns how many rows a query picks, pages aside and without the cap."""
    test = row_test(state.organization, table, options, call.caller)
    return len(table.rows) if test is None else sum(1 for row in table.rows.values() if test(row))


def _next_link(
    call: Call, table: Table, options: Options, position: Position, rows: list[Row], *, tracking: bool
) -> str:
    primary_id = table.spec.primary_id
    first = rows[0][primary_id] if rows else ""
    last = rows[-1][primary_id] if rows else ""
    cookie = write_cookie(table.spec.name, position, first=first, last=last, tracking=tracking)
    return f"{call.root}/{call.path}?{_joined(options.kept, f'$skiptoken={cookie}')}"


def _joined(*parts: str) -> str:
    return "&".join(part for part in parts if part)


def _listed(call: Call, payload: dict[str, Any], *, tracked: bool = False) -> Answer:
    applied = call.prefer.applied(tracked=tracked and call.prefer.track_changes, paged=True)
    return Answer(status=200, payload=payload, headers={} if applied is None else {"Preference-Applied": applied})


def _tracked(state: SimulatorState, call: Call, table: Table, options: Options, position: Position | None) -> Answer:
    spec = table.spec
    if not table.tracked:
        raise errors.not_tracked(spec.name, state.tracking.not_tracked_status)
    tracking.refuse_options(options)
    call.caller.require_global_read(spec.schema_name, spec.name)
    if position is None:
        since = None
        if options.delta_token is not None:
            since = tracking.read_token(options.delta_token, table, state.tracking, state.clock.now())
        position = Position(page=1, after=None, since=since, until=state.organization.version)
    elif position.until is not None and position.until < table.readable_since:
        raise errors.version_stamp_expired(state.tracking.expired_status)
    if position.since is None:
        return _first_read(state, call, table, options, position)
    return _delta(state, call, table, options, position)


def _first_read(state: SimulatorState, call: Call, table: Table, options: Options, position: Position) -> Answer:
    show = View(state.organization, table, options, call.caller, call.prefer.annotations).renderer()
    page = plain_page(table, None, position.after, _page_size(state, call, options))
    following = None
    if page.next_after is not None:
        following = Position(page=position.page + 1, after=page.next_after, until=position.until)
    where = context(call, table.spec.entity_set, options)
    return _tracked_page(state, call, table, options, position, following, where, show(page.rows), page.rows)


def _delta(state: SimulatorState, call: Call, table: Table, options: Options, position: Position) -> Answer:
    show = View(state.organization, table, options, call.caller, call.prefer.annotations).renderer()
    found, following = tracking.changes(table, position, _page_size(state, call, options))
    rows = [change.row for change in found if change.row is not None]
    gone = f"{call.root}/$metadata#{table.spec.entity_set}/$deletedEntity"
    values = show(rows) + [
        {"@odata.context": gone, "id": change.row_id, "reason": "deleted"} for change in found if change.row is None
    ]
    where = context(call, table.spec.entity_set, options, "/$delta")
    return _tracked_page(state, call, table, options, position, following, where, values, rows)


def _tracked_page(
    state: SimulatorState,
    call: Call,
    table: Table,
    options: Options,
    position: Position,
    following: Position | None,
    where: str,
    values: list[dict[str, Any]],
    rows: list[Row],
) -> Answer:
    payload: dict[str, Any] = {"@odata.context": where}
    if following is None:
        token = tracking.write_token(position.until or 0, state.clock.now())
        payload["@odata.deltaLink"] = f"{call.root}/{call.path}?{_joined(options.kept, f'$deltatoken={token}')}"
    payload["value"] = values
    if following is not None:
        flag = state.tracking.cookie_says_tracking
        payload["@odata.nextLink"] = _next_link(call, table, options, following, rows, tracking=flag)
    return _listed(call, payload, tracked=True)


def count_rows(state: SimulatorState, call: Call, table: Table) -> Answer:
    """Answers ``/set/$count``: a bare number, of all rows, of a filter or of a delta."""
    options = parse_options(call.query)
    if options.delta_token is not None:
        call.caller.require_global_read(table.spec.schema_name, table.spec.name)
        since = tracking.read_token(options.delta_token, table, state.tracking, state.clock.now())
        total = tracking.count_changes(table, since, state.organization.version)
    else:
        total = matching_count(state, call, table, options)
    text = str(min(total, state.switches.count_cap))
    return Answer(status=200, raw=text.encode(), content_type="text/plain")


def readable_row(state: SimulatorState, call: Call, where: Address) -> Row:
    """Returns a row the caller may see, or the refusal for one that is absent or out of sight."""
    _, row = find_row(where)
    test = row_test(state.organization, where.table, Options(), call.caller)
    if test is not None and not test(row):
        spec = where.table.spec
        raise errors.privilege_missing(call.caller.user_id, f"prvRead{spec.schema_name}", spec.name)
    return row


def one_row(state: SimulatorState, call: Call, where: Address) -> Answer:
    """Answers a GET on one row; an unchanged version gives 304 when nothing but the row itself was asked for."""
    options = parse_options(call.query)
    row = readable_row(state, call, where)
    if not options.expand and call.prefer.annotations is None and where.table.optimistic:
        match = call.condition("if-none-match")
        if match is not None and match in {row["@odata.etag"], "*"}:
            return Answer(status=304, headers={"ETag": row["@odata.etag"]})
    return show_row(state, call, where.table, row, options)


def show_row(state: SimulatorState, call: Call, table: Table, row: Row, options: Options, status: int = 200) -> Answer:
    """Returns the answer that shows one whole row."""
    view = View(state.organization, table, options, call.caller, call.prefer.annotations)
    payload = {"@odata.context": context(call, table.spec.entity_set, options, "/$entity")}
    payload.update(view.renderer()([row])[0])
    headers = {"ETag": str(row["@odata.etag"])}
    applied = call.prefer.applied(represented=status in {200, 201} and call.method != "GET")
    if applied is not None:
        headers["Preference-Applied"] = applied
    return Answer(status=status, payload=payload, headers=headers)


def one_column(state: SimulatorState, call: Call, where: Address, name: str, *, raw: bool) -> Answer:
    """Answers a GET on one column, as JSON or, with ``$value``, as bare text."""
    checked_select(where.table, (name,))
    row = readable_row(state, call, where)
    value = where.table.value(row, name)
    if value is None:
        return Answer(status=204)
    if raw:
        return Answer(status=200, raw=str(value).encode(), content_type="text/plain")
    key = where.table.spec.entity_set
    payload = {"@odata.context": f"{call.root}/$metadata#{key}({row[where.table.spec.primary_id]})/{name}"}
    return Answer(status=200, payload={**payload, "value": value})
