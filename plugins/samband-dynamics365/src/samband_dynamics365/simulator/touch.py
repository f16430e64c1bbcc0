"""Changes made behind the API's back: what people in the organisation do between two synchronisations."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from . import names
from .seed import contact_row, days, mail_name, membership_row, phone
from .state import SimulatorState
from .tables import Row, Table


@dataclass(slots=True)
class TouchReport:
    """Which rows of which entity set were changed; relations that a deletion cut count as updates."""

    changes: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def note(self, table: Table, what: str, row_id: str) -> None:
        """Adds one change."""
        found = self.changes.setdefault(table.spec.entity_set, {"created": [], "updated": [], "deleted": []})
        found[what].append(row_id)


class _Dice:
    """The random source the seeding functions draw from."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self.days = days()


def touch(state: SimulatorState, order: dict[str, Any]) -> dict[str, Any]:
    """Carries out one order and returns what a delta since then must hold.

    Raises:
        ValueError: the order cannot be carried out; the text says why.
    """
    before = state.organization.version
    report = TouchReport()
    steps = order.get("changes", [order])
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ValueError("changes must be a list of objects")
    with state.organization.transaction():
        for step in steps:
            _Step(state, step, report).run()
    return {
        "version_before": before,
        "version": state.organization.version,
        "changes": report.changes,
        "expected": _expected(state, report, before),
    }


def _expected(state: SimulatorState, report: TouchReport, before: int) -> dict[str, Any]:
    """Returns per entity set what a delta from the version before the touch reports: ids and counts."""
    found = {}
    for entity_set in report.changes:
        table = state.organization.table_of_set(entity_set)
        if table is None:
            continue
        upserts = [row_id for row_id, row in table.rows.items() if row["versionnumber"] > before]
        deletions = [row_id for row_id, version in table.tombstones.items() if version > before]
        found[entity_set] = {
            "upserts": len(upserts),
            "deletions": len(deletions),
            "upserted_ids": sorted(upserts),
            "deleted_ids": sorted(deletions),
        }
    return found


