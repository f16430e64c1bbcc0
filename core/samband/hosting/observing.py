"""Counts what the work of this process comes to, for Prometheus: runs, records, and calls into plugins."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["WorkMetrics"]

_RUN_BUCKETS_S = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600)


class WorkMetrics:
    """Listens to the flow (`samband.flow.Observer`) and to every adapter (`samband.adapters.adapter.Observer`).

    Labels are names from manifests and states, so their number is bounded; organisations are not among them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._runs = Histogram(
            "samband_run_duration_seconds",
            "Time a worker spent on a run, by the state it left it in.",
            ("plugin", "state"),
            buckets=_RUN_BUCKETS_S,
            registry=registry,
        )
        self._records = Counter(
            "samband_records", "Records taken in, by outcome.", ("plugin", "stream", "outcome"), registry=registry
        )
        self._hooks = Histogram(
            "samband_hook_duration_seconds",
            "Time of one call into a plugin; a sync is counted page by page.",
            ("plugin", "hook", "outcome"),
            registry=registry,
        )
        self._troubles = Counter(
            "samband_plugin_troubles",
            "Times a plugin blocked its loop or broke a promise.",
            ("plugin",),
            registry=registry,
        )
        self._token_refreshes = Counter(
            "samband_token_refresh",
            "Times a token endpoint was asked for a token, by what came of it.",
            ("plugin", "outcome"),
            registry=registry,
        )

    def run_ended(self, *, plugin: str, state: str, duration_s: float) -> None:
        self._runs.labels(plugin, state).observe(duration_s)

    def page_committed(self, *, plugin: str, stream: str, counts: Mapping[str, int]) -> None:
        for outcome, count in counts.items():
            if count:
                self._records.labels(plugin, stream, outcome).inc(count)

    def hook_finished(self, *, plugin: str, hook: str, outcome: str, duration_s: float) -> None:
        # Codes are a plugin's to choose, so they are no label.
        ended = outcome if outcome in ("ok", "cancelled") else "failed"
        self._hooks.labels(plugin, hook, ended).observe(duration_s)

    def lane_troubled(self, *, plugin: str) -> None:
        self._troubles.labels(plugin).inc()

    def token_refreshed(self, *, plugin: str, outcome: str) -> None:
        self._token_refreshes.labels(plugin, outcome).inc()
