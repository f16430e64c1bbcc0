"""The import job: takes whole vouchers from the staging table and posts them, or writes down why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .books import post
from .reads import is_open
from .staging import forget_errors, withdraw
from .switches import Switches
from .tables import Row
from .world import GroupKey, World

ERROR = {"dbId": 3, "code": "ERROR", "name": "Error", "dbSubId": 3}
_DIMENSIONS = ("project", "xgl", *(f"glObject{number}" for number in range(1, 6)))


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What one run of the job did."""

    posted: list[Row] = field(default_factory=list)
    failed: list[GroupKey] = field(default_factory=list)

    def as_json(self) -> dict[str, int]:
        """Returns the counts."""
        return {"posted": len(self.posted), "failed": len(self.failed)}


def run(world: World, switches: Switches) -> Outcome:
    """Carries every waiting voucher as far as it goes."""
    outcome = Outcome()
    periods = _Periods(world)
    world.job_runs += 1
    for key, rows in list(world.groups()):
        if any((row.get("jobLevel") or {}).get("dbSubId") == 0 for row in rows):
            continue
        if not switches.retry_failed and any(row.get("_failed") for row in rows):
            continue
        forget_errors(world, rows)
        problems = _problems(world, key, rows, periods, switches)
        if problems:
            _write_down(world, rows, problems)
            outcome.failed.append(key)
        else:
            outcome.posted.append(_carry_over(world, key, rows, switches))
    return outcome


class _Periods:
    """Which periods are open; asked once per entity and month of a run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._known: dict[tuple[int, str], bool | None] = {}

    def is_open(self, owner: int, day: str) -> bool | None:
        """Tells whether one may post on a day; nothing when there is no period."""
        key = (owner, day[:7])
        if key not in self._known:
            period = self._world.period_of(day)
            status = None if period is None else self._world.period_status(owner, period)
            self._known[key] = None if status is None else status["status"]["code"] == "OPEN"
        return self._known[key]


def _problems(
    world: World, key: GroupKey, rows: list[Row], periods: _Periods, switches: Switches
) -> list[tuple[Row, str]]:
    found = [(row, text) for row in rows for text in _line_problems(row, periods)]
    total = sum((row["amount"] for row in rows if row.get("amount") is not None), start=0)
    if total != 0:
        found.append((rows[0], f"The voucher {key[2]} does not balance: {total:.2f}."))
    if key in world.numbers_posted and switches.duplicate_numbers == "refuse":
        found.append((rows[0], f"The voucher number {key[2]} is used already."))
    return found


def _line_problems(row: Row, periods: _Periods) -> list[str]:
    found = list(row.get("_unknown", ()))
    day = row.get("postedDate")
    if day is None:
        return [*found, "Posted date is missing."]
    opened = periods.is_open(row["ownerDbId"], day)
    if not opened:
        found.append(f"There is no period for {day}." if opened is None else f"The period {day[:7]} is closed.")
    account = row.get("account")
    if account is None:
        if not row.get("_unknown"):
            found.append("Account is missing.")
    elif not is_open(account, day):
        found.append(f"Account {account['code']} is closed.")
    if row.get("amount") is None:
        found.append("Amount is missing.")
    for name in _DIMENSIONS:
        value = row.get(name)
        if value is not None and not is_open(value, day):
            found.append(f"{name}: {value['code']} is not active on {day}.")
    return found


def _write_down(world: World, rows: list[Row], problems: list[tuple[Row, str]]) -> None:
    now = world.clock.local()
    for row in rows:
        world["glImportItems"].change(row, modifiedAt=now, _failed=True)
    for row, text in problems:
        world.put(
            "glImportItemErrors", ownerDbId=row["ownerDbId"], owner=row["owner"], message=text, errorLevel=ERROR,
            errorLevelDbId=ERROR["dbId"], transactionDbId=row["dbId"], objectValue=None,
        )  # fmt: skip


def _carry_over(world: World, key: GroupKey, rows: list[Row], switches: Switches) -> Row:
    kept = rows[0]["_door"] != "graphql" or switches.transaction_numbers == "kept"
    number = key[2] if kept and isinstance(key[2], int) else world.new_number()
    header = post(world, rows, number)
    world.numbers_posted[key] = header["dbId"]
    for row in rows:
        row["_header"] = header
        if switches.keep_posted_items:
            world.waiting.pop(key, None)
        else:
            withdraw(world, row)
    return header


def counts(outcome: Outcome) -> dict[str, Any]:
    """Returns what the control door tells about a run."""
    return {**outcome.as_json(), "numbers": [header["transactionNumber"] for header in outcome.posted[:1_000]]}
