"""Taking deliveries in: whatever waits is one transaction, on SQLite one crossing to its thread.

A row per delivery in the inbox, refused by the database when its id came before, and the counts of the hour.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.store.columns import iso_ms
from samband.store.database import Database
from samband.store.models import Inbox, Integration, Webhook, WebhookCount
from samband.store.vault import Vault

__all__ = ["UNNUMBERED", "Arrival", "Arrivals", "Tally"]

_inbox: sa.Table = Inbox.__table__
_count: sa.Table = WebhookCount.__table__
_webhook: sa.Table = Webhook.__table__
_integration: sa.Table = Integration.__table__

UNNUMBERED = "unnumbered"
"""The reason of a delivery whose sender gave it no id; see `Arrivals.take_in`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One delivery whose proof held, ready to be stored.

    Attributes:
        revisions: Of the address and of the integration, as they were when the proof was looked at.
    """

    organization_id: str
    integration_id: str
    revisions: tuple[int, int]
    delivery_key: str
    content: bytes = field(repr=False)
    size: int
    digest: str
    triggers: list[dict[str, Any]]
    reason: str
    received_at: dt.datetime

    @property
    def name(self) -> tuple[str, str]:
        return self.integration_id, self.delivery_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What is counted together: one outcome of one integration in one hour."""

    organization_id: str
    integration_id: str
    hour: dt.datetime
    outcome: str

    @property
    def place(self) -> tuple[str, dt.datetime, str]:
        return self.integration_id, self.hour, self.outcome

    @classmethod
    def of(cls, organization_id: str, integration_id: str, outcome: str, at: dt.datetime) -> Tally:
        hour = at.replace(minute=0, second=0, microsecond=0)
        return cls(organization_id=organization_id, integration_id=integration_id, hour=hour, outcome=outcome)


