"""Organisations."""

from __future__ import annotations

import re
from collections.abc import Collection

from samband.errors import FieldProblem, InvalidError
from samband.presenting import organization_view
from samband.service.parts import Parts
from samband.service.wording import clean_name
from samband.views import FeedPage, OrganizationView

ORGANIZATION_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Organizations:
    """The organisations whose data samband carries."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def create(self, id: str, name: str) -> OrganizationView:
        """Adds an organisation; its id is chosen by the caller and never changes."""
        problems = []
        if not ORGANIZATION_ID.fullmatch(id):
            problems.append(
                FieldProblem(
                    field="id", code="bad_id",
                    message="Use 1 to 63 letters a to z, digits and hyphens, with no hyphen at either end.",
                )
            )  # fmt: skip
        name = clean_name(name, "name", problems)
        if problems:
            raise InvalidError("The organisation cannot be added.", problems=problems)
        return organization_view(await self._parts.store.catalog.add_organization(id, name))

    async def page(
        self, among: Collection[str] | None = None, *, after: str | None = None, limit: int = 100
    ) -> FeedPage:
        """Gives organisations by id; ``among`` limits them to those that a caller reaches."""
        found = await self._parts.store.catalog.organizations(among, after=after, limit=limit + 1)
        items = [organization_view(o) for o in found[:limit]]
        return FeedPage(items=items, next=items[-1].id if len(found) > limit else None)

    async def get(self, org: str) -> OrganizationView:
        return organization_view(await self._parts.store.catalog.organization(org))
