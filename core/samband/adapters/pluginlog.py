"""The log a plugin is given: structured, bound to its integration, and scrubbed value by value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from samband.redaction import Redactor

__all__ = ["PluginLog"]


class PluginLog:
    """Implements `samband.contract.Logger`.

    Args:
        redactor: Scrubs the event and every value.
        bound: Goes with every line and cannot be replaced by the plugin.
    """

    def __init__(self, redactor: Redactor, bound: Mapping[str, object]) -> None:
        self._redactor = redactor
        self._bound = dict(bound)
        self._log = structlog.stdlib.get_logger("samband.plugin")

    def debug(self, event: str, **values: Any) -> None:
        self._log.debug(self._redactor.scrub(str(event)), **self._clean(values))

    def info(self, event: str, **values: Any) -> None:
        self._log.info(self._redactor.scrub(str(event)), **self._clean(values))

    def warning(self, event: str, **values: Any) -> None:
        self._log.warning(self._redactor.scrub(str(event)), **self._clean(values))

    def error(self, event: str, **values: Any) -> None:
        self._log.error(self._redactor.scrub(str(event)), **self._clean(values))

    def _clean(self, values: Mapping[str, Any]) -> dict[str, Any]:
        # exc_info would print a stranger's exception text, which may hold a member's data.
        clean = {k: self._redactor.scrub_value(k, v) for k, v in values.items() if k not in ("exc_info", "stack_info")}
        return clean | self._bound