class Arrivals:
    """Stores what has just come, once for SQLite and once for PostgreSQL."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._db = database
        self._vault = vault

    def seal(self, organization_id: str, integration_id: str, content: bytes) -> bytes:
        """Encrypts what a delivery held, for its integration alone."""
        return self._vault.seal(content, owner=f"{organization_id}/{integration_id}/inbox")

    async def take_in(
        self, arrivals: Sequence[Arrival], tallies: Mapping[Tally, int], heard: Mapping[str, dt.datetime]
    ) -> list[bool | None]:
        """Stores deliveries in one transaction, and tells of each whether it was news.

        A delivery whose id came before is no news. One whose sender gave it no id is none while the same content still
        waits; once that has gone to a run it is, because nobody can tell a repeat from the same thing happening again.
        None, and nothing stored, for one that was proved by what does not hold any more: an address, a secret or settings
        that were changed meanwhile, or an integration that is not enabled.

        Args:
            tallies: Counts to add, besides those of the arrivals: ``accepted`` and ``repeated`` follow from them.
            heard: Integration → when a delivery of theirs was last proved.
        """
        # In one order for everybody: two processes that store the same deliveries must not wait for each other in turn.
        ordered = sorted(range(len(arrivals)), key=lambda n: (arrivals[n].name, n))
        if self._db.is_sqlite:
            return await self._db.in_one_step(
                lambda direct: _take_in_on_sqlite(direct, arrivals, ordered, tallies, heard)
            )
        async with self._db.write() as conn:
            in_force = await self._in_force(conn, {arrival.integration_id for arrival in arrivals})
            sound = [n for n in ordered if arrivals[n].revisions == in_force.get(arrivals[n].integration_id)]
            first = {arrivals[n].name: n for n in reversed(sound)}
            fresh = await self._insert(conn, [arrivals[n] for n in sorted(first.values(), key=sound.index)])
            unnumbered = [a for n, a in enumerate(arrivals) if a.reason == UNNUMBERED and first.get(a.name) == n]
            fresh |= await self._rearm(conn, [a for a in unnumbered if a.name not in fresh])
            results = _results(arrivals, sound, first, fresh)
            await self._add(conn, _with_outcomes(tallies, arrivals, results))
            if heard:
                await conn.execute(
                    sa.update(_webhook)
                    .where(_webhook.c.integration_id == sa.bindparam("i"))
                    .values(received_at=sa.bindparam("at")),
                    [{"i": integration_id, "at": heard[integration_id]} for integration_id in sorted(heard)],
                )
        return results

    async def _in_force(self, conn: AsyncConnection, integration_ids: Collection[str]) -> dict[str, tuple[int, int]]:
        if not integration_ids:
            return {}
        statement = (
            sa.select(_webhook.c.integration_id, _webhook.c.revision, _integration.c.revision.label("of_settings"))
            .join(_integration, _integration.c.id == _webhook.c.integration_id)
            .where(
                _webhook.c.integration_id.in_(sorted(integration_ids)), _webhook.c.is_enabled,
                _integration.c.state == "enabled",
            )
        )  # fmt: skip
        return {row.integration_id: (row.revision, row.of_settings) for row in await conn.execute(statement)}

    async def _insert(self, conn: AsyncConnection, arrivals: Sequence[Arrival]) -> set[tuple[str, str]]:
        if not arrivals:
            return set()
        insert = postgresql.insert(_inbox)
        statement = insert.on_conflict_do_nothing().returning(_inbox.c.integration_id, _inbox.c.delivery_key)
        rows = await conn.execute(statement, [_row_of(arrival) for arrival in arrivals])
        return {(row.integration_id, row.delivery_key) for row in rows}

    async def _rearm(self, conn: AsyncConnection, arrivals: Sequence[Arrival]) -> set[tuple[str, str]]:
        found: set[tuple[str, str]] = set()
        for arrival in arrivals:
            statement = (
                sa.update(_inbox)
                .where(
                    _inbox.c.integration_id == arrival.integration_id, _inbox.c.delivery_key == arrival.delivery_key,
                    _inbox.c.state == "processed",
                )
                .values(
                    state="received" if arrival.triggers else "processed", run_id=None, processed_at=None,
                    received_at=arrival.received_at, content=arrival.content, triggers=arrival.triggers,
                )
            )  # fmt: skip
            if (await conn.execute(statement)).rowcount == 1:
                found.add(arrival.name)
        return found

    async def _add(self, conn: AsyncConnection, tallies: Mapping[Tally, int]) -> None:
        if not tallies:
            return
        insert = postgresql.insert(_count)
        statement = insert.on_conflict_do_update(
            index_elements=[_count.c.integration_id, _count.c.hour, _count.c.outcome],
            set_={"deliveries": _count.c.deliveries + insert.excluded.deliveries},
        )
        ordered = sorted(tallies.items(), key=lambda item: item[0].place)
        await conn.execute(
            statement,
            [
                {
                    "organization_id": t.organization_id, "integration_id": t.integration_id, "hour": t.hour,
                    "outcome": t.outcome, "deliveries": deliveries,
                }
                for t, deliveries in ordered
            ],
        )  # fmt: skip


def _row_of(arrival: Arrival) -> dict[str, Any]:
    return {
        "organization_id": arrival.organization_id, "integration_id": arrival.integration_id,
        "delivery_key": arrival.delivery_key, "content": arrival.content, "size": arrival.size,
        "digest": arrival.digest, "triggers": arrival.triggers,
        # What names nothing to fetch is done with when it is stored.
        "state": "received" if arrival.triggers else "processed", "reason": arrival.reason, "replayed_by": "",
        "received_at": arrival.received_at, "processed_at": None if arrival.triggers else arrival.received_at,
    }  # fmt: skip


def _results(
    arrivals: Sequence[Arrival], sound: Sequence[int], first: Mapping[tuple[str, str], int],
    fresh: Collection[tuple[str, str]],
) -> list[bool | None]:  # fmt: skip
    """Gives what `Inboxes.take_in` tells: of several with one name in a round, the first is the news."""
    results: list[bool | None] = [None] * len(arrivals)
    for n in sound:
        name = arrivals[n].name
        results[n] = name in fresh and first[name] == n
    return results


def _with_outcomes(
    tallies: Mapping[Tally, int], arrivals: Sequence[Arrival], results: Sequence[bool | None]
) -> dict[Tally, int]:
    total = dict(tallies)
    for arrival, is_news in zip(arrivals, results, strict=True):
        if is_news is None:
            continue
        outcome = "accepted" if is_news else "repeated"
        tally = Tally.of(arrival.organization_id, arrival.integration_id, outcome, arrival.received_at)
        total[tally] = total.get(tally, 0) + 1
    return total


# ── on SQLite ────────────────────────────────────────────────────────────────

# Each statement is one step and each look gives one row: between steps the thread has to wait for the interpreter.
_LOOK = """
    SELECT json_object(
        'in_force', (
            SELECT json_group_array(json_array(w.integration_id, w.revision, i.revision))
            FROM json_each(:integrations) v CROSS JOIN webhook w ON w.integration_id = v.value
            JOIN integration i ON i.id = w.integration_id
            WHERE w.is_enabled AND i.state = 'enabled'),
        'known', (
            SELECT json_group_array(json_array(x.integration_id, x.delivery_key, x.id, x.state))
            FROM json_each(:names) v CROSS JOIN inbox x
            ON x.integration_id = v.value->>0 AND x.delivery_key = v.value->>1))"""
_COLUMNS = (
    "organization_id", "integration_id", "delivery_key", "content", "size", "digest", "triggers", "state", "reason",
    "replayed_by", "received_at", "processed_at",
)  # fmt: skip
_REARM = """
    UPDATE inbox SET state = ?, run_id = NULL, processed_at = ?, received_at = ?, content = ?, triggers = ?
    WHERE id = ? AND state = 'processed'"""
_COUNT = """
    INSERT INTO webhook_count (organization_id, integration_id, hour, outcome, deliveries)
    SELECT v.value->>0, v.value->>1, v.value->>2, v.value->>3, v.value->>4 FROM json_each(?) v WHERE true
    ON CONFLICT (integration_id, hour, outcome) DO UPDATE SET deliveries = deliveries + excluded.deliveries"""
_HEARD = "UPDATE webhook SET received_at = ? WHERE integration_id IN (SELECT value FROM json_each(?))"


def _take_in_on_sqlite(
    direct: sqlite3.Connection, arrivals: Sequence[Arrival], ordered: Sequence[int], tallies: Mapping[Tally, int],
    heard: Mapping[str, dt.datetime],
) -> list[bool | None]:  # fmt: skip
    """Does `Arrivals.take_in`. SQLite lets one transaction write at a time, so what is looked up here stays true."""
    results: list[bool | None] = []
    if arrivals:
        told = _one(direct, _LOOK, {
            "integrations": _json(sorted({a.integration_id for a in arrivals})),
            "names": _json([a.name for a in arrivals]),
        })  # fmt: skip
        in_force = {integration_id: (own, settings) for integration_id, own, settings in told["in_force"]}
        known = {(integration_id, key): (id, state) for integration_id, key, id, state in told["known"]}
        sound = [n for n in ordered if arrivals[n].revisions == in_force.get(arrivals[n].integration_id)]
        first = {arrivals[n].name: n for n in reversed(sound)}
        new = [n for n in sound if first[arrivals[n].name] == n and arrivals[n].name not in known]
        _insert_on_sqlite(direct, [_row_of(arrivals[n]) for n in new])
        fresh = {arrivals[n].name for n in new}
        for name, n in first.items():
            id, state = known.get(name, (0, ""))
            if arrivals[n].reason == UNNUMBERED and state == "processed":
                row = _row_of(arrivals[n])
                again = (row["state"], _instant(row["processed_at"]), _instant(row["received_at"]), row["content"])
                direct.execute(_REARM, (*again, _json(row["triggers"]), id)).close()
                fresh.add(name)
        results = _results(arrivals, sound, first, fresh)
    total = _with_outcomes(tallies, arrivals, results)
    if total:
        rows = [[t.organization_id, t.integration_id, iso_ms(t.hour), t.outcome, n] for t, n in total.items()]
        direct.execute(_COUNT, (_json(rows),)).close()
    if heard:
        direct.execute(_HEARD, (iso_ms(max(heard.values())), _json(sorted(heard)))).close()
    return results


def _insert_on_sqlite(direct: sqlite3.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    values = ", ".join([f"({', '.join('?' * len(_COLUMNS))})"] * len(rows))
    parameters: list[Any] = []
    for row in rows:
        told = {**row, "triggers": _json(row["triggers"])}
        told |= {name: _instant(row[name]) for name in ("received_at", "processed_at")}
        parameters += [told[name] for name in _COLUMNS]
    direct.execute(f"INSERT INTO inbox ({', '.join(_COLUMNS)}) VALUES {values}", parameters).close()  # noqa: S608


def _one(direct: sqlite3.Connection, statement: str, parameters: Mapping[str, str]) -> Any:
    cursor = direct.execute(statement, parameters)
    (told,) = cursor.fetchone()
    cursor.close()
    return orjson.loads(told)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _instant(value: dt.datetime | None) -> str | None:
    return None if value is None else iso_ms(value)
