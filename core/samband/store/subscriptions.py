"""Subscriptions: where events of an organisation are sent to, with which filter, and signed with which secrets."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import ConflictError, NotFoundError
from samband.eventtypes import SUBSCRIPTION_DISABLED
from samband.store.audit import bounded, record
from samband.store.columns import now
from samband.store.database import Database
from samband.store.ids import new_id
from samband.store.models import EventDelivery, Organization, Subscription
from samband.store.outbox import emit
from samband.store.vault import Vault

__all__ = ["MAX_SUBSCRIPTIONS", "Subscriptions", "hold", "switch_off"]

_organization: sa.Table = Organization.__table__
_subscription: sa.Table = Subscription.__table__
_delivery: sa.Table = EventDelivery.__table__

MAX_SUBSCRIPTIONS = 100
"""Of one organisation: every event is written once for each of them."""
_MAX_SECRETS = 10
_PENDING = _delivery.c.state == sa.literal_column("'pending'")  # written out, so that the partial indexes are used


class Subscriptions:
    """Making, changing and reading them. Every deed is in the audit trail, in the same transaction."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._db = database
        self._vault = vault

    async def add(
        self, organization_id: str, *, url: str, description: str, types: Sequence[str], secret: str
    ) -> Subscription:
        """Adds a subscription that begins with the next event; `ConflictError` when there are too many."""
        at, id = now(), new_id()
        async with self._db.write() as conn:
            # Locking the organisation's row makes the count and the beginning exact.
            newest = await conn.scalar(
                sa.update(_organization)
                .where(_organization.c.id == organization_id)
                .values(event_seq=_organization.c.event_seq)
                .returning(_organization.c.event_seq)
            )
            mine = _subscription.c.organization_id == organization_id
            if (await conn.scalar(sa.select(sa.func.count()).where(mine)) or 0) >= MAX_SUBSCRIPTIONS:
                raise ConflictError(
                    f"The organisation has {MAX_SUBSCRIPTIONS} subscriptions already.", code="subscription_limit",
                    hint="Delete one that is no longer needed.",
                )  # fmt: skip
            row = Subscription(
                id=id, organization_id=organization_id, url=url, description=description, types=list(types),
                secrets=self._sealed(organization_id, id, [(secret, None)]), hint=secret[-4:], state="enabled",
                fanned_seq=newest or 0, created_at=at, updated_at=at,
            )  # fmt: skip
            await conn.execute(sa.insert(_subscription).values(**row.model_dump()))
            detail = {"host": bounded(urlsplit(url).hostname or ""), "types": list(types)}
            await record(conn, organization_id, "subscription.created", f"subscription/{id}", detail)
        return row

    async def page(self, organization_id: str, *, after: str | None, limit: int) -> list[Subscription]:
        """Gives subscriptions, oldest first."""
        query = sa.select(_subscription).where(_subscription.c.organization_id == organization_id)
        if after is not None:
            query = query.where(_subscription.c.id > after)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_subscription.c.id).limit(limit))
            return [Subscription(**row._mapping) for row in rows]

    async def get(self, organization_id: str, id: str) -> Subscription:
        """Gives one subscription, or raises `NotFoundError`."""
        async with self._db.read() as conn:
            return await _found(conn, organization_id, id, lock=False)

    async def counts(self, ids: Sequence[str]) -> dict[str, dict[str, int]]:
        """Counts, per subscription, the deliveries that are pending and those that were given up."""
        query = (
            sa.select(_delivery.c.subscription_id, _delivery.c.state, sa.func.count())
            .where(_delivery.c.subscription_id.in_(ids), _delivery.c.state.in_(("pending", "exhausted")))
            .group_by(_delivery.c.subscription_id, _delivery.c.state)
        )
        found: dict[str, dict[str, int]] = {}
        async with self._db.read() as conn:
            for id, state, count in await conn.execute(query):
                found.setdefault(id, {})[state] = count
        return found

    async def change(
        self, organization_id: str, id: str, *, if_revision: int | None, url: str | None, description: str | None,
        types: Sequence[str] | None,
    ) -> Subscription:  # fmt: skip
        """Changes what is given. A new filter holds for events from now on."""
        async with self._db.write() as conn:
            row = await _found(conn, organization_id, id, lock=True)
            _demand_revision(row, if_revision)
            values: dict[str, Any] = {
                name: value
                for name, value in {"url": url, "description": description, "types": types}.items()
                if value is not None and value != getattr(row, name)
            }
            if not values:
                return row
            changed = await _update(conn, row, **values)
            host = bounded(urlsplit(changed.url).hostname or "")
            detail = {"changed": sorted(values), "host": host, "types": changed.types}
            await record(conn, organization_id, "subscription.changed", f"subscription/{id}", detail)
        return changed

    async def replace_secret(
        self, organization_id: str, id: str, secret: str, *, overlap_s: float, now: dt.datetime,
        if_revision: int | None = None,
    ) -> Subscription:  # fmt: skip
        """Signs with a new secret from now on, and beside it for ``overlap_s`` with those that were valid."""
        until = now + dt.timedelta(seconds=overlap_s)
        async with self._db.write() as conn:
            row = await _found(conn, organization_id, id, lock=True)
            _demand_revision(row, if_revision)
            kept = [(old, min(end or until, until)) for old, end in self._valid(row, now)] if overlap_s > 0 else []
            secrets: list[tuple[str, dt.datetime | None]] = [(secret, None), *kept]
            sealed = self._sealed(organization_id, id, secrets[:_MAX_SECRETS])
            changed = await _update(conn, row, secrets=sealed, hint=secret[-4:])
            detail = {"overlap_s": overlap_s}
            await record(conn, organization_id, "subscription.secret_replaced", f"subscription/{id}", detail)
        return changed

    async def enable(self, organization_id: str, id: str, *, catch_up: bool, now: dt.datetime) -> Subscription:
        """Switches a subscription on.

        Args:
            catch_up: Sends what happened while it was off; otherwise it begins with the next event, and what was still
                pending ends as skipped.
        """
        async with self._db.write() as conn:
            row = await _found(conn, organization_id, id, lock=True)
            if row.state == "enabled":
                return row
            values: dict[str, Any] = {"state": "enabled", "reason": "", "failing_since": None}
            mine = sa.and_(_delivery.c.subscription_id == id, _PENDING)
            if catch_up:
                await conn.execute(sa.update(_delivery).where(mine).values(next_at=now))
            else:
                skipped = {"state": "skipped", "finished_at": now, "lease_until": None}
                await conn.execute(sa.update(_delivery).where(mine).values(**skipped))
                newest = sa.select(_organization.c.event_seq).where(_organization.c.id == organization_id)
                values["fanned_seq"] = await conn.scalar(newest)
            changed = await _update(conn, row, **values)
            detail = {"catch_up": catch_up}
            await record(conn, organization_id, "subscription.enabled", f"subscription/{id}", detail)
        return changed

    async def disable(self, organization_id: str, id: str) -> Subscription:
        """Switches a subscription off at a person's wish; what is pending waits."""
        async with self._db.write() as conn:
            await _found(conn, organization_id, id, lock=True)
            await switch_off(conn, organization_id, id, "person")
            return await _found(conn, organization_id, id, lock=False)

    async def delete(self, organization_id: str, id: str, *, if_revision: int | None = None) -> None:
        """Removes a subscription with its deliveries."""
        async with self._db.write() as conn:
            row = await _found(conn, organization_id, id, lock=True)
            _demand_revision(row, if_revision)
            await conn.execute(sa.delete(_subscription).where(_subscription.c.id == id))
            detail = {"host": bounded(urlsplit(row.url).hostname or "")}
            await record(conn, organization_id, "subscription.deleted", f"subscription/{id}", detail)

    async def note_tested(self, organization_id: str, id: str, detail: Mapping[str, Any]) -> None:
        """Writes into the audit trail that somebody had a ping sent."""
        async with self._db.write() as conn:
            await record(conn, organization_id, "subscription.tested", f"subscription/{id}", detail)

    def secrets(self, row: Subscription, now: dt.datetime) -> list[str]:
        """Gives the signing secrets that are valid now, newest first; `StoreError` when their key is missing."""
        return [secret for secret, _ in self._valid(row, now)]

    def _valid(self, row: Subscription, now: dt.datetime) -> list[tuple[str, dt.datetime | None]]:
        opened = orjson.loads(self._vault.open(row.secrets, owner=_owner(row.organization_id, row.id)))
        listed = [(s["secret"], dt.datetime.fromisoformat(s["until"]) if s["until"] else None) for s in opened]
        return [(secret, until) for secret, until in listed if until is None or until > now]

    def _sealed(self, organization_id: str, id: str, secrets: Sequence[tuple[str, dt.datetime | None]]) -> bytes:
        listed = [{"secret": secret, "until": until.isoformat() if until else None} for secret, until in secrets]
        return self._vault.seal(orjson.dumps(listed), owner=_owner(organization_id, id))


