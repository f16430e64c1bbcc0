"""The endpoints, area by area, in the order the OpenAPI document lists them."""

from samband.api.endpoints import Endpoint
from samband.api.routes import (
    audit,
    backfills,
    dead_letters,
    events,
    exports,
    health,
    integrations,
    keys,
    operations,
    organizations,
    plugins,
    records,
    runs,
    schedules,
    tokens,
    webhooks,
)

__all__ = ["ENDPOINTS"]

ENDPOINTS: tuple[Endpoint, ...] = (
    *organizations.endpoints,
    *keys.endpoints,
    *audit.endpoints,
    *plugins.endpoints,
    *integrations.endpoints,
    *runs.endpoints,
    *schedules.endpoints,
    *backfills.endpoints,
    *records.endpoints,
    *dead_letters.endpoints,
    *exports.endpoints,
    *events.endpoints,
    *webhooks.endpoints,
    *tokens.endpoints,
    *health.endpoints,
    *operations.endpoints,
)
