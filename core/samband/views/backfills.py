"""What the service answers about reading chosen records again, about failures by cause, and about dry runs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from samband.views.shapes import RunView, View

__all__ = ["DifferenceView", "FailureView", "RetryView"]


class RetryView(View):
    """The run that reads the failed records of another one again, and what it cannot ask for."""

    run: RunView
    records: int = Field(description="Records that are read again.")
    without_key: int = Field(description="Failed records that came without a usable id, so nobody can ask for them.")
    not_enabled: int = Field(description="Failed records of streams that the settings no longer switch on.")


class FailureView(View):
    """The failed records of one run that have one cause."""

    stream: str
    code: str
    field: str | None
    message: str = Field(description="In the words of one of them.")
    count: int
    keys: list[str] = Field(description="Up to five of them, by the other system's ids.")


class DifferenceView(View):
    """What a dry run found a sync would do to one record. Unchanged records are counted on the run, not listed."""

    position: int = Field(description="Order within the dry run; pass it as after= to go on.")
    stream: str
    key: str
    op: Literal["created", "updated", "deleted", "skipped", "failed"]
    record_id: int | None = Field(default=None, description="Null for a record that is not held yet.")
    before: dict[str, Any] = Field(description="The fields that would change, as they are held.")
    after: dict[str, Any] = Field(
        description="The same as they would become. A reference to a record that is new itself names stream and key."
    )
    code: str | None = None
    field: str | None = None
    message: str | None = None
