"""Figures for Prometheus: how long requests take in this process, and how the work stands in the database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from samband.errors import SambandError

if TYPE_CHECKING:
    from samband.service import Service

__all__ = ["CONTENT_TYPE", "METRICS", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The registry of one process. Labels are bounded: templates instead of addresses, classes instead of statuses."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Histogram(
            "samband_http_request_duration_seconds",
            "Time from the head of a request to the head of its answer.",
            ("method", "route", "status"),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )

    def observe(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Counts one request."""
        label = method if method in _METHODS else "other"
        self._requests.labels(label, route, f"{status // 100}xx").observe(duration_s)

    async def render(self, service: Service) -> bytes:
        """Gives the text Prometheus reads. When the database is away the process's own figures are still there."""
        try:
            snapshot = await service.health.metrics_snapshot()
            families = [_family(name, value) for name, value in snapshot.items() if value is not None]
        except SambandError:
            families = []
            snapshot = None
        families.append(_family("snapshot_up", 0 if snapshot is None else 1))
        once = CollectorRegistry()
        once.register(_Families(families))
        return generate_latest(self.registry) + generate_latest(once)


METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _family(name: str, value: float | Mapping[str, float]) -> Metric:
    """Gives the gauge ``samband_<name>``: a number as it is, a mapping as one sample per state."""
    full_name = f"samband_{name}"
    text = f"{name.replace('_', ' ').capitalize()}, read from the database when asked."
    if not isinstance(value, Mapping):
        return GaugeMetricFamily(full_name, text, value=value)
    family = GaugeMetricFamily(full_name, text, labels=["state"])
    for label, number in value.items():
        family.add_metric([label], number)
    return family
