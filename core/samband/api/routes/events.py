"""Events: the feed of them, and the subscriptions they are sent to."""

from __future__ import annotations

import re
from typing import Annotated

import orjson
from aiohttp import web
from pydantic import ConfigDict, Field, JsonValue, model_validator

from samband.api.answers import Answer, Listing
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import After, Cursor, IfMatch, Input, Limit, OrgId, RowId
from samband.views.events import (
    DeliveryState,
    DeliveryView,
    EventsPage,
    EventTypeView,
    EventView,
    NewSecretView,
    PingView,
    ReplayView,
    SubscriptionView,
)

endpoints = Endpoints("Events")

_ORG = "/v1/organizations/{org}"
_ALL = _ORG + "/subscriptions"
_ONE = _ALL + "/{id}"
_ETAG = {"ETag": "The revision; send it as If-Match with the next edit."}
_GONE = ("subscription_not_found",)
_REVISION = re.compile(r'"([0-9]{1,15})"')
# None ever has it, so an ETag that is not one of ours ends as a mismatch.
_NO_REVISION = -1

Id = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$", description="The id.")]
TypeName = Annotated[str, Field(pattern="^[a-z0-9_.]{1,64}$", description="An event type's whole name.")]
TypeFilter = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9_.]{1,64}(\.\*)?$",
        description="An event type's name, or the beginning of several with .* at the end.",
    ),
]
Types = Annotated[list[TypeFilter], Field(max_length=50, description="Which events; empty for all of them.")]
Url = Annotated[
    str,
    Field(min_length=1, max_length=2000, description="https, port 443. Anyone who may read can see it: no secrets."),
]
Description = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$", description="For people.")]
_EXAMPLE_TYPES: list[JsonValue] = ["no.samband.run.*", "no.samband.records.changed.v1"]


class SubscriptionIn(Input):
    """A new subscription."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"url": "https://platform.example/hooks/samband", "types": _EXAMPLE_TYPES}]}
    )

    url: Url
    types: Types = Field(default_factory=list)
    description: Description = ""


class SubscriptionPatch(Input):
    """What to change; a field that is left out, or null, stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"types": _EXAMPLE_TYPES}]})

    url: Url | None = None
    types: Types | None = None
    description: Description | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> SubscriptionPatch:
        if self.url is None and self.types is None and self.description is None:
            raise ValueError("give url, types, description or several of them")
        return self


class SecretIn(Input):
    """How the change of the secret is to go."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap_s": 86400}]})

    overlap_s: int = Field(
        default=86_400, ge=0, le=7 * 86_400, description="For so long the secret before signs as well. 0 ends it now."
    )


class EnableIn(Input):
    """How a subscription is to go on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"catch_up": True}]})

    catch_up: bool = Field(
        default=True, description="Send what happened while it was disabled; false begins with the next event."
    )


class ReplayIn(Input):
    """Which events to send again: give one of the two."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"after": 1200}]})

    after: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = Field(
        default=None, description="Those after this number of the feed that the subscription's types let through."
    )
    ids: Annotated[list[Id], Field(min_length=1, max_length=500)] | None = Field(
        default=None, description="Exactly these, by their ids."
    )

    @model_validator(mode="after")
    def _says_which(self) -> ReplayIn:
        if (self.after is None) == (self.ids is None):
            raise ValueError("give either after or ids")
        return self


# ── the feed ─────────────────────────────────────────────────────────────────


@endpoints.add("GET", _ORG + "/events", verb="read", problems=("events_expired",))
async def list_events(
    call: Call, org: OrgId, after: After | None = None, limit: Limit = 100, type: TypeFilter | None = None
) -> EventsPage:
    """Lists events after a number, oldest first. Keep ``next`` and go on from it: nothing is passed over.

    Without ``after`` it begins with the oldest event that is kept. An empty part means that nothing has happened since.
    """
    return await call.service.events.after(org, after=after, limit=limit, type=type)


@endpoints.add("GET", _ORG + "/events/{id}", verb="read", problems=("event_not_found",))
async def get_event(call: Call, org: OrgId, id: Id) -> EventView:
    """Gives one event."""
    return await call.service.events.get(org, id)


@endpoints.add("GET", "/schemas/events", verb=None)
async def list_event_types(call: Call) -> Listing[EventTypeView]:
    """Lists every type of event, always whole. New ones come without notice: ignore those you do not know."""
    return Listing[EventTypeView].of(call.service.events.types())


@endpoints.add("GET", "/schemas/events/{type}", verb=None, problems=("event_type_not_found",))
async def get_event_schema(call: Call, type: TypeName) -> web.Response:
    """Gives the JSON schema of the data of a type of event."""
    return web.Response(body=orjson.dumps(call.service.events.schema(type)), content_type="application/json")


# ── subscriptions ────────────────────────────────────────────────────────────


@endpoints.add("GET", _ALL, verb="read")
async def list_subscriptions(
    call: Call, org: OrgId, after: Cursor | None = None, limit: Limit = 100
) -> Listing[SubscriptionView]:
    """Lists the organisation's subscriptions, oldest first."""
    return Listing[SubscriptionView].of(await call.service.subscriptions.page(org, after=after, limit=limit))


