"""The tables. Every row carries its organisation; ids of things counted in thousands are small integers.

Table models do not validate (SQLModel's choice): everything that comes from outside has passed a pydantic model before it
gets here.
"""

from samband.store.columns import Table, UtcInstant, iso_ms
from samband.store.models.access import ApiKey, KeptAnswer
from samband.store.models.catalog import Credential, Integration, Organization
from samband.store.models.events import EventAttempt, EventDelivery, Outbox, Subscription
from samband.store.models.exports import (
    ChartCopy,
    Correction,
    DropPoint,
    ExportItem,
    KeptFile,
    KeptFileItem,
    Mapping,
    Reimbursement,
    ReimbursementVersion,
)
from samband.store.models.records import Binding, Change, Outcome, Page, Record, Stream
from samband.store.models.runs import LIVE, DeadLetter, Idempotency, Run
from samband.store.models.schedules import Occurrence, Schedule
from samband.store.models.tokens import Consent, KeptToken
from samband.store.models.trail import Alert, AuditEntry, AuditHead, Difference, SignOfLife
from samband.store.models.webhooks import Inbox, Webhook, WebhookCount

__all__ = [
    "LIVE",
    "Alert",
    "ApiKey",
    "AuditEntry",
    "AuditHead",
    "Binding",
    "Change",
    "ChartCopy",
    "Consent",
    "Correction",
    "Credential",
    "DeadLetter",
    "Difference",
    "DropPoint",
    "EventAttempt",
    "EventDelivery",
    "ExportItem",
    "Idempotency",
    "Inbox",
    "Integration",
    "KeptAnswer",
    "KeptFile",
    "KeptFileItem",
    "KeptToken",
    "Mapping",
    "Occurrence",
    "Organization",
    "Outbox",
    "Outcome",
    "Page",
    "Record",
    "Reimbursement",
    "ReimbursementVersion",
    "Run",
    "Schedule",
    "SignOfLife",
    "Stream",
    "Subscription",
    "Table",
    "UtcInstant",
    "Webhook",
    "WebhookCount",
    "iso_ms",
]
