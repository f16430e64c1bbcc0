"""The endpoints, area by area, in the order the OpenAPI document lists them."""

from samband.api.endpoints import Endpoint
from samband.api.routes import (
    audit,
    backfills,
    dead_letters,
    events,
    exports,
    files,
    health,
    integrations,
    keys,
    mappings,
    operations,
    organizations,
    plugins,
    reconciliation,
    records,
    reimbursements,
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
    *reimbursements.endpoints,
    *exports.endpoints,
    *files.endpoints,
    *mappings.endpoints,
    *reconciliation.endpoints,
    *events.endpoints,
    *webhooks.endpoints,
    *tokens.endpoints,
    *health.endpoints,
    *operations.endpoints,
)
