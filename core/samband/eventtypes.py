"""The events samband tells others of: every type there is, and the shape of its data.

Data holds ids, states, counts and codes; never a member's data, never a secret. The models are closed on our side, so
that nothing else can slip in where an event is written; the published schemas are open. New types and new fields come
without notice and are not breaking: whoever listens ignores those it does not know. What a type says is never changed
otherwise; it gets a successor with a higher number at the end of its name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = [
    "EVENT_TYPES",
    "PING",
    "SUBSCRIPTION_DISABLED",
    "WILDCARD",
    "EventData",
    "check_data",
    "event_schema",
    "matches",
    "pattern_problem",
    "schema_path",
]

PREFIX: Final = "no.samband."
WILDCARD: Final = ".*"
"""The end of a filter that stands for every type with the same beginning."""

PING: Final = "no.samband.ping.v1"
SUBSCRIPTION_DISABLED: Final = "no.samband.subscription.disabled.v1"


class EventData(BaseModel):
    """What an event says besides its envelope."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class RunData(EventData):
    """A run's end, or its being held."""

    run: str = Field(description="The run's id.")
    state: str = Field(description="The run's state now.")
    operation: str = Field(description="What the run does, for instance sync or export.")
    code: str | None = Field(default=None, description="Why, as a stable code; absent when nothing went wrong.")


class RunSucceeded(RunData):
    """A run has ended well. Subject: ``run/<id>``. ``partial`` when single records failed."""


class RunFailed(RunData):
    """A run has failed and is not tried again by itself. Subject: ``run/<id>``."""


class RunHeld(RunData):
    """A run has stopped because it would change too much; a person has to decide. Subject: ``run/<id>``."""


class RunCancelled(RunData):
    """A run has been cancelled. What it had stored before stays. Subject: ``run/<id>``."""


class RecordsChanged(EventData):
    """A page of records was stored. Subject: ``integration/<id>``. The changes themselves are read from the feed."""

    run: str = Field(description="The run that read them.")
    stream: str = Field(description="The plugin's stream.")
    kind: str = Field(description="The record kind, for instance member.")
    page: int = Field(description="The page's id.")
    first_seq: int = Field(description="Number of its first change in the organisation's change feed.")
    last_seq: int = Field(description="Number of its last change; ask the feed for what comes after first_seq - 1.")
    created: int
    updated: int
    deleted: int


class ExportData(EventData):
    """What became of one exported item."""

    reimbursement: str = Field(description="Its id on our side.")
    integration: str = Field(description="The integration it was exported to.")
    state: str = Field(description="The item's state now.")
    key: str | None = Field(default=None, description="The idempotency key that travelled with it.")
    version: int | None = Field(default=None, description="Which version of the reimbursement.")
    run: str | None = Field(default=None, description="The run that sent it, or looked it up.")
    reference: str | None = Field(default=None, description="Their id for what was booked.")
    code: str | None = Field(default=None, description="Why, as a stable code.")
    field: str | None = Field(default=None, description="The field they refused.")


class ExportAccepted(ExportData):
    """The other side has taken an item. Subject: ``reimbursement/<id>``."""


class ExportStuck(ExportData):
    """The other side has an item that it cannot book as it is, and keeps it. Subject: ``reimbursement/<id>``.

    It is booked when somebody mends it there, and refused when its lines are removed there.
    """


class ExportRejected(ExportData):
    """The other side has refused an item. Subject: ``reimbursement/<id>``."""


class ExportUnknown(ExportData):
    """An item was sent and no answer came; it is looked up before anything else. Subject: ``reimbursement/<id>``."""


class ExportPosted(ExportData):
    """The other side has booked an item. Subject: ``reimbursement/<id>``."""


class ExportReleased(ExportData):
    """An item is over without having been booked, by a person's word; the claim is free. Subject: ``reimbursement/<id>``."""


class ExportSuperseded(ExportData):
    """A person has the claim exported once more, and nobody asks for this item again. Subject: ``reimbursement/<id>``."""


class CorrectionData(EventData):
    """How a change stands to a claim that is in the books already."""

    reimbursement: str = Field(description="Its id on our side.")
    correction: str = Field(description="The correction's id.")
    state: str = Field(description="The correction's state now.")
    item: str = Field(description="Key of the export item that the change is about.")
    reversal: str | None = Field(default=None, description="Key of the item that takes the booking back.")


class CorrectionProposed(CorrectionData):
    """A claim that is in the books was told differently; a person has to decide. Subject: ``reimbursement/<id>``."""


class CorrectionApproved(CorrectionData):
    """A person has agreed to a change; the reversal of the booking is reserved. Subject: ``reimbursement/<id>``."""


class CorrectionDismissed(CorrectionData):
    """A proposed change is not made. Subject: ``reimbursement/<id>``."""


class CorrectionDone(CorrectionData):
    """The booking is reversed, and the changed claim may be exported. Subject: ``reimbursement/<id>``."""


class IntegrationData(EventData):
    """How the connection of an integration stands now."""

    integration: str
    type: str = Field(description="The plugin's name.")
    connection: str = Field(description="The connection's state now.")
    before: str = Field(description="Its state before.")
    code: str | None = Field(default=None, description="Why, as a stable code.")


class NeedsReauthentication(IntegrationData):
    """An integration's access was refused; a person has to see to it. Subject: ``integration/<id>``."""


class Recovered(IntegrationData):
    """An integration works again. Subject: ``integration/<id>``."""


