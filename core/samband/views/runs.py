"""What the service answers about runs, besides the run itself (`samband.views.RunView`)."""

from __future__ import annotations

from pydantic import Field

from samband.views.shapes import RunView, View

__all__ = ["NotStartedView", "StartedView"]


class NotStartedView(View):
    """An integration that offers what was asked for and could not be started."""

    type: str
    code: str
    message: str
    hint: str = ""


class StartedView(View):
    """What an order that may concern several integrations has come to: every one of them is in one of the lists."""

    runs: list[RunView] = Field(description="The runs that were started.")
    already_running: list[RunView] = Field(default=[], description="Runs that were alive already, and go on.")
    not_started: list[NotStartedView] = Field(default=[], description="Integrations that a person has to look at.")
