"""Integrations: one organisation's use of one plugin, from its settings to its being switched on."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

from samband.adapters.adapter import Adapter, Connection
from samband.errors import (
    AdapterError,
    AuthError,
    ConflictError,
    ContractError,
    FieldProblem,
    InvalidError,
    NotReadyError,
    RetryableError,
    SambandError,
)
from samband.presenting import integration_view
from samband.rules.refusals import judge_refusal
from samband.service.parts import Parts
from samband.service.wording import clean_name
from samband.store.catalog import PendingCredentials, changed_meanwhile
from samband.store.models import Integration
from samband.views import (
    CheckView,
    ErrorView,
    FeedPage,
    IntegrationView,
)

CHECK_TIMEOUT_S = 10.0

_TRIES = 3
"""How often new credentials are tested anew because the integration was changed during the test."""
_LONGEST_LIFE = dt.timedelta(days=100 * 366)


class Integrations:
    """Settings, credentials, tests, and the switch."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def create(
        self, org: str, type: str, *, display_name: str = "", settings: Mapping[str, Any],
        credentials: Mapping[str, Any] | None = None, credentials_expire_at: dt.datetime | None = None,
    ) -> IntegrationView:  # fmt: skip
        """Connects an organisation to a system. It is ``saved``: tested and enabled in steps of their own."""
        await self._parts.store.catalog.organization(org)
        adapter = self._parts.registry.adapter(type)
        problems: list[FieldProblem] = []
        display_name = clean_name(display_name or adapter.manifest.title, "display_name", problems)
        clean = _collect(problems, lambda: _plain(adapter.parse_settings(settings)))
        pending: PendingCredentials | None = None
        if credentials is not None:
            given = credentials
            pending = _collect(
                problems,
                lambda: self._pending_credentials(adapter, given, credentials_expire_at, "credentials_expire_at"),
            )
        elif credentials_expire_at is not None:
            problems.append(_expiry_problem("credentials_expire_at", "It belongs to credentials: give those too."))
        if problems or clean is None:
            raise InvalidError("The integration cannot be saved.", problems=problems)
        integration = await self._parts.store.catalog.add_integration(org, type, display_name, clean, pending)
        return await self._view(integration)

    async def page(self, org: str, *, after: str | None = None, limit: int = 100) -> FeedPage:
        """Gives integrations by type."""
        await self._parts.store.catalog.organization(org)
        found = await self._parts.store.catalog.integrations(org, after=after, limit=limit + 1)
        facts = await self._parts.store.catalog.credential_facts([i.id for i in found[:limit]])
        items = [integration_view(i, facts.get(i.id)) for i in found[:limit]]
        return FeedPage(items=items, next=items[-1].type if len(found) > limit else None)

    async def get(self, org: str, type: str) -> IntegrationView:
        return await self._view(await self._parts.integration(org, type))

    async def update(
        self, org: str, type: str, *, settings: Mapping[str, Any] | None = None, display_name: str | None = None,
        if_revision: int | None = None,
    ) -> IntegrationView:  # fmt: skip
        """Changes settings (as a whole) or the name.

        Changed settings have to be tested again: a tested or enabled integration becomes ``saved``. When they lead to
        other hosts than before, the credentials are forgotten and have to be entered again.
        """
        for is_last in (*(False,) * (_TRIES - 1), True):
            integration = await self._parts.integration(org, type)
            if if_revision not in (None, integration.revision):
                raise changed_meanwhile()
            try:
                return await self._change(integration, settings, display_name)
            except ConflictError:
                # Whether the settings lead elsewhere was judged by what is no longer there.
                if if_revision is not None or is_last:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _change(
        self, integration: Integration, settings: Mapping[str, Any] | None, display_name: str | None
    ) -> IntegrationView:
        adapter = self._parts.registry.adapter(integration.plugin)
        problems: list[FieldProblem] = []
        values: dict[str, Any] = {}
        is_new, leads_elsewhere = False, False
        if display_name is not None:
            values["display_name"] = clean_name(display_name, "display_name", problems)
        if settings is not None:
            clean = _collect(problems, lambda: _plain(adapter.parse_settings(settings)))
            if clean is not None and clean != integration.settings:
                values["settings"] = clean
                is_new, leads_elsewhere = True, _hosts(adapter, clean) != _hosts(adapter, integration.settings)
        if problems:
            raise InvalidError("The integration cannot be changed.", problems=problems)
        changed = await self._parts.store.catalog.change_integration(
            integration,
            if_revision=integration.revision,
            is_retest_needed=is_new,
            # Whoever may point an integration at a host of theirs must not be handed the secret for the old one.
            forget_credentials=leads_elsewhere,
            **values,
        )
        if is_new:
            await self._nudge(changed)
        return await self._view(changed)

    async def set_credentials(
        self, org: str, type: str, credentials: Mapping[str, Any], *, expires_at: dt.datetime | None = None,
        test: bool = True, if_revision: int | None = None,
    ) -> IntegrationView:  # fmt: skip
        """Replaces the credentials. They are never given back.

        Those of a tested or enabled integration are tested before they replace the ones that work; state, history and
        schedules stay. An integration that is saved or disabled has to be tested afterwards in any case.

        Args:
            expires_at: When they stop working, where they do not say so themselves; of two instants the earlier counts.
            test: Without it they are stored as they are, and a tested or enabled integration becomes ``saved``.
            if_revision: Only if nobody changed the integration since this revision.

        Raises:
            ConflictError: The other system refuses them (``credentials_refused``), and the former ones stay in force.
            NotReadyError: They could not be tested now (``credentials_untested``), and the former ones stay in force.
        """
        await self._parts.integration(org, type)
        adapter = self._parts.registry.adapter(type)
        pending = self._pending_credentials(adapter, credentials, expires_at)
        for is_last in (*(False,) * (_TRIES - 1), True):
            integration = await self._parts.integration(org, type)
            if if_revision not in (None, integration.revision):
                raise changed_meanwhile()
            check = None
            if test and integration.state in ("tested", "enabled"):
                check = await self._passed_by(adapter, integration, credentials)
            try:
                changed = await self._parts.store.catalog.set_credentials(
                    integration, pending, if_revision=integration.revision,
                    check=None if check is None else check.model_dump(mode="json"),
                )  # fmt: skip
            except ConflictError:
                # What was tested, and whether a test was needed, is not what is there now.
                if if_revision is not None or is_last:
                    raise
            else:
                await self._nudge(changed)
                return await self._view(changed)
        raise AssertionError("the last try returns or raises")

    async def _nudge(self, integration: Integration) -> None:
        """Has runs that wait looked at again at once: what they wait for may be what was changed."""
        for run_id in await self._parts.store.runs.nudge(integration.id):
            await self._parts.bell.ring(run_id)

    async def _passed_by(self, adapter: Adapter, integration: Integration, credentials: Mapping[str, Any]) -> CheckView:
        """Gives the test that new credentials passed; the tokens of the present ones are neither used nor touched."""
        trial = Connection(
            organization_id=integration.organization_id, integration_id=integration.id, revision=integration.revision,
            settings=integration.settings, credentials=dict(credentials), is_trial=True,
        )  # fmt: skip
        view, error = await self._checked(adapter, trial)
        if view.ok:
            return view
        if isinstance(error, RetryableError | ContractError):
            raise _untested(error)
        if error is not None and not isinstance(error, AdapterError):
            raise error
        await self._parts.store.catalog.note_refused_credentials(
            integration, "rights_missing" if error is None else error.code
        )
        raise _refused(view, error)

    async def test(self, org: str, type: str) -> CheckView:
        """Tries the connection with one light read. Trouble at the other side is the answer, not an error."""
        integration = await self._parts.integration(org, type)
        adapter = self._parts.registry.adapter(type)
        view, error = await self._checked(adapter, await self._parts.connection(integration))
        await self._note_check(integration, view, error)
        return view

    async def _checked(self, adapter: Adapter, connection: Connection) -> tuple[CheckView, SambandError | None]:
        checked_at = dt.datetime.now(dt.UTC)
        error: SambandError | None = None
        summary, facts, missing, unneeded = "", {}, [], []
        try:
            check = await adapter.check(connection, timeout_s=CHECK_TIMEOUT_S)
            summary, facts = check.summary, dict(check.facts)
            missing, unneeded = list(check.missing), list(check.unneeded)
        except SambandError as err:
            error = err
        latency_ms = int((dt.datetime.now(dt.UTC) - checked_at).total_seconds() * 1000)
        view = CheckView(
            ok=error is None and not missing, checked_at=checked_at, latency_ms=latency_ms, summary=summary, facts=facts,
            missing=missing, unneeded=unneeded, error=None if error is None else ErrorView.of(error),
        )  # fmt: skip
        return view, error

    async def enable(self, org: str, type: str) -> IntegrationView:
        """Switches an integration on; only one whose last test went well."""
        integration = await self._parts.integration(org, type)
        if integration.state == "enabled":
            return await self._view(integration)
        if not (integration.last_check or {}).get("ok"):
            raise ConflictError(
                "The connection has not been tested with these settings and credentials.",
                code="not_tested",
                hint="Test the connection first; it can be enabled when the test succeeds.",
            )
        return await self._view(
            await self._parts.store.catalog.change_integration(
                integration, if_revision=integration.revision, state="enabled"
            )
        )

    async def disable(self, org: str, type: str) -> IntegrationView:
        """Switches an integration off: no new run starts. A run that is going on ends by itself."""
        integration = await self._parts.integration(org, type)
        if integration.state == "disabled":
            return await self._view(integration)
        return await self._view(await self._parts.store.catalog.change_integration(integration, state="disabled"))

    def _pending_credentials(
        self,
        adapter: Adapter,
        credentials: Mapping[str, Any],
        expires_at: dt.datetime | None,
        field: str = "expires_at",
    ) -> PendingCredentials:
        """Reads credentials and what they are good for; `InvalidError` names every field at fault."""
        expires_at = _earlier(expires_at, adapter.credentials_expire_at(credentials), field)
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
        return self._parts.store.catalog.pending(dict(credentials), hints, expires_at)

    async def _note_check(self, integration: Integration, view: CheckView, error: SambandError | None) -> None:
        values: dict[str, Any] = {}
        if view.ok:
            connection = "connected"
            if integration.state == "saved":
                values["state"] = "tested"
        elif isinstance(error, AuthError):
            connection = judge_refusal(error).connection
        else:
            connection = "degraded" if error is not None else "misconfigured"
        await self._parts.store.catalog.note_check(
            integration, view.model_dump(mode="json"), connection, code="" if error is None else error.code, **values
        )

    async def _view(self, integration: Integration) -> IntegrationView:
        facts = await self._parts.store.catalog.credential_facts([integration.id])
        return integration_view(integration, facts.get(integration.id))


