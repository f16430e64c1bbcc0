"""What the service answers: the same shapes for Python callers, the HTTP API and ``--json`` on the command line.

The shapes of an area that came later have a module of its own here, such as `samband.views.schedules`.
"""

from samband.views.shapes import (
    LIVE_STATES,
    BrakeView,
    ChangesPage,
    ChangeView,
    CheckView,
    Counts,
    DeadLetterView,
    ErrorView,
    FeedPage,
    IntegrationState,
    IntegrationView,
    OrganizationView,
    OutcomeView,
    PluginView,
    RecordView,
    RunState,
    RunView,
    SelectionView,
    StatusView,
    StreamStatus,
    StreamView,
    View,
)

__all__ = [
    "LIVE_STATES",
    "BrakeView",
    "ChangeView",
    "ChangesPage",
    "CheckView",
    "Counts",
    "DeadLetterView",
    "ErrorView",
    "FeedPage",
    "IntegrationState",
    "IntegrationView",
    "OrganizationView",
    "OutcomeView",
    "PluginView",
    "RecordView",
    "RunState",
    "RunView",
    "SelectionView",
    "StatusView",
    "StreamStatus",
    "StreamView",
    "View",
]
