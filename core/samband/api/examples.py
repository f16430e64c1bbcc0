"""Examples of answers, made from their schemas: every field with the value it has by default, else one of its kind.

They are made and not written down, so that none can lag behind its shape. What a field holds in real life is said once,
by its name, in `VALUES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["RAW_EXAMPLES", "VALUES", "example_of"]

_AT: Final = "2026-03-02T01:30:00Z"
_LATER: Final = "2026-03-02T01:40:00Z"
_NEXT: Final = "2026-03-03T01:30:00Z"
_LOCAL: Final = "2026-03-02T02:30:00+01:00"
_ID: Final = "019cac2d1c405e0c8f3b7d6a4c2e1f90"
_INTEGRATION: Final = "019c4e6b5a10f1d27b3c9e8a6d4f2b01"
_EVENT: Final = "no.samband.run.succeeded.v1"
_HOST: Final = "https://samband.example"
_DIGEST: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_HASH: Final = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"

_BY_FORMAT: Final[Mapping[str, Any]] = {"date-time": _AT, "date": "2026-03-02"}
_BY_TYPE: Final[Mapping[str, Any]] = {"integer": 0, "number": 0.0, "boolean": False, "string": "", "null": None}
VALUES: Final[Mapping[str, Any]] = {
    "id": _ID, "organization": "nbf-oslo", "type": "dynamics365", "integration": _INTEGRATION, "revision": 1,
    "version": 1, "subject": f"integration/{_INTEGRATION}", "stream": "contacts", "kind": "member", "run": _ID,
    "seq": 1200, "sequence": 1200, "position": 1, "number": 1, "key": "0f8fad5b-d9cb-469f-a165-70867728950e",
    "keys[]": "0f8fad5b-d9cb-469f-a165-70867728950e", "latency_ms": 84, "duration_ms": 84, "ok": True, "local": _LOCAL,
    "zone": "Europe/Oslo", "words": "At 02:30 every day", "plugin_version": "1.0.0", "requested_by": "Platform",
    "url": "https://platform.example/hooks/samband", "occurrences": 1, "generation": 2,
    "AlertView.id": 7, "AlertView.kind": "overdue", "AlertView.severity": "warning",
    "AlertView.message": "No read has succeeded since it was due.",
    "ApiKeyView.id": "3f9c0a7d51be", "ApiKeyView.name": "Platform", "verbs": ["read", "operate"],
    "organizations": ["nbf-oslo"], "last_four": "8dK2", "NewApiKeyView.id": "3f9c0a7d51be",
    "NewApiKeyView.name": "Platform", "NewApiKeyView.key": "smb_3f9c0a7d51be_…8dK2",
    "AuditEntryView.actor": "key:3f9c0a7d51be Platform", "AuditEntryView.action": "integration.enabled",
    "AuditEntryView.detail": {"type": "dynamics365", "state": "enabled", "before": "tested", "revision": 4},
    "AuditEntryView.previous": _DIGEST, "AuditEntryView.hash": _HASH,
    "AuditVerificationView.entries": 1200, "newest_seq": 1200, "newest_hash": _HASH, "newest_at": _AT,
    "CancelledScheduleView.name": "default", "ScheduleView.name": "default",
    "ChangesPage.next": 1200, "EventsPage.next": 1200,
    "CheckView.summary": "Signed in, and read one record.", "ErrorView.message": "The other system does not answer.",
    "ConsentView.url": "https://login.example/authorize?client_id=…&state=…", "ConsentView.expires_at": _LATER,
    "DeadLetterView.id": 7, "reason": "api", "DeadLetterView.reason": "unavailable",
    "DeadLetterView.message": "The other system did not answer.",
    "DeliveryReplayView.count": 2, "DeliveryReplayView.first": 1043, "DeliveryReplayView.last": 1044,
    "DeliveryView.id": 52, "DeliveryView.event": _ID, "DeliveryView.type": _EVENT, "DeliveryView.subject": f"run/{_ID}",
    "DeliveryView.state": "delivered", "DeliveryView.status": 204, "DeliveryView.finished_at": _AT,
    "AttemptView.status": 204,
    "DifferenceView.op": "updated", "DifferenceView.record_id": 17, "DifferenceView.before": {"status": "active"},
    "DifferenceView.after": {"status": "inactive"},
    "EventTypeView.type": _EVENT, "EventTypeView.description": "A run has ended well.",
    "EventTypeView.dataschema": f"{_HOST}/schemas/events/{_EVENT}",
    "EventView.source": "/organizations/nbf-oslo", "EventView.type": _EVENT, "EventView.subject": f"run/{_ID}",
    "EventView.time": _AT, "EventView.data": {"run": _ID, "state": "succeeded", "operation": "sync"},
    "EventView.dataschema": f"{_HOST}/schemas/events/{_EVENT}",
    "PingView.event": {
        "specversion": "1.0", "id": _ID, "source": "/organizations/nbf-oslo", "type": "no.samband.ping.v1",
        "subject": f"subscription/{_ID}", "time": _AT, "datacontenttype": "application/json",
        "dataschema": f"{_HOST}/schemas/events/no.samband.ping.v1", "organization": "nbf-oslo", "sequence": None,
        "data": {"subscription": _ID},
    },
    "PingView.status": 204,
    "ExportFileView.name": "gl-10482133-5f0c7a1e.gl.csv", "ExportFileView.media_type": "text/csv",
    "ExportFileView.sha256": _DIGEST, "ExportFileView.rows": 2, "ExportFileView.items": 1,
    "ExportFileView.state": "delivered", "ExportFileView.delivered_at": _AT,
    "ExportFileView.keys": ["9f2c4e6b8a0d1f3e5c7a9b8d6f4e2c01"],
    "AcknowledgedView.key": "9f2c4e6b8a0d1f3e5c7a9b8d6f4e2c01", "AcknowledgedView.state": "posted",
    "AcknowledgedView.changed": True, "AcknowledgementView.name": "report-0412.csv", "AcknowledgementView.settled": 1,
    "AcknowledgementView.unknown": [],
    "DropView.settings": {
        "kind": "sftp", "host": "sftp.example.org", "port": 22, "user": "samband", "folder": "/inn",
        "host_keys": ["SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"], "allow_ssh_dss": False, "timeout_s": 30.0,
        "manifests": "manifests", "acknowledged": "acknowledged", "archive": "archive",
    },
    "has_secret": True, "DropView.secret_hint": "8dK2",
    "DropTestView.message": "It can be listed: 0 files, 0 reports. Whether it can be written to is not tried.",
    "DropTestView.files": 0, "DropTestView.reports": 0, "DropTestView.checked_at": _AT,
    "ExportItemView.key": "smb-nbf-oslo-c-1001-1", "reimbursement": "c-1001", "ExportView.type": "xledger",
    "ExportItemView.type": "xledger", "ExportPreviewView.refused_before": [], "ExportView.run": None, "ExportView.reserved": [],
    "ExportView.skipped": [{"id": "c-1002", "reason": "not_approved"}],
    "FailureView.code": "missing", "FailureView.field": "last_name", "FailureView.message": "It has no last name.",
    "FailureView.count": 1, "FlawView.code": "hash_differs", "FlawView.message": "The entry was changed.",
    "display_name": "Min Side", "settings": {"environment_url": "https://contoso.crm4.dynamics.com"},
    "IntegrationView.id": _INTEGRATION, "IntegrationView.credentials": {"client_id": "5555", "client_secret": "x9Qd"},
    "OrganizationView.id": "nbf-oslo", "OrganizationView.name": "Norges Blindeforbund Oslo",
    "OutcomeView.record_id": 17, "OutcomeView.version": 1, "OverviewView.state": "enabled",
    "OverviewView.connection": "connected", "OverviewView.alerts": [],
    "OverviewView.last_success_at": _AT, "expected_by": _NEXT, "probed_at": _AT, "StatusView.expected_by": None,
    "PluginView.name": "dynamics365", "PluginView.title": "Dynamics 365", "PluginView.version": "1.0.0",
    "PluginView.reason": "",
    "distribution": "samband-dynamics365", "Ready.parts": {"database": "ok", "scheduler": "ok", "queue": "ok"},
    "ReceivedDeliveryView.id": 1041, "ReceivedDeliveryView.note": "", "ReceivedDeliveryView.run": None, "size": 214,
    "digest": _DIGEST, "has_content": True, "replayed_by": "",
    "RecordView.id": 17, "record_id": 17, "RecordView.values": {"last_name": "Nordmann", "status": "active"},
    "ReimbursementView.id": "c-1001", "ReimbursementView.status": "approved", "total": "123.50", "currency": "NOK",
    "CorrectionView.state": "proposed", "CorrectionView.item": "0f8fad5bd9cb469fa16570867728950e",
    "CorrectionView.changed": ["lines.0.amount"], "total_before": "103.50", "currency_before": "NOK",
    "CorrectionView.changes": [{"field": "lines.0.amount", "before": "103.50", "after": "123.50"}],
    "CorrectionView.reason": "", "proposed_by": "key:3f9c0a7d51be Platform",
    "CorrectionView.values": {
        "payee": {"id": "p-17"}, "currency": "NOK", "status": "approved", "approved_on": "2026-03-02",
        "lines": [{"expense_type": "mileage", "amount": "123.50", "date": "2026-03-01"}],
    },
    "VersionView.status": "approved", "VersionView.actor": "key:3f9c0a7d51be Platform",
    "VersionView.values": {
        "payee": {"id": "p-17"}, "currency": "NOK", "status": "approved", "approved_on": "2026-03-02",
        "lines": [{"expense_type": "mileage", "amount": "123.50", "date": "2026-03-01"}],
    },
    "TellingView.created": 1, "ToldView.n": 0, "ToldView.id": "c-1001", "ToldView.outcome": "created",
    "ToldView.version": 1, "ToldView.problems": [],
    "TimelineView.state": "booked",
    "TimelineView.summary": "Claim c-1001, 123.50 NOK, was booked as number 70042 on 2026-03-02.",
    "TimelineEntryView.what": "booked", "TimelineEntryView.text": "Version 1 was booked as number 70042.",
    "TimelineEntryView.at": _AT,
    "ReimbursementView.values": {
        "payee": {"id": "p-17", "name": "Kari Nordmann", "bank_account": "12345678903"}, "currency": "NOK",
        "status": "approved", "lines": [{"expense_type": "mileage", "amount": "123.50", "date": "2026-03-01"}],
    },
    "RetryView.records": 1, "ReplayView.replayed": 3, "GapView.since": _AT, "GapView.until": _NEXT,
    "GapView.planned": 1,
    "GapView.is_exact": True, "GapView.skipped": 1, "GapView.listed": 1,
    "streams": ["contacts"], "cron": "30 2 * * *", "delta_available": True,
    "catch_up": "latest", "misfire_grace_s": 3600, "PluginView.streams": [],
    "StatusView.streams": [], "StatusView.state": "enabled", "StatusView.connection": "connected",
    "ScheduleView.streams": None, "OccurrenceView.reason": "", "OccurrenceView.run_state": "queued",
    "StreamStatus.name": "contacts",
    "StreamView.name": "contacts", "StreamView.title": "Contacts", "direction": "in",
    "SubscriptionView.description": "Platform", "SubscriptionView.types": ["no.samband.run.*"],
    "SubscriptionView.position": 1200, "SubscriptionView.reason": "", "secret_hint": "LaSw",
    "NewSecretView.description": "Platform", "NewSecretView.types": ["no.samband.run.*"],
    "NewSecretView.position": 1200, "NewSecretView.reason": "", "NewSecretView.secret": "whsec_…LaSw",
    "TokenView.expires_at": _LATER, "WebhookTestView.reason": None,
    "WebhookTestView.message": "A signed sample was believed.",
    "WebhookView.address": f"{_HOST}/webhooks/dynamics365/…",
    "WebhookView.counts": {"accepted": 0, "repeated": 0, "ignored": 0, "handshake": 0},
    "ReconciliationView.type": "xledger", "period": "2026-03", "ReconciliationView.complete": True,
    "ReconciliationView.clean": False, "ReconciliationView.vouchers": {"posted": 1}, "other_lines": 12,
    "ReconciliationView.unexplained": "0.00", "differences_total": 1, "AccountView.account": "7140",
    "AccountView.posted": "123.50", "AccountView.theirs": "247.00", "AccountView.difference": "123.50",
    "AccountView.explained": {"booked_twice": "123.50"}, "AccountView.unexplained": "0.00",
    "AccountView.approved": "0.00", "AccountView.sent": "0.00", "AccountView.accepted": "0.00",
    "AccountView.unknown": "0.00", "BookDifferenceView.code": "booked_twice",
    "BookDifferenceView.asks_for_a_person": True, "BookDifferenceView.key": "5d1c0e7b9a3f42d6b8e1f0a7c4d29e63",
    "BookDifferenceView.line": 1, "BookDifferenceView.account": "7140", "BookDifferenceView.amount": "123.50",
    "BookDifferenceView.there": "posted", "BookDifferenceView.voucher": 48213377, "BookDifferenceView.state": "posted",
    "BookDifferenceView.purpose": "booking", "BookDifferenceView.date": "2026-03-01",
    "BookDifferenceView.reference": "GL-90017", "ReconciliationView.unmapped": [],
    "MappingView.type": "xledger", "MappingView.author": "key:3f9c0a7d51be Platform", "MappingView.note": "Rates of 2026",
    "MappingVersionView.author": "key:3f9c0a7d51be Platform", "MappingVersionView.note": "Rates of 2026",
    "is_active": True, "is_newest": True, "active_version": 1, "effective_from": "2026-01-01",
    "MappingView.mapping": {
        "payee": {"strategy": "employee", "account": "2910", "code": "{payee.id}"},
        "expense_types": {"toll": {"account": "7140", "tax_rule": "0"}, "hotel": {"excluded": True}},
    },
    "MappingFindingView.code": "account_closed", "MappingFindingView.field": "expense_types.toll.account",
    "MappingFindingView.message": "The account 7140 Toll is closed. Did you mean 7141 Toll and ferries?",
    "MappingFindingView.suggestion": "7141", "MappingCheckView.type": "xledger", "MappingCheckView.ok": False,
    "MappingCheckView.read_at": _AT, "MappingDiffView.before": 1, "MappingDiffView.after": 2,
    "MappingDifferenceView.field": "expense_types.toll.account", "MappingDifferenceView.before": "7140",
    "MappingDifferenceView.after": "7141",
    "MappingDifferenceView.words": 'expense_types.toll.account is now "7141"; before it was "7140".',
    "ChartEntryView.kind": "account", "ChartEntryView.code": "7140", "ChartEntryView.name": "Toll",
    "ChartEntryView.is_open": True, "ChartPartView.type": "xledger", "ChartReadingView.type": "xledger",
    "ChartReadingView.read_at": _AT, "ChartReadingView.accounts": 412, "ChartReadingView.tax_rules": 12,
    "ChartReadingView.dimensions": {"department": 30}, "ChartReadingView.periods": 24,
    "PreviewView.claim": "c-1001", "PreviewVoucherView.type": "GL", "PreviewVoucherView.text": "c-1001",
    "PreviewVoucherView.debit": "123.50", "PreviewVoucherView.credit": "123.50", "PreviewLineView.n": 1,
    "PreviewLineView.account": "7140", "PreviewLineView.account_name": "Toll", "PreviewLineView.debit": "123.50",
    "PreviewLineView.text": "toll 2026-03-01 c-1001", "PreviewProblemView.code": "expense_type_excluded",
    "PreviewProblemView.field": "lines.0.expense_type", "PreviewProblemView.message": "The mapping excludes 'hotel'.",
    "MappingGapView.kind": "expense_type", "MappingGapView.name": "ferry", "MappingGapView.claims": ["c-1002"],
    "MappingGapView.message": "The expense type 'ferry' has no account. Map it, or mark it as excluded.",
    "SkippedView.reason": "not_approved",
}  # fmt: skip
"""A field's name, alone or behind its model's and a dot, → its value."""

_ENTRY: Final = f"1,{_AT},key:3f9c0a7d51be Platform,integration.enabled,integration/{_INTEGRATION},{{}},,{_HASH}"
_TABLE: Final = f"seq,at,actor,action,subject,detail,previous,hash\r\n{_ENTRY}\r\n"
RAW_EXAMPLES: Final[Mapping[str, Any]] = {
    "export_audit_entries": _TABLE,
    "export_host_audit_entries": _TABLE,
    "fetch_export_file": "10482133;7140;123.50;Reise\r\n10482133;2930;-123.50;Reise\r\n",
    "get_event_schema": {"type": "object", "properties": {"run": {"type": "string"}}, "required": ["run"]},
    "receive_delivery": {"outcome": "accepted"},
    "answer_challenge": {"outcome": "accepted"},
    "come_back": "<!doctype html><html><body><h1>The connection is made</h1></body></html>",
    "get_metrics": '# TYPE samband_runs gauge\nsamband_runs{state="queued"} 0.0\n',
    "get_openapi": {"openapi": "3.1.0", "info": {"title": "samband", "version": "1.0.0"}, "paths": {}},
}
"""Operation that writes its answer itself → an example of it."""


def example_of(schema: Mapping[str, Any], definitions: Mapping[str, Any], name: str = "") -> Any:
    """Gives a value that a schema allows.

    Args:
        definitions: What ``$ref`` names, by the last part of the reference.
        name: What the value is called: a field's name behind its model's and a dot.
    """
    if name in VALUES:
        return VALUES[name]
    if (field := name.rpartition(".")[2]) in VALUES and "$ref" not in schema:
        return VALUES[field]
    if "default" in schema:
        return schema["default"]
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    if (reference := schema.get("$ref")) is not None:
        model = reference.rpartition("/")[2]
        return _fields(definitions[model], definitions, model)
    if "anyOf" in schema:
        arms = schema["anyOf"]
        return None if {"type": "null"} in arms else example_of(arms[0], definitions, name)
    return _plain(schema, definitions, name)


def _plain(schema: Mapping[str, Any], definitions: Mapping[str, Any], name: str) -> Any:
    kind = schema.get("type")
    if kind == "object":
        return _fields(schema, definitions, name) if "properties" in schema else {}
    if kind == "array":
        return [example_of(schema["items"], definitions, f"{name}[]")]
    return _BY_FORMAT.get(schema.get("format", ""), _BY_TYPE.get(str(kind)))


def _fields(schema: Mapping[str, Any], definitions: Mapping[str, Any], model: str) -> dict[str, Any]:
    if "properties" not in schema:
        return example_of(schema, definitions, model)  # type: ignore[no-any-return]  # a named list of words, say
    return {field: example_of(drawn, definitions, f"{model}.{field}") for field, drawn in schema["properties"].items()}
