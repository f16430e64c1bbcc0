"""Dead letters: work that was given up and waits for a person."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from samband.api.answers import Listing
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import Limit, OrgId, PluginName, RowId
from samband.views import DeadLetterView

endpoints = Endpoints("Dead letters")

_BASE = "/v1/organizations/{org}/dead-letters"
OpenOnly = Annotated[bool, Field(description="Leave out those that have been acknowledged.")]


@endpoints.add("GET", _BASE, verb="read")
async def list_dead_letters(
    call: Call,
    org: OrgId,
    open_only: OpenOnly = True,
    type: PluginName | None = None,
    after: RowId | None = None,
    limit: Limit = 50,
) -> Listing[DeadLetterView]:
    """Lists the work that was given up after its attempts, newest first."""
    page = await call.service.runs.dead_letters(org, open_only=open_only, type=type, after=after, limit=limit)
    return Listing[DeadLetterView].of(page)


@endpoints.add("GET", _BASE + "/{id}", verb="read", problems=("dead_letter_not_found",))
async def get_dead_letter(call: Call, org: OrgId, id: RowId) -> DeadLetterView:
    """Gives one dead letter."""
    return await call.service.runs.dead_letter(org, id)


@endpoints.add("POST", _BASE + "/{id}/acknowledge", verb="operate", problems=("dead_letter_not_found",))
async def acknowledge_dead_letter(call: Call, org: OrgId, id: RowId) -> DeadLetterView:
    """Marks a dead letter as seen, under the name of the key."""
    return await call.service.runs.acknowledge_dead_letter(org, id, call.caller.name)