async def hold(conn: AsyncConnection, id: str, *, shared: bool = False) -> None:
    """Locks a subscription's row in the caller's transaction, before it touches deliveries of it.

    Whoever changes deliveries of one subscription takes its row first, and whoever has a delivery's row never waits for
    the subscription's: two who took them the other way round would wait for each other. Taking what is due is
    exempt, for it waits for nobody. On SQLite a transaction that writes is alone anyway.

    Args:
        shared: Keeps out who switches it on or deletes it, and neither another of this kind nor new events.
    """
    row = sa.select(_subscription.c.id).where(_subscription.c.id == id)
    await conn.execute(row.with_for_update(key_share=True, read=shared))


async def switch_off(conn: AsyncConnection, organization_id: str, id: str, reason: str) -> bool:
    """Disables a subscription in the caller's transaction, and tells of it; False when it was disabled already.

    Args:
        reason: ``gone``, ``failing`` or ``person``.
    """
    now = dt.datetime.now(dt.UTC)
    changed = await conn.execute(
        sa.update(_subscription)
        .where(_subscription.c.id == id, _subscription.c.state == "enabled")
        .values(state="disabled", reason=reason, revision=_subscription.c.revision + 1, updated_at=now)
    )
    if changed.rowcount != 1:
        return False
    subject = f"subscription/{id}"
    await record(conn, organization_id, "subscription.disabled", subject, {"reason": reason})
    await emit(conn, organization_id, SUBSCRIPTION_DISABLED, subject, {"subscription": id, "reason": reason})
    return True


async def _found(conn: AsyncConnection, organization_id: str, id: str, *, lock: bool) -> Subscription:
    query = sa.select(_subscription).where(_subscription.c.id == id, _subscription.c.organization_id == organization_id)
    row = (await conn.execute(query.with_for_update() if lock else query)).one_or_none()
    if row is None:
        raise NotFoundError("There is no such subscription.", code="subscription_not_found")
    return Subscription(**row._mapping)


def _demand_revision(row: Subscription, if_revision: int | None) -> None:
    if if_revision is not None and row.revision != if_revision:
        raise ConflictError(
            "The subscription was changed meanwhile.", code="revision_mismatch",
            hint="Fetch it again, look at the change, and send yours with the new ETag.",
        )  # fmt: skip


async def _update(conn: AsyncConnection, row: Subscription, **values: Any) -> Subscription:
    changed = await conn.execute(
        sa.update(_subscription)
        .where(_subscription.c.id == row.id)
        .values(revision=_subscription.c.revision + 1, updated_at=dt.datetime.now(dt.UTC), **values)
        .returning(_subscription)
    )
    return Subscription(**changed.one()._mapping)


def _owner(organization_id: str, id: str) -> str:
    return f"{organization_id}/{id}/subscription"