class _Step:
    def __init__(self, state: SimulatorState, step: dict[str, Any], report: TouchReport) -> None:
        self.state = state
        self.step = step
        self.report = report
        self.table = _table(state, str(step.get("table", "contacts")))
        seed = step.get("seed", state.organization.version)
        self.dice = _Dice(random.Random(f"{seed}/{self.table.spec.name}"))  # noqa: S311  reproducible changes
        self.busy: set[str] = set()

    def run(self) -> None:
        for what in ("create", "update", "delete", "create_and_delete"):
            asked = self.step.get(what, 0)
            if isinstance(asked, bool) or not isinstance(asked, int | list):
                raise ValueError(f"{what} must be a number or a list")
            getattr(self, f"_{what}")(asked)

    def _create(self, asked: int | list[Any]) -> None:
        rows = asked if isinstance(asked, list) else [self._made(number) for number in range(asked)]
        for row in rows:
            self.busy.add(self._insert(_checked(self.table, row)))

    def _made(self, number: int) -> Row:
        maker = {"contact": self._contact, "sb_membership": self._membership, "systemuser": self._user}
        make = maker.get(self.table.spec.name)
        if make is not None:
            return make(1_000_000 + self.state.organization.version + number)
        return {self.table.spec.primary_name: f"Touched {self.state.organization.version + number}"}

    def _contact(self, number: int) -> Row:
        return contact_row(self.dice, number)

    def _membership(self, number: int) -> Row:
        tables = self.state.organization.tables
        taken = tables["sb_membership"].key_rows["sb_membership_pair_key"]
        contacts, chapters = tables["contact"].ids, tables["sb_chapter"].ids
        for _ in range(1_000):
            pair = (self.dice.random.choice(contacts), self.dice.random.choice(chapters)) if contacts else ("", "")
            if pair not in taken:
                row = membership_row(self.dice, number, primary=False)
                return {**row, "_sb_contactid_value": pair[0] or None, "_sb_chapterid_value": pair[1] or None}
        raise ValueError("no contact without a membership in every chapter is left")

    def _user(self, number: int) -> Row:
        first = self.dice.random.choice(names.FIRST_NAMES)
        last = self.dice.random.choice(names.LAST_NAMES)
        email = f"{mail_name(first)}.{mail_name(last)}.{number}@example.org"
        return {
            "firstname": first,
            "lastname": last,
            "fullname": f"{first} {last}",
            "internalemailaddress": email,
            "domainname": email,
            "azureactivedirectoryobjectid": self.state.new_id(),
        }

    def _insert(self, row: Row) -> str:
        spec = self.table.spec
        row_id = str(row.get(spec.primary_id) or self.state.new_id()).lower()
        stamp = self.state.clock.stamp()
        extra: Row = dict.fromkeys(spec.always_selected, row_id)
        if "_ownerid_value" in spec.columns:
            extra["_ownerid_value"] = extra["_owninguser_value"] = self.state.seeded.application_user
        stored = {"createdon": stamp, "modifiedon": stamp, **extra, **row, spec.primary_id: row_id}
        self.state.organization.write(self.table, row_id, stored)
        self.report.note(self.table, "created", row_id)
        return row_id

    def _update(self, asked: int | list[Any]) -> None:
        if isinstance(asked, int):
            for row_id in self._pick(asked):
                self._change(row_id, self._changed())
            return
        for row in asked:
            values = _checked(self.table, row)
            self._change(str(values.pop(self.table.spec.primary_id, "")).lower(), values)

    def _changed(self) -> Row:
        name = self.table.spec.name
        if name == "contact":
            return {"mobilephone": phone(self.dice), "address1_city": self.dice.random.choice(names.PLACES)[1]}
        if name == "sb_membership":
            return {"sb_status": self.dice.random.choice((1, 2))}
        if name == "systemuser":
            return {"jobtitle": self.dice.random.choice(names.JOB_TITLES), "mobilephone": phone(self.dice)}
        return {self.table.spec.primary_name: f"Touched {self.state.organization.version}"}

    def _change(self, row_id: str, values: Row) -> None:
        row = self.table.rows.get(row_id)
        if row is None:
            raise ValueError(f"{self.table.spec.entity_set} has no row {row_id[:40]}")
        stored = {**row, "modifiedon": self.state.clock.stamp(), **values}
        self.state.organization.write(self.table, row_id, stored)
        self.busy.add(row_id)
        self.report.note(self.table, "updated", row_id)

    def _delete(self, asked: int | list[Any]) -> None:
        for row_id in self._pick(asked) if isinstance(asked, int) else [str(one).lower() for one in asked]:
            if row_id not in self.table.rows:
                raise ValueError(f"{self.table.spec.entity_set} has no row {row_id[:40]}")
            self._drop(row_id)

    def _drop(self, row_id: str) -> None:
        self.busy.add(row_id)
        self.report.note(self.table, "deleted", row_id)
        for table, other, what in self.state.organization.remove(self.table, row_id):
            self.report.note(table, what, other)

    def _create_and_delete(self, asked: int | list[Any]) -> None:
        for number in range(asked if isinstance(asked, int) else len(asked)):
            self._drop(self._insert(_checked(self.table, self._made(number))))

    def _pick(self, count: int) -> list[str]:
        protected = {self.state.seeded.application_user}
        free = [row_id for row_id in self.table.ids if row_id not in self.busy and row_id not in protected]
        if count > len(free):
            raise ValueError(f"{self.table.spec.entity_set} has only {len(free)} rows that this order left alone")
        return self.dice.random.sample(free, count)


def _table(state: SimulatorState, name: str) -> Table:
    found = state.organization.table_of_set(name) or state.organization.tables.get(name)
    if found is None:
        raise ValueError(f"there is no table {name[:60]}")
    return found


def _checked(table: Table, row: Any) -> Row:
    """Returns an explicit row; values are stored as given, so that a test can plant bad data too."""
    if not isinstance(row, dict):
        raise ValueError("a row must be an object")
    unknown = [name for name in row if name not in table.spec.columns]
    if unknown:
        raise ValueError(f"{table.spec.entity_set} has no column {unknown[0][:60]}")
    return dict(row)
