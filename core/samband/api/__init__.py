"""The HTTP API: the service's operations over HTTP, described by the OpenAPI document it serves."""

from samband.api.app import create_app
from samband.api.metrics import Metrics

__all__ = ["Metrics", "create_app"]
