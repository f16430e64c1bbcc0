"""What the service answers: the same shapes for Python callers, the HTTP API and ``--json`` on the command line."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from samband.errors import SambandError

__all__ = [
    "ChangeView",
    "ChangesPage",
    "CheckView",
    "Counts",
    "DeadLetterView",
    "ErrorView",
    "FeedPage",
    "IntegrationState",
    "IntegrationView",
    "OrganizationView",
    "OutcomeView",
    "PluginView",
    "RecordView",
    "RunState",
    "RunView",
    "SelectionView",
    "StatusView",
    "StreamStatus",
    "StreamView",
]

RunState = Literal["queued", "running", "waiting", "held", "succeeded", "partial", "failed", "cancelled"]
LIVE_STATES: tuple[RunState, ...] = ("queued", "running", "waiting", "held")
IntegrationState = Literal["saved", "tested", "enabled", "disabled"]


class View(BaseModel):
    """A frozen answer; every instant is aware UTC, in ISO 8601 with ``Z``."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ErrorView(View):
    """Why something failed, in the words of the error tree."""

    code: str
    message: str
    hint: str = ""
    field: str | None = None
    remote_message: str = ""

    @classmethod
    def of(cls, error: SambandError) -> ErrorView:
        """Gives an error in the shape that is stored and shown."""
        return cls(
            code=error.code, message=error.message, hint=error.hint, field=error.field,
            remote_message=error.remote_message,
        )  # fmt: skip


class Counts(View):
    """How many records of a run or page ended how. ``total`` is their sum."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    skipped: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        return self.created + self.updated + self.unchanged + self.deleted + self.skipped + self.failed


class OrganizationView(View):
    """An organisation whose data samband carries."""

    id: str
    name: str
    created_at: dt.datetime


class IntegrationView(View):
    """One organisation's use of one plugin. Credentials are never part of it, only the last four characters."""

    id: str
    organization: str
    type: str = Field(description="The plugin's name, for instance dynamics365.")
    display_name: str
    state: IntegrationState
    settings: dict[str, Any]
    credentials: dict[str, str] = Field(description="Field → the last four characters, or an empty string when unset.")
    credentials_updated_at: dt.datetime | None = Field(default=None, description="When the credentials were last set.")
    credentials_expire_at: dt.datetime | None = Field(
        default=None,
        description="When they stop working: as a certificate says, or whoever entered them; null if unknown.",
    )
    last_check: CheckView | None = None
    created_at: dt.datetime
    updated_at: dt.datetime
    revision: int = Field(description="Raised by every edit; the ETag of the resource.")


class CheckView(View):
    """What a connection test found."""

    ok: bool
    checked_at: dt.datetime
    latency_ms: int
    summary: str = ""
    facts: dict[str, str] = {}
    missing: list[str] = []
    unneeded: list[str] = []
    error: ErrorView | None = None


class StreamStatus(View):
    """Where the reading of one stream stands."""

    name: str
    kind: str
    has_cursor: bool
    is_full_read: bool = Field(description="True while a full read is under way; deletions are reconciled at its end.")
    records: int
    last_read_at: dt.datetime | None = None


class BrakeView(View):
    """Why a run was stopped, and what was decided. Figures count the whole run up to the page that was not written."""

    reason: str
    stream: str
    would_delete: int
    would_deactivate: int = Field(description="Records whose status would go from a live one to inactive or ended.")
    held: int = Field(description="Records of the stream when the run began.")
    share: float
    limit: int = Field(description="The most that may go without asking.")
    held_at: dt.datetime
    released: dict[str, int] = Field(default={}, description="Stream → how many removals a person has agreed to.")
    decision: Literal["approved", "rejected"] | None = None
    decided_by: str = ""
    decided_at: dt.datetime | None = None
    note: str = Field(default="", description="The reason that was given for the decision.")


class SelectionView(View):
    """What a run is limited to in one stream: a number of keys, or a window."""

    keys: int | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None


