"""The feed of events, and the subscriptions that events are sent to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from samband.errors import FieldProblem, InvalidError, NotFoundError, RemoteError, ServiceError
from samband.eventtypes import EVENT_TYPES, PING, event_schema, pattern_problem, schema_path
from samband.http import Outbound
from samband.http.posting import Poster, checked_address, new_secret, signed_headers
from samband.service.parts import Parts
from samband.store.ids import new_id
from samband.store.models import EventAttempt, EventDelivery, Outbox, Subscription
from samband.views import FeedPage
from samband.views.events import (
    AttemptView,
    DeliveryView,
    EventsPage,
    EventTypeView,
    EventView,
    NewSecretView,
    PingView,
    ReplayView,
    SubscriptionView,
    event_view,
)

OVERLAP_S = 24 * 3600.0
"""How long a replaced secret goes on signing beside the new one, unless told otherwise."""


class Events:
    """What happened, for those who ask."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def after(
        self, org: str, *, after: int | None = None, limit: int = 100, type: str | None = None
    ) -> EventsPage:
        """Gives events after a number, in order, without gaps. An empty part means: ask again with its ``next``.

        Args:
            after: The last number that was seen; None begins with the oldest event that is kept.
            type: Only these: a name, or a beginning with ``.*``. The numbers then have gaps, and ``next`` moves on all
                the same.

        Raises:
            ServiceError: Code ``events_expired``: what came after that number is no longer kept.
        """
        await self._parts.store.catalog.organization(org)
        types = [] if type is None else _checked_types([type], "type")
        read = await self._parts.store.events.after(org, after or 0, limit=limit + 1, types=types)
        if after is not None and after < read.oldest - 1:
            raise expired(read.oldest)
        items = [self._event(row) for row in read.rows[:limit]]
        has_more = len(read.rows) > limit
        upto = read.rows[limit - 1].seq if has_more else max(read.newest, after or 0)
        return EventsPage(items=items, next=upto, has_more=has_more)

    async def get(self, org: str, event_id: str) -> EventView:
        await self._parts.store.catalog.organization(org)
        return self._event(await self._parts.store.events.get(org, event_id))

    def types(self) -> list[EventTypeView]:
        """Gives every type of event."""
        schemas = {type: event_schema(type) or {} for type in EVENT_TYPES}
        return [
            EventTypeView(
                type=type, description=schema["description"], dataschema=self._parts.public_url + schema_path(type)
            )
            for type, schema in schemas.items()
        ]  # fmt: skip

    def schema(self, type: str) -> dict[str, object]:
        """Gives the JSON schema of a type's data."""
        schema = event_schema(type)
        if schema is None:
            raise NotFoundError(
                "There is no such event type.",
                code="event_type_not_found",
                hint="See /schemas/events for those there are.",
            )
        return schema

    def _event(self, row: Outbox) -> EventView:
        return event_view(
            id=row.event_id, organization_id=row.organization_id, type=row.type, subject=row.subject,
            at=row.created_at, data=row.data, seq=row.seq, public_url=self._parts.public_url,
            schema_path=schema_path(row.type),
        )  # fmt: skip


