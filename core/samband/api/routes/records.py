"""Records as they stand now, and the feed of their changes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from samband.api.answers import Listing
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import After, KindName, Limit, OrgId, RowId
from samband.views import ChangesPage, RecordView

endpoints = Endpoints("Records")

_BASE = "/v1/organizations/{org}/records/{kind}"
IncludeDeleted = Annotated[bool, Field(description="Also those that are deleted at the other side.")]


@endpoints.add("GET", _BASE, verb="read", problems=("kind_not_found",))
async def list_records(
    call: Call,
    org: OrgId,
    kind: KindName,
    after: After = 0,
    limit: Limit = 100,
    include_deleted: IncludeDeleted = False,
) -> Listing[RecordView]:
    """Lists the organisation's records of a kind, in the order of their ids."""
    page = await call.service.records.page(org, kind, after=after, limit=limit, include_deleted=include_deleted)
    return Listing[RecordView].of(page)


@endpoints.add("GET", _BASE + "/{id}", verb="read", problems=("kind_not_found", "record_not_found"))
async def get_record(call: Call, org: OrgId, kind: KindName, id: RowId) -> RecordView:
    """Gives one record."""
    return await call.service.records.get(org, kind, id)


@endpoints.add("GET", "/v1/organizations/{org}/changes", verb="read", problems=("kind_not_found",))
async def list_changes(
    call: Call, org: OrgId, after: After = 0, limit: Limit = 500, kind: KindName | None = None
) -> ChangesPage:
    """Lists what changed since a point, oldest first. Keep ``next`` and go on from it: nothing is passed over."""
    return await call.service.records.changes(org, after=after, limit=limit, kind=kind)
