"""API keys as rows: hashes, never secrets."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.errors import SambandError
from samband.store.audit import HOST, record
from samband.store.database import Database
from samband.store.models import ApiKey, Organization

_key: sa.Table = ApiKey.__table__
_organization: sa.Table = Organization.__table__

log = structlog.stdlib.get_logger("samband.store.api_keys")

KeyState = Literal["active", "expired", "revoked"]

USE_NOTED_EVERY = dt.timedelta(hours=1)
"""How exactly it is known when a key was last used: a write per request would cost more than the request."""

_PATIENCE_AT_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The bounds of the keys somebody may see: those that reach no farther and allow no more."""

    organizations: frozenset[str]
    verbs: frozenset[str]


class ApiKeys:
    """Every statement about API keys. Needs no vault: nothing here can be opened again."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._used: dict[str, dt.datetime] = {}
        self._noting: asyncio.Task[None] | None = None

    async def add(self, key: ApiKey) -> None:
        async with self._db.write() as conn:
            await _insert(conn, key)

    async def add_first(self, key: ApiKey) -> bool:
        """Adds a key if there is none yet; tells whether it did. Of several hosts that start at once one does."""
        async with self._db.write() as conn:
            if not self._db.is_sqlite:
                await conn.execute(sa.text("LOCK TABLE api_key IN SHARE ROW EXCLUSIVE MODE"))
            if await conn.scalar(sa.select(_key.c.id).limit(1)) is not None:
                return False
            await _insert(conn, key)
            return True

    async def find(self, key_id: str, *, within: Reach | None = None) -> ApiKey | None:
        statement = sa.select(_key).where(_key.c.id == key_id, self._inside(within))
        async with self._db.read() as conn:
            row = (await conn.execute(statement)).one_or_none()
        return None if row is None else ApiKey(**row._mapping)

    async def page(
        self, within: Reach | None, *, state: KeyState | None, after: str | None, limit: int
    ) -> list[ApiKey]:
        """Gives keys in the order they were made, from behind the one named by ``after``."""
        statement = sa.select(_key).where(self._inside(within), _in_state(state))
        async with self._db.read() as conn:
            if after is not None:
                made = await conn.scalar(sa.select(_key.c.created_at).where(_key.c.id == after, self._inside(within)))
                if made is None:  # no such key, or none that the caller may know of: there is nothing behind it
                    return []
                later = sa.and_(_key.c.created_at == made, _key.c.id > after)
                statement = statement.where(sa.or_(_key.c.created_at > made, later))
            rows = await conn.execute(statement.order_by(_key.c.created_at, _key.c.id).limit(limit))
            return [ApiKey(**row._mapping) for row in rows]

    async def revoke(self, key_id: str, *, within: Reach | None) -> ApiKey | None:
        """Ends a key and gives it as it is then; None when there is no such key within reach."""
        mine = sa.and_(_key.c.id == key_id, self._inside(within))
        async with self._db.write() as conn:
            ended = (
                await conn.execute(
                    sa.update(_key)
                    .where(mine, _key.c.revoked_at.is_(None))
                    .values(revoked_at=dt.datetime.now(dt.UTC))
                    .returning(_key.c.id)
                )
            ).one_or_none()
            row = (await conn.execute(sa.select(_key).where(mine))).one_or_none()
            key = None if row is None else ApiKey(**row._mapping)
            if ended is not None and key is not None:
                await _tell(conn, key, "key.revoked", {"name": key.name})
        return key

    async def known_organizations(self, organizations: Sequence[str]) -> set[str]:
        """Gives those of the organisations that exist."""
        if not organizations:
            return set()
        async with self._db.read() as conn:
            found = await conn.scalars(sa.select(_organization.c.id).where(_organization.c.id.in_(organizations)))
            return set(found)

    # ── when a key was last used ─────────────────────────────────────────────

    def note_use(self, key: ApiKey) -> None:
        """Has the use of a key written down, at most once an hour and without anybody waiting for it."""
        now = dt.datetime.now(dt.UTC)
        if key.last_used_at is not None and now - key.last_used_at < USE_NOTED_EVERY:
            return
        self._used[key.id] = now
        if self._noting is None:
            self._noting = asyncio.create_task(self._write_uses(), name="samband key use")

    async def _write_uses(self) -> None:
        try:
            while self._used:
                key_id, at = self._used.popitem()
                await self._write_use(key_id, at)
        except SambandError as err:
            log.warning("key_use_not_noted", code=err.code)  # the next request with the key tries again
        except Exception:
            log.exception("key_use_failed")
        finally:
            self._noting = None

    async def _write_use(self, key_id: str, at: dt.datetime) -> None:
        is_due = sa.or_(_key.c.last_used_at.is_(None), _key.c.last_used_at <= at - USE_NOTED_EVERY)
        async with self._db.write() as conn:
            await conn.execute(sa.update(_key).where(_key.c.id == key_id, is_due).values(last_used_at=at))

    async def close(self) -> None:
        """Lets what is being written down end, within a few seconds."""
        if self._noting is not None:
            _, pending = await asyncio.wait({self._noting}, timeout=_PATIENCE_AT_CLOSE_S)
            for task in pending:
                task.cancel()

    # ── who may see which ────────────────────────────────────────────────────

    def _inside(self, reach: Reach | None) -> sa.ColumnElement[bool]:
        """Restricts a statement to the keys within somebody's reach. A key for all organisations is in nobody's."""
        if reach is None:
            return sa.true()
        return sa.and_(self._only("organizations", reach.organizations), self._only("verbs", reach.verbs))

    def _only(self, column: str, allowed: frozenset[str]) -> sa.TextClause:
        given = orjson.dumps(sorted(allowed)).decode()
        if self._db.is_sqlite:
            text = (
                f"json_type(api_key.{column}) = 'array'"  # noqa: S608 - one of two columns, named above
                f" AND NOT EXISTS (SELECT 1 FROM json_each(api_key.{column}) AS h"
                f" WHERE h.value NOT IN (SELECT value FROM json_each(:{column}_allowed)))"
            )
        else:
            text = f"jsonb_typeof(api_key.{column}) = 'array' AND api_key.{column} <@ CAST(:{column}_allowed AS jsonb)"
        bound = sa.bindparam(f"{column}_allowed", given, type_=sa.Text())
        return sa.text(f"({text})").bindparams(bound)


def _in_state(state: KeyState | None) -> sa.ColumnElement[bool]:
    now = dt.datetime.now(dt.UTC)
    lives = sa.or_(_key.c.expires_at.is_(None), _key.c.expires_at > now)
    if state == "revoked":
        return _key.c.revoked_at.is_not(None)
    if state == "expired":
        return sa.and_(_key.c.revoked_at.is_(None), sa.not_(lives))
    return sa.true() if state is None else sa.and_(_key.c.revoked_at.is_(None), lives)


async def _insert(conn: AsyncConnection, key: ApiKey) -> None:
    await conn.execute(sa.insert(_key).values(**key.model_dump()))
    ends = None if key.expires_at is None else key.expires_at.isoformat(timespec="seconds")
    await _tell(conn, key, "key.created", {"name": key.name, "verbs": list(key.verbs), "expires_at": ends})


async def _tell(conn: AsyncConnection, key: ApiKey, action: str, detail: dict[str, Any]) -> None:
    """Records a deed in the chain of every organisation the key is for, or in the host's for a key for all.

    None of them is told of the others. The order is fixed, so that two such transactions cannot wait for each other.
    """
    for chain in [HOST] if key.organizations is None else sorted(key.organizations):
        await record(conn, chain, action, f"key/{key.id}", detail)
