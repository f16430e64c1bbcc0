"""The endpoints, area by area, in the order the OpenAPI document lists them."""

from samband.api.endpoints import Endpoint
from samband.api.routes import dead_letters, integrations, operations, organizations, plugins, records, runs

__all__ = ["ENDPOINTS"]

ENDPOINTS: tuple[Endpoint, ...] = (
    *organizations.endpoints,
    *plugins.endpoints,
    *integrations.endpoints,
    *runs.endpoints,
    *records.endpoints,
    *dead_letters.endpoints,
    *operations.endpoints,
)
