"""The integration service: one object under the HTTP API, the command line and Python callers alike.

Every method takes the organisation first and never looks beyond it. What goes wrong is raised as one of the
`samband.errors.ServiceError` types, with the fields at fault and the way out.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson
import structlog

from samband.access import Caller, Keys, Verb
from samband.adapters.adapter import Adapter, Connection
from samband.adapters.registry import Registry
from samband.errors import AuthError, ConflictError, FieldProblem, InvalidError, NotFoundError, SambandError
from samband.presenting import dead_letter_view, integration_view, organization_view, record_view, run_view
from samband.store import Store
from samband.store.catalog import PendingCredentials
from samband.store.models import Integration, Run
from samband.views import (
    ChangesPage,
    ChangeView,
    CheckView,
    DeadLetterView,
    ErrorView,
    FeedPage,
    IntegrationView,
    OrganizationView,
    OutcomeView,
    PluginView,
    RecordView,
    RunView,
    StatusView,
    StreamStatus,
)

log = structlog.stdlib.get_logger("samband.service")

ORGANIZATION_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
MAX_NAME_LENGTH = 200
CHECK_TIMEOUT_S = 10.0


class Bell(Protocol):
    """The doorbell as the service sees it: a hint to a worker that may get lost without harm."""

    async def ring(self, run_id: str, *, delay_s: float = 0) -> bool: ...
    async def ping(self) -> float | None: ...
    async def depth(self) -> int | None: ...


class Service:
    """Everything a caller can ask of samband."""

    def __init__(self, *, store: Store, registry: Registry, bell: Bell) -> None:
        self._store = store
        self._registry = registry
        self._bell = bell
        self._keys = Keys(store.api_keys)

    # ── organisations and plugins ────────────────────────────────────────────

    async def create_organization(self, id: str, name: str) -> OrganizationView:
        """Adds an organisation; its id is chosen by the caller and never changes."""
        problems = []
        if not ORGANIZATION_ID.fullmatch(id):
            problems.append(
                FieldProblem(
                    field="id", code="bad_id",
                    message="Use 1 to 63 letters a to z, digits and hyphens, with no hyphen at either end.",
                )
            )  # fmt: skip
        name = _name(name, "name", problems)
        if problems:
            raise InvalidError("The organisation cannot be added.", problems=problems)
        return organization_view(await self._store.catalog.add_organization(id, name))

    async def list_organizations(self) -> list[OrganizationView]:
        return [organization_view(o) for o in await self._store.catalog.organizations()]

    async def get_organization(self, org: str) -> OrganizationView:
        return organization_view(await self._store.catalog.organization(org))

    def list_plugins(self) -> list[PluginView]:
        """Gives every plugin that is installed or wanted, with the reason where one did not load."""
        return self._registry.views()

    # ── integrations ─────────────────────────────────────────────────────────

    async def create_integration(
        self, org: str, type: str, *, display_name: str = "", settings: Mapping[str, Any],
        credentials: Mapping[str, Any] | None = None,
    ) -> IntegrationView:  # fmt: skip
        """Connects an organisation to a system. It is ``saved``: tested and enabled in steps of their own."""
        await self._store.catalog.organization(org)
        adapter = self._registry.adapter(type)
        problems: list[FieldProblem] = []
        display_name = _name(display_name or adapter.manifest.title, "display_name", problems)
        clean = _collect(problems, lambda: _plain(adapter.parse_settings(settings)))
        if credentials is not None:
            _collect(problems, lambda: adapter.parse_credentials(credentials))
        if problems or clean is None:
            raise InvalidError("The integration cannot be saved.", problems=problems)
        pending = None if credentials is None else self._pending_credentials(adapter, credentials)
        integration = await self._store.catalog.add_integration(org, type, display_name, clean, pending)
        return await self._integration_view(integration)

    async def list_integrations(self, org: str) -> list[IntegrationView]:
        await self._store.catalog.organization(org)
        integrations = await self._store.catalog.integrations(org)
        hints = await self._store.catalog.credential_hints([i.id for i in integrations])
        return [integration_view(i, hints.get(i.id, {})) for i in integrations]

    async def get_integration(self, org: str, type: str) -> IntegrationView:
        return await self._integration_view(await self._integration(org, type))

    async def update_integration(
        self, org: str, type: str, *, settings: Mapping[str, Any] | None = None, display_name: str | None = None,
        if_revision: int | None = None,
    ) -> IntegrationView:  # fmt: skip
        """Changes settings (as a whole) or the name.

        Changed settings have to be tested again: a tested or enabled integration becomes ``saved``. When they lead to
        other hosts than before, the credentials are forgotten and have to be entered again.
        """
        integration = await self._integration(org, type)
        adapter = self._registry.adapter(type)
        problems: list[FieldProblem] = []
        values: dict[str, Any] = {}
        is_new, leads_elsewhere = False, False
        if display_name is not None:
            values["display_name"] = _name(display_name, "display_name", problems)
        if settings is not None:
            clean = _collect(problems, lambda: _plain(adapter.parse_settings(settings)))
            if clean is not None and clean != integration.settings:
                values["settings"] = clean
                is_new, leads_elsewhere = True, _hosts(adapter, clean) != _hosts(adapter, integration.settings)
        if problems:
            raise InvalidError("The integration cannot be changed.", problems=problems)
        changed = await self._store.catalog.change_integration(
            integration,
            if_revision=if_revision,
            is_retest_needed=is_new,
            # Whoever may point an integration at a host of theirs must not be handed the secret for the old one.
            forget_credentials=leads_elsewhere,
            **values,
        )
        return await self._integration_view(changed)

    async def set_credentials(self, org: str, type: str, credentials: Mapping[str, Any]) -> IntegrationView:
        """Replaces the credentials. They are never given back; test the connection afterwards."""
        integration = await self._integration(org, type)
        adapter = self._registry.adapter(type)
        adapter.parse_credentials(credentials)
        pending = self._pending_credentials(adapter, credentials)
        changed = await self._store.catalog.set_credentials(integration, pending)
        return await self._integration_view(changed)

    async def test_integration(self, org: str, type: str) -> CheckView:
        """Tries the connection with one light read. Trouble at the other side is the answer, not an error."""
        integration = await self._integration(org, type)
        adapter = self._registry.adapter(type)
        connection = await self._connection(integration)
        loop_time = dt.datetime.now(dt.UTC)
        error: SambandError | None = None
        summary, facts, missing, unneeded = "", {}, [], []
        try:
            check = await adapter.check(connection, timeout_s=CHECK_TIMEOUT_S)
            summary, facts = check.summary, dict(check.facts)
            missing, unneeded = list(check.missing), list(check.unneeded)
        except SambandError as err:
            error = err
        latency_ms = int((dt.datetime.now(dt.UTC) - loop_time).total_seconds() * 1000)
        view = CheckView(
            ok=error is None and not missing, checked_at=loop_time, latency_ms=latency_ms, summary=summary, facts=facts,
            missing=missing, unneeded=unneeded, error=None if error is None else ErrorView.of(error),
        )  # fmt: skip
        await self._note_check(integration, view, error)
        return view

    async def enable_integration(self, org: str, type: str) -> IntegrationView:
        """Switches an integration on; only one whose last test went well."""
        integration = await self._integration(org, type)
        if integration.state == "enabled":
            return await self._integration_view(integration)
        if not (integration.last_check or {}).get("ok"):
            raise ConflictError(
                "The connection has not been tested with these settings and credentials.",
                code="not_tested",
                hint="Test the connection first; it can be enabled when the test succeeds.",
            )
        return await self._integration_view(
            await self._store.catalog.change_integration(integration, if_revision=integration.revision, state="enabled")
        )

    async def disable_integration(self, org: str, type: str) -> IntegrationView:
        """Switches an integration off: no new run starts. A run that is going on ends by itself."""
        integration = await self._integration(org, type)
        if integration.state == "disabled":
            return await self._integration_view(integration)
        return await self._integration_view(await self._store.catalog.change_integration(integration, state="disabled"))

    # ── the operations ───────────────────────────────────────────────────────

    async def trigger_sync(
        self, org: str, type: str, *, streams: Sequence[str] | None = None, full: bool = False, reason: str = "api",
        requested_by: str = "", idempotency_key: str | None = None,
    ) -> RunView:  # fmt: skip
        """Orders a sync and rings for a worker.

        Args:
            streams: Only these, in the plugin's order; None reads all that the settings switch on.
            full: Reads everything again instead of the changes.
            idempotency_key: With the same key the same order is granted once and its run given again, for 24 hours.

        Raises:
            AlreadyRunningError: A sync of this integration is still alive; it names the run.
            ConflictError: The integration is not enabled, or has no credentials.
        """
        integration = await self._integration(org, type)
        adapter = self._registry.adapter(type)
        idempotency = None
        if idempotency_key is not None:
            _check_idempotency_key(idempotency_key)
            fingerprint = _fingerprint(streams, full)
            idempotency = (f"sync/{type}", idempotency_key, fingerprint)
            granted = await self._granted(org, *idempotency)
            if granted is not None:
                return granted.model_copy(update={"replayed": True})
        _demand_enabled(integration)
        wanted = self._wanted_streams(adapter, await self._connection(integration), streams)
        try:
            run = await self._store.runs.order(
                integration=integration, plugin_version=adapter.version, operation="sync", streams=wanted, full=full,
                reason=reason, requested_by=requested_by, idempotency=idempotency,
            )  # fmt: skip
        except ConflictError:
            # Two requests with one key at once: the later one gets the earlier one's run.
            granted = None if idempotency is None else await self._granted(org, *idempotency)
            if granted is None:
                raise
            return granted.model_copy(update={"replayed": True})
        await self._bell.ring(run.id)
        return await self._run_view(run)

    async def get_integration_status(self, org: str, type: str) -> StatusView:
        """Tells how an integration is doing."""
        integration = await self._integration(org, type)
        live = await self._store.runs.live(integration.id, "sync")
        last, last_good = await self._store.feeds.last_runs(integration.id)
        streams = await self._store.feeds.streams(integration.id)
        letters = await self._store.feeds.dead_letters(org, open_only=True)
        return StatusView(
            organization=org, type=type, integration=integration.id, state=integration.state,
            connection=integration.connection,
            live_run=None if live is None else await self._run_view(live),
            last_run=None if last is None else await self._run_view(last),
            last_attempt_at=None if last is None else last.started_at or last.created_at,
            last_success_at=None if last_good is None else last_good.finished_at,
            streams=[
                StreamStatus(
                    name=s.name, kind=s.kind, has_cursor=s.cursor is not None, is_full_read=s.reading_full,
                    records=s.held, last_read_at=s.last_read_at,
                )
                for s in streams
            ],
            open_dead_letters=sum(d.integration_id == integration.id for d, _ in letters),
        )  # fmt: skip

    async def get_last_sync_result(self, org: str, type: str) -> RunView:
        """Gives the newest run; `NotFoundError` when there was none."""
        integration = await self._integration(org, type)
        last, _ = await self._store.feeds.last_runs(integration.id)
        if last is None:
            raise NotFoundError("The integration has never run.", code="never_ran", hint="Start a sync.")
        return await self._run_view(last)

    # ── runs, records, changes ───────────────────────────────────────────────

    async def list_runs(
        self, org: str, *, type: str | None = None, state: str | None = None, after: str | None = None, limit: int = 50
    ) -> FeedPage:
        """Gives runs, newest first."""
        await self._store.catalog.organization(org)
        rows = await self._store.feeds.runs(org, plugin=type, state=state, before=after, limit=limit + 1)
        cursors = {i: await self._store.feeds.cursors_present(i) for i in {r.integration_id for r in rows}}
        items = [run_view(row, cursor_present=_has_cursors(row, cursors[row.integration_id])) for row in rows[:limit]]
        return FeedPage(items=items, next=items[-1].id if len(rows) > limit else None)

    async def get_run(self, org: str, run_id: str) -> RunView:
        return await self._run_view(await self._run(org, run_id))

    async def list_outcomes(
        self, org: str, run_id: str, *, outcome: str | None = None, after: int = 0, limit: int = 100
    ) -> FeedPage:
        """Gives the records of a run that changed, were skipped or failed, in order."""
        run = await self._run(org, run_id)
        rows, has_more = await self._store.feeds.outcomes(run, outcome=outcome, after=after, limit=limit)
        items = [
            OutcomeView(
                position=r.position, stream=r.stream, key=r.key, outcome=r.outcome, record_id=r.record_id,
                version=r.version, code=r.code, field=r.field, message=r.message,
            )
            for r in rows
        ]  # fmt: skip
        return FeedPage(items=items, next=str(items[-1].position) if has_more else None)

    async def list_records(
        self, org: str, kind: str, *, after: int = 0, limit: int = 100, include_deleted: bool = False
    ) -> FeedPage:
        """Gives an organisation's records of a kind, in the order they were first seen."""
        await self._store.catalog.organization(org)
        self._demand_kind(kind)
        rows = await self._store.feeds.records(org, kind, after=after, limit=limit + 1, include_deleted=include_deleted)
        bindings = await self._store.feeds.bindings(org, [r.id for r in rows[:limit]])
        items = [record_view(r, bindings.get(r.id, [])) for r in rows[:limit]]
        return FeedPage(items=items, next=str(items[-1].id) if len(rows) > limit else None)

    async def get_record(self, org: str, kind: str, record_id: int) -> RecordView:
        await self._store.catalog.organization(org)
        self._demand_kind(kind)
        row = await self._store.feeds.record(org, kind, record_id)
        return record_view(row, (await self._store.feeds.bindings(org, [row.id])).get(row.id, []))

    async def list_changes(self, org: str, *, after: int = 0, limit: int = 500, kind: str | None = None) -> ChangesPage:
        """Gives what changed after a sequence number, in order. An empty page means: ask again with the same number."""
        await self._store.catalog.organization(org)
        rows = await self._store.feeds.changes(org, after=after, limit=limit + 1, kind=kind)
        items = [
            ChangeView(
                seq=r.seq, kind=r.kind, record_id=r.record_id, op=r.op, version=r.version, at=r.committed_at,
                run=r.run_id,
            )
            for r in rows[:limit]
        ]  # fmt: skip
        return ChangesPage(items=items, next=items[-1].seq if items else after, has_more=len(rows) > limit)

    async def list_dead_letters(self, org: str, *, open_only: bool = True) -> list[DeadLetterView]:
        await self._store.catalog.organization(org)
        return [dead_letter_view(d, p) for d, p in await self._store.feeds.dead_letters(org, open_only=open_only)]

    async def acknowledge_dead_letter(self, org: str, id: int, by: str) -> DeadLetterView:
        """Closes a dead letter: somebody has seen to it."""
        await self._store.feeds.acknowledge(org, id, by)
        letters = await self._store.feeds.dead_letters(org, open_only=False)
        return next(dead_letter_view(d, p) for d, p in letters if d.id == id)

    # ── access and health ────────────────────────────────────────────────────

    async def authenticate_key(self, presented: str) -> Caller | None:
        """Tells who holds this key; None for anything that is not a valid one."""
        return await self._keys.holder_of(presented)

    async def ensure_admin_key(self) -> str | None:
        """Makes the first key and gives it in clear, this once; None when there are keys already."""
        return await self._keys.first()

    async def create_key(self, name: str, *, verbs: Sequence[Verb], organizations: Sequence[str] | None) -> str:
        """Makes an API key and gives it in clear; only its hash is kept."""
        return await self._keys.create(name, verbs=verbs, organizations=organizations)

    async def readiness(self) -> dict[str, str]:
        """Gives, per part, ``ok`` or a sentence that says what is wrong."""
        parts = {"database": "ok", "migrations": "ok", "keys": "ok", "queue": "ok"}
        try:
            if not await self._store.is_migrated():
                parts["migrations"] = "The database schema is not up to date; run: samband migrate"
            elif missing := await self._store.catalog.missing_keys():
                parts["keys"] = f"Credentials are sealed with keys that are not here: {', '.join(missing)}"
        except SambandError as err:
            parts["database"] = parts["migrations"] = parts["keys"] = err.message
        if await self._bell.ping() is None:
            # Work goes on without it, only later: so it is told, and does not make the host unready.
            parts["queue"] = "degraded: the queue does not answer; due runs are found by sweeping"
        return parts

    async def metrics_snapshot(self) -> dict[str, Any]:
        """Gives the figures behind the gauges."""
        return {"runs": await self._store.feeds.run_states(), "queue_depth": await self._bell.depth()}

    # ── inside ───────────────────────────────────────────────────────────────

    async def _integration(self, org: str, type: str) -> Integration:
        await self._store.catalog.organization(org)
        return await self._store.catalog.integration(org, type)

    async def _run(self, org: str, run_id: str) -> Run:
        await self._store.catalog.organization(org)
        return await self._store.feeds.run(org, run_id)

    async def _connection(self, integration: Integration) -> Connection:
        credentials = await self._store.catalog.credentials(integration)
        if credentials is None:
            raise ConflictError(
                "The integration has no credentials.", code="credentials_missing", hint="Set its credentials first."
            )
        return Connection(
            organization_id=integration.organization_id, integration_id=integration.id, revision=integration.revision,
            settings=integration.settings, credentials=credentials,
        )  # fmt: skip

    def _pending_credentials(self, adapter: Adapter, credentials: Mapping[str, Any]) -> PendingCredentials:
        secret_fields = {
            name
            for name, info in adapter.manifest.credentials.model_fields.items()
            if "SecretStr" in str(info.annotation)
        }
        hints = {
            name: _last_four(value) if name in secret_fields else str(value)[-4:]
            for name, value in credentials.items()
            if isinstance(value, str)
        }
        return self._store.catalog.pending(dict(credentials), hints)

    async def _note_check(self, integration: Integration, view: CheckView, error: SambandError | None) -> None:
        values: dict[str, Any] = {}
        if view.ok:
            values["connection"] = "connected"
            if integration.state == "saved":
                values["state"] = "tested"
        elif isinstance(error, AuthError):
            values["connection"] = "needs_reauthentication"
        else:
            values["connection"] = "degraded" if error is not None else "misconfigured"
        await self._store.catalog.note_check(integration, view.model_dump(mode="json"), **values)

    def _wanted_streams(self, adapter: Adapter, connection: Connection, streams: Sequence[str] | None) -> list[str]:
        enabled = [s.name for s in adapter.streams(connection)]
        if streams is None:
            return enabled
        unknown = [name for name in streams if name not in enabled]
        if unknown or not streams:
            raise InvalidError(
                "The sync cannot be started.",
                problems=[
                    FieldProblem(
                        field="streams", code="unknown_stream",
                        message=f"This integration reads: {', '.join(enabled) or 'nothing'}.",
                    )
                ],
            )  # fmt: skip
        return [name for name in enabled if name in streams]

    async def _granted(self, org: str, route: str, key: str, fingerprint: str) -> RunView | None:
        found = await self._store.runs.granted(org, route, key)
        if found is None:
            return None
        if found[0] != fingerprint:
            raise InvalidError(
                "This Idempotency-Key was used for another request.",
                code="idempotency_key_reused",
                hint="Use a new key for a new request.",
            )
        return await self.get_run(org, found[1])

    def _demand_kind(self, kind: str) -> None:
        if kind not in self._registry.kinds:
            known = ", ".join(sorted(self._registry.kinds))
            raise NotFoundError("There is no such kind of record.", code="kind_not_found", hint=f"There are: {known}.")

    async def _integration_view(self, integration: Integration) -> IntegrationView:
        hints = await self._store.catalog.credential_hints([integration.id])
        return integration_view(integration, hints.get(integration.id, {}))

    async def _run_view(self, run: Run) -> RunView:
        cursors = await self._store.feeds.cursors_present(run.integration_id)
        return run_view(run, cursor_present=_has_cursors(run, cursors))


