"""What the service answers: the same shapes for Python callers, the HTTP API and ``--json`` on the command line.

The shapes of an area that came later have a module of its own here, such as `samband.views.schedules`.
"""

from samband.views.shapes import (
    LIVE_STATES,
    ChangesPage,
    ChangeView,
    CheckView,
    Counts,
    DeadLetterView,
    ErrorView,
    FeedPage,
    IntegrationState,
    IntegrationView,
    KeyView,
    OrganizationView,
    OutcomeView,
    PluginView,
    RecordView,
    RunState,
    RunView,
    StatusView,
    StreamStatus,
    StreamView,
    View,
)

__all__ = [
    "LIVE_STATES",
    "ChangeView",
    "ChangesPage",
    "CheckView",
    "Counts",
    "DeadLetterView",
    "ErrorView",
    "FeedPage",
    "IntegrationState",
    "IntegrationView",
    "KeyView",
    "OrganizationView",
    "OutcomeView",
    "PluginView",
    "RecordView",
    "RunState",
    "RunView",
    "StatusView",
    "StreamStatus",
    "StreamView",
    "View",
]