class AlertData(EventData):
    """Something a person should know of."""

    alert: int = Field(description="The alert's id.")
    kind: str = Field(description="What is wrong, as a stable code.")
    severity: Literal["critical", "warning"]
    integration: str | None = Field(default=None, description="The integration, where it concerns one.")
    type: str | None = Field(default=None, description="The plugin's name, where it concerns an integration.")
    run: str | None = Field(default=None, description="The run, where it concerns one.")


class AlertOpened(AlertData):
    """Trouble was found that a person should see to. Subject: what it is about."""


class AlertClosed(AlertData):
    """The trouble is over. Subject: as when it was opened."""


class ScheduleOverdue(EventData):
    """A planned run has not come. Subject: ``schedule/<id>`` or ``integration/<id>``."""

    integration: str
    schedule: str | None = None
    type: str | None = Field(default=None, description="The plugin's name.")
    alert: int | None = Field(default=None, description="The alert that was opened for it.")
    expected_by: str | None = Field(default=None, description="When it should have come, in ISO 8601.")


class CredentialsExpiring(EventData):
    """Credentials stop working soon. Subject: ``integration/<id>``."""

    integration: str
    type: str | None = Field(default=None, description="The plugin's name.")
    alert: int | None = Field(default=None, description="The alert that was opened for it.")
    expires_at: str | None = Field(default=None, description="When, in ISO 8601.")


class WebhookAlert(EventData):
    """Deliveries to an integration's webhook are refused too often, or have stopped. Subject: ``integration/<id>``."""

    integration: str
    kind: str = Field(description="What is wrong, as a stable code.")
    type: str | None = Field(default=None, description="The plugin's name.")
    alert: int | None = Field(default=None, description="The alert that was opened for it.")


class SubscriptionDisabled(EventData):
    """A subscription was switched off. Subject: ``subscription/<id>``. Others hear of it; it does not."""

    subscription: str
    reason: str = Field(
        description="gone: it answered 410 · failing: no attempt succeeded for days · person: somebody switched it off."
    )


class Ping(EventData):
    """Sent when somebody tests a subscription. It is not part of the feed and has no number."""

    subscription: str


EVENT_TYPES: Final[Mapping[str, type[EventData]]] = {
    "no.samband.run.succeeded.v1": RunSucceeded,
    "no.samband.run.failed.v1": RunFailed,
    "no.samband.run.held.v1": RunHeld,
    "no.samband.run.cancelled.v1": RunCancelled,
    "no.samband.records.changed.v1": RecordsChanged,
    "no.samband.export.accepted.v1": ExportAccepted,
    "no.samband.export.stuck.v1": ExportStuck,
    "no.samband.export.rejected.v1": ExportRejected,
    "no.samband.export.unknown.v1": ExportUnknown,
    "no.samband.export.posted.v1": ExportPosted,
    "no.samband.export.released.v1": ExportReleased,
    "no.samband.export.superseded.v1": ExportSuperseded,
    "no.samband.reimbursement.correction_proposed.v1": CorrectionProposed,
    "no.samband.reimbursement.correction_approved.v1": CorrectionApproved,
    "no.samband.reimbursement.correction_dismissed.v1": CorrectionDismissed,
    "no.samband.reimbursement.correction_done.v1": CorrectionDone,
    "no.samband.integration.needs_reauthentication.v1": NeedsReauthentication,
    "no.samband.integration.recovered.v1": Recovered,
    "no.samband.alert.opened.v1": AlertOpened,
    "no.samband.alert.closed.v1": AlertClosed,
    "no.samband.schedule.overdue.v1": ScheduleOverdue,
    "no.samband.credentials.expiring.v1": CredentialsExpiring,
    "no.samband.webhook.alert.v1": WebhookAlert,
    SUBSCRIPTION_DISABLED: SubscriptionDisabled,
    PING: Ping,
}
"""Every type, in the order the reference lists them."""


def check_data(type: str, data: Mapping[str, Any]) -> None:
    """Passes when an event of that type may say this.

    Raises:
        ValueError: The type is not listed here, or the data is not what its model says. Both are defects of whoever
            writes the event; the message names the fields and never a value.
    """
    model = EVENT_TYPES.get(type)
    if model is None:
        raise ValueError(f"{type} is no event type; add it to samband.eventtypes")
    try:
        model.model_validate(dict(data))
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, p['loc']))} ({p['type']})" for p in error.errors(include_input=False)]
        raise ValueError(f"the data of {type} is not what samband.eventtypes says: {', '.join(wrong)}") from None


def event_schema(type: str) -> dict[str, Any] | None:
    """Gives the JSON schema of a type's data, or None for a type there is not. It is open to fields of later times."""
    model = EVENT_TYPES.get(type)
    if model is None:
        return None
    drawn = model.model_json_schema()
    drawn.pop("additionalProperties", None)
    for name in ("title", "description"):
        drawn.pop(name, None)
    for drawn_field in drawn.get("properties", {}).values():
        drawn_field.pop("title", None)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": type}
    return head | {"description": " ".join((inspect.getdoc(model) or "").split())} | drawn


def schema_path(type: str) -> str:
    """Gives the address of a type's schema below the host's own."""
    return f"/schemas/events/{type}"


def matches(pattern: str, type: str) -> bool:
    """Tells whether a filter, a whole name or a beginning with ``.*``, lets a type through."""
    if pattern.endswith(WILDCARD):
        return type.startswith(pattern[: -len(WILDCARD)] + ".")
    return pattern == type


def pattern_problem(pattern: str) -> str | None:
    """Says why a filter cannot be meant, or None when it lets some type through."""
    if any(matches(pattern, type) for type in EVENT_TYPES):
        return None
    if pattern.endswith(WILDCARD):
        return "No event type begins like this; write for instance no.samband.run.*"
    return "There is no such event type; see /schemas/events for those there are."
