"""Turns rows of the store into the views that callers see."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from samband.store.batches import Batch, BatchFile
from samband.store.catalog import CredentialFacts
from samband.store.models import Alert, DeadLetter, ExportItem, Integration, Organization, Record, Run
from samband.views import (
    BrakeView,
    CheckView,
    Counts,
    DeadLetterView,
    ErrorView,
    IntegrationView,
    OrganizationView,
    RecordView,
    RunView,
    SelectionView,
)
from samband.views.exports import BatchFileView, BatchView, DownloadView, ExportItemView, FormerAnswerView
from samband.views.health import AlertView

STALL_AFTER_S: Final = 1800.0


def organization_view(row: Organization) -> OrganizationView:
    return OrganizationView(id=row.id, name=row.name, created_at=row.created_at)


def integration_view(row: Integration, credentials: CredentialFacts | None) -> IntegrationView:
    return IntegrationView(
        id=row.id, organization=row.organization_id, type=row.plugin, display_name=row.display_name, state=row.state,
        settings=row.settings, credentials={} if credentials is None else credentials.hints,
        credentials_updated_at=None if credentials is None else credentials.updated_at,
        credentials_expire_at=None if credentials is None else credentials.expires_at,
        last_check=None if row.last_check is None else CheckView.model_validate(row.last_check),
        created_at=row.created_at, updated_at=row.updated_at, revision=row.revision,
    )  # fmt: skip


def run_view(run: Run, *, cursor_present: bool, stall_after_s: float = STALL_AFTER_S) -> RunView:
    duration_s = None
    if run.started_at is not None and run.finished_at is not None:
        duration_s = round((run.finished_at - run.started_at).total_seconds(), 3)
    return RunView(
        id=run.id, organization=run.organization_id, integration=run.integration_id, type=run.plugin,
        operation=run.operation, streams=list(run.streams), reason=run.reason, full=run.full, state=run.state,
        counts=Counts(
            created=run.created, updated=run.updated, unchanged=run.unchanged, deleted=run.deleted,
            skipped=run.skipped, failed=run.failed,
        ),
        pages=run.pages, expected_total=run.expected_total, cursor_present=cursor_present, attempt=run.attempt,
        error=None if run.error is None else ErrorView.model_validate(run.error), notes=list(run.notes),
        selection=_selection_view(run.selection), plugin_version=run.plugin_version, requested_by=run.requested_by,
        created_at=run.created_at, available_at=run.available_at,
        started_at=run.started_at, finished_at=run.finished_at, duration_s=duration_s,
        progress_at=run.progress_at, stalled=_is_stalled(run, stall_after_s),
        cancel_requested_at=run.cancel_requested_at, retry_of=run.retry_of,
        brake=None if run.brake is None else BrakeView.model_validate(run.brake),
    )  # fmt: skip


def _is_stalled(run: Run, after_s: float) -> bool:
    """Tells whether a run should have moved on by now. A held one waits for a person, and says so by its state."""
    moved_at = run.progress_at or run.started_at or run.created_at
    is_waiting_for_nobody = run.state in ("queued", "running", "waiting")
    return is_waiting_for_nobody and dt.datetime.now(dt.UTC) - moved_at > dt.timedelta(seconds=after_s)


def _selection_view(selection: Mapping[str, Any] | None) -> dict[str, SelectionView] | None:
    streams = (selection or {}).get("streams")
    if streams is None:
        return None
    return {
        name: SelectionView.model_validate({**choice, "keys": len(choice["keys"]) if "keys" in choice else None})
        for name, choice in streams.items()
    }


def record_view(row: Record, bindings: list[dict[str, str]]) -> RecordView:
    return RecordView(
        id=row.id, kind=row.kind, version=row.version, deleted=row.deleted, values=row.body, updated_at=row.updated_at,
        bindings=bindings,
    )  # fmt: skip


def dead_letter_view(row: DeadLetter, plugin: str) -> DeadLetterView:
    return DeadLetterView(
        id=row.id or 0, organization=row.organization_id, type=plugin, run=row.run_id, reason=row.reason,
        message=row.message, occurrences=row.occurrences, created_at=row.created_at, updated_at=row.updated_at,
        acknowledged_at=row.acknowledged_at, acknowledged_by=row.acknowledged_by, retry_run=row.retry_run_id,
    )  # fmt: skip


def alert_view(row: Alert) -> AlertView:
    return AlertView(
        id=row.id or 0, organization=row.organization_id, integration=row.integration_id, subject=row.subject,
        kind=row.kind, severity=row.severity, message=row.message, data=row.data, opened_at=row.opened_at,
        closed_at=row.closed_at, acknowledged_at=row.acknowledged_at, acknowledged_by=row.acknowledged_by,
    )  # fmt: skip


def export_item_view(row: ExportItem, type: str) -> ExportItemView:
    evidence = row.evidence or {}
    return ExportItemView(
        key=row.key, organization=row.organization_id, integration=row.integration_id, type=type,
        reimbursement=row.reimbursement_id, version=row.version, number=row.number, state=row.state, run=row.run_id,
        attempts=row.attempts, purpose=row.purpose, reverses=row.reverses, voucher_number=row.voucher_number,
        mapping_version=row.mapping_version, period=row.period, route=row.route, reference=row.reference,
        code=row.code, field=row.field, message=row.message, reason=row.reason, digest=evidence.get("digest"),
        told=evidence.get("told") or {}, former=[FormerAnswerView(**each) for each in evidence.get("former", [])],
        passed_over=evidence.get("reasons") or {}, created_at=row.created_at,
        sent_at=row.sent_at, settled_at=row.settled_at, accepted_at=row.accepted_at, posted_at=row.posted_at,
        looked_up_at=row.looked_up_at,
    )  # fmt: skip


def batch_view(batch: Batch) -> BatchView:
    run = batch.run
    return BatchView(
        run=run.id, type=run.plugin, state=run.state, outcome=_outcome(batch.states), reason=run.reason,
        requested_by=run.requested_by, items=sum(batch.states.values()), states=dict(sorted(batch.states.items())),
        totals={currency: f"{Decimal(cents) / 100:.2f}" for currency, cents in sorted(batch.cents.items())},
        routes=sorted(batch.routes), period_first=batch.first, period_last=batch.last,
        acknowledgements=[file.id for file in batch.files], files=[_batch_file_view(file) for file in batch.files],
        claims=batch.claims, error=(run.error or {}).get("code"), created_at=run.created_at, finished_at=run.finished_at,
    )  # fmt: skip


def _batch_file_view(file: BatchFile) -> BatchFileView:
    return BatchFileView(
        id=file.id, name=file.name, media_type=file.media_type, state=file.state,
        downloads=file.downloads[0].times if file.downloads else 0,
        fetched=[DownloadView(at=each.at, by=each.by, profile=each.profile) for each in file.downloads],
    )  # fmt: skip


_OUTCOMES: Final[Mapping[str, str]] = {
    "reserved": "open", "sent": "open", "unknown": "uncertain", "rejected": "refused", "released": "released",
    "accepted": "accepted", "posted": "booked", "reversed": "booked", "superseded": "booked",
}  # fmt: skip


def _outcome(states: Mapping[str, int]) -> Any:
    """Says in one word what a batch comes to: what needs somebody first."""
    found = {_OUTCOMES[state] for state in states}
    for first in ("uncertain", "open"):
        if first in found:
            return first
    return found.pop() if len(found) == 1 else "partly"
