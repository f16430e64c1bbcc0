"""What is wrong with an integration that somebody should know of, from what the store says about it."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from samband.rules.freshness import Expectation, judge

Severity = Literal["critical", "warning"]

DEGRADED_FOR: Final = dt.timedelta(minutes=10)
"""How long trouble at the other side may last before it is told: it often passes by itself."""
EXPIRY_WARNING: Final = dt.timedelta(days=14)
MAPPING_FINDINGS_TOLD: Final = 20
"""Alerts about one mapping at most; more of them are one."""
UNREAD_AFTER: Final = 3
"""Failed readings of the other side's accounts, one after the other, until somebody is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """How much of an integration's exports waits for a person.

    Attributes:
        refused: Items that were refused, whose claim has neither been told anew nor taken again.
        stuck: Items that the other side took, cannot book, and has still.
        unposted: Items that it took long ago and has not booked.
        unposted_files: The same, of those that went as a file.
        corrections_stuck: Corrections that were agreed to, whose reversal was refused, given back or is stuck.
        corrections_waiting: Corrections that have waited for more than a day for a person to agree or not.
    """

    refused: int = 0
    stuck: int = 0
    unposted: int = 0
    unposted_files: int = 0
    corrections_stuck: int = 0
    corrections_waiting: int = 0

    def told_by(self, capabilities: Collection[str]) -> Unfinished:
        """Leaves out what waits for an answer that a plugin of these capabilities never gives."""
        looks_up = "find_exported" in capabilities
        reads = looks_up or "acknowledge" in capabilities
        return replace(
            self, unposted=self.unposted if looks_up else 0, unposted_files=self.unposted_files if reads else 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What the store knows about one enabled integration.

    Attributes:
        connection: Since ``connection_since``.
        expected: Until when a read is awaited; None when nothing is planned.
        failures_in_row: Of the last two ended runs, how many failed.
        open_letters: Runs that were given up and nobody has seen to.
        held_run: The run that waits for a person's decision.
        stalled_run: The run that is alive and has not moved for too long.
        uncertain_items: Exported items of which nobody has known for an hour whether they arrived.
        exports: What of its exports waits for a person.
        credentials_expire_at: When they stop working.
        webhook: Its figures by name, from the store's inbox; empty without a webhook.
        mapping: What was found at the last look at the other side's accounts, see `samband.charts`; empty without one.
    """

    organization_id: str
    integration_id: str
    plugin: str
    connection: str
    connection_since: dt.datetime | None
    expected: Expectation | None
    failures_in_row: int = 0
    open_letters: int = 0
    held_run: str | None = None
    stalled_run: str | None = None
    uncertain_items: int = 0
    exports: Unfinished = Unfinished()
    credentials_expire_at: dt.datetime | None = None
    webhook: Mapping[str, Any] = field(default_factory=dict)
    mapping: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A trouble: opened as an alert when it is first found and closed when it is found no more."""

    organization_id: str
    integration_id: str | None
    subject: str
    kind: str
    severity: Severity
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


def findings(condition: Condition, now: dt.datetime) -> list[Finding]:
    """Gives everything that is wrong, in the order of urgency."""
    subject = f"integration/{condition.integration_id}"
    return [
        *(_finding(condition, subject, *found) for found in _found(condition, now)),
        *(_finding(condition, f"{subject}/{place}", *found) for place, found in _of_mapping(condition)),
    ]


_Found = tuple[str, Severity, str, dict[str, Any]]


def _finding(
    condition: Condition, subject: str, kind: str, severity: Severity, message: str, data: dict[str, Any]
) -> Finding:
    return Finding(
        organization_id=condition.organization_id, integration_id=condition.integration_id, subject=subject, kind=kind,
        severity=severity, message=message, data={"type": condition.plugin, **data},
    )  # fmt: skip


def _found(condition: Condition, now: dt.datetime) -> Iterator[_Found]:
    yield from _of_connection(condition, now)
    yield from _of_credentials(condition, now)
    yield from _of_runs(condition)
    yield from _of_exports(condition.exports)
    yield from _of_freshness(condition, now)
    yield from _of_webhook(condition)


def _of_connection(condition: Condition, now: dt.datetime) -> Iterator[_Found]:
    if condition.connection == "needs_reauthentication":
        yield (
            "needs_reauthentication",
            "critical",
            "The other system refuses access; a person has to sign in again.",
            {},
        )
    elif condition.connection == "misconfigured":
        yield (
            "misconfigured",
            "critical",
            "The connection's settings or rights are wrong; an operator has to mend them.",
            {},
        )
    elif condition.connection == "degraded" and _is_older(condition.connection_since, now - DEGRADED_FOR):
        yield "degraded", "warning", "The other system has not answered well for a while.", {}


def _of_credentials(condition: Condition, now: dt.datetime) -> Iterator[_Found]:
    end = condition.credentials_expire_at
    if end is None or end > now + EXPIRY_WARNING:
        return
    data = {"expires_at": end.isoformat()}
    if end <= now:
        yield "credentials_expired", "critical", f"The credentials stopped working on {end:%Y-%m-%d}.", data
    else:
        yield "credentials_expiring", "warning", f"The credentials stop working on {end:%Y-%m-%d}.", data


def _of_runs(condition: Condition) -> Iterator[_Found]:
    if condition.held_run is not None:
        text = "A run waits for a decision: it would delete or deactivate unusually many records."
        yield "run_held", "critical", text, {"run": condition.held_run}
    if condition.failures_in_row >= 2:
        yield "runs_failing", "warning", "Two runs in a row have failed.", {}
    if condition.open_letters:
        yield "dead_letter", "warning", "A run was given up after its attempts.", {"letters": condition.open_letters}
    if condition.uncertain_items:
        text = "Of some exported items nobody knows whether they arrived."
        yield "export_uncertain", "critical", text, {"items": condition.uncertain_items}
    if condition.stalled_run is not None:
        yield (
            "run_stalled",
            "warning",
            "A run is alive and has not moved for a long time.",
            {"run": condition.stalled_run},
        )


def _of_exports(open: Unfinished) -> Iterator[_Found]:
    if open.refused:
        text = "Exported claims were refused; mend what they were refused for, or tell the claims anew, and export them again."
        yield "export_refused", "critical", text, {"items": open.refused}
    if open.stuck:
        text = "Vouchers lie in the other system and cannot be booked there; they have to be mended or removed there."
        yield "export_stuck", "critical", text, {"items": open.stuck}
    if unposted := open.unposted + open.unposted_files:
        text = "Vouchers that the other system took have not been booked there for a long time."
        yield "export_unposted", "warning", text, {"items": unposted}
    if open.corrections_stuck:
        text = "Corrections were agreed to, and what was booked has not been taken back; a person has to agree again."
        yield "correction_stuck", "critical", text, {"corrections": open.corrections_stuck}
    if open.corrections_waiting:
        text = "Corrections have waited for more than a day for a person to agree to them or not."
        yield "correction_waiting", "warning", text, {"corrections": open.corrections_waiting}


def _of_freshness(condition: Condition, now: dt.datetime) -> Iterator[_Found]:
    by = None if condition.expected is None else condition.expected.by
    match judge(condition.expected, now):
        case "overdue":
            yield "overdue", "warning", "A planned read has not succeeded in time.", {"expected_by": _iso(by)}
        case "stale":
            yield "stale", "critical", "Nothing has been read for a long time.", {"expected_by": _iso(by)}


def _of_webhook(condition: Condition) -> Iterator[_Found]:
    if condition.webhook.get("is_rejecting"):
        text = "More than a tenth of the webhook deliveries of the last hour were refused."
        yield "webhook_rejections", "warning", text, {}
    if condition.webhook.get("is_silent"):
        yield "webhook_silence", "warning", "No webhook delivery has come for more than a day.", {}


def _of_mapping(condition: Condition) -> Iterator[tuple[str, _Found]]:
    """Gives what no longer holds, each thing with a place of its own: one that is new is told though others are known.

    The place is a digest of the field, since the field may be a name of the organisation's own.
    """
    found: Sequence[Mapping[str, Any]] = condition.mapping.get("items", ())
    for item in found[:MAPPING_FINDINGS_TOLD]:
        place = hashlib.sha256(item["field"].encode()).hexdigest()[:12]
        severity: Severity = "warning" if item["code"].startswith("period_") else "critical"
        yield f"mapping-{place}", (f"mapping_{item['code']}", severity, item["message"], {"field": item["field"]})
    if len(found) > MAPPING_FINDINGS_TOLD:
        text = f"Of the mapping, {len(found)} codes no longer hold at the other side; the check lists them all."
        yield "mapping", ("mapping_broken", "critical", text, {"findings": len(found)})
    trouble: Mapping[str, Any] = condition.mapping.get("trouble", {})
    if trouble.get("failures", 0) >= UNREAD_AFTER:
        text = "The other side's accounts cannot be read, so nobody knows whether the mapping still holds."
        yield "mapping", ("mapping_unchecked", "warning", text, {"since": trouble["since"]})


def _is_older(instant: dt.datetime | None, limit: dt.datetime) -> bool:
    return instant is not None and instant <= limit


def _iso(instant: dt.datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
