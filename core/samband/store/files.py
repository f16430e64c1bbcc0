"""Files that carried items out, kept sealed: what they hold names people and their bank accounts.

    made → releasing → delivered → acknowledged      (put into a drop point)
         → ready → acknowledged                      (kept for a person to fetch)
    made, releasing → void                           (certain not to have been delivered)

``releasing`` is written, by the worker that owns the run, right before a file gets the name that the other side looks
for. What is still ``made`` was never released, and once it is ``void`` it never will be: that step is refused then.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from samband.contract import ExportFile
from samband.errors import NotFoundError, RemoteError
from samband.store import audit, columns
from samband.store.database import Database
from samband.store.downloads import DOWNLOADED, file_subject
from samband.store.ids import new_id
from samband.store.models import ExportItem, KeptFile, KeptFileItem, Reimbursement, Run
from samband.store.runs import Lease, fenced, owned
from samband.store.vault import Vault

_file: sa.Table = KeptFile.__table__
_carried: sa.Table = KeptFileItem.__table__
_item: sa.Table = ExportItem.__table__
_claim: sa.Table = Reimbursement.__table__
_run: sa.Table = Run.__table__

_FACTS = [column for column in _file.columns if column.name != "content"]
# One look-up per key and then one per file, whatever the planner believes about tables it has no figures of yet: OFFSET 0
# keeps it from joining the tables with each other first, and so does CROSS JOIN on SQLite.
_CARRIES = {
    "postgresql": """kept_file.id = ANY(ARRAY(
        SELECT c.file_id FROM jsonb_array_elements_text(CAST(:keys AS jsonb)) AS k(value)
        CROSS JOIN LATERAL (SELECT file_id FROM kept_file_item WHERE key = k.value OFFSET 0) c))""",
    "sqlite": """kept_file.id IN (
        SELECT c.file_id FROM json_each(:keys) k CROSS JOIN kept_file_item c ON c.key = k.value)""",
}
OPEN_STATES = ("made", "releasing")
SENT_STATES = ("delivered", "ready", "acknowledged")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """A kept file without what is in it. ``digest`` is the SHA-256 of its bytes; ``keys`` are the items it carries."""

    id: str
    organization_id: str
    integration_id: str
    run_id: str | None
    name: str
    profile: str
    media_type: str
    size: int
    digest: str
    rows: int
    keys: list[str]
    state: str
    created_at: dt.datetime
    delivered_at: dt.datetime | None
    acknowledged_at: dt.datetime | None


class Files:
    """Every statement about kept files."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._db = database
        self._vault = vault

    # ── on the way out ───────────────────────────────────────────────────────

    async def begin(self, lease: Lease, file: ExportFile, *, digest: str, keys: Sequence[str], state: str) -> FileFacts:
        """Keeps a file before anything else is done with it; one that was given up before is taken up again.

        Args:
            state: ``made`` for one that is to be delivered, ``ready`` for one that a person fetches.

        Raises:
            StaleLeaseError: Another worker owns the run now; nothing was kept.
            RunCancelledError: Somebody cancelled the run; nothing was kept.
            RemoteError: Another file of the integration has that name.
        """
        now = columns.now()
        async with self._db.write() as conn:
            await _demand_lease(conn, lease)
            same = sa.select(*_FACTS).where(_file.c.integration_id == lease.integration_id, _file.c.name == file.name)
            before = [FileFacts(**row._mapping) for row in await conn.execute(same)]
            if any(one.state != "void" for one in before):
                raise RemoteError(
                    "A file of the same name carries other items.", code="file_name_taken",
                    hint="For the plugin's author: make the file's name of what the batch holds.",
                )  # fmt: skip
            again = next((one for one in before if one.digest == digest and one.keys == list(keys)), None)
            values: dict[str, Any] = {
                "run_id": lease.run_id, "state": state, "delivered_at": None, "acknowledged_at": None, "created_at": now,
            }  # fmt: skip
            if again is not None:
                await conn.execute(sa.update(_file).where(_file.c.id == again.id).values(**values))
                return FileFacts(**{**_told(again), **values})
            values |= {
                "id": new_id(), "organization_id": lease.organization_id, "integration_id": lease.integration_id,
                "name": file.name, "profile": "machine", "media_type": file.media_type[:100], "rows": file.rows,
                "size": len(file.content), "digest": digest, "keys": list(keys),
            }  # fmt: skip
            sealed = self.sealed(lease.organization_id, values["id"], file.content)
            await conn.execute(sa.insert(_file).values(**values, content=sealed))
            if keys:
                mine = {"file_id": values["id"], "organization_id": lease.organization_id}
                await conn.execute(sa.insert(_carried), [{"key": key, **mine} for key in dict.fromkeys(keys)])
        return FileFacts(**values)

    def sealed(self, organization_id: str, file_id: str, content: bytes) -> bytes:
        """Gives what is kept of a file's content."""
        return self._vault.seal(content, owner=_owner(organization_id, file_id))

    async def release(self, lease: Lease, file_id: str) -> bool:
        """Says that the file is about to get its name; False when it was given up meanwhile and must not.

        Raises:
            StaleLeaseError: Another worker owns the run now.
            RunCancelledError: Somebody cancelled the run.
        """
        async with self._db.write() as conn:
            await _demand_lease(conn, lease)
            return await _moved(conn, file_id, ("made",), state="releasing")

    async def deliver(self, facts: FileFacts) -> None:
        """Says that the file is where it belongs; whoever finds it there may say so."""
        async with self._db.write() as conn:
            if await _moved(conn, facts.id, (*OPEN_STATES, "void"), state="delivered", delivered_at=columns.now()):
                detail = {"name": facts.name, "rows": facts.rows, "items": len(facts.keys), "sha256": facts.digest}
                subject = f"export_file/{facts.id}"
                await audit.record(conn, facts.organization_id, "export_file.delivered", subject, detail)

    async def give_up(self, file_id: str, from_states: Collection[str] = OPEN_STATES) -> bool:
        """Makes sure that the file is not released any more; False when it is in another state by now."""
        async with self._db.write() as conn:
            return await _moved(conn, file_id, tuple(from_states), state="void")

    async def carrying(self, integration_id: str, keys: Sequence[str]) -> list[FileFacts]:
        """Gives the files that carry any of these items, oldest first."""
        if not keys:
            return []
        async with self._db.read() as conn:
            rows = await conn.execute(self.carrying_statement(integration_id, keys))
            return [FileFacts(**row._mapping) for row in rows]

    def carrying_statement(self, integration_id: str, keys: Sequence[str]) -> sa.Select[Any]:
        """Gives the statement of `carrying`, whose cost is a matter of the keys and not of the files there are."""
        carries = sa.text(_CARRIES[self._db.dialect]).bindparams(keys=orjson.dumps(list(keys)).decode())
        return sa.select(*_FACTS).where(_file.c.integration_id == integration_id, carries).order_by(_file.c.id)

    async def acknowledge(self, integration_id: str, keys: Collection[str]) -> None:
        """Notes that the other side has told of the files that carry these items."""
        ids = [one.id for one in await self.carrying(integration_id, list(keys)) if one.state in ("delivered", "ready")]
        if ids:
            mine = sa.and_(_file.c.id.in_(ids), _file.c.state.in_(("delivered", "ready")))
            async with self._db.write() as conn:
                changed = sa.update(_file).where(mine).values(state="acknowledged", acknowledged_at=columns.now())
                await conn.execute(changed)

    # ── for people ───────────────────────────────────────────────────────────

    async def page(
        self, organization_id: str, *, integration_id: str | None, after: str | None, limit: int
    ) -> list[FileFacts]:
        """Gives files, newest first."""
        query = sa.select(*_FACTS).where(_file.c.organization_id == organization_id)
        if integration_id is not None:
            query = query.where(_file.c.integration_id == integration_id)
        if after is not None:
            query = query.where(_file.c.id < after)
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(_file.c.id.desc()).limit(limit))
            return [FileFacts(**row._mapping) for row in rows]

    async def get(self, organization_id: str, file_id: str) -> FileFacts:
        """Gives a file's facts, or raises `NotFoundError`."""
        query = sa.select(*_FACTS).where(_file.c.organization_id == organization_id, _file.c.id == file_id)
        async with self._db.read() as conn:
            row = (await conn.execute(query)).one_or_none()
        if row is None:
            raise NotFoundError("There is no such file.", code="export_file_not_found", hint="See the list of files.")
        return FileFacts(**row._mapping)

    async def content(self, facts: FileFacts) -> bytes:
        """Gives what is in a file, opened."""
        async with self._db.read() as conn:
            sealed: Any = await conn.scalar(sa.select(_file.c.content).where(_file.c.id == facts.id))
        return self._vault.open(bytes(sealed), owner=_owner(facts.organization_id, facts.id))

    async def note_fetched(self, facts: FileFacts, profile: str) -> None:
        """Writes into the audit trail that somebody has fetched a file."""
        async with self._db.write() as conn:
            detail = {"name": facts.name, "profile": profile, "items": len(facts.keys)}
            await audit.record(conn, facts.organization_id, DOWNLOADED, file_subject(facts.id), detail)

    async def carried(self, facts: FileFacts) -> list[tuple[ExportItem, dict[str, Any]]]:
        """Gives the items that a file carries, in its order, each with its claim as it is now."""
        query = (
            sa.select(_item, _claim.c.body.label("claim_body"))
            .join(
                _claim,
                sa.and_(_claim.c.organization_id == _item.c.organization_id, _claim.c.id == _item.c.reimbursement_id),
            )
            .where(_item.c.organization_id == facts.organization_id, _item.c.key.in_(facts.keys))
        )
        async with self._db.read() as conn:
            rows = (await conn.execute(query)).all()
        names = [column.name for column in _item.columns]
        found = {row.key: (ExportItem(**{n: row._mapping[n] for n in names}), row.claim_body) for row in rows}
        return [found[key] for key in facts.keys if key in found]


async def _demand_lease(conn: AsyncConnection, lease: Lease) -> None:
    asked = fenced(sa.update(_run), lease).values(fence=_run.c.fence).returning(_run.c.cancel_requested_at)
    owned((await conn.execute(asked)).one_or_none())


async def _moved(conn: AsyncConnection, file_id: str, from_states: Sequence[str], **values: Any) -> bool:
    mine = sa.and_(_file.c.id == file_id, _file.c.state.in_(from_states))
    return int((await conn.execute(sa.update(_file).where(mine).values(**values))).rowcount) == 1


def _owner(organization_id: str, file_id: str) -> str:
    return f"{organization_id}/{file_id}/file"


def _told(facts: FileFacts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in FileFacts.__slots__}
