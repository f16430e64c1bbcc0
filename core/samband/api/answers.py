"""What a handler hands back: a view, a part of a listing, or either with headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from samband.views import FeedPage, IntegrationView

__all__ = ["Answer", "Listing", "etag", "run_location"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[T]):
    """A value with headers.

    Attributes:
        status: One of those the endpoint has besides its own; None for its own.
    """

    value: T
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int | None = None


class Listing(BaseModel, Generic[T]):
    """A part of a listing, in the shape of `samband.views.FeedPage` but with the type of its items."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: list[T]
    next: str | None = Field(default=None, description="The after= of the following part; null at the end.")

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """Gives the name the shape has in the OpenAPI document, for instance ``RunListing``."""
        return f"{params[0].__name__.removesuffix('View')}Listing"

    @classmethod
    def of(cls, page: FeedPage | Iterable[T]) -> Listing[T]:
        """Gives the listing for a page of the service, or for a list that is complete."""
        if isinstance(page, FeedPage):
            return cls(items=page.items, next=page.next)
        return cls(items=list(page))


def etag(integration: IntegrationView) -> str:
    """Gives the entity tag of an integration: its revision, quoted."""
    return f'"{integration.revision}"'


def run_location(org: str, run_id: str) -> str:
    """Gives the address of a run."""
    return f"/v1/organizations/{org}/runs/{run_id}"