class RunView(View):
    """One order to sync, and what became of it."""

    id: str
    organization: str
    integration: str = Field(description="The integration's id.")
    type: str
    operation: Literal["sync", "dry_run", "export"]
    streams: list[str] = Field(description="Streams in reading order.")
    reason: str
    full: bool
    state: RunState
    counts: Counts
    pages: int
    expected_total: int | None = None
    cursor_present: bool = Field(description="Whether every stream of the run has a cursor for the next one.")
    attempt: int = Field(description="Starts since the last committed page.")
    error: ErrorView | None = None
    notes: list[str] = Field(default=[], description="Things worth knowing, such as an expired cursor that was healed.")
    selection: dict[str, SelectionView] | None = Field(
        default=None, description="Stream → what it is limited to; null for a run that reads what has changed."
    )
    plugin_version: str
    requested_by: str
    created_at: dt.datetime
    available_at: dt.datetime
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    duration_s: float | None = None
    progress_at: dt.datetime | None = Field(default=None, description="When the run last moved on.")
    stalled: bool = Field(
        default=False, description="Alive, held back by nobody, and without progress for longer than it should be."
    )
    cancel_requested_at: dt.datetime | None = None
    retry_of: str | None = Field(default=None, description="The run that this one repeats.")
    brake: BrakeView | None = Field(default=None, description="Why it is or was held, and what was decided.")
    replayed: bool = Field(default=False, exclude=True, description="The answer to a repeat of a granted order.")

    @property
    def is_live(self) -> bool:
        return self.state in LIVE_STATES


class StatusView(View):
    """How an integration is doing: the state it is in, the run that is alive, and the last ones."""

    organization: str
    type: str
    integration: str
    state: IntegrationState
    connection: Literal["unknown", "connected", "degraded", "needs_reauthentication", "misconfigured"]
    live_run: RunView | None = None
    last_run: RunView | None = None
    last_attempt_at: dt.datetime | None = None
    last_success_at: dt.datetime | None = None
    connection_since: dt.datetime | None = None
    last_contact_at: dt.datetime | None = Field(default=None, description="When the other system last answered well.")
    probed_at: dt.datetime | None = None
    latency_ms: int | None = Field(default=None, description="How long the last probe took.")
    freshness: Literal["fresh", "overdue", "stale", "unknown"] = Field(
        default="unknown", description="Measured against the schedules; unknown when nothing is planned."
    )
    expected_by: dt.datetime | None = Field(default=None, description="After this the next success is overdue.")
    next_run_at: dt.datetime | None = Field(default=None, description="The next planned read.")
    alerts: list[str] = Field(default=[], description="Kinds of the open alerts.")
    streams: list[StreamStatus] = []
    open_dead_letters: int = 0


class OutcomeView(View):
    """What became of one record in one run. Unchanged records are counted on the run, not listed."""

    position: int = Field(description="Order within the run; pass it as after= to go on.")
    stream: str
    key: str
    outcome: Literal["created", "updated", "deleted", "skipped", "failed"]
    record_id: int | None = None
    version: int | None = None
    code: str | None = None
    field: str | None = None
    message: str | None = None


class RecordView(View):
    """A record as it stands now."""

    id: int
    kind: str
    version: int
    deleted: bool
    values: dict[str, Any]
    updated_at: dt.datetime
    bindings: list[dict[str, str]] = Field(default=[], description="Where it comes from: integration, stream, key.")


class ChangeView(View):
    """One change of one record. The sequence is gapless within an organisation."""

    seq: int
    kind: str
    record_id: int
    op: Literal["created", "updated", "deleted"]
    version: int
    at: dt.datetime
    run: str


class ChangesPage(View):
    """A part of an organisation's change feed. ``next`` is the ``after=`` of the following part."""

    items: list[ChangeView]
    next: int
    has_more: bool


class FeedPage(View):
    """A part of a listing. ``next`` is the ``after=`` of the following part, null at the end."""

    items: list[Any]
    next: str | None = None


class DeadLetterView(View):
    """Work that was given up after its attempts; repeats are counted on the open entry."""

    id: int
    organization: str
    type: str
    run: str
    reason: str
    message: str
    occurrences: int
    created_at: dt.datetime
    updated_at: dt.datetime
    acknowledged_at: dt.datetime | None = None
    acknowledged_by: str | None = Field(
        default=None, description="Who, or samband itself when a later run did the work."
    )
    retry_run: str | None = Field(default=None, description="The run that took the work up again, or did it.")


class StreamView(View):
    """A stream a plugin offers."""

    name: str
    title: str
    kind: str
    direction: str
    incremental: bool


class PluginView(View):
    """An installed plugin, or the reason why it did not load."""

    name: str
    title: str
    distribution: str
    version: str
    state: Literal["loaded", "failed", "blocked"]
    reason: str = Field(default="", description="Why it is not loaded, or what it did wrong since.")
    detail: str = Field(default="", description="The traceback, for whoever mends it.")
    capabilities: list[str] = []
    streams: list[StreamView] = []
    settings_schema: dict[str, Any] = {}
    credentials_schema: dict[str, Any] = {}
    has_simulator: bool = False


IntegrationView.model_rebuild()