def _refused(view: CheckView, error: SambandError | None) -> ConflictError:
    stay = "The former credentials stay in force."
    if error is None:
        return ConflictError(
            f"The new credentials lack a right: {', '.join(view.missing)}. {stay}",
            code="credentials_refused",
            hint="Grant it at the other side, or send them with test: false to store them as they are.",
        )
    return ConflictError(
        f"The other system does not accept the new credentials: {error.message} {stay}",
        code="credentials_refused", hint=error.hint, remote_message=error.remote_message,
    )  # fmt: skip


def _untested(error: SambandError) -> NotReadyError:
    wait_s = getattr(error, "retry_after_s", None)
    untested = NotReadyError(
        f"The new credentials could not be tested now: {error.message} The former credentials stay in force.",
        code="credentials_untested",
        hint="Try again later; or send them with test: false to store them untested, and test and enable afterwards.",
        retry_after_s=5 if wait_s is None else math.ceil(wait_s),
    )
    untested.remote_message = error.remote_message
    return untested


def _earlier(given: dt.datetime | None, known: dt.datetime | None, field: str) -> dt.datetime | None:
    """Gives when credentials end: as was said, or as they say themselves."""
    now = dt.datetime.now(dt.UTC)
    problems = []
    if given is not None and not dt.timedelta() < given - now < _LONGEST_LIFE:
        problems.append(_expiry_problem(field, "Give an instant in the future, at most 100 years away."))
    if known is not None and known <= now:
        problems.append(_expiry_problem("credentials", f"They ended on {known:%Y-%m-%d}: get new ones."))
    if problems:
        raise InvalidError("The credentials cannot be used.", problems=problems)
    return min((end for end in (given, known) if end is not None), default=None)


def _expiry_problem(field: str, message: str) -> FieldProblem:
    return FieldProblem(field=field, code="expiry", message=message)


def _hosts(adapter: Adapter, settings: Mapping[str, Any]) -> frozenset[str] | None:
    try:
        return adapter.hosts(settings)
    except SambandError:
        return None  # stored by another version of the plugin, and no longer readable


def _collect(problems: list[FieldProblem], parse: Any) -> Any:
    try:
        return parse()
    except InvalidError as err:
        problems.extend(err.problems)
        return None


def _plain(model: Any) -> dict[str, Any]:
    """Gives a settings model as JSON values, without what was left at its default."""
    return dict(model.model_dump(mode="json", exclude_unset=True))


def _last_four(value: str) -> str:
    # Four characters of a short secret would be most of it.
    return value[-4:] if len(value) >= 12 else ""
