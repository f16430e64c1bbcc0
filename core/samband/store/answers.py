"""Answers that are kept for a repeat of their request, for 24 hours."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from samband.store.database import Database
from samband.store.models import KeptAnswer
from samband.store.vault import Vault

_kept: sa.Table = KeptAnswer.__table__

KEPT_FOR = dt.timedelta(hours=24)
_SWEEP_LIMIT = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request that came with a key.

    Attributes:
        caller: The API key's id: two callers that choose the same key never see each other's answers.
        route: Which operation.
        key: The Idempotency-Key.
        organization_id: Whose; ``*`` for the host's own.
        fingerprint: SHA-256 over everything the request says.
    """

    caller: str
    route: str
    key: str
    organization_id: str
    fingerprint: str

    @property
    def owner(self) -> str:
        """What the sealed answer is bound to."""
        return f"{self.organization_id}/{self.caller}:{self.route}:{self.key}/answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is there already under a key.

    Attributes:
        state: ``started``, ``answered``, or ``unknown``: it was begun, and nobody knows what came of it.
        status: Of the answer, with ``answered``; so are ``headers`` and ``body``.
    """

    fingerprint: str
    state: str
    status: int = 0
    headers: dict[str, str]
    body: bytes = b""


class Answers:
    """Every statement about kept answers."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._db = database
        self._vault = vault

    async def begin(self, request: Request, *, lock_s: float) -> Found | None:
        """Reserves the key for a request; None when the caller may go on, otherwise what is there already.

        A reservation that is older than ``lock_s`` and has no answer belongs to a process that died. It is not taken
        over: what it was for may have been done.
        """
        now = dt.datetime.now(dt.UTC)
        fresh = {
            "fingerprint": request.fingerprint, "organization_id": request.organization_id, "state": "started",
            "status": None, "answer": None, "locked_until": self._db.after(lock_s), "created_at": now,
        }  # fmt: skip
        insert = sqlite.insert(_kept) if self._db.is_sqlite else postgresql.insert(_kept)
        statement = insert.values(caller=request.caller, route=request.route, key=request.key, **fresh)
        statement = statement.on_conflict_do_update(
            index_elements=[_kept.c.caller, _kept.c.route, _kept.c.key],
            set_={name: getattr(statement.excluded, name) for name in fresh},
            where=_kept.c.created_at < now - KEPT_FOR,
        )
        async with self._db.write() as conn:
            answer = await conn.execute(statement.returning(_kept.c.state))
            if answer.one_or_none() is not None:
                return None
            is_late = (_kept.c.locked_until < self._db.now()).label("is_late")
            row = (await conn.execute(sa.select(_kept, is_late).where(self._is(request)))).one()
        return self._found(request, row)

    async def keep(self, request: Request, *, status: int, headers: dict[str, str], body: bytes) -> None:
        """Keeps the answer, sealed: it may hold a secret that is shown once."""
        sealed = self._vault.seal(orjson.dumps([headers, body.decode()]), owner=request.owner)
        async with self._db.write() as conn:
            await conn.execute(
                sa.update(_kept).where(self._is(request)).values(state="answered", status=status, answer=sealed)
            )

    async def forget(self, request: Request) -> None:
        """Frees the key: the request was refused and changed nothing, so it may be mended and sent again."""
        async with self._db.write() as conn:
            await conn.execute(sa.delete(_kept).where(self._is(request), _kept.c.state == "started"))

    async def doubt(self, request: Request) -> None:
        """Notes that the request ended in a way that does not tell whether it was done."""
        async with self._db.write() as conn:
            mine = sa.update(_kept).where(self._is(request), _kept.c.state == "started")
            await conn.execute(mine.values(state="unknown"))

    async def sweep(self) -> int:
        """Throws away what is older than 24 hours; gives how many."""
        old = sa.select(_kept.c.caller, _kept.c.route, _kept.c.key).where(
            _kept.c.created_at < dt.datetime.now(dt.UTC) - KEPT_FOR
        )
        mine = sa.tuple_(_kept.c.caller, _kept.c.route, _kept.c.key)
        async with self._db.write() as conn:
            answer = await conn.execute(sa.delete(_kept).where(mine.in_(old.limit(_SWEEP_LIMIT))))
        return int(answer.rowcount)

    def _found(self, request: Request, row: sa.Row[tuple[object, ...]]) -> Found:
        if row.state != "answered":
            state = "unknown" if row.is_late else row.state
            return Found(fingerprint=row.fingerprint, state=state, headers={})
        if row.fingerprint != request.fingerprint:  # never opened: it is not this request's
            return Found(fingerprint=row.fingerprint, state=row.state, headers={})
        headers, body = orjson.loads(self._vault.open(bytes(row.answer), owner=request.owner))
        return Found(
            fingerprint=row.fingerprint, state=row.state, status=row.status, headers=headers, body=body.encode()
        )

    def _is(self, request: Request) -> sa.ColumnElement[bool]:
        return sa.and_(_kept.c.caller == request.caller, _kept.c.route == request.route, _kept.c.key == request.key)