@endpoints.add(
    "POST",
    _ALL,
    verb="configure",
    status=201,
    problems=("subscription_limit",),
    headers={"Location": "The subscription."} | _ETAG,
)
async def create_subscription(call: Call, org: OrgId, body: SubscriptionIn) -> Answer[NewSecretView]:
    """Adds a subscription. Its signing secret is made here and shown this once.

    It begins with the next event; replay earlier ones if they are wanted.
    """
    made = await call.service.subscriptions.create(org, url=body.url, types=body.types, description=body.description)
    return Answer(value=made, headers={"Location": f"{_ALL.format(org=org)}/{made.id}", "ETag": _etag(made)})


@endpoints.add("GET", _ONE, verb="read", problems=_GONE, headers=_ETAG)
async def get_subscription(call: Call, org: OrgId, id: Id) -> Answer[SubscriptionView]:
    """Gives one subscription."""
    return _tagged(await call.service.subscriptions.get(org, id))


@endpoints.add("PATCH", _ONE, verb="configure", problems=(*_GONE, "revision_mismatch"), headers=_ETAG)
async def update_subscription(
    call: Call, org: OrgId, id: Id, body: SubscriptionPatch, if_match: IfMatch | None = None
) -> Answer[SubscriptionView]:
    """Changes the address, the types or the description of a subscription.

    Send the ETag you have read as If-Match to be refused when somebody else has changed it since.
    """
    changed = await call.service.subscriptions.update(
        org, id, url=body.url, types=body.types, description=body.description, if_revision=_revision(if_match)
    )
    return _tagged(changed)


@endpoints.add("DELETE", _ONE, verb="configure", problems=(*_GONE, "revision_mismatch"))
async def delete_subscription(call: Call, org: OrgId, id: Id, if_match: IfMatch | None = None) -> SubscriptionView:
    """Removes a subscription with everything that is known of its deliveries, and gives it as it last was."""
    return await call.service.subscriptions.delete(org, id, if_revision=_revision(if_match))


@endpoints.add("POST", _ONE + "/secret", verb="configure", problems=(*_GONE, "revision_mismatch"), headers=_ETAG)
async def replace_subscription_secret(
    call: Call, org: OrgId, id: Id, body: SecretIn | None = None, if_match: IfMatch | None = None
) -> Answer[NewSecretView]:
    """Makes a new signing secret, shown this once. For a while both sign: several signatures in one header."""
    overlap_s = (body or SecretIn()).overlap_s
    made = await call.service.subscriptions.replace_secret(
        org, id, overlap_s=overlap_s, if_revision=_revision(if_match)
    )
    return Answer(value=made, headers={"ETag": _etag(made)})


@endpoints.add("POST", _ONE + "/test", verb="configure", problems=_GONE)
async def test_subscription(call: Call, org: OrgId, id: Id) -> PingView:
    """Sends a ping and tells what came back. Trouble at the other side is an answer, not a problem."""
    return await call.service.subscriptions.test(org, id)


@endpoints.add("POST", _ONE + "/enable", verb="configure", problems=_GONE, headers=_ETAG)
async def enable_subscription(call: Call, org: OrgId, id: Id, body: EnableIn | None = None) -> Answer[SubscriptionView]:
    """Switches a subscription on. Safe to call again."""
    return _tagged(await call.service.subscriptions.enable(org, id, catch_up=(body or EnableIn()).catch_up))


@endpoints.add("POST", _ONE + "/disable", verb="configure", problems=_GONE, headers=_ETAG)
async def disable_subscription(call: Call, org: OrgId, id: Id) -> Answer[SubscriptionView]:
    """Switches a subscription off. Nothing is sent until it is switched on again; safe to call again."""
    return _tagged(await call.service.subscriptions.disable(org, id))


@endpoints.add(
    "POST",
    _ONE + "/replay",
    verb="operate",
    status=202,
    problems=(*_GONE, "subscription_disabled", "events_expired"),
)
async def replay_events(call: Call, org: OrgId, id: Id, body: ReplayIn) -> ReplayView:
    """Has events sent again, marked with the header ``Samband-Replay``. Their ids stay the same."""
    return await call.service.subscriptions.replay(org, id, after=body.after, ids=body.ids or [])


@endpoints.add("GET", _ONE + "/deliveries", verb="read", problems=_GONE)
async def list_deliveries(
    call: Call, org: OrgId, id: Id, after: RowId | None = None, limit: Limit = 50, state: DeliveryState | None = None
) -> Listing[DeliveryView]:
    """Lists what became of each event that was to be sent, newest first, with every attempt."""
    page = await call.service.subscriptions.deliveries(org, id, state=state, after=after, limit=limit)
    return Listing[DeliveryView].of(page)


def _tagged(subscription: SubscriptionView) -> Answer[SubscriptionView]:
    return Answer(value=subscription, headers={"ETag": _etag(subscription)})


def _etag(subscription: SubscriptionView) -> str:
    return f'"{subscription.revision}"'


def _revision(if_match: str | None) -> int | None:
    if if_match is None or if_match == "*":
        return None
    match = _REVISION.fullmatch(if_match)
    return int(match[1]) if match else _NO_REVISION
