"""Events, the subscriptions they are sent to, and what became of each sending."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal

import orjson
from pydantic import Field

from samband.views.shapes import View

__all__ = [
    "AttemptView",
    "DeliveryState",
    "DeliveryView",
    "EventTypeView",
    "EventView",
    "EventsPage",
    "NewSecretView",
    "PingView",
    "ReplayView",
    "SubscriptionState",
    "SubscriptionView",
    "event_view",
]

SubscriptionState = Literal["enabled", "disabled"]
DeliveryState = Literal["pending", "delivered", "exhausted", "skipped"]


class EventView(View):
    """An event in a CloudEvents 1.0 envelope: the same document in the feed and in what is sent to subscribers."""

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(description="Stays the same however often the event is sent. Remember it to recognise a repeat.")
    source: str = Field(description="Whose event it is: /organizations/ and the organisation's id.")
    type: str
    subject: str = Field(description="What it is about; events of one subject are delivered in their order.")
    time: str = Field(description="When it was committed, in UTC.")
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str | None = Field(
        default=None, description="Where the schema of data is served; absent when the host does not know its address."
    )
    organization: str
    sequence: int | None = Field(
        default=None, description="Its number in the organisation's feed, without gaps. A ping has none."
    )
    data: dict[str, Any] = Field(description="Ids, states, counts and codes, as the type's schema says.")

    def document(self) -> bytes:
        """Gives the bytes that are sent and signed: the same for the same event, every time."""
        told = {name: value for name, value in self.model_dump().items() if value is not None}
        return orjson.dumps(told)


def event_view(
    *, id: str, organization_id: str, type: str, subject: str, at: dt.datetime, data: Mapping[str, Any],
    seq: int | None, public_url: str, schema_path: str,
) -> EventView:  # fmt: skip
    """Puts an event into its envelope.

    Args:
        public_url: Where the world reaches the host; CloudEvents wants an absolute ``dataschema`` or none.
        schema_path: Of the type's schema, below that.
    """
    return EventView(
        id=id, source=f"/organizations/{organization_id}", type=type, subject=subject,
        time=at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        dataschema=f"{public_url}{schema_path}" if public_url else None, organization=organization_id, sequence=seq,
        data=dict(data),
    )  # fmt: skip


class EventsPage(View):
    """A part of the feed. ``next`` is always there: an empty part means that nothing has happened yet; ask again."""

    items: list[EventView]
    next: int = Field(description="The after= of the following part.")
    has_more: bool


class EventTypeView(View):
    """A type of event, and where its schema is."""

    type: str
    description: str
    dataschema: str


class SubscriptionView(View):
    """An address that events of an organisation are sent to."""

    id: str
    organization: str
    url: str
    description: str
    types: list[str] = Field(description="Names, or beginnings with .*, of the types that are sent; empty for all.")
    state: SubscriptionState
    reason: str = Field(description="Why it is disabled: gone, failing or person. Empty while it is enabled.")
    failing_since: dt.datetime | None = Field(
        default=None, description="Since when no attempt has succeeded; null after a success."
    )
    secret_hint: str = Field(description="The last four characters of the newest signing secret.")
    position: int = Field(description="Deliveries have been made for every event up to this number.")
    pending: int = Field(description="Deliveries that have not succeeded yet and are still tried.")
    exhausted: int = Field(description="Deliveries that were given up after their last attempt. Replay them.")
    created_at: dt.datetime
    updated_at: dt.datetime
    revision: int = Field(description="Raised by every edit; the ETag of the resource.")


class NewSecretView(SubscriptionView):
    """A subscription together with a signing secret that was made just now. It is shown this once."""

    secret: str = Field(description="whsec_ and 32 random bytes in base64, for a Standard Webhooks library.")


class PingView(View):
    """What came back from a test. Trouble at the other side is the answer, not a problem."""

    ok: bool
    event: EventView
    status: int | None = Field(default=None, description="The status they answered; null when no answer came.")
    duration_ms: int
    error: str = Field(default="", description="Why it would count as a failure, as a code.")
    message: str = Field(default="", description="The same in a sentence.")


class ReplayView(View):
    """How many events will be sent again. Those that are still on their way are not counted and not doubled."""

    replayed: int
    next: int | None = Field(
        default=None,
        description="There are more than the 10,000 that one call takes: call again with this number as ``after``.",
    )


class AttemptView(View):
    """One try at one delivery. Without status and error no outcome was noted: the process that made it died."""

    number: int
    at: dt.datetime
    status: int | None = None
    duration_ms: int
    error: str = ""


class DeliveryView(View):
    """One event on its way to one subscriber."""

    id: int
    event: str = Field(description="The event's id.")
    sequence: int
    type: str
    subject: str
    state: DeliveryState
    is_replay: bool
    status: int | None = Field(default=None, description="The status of the last answer.")
    error: str = ""
    next_attempt_at: dt.datetime | None = Field(default=None, description="While it is pending.")
    created_at: dt.datetime
    finished_at: dt.datetime | None = None
    attempts: list[AttemptView] = Field(description="Oldest first.")
