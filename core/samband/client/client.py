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
from samband.views.exports import BatchView, ExportItemView, ExportPreviewView, ExportView, RepeatView
from samband.views.files import AcknowledgementView, DropTestView, DropView, ExportFileView
from samband.views.mappings import (
    ChartEntryView,
    ChartPartView,
    ChartReadingView,
    MappingCheckView,
    MappingDiffView,
    MappingPreviewView,
    MappingVersionView,
    MappingView,
)
from samband.views.reconciliation import ReconciliationView
from samband.views.reimbursements import (
    CorrectionView,
    ReimbursementView,
    TellingView,
    TimelineView,
    VersionView,
)
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
        self, organization: str, ids: Sequence[str] | None = None, *, type: str | None = None,
        since: str | None = None, until: str | None = None, exclude: Mapping[str, str] | None = None,
        route: str | None = None,
    ) -> ExportView:  # fmt: skip
        """Sends approved claims to the books; None sends all that have not gone out.

        Args:
            organization: Whose.
            ids: Which.
            type: Where to, when several integrations take claims.
            since: Without ids: approved on this day or later, as ``2026-03-01``.
            until: Without ids: approved on this day or earlier.
            exclude: Claim → why it is left out.
            route: ``file`` or ``download``.
        """
        body = export_order(ids, type=type, since=since, until=until, exclude=exclude, route=route)
        document = await self.wire.post(organization_path(organization) + "/reimbursements/export", body)
        return parsed(ExportView, document)

    async def preview_export(
        self, organization: str, ids: Sequence[str] | None = None, *, type: str | None = None,
        since: str | None = None, until: str | None = None, exclude: Mapping[str, str] | None = None,
        route: str | None = None,
    ) -> ExportPreviewView:  # fmt: skip
        """Tells what the same order would come to now; nothing is written."""
        body = export_order(ids, type=type, since=since, until=until, exclude=exclude, route=route)
        document = await self.wire.post(organization_path(organization) + "/reimbursements/export/preview", body)
        return parsed(ExportPreviewView, document)

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
        return parsed(ReimbursementView, await self.wire.put(claim_path(organization, id), values, if_match=if_match))

    async def put_reimbursements(self, organization: str, claims: Sequence[Mapping[str, Any]]) -> TellingView:
        """Tells up to 1,000 claims at once, each with its ``id``; those that are well are stored whatever the others are."""
        path = organization_path(organization) + "/reimbursements"
        return parsed(TellingView, await self.wire.put(path, {"items": [dict(claim) for claim in claims]}))

    def reimbursement_versions(self, organization: str, id: str) -> AsyncIterator[VersionView]:
        """Yields a claim as it was told each time, newest first."""
        return self._each(VersionView, claim_path(organization, id) + "/versions")

    async def reimbursement_timeline(self, organization: str, id: str) -> TimelineView:
        """Tells where the money of a claim is."""
        return parsed(TimelineView, await self.wire.get(claim_path(organization, id) + "/timeline"))

    def corrections(
        self, organization: str, *, state: str | None = None, reimbursement: str | None = None
    ) -> AsyncIterator[CorrectionView]:
        """Yields changes to claims that are in the books, oldest first."""
        path = organization_path(organization) + "/corrections"
        return self._each(CorrectionView, path, state=state, reimbursement=reimbursement)

    async def correction(self, organization: str, id: str) -> CorrectionView:
        return parsed(CorrectionView, await self.wire.get(correction_path(organization, id)))

    async def approve_correction(self, organization: str, id: str, *, reason: str = "") -> CorrectionView:
        """Agrees to a change: the booking is reversed, and the claim takes its new version."""
        path = correction_path(organization, id) + "/approve"
        return parsed(CorrectionView, await self.wire.post(path, {"reason": reason}))

    async def dismiss_correction(self, organization: str, id: str, *, reason: str) -> CorrectionView:
        """Closes a proposed change; the claim stays as it is."""
        path = correction_path(organization, id) + "/dismiss"
        return parsed(CorrectionView, await self.wire.post(path, {"reason": reason}))

    def export_items(
        self, organization: str, *, state: str | None = None, reimbursement: str | None = None
    ) -> AsyncIterator[ExportItemView]:
        """Yields what became of claims that were sent away."""
        path = organization_path(organization) + "/exports"
        return self._each(ExportItemView, path, state=state, reimbursement=reimbursement)

    async def export_again(self, organization: str, id: str, *, reason: str, type: str | None = None) -> RepeatView:
        """Exports a claim once more, under a new key and number."""
        path = claim_path(organization, id) + "/export-again"
        return parsed(RepeatView, await self.wire.post(path, {"reason": reason, "type": type}))

    async def resolve_export(
        self, organization: str, key: str, *, outcome: str, reason: str, reference: str | None = None
    ) -> ExportItemView:
        """Settles an item whose fate nobody knows: it is ``booked``, or ``not_booked``."""
        path = f"{organization_path(organization)}/exports/{quote(key, safe='')}/resolve"
        body = {"outcome": outcome, "reason": reason, "reference": reference}
        return parsed(ExportItemView, await self.wire.post(path, body))

    def batches(self, organization: str, *, type: str | None = None) -> AsyncIterator[BatchView]:
        """Yields what went out together, newest first."""
        return self._each(BatchView, organization_path(organization) + "/exports/batches", type=type)

    async def batch(self, organization: str, run_id: str) -> BatchView:
        """Gives one batch with all its claims."""
        path = f"{organization_path(organization)}/exports/batches/{quote(run_id, safe='')}"
        return parsed(BatchView, await self.wire.get(path))

    async def reconciliation(
        self, organization: str, period: str, *, integration: str | None = None, ours_only: bool = False
    ) -> ReconciliationView:
        """Compares a month of exports (``2026-03``) with the other side's books.

        Takes as long as those take to be read: make the client with a ``timeout_s`` of minutes.
        """
        path = organization_path(organization) + "/exports/reconciliation"
        only = "true" if ours_only else None
        return parsed(ReconciliationView, await self.wire.get(path, period=period, type=integration, ours_only=only))

    # ── mappings ─────────────────────────────────────────────────────────────

    async def mapping(self, organization: str, type: str, *, version: int | None = None) -> MappingView:
        """Gives the newest version of how claims become vouchers, or another one."""
        path = _mapping_path(organization, type) + ("" if version is None else f"/versions/{version}")
        return parsed(MappingView, await self.wire.get(path))

    async def put_mapping(
        self, organization: str, type: str, mapping: Mapping[str, Any], *, effective_from: dt.date | None = None,
        note: str = "", strict: bool = False, if_match: str | None = None,
    ) -> MappingView:  # fmt: skip
        """Saves a mapping as the next version; ``warnings`` tells what the other system would refuse."""
        day = None if effective_from is None else effective_from.isoformat()
        body = {"mapping": dict(mapping), "effective_from": day, "note": note, "strict": strict}
        document = await self.wire.put(_mapping_path(organization, type), body, if_match=if_match)
        return parsed(MappingView, document)

    def mapping_versions(self, organization: str, type: str) -> AsyncIterator[MappingVersionView]:
        """Yields the versions of a mapping, newest first."""
        return self._each(MappingVersionView, _mapping_path(organization, type) + "/versions")

    async def mapping_diff(
        self, organization: str, type: str, *, before: int | None = None, after: int | None = None
    ) -> MappingDiffView:
        """Tells what differs between two versions; the newest and the one before it when none is named."""
        path = _mapping_path(organization, type) + "/diff"
        return parsed(MappingDiffView, await self.wire.get(path, **{"from": before, "to": after}))

    async def restore_mapping(self, organization: str, type: str, version: int, *, note: str = "") -> MappingView:
        """Saves an earlier version once more, as the newest one."""
        path = _mapping_path(organization, type) + "/restore"
        return parsed(MappingView, await self.wire.post(path, {"version": version, "note": note}))

    async def preview_mapping(
        self, organization: str, type: str, *, mapping: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
    ) -> MappingPreviewView:  # fmt: skip
        """Shows what up to five claims come to, by a draft or by the mapping in force. Nothing is saved or sent."""
        body = {"mapping": None if mapping is None else dict(mapping), "ids": None if ids is None else list(ids)}
        return parsed(MappingPreviewView, await self.wire.post(_mapping_path(organization, type) + "/preview", body))

    async def check_mapping(self, organization: str, type: str, *, refresh: bool = False) -> MappingCheckView:
        """Tells what of the mapping does not hold at the other system; ``refresh`` reads its accounts now."""
        path, now = _mapping_path(organization, type) + "/check", "true" if refresh else None
        return parsed(MappingCheckView, await self.wire.get(path, refresh=now))

    def chart(
        self, organization: str, type: str, *, kind: str | None = None, search: str | None = None
    ) -> AsyncIterator[ChartEntryView]:
        """Yields what a mapping may refer to at the other system, by kind, dimension and code."""
        return self._each(ChartEntryView, integration_path(organization, type) + "/chart", kind=kind, q=search)

    async def chart_part(
        self, organization: str, type: str, *, kind: str | None = None, search: str | None = None,
        after: str | None = None, limit: int | None = None,
    ) -> ChartPartView:  # fmt: skip
        """Gives a part of the same, with the moment at which it was read."""
        path = integration_path(organization, type) + "/chart"
        return parsed(ChartPartView, await self.wire.get(path, kind=kind, q=search, after=after, limit=limit))

    async def refresh_chart(self, organization: str, type: str) -> ChartReadingView:
        """Reads it at the other system now; takes as long as that takes."""
        path = integration_path(organization, type) + "/chart/refresh"
        return parsed(ChartReadingView, await self.wire.post(path))

    def export_files(self, organization: str, *, type: str | None = None) -> AsyncIterator[ExportFileView]:
        """Yields files that carried claims out, newest first."""
        return self._each(ExportFileView, organization_path(organization) + "/exports/files", type=type)

    async def fetch_export_file(self, organization: str, id: str, *, profile: str = "machine") -> bytes:
        """Gives a file's bytes; with ``human`` the same vouchers as a sheet for a spreadsheet."""
        path = f"{organization_path(organization)}/exports/files/{quote(id, safe='')}"
        content, _ = await self.wire.fetch(path, profile=profile)
        return content

    async def acknowledge_export(
        self, organization: str, type: str, *, name: str, content: bytes
    ) -> AcknowledgementView:
        """Settles claims by the other system's report of a file it took in; safe to repeat."""
        reply = await self.wire.request(
            "POST", organization_path(organization) + "/exports/acknowledgements", raw=content,
            query={"type": type, "name": name}, headers={"Content-Type": "application/octet-stream"},
        )  # fmt: skip
        return parsed(AcknowledgementView, reply.document)

    async def drop(self, organization: str, type: str) -> DropView:
        """Gives where an integration's files go."""
        return parsed(DropView, await self.wire.get(integration_path(organization, type) + "/drop"))

    async def put_drop(
        self, organization: str, type: str, settings: Mapping[str, Any], *, if_match: str | None = None, **secrets: str
    ) -> DropView:
        """Sets where an integration's files go.

        Args:
            secrets: ``password``, or ``private_key`` and its ``passphrase``.
        """
        body = {"settings": dict(settings), **secrets}
        path = integration_path(organization, type) + "/drop"
        return parsed(DropView, await self.wire.put(path, body, if_match=if_match))

    async def delete_drop(self, organization: str, type: str, *, if_match: str | None = None) -> DropView:
        """Forgets where an integration's files go."""
        path = integration_path(organization, type) + "/drop"
        return parsed(DropView, await self.wire.delete(path, if_match=if_match))

    async def test_drop(self, organization: str, type: str) -> DropTestView:
        """Signs in at the drop point and lists it; writes nothing."""
        return parsed(DropTestView, await self.wire.post(integration_path(organization, type) + "/drop/test"))

    async def _each(self, view: type[V], path: str, **query: Any) -> AsyncIterator[V]:
        async for item in self.wire.each(path, **query):
            yield parsed(view, item)


def organization_path(organization: str) -> str:
    """Gives the address of an organisation on the host."""
    return f"/v1/organizations/{quote(organization, safe='')}"


def integration_path(organization: str, type: str) -> str:
    """Gives the address of an integration on the host."""
    return f"{organization_path(organization)}/integrations/{quote(type, safe='')}"


def export_order(
    ids: Sequence[str] | None, *, type: str | None, since: str | None, until: str | None,
    exclude: Mapping[str, str] | None, route: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Gives an order to export as the API takes it."""
    excluded = [{"id": id, "reason": reason} for id, reason in (exclude or {}).items()]
    return {
        "ids": None if ids is None else list(ids), "type": type, "from": since, "until": until, "exclude": excluded,
        "route": route,
    }  # fmt: skip


def claim_path(organization: str, id: str) -> str:
    """Gives the address of a claim on the host."""
    return f"{organization_path(organization)}/reimbursements/{quote(id, safe='')}"


def correction_path(organization: str, id: str) -> str:
    """Gives the address of a correction on the host."""
    return f"{organization_path(organization)}/corrections/{quote(id, safe='')}"


def _mapping_path(organization: str, type: str) -> str:
    return integration_path(organization, type) + "/mapping"


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