def _hosts(adapter: Adapter, settings: Mapping[str, Any]) -> frozenset[str] | None:
    try:
        return adapter.hosts(settings)
    except SambandError:
        return None  # stored by another version of the plugin, and no longer readable


def _has_cursors(run: Run, cursors: Mapping[str, bool]) -> bool:
    return bool(run.streams) and all(cursors.get(name, False) for name in run.streams)


def _demand_enabled(integration: Integration) -> None:
    if integration.state != "enabled":
        raise ConflictError(
            f"The integration is {integration.state}, not enabled.",
            code="not_enabled",
            hint="Test the connection, then enable the integration.",
        )


def _collect(problems: list[FieldProblem], parse: Any) -> Any:
    try:
        return parse()
    except InvalidError as err:
        problems.extend(err.problems)
        return None


def _plain(model: Any) -> dict[str, Any]:
    """Gives a settings model as JSON values, without what was left at its default."""
    return dict(model.model_dump(mode="json", exclude_unset=True))


def _name(value: str, field: str, problems: list[FieldProblem]) -> str:
    text = value.strip()
    if not text or len(text) > MAX_NAME_LENGTH or not text.isprintable():
        problems.append(
            FieldProblem(field=field, code="bad_name", message=f"Use 1 to {MAX_NAME_LENGTH} printable characters.")
        )
    return text


def _last_four(value: str) -> str:
    # Four characters of a short secret would be most of it.
    return value[-4:] if len(value) >= 12 else ""


def _check_idempotency_key(key: str) -> None:
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise InvalidError(
            "The Idempotency-Key is malformed.",
            problems=[
                FieldProblem(
                    field="Idempotency-Key", code="bad_key", message="Use 1 to 255 printable ASCII characters."
                )
            ],
        )


def _fingerprint(streams: Sequence[str] | None, full: bool) -> str:
    told = orjson.dumps([None if streams is None else sorted(streams), full])
    return hashlib.sha256(told).hexdigest()
