"""Turns rows of the store into the views that callers see."""

from __future__ import annotations

from collections.abc import Mapping

from samband.store.models import DeadLetter, Integration, Organization, Record, Run
from samband.views import (
    CheckView,
    Counts,
    DeadLetterView,
    ErrorView,
    IntegrationView,
    OrganizationView,
    RecordView,
    RunView,
)


def organization_view(row: Organization) -> OrganizationView:
    return OrganizationView(id=row.id, name=row.name, created_at=row.created_at)


def integration_view(row: Integration, hints: Mapping[str, str]) -> IntegrationView:
    return IntegrationView(
        id=row.id, organization=row.organization_id, type=row.plugin, display_name=row.display_name, state=row.state,
        settings=row.settings, credentials=dict(hints),
        last_check=None if row.last_check is None else CheckView.model_validate(row.last_check),
        created_at=row.created_at, updated_at=row.updated_at, revision=row.revision,
    )  # fmt: skip


def run_view(run: Run, *, cursor_present: bool) -> RunView:
    duration_s = None
    if run.started_at is not None and run.finished_at is not None:
        duration_s = round((run.finished_at - run.started_at).total_seconds(), 3)
    return RunView(
        id=run.id, organization=run.organization_id, integration=run.integration_id, type=run.plugin,
        operation="sync", streams=list(run.streams), reason=run.reason, full=run.full, state=run.state,
        counts=Counts(
            created=run.created, updated=run.updated, unchanged=run.unchanged, deleted=run.deleted,
            skipped=run.skipped, failed=run.failed,
        ),
        pages=run.pages, expected_total=run.expected_total, cursor_present=cursor_present, attempt=run.attempt,
        error=None if run.error is None else ErrorView.model_validate(run.error), notes=list(run.notes),
        plugin_version=run.plugin_version, requested_by=run.requested_by, created_at=run.created_at,
        available_at=run.available_at, started_at=run.started_at, finished_at=run.finished_at, duration_s=duration_s,
    )  # fmt: skip


def record_view(row: Record, bindings: list[dict[str, str]]) -> RecordView:
    return RecordView(
        id=row.id, kind=row.kind, version=row.version, deleted=row.deleted, values=row.body, updated_at=row.updated_at,
        bindings=bindings,
    )  # fmt: skip


def dead_letter_view(row: DeadLetter, plugin: str) -> DeadLetterView:
    return DeadLetterView(
        id=row.id or 0, organization=row.organization_id, type=plugin, run=row.run_id, reason=row.reason,
        message=row.message, occurrences=row.occurrences, created_at=row.created_at, updated_at=row.updated_at,
        acknowledged_at=row.acknowledged_at, acknowledged_by=row.acknowledged_by,
    )  # fmt: skip