class Subscriptions:
    """Addresses that events are sent to."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store.subscriptions

    async def create(
        self, org: str, *, url: str, types: Sequence[str] = (), description: str = ""
    ) -> NewSecretView:  # fmt: skip
        """Adds an address; the signing secret is in the answer, this once. It begins with the next event."""
        await self._parts.store.catalog.organization(org)
        problems = [*self._address_problems(url), *_type_problems(types, "types")]
        if problems:
            raise InvalidError("The subscription cannot be saved.", problems=problems)
        secret = self._new_secret()
        row = await self._store.add(
            org, url=url, description=description, types=list(dict.fromkeys(types)), secret=secret
        )
        return NewSecretView(**(await self._view(row)).model_dump(), secret=secret)

    async def page(self, org: str, *, after: str | None = None, limit: int = 100) -> FeedPage:
        await self._parts.store.catalog.organization(org)
        rows = await self._store.page(org, after=after, limit=limit + 1)
        counts = await self._store.counts([row.id for row in rows[:limit]])
        items = [_subscription_view(row, counts.get(row.id, {})) for row in rows[:limit]]
        return FeedPage(items=items, next=items[-1].id if len(rows) > limit else None)

    async def get(self, org: str, id: str) -> SubscriptionView:
        return await self._view(await self._found(org, id))

    async def update(
        self, org: str, id: str, *, url: str | None = None, types: Sequence[str] | None = None,
        description: str | None = None, if_revision: int | None = None,
    ) -> SubscriptionView:  # fmt: skip
        """Changes what is given; a new filter holds for events that have no delivery yet."""
        await self._found(org, id)
        problems = [] if url is None else self._address_problems(url)
        problems += [] if types is None else _type_problems(types, "types")
        if problems:
            raise InvalidError("The subscription cannot be changed.", problems=problems)
        wanted = None if types is None else list(dict.fromkeys(types))
        row = await self._store.change(org, id, if_revision=if_revision, url=url, description=description, types=wanted)
        return await self._view(row)

    async def delete(self, org: str, id: str, *, if_revision: int | None = None) -> SubscriptionView:
        """Removes a subscription with its deliveries, and gives it as it last was."""
        view = await self._view(await self._found(org, id))
        await self._store.delete(org, id, if_revision=if_revision)
        return view

    async def replace_secret(
        self, org: str, id: str, *, overlap_s: float = OVERLAP_S, if_revision: int | None = None
    ) -> NewSecretView:
        """Makes a new signing secret. The one before signs beside it for ``overlap_s`` seconds."""
        await self._found(org, id)
        secret = self._new_secret()
        row = await self._store.replace_secret(
            org, id, secret, overlap_s=overlap_s, now=_now(), if_revision=if_revision
        )
        return NewSecretView(**(await self._view(row)).model_dump(), secret=secret)

    async def test(self, org: str, id: str) -> PingView:
        """Sends a ping, signed as events are, and tells what came back. The state of the subscription stays as it is."""
        row = await self._found(org, id)
        now = _now()
        event = event_view(
            id=new_id(), organization_id=org, type=PING, subject=f"subscription/{id}", at=now,
            data={"subscription": id}, seq=None, public_url=self._parts.public_url, schema_path=schema_path(PING),
        )  # fmt: skip
        body = event.document()
        headers = signed_headers(id=event.id, at=now, body=body, secrets=self._store.secrets(row, now))
        outbound = Outbound(policy=self._parts.egress, redactor=self._parts.redactor)
        try:
            posted = await Poster(outbound).post(
                row.url, body, headers | {"Content-Type": "application/cloudevents+json", "Samband-Attempt": "1"}
            )
        finally:
            await outbound.close()
        await self._store.note_tested(org, id, {"ok": posted.is_success, "status": posted.status})
        return PingView(
            ok=posted.is_success, event=event, status=posted.status, duration_ms=posted.duration_ms,
            error=posted.error, message=posted.message,
        )  # fmt: skip

    async def enable(self, org: str, id: str, *, catch_up: bool = True) -> SubscriptionView:
        """Switches a subscription on; see `samband.store.subscriptions.Subscriptions.enable`."""
        await self._found(org, id)
        return await self._view(await self._store.enable(org, id, catch_up=catch_up, now=_now()))

    async def disable(self, org: str, id: str) -> SubscriptionView:
        """Switches a subscription off. What is pending waits until it is switched on again."""
        await self._found(org, id)
        return await self._view(await self._store.disable(org, id))

    async def replay(self, org: str, id: str, *, after: int | None = None, ids: Sequence[str] = ()) -> ReplayView:
        """Has events sent again, marked as a replay: those after a number, or chosen ones. Their ids stay.

        Of those after a number it takes the oldest 10,000; the answer's ``next`` says where to go on.
        """
        await self._found(org, id)
        if after is not None:
            oldest = (await self._parts.store.events.after(org, 0, limit=1)).oldest
            if after < oldest - 1:
                raise expired(oldest)
        made, next = await self._parts.store.fan_out.replay(org, id, after=after, event_ids=list(ids), now=_now())
        return ReplayView(replayed=made, next=next)

    async def deliveries(
        self, org: str, id: str, *, state: str | None = None, after: int | None = None, limit: int = 50
    ) -> FeedPage:
        """Gives what became of each event, newest first, with every attempt."""
        await self._found(org, id)
        rows = await self._parts.store.deliveries.page(org, id, state=state, before=after, limit=limit + 1)
        items = [_delivery_view(row, attempts) for row, attempts in rows[:limit]]
        return FeedPage(items=items, next=str(items[-1].id) if len(rows) > limit else None)

    async def _found(self, org: str, id: str) -> Subscription:
        await self._parts.store.catalog.organization(org)
        return await self._store.get(org, id)

    async def _view(self, row: Subscription) -> SubscriptionView:
        return _subscription_view(row, (await self._store.counts([row.id])).get(row.id, {}))

    def _new_secret(self) -> str:
        secret = new_secret()
        self._parts.redactor.add(secret)
        return secret

    def _address_problems(self, url: str) -> list[FieldProblem]:
        try:
            checked_address(self._parts.egress, url)
        except RemoteError as error:
            return [FieldProblem(field="url", code="address_refused", message=str(error))]
        return []


def expired(oldest: int) -> ServiceError:
    """Gives the answer to a reader who was away for longer than events are kept."""
    return ServiceError(
        f"Events before number {oldest} are no longer kept.",
        code="events_expired",
        hint=f"Read what you hold anew, then go on with after={oldest - 1}.",
    )


def _checked_types(types: Sequence[str], field: str) -> list[str]:
    problems = _type_problems(types, field)
    if problems:
        raise InvalidError("The types cannot be meant.", problems=problems)
    return list(types)


def _type_problems(types: Sequence[str], field: str) -> list[FieldProblem]:
    found = ((n, pattern_problem(pattern)) for n, pattern in enumerate(types))
    return [
        FieldProblem(field=f"{field}.{n}" if len(types) > 1 else field, code="unknown_event_type", message=problem)
        for n, problem in found
        if problem is not None
    ]


def _subscription_view(row: Subscription, counts: dict[str, int]) -> SubscriptionView:
    return SubscriptionView(
        id=row.id, organization=row.organization_id, url=row.url, description=row.description, types=list(row.types),
        state=row.state, reason=row.reason, failing_since=row.failing_since, secret_hint=row.hint,
        position=row.fanned_seq, pending=counts.get("pending", 0), exhausted=counts.get("exhausted", 0),
        created_at=row.created_at, updated_at=row.updated_at, revision=row.revision,
    )  # fmt: skip


def _delivery_view(row: EventDelivery, attempts: Sequence[EventAttempt]) -> DeliveryView:
    return DeliveryView(
        id=row.id or 0, event=row.event_id, sequence=row.seq, type=row.type, subject=row.subject, state=row.state,
        is_replay=row.is_replay, status=row.status, error=row.error,
        next_attempt_at=row.next_at if row.state == "pending" else None,
        created_at=row.created_at, finished_at=row.finished_at,
        attempts=[
            AttemptView(number=a.number, at=a.at, status=a.status, duration_ms=a.duration_ms, error=a.error)
            for a in attempts
        ],
    )  # fmt: skip


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
