"""Integrations: one organisation's use of one plugin, from its settings to its being switched on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from samband.adapters.adapter import Adapter
from samband.errors import AuthError, ConflictError, FieldProblem, InvalidError, SambandError
from samband.presenting import integration_view
from samband.service.parts import Parts
from samband.service.wording import clean_name
from samband.store.catalog import PendingCredentials
from samband.store.models import Integration
from samband.views import (
    CheckView,
    ErrorView,
    IntegrationView,
)

CHECK_TIMEOUT_S = 10.0


class Integrations:
    """Settings, credentials, tests, and the switch."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def create(
        self, org: str, type: str, *, display_name: str = "", settings: Mapping[str, Any],
        credentials: Mapping[str, Any] | None = None,
    ) -> IntegrationView:  # fmt: skip
        """Connects an organisation to a system. It is ``saved``: tested and enabled in steps of their own."""
        await self._parts.store.catalog.organization(org)
        adapter = self._parts.registry.adapter(type)
        problems: list[FieldProblem] = []
        display_name = clean_name(display_name or adapter.manifest.title, "display_name", problems)
        clean = _collect(problems, lambda: _plain(adapter.parse_settings(settings)))
        if credentials is not None:
            _collect(problems, lambda: adapter.parse_credentials(credentials))
        if problems or clean is None:
            raise InvalidError("The integration cannot be saved.", problems=problems)
        pending = None if credentials is None else self._pending_credentials(adapter, credentials)
        integration = await self._parts.store.catalog.add_integration(org, type, display_name, clean, pending)
        return await self._view(integration)

    async def all(self, org: str) -> list[IntegrationView]:
        await self._parts.store.catalog.organization(org)
        integrations = await self._parts.store.catalog.integrations(org)
        hints = await self._parts.store.catalog.credential_hints([i.id for i in integrations])
        return [integration_view(i, hints.get(i.id, {})) for i in integrations]

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
        integration = await self._parts.integration(org, type)
        adapter = self._parts.registry.adapter(type)
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
            if_revision=if_revision,
            is_retest_needed=is_new,
            # Whoever may point an integration at a host of theirs must not be handed the secret for the old one.
            forget_credentials=leads_elsewhere,
            **values,
        )
        return await self._view(changed)

    async def set_credentials(self, org: str, type: str, credentials: Mapping[str, Any]) -> IntegrationView:
        """Replaces the credentials. They are never given back; test the connection afterwards."""
        integration = await self._parts.integration(org, type)
        adapter = self._parts.registry.adapter(type)
        adapter.parse_credentials(credentials)
        pending = self._pending_credentials(adapter, credentials)
        changed = await self._parts.store.catalog.set_credentials(integration, pending)
        return await self._view(changed)

    async def test(self, org: str, type: str) -> CheckView:
        """Tries the connection with one light read. Trouble at the other side is the answer, not an error."""
        integration = await self._parts.integration(org, type)
        adapter = self._parts.registry.adapter(type)
        connection = await self._parts.connection(integration)
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
        return self._parts.store.catalog.pending(dict(credentials), hints)

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
        await self._parts.store.catalog.note_check(integration, view.model_dump(mode="json"), **values)

    async def _view(self, integration: Integration) -> IntegrationView:
        hints = await self._parts.store.catalog.credential_hints([integration.id])
        return integration_view(integration, hints.get(integration.id, {}))


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
