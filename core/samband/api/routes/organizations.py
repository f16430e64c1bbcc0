"""Organisations: whose data samband carries."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from samband.api.access import require_everywhere
from samband.api.answers import Answer, Listing
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import Cursor, Input, Limit, OrgId, Title
from samband.views import OrganizationView

endpoints = Endpoints("Organisations")


class OrganizationIn(Input):
    """A new organisation."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "nbf-oslo", "name": "Norges Blindeforbund Oslo"}]})

    id: OrgId
    name: Annotated[Title, Field(description="For people.")]


@endpoints.add("GET", "/v1/organizations", verb="read")
async def list_organizations(call: Call, after: Cursor | None = None, limit: Limit = 100) -> Listing[OrganizationView]:
    """Lists the organisations the key reaches, by their ids."""
    page = await call.service.organizations.page(call.caller.organizations, after=after, limit=limit)
    return Listing[OrganizationView].of(page)


@endpoints.add(
    "POST",
    "/v1/organizations",
    verb="admin",
    status=201,
    problems=("organization_exists",),
    headers={"Location": "The organisation."},
)
async def create_organization(call: Call, body: OrganizationIn) -> Answer[OrganizationView]:
    """Adds an organisation.

    The id is chosen by the caller, is part of every address, and never changes. Needs a key that is not bound to
    certain organisations.
    """
    require_everywhere(call.caller)
    created = await call.service.organizations.create(body.id, body.name)
    return Answer(value=created, headers={"Location": f"/v1/organizations/{created.id}"})


@endpoints.add("GET", "/v1/organizations/{org}", verb="read")
async def get_organization(call: Call, org: OrgId) -> OrganizationView:
    """Gives one organisation."""
    return await call.service.organizations.get(org)
