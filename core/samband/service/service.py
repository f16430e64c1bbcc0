"""The ten operations, and the areas around them.

Every method takes the organisation first and never looks beyond it. What goes wrong is raised as one of the
`samband.errors.ServiceError` types, with the fields at fault and the way out.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from samband.access import Caller, Keys, Verb
from samband.adapters.registry import Registry
from samband.http.egress import EgressPolicy
from samband.presenting import STALL_AFTER_S
from samband.receiving import Parcel, Received, ReceivingLimits
from samband.redaction import Redactor
from samband.rules.schedule import DEFAULT_ZONE
from samband.service.audit import Audit
from samband.service.backfills import Backfills
from samband.service.charts import Charts
from samband.service.events import Events, Subscriptions
from samband.service.exports import Exports
from samband.service.files import Files
from samband.service.health import Health
from samband.service.integrations import Integrations
from samband.service.keys import AccessKeys
from samband.service.mappings import Mappings
from samband.service.organizations import Organizations
from samband.service.parts import Bell, Parts
from samband.service.reconciliation import Reconciliation
from samband.service.records import Records
from samband.service.reimbursements import Reimbursements
from samband.service.repeats import Repeats
from samband.service.runs import COURSE_ENROLLMENTS, MEMBERSHIP_DATA, Runs
from samband.service.schedules import DEFAULT_GRACE_S, DEFAULT_NAME, Schedules
from samband.service.tokens import Tokens
from samband.service.webhooks import Webhooks
from samband.store import Store
from samband.views import PluginView, RunView, StatusView
from samband.views.exports import ExportView
from samband.views.runs import StartedView
from samband.views.schedules import CancelledScheduleView, CatchUp, Overlap, ScheduleView
from samband.views.tokens import TokenView


class Service:
    """Everything a caller can ask of samband.

    Attributes:
        organizations: Whose data is carried.
        integrations: What each organisation is connected to.
        runs: Orders, and what became of them.
        records: What is held, and its changes.
        schedules: Reading integrations by themselves.
        backfills: Reading chosen records again, retrying what failed, dry runs.
        reimbursements: Claims as they come in, their versions and corrections, and where the money of each is.
        exports: What became of each claim that was sent away.
        reconciliation: Our exports held against the other side's books.
        mappings: How claims become vouchers, version by version.
        charts: What a mapping may refer to at the other side.
        files: Files that carried claims out, where they go, and the reports that come back.
        events: What happened, for those who ask.
        subscriptions: Addresses that events are sent to.
        webhooks: Being told of changes by the other side.
        tokens: Access tokens, and having a person agree at the other side.
        health: How integrations and the host are doing.
        keys: Who may ask.
        audit: Who did what.
    """

    def __init__(
        self, *, store: Store, registry: Registry, bell: Bell, public_url: str = "",
        stall_after_s: float = STALL_AFTER_S, egress: EgressPolicy | None = None, redactor: Redactor | None = None,
        receiving: ReceivingLimits | None = None, drop_root: Path | None = None,
    ) -> None:  # fmt: skip
        parts = Parts(
            store=store, registry=registry, bell=bell, public_url=public_url, stall_after_s=stall_after_s,
            egress=egress or EgressPolicy(), redactor=redactor or Redactor(), drop_root=drop_root,
        )  # fmt: skip
        self._parts = parts
        self._keys = Keys(store.api_keys)
        self.organizations = Organizations(parts)
        self.integrations = Integrations(parts)
        self.runs = Runs(parts)
        self.records = Records(parts)
        self.schedules = Schedules(parts)
        self.backfills = Backfills(parts)
        self.reimbursements = Reimbursements(parts)
        self.exports = Exports(parts)
        self.files = Files(parts)
        self.reconciliation = Reconciliation(parts)
        self.mappings = Mappings(parts)
        self.charts = Charts(parts)
        self.events = Events(parts)
        self.subscriptions = Subscriptions(parts)
        self.health = Health(parts)
        self.keys = AccessKeys(self._keys)
        self.audit = Audit(parts)
        self.repeats = Repeats(parts)
        self.webhooks = Webhooks(parts, receiving)
        self.tokens = Tokens(parts)

    # ── the ten operations ───────────────────────────────────────────────────

    async def trigger_sync(
        self, org: str, type: str, *, streams: Sequence[str] | None = None, full: bool = False, reason: str = "api",
        requested_by: str = "", idempotency_key: str | None = None,
    ) -> RunView:  # fmt: skip
        """Orders a sync and rings for a worker; see `Runs.order_sync`."""
        return await self.runs.order_sync(
            org, type, streams=streams, full=full, reason=reason, requested_by=requested_by,
            idempotency_key=idempotency_key,
        )  # fmt: skip

    async def sync_membership_data(
        self, org: str, *, full: bool = False, reason: str = "api", requested_by: str = ""
    ) -> StartedView:
        """Orders a sync of everything that brings members and memberships; see `Runs.order_kind`."""
        return await self.runs.order_kind(org, MEMBERSHIP_DATA, full=full, reason=reason, requested_by=requested_by)

    async def sync_course_enrollments(
        self, org: str, *, full: bool = False, reason: str = "api", requested_by: str = ""
    ) -> StartedView:
        """Orders a sync of everything that brings course enrolments; see `Runs.order_kind`."""
        return await self.runs.order_kind(org, COURSE_ENROLLMENTS, full=full, reason=reason, requested_by=requested_by)

    async def export_reimbursements(
        self, org: str, ids: Sequence[str] | None = None, *, type: str | None = None, first: dt.date | None = None,
        last: dt.date | None = None, exclude: Mapping[str, str] | None = None, route: str | None = None,
        reason: str = "api", requested_by: str = "",
    ) -> ExportView:  # fmt: skip
        """Sends approved claims to the books, each exactly once or known to be uncertain; see `Exports.order`."""
        return await self.exports.order(
            org, ids, type=type, first=first, last=last, exclude=exclude, route=route, reason=reason,
            requested_by=requested_by,
        )  # fmt: skip

    async def schedule_sync(
        self, org: str, type: str, *, cron: str | None = None, interval_s: int | None = None, zone: str = DEFAULT_ZONE,
        streams: Sequence[str] | None = None, full: bool = False, overlap: Overlap | None = None,
        catch_up: CatchUp = "latest", misfire_grace_s: int = DEFAULT_GRACE_S, jitter_s: int = 0,
        name: str = DEFAULT_NAME, if_revision: int | None = None,
    ) -> ScheduleView:  # fmt: skip
        """Reads an integration by itself from now on; see `Schedules.put`."""
        return await self.schedules.put(
            org, type, name, cron=cron, interval_s=interval_s, zone=zone, streams=streams, full=full, overlap=overlap,
            catch_up=catch_up, misfire_grace_s=misfire_grace_s, jitter_s=jitter_s, if_revision=if_revision,
        )  # fmt: skip

    async def cancel_scheduled_sync(
        self, org: str, type: str, *, name: str = DEFAULT_NAME, if_revision: int | None = None
    ) -> CancelledScheduleView:
        """Stops reading an integration by itself; see `Schedules.cancel`."""
        return await self.schedules.cancel(org, type, name, if_revision=if_revision)

    async def get_integration_status(self, org: str, type: str) -> StatusView:
        """Tells how an integration is doing."""
        return await self.health.status(org, type)

    async def get_last_sync_result(self, org: str, type: str) -> RunView:
        """Gives the newest run; `NotFoundError` when there was none."""
        return await self.runs.latest(org, type)

    async def refresh_oauth_token(
        self, integration_id: str, *, organizations: Collection[str] | None = None
    ) -> TokenView:
        """Has an integration's token renewed now; see `Tokens.renew`."""
        return await self.tokens.renew(integration_id, organizations=organizations)

    async def process_webhook_event(
        self, source: str, payload: bytes, *, headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None, method: str = "POST",
    ) -> Received:  # fmt: skip
        """Takes a delivery in that came some other way than over HTTP here; see `samband.receiving.Receiving.take`.

        Args:
            source: What stands behind ``/webhooks/`` in the address: the integration's type, a slash and the key.
            payload: The raw body.
            headers: In any case.
            query: Decoded.
        """
        type, _, key = source.partition("/")
        lower = {name.lower(): value for name, value in (headers or {}).items()}
        await self.webhooks.knock(type, key)
        with self.webhooks.room_for(key, len(payload)):
            return await self.webhooks.receive(
                type, key, Parcel(method=method.upper(), headers=lower, query=query or {}, body=payload)
            )

    # ── plugins and access ───────────────────────────────────────────────────

    def list_plugins(self) -> list[PluginView]:
        """Gives every plugin that is installed or wanted, with the reason where one did not load."""
        return self._parts.registry.views()

    async def authenticate_key(self, presented: str) -> Caller | None:
        """Tells who holds this key; None for anything that is not a valid one."""
        return await self._keys.holder_of(presented)

    async def ensure_admin_key(self) -> str | None:
        """Makes the first key and gives it in clear, this once; None when there are keys already."""
        return await self._keys.first()

    async def create_key(self, name: str, *, verbs: Sequence[Verb], organizations: Sequence[str] | None) -> str:
        """Makes an API key and gives it in clear; only its hash is kept."""
        return await self._keys.create(name, verbs=verbs, organizations=organizations)
