"""The typed client: one method for each operation, the areas around them by name."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from samband.client.wire import Wire
from samband.errors import NotReadyError
from samband.views import (
    ChangeView,
    CheckView,
    IntegrationView,
    OrganizationView,
    OutcomeView,
    RecordView,
    RunView,
    StatusView,
)
from samband.views.exports import ExportItemView, ExportView, ReimbursementView
from samband.views.runs import StartedView
from samband.views.schedules import CancelledScheduleView, ScheduleView
from samband.views.tokens import TokenView

__all__ = ["Client"]

V = TypeVar("V", bound=BaseModel)

_FIRST_LOOK_S = 0.05
_LAST_LOOK_S = 1.0


class Client:
    """A samband host as a typed object.

    Args:
        url: The host's address.
        key: An API key, ``smb_…``.
        timeout_s: Time limit of one request.
        patience_s: How long a host that is away, or asks to wait, is asked again; every order is safe to repeat.
    """

    def __init__(self, url: str, key: str, *, timeout_s: float = 60.0, patience_s: float = 30.0) -> None:
        self.wire = Wire(url, key, timeout_s=timeout_s, patience_s=patience_s)

    @classmethod
    def over(cls, wire: Wire) -> Client:
        """Gives a client that asks over a wire which somebody else opens and closes."""
        made = cls.__new__(cls)
        made.wire = wire
        return made

    async def __aenter__(self) -> Client:
        await self.wire.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.wire.__aexit__(*error)

    # ── the ten operations ───────────────────────────────────────────────────

    async def trigger_sync(
        self, organization: str, type: str, *, streams: Sequence[str] | None = None, full: bool = False,
        idempotency_key: str | None = None,
    ) -> RunView:  # fmt: skip
        """Orders a sync and gives its run at once; `AlreadyRunningError` names the one that is still alive."""
        body: dict[str, Any] = {"full": full} | ({} if streams is None else {"streams": list(streams)})
        reply = await self.wire.request(
            "POST", integration_path(organization, type) + "/runs", body=body, key=idempotency_key
        )
        return parsed(RunView, reply.document).model_copy(update={"replayed": reply.is_replay})

    async def get_integration_status(self, organization: str, type: str) -> StatusView:
        """Tells how an integration is doing."""
        return parsed(StatusView, await self.wire.get(integration_path(organization, type) + "/status"))

    async def get_last_sync_result(self, organization: str, type: str) -> RunView:
        """Gives the newest run; `NotFoundError` when there was none."""
        return parsed(RunView, await self.wire.get(integration_path(organization, type) + "/runs/latest"))

    async def schedule_sync(
        self, organization: str, type: str, *, cron: str | None = None, interval_s: int | None = None,
        zone: str = "Europe/Oslo", name: str = "default", if_match: str | None = None, **further: Any,
    ) -> ScheduleView:  # fmt: skip
        """Has an integration read by itself, by a cron expression in a zone or by an interval.

        Args:
            name: An integration may have several, for instance a full read at night and a delta every half hour.
            further: ``streams``, ``full``, ``overlap``, ``catch_up``, ``misfire_grace_s``, ``jitter_s``.
        """
        timing = {"cron": cron} if interval_s is None else {"interval_s": interval_s}
        body = {**timing, "zone": zone, **further}
        return parsed(
            ScheduleView, await self.wire.put(_schedule_path(organization, type, name), body, if_match=if_match)
        )

    async def cancel_scheduled_sync(
        self, organization: str, type: str, *, name: str = "default", if_match: str | None = None
    ) -> CancelledScheduleView:
        """Stops reading an integration by itself; a run that has begun goes on."""
        path = _schedule_path(organization, type, name)
        return parsed(CancelledScheduleView, await self.wire.delete(path, if_match=if_match))

    async def sync_membership_data(self, organization: str, *, full: bool = False) -> StartedView:
        """Starts one run for each integration that brings members or memberships."""
        path = organization_path(organization) + "/memberships/sync"
        return parsed(StartedView, await self.wire.post(path, {"full": full}))

    async def sync_course_enrollments(self, organization: str, *, full: bool = False) -> StartedView:
        """Starts one run for each integration that brings course enrolments."""
        path = organization_path(organization) + "/course-enrollments/sync"
        return parsed(StartedView, await self.wire.post(path, {"full": full}))

    async def refresh_oauth_token(self, integration_id: str) -> TokenView:
        """Has an integration's token renewed now; the token itself is never shown."""
        return parsed(
            TokenView, await self.wire.post(f"/v1/integrations/{quote(integration_id, safe='')}/token/refresh")
        )

    async def process_webhook_event(
        self, source: str, payload: bytes, *, headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> str:  # fmt: skip
        """Hands a delivery over as its sender would, without our key; gives ``accepted``, ``repeated`` or ``ignored``.

        Args:
            source: What stands behind ``/webhooks/`` in the address: the integration's type, a slash and the key.
            payload: The raw body, byte for byte.
            headers: The sender's, signature included.
            query: For senders that prove themselves in the address.
        """
        reply = await self.wire.request(
            "POST", f"/webhooks/{source}", raw=payload, headers=headers, query=query, with_key=False
        )
        return str(reply.document.get("outcome", "accepted"))

    async def export_reimbursements(
        self, organization: str, ids: Sequence[str] | None = None, *, type: str | None = None
    ) -> ExportView:
        """Sends approved claims to the books; None sends all that have not gone out."""
        body = {"ids": None if ids is None else list(ids), "type": type}
        document = await self.wire.post(organization_path(organization) + "/reimbursements/export", body)
        return parsed(ExportView, document)

    # ── runs ─────────────────────────────────────────────────────────────────

    async def run(self, organization: str, run_id: str) -> RunView:
        """Gives one run."""
        return parsed(RunView, await self.wire.get(f"{organization_path(organization)}/runs/{quote(run_id, safe='')}"))

    async def wait(self, run: RunView, *, told: Callable[[RunView], None] = lambda run: None) -> RunView:
        """Follows a run until it has ended or waits for a person's decision, and tells every look."""
        pause_s = _FIRST_LOOK_S
        while run.is_live and run.state != "held":
            await asyncio.sleep(pause_s)
            pause_s = min(_LAST_LOOK_S, pause_s * 1.3)
            run = await self.run(run.organization, run.id)
            told(run)
        return run

    def outcomes(self, run: RunView, *, outcome: str | None = None) -> AsyncIterator[OutcomeView]:
        """Yields what became of each record of a run; unchanged ones are only counted."""
        path = f"{organization_path(run.organization)}/runs/{run.id}/outcomes"
        return self._each(OutcomeView, path, outcome=outcome)

    # ── organisations, integrations, records ─────────────────────────────────

    async def create_organization(self, id: str, name: str) -> OrganizationView:
        return parsed(OrganizationView, await self.wire.post("/v1/organizations", {"id": id, "name": name}))

    async def create_integration(
        self, organization: str, type: str, *, settings: Mapping[str, Any],
        credentials: Mapping[str, Any] | None = None, display_name: str = "",
    ) -> IntegrationView:  # fmt: skip
        """Connects an organisation to a system; test it and enable it in steps of their own."""
        body: dict[str, Any] = {"type": type, "display_name": display_name, "settings": dict(settings)}
        if credentials is not None:
            body["credentials"] = dict(credentials)
        return parsed(IntegrationView, await self.wire.post(organization_path(organization) + "/integrations", body))

    async def integration(self, organization: str, type: str) -> IntegrationView:
        return parsed(IntegrationView, await self.wire.get(integration_path(organization, type)))

    async def test_integration(self, organization: str, type: str) -> CheckView:
        """Tries the connection with one light read. Trouble at the other side is the answer, not an error."""
        return parsed(CheckView, await self.wire.post(integration_path(organization, type) + "/test"))

    async def enable_integration(self, organization: str, type: str) -> IntegrationView:
        return parsed(IntegrationView, await self.wire.post(integration_path(organization, type) + "/enable"))

    async def disable_integration(self, organization: str, type: str) -> IntegrationView:
        return parsed(IntegrationView, await self.wire.post(integration_path(organization, type) + "/disable"))

    def records(self, organization: str, kind: str) -> AsyncIterator[RecordView]:
        """Yields an organisation's records of a kind, in the order they were first seen."""
        return self._each(RecordView, f"{organization_path(organization)}/records/{quote(kind, safe='')}")

    def changes(self, organization: str, *, after: int = 0, kind: str | None = None) -> AsyncIterator[ChangeView]:
        """Yields what changed after a sequence number, up to now; keep the last one's ``seq`` for the next time."""
        return self._each(ChangeView, f"{organization_path(organization)}/changes", after=after, kind=kind)

    async def put_reimbursement(
        self, organization: str, id: str, values: Mapping[str, Any], *, if_match: str | None = None
    ) -> ReimbursementView:
        """Adds a claim or replaces it by its next version; telling the same again changes nothing."""
        path = f"{organization_path(organization)}/reimbursements/{quote(id, safe='')}"
        return parsed(ReimbursementView, await self.wire.put(path, values, if_match=if_match))

    def export_items(
        self, organization: str, *, state: str | None = None, reimbursement: str | None = None
    ) -> AsyncIterator[ExportItemView]:
        """Yields what became of claims that were sent away."""
        path = organization_path(organization) + "/exports"
        return self._each(ExportItemView, path, state=state, reimbursement=reimbursement)

    async def _each(self, view: type[V], path: str, **query: Any) -> AsyncIterator[V]:
        async for item in self.wire.each(path, **query):
            yield parsed(view, item)


def organization_path(organization: str) -> str:
    """Gives the address of an organisation on the host."""
    return f"/v1/organizations/{quote(organization, safe='')}"


def integration_path(organization: str, type: str) -> str:
    """Gives the address of an integration on the host."""
    return f"{organization_path(organization)}/integrations/{quote(type, safe='')}"


def _schedule_path(organization: str, type: str, name: str) -> str:
    base = integration_path(organization, type)
    return f"{base}/schedule" if name == "default" else f"{base}/schedules/{quote(name, safe='')}"


def parsed(view: type[V], document: Any) -> V:
    """Gives a view; fields that a newer host has added are left out.

    Raises:
        NotReadyError: The answer is not of this shape; the host is of another version.
    """
    try:
        return view.model_validate(document, extra="ignore")
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, one["loc"])) for one in error.errors(include_input=False)}))
        raise NotReadyError(
            f"The host's answer is not understood here: {fields}.",
            code="answer_not_understood",
            hint="The host is of another version than this client; bring both to the same one.",
        ) from None


def instant(value: dt.datetime) -> str:
    """Gives an instant as the API takes it."""
    return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
