"""Where an organisation's claims go: the one integration that takes them, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samband.adapters.adapter import Adapter
from samband.contract import Stream
from samband.errors import ConflictError, SambandError
from samband.rules.selecting import CORE_ROUTES
from samband.service.parts import Parts
from samband.store.models import Integration

__all__ = ["Exporter", "exporter"]

_FINDABLE = frozenset({"export", "find_exported"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """An enabled integration that takes claims.

    Attributes:
        stream: That they go to.
    """

    integration: Integration
    adapter: Adapter
    stream: Stream

    @property
    def posts(self) -> bool:
        """Whether it takes vouchers; otherwise it takes the claims themselves."""
        return self.stream.kind == "voucher"

    def check_route(self, route: str | None) -> None:
        """Refuses a way that the plugin has not.

        Raises:
            ConflictError: `route_unsupported`.
        """
        if route in CORE_ROUTES and "render" not in self.adapter.manifest.capabilities:
            raise ConflictError(
                f"{self.adapter.manifest.title} writes no files.", code="route_unsupported",
                hint="Leave route out; the plugin chooses its way.",
            )  # fmt: skip


async def exporter(parts: Parts, org: str, type: str | None) -> Exporter:
    """Gives where claims go.

    Raises:
        ConflictError: Nothing is connected that takes reimbursements, or more than one is and none was named.
    """
    found: list[Exporter] = []
    for integration in await parts.store.catalog.integrations(org):
        try:
            adapter = parts.registry.adapter(integration.plugin)
            stream = _stream_of(adapter, integration)
        except SambandError:
            continue  # not installed any more, or not loaded: it cannot be where claims go
        if stream is not None and type in (None, integration.plugin):
            found.append(Exporter(integration=integration, adapter=adapter, stream=stream))
    enabled = [each for each in found if each.integration.state == "enabled"]
    if len(enabled) == 1:
        return enabled[0]
    if enabled:
        names = ", ".join(sorted(each.integration.plugin for each in enabled))
        raise ConflictError(
            f"Several integrations take reimbursements: {names}.", code="exporter_ambiguous", hint="Name one as type."
        )
    raise ConflictError(
        "No enabled integration of the organisation takes reimbursements.",
        code="nothing_connected",
        hint=_what_to_connect(parts, [each.integration.plugin for each in found]),
    )


def _what_to_connect(parts: Parts, saved: Sequence[str]) -> str:
    if saved:
        return f"Test and enable {', '.join(saved)}."
    able = [view.name for view in parts.registry.views() if _can_take(frozenset(view.capabilities))]
    if able:
        return f"Connect one of: {', '.join(able)}."
    return "None of the installed plugins takes them; install one that does, such as an accounting system's."


def _stream_of(adapter: Adapter, integration: Integration) -> Stream | None:
    """Gives the stream that claims go to, vouchers before plain claims."""
    if not _can_take(adapter.manifest.capabilities):
        return None
    settings = adapter.parse_settings(integration.settings)
    able = [s for s in adapter.manifest.streams if s.direction != "pull" and s.enabled(settings)]
    return next((s for kind in ("voucher", "reimbursement") for s in able if s.kind == kind), None)


def _can_take(capabilities: frozenset[str]) -> bool:
    """Says no of a plugin that could send something twice: it cannot find what it sent, and writes no files either."""
    return capabilities >= _FINDABLE or "render" in capabilities
